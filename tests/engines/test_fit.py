"""The training loop, its rates, its check, resuming and the watch;
the streamed moments and the ridge regression against numpy and sklearn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from levl_eval.core.errors import LevlError
from levl_eval.core.kept import write_state
from levl_eval.core.progress import Progress
from levl_eval.core.schedule import Schedule
from levl_eval.engines import fit
from levl_eval.engines.fit import BestEpoch, Resumable, Settings, shuffled_rows, training_loop
from levl_eval.engines.moments import Moments
from levl_eval.engines.ridge import Ridge

CPU, QUIET = torch.device("cpu"), Progress(quiet=True)


def test_schedules_by_hand():
    cosine = Schedule(10, "cosine", final=0.1)
    assert [cosine.at(s) for s in (0, 5, 10, 99)] == pytest.approx([1.0, 0.1 + 0.9 * 0.5, 0.1, 0.1])
    assert cosine.at(3) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(0.3 * math.pi)))
    assert [Schedule(4, "linear").at(s) for s in range(5)] == pytest.approx([1, 0.75, 0.5, 0.25, 0])
    assert [Schedule(4).at(s) for s in (0, 3, 9)] == [1, 1, 1]
    warm = Schedule(8, "linear", begins=4, warmup=4)
    assert [warm.at(s) for s in range(9)] == pytest.approx([0.25, 0.5, 0.75, 1, 1, 0.75, 0.5, 0.25, 0])
    assert [Schedule(9, warmup=4, start=0.2).at(s) for s in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1])
    wsd = Schedule(10, "cosine", begins=6, warmup=2, start=0.0, final=0.5)
    assert [wsd.at(s) for s in (0, 1, 2, 5, 6, 8, 10)] == pytest.approx([0, 0.5, 1, 1, 1, 0.75, 0.5])


def _problem(seed: int = 0):
    """A layer with dropout before it (so that the global generator counts), its optimiser and the loss of an update."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Dropout(0.3), nn.Linear(4, 2))
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(1))
    y = torch.arange(32) % 2
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)

    def loss_of(step: int) -> torch.Tensor:
        rows = torch.from_numpy(np.random.default_rng([7, step]).permutation(32)[:8])
        return nn.functional.cross_entropy(net(x[rows]), y[rows])

    return net, optimizer, loss_of


def _settings(steps: int, **more) -> Settings:
    return Settings("a head", steps, Schedule(steps, "cosine"), **more)


def test_the_loop_is_the_plain_loop_bit_for_bit():
    net, optimizer, loss_of = _problem()
    rates = []
    curve = training_loop(optimizer, _settings(12, per_epoch=4),
                          lambda s: (rates.append(optimizer.param_groups[0]["lr"]), loss_of(s))[1], QUIET)  # fmt: skip
    assert rates == [0.1 * Schedule(12, "cosine").at(s) for s in range(12)]
    plain, optimizer, loss_of = _problem()
    losses = []
    for s in range(12):
        optimizer.param_groups[0]["lr"] = 0.1 * (0.5 * (1 + math.cos(math.pi * s / 12)))
        loss = loss_of(s)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert torch.equal(net[1].weight, plain[1].weight)
    assert curve.tolist() == [np.mean(losses[i : i + 4]) for i in (0, 4, 8)]


def test_batches_without_labels_move_the_rate_alone_and_gradients_are_clipped():
    net, optimizer, loss_of = _problem()
    seen_rates = []

    def sparse(step: int) -> torch.Tensor | None:
        seen_rates.append(optimizer.param_groups[0]["lr"])
        return None if step % 2 else loss_of(step)

    curve = training_loop(optimizer, _settings(4, per_epoch=2), sparse, QUIET)
    assert curve.shape == (2,) and np.isfinite(curve).all()
    assert seen_rates == [0.1 * Schedule(4, "cosine").at(s) for s in range(4)]
    norms = []

    def seen(loss: torch.Tensor) -> torch.Tensor:
        norms.append(loss.item())
        return loss * 2  # what is recorded

    net, optimizer, loss_of = _problem()
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    start = [p.detach().clone() for p in net.parameters()]
    curve = training_loop(optimizer, Settings("a head", 1, Schedule(1), clip=1e-3), loss_of, QUIET, after_backward=seen)
    moved = math.sqrt(sum(float((p.detach() - q).square().sum()) for p, q in zip(net.parameters(), start, strict=True)))
    assert moved == pytest.approx(1e-3, rel=1e-3) and curve.tolist() == [2 * norms[0]]


def test_a_loss_that_is_not_finite_says_what_to_lower_and_spoils_nothing():
    net, optimizer, loss_of = _problem()
    kept = []

    def breaks(step: int) -> torch.Tensor:
        kept.append(net[1].weight.detach().clone())
        return loss_of(step) * (math.nan if step == 2 else 1.0)

    with pytest.raises(LevlError, match=r"^a head, step 2: the loss is nan; lower recipe\.lr$"):
        training_loop(optimizer, _settings(5, remedy="lower recipe.lr"), breaks, QUIET)
    assert torch.equal(net[1].weight, kept[-1]) and torch.isfinite(net[1].weight).all()


def test_candidates_side_by_side_do_not_stop_one_another():
    weights = torch.zeros(3, requires_grad=True)
    goal = torch.tensor([1.0, math.nan, 2.0])
    optimizer = torch.optim.SGD([weights], lr=0.25)
    curve = training_loop(optimizer, Settings("sweep", 6, Schedule(6), per_epoch=2), lambda s: (weights - goal) ** 2, QUIET)
    assert (
        curve.shape == (3, 3) and np.isfinite(curve).all(0).tolist() == [True, False, True] and curve[-1, 2] < 0.1 * curve[0, 2]
    )


def test_an_interrupted_training_ends_as_an_undisturbed_one_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "SAVE_EVERY", -1.0)  # a state is kept after every update
    whole, optimizer, loss_of = _problem()
    curve = training_loop(optimizer, _settings(10), loss_of, QUIET)
    net, optimizer, loss_of = _problem()
    asked = []

    def dies(step: int) -> torch.Tensor:
        asked.append(step)
        if step == 6 and len(asked) == 7:
            raise KeyboardInterrupt
        return loss_of(step)

    with pytest.raises(KeyboardInterrupt):
        training_loop(optimizer, _settings(10), dies, QUIET, resumable=Resumable(tmp_path / "s.pt", "key", net, CPU, QUIET))
    net, optimizer, loss_of = _problem(seed=5)  # another start, which the state replaces, and another state of the generator
    kept = Resumable(tmp_path / "s.pt", "key", net, CPU, QUIET)
    resumed = training_loop(optimizer, _settings(10), lambda s: (asked.append(s), loss_of(s))[1], QUIET, resumable=kept)
    assert asked == [*range(7), *range(6, 10)]
    assert torch.equal(net[1].weight, whole[1].weight) and resumed.tolist() == curve.tolist()


def test_a_state_of_an_earlier_version_is_resumed_from(tmp_path):
    """They held no state of the random generators."""
    net, optimizer, loss_of = _problem()
    training_loop(optimizer, _settings(3), loss_of, QUIET)
    state = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "step": 2, "losses": [0.9, 0.8]}
    write_state(tmp_path / "s.pt", "key", state)
    other, optimizer, _ = _problem(seed=5)
    assert Resumable(tmp_path / "s.pt", "key", other, CPU, QUIET).load(optimizer) == [0.9, 0.8]
    assert torch.equal(other[1].weight, net[1].weight) and len(optimizer.state_dict()["state"]) == 2


def test_a_state_of_something_else_is_said_and_the_training_begins_again(tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "SAVE_EVERY", -1.0)
    net, optimizer, loss_of = _problem()
    training_loop(optimizer, _settings(3), loss_of, QUIET, resumable=Resumable(tmp_path / "s.pt", "key", net, CPU, QUIET))
    told: list[str] = []
    heard = Progress(quiet=True)
    heard.say = told.append  # type: ignore[method-assign]
    other = nn.Linear(9, 2)
    before = other.weight.detach().clone()
    optimizer = torch.optim.AdamW(other.parameters(), lr=0.1)
    assert Resumable(tmp_path / "s.pt", "another key", other, CPU, heard).load(optimizer) == []
    assert Resumable(tmp_path / "s.pt", "key", other, CPU, heard).load(optimizer) == []
    assert "something else" in told[0] and "cannot be resumed from" in told[1] and torch.equal(other.weight, before)
    assert not Resumable(tmp_path / "none.pt", "key", other, CPU, heard).load(optimizer) and len(told) == 2


def test_the_best_epoch_is_the_first_of_equals():
    values = iter([0.5, 0.7, 0.7, 0.2, 0.7])
    epochs = iter(range(5))
    watch = BestEpoch(lambda: next(values), lambda: next(epochs))
    for _ in range(5):
        watch()
    assert watch.scores == [0.5, 0.7, 0.7, 0.2, 0.7] and watch.best == 1  # kept twice: of the first epoch and of the second


def test_rows_come_in_permutations():
    rows = shuffled_rows(7, 3, torch.Generator().manual_seed(3))
    first, second = ([next(rows) for _ in range(3)] for _ in range(2))
    assert [len(r) for r in first] == [3, 3, 1]
    generator = torch.Generator().manual_seed(3)
    for part in (first, second):
        assert torch.equal(torch.cat(part), torch.randperm(7, generator=generator))
    dropping = shuffled_rows(7, 3, torch.Generator().manual_seed(3), drop_last=True)
    assert [len(next(dropping)) for _ in range(4)] == [3, 3, 3, 3]
    assert len(next(shuffled_rows(2, 3, torch.Generator(), drop_last=True))) == 2


@pytest.mark.parametrize("ddof", [0, 1])
def test_moments_of_shifted_data_are_numpys(ddof):
    """Means ten million deviations away: squares less the squared mean would keep no digit."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 5)) * [1e-3, 1, 10, 1e-3, 0] + [0, 1e7, -3, 1e4, 42]
    moments = Moments()
    for part in np.split(x, [1, 7, 500]):
        moments.add(torch.from_numpy(part))
    assert moments.count == 1000
    assert np.allclose(moments.mean.numpy(), x.mean(0), rtol=1e-14)
    assert np.allclose(moments.std(ddof).numpy(), x.std(0, ddof=ddof), rtol=1e-7, atol=1e-9)
    assert moments.mean.dtype == torch.float64 and Moments().count == 0
    alone = Moments()
    alone.add(torch.ones(1, 2))
    assert alone.std(1).tolist() == [0, 0]


@pytest.mark.parametrize("bias", [True, False])
def test_ridge_is_scikit_learns(bias):
    from sklearn.linear_model import Ridge as Reference

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 6)) + 3, rng.integers(0, 3, 200)
    ridge = Ridge(6, 3, CPU, bias)
    for part in np.split(np.arange(200), [1, 60]):
        ridge.add(torch.from_numpy(x[part]), torch.from_numpy(y[part]))
    weight, shift = ridge.solve(2.0)
    reference = Reference(alpha=2.0, fit_intercept=bias).fit(x, np.eye(3)[y])
    assert np.allclose(weight.numpy().T, reference.coef_, atol=1e-10) and np.allclose(
        shift.numpy(), reference.intercept_, atol=1e-10
    )


def test_ridge_without_penalty_is_the_least_squares_solution_of_least_norm():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 4))
    x = np.concatenate([x, x[:, :2]], 1)  # two columns twice: the system is singular
    y = rng.normal(size=(50, 2))
    ridge = Ridge(6, 2, CPU, bias=False)
    ridge.add(torch.from_numpy(x), torch.from_numpy(y))
    weight, shift = ridge.solve(0)
    assert np.allclose(weight.numpy(), np.linalg.lstsq(x, y, rcond=None)[0], atol=1e-8) and not shift.any()
