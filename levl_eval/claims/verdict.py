"""From records to a verdict on each claim: supported, contradicted or undecided, by one stated rule (docs/claims.md).

The tests are those of metrics.equivalence. A claim is a tree: over its tasks, within a task over the protocols that were run, within
a protocol over the roles it is against; each level says whether all or any must hold. The claims judged together are a family, whose
p-values are adjusted by Holm, those of support and those of contradiction each. What is missing or says nothing counts as p = 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from levl_eval.cards.claim import ClaimCard, ClaimTask
from levl_eval.claims.choices import choices_of
from levl_eval.claims.evidence import Contrast, Role, Unusable, Workbench, roles_of
from levl_eval.claims.published import PublishedDifference, published_differences
from levl_eval.core.errors import LevlError, ProtocolMismatch, UsageError
from levl_eval.metrics.equivalence import NOTHING, Evidence, combined, evidence
from levl_eval.metrics.permutation import holm
from levl_eval.records import Record, read_records
from levl_eval.report.compare import differing_fields, mismatches
from levl_eval.report.one_protocol import repeated
from levl_eval.report.provenance import published_set, source_word, trained_on_scenes
from levl_eval.report.units import factor

Verdict = Literal["supported", "contradicted", "undecided"]
ALPHA = 0.05


@dataclass(frozen=True)
class Difference:
    """One test of a claim: a task under a protocol, subject against one role. contrast: None where ``reason`` says why there is none."""

    task: str
    metric: str
    subject: str
    other: str
    protocol: str  # comparison hash, "" where the task was not run
    contrast: Contrast | None
    evidence: Evidence
    reason: str = ""
    refused: bool = False  # the two sides were not measured alike
    choices: tuple[tuple[str, str], ...] = ()  # protocol fields in which the protocols of the task differ
    published: tuple[PublishedDifference, ...] = ()

    def verdict(self, alpha: float) -> Verdict:
        """Of this test alone, not adjusted."""
        return _verdict(float(self.evidence.support), float(self.evidence.contradiction), alpha)


@dataclass(frozen=True)
class Judged:
    """A claim with its verdict. holm: the two p-values adjusted over the ``family`` of claims judged together."""

    card: ClaimCard
    differences: tuple[Difference, ...]
    evidence: Evidence
    alpha: float
    family: int = 1
    holm: tuple[float, float] = (1.0, 1.0)
    caveats: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        return _verdict(*self.holm, self.alpha)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why differences could not be tested."""
        return tuple(dict.fromkeys(d.reason for d in self.differences if d.reason))

    @property
    def tested(self) -> bool:
        return any(d.contrast is not None for d in self.differences)

    @property
    def refused(self) -> bool:
        return any(d.refused for d in self.differences)

    @property
    def protocols(self) -> tuple[tuple[str, tuple[Difference, ...], Verdict], ...]:
        """Per task and protocol: its tests, and the verdict of that protocol alone (at alpha, not adjusted)."""
        groups: dict[tuple[str, str, str], list[Difference]] = {}
        for d in self.differences:
            groups.setdefault((d.task, d.metric, d.protocol), []).append(d)
        out = []
        for (task, _, _), tests in groups.items():
            e = combined([t.evidence for t in tests], self.card.over.against)
            out.append((task, tuple(tests), _verdict(float(e.support), float(e.contradiction), self.alpha)))
        return tuple(out)

    @property
    def holds_in(self) -> tuple[int, int]:
        """In how many of all combinations of the tasks' protocols the claim is supported (at alpha, not adjusted)."""
        yes: dict[int, int] = {}
        of: dict[int, int] = {}
        for _, tests, verdict in self.protocols:
            at = self._entry(tests[0])  # not by its metric: the main one may be another under another protocol
            yes[at], of[at] = yes.get(at, 0) + (verdict == "supported"), of.get(at, 0) + 1
        k, n = 1, 1
        for at in of:
            n *= of[at]
            k *= yes[at] if self.card.over.tasks == "all" else of[at] - yes[at]
        return (k, n) if self.card.over.tasks == "all" else (n - k, n)

    def _entry(self, d: Difference) -> int:
        """The place of a test's task among the card's."""
        asked = [(t.task, t.metric) for t in self.card.tasks]
        return asked.index((d.task, d.metric)) if (d.task, d.metric) in asked else asked.index((d.task, None))


def _verdict(support: float, contradiction: float, alpha: float) -> Verdict:
    return "supported" if support <= alpha else "contradicted" if contradiction <= alpha else "undecided"


@dataclass
class Judge:
    """Everything that claims are judged from: the roles, and the samples read so far."""

    roles: Mapping[str, Role]
    alpha: float = ALPHA
    bench: Workbench = field(default_factory=Workbench)

    def judge(self, cards: Sequence[ClaimCard]) -> list[Judged]:
        """Every claim, as one family: those of which nothing could be tested do not count in it."""
        verdicts = [self._one(card) for card in cards]
        family = [n for n, j in enumerate(verdicts) if j.tested]
        support = holm([float(verdicts[n].evidence.support) for n in family])
        against = holm([float(verdicts[n].evidence.contradiction) for n in family])
        for place, n in enumerate(family):
            verdicts[n] = replace(verdicts[n], family=len(family), holm=(support[place], against[place]))
        return verdicts

    def _one(self, card: ClaimCard) -> Judged:
        differences: list[Difference] = []
        by_task: list[Evidence] = []
        caveats: list[str] = []
        for task in card.tasks:
            tests, left = self._task(card, task)
            caveats += left
            by_task.append(_of_task(card, tests))
            differences += tests
        caveats += [c for d in differences if d.contrast is not None for c in d.contrast.caveats]
        return Judged(
            card, tuple(differences), combined(by_task, card.over.tasks), self.alpha, caveats=tuple(dict.fromkeys(caveats))
        )

    def _task(self, card: ClaimCard, task: ClaimTask) -> tuple[list[Difference], list[str]]:
        """The tests of one task, protocol by protocol, and what is to be told of protocols that are left out."""
        there = [self.roles[r] for r in (card.subject, *card.against) if r in self.roles]
        every = {h: _example(there, task.task, h) for r in there for h in r.protocols(task.task)}
        # Rows of other data are no evidence; where all are, the test itself says why.
        fitting = [h for h, r in every.items() if not _unfit(card, r)] or list(every)
        runs = {r.name: mine for r in there if (mine := [h for h in r.protocols(task.task) if h in fitting])}
        shared = [h for h in next(iter(runs.values()), []) if all(h in v for v in runs.values())] if len(runs) > 1 else []
        subject = runs.get(card.subject, [])
        of_pair = {o: shared or [h for h in subject if h in runs.get(o, ())] or [""] for o in card.against}
        again = _written_twice(there, task.task, of_pair)
        of_pair = {o: [h for h in hashes if h not in again] for o, hashes in of_pair.items()}
        used = dict.fromkeys(h for hashes in of_pair.values() for h in hashes if h)
        choices = choices_of({h: every[h] for h in used})
        pairs = [(o, h) for h in used or [""] for o in card.against if h in of_pair[o]] + [
            (o, "") for o in card.against if used and of_pair[o] == [""]
        ]
        out = [replace(self._test(card, task, o, h), choices=choices.get(h, ())) for o, h in pairs]
        once = {h: r for h, r in every.items() if h not in again}
        notes = _left_out(task.task, once, [h for h in fitting if h in once], used, bool(shared)) if used else []
        return out, [*notes, *([_counted_once(task.task, every, again)] if again else [])]

    def _test(self, card: ClaimCard, task: ClaimTask, other: str, protocol: str) -> Difference:
        metric = task.metric or ""
        blank = Difference(task.task, metric, card.subject, other, protocol, None, NOTHING)
        try:
            a, b = (self._role(name, task.task) for name in (card.subject, other))
            if protocol not in a.protocols(task.task) or protocol not in b.protocols(task.task):
                blank = replace(blank, metric=task.metric or _any(a, task.task).main_metric)
                for role in (a, b):
                    reasons = [_unfit(card, _example([role], task.task, h)) for h in role.protocols(task.task)]
                    if reasons and all(reasons):
                        raise Unusable(reasons[0])
                raise _mismatch(a, b, task.task)
            example = _example([a], task.task, protocol)
            metric = task.metric or example.main_metric
            blank = replace(blank, metric=metric, published=published_differences(card, task.task, metric, other))
            if reason := _unfit(card, example):
                raise Unusable(reason)
            contrast = self.bench.contrast(a, b, task.task, task.metric, protocol)
            _check_seeds(card, task.task, contrast)
            if unknown := _unknown_set(card, example):
                contrast = replace(contrast, caveats=(*contrast.caveats, unknown))
        except ProtocolMismatch as e:
            return replace(blank, reason=str(e), refused=True)
        except LevlError as e:
            if isinstance(e, UsageError) and str(e).startswith("--as"):
                raise  # who is who is wrong for every claim
            return replace(blank, reason=str(e))
        margin = card.margin / factor(metric)
        return replace(blank, contrast=contrast, evidence=evidence(contrast.difference, card.relation, margin))

    def _role(self, name: str, task: str) -> Role:
        if name not in self.roles:
            raise Unusable(f"nobody was named for {name}; add --as {name}=BACKBONE")
        role = self.roles[name]
        missing = [e.label for e in role.encoders if task not in e.tasks]
        if missing:
            raise Unusable(f"{task}: was not run (or failed) for {', '.join(missing)} ({name})")
        return role


def _of_task(card: ClaimCard, tests: Sequence[Difference]) -> Evidence:
    """A task's tests together: within a protocol over the roles;
    where the roles were not run under the same ones, within a role over its own."""
    by_protocol: dict[str, list[Evidence]] = {}
    by_role: dict[str, list[Evidence]] = {}
    for d in tests:
        by_protocol.setdefault(d.protocol, []).append(d.evidence)
        by_role.setdefault(d.other, []).append(d.evidence)
    if all(len(p) == len(by_role) for p in by_protocol.values()):
        return combined([combined(p, card.over.against) for p in by_protocol.values()], card.over.protocols)
    return combined([combined(p, card.over.protocols) for p in by_role.values()], card.over.against)


def _written_twice(roles: Sequence[Role], task: str, of_pair: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Protocols that come to the same as an earlier one for all these roles (report.one_protocol),
    and are tested with it: itself -> that one."""
    records: dict[str, list[Record]] = {h: [] for hashes in of_pair.values() for h in hashes if h}
    for encoder in (e for role in roles for e in role.encoders):
        for h in records:
            records[h] += encoder.tasks.get(task, {}).get(h, {}).values()
    repeats = repeated(records)
    return {h: first for h, first in repeats.items() if all((h in v) == (first in v) for v in of_pair.values())}


def _counted_once(task: str, every: Mapping[str, Record], again: Mapping[str, str]) -> str:
    """What is to be told of protocols that come to the same as others."""
    h, first = next(iter(again.items()))
    two = choices_of({h: every[h], first: every[first]})
    ways = " and ".join(", ".join(f"{k}={v}" for k, v in two[key]) for key in (first, h))
    return f"{task}: {len(again)} of its protocols come to the same as others for these backbones and count once, first {ways}"


def _left_out(
    task: str, every: Mapping[str, Record], fitting: Sequence[str], used: Mapping[str, object], by_all: bool
) -> list[str]:
    """What is to be told of a task of which some protocols are tested. by_all: all roles were run under those."""
    out = []
    if len(fitting) < len(every):
        out.append(
            f"{task}: {len(every) - len(fitting)} of {len(every)} protocols are of data that the claim is not about and are left out"
        )
    if by_all and len(fitting) > len(used):
        out.append(f"{task}: {len(fitting) - len(used)} of {len(fitting)} protocols were not run by all roles and are left out")
    if not by_all:
        out.append(f"{task}: no protocol was run by all roles; each role is compared under those that it shares with the subject")
    tests = {str(every[h].data.get("fingerprint")): every[h].limit for h in used}
    if len(tests) > 1:
        limits = ", ".join("none" if n is None else f"{n:,}" for n in sorted(tests.values(), key=lambda n: (n is None, n)))
        out.append(f"{task}: its protocols are of {len(tests)} test sets (limits {limits}), each of which counts")
    return out


def _any(role: Role, task: str) -> Record:
    record = role.example(task)
    assert record is not None  # of a role that ran the task
    return record


def _example(roles: Sequence[Role], task: str, protocol: str) -> Record:
    return next(r for role in roles for e in role.encoders for r in e.tasks.get(task, {}).get(protocol, {}).values())


def _mismatch(a: Role, b: Role, task: str) -> ProtocolMismatch:
    """Names the fields in which two roles' records of a task differ, or those of one role's backbones among themselves."""
    for role in (a, b):
        if not role.protocols(task):
            first, *rest = (next(iter(next(iter(e.tasks[task].values())).values())) for e in role.encoders)
            fields = next((m for r in rest if (m := _differing(first, r))), ["protocol"])
            return ProtocolMismatch(f"{task}: the backbones of {role.name} were not measured alike: {'; '.join(fields[:4])}")
    x, y = _any(a, task), _any(b, task)
    return ProtocolMismatch(f"{task}: {a.name} and {b.name} were not measured alike: {'; '.join(_differing(x, y)[:4])}")


def _differing(a: Record, b: Record) -> list[str]:
    return mismatches(a, b) or differing_fields(a.comparison, b.comparison) or ["comparison"]


def _unfit(card: ClaimCard, record: Record) -> str:
    """Why a record's data are not what a claim is about, "" where they are."""
    scenes = source_word(record) == "scenes"
    if card.data == "published" and scenes:
        return f"{record.task}: was run on generated scenes, the claim is about the published data"
    if card.data == "published" and trained_on_scenes(record):
        return f"{record.task}: was run on --data scenes, so what it trained on may be the generated scenes"
    if card.data == "scenes" and not scenes:
        return f"{record.task}: was run on other data, the claim is about generated scenes"
    return ""


def _unknown_set(card: ClaimCard, record: Record) -> str:
    """What must be told of a claim about published data whose test set nobody knows to be one; "" for nothing."""
    if card.data != "published" or published_set(record):
        return ""
    return f"{record.task}: its test data are not recognised as a published set, whole and unchanged"


def _check_seeds(card: ClaimCard, task: str, contrast: Contrast) -> None:
    for available, needed, kind in (
        (contrast.pretraining_seeds, card.over.pretraining_seeds, "pretraining"),
        (contrast.head_seeds, card.over.head_seeds, "head"),
    ):
        if available < needed:
            raise Unusable(f"{task}: {available} {kind} seed{'s' if available > 1 else ''} a role, the claim asks for {needed}")


def records_of(directories: Sequence[str | Path]) -> list[Record]:
    """The records of run directories, those of failed jobs too. Raises UsageError for one without a finished one, and for damaged ones."""
    out: list[Record] = []
    for name in directories:
        here = read_records(Path(name))
        if not any(r.status == "done" for r in here):
            raise UsageError(f"{name}: no finished records below {Path(name) / 'records'}; give the --out of a run")
        out += here
    return out


def finished_records(directories: Sequence[str | Path]) -> list[Record]:
    """The finished ones of :func:`records_of`. Raises UsageError as it does."""
    return [r for r in records_of(directories) if r.status == "done"]


def judge(
    cards: Sequence[ClaimCard], records: Sequence[Record], named: Mapping[str, Sequence[str]], alpha: float = ALPHA
) -> list[Judged]:
    """Judge claims as one family. named: role -> backbones as they are called in the records.

    Raises UsageError for roles that no claim has or that the records do not hold, and for an alpha outside (0, 0.5).
    """
    if not 0 < alpha < 0.5:
        raise UsageError(f"--alpha {alpha}: above 0 and below 0.5")
    known = list(dict.fromkeys(r for c in cards for r in c.roles))
    for role in named:
        if role not in known:
            from levl_eval.core.text import did_you_mean

            raise UsageError(
                f"--as {role}: no claim asked for has such a role{did_you_mean(role, known)}; there are {', '.join(known)}"
            )
    return Judge(roles_of(records, named), alpha).judge(cards)
