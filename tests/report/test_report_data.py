"""What a report says of a row's data, and where it looks for their images."""

from __future__ import annotations

from PIL import Image

from levl_eval.cards.registry import task_card
from levl_eval.cli.report import images_of
from levl_eval.data.readers import read_classification
from levl_eval.engines.probes import common
from levl_eval.report.provenance import data_words, revisions
from tests.report.conftest import record


def test_images_of_a_users_label_list_need_no_synthetic_scenes(tmp_path, capsys, monkeypatch):
    """Their card names both places; what is said where they cannot be shown names no folder of the program's own cache."""
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "cache"))
    for k in range(2):
        (tmp_path / "i").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (200, 0, 90 * k)).save(tmp_path / "i" / f"{k}.png")
    (tmp_path / "l.txt").write_text("0.png cat\n1.png dog\n")
    places = {"data": f"{{layout: labels, images: {tmp_path / 'i'}, annotations: {tmp_path / 'l.txt'}}}"}
    own, shipped = task_card("linear", places), task_card("linear")
    measured = common.data_of(read_classification(own.data, ""))

    def of(card):
        return record(
            "x", "linear", "top1", {}, card=card.model_dump(mode="json", exclude_none=True), data={**measured, "source": "scenes"}
        )

    assert images_of(of(own))("0.png").size == (8, 8) and not capsys.readouterr().err
    Image.new("RGB", (9, 9)).save(tmp_path / "i" / "0.png")
    assert images_of(of(own)) is None
    err = capsys.readouterr().err
    assert (
        "i holds other data than those measured; put those back, or run the task again" in err or "l.txt holds other data" in err
    )
    assert images_of(of(shipped)) is None
    err = capsys.readouterr().err
    assert "the synthetic scenes are not in the cache any more; run the task again, or give --data DIR" in err
    assert str(tmp_path / "cache") not in err


def test_the_commits_of_hub_repositories_are_in_a_rows_data():
    rows = [record("x", "pope", "f1", {}, data={"revisions": {"lmms-lab/POPE": c * 40}}) for c in "aab"]
    assert revisions(rows) == ["lmms-lab/POPE at aaaaaaaaaaaa", "lmms-lab/POPE at bbbbbbbbbbbb"]
    assert "; lmms-lab/POPE at aaaaaaaaaaaa; " in data_words(rows[:2])  # the report's line and that of a model card
    assert revisions([record("x", "pope", "f1", {}, data={})]) == []
