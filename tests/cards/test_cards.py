"""Cards: validation messages, overrides, protocol hashes."""

from __future__ import annotations

import shlex

import pytest
import yaml

from levl_eval import cards
from levl_eval.cards import parse_card, protocol_hash, protocol_of
from levl_eval.cards.base import plain
from levl_eval.cards.overrides import override
from levl_eval.cards.registry import backbone_card, names, task_card
from levl_eval.core.errors import UsageError


@pytest.mark.parametrize("name", names("tasks"))
def test_every_shipped_task_card_is_valid_and_named_like_its_file(name):
    assert task_card(name).name == name


@pytest.mark.parametrize("name", names("backbones"))
def test_every_shipped_backbone_card_is_valid_and_named_like_its_file(name):
    assert backbone_card(name).name == name


@pytest.mark.parametrize("name", names("tasks"))
def test_a_written_card_is_read_back_as_the_same_protocol(name):
    """A record is run again from it: a field set to null where the default is a number must not fall back to the number."""
    card = task_card(name)
    again = parse_card(plain(card), "record")
    assert again == card and protocol_of(again) == protocol_of(card)
    assert "null" not in yaml.safe_dump(plain(card)) or name == "retrieval"


def test_wrong_field_is_told_with_file_field_and_near_miss(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "kind: task\nname: mine\nengine: linear\nmain_metric: top1\nepoch: 3\ntrain: {layout: imagefolder}\ndata: {layout: imagefolder}\n"
    )
    with pytest.raises(UsageError) as e:
        cards.load_card(path)
    assert str(path) in str(e.value) and "`epoch`" in str(e.value) and "epochs" in str(e.value)
    assert "\n" not in str(e.value)


def test_wrong_value_is_told_with_what_was_expected(tmp_path):
    with pytest.raises(UsageError, match=r"field `recipe\.epochs`.*number.*'many'"):
        task_card("gqa", {"recipe.epochs": "many"})


def test_unknown_engine_and_kind():
    with pytest.raises(UsageError, match="field `engine`.*vqa"):
        parse_card({"kind": "task", "engine": "vaq"}, "x.yaml")
    with pytest.raises(UsageError, match="field `kind`"):
        parse_card({"kind": "tusk"}, "x.yaml")


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2\n", "!!python/object/apply:os.system ['true']"])
def test_broken_or_unsafe_yaml_is_one_line(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as e:
        cards.load_card(path)
    assert str(path) in str(e.value) and "\n" not in str(e.value)


def test_override_reaches_lists_and_new_mappings():
    value = yaml.safe_load("recipe: {data: [{split: a}, {split: b}]}\nprompt:\n")
    override(value, "recipe.data.1.split", "c", "t")
    override(value, "prompt.stop", "['x', 'y']", "t")
    assert value == {"recipe": {"data": [{"split": "a"}, {"split": "c"}]}, "prompt": {"stop": ["x", "y"]}}
    with pytest.raises(UsageError, match="not inside a mapping"):
        override(value, "recipe.data.9.split", "c", "t")


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("{question}", """'vqa.prompt.template="{question}"'"""),
        ("Question: {question}", """'vqa.prompt.template="Question: {question}"'"""),
        ("{image}\n{question} Answer:", r"""'vqa.prompt.template="{image}\n{question} Answer:"'"""),
        ("yes", "'vqa.prompt.template=\"yes\"'"),
        ('[INST] "{question}"', r"""'vqa.prompt.template="[INST] \"{question}\""'"""),
    ],
)  # fmt: skip
def test_a_template_that_yaml_takes_for_something_else_is_answered_with_its_quoting(text, quoted):
    value = {"prompt": {}}
    with pytest.raises(UsageError, match="is no text to YAML, by which values are read; quote it: --set ") as e:
        override(value, "prompt.template", text, "vqa")
    assert str(e.value).endswith(f"quote it: --set {quoted}") and str(e.value).isprintable()
    (word,) = shlex.split(quoted)
    override(value, "prompt.template", word.partition("=")[2], "vqa")
    assert value["prompt"]["template"] == text


def test_protocol_ignores_places_and_prose_but_nothing_that_moves_a_number():
    def digest(overrides, extra=None):
        return protocol_hash(protocol_of(task_card("gqa", overrides), extra))

    base = digest({})
    assert digest({"data.images": "/elsewhere", "description": "other words"}) == base
    assert digest({"recipe.data.0.questions": "/x.json"}) == base
    for field, value in {"prompt.max_new_tokens": "9", "recipe.lr": "0.5", "data.split": "val", "scorer": "exact"}.items():
        assert digest({field: value}) != base, field
    assert digest({}, {"llm": "other"}) != base


def test_other_shots_and_neighbours_have_a_main_metric_among_them():
    assert task_card("few-shot", {"shots": "[1, 2]"}).main_metric == "top1_2shot"
    assert task_card("few-shot").main_metric == task_card("few-shot", {"shots": "[16]"}).main_metric == "top1_16shot"
    assert task_card("knn", {"k": "[5]"}).main_metric == "top1_k5" and task_card("knn").main_metric == "top1_k20"


@pytest.mark.parametrize(
    "name, words",
    [
        ("knn", {"main_metric": "top1_k7"}),
        ("knn", {"k": "[5]", "main_metric": "top1_k6"}),
        ("few-shot", {"main_metric": "top1_3shot"}),
    ],
)
def test_a_main_metric_that_is_asked_for_and_not_measured_is_refused(name, words):
    with pytest.raises(UsageError, match="is not measured"):
        task_card(name, words)
    assert task_card("knn", {"main_metric": "top1_k10"}).main_metric == "top1_k10"
    for task, field, value in (("knn", "k", "[]"), ("knn", "k", "[0]"), ("few-shot", "shots", "[-1]")):
        with pytest.raises(UsageError, match=rf"{task}.*`{field}"):
            task_card(task, {field: value})


def test_default_recipe_yields_to_the_users_choice():
    assert task_card("gqa").recipe.name == "vqa-train"
    assert task_card("gqa", default_recipe="scenes").recipe.name == "scenes"
    assert task_card("gqa", {"recipe": "vqa-train"}, default_recipe="scenes").recipe.name == "vqa-train"
    assert task_card("vqa", default_recipe="scenes").recipe.name == "vqa-own"  # a card's own recipe is not replaced
    with pytest.raises(UsageError, match=r"unknown recipe 'scene'.*scenes"):
        task_card("gqa", {"recipe": "scene"})


def test_the_three_vqa_tasks_share_one_recipe():
    recipes = [task_card(t, default_recipe="scenes").recipe for t in ("gqa", "vqav2", "pope")]
    assert recipes[0] == recipes[1] == recipes[2]


@pytest.mark.parametrize(
    ("card", "told"),
    [
        ({"kind": "task", "engine": ["linear"]}, r"x\.yaml: field `engine`: expected one of .*found \['linear'\]"),
        ({"kind": "task", "engine": {"linear": 1}}, "field `engine`: expected one of"),
        ({"kind": ["task"]}, r"field `kind`: expected task.*found \['task'\]"),
    ],
)
def test_a_list_where_a_name_belongs_is_told(card, told):
    with pytest.raises(UsageError, match=told):
        parse_card(card, "x.yaml")


def test_a_set_that_is_no_name_is_told(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("kind: task\nengine: linear\nname: mine\nmain_metric: top1\nset: [cifar10]\n")
    with pytest.raises(UsageError, match=r"mine\.yaml: field `set`"):
        task_card(str(path))
