"""How an encoder is executed: as torch runs it line by line, compiled, or with channels last in memory.

A choice of the run, part of every identity. Both orders of the same sums differ in their last bits from torch's plain ones:
features of one execution are never taken for another's. CUDA graphs replay what was compiled without asking the CPU for every
kernel, which is what small batches wait for; the compiler plans memory and products anew for them, so that they are told apart
too.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from levl_eval.core.errors import LevlError, UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

T = TypeVar("T")
COMPILER = "inductor"  # torch.compile's own


class Execution(NamedTuple):
    """compiled: by torch.compile. channels_last: images and the weights of convolutions as [N, H, W, C] in memory.

    cuda_graphs: of what is compiled (torch.compile's mode "reduce-overhead").
    """

    compiled: bool = False
    channels_last: bool = False
    cuda_graphs: bool = False

    @property
    def words(self) -> str:
        """As records hold it behind the precision; "" for the plain one."""
        names = ("compiled", "channels last", "CUDA graphs")
        return ", ".join(word for word, on in zip(names, self, strict=True) if on)

    def parts(self) -> dict[str, object]:
        """Of the keys of stored features: {} for the plain one. The code that a compiler makes is of a version of torch."""
        if self == EAGER:
            return {}
        return {"execution": self.words, **({"torch": version("torch")} if self.compiled else {})}


EAGER = Execution()


def check_execution(execution: Execution, device: str) -> Execution:
    """The execution where a kind of device has it. Raises UsageError."""
    if execution.cuda_graphs and not execution.compiled:
        raise UsageError("--cuda-graphs: needs compiled encoders; add --compile, or leave it out")
    if execution.cuda_graphs and device != "cuda":
        raise UsageError(f"--cuda-graphs: are of NVIDIA GPUs, and this run is on {device}; leave it out")
    return execution


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


def compiled(function: Callable[..., T], name: str, cuda_graphs: bool = False) -> Callable[..., T]:
    """``function`` through torch.compile. name: of the backbone. What is called raises LevlError where it cannot be compiled.

    cuda_graphs: what it returns lies in the graph's own memory until it is called again; copy it.
    """
    import torch

    mode = "reduce-overhead" if cuda_graphs else None

    inner: list[Callable[..., T]] = []

    def call(*args: object) -> T:
        try:
            if not inner:
                inner.append(torch.compile(function, backend=COMPILER, mode=mode))
            if cuda_graphs:
                torch.compiler.cudagraph_mark_step_begin()  # what the last call returned is not read any more
            return inner[0](*args)
        except Exception as e:
            if not type(e).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            raise LevlError(
                f"{name}: torch.compile fails on this encoder or this machine ({' '.join(str(e).split())[:160]}); leave out --compile"
            ) from e

    return call
