"""The working through a run's jobs: one process, several of a launcher, or two runs at once into one folder.

What is done is never done again; what fails is recorded and the rest is computed.
"""

from __future__ import annotations

import math
import time
import traceback
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from levl_eval.cards import DataSpec, TaskCard
from levl_eval.core.distributed import launched, launched_rank, lost_another, process_group, work_alone
from levl_eval.core.errors import DamagedFeatures, LevlError, UsageError
from levl_eval.core.files import atomic_write, locked
from levl_eval.core.json_types import object_at
from levl_eval.core.random_state import seeded
from levl_eval.core.user_code import told
from levl_eval.engines.contract import TOGETHER, Context, Outcome, RunCache, engine
from levl_eval.engines.reads import arrays_of
from levl_eval.metrics.estimate import Estimate
from levl_eval.records import Record, Sample, fill_identity, identity_of, read_record, write_record
from levl_eval.records.check import damage_of_samples
from levl_eval.runner.folders import LATEST
from levl_eval.runner.language import has_changed
from levl_eval.runner.plan import Job, Plan
from levl_eval.runner.shared_folders import launch_time

if TYPE_CHECKING:
    import torch

    from levl_eval.core.progress import Progress
    from levl_eval.features.store import FeatureStore

_DAMAGES = 3  # times that a job begins anew over damaged features


@dataclass
class Runner:
    """Works through the jobs of a plan. What only computing needs (torch, the feature store) is made when the first job is computed."""

    plan: Plan
    progress: Progress
    call: dict[str, object]  # how it was run, as records hold it
    records: dict[int, Record] = field(init=False, default_factory=dict)
    began: float = field(init=False, default=math.inf)
    kept: RunCache = field(init=False, default_factory=RunCache)

    def __post_init__(self) -> None:
        self.out = Path(self.plan.config.out or LATEST)
        self.jobs = self.plan.jobs

    @cached_property
    def device(self) -> torch.device:
        """Where jobs are computed."""
        from levl_eval.core.device import pick_device
        from levl_eval.core.distributed import keep_freed_memory

        chosen: torch.device = pick_device(self.plan.config.device)
        if chosen.type == "cpu":
            keep_freed_memory()
        return chosen

    @cached_property
    def store(self) -> FeatureStore:
        from levl_eval.features.store import FeatureStore

        return FeatureStore(self.plan.config.cache_folder / "features", self.plan.config.store_limit)

    @cached_property
    def environment(self) -> dict[str, object]:
        """Versions and machine, for the records of what is computed."""
        from levl_eval.core.device import device_name, memory_share
        from levl_eval.core.distributed import cores
        from levl_eval.runner.environment import environment

        share = {"gpu_memory_share": memory_share()} if self.device.type == "cuda" and memory_share() is not None else {}
        return environment() | {"device": str(self.device), "device_name": device_name(self.device), "cores": cores()} | share

    def work(self) -> list[Record]:
        """Read or compute the record of every job, in their order.

        Processes of a launcher do those of a language model together, as its connector's training is one long computation. All
        other jobs are shared, also with a second run by hand: each process takes what nobody is at, and at the end waits for the
        others', helping with their features. What a lost process held is then computed by the one that waited.
        """
        self.records, self.began = {}, launch_time() or time.time()
        together = [n for n, job in enumerate(self.jobs) if launched() and job.card.engine in TOGETHER]
        work_alone(not together)
        if together:
            was_quiet, self.progress.quiet = self.progress.quiet, self.progress.quiet or not process_group().main
            for number in together:
                self._together(number)
            self.progress.quiet = was_quiet
            work_alone()
        rest = [n for n in range(len(self.jobs)) if n not in self.records]
        rank, size = launched_rank()
        start = rank * len(rest) // size  # from there in the plan's order: what takes long, connectors, is not left to the end
        for number in [n for n in (*rest[start:], *rest[:start]) if not self._alone(n, wait=False)]:
            if size > 1:
                self._help(number)
            self._alone(number, wait=True)
        return [self.records[n] for n in range(len(self.jobs))]

    def present(self, since: float = math.inf) -> list[Record | None]:
        """The record of every job where it is there and whole; failed ones where they were written after ``since`` (seconds since 1970)."""
        self.began = since
        return [self._existing(n) for n in range(len(self.jobs))]

    def _announce(self, number: int, existing: Record | None) -> None:
        job = self.jobs[number]
        seed = f" seed {job.seed}" if job.many else ""
        there = ": already there" if existing is not None else ""
        self.progress.say(f"[{number + 1}/{len(self.jobs)}] {job.backbone.name} on {job.label or job.card.name}{seed}{there}")

    def _alone(self, number: int, wait: bool) -> bool:
        """Read or compute a job; False where another process is at it and we do not wait."""
        with locked(self.out / ".locks" / self.jobs[number].key, wait) as ours:
            if not ours:
                return False
            existing = self._existing(number)
            self._announce(number, existing)
            self.records[number] = existing or self.compute(number)
            return True

    def _together(self, number: int) -> None:
        """Read or compute a job together: the main process holds its lock and writes, all take part."""
        with locked(self.out / ".locks" / self.jobs[number].key) if process_group().main else nullcontext():
            existing = process_group().from_main(self._existing(number) if process_group().main else None)
            self._announce(number, existing)
            self.records[number] = existing or self.compute(number)
            process_group().wait()

    def _help(self, number: int) -> None:
        """Take part in the making of the features of a job that another process is at. Whatever fails, that one tells."""
        try:
            if self.jobs[number].problem is None and self._existing(number) is None:
                context = self._context(number, helping=True)
                with seeded(context.seed):
                    engine(context.card.engine)(context)
        except Exception:
            return

    def _context(self, number: int, helping: bool = False) -> Context[TaskCard]:
        job, config = self.jobs[number], self.plan.config
        for other in self.plan.backbones:  # only the one at work takes the device's memory
            if other is not job.backbone:
                other.to("cpu")
        backbone = job.backbone.at_hand() if arrays_of(job.card) else job.backbone.plain()
        backbone.to(self.device)
        if self.device.type != "cpu" and job.card.engine not in TOGETHER:
            self.kept.drop("language")
        return Context(
            card=job.card, backbone=backbone, data=self.plan.data, seed=job.seed, store=self.store, cache=config.cache_folder,
            device=self.device, limit=config.limit, llm=config.llm, batch_size=config.batch_size, progress=self.progress,
            helping=helping, work=self.out / "work" / job.key, kept=self.kept, later=self._later(number),
        )  # fmt: skip

    def _later(self, number: int) -> tuple[str, ...]:
        """Arrays that jobs behind this one, not done yet, read of the same images by the same encoder: one pass makes them all."""
        job, records = self.jobs[number], self.out / "records"
        own = {*job.identity.data.train, job.identity.data.test}
        out: dict[str, None] = {}  # in order
        for other in takewhile(lambda j: j.backbone is job.backbone, self.jobs[number + 1 :]):  # a backbone's jobs stand together
            shared = own & {*other.identity.data.train, other.identity.data.test}
            same_layers = getattr(other.card, "layers", None) == getattr(job.card, "layers", None)
            if shared and same_layers and other.problem is None and not (records / f"{other.key}.json").exists():
                out |= dict.fromkeys(arrays_of(other.card))
        return tuple(out)

    def compute(self, number: int) -> Record:
        """Run a job and write its record, whatever happens; a failed one takes a file of its own, which the next success removes.

        Raises LevlError where this process alone of several has failed: the others are in steps that wait for it.
        """
        job, config = self.jobs[number], self.plan.config
        record = job.record(config.data, self.environment, self.call)
        started, computed = time.monotonic(), False
        try:
            if job.problem is not None:
                raise job.problem
            outcome = self._outcome(number)
            _fill(record, outcome, job, started)
            language = job.identity.language_model
            if language is not None and has_changed(config.llm, language, self.plan.fingerprints.sha256):
                raise LevlError(f"--llm {config.llm}: its files changed while the run went on; run it again")
            computed = True
            if process_group().main:
                for name, text in outcome.files.items():
                    atomic_write(self.out / "uploads" / record.key / name, text)
                write_record(self.out, record, chain(outcome.samples, _failed_rows(job)))
                (self.out / "records" / f"{job.failed_key}.json").unlink(missing_ok=True)
        except Exception as e:
            if config.debug and not isinstance(e, LevlError):
                raise
            if words := lost_another(e):
                raise LevlError(words) from e
            if process_group().size > 1 and (computed or not process_group().all_failed()):
                why = " ".join(str(e).split())
                raise LevlError(
                    f"process {launched_rank()[0]} of {launched_rank()[1]} failed alone ({why}); "
                    "the run ends, what is done is kept: start it again to resume"
                ) from e
            _fail(record, e, job, started)
            self.progress.say(f"  failed{f' (seed {job.seed})' if job.many else ''}: {record.reason}")
            if process_group().main:
                write_record(self.out, record)
        return record

    def _outcome(self, number: int) -> Outcome:
        """What the engine finds. Features that turn out to be damaged while they are read are said, and the job begins anew."""
        for _ in range(_DAMAGES):
            context = self._context(number)
            try:
                with seeded(context.seed):  # engines use their own generators; this is for what a library might draw from
                    return engine(context.card.engine)(context)
            except DamagedFeatures as e:
                if process_group().size > 1:
                    raise  # the others are in steps that wait for this process
                self.progress.say(f"  {e}; computed again")
        raise LevlError(f"{self.store.folder}: features were damaged {_DAMAGES} times while they were read; is the disk sound?")

    def _existing(self, number: int) -> Record | None:
        """The record of this job where it is whole: of an equal identity, with its samples, and with every floor the card asks for.

        What is damaged is said, and computed again. A failed one counts where another process has written it since we began: it is
        tried again by the next run, not by each.
        """
        job = self.jobs[number]
        failed = self.out / "records" / f"{job.failed_key}.json"
        path = self.out / "records" / f"{job.key}.json"
        try:
            if failed.exists() and failed.stat().st_mtime > self.began:
                return read_record(failed)
            if job.problem is not None or not path.exists():
                return None
            record = read_record(path)
            if record.status != "done" or identity_of(record).hash != job.identity.hash:
                return None
            wrong = damage_of_samples(record, self.plan.fingerprints.sha256)
            if wrong:
                raise UsageError(wrong)
        except UsageError as e:
            self.progress.say(f"  {e}; computed again")
            return None
        if not _within_bound(record, job):
            return None
        floors = {f"floor_{f.replace('-', '_')}" for f in getattr(job.card, "floors", ())}
        return record if floors <= record.metrics.keys() or record.main_metric == "answered" else None


def _failed_rows(job: Job) -> list[Sample]:
    """A row for each test image that is skipped; question sets tell theirs themselves, question by question."""
    if job.card.engine in TOGETHER:
        return []
    return [Sample(id=name, image_id=name, status=f"failed: {why}") for name, why in job.data.failed.items()]


def _within_bound(record: Record, job: Job) -> bool:
    """Whether the questions that did not fit the context, which no identity knows beforehand, are as few as this run allows."""
    spec, counts = getattr(job.card, "data", None), object_at(record.data, "too_long")
    if not counts or not isinstance(spec, DataSpec):
        return True
    left, of = counts.get("questions"), counts.get("of")
    return isinstance(left, int) and isinstance(of, int) and spec.may_skip.allows(left, of)


def _defined(metrics: dict[str, Estimate]) -> tuple[dict[str, Estimate], list[str]]:
    """Metrics with a value, and the names of those without (no item they are about): JSON has no NaN, a record no empty estimate."""
    undefined = [name for name, e in metrics.items() if not math.isfinite(e.value)]
    return {name: e for name, e in metrics.items() if name not in undefined}, undefined


def _fill(record: Record, outcome: Outcome, job: Job, started: float) -> None:
    """An engine's outcome into the record, in place. Raises LevlError where it is not about the data that the plan has seen."""
    record.main_metric = record.main_metric or next(iter(outcome.metrics))  # a task of lmms-eval names its metrics itself
    if record.main_metric not in outcome.metrics:
        known = ", ".join(outcome.metrics)
        raise UsageError(f"task {record.task}: field `main_metric`: {record.main_metric!r} is not measured; there are {known}")
    record.metrics, undefined = _defined(outcome.metrics)
    if record.main_metric in undefined:
        raise LevlError(
            f"task {record.task}: {record.main_metric} is not defined on this test set; nothing in it can be scored (all masks "
            "void, no positive answer, every image among those of training?)"
        )
    data = dict(outcome.data)
    seen = str(data.pop("fingerprint", ""))
    if record.engine == "lmms":
        record.data["asked"] = seen  # the questions as lmms-eval put them; its data set itself is known by version and files
    elif seen != job.identity.data.test:
        raise LevlError(f"task {record.task}: its test data changed while the run went on; run it again")
    trained_on, own = data.pop("train", ()), data.pop("validation", "")
    strange = set(trained_on) if isinstance(trained_on, (list, tuple)) else {trained_on}
    if (strange | ({own} if own else set())) - {*job.identity.data.train, job.identity.data.validation}:
        raise LevlError(f"task {record.task}: its training data changed while the run went on; run it again")
    record.data |= data
    if job.data.failed and "failed_rows" not in record.data:
        record.data["failed_rows"] = len(job.data.failed)
    record.notes, record.cache = dict(outcome.notes), outcome.cache
    if undefined:
        record.notes = {**record.notes, "undefined": undefined}
    record.seconds = {**outcome.seconds, "total": time.monotonic() - started}


def _fail(record: Record, error: Exception, job: Job, started: float) -> None:
    """Why a job failed into its record, in place."""
    fill_identity(record, job.identity, failed=True)
    record.status, record.metrics = "failed", {}
    record.reason = str(error) if isinstance(error, LevlError) else told(error)
    if not isinstance(error, LevlError):
        record.notes["traceback"] = "".join(traceback.format_exception(error))
    record.seconds = {"total": time.monotonic() - started}
