"""A number with its uncertainty."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Estimate(BaseModel):
    """A number with its uncertainty. Fractions in [0, 1] unless the metric's name says otherwise."""

    model_config = ConfigDict(extra="forbid")
    value: float
    stderr: float | None = None  # standard error of the sampling of test images; None where it cannot be estimated
    low: float | None = None  # 95% interval
    high: float | None = None
    n: int = 0  # samples the value is a mean over
    clusters: int = 0  # independent units resampled (images)
    method: str = ""  # how the interval was made: "cluster bootstrap", "wilson", ...
