"""The number format that image encoders run in: a choice of the run, part of every identity."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, get_args

from levl_eval.core.errors import UsageError

if TYPE_CHECKING:
    import torch

# float32: every product in single precision; tf32: NVIDIA's 19-bit products of float32 matrices; bf16: matrix products in bfloat16 by torch's
# autocast, norms and softmax in float32.
Precision = Literal["float32", "tf32", "bf16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
NAMES: dict[Precision, str] = {"float32": "float32", "tf32": "tf32", "bf16": "bfloat16"}  # as records hold it


def check_precision(wanted: object, device: str) -> Precision:
    """``wanted`` where a kind of device has it. Raises UsageError."""
    for known in PRECISIONS:
        if wanted == known:
            if known == "tf32" and device != "cuda":
                raise UsageError(
                    f"--precision tf32: is a format of NVIDIA GPUs, and this run is on {device}; take float32 or bf16"
                )
            return known
    raise UsageError(f"--precision {wanted!r}: expected one of {', '.join(PRECISIONS)}")


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
