"""The plan of a run: one configuration for the command line and Python, resolved into jobs with their identities.

Nothing is computed here and no encoder is built where the cache remembers who it is, so that a finished run can say at once
that all is there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

from levl_eval.backbones.execution import EAGER, Execution, check_execution
from levl_eval.backbones.locate import locate
from levl_eval.cards import BackboneCard, LMMSCard, MMSegCard, MultipleChoiceCard, QuestionCard, RecipeCard, TaskCard, protocol_of
from levl_eval.cards.base import plain, with_skipping
from levl_eval.cards.dense import DepthRecipeCard
from levl_eval.cards.lmms import lmms_identity
from levl_eval.cards.registry import backbone_card, language_models, names, task_card
from levl_eval.cards.suites import left_out_by_suites, only_of_suites, tasks_of
from levl_eval.cards.trust import check_card
from levl_eval.cards.twins import twinned, with_floors
from levl_eval.core.device import device_kind
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.hashing import digest
from levl_eval.core.offline import check_at_hand
from levl_eval.core.paths import default_cache
from levl_eval.core.precision import NAMES, Precision, check_precision
from levl_eval.core.progress import Progress
from levl_eval.core.text import did_you_mean, printable
from levl_eval.data.fingerprint_cache import FingerprintCache
from levl_eval.data.sources import check_complete, check_read, resolve_data
from levl_eval.engines.contract import TOGETHER, WITH_TEXT, versions_of
from levl_eval.engines.convergence import HELD_OUT_VERSION, RULE_VERSION
from levl_eval.records import JobIdentity, Record, fill_identity, record_key
from levl_eval.records.identity import DataIdentity
from levl_eval.runner.backbones import BackboneHandle
from levl_eval.runner.datasets import DataFacts, data_facts, mixed_sources, needs_scenes, test_source
from levl_eval.runner.folders import LATEST
from levl_eval.runner.grid import Variant, check_distinct, check_shared, fixed_by, only_task, stems_of, variants
from levl_eval.runner.language import check_asked, language_model_parts
from levl_eval.runner.options import check_options, check_store_limit, skip_bound
from levl_eval.scenes.export import world_folder


@dataclass(frozen=True)
class RunConfig:
    """What a run is asked to do; see :func:`levl_eval.evaluate`, whose arguments these are."""

    backbones: Sequence[str | BackboneCard]
    tasks: Sequence[str | TaskCard]
    data: str = "scenes"
    llm: str = "scenes-lm"
    seeds: Sequence[int] | None = None
    limit: int | None = None
    skip_broken: int | str | None = None
    settings: Sequence[str] = ()
    grid: Sequence[str] = ()
    floors: Sequence[str] = ()
    out: str | Path | None = None  # None: a new folder (folders.run_folder)
    cache: str | Path | None = None
    device: str = "auto"
    batch_size: int = 64
    precision: str = "float32"
    compile: bool = False
    channels_last: bool = False
    cuda_graphs: bool = False
    store_limit: int | None = None
    rehash: bool = False
    trust: bool = False
    debug: bool = False

    @property
    def execution(self) -> Execution:
        return Execution(self.compile, self.channels_last, self.cuda_graphs)

    @property
    def cache_folder(self) -> Path:
        return Path(self.cache) if self.cache else default_cache()


@dataclass(frozen=True)
class Job:
    """One backbone on one resolved task card with one seed. problem: why its data cannot be read; it then fails with that."""

    backbone: BackboneHandle
    card: TaskCard
    seed: int
    identity: JobIdentity
    data: DataFacts
    problem: LevlError | None = None
    many: bool = False  # the task has other seeds too (only for messages, as label)
    label: str = ""  # the task with what a grid sets, "" its name alone

    @property
    def key(self) -> str:
        """The stem of its record's files. A failed job's record has one without data, which may never have been read."""
        return self.failed_key if self.problem else record_key(self.card.name, self.backbone.name, self.identity.hash)

    @property
    def failed_key(self) -> str:
        """The stem of its record where it fails."""
        return record_key(self.card.name, self.backbone.name, self.identity.hash_without_data)

    def record(self, source: str, environment: dict[str, object], call: dict[str, object]) -> Record:
        """Its record with everything but the outcome."""
        card = self.card
        new = Record(
            backbone={**self.backbone.describe(), "code": self.identity.backbone["code"]},
            task=card.name,
            engine=card.engine,
            main_metric=card.main_metric,
            chance=card.chance,
            protocol={},
            protocol_hash="",
            data={"source": source, **self.data.notes},
            seed=self.seed,
            environment=environment,
            card=dict(plain(card)),
            call=call,
        )
        fill_identity(new, self.identity)
        return new


@dataclass
class Plan:
    """A run's jobs in order (backbone, task, seed), and the folders and names they share."""

    config: RunConfig
    backbones: list[BackboneHandle]
    cards: dict[str, TaskCard]
    data: str  # a directory, or "hub"
    device: str  # kind
    precision: Precision  # of the encoders
    fingerprints: FingerprintCache
    jobs: list[Job] = field(default_factory=list)


def split_overrides(settings: Sequence[str], tasks: Sequence[str]) -> dict[str, dict[str, str]]:
    """``["pope.prompt.max_new_tokens=4"]`` -> {"pope": {"prompt.max_new_tokens": "4"}}.

    Raises UsageError for an unknown task, a word that stands for several tasks, and a field that is given two values.
    """
    out: dict[str, dict[str, str]] = {t: {} for t in tasks}
    by_stem = stems_of(tasks)
    for setting in settings:
        left, eq, value = setting.partition("=")
        task, dot, name = left.partition(".")
        if not eq or not dot or not name:
            raise UsageError(f"--set {setting!r}: expected task.field=value, for example pope.prompt.max_new_tokens=4")
        if task not in by_stem:
            raise UsageError(f"--set {setting!r}: {task!r} is not among --tasks{did_you_mean(task, list(by_stem))}")
        mine = out[only_task(f"--set {setting!r}", task, by_stem)]
        # a list's 0 and 00 are one place
        field = ".".join(str(int(part)) if part.isdecimal() else part for part in name.split("."))
        if mine.setdefault(field, value) != value:
            raise UsageError(f"--set {setting!r}: {task}.{field} is also set to {printable(mine[field][:60])}; give it once")
    return out


def resolve_tasks(
    tasks: Sequence[str | TaskCard], settings: Sequence[str], data: str, trust: bool = False, grid: Sequence[str] = (), llm: str = ""
) -> dict[str, TaskCard]:  # fmt: skip
    """Task names to resolved cards, in order; a task of a grid has one for each combination, under its label, a suite those of its tasks.

    Raises UsageError for the first thing that is wrong.

    trust: cards may name Python that runs here (levl_eval.cards.trust); without it only what ``settings`` name may.
    llm: the language model, whose ability decides what of a multiple choice is the main metric.
    """
    if not tasks:
        raise UsageError(f"--tasks: none given; there are {', '.join(names('tasks'))}")
    tasks = tasks_of(tasks, data)
    words = [t for t in tasks if isinstance(t, str)]
    overrides = split_overrides(settings, words)
    recipe = "scenes" if data == "scenes" else None
    by_task: dict[str, list[Variant]] = {}
    for variant in variants(grid, words, settings):
        by_task.setdefault(variant.task, []).append(variant)
    out: dict[str, TaskCard] = {}
    for t in tasks:
        if isinstance(t, str):
            of_task: dict[str, TaskCard] = {}
            fixed = fixed_by(by_task[t], overrides[t])
            for v in by_task[t]:
                chosen = {**overrides[t], **dict(v.choices)}
                try:
                    of_task[v.label] = _as_read_by(llm, task_card(t, chosen, recipe, trust, fixed), chosen)
                    check_read(of_task[v.label], t, chosen, data)
                except UsageError as e:
                    if not v.choices:
                        raise
                    raise UsageError(f"--grid: {v.label}: {e}") from e
            check_shared(t, by_task[t], overrides[t], partial(task_card, default_recipe=recipe, trust=trust))
            # score_size is no field of the protocol, but what comes of it is (resolved_of).
            check_distinct(list(of_task), [digest([protocol_of(c), getattr(c, "score_size", None)]) for c in of_task.values()])
            out |= of_task
        else:  # resolved already, as a record holds it
            out[t.name] = t
            t.trusted = t.trusted or trust
            check_read(t, t.name, (), data)
    for name, card in out.items():
        check_card(card, name)
    return out


def _as_read_by(llm: str, card: TaskCard, chosen: Mapping[str, str]) -> TaskCard:
    """The card as a language model can be asked. Those that ship have never read lettered options: their letters would say nothing of
    an encoder, so that the likeliest of the options' texts counts, unless ``--set`` chooses otherwise.
    """
    if not isinstance(card, MultipleChoiceCard) or llm not in language_models():
        return card
    if card.main_metric != "accuracy" or "main_metric" in chosen or not card.option_texts:
        return card
    return card.model_copy(update={"main_metric": "option_likelihood_accuracy"})


def needs_text(card: TaskCard) -> bool:
    """Whether a task compares images with texts, for which the backbone needs a text encoder."""
    return card.engine in WITH_TEXT


def resolved_of(card: TaskCard, preprocess: Mapping[str, object] | None) -> dict[str, object]:
    """What the card leaves to the backbone, to a file or to a library, as it came out. preprocess: None where no backbone is named."""
    out: dict[str, object] = {}
    if card.engine in ("segmentation", "incontext", "textseg") and preprocess is not None:
        original = card.score == "original"
        out["score_size"] = "original" if original else card.score_size or card.size or preprocess["size"]
    if getattr(card, "until", "epochs") == "converged":
        out["convergence_rule"] = RULE_VERSION
    if getattr(card, "until", "epochs") == "held-out":
        out["held_out_rule"] = HELD_OUT_VERSION
    if card.engine == "mmseg":
        out |= _versions("mmsegmentation", "mmengine", "mmcv-lite")
        if preprocess is not None and card.config_text is None:
            out["crop"] = card.crop or preprocess["size"]
    if card.engine == "lmms":
        out |= lmms_identity(card.include)
    if card.engine in ("zeroshot", "textseg") and "openai" in (card.class_names, card.templates):
        out |= _versions("open_clip_torch")
    return out


def _versions(*packages: str) -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    out = {}
    for package in packages:
        try:
            out[package] = version(package)
        except PackageNotFoundError:
            continue
    return out


def precision_of(card: TaskCard, device: str, encoder: Precision = "float32", execution: Execution = EAGER) -> dict[str, str]:
    """Number formats as they come out on a kind of device: of the encoder, the language model and the connector's training.

    Behind the encoder's stands how it is executed, where that is not torch's plain way.
    """
    own = ", ".join(word for word in (NAMES[encoder], execution.words) if word)
    out = {"encoder": "float32" if isinstance(card, (MMSegCard, DepthRecipeCard)) else own}  # their steps run it so, and plain
    if isinstance(card, (QuestionCard, LMMSCard)):
        out["language_model"] = _dtype(card.llm_dtype, device)
        recipe: RecipeCard | str | None = card.recipe
        while isinstance(recipe, RecipeCard):
            out["connector"] = _dtype(recipe.precision, device)
            recipe = recipe.first
    return out


def _dtype(wanted: str, device: str) -> str:
    if wanted == "auto":
        wanted = "bf16" if device == "cuda" else "fp32"
    return {"bf16": "bfloat16", "fp32": "float32"}[wanted]


def make_plan(config: RunConfig, progress: Progress, kind: str | None = None) -> Plan:
    """Resolve names, cards, folders and data, and say who every job is. kind: of the device, where others compute than this machine.

    Raises UsageError for wrong names, cards, paths and unreadable backbones. Data that cannot be read fail their jobs alone.
    """
    check_options(config.limit, config.batch_size, config.seeds)
    check_store_limit(config.store_limit)
    skip = skip_bound(config.skip_broken)
    cards = resolve_tasks(config.tasks, config.settings, config.data, config.trust, config.grid, config.llm)
    for card in cards.values():
        check_complete(card, card.name, config.data)
    if skip is not None:
        cards = {name: with_skipping(card, skip) for name, card in cards.items()}
    backbones = with_floors(config.backbones, config.floors)
    specs = [b if isinstance(b, BackboneCard) else backbone_card(b) for b in backbones]
    if not specs:
        raise UsageError(f"--backbone: none given; there are {', '.join(names('backbones'))}")
    repeated = sorted({c.name for c in specs if sum(c.name == d.name for d in specs) > 1})
    if repeated:
        raise UsageError(f"--backbone: two of them are named {repeated[0]!r}; give each a card with its own `name:`")
    for spec in specs:
        location = locate(twinned(spec))
        check_at_hand(location.scheme, location.rest, spec.uri)
    device, folder = kind or device_kind(config.device), config.cache_folder
    precision, execution = check_precision(config.precision, device), check_execution(config.execution, device)
    out = Path(config.out or LATEST)
    for needed in (out / "records", out / "samples", folder):
        try:
            needed.mkdir(parents=True, exist_ok=True)
            if not os.access(needed, os.W_OK):
                raise PermissionError(13, "Permission denied")
        except OSError as e:
            raise UsageError(f"{needed}: cannot be written ({e.strerror}); choose another --out or cache (LEVL_CACHE)") from e
    known = FingerprintCache(folder / "fingerprints", rehash=config.rehash, say=progress.say)
    for card in cards.values():
        if warning := mixed_sources(card, config.data):
            progress.say(warning)
    data = data_folder(config.data, cards.values(), specs, folder, progress)
    handles = [BackboneHandle(c, folder, known, data, precision, execution) for c in specs]
    for handle in handles:
        _ = handle.facts
    plan = Plan(config, handles, cards, data, device, precision, known)
    plan.jobs = _jobs(plan)
    return plan


def data_folder(data: str, cards: Iterable[TaskCard], backbones: Iterable[BackboneCard], cache: Path, progress: Progress) -> str:
    """The folder (or "hub") that ``--data`` stands for. The synthetic scenes are drawn only where something of them is read."""
    if data == "scenes" and not needs_scenes(cards, backbones):
        return str(world_folder(cache))  # where they would lie: nobody looks there
    return resolve_data(data, cache, progress)


def _jobs(plan: Plan) -> list[Job]:
    config = plan.config

    @cache
    def facts(task: str) -> tuple[DataFacts, LevlError | None]:
        try:
            facts_of_data = data_facts(plan.cards[task], plan.data, config.limit, plan.fingerprints)
            notes = facts_of_data.notes
            for entries in (notes.get("left_out", {}), notes.get("skipped", {}), notes.get("remarks", {})):
                for source, words in entries.items():
                    plan.fingerprints.say(f"{task}: {source}: {words}")
            return facts_of_data, None
        except LevlError as e:
            if config.data == "scenes" and plan.data in str(e):  # the program's own cache is no place for anyone's data
                reason = (
                    f"{str(e).replace(plan.data, 'DIR')}; --data DIR names the folder: "
                    "the synthetic scenes, which are read without it, hold no such set"
                )
                e = type(e)(reason)
            return DataFacts(DataIdentity(""), test_source(plan.cards[task], plan.data)), e

    asked = any(c.engine in TOGETHER for c in plan.cards.values())
    language = language_model_parts(config.llm, plan.fingerprints.sha256) if asked else None
    if language is not None:
        check_asked((*config.settings, *config.grid), plan.cards, bool(language["chat"]))
    optional, short = only_of_suites(config.tasks, config.data), left_out_by_suites(config.tasks, config.data)
    out = []
    for handle in plan.backbones:
        if not_run := [task for task in plan.cards if (handle.name, task) in short]:
            plan.fingerprints.say(f"{handle.name}: {', '.join(not_run)} left out by the suite; name the tasks to run them")
        for task, card in plan.cards.items():
            if (handle.name, task) in short:
                continue
            if task in optional and needs_text(card) and not handle.facts.text:
                plan.fingerprints.say(f"{handle.name}: has no text encoder; {task} is left out")
                continue
            facts_of_data, problem = facts(task)
            seeds = list(config.seeds) if config.seeds is not None else list(range(getattr(card, "seeds", 1)))
            for seed in seeds:
                identity = JobIdentity(
                    backbone=handle.parts(card.engine), task=card.name, engine=card.engine, versions=versions_of(card.engine),
                    protocol=protocol_of(card), data=facts_of_data.identity, seed=seed, device=plan.device,
                    resolved=resolved_of(card, handle.preprocess),
                    precision=precision_of(card, plan.device, plan.precision, plan.config.execution),
                    language_model=language if card.engine in TOGETHER else None, limit=config.limit,
                )  # fmt: skip
                out.append(Job(handle, card, seed, identity, facts_of_data, problem, len(seeds) > 1, task))
    _tell_equal(out, plan.fingerprints.say)
    return out


def _tell_equal(jobs: Sequence[Job], say: Callable[[str], None]) -> None:
    """Combinations of a grid that only a backbone makes one job (a size that is its own by default) have one record."""
    first: dict[str, str] = {}
    for job in jobs:
        known = first.setdefault(job.key, job.label)
        if known != job.label:
            say(f"{job.backbone.name}: {known} and {job.label} are one protocol for it, with one record")
