"""The declaration of which data fields a layout reads is what its reader does, field by field; and a field that is not read is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from levl_eval.cards import DataSpec, HubSource
from levl_eval.cards.layouts import LAYOUTS, OPENING
from levl_eval.cards.registry import names, recipe_card, recipe_names, set_names, task_card
from levl_eval.cli import main
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.progress import Progress
from levl_eval.data import readers, set_identity
from levl_eval.data.fingerprints import content_of
from levl_eval.data.rgb import rules_of
from levl_eval.data.sources import check_read, lies_elsewhere
from levl_eval.runner.plan import RunConfig, make_plan, resolve_tasks
from tests.data import small_sets as small
from tests.data.layout_sets import SETS, repositories

KINDS: dict[str, Any] = {
    layout: kind
    for kind, known in {
        "questions": readers.QUESTIONS, "classification": readers.CLASSES, "segmentation": readers.MASKS, "captions": readers.CAPTIONS,
        "depth": readers.DEPTHS, "normals": readers.NORMALS, "pairs": readers.PAIRS, "videos": readers.VIDEOS,
        "instances": readers.INSTANCES, "choices": readers.CHOICES, "views": readers.VIEWS,
    }.items()
    for layout in known
}  # fmt: skip
# Another value of each field, that no set has.
OTHERS: dict[str, Any] = {
    **dict.fromkeys(("directory", "split", "level"), "gone"),
    **dict.fromkeys(("root", "questions", "annotations", "images", "classes", "choices"), "/nowhere/gone"),
    "ignore_index": 1, "reduce_zero_label": True,
}  # fmt: skip
REFUSED = {("cifar10", "level")}  # by the reader too


def outcome(spec: DataSpec, data: str) -> str:
    """What comes of a set: its content, or why it cannot be read. The split's name alone is none of it."""
    options = {"scale": 256.0} if KINDS[spec.layout] == "depth" else {}
    try:
        found = set_identity.read_set(KINDS[spec.layout], spec, data, None, options)
    except LevlError as e:
        return f"refused: {e}"
    content = content_of(found)
    return f"{content.fingerprint} {content.order} {len(found.images)} {getattr(found, 'classes', '')}"


def test_every_layout_is_declared():
    layouts = set(get_args(DataSpec.model_fields["layout"].annotation))
    assert layouts == set(LAYOUTS) == set(KINDS) == set(SETS)
    assert set(OTHERS) == {f for f in DataSpec.model_fields if f not in ("layout", "hub", *OPENING)}
    for one in LAYOUTS.values():
        assert {f.split(".")[0] for f in one.may_state()} <= set(DataSpec.model_fields) and set(one.required) <= set(one.files)
        assert {f for f in one.hub if "." in f} <= {f"hub.{f}" for f in HubSource.model_fields}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_declared_is_what_is_read_from_files(layout, tmp_path, monkeypatch):
    """Of a whole set, every field in turn is set to another value: what is declared changes the outcome, what is not does not."""
    monkeypatch.setattr(readers, "unread_field", lambda spec, data: None)  # what would happen without the refusal
    data = tmp_path / "data"
    data.mkdir()
    fields = SETS[layout](data / "set")
    spec = DataSpec(layout=layout, **fields)
    opened, skipped = [], []  # the fields of OPENING, read at one place for all sets
    with monkeypatch.context() as patch:
        patch.setattr(readers, "rules_of", lambda s: opened.append(s) or rules_of(s))
        patch.setattr(readers, "check_skipped", lambda images, s: skipped.append(s))
        before = outcome(spec, str(data))
    assert not before.startswith("refused") and opened == skipped == [spec], before
    read = {f for f, value in OTHERS.items() if outcome(spec.model_copy(update={f: value}), str(data)) != before}
    assert read - {f for f in OTHERS if (layout, f) in REFUSED} == set(LAYOUTS[layout].files)
    elsewhere = spec.model_copy(update={"hub": HubSource(repo="a/b", split="x")})
    assert outcome(elsewhere, str(data)) == before
    places = [f for f in fields if f not in ("directory", "split", "level")]
    needed = {f for f in places if outcome(spec.model_copy(update={f: None}), str(data)).startswith("refused")}
    assert needed == set(LAYOUTS[layout].required)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_undeclared_field_is_refused(layout):
    for field, value in OTHERS.items():
        if field in LAYOUTS[layout].may_state():
            DataSpec(layout=layout, **{field: value})
        else:
            with pytest.raises(ValidationError, match=f"layout {layout} does not read `{field}`; take it out"):
                DataSpec(layout=layout, **{field: value})
    DataSpec(layout=layout, ignore_index=255, level=None)  # the default says nothing


# others name places of files
HUB_FIELDS = ("directory", "split", "level", "classes", "choices", "ignore_index", "reduce_zero_label")


def test_what_is_declared_is_what_is_read_of_a_table(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "unread_field", lambda spec, data: None)
    sets = repositories(tmp_path)
    forms = {(tuple(sorted(x.hub)), x.hub_names) for x in LAYOUTS.values() if x.hub}
    assert {(tuple(sorted(LAYOUTS[k].hub)), LAYOUTS[k].hub_names) for k in sets} == forms, "a declaration without a table"
    for layout, fields in sets.items():
        spec = DataSpec(layout=layout, **fields)
        assert spec.hub is not None
        before = outcome(spec, "hub")
        assert not before.startswith("refused"), (layout, before)
        read = {f for f in HUB_FIELDS if outcome(spec.model_copy(update={f: OTHERS[f]}), "hub") != before}
        for name in HubSource.model_fields:
            other = spec.hub.model_copy(update={name: "gone"})
            read |= {f"hub.{name}"} if outcome(spec.model_copy(update={"hub": other}), "hub") != before else set()
        read.add("hub.pinned")  # a preference among commits, of which a folder has none (test_hub_cache.py)
        assert read == set(LAYOUTS[layout].hub), layout


def test_every_layout_of_the_hub_has_a_reader_there(tmp_path, monkeypatch):
    """A table without any column that is wanted: its reader names one, where there is a reader."""
    monkeypatch.setattr(readers, "unread_field", lambda spec, data: None)
    small.repository(tmp_path, {"default": ("test", small.table_of([{"nothing": 1}]))})
    source = HubSource(repo=str(tmp_path), split="test", images="default")
    for layout, known in LAYOUTS.items():
        message = outcome(DataSpec(layout=layout).model_copy(update={"hub": source, "split": "order"}), "hub")
        assert message.startswith("refused: ")
        none = "read from files" in message or f"field '{layout}' is missing" in message
        assert none == (not known.hub), (layout, message)


@pytest.mark.parametrize(
    ("task", "setting", "data", "words"),
    [
        ("gqa", "data.level=x", "scenes",
         r"tasks/gqa\.yaml with --set: field `data\.level`: layout gqa does not read `level`; take it out, or set what"),
        ("gqa", "data.annotations=x", "scenes", "field `data.annotations`: layout gqa does not read `annotations`"),
        ("gqa", "recipe.data.0.level=x", "scenes", r"field `recipe\.data\.0\.level`"),
        ("pope", "data.hub.label=x", "hub", r"field `data\.hub\.label`: layout pope does not read `hub\.label`"),
        ("linear@imagenet", "validation={layout: imagenet, level: x, annotations: y}", "scenes", r"`validation\.annotations`"),
        # read from the other source alone
        ("gqa", "data.hub.revision=x", "scenes", r"gqa: field `data\.hub\.revision`: .* does not read `hub\.revision` with --data scenes"),
        ("gqa", "data.hub={repo: a/b, split: x}", "/", r"does not read `hub\.repo` with --data /"),
        ("gqa", "data.split=val_balanced", "hub", "does not read `split` with --data hub"),
        ("gqa", "data.directory=x", "hub", "does not read `directory` with --data hub"),
        ("gqa", "data.choices=x", "hub", "does not read `choices` with --data hub"),
        ("pope", "data.split=random", "hub", "does not read `split` with --data hub"),
        ("blink-counting", "data.split=x", "/", "does not read `split` with --data /"),
        ("imagenet", "data.level=x", "/", "does not read `level` with --data /"),
        ("imagenet", "data={layout: imagenet, split: val, level: x, hub: {repo: a/b}}", "/", "does not read `level` with --data /"),
        ("pope", "data={layout: pope, split: random, hub: {repo: a/b, split: test}}", "hub", "does not read `split` with --data hub"),
    ],
)  # fmt: skip
def test_what_a_user_sets_is_read_or_refused(task, setting, data, words):
    with pytest.raises(UsageError, match=words) as e:
        resolve_tasks([task], [f"{task}.{setting}"], data)
    assert "\n" not in str(e.value) and "orientation, background, max_pixels, skip_broken" in str(e.value)


@pytest.mark.parametrize(
    ("task", "setting", "data"),
    [
        ("gqa", "data.root=/x", "hub"),  # a set at a place of its own is read from there, whatever --data is
        ("gqa", "data.root=/x", "scenes"),
        ("gqa", "data.images=null", "hub"),
        ("gqa", "data.hub.revision=x", "hub"),
        ("gqa", "data.hub={repo: a/b, split: val}", "hub"),
        ("aircraft", "data.level=family", "hub"),
        ("pope", "data.split=random", "/"),
        ("gqa", "data.orientation=stored", "hub"),
    ],
)
def test_what_is_read_may_be_set(task, setting, data):
    resolve_tasks([task], [f"{task}.{setting}"], data)


def test_a_row_names_the_split_that_is_read_of_the_hub():
    one, other = "refcoco.data.hub.split=testB", "refcoco.data.split=testB"
    card = resolve_tasks(["refcoco"], [one, other], "hub")["refcoco"]
    assert card.data.split == card.data.hub.split == "testB"  # type: ignore[union-attr]
    with pytest.raises(
        UsageError,
        match="^refcoco: field `data.split`: is 'testA' in every row, while `data.hub.split` chooses what is read; set both$",
    ):
        resolve_tasks(["refcoco"], [one], "hub")


@pytest.mark.parametrize("data", ["hub", "scenes", "/"])
def test_every_shipped_card_sets_what_is_read(data):
    for name in names("tasks"):
        resolve_tasks([name], [], data)
    for name in set_names():
        resolve_tasks([f"linear@{name}"], [], data)
    for name in recipe_names():
        check_read(recipe_card(name), name, (), data)


def test_a_card_resolved_in_python_and_a_set_read_alone_are_checked():
    card = task_card("gqa", {"data.choices": "x"})
    with pytest.raises(UsageError, match="^gqa: field `data.choices`: .* with --data hub"):
        resolve_tasks([card], [], "hub")
    spec = DataSpec(layout="imagefolder", directory="x", level="fine")
    with pytest.raises(UsageError, match="^field `data.level`: layout imagefolder does not read `level` with --data /"):
        readers.read_classification(spec, "/")


def test_the_command_ends_with_2_before_anything_is_computed(tmp_path, capsys):
    out = tmp_path / "run"
    words = [
        "run",
        "--backbone",
        "random-nano",
        "--tasks",
        "gqa",
        "--data",
        "hub",
        "--set",
        "gqa.data.split=val_balanced",
        "--out",
        str(out),
    ]
    assert main(words) == 2
    assert (
        "gqa: field `data.split`: layout gqa does not read `split` with --data hub" in capsys.readouterr().err
        and not out.exists()
    )


def test_the_documentation_lists_what_is_declared():
    """docs/data.md's table; python -m tests.data.test_layout_fields prints it."""
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    assert table() in text, "docs/data.md: make its table again by python -m tests.data.test_layout_fields"


def table() -> str:
    """Layouts that read the same stand in one row."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for layout, known in LAYOUTS.items():
        files = [f"`{f}`" + "\\*" * (f in known.required) for f in known.files]
        hub = [f"`{f}`" for f in known.hub if f not in LAYOUTS["pope"].hub] if known.hub else ["not read there"]
        alike.setdefault((", ".join(files), ", ".join(hub) or "`hub` alone"), []).append(layout)
    rows = [f"| {', '.join(layouts)} | {files} | {hub} |" for (files, hub), layouts in alike.items()]
    return (
        "\n".join(["| layout | fields read from files | read besides `hub` with `--data hub` |", "|---|---|---|", *rows]) + "\n"
    )


if __name__ == "__main__":
    print(table(), end="")


@pytest.mark.parametrize(
    ("task", "path", "fields"),
    [
        ("retrieval", "data", ["annotations"]),
        ("segmentation", "train", ["images", "annotations", "classes"]),
        ("vqa", "data", ["questions"]),
    ],
)
def test_a_field_that_a_layout_needs_is_asked_for_before_anything_is_computed(task, path, fields, tmp_path):
    with pytest.raises(UsageError) as e:
        make_plan(RunConfig(tasks=[task], backbones=["random-nano"], data="scenes", out=tmp_path), Progress())
    assert str(e.value).startswith(f"{task}: layout ") and f"needs `{path}.{fields[0]}`" in str(e.value)
    assert all(f"--set {task}.{path}.{f}=" in str(e.value) for f in fields)


def test_a_list_that_is_all_a_layout_needs_is_a_place_of_its_own():
    """A retrieval task on a csv alone was looked for in the synthetic scenes by `levl-eval report`."""
    assert lies_elsewhere(DataSpec(layout="captions", annotations="mine.csv"))
    assert lies_elsewhere(DataSpec(layout="vqa", questions="mine.jsonl"))
    assert not lies_elsewhere(DataSpec(layout="captions")) and not lies_elsewhere(DataSpec(layout="gqa", directory="gqa"))
