"""Heads against closed forms, plain loops and scikit-learn; engines on the tiny world."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from levl_eval.backbones import load_backbone
from levl_eval.cards import CarvedSpec
from levl_eval.cards.registry import task_card
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.progress import Progress
from levl_eval.engines.probes import attentive, backgrounds, common, knn, linear, path
from levl_eval.engines.probes.common import Matrix, carve
from levl_eval.engines.probes.logistic import solve_path
from levl_eval.features.store import FeatureSet
from levl_eval.metrics.calibration import calibration_error

CPU, QUIET = torch.device("cpu"), Progress(quiet=True)


def clouds(n, dim, classes, noise, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, dim))
    y = rng.integers(0, classes, n)
    return (centres[y] + noise * rng.normal(size=(n, dim))).astype(np.float32), y


def test_matrix_in_memory_and_in_blocks_are_the_same_numbers(monkeypatch):
    x = np.random.default_rng(0).normal(3, 2, (50, 7)).astype(np.float16)
    rows = np.array([3, 1, 40, 7, 7, 22])
    kept, read = Matrix(x, rows, l2=True), Matrix(x, rows, l2=True)
    for m in (kept, read):
        m.fit_scale()
    picked = np.array([5, 0, 3])
    a = kept.take(picked)
    monkeypatch.setattr(common, "IN_MEMORY", 0)
    assert torch.equal(a, read.take(picked)) and kept.in_memory is not None and read.in_memory is None
    full = torch.nn.functional.normalize(torch.from_numpy(x[rows].astype(np.float32)), dim=-1)
    assert torch.allclose(torch.cat(list(read.blocks(4))), (full - full.mean(0)) / full.std(0), atol=1e-5)


@pytest.mark.parametrize("rows", [None, np.array([3, 4, 5, 6, 7]), np.array([3, 1, 40, 7, 7])], ids=["all", "a run", "any"])
def test_pieces_are_the_rows_and_none_is_kept(rows):
    x = np.random.default_rng(0).normal(3, 2, (50, 7)).astype(np.float32)
    matrix, other = Matrix(x, rows, l2=True), Matrix(x, rows, l2=True)
    for m in (matrix, other):
        m.fit_scale()
    read = torch.cat(list(matrix.pieces(1, 5, 3)))
    assert torch.equal(read, other.take(np.arange(1, 5))) and matrix.in_memory is None
    plain, before = Matrix(x, rows), x.copy()
    for piece in plain.pieces(0, 5, 2):
        piece.zero_()  # the caller's own
    assert (x == before).all()


class Stored:
    """Stands in for a memory-mapped array and notes how many rows are read at once."""

    def __init__(self, array):
        self.array, self.shape, self.most = array, array.shape, 0

    def __len__(self):
        return len(self.array)

    def __getitem__(self, index):
        found = self.array[index]
        self.most = max(self.most, len(found))
        return found


def test_every_head_reads_what_does_not_fit_in_blocks(monkeypatch):
    import levl_eval.engines.probes.logistic as module

    monkeypatch.setattr(common, "IN_MEMORY", 1000)
    monkeypatch.setattr(module, "IN_MEMORY", 1000)
    x, y = clouds(40_000, 4, 3, 1.0)
    card = task_card("linear", {"epochs": "1"})

    def of(name, run):
        stored = Stored(x.astype(np.float16))
        matrix = Matrix(stored)
        matrix.fit_scale()
        run(matrix)
        assert 0 < stored.most <= 16384 and matrix.in_memory is None, name
        return stored.most

    most = {
        "linear": of("linear", lambda m: linear.classes_of(linear.fit(m, y, 3, card, 0, CPU, (m, y))[0], m, CPU)),
        "path": of("path", lambda m: solve_path([(m, y)], 3, [0.1, 1.0], CPU, max_iterations=3).predictions(m, CPU)),
        "knn": of("knn", lambda m: knn.neighbours(Matrix(x[:5]), m, 3, CPU, QUIET)),
    }
    assert most == {"linear": 8192, "path": 8192, "knn": 16384}
    tokens = Stored(np.random.default_rng(0).normal(size=(600, 3, 4)).astype(np.float16))
    head, rows = attentive.AttentiveHead(4, 3, 2, 1.0), np.arange(600)
    data = attentive.TrainingTokens([tokens], rows, y[:600])
    attentive.train(head, data, task_card("attentive", {"epochs": "1"}), 0, CPU, QUIET)
    found = attentive.classes_of(head, tokens, rows, CPU)
    assert tokens.most == 256 and (found == attentive.predict(head, tokens, rows, CPU).argmax(1).numpy()).all()


def test_both_readouts_side_by_side_are_joined_as_they_are_read():
    rng = np.random.default_rng(0)
    pooled, mean = rng.normal(size=(300, 3)).astype(np.float32), rng.normal(size=(300, 2)).astype(np.float32)
    features = FeatureSet({"pooled": pooled, "mean": mean}, tuple(map(str, range(300))), (2, 2), {}, True)
    whole = np.concatenate([pooled, mean], 1)
    both = common.global_features(features, "pooled+mean-patch")
    assert both.shape == (300, 5) and both.dtype == np.float32 and len(both) == 300
    for rows in (np.array([7, 3, 3]), slice(10, 20), 4):
        assert np.array_equal(both[rows], whole[rows])
    assert np.array_equal(both, whole) and common.global_features(features, "mean-patch") is mean
    matrix = common.Matrix(both, np.array([5, 6, 9]))
    matrix.fit_scale()
    assert np.allclose(matrix.mean, whole[[5, 6, 9]].mean(0), atol=1e-6)


def test_carving_is_fixed_by_class_and_leaves_single_images_in_training():
    labels = np.array([0] * 20 + [1] * 3 + [2])
    train, held = carve(labels, CarvedSpec(share=0.1))
    assert sorted([*train, *held]) == list(range(24)) and np.bincount(labels[held], minlength=3).tolist() == [2, 1, 0]
    assert (carve(labels, CarvedSpec(share=0.1))[1] == held).all()
    assert (carve(labels, CarvedSpec(share=0.1, seed=1))[1] != held).any()


@pytest.mark.slow
def test_the_path_agrees_with_scikit_learn_at_every_strength():
    from sklearn.linear_model import LogisticRegression

    x, y = clouds(500, 12, 5, 1.5)
    z, t = clouds(2000, 12, 5, 1.5, seed=1)
    train, test = (
        Matrix(x * np.exp(np.linspace(0, 3, 12), dtype=np.float32)),
        Matrix(z * np.exp(np.linspace(0, 3, 12), dtype=np.float32)),
    )
    strengths = 10.0 ** np.linspace(-5, 3, 9)
    fit = solve_path([(train, y)], 5, strengths, CPU, tolerance=1e-6)
    assert fit.converged.all()
    mine = (fit.predictions(test, CPU) == t[:, None]).mean(0)
    for i, c in enumerate(strengths):
        model = LogisticRegression(C=c, max_iter=20000, tol=1e-8).fit(train.array.astype(np.float64), y)
        assert abs(model.score(test.array, t) - mine[i]) <= 0.001
        probability = fit.logits(test, i, CPU).softmax(1).numpy()
        assert np.abs(probability - model.predict_proba(test.array.astype(np.float64))).max() < 5e-3


def test_the_path_in_pieces_in_blocks_and_warm_started_gives_the_same(monkeypatch):
    import levl_eval.engines.probes.logistic as module

    x, y = clouds(200, 6, 3, 1.0)
    strengths = [1e-4, 1e-2, 1, 10, 100, 1000]
    whole = solve_path([(Matrix(x), y)], 3, strengths, CPU, tolerance=1e-6)
    monkeypatch.setattr(module, "STACK", 6 * 3 * 24 * 2)
    monkeypatch.setattr(module, "LOGITS", 64)
    monkeypatch.setattr(module, "IN_MEMORY", 0)
    pieces = solve_path([(Matrix(x[:120]), y[:120]), (Matrix(x[120:]), y[120:])], 3, strengths, CPU, tolerance=1e-6)
    for i in range(6):
        assert torch.allclose(whole.logits(Matrix(x), i, CPU).softmax(1), pieces.logits(Matrix(x), i, CPU).softmax(1), atol=2e-3)
    with pytest.raises(LevlError, match="at least two classes"):
        solve_path([(Matrix(x), np.zeros(200, int))], 3, strengths, CPU)


def test_separable_classes_at_large_strengths_are_solved_from_afar():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    turn, spread = rng.normal(size=(40, 40)) / 40**0.5, np.exp(-np.linspace(0, 4, 40))
    centres = rng.normal(size=(5, 40))
    y, t = rng.integers(0, 5, 400), rng.integers(0, 5, 2000)
    x, z = (((centres[k] + rng.normal(size=(len(k), 40))) * spread @ turn).astype(np.float32) for k in (y, t))
    train, test = Matrix(x), Matrix(z)
    train.fit_scale()
    test.scale_like(train)
    fit = solve_path([(train, y)], 5, [1e5], CPU, tolerance=1e-9)
    assert fit.converged.all() and fit.iterations[0] < 300
    a, b = (m.take(np.arange(len(m))).numpy().astype(np.float64) for m in (train, test))
    model = LogisticRegression(C=1e5, max_iter=20000, tol=1e-11).fit(a, y)
    assert abs(model.score(b, t) - (fit.predictions(test, CPU)[:, 0] == t).mean()) <= 0.001


@pytest.mark.slow
def test_every_strength_of_a_path_on_separable_classes_converges_with_and_without_blocks(monkeypatch):
    import levl_eval.engines.probes.logistic as module

    rng = np.random.default_rng(0)
    turn, spread = rng.normal(size=(60, 60)) / 60**0.5, np.exp(-np.linspace(0, 5, 60))
    y = rng.integers(0, 8, 300)
    x = Matrix((((rng.normal(size=(8, 60))[y] * 0.3 + rng.normal(size=(300, 60))) * spread) @ turn).astype(np.float32))
    x.fit_scale()
    strengths = 10.0 ** np.linspace(-6, 5, 12)
    fit = solve_path([(x, y)], 8, strengths, CPU, tolerance=1e-7)
    assert fit.converged.all() and fit.iterations.max() < 500
    monkeypatch.setattr(module, "BLOCKS", 0)
    plain = solve_path([(x, y)], 8, strengths, CPU, tolerance=1e-7, max_iterations=5000)
    assert plain.converged.all() and plain.iterations.sum() > 1.3 * fit.iterations.sum()
    for i in range(12):
        assert torch.allclose(fit.logits(x, i, CPU).softmax(1), plain.logits(x, i, CPU).softmax(1), atol=2e-3)


def test_a_path_uses_directions_of_small_variance():
    """Two columns differ by what tells the classes apart, with less than a thousand-millionth of their variance."""
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    y = np.arange(400) % 2
    noise, signal = rng.normal(size=400), y - 0.5 + rng.normal(size=400)
    x = np.stack([noise, noise + 3e-5 * signal], 1).astype(np.float32)
    fit = solve_path([(Matrix(x), y)], 2, [1e12], CPU, tolerance=1e-9)
    apart = np.stack([noise, signal], 1)  # without a penalty to speak of, a change of coordinates changes no answer
    theirs = LogisticRegression(C=1e12, tol=1e-9).fit(apart, y).predict(apart)
    assert (theirs == y).mean() > 0.65
    assert (fit.predictions(Matrix(x), CPU)[:, 0] == theirs).mean() > 0.98


def test_levels_halve_the_gaps_and_the_polynomial_is_exact():
    from levl_eval.engines.probes.strengths import lagrange, levels

    found = levels(45, 16)
    assert (
        found[0] == [0, 16, 32, 44] and found[1] == [8, 24, 40] and sorted(i for level in found for i in level) == list(range(45))
    )
    assert levels(1, 2) == [[0]] and levels(6, 2) == [[0, 2, 4, 5], [1, 3]]
    assert sorted(i for level in levels(7, 16) for i in level) == list(range(7))
    at = np.array([-2.0, 0.5, 1.0, 4.0])
    assert lagrange(at, 3.0) @ (at**3 - 2 * at) == pytest.approx(21)


def test_fewer_images_than_dimensions_are_fitted_in_their_span():
    x, y = clouds(8, 40, 4, 0.1)
    y[:4] = range(4)
    fit = solve_path([(Matrix(x), y)], 4, [1.0], CPU)
    assert fit.converged.all() and torch.isfinite(fit.weight).all()


def test_neighbours_and_votes_by_a_plain_loop(monkeypatch):
    x, y = clouds(60, 8, 3, 1.0)
    z, _ = clouds(20, 8, 3, 1.0, seed=1)
    monkeypatch.setattr(knn, "KEYS", 16)
    monkeypatch.setattr(knn, "QUERIES", 7)
    cosines, places = knn.neighbours(Matrix(z), Matrix(x), 5, CPU, QUIET)
    s = (z / np.linalg.norm(z, axis=1, keepdims=True)) @ (x / np.linalg.norm(x, axis=1, keepdims=True)).T
    assert (places == np.argsort(-s, axis=1)[:, :5]).all()
    voted = knn.votes(cosines, y[places], 3, 0.07).argmax(1).numpy()
    for i in range(20):
        weight = np.zeros(3)
        for j in places[i]:
            weight[y[j]] += np.exp(s[i, j] / 0.07)
        assert voted[i] == weight.argmax()


def test_the_folded_attention_is_the_plain_one_with_gradients():
    torch.manual_seed(0)
    head = attentive.AttentiveHead(12, 3, 4, 2.0)
    for p in head.parameters():  # away from the small initial values
        torch.nn.init.normal_(p, std=0.5)
    tokens = torch.randn(5, 7, 12)

    def plain(x):
        n = head.norm1(x)
        q = head.q(head.query).view(1, 1, 4, 3).transpose(1, 2).expand(5, 4, 1, 3)
        k, v = (f(n).view(5, 7, 4, 3).transpose(1, 2) for f in (head.k, head.v))
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(5, 12)
        y = head.query + head.proj(y)
        return head.linear(y + head.mlp(head.norm2(y)))

    assert torch.allclose(head(tokens), plain(tokens), atol=1e-5)
    one = torch.autograd.grad(head(tokens).square().sum(), list(head.parameters()))
    two = torch.autograd.grad(plain(tokens).square().sum(), list(head.parameters()))
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in zip(one, two, strict=True))


def test_calibration_error_by_hand():
    confidence = np.array([0.95, 0.85, 0.05, 0.15])
    right = np.array([1, 0, 0, 1])
    assert calibration_error(confidence, right, 10).value == pytest.approx((0.05 + 0.85 + 0.05 + 0.85) / 4)
    assert calibration_error(np.ones(5), np.ones(5), 15).value == 0


@pytest.mark.slow
def test_every_head_on_the_world_reads_features_made_once(context):
    nano = load_backbone("random:nano")
    cards = {
        "linear": {"epochs": "8", "keep": "best"}, "linear@scenes": {"readout": "pooled+mean-patch", "epochs": "2"},
        "linear-path": {"c_values": "7"}, "knn": {}, "attentive": {"epochs": "2", "heads": "3"},
    }  # fmt: skip
    runs = {"linear": linear, "linear@scenes": linear, "linear-path": path, "knn": knn, "attentive": attentive}
    found = {n: runs[n].run(context(task_card(n, s), nano)) for n, s in cards.items()}
    # One for each array: no plan says here what comes later.
    assert [o.cache["feature_misses"] for o in found.values()] == [2, 2, 0, 0, 2]
    for name, out in found.items():
        main = task_card(name).main_metric
        scores = [s.score for s in out.samples]
        assert len(scores) == 48 and out.metrics[main].value == pytest.approx(np.mean(scores))
        assert {"mean_per_class", "top5"} <= set(out.metrics)
    assert found["linear"].data["counts"] == {"images": 48, "classes": 24, "train_images": 72, "validation_images": 24}
    assert found["linear@scenes"].data["counts"]["train_images"] == 96  # nothing is carved where nothing is chosen
    assert 1 <= found["linear"].notes["epoch"] <= 8 and len(found["linear-path"].notes["path"]["C"]) == 7
    assert found["attentive"].metrics["top1_best_epoch"].value >= found["attentive"].metrics["top1"].value
    views = {"epochs": "3", "heads": "3", "views": "2", "report_best": "false"}
    with_views = [attentive.run(context(task_card("attentive", views), nano)) for _ in range(2)]
    assert [o.cache["feature_misses"] for o in with_views] == [2, 0]  # two views, made once; the plain images were there
    curves = [o.notes["probe_loss"] for o in with_views]
    assert curves[0] == curves[1] and curves[0][:2] != found["attentive"].notes["probe_loss"]
    four = linear.run(context(task_card("linear", {"layers": "[-2, -1]", "epochs": "1"}), nano))
    assert four.cache["feature_misses"] == 2 and nano.depth == 4
    with pytest.raises(LevlError, match="is not one of its 4 blocks"):
        linear.run(context(task_card("linear", {"layers": "[7]"}), nano))
    with pytest.raises(UsageError, match="do not divide the token width"):
        attentive.run(context(task_card("attentive", {"heads": "7"}), nano))


@pytest.mark.slow
def test_the_class_token_is_read_where_the_encoder_pools_otherwise(context):
    from tests.backbones.test_layers import tiny_vit

    averaging = tiny_vit(global_pool="avg")
    plain, cls = (knn.run(context(task_card("knn", {"readout": r}), averaging)) for r in ("pooled", "cls"))
    assert [o.cache["feature_misses"] for o in (plain, cls)] == [2, 2]  # the token is not in what the encoder pools
    data = common.read_classification(task_card("knn").data, context(None, None).data)
    x = torch.stack([averaging.preprocess(data.images.open(i)) for i in data.images.ids[:3]])
    with torch.no_grad():
        tokens = averaging.model.fc_norm(averaging.model.forward_features(x))  # the norm this model applies after pooling
    found = {
        r: common.global_features(common.features_of(context(task_card("knn", {"readout": r}), averaging), data), r)
        for r in ("pooled", "cls")
    }
    assert np.allclose(found["cls"][:3], tokens[:, 0], atol=5e-3) and not np.allclose(found["cls"], found["pooled"], atol=0.1)
    nano = load_backbone("random:nano")
    one, two = (knn.run(context(task_card("knn", {"readout": r}), nano)) for r in ("pooled", "cls"))
    assert two.cache["feature_misses"] == 0 and one.metrics == two.metrics  # its own pooling is the class token
    both = common.layers_of(task_card("linear", {"readout": "cls", "layers": "[-2, -1]"}), averaging)
    assert both == [-2, -1]
    for none in (tiny_vit(global_pool="avg", class_token=False), load_backbone("random:resnet10t")):
        for card, run in (
            (task_card("linear", {"readout": "cls"}), linear),
            (task_card("imagenet9", {"readout": "cls"}), backgrounds),
        ):
            with pytest.raises(LevlError, match="field `readout`: cls: .* has no class token; take pooled or mean-patch"):
                run.run(context(card, none))


@pytest.mark.slow
def test_few_shot_draws_differ_and_repeat(context):
    nano = load_backbone("random:nano")
    card = task_card("few-shot", {"shots": "[1, 2]", "draws": "2", "c_values": "3", "main_metric": "top1_2shot"})
    one, two = (path.run(context(card, nano)) for _ in range(2))
    assert one.metrics == two.metrics and set(one.notes["draws"]) == {"1", "2"}
    assert one.metrics["top1_2shot"].value == pytest.approx(np.mean([s.score for s in one.samples]))
    labels = np.repeat(np.arange(4), 10)
    assert np.bincount(labels[path.draw(labels, 3, 0, 1)]).tolist() == [3] * 4
    assert path.short_of(np.array([0, 0, 0, 1, 1]), [1, 2, 3, 16]) == {
        "3": {"classes": 1, "of": 2, "fewest": 2}, "16": {"classes": 2, "of": 2, "fewest": 2},
    }  # fmt: skip
    assert (path.draw(labels, 3, 0, 1) != path.draw(labels, 3, 0, 2)).any()


@pytest.mark.slow
def test_leakage_is_found_by_content_and_reported(context, world, tmp_path):
    import shutil

    data = tmp_path / "leaky"
    shutil.copytree(world / "classification", data / "classification")
    source = sorted((data / "classification" / "train").rglob("*.jpg"))[5]
    shutil.copy(source, data / "classification" / "test" / source.parent.name / "other-name.jpg")
    out = knn.run(context(task_card("knn"), load_backbone("random:nano"), data))
    found = out.notes["leakage"]
    assert found["test_images_in_training"] == 1 and found["first"][0][0].endswith("other-name.jpg")
    assert out.metrics["top1_unleaked"].n == 48 and out.metrics["top1_k20"].n == 49
    clean = knn.run(context(task_card("knn"), load_backbone("random:nano")))
    assert "leakage" not in clean.notes and "top1_unleaked" not in clean.metrics


@pytest.mark.slow
def test_classes_of_one_image_are_told(context, world, tmp_path):
    import shutil

    data = tmp_path / "few"
    shutil.copytree(world / "classification", data / "classification")
    folder = next(p for p in sorted((data / "classification" / "train").iterdir()))
    for extra in sorted(folder.iterdir())[1:]:
        extra.unlink()
    out = path.run(context(task_card("linear-path", {"c_values": "3"}), load_backbone("random:nano"), data))
    assert out.notes["classes_of_one_image"] == [folder.name]


def test_backgrounds_drops_are_paired(context, world):
    nano = load_backbone("random:nano")
    out = backgrounds.run(context(task_card("imagenet9", {"epochs": "3"}), nano))
    assert {"original", "mixed_same", "mixed_rand", "drop_mixed_same", "drop_mixed_rand",
            "background_gap", "floor_majority", "gain_over_majority"} == set(out.metrics)  # fmt: skip
    m = out.metrics
    assert m["drop_mixed_rand"].value == pytest.approx(m["original"].value - m["mixed_rand"].value)
    assert m["drop_mixed_rand"].method.startswith("paired") and m["mixed_rand"].value == pytest.approx(
        np.mean([s.score for s in out.samples])
    )
    assert backgrounds.foreground("00_dog/fg_n02_12_bg_n03_4.JPEG") == backgrounds.foreground("00_dog/n02_12.JPEG")
    unpaired = backgrounds.drop_estimate(np.ones(4), np.zeros(3), list("abcd"), list("abc"))
    assert unpaired.method.startswith("two samples")
    with pytest.raises(UsageError, match="only_fg"):
        backgrounds.run(context(task_card("imagenet9", {"variants": "[original, only_fg]"}), nano))
