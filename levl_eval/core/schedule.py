"""Learning rates over a training, as shares of the highest: the one schedule of pretraining, heads and connectors."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """A linear warm-up, the highest rate, and a decay to ``final`` of it; what lies behind the decay stays there.

    ends: the update (from 0) at which the decay has reached ``final``; begins: the last one before it. A warm-up that reaches into the
    decay multiplies it.
    kind: how it decays: "cosine" (half a cosine), "linear", "constant" (not at all). "wsd", warm-up, stable, decay, is any of them that
    begins late.
    warmup: updates until the highest rate; start: the share of update 0 (None: 1 / warmup, and the highest is reached one update earlier).
    """

    ends: int
    kind: str = "constant"
    begins: int = 0
    warmup: int = 0
    start: float | None = None
    final: float = 0.0

    def at(self, step: int) -> float:
        """The share of the highest rate in update ``step``, from 0."""
        return self._warm(step) * self._decayed(step)

    def _warm(self, step: int) -> float:
        if step >= self.warmup:
            return 1.0
        return (step + 1) / self.warmup if self.start is None else self.start + (1 - self.start) * step / self.warmup

    def _decayed(self, step: int) -> float:
        done = min(1.0, max(0, step - self.begins) / max(1, self.ends - self.begins))
        if self.kind == "cosine":
            return self.final + (1 - self.final) * (0.5 * (1 + math.cos(math.pi * done)))
        return 1 - (1 - self.final) * done if self.kind == "linear" else 1.0
