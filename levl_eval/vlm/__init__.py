"""A frozen language model that answers from a frozen encoder's patch tokens through a trained connector.

vlm = levl_eval.vlm.load(FOLDER); vlm.answer(image, "What is on the left?"); vlm.save(FOLDER)
"""

from __future__ import annotations

from typing import Any

from levl_eval._compat import repair

repair()

__all__ = ["VLM", "load"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from levl_eval.vlm import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
