"""Depth in metres from frozen patch tokens."""
