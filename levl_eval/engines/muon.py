"""Muon for the matrices of a connector's linear layers, AdamW for what else it learns (biases, gains, queries), as one optimiser.

Muon: Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/); the update's size is that of Liu et al. 2025 (arXiv 2502.16982),
about AdamW's, so that one rate serves both. Computed in float32: torch's own (from 2.9 on) orthogonalises in bfloat16, whose rounding
differs between processors and between one process and two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.optim.optimizer import ParamsT

NEWTON_SCHULZ = 3.4445, -4.7750, 2.0315  # coefficients of the quintic iteration (Jordan et al. 2024)
ITERATIONS = 5


def orthogonalised(update: Tensor) -> Tensor:
    """A matrix [m, n] with its singular values brought to about 1 (0.7 to 1.2), by a Newton-Schulz iteration."""
    tall = update.shape[0] > update.shape[1]
    x: Tensor = update.T if tall else update
    x = x / (x.norm() + 1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    out: Tensor = x.T if tall else x
    return out


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal. For matrices only.

    The update is p - lr (0.2 sqrt(max(m, n)) O + weight_decay p), O of Nesterov's momentum.
    """

    def __init__(self, params: ParamsT, lr: float, momentum: float = 0.95, weight_decay: float = 0.01) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                update = orthogonalised(p.grad.lerp(state["momentum"], group["momentum"]))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * 0.2 * max(p.shape) ** 0.5)


class MuonAndAdamW(torch.optim.Optimizer):
    """Muon on the weights of a module's linear layers, AdamW on its other parameters, both at one rate."""

    def __init__(self, module: nn.Module, lr: float, weight_decay: float) -> None:
        linear = {id(m.weight) for m in module.modules() if isinstance(m, nn.Linear)}
        matrices = [p for p in module.parameters() if id(p) in linear]
        rest = [p for p in module.parameters() if id(p) not in linear]
        self.parts: list[torch.optim.Optimizer] = []
        if matrices:
            self.parts.append(Muon(matrices, lr=lr, weight_decay=weight_decay))
        if rest:
            self.parts.append(torch.optim.AdamW(rest, lr=lr, weight_decay=weight_decay))
        super().__init__(self._groups(), {})

    def _groups(self) -> list[dict[str, object]]:
        """The parts' own dictionaries, so that a rate that is set here is set there."""
        return [group for part in self.parts for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, object]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: Mapping[str, object]) -> None:
        """Raises KeyError, ValueError for the state of another optimiser."""
        states = cast("list[dict[str, object]]", state_dict["parts"])
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)
        self.param_groups = self._groups()
