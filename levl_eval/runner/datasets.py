"""Which data sets a task's card reads, and their identity by content, before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from levl_eval.cards import (
    BackboneCard,
    ChoiceCard,
    CorrespondenceCard,
    DataSpec,
    InstanceCard,
    LMMSCard,
    MultiviewCard,
    PropagationCard,
    QuestionCard,
    RecipeCard,
    RetrievalCard,
    TaskCard,
    TextSegmentationCard,
    ZeroShotCard,
)
from levl_eval.cards.dense import MetresFields
from levl_eval.core.hashing import digest
from levl_eval.data.backgrounds import variant_specs
from levl_eval.data.listing import in_words
from levl_eval.data.places import places_of
from levl_eval.data.set_identity import Kind, of_set
from levl_eval.data.skipping import skipped_words
from levl_eval.data.sources import reads_scenes
from levl_eval.records.identity import DataIdentity

if TYPE_CHECKING:
    from levl_eval.data.fingerprint_cache import FingerprintCache
    from levl_eval.data.set_identity import SetIdentity

_KINDS: dict[str, Kind] = {
    "vqa": "questions", "segmentation": "segmentation", "incontext": "segmentation", "textseg": "segmentation",
    "mmseg": "segmentation", "depth": "depth", "depth-recipe": "depth", "normals": "normals", "retrieval": "captions",
    "linear": "classification", "linear-path": "classification", "knn": "classification", "attentive": "classification",
    "zeroshot": "classification", "backgrounds": "classification", "correspondence": "pairs",
    "choice": "choices", "shift": "classification", "mcq": "questions",
    "propagation": "videos", "instance": "instances", "multiview": "views",
}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """One set that a card reads. role: test, train or validation. options: what its reader takes besides the specification."""

    role: str
    kind: Kind
    spec: DataSpec
    limit: int | None = None
    options: Mapping[str, object] = field(default_factory=dict)


class DataNotes(TypedDict, total=False):
    """What a record says of its data besides their identity.

    published: the published set that the test data are; sampled: sets too large to be hashed whole; left_out: source -> entries of its
    folders that are none of its images, in words; skipped: source -> what cannot be read, in words; revisions: hub repository -> the commit
    that was read; remarks: source -> what else must be known of how it was read; test_source: where the test data lie, if not below --data.
    """

    published: str | None
    sampled: list[str]
    left_out: dict[str, str]
    skipped: dict[str, str]
    revisions: dict[str, str]
    remarks: dict[str, str]
    test_source: str


@dataclass(frozen=True)
class DataFacts:
    """The data of a task: its identity, and what a record says of it besides."""

    identity: DataIdentity
    notes: DataNotes = field(default_factory=lambda: DataNotes())
    failed: dict[str, str] = field(default_factory=dict)  # test images that are skipped, by id: why (--skip-broken)


def parts_of(card: TaskCard, data: str, limit: int | None) -> list[Part]:
    """Every set that the card's engine reads, in the order in which it reads them. data: --data. Raises UsageError as readers do."""
    kind = _KINDS.get(card.engine)
    options, in_training = _metres(card, "test"), _metres(card, "train")
    if card.engine == "retrieval":
        options = {"captions_per_image": card.captions_per_image}
    if card.engine == "lmms":
        return [Part("train", "questions", s) for s in _mix(card.recipe)]
    assert kind is not None
    if isinstance(card, QuestionCard):
        return [Part("test", kind, card.data, limit), *(Part("train", kind, s) for s in _mix(card.recipe))]
    if card.engine == "backgrounds":
        tests, train = variant_specs(card, data)
        return [*(Part(f"test/{name}", kind, spec, limit) for name, spec in sorted(tests.items())), Part("train", kind, train)]
    parts = [Part("test", kind, card.data, limit, options)]
    if not isinstance(
        card,
        (
            ZeroShotCard,
            RetrievalCard,
            CorrespondenceCard,
            PropagationCard,
            InstanceCard,
            MultiviewCard,
            ChoiceCard,
            TextSegmentationCard,
        ),
    ):
        parts.append(Part("train", kind, card.train, None, in_training))
    validation = getattr(card, "validation", None)
    chooses = card.engine == "linear-path" or getattr(card, "keep", "last") == "best"
    if (
        chooses
        and isinstance(validation, DataSpec)
        and not (data == "hub" and validation.hub is None and validation.root is None)
    ):
        parts.append(Part("validation", kind, validation))
    return parts


def _metres(card: TaskCard, role: str) -> dict[str, object]:
    """How depth maps of a card's ``test`` or ``train`` set are read; {} for other cards."""
    return {"scale": card.scale_of(role), "caps": card.caps_of(role)} if isinstance(card, MetresFields) else {}


def _mix(recipe: RecipeCard | str) -> Iterator[DataSpec]:
    """The sets of a recipe, its earlier stages' first."""
    assert isinstance(recipe, RecipeCard)
    if recipe.first is not None:
        yield from _mix(recipe.first)
    yield from recipe.data


def data_facts(card: TaskCard, data: str, limit: int | None, known: FingerprintCache) -> DataFacts:
    """The identity of all data of a card. Raises UsageError/LevlError where a set is missing or cannot be read."""
    sets = [(p, of_set(known, p.kind, p.spec, data, p.limit, **p.options)) for p in parts_of(card, data, limit)]
    tests = [(p, s) for p, s in sets if p.role.startswith("test")]
    train = [s for p, s in sets if p.role == "train"]
    validation = [s for p, s in sets if p.role == "validation"]
    extra = _lmms_data(card, data) if card.engine == "lmms" else {}
    if len(tests) == 1 and not extra:
        test = tests[0][1].fingerprint
    else:
        test = digest({**{p.role: s.fingerprint for p, s in tests}, **extra})
    order = {
        "test": [s.order for _, s in tests], "train": [s.order for s in train], "validation": [s.order for s in validation]
    }  # fmt: skip
    identity = DataIdentity(test, tuple(s.fingerprint for s in train), validation[0].fingerprint if validation else "", order)
    notes = _notes([s for _, s in tests], [s for _, s in sets])
    # the card's own word: the variants of ImageNet-9 are looked for below --data, each in a folder
    spec = getattr(card, "data", None)
    if tests and isinstance(spec, DataSpec) and has_own_place(spec):
        notes["test_source"] = tests[0][1].source  # not below --data
    failed = {(name if len(tests) == 1 else f"{p.role}/{name}"): why for p, s in tests for name, why in s.skipped.items()}
    return DataFacts(identity, notes, failed)


def has_own_place(spec: DataSpec) -> bool:
    """Whether a card or ``--set`` names where the set lies, so that ``--data`` does not say it."""
    return any(getattr(spec, field) for field in ("root", "questions", "annotations", "images"))


def test_source(card: TaskCard, data: str) -> DataNotes:
    """Where the test set of a card lies that names a place of its own, for the record of a task whose data cannot be read."""
    spec = getattr(card, "data", None)
    if not isinstance(spec, DataSpec) or not has_own_place(spec):
        return {}
    places = places_of(spec, data)
    return {"test_source": next(iter(places[k] for k in ("root", "questions", "images", "annotations") if k in places))}


def needs_scenes(cards: Iterable[TaskCard], backbones: Iterable[BackboneCard]) -> bool:
    """Whether a run on ``--data scenes`` reads the synthetic scenes:
    not where every set lies at a place of its own, or is none of theirs."""
    specs = [s for card in cards for s in _specs(card)]
    return any(b.uri.startswith("oracle:") for b in backbones) or any(map(reads_scenes, specs))


def _specs(card: TaskCard) -> list[DataSpec]:
    """Every set that a card names, without a look at any folder."""
    if card.engine == "backgrounds":  # whose variants are known once their folders are there
        return [card.data, card.train]
    return [p.spec for p in parts_of(card, "scenes", None)]


def mixed_sources(card: TaskCard, data: str) -> str:
    """A line for who tests on data of their own and trains on the synthetic scenes, "" for all others. data: --data as it was given."""
    if data != "scenes" or card.engine == "lmms":
        return ""
    parts = parts_of(card, data, None) if card.engine != "backgrounds" else []
    tests = [p.spec for p in parts if p.role == "test"]
    train = [p.spec for p in parts if p.role == "train"]
    if any(map(has_own_place, tests)) and train and not all(map(has_own_place, train)):
        return (
            f"{card.name}: is tested on data of your own, but trained on the synthetic scenes; "
            "give --data DIR, or the training set by --set"
        )
    return ""


def _notes(tests: list[SetIdentity], all_sets: list[SetIdentity]) -> DataNotes:
    out: DataNotes = {"published": next((s.published for s in tests if s.published), None)}
    sampled = [f"{s.source}: {s.counts.get('hashed_whole', 0)} of {s.counts['images']} images" for s in all_sets if s.sampled]
    if sampled:
        out["sampled"] = sampled  # too large to be hashed whole: sizes and a sample of contents
    left_out = {s.source: in_words(s.left_out) for s in all_sets if s.left_out}
    if left_out:
        out["left_out"] = left_out  # entries of the folders that are none of the set's images
    skipped = {s.source: skipped_words(s.skipped, s.counts["images"] + len(s.skipped)) for s in all_sets if s.skipped}
    if skipped:
        out["skipped"] = skipped  # what cannot be read, under --skip-broken
    revisions = {s.source: s.revision for s in all_sets if s.revision}
    if revisions:
        out["revisions"] = revisions
    remarks = {s.source: s.remark for s in all_sets if s.remark}
    if remarks:
        out["remarks"] = remarks
    return out


def _lmms_data(card: LMMSCard, data: str) -> dict[str, str]:
    """What an lmms-eval task reads, as far as it is known before lmms-eval has loaded it: its local repositories by content."""
    from levl_eval.data.hub_tables import local_digest

    folder = Path(card.datasets).expanduser() if card.datasets else None
    if folder is None and data != "hub":
        folder = Path(data) / "lmms"
    here = local_digest(folder) if folder is not None and folder.is_dir() else ""
    return {"task": card.task, "repositories": here}
