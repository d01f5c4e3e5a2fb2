"""Exported features are those the heads read: another library's head on them gives our numbers."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors import safe_open
from sklearn.neighbors import KNeighborsClassifier

import levl_eval
from levl_eval.cli import main
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.progress import Progress
from levl_eval.runner.exporting import ExportOptions, export_features

QUIET = Progress(quiet=True)


def table(path):
    found = pq.read_table(path)
    return found, np.stack(found["features"].to_numpy()), found["label"].to_numpy()


def test_scikit_learn_on_them_gives_our_numbers(world, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "cache"))
    words = ["features", "export", "--backbone", "random-nano", "--task", "knn", "--data", str(world), "--quiet"]
    for part in ("train", "test"):
        assert main([*words, "--part", part, "--out", str(tmp_path / f"{part}.parquet")]) == 0
    capsys.readouterr()
    (found, x, y), (_, test, labels) = table(tmp_path / "train.parquet"), table(tmp_path / "test.parquet")
    assert x.dtype == np.float32 and found.column_names == ["id", "features", "label", "class"]
    k, temperature = 5, 0.07
    unit = [a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, test)]
    # |u - v|^2 = 2 - 2 cos, so the weight exp(cos / T) follows from the distance that scikit-learn gives.
    head = KNeighborsClassifier(k, weights=lambda d: np.exp((1 - d**2 / 2) / temperature), algorithm="brute").fit(unit[0], y)
    theirs = float((head.predict(unit[1]) == labels).mean())
    settings = [f"knn.k=[{k}]", f"knn.main_metric=top1_k{k}"]
    record = levl_eval.evaluate(
        ["random-nano"], ["knn"], data=str(world), settings=settings, out=tmp_path / "run", progress=QUIET
    )[0]
    assert record.cache["feature_misses"] == 0, "what was exported is what is in the store"
    assert record.metrics[f"top1_k{k}"].value == pytest.approx(theirs)
    identity = json.loads(found.schema.metadata[b"levl_eval"])
    assert identity["backbone"]["weights_sha256"] == record.backbone["weights_sha256"]
    assert identity["data"]["part"] == "train" and identity["readout"] == "pooled"


def test_a_folder_as_safetensors_with_tokens(world, tmp_path, monkeypatch):
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "cache"))
    folder = world / "classification" / "test"
    path = export_features(
        "random-nano", tmp_path / "f.safetensors", ExportOptions(images=folder, readout="patches", limit=5), QUIET
    )
    with safe_open(path, "np") as f:
        features, metadata = f.get_tensor("features"), f.metadata()
        assert list(f.keys()) == ["features"]
    backbone = levl_eval.load_backbone("random-nano")
    ids = json.loads(metadata["ids"])
    assert features.shape == (5, backbone.grid[0] * backbone.grid[1], backbone.patch_dim) and len(ids) == 5
    from levl_eval.data.images import open_rgb

    one = backbone.encode(backbone.preprocess(open_rgb(folder / ids[3]))[None]).patches[0].numpy()
    np.testing.assert_allclose(features[3], one, rtol=2e-3, atol=2e-3)  # stored in half precision
    assert json.loads(metadata["levl_eval"])["data"]["count"] == 5


@pytest.mark.parametrize(
    ("options", "out", "message"),
    [
        ({}, "f.parquet", "either --task T or --images DIR"), ({"task": "knn", "images": "x"}, "f.parquet", "either --task"),
        ({"task": "knn"}, "f.csv", "ends in none of"), ({"task": "knn", "readout": "patches"}, "f.parquet", "patch tokens"),
        ({"task": "ade20k"}, "f.parquet", "reads no classified images"), ({"images": "nowhere"}, "f.parquet", "no such folder"),
        ({"task": "attentive"}, "f.parquet", "patch tokens"),
        ({"task": "zeroshot", "part": "train"}, "f.parquet", "trains nothing"), ({"task": "knm"}, "f.parquet", "knn"),
    ],
)  # fmt: skip
def test_what_cannot_be_exported_is_told_before_anything_is_computed(world, tmp_path, monkeypatch, options, out, message):
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UsageError, match=message):
        export_features("random-nano", tmp_path / out, ExportOptions(**{"data": str(world), **options}), QUIET)
    assert not (tmp_path / out).exists()


def test_a_class_token_that_is_not_there(world, tmp_path, monkeypatch):
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "cache"))
    options = ExportOptions(task="knn", readout="cls", data=str(world))
    with pytest.raises(LevlError, match="--readout: cls: .* has no class token"):
        export_features("random:convnext_atto", tmp_path / "f.parquet", options, QUIET)


def test_an_attentive_heads_features_are_tokens_and_a_limit_holds_for_either_part(world, tmp_path, monkeypatch):
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "cache"))
    options = ExportOptions(task="attentive", data=str(world), part="train", limit=24)
    with safe_open(export_features("random-nano", tmp_path / "f.safetensors", options, QUIET), "np") as f:
        shape = f.get_tensor("features").shape
        assert len(shape) == 3 and shape[0] == 24 == len(f.get_tensor("labels"))
