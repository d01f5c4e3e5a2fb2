"""What stops a run: a loss or gradient that is not a number, and a loss that has grown far beyond the first.

On a CPU each update is checked before it is made. A GPU would stand still for that (the host would wait for the device at every
step), so there an update whose gradient is not finite is left out by the optimizer's own kernel, and what happened is read when
the log is written.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from levl_eval.core.distributed import joined_group
from levl_eval.core.errors import LevlError, check_finite
from levl_eval.models.config import PretrainConfig

_MEMORY = 0.95  # of the running loss, over updates


class Watch:
    """first, running: the first loss and the running one; last: the loss of the update checked last. where: names the last checkpoint."""

    def __init__(self, config: PretrainConfig, where: Callable[[], str], deferred: bool) -> None:
        self.config, self.where, self.deferred = config, where, deferred
        self.first = self.running = self.last = math.nan
        self.unchecked: list[tuple[int, Tensor]] = []

    def add(self, step: int, loss: Tensor, norm: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Loss and gradient norm of update ``step``, which is about to be made. Raises LevlError unless checks are deferred."""
        self.unchecked.append((step, torch.stack([loss.float(), norm.float()])))
        if self.deferred:
            optimizer.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]  # read by fused AdamW
        else:
            self.check()

    def check(self) -> None:
        """Read what was added; one wait for the device, one exchange between processes. Raises LevlError."""
        if not self.unchecked:
            return
        steps, values = zip(*self.unchecked, strict=True)
        self.unchecked = []
        numbers = joined_group().mean(*torch.stack(values).flatten().tolist())
        for step, loss, norm in zip(steps, numbers[::2], numbers[1::2], strict=True):
            for what, value in (("loss", loss), ("gradient norm", norm)):
                check_finite(value, f"step {step}: the {what}", self._remedy())
            self._grown(step, loss)
            self.last = loss

    def _remedy(self) -> str:
        return f"last good checkpoint: {self.where()}; lower lr or use precision=fp32"

    def _grown(self, step: int, loss: float) -> None:
        """Follow the running loss; one far above the first loss will not come back."""
        if math.isnan(self.first):
            self.first = self.running = loss
        self.running = _MEMORY * self.running + (1 - _MEMORY) * loss
        if self.running > self.config.max_loss_growth * abs(self.first):
            raise LevlError(
                f"step {step}: diverged: the running loss is {self.running:.4g}, the first was {self.first:.4g} (max_loss_growth); "
                f"{self._remedy()}"
            )
