"""L2-regularised multinomial logistic regression over a whole path of strengths C, solved as one stacked problem.

For every C on its own the objective is scikit-learn's, divided by C N:  mean loss + ||W||^2 / (2 C N), intercept free.
The problems share their data, so one matrix product gives the logits of all of them and one more all gradients. Each is
minimised by L-BFGS in coordinates where the data's covariance is diagonal, preconditioned by the Hessian's diagonal there, and
where a problem takes long by its blocks of one class each: where classes are separable the Hessian shrinks by decades on the way,
and differently for each class. Every second C is climbed to from those below it, on the polynomial in log C through the last
solutions; those between start together, each on the polynomial through the nearest four. Solved problems leave the stack. The
first steps are in single precision, the last in double: at large C the objective is so flat that half-solved problems answer
otherwise.
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
from levl_eval.engines.probes.strengths import lagrange, levels

HISTORY = 8  # pairs L-BFGS remembers
# every so many strengths are climbed one after another: where rows lie in memory, and where each is a pass over a file
NEAR, FAR = 2, 16
ROUGH = 1e-5  # tolerance of the first solutions, which are in single precision
STALL = 10  # iterations without gain after which a problem is left where float32 has brought it
REFRESH = 50  # iterations after which the preconditioner is that of the point reached
BLOCKS = 1 << 26  # numbers of the Hessian's blocks held at once; where they are more, its diagonal preconditions
JITTER = 1e-6  # of a block's diagonal: what float32 may have lost
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
        self._double: list[tuple[Tensor, Tensor]] | None = None
        if 12 * self.n * len(self.values) <= IN_MEMORY:
            self._kept = list(self._read(BLOCK))

    def _read(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        turn = self.vectors.to(self.device)
        for m, y in self.parts:
            start = 0
            for b in m.blocks(size):
                target = torch.from_numpy(y[start : start + len(b)]).to(self.device)
                yield ((b - self.mean).to(self.device).double() @ turn).float(), target
                start += len(b)

    @property
    def in_memory(self) -> bool:
        return self._kept is not None

    def give(self, dtype: torch.dtype) -> None:
        """From now on the rows are given in this precision."""
        self.dtype = dtype
        if dtype == torch.float64 and self._kept is not None and self._double is None:
            self._double = [(z.double(), y) for z, y in self._kept]

    def blocks(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        kept = self._double if self.dtype == torch.float64 else self._kept
        for z, y in kept if kept is not None else self._read(BLOCK):
            for i in range(0, len(z), size):
                yield z[i : i + size].to(self.dtype), y[i : i + size]


def _evaluate(rows: _Rows, v: Tensor, ridge: Tensor) -> tuple[Tensor, Tensor]:
    """Objective [P] (float64) and its gradient [r + 1, K, P] at v [r + 1, K, P]: rotated weights, and in the last row the bias."""
    (r, k, p), n = (len(v) - 1, *v.shape[1:]), rows.n
    w, b = v[:-1].reshape(r, k * p), v[-1]
    value = torch.zeros(p, dtype=torch.float64, device=v.device)
    gradient = torch.zeros_like(v)
    gw, gb = gradient[:-1].view(r, k * p), gradient[-1]
    for z, y in rows.blocks(max(64, LOGITS // (k * p))):
        logits = (z @ w).view(len(z), k, p) + b
        logits -= logits.amax(1, keepdim=True)
        value -= logits[torch.arange(len(z), device=z.device), y].double().sum(0)
        total = logits.exp_().sum(1, keepdim=True)
        value += total.log().double().sum((0, 1))
        logits /= total  # probabilities
        logits[torch.arange(len(z), device=z.device), y] -= 1
        gb += logits.sum(0)
        gw.addmm_(z.T, logits.view(len(z), k * p))
    gradient /= n
    gradient[:-1] += ridge * v[:-1]
    return value / n + 0.5 * ridge.double() * (v[:-1].double() ** 2).sum((0, 1)), gradient


def _curvature(rows: _Rows, v: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of rows with a 1 behind them [n, r + 1], and p (1 - p) of each class and problem there [n, K P]."""
    r, k, p = len(v) - 1, *v.shape[1:]
    for z, _ in rows.blocks(max(64, LOGITS // (k * p))):
        q = ((z @ v[:-1].reshape(r, k * p)).view(len(z), k, p) + v[-1]).softmax(1)
        yield torch.cat([z, z.new_ones(len(z), 1)], 1), (q - q * q).view(len(z), k * p)


def _diagonal(rows: _Rows, v: Tensor, ridge: Tensor) -> Tensor:
    """Inverse of the Hessian's diagonal, [r + 1, K, P]."""
    out = torch.zeros(len(v), v[0].numel(), dtype=v.dtype, device=v.device)
    for z, own in _curvature(rows, v):
        out.addmm_((z * z).T, own)
    out = (out / rows.n).view_as(v)
    out[:-1] += ridge
    return 1 / out.clamp(min=1e-12)


def _blocks(rows: _Rows, v: Tensor, ridge: Tensor) -> Tensor:
    """Inverses [K, P, r + 1, r + 1] of the Hessian's blocks of one class, in float32."""
    size, k, p = v.shape
    made = torch.zeros(k * p, size, size, device=v.device)
    for z, own in _curvature(rows, v):
        z, own = z.float(), own.float()
        for i in range(k * p):
            made[i].addmm_((z * own[:, i : i + 1]).T, z)
    out = made.view(k, p, size, size).double() / rows.n
    diagonal = out.diagonal(dim1=-2, dim2=-1)
    diagonal[..., :-1] += ridge.double()[:, None]
    scale = diagonal.clamp(min=1e-12).rsqrt()  # to ones on the diagonal, where one rounding is as good as another
    out = out * scale[..., None] * scale[..., None, :]
    out.diagonal(dim1=-2, dim2=-1).add_(JITTER)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(out))
    return (inverse * scale[..., None] * scale[..., None, :]).float()


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products [P]."""
    return (a * b).sum((0, 1))


class _Descent:
    """L-BFGS on P problems at once, from v [r + 1, K, P]; ``blocks`` precondition where they are given."""

    def __init__(self, rows: _Rows, ridge: Tensor, v: Tensor, blocks: Tensor | None) -> None:
        self.rows, self.ridge, self.v, self.blocks = rows, ridge, v, blocks
        self.slack = 1e-7 if v.dtype == torch.float32 else 1e-13  # of the objective: what its precision cannot tell apart
        self.value, self.g = _evaluate(rows, v, ridge)
        self.scale = _diagonal(rows, v, ridge) if blocks is None else torch.empty(1, 1, len(ridge))
        self.pairs: list[tuple[Tensor, Tensor, Tensor]] = []  # steps, changes of the gradient, 1 / their inner products
        self.stalled = torch.zeros(len(ridge), dtype=torch.long, device=v.device)

    def largest_gradient(self) -> Tensor:
        """[P], in the coordinates of the features."""
        turned = self.rows.vectors.to(self.v.device, self.v.dtype) @ self.g[:-1].flatten(1)
        return torch.maximum(turned.abs().amax(0).view_as(self.g[-1]).amax(0), self.g[-1].abs().amax(0))

    def keep(self, at: Tensor) -> None:
        """Go on with these problems alone."""
        for name in ("v", "g", "scale", "ridge", "value", "stalled"):
            setattr(self, name, getattr(self, name)[..., at])
        self.blocks = None if self.blocks is None else self.blocks[:, at]
        self.pairs = [(s[..., at], y[..., at], rho[at]) for s, y, rho in self.pairs]

    def _scaled(self, x: Tensor) -> Tensor:
        """The preconditioner's inverse times x."""
        if self.blocks is None:
            return x * self.scale
        columns = x.permute(1, 2, 0).unsqueeze(-1).to(self.blocks.dtype)  # [K, P, r + 1, 1]
        return (self.blocks @ columns).squeeze(-1).permute(2, 0, 1).to(x.dtype)

    def precondition(self) -> None:
        """Anew where the descent stands: each class's block of the Hessian where they are few enough, else its diagonal."""
        if self.v[0].numel() * len(self.v) ** 2 <= BLOCKS:
            self.blocks = _blocks(self.rows, self.v, self.ridge)
        else:
            self.scale = _diagonal(self.rows, self.v, self.ridge)

    def _direction(self) -> tuple[Tensor, Tensor]:
        """Along whose negative to go, and the slope there, by L-BFGS's two loops."""
        q = self.g.clone()
        alphas = []
        for s, y, rho in reversed(self.pairs):
            alpha = rho * _dot(s, q)
            alphas.append(alpha)
            q -= alpha * y
        q = self._scaled(q)
        if self.pairs:
            s, y, rho = self.pairs[-1]
            q *= 1 / (rho * _dot(y, self._scaled(y))).clamp(min=1e-20)
        for (s, y, rho), alpha in zip(self.pairs, reversed(alphas), strict=True):
            q += (alpha - rho * _dot(y, q)) * s
        slope = _dot(self.g, q)
        bad = slope <= 0
        if bad.any():
            q = torch.where(bad, self._scaled(self.g), q)
            slope = _dot(self.g, q)
        return q, slope

    def step(self) -> None:
        """One step with its line search."""
        q, slope = self._direction()
        t = torch.ones_like(slope)
        for _ in range(25):
            v = self.v - t * q
            new, g = _evaluate(self.rows, v, self.ridge)
            enough = new <= self.value - 1e-4 * (t * slope).double() + self.slack * self.value.abs()
            if enough.all():
                break
            # The parabola through both values and the slope, kept between a tenth and a half.
            guess = (t * slope).double() / (2 * (new - self.value + (t * slope).double())).clamp(min=1e-30)
            t = torch.where(enough, t, t * guess.clamp(0.1, 0.5).to(t.dtype))
        self._remember(v - self.v, g - self.g)
        gained = new < self.value - 0.01 * self.slack * self.value.abs()
        self.stalled = torch.where(gained, torch.zeros_like(self.stalled), self.stalled + 1)
        self.v, self.g, self.value = v, g, new

    def _remember(self, s: Tensor, y: Tensor) -> None:
        curved = _dot(s, y)
        ok = curved > 1e-12 * _dot(s, s)
        rho = torch.where(ok, 1 / curved.clamp(min=1e-30), torch.zeros_like(curved))  # rho 0: the pair is not used there
        # Below the precision of float32 begin again with the preconditioner alone.
        self.pairs = [*self.pairs, (s, y, rho)][-HISTORY:] if ok.all() else []


@dataclass
class _Solved:
    v: Tensor  # [r + 1, K, P]
    iterations: np.ndarray
    done: np.ndarray
    blocks: Tensor | None  # what preconditioned the last iteration, where one problem was solved


def _solve(
    rows: _Rows, strengths: np.ndarray, v: Tensor, tolerance: float, limit: int, note: Callable[[int, int], None],
    blocks: Tensor | None = None,
) -> _Solved:  # fmt: skip
    """Minimise all problems from v [r + 1, K, P]. blocks: of a problem nearby, to begin with."""
    rows.give(v.dtype)
    out = _Solved(v.clone(), np.zeros(len(strengths), int), np.zeros(len(strengths), bool), None)
    live = np.arange(len(strengths))
    ridge = torch.as_tensor(1.0 / (strengths * rows.n), dtype=v.dtype, device=v.device)
    descent = _Descent(rows, ridge, v, blocks)
    step = 0
    while True:
        small = (descent.largest_gradient() <= tolerance).cpu().numpy()
        out.v[:, :, live] = descent.v
        out.iterations[live] = step
        out.done[live[small]] = True
        over = small | (descent.stalled >= STALL).cpu().numpy()
        note(int((~over).sum()), step)
        if over.all() or step == limit:
            out.blocks = descent.blocks if len(strengths) == 1 else None
            return out
        if over.mean() >= 0.1:  # solved problems leave the stack
            descent.keep(torch.from_numpy(np.flatnonzero(~over)).to(v.device))
            live = live[~over]
        descent.step()
        step += 1
        if step % REFRESH == 0:
            descent.precondition()


class _Path:
    """A path of strengths on the way to be solved; v [r + 1, K, P] in double precision."""

    def __init__(self, rows: _Rows, classes: int, values: np.ndarray, how: tuple[float, int, Callable[[int, int], None]]) -> None:
        self.rows, self.values = rows, values
        self.tolerance, self.limit, self.note = how
        self.v = torch.zeros(len(rows.values) + 1, classes, len(values), dtype=torch.float64, device=rows.device)
        self.iterations, self.converged = np.zeros(len(values), int), np.zeros(len(values), bool)
        self.known: list[int] = []
        self.blocks: Tensor | None = None

    def _take(self, at: list[int], solved: _Solved) -> None:
        self.v[:, :, at] = solved.v.double()
        self.iterations[at] += solved.iterations
        self.converged[at] = solved.done

    def climb(self, j: int) -> None:
        """Solve one strength from those before it: the best of the last solution and polynomials in log C through the last ones."""
        if self.known:
            starts = [self.v[:, :, self.known[-1]]]
            for count in range(2, 5):
                near = self.known[-count:]
                if len(near) == count == len(set(self.values[near])):
                    share = lagrange(np.log(self.values[near]), float(np.log(self.values[j])))
                    starts.append(self.v[:, :, near] @ self.v.new_tensor(share))
            stack = torch.stack(starts, -1)
            self.rows.give(torch.float64)
            ridge = self.v.new_full((len(starts),), 1 / (self.values[j] * self.rows.n))
            self.v[:, :, j] = stack[:, :, int(_evaluate(self.rows, stack, ridge)[0].nan_to_num(torch.inf).argmin())]
        for dtype, tolerance in ((torch.float32, max(self.tolerance, ROUGH)), (torch.float64, self.tolerance)):
            solved = _solve(
                self.rows, self.values[[j]], self.v[:, :, [j]].to(dtype), tolerance, self.limit, self.note, self.blocks
            )
            self._take([j], solved)
            self.blocks = solved.blocks
        self.known.append(j)

    def fill(self, at: list[int]) -> None:
        """Solve strengths together, each from the polynomial in log C through the nearest four solutions."""
        for j in at:
            nearby = sorted(self.known, key=lambda k: abs(k - j))[:4]
            if not min(nearby) < j < max(nearby) or len(set(self.values[nearby])) < len(nearby):
                nearby = nearby[:1]  # a polynomial is not to be trusted beyond its points
            share = lagrange(np.log(self.values[nearby]), float(np.log(self.values[j])))
            self.v[:, :, j] = self.v[:, :, nearby] @ self.v.new_tensor(share)
        self.polish(at)
        self.known += at

    def polish(self, at: list[int]) -> None:
        """Solve strengths together from where they are."""
        self._take(at, _solve(self.rows, self.values[at], self.v[:, :, at], self.tolerance, self.limit, self.note))


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
    r, p = len(rows.values), len(values)
    per_stack = max(1, STACK // (max(r, 1) * classes * (2 * HISTORY + 8)))
    with progress.stage("logistic regression", p, "C") as bar:

        def note(left: int, step: int) -> None:
            bar.advance(0, note=f"{left} of the stack left, iteration {step}")

        path = _Path(rows, classes, values, (tolerance, max_iterations, note))
        if start is not None:
            path.v[:-1] = (rows.vectors.T @ start.weight[:, :, 0].cpu().double()).to(device).unsqueeze(-1)
            path.v[-1] = (start.bias[:, 0].cpu() + rows.mean @ start.weight[:, :, 0].cpu()).to(device).unsqueeze(-1)
        for number, level in enumerate(levels(p, NEAR if rows.in_memory else FAR)):
            size = 1 if number == 0 and start is None else per_stack
            for at in (level[i : i + size] for i in range(0, len(level), size)):
                if start is not None:
                    path.polish(at)
                elif number:
                    path.fill(at)
                else:
                    path.climb(at[0])
                bar.advance(len(at))
    weight = torch.tensordot(rows.vectors, path.v[:-1].cpu(), 1)
    bias = path.v[-1].cpu() - torch.tensordot(rows.mean.double(), weight, 1)
    return PathFit(values, weight.float(), bias.float(), path.iterations, path.converged)
