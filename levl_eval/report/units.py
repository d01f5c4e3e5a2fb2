"""How a value is written for people, by its entry in the metric catalogue. A metric may be given by name or as its entry."""

from __future__ import annotations

from collections.abc import Iterable

from levl_eval.metrics.catalogue import Metric
from levl_eval.metrics.catalogue import metric as entry


def _entry(metric: str | Metric) -> Metric:
    return metric if isinstance(metric, Metric) else entry(metric)


def factor(metric: str | Metric) -> float:
    """What a value is multiplied with in tables: 100 for fractions, 1 for what is no fraction."""
    return _entry(metric).factor


def lower_is_better(metric: str | Metric) -> bool:
    """Whether a smaller value is the better one (errors, drops)."""
    return _entry(metric).lower_is_better


def lower_note(metrics: Iterable[str | Metric]) -> str:
    """Caption for metrics where lower is better, and for those of unknown direction; empty if there are none."""
    entries = [_entry(m) for m in metrics]
    lower = sorted({m.name for m in entries if m.better == "lower"})
    open_ones = sorted({m.name for m in entries if not m.ranked})
    out = f" Lower is better for {', '.join(lower)}, and a gain below zero then is an improvement." if lower else ""
    return out + (
        f" Whether more is better is not known of {', '.join(open_ones)}: shown as measured, none is best." if open_ones else ""
    )


def labelled(metric: str | Metric) -> str:
    """A metric's name for a head, with its unit where that is not percent: ``rmse (m)``."""
    m = _entry(metric)
    return m.name if m.unit in ("percent", "") else f"{m.name} ({m.unit})"


def text(value: float | None, metric: str | Metric, signed: bool = False) -> str:
    """A value for people."""
    if value is None:
        return ""
    m = _entry(metric)
    return f"{m.factor * value:{'+' if signed else ''}.{m.digits}f}"


def amount(difference: float, metric: str | Metric, signed: bool = False, unit: bool = True) -> str:
    """A difference for people: ``1.3 points`` of a percentage, ``0.041 in rmse`` where the value is no fraction."""
    m = _entry(metric)
    of = f" in {m.name}" if m.factor == 1.0 else " points"
    return text(difference, m, signed) + (of if unit else "")


def interval(value: float, low: float | None, high: float | None, metric: str | Metric, signed: bool = False) -> str:
    """``48.9 [47.4, 50.4]``, or the value alone where there is no interval."""
    if low is None or high is None:
        return text(value, metric, signed)
    return f"{text(value, metric, signed)} [{text(low, metric, signed)}, {text(high, metric, signed)}]"
