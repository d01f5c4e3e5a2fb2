"""The lmms engine: a task of the installed lmms-eval run with our shared-prefix engine, its scores recorded under its own names.

lmms-eval builds the questions, post-processes and scores; we answer. Intervals are ours, from its per-sample logs: where a score
is the mean of what a document got, the clustered one over images, else a bootstrap over images of lmms-eval's own aggregation.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypedDict, cast

import numpy as np

from levl_eval.cards import LMMSCard, RecipeCard
from levl_eval.core.errors import UsageError
from levl_eval.core.hub import hub
from levl_eval.core.text import did_you_mean
from levl_eval.data.hub_tables import local_cache
from levl_eval.data.images import fingerprint_of, fingerprint_text
from levl_eval.engines.contract import Context, Outcome
from levl_eval.engines.vlm.prompts import make_prompt
from levl_eval.engines.vlm.recipe import Trained, get_or_train_connector
from levl_eval.engines.vlm.task import Laps, vqa_resources
from levl_eval.metrics.catalogue import FRACTION, metric_of
from levl_eval.metrics.estimate import Estimate
from levl_eval.metrics.statistics import mean_estimate
from levl_eval.records import Sample

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from lmms_eval.tasks import TaskManager

    from levl_eval.engines.lmms.model import Asker, Levl


class ScoredTask(Protocol):
    """What we use of lmms-eval's task objects."""

    config: object

    def aggregation(self) -> Mapping[str, Callable[[list[object]], float]]: ...


Logged = Mapping[str, object]  # of one document: doc_id, target, filtered_resps, and what each metric gave it


class _Groups(TypedDict, total=False):
    groups: dict[str, dict[str, object]]


class Results(_Groups):
    """What we use of what lmms-eval's `simple_evaluate` gives; by task, and metrics by "NAME,FILTER"."""

    results: dict[str, dict[str, object]]
    samples: dict[str, list[Logged]]
    versions: dict[str, object]
    higher_is_better: dict[str, object]


DRAWS, SECONDS = 200, 20.0  # of a bootstrap through lmms-eval's aggregation, and how long it may take


@contextlib.contextmanager
def local_datasets(folder: Path | None) -> Iterator[None]:
    """Meanwhile `datasets.load_dataset` takes hub repositories that lie below ``folder`` (OWNER/NAME, or NAME) from there.

    Tasks ask for `token=True`, which fails for who is not logged in even where the set is public: it becomes "if there is one".
    """
    import datasets

    original = datasets.load_dataset

    def load(path: str, *args: object, **more: object) -> DatasetDict | Dataset:
        if more.get("token") is True:
            more["token"] = None
        here = [] if folder is None else [folder / path, folder / path.rsplit("/", 1)[-1]]
        for place in here:
            if place.is_dir():
                more.pop("revision", None)
                kept = more.get("cache_dir")
                more["cache_dir"] = local_cache(place, kept if isinstance(kept, (str, os.PathLike)) else None)
                return original(str(place), *args, **more)
        return original(path, *args, **more)

    datasets.load_dataset = load
    try:
        yield
    finally:
        datasets.load_dataset = original


@contextlib.contextmanager
def _one_process() -> Iterator[None]:
    """lmms-eval shares documents over the processes of a launch; here each process has its own job of the run."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    kept = {n: os.environ.pop(n) for n in names if n in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


@cache
def _manager(include: str | None) -> TaskManager:
    """lmms-eval's index of its own tasks, read once, with a folder of further ones."""
    from lmms_eval.tasks import TaskManager

    base = _manager(None) if include is not None else None

    class Manager(TaskManager):
        """Keeps the tasks it has loaded for us, and tells in one line why a data set cannot be."""

        loaded: dict[str, object]

        def initialize_tasks(
            self, include_path: str | list[str] | None = None, include_defaults: bool = True
        ) -> dict[str, object]:
            tasks = super().initialize_tasks(include_path, include_defaults)
            return {**tasks, **base.task_index} if base is not None else tasks  # lmms-eval's own names win, as there

        def load_task_or_group(self, task_list: list[str] | None = None, task_type: str = "simple") -> dict[str, object]:
            with hub(f"lmms:{','.join(task_list or [])}"):
                self.loaded = super().load_task_or_group(task_list, task_type)
            return self.loaded

    import sys

    from loguru import logger

    logger.remove()  # it writes to stdout, which is for results
    logger.add(sys.stderr, level="ERROR")
    if include is not None and not Path(include).expanduser().is_dir():
        raise UsageError(f"field `include`: {include}: no such folder of lmms-eval tasks")
    if include is None:
        return Manager("ERROR", model_name="levl")
    return Manager("ERROR", include_path=str(Path(include).expanduser()), include_defaults=False, model_name="levl")


def _leaves(tasks: Mapping[str, object]) -> dict[str, ScoredTask]:
    """Task objects by name, out of nested groups."""
    out: dict[str, ScoredTask] = {}
    for name, task in tasks.items():
        if isinstance(task, dict):
            out |= _leaves(task)
            continue
        leaf = task[1] if isinstance(task, tuple) else task
        if leaf is not None:
            out[str(name)] = cast("ScoredTask", leaf)
    return out


def _version(task: ScoredTask, reported: object) -> object:
    """A task's version. Most files write their metadata as a list, which lmms-eval 0.7.3 does not look into ("Yaml")."""
    metadata = getattr(task.config, "metadata", None)
    for part in metadata if isinstance(metadata, list) else [metadata]:
        if isinstance(part, dict) and "version" in part:
            return part["version"]
    return reported


def _numbers(items: Sequence[object]) -> np.ndarray | None:
    """What each document got, where that is a number or lmms-eval's {"score": number}."""
    values = [x.get("score") if isinstance(x, dict) else x for x in items]
    if not values or not all(isinstance(v, (int, float, np.number)) for v in values):  # bool is an int
        return None
    return np.array(values, float)


def resampled(
    value: float,
    aggregate: Callable[[list[object]], float],
    items: Sequence[object],
    images: np.ndarray,
    seconds: float = SECONDS,
) -> Estimate:
    """``value`` with a percentile bootstrap over images of lmms-eval's aggregation, or without an interval where it takes too long."""
    names, index = np.unique(images, return_inverse=True)
    bare = Estimate(value=value, n=len(items), clusters=len(names), method="lmms-eval's aggregation, no interval")
    if len(names) < 2:
        return bare
    groups = np.split(np.argsort(index, kind="stable"), np.cumsum(np.bincount(index))[:-1])
    rng, draws, started = np.random.default_rng(0), [], time.monotonic()
    with contextlib.redirect_stdout(io.StringIO()):
        for k in range(DRAWS):
            chosen = np.concatenate([groups[g] for g in rng.integers(0, len(groups), len(groups))])
            try:
                draws.append(float(aggregate([items[i] for i in chosen])))
            except Exception:  # not defined on this draw, for instance a category that is missing
                if k - len(draws) > DRAWS // 10:
                    return bare
            if time.monotonic() - started > seconds:
                return bare
    low, high = np.quantile(draws, (0.025, 0.975))
    return Estimate(
        value=value, stderr=float(np.std(draws, ddof=1)), low=float(low), high=float(high), n=len(items), clusters=len(names),
        method=f"cluster bootstrap of lmms-eval's aggregation, {DRAWS} draws",
    )  # fmt: skip


def _document(logged: Logged) -> int:
    """Number of the document."""
    number = logged["doc_id"]
    assert isinstance(number, (int, np.integer))
    return int(number)


class _Scores:
    """lmms-eval's results of one task, with images: metrics as estimates, and one sample a document."""

    def __init__(self, name: str, task: ScoredTask, results: Results, images: Callable[[int], str]) -> None:
        self.name, self.task = name, task
        self.results = results["results"].get(name, {})
        logged = results["samples"].get(name, [])
        self.filters = list(dict.fromkeys(k.partition(",")[2] for k in self.results if "," in k)) or ["none"]
        size = len(logged) // len(self.filters)
        self.logged = {f: logged[i * size : (i + 1) * size] for i, f in enumerate(self.filters)}  # in that order
        self.images = {f: np.array([images(_document(s)) for s in part]) for f, part in self.logged.items()}

    def metrics(self) -> dict[str, Estimate]:
        """By lmms-eval's names; a filter is named where it is not "none"."""
        out: dict[str, Estimate] = {}
        for key, value in self.results.items():
            metric, _, chosen = key.partition(",")
            if not chosen or "_stderr" in metric or isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
                continue
            part = [s for s in self.logged[chosen] if metric in s]
            out[metric if chosen == "none" else key] = self._estimate(metric, float(value), part, chosen)
        return out

    def _estimate(self, metric: str, value: float, part: Sequence[Logged], chosen: str) -> Estimate:
        items = [s[metric] for s in part]
        if len(items) != len(self.images[chosen]):  # kept of some documents only
            return Estimate(value=value, n=len(items), method="lmms-eval's aggregation, no interval")
        numbers = _numbers(items)
        if numbers is not None and np.isclose(numbers.mean(), value, rtol=1e-9, atol=1e-12):
            bounds = FRACTION if np.isin(numbers, (0.0, 1.0)).all() else metric_of(metric, "lmms").bounds
            return mean_estimate(numbers, self.images[chosen], bounds=bounds)
        aggregate = self.task.aggregation().get(metric)
        if aggregate is None:
            return Estimate(value=value, n=len(items), method="lmms-eval's aggregation, no interval")
        return resampled(value, aggregate, items, self.images[chosen])

    def samples(self, main: str, prefix: str, question: Callable[[int], str]) -> Iterator[Sample]:
        metric, _, chosen = main.partition(",")
        chosen = chosen or self.filters[0]
        part = self.logged[chosen]
        numbers = _numbers([s.get(metric) for s in part])
        value = self.results.get(f"{metric},{chosen}")
        # Else no score adds up to it.
        whole = numbers is not None and isinstance(value, (int, float, np.number)) and np.isclose(numbers.mean(), float(value))
        for k, s in enumerate(part):
            given = s["filtered_resps"]
            first = given[0] if isinstance(given, (list, tuple)) and given else ""
            yield Sample(
                id=f"{prefix}{_document(s)}", image_id=str(self.images[chosen][k]), prediction=str(first), target=str(s["target"]),
                score=float(numbers[k]) if whole and numbers is not None else None, meta={"question": question(_document(s))},
            )  # fmt: skip


def _evaluate(card: LMMSCard, context: Context[LMMSCard], model: Levl, output: Path) -> tuple[Results, dict[str, ScoredTask]]:
    """lmms-eval's results and its task objects. Raises UsageError: unknown task, data set that is not there."""
    from lmms_eval.evaluator import simple_evaluate

    manager = _manager(card.include)
    if card.task not in manager.all_tasks:
        raise UsageError(
            f"task {card.name}: the installed lmms-eval has no task {card.task!r}{did_you_mean(card.task, manager.all_tasks)}"
        )
    folder = Path(card.datasets).expanduser() if card.datasets else None
    if folder is None and context.data != "hub":
        folder = Path(context.data) / "lmms"
    options = argparse.Namespace(output_path=str(output), process_with_media=False)
    with _one_process(), local_datasets(folder), contextlib.redirect_stdout(io.StringIO()):
        results = simple_evaluate(
            model=model, tasks=[card.task], limit=context.limit, bootstrap_iters=0, task_manager=manager, cli_args=options,
            log_samples=True, process_docs_parallel=1, verbosity="ERROR", random_seed=context.seed,
        )  # fmt: skip
    return results, _leaves(manager.loaded)


def run(context: Context[LMMSCard]) -> Outcome:
    """Train or reuse the connector, let lmms-eval ask and score.

    Raises UsageError/LevlError: unknown task, data set that is neither local nor in the hub's cache, more than one image a
    question, prefixes beyond the context.
    """
    from levl_eval.engines.lmms.model import Asker, Levl

    card = context.card
    assert isinstance(card.recipe, RecipeCard)
    lap = Laps()
    resources = vqa_resources(context, card.llm_dtype)
    trained = get_or_train_connector(resources, card.recipe, card.prompt, context.seed, lap)
    prompt = make_prompt(card.prompt, resources.language)
    asker = Asker(resources, trained.connector, prompt, trained.key, card.drop, card.generation)
    model = Levl(asker=asker)
    model.accelerator = None  # one process, and nothing of lmms-eval's to free
    with tempfile.TemporaryDirectory() as output:
        results, tasks = _evaluate(card, context, model, Path(output))
        files = {p.name: p.read_text(encoding="utf-8") for p in sorted(Path(output).rglob("*")) if p.is_file()}
    lap("answers")
    known = {(task, number): name for (task, _, number), name in asker.image_of.items()}
    asked = {(task, number): text for (task, _, number), text in asker.question_of.items()}
    scores = {
        name: _Scores(name, task, results, lambda number, name=name: known.get((name, number)) or f"document {number}")  # type: ignore[misc]
        for name, task in tasks.items()
    }
    alone = len(scores) == 1
    parts = {name: s.metrics() for name, s in scores.items()}
    metrics = {(m if alone else f"{name}/{m}"): e for name, part in parts.items() for m, e in part.items()}
    metrics |= _groups(results, scores)
    if not metrics:
        raise UsageError(f"task {card.name}: lmms-eval gives no number for it, only {', '.join(files) or 'nothing'}")
    lap("scores")
    main = card.main_metric or next(iter(metrics))

    def samples() -> Iterator[Sample]:
        for name, s in scores.items():
            metric = main if alone else main.removeprefix(f"{name}/")
            yield from s.samples(metric, "" if alone else f"{name}/", lambda number, name=name: asked.get((name, number), ""))  # type: ignore[misc]

    data, versions = _about(results, tasks, asker, trained)
    higher = {k: v for k, v in results["higher_is_better"].items() if k in scores}
    notes = {**trained.notes, "lmms": {"versions": versions, "higher_is_better": higher, **asker.notes}}
    asker.forget()
    return Outcome(metrics, samples(), data, notes, lap.seconds, resources.counts, files)


def _about(
    results: Results, tasks: Mapping[str, ScoredTask], asker: Asker, trained: Trained
) -> tuple[dict[str, object], dict[str, object]]:
    """What a record says of the data, and the versions of the task files by task."""
    versions = {name: _version(task, results["versions"].get(name)) for name, task in tasks.items()}
    image = {(task, number): name for (task, _, number), name in asker.image_of.items()}
    asked = {(task, number): text for (task, _, number), text in asker.question_of.items()}
    listed = sorted(f"{task}/{number}: {image.get((task, number), '')} {text}" for (task, number), text in asked.items())
    data: dict[str, object] = {
        "fingerprint": fingerprint_text(listed), "split": "", "train": [fingerprint_of(s) for s in trained.sets],
        "version": ", ".join(f"{k} version {v}" for k, v in versions.items()),
        "counts": {
            "questions": len(asked), "images": len(set(image.values()) - {""}),
            "train_questions": sum(len(s.questions) for s in trained.sets),
        },
    }  # fmt: skip
    return data, versions


def _groups(results: Results, scores: dict[str, _Scores]) -> dict[str, Estimate]:
    """Means over groups where lmms-eval's group says how to take them; it gives no interval of them."""
    out = {}
    for name, values in results.get("groups", {}).items():
        for key, value in values.items():
            metric, comma, chosen = key.partition(",")
            if name not in scores and comma and "_stderr" not in metric and isinstance(value, (int, float, np.number)):
                label = metric if chosen == "none" else key
                out[f"{name}/{label}"] = Estimate(value=float(value), method="lmms-eval's group, no interval")
    return out
