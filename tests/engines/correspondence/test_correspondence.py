"""Semantic correspondence: places and matches against plain formulations of the published evaluators,
perfect and blind inputs, the engine."""

from __future__ import annotations

import base64
import json
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from levl_eval.cards import CorrespondenceCard, DataSpec, parse_card
from levl_eval.core.errors import UsageError
from levl_eval.core.progress import Progress
from levl_eval.data.readers import read_pairs
from levl_eval.engines.correspondence.images import with_matches, with_points
from levl_eval.engines.correspondence.matching import Frame, Matches, Target, features_at, matched
from levl_eval.engines.correspondence.task import metrics_of, samples_of, score
from levl_eval.metrics.catalogue import metric
from levl_eval.models.preprocess import Preprocess
from levl_eval.records import read_samples
from levl_eval.report.html import build
from levl_eval.report.results import Results
from levl_eval.runner.evaluate import evaluate

QUIET = Progress(quiet=True)
SPEC = {"layout": "spair71k", "directory": "spair71k", "split": "test"}
SIZES = ((50, 37), (31, 64))  # of a source and a target, width and height


def card(**more) -> CorrespondenceCard:
    return CorrespondenceCard(**{"name": "c", "main_metric": "pck_per_point", "data": SPEC, **more})


def tokens(n: int, dim: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32))


def test_matching_is_dift_s():
    """Features interpolated to the images' pixels by torch, the cosine of every pixel, the first best one (DIFT's evaluation, plainly)."""
    source, target = tokens(20, seed=1), tokens(20, seed=2)
    points = np.array([[0, 0], [49, 36], [3, 30], [25, 18], [48, 1]], float)
    maps = [
        F.interpolate(t.view(1, 4, 5, -1).permute(0, 3, 1, 2), size=s[::-1], mode="bilinear", align_corners=False)[0]
        for t, s in zip((source, target), SIZES, strict=True)
    ]
    frames = [Frame(s, 70, (4, 5)) for s in SIZES]
    queries = features_at(source, frames[0], points, "bilinear")
    expected = []
    for (x, y), query in zip(points.astype(int), queries, strict=True):
        vector = maps[0][:, y, x]
        torch.testing.assert_close(query, vector, atol=1e-5, rtol=1e-5)
        cosines = torch.einsum("c,chw->hw", F.normalize(vector, dim=0), F.normalize(maps[1], dim=0))
        row, column = np.unravel_index(int(cosines.argmax()), cosines.shape)
        expected.append([column, row])
        # Every candidate has its cosine, not the best one alone.
        found = Target(target, frames[1], "pixel").cosines(query[None])[0]
        torch.testing.assert_close(found, cosines, atol=2e-5, rtol=1e-4)
    np.testing.assert_array_equal(matched(Target(target, frames[1], "pixel"), queries).best, expected)


def test_matching_is_that_of_two_features():
    """A black border, the token that a point lies in, the best token's middle
    (A Tale of Two Features, 840 px and patches of 14, plainly)."""
    side, patch, count = 84, 14, 6
    source, target = tokens(count**2, seed=3), tokens(count**2, seed=4)
    points = np.array([[0, 0], [49, 36], [3, 30], [25, 18]], float)

    def padded(kps, size):
        scale, (width, height) = side / max(size), size
        x, y = kps[:, 0] * scale, kps[:, 1] * scale
        if height < width:
            y = y + int((side - int(np.around(side * height / width))) / 2)
        elif width < height:
            x = x + int((side - int(np.around(side * width / height))) / 2)
        return np.stack([x, y], 1)

    at = (count / side * padded(points, SIZES[0])).astype(int)
    cosines = F.normalize(source, dim=-1)[count * at[:, 1] + at[:, 0]] @ F.normalize(target, dim=-1).T
    best = cosines.argmax(1).numpy()
    # in the input
    expected = np.stack([(best % count) * patch + patch // 2 - 0.5, (best // count) * patch + patch // 2 - 0.5], 1)
    frames = [Frame(s, side, (count, count), pad=True) for s in SIZES]
    found = matched(Target(target, frames[1], "token"), features_at(source, frames[0], points, "token"))
    np.testing.assert_allclose(padded(found.best, SIZES[1]), expected, atol=1e-9)


@pytest.mark.parametrize("size", SIZES)
def test_padding_puts_an_image_where_its_points_are_sought(size):
    """One white pixel, enlarged: its middle in the padded input is where the frame says it is, to a pixel of the input."""
    image = np.zeros((*size[::-1], 3), np.uint8)
    image[20, 7] = 255
    pixels = Preprocess(size=640, resize="pad", interpolation="nearest").pixels(Image.fromarray(image))
    assert pixels.shape == (640, 640, 3)
    middle = np.argwhere(pixels[..., 0]).mean(0)[::-1]
    place = Frame(size, 640, (64, 64), pad=True).to_tokens(np.array([[7.0, 20.0]]))
    # As published: without the half pixel of the image, which is half of the enlargement.
    half = 640 / max(size) / 2
    np.testing.assert_allclose((place[0] + 0.5) * 10 - 0.5 + half - 0.5, middle, atol=1.1)


def test_a_perfect_and_a_blind_encoder():
    """An encoder that knows where each pixel is finds itself;
    one that says the same of everything has the score of chance, wherever it begins to look."""
    rows = columns = 12
    places = torch.stack(torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij"), -1).view(-1, 2)
    centres = torch.stack(torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij"), -1).view(1, -1, 2)
    known = torch.exp(-((places[:, None] - centres) ** 2).sum(-1) / 2)
    frame = Frame((48, 48), 96, (rows, columns))
    points = np.array([[10, 10], [20, 31], [40, 5]], float)
    for query, candidates in (("bilinear", "pixel"), ("token", "token")):
        found = matched(Target(known, frame, candidates), features_at(known, frame, points, query))
        assert found.hits(points, 40.0, 0.1).tolist() == [1, 1, 1]  # a token is 4 pixels
    flat = matched(Target(torch.ones(144, 3), frame, "token"), features_at(torch.ones(144, 3), frame, points, "token"))
    near = [np.hypot(*(np.stack(np.meshgrid(*frame.middles()), -1) - p).T) <= 10 for p in points]
    np.testing.assert_allclose(flat.hits(points, 100.0, 0.1), [n.mean() for n in near])
    nothing = matched(Target(torch.zeros(144, 3), frame, "pixel"), features_at(torch.zeros(144, 3), frame, points, "bilinear"))
    assert all(len(t) == 48 * 48 for t in nothing.tied)


class Told:
    """A matcher that answers what it is given, by pair."""

    def __init__(self, card_, sizes, answers):
        self.card, self.sizes, self._answers = card_, sizes, answers

    def __call__(self, pair):
        places = np.asarray(self._answers(pair), float)
        return Matches(places, [p[None] for p in places])


class Silent:
    progress = QUIET


def scored(world, answers, **more):
    chosen = card(**more)
    test = read_pairs(chosen.data, str(world))
    sizes = dict.fromkeys(test.images.ids, (64, 64))
    return score(Silent(), Told(chosen, sizes, answers), list(test.pairs)), chosen, test  # type: ignore[arg-type]


def test_scores_by_hand(world):
    """Half of each pair's points exact, the others just within or beyond a tenth of the box."""

    def answers(pair):
        left, top, right, bottom = pair.target_box
        longer = max(right - left, bottom - top)
        steps = np.array([0.0, 0.0999, 0.1001, 0.04])[np.arange(len(pair.names)) % 4]
        return pair.target_points + np.stack([steps * longer, np.zeros(len(steps))], 1)

    found, chosen, test = scored(world, answers)
    metrics = metrics_of(found, chosen)
    right = [(np.arange(len(p.names)) % 4 != 2).astype(float) for p in test.pairs]
    assert metrics["pck_per_point"].value == pytest.approx(np.concatenate(right).mean())
    assert metrics["pck_per_image"].value == pytest.approx(np.mean([r.mean() for r in right]))
    assert metrics["pck_per_point"].value != pytest.approx(metrics["pck_per_image"].value, abs=1e-6)
    closer = [(np.arange(len(p.names)) % 4 % 3 == 0).astype(float) for p in test.pairs]
    assert metrics["pck_per_point@0.05"].value == pytest.approx(np.concatenate(closer).mean())
    kinds = np.array([p.category for p in test.pairs])
    for name in set(kinds):
        assert metrics[f"pck_per_image/{name}"].value == pytest.approx(
            np.mean([r.mean() for r, k in zip(right, kinds, strict=True) if k == name])
        )
    per_category = [metrics[f"pck_per_point/{name}"].value for name in set(kinds)]
    assert metrics["pck_mean_of_categories"].value == pytest.approx(np.mean(per_category))
    rows = list(samples_of(found, chosen))
    assert [r.score for r in rows] == np.concatenate(right).tolist() and len({r.id for r in rows}) == len(rows)
    assert {r.image_id for r in rows} == {p.target for p in test.pairs}
    assert [m for m in metrics if metric(m).better == "unknown"] == []
    by_pair = card(main_metric="pck_per_image")
    assert [r.score for r in samples_of(found, by_pair)] == pytest.approx([r.mean() for r in right])
    mine, blind = metrics_of(found, by_pair), metrics["floor_chance"]
    assert mine["gain_over_chance"].value == pytest.approx(mine["pck_per_image"].value - mine["floor_chance"].value)
    assert 0.01 < blind.value < 0.2


def test_floors_and_the_threshold(world):
    """The same place of the image, and of the box, with the numbers of the pairs' annotations; a threshold of the image is wider."""
    found, chosen, test = scored(world, lambda p: p.source_points)
    metrics = metrics_of(found, chosen)
    # Images of one size: the same place is the source's own.
    assert metrics["pck_per_point"].value == metrics["floor_same_position"].value == pytest.approx(
        np.concatenate([
            np.hypot(*(p.source_points - p.target_points).T)
            <= 0.1 * max(p.target_box[2] - p.target_box[0], p.target_box[3] - p.target_box[1])
            for p in test.pairs
        ]).mean()
    )  # fmt: skip
    assert metrics["gain_over_same_position"].value == 0

    def in_box(p):
        (a, b, c, d), (x0, y0, x1, y1) = p.source_box, p.target_box
        return np.stack(
            [x0 + (p.source_points[:, 0] - a) / (c - a) * (x1 - x0), y0 + (p.source_points[:, 1] - b) / (d - b) * (y1 - y0)], 1
        )

    other, _, _ = scored(world, in_box)
    assert metrics_of(other, chosen)["pck_per_point"].value == metrics["floor_same_position_in_box"].value
    wider, whole, _ = scored(world, lambda p: p.source_points, threshold="image")
    assert metrics_of(wider, whole)["pck_per_point"].value > metrics["pck_per_point"].value


@pytest.mark.slow
def test_the_engine_on_the_scenes(world, tmp_path):
    """Random, oracle and floor: what knows the parts finds them, what is blind does not; samples and images are kept."""
    run = {"data": str(world), "out": tmp_path / "o", "cache": tmp_path / "c", "progress": QUIET, "device": "cpu"}
    records = evaluate(["random:nano", "oracle:parts", "oracle:parts?keep=0"], ["spair71k"], **run)
    assert [r.status for r in records] == ["done"] * 3, [r.reason for r in records]
    blurred, parts, nothing = (r.metrics["pck_per_point"].value for r in records)
    floors = records[0].metrics
    assert parts > 0.6 > 0.2 > blurred and parts > floors["floor_same_position_in_box"].value
    # A blind encoder has the score of a random place.
    assert nothing == pytest.approx(floors["floor_chance"].value, rel=0.1)
    samples = list(read_samples(tmp_path / "o", records[1]))
    assert len(samples) == records[1].data["counts"]["keypoints"] and np.mean([s.score for s in samples]) == pytest.approx(parts)
    page = build(Results.read([tmp_path / "o"]))
    assert len(re.findall('data:image/png;base64,([^"]+)', page)) == 4  # the pairs once, and what each of the three finds
    assert all(base64.b64decode(x)[1:4] == b"PNG" for x in re.findall('data:image/png;base64,([^"]+)', page))
    # Another threshold, another protocol; half of the images by --limit.
    [other] = evaluate(["random:nano"], ["spair71k"], settings=["spair71k.alpha=0.2"], limit=8, **run)
    assert other.metrics["pck_per_point"].value > blurred and other.data["counts"]["images"] <= 8
    [padded] = evaluate(["random:nano"], ["spair71k-840"], settings=["spair71k-840.size=64"], **run)
    assert padded.status == "done" and padded.protocol_hash != records[0].protocol_hash


def test_images_of_another_size_than_annotated_are_refused(tmp_path):
    from tests.data.test_pairs import small

    root = small(tmp_path / "spair71k")
    Image.new("RGB", (20, 31)).save(root / "JPEGImages/cat/b.jpg")
    [record] = evaluate(
        ["random:nano"], ["spair71k"], data=str(tmp_path), out=tmp_path / "o", cache=tmp_path / "c", progress=QUIET, device="cpu"
    )
    assert record.status == "failed" and "\n" not in record.reason
    assert "image cat/b.jpg is 20x31, its annotation says 20x30; take the images as they were published" in record.reason


def test_points_beyond_the_image_are_counted(tmp_path):
    from tests.data.test_pairs import small

    small(tmp_path / "spair71k", src_kps=[[-3, 6], [20, 20]])
    [record] = evaluate(
        ["random:nano"], ["spair71k"], data=str(tmp_path), out=tmp_path / "o", cache=tmp_path / "c", progress=QUIET, device="cpu"
    )
    assert record.status == "done" and record.notes["keypoints_outside_their_image"] == 1
    assert json.loads(json.dumps(record.data["counts"])) == {"images": 4, "pairs": 3, "keypoints": 6}


def test_drawings_show_points_and_verdicts():
    test = type("P", (), {"target_points": np.array([[10.0, 10.0], [30.0, 30.0]])})()
    image = Image.new("RGB", (40, 40), (90, 90, 90))
    found = Matches(np.array([[10.0, 10.0], [5.0, 35.0]]), [])
    shown = with_matches(image, test, found, np.array([1.0, 0.0]), 80)
    right, wrong = ((np.abs(shown.astype(int) - c).sum(-1) < 30).sum() for c in ((60, 220, 90), (235, 50, 50)))
    assert shown.shape == (80, 80, 3) and right > 3 and wrong > right  # the wrong one has a line to its true place
    assert (with_points(image, test.target_points, 80) != 90).any(-1).sum() > 20


def test_cards_are_checked():
    base = {"name": "c", "engine": "correspondence", "main_metric": "pck_per_point", "data": SPEC}
    assert parse_card({**base, "alpha": 0.2}, "x").alpha == 0.2
    for change, message in (
        ({"main_metric": "pck"}, "field `main_metric`"), ({"alpha": 0}, "field `alpha`"), ({"query": "pixel"}, "field `query`"),
        ({"resize": "shortest"}, "field `resize`"), ({"train": SPEC}, "no such field"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=message):
            parse_card({**base, **change}, "x")
    assert DataSpec(**SPEC).layout == "spair71k"
