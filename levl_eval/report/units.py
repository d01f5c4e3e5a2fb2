"""How a metric is written: most are fractions shown in percent; some are errors, distances or counts shown as they are."""

from __future__ import annotations

from collections.abc import Iterable

# By the last part of a metric's name ("depth/rmse" -> "rmse"). mme_: points, as lmms-eval gives them.
_RAW = ("rmse", "absrel", "abs_rel", "log10", "silog", "nll", "distribution", "effective_rank", "rank", "isotropy", "uniformity", "alignment", "mme_")  # fmt: skip
_LOWER = ("rmse", "absrel", "abs_rel", "log10", "silog", "nll", "ece", "calibration", "brier", "drop", "unparsed", "distribution")


def _last(metric: str) -> str:
    return metric.lower().rsplit("/", 1)[-1]


def factor(metric: str) -> float:
    """What a value is multiplied with in tables: 100 for fractions, 1 for what is no fraction."""
    return 1.0 if _last(metric).startswith(_RAW) else 100.0


def lower_is_better(metric: str) -> bool:
    """Whether a smaller value is the better one (errors, drops)."""
    name = _last(metric)
    return name.startswith(_LOWER) or name.endswith(("_error", "_drop", "_rmse"))


def lower_note(metrics: Iterable[str]) -> str:
    """What a caption says of metrics that are errors; empty where there are none."""
    named = sorted({m for m in metrics if lower_is_better(m)})
    return f" Lower is better for {', '.join(named)}, and a gain below zero then is an improvement." if named else ""


def digits(metric: str) -> int:
    """Decimals in tables for people: one of a percentage, three of a raw value."""
    return 1 if factor(metric) == 100.0 else 3


def text(value: float | None, metric: str, signed: bool = False) -> str:
    """A value for people."""
    return "" if value is None else f"{factor(metric) * value:{'+' if signed else ''}.{digits(metric)}f}"


def amount(difference: float, metric: str, signed: bool = False, unit: bool = True) -> str:
    """A difference for people: ``1.3 points`` of a percentage, ``0.041 in rmse`` where the value is no fraction."""
    of = f" in {metric}" if factor(metric) == 1.0 else " points"
    return text(difference, metric, signed) + (of if unit else "")


def interval(value: float, low: float | None, high: float | None, metric: str, signed: bool = False) -> str:
    """``48.9 [47.4, 50.4]``, or the value alone where there is no interval."""
    if low is None or high is None:
        return text(value, metric, signed)
    return f"{text(value, metric, signed)} [{text(low, metric, signed)}, {text(high, metric, signed)}]"
