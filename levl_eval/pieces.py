"""The pieces of a run, (backbone, task, seed) each, and who does them: one process, several of a launcher, or two runs at once."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from levl_eval.card_base import plain
from levl_eval.cards import BackboneCard, protocol_hash
from levl_eval.engines import TOGETHER, Context, Kept, engine
from levl_eval.errors import LevlError, UsageError
from levl_eval.io import atomic_write, locked
from levl_eval.processes import launched, place, team, work_alone
from levl_eval.progress import Progress
from levl_eval.records import Estimate, Record, read_record, record_key, write_record

if TYPE_CHECKING:
    import torch

    from levl_eval.backbones.base import Backbone
    from levl_eval.features import FeatureStore


@dataclass(frozen=True)
class Piece:
    """One backbone on one resolved task card with one seed. many: the task has other seeds too (only for what is said)."""

    spec: BackboneCard
    backbone: Backbone
    card: Any
    seed: int
    protocol: dict[str, Any]
    many: bool = False

    @property
    def key(self) -> str:
        """The stem of its record's files."""
        return record_key(self.spec.name, self.backbone.weights_sha256, self.card.name, protocol_hash(self.protocol), self.seed)

    def record(self, source: str, limit: int | None, env: dict[str, Any], call: dict[str, Any]) -> Record:
        """Its record with everything but the outcome."""
        b, spec, card = self.backbone, self.spec, self.card
        return Record(
            backbone={
                "name": spec.name,
                "uri": spec.uri,
                "weights_sha256": b.weights_sha256,
                "preprocess": b.preprocess.describe(),
                "info": {**b.info, "baseline": spec.baseline},
                "card": plain(spec),
            },
            task=card.name, engine=card.engine, main_metric=card.main_metric, chance=card.chance,
            protocol=self.protocol, protocol_hash=protocol_hash(self.protocol), data={"source": source}, seed=self.seed, limit=limit,
            environment=env, card=plain(card), call=call,
        )  # fmt: skip


@dataclass
class Desk:
    """What the pieces of a run have in common, and the working through them."""

    out: Path
    cache: Path
    store: FeatureStore
    folder: str  # of the data sets, or "hub"
    source: str  # --data as it was given
    device: torch.device
    limit: int | None
    llm: str
    batch_size: int
    progress: Progress
    environment: dict[str, Any]
    call: dict[str, Any]
    debug: bool = False
    pieces: list[Piece] = field(init=False, default_factory=list)
    records: dict[int, Record] = field(init=False, default_factory=dict)
    began: float = field(init=False, default=math.inf)
    kept: Kept = field(init=False, default_factory=Kept)

    def work(self, pieces: Sequence[Piece]) -> list[Record]:
        """Read or compute the record of every piece, in their order.

        Processes of a launcher do those of a language model together, as its connector's training is one long computation. All
        other pieces are shared, also with a second run by hand: each process takes what nobody is at, and at the end waits for the
        others', helping with their features. What a lost process held is then computed by the one that waited.
        """
        self.pieces, self.records, self.began = list(pieces), {}, time.time()
        crewed = [n for n, p in enumerate(self.pieces) if launched() and p.card.engine in TOGETHER]
        work_alone(not crewed)
        if crewed:
            said, self.progress.quiet = self.progress.quiet, self.progress.quiet or not team().first
            for number in crewed:
                self._together(number)
            self.progress.quiet = said
            work_alone()
        rest = [n for n in range(len(self.pieces)) if n not in self.records]
        rank, size = place()
        start, end = rank * len(rest) // size, (rank + 1) * len(rest) // size
        own = rest[start:end]
        if rank:  # what a language model says without a picture is found once, by the first: the others come to it later
            own = sorted(own, key=lambda n: self.pieces[n].card.engine in TOGETHER)
        for number in [n for n in (*own, *rest[end:], *rest[:start]) if not self._alone(n, wait=False)]:
            if size > 1:
                self._help(number)
            self._alone(number, wait=True)
        return [self.records[n] for n in range(len(self.pieces))]

    def _say(self, number: int, found: Record | None) -> None:
        p = self.pieces[number]
        seed = f" seed {p.seed}" if p.many else ""
        there = ": already there" if found is not None else ""
        self.progress.say(f"[{number + 1}/{len(self.pieces)}] {p.spec.name} on {p.card.name}{seed}{there}")

    def _alone(self, number: int, wait: bool) -> bool:
        """Read or compute a piece; False where another process is at it and we do not wait."""
        key = self.pieces[number].key
        with locked(self.out / ".locks" / key, wait) as ours:
            if not ours:
                return False
            found = self._existing(number)
            self._say(number, found)
            self.records[number] = found or self._compute(number)
            return True

    def _together(self, number: int) -> None:
        """Read or compute a piece as a team: the first holds its lock and writes, all take part."""
        crew = team()
        with locked(self.out / ".locks" / self.pieces[number].key) if crew.first else nullcontext():
            found = crew.agree(self._existing(number) if crew.first else None)
            self._say(number, found)
            self.records[number] = found or self._compute(number)
            crew.wait()

    def _help(self, number: int) -> None:
        """Take part in the making of the features of a piece that another process is at. Whatever fails, that one tells."""
        try:
            if self._existing(number) is None:
                context = self._context(number, helping=True)
                with _deterministic(context.seed):
                    engine(context.card.engine)(context)
        except Exception:
            return

    def _context(self, number: int, helping: bool = False) -> Context:
        piece = self.pieces[number]
        for other in self.pieces:  # only the one at work takes the device's memory
            if other.backbone is not piece.backbone:
                other.backbone.to("cpu")
        piece.backbone.to(self.device)
        if self.device.type != "cpu" and piece.card.engine not in TOGETHER:
            self.kept.drop("language")
        return Context(
            card=piece.card, backbone=piece.backbone, data=self.folder, seed=piece.seed, store=self.store, cache=self.cache,
            device=self.device, limit=self.limit, llm=self.llm, batch_size=self.batch_size, progress=self.progress, helping=helping,
            work=self.out / "work" / piece.key, kept=self.kept,
        )  # fmt: skip

    def _compute(self, number: int) -> Record:
        record = self.pieces[number].record(self.source, self.limit, self.environment, self.call)
        return _one(self._context(number), record, self.out, self.debug)

    def _existing(self, number: int) -> Record | None:
        """The record of this piece of work, where it is complete: with its samples, and with every floor the card asks for.

        A failed one counts where another process has written it since we began: it is tried again by the next run, not by each.
        """
        key, card = self.pieces[number].key, self.pieces[number].card
        path = self.out / "records" / f"{key}.json"
        if not path.exists():
            return None
        try:
            record = read_record(path)
        except UsageError:
            return None  # not readable: it is computed again
        if record.data.get("source") != self.source:
            return None
        if record.status == "failed":
            return record if path.stat().st_mtime > self.began else None
        done = record.status == "done" and (self.out / "samples" / f"{key}.jsonl").exists()
        floors = {f"floor_{f.replace('-', '_')}" for f in getattr(card, "floors", ())}
        whole = floors <= record.metrics.keys() or record.main_metric == "answered"
        return record if done and whole else None


@contextmanager
def _deterministic(seed: int):
    """Engines use their own generators; this fixes what a library might draw from the global one."""
    import torch

    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.random.set_rng_state(state)


def _defined(metrics: dict[str, Estimate]) -> tuple[dict[str, Estimate], list[str]]:
    """Metrics with a value, and the names of those without (no item they are about): JSON has no NaN, a record no empty estimate."""
    undefined = [name for name, e in metrics.items() if not math.isfinite(e.value)]
    return {name: e for name, e in metrics.items() if name not in undefined}, undefined


def _one(context: Context, record: Record, out: Path, debug: bool) -> Record:
    """Run one piece of work and write its record, whatever happens.

    Raises LevlError in a team where this process alone has failed: the others are in steps that wait for it.
    """
    started, computed = time.monotonic(), False
    try:
        with _deterministic(context.seed):
            outcome = engine(record.engine)(context)
        record.main_metric = record.main_metric or next(iter(outcome.metrics))  # a task of lmms-eval names its metrics itself
        if record.main_metric not in outcome.metrics:
            known = ", ".join(outcome.metrics)
            raise UsageError(
                f"task {record.task}: field `main_metric`: {record.main_metric!r} is not measured; there are {known}"
            )
        record.metrics, undefined = _defined(outcome.metrics)
        if record.main_metric in undefined:
            raise LevlError(
                f"task {record.task}: {record.main_metric} is not defined on this test set; nothing in it can be scored (all masks "
                "void, no positive answer, every image among those of training?)"
            )
        computed = True
        record.data.update(outcome.data)
        record.notes, record.cache = outcome.notes, outcome.cache
        if undefined:
            record.notes = {**record.notes, "undefined": undefined}
        record.seconds = {**outcome.seconds, "total": time.monotonic() - started}
        if team().first:
            for name, text in outcome.files.items():
                atomic_write(out / "uploads" / record.key / name, text)
            write_record(out, record, outcome.samples)
    except Exception as e:
        if debug and not isinstance(e, LevlError):
            raise
        if team().size > 1 and (computed or not team().all_failed()):
            why = " ".join(str(e).split())
            raise LevlError(
                f"process {place()[0]} of {place()[1]} failed alone ({why}); the run ends, what is done is kept: start it again to go on"
            ) from e
        record.status, record.metrics = "failed", {}
        record.reason = str(e) if isinstance(e, LevlError) else f"{type(e).__name__}: {' '.join(str(e).split())[:500]}"
        if not isinstance(e, LevlError):
            record.notes["traceback"] = traceback.format_exc()
        record.seconds = {"total": time.monotonic() - started}
        context.progress.say(f"  failed: {record.reason}")
        if team().first:
            write_record(out, record)
    return record
