"""Every field of every card says whether it is protocol; the hash changes exactly with those that are. Bounds of numbers."""

from __future__ import annotations

import copy
import json
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ValidationError

from levl_eval import cards
from levl_eval.cards import parse_card, protocol_hash, protocol_of
from levl_eval.cards.base import StrictModel, plain
from levl_eval.cards.fields import mark_of, not_protocol, protocol
from levl_eval.core.errors import UsageError

# Written out, not read from the declarations: a field that leaves the protocol (or enters it) by mistake fails here.
NOT_PROTOCOL = {
    "ClaimCard": "statement source note roles published",
    "SuitePart": "tasks groups claims leave_out",
    "SuiteCard": "kind name description source roles scenes",
    "HubSource": "repo questions images split revision pinned files label",
    "DataSpec": "directory root questions annotations images hub choices skip_broken max_pixels",
    "TaskFields": "description chance source",
    "RecipeCard": "description on_scenes checkpointing",
    "QuestionCard": "floors on_scenes small_text",
    "LMMSCard": "include datasets",
    "ReadoutCard": "seeds",
    "ProbeCard": "set",
    "ZeroShotCard": "set",
    "MMSegCard": "config checkpoint_every",
    "SegmentationCard": "score_size",
    "SetCard": "name description source chance",
    "LLMCard": "name description licence package install",
    "BackboneCard": "name uri description sha256 licence training_data citation baseline",
}
# One of each form, with everything set that the layout reads (test_layout_fields.py): together every field.
HUB = {"repo": "a/b", "questions": "q", "split": "s", "revision": "r"}
DATA: dict[str, Any] = {
    "layout": "aircraft",
    "directory": "d",
    "root": "r",
    "split": "s",
    "level": "fine",
    "hub": {**HUB, "label": "l"},
}
QUESTIONS: dict[str, Any] = {
    "layout": "gqa",
    "directory": "d",
    "root": "r",
    "split": "s",
    "questions": "q",
    "images": "i",
    "hub": {**HUB, "images": "i"},
    "choices": "c",
}
MASKS: dict[str, Any] = {
    "layout": "ade20k", "directory": "d", "root": "r", "split": "s",
    "annotations": "a", "images": "i", "classes": ["x"], "hub": {**HUB, "label": "l"},
}  # fmt: skip
PROMPT: dict[str, Any] = {"chat": True}
RECIPE = {
    "name": "r", "data": [{**d, "count": 5} for d in (QUESTIONS, MASKS, DATA)],
    "max_questions": 4, "steps": 3, "seed": 1, "prompt": PROMPT, "connector": {"layer": 2},
}  # fmt: skip
RECIPE["first"] = {**copy.deepcopy(RECIPE), "name": "first"}
TASK = {"kind": "task", "name": "t", "main_metric": "m", "chance": 0.5}
SIDES, MASKED = {"train": DATA, "data": DATA}, {"train": MASKS, "data": MASKS}
FULL: list[dict[str, Any]] = [  # one of each class, with everything in it that may be left out
    {**TASK, "engine": "vqa", "data": QUESTIONS, "recipe": RECIPE, "scorer": "gqa", "prompt": PROMPT},
    {**TASK, "engine": "mcq", "data": QUESTIONS, "recipe": RECIPE, "scorer": "letter", "prompt": PROMPT},
    {**TASK, "engine": "lmms", "task": "pope", "recipe": RECIPE, "prompt": PROMPT, "include": "i", "datasets": "d"},
    {
        **TASK, **MASKED, "engine": "segmentation", "size": 8, "layers": [1], "window": 4, "stride": 2, "score_size": 8,
        "sweep_lr": [0.1], "sweep_weight_decay": [0.1],
    },
    {**TASK, **MASKED, "engine": "incontext", "size": 8, "layers": [1], "score_size": 8},
    {
        **TASK, "data": MASKS, "engine": "textseg", "size": 8, "window": 4, "stride": 2, "score_size": 8, "class_names": ["x"],
        "readout": "cls", "background_texts": ["x"],
    },
    {**TASK, **MASKED, "engine": "mmseg", "layers": [1], "crop": 8, "short": 8, "stride": 4, "config": "c", "config_text": "{}"},
    {**TASK, **SIDES, "engine": "depth", "size": 8, "layers": [1], "test_depth_scale": 2.0, "test_max_depth": 5.0},
    {**TASK, **SIDES, "engine": "depth-recipe", "layers": [1], "test_depth_scale": 2.0,
     "test_max_depth": 5.0, "train_crop": [4, 4], "cycle": [0.1, 0.2]},
    {**TASK, **SIDES, "engine": "normals", "size": 8, "layers": [1]},
    {**TASK, "engine": "instance", "main_metric": "map_medium", "data": DATA, "size": 8, "layers": [1]},
    {**TASK, "engine": "propagation", "main_metric": "j_and_f", "data": DATA, "size": 8, "multiple": 4, "layers": [1]},
    {**TASK, "engine": "multiview", "main_metric": "recall", "data": DATA, "size": 8, "layers": [1]},
    {**TASK, "engine": "correspondence", "main_metric": "pck_per_point", "data": DATA, "size": 8, "layers": [1]},
    {**TASK, **SIDES, "engine": "linear", "layers": [1], "set": "s"},
    {**TASK, **SIDES, "engine": "linear", "validation": DATA},
    {**TASK, **SIDES, "engine": "linear-path", "layers": [1], "set": "s", "shots": [2]},
    {**TASK, **SIDES, "engine": "knn", "layers": [1], "set": "s"},
    {**TASK, **SIDES, "engine": "attentive", "layers": [1], "set": "s"},
    {**TASK, **SIDES, "engine": "shift", "layers": [1], "set": "s"},
    {**TASK, **SIDES, "engine": "backgrounds", "layers": [1]},
    {**TASK, "engine": "zeroshot", "data": DATA, "set": "s", "class_names": ["x"], "readout": "cls"},
    {**TASK, "engine": "retrieval", "data": DATA, "readout": "cls"},
    {**TASK, "engine": "choice", "data": DATA, "readout": "cls", "kinds_left_out": ["x"]},
    {"kind": "set", "name": "s", **SIDES, "chance": 0.5, "validation": {}, "templates": ["{}"], "class_names": ["x"]},
    {"kind": "set", "name": "s", **SIDES, "validation": DATA},
    {"kind": "llm", "name": "l", "repo": "a/b", "revision": "v"},
    {
        "kind": "backbone", "name": "b", "uri": "levl:x", "sha256": "0",
        "preprocess": {
            "size": 8, "resize": "squash", "resize_to": 9, "interpolation": "nearest", "mean": [0.1, 0.2, 0.3], "std": [0.1, 0.2, 0.3],
        },
    },
]  # fmt: skip


# what cards are built of; their fields are tried in each card
BASES = ("StrictModel", "TaskFields", "QuestionCard", "ReadoutCard", "ProbeCard", "LinearTraining", "MetresFields")


def classes(base: type[BaseModel] = StrictModel) -> Iterator[type[BaseModel]]:
    for found in base.__subclasses__():
        if found.__module__.startswith("levl_eval."):
            yield found
            yield from classes(found)


def home(model: type[BaseModel], field: str) -> str:
    """The class that declares a field first."""
    return [c for c in model.__mro__ if field in getattr(c, "__annotations__", {})][-1].__name__


def is_protocol(model: type[BaseModel], field: str) -> bool:
    return not any(field in NOT_PROTOCOL.get(c.__name__, "").split() for c in model.__mro__)


def others(annotation: Any, value: Any) -> Iterator[Any]:
    """Values of a type that are not ``value``; the first that is valid is taken."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        yield from others(args[0], value)
    elif origin in (typing.Union, types.UnionType):
        for part in args:
            yield from others(part, value)
    elif origin is Literal:
        yield from (a for a in args if a != value)
    elif origin is list:
        yield from ([*(value if isinstance(value, list) else []), x] for x in others(args[0], None))
        if isinstance(value, list):
            yield value[:-1]  # of lists whose values must rise
    elif origin is tuple and isinstance(value, (list, tuple)):
        yield from ([x, *value[1:]] for x in others(args[0], value[0]))
    elif annotation is bool:
        yield not value
    elif annotation is int:
        yield from ((value if isinstance(value, int) else 0) + n for n in (1, 2, 3))
    elif annotation is float:
        yield from ((value if isinstance(value, (int, float)) else 0) * 0.5 + x for x in (0.01, 0.3))
    elif annotation is str:
        yield (value if isinstance(value, str) else "") + "x"
        yield "1%"  # skip_broken takes numbers alone


def changes(model: BaseModel, where: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], type[BaseModel], str, Any]]:
    """(path, class, field, annotation) of every field of a card and of the cards in it."""
    for name, field in type(model).model_fields.items():
        hints = typing.get_type_hints(type(model), include_extras=True)
        value = getattr(model, name)
        yield (*where, name), type(model), name, hints[name] if field else None
        for number, part in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(part, BaseModel):
                yield from changes(part, (*where, name) if number is None else (*where, name, number))


def changed(value: dict[str, Any], path: tuple[Any, ...], new: Any) -> dict[str, Any]:
    value = copy.deepcopy(value)
    node: Any = value
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = new
    return value


def test_each_field_changes_the_hash_exactly_where_it_is_protocol():
    seen: set[tuple[str, str]] = set()
    wrong = []
    for full in FULL:
        card = parse_card(full, "test")
        written = card.model_dump(mode="json")
        before = protocol_hash(protocol_of(card))
        for path, model, field, annotation in changes(card):
            node: Any = written
            for part in path:
                node = node[part]
            inside = all(is_protocol(m, f) for m, f in owners(card, path))
            for new in others(annotation, node):
                try:
                    after = parse_card(changed(written, path, new), "test")
                except UsageError:
                    continue
                if after == card:
                    continue
                if (protocol_hash(protocol_of(after)) != before) != inside:
                    wrong.append((type(card).__name__, path, inside))
                seen.add((model.__name__, field))
                break
    assert not wrong
    constant = {"kind", "engine"}  # one value each, as SegmentationCard's optimizer
    nested = {"hub", "train", "data", "recipe", "connector", "prompt", "first", "validation", "preprocess"}  # changed from inside
    expected = {
        (m.__name__, f)
        for m in classes()
        if m.__module__ not in ("levl_eval.cards.claim", "levl_eval.cards.suite")
        and m.__name__ not in BASES
        and not m.__name__.startswith("_")
        for f in m.model_fields
    }
    missing = {
        (m, f)
        for m, f in expected - seen
        if f not in constant | nested and (m, f) not in {("ConnectorSpec", "kind"), ("SegmentationCard", "optimizer")}
    }
    assert not missing


def owners(card: BaseModel, path: tuple[Any, ...]) -> Iterator[tuple[type[BaseModel], str]]:
    node: Any = card
    for part in path:
        if isinstance(part, int):
            node = node[part]
        else:
            yield type(node), part
            node = getattr(node, part)


def test_every_field_is_declared_and_says_why_it_is_none_of_the_protocol():
    for model in classes():
        for name, field in model.model_fields.items():
            mark = mark_of(field)
            assert (mark is True) == is_protocol(model, name), (model.__name__, name)
            assert mark is True or (isinstance(mark, str) and len(mark) > 10)
    listed = {(c, f) for c, fields in NOT_PROTOCOL.items() for f in fields.split()}
    assert listed <= {(c.__name__, f) for c in classes() for f in c.model_fields}


def test_a_class_with_an_unmarked_field_cannot_be_made():
    from pydantic import Field

    with pytest.raises(TypeError, match=r"Bare\.epochs: declare it"):

        class Bare(cards.LinearProbeCard):
            epochs: int = Field(3, ge=1)

    with pytest.raises(TypeError, match=r"Plain\.x: declare it"):

        class Plain(StrictModel):
            x: int = 1


def test_protocol_goes_by_class_and_not_by_name():
    class Inner(StrictModel):
        source: str = protocol("a")
        seed: int = not_protocol("a test's own field", 1)

    class Outer(StrictModel):
        seed: int = protocol(2)
        inner: list[Inner] = protocol([Inner()])
        source: str = not_protocol("a test's own field", "b")

    assert protocol_of(Outer()) == {"seed": 2, "inner": [{"source": "a"}]}


@pytest.mark.parametrize("full", FULL, ids=lambda f: f.get("engine", f["kind"]))
def test_a_full_card_is_read_back_the_same(full):
    card = parse_card(full, "test")
    again = parse_card(json.loads(json.dumps(plain(card))), "record")
    assert again == card and protocol_of(again) == protocol_of(card)


def test_no_number_of_any_card_is_without_bounds():
    """NaN and infinity nowhere, and no number field takes every size."""
    for full in FULL:
        card = parse_card(full, "test")
        written = card.model_dump(mode="json")
        for path, _, _, annotation in changes(card):
            if not any(t in str(annotation) for t in ("int", "float")) or "Literal['" in str(annotation).replace(
                "Literal['last']", ""
            ):
                continue
            node: Any = written
            for part in path:
                node = node[part]
            many = isinstance(node, (list, tuple))
            for number in (float("nan"), float("inf"), 10**31, -(10**31), True):
                new: Any = [number, *node[1:]] if many else number
                with pytest.raises(UsageError, match=r"^test: field `"):
                    parse_card(changed(written, path, new), "test")


@pytest.mark.parametrize(
    ("task", "field", "value", "message"),
    [
        ("linear", "epochs", "1000000000.0", r"field `epochs`: expected a number at least 1, at most 100,000, found 1000000000"),
        ("linear", "epochs", "0", r"at least 1, at most 100,000, found 0"),
        ("linear", "batch_size", "-5", r"`batch_size`: expected a number at least 1, at most 1,000,000, found -5"),
        ("linear", "lr", ".nan", r"`lr`: .*finite.*found nan"),
        ("linear", "ece_bins", "0", r"`ece_bins`: expected a number at least 1, at most 10,000"),
        ("linear", "chance", "1.5", r"`chance`: expected a number at least 0, at most 1, found 1\.5"),
        ("linear", "seeds", "100000", r"`seeds`: expected a number at least 1, at most 1,000"),
        ("linear", "validation.seed", "-1", r"`validation.*seed`: expected a number at least 0, at most 4,294,967,295"),
        ("knn", "k", "[-3]", r"`k.0`: expected a number at least 1, at most"),
        ("retrieval", "folds", "-1", r"`folds`: expected a number at least 1, at most 1,000"),
        ("gqa", "recipe.steps", "1000000000000", r"`recipe.steps`: expected a number at least 1, at most 100,000,000"),
        ("gqa", "recipe.data.0.weight", "-1", r"`recipe.data.0.weight`: expected a number above 0, at most 1,000,000"),
        ("gqa", "prompt.max_new_tokens", "1000000", r"`prompt.max_new_tokens`: expected a number at least 1, at most 8,192"),
        ("ade20k", "size", "1000000", r"`size`: expected a number at least 1, at most 16,384, found 1000000"),
        ("ade20k", "size", "true", r"`size`: expected a number at least 1, at most 16,384, found True"),
        ("nyuv2", "bins", "100000000", r"`bins`: expected a number at least 2, at most 10,000"),
        ("attentive", "views", "-1", r"`views`: expected a number at least 0, at most 1,000"),
        ("knn", "data.skip_broken", "0.5",
         r"`data.skip_broken`: expected a whole number such as 3, or a percentage such as 0.5%, found '0.5'$"),
        ("ade20k-mmseg", "betas", "[0.9, 1.0]", r"`betas.1`: expected a number at least 0, at most 1"),
    ],
)  # fmt: skip
def test_a_number_out_of_range_is_told_with_field_and_range(task, field, value, message):
    from levl_eval.cards.registry import task_card

    with pytest.raises(UsageError, match=message) as e:
        task_card(task, {field: value})
    assert "\n" not in str(e.value) and f"tasks/{task}.yaml" in str(e.value)


def test_sizes_of_a_backbone_card_are_bounded(tmp_path):
    from levl_eval.cards.registry import backbone_card

    path = tmp_path / "b.yaml"
    for field, value in (("size", "0"), ("size", "100000"), ("resize_to", "-1"), ("std", "[0, 1, 1]"), ("mean", "[.nan, 0, 0]")):
        path.write_text(f"kind: backbone\nname: b\nuri: random:nano\npreprocess: {{{field}: {value}}}\n")
        with pytest.raises(UsageError, match=rf"b\.yaml: field `preprocess\.{field}"):
            backbone_card(str(path))
    for field, value in (("mean", "[123.7, 116.3, 103.5]"), ("std", "[58.4, 57.1, 57.4]")):
        path.write_text(f"kind: backbone\nname: b\nuri: random:nano\npreprocess: {{{field}: {value}}}\n")
        with pytest.raises(UsageError, match=rf"b\.yaml: field `preprocess`: {field} .* is of levels 0 to 255, pixels are in"):
            backbone_card(str(path))


def test_invalid_values_stay_invalid_when_built_in_python():
    with pytest.raises(ValidationError):
        cards.ConnectorSpec(queries=0)


@pytest.mark.parametrize("task", ["zeroshot", "ade20k-text"])
def test_class_names_of_a_file_count_by_their_content(tmp_path, task):
    from levl_eval.cards.registry import task_card

    def digest(name, text):
        (tmp_path / name).write_text(text)
        return protocol_hash(protocol_of(task_card(task, {"class_names": str(tmp_path / name)})))

    first = digest("a.txt", "cat\ndog\n")
    assert digest("b.txt", "cat\ndog\n") == first != digest("a.txt", "dog\ncat\n")
    with pytest.raises(UsageError, match="class_names"):
        task_card(task, {"class_names": str(tmp_path / "none.txt")})
