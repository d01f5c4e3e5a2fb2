"""Frozen image encoders: the contract (`base`), where a URI leads (`locate`), and one short loader a library. Lazy: no torch here."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from levl_eval.backbones.loader import load_backbone

__all__ = ["load_backbone"]


def __getattr__(name: str) -> object:
    if name == "load_backbone":
        from levl_eval.backbones.loader import load_backbone

        return load_backbone
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
