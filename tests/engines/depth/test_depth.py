"""Depth: readers of the published layouts, metrics and heads against closed forms, the whole engine, bad input."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from levl_eval.cards import DataSpec, parse_card
from levl_eval.cards.dense import DepthCard
from levl_eval.cli import main
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.progress import Progress
from levl_eval.data.check import check
from levl_eval.data.readers import read_depth
from levl_eval.engines.dense_common import mean_loss, trained
from levl_eval.engines.depth.fitting import scored
from levl_eval.engines.depth.head import DepthHead, DepthTokens, depth_loss, grid_depth, token_loss, train_head
from levl_eval.engines.depth.images import paint_depth, paint_error
from levl_eval.metrics.depth import depth_metrics, depth_sums
from levl_eval.records import read_samples
from levl_eval.runner.evaluate import evaluate

CPU, QUIET = torch.device("cpu"), Progress(quiet=True)
SPEC = {"layout": "depth"}


def card(**more) -> DepthCard:
    return DepthCard(**{"name": "d", "main_metric": "rmse", "train": SPEC, "data": SPEC, **more})


def test_metrics_by_hand():
    truth, predicted = np.array([1.0, 2.0, 4.0, 1.0]), np.array([1.1, 2.0, 2.0, 1.6])
    found = depth_metrics(depth_sums(predicted, truth))
    assert found["rmse"] == pytest.approx(np.sqrt((0.01 + 0 + 4 + 0.36) / 4))
    assert found["absrel"] == pytest.approx((0.1 + 0 + 0.5 + 0.6) / 4)
    assert found["log10"] == pytest.approx(np.abs(np.log10(predicted / truth)).mean())
    assert found["silog"] == pytest.approx(np.log(predicted / truth).std())
    assert (found["delta1"], found["delta2"], found["delta3"]) == (0.5, 0.5, 0.75)  # 1.6 is above 1.25^2 = 1.5625
    with pytest.raises(ValueError, match="above 0"):
        depth_sums(np.zeros(2), np.ones(2))


def test_labels_of_tokens_and_scored_pixels():
    depth = np.array([[1.0, 3.0, 0.0, np.nan], [2.0, 20.0, 0.0, 0.0]], np.float32)
    mean = grid_depth(depth, (1, 2), card(max_depth=10.0))
    assert mean[0, 0] == 2.0 and np.isnan(mean[0, 1])  # 20 m is beyond the cap, the rest unknown
    assert grid_depth(depth, (2, 2), card(label_grid="nearest", max_depth=30.0))[1, 0] == 20.0
    room = np.ones((480, 640), np.float32)
    inside = scored(room, card(crop="eigen"))
    rows, columns = np.nonzero(inside)
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (45, 471, 41, 601)
    assert scored(room, card(crop=(0.5, 1.0, 0.0, 0.25))).sum() == 240 * 160
    assert scored(room, card(max_depth=0.5)).sum() == 0


def toy(n: int = 24, noise: float = 0.0):
    """Tokens of which a logarithm of depth is a linear function; one token unknown."""
    rng = np.random.default_rng(0)
    patches = rng.normal(size=(n, 12, 6)) * 3 + 50
    log = 0.2 * (patches - 50) @ np.array([1, -1, 0.5, 0, 0, 0]) / 3 + 0.5 + noise * rng.normal(size=(n, 12))
    labels = np.exp(log).reshape(n, 3, 4).astype(np.float32)
    known = labels.copy()
    known[:, 0, 0] = np.nan
    return patches.astype(np.float32), known, labels


@pytest.mark.slow
def test_ridge_is_the_regression():
    from sklearn.linear_model import Ridge

    patches, known, _ = toy(noise=0.3)
    head, _ = train_head(DepthTokens(patches, known, (3, 4)), card(head="ridge", ridge_lambda=3.0, batch_size=7), 0, CPU, QUIET)
    x = ((patches - patches.mean((0, 1))) / patches.std((0, 1))).reshape(-1, 6)
    keep = np.isfinite(known.reshape(-1))
    reference = Ridge(alpha=3.0).fit(x[keep], np.log(known.reshape(-1)[keep]))
    assert np.allclose(head.linear.linear.weight[0].numpy(), reference.coef_, atol=1e-4)
    assert np.allclose(head(torch.from_numpy(patches)).log().flatten().numpy(), reference.predict(x), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("fields", [
    {"head": "regression"}, {"head": "regression", "target": "metres", "loss": "l1"}, {"head": "bins", "loss": "l2", "lr": 0.1},
    {"head": "bins", "bin_spacing": "log", "bin_weights": "softmax"},
])  # fmt: skip
def test_heads_learn_depth(fields):
    patches, known, labels = toy()
    found = card(**{"lr": 0.03, "epochs": 60, "batch_size": 8, "bins": 64, "max_depth": 5.0, **fields})
    head, curve = train_head(DepthTokens(patches, known, (3, 4)), found, 0, CPU, QUIET)
    mean = depth_metrics(depth_sums(np.full(labels.size, labels.mean()), labels.reshape(-1)))["rmse"]
    own = depth_metrics(depth_sums(head(torch.from_numpy(patches)).flatten().numpy(), labels.reshape(-1)))["rmse"]
    assert own < 0.4 * mean and curve[-1] < 0.5 * curve[0]


def test_bins_and_losses_by_hand():
    c = card(bins=3, min_depth=1.0, max_depth=5.0)
    head = DepthHead(lambda x: x, c, False)  # the linear layer's output itself
    logits = torch.tensor([2.0, -1.0, 0.0]).view(1, 3, 1, 1)
    weight = np.array([2.1, 0.1, 0.1])
    assert head(logits).item() == pytest.approx((weight * [1, 3, 5]).sum() / weight.sum(), rel=1e-5)
    log = DepthHead(lambda x: x, card(bins=3, min_depth=1.0, max_depth=9.0, bin_spacing="log"), False)
    assert log.centres.tolist() == pytest.approx([1, 3, 9], rel=1e-5)
    predicted, truth = torch.tensor([1.0, 4.0]), torch.tensor([2.0, 2.0])
    d = np.log([0.5, 2.0])
    want = np.sqrt((d**2).mean() - 0.85 * d.mean() ** 2)
    assert depth_loss(predicted, truth, c).item() == pytest.approx(want, rel=1e-5)


def test_colours_of_depth():
    metres = np.array([[1.0, 3.0, 10.0, np.nan]])
    keep = np.isfinite(metres)
    near, middle, far, unknown = paint_depth(metres, 1.0, 10.0, keep)[0].astype(int)
    assert near.sum() > middle.sum() > far.sum() and unknown.tolist() == [128] * 3
    error = paint_error(np.array([[1.0, 3.3, 30.0, 1.0]]), metres, keep)[0].tolist()
    assert error[0] == [255] * 3 and error[2] == [200, 30, 30] and error[1][1] == round(255 - 0.2 * 225) and error[3] == [128] * 3


@pytest.mark.slow
def test_show_dense_draws_depth(tmp_path, monkeypatch, capsys):
    rooms(tmp_path / "nyuv2/train", 4, 0)
    rooms(tmp_path / "nyuv2/test", 3, 1)
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "cache"))
    words = ["show-dense", "--backbone", "random:nano", "--task", "nyuv2", "--data", str(tmp_path), "--out", str(tmp_path / "o")]
    assert main([*words, "--set", "nyuv2.head=ridge", "--count", "2", "--side", "32", "--quiet"]) == 0
    assert (
        Image.open(tmp_path / "o" / "nyuv2.png").size == (5 * 36 + 4, 16 + 2 * 36 + 4) and "nyuv2.png" in capsys.readouterr().out
    )


def rooms(folder, n: int, seed: int) -> None:
    """Images whose brightness is their depth, beside 16-bit depths in millimetres; of different sizes."""
    rng = np.random.default_rng(seed)
    for k in range(n):
        size = (48, 64) if k % 2 else (60, 40)
        depth = np.kron(rng.uniform(1, 9, (4, 4)), np.ones((size[0] // 4, size[1] // 4)))
        grey = (depth / 10 * 255).astype(np.uint8)
        place = folder / f"room_{k % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.stack([grey] * 3, -1)).save(place / f"rgb_{k:05d}.png")
        depth[:2] = 0  # unknown
        Image.fromarray((depth * 1000).astype(np.uint16)).save(place / f"sync_depth_{k:05d}.png")


def test_nyuv2_images_from_files_to_record(tmp_path):
    rooms(tmp_path / "nyuv2/sync", 24, 0)
    rooms(tmp_path / "nyuv2/official_splits/test", 8, 1)
    records = evaluate(
        ["random:nano"], ["nyuv2"], data=str(tmp_path), out=tmp_path / "o", cache=tmp_path / "c", device="cpu", progress=QUIET,
        settings=["nyuv2.head=ridge", "nyuv2.crop=none", "nyuv2.size=64"], debug=True,
    )  # fmt: skip
    again = evaluate(
        ["random:nano"], ["nyuv2"], data=str(tmp_path), out=tmp_path / "o", cache=tmp_path / "c", device="cpu", progress=QUIET,
        settings=["nyuv2.head=regression", "nyuv2.crop=none", "nyuv2.size=64", "nyuv2.lr=0.03", "nyuv2.batch_size=8"], debug=True,
    )  # fmt: skip
    first, second = records[0], again[0]
    assert first.cache == {"feature_hits": 0, "feature_misses": 2} and second.cache == {"feature_hits": 2, "feature_misses": 0}
    floor = 2.3  # the standard deviation of depths drawn from 1 to 9 m: what a constant prediction gets
    for record in (first, second):
        m = record.metrics["rmse"]
        assert (
            record.status == "done"
            and m.low < m.value < m.high
            and m.value < 0.6 * floor
            and record.metrics["delta1"].value > 0.5
        )
    samples = list(read_samples(tmp_path / "o", first))
    assert np.mean([s.score for s in samples]) == pytest.approx(first.metrics["rmse"].value)
    assert sum(s.meta["pixels"] for s in samples) == 4 * (46 * 64) + 4 * (58 * 40)
    pooled = np.sqrt(sum(s.meta["pixels"] * s.score**2 for s in samples) / sum(s.meta["pixels"] for s in samples))
    assert first.metrics["pixels/rmse"].value == pytest.approx(pooled, rel=1e-6)
    kept = [np.array(Image.open(tmp_path / "o" / "work" / r.key / "dense.png").convert("RGB")) for r in (first, second)]
    assert kept[0].shape == kept[1].shape == (16 + 6 * 100 + 4, 3 * 100 + 4, 3) and not np.array_equal(*kept)
    assert first.protocol["max_depth"] == 10.0 and first.protocol_hash != second.protocol_hash


def test_the_labelled_mat(tmp_path):
    import h5py
    from scipy.io import savemat

    rng = np.random.default_rng(0)
    pixels, depths = rng.integers(0, 255, (5, 48, 64, 3), dtype=np.uint8), rng.uniform(1, 9, (5, 48, 64)).astype(np.float32)
    (tmp_path / "nyuv2").mkdir()
    with h5py.File(tmp_path / "nyuv2/nyu_depth_v2_labeled.mat", "w") as f:
        f["images"], f["depths"] = pixels.transpose(0, 3, 2, 1), depths.transpose(0, 2, 1)
    spec = DataSpec(layout="nyuv2", directory="nyuv2", split="test")
    with pytest.raises(UsageError, match=r"splits\.mat: no such file"):
        read_depth(spec, str(tmp_path), 1000.0)
    savemat(tmp_path / "nyuv2/splits.mat", {"trainNdxs": np.array([[1], [2], [4]]), "testNdxs": np.array([[3], [5]])})
    test = read_depth(spec, str(tmp_path), 1000.0)
    train = read_depth(spec.model_copy(update={"split": "train"}), str(tmp_path), 1000.0, limit=2)
    assert test.images.ids == ("0003", "0005") and train.images.ids == ("0001", "0002")
    assert np.array_equal(np.asarray(test.images.open("0005")), pixels[4]) and np.array_equal(test.depth("0005"), depths[4])
    assert len({test.fingerprint, train.fingerprint, test.images.fingerprint}) == 3


def test_lists_and_folders(tmp_path):
    rooms(tmp_path / "nyuv2/test", 3, 0)
    (tmp_path / "nyuv2/nyu_test.txt").write_text("/room_1/rgb_00001.png /room_1/sync_depth_00001.png 518.8\n")
    spec = DataSpec(layout="nyuv2", directory="nyuv2", split="test")
    assert read_depth(spec, str(tmp_path), 1000.0).images.ids == ("room_1/rgb_00001.png",)
    (tmp_path / "nyuv2/nyu_test.txt").unlink()
    assert len(read_depth(spec, str(tmp_path), 1000.0).images) == 3
    (tmp_path / "nyuv2/test/room_0/sync_depth_00002.png").unlink()
    with pytest.raises(UsageError, match=r"1 of 3 depth maps are missing, first .*sync_depth_00002"):
        read_depth(spec, str(tmp_path), 1000.0)
    with pytest.raises(UsageError, match="neither nyu_depth_v2_labeled"):
        read_depth(spec.model_copy(update={"split": "train"}), str(tmp_path), 1000.0)
    for kind in ("images", "depths"):
        (tmp_path / "own" / kind).mkdir(parents=True)
    Image.new("RGB", (4, 3)).save(tmp_path / "own/images/a.png")
    np.save(tmp_path / "own/depths/a.npy", np.full((3, 4), 2.5))
    own = DataSpec(layout="depth", images="own/images", annotations="own/depths")
    assert read_depth(own, str(tmp_path), 1000.0).depth("a.png")[2, 3] == 2.5  # floats are metres
    np.save(tmp_path / "own/depths/b.npy", np.zeros((3, 4)))
    with pytest.raises(UsageError, match="1 depth maps have no image, first b"):
        read_depth(own, str(tmp_path), 1000.0)
    with pytest.raises(UsageError, match="`annotations` is not set"):
        read_depth(DataSpec(layout="depth", images="own/images"), str(tmp_path), 1.0)


@pytest.mark.parametrize("content,message", [
    (lambda f: Image.new("RGB", (4, 3)).save(f, "PNG"), "a RGB image; expected one depth a pixel"),
    (lambda f: f.write(b"nonsense"), "depths/a.png: cannot be decoded"),
    (lambda f: Image.fromarray(np.full((2, 2), 2900, np.uint16)).save(f, "PNG"), "image is 4x3, its depth map 2x2"),
    (lambda f: Image.fromarray(np.zeros((3, 4), np.uint16)).save(f, "PNG"), "no pixel of the 1 depth maps has a depth"),
    (lambda f: Image.fromarray(np.full((3, 4), 60000, np.uint16)).save(f, "PNG"), "is further than `max_depth` (10 m)"),
])  # fmt: skip
def test_bad_depth_is_told_in_one_line(tmp_path, content, message):
    for kind in ("images", "depths"):
        (tmp_path / kind).mkdir()
    Image.new("RGB", (4, 3)).save(tmp_path / "images/a.png")
    buffer = io.BytesIO()
    content(buffer)
    (tmp_path / "depths/a.png").write_bytes(buffer.getvalue())
    settings = [
        f"depth.{part}.{k}={tmp_path / v}"
        for part in ("train", "data")
        for k, v in (("images", "images"), ("annotations", "depths"))
    ]
    [record] = evaluate(
        ["random:nano"], ["depth"], data=str(tmp_path), settings=settings, out=tmp_path / "o", cache=tmp_path / "c", progress=QUIET,
        device="cpu",
    )  # fmt: skip
    assert record.status == "failed" and message in record.reason and "\n" not in record.reason


def test_cards_that_contradict_themselves():
    base = {"name": "d", "engine": "depth", "main_metric": "rmse", "train": SPEC, "data": SPEC}
    with pytest.raises(UsageError, match=r"max_depth 1\.0 is not above min_depth 2\.0"):
        parse_card({**base, "min_depth": 2.0, "max_depth": 1.0}, "x")
    with pytest.raises(UsageError, match="crop: expected shares"):
        parse_card({**base, "crop": [0.5, 0.1, 0, 1]}, "x")
    with pytest.raises(UsageError, match="holds no depth maps"):
        read_depth(DataSpec(layout="ade20k"), ".", 1.0)
    with pytest.raises(LevlError, match="no training pixel"):
        train_head(
            DepthTokens(np.zeros((1, 1, 2), np.float32), np.full((1, 1, 1), np.nan, np.float32), (1, 1)), card(), 0, CPU, QUIET
        )


def test_data_check_knows_nyuv2(tmp_path):
    rooms(tmp_path / "nyuv2/train", 3, 0)
    rooms(tmp_path / "nyuv2/test", 3, 1)
    test, train = sorted(check(tmp_path), key=lambda f: f.set)
    assert (test.set, test.level, train.set) == ("nyuv2/test", "note", "nyuv2/train")
    assert test.message.startswith("3 pairs, ") and test.message.endswith(" m; the labelled release has 654")
    first, second, third = sorted((tmp_path / "nyuv2/test").rglob("sync_depth_*.png"))
    Image.fromarray(np.full((7, 9), 1500, np.uint16)).save(first)
    Image.fromarray(np.zeros(Image.open(second).size[::-1], np.uint16)).save(second)
    Image.fromarray(np.full(Image.open(third).size[::-1], 60_000, np.uint16)).save(third)
    errors = [f"{f.level} {f.message}" for f in check(tmp_path) if f.set == "nyuv2/test"][1:]
    assert errors[0].startswith("error ") and "further than `max_depth` (10 m), up to 60 m" in errors[0]
    assert (
        errors[1].startswith("error 1 depth maps are of another size than their image, first ") and "depth map 9x7" in errors[1]
    )
    assert errors[2].startswith("error 1 depth maps hold no depth, first ") and len(errors) == 3
    third.unlink()
    assert any("1 of 3 depth maps are missing" in f.message for f in check(tmp_path))


def test_a_head_that_learns_its_tokens_by_heart_is_stopped_by_images_it_has_not_seen():
    """288 tokens of noise and 1,792 weights: the loss on them falls for ever, the loss on others rises."""
    patches, known, _ = toy(noise=1.0)
    noise = np.random.default_rng(1).normal(size=(24, 12, 64)).astype(np.float32)
    data = DepthTokens(np.concatenate([patches, noise], -1), known, (3, 4))
    asked: list[int] = []

    def train(card, tokens):
        asked.append(card.epochs)
        assert card.epochs or len(tokens) < len(data)  # what is not trained is only looked at
        return train_head(tokens, card, 0, CPU, QUIET)

    def notes_of(until):
        asked.clear()
        return trained(card(until=until, lr=0.02, batch_size=8), data, train, token_loss, 0, CPU)[1]

    seen = notes_of("converged")
    longest = max(asked)
    unseen = notes_of("held-out")
    assert unseen["converged"]["converged"] and unseen["converged"]["epochs"] == asked[-1] < longest, (seen, unseen)
    assert [e for e, _ in unseen["converged"]["tried"]] == asked[:-1]


@pytest.mark.parametrize("views", [1, 3])
def test_what_a_head_is_stopped_by_is_never_trained_on_and_whole_images_are_held_out(views):
    patches = np.arange(30, dtype=np.float32).repeat(12 * 6).reshape(30, 12, 6)
    data = DepthTokens(patches, np.ones((30, 3, 4), np.float32), (3, 4))
    parts: list[set[int]] = []

    def train(card, tokens):
        parts.append({int(x) for x in tokens.batch(torch.arange(len(tokens)), CPU)[0][:, 0, 0]})
        return torch.nn.Identity(), [1.0] * card.epochs

    def loss(head, x, y):
        unseen.update(int(v) for v in x[:, 0, 0])
        return torch.tensor(1.0)

    unseen: set[int] = set()
    trained(card(until="held-out"), data, train, loss, 0, CPU, views)
    *some, everything = parts
    assert everything == set(range(30)) and all(part == everything - unseen for part in some)
    assert len(unseen) == 3 and len({k // views for k in unseen}) == len(unseen) // views


def test_nothing_to_hold_out_is_said():
    one = DepthTokens(np.ones((1, 12, 6), np.float32), np.ones((1, 3, 4), np.float32), (3, 4))
    with pytest.raises(LevlError, match="hold out"):
        trained(card(until="held-out"), one, lambda c, d: train_head(d, c, 0, CPU, QUIET), token_loss, 0, CPU)
    bare = DepthTokens(np.ones((4, 12, 6), np.float32), np.full((4, 3, 4), np.nan, np.float32), (3, 4))
    with pytest.raises(LevlError, match="no held-out"):
        mean_loss(torch.nn.Identity(), bare, token_loss, 4, CPU)
