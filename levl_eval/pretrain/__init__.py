"""levl-pretrain: the compact reference loop that makes backbones. Imported lazily: the command line starts without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from levl_eval.models.sigreg import SIGReg

__all__ = ["SIGReg"]


def __getattr__(name: str) -> object:
    if name == "SIGReg":
        from levl_eval.models.sigreg import SIGReg

        return SIGReg
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
