"""The forecast of a run: counts that are there, bytes by hand, and hours only from what was measured."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace
from typing import cast

import pytest

from levl_eval.cards.registry import task_card
from levl_eval.cli import main
from levl_eval.data.fingerprint_cache import FingerprintCache
from levl_eval.data.published import images_as_published
from levl_eval.features.extraction import ARRAYS as OF_THE_STORE
from levl_eval.runner.backbones import BackboneHandle
from levl_eval.runner.forecast import ARRAYS, SetSize, encoder_passes, feature_bytes, hours, measured, sizes
from tests.report.conftest import record

RATE = {
    "device": "cpu",
    "cache": {"feature_misses": 2, "feature_hits": 0},
    "seconds": {"features": 10.0, "probe": 3.0, "total": 14.0},
}
DATA = {"fingerprint": "x", "counts": {"images": 40, "train_images": 60}}


def size(task: str, role: str, images: int | None, key: str = "", why: str = "") -> SetSize:
    return SetSize(task, role, images, why, key or f"{task} {role}", task_card(task))


def test_arrays_are_the_stores():
    assert ARRAYS == OF_THE_STORE


def test_sets_that_are_not_there_have_the_published_count_or_none(tmp_path):
    cards = {t: task_card(t) for t in ("imagenet", "gqa", "imagenet9")}
    out = sizes(cards, str(tmp_path), 100, FingerprintCache(tmp_path / "cache"))
    assert [(s.task, s.role, s.images) for s in out] == [
        ("imagenet", "test", 100), ("imagenet", "train", 1_281_167), ("gqa", "test", 100), ("gqa", "train", None), ("gqa", "train", 82_783),
        ("imagenet9", "test", None),
    ]  # fmt: skip
    assert all(s.why for s in out)
    assert images_as_published("ade20k", "training", "ade20k", "train") == 20_210


def test_bytes_are_counted_once_a_set():
    handle = encoder()
    pooled = [size("knn", "test", 10, "a"), size("linear", "test", 10, "a")]
    assert feature_bytes(handle, pooled) == 10 * 4 * 8
    both = [*pooled, size("attentive", "test", 10, "a")]
    assert feature_bytes(handle, both) == 10 * (4 * 8 + 4 * 6 + 2 * 16 * 6)
    plain = SetSize("x", "test", 1, "", "a", task_card("ade20k").model_copy(update={"size": 448}))
    assert feature_bytes(handle, [plain]) == 4 * 8 + 4 * 6 + 2 * 28**2 * 6
    assert feature_bytes(handle, [size("knn", "test", None, "a", "missing")]) == 0


LARGE = SetSize("x", "test", 5, "", "c", task_card("ade20k").model_copy(update={"size": 448}))


def encoder(size=64, grid=(4, 4), library=64, depth=2):
    """size: the card's; grid: at the library's."""
    facts = SimpleNamespace(shapes={"dim": 8, "patch_dim": 6, "grid": grid, "depth": depth}, preprocess={"size": library})
    return cast(BackboneHandle, SimpleNamespace(facts=facts, preprocess={"size": size}))


def test_a_cards_size_has_its_own_grid():
    linear = [size("linear", "test", 10, "a")]
    assert encoder_passes(encoder(size=128), linear) == {(128, 64): 10}
    assert encoder_passes(encoder(size=448, grid=(8, 8), library=240, depth=0), linear) == {(448, 14 * 14): 10}  # EfficientNet-B1


def test_a_set_goes_through_the_encoder_once_for_all_that_read_it_alike():
    alike = [size("linear", "test", 10, "a"), size("knn", "test", 10, "a"), size("attentive", "test", 10, "a")]
    assert encoder_passes(encoder(), alike) == {(64, 16): 10}
    other = [
        *alike,
        size("knn", "train", 30, "b"),
        LARGE,
        size("gqa", "train", None, "d", "missing"),
    ]
    assert encoder_passes(encoder(), other) == {(64, 16): 40, (448, 28**2): 5}
    layers = SetSize("x", "test", 10, "", "a", task_card("attentive").model_copy(update={"layers": (-1, -2)}))
    assert encoder_passes(encoder(), [*alike, layers]) == {(64, 16): 20}  # other layers are another pass


def test_windows_mirror_images_and_crops_each_go_through_the_encoder_and_are_stored():
    card = task_card("ade20k")
    windows = card.model_copy(update={"size": 96, "window": 64, "stride": 32, "flip": True})
    one = SetSize("x", "test", 10, "", "a", windows)
    assert encoder_passes(encoder(), [one]) == {(64, 16): 10 * 2 * 2 * 2}
    assert feature_bytes(encoder(), [one]) == 80 * (4 * 8 + 4 * 6 + 2 * 16 * 6)
    assert encoder_passes(encoder(), [size("ade20k-448", "test", 5)]) == {(224, 14 * 14): 5 * 3 * 3 * 2}
    plain, crops = (
        SetSize("x", role, 10, "", role, task_card("attentive").model_copy(update={"views": 3})) for role in ("test", "train")
    )
    assert encoder_passes(encoder(), [plain, crops]) == {(64, 16): 10 + 30}


def test_hours_are_measured_or_unknown():
    r = record("a", "knn", "top1_k20", {}, **RATE, data=DATA)
    found = measured([r], r.weights, "cpu")
    assert found.rates == [10.0]
    sets = [size("knn", "test", 400), size("knn", "train", 600), size("linear", "test", 400)]
    assert hours(found, sets, {"knn": 2, "linear": 3}) == (pytest.approx((100.0 + 2 * 4.0) / 3600), ["linear"])
    assert measured([r], r.weights, "cuda").rates == [] and measured([r], "0" * 64, "cpu").rates == []
    stored = r.model_copy(update={"cache": {"feature_hits": 1, "feature_misses": 1}})
    assert measured([stored], r.weights, "cpu").rates == []  # some features were there: no rate of encoding


def test_answers_take_as_long_as_there_are_test_images():
    seconds = {"features": 10.0, "answers": 20.0, "connector": 5.0, "total": 35.0}
    r = record("a", "gqa", "accuracy", {}, **{**RATE, "seconds": seconds}, data=DATA)
    found = measured([r], r.weights, "cpu")
    found.rates.append(10.0)  # measured by another task
    assert hours(found, [size("gqa", "test", 80)], {"gqa": 1})[0] == pytest.approx((8.0 + 5.0 + 40.0) / 3600)


@pytest.mark.slow
def test_a_dry_run_of_a_suite_shows_what_is_known(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "cache"))
    words = ["run", "--backbone", "random:nano", "--tasks", "suite:dense", "--data", "hub", "--device", "cpu", "--dry-run"]
    assert main(words) == 0
    text = capsys.readouterr().out
    found = re.search(r"through the encoder (.+): ([\d,]+) / R / 3600 hours at R images a second, ([\d.]+) hours at 1,000", text)
    count = sum(int(n.replace(",", "")) for n in re.findall(r"([\d,]+) images of \d+ px", found[1]))
    assert count == int(found[2].replace(",", "")) > 20_000 and float(found[3]) == pytest.approx(count / 3.6e6, abs=0.006)
    assert re.search(r"cityscapes +500 \(published\)", text) and "hours unknown: no record in --out measured it on cpu" in text
    assert main([*words, "--json"]) == 0
    first = json.loads(capsys.readouterr().out)[0]
    assert first["sets"][0] == {"role": "test", "images": 2_000, "why": "not read from the hub yet"}


def test_scenes_that_are_not_drawn_yet_are_not_counted_and_nobody_is_sent_to_download_them(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "cache"))
    assert main(["run", "--backbone", "random:nano", "--tasks", "mmbench,linear,tallyqa", "--device", "cpu", "--dry-run"]) == 0
    out = capsys.readouterr().out
    whys = [line for line in out.splitlines() if line.startswith("not counted")]
    assert len(whys) == 1 and whys[0].endswith("not drawn yet; a run draws them, and counts them then"), whys
    assert "published" not in out.split("test images")[1].split("not counted")[0]
