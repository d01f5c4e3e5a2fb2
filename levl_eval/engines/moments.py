"""The one mean and standard deviation of features that come in blocks: float64, shifted against cancellation."""

from __future__ import annotations

import torch
from torch import Tensor


class Moments:
    """Mean and standard deviation per dimension over rows that are never held together.

    Sums are of differences to the first block's mean: features may lie far from the origin (means a hundred deviations away are
    seen), where squares less the squared mean keep few digits. On the CPU, as some devices have no float64.
    """

    def __init__(self) -> None:
        self.count = 0
        self._shift = self._total = self._square = torch.zeros(0, dtype=torch.float64)

    def add(self, rows: Tensor) -> None:
        """Rows [m, D] of any type, m at least 1."""
        x = rows.cpu().double()
        if not self.count:
            self._shift = x.mean(0)
            self._total, self._square = torch.zeros_like(self._shift), torch.zeros_like(self._shift)
        x = x - self._shift
        self._total += x.sum(0)
        self._square += (x * x).sum(0)
        self.count += len(x)

    @property
    def mean(self) -> Tensor:
        """float64 [D]."""
        return self._total / self.count + self._shift

    def std(self, ddof: int = 0) -> Tensor:
        """float64 [D]: the root of the sum of squared differences to the mean over count - ddof (over 1 where nothing is left)."""
        mean = self._total / self.count
        return ((self._square - self.count * mean * mean) / max(self.count - ddof, 1)).clamp(min=0).sqrt()
