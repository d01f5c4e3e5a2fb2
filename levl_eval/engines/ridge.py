"""The one ridge regression: its two sums are gathered in blocks, so that rows are never held together."""

from __future__ import annotations

import torch
from torch import Tensor


class Ridge:
    """The weights W [D, K] and biases b [K] with the least ||X W + b - Y||^2 + strength ||W||^2; the bias is not penalised.

    width: D; targets: K. In float64 where the device has it: the normal equations square the condition number.
    """

    def __init__(self, width: int, targets: int, device: torch.device, bias: bool = True) -> None:
        self.width, self.bias = width, bias
        self.dtype = torch.float32 if device.type == "mps" else torch.float64
        size = width + int(bias)
        self._gram = torch.zeros(size, size, dtype=self.dtype, device=device)
        self._cross = torch.zeros(size, targets, dtype=self.dtype, device=device)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Rows [m, D] and their targets: [m, K] numbers, or [m] integers, the classes of which Y holds one-hot rows."""
        x = x.to(self.dtype)
        if self.bias:
            x = torch.cat([x, x.new_ones(len(x), 1)], 1)
        self._gram += x.T @ x
        if y.is_floating_point():
            self._cross += x.T @ y.to(self.dtype)
        else:  # X^T Y with one-hot Y: rows summed by class
            self._cross += x.new_zeros(self._cross.shape[1], x.shape[1]).index_add_(0, y, x).T

    def solve(self, strength: float) -> tuple[Tensor, Tensor]:
        """(W [D, K], b [K]; zeros where there is no bias). strength 0: the least-squares solution, of least norm where it is not unique."""
        penalty = torch.full((len(self._gram),), strength, dtype=self.dtype, device=self._gram.device)
        if self.bias:
            penalty[-1] = 0
        system = self._gram + torch.diag(penalty)
        # Without a penalty the system may be singular; its least-norm solution still is the regression.
        solution = torch.linalg.pinv(system) @ self._cross if strength == 0 else torch.linalg.solve(system, self._cross)
        return solution[: self.width], solution[-1] if self.bias else solution.new_zeros(solution.shape[1])
