"""`--skip-broken N` or `P%`: how much of a data set may be left out because it cannot be read, where refusal is the default."""

from __future__ import annotations

import re
from dataclasses import dataclass

_FORM = re.compile(r"(\d{1,9})|(\d{1,3}(?:\.\d{1,6})?)\s*%")


@dataclass(frozen=True)
class SkipBound:
    """At most ``count`` items, or at most the ``share`` (0 to 1) of a set's items."""

    count: int | None = None
    share: float | None = None

    @classmethod
    def parse(cls, text: str) -> SkipBound:
        """``"3"`` or ``"0.5%"``. Raises ValueError for anything else."""
        match = _FORM.fullmatch(text.strip())
        if match is None or (match[2] and float(match[2]) > 100):
            raise ValueError(f"expected a whole number such as 3, or a percentage such as 0.5%, found {text[:60]!r}")
        return cls(int(match[1])) if match[1] else cls(None, float(match[2]) / 100)

    def allows(self, broken: int, total: int) -> bool:
        """Whether ``broken`` of ``total`` items may be left out."""
        return broken <= self.count if self.count is not None else broken <= (self.share or 0.0) * total


NO_SKIPPING = SkipBound(0)


def checked_bound(value: object) -> str:
    """A bound as text: of ``3``, ``"3"`` or ``"0.5%"``. Raises ValueError for anything else; for fields and options alike."""
    text = str(value).strip()
    SkipBound.parse(text)
    return text
