"""Multi-view correspondence: a plain formulation of Probe3D's matching, pairs by the card's rule, perfect and blind tokens, the engine."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from levl_eval.cards import MultiviewCard, parse_card
from levl_eval.core.errors import UsageError
from levl_eval.data.navi import rotation_of
from levl_eval.data.readers import read_views
from levl_eval.data.types import View
from levl_eval.engines.multiview.matching import Cells, angle_between, cells_of, matched, motion
from levl_eval.engines.multiview.task import Pair, Scored, metrics_of, pairs_of, samples_of
from levl_eval.report.paired import split_weights

SPEC = {"layout": "navi", "directory": "navi", "split": "wild_set"}
CPU = torch.device("cpu")


def card(**more) -> MultiviewCard:
    return MultiviewCard(**{"name": "m", "data": SPEC, **more})


def view(angle, k=0, scene="a/wild_set", axis=2):
    q = [np.cos(np.radians(angle) / 2), 0.0, 0.0, 0.0]
    q[1 + axis] = np.sin(np.radians(angle) / 2)
    return View(f"{scene}/{k:03d}.jpg", scene, rotation_of(q), np.array([0.01, -0.02, 1.0]), 80.0, (64, 64))


def surface(rng, side=12):
    """A patch of a surface [side, side, 3] before a camera, a fifth of it without depth."""
    points = np.zeros((side, side, 3), np.float32)
    points[..., :2] = (np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1) - side / 2) * 0.01
    points[..., 2] = 1 + 0.02 * rng.random((side, side))
    points[rng.random((side, side)) < 0.2] = 0
    return points


def plainly(tokens, points, move, count, threshold):
    """Probe3D's steps in plain loops: normalise, two nearest by cosine distance, ratio, the best ``count``, errors in space."""
    sides = []
    for t, p in zip(tokens, points, strict=True):
        at = [(r, c) for r in range(len(p)) for c in range(len(p)) if p[r, c, 2] > 0]
        sides.append(
            (np.array([t[r, c] / np.linalg.norm(t[r, c]) for r, c in at]), np.array([p[r, c] for r, c in at], np.float64))
        )
    (f0, x0), (f1, x1) = sides
    rows = []
    for f, x in zip(f0, x0, strict=True):
        distance = [max(1e-9, 1 - float(f @ g)) for g in f1]
        order = np.argsort(distance, kind="stable")
        error = np.linalg.norm(move[0] @ x + move[1] - x1[order[0]])
        rows.append((1 - distance[order[0]] / distance[order[1]], error))
    rows = [rows[k] for k in sorted(range(len(rows)), key=lambda k: -rows[k][0])][:count]
    return np.mean([error < threshold for _, error in rows]), np.array([error for _, error in rows])


@pytest.mark.parametrize("count", [10, 1_000])
def test_the_matching_is_probe3ds(count):
    rng = np.random.default_rng(0)
    points = surface(rng), surface(rng)
    tokens = [rng.standard_normal((12, 12, 6)) for _ in range(2)]
    tokens[1][:, :6] = tokens[0][:, :6] + 0.1 * rng.standard_normal((12, 6, 6))  # half of the places look alike
    move = motion(view(0), view(20))
    # On a grid of the cells' own size, bicubic interpolation changes nothing.
    cells = [cells_of(t.reshape(144, 6).astype(np.float32), (12, 12), p, CPU) for t, p in zip(tokens, points, strict=True)]
    made = matched(*cells, move, count, [0.03])
    share, errors = plainly([t.astype(np.float32) for t in tokens], points, move, count, 0.03)
    assert made.right[0.03].mean() == pytest.approx(share) and 0 < share < 1
    assert made.errors == pytest.approx(errors, abs=1e-6)


def test_motion_and_angles_by_hand():
    one, other = view(10), view(70)
    assert angle_between(one, other) == pytest.approx(60) and angle_between(other, one) == pytest.approx(60)
    turn, shift = motion(one, other)
    p = np.array([0.03, -0.01, 0.02])
    assert turn @ (one.rotation @ p + one.translation) + shift == pytest.approx(other.rotation @ p + other.translation)
    assert angle_between(view(0), view(90, axis=0)) == pytest.approx(90)


def test_an_encoder_that_says_one_thing_scores_as_chance_and_a_perfect_one_all():
    rng = np.random.default_rng(1)
    points = surface(rng)
    flat = torch.from_numpy(points.reshape(-1, 3).astype(np.float64))
    place = np.flatnonzero(flat[:, 2] > 0)
    own = torch.eye(len(place))
    perfect = Cells(own, flat[place], place)
    still = (np.eye(3), np.zeros(3))
    assert matched(perfect, perfect, still, 50, [0.001]).right[0.001].mean() == 1.0
    blind = Cells(torch.ones(len(place), 4) / 2, flat[place], place)
    share = matched(blind, blind, still, 10_000, [0.03]).right[0.03].mean()
    every = (torch.cdist(flat[place], flat[place]) < 0.03).double().mean()
    assert share == pytest.approx(float(every)) and share < 0.3


def test_pairs_follow_from_the_card():
    views = tuple(view(a, k) for k, a in enumerate((0, 10, 50, 100, 130, 170, 0.0)))
    pairs = pairs_of(views, card(every=2, max_angle=60))
    assert [p.source.image[-7:-4] for p in pairs] == ["000", "002", "004", "006"]
    assert all(0 < p.angle <= 60 and p.source is not p.target for p in pairs)
    assert pairs == pairs_of(views, card(every=2, max_angle=60))
    more = tuple(view(a, k, "b/wild_set") for k, a in enumerate((0, 20)))
    # one object's pairs do not depend on others
    assert [p.target.image for p in pairs_of((*views, *more), card(every=1, max_angle=60))][:7] == [
        p.target.image for p in pairs_of(views, card(every=1, max_angle=60))
    ]
    drawn = {tuple(p.target.image for p in pairs_of(views, card(every=1, pair_seed=s))) for s in range(8)}
    assert len(drawn) > 1
    assert pairs_of(views[:1], card()) == [] and pairs_of((view(0), view(0, 1)), card()) == []


def test_metrics_by_hand():
    angles = (10.0, 20.0, 45.0, 120.0)
    pairs = [Pair(view(0, 2 * k), view(a, 2 * k + 1), a) for k, a in enumerate(angles)]
    main, less = np.array([0.5, 1.0, 0.2, 0.1]), np.array([0.1, 0.2, 0.0, 0.0])
    floors = {"same_position": np.array([0.4, 0.4, 0.1, 0.1]), "chance": np.full(4, 0.1)}
    out = metrics_of(Scored(pairs, {0.02: main, 0.01: less}, floors, np.zeros(4), np.full(4, 9)), card(more_thresholds_cm=[1]))
    assert out["recall"].value == pytest.approx(0.45) and out["recall@1cm"].value == pytest.approx(0.075)
    assert out["recall/0-30"].value == pytest.approx(0.75) and out["recall/30-60"].value == pytest.approx(0.2)
    assert out["recall/90-120"].value == pytest.approx(0.1) and "recall/60-90" not in out
    assert out["recall_mean_of_bins"].value == pytest.approx((0.75 + 0.2 + 0.1) / 3)
    assert out["gain_over_same_position"].value == pytest.approx(0.2) and out["floor_chance"].value == pytest.approx(0.1)


@pytest.mark.parametrize("bins", [[0, 30, 60, 90, 120], [0, 30, 60]])
def test_samples_give_the_mean_of_the_ranges_where_that_is_the_main_metric(bins):
    """Gains and comparisons are made of them: their plain mean is another metric, so that none could be told."""
    angles = (10.0, 20.0, 45.0, 120.0)
    pairs = [Pair(view(0, 2 * k), view(a, 2 * k + 1), a) for k, a in enumerate(angles)]
    main, floor = np.array([0.5, 1.0, 0.2, 0.1]), {"chance": np.full(4, 0.1)}
    scored = Scored(pairs, {0.02: main}, floor, np.zeros(4), np.full(4, 9))
    per_bin = card(main_metric="recall_mean_of_bins", angle_bins=bins, more_thresholds_cm=[])
    samples = list(samples_of(scored, per_bin))
    weighted = np.array([s.score for s in samples]) * split_weights(samples)
    assert weighted.mean() == pytest.approx(metrics_of(scored, per_bin)["recall_mean_of_bins"].value)
    plain = list(samples_of(scored, card(angle_bins=bins)))
    assert len(plain) == 4 and "split" not in plain[0].meta and np.mean([s.score for s in plain]) == pytest.approx(0.45)


def test_cards_with_values_out_of_range_are_refused():
    base = {"name": "m", "engine": "multiview", "data": SPEC}
    for change, message in (
        ({"resolution": 1}, "resolution"),
        ({"threshold_cm": 0}, "threshold_cm"),
        ({"max_angle": 181}, "max_angle"),
        ({"angle_bins": [0, 90, 30]}, "angle_bins.*do not rise"),
        ({"angle_bins": [0, 0, 30]}, "angle_bins.*do not rise"),
    ):
        with pytest.raises(UsageError, match=message):
            parse_card({**base, **change}, "card.yaml")


def test_the_engine_on_the_scenes(world, tmp_path, monkeypatch):
    from levl_eval import evaluate
    from levl_eval.core.progress import Progress

    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "cache"))
    run = {"data": str(world), "out": tmp_path / "run", "device": "cpu", "progress": Progress(quiet=True)}
    settings = ["navi.resolution=24", "navi.matches=100", "navi.every=2"]
    oracle, nano = evaluate(["oracle:parts", "random:nano"], ["navi"], settings=settings, **run)
    assert oracle.status == nano.status == "done", (oracle.reason, nano.reason)
    wanted = {
        "recall",
        "recall@1cm",
        "recall@5cm",
        "recall_mean_of_bins",
        "floor_chance",
        "floor_same_position",
        "gain_over_chance",
    }
    assert wanted <= oracle.metrics.keys()
    assert oracle.metrics["recall"].value > oracle.metrics["floor_same_position"].value + 0.1
    assert oracle.metrics["recall@1cm"].value <= oracle.metrics["recall"].value <= oracle.metrics["recall@5cm"].value
    [again] = evaluate(["random:nano"], ["navi"], settings=[*settings, "navi.pair_seed=9"], **run)
    assert again.protocol_hash != nano.protocol_hash and again.metrics["recall"].value != nano.metrics["recall"].value


def test_the_scenes_points_are_the_same_in_every_view(world):
    """What the renderer draws, the depth and the cameras say one thing: keypoints lie at one place of the object, to 3 mm."""
    from levl_eval.scenes.keypoints import annotated
    from levl_eval.scenes.views import VIEWS, image_path, viewed_scene

    got = read_views(MultiviewCard(name="m", data=SPEC).data, str(world))
    assert len(got.views) == 24 and {v.size for v in got.views} == {(64, 64)}
    spread = []
    by_name = {v.image: v for v in got.views}
    seen: dict[tuple[str, str], list[np.ndarray]] = {}
    for index in range(24):
        name = image_path(index).removeprefix("navi/").replace("/images/", "/")
        v, obj = by_name[name], viewed_scene(index, 0).objects[0]
        assert got.images.open(name).size == (64, 64)  # nothing is cut off, so that oracles know it
        points = got.points(name, 64)
        for part, (x, y) in annotated(obj, 64).points.items():
            if points[y, x, 2] > 0:
                seen.setdefault((v.scene, part), []).append(v.rotation.T @ (points[y, x] - v.translation))
    assert VIEWS == 6
    for places in seen.values():
        if len(places) > 2:
            spread.append(np.linalg.norm(np.array(places) - np.median(places, 0), axis=1).max())
    assert len(spread) > 4 and np.median(spread) < 0.006  # a pixel is 3 mm at this size
