"""`levl_eval.import_predictions`: what another system predicted for a task's test items, scored as ours are, as a record marked external.

Such records are compared with one another by the same paired tests as any two. With our own they share the test data, not the protocol, so
that ``compare`` says so and compares only when asked to (``--allow-mismatch``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from levl_eval.cards import ProbeCard, VQACard, ZeroShotCard
from levl_eval.cards.base import plain
from levl_eval.cards.dense import InContextCard, MMSegCard, SegmentationCard, TextSegmentationCard
from levl_eval.core.errors import UsageError
from levl_eval.core.progress import Progress
from levl_eval.data.predictions import check_ids, content_digest, mask_files, read_predictions
from levl_eval.data.readers import read_classification, read_questions, read_segmentation
from levl_eval.records import JobIdentity, Record, fill_identity, write_record
from levl_eval.records.identity import DataIdentity
from levl_eval.runner.datasets import test_source
from levl_eval.runner.environment import environment
from levl_eval.runner.folders import latest_folder
from levl_eval.runner.options import check_options

if TYPE_CHECKING:
    from levl_eval.cards import TaskCard
    from levl_eval.data.types import ClassificationSet
    from levl_eval.engines.contract import Outcome

VERSION = 1  # of how predictions are scored; raised when equal files could give other numbers


@dataclass(frozen=True)
class ImportOptions:
    """data, settings, limit, trust as in ``evaluate``; out: the run directory that gets the record;
    None: the newest run's, or a new one."""

    data: str = "scenes"
    settings: tuple[str, ...] = ()
    limit: int | None = None
    out: str | Path | None = None
    trust: bool = False


def import_predictions(
    source: str | Path, task: str, name: str, options: ImportOptions | None = None, progress: Progress | None = None
) -> Record:
    """Score predictions and write their record and samples to ``options.out``; returns the record.

    source: JSON lines or a JSON list with an id and a prediction an entry (data.predictions.read_predictions): answers by question id for
    a question task, class names or numbers by image id for a classification task; for a segmentation task (a trained head's, in context,
    by text) a folder of masks, named as the images are, holding class numbers from 0 (255: nothing; of sets of more classes
    65535) at the images' own sizes; where the card's background is no class, the numbers are those of the others. name: stands in
    tables as the backbone's.

    Raises UsageError: an unknown task or one of another engine, items without a prediction, predictions for no item, a class that is none
    of the set's, a mask of another size.
    """
    from levl_eval.core.paths import default_cache
    from levl_eval.runner.plan import data_folder, resolve_tasks

    options, progress, path = options or ImportOptions(), progress or Progress(), Path(source).expanduser()
    check_options(options.limit)
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder")
    if not name.strip():
        raise UsageError("--name: is empty; give the system a name")
    card: TaskCard = next(iter(resolve_tasks([task], list(options.settings), options.data, options.trust).values()))
    data = data_folder(options.data, [card], [], default_cache(), progress)
    outcome, rule = _scored(card, path, data, options.limit, progress)
    about = dict(outcome.data)
    main = card.main_metric if card.main_metric in outcome.metrics else next(iter(outcome.metrics))
    identity = JobIdentity(
        backbone={"name": name, "weights": content_digest(path), "code": {}, "preprocess": {}, "text": {}}, task=card.name,
        engine=card.engine, versions={"external": VERSION}, protocol={"external": True, "main_metric": main, **rule},
        data=DataIdentity(str(about.pop("fingerprint"))), seed=0, device="", resolved={}, precision={}, limit=options.limit,
    )  # fmt: skip
    about.pop("train", None)
    record = Record(
        backbone={
            "name": name, "uri": f"external:{path.name}", "weights_sha256": identity.backbone["weights"], "code": {},
            "preprocess": {}, "text": {}, "info": {"external": True}, "card": {},
        },
        task=card.name, engine=card.engine, chance=card.chance, protocol={}, protocol_hash="",
        data={"source": options.data, **about, **test_source(card, data)}, seed=0,
        main_metric=main, environment=environment(), card=dict(plain(card)), call={"external": str(path)},
    )  # fmt: skip
    fill_identity(record, identity)
    record.metrics, record.notes = outcome.metrics, {**outcome.notes, "external": "predictions of another system, scored here"}
    write_record(Path(options.out) if options.out is not None else latest_folder(), record, outcome.samples)
    return record


def _scored(card: TaskCard, path: Path, data: str, limit: int | None, progress: Progress) -> tuple[Outcome, dict[str, object]]:
    """The outcome, and by which rule it was scored: the card's fields that move a score of given predictions, as a protocol has them."""
    if isinstance(card, (SegmentationCard, InContextCard, TextSegmentationCard, MMSegCard)):
        rule: dict[str, object] = {"scored by": "masks at their original size"}
        if isinstance(card, TextSegmentationCard) and card.background == "void":  # that class is not scored
            rule["class left out"] = card.background_class
        return _masks(card, path, data, limit, progress), rule
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; task {card.name} takes a file of JSON lines")
    if isinstance(card, VQACard):
        return _answers(card, path, data, limit), {"scored by": card.scorer}
    if isinstance(card, (ProbeCard, ZeroShotCard)):
        return _classes(card, path, data, limit), {"scored by": "first class"}
    raise UsageError(f"task {card.name}: predictions are imported for questions, classes and masks, not for engine {card.engine}")


def _answers(card: VQACard, path: Path, data: str, limit: int | None) -> Outcome:
    from levl_eval.data.fingerprints import fingerprint_of
    from levl_eval.engines.contract import Outcome
    from levl_eval.engines.vlm.answers import Answers
    from levl_eval.engines.vlm.main_scores import Reading
    from levl_eval.engines.vlm.scoring import check_scorer, estimates
    from levl_eval.engines.vlm.task import has_answers, samples

    test = read_questions(card.data, data, limit)
    if not has_answers(test):
        raise UsageError(f"{test.images.source}: split {test.split} has no public answers to score against")
    check_scorer(card.scorer, test.questions)
    texts = {name: str(value) for name, value in read_predictions(path).items()}
    check_ids(list(texts), [q.question_id for q in test.questions], path, "questions")
    counts = {"images": len(test.images), "questions": len(test.questions)}
    about = {"fingerprint": fingerprint_of(test), "counts": counts, "split": test.split, "version": test.version}
    return Outcome(estimates(card.scorer, test.questions, texts), samples(card, test, Answers(texts), Reading(texts)), about)


def _classes(card: ProbeCard | ZeroShotCard, path: Path, data: str, limit: int | None) -> Outcome:
    from levl_eval.engines.contract import Outcome
    from levl_eval.engines.probes.common import data_of, mean_per_class, samples_of
    from levl_eval.metrics.statistics import mean_estimate

    test = read_classification(card.data, data, limit)
    given = read_predictions(path)
    check_ids(list(given), list(test.images.ids), path, "images")
    number = _numbers(test)
    predicted = []
    for name in test.images.ids:
        value = given[name]
        named = number.get(str(value), set())
        could_be = {value} | named if isinstance(value, int) else named
        if len(could_be) > 1:
            raise UsageError(
                f"{path}: {name}: {value!r} stands for {len(could_be)} classes, "
                f"{', '.join(f'{test.classes[k]!r} (number {k})' for k in sorted(could_be) if 0 <= k < len(test.classes))[:200]}; "
                "give each class's own name as a text"
            )
        k = next(iter(could_be), -1)
        if not 0 <= k < len(test.classes):
            raise UsageError(
                f"{path}: {name}: {value!r} is none of the {len(test.classes)} classes; give a class's name or its number from 0"
            )
        predicted.append(k)
    right = (np.array(predicted) == test.labels).astype(float)
    metrics = {"top1": mean_estimate(right), "mean_per_class": mean_per_class(right, test.labels)}
    return Outcome(metrics, samples_of(test, np.array(predicted), right), data_of(test))


def _numbers(test: ClassificationSet) -> dict[str, set[int]]:
    """Name -> numbers of the classes that it names: the set's own names first, then those one would say."""
    out: dict[str, set[int]] = {}
    for k, name in enumerate(test.names):
        out.setdefault(name, set()).add(k)
    return out | {name: {k} for k, name in enumerate(test.classes)}


def _masks(
    card: SegmentationCard | InContextCard | TextSegmentationCard | MMSegCard,
    folder: Path,
    data: str,
    limit: int | None,
    progress: Progress,
) -> Outcome:
    import torch

    from levl_eval.data.images import fingerprint_of
    from levl_eval.data.masks import mask_file
    from levl_eval.engines.segmentation.sweep import class_counts
    from levl_eval.engines.segmentation.task import outcome_of
    from levl_eval.engines.textseg.task import scored_set

    if not folder.is_dir():
        raise UsageError(f"{folder}: task {card.name} takes a folder of masks, one an image and named as it is")
    read, files = read_segmentation(card.data, data, limit), mask_files(folder)
    test = scored_set(card, read) if isinstance(card, TextSegmentationCard) else read
    stems = {Path(name).stem: name for name in test.images.ids}
    if len(stems) < len(test.images):
        twice = next(n for n in test.images.ids if stems[Path(n).stem] != n)
        raise UsageError(
            f"{folder}: {twice} and {stems[Path(twice).stem]} are two images of one file stem, which masks cannot tell apart"
        )
    check_ids(list(files), list(stems), folder, "images")
    classes = len(test.classes)
    nothing = 255 if classes <= 255 else 65_535  # which no class has
    counts = np.zeros((len(test.images), classes, 3), np.int64)
    for k, name in enumerate(progress.track(test.images.ids, "scoring masks", unit="mask")):
        path, truth = files[Path(name).stem], test.mask(name)
        given = mask_file(path).astype(np.int64)
        if given.shape != truth.shape:
            raise UsageError(
                f"{path}: is {given.shape[1]} x {given.shape[0]}, the mask of {name} {truth.shape[1]} x {truth.shape[0]}"
            )
        strange = given[(given < 0) | ((given >= classes) & (given != nothing))]
        if strange.size:
            raise UsageError(
                f"{path}: holds {int(strange[0])}, which is none of the {classes} classes counted from 0; {nothing} stands for nothing"
            )
        keep = truth != test.ignore_index
        predicted, true = torch.from_numpy(given[keep]), torch.from_numpy(truth[keep].astype(np.int64))
        # What is predicted as nothing is wrong wherever something is: a class of its own that is counted and then left out.
        predicted = torch.where(predicted == nothing, classes, predicted)
        counts[k] = class_counts(predicted, true, classes + 1)[:classes].numpy()
    outcome = outcome_of(test, test, counts, {}, {}, {})
    # What was read, whole, is the set's identity, as in a run: whatever the card leaves out of its classes.
    outcome.data = {**outcome.data, "fingerprint": fingerprint_of(read)}
    return outcome
