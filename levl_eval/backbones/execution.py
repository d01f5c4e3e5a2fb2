"""How an encoder is executed: as torch runs it line by line, compiled, or with channels last in memory. A choice of the run, part of every identity.

Both orders of the same sums differ in their last bits from torch's plain ones: features of one execution are never taken for another's.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from levl_eval.core.errors import LevlError

if TYPE_CHECKING:
    from torch import Tensor, nn

T = TypeVar("T")
COMPILER = "inductor"  # torch.compile's own


class Execution(NamedTuple):
    """compiled: by torch.compile. channels_last: images and the weights of convolutions as [N, H, W, C] in memory."""

    compiled: bool = False
    channels_last: bool = False

    @property
    def words(self) -> str:
        """As records hold it behind the precision; "" for the plain one."""
        return ", ".join(word for word, on in (("compiled", self.compiled), ("channels last", self.channels_last)) if on)

    def parts(self) -> dict[str, object]:
        """Of the keys of stored features: {} for the plain one. The code that a compiler makes is of a version of torch."""
        if self == EAGER:
            return {}
        return {"execution": self.words, **({"torch": version("torch")} if self.compiled else {})}


EAGER = Execution()


def lay_out(module: nn.Module, channels_last: bool) -> None:
    """Weights of convolutions in one of the two orders, in place; the values and their hash stay."""
    import torch

    if module.__dict__.get("_channels_last", False) != channels_last:
        module.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)  # type: ignore[call-overload]
        module.__dict__["_channels_last"] = channels_last


def pixels_for(images: Tensor, execution: Execution) -> Tensor:
    """Images [B, 3, H, W] in the order of an execution."""
    import torch

    return images.contiguous(memory_format=torch.channels_last) if execution.channels_last else images


def compiled(function: Callable[..., T], name: str) -> Callable[..., T]:
    """``function`` through torch.compile. name: of the backbone. What is called raises LevlError where it cannot be compiled."""
    import torch

    inner: list[Callable[..., T]] = []

    def call(*args: object) -> T:
        try:
            if not inner:
                inner.append(torch.compile(function, backend=COMPILER))
            return inner[0](*args)
        except Exception as e:
            if not type(e).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            raise LevlError(
                f"{name}: torch.compile fails on this encoder or this machine ({' '.join(str(e).split())[:160]}); leave out --compile"
            ) from e

    return call
