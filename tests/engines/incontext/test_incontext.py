"""In-context segmentation: a perfect and a blind encoder, the published steps in plain loops, the search, crops and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from levl_eval.backbones import load_backbone
from levl_eval.cards import DataSpec
from levl_eval.cards.registry import task_card
from levl_eval.core.errors import UsageError
from levl_eval.core.progress import Progress
from levl_eval.data.readers import read_segmentation
from levl_eval.engines.contract import Context
from levl_eval.engines.incontext import memory as memory_module
from levl_eval.engines.incontext.memory import Memory, NeighbourShares, chosen_patches, nearest, pixel_counts
from levl_eval.engines.incontext.task import Masks, run
from levl_eval.engines.segmentation.fitting import mask_at, task_preprocess
from levl_eval.features.augmented import cropped
from levl_eval.features.store import FeatureStore
from levl_eval.metrics.segmentation import confusion_matrix
from levl_eval.report.html import build
from levl_eval.report.results import Results
from levl_eval.report.tables import floor_notes
from levl_eval.runner.evaluate import evaluate

QUIET, CPU = Progress(quiet=True), torch.device("cpu")


def context(world, folder, backbone="random:nano", limit=None, seed=0, **settings):
    card = task_card("ade20k-incontext", {k.replace("__", "."): str(v) for k, v in settings.items()})
    loaded = load_backbone(backbone)
    loaded.open_data(str(world))
    return Context(card, loaded, str(world), seed, FeatureStore(folder), folder, CPU, limit=limit, progress=QUIET)


def plain_iou(shares, masks, classes):
    """mIoU of label shares [N, h, w, C] brought to the masks' size; what is beyond the classes is never right."""
    maps = F.interpolate(torch.from_numpy(np.stack(shares)).float().permute(0, 3, 1, 2), size=masks[0].shape, mode="bilinear")
    table = np.zeros((classes + 1, classes + 1), np.int64)
    for predicted, mask in zip(maps.argmax(1).numpy(), masks, strict=True):
        table += confusion_matrix(np.minimum(predicted, classes), mask, classes + 1, 255)
    inter, target, prediction = np.diag(table)[:classes], table.sum(1)[:classes], table.sum(0)[:classes]
    union = target + prediction - inter
    return float(np.mean(inter[union > 0] / union[union > 0]))


def plain_shares(mask, side, classes, void):
    """[side, side, classes] shares of a mask's cells, pixel by pixel, and which cells hold a label."""
    step = len(mask) // side
    out = np.zeros((side, side, classes + (void == "class")))
    for (y, x), value in np.ndenumerate(mask):
        if value == 255:
            if void == "dropped":
                continue
            value = 0 if void == "first" else classes
        out[y // step, x // step, value] += 1
    total = out.sum(-1, keepdims=True)
    return out / np.maximum(total, 1), total[..., 0] > 0


def sets_of(c):
    train, test = (read_segmentation(s, c.data, limit) for s, limit in ((c.card.train, None), (c.card.data, c.limit)))
    geometry = task_preprocess(c.card, c.backbone.preprocess)
    return train, test, geometry


def test_perfect_sight_gives_what_the_grid_of_patches_can_and_none_gives_the_floor(world, tmp_path):
    """Its own patches in the memory, one neighbour: the true shares of each patch, no more and no less."""
    settings = {"train__split": "validation", "neighbours": 1, "memory_size": "null", "void": "dropped"}
    c = context(world, tmp_path, "oracle:classes", **settings)
    outcome = run(c)
    _, test, geometry = sets_of(c)
    masks = [mask_at(test, n, geometry) for n in test.images.ids]
    ceiling = plain_iou([plain_shares(m, 8, len(test.classes), "dropped")[0] for m in masks], masks, len(test.classes))
    assert outcome.metrics["mean_iou"].value == pytest.approx(ceiling, abs=1e-9) and ceiling > 0.6
    blind = run(context(world, tmp_path, "oracle:classes?keep=0", **(settings | {"neighbours": 30})))
    floor = blind.metrics["floor_majority_map"].value
    assert blind.metrics["mean_iou"].value < floor + 0.01 and floor < 0.2 * ceiling
    assert outcome.metrics["floor_majority_map"].value == floor
    gain = outcome.metrics["gain_over_majority_map"]
    assert gain.value == pytest.approx(ceiling - floor) and gain.low > 0


@pytest.mark.slow
@pytest.mark.parametrize("void", ["first", "class", "dropped"])
def test_the_published_steps_in_plain_loops(void, world, tmp_path):
    """One-hot labels averaged over a patch's pixels, cosines of all to all, the 30 largest, softmax over 0.02, bilinear, argmax."""
    masks = sorted((world / "ade20k/ADEChallengeData2016/annotations").rglob("*.png"))
    for k, mask in enumerate(masks):  # every third column is void, in each second mask whole patches are
        (tmp_path / mask.relative_to(world)).parent.mkdir(parents=True, exist_ok=True)
        labels = np.array(Image.open(mask))
        labels[:, :24:3] = 0
        if k % 2:
            labels[16:40, 24:] = 0
        Image.fromarray(labels).save(tmp_path / mask.relative_to(world))
    (tmp_path / "ade20k/ADEChallengeData2016/images").symlink_to(world / "ade20k/ADEChallengeData2016/images")
    (tmp_path / "ade20k/ADEChallengeData2016/objectInfo150.txt").symlink_to(
        world / "ade20k/ADEChallengeData2016/objectInfo150.txt"
    )
    c = context(tmp_path, tmp_path / "features", limit=6, memory_size="null", void=void, token_dtype="float32")
    outcome = run(c)
    train, test, geometry = sets_of(c)
    classes = len(test.classes)

    def tokens(data):
        pixels = torch.stack([torch.from_numpy(np.array(geometry.geometry(data.images.open(n)))) for n in data.images.ids])
        normal = (pixels.permute(0, 3, 1, 2) / 255 - torch.tensor(geometry.mean).view(3, 1, 1)) / torch.tensor(geometry.std).view(
            3, 1, 1
        )
        with torch.inference_mode():
            return F.normalize(c.backbone.encode(normal.float()).patches, dim=-1).numpy()

    shares, labelled = zip(*(plain_shares(mask_at(train, n, geometry), 8, classes, void) for n in train.images.ids), strict=True)
    keep = np.stack(labelled).reshape(-1)
    keys, values = tokens(train).reshape(-1, c.backbone.patch_dim)[keep], np.stack(shares).reshape(len(keep), -1)[keep]
    predicted = []
    for image in tokens(test):
        cosine = image @ keys.T
        at = np.argsort(-cosine, 1)[:, :30]
        weight = np.exp(np.take_along_axis(cosine, at, 1).astype(np.float64) / 0.02)
        predicted.append(np.einsum("qk,qkc->qc", weight / weight.sum(1, keepdims=True), values[at]).reshape(8, 8, -1))
    masks = [mask_at(test, n, geometry) for n in test.images.ids]
    assert (np.stack(masks) == 255).any()
    assert outcome.metrics["mean_iou"].value == pytest.approx(plain_iou(predicted, masks, classes), abs=1e-9)
    assert outcome.notes["memory"] == {"patches": int(keep.sum()), "asked": None, "views": 24, "most_of_a_view": None}
    assert sum(v[1] for s in outcome.samples for v in s.meta["counts"].values()) == sum(int((m != 255).sum()) for m in masks)


def test_patches_with_rare_classes_come_first():
    """Scores by the published loops: how many patches hold each class, summed over a patch's classes, times a uniform draw."""
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 3, (40, 6)) * (rng.random((40, 6)) < 0.3)
    counts[5] = 0  # void
    frequency = [sum(counts[p, k] > 0 for p in range(40)) for k in range(6)]
    labelled = [p for p in range(40) if counts[p].any()]
    draws = np.random.default_rng(3).random(len(labelled))
    score = {p: u * sum(frequency[k] for k in range(6) if counts[p, k]) for p, u in zip(labelled, draws, strict=True)}
    wanted = sorted(sorted(labelled, key=lambda p: score[p])[:9])
    assert chosen_patches(counts, 9, "balanced", np.random.default_rng(3)).tolist() == wanted
    assert chosen_patches(counts, 9, "random", np.random.default_rng(3)).tolist() != wanted
    assert (
        chosen_patches(counts, None, "balanced", rng).tolist() == chosen_patches(counts, 99, "random", rng).tolist() == labelled
    )


def test_pixels_are_counted_in_the_patch_they_lie_in():
    mask = np.array([[0, 1, 255, 255], [1, 1, 2, 2], [0, 0, 0, 0], [0, 0, 0, 2]])
    assert pixel_counts(mask, (2, 2), 3).tolist() == [[1, 3, 0], [0, 0, 2], [4, 0, 0], [3, 0, 1]]


def test_the_search_in_blocks_is_exact(monkeypatch):
    rng = torch.Generator().manual_seed(0)
    keys, queries = torch.randn(50, 6, generator=rng) * 10, torch.randn(9, 6, generator=rng)
    memory = Memory(keys.half(), 1 / keys.half().float().norm(dim=-1), torch.ones(50, 2, dtype=torch.int16))
    whole = (F.normalize(queries, dim=-1) @ F.normalize(keys.half().float(), dim=-1).T).topk(12)
    for size in (5, 7, 50):
        monkeypatch.setattr(memory_module, "KEYS", size)
        cosines, places = nearest(queries, memory, 12)
        assert torch.allclose(cosines, whole.values, atol=1e-6) and places.tolist() == whole.indices.tolist()
    few = NeighbourShares(Memory(keys[:3], 1 / keys[:3].norm(dim=-1), torch.tensor([[4, 0], [1, 3], [0, 4]])), 30, 0.1, (3, 3))
    shares = few(queries[None])
    assert shares.shape == (1, 2, 3, 3) and torch.allclose(shares.sum(1), torch.ones(1, 3, 3))


def test_of_equal_cosines_the_first_patches_are_the_neighbours_whatever_the_blocks(monkeypatch):
    keys = torch.eye(4)[[3, 0, 1, 0, 2, 0, 0, 1, 0]]
    memory = Memory(keys, torch.ones(9), torch.ones(9, 2, dtype=torch.int16))
    for size in (2, 3, 9):
        monkeypatch.setattr(memory_module, "KEYS", size)
        assert nearest(torch.eye(4)[[0, 1]], memory, 3)[1].tolist() == [[1, 3, 5], [2, 7, 0]]


def test_the_memory_is_bounded_seeded_and_said(world, tmp_path):
    outcomes = [run(context(world, tmp_path, limit=4, seed=s, memory_size=24 * 5)) for s in (0, 0, 1)]
    values = [o.metrics["mean_iou"].value for o in outcomes]
    assert values[0] == values[1] != values[2]
    crops = run(context(world, tmp_path, limit=4, memory_size=24 * 2 * 5, views=2))
    assert crops.notes["memory"] == {"patches": 240, "asked": 240, "views": 48, "most_of_a_view": 5}
    assert crops.metrics["floor_majority_map"] == outcomes[0].metrics["floor_majority_map"]  # of the images as they are
    assert crops.cache == {"feature_hits": 1, "feature_misses": 2}  # the test images are there
    assert outcomes[0].notes["memory"] == {"patches": 120, "asked": 120, "views": 24, "most_of_a_view": 5}


def test_masks_of_crops_are_cut_as_their_images_are(tmp_path):
    """Images whose brightness is their label."""
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for k in range(2):
        mask = rng.integers(0, 4, (6, 5)).repeat(12, 0).repeat(12, 1).astype(np.uint8)
        Image.fromarray(mask).save(tmp_path / "masks" / f"{k}.png")
        Image.fromarray(np.stack([mask * 60] * 3, -1)).save(tmp_path / "images" / f"{k}.png")
    place = {"layout": "segmentation", "images": str(tmp_path / "images"), "annotations": str(tmp_path / "masks")}
    c = context(tmp_path, tmp_path, views=2, interpolation="nearest", void="dropped", view_scale="[0.3, 0.6]")
    own = DataSpec(**place, classes=list("abcd"), reduce_zero_label=False)
    train = read_segmentation(own, str(tmp_path))
    geometry = task_preprocess(c.card, c.backbone.preprocess)
    masks = Masks(c, train, geometry, (8, 8))
    each = []
    for version in range(2):
        views = cropped(train.images, version, c.card.view_scale, c.card.view_ratio, 0.0, 0)
        for name, counts in zip(train.images.ids, masks.counts(version), strict=True):
            seen = np.array(geometry.geometry(views.open(name)))[..., 0].astype(int) // 60
            assert (counts == pixel_counts(seen, (8, 8), 4)).all()
            each.append(counts)
    assert not (each[0] == each[2]).all()
    assert masks.plain().shape == (2, 8, 8)


def test_what_cannot_be_is_one_line(world, tmp_path):
    for settings, words in [
        ({"memory_size": 10}, "field `memory_size`: 10 is less than one patch of each of 24 training views; raise it"),
        ({"memory_size": 30, "views": 2}, "of each of 48 training views"),
        ({"score": "original", "resize": "shortest"}, "needs `resize: squash`"),
    ]:
        with pytest.raises(UsageError, match=words) as e:
            run(context(world, tmp_path, limit=2, **settings))
        assert "\n" not in str(e.value)


@pytest.mark.slow
def test_a_run_names_its_memory_in_the_table_and_shows_images(world, tmp_path):
    records = evaluate(
        ["random:nano", "oracle:classes"], ["ade20k-incontext"], data=str(world), settings=["ade20k-incontext.memory_size=480"],
        limit=4, out=tmp_path / "o", cache=tmp_path / "c", device="cpu", progress=QUIET, debug=True,
    )  # fmt: skip
    assert {r.resolved["score_size"] for r in records} == {64} and all("converged" not in r.notes for r in records)
    results = Results.read([tmp_path / "o"])
    assert [row.title for row in results.rows] == ["ade20k-incontext (memory_size=480)"]
    assert not [n for n in floor_notes(results.records) if "memory" in n]  # it is what the mark says
    wide = [r.model_copy(update={"notes": {"memory": {"patches": 1536, "asked": 2000, "views": 24}}}) for r in results.records]
    said = "ade20k-incontext: memory of 1,536 patches, all that 24 views gave, 2,000 asked for"
    assert [n for n in floor_notes(wide) if "memory" in n] == [said]
    page = build(results)
    section = page[page.index('id="dense"') : page.index('id="browse"')]
    assert section.count("<img src=") == 3 and "memory_size=480" in section
