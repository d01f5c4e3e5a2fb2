"""`levl-eval doctor`: what it lists, which combinations of packages it knows as broken, and its self-test."""

from __future__ import annotations

import json

import pytest

from levl_eval.cli import main
from levl_eval.core.errors import LevlError
from tests.data import small_sets as small


def test_doctor_tells_what_is_there_and_what_is_missing(tmp_path, capsys, monkeypatch):
    small.class_files(tmp_path / "data")
    assert main(["doctor", "--data", str(tmp_path / "data"), "--json", "--no-self-test"]) == 0
    found = {f["what"]: f for f in json.loads(capsys.readouterr().out)}
    assert found["data classification"]["level"] == "ok" and found["data gqa"]["level"] == "note"
    assert "torch" in found["packages"]["found"] and "self-test" not in found
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert main(["doctor", "--data", str(tmp_path), "--no-self-test"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines if str(tmp_path) not in line)  # a path is never broken


def test_doctor_knows_where_every_folder_of_the_cards_comes_from():
    from levl_eval.cards.registry import names, task_card
    from levl_eval.cli.doctor import SETS

    def folders(value):
        if isinstance(value, dict):
            yield from [value["directory"]] if value.get("directory") and "layout" in value else []
            value = list(value.values())
        for v in value if isinstance(value, list) else []:
            yield from folders(v)

    needed = {f.split("/")[0] for n in names("tasks") for f in folders(task_card(n).model_dump(mode="json"))}
    assert {"gqa", "ade20k", "nyuv2", "imagenet"} <= needed <= set(SETS)


def test_known_broken_combinations_are_told_with_a_remedy():
    from levl_eval.runner.selftest import broken

    wanted = ["torch<2.14,>=2.6", 'lmms-eval<0.8,>=0.7.3; extra == "vlm"']
    assert broken({"torch": "2.13.0+cpu", "torchvision": "0.28.0", "lmms-eval": "0.7.3", "mmcv-lite": "2.1.0"}, wanted) == []
    found = broken(
        {"torch": "2.5.0", "torchvision": "0.21.0", "lmms-eval": "0.9", "mmcv": "2.2.0", "mmsegmentation": "1.2.2"}, wanted
    )
    assert [line.split(" ")[0] for line in found] == ["torch", "lmms-eval", "torchvision", "mmsegmentation"]
    assert all("pip " in line and "\n" not in line for line in found) and "torchvision==0.20.*" in found[2]
    assert "overwrite" in broken({"mmcv": "2.1.0", "mmcv-lite": "2.1.0"}, [])[0]


@pytest.mark.slow
def test_the_self_test_runs_and_leaves_nothing_behind(tmp_path, monkeypatch):
    import tempfile
    from types import SimpleNamespace

    from levl_eval.runner import selftest
    from levl_eval.scenes import export

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    drawn_counts: list[int] = []
    make_scenes = export.make_scenes
    monkeypatch.setattr(
        export, "make_scenes", lambda *a, **k: drawn_counts.append(sum(k["counts"].values())) or make_scenes(*a, **k)
    )
    assert selftest.self_test().startswith("gqa, ade20k, linear on drawn images; ade20k, linear twice, with the same numbers")
    assert drawn_counts[0] < 200  # a set that is not named would be drawn in full
    assert not list(tmp_path.glob("levl-eval-doctor-*"))  # torch may leave folders of its own there
    drawn = iter([0.5, 0.5, 0.5, 0.5, 0.25])  # the last task gives another number the second time

    def evaluate(backbones, tasks, **options):
        return [
            SimpleNamespace(task=t, status="done", reason="", metrics={"m": SimpleNamespace(value=next(drawn))}) for t in tasks
        ]

    monkeypatch.setattr("levl_eval.runner.evaluate.evaluate", evaluate)
    monkeypatch.setattr(export, "make_scenes", lambda *a, **k: None)
    with pytest.raises(LevlError, match="linear: m is 0.500000 the first time and 0.250000 the second"):
        selftest.self_test()
