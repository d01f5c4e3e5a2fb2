"""The number format that image encoders run in: a choice of the run, part of every identity."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from operator import attrgetter
from typing import TYPE_CHECKING, Literal, get_args

from levl_eval.core.errors import UsageError

if TYPE_CHECKING:
    import torch

# float32: every product in single precision; tf32: NVIDIA's 19-bit products of float32 matrices; bf16: matrix products in
# bfloat16 by torch's autocast, norms and softmax in float32.
Precision = Literal["float32", "tf32", "bf16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
NAMES: dict[Precision, str] = {"float32": "float32", "tf32": "tf32", "bf16": "bfloat16"}  # as records hold it


# In the environment: libraries then compute what is called float32 in another format, and nobody tells. -> what leaves it as it is
_FORMATS = {
    "ONEDNN_DEFAULT_FPMATH_MODE": ("", "STRICT"), "DNNL_DEFAULT_FPMATH_MODE": ("", "STRICT"),
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": ("", "0"), "NVIDIA_TF32_OVERRIDE": ("", "0"),
}  # fmt: skip


def check_surroundings(precision: Precision = "float32") -> None:
    """Raises UsageError where the environment makes libraries compute in another format than records would say."""
    for name, plain in _FORMATS.items():
        value = os.environ.get(name, "").strip()
        if value.upper() not in plain or (precision == "tf32" and name == "NVIDIA_TF32_OVERRIDE" and value):
            raise UsageError(
                f"{name}={value[:40]} in the environment: {precision} would be computed in another format than records say; unset it, and "
                "choose the encoder's format by --precision"
            )


def check_precision(wanted: object, device: str) -> Precision:
    """``wanted`` where a kind of device has it. Raises UsageError, also for an environment that makes it something else."""
    for known in PRECISIONS:
        if wanted == known:
            if known == "tf32" and device != "cuda":
                raise UsageError(
                    f"--precision tf32: is a format of NVIDIA GPUs, and this run is on {device}; take float32 or bf16"
                )
            check_surroundings(known)
            return known
    raise UsageError(f"--precision {wanted!r}: expected one of {', '.join(PRECISIONS)}")


_BACKENDS = ("", "mkldnn", "mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn", "cuda.matmul", "cudnn", "cudnn.conv", "cudnn.rnn")
_FORMAT = "fp32_precision"  # its name at each of them
_EXACT = ("none", "ieee")  # two words for one format


def _formats() -> dict[str, str]:
    """How each of torch's backends computes float32, as torch 2.9 and later say it; {} before."""
    import torch

    out = {}
    for name in _BACKENDS:
        with suppress(AttributeError, RuntimeError):
            out[name] = str(attrgetter(f"{name}.{_FORMAT}".lstrip("."))(torch.backends))
    return out


@contextmanager
def settings_kept() -> Iterator[None]:
    """Torch's settings of the whole process that move numbers are afterwards as they were.

    A user's code inside may change them (default type, format of float32 products, gradients, threads): what other encoders and heads
    compute in the same run is not its to move.
    """
    import torch

    dtype, products, formats = torch.get_default_dtype(), torch.get_float32_matmul_precision(), _formats()
    gradients, threads = torch.is_grad_enabled(), torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_float32_matmul_precision(products)
        torch.set_grad_enabled(gradients)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        for name, now in _formats().items():
            if now != formats[name] and not {now, formats[name]} <= set(_EXACT):
                setattr(attrgetter(name)(torch.backends) if name else torch.backends, _FORMAT, formats[name])


@contextmanager
def encoding_in(precision: Precision, device: torch.device) -> Iterator[None]:
    """What runs inside is computed in a precision. On a GPU float32 means float32: torch's own default convolves in TF32."""
    import torch

    if precision == "bf16":
        with torch.autocast(device.type, dtype=torch.bfloat16):
            yield
        return
    if device.type != "cuda":
        yield
        return
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
