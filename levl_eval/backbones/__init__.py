"""Frozen image encoders: the contract (`base`) and one short loader a family."""

from levl_eval._compat import repair

repair()
from levl_eval.backbones.loader import load_backbone  # noqa: E402  (the repair comes before torchvision is imported)

__all__ = ["load_backbone"]
