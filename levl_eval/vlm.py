"""A frozen language model that answers from a frozen encoder's patch tokens through a trained connector.

vlm = levl_eval.vlm.load(FOLDER); vlm.answer(image, "What is on the left?"); vlm.save(FOLDER)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from levl_eval.core.third_party import repair

repair()

if TYPE_CHECKING:
    from levl_eval.engines.vlm.api import VLM, load

__all__ = ["VLM", "load"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from levl_eval.engines.vlm import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
