"""Label propagation: a plain formulation of DINO's evaluation, perfect and blind tokens, the input's geometry, the engine, bad input."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from levl_eval.cards import PropagationCard, parse_card
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.progress import Progress
from levl_eval.engines.propagation.images import overlaid
from levl_eval.engines.propagation.labels import enlarged, followed, reduced, shares
from levl_eval.engines.propagation.task import geometry
from levl_eval.metrics.catalogue import metric
from levl_eval.metrics.video import boundary_accuracy, region_similarity
from levl_eval.models.preprocess import Preprocess
from levl_eval.records import read_samples
from levl_eval.report.html import build
from levl_eval.report.results import Results
from levl_eval.report.sight import share_of_sight
from levl_eval.runner.evaluate import evaluate
from tests.data.test_videos import indexed, small

QUIET = Progress(quiet=True)
SPEC = {"layout": "davis", "directory": "davis", "split": "val"}


def card(**more) -> PropagationCard:
    return PropagationCard(**{"name": "p", "data": SPEC, **more})


def moving(frames: int, grid=(6, 9), dim=12, seed=0) -> list[torch.Tensor]:
    """Tokens that shift by a column a frame over a field of noise, with noise of their own."""
    rng = np.random.default_rng(seed)
    field = rng.standard_normal((grid[0], grid[1] + frames, dim))
    out = [field[:, frames - t : frames - t + grid[1]] + 0.2 * rng.standard_normal((*grid, dim)) for t in range(frames)]
    return [torch.from_numpy(x.reshape(-1, dim).astype(np.float32)) for x in out]


def plain(tokens, first, grid, card_):
    """DINO's program in words of one's own: every affinity exp(cosine / T), none beyond the radius, all but the k largest ones
    (and those equal to the last) to 0, columns to sum 1, labels of the first frame and of the queue of last frames."""
    height, width = grid
    allowed = torch.zeros(height * width, height * width)
    for i in range(height * width):
        for j in range(height * width):
            far = max(abs(i // width - j // width), abs(i % width - j % width))
            allowed[i, j] = card_.radius == 0 or far <= card_.radius
    queue, out = [], []
    for t in range(1, len(tokens)):
        sources, labels = [tokens[0], *(q[0] for q in queue)], [first, *(q[1] for q in queue)]
        target = F.normalize(tokens[t], dim=1)
        affinity = torch.cat([(torch.exp(target @ F.normalize(s, dim=1).T / card_.temperature) * allowed).T for s in sources])
        least = torch.topk(affinity, card_.top_k, dim=0).values.min(0).values
        affinity[affinity < least] = 0
        affinity = affinity / affinity.sum(0, keepdim=True)
        segments = torch.cat([x.reshape(len(first), -1) for x in labels], 1)
        new = (segments @ affinity).reshape(-1, height, width)
        queue = [*queue, (tokens[t], new)][-card_.context_frames :] if card_.context_frames else []
        out.append(new)
    return out


@pytest.mark.parametrize(
    "change", [{}, {"radius": 2}, {"radius": 0, "top_k": 1}, {"context_frames": 0, "temperature": 0.5}, {"context_frames": 2}]
)
def test_propagation_is_dino_s(change):
    grid, chosen = (6, 9), card(**change)
    mask = np.zeros((48, 72), int)
    mask[8:30, 4:28], mask[32:44, 40:60] = 1, 2
    first = reduced(mask, grid, 2)
    tokens = moving(11, grid)
    found = list(followed(iter(tokens), first, grid, chosen))
    expected = plain(tokens, first, grid, chosen)
    assert len(found) == len(expected) == 10
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


def test_masks_are_enlarged_as_dino_does():
    maps = torch.rand(3, 6, 9, generator=torch.Generator().manual_seed(0))
    maps[2] = 0  # an object that nobody sees stays 0
    wide = F.interpolate(maps[None], scale_factor=8, mode="bilinear", align_corners=False, recompute_scale_factor=False)[0]
    for k in range(2):
        wide[k] -= wide[k].min()
        wide[k] /= wide[k].max()
    expected = Image.fromarray(wide.argmax(0).byte().numpy()).resize((101, 57), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(enlarged(maps, (48, 72), (57, 101)), np.array(expected))
    alone = torch.stack([torch.ones(6, 9), torch.zeros(6, 9)])  # nothing but background
    assert (enlarged(alone, (48, 72), (57, 101)) == 0).all()


def test_a_perfect_and_a_blind_encoder():
    """Tokens that tell the object carry it wherever it goes; tokens that are all the same carry nothing but its place."""
    grid, frames = (8, 8), 9
    masks = [np.zeros((64, 64), int) for _ in range(frames)]
    for t, m in enumerate(masks):
        m[16:40, 4 * t : 4 * t + 24] = 1
    first = reduced(masks[0], grid, 1)
    told = [torch.cat([shares(m, grid, 1).flatten(1).T, torch.full((64, 1), 0.1)], 1) for m in masks]
    seen = [enlarged(x, (64, 64), (64, 64)) for x in followed(iter(told), first, grid, card())]
    assert min(region_similarity(s == 1, m == 1) for s, m in zip(seen, masks[1:], strict=True)) > 0.65
    same = [torch.ones(64, 3)] * frames
    blind = list(followed(iter(same), first, grid, card(radius=1)))
    last = region_similarity(enlarged(blind[-1], (64, 64), (64, 64)) == 1, masks[-1] == 1)
    assert last < 0.4 < 0.65 < region_similarity(seen[-1] == 1, masks[-1] == 1)
    assert torch.isfinite(torch.stack(blind)).all()


def test_the_truth_at_the_tokens_resolution():
    mask = np.zeros((16, 32), int)
    mask[:8, :8], mask[0, 8] = 1, 2
    assert shares(mask, (2, 4), 2)[:, 0].tolist() == [[0, 63 / 64, 1, 1], [1, 0, 0, 0], [0, 1 / 64, 0, 0]]
    assert reduced(mask, (2, 4), 2).sum(0).unique().tolist() == [1.0]
    beyond = np.where(mask == 2, 7, mask)  # an object that the first mask does not number
    assert shares(beyond, (2, 4), 1)[0, 0, 1] == 1 and reduced(beyond, (2, 4), 1).shape == (2, 2, 4)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((854, 480), (832, 480)),
        ((480, 854), (480, 832)),
        ((910, 480), (896, 480)),
        ((64, 64), (480, 480)),
        ((500, 480), (448, 480)),
    ],
)
def test_inputs_have_dino_s_sides(size, expected):
    """The short side 480, the other one down to a multiple of 64."""
    preprocess = Preprocess(size=480, resize="free", resize_to=64, interpolation="bilinear")
    assert preprocess.geometry(Image.new("RGB", size)).size == expected
    assert preprocess(Image.new("RGB", size)).shape == (3, expected[1], expected[0])


class Fourteen:
    name, grid, preprocess, depth = "v", (16, 16), Preprocess(size=224), 12


def test_a_multiple_that_cuts_patches_is_refused():
    assert geometry(card(), Fourteen()).resize_to == 14  # type: ignore[arg-type]
    with pytest.raises(LevlError, match="`multiple`: 64 is no multiple of its patch size 14; take 70"):
        geometry(card(multiple=64), Fourteen())  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_engine_on_the_scenes(world, tmp_path):
    run = {"data": str(world), "out": tmp_path / "o", "cache": tmp_path / "c", "progress": QUIET, "device": "cpu"}
    records = evaluate(["random:nano", "oracle:attributes", "oracle:classes?keep=0"], ["davis"], **run)
    assert [r.status for r in records] == ["done"] * 3, [r.reason for r in records]
    some, oracle, blind = (r.metrics["j_and_f"].value for r in records)
    found = records[1].metrics
    assert oracle > some > blind and found["ceiling_tokens"].value > oracle > found["floor_first_mask"].value
    assert found["gain_over_first_mask"].value == pytest.approx(oracle - found["floor_first_mask"].value)
    assert oracle == pytest.approx((found["j_mean"].value + found["f_mean"].value) / 2)
    assert [m for m in found if metric(m).better == "unknown"] == [] and metric("j_decay").lower_is_better
    samples = list(read_samples(tmp_path / "o", records[1]))
    assert len(samples) == records[1].data["counts"]["objects"] and np.mean([s.score for s in samples]) == pytest.approx(oracle)
    assert {s.image_id for s in samples} == {"scene-001/00000.jpg", "scene-002/00000.jpg"}
    # The floor, from the masks themselves.
    floors = []
    for name in ("scene-001", "scene-002"):
        masks = [np.array(Image.open(world / f"davis/DAVIS/Annotations/480p/{name}/{t:05d}.png")) for t in range(12)]
        for n in range(1, masks[0].max() + 1):
            pairs = [(masks[0] == n, m == n) for m in masks[1:-1]]  # neither the first nor the last
            floors.append(np.mean([[region_similarity(*p), boundary_accuracy(*p)] for p in pairs]))
    assert found["floor_first_mask"].value == pytest.approx(np.mean(floors))
    results = Results.read([tmp_path / "o"])
    assert len(re.findall("data:image/png;base64,", build(results))) == 4
    share = share_of_sight(results, results.rows[0], "random:nano")
    floor = found["floor_first_mask"].value
    assert share is not None and share.value == pytest.approx((some - floor) / (oracle - floor))


@pytest.mark.slow
def test_frames_that_are_no_squares_and_videos_of_several_shapes(tmp_path):
    small(tmp_path / "davis", (("bear", 4),), (40, 24))
    small(tmp_path / "more", (("tall", 4),), (24, 60))
    for folder in ("JPEGImages", "Annotations"):
        (tmp_path / "more" / folder / "480p/tall").rename(tmp_path / "davis" / folder / "480p/tall")
    (tmp_path / "davis/ImageSets/2017/val.txt").write_text("bear\ntall\n")
    run = {"data": str(tmp_path), "out": tmp_path / "o", "cache": tmp_path / "c", "progress": QUIET, "device": "cpu"}
    [record] = evaluate(["random:nano"], ["davis"], **run)
    assert record.status == "done" and record.data["counts"] == {"images": 8, "videos": 2, "objects": 2}, record.reason
    assert set(record.metrics) >= {"j_and_f/bear", "j_and_f/tall"}
    [again] = evaluate(["random:nano"], ["davis"], settings=["davis.top_k=3"], **run)
    assert again.status == "done" and again.cache["feature_hits"] > 0 and again.cache["feature_misses"] == 0
    # A frame, or a mask, of another size.
    Image.new("RGB", (30, 24)).save(tmp_path / "davis/JPEGImages/480p/bear/00002.jpg")
    [wrong] = evaluate(["random:nano"], ["davis"], settings=["davis.top_k=2"], **run)
    assert wrong.status == "failed" and "bear/00002.jpg: is 30x24, the video's first frame 40x24" in wrong.reason
    Image.new("RGB", (40, 24)).save(tmp_path / "davis/JPEGImages/480p/bear/00002.jpg")
    indexed(tmp_path / "davis/Annotations/480p/bear/00002.png", np.zeros((24, 30)))
    [wrong] = evaluate(["random:nano"], ["davis"], settings=["davis.top_k=1"], **run)
    assert wrong.status == "failed" and "bear/00002.jpg: frame is 40x24, its mask 30x24; they must be equal" in wrong.reason


def test_drawings_and_cards():
    frame, mask = np.full((4, 4, 3), 100, np.uint8), np.array([[0, 1, 8, 2]] * 4)
    shown = overlaid(frame, mask)
    assert (
        (shown[:, 0] == 100).all()
        and (shown[:, 1] != 100).any()
        and (shown[:, 1] == shown[:, 2]).all()
        and (shown[:, 1] != shown[:, 3]).any()
    )
    base = {"name": "p", "engine": "propagation", "main_metric": "j_and_f", "data": SPEC}
    for change, message in (
        ({"radius": -1}, "field `radius`"),
        ({"main_metric": "iou"}, "field `main_metric`"),
        ({"bound": 0}, "field `bound`"),
    ):
        with pytest.raises(UsageError, match=message):
            parse_card({**base, **change}, "x")
