"""What a run writes while it goes: metrics.jsonl, trackers, lines that stay in the terminal, and the names of samples it left out."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING

import torch
from torch import Tensor

from levl_eval.core.distributed import joined_group
from levl_eval.core.files import atomic_write, disk_full_as_error
from levl_eval.core.progress import Progress
from levl_eval.core.text import printable
from levl_eval.models.config import PretrainConfig
from levl_eval.pretrain.feed import Feed
from levl_eval.pretrain.interrupts import lines_until
from levl_eval.pretrain.messages import MEASURED_AFTER, history_line, outlook
from levl_eval.pretrain.samples import by_kind
from levl_eval.pretrain.schedule import learning_rate

if TYPE_CHECKING:
    from accelerate import Accelerator

_WARM = 3  # steps of a run that are not measured


class Journal:
    """A context manager around the steps ``first`` to ``end`` of a run; every process has one, the first alone writes metrics."""

    def __init__(
        self, config: PretrainConfig, feed: Feed, progress: Progress, accelerator: Accelerator, first: int, end: int
    ) -> None:
        self.config, self.feed, self.progress, self.accelerator = config, feed, progress, accelerator
        self.first, self.end, self.out = first, end, Path(config.out)
        self._file: IO[str] | None = None
        self._skipped = feed.skipped

    def __enter__(self) -> Journal:
        metrics = self.out / "metrics.jsonl"
        if joined_group().main:
            if metrics.exists():  # lines behind the checkpoint belong to steps that are made again
                atomic_write(metrics, "".join(f"{line}\n" for line in lines_until(metrics, self.first)))
            self._file = open(metrics, "a", encoding="utf-8")
        self.started = self._since = self._warm = time.monotonic()
        self.feed.waited = 0.0
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file is not None:
            with disk_full_as_error(self.out / "metrics.jsonl"):  # what a full disk did not take is tried once more
                self._file.close()
        self._list_broken()

    def due(self, step: int) -> bool:
        """Whether update ``step`` has a line."""
        c = self.config
        return step % c.log_every == 0 or step % c.diagnose_every == 0 or step == self.end

    def diagnosed(self, step: int) -> bool:
        """Whether the model is measured behind update ``step``."""
        return step % self.config.diagnose_every == 0 or step == self.end

    @property
    def rate(self) -> float:
        """Images a second so far, of the step last told to :meth:`after`."""
        return (self._step - self.first) * self.config.batch_size / max(1e-9, time.monotonic() - self.started)

    def after(self, step: int, device: torch.device) -> None:
        """Behind every update: the outlook once, and the first sample that was left out."""
        self._step = step
        done = step - self.first
        if done == _WARM:
            self._warm = time.monotonic()
        if done == MEASURED_AFTER and self.end > step:
            each = (time.monotonic() - self._warm) / (MEASURED_AFTER - _WARM)
            self.progress.say(outlook(each, self.end - step, self.config.batch_size, device))
        if self.feed.skipped > self._skipped:
            if not self._skipped:
                self.progress.say("skipped a sample that cannot be read: {} ({})".format(*self.feed.broken[0]))
            self._skipped = self.feed.skipped

    def write(self, step: int, loss: float, parts: Mapping[str, Tensor], figures: Mapping[str, float]) -> None:
        """The line of update ``step``. parts: of this process's loss; figures: diagnostics; every process takes part."""
        line: dict[str, float] = {"step": step, "loss": loss}
        line |= dict(zip(parts, joined_group().mean(*(float(v) for v in parts.values())), strict=True))
        line |= {"lr": learning_rate(self.config, step - 1), "images_per_second": round(self.rate, 1)}
        line["waiting"] = round(self.feed.waited / max(1e-9, time.monotonic() - self._since), 4)
        if any(broken := joined_group().each(self.feed.skipped)):
            line["skipped"] = sum(broken)
        line |= figures
        if self._file is not None:
            with disk_full_as_error(self.out / "metrics.jsonl"):
                self._file.write(json.dumps(line) + "\n")
                self._file.flush()
        if self.config.trackers:
            self.accelerator.log({k: v for k, v in line.items() if k != "step"}, step=step)
        if figures:
            self.progress.say(history_line(line))
        self.feed.waited, self._since = 0.0, time.monotonic()

    def _list_broken(self) -> None:
        """Names of what this process could not read and why, one a line."""
        if self.feed.broken:
            name = "broken.txt" if joined_group().size == 1 else f"broken-{joined_group().rank}.txt"
            atomic_write(self.out / name, "".join(f"{printable(sample)}\t{kind}\n" for sample, kind in self.feed.broken))

    def summary(self) -> None:
        """At the end: what was left out, by kind, over all processes."""
        counts = joined_group().each((self.feed.seen, dict(self.feed.kinds)))
        kinds: Counter[str] = sum((Counter(k) for _, k in counts), Counter())
        if kinds:
            names = "broken.txt" if joined_group().size == 1 else "broken-PROCESS.txt"
            self.progress.say(
                f"skipped {kinds.total()} of {sum(n for n, _ in counts)} samples: {by_kind(kinds)}; their names: {self.out}/{names}"
            )
