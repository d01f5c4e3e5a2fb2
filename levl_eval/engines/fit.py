"""The one training loop of the engines: rates, loss curve, the check that it is finite, progress, resuming, validation.

A training is an optimiser, :class:`Settings` and a function from an update's number to its loss, which reads the batch and runs the model
(:func:`shuffled_rows` gives the rows). What differs more hangs on two hooks: ``after_backward`` and ``after_epoch``.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypedDict, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from levl_eval.core.errors import check_finite
from levl_eval.core.kept import read_state, recall, write_state
from levl_eval.core.progress import Progress
from levl_eval.core.random_state import RandomState, random_state, restore_random_state
from levl_eval.core.schedule import Schedule

SAVE_EVERY = 30.0  # seconds between kept states
_SHOWN = 50  # last losses whose mean stands beside the bar
T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """What a training is told besides its data.

    per_epoch: updates of one point of the loss curve, after which ``after_epoch`` is called.
    """

    name: str  # beside the progress bar and in an error
    steps: int  # updates in all
    schedule: Schedule  # of the optimiser's rates, which it was made with
    per_epoch: int = 1
    remedy: str = "lower `lr`"  # what an error tells to do where the loss is not finite
    clip: float | None = None  # largest norm of the gradient


class _Generators(TypedDict, total=False):
    random: RandomState  # not kept by earlier versions


class _State(_Generators):
    step: int
    losses: list[float]
    net: dict[str, Tensor]
    optimizer: dict[str, object]


class Resumable:
    """A training's state in one file (core.kept), written now and then, from which an interrupted one resumes exactly.

    The loss must be a function of the update's number and of the global random generators, whose state is kept too.
    writes: whether this process is the one that writes.
    """

    def __init__(
        self, path: Path, key: str, module: nn.Module, device: torch.device, progress: Progress, writes: bool = True
    ) -> None:
        self.path, self.key, self.module, self.device, self.progress, self.writes = path, key, module, device, progress, writes
        self.saved = time.monotonic()

    def load(self, optimizer: torch.optim.Optimizer) -> list[float]:
        """Losses of the updates that are done, with module, optimiser and generators as they were then; [] where nothing is kept.

        A broken state is said, and the training begins again, from its own beginning.
        """
        restored = recall(lambda: read_state(self.path, self.key, self.device), self.progress)
        if restored is None:
            return []
        state = cast("_State", restored)  # what is of another form fails below
        before = copy.deepcopy(self.module.state_dict()), copy.deepcopy(optimizer.state_dict())
        try:
            losses = [float(x) for x in state["losses"]]
            if len(losses) != int(state["step"]):
                raise ValueError("losses")
            self.module.load_state_dict(state["net"])
            optimizer.load_state_dict(state["optimizer"])
            if "random" in state:
                restore_random_state(state["random"])
            return losses
        except (RuntimeError, ValueError, KeyError, TypeError) as e:  # whole, but of another form
            self.progress.say(f"{self.path}: cannot be resumed from ({type(e).__name__}); computed again")
            self.module.load_state_dict(before[0])
            optimizer.load_state_dict(before[1])
            return []

    def save(self, optimizer: torch.optim.Optimizer, losses: Sequence[object]) -> None:
        """Keep the state, where the last one is SAVE_EVERY seconds old."""
        if not self.writes or time.monotonic() - self.saved <= SAVE_EVERY:
            return
        self.saved = time.monotonic()
        state = {
            "net": self.module.state_dict(), "optimizer": optimizer.state_dict(), "step": len(losses), "losses": list(losses),
            "random": random_state(),
        }  # fmt: skip
        write_state(self.path, self.key, state)


class BestEpoch(Generic[T]):
    """Scores every epoch and keeps something of the best one, the first of equals: an ``after_epoch``.

    score: of the epoch that has just ended, higher is better; keep: what to remember of it, called where it is the best so far.
    """

    def __init__(self, score: Callable[[], float], keep: Callable[[], T]) -> None:
        self.score, self.keep = score, keep
        self.scores: list[float] = []
        self.best: T | None = None

    def __call__(self) -> None:
        value = self.score()
        if value > max(self.scores, default=-np.inf):
            self.best = self.keep()
        self.scores.append(value)


def shuffled_rows(count: int, size: int, generator: torch.Generator, drop_last: bool = False) -> Iterator[Tensor]:
    """Row numbers [<= size] of one update after another, without end: one permutation of ``count`` rows after another.

    drop_last: leave out a permutation's incomplete last batch, unless it is the only one.
    """
    while True:
        parts = torch.randperm(count, generator=generator).split(size)
        yield from parts[:-1] if drop_last and len(parts) > 1 and len(parts[-1]) < size else parts


def training_loop(
    optimizer: torch.optim.Optimizer, settings: Settings, loss_of: Callable[[int], Tensor | None], progress: Progress, *,
    after_backward: Callable[[Tensor], Tensor] | None = None, after_epoch: Callable[[], object] | None = None,
    resumable: Resumable | None = None,
) -> np.ndarray:  # fmt: skip
    """Train to the last update; the parameters change in place. Returns the mean loss of every epoch, [epochs].

    loss_of: update's number -> its loss; None where the batch has nothing to learn from (the rate goes on); or the losses [S] of S
    candidates trained side by side that share no parameter: the curve is [epochs, S] then, and one that diverges does not stop the others.
    after_backward: between backward pass and update, the loss -> the loss to record; several processes add their gradients there.
    Raises LevlError where a loss is not finite, before the update that would spoil the parameters.
    """
    highest = [group["lr"] for group in optimizer.param_groups]  # a number, or [S] of candidates
    losses: list[float | np.ndarray | None] = [*resumable.load(optimizer)] if resumable is not None else []
    with progress.stage(settings.name, settings.steps - len(losses), "step") as bar:
        for step in range(len(losses), settings.steps):
            for group, rate in zip(optimizer.param_groups, highest, strict=True):
                group["lr"] = rate * settings.schedule.at(step)
            loss = loss_of(step)
            losses.append(None if loss is None else _update(optimizer, settings, step, loss, after_backward))
            bar.advance(note=_note(losses))
            if resumable is not None:
                resumable.save(optimizer, losses)
            if after_epoch is not None and (step + 1) % settings.per_epoch == 0:
                after_epoch()
    starts = range(0, settings.steps, settings.per_epoch)
    return np.stack([_mean(losses[i : i + settings.per_epoch]) for i in starts])


def _update(
    optimizer: torch.optim.Optimizer,
    settings: Settings,
    step: int,
    loss: Tensor,
    after_backward: Callable[[Tensor], Tensor] | None,
) -> float | np.ndarray:
    """One update; returns its loss."""
    optimizer.zero_grad(set_to_none=True)
    loss.sum().backward()
    reported = loss.detach() if after_backward is None else after_backward(loss.detach())
    value = float(reported) if reported.ndim == 0 else reported.cpu().numpy()
    if isinstance(value, float):
        check_finite(value, f"{settings.name}, step {step}: the loss", settings.remedy)
    if settings.clip is not None:
        torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], settings.clip)
    optimizer.step()
    return value


def _mean(losses: Sequence[float | np.ndarray | None]) -> np.ndarray:
    """Of the updates that had a loss."""
    there = [np.asarray(x) for x in losses if x is not None]
    return np.asarray(np.mean(there, 0))


def _note(losses: Sequence[float | np.ndarray | None]) -> str:
    recent = [x for x in losses[-_SHOWN:] if isinstance(x, float)]
    return f"loss {sum(recent) / len(recent):.3f}" if recent else ""
