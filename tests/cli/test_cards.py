"""`list` and `show`: every kind of card, by name and path, those that ship and the user's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from levl_eval.cards.registry import ROOMS, backbone_card, card_folder, cards_in, recipe_card, set_card, task_card
from levl_eval.cli import main
from levl_eval.core.errors import UsageError

SHIPPED = {room: card_folder("tasks").parent / place for room, (place, _) in ROOMS.items()}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LEVL_CARDS", raising=False)
    return tmp_path


def own(folder: Path, name: str, uri: str = "random:nano", said: str | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(f"kind: backbone\nname: {said or name}\nuri: {uri}\ndescription: of my own\n")
    return path


@pytest.mark.parametrize("room", ROOMS)
def test_every_kind_is_listed_and_shown_by_name_and_by_path(room, here, capsys):
    assert main(["list", room, "--json"]) == 0
    listed = [row["name"] for row in json.loads(capsys.readouterr().out)]
    assert set(listed) >= {p.stem for p in SHIPPED[room].glob("*.yaml")} != set()
    path = sorted(SHIPPED[room].glob("*.yaml"))[0]
    for word in (f"{room}/{path.stem}", str(path)):
        assert main(["show", word, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["name"] == path.stem


def test_a_list_of_nothing_named_says_which_kinds_there_are(here, capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert all(f"levl-eval list {room}" in out for room in ROOMS)
    assert main(["list", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == list(ROOMS)


def test_a_name_of_several_kinds_says_which_there_are(here, capsys):
    assert main(["show", "imagenet", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["kind"] == "task" and "levl-eval show sets/imagenet" in told.err
    assert main(["show", "sets/imagenet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "set"


def test_an_unknown_name_has_near_misses_of_every_kind(here, capsys):
    assert main(["show", "vqa-trian"]) == 2
    assert "vqa-train" in capsys.readouterr().err


def test_own_cards_are_found_here_and_in_levl_cards(here, monkeypatch, capsys):
    own(here / "backbones", "mine")
    own(here / "elsewhere" / "backbones", "other")
    (here / "elsewhere" / "tasks" / "recipes").mkdir(parents=True)
    (here / "elsewhere" / "tasks" / "recipes" / "short.yaml").write_text(
        "kind: recipe\nname: short\ndata: [{layout: pope, root: train}]\n"
    )
    monkeypatch.setenv("LEVL_CARDS", str(here / "elsewhere"))
    assert backbone_card("mine").uri == backbone_card("other").uri == "random:nano" and recipe_card("short").name == "short"
    assert main(["list", "backbones"]) == 0
    shown = capsys.readouterr().out
    assert "(./backbones)" in shown and "($LEVL_CARDS)" in shown
    assert main(["show", "mine"]) == 0 and "of my own" in capsys.readouterr().out
    own(here / "backbones", "later")
    assert backbone_card("later").name == "later"  # found at once, in the same process


def test_a_folder_of_levl_cards_that_is_none_is_said(here, monkeypatch, capsys):
    monkeypatch.setenv("LEVL_CARDS", str(here / "nowhere"))
    assert main(["list", "tasks"]) == 2
    assert f"LEVL_CARDS={here / 'nowhere'}" in capsys.readouterr().err


def test_an_own_card_cannot_silently_take_the_place_of_a_shipped_one(here):
    own(here / "backbones", "clip-nano", "random:vit_base_patch16_224")
    with pytest.raises(UsageError, match=r"two backbones are named clip-nano: .*; rename one, or give its path"):
        backbone_card("clip-nano")
    assert backbone_card("levljepa-nano").name == "levljepa-nano"  # nothing else is disturbed
    assert backbone_card("backbones/clip-nano.yaml").uri == "random:vit_base_patch16_224"
    (here / "backbones" / "clip-nano.yaml").write_bytes((SHIPPED["backbones"] / "clip-nano.yaml").read_bytes())
    assert backbone_card("clip-nano").uri != "random:vit_base_patch16_224"  # a copy is the same card


def test_what_is_no_card_is_left_out_of_a_list_and_said(here, capsys):
    (here / "tasks").mkdir()
    (here / "tasks" / "main.yaml").write_text("- hosts: all\n")
    assert main(["list", "tasks"]) == 1
    told = capsys.readouterr()
    assert "left out: tasks/main.yaml" in told.err and "gqa" in told.out
    assert task_card("gqa").name == "gqa"


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (backbone_card, "kind: backbone\nname: other\nuri: random:nano\n"),
        (recipe_card, "kind: recipe\nname: other\ndata: [{layout: pope, root: train}]\n"),
        (set_card, "kind: set\nname: other\ntrain: {layout: imagefolder}\ndata: {layout: imagefolder}\n"),
        (task_card, "kind: task\nengine: knn\nname: other\nset: pets\nmain_metric: top1\n"),
    ],
)
def test_a_card_is_named_like_its_file(read, text, here):
    path = here / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"mine.yaml: field `name`: 'other' is not the file's name; call the file other.yaml"):
        read(str(path))


def test_every_shipped_card_is_named_like_its_file():
    for place, make in ROOMS.values():
        assert all(make(name).name == name for name in cards_in(place))
