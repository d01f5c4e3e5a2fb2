"""Segmentation in context: labels from the nearest patches of labelled images, without training."""
