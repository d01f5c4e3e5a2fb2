"""Facts around the numbers of a report: the head of the page, and the panel that each number links to."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from levl_eval.core.json_types import object_at
from levl_eval.metrics.estimate import Estimate
from levl_eval.records import Record
from levl_eval.report.protocols import value_text
from levl_eval.report.provenance import data_words, date_of, flat
from levl_eval.report.results import Results, Row, entry_of
from levl_eval.report.sight import share_of_record, share_text
from levl_eval.report.tables import chance_of
from levl_eval.report.trained_out import RULE as TRAINED_OUT
from levl_eval.report.units import interval, lower_note, text

Facts = list[tuple[str, list[str]]]  # (what, lines)
LAST = 10  # the last so-many-th part of a loss curve, by which its end is judged
MOST_COMMANDS = 3


def _each(values: Sequence[object]) -> list[str]:
    return list(dict.fromkeys(str(v) for v in values if v not in (None, "", [])))


def _command(r: Record) -> str:
    words = r.environment.get("command")
    first, *rest = [str(w) for w in words] if isinstance(words, list) and words else [""]
    return shlex.join(["levl-eval" if first == "__main__.py" else first, *rest]) if first else ""


def _device(r: Record) -> str:
    name = str(r.environment.get("device_name", ""))
    precision = ", ".join(_each(list(r.precision.values())))
    return " ".join(x for x in (r.device, f"({name})" if name else "", precision) if x)


def _software(r: Record) -> str:
    packages = object_at(r.environment, "packages")
    git = object_at(r.environment, "git")
    parts = [f"{n} {packages[n]}" for n in ("levl-eval", "torch", "transformers") if n in packages]
    if revision := str(git.get("revision", "")):
        parts.append(f"revision {revision[:12]}" + (" with uncommitted changes" if git.get("dirty") else ""))
    return ", ".join(parts)


def _backbones(results: Results) -> list[str]:
    baselines = {n for row in results.rows for n, c in row.cells.items() if c.baseline}
    return [f"{n} (random weights)" if n in baselines else n for n in results.backbones]


def head(results: Results) -> Facts:
    """What, when, by which command, on which device and with which versions."""
    records = results.records
    days = sorted(_each([date_of(r) for r in records]))
    commands = _each([_command(r) for r in records])
    more = [f"and {len(commands) - MOST_COMMANDS} more"] if len(commands) > MOST_COMMANDS else []
    out = [
        ("backbones", [", ".join(_backbones(results))]),
        ("tasks", [", ".join(_each([row.title for row in results.rows]))]),
        ("seeds", [", ".join(_each(sorted({r.seed for r in records})))]),
        ("language model", _each([r.llm for r in records])),
        ("measured", [days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"] if days else []),
        ("command", [*commands[:MOST_COMMANDS], *more]),
        ("device", _each([_device(r) for r in records])),
        ("software", _each([_software(r) for r in records])),
    ]
    return [(name, lines) for name, lines in out if any(lines)]


def _bounds(record: Record) -> list[str]:
    """Chance, and every floor and ceiling that the record holds."""
    out = [] if (c := chance_of(record)) is None else [f"chance {text(c, entry_of(record, record.main_metric))}"]
    for name, e in record.metrics.items():
        if name.startswith(("floor_", "ceiling")):
            out.append(f"{name.replace('_', ' ')} {interval(e.value, e.low, e.high, entry_of(record, name))}")
    return out or ["none measured"]


def _convergence(record: Record) -> list[str]:
    """How training of the head or connector ended: the engine's verdict, and the ends of the loss curve."""
    out = []
    if "converged" in record.notes:
        recorded = record.notes["converged"]  # a mapping with the rule and its value, or yes or no alone
        rule, value, yes = (
            (recorded.get("rule"), recorded.get("value"), recorded.get("converged"))
            if isinstance(recorded, dict)
            else (None, None, recorded)
        )
        why = [x for x in (None if value is None else f"value {value:.3g}", f"rule: {rule}" if rule else None) if x]
        out.append(("converged" if yes else "NOT converged") + (f" ({'; '.join(why)})" if why else ""))
    for name, values in record.notes.items():
        if not name.endswith("_loss") or not isinstance(values, list):
            continue
        curve = [float(v) for v in values if isinstance(v, int | float)]
        if len(curve) < 2:
            continue
        words = f"{name.replace('_', ' ')} {curve[0]:.3g} at the start, {curve[-1]:.3g} at the end"
        before = curve[-1 - max(1, len(curve) // LAST)]
        if before:
            words += f" ({100 * (curve[-1] / before - 1):+.1f}% over the last tenth of training)"
        out.append(words)
    return out or ["nothing is trained"]


def _other_length(results: Results, row: Row, name: str) -> list[str]:
    """What training of another length did to the score, where one was run."""
    other = results.effect_of_length(row, name)
    if other is None:
        return []
    changed = interval(other.change.value, other.change.low, other.change.high, row.kind, signed=True)
    verdict = {True: "trained out", False: "the head is the limit", None: "too few images to tell"}[other.held]
    return [f"{other.field} {other.many:g} instead of {other.few:g}: {changed} points, {verdict} (rule: {TRAINED_OUT})"]


def _result(name: str, e: Estimate, record: Record) -> str:
    kind = entry_of(record, name)
    unit = kind.unit or "no unit"
    return f"{name} {interval(e.value, e.low, e.high, kind)} {unit}; n {e.n:,}" + (f"; {e.method}" if e.method else "")


def _remarks(record: Record) -> list[str]:
    """Plain notes of the engine, such as warnings; curves and tables are left to the record's file."""
    return [
        f"{k.replace('_', ' ')}: {value_text(v)}"
        for k, v in record.notes.items()
        if isinstance(v, str | int | float) and k != "converged"
    ]


def _of_seeds(results: Results, row: Row, name: str) -> list[str]:
    """What the tables show in place of several seeds' results; [] for one seed."""
    s = results.summary(row, name)
    if s.seed_sd is None:
        return []
    e = s.estimate
    return [f"mean of {s.seeds} seeds {interval(e.value, e.low, e.high, row.kind)}, seed sd {text(s.seed_sd, row.kind)}"]


def of_record(results: Results, row: Row, name: str, record: Record) -> Facts:
    """The panel of one number."""
    gain, over = results.gain_of_record(row, name, record), results.reference(row, name)
    main, share = (
        record.metrics.get(record.main_metric),
        share_of_record(results, row, record) if record.status == "done" else None,
    )
    weights = str(record.backbone.get("weights_sha256", ""))
    preprocess = "; ".join(f"{k} {value_text(v)}" for k, v in flat(record.backbone.get("preprocess") or {}).items())
    out = [
        ("failed", [record.reason] if record.status != "done" else []),
        ("result", [_result(record.main_metric, main, record)] if main else []),
        ("in the tables", _of_seeds(results, row, name) if main else []),
        ("floors and ceiling", _bounds(record) if main else []),
        (
            f"gain over {over}",
            [interval(gain.value, gain.low, gain.high, row.kind, signed=True) + " points, paired" + lower_note([row.kind])]
            if gain
            else [],
        ),
        ("share of sight", [share_text(share) + " percent of the way from floor to ceiling"] if share else []),
        ("training", [*_convergence(record), *_other_length(results, row, name)] if main else []),
        ("remarks", _remarks(record)),
        ("data", [data_words([record]), f"test fingerprint {record.data.get('fingerprint') or 'none'}"]),
        ("trained on", [f"fingerprint {t}" for t in record.train]),
        ("backbone", [f"{record.backbone.get('uri', '')}, weights {weights[:12]}", preprocess]),
        ("seed", [str(record.seed)]),
        ("measured", [" on ".join(x for x in (str(record.environment.get("date", "")), _device(record)) if x)]),
        ("seconds", [", ".join(f"{k} {v:,.1f}" for k, v in record.seconds.items())]),
        ("identity", [record.identity_hash]),
    ]
    return [(what, lines) for what, lines in out if any(lines)]
