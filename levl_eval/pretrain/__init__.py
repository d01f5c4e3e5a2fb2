"""levl-pretrain: the compact reference loop that makes backbones. Imported lazily: the command line starts without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from levl_eval.models.sigreg import SIGReg

__all__ = ["SIGReg"]


def __getattr__(name: str) -> Any:
    if name == "SIGReg":
        from levl_eval.models.sigreg import SIGReg

        return SIGReg
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
