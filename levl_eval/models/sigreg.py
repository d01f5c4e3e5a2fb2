"""SIGReg, streamed: the distance of embeddings from an isotropic Gaussian without the batch x slices x knots tensor.

Definition (docs/paper.md; LeJEPA's sliced Epps-Pulley statistic): with unit directions a_s, projections x = z a_s and knots
t_k = k h on [0, t_max],

    statistic = N mean_s sum_k w_k [ (mean_b cos t_k x_bs - phi_k)^2 + (mean_b sin t_k x_bs)^2 ],   phi_k = exp(-t_k^2 / 2),

w_k the trapezoid weights doubled for symmetry (2h, h at both ends) times the window exp(-t_k^2 / 2), N the local batch.

The knots are equally spaced. On a CPU every k is written r m + j with |j| <= J, r = 2J + 1, so that by the sum formulas the means
of cos k h x and sin k h x are linear in the (1 + 2J)(1 + 2M) means of products of {1, cos j h x, sin j h x} and {1, cos r m h x,
sin r m h x}: for 17 knots a product of 5 by 7 rows instead of 32 functions, and the gradient with respect to x is its transpose.
For a compiler (CUDA), cos and sin follow from the Chebyshev recurrence c_{k+1} = 2 cos(h x) c_k - c_{k-1} and the gradient is a
Clenshaw sum, each one fused kernel. Work is tiled over slices; memory is a few tiles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

from levl_eval.core.distributed import joined_group

if TYPE_CHECKING:
    from torch.autograd.function import BackwardCFunction

_TILE = 1 << 15  # elements of a tile: few enough to stay in a core's caches, enough to outweigh the cost of a call
_BLOCK = 1 << 20  # elements of projections that are multiplied at once; more of them cost page faults each step


@lru_cache(maxsize=32)
def _knots(knots: int, t_max: float) -> tuple[float, tuple[float, ...], tuple[float, ...]]:
    """Spacing h, weights w_k and targets phi_k."""
    h = t_max / (knots - 1)
    t = [k * h for k in range(knots)]
    phi = tuple(math.exp(-x * x / 2) for x in t)
    trapezoid = [h if k in (0, knots - 1) else 2 * h for k in range(knots)]
    return h, tuple(w * p for w, p in zip(trapezoid, phi, strict=True)), phi


@lru_cache(maxsize=32)
def _split(knots: int) -> tuple[int, int, Tensor]:
    """(J, M, table): table [2 K, (1 + 2J)(1 + 2M)] gives cos and sin of k theta from products of the two sets of harmonics.

    A set is ordered 1, cosines, sines. k = r m + j: cos k = C_m c_j - S_m s_j, sin k = S_m c_j + C_m s_j; s_j odd in j.
    """
    small = max(1, round(math.sqrt((knots - 1) / 4)))
    ratio = 2 * small + 1
    large = max(1, math.ceil((knots - 1 - small) / ratio))
    table = torch.zeros(2, knots, 1 + 2 * small, 1 + 2 * large)
    for k in range(knots):
        m = (k + small) // ratio
        j = k - m * ratio
        n = abs(j)
        table[0, k, n, m] = 1.0
        if m:
            table[1, k, n, large + m] = 1.0
        if j:
            sign = math.copysign(1.0, j)
            table[1, k, small + n, m] = sign
            if m:
                table[0, k, small + n, large + m] = -sign
    return small, large, table.flatten(2).flatten(0, 1)


class _Harmonics:
    """cos and sin of multiples of a tile of angles [width, B], in buffers that every tile of that width uses again.

    Views are made once: at this size a call spends as long on making one as on a small product.
    """

    def __init__(self, knots: int, width: int, batch: int, like: Tensor) -> None:
        small, large, table = _split(knots)
        self.width, self.table = width, table.to(like)
        rows, columns = 1 + 2 * small, 1 + 2 * large
        left, right = like.new_empty(rows, width, batch), like.new_empty(columns, width, batch)
        left[0], right[0] = 1.0, 1.0
        self._cos, self._sin = left[1 : 1 + small].unbind(), left[1 + small :].unbind()
        self._upper_cos, self._upper_sin = right[1 : 1 + large].unbind(), right[1 + large :].unbind()
        self._inner, self._outer, self._turned = left.transpose(0, 1), right.permute(1, 2, 0), right.transpose(0, 1)
        self._spare_cos, self._spare_sin = like.new_empty(2, width, batch).unbind()
        self._product, self._grid = like.new_empty(width, rows, batch), (rows, columns)
        self._terms = list(zip(self._product.unbind(1)[1:], left.unbind()[1:], strict=True))
        self._mean, self._zero, self._minus = self.table.T / batch, like.new_zeros(()), like.new_full((), -1.0)

    def _turn(self, c: Tensor, s: Tensor, by_c: Tensor, by_s: Tensor, out_c: Tensor, out_s: Tensor) -> None:
        """cos and sin of the sum of two angles."""
        torch.mul(c, by_c, out=out_c).addcmul_(s, by_s, value=-1)
        torch.mul(s, by_c, out=out_s).addcmul_(c, by_s)

    def _double(self, c: Tensor, s: Tensor, out_c: Tensor, out_s: Tensor) -> None:
        torch.addcmul(self._minus, c, c, value=2, out=out_c)
        torch.addcmul(self._zero, s, c, value=2, out=out_s)

    def _multiples(self, c: Sequence[Tensor], s: Sequence[Tensor]) -> None:
        """From the first of c and s (each [w, B]) the others: twice, three times, ... its angle."""
        for i in range(1, len(c)):
            if i % 2:
                self._double(c[i // 2], s[i // 2], c[i], s[i])
            else:
                self._turn(c[i - 1], s[i - 1], c[0], s[0], c[i], s[i])

    def distances(self, theta: Tensor, targets: Tensor, out: Tensor) -> None:
        """out [w, 2 K] = the means over the batch of (cos k theta, sin k theta) less the targets [2 K]; keeps what ``slope`` needs."""
        c, s = self._cos, self._sin
        torch.cos(theta, out=c[0])
        torch.sin(theta, out=s[0])
        self._multiples(c, s)
        self._double(c[-1], s[-1], self._spare_cos, self._spare_sin)
        self._turn(self._spare_cos, self._spare_sin, c[0], s[0], self._upper_cos[0], self._upper_sin[0])  # 2 J + 1 times theta
        self._multiples(self._upper_cos, self._upper_sin)
        torch.addmm(targets, torch.bmm(self._inner, self._outer).flatten(1), self._mean, beta=-1, out=out)

    def slope(self, weights: Tensor, out: Tensor) -> None:
        """out [w, B]: the products of harmonics of the last ``distances``, in the order of the table, times weights [w, ...], summed."""
        torch.bmm(weights.view(self.width, *self._grid), self._turned, out=self._product)
        (one, by), *others = self._terms
        torch.addcmul(self._product[:, 0], one, by, out=out)
        for one, by in others:
            out.addcmul_(one, by)


def _moments_functional(x: Tensor, h: float, knots: int) -> Tensor:
    """Means over the batch of cos(k h x), sin(k h x): x [B, S] -> [2, K, S].

    For a compiler that fuses the recurrence and its 2 (K - 1) sums into one kernel.
    """
    theta = x * h
    c, s = torch.cos(theta), torch.sin(theta)
    twice = 2 * c
    c0, s0 = torch.ones_like(c), torch.zeros_like(s)
    cosines, sines = [c0.mean(0)], [s0.mean(0)]
    for k in range(1, knots):
        cosines.append(c.mean(0))
        sines.append(s.mean(0))
        if k + 1 < knots:
            c, c0, s, s0 = twice * c - c0, c, twice * s - s0, s
    return torch.stack([torch.stack(cosines), torch.stack(sines)])


def _slope_functional(x: Tensor, h: float, cosine: Tensor, sine: Tensor) -> Tensor:
    """sum_k cosine_k cos(k h x) + sine_k sin(k h x) for k >= 1 by Clenshaw's recurrence: coefficients [K, S], x [B, S] -> [B, S]."""
    theta = x * h
    c, s = torch.cos(theta), torch.sin(theta)
    twice = 2 * c
    p1, q1 = cosine[-1] + torch.zeros_like(x), sine[-1] + torch.zeros_like(x)
    p2, q2 = torch.zeros_like(x), torch.zeros_like(x)
    for k in range(cosine.shape[0] - 2, 0, -1):
        p1, p2, q1, q2 = twice * p1 - p2 + cosine[k], p1, twice * q1 - q2 + sine[k], q1
    return p1 * c - p2 + q1 * s


@lru_cache(maxsize=4)
def _kernels(engine: str) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """(moments, slope) through torch.compile with a backend of that name."""
    return torch.compile(_moments_functional, backend=engine), torch.compile(_slope_functional, backend=engine)


def _engine(wanted: str, device: torch.device) -> str:
    """auto: one fused kernel each for moments and slope where Triton can make it for a GPU, else tiles."""
    if wanted != "auto":
        return wanted
    return "inductor" if device.type == "cuda" and find_spec("triton") is not None else "tiles"


@dataclass(frozen=True)
class _Quadrature:
    """Weights and targets [K] as tensors, and what the statistic and its gradient are made of once the moments are known."""

    weights: Tensor
    targets: Tensor
    t: Tensor
    distributed: bool

    @classmethod
    def of(cls, knots: int, t_max: float, distributed: bool, like: Tensor) -> tuple[float, _Quadrature]:
        h, weights, targets = _knots(knots, t_max)
        t = torch.arange(knots, dtype=like.dtype, device=like.device) * h
        return h, cls(like.new_tensor(weights), like.new_tensor(targets), t, distributed)

    def share(self, distances: Tensor) -> None:
        """The distance of the global characteristic function, in place; scaled by the local batch later, as published."""
        if self.distributed:
            dist.all_reduce(distances)
            distances /= joined_group().size

    def ends(self) -> tuple[Tensor, Tensor, Tensor]:
        """Targets [2 K] of cosines then sines, their weights [2 K], and ``pull`` [2 K, 2 K].

        (dc, ds) @ pull = the coefficients of cos and of sin in the gradient with respect to a projection x:

        d/dx of N/S sum_k w_k (dc^2 + ds^2): each mean contributes t_k/B, N = B cancels; averaging gradients over processes then
        gives the gradient of (local B) f(global characteristic function).
        """
        steep = torch.diag(2 * self.weights * self.t)
        pull = torch.cat([torch.cat([0 * steep, -steep], 1), torch.cat([steep, 0 * steep], 1)])
        return torch.cat([self.targets, 0 * self.targets]), self.weights.repeat(2), pull


def _in_tiles(z: Tensor, a: Tensor, knots: int, t_max: float, distributed: bool, gradient: Tensor | None) -> Tensor:
    """Sum over slices; adds the gradient with respect to z, times the slices, to ``gradient``."""
    h, quadrature = _Quadrature.of(knots, t_max, distributed, z)
    batch, slices = len(z), a.shape[1]
    width = max(1, min(slices, _TILE // batch))
    block = max(1, min(slices, _BLOCK // batch) // width) * width
    harmonics = _Harmonics(knots, width, batch, z)
    targets, weights, pull = quadrature.ends()
    pull = pull @ harmonics.table
    angles, total = (h * z).T, z.new_zeros(())
    theta, slope, distances = z.new_empty(block, batch), z.new_empty(block, batch), z.new_empty(block, 2 * knots)
    for start in range(0, slices, block):
        directions = a[:, start : start + block].T
        rows = len(directions)
        torch.mm(directions, angles, out=theta[:rows])
        for angle, out, distance in zip(*(x[:rows].split(width) for x in (theta, slope, distances)), strict=True):
            if len(angle) != harmonics.width:
                harmonics = _Harmonics(knots, len(angle), batch, z)
            harmonics.distances(angle, targets, distance)
            quadrature.share(distance)
            if gradient is not None:
                harmonics.slope(distance @ pull, out)
        total += (distances[:rows].square() @ weights).sum()
        if gradient is not None:
            gradient.addmm_(slope[:rows].T, directions)
    return total


def _compiled(z: Tensor, a: Tensor, knots: int, t_max: float, distributed: bool, gradient: Tensor | None, engine: str) -> Tensor:
    """:func:`_in_tiles` with fused kernels."""
    moments_of, slope_of = _kernels(engine)
    h, quadrature = _Quadrature.of(knots, t_max, distributed, z)
    width = max(16, min(a.shape[1], 2 * _TILE // max(1, len(z)))) if z.device.type == "cpu" else a.shape[1]
    targets, weights, pull = quadrature.ends()
    total = z.new_zeros(())
    for start in range(0, a.shape[1], width):
        tile = a[:, start : start + width]
        x = z @ tile
        distances = torch.cat(tuple(moments_of(x, h, knots))).T - targets
        quadrature.share(distances)
        total += (distances.square() @ weights).sum()
        if gradient is not None:
            cosine, sine = (distances @ pull).T.split(knots)
            gradient.addmm_(slope_of(x, h, cosine, sine), tile.T)
    return total


class _Streamed(torch.autograd.Function):
    """statistic(z [B, d], directions [d, S]); the gradient with respect to z is made in the forward pass, tile by tile."""

    @staticmethod
    def forward(
        ctx: BackwardCFunction, z: Tensor, directions: Tensor, knots: int, t_max: float, distributed: bool, engine: str
    ) -> Tensor:
        kind = z.dtype if z.dtype == torch.float64 else torch.float32
        zf, a = z.detach().to(kind), directions.detach().to(kind)
        gradient = torch.zeros_like(zf) if ctx.needs_input_grad[0] else None
        chosen = _engine(engine, z.device)
        if chosen == "tiles":
            total = _in_tiles(zf, a, knots, t_max, distributed, gradient)
        else:
            total = _compiled(zf, a, knots, t_max, distributed, gradient, chosen)
        if gradient is not None:
            ctx.save_for_backward((gradient / a.shape[1]).to(z.dtype))
        return total * (len(z) / a.shape[1])

    @staticmethod
    def backward(ctx: BackwardCFunction, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0], None, None, None, None, None


class SIGReg(nn.Module):
    """The regulariser as a module: ``SIGReg(num_slices)(z) -> scalar``.

    num_slices: random unit directions a call (published: 4096). knots, t_max: quadrature (17 on [0, 3]).
    distributed: average the characteristic function over processes; all of them must then use the same directions.
    engine: "auto", "tiles" (any device), or a torch.compile backend, of which "inductor" is auto's choice on CUDA. Inputs may be
    bfloat16; everything is accumulated in float32 (float64 inputs in float64).
    """

    def __init__(
        self, num_slices: int = 4096, knots: int = 17, t_max: float = 3.0, distributed: bool = False, engine: str = "auto"
    ) -> None:
        super().__init__()
        if num_slices < 1 or knots < 3 or t_max <= 0:
            raise ValueError(f"SIGReg: num_slices {num_slices}, knots {knots}, t_max {t_max}: expected >= 1, >= 3 and > 0")
        self.num_slices, self.knots, self.t_max, self.distributed, self.engine = num_slices, knots, t_max, distributed, engine

    def directions(self, dim: int, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Fresh directions [dim, num_slices] of unit length."""
        a = torch.randn(dim, self.num_slices, generator=generator, device=like.device)
        out: Tensor = a / a.norm(dim=0, keepdim=True)
        return out

    def forward(self, z: Tensor, directions: Tensor | None = None) -> Tensor:
        """z: [B, d], or [V, B, d] for V views, whose statistics are averaged. directions: [d, S], drawn anew where None."""
        if z.ndim not in (2, 3):
            raise ValueError(f"SIGReg: z has shape {tuple(z.shape)}; expected [B, d] or [V, B, d]")
        if directions is None:
            directions = self.directions(z.shape[-1], z)
        together = self.distributed and joined_group().size > 1
        views = z.unbind(0) if z.ndim == 3 else (z,)
        with torch.autocast(z.device.type, enabled=False):  # bfloat16 inputs are accumulated in float32
            return torch.stack(
                [_Streamed.apply(v, directions, self.knots, self.t_max, together, self.engine) for v in views]
            ).mean()
