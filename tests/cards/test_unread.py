"""Fields that an engine passes over because of what a card's other fields say are refused where somebody asks for them."""

from __future__ import annotations

import pytest

from levl_eval import UsageError
from levl_eval.cards import parse_card
from levl_eval.cards.registry import names, set_names, task_card
from levl_eval.cards.unread import passed_over
from levl_eval.runner.plan import resolve_tasks


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        ("depth", {"head": "ridge", "lr": "1"}, r"depth\.yaml.*field `lr`: is not read with `head: ridge`; .*`head` to bins or regression"),
        ("depth", {"silog_lambda": "0.5", "loss": "l1"}, r"`silog_lambda`: is not read with `loss: l1`"),
        ("depth", {"head": "regression", "bins": "8"}, r"`bins`: is not read with `head: regression`"),
        ("nyuv2-normals", {"head": "ridge", "loss": "angular"}, r"`loss`: is not read with `head: ridge`"),
        ("ade20k", {"head": "ridge", "lr": "0.01"}, r"`lr`: is not read with `head: ridge`"),
        ("ade20k", {"head": "linear-bn", "standardize": "false"}, r"`standardize`: is not read with `head: linear-bn`"),
        ("ade20k", {"sweep_lr": "[0.1,0.2]", "lr": "0.1"}, r"`lr`: is not read with `sweep_lr: \[0\.1, 0\.2\]`"),
        ("ade20k", {"stride": "8"}, r"`stride`: is not read with `window: null`"),
        ("ade20k-full", {"score_size": "64"}, r"`score_size`: is not read with `score: original`"),
        ("ade20k-text", {"background_threshold": "0.3"}, r"`background_threshold`: is not read with `background: none`"),
        ("ade20k-incontext", {"view_seed": "1"}, r"`view_seed`: is not read with `views: 0`"),
        ("ade20k-mmseg", {"heads": "2"}, r"`heads`: is not read with `head: linear`; .*to segmenter"),
        ("knn", {"validation.share": "0.2"}, r"`validation\.share`: is not read by engine knn; take it out$"),
        ("knn@dtd", {"validation": "{share: 0.2}"}, r"`validation\.share`: is not read by engine knn"),
        ("knn", {"l2_normalize": "true"}, r"`l2_normalize`: is not read with `standardize: false`"),
        ("linear", {"validation": "{share: 0.2}"}, r"`validation\.share`: is not read with `keep: last`"),
        ("attentive", {"readout": "mean-patch"}, r"`readout`: is not read by engine attentive"),
        ("linear-path", {"draws": "3"}, r"`draws`: is not read with `shots: \[\]`"),
        ("roxford5k", {"readouts": "[pooled]", "gem_power": "2"}, r"`gem_power`: is not read"),
        ("gqa", {"recipe.connector.queries": "8"}, r"`recipe\.connector\.queries`: .*`recipe\.connector\.kind: mlp2x_gelu`"),
        ("gqa", {"recipe.connector": "{kind: linear, downsample: 4}"}, r"`recipe\.connector\.downsample`: is not read"),
        ("gqa", {"recipe.steps": "8", "recipe.epochs": "2"}, r"`recipe\.epochs`: is not read with `recipe\.steps: 8`"),
        ("lmms:pope", {"prompt.max_new_tokens": "3"}, r"`prompt\.max_new_tokens`: is not read with `generation: task`"),
    ],
)  # fmt: skip
def test_a_setting_that_moves_no_number_is_refused(task, settings, message):
    with pytest.raises(UsageError, match=message) as e:
        task_card(task, settings)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("task", "settings"),
    [
        ("ade20k", {"head": "ridge"}),  # the card's own rate stays: nobody asked for it
        ("depth", {"head": "ridge", "ridge_lambda": "10"}),
        ("linear", {"keep": "best", "validation.share": "0.2"}),
        ("attentive", {"views": "2", "view_seed": "1"}),
        ("gqa", {"recipe.connector": "{kind: resampler, queries: 8}"}),
        ("gqa", {"recipe.steps": "8"}),
        ("few-shot", {"draws": "2"}),
    ],
)
def test_what_is_read_may_be_set(task, settings):
    task_card(task, settings)


def test_no_card_that_ships_states_what_it_passes_over():
    for name in [*names("tasks"), *(f"{head}@{s}" for s in set_names() for head in ("knn", "linear"))]:
        task_card(name)


def test_a_card_s_own_field_is_refused_with_its_file(tmp_path):
    text = (
        "kind: task\nname: mine\nengine: depth\nmain_metric: rmse\nhead: ridge\nepochs: 5\n"
        "train: {layout: depth, images: a, annotations: b}\n"
    )
    path = tmp_path / "mine.yaml"
    path.write_text(text + "data: {layout: depth, images: c, annotations: d}\n")
    with pytest.raises(UsageError, match=r"mine\.yaml: field `epochs`: is not read with `head: ridge`"):
        task_card(str(path))


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("validation.shar", r"no such field \(did you mean share\?\)"),
        ("data.hub.rep", r"no such field \(did you mean repo\?\)"),
    ],
)
def test_a_misspelt_field_inside_is_told_with_those_that_are_near(field, message):
    with pytest.raises(UsageError, match=message):
        task_card("linear@dtd", {field: "0.1"})


def test_a_grid_is_refused_where_a_combination_does_not_read_what_varies():
    grid = ["ade20k.head=linear,linear-bn", "ade20k.standardize=true,false"]
    with pytest.raises(
        UsageError, match=r"ade20k\[head=linear-bn, standardize=true\]: .*`standardize`: is not read with `head: linear-bn`"
    ):
        resolve_tasks(["ade20k"], [], "scenes", grid=grid)


def test_what_all_combinations_share_must_be_read_by_one_of_them():
    heads = ["ade20k.head=linear,ridge"]
    assert len(resolve_tasks(["ade20k"], ["ade20k.epochs=3"], "scenes", grid=heads)) == 2
    assert len(resolve_tasks(["ade20k"], [], "scenes", grid=[*heads, "ade20k.epochs=3"])) == 2
    with pytest.raises(UsageError, match=r"`knn_k`: is not read"):
        resolve_tasks(["ade20k"], ["ade20k.knn_k=3"], "scenes", grid=heads)


def test_every_rule_names_fields_that_there_are():
    """A rule about a field that is gone would never be seen to fail."""
    from levl_eval.cards import unread

    for model, rules in unread.RULES.items():
        for rule in rules:
            for name in (*rule.fields.split(), *rule.others.split()):
                assert name.partition(".")[0] in model.model_fields, (model, name)


def test_passed_over_fields_of_a_resolved_card():
    card = parse_card(task_card("ade20k", {"head": "ridge"}).model_dump(mode="json"), "x")
    assert {"lr", "epochs", "knn_k"} <= set(passed_over(card)) and "ridge_lambda" not in passed_over(card)


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        ("knn", {"data.root": "a", "data.directory": "b"}, r"`data\.directory`: is not read beside `root`, which takes its place"),
        ("knn", {"train": "{layout: imagefolder, root: a, directory: b}"}, r"`train\.directory`: is not read beside `root`"),
        ("pope", {"data.root": "a", "data.questions": "b", "data.images": "c"},
         r"`data\.root`: .*`questions` and `images`, which name every part"),
        ("vqav2", {"recipe.data.0.root": "a", "recipe.data.0.directory": "b"}, r"`recipe\.data\.0\.directory`: is not read"),
    ],
)  # fmt: skip
def test_a_less_specific_place_is_refused_beside_those_that_take_its_place(task, settings, message):
    with pytest.raises(UsageError, match=message):
        task_card(task, settings)


def test_places_of_which_each_says_something_may_stand_together(tmp_path):
    task_card("pope", {"data.root": "a", "data.images": "c"})
    task_card("coco-5k", {"data.root": "a", "data.directory": "coco"})  # the name of a file
    with pytest.raises(UsageError, match=r"mine\.yaml: field `data\.directory`: is not read beside `root`"):
        path = tmp_path / "mine.yaml"
        path.write_text(
            "kind: task\nname: mine\nengine: knn\nmain_metric: top1_k10\ntrain: {layout: imagefolder, root: a}\n"
            "data: {layout: imagefolder, root: a, directory: b}\n"
        )
        task_card(str(path))
