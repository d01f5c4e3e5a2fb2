"""SIGReg, streamed: the distance of embeddings from an isotropic Gaussian without the batch x slices x knots tensor.

Definition (PAPER 1.3; LeJEPA's sliced Epps-Pulley statistic): with unit directions a_s, projections x = z a_s and knots
t_k = k h on [0, t_max],

    statistic = N mean_s sum_k w_k [ (mean_b cos t_k x_bs - phi_k)^2 + (mean_b sin t_k x_bs)^2 ],   phi_k = exp(-t_k^2 / 2),

w_k the trapezoid weights doubled for symmetry (2h, h at both ends) times the window exp(-t_k^2 / 2), N the local batch.

The knots are equally spaced, so cos(k h x) and sin(k h x) follow from cos(h x), sin(h x) by the Chebyshev recurrence
c_{k+1} = 2 cos(h x) c_k - c_{k-1}, and the gradient with respect to x, sum_k t_k (B_k cos t_k x - A_k sin t_k x), is a
Clenshaw sum. Work is tiled over slices; memory is one tile.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec

import torch
import torch.distributed as dist
from torch import Tensor, nn

_TILE = 1 << 17  # elements of a tile: few enough to stay in a core's caches, enough to outweigh the cost of a call


@lru_cache(maxsize=32)
def _knots(knots: int, t_max: float) -> tuple[float, tuple[float, ...], tuple[float, ...]]:
    """Spacing h, weights w_k and targets phi_k."""
    h = t_max / (knots - 1)
    t = [k * h for k in range(knots)]
    phi = tuple(math.exp(-x * x / 2) for x in t)
    trapezoid = [h if k in (0, knots - 1) else 2 * h for k in range(knots)]
    return h, tuple(w * p for w, p in zip(trapezoid, phi, strict=True)), phi


def _sign(k: int) -> float:
    """+ + - - + + ...: sign under which the recurrences are kept. f_{k+1} = 2 cos f_k - f_{k-1} becomes, for g_k = sign_k f_k,
    g_{k+1} = g_{k-1} +- 2 cos g_k, which is a single in-place pass (addcmul) instead of a negation and one."""
    return 1.0 if k // 2 % 2 == 0 else -1.0


def _moments(x: Tensor, h: float, knots: int) -> Tensor:
    """Means over the batch of cos(k h x), sin(k h x): x [B, S] -> [2, K, S]."""
    batch = x.shape[0]
    out = x.new_empty(2, knots, x.shape[1])
    out[0, 0], out[1, 0] = 1.0, 0.0
    theta = x * h
    c, s = torch.cos(theta), torch.sin(theta)
    twice = 2 * c
    c0, s0 = torch.ones_like(c), torch.zeros_like(s)
    for k in range(1, knots):
        torch.sum(c, 0, out=out[0, k])
        torch.sum(s, 0, out=out[1, k])
        if k + 1 < knots:
            # The two older buffers are overwritten in place: no allocation inside the loop.
            turn = _sign(k + 1) * _sign(k)
            c0.addcmul_(twice, c, value=turn)
            s0.addcmul_(twice, s, value=turn)
            c, c0, s, s0 = c0, c, s0, s
    out[:, 1:] *= x.new_tensor([_sign(k) / batch for k in range(1, knots)])[:, None]
    return out


def _slope(x: Tensor, h: float, cosine: Tensor, sine: Tensor) -> Tensor:
    """sum_k cosine_k cos(k h x) + sine_k sin(k h x) for k >= 1 by Clenshaw's recurrence: coefficients [K, S], x [B, S] -> [B, S]."""
    theta = x * h
    c, s = torch.cos(theta), torch.sin(theta)
    twice = 2 * c
    knots = cosine.shape[0]
    signs = x.new_tensor([_sign(k) for k in range(knots)])[:, None]
    cosine, sine = cosine * signs, sine * signs
    p1, p2 = cosine[-1].expand_as(x).clone(), torch.zeros_like(x)
    q1, q2 = sine[-1].expand_as(x).clone(), torch.zeros_like(x)
    for k in range(knots - 2, 0, -1):
        turn = _sign(k) * _sign(k + 1)
        p2.addcmul_(twice, p1, value=turn).add_(cosine[k])
        q2.addcmul_(twice, q1, value=turn).add_(sine[k])
        p1, p2, q1, q2 = p2, p1, q2, q1
    # sum_k a_k cos = b_1 cos(theta) - b_2 (a_0 apart); sum_k a_k sin = b_1 sin(theta); p2 is sign_2 b_2 = -b_2
    return p1.mul_(c).add_(p2).addcmul_(q1, s)


def _moments_functional(x: Tensor, h: float, knots: int) -> Tensor:
    """:func:`_moments` without buffers, for a compiler that fuses the recurrence and its 2 (K - 1) sums into one kernel."""
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
    """:func:`_slope` without buffers."""
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
    """(moments, slope) of an engine: "tiles" in place, or the functional forms through torch.compile with a backend of that name."""
    if engine == "tiles":
        return _moments, _slope
    return torch.compile(_moments_functional, backend=engine), torch.compile(_slope_functional, backend=engine)


def _engine(wanted: str, device: torch.device) -> str:
    """auto: one fused kernel each for moments and slope where Triton can make it for a GPU, else tiles."""
    if wanted != "auto":
        return wanted
    return "inductor" if device.type == "cuda" and find_spec("triton") is not None else "tiles"


class _Streamed(torch.autograd.Function):
    """statistic(z [B, d], directions [d, S]); the gradient with respect to z is made in the forward pass, tile by tile."""

    @staticmethod
    def forward(ctx, z: Tensor, directions: Tensor, knots: int, t_max: float, distributed: bool, engine: str) -> Tensor:
        moments_of, slope_of = _kernels(_engine(engine, z.device))
        h, weights, targets = _knots(knots, t_max)
        kind = z.dtype if z.dtype == torch.float64 else torch.float32
        zf = z.detach().to(kind)
        a = directions.detach().to(kind)
        batch, slices = zf.shape[0], a.shape[1]
        w, phi = (torch.tensor(v, dtype=kind, device=z.device)[:, None] for v in (weights, targets))
        t = torch.arange(knots, dtype=kind, device=z.device)[:, None] * h
        need = ctx.needs_input_grad[0]
        gradient = torch.zeros_like(zf) if need else None
        total = zf.new_zeros(())
        width = max(16, min(slices, _TILE // max(1, batch))) if z.device.type == "cpu" else slices
        for start in range(0, slices, width):
            tile = a[:, start : start + width]
            x = zf @ tile
            moments = moments_of(x, h, knots)
            if distributed:  # the global characteristic function; scaled by the local batch, as published
                dist.all_reduce(moments)
                moments /= dist.get_world_size()
            dc, ds = moments[0] - phi, moments[1]
            total += (w * (dc * dc + ds * ds)).sum()
            if gradient is not None:
                # d/dx of N/S sum_k w_k (dc^2 + ds^2): each mean contributes t_k/B, N = B cancels; averaging gradients over
                # processes then gives the gradient of (local B) f(global characteristic function).
                slope = slope_of(x, h, 2 * w * t * ds, -2 * w * t * dc)
                gradient.addmm_(slope, tile.T)
        if gradient is not None:
            ctx.save_for_backward((gradient / slices).to(z.dtype))
        return total * (batch / slices)

    @staticmethod
    def backward(ctx, *grads: Tensor):
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
        return a / a.norm(dim=0, keepdim=True)

    def forward(self, z: Tensor, directions: Tensor | None = None) -> Tensor:
        """z: [B, d], or [V, B, d] for V views, whose statistics are averaged. directions: [d, S], drawn anew where None."""
        if z.ndim not in (2, 3):
            raise ValueError(f"SIGReg: z has shape {tuple(z.shape)}; expected [B, d] or [V, B, d]")
        if directions is None:
            directions = self.directions(z.shape[-1], z)
        together = self.distributed and dist.is_available() and dist.is_initialized()
        views = z.unbind(0) if z.ndim == 3 else (z,)
        with torch.autocast(z.device.type, enabled=False):  # bfloat16 inputs are accumulated in float32
            return torch.stack(
                [_Streamed.apply(v, directions, self.knots, self.t_max, together, self.engine) for v in views]
            ).mean()
