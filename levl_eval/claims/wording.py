"""A judged claim in words: one plain sentence, the lines for a terminal, and plain JSON values."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from levl_eval.cards import ClaimCard
from levl_eval.claims.curve import curve_of
from levl_eval.claims.verdict import Difference, Judged
from levl_eval.report.units import amount, factor, interval, text

WIDTH = 80
_IS = {"greater": "above", "less": "below", "equivalent": "on par with"}


def p_text(p: float) -> str:
    """A p-value for people; the last digits of a very small one say nothing."""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def _list(words: Sequence[str], last: str = "and") -> str:
    words = list(dict.fromkeys(words))
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


def relation_text(j: Judged) -> str:
    """``levljepa is above clip and siglip``, with the margin where there is one."""
    card = j.card
    by = "and" if card.over.against == "all" else "or"
    margin = ""
    if card.margin:
        unit = "points" if all(factor(d.metric) == 100.0 for d in _tested(j)) else "(in the metric's unit)"
        margin = f" within {card.margin:g} {unit}" if card.relation == "equivalent" else f" by more than {card.margin:g} {unit}"
    return f"{card.subject} is {_IS[card.relation]} {_list(card.against, by)}{margin}"


def _tasks(card: ClaimCard) -> str:
    named = [t.task if t.metric is None or card.relation == "equivalent" else f"{t.task} ({t.metric})" for t in card.tasks]
    return _list(named, "and" if card.over.tasks == "all" else "or")


def _where(d: Difference) -> str:
    return f"{d.task} {d.metric} against {d.other}" + (f" ({_chosen(d)})" if d.choices else "")


def _chosen(d: Difference) -> str:
    return ", ".join(f"{k}={v}" for k, v in d.choices)


def _range(d: Difference, alpha: float) -> str:
    assert d.contrast is not None
    low, high = d.contrast.difference.interval(alpha)
    return f"{text(low, d.metric, signed=True)} to {amount(high, d.metric, signed=True)}"


def _family(j: Judged, p: float) -> str:
    of = f", adjusted for {j.family} claims" if j.family > 1 else ""
    return f"p {p_text(p)}{of}" if p < 1e-4 else f"p = {p_text(p)}{of}"


def _tested(j: Judged) -> list[Difference]:
    return [d for d in j.differences if d.contrast is not None]


def _why_undecided(j: Judged) -> str:
    if j.reasons:
        more = f" (and {len(j.reasons) - 1} more reason{'s' if len(j.reasons) > 2 else ''})" if len(j.reasons) > 1 else ""
        return f"Undecided: {j.reasons[0]}{more}."
    weakest = max(_tested(j), key=lambda d: float(d.evidence.support))
    if j.card.over.tasks == j.card.over.against == j.card.over.protocols == "all" and weakest.verdict(j.alpha) == "supported":
        return f"Undecided: {relation_text(j)} on {_tasks(j.card)}, but not beyond error over {j.family} claims ({_family(j, j.holm[0])})."
    asked = f"; a margin of {j.card.margin:g} is asked" if j.card.margin else ""
    return f"Undecided: on {_where(weakest)} anything from {_range(weakest, j.alpha)} is possible{asked}."


def sentence(j: Judged) -> str:
    """The verdict in one plain sentence, and what it is about in a second one where that is less than the claim."""
    tested = _tested(j)
    if j.verdict == "supported":
        closest = max(tested, key=lambda d: float(d.evidence.support))
        out = (
            f"Supported: {relation_text(j)} on {_tasks(j.card)} ({_family(j, j.holm[0])}); "
            f"least clear on {_where(closest)}, {_range(closest, j.alpha)}."
        )
    elif j.verdict == "contradicted":
        worst = min(tested, key=lambda d: float(d.evidence.contradiction))
        out = f"Contradicted: on {_where(worst)} the difference is {_range(worst, j.alpha)} ({_family(j, j.holm[1])})."
        if j.reasons:
            out += f" Not tested: {j.reasons[0]}."
    else:
        out = _why_undecided(j)
    k, n = j.holds_in
    if n > 1:
        out += f" It holds in {k} of {n} protocols."
    if tested and min(d.contrast.pretraining_seeds for d in tested if d.contrast) == 1:
        out += " One pretraining seed a role: this is about these checkpoints, not about their training."
    return out


def difference_line(d: Difference, alpha: float) -> str:
    """One test as a line: the difference with its interval, p, images, seeds, and the published difference beside it."""
    if d.contrast is None:
        return f"{_where(d)}: not tested: {d.reason}"
    c = d.contrast
    low, high = c.difference.interval(alpha)
    seeds = [
        f"{c.images:,} images",
        f"{c.pretraining_seeds} pretraining and {c.head_seeds} head seed{'s' if c.head_seeds > 1 else ''}",
    ]
    out = (
        f"{_where(d)}: {interval(float(c.difference.value), low, high, d.metric, signed=True)}, p {p_text(float(d.evidence.support))} for, "
        f"{p_text(float(d.evidence.contradiction))} against; {', '.join(seeds)}"
    )
    if c.left_out:
        out += f", {c.left_out} failed items left out"
    published = [f"{p.value:+.2f}{f' with {p.llm}' if p.llm else ''} ({p.grade})" for p in d.published]
    return out + (f"; published {', '.join(published)}" if published else "")


def lines(j: Judged, most: int = 12) -> list[str]:
    """A judged claim as lines of at most 80 characters (names longer than that stay whole)."""

    def wrapped(words: str, indent: int = 2) -> list[str]:
        options = {"break_long_words": False, "break_on_hyphens": False}
        return textwrap.wrap(words, WIDTH, initial_indent=" " * indent, subsequent_indent=" " * (indent + 2), **options)  # type: ignore[arg-type]

    out = [f"{j.card.name}: {j.verdict.upper()}", *wrapped(j.card.statement), *wrapped(sentence(j))]
    # What could not be tested for a reason that is told anyway stands once, with the reasons.
    known = [d for d in j.differences if d.contrast is not None or d.reason not in j.reasons]
    for d in known[:most]:
        out += wrapped(f"- {difference_line(d, j.alpha)}", 4)
    if len(known) > most:
        out += wrapped(f"... and {len(known) - most} more; --json has all", 4)
    if untold := [d for d in j.differences if d not in known]:
        out += wrapped(f"not tested: {', '.join(dict.fromkeys(f'{d.task} {d.metric} against {d.other}' for d in untold))}", 4)
    records = [r for d in _tested(j) if d.contrast for r in d.contrast.records]
    if records:
        out += wrapped(f"records: {', '.join(dict.fromkeys(r if '--' in r else r[:12] for r in records))}", 4)
    for reason in j.reasons[1:]:
        out += wrapped(f"also: {reason}", 4)
    for caveat in j.caveats:
        out += wrapped(f"beside it: {caveat}", 4)
    return [*out, ""]


def _difference_json(d: Difference, alpha: float) -> dict[str, object]:
    out: dict[str, object] = {
        "task": d.task, "metric": d.metric, "subject": d.subject, "against": d.other, "protocol": d.protocol, "choices": dict(d.choices),
        "published": [vars(p) for p in d.published], "reason": d.reason, "refused": d.refused, "verdict": d.verdict(alpha),
        "p_support": float(d.evidence.support), "p_contradiction": float(d.evidence.contradiction),
    }  # fmt: skip
    if d.contrast is not None:
        c, low_high = d.contrast, d.contrast.difference.interval(alpha)
        out |= {
            "difference": float(c.difference.value), "low": low_high[0], "high": low_high[1], "values": list(c.values),
            "stderr_images": float(c.difference.image_variance) ** 0.5, "stderr_seeds": float(c.difference.seed_variance) ** 0.5,
            "images": c.images, "items": c.items, "failed_items_left_out": c.left_out, "pretraining_seeds": c.pretraining_seeds,
            "head_seeds": c.head_seeds, "spread_over": c.outer, "records": list(c.records), "caveats": list(c.caveats),
        }  # fmt: skip
    return out


def as_dict(j: Judged) -> dict[str, object]:
    """Plain JSON values. Differences are in the metric's own numbers (fractions), p-values of single tests are not adjusted."""
    k, n = j.holds_in
    return {
        "claim": j.card.name, "statement": j.card.statement, "source": j.card.source, "note": j.card.note, "verdict": j.verdict,
        "sentence": sentence(j), "alpha": j.alpha, "family": j.family, "p_support": float(j.evidence.support),
        "p_contradiction": float(j.evidence.contradiction), "p_support_holm": j.holm[0], "p_contradiction_holm": j.holm[1],
        "relation": j.card.relation, "margin": j.card.margin, "over": j.card.over.model_dump(), "reasons": list(j.reasons),
        "caveats": list(j.caveats), "holds_in": {"protocols": k, "of": n},
        "protocols": [
            {"task": task, "metric": tests[0].metric, "choices": dict(tests[0].choices), "protocol": tests[0].protocol, "verdict": v}
            for task, tests, v in j.protocols
        ],
        "differences": [_difference_json(d, j.alpha) for d in j.differences], "specification_curve": curve_of(j).as_dict(),
    }  # fmt: skip
