"""Repairs of third-party imports. Import :func:`repair` results before torchvision, timm, open_clip or transformers' image code.

repair(): a torchvision built for CUDA beside a CPU-only torch cannot load its extension, and then fails while
registering fake kernels ("operator torchvision::nms does not exist"). With the two schemas defined first, its transforms and
models import and work; ``torchvision.ops.nms`` and ``torchvision.io`` do not, and nothing here uses them.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.library import Library

_kept: list[Library] = []  # a Library's definitions live as long as the object


def repair() -> bool:
    """Define torchvision's missing operator schemas where torch has no CUDA and the extension cannot load.

    Returns whether anything was repaired. Does nothing the second time, where torchvision is absent, or where it works.
    """
    import sys

    import torch

    if _kept or torch.version.cuda is not None or "torchvision" in sys.modules:
        return False
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    if _extension_loads(Path(spec.origin).parent):
        return False
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept.append(library)
    return True


def repaired() -> bool:
    """Whether :func:`repair` had to do something in this process."""
    return bool(_kept)


def _extension_loads(package: Path) -> bool:
    """Whether torchvision's compiled operators load here; loading them once more later is harmless."""
    import torch

    for file in package.glob("_C*.so"):
        try:
            torch.ops.load_library(str(file))
            return True
        except OSError:
            return False
    return False


def repair_lmms() -> None:
    """lmms-eval changes the insides of filelock, which newer releases (3.30) have elsewhere; it then fails before it has begun.

    What it changes matters where one thread takes one lock twice through two libraries; without it `datasets` works as it does alone.
    """
    from lmms_eval import evaluator

    if importlib.util.find_spec("filelock._api") is None:
        evaluator._enable_reentrant_filelocks._patched = True


def repair_mmseg() -> None:
    """Make ``import mmseg.models`` work with mmcv-lite: compiled operators it lacks become classes that raise when they are used.

    Raises UsageError where mmsegmentation is not installed. Does nothing where the full mmcv is.
    """
    import sys
    import types

    from levl_eval.core.errors import UsageError

    repair()
    missing = [p for p in ("mmengine", "mmcv", "mmseg") if importlib.util.find_spec(p) is None]
    if missing:
        raise UsageError(f"the package {missing[0]} is not installed; pip install 'levl-eval[seg]'")
    if "mmcv.ops" in sys.modules:
        return
    try:
        importlib.import_module("mmcv.ops")
        return
    except ImportError:
        pass

    class Lacking(types.ModuleType):
        """Answers every public name with a class that tells, when it is built, what is missing."""

        def __getattr__(self, name: str) -> type:
            if name.startswith("__"):
                raise AttributeError(name)

            def refuse(self: object, *args: object, **kwargs: object) -> None:
                raise UsageError(
                    f"mmcv.ops.{name} needs the full mmcv; install it instead of mmcv-lite, or take a head without it"
                )

            return type(name, (), {"__init__": refuse})

    stand_in = Lacking("mmcv.ops")
    stand_in.__path__ = []
    sys.modules["mmcv.ops"] = stand_in


@contextmanager
def without_bars() -> Iterator[None]:
    """transformers draws a bar of its own for weights it reads from a disk, also under --quiet and into files."""
    from transformers import modeling_gguf_pytorch_utils as gguf  # has a bar that its setting does not hide
    from transformers.utils import logging

    shown, bar = logging.is_progress_bar_enabled(), getattr(gguf, "tqdm", None)
    logging.disable_progress_bar()
    gguf.tqdm = lambda steps, **options: steps
    try:
        yield
    finally:
        gguf.tqdm = bar
        if shown:
            logging.enable_progress_bar()
