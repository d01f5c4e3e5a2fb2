"""L2-regularised multinomial logistic regression over a whole path of strengths C, solved as one stacked problem.

For every C on its own the objective is scikit-learn's, divided by C N:  mean loss + ||W||^2 / (2 C N), intercept free.
The problems share their data, so one matrix product gives the logits of all of them and one more all gradients. Each is
minimised by L-BFGS in coordinates where the data's covariance is diagonal, preconditioned by the Hessian's diagonal there, taken anew
now and then: where classes are separable it shrinks by decades on the way. From coarse to fine: every 16th C is solved from zero;
then, level by level, what halves the gaps starts on the polynomial in log C through the nearest four solutions. Solved problems leave
the stack. The first solutions are in single precision, the last steps in double: at large C the objective is so flat that half-solved
problems answer otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from levl_eval.core.errors import LevlError
from levl_eval.core.progress import Progress
from levl_eval.engines.probes.common import BLOCK, IN_MEMORY, Matrix

HISTORY = 8  # pairs L-BFGS remembers
ROUGH = 1e-5  # tolerance of the first solutions, which are in single precision
STALL = 10  # iterations without gain after which a problem is left where float32 has brought it
REFRESH = 20  # iterations after which the preconditioner is that of the point reached
LOGITS = 1 << 21  # numbers of logits held at once
STACK = 1 << 28  # numbers of weights and history held at once; longer paths are solved in pieces


@dataclass
class PathFit:
    """weight [D, K, P] and bias [K, P] for P strengths; iterations [P]; converged [P]: the gradient is below the tolerance."""

    strengths: np.ndarray
    weight: Tensor
    bias: Tensor
    iterations: np.ndarray
    converged: np.ndarray

    def predictions(self, x: Matrix, device: torch.device) -> np.ndarray:
        """Predicted class [N, P] for every strength."""
        d, k, p = self.weight.shape
        weight, bias = self.weight.reshape(d, -1).to(device), self.bias.to(device)
        size = min(BLOCK, max(64, LOGITS // (k * p)))
        return np.concatenate([((b.to(device) @ weight).view(-1, k, p) + bias).argmax(1).cpu().numpy() for b in x.blocks(size)])

    def logits(self, x: Matrix, at: int, device: torch.device) -> Tensor:
        """[N, K] of one strength, on the CPU."""
        weight, bias = self.weight[:, :, at].to(device), self.bias[:, at].to(device)
        return torch.cat([(b.to(device) @ weight + bias).cpu() for b in x.blocks()])


class _Rows:
    """All training rows in rotated, centred coordinates, in blocks; kept in memory where they fit."""

    def __init__(self, parts: Sequence[tuple[Matrix, np.ndarray]], device: torch.device) -> None:
        self.parts, self.device = parts, device
        self.dtype = torch.float32
        self.n = sum(len(m) for m, _ in parts)
        dim = parts[0][0].dim
        mean = sum(b.double().sum(0) for m, _ in parts for b in m.blocks()) / self.n
        gram = torch.zeros(dim, dim, dtype=torch.float64)
        self.mean = torch.as_tensor(mean).float()
        for m, _ in parts:
            for b in m.blocks():  # in double: float32 has no word on directions of small variance, which large C uses
                centred = (b - self.mean).to(device).double()
                gram += (centred.T @ centred).cpu()
        values, vectors = torch.linalg.eigh(gram / self.n)
        keep = values > values[-1].clamp(min=1e-30) * 1e-10  # outside the rows' span, or beyond what float32 rows hold
        self.values = values[keep].float().to(device)
        self.vectors = vectors[:, keep]
        self._kept: list[tuple[Tensor, Tensor]] | None = None
        if 8 * self.n * len(self.values) <= IN_MEMORY:
            self._kept = list(self._read(BLOCK))

    def _read(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        turn = self.vectors.to(self.device)
        for m, y in self.parts:
            start = 0
            for b in m.blocks(size):
                target = torch.from_numpy(y[start : start + len(b)]).to(self.device)
                yield ((b - self.mean).to(self.device).double() @ turn).float(), target
                start += len(b)

    def double(self) -> None:
        """From now on the rows are given in double precision."""
        self.dtype = torch.float64
        if self._kept is not None:
            self._kept = [(z.double(), y) for z, y in self._kept]

    def blocks(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        for z, y in self._kept if self._kept is not None else self._read(BLOCK):
            for i in range(0, len(z), size):
                yield z[i : i + size].to(self.dtype), y[i : i + size]


def _evaluate(rows: _Rows, w: Tensor, b: Tensor, ridge: Tensor, curvature: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Objective [P] (float64), its gradients [r, K, P] and [K, P], and the Hessian's diagonal without the ridge where asked for
    (rotated weights [r, K, P]; for the bias the mean of p (1 - p) stands in the last row, so [r + 1, K, P])."""
    r, k, p = w.shape
    flat = w.reshape(r, k * p)
    value = torch.zeros(p, dtype=torch.float64, device=w.device)
    gw, gb = torch.zeros_like(flat), torch.zeros_like(b)
    diagonal = torch.zeros(r + 1, k * p, dtype=w.dtype, device=w.device) if curvature else torch.empty(0)
    for z, y in rows.blocks(max(64, LOGITS // (k * p))):
        logits = (z @ flat).view(len(z), k, p) + b
        logits -= logits.amax(1, keepdim=True)
        value -= logits[torch.arange(len(z), device=z.device), y].double().sum(0)
        total = logits.exp_().sum(1, keepdim=True)
        value += total.log().double().sum((0, 1))
        logits /= total  # probabilities
        if curvature:
            own = (logits - logits * logits).view(len(z), k * p)
            diagonal[:r].addmm_((z * z).T, own)
            diagonal[r] += own.sum(0)
        logits[torch.arange(len(z), device=z.device), y] -= 1
        gb += logits.sum(0)
        gw.addmm_(z.T, logits.view(len(z), k * p))
    n = rows.n
    value = value / n + 0.5 * ridge.double() * (w.double() ** 2).sum((0, 1))
    return value, (gw / n).view(r, k, p) + ridge * w, gb / n, diagonal / n


def _dot(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> Tensor:
    """Inner products [P] of (weight, bias) pairs."""
    return (a[0] * b[0]).sum((0, 1)) + (a[1] * b[1]).sum(0)


def _scales(diagonal: Tensor, ridge: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse of the Hessian's diagonal for weights [r, K, P] and bias [K, P]."""
    diagonal = diagonal.view(-1, *b.shape)
    return 1 / (diagonal[:-1] + ridge).clamp(min=1e-12), 1 / diagonal[-1].clamp(min=1e-12)


_Pair = tuple[Tensor, Tensor]  # of weights [r, K, P] and biases [K, P]


class _Descent:
    """L-BFGS on P problems at once, from (w [r, K, P], b [K, P])."""

    def __init__(self, rows: _Rows, ridge: Tensor, w: Tensor, b: Tensor) -> None:
        self.rows, self.ridge, self.w, self.b = rows, ridge, w, b
        self.slack = 1e-7 if w.dtype == torch.float32 else 1e-13  # of the objective: what its precision cannot tell apart
        self.value, self.gw, self.gb, diagonal = _evaluate(rows, w, b, ridge, curvature=True)
        self.scale_w, self.scale_b = _scales(diagonal, ridge, b)
        self.pairs: list[tuple[_Pair, _Pair, Tensor]] = []  # steps, changes of the gradient, 1 / their inner products
        self.stalled = torch.zeros(len(ridge), dtype=torch.long, device=w.device)

    def largest_gradient(self) -> Tensor:
        """[P], in the coordinates of the features."""
        turned = self.rows.vectors.to(self.w.device, self.w.dtype) @ self.gw.flatten(1)
        return torch.maximum(turned.abs().amax(0).view(self.gb.shape).amax(0), self.gb.abs().amax(0))

    def keep(self, at: Tensor) -> None:
        """Go on with these problems alone."""
        for name in ("w", "b", "gw", "gb", "scale_w", "scale_b", "ridge", "value", "stalled"):
            setattr(self, name, getattr(self, name)[..., at])
        self.pairs = [((s[0][..., at], s[1][..., at]), (y[0][..., at], y[1][..., at]), rho[at]) for s, y, rho in self.pairs]

    def _direction(self) -> tuple[_Pair, Tensor]:
        """Along whose negative to go, and the slope there, by L-BFGS's two loops."""
        qw, qb = self.gw.clone(), self.gb.clone()
        alphas = []
        for s, y, rho in reversed(self.pairs):
            alpha = rho * _dot(s, (qw, qb))
            alphas.append(alpha)
            qw -= alpha * y[0]
            qb -= alpha * y[1]
        qw *= self.scale_w
        qb *= self.scale_b
        if self.pairs:
            s, y, rho = self.pairs[-1]
            gamma = 1 / (rho * _dot(y, (y[0] * self.scale_w, y[1] * self.scale_b))).clamp(min=1e-20)
            qw *= gamma
            qb *= gamma
        for (s, y, rho), alpha in zip(self.pairs, reversed(alphas), strict=True):
            beta = rho * _dot(y, (qw, qb))
            qw += (alpha - beta) * s[0]
            qb += (alpha - beta) * s[1]
        slope = _dot((self.gw, self.gb), (qw, qb))
        bad = slope <= 0
        if bad.any():
            qw, qb = torch.where(bad, self.gw * self.scale_w, qw), torch.where(bad, self.gb * self.scale_b, qb)
            slope = _dot((self.gw, self.gb), (qw, qb))
        return (qw, qb), slope

    def step(self, anew: bool) -> None:
        """One step with its line search; ``anew``: the preconditioner is taken anew where it ends."""
        (qw, qb), slope = self._direction()
        t = torch.ones_like(slope)
        for _ in range(25):
            nw, nb = self.w - t * qw, self.b - t * qb
            new, ngw, ngb, diagonal = _evaluate(self.rows, nw, nb, self.ridge, curvature=anew)
            enough = new <= self.value - 1e-4 * (t * slope).double() + self.slack * self.value.abs()
            if enough.all():
                break
            # The parabola through both values and the slope, kept between a tenth and a half.
            guess = (t * slope).double() / (2 * (new - self.value + (t * slope).double())).clamp(min=1e-30)
            t = torch.where(enough, t, t * guess.clamp(0.1, 0.5).to(t.dtype))
        self._remember((nw - self.w, nb - self.b), (ngw - self.gw, ngb - self.gb))
        gained = new < self.value - 0.01 * self.slack * self.value.abs()
        self.stalled = torch.where(gained, torch.zeros_like(self.stalled), self.stalled + 1)
        self.w, self.b, self.gw, self.gb, self.value = nw, nb, ngw, ngb, new
        if anew:
            self.scale_w, self.scale_b = _scales(diagonal, self.ridge, nb)

    def _remember(self, s: _Pair, y: _Pair) -> None:
        curved = _dot(s, y)
        ok = curved > 1e-12 * _dot(s, s)
        rho = torch.where(ok, 1 / curved.clamp(min=1e-30), torch.zeros_like(curved))  # rho 0: the pair is not used there
        # Below the precision of float32 begin again with the preconditioner alone.
        self.pairs = [*self.pairs, (s, y, rho)][-HISTORY:] if ok.all() else []


def _solve(
    rows: _Rows, strengths: np.ndarray, w: Tensor, b: Tensor, tolerance: float, limit: int, note: Callable[[int, int], None]
) -> tuple[Tensor, Tensor, np.ndarray, np.ndarray]:  # fmt: skip
    """Minimise all problems from (w [r, K, P], b [K, P]); returns both, the iterations and whether each has converged."""
    out_w, out_b = w.clone(), b.clone()
    iterations, done = np.zeros(len(strengths), int), np.zeros(len(strengths), bool)
    live = np.arange(len(strengths))
    ridge = torch.as_tensor(1.0 / (strengths * rows.n), dtype=w.dtype, device=w.device)
    descent = _Descent(rows, ridge, w, b)
    step = 0
    while True:
        small = (descent.largest_gradient() <= tolerance).cpu().numpy()
        out_w[:, :, live], out_b[:, live] = descent.w, descent.b
        iterations[live] = step
        done[live[small]] = True
        over = small | (descent.stalled >= STALL).cpu().numpy()
        note(int((~over).sum()), step)
        if over.all() or step == limit:
            return out_w, out_b, iterations, done
        if over.mean() >= 0.1:  # solved problems leave the stack
            descent.keep(torch.from_numpy(np.flatnonzero(~over)).to(w.device))
            live = live[~over]
        descent.step(anew=step % REFRESH == REFRESH - 1)
        step += 1


def levels(count: int) -> list[list[int]]:
    """Positions 0 .. count - 1 from coarse to fine: ends and every 16th, then what halves the gaps."""
    out: list[list[int]] = []
    seen: set[int] = set()
    for stride in (16, 8, 4, 2, 1):
        fresh = sorted({*range(0, count, stride), count - 1} - seen)
        seen.update(fresh)
        out += [fresh] if fresh else []
    return out


def lagrange(at: np.ndarray, x: float) -> np.ndarray:
    """Weights of the values at the points ``at`` in the polynomial through them, read at x."""
    return np.array([np.prod([(x - q) / (p - q) for j, q in enumerate(at) if j != i]) for i, p in enumerate(at)])


def solve_path(
    parts: Sequence[tuple[Matrix, np.ndarray]], classes: int, strengths: Sequence[float] | np.ndarray, device: torch.device, *,
    tolerance: float = 1e-4, max_iterations: int = 1000, start: PathFit | None = None, progress: Progress | None = None,
) -> PathFit:  # fmt: skip
    """Fit every strength (ascending) on the rows of all parts together.

    tolerance: on the largest gradient entry of the mean loss (scikit-learn's meaning). start: a fit of one strength to begin
    from. Raises LevlError where there is nothing to fit.
    """
    values = np.asarray(strengths, float)
    if sum(len(m) for m, _ in parts) == 0 or len(np.unique(np.concatenate([y for _, y in parts]))) < 2:
        raise LevlError("logistic regression: training images of at least two classes are needed")
    progress = progress or Progress(quiet=True)
    if device.type == "mps":  # has no double precision
        device = torch.device("cpu")
    rows = _Rows(parts, device)
    r, k, p = len(rows.values), classes, len(values)
    per_stack = max(1, STACK // (max(r, 1) * k * (2 * HISTORY + 8)))
    w, b = torch.zeros(r, k, p, device=device), torch.zeros(k, p, device=device)
    iterations, converged = np.zeros(p, int), np.zeros(p, bool)
    with progress.stage("logistic regression", p, "C") as bar:

        def note(left: int, step: int) -> None:
            bar.advance(0, note=f"{left} of the stack left, iteration {step}")

        if start is not None:
            w[:] = (rows.vectors.T @ start.weight[:, :, 0].cpu().double()).to(device).unsqueeze(-1)
            b[:] = (start.bias[:, 0].cpu() + rows.mean @ start.weight[:, :, 0].cpu()).to(device).unsqueeze(-1)
            w, b = w.double(), b.double()
            rows.double()
        known: list[int] = []
        for level in levels(p):
            for i in range(0, len(level), per_stack):
                at = level[i : i + per_stack]
                if known and start is None:
                    for j in at:
                        nearby = sorted(known, key=lambda k: abs(k - j))[:4]
                        if not min(nearby) < j < max(nearby) or len(set(values[nearby])) < len(nearby):
                            nearby = nearby[:1]  # a polynomial is not to be trusted beyond its points
                        share = lagrange(np.log(values[nearby]), float(np.log(values[j])))
                        w[:, :, j], b[:, j] = (
                            w[:, :, nearby] @ w.new_tensor(share),
                            b[:, nearby] @ b.new_tensor(share),
                        )
                elif start is None:  # from zero, most of the way in single precision
                    w, b = w.float(), b.float()
                    w[:, :, at], b[:, at], iterations[at], _ = _solve(
                        rows, values[at], w[:, :, at], b[:, at], max(tolerance, ROUGH), max_iterations, note
                    )
                    w, b = w.double(), b.double()
                    rows.double()
                w[:, :, at], b[:, at], more, converged[at] = _solve(
                    rows, values[at], w[:, :, at], b[:, at], tolerance, max_iterations, note
                )
                iterations[at] += more
                known += at
                bar.advance(len(at))
    weight = torch.tensordot(rows.vectors, w.cpu(), 1)
    bias = b.cpu() - torch.tensordot(rows.mean.double(), weight, 1)
    return PathFit(values, weight.float(), bias.float(), iterations, converged)
