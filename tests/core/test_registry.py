"""Names, what they stand for, who brought them, and what is said of unknown ones."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from levl_eval.cards import registry as cards
from levl_eval.core.errors import UsageError
from levl_eval.core.registry import Registry, imported


def test_nothing_is_imported_before_it_is_asked_for(monkeypatch):
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    known = Registry("engine", imported, {"hls": "colorsys:rgb_to_hls"})
    assert "hls" in known and known.origin("hls") == "shipped" and "colorsys" not in sys.modules
    assert known.load("hls")(0, 0, 0) == (0, 0, 0)


def test_unknown_names_have_near_misses_and_a_remedy():
    known = Registry("engine", imported, {"linear": "a:b", "knn": "a:c"})
    with pytest.raises(UsageError, match=r"^unknown engine 'liner' \(did you mean linear\?\); known are linear, knn$"):
        known.load("liner")


def test_a_name_stands_for_one_thing_unless_it_is_meant():
    known = Registry("engine", imported, {"linear": "a:b"})
    with pytest.raises(UsageError, match=r"x:y \(plug-in mine\): the engine linear exists already \(a:b, shipped\)"):
        known.add("linear", "x:y", "plug-in mine")
    known["linear"] = "x:y"
    assert known["linear"] == "x:y" and dict(known) == {"linear": "x:y"}
    known.add("mine", "x:z", "plug-in mine")
    assert known.origin("mine") == "plug-in mine"
    del known["mine"]
    assert "mine" not in known


def test_plug_ins_bring_cards_of_every_kind(tmp_path, monkeypatch):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mine.yaml").write_text("kind: recipe\nname: mine\n")

    class Point:
        name, dist = "more", None

        def load(self) -> Path:
            return tmp_path

    for f in (cards.folders_of, cards.shipped_cards):
        f.cache_clear()
    try:
        monkeypatch.setattr(cards, "entry_points", lambda group: [Point()] if group == "levl_eval.tasks" else [])
        assert cards.cards_in("tasks/recipes").origin("mine") == "plug-in more"
        assert cards.cards_in("tasks/recipes").origin("scenes") == "shipped"
        (tmp_path / "recipes" / "scenes.yaml").write_text("kind: recipe\nname: scenes\n")
        cards.shipped_cards.cache_clear()
        with pytest.raises(UsageError, match="the recipe scenes exists already"):
            cards.cards_in("tasks/recipes")
    finally:
        for f in (cards.folders_of, cards.shipped_cards):
            f.cache_clear()


def test_a_plug_in_that_fails_is_told_with_file_and_line(monkeypatch):
    class Point:
        name, dist = "more", None

        def load(self) -> Path:
            raise ZeroDivisionError("no folder")

    for f in (cards.folders_of, cards.shipped_cards):
        f.cache_clear()
    try:
        monkeypatch.setattr(cards, "entry_points", lambda group: [Point()])
        with pytest.raises(UsageError, match=r"plug-in more: .*ZeroDivisionError: no folder \(.*test_registry\.py, line \d+\)"):
            cards.cards_in("tasks")
    finally:
        for f in (cards.folders_of, cards.shipped_cards):
            f.cache_clear()
