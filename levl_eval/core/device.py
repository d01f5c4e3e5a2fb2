"""Which device is used, what kind it is, and what it is called."""

from __future__ import annotations

import os
import platform
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from levl_eval.core.errors import UsageError
from levl_eval.core.precision import check_surroundings

if TYPE_CHECKING:
    import torch


GPU_SHARE = "LEVL_GPU_SHARE"  # in the environment: the share of its GPU's memory that this process may take, above 0, at most 1


def memory_share() -> float | None:
    """The share of a GPU's memory that this process may take, language model and encoder together; None: all of it.

    Raises UsageError where the environment says something else than a share.
    """
    text = os.environ.get(GPU_SHARE)
    if not text:
        return None
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise UsageError(f"{GPU_SHARE}={text[:40]}: expected a share of the GPU's memory, above 0, at most 1")
    return share


def pick_device(name: str) -> torch.device:
    """ "auto" -> cuda, then mps, then cpu; any torch device name otherwise. Raises UsageError for one that is not there."""
    import torch

    check_surroundings()
    if name == "auto" and torch.cuda.is_available() and "LOCAL_RANK" in os.environ:
        name = f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"  # one GPU a process
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise RuntimeError("it holds no numbers")
        share = memory_share()
        if device.type == "cuda" and share is not None:
            torch.cuda.set_per_process_memory_fraction(share, device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as e:
        raise UsageError(f"--device {name}: not usable here ({str(e).splitlines()[0]}); try --device auto") from e
    return device


def device_kind(name: str) -> str:
    """The kind of device that :func:`pick_device` gives. Without importing torch where it was built for the CPU alone.

    Raises UsageError as pick_device does.
    """
    if name == "cpu" or (name == "auto" and cpu_build()):
        return "cpu"
    return pick_device(name).type


def visible_gpus() -> list[str]:
    """The GPUs of NVIDIA that a process may use here, as CUDA_VISIBLE_DEVICES names them. Without importing torch."""
    if cpu_build():
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() and name.strip() != "-1"]
    try:
        return [str(number) for number, _ in enumerate(Path("/proc/driver/nvidia/gpus").iterdir())]
    except OSError:
        return []


def cpu_build() -> bool:
    """Whether the installed torch can use nothing but the CPU, as its version file says. Without importing it."""
    if sys.platform == "darwin":
        return False  # mps is known only to torch itself
    spec = find_spec("torch")
    try:
        text = (Path(str(spec.origin)).parent / "version.py").read_text(encoding="utf-8") if spec else ""
    except OSError:
        return False
    built_for = [line.partition("=")[2].strip() for line in text.splitlines() if line.startswith(("cuda", "hip", "xpu"))]
    return bool(built_for) and all(value == "None" for value in built_for)


def device_name(device: torch.device) -> str:
    """What the device is, for the records: the GPU's name, or the processor's."""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            return next(line.partition(":")[2].strip() for line in f if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
