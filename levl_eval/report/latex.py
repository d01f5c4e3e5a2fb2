"""Tables for papers: values alone in the width of a column, or everything with intervals. Both need `\\usepackage{booktabs}` alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_lowercase

from levl_eval.core.text import latex_text, printable
from levl_eval.report.results import Results, Row
from levl_eval.report.tables import all_notes, late_mark
from levl_eval.report.units import text
from levl_eval.report.wide import Entry, tables

COLUMNS = 5  # tasks a table holds, so that it fits 8 cm
HEAD = (
    "Needs \\usepackage{booktabs}. Bold: the best value and those not significantly different from it (paired test over images)."
)


def best_and_ties(results: Results, row: Row) -> set[str]:
    """The backbone with the best value, and every one whose paired 95% interval to it holds zero or cannot be had.

    Empty for one backbone alone, and where nobody says which end of the metric is the better one.
    """
    done = {n: results.summary(row, n).estimate.value for n, c in row.cells.items() if c.records}
    if len(done) < 2 or not row.kind.ranked:
        return set()
    best = (min if row.kind.lower_is_better else max)(done, key=lambda n: done[n])
    out = {best}
    for other in done:
        if other != best:
            d = results.difference(row, best, other)
            if d is None or d.low is None or d.high is None or d.low <= 0 <= d.high:
                out.add(other)
    return out


def _cell(results: Results, row: Row, name: str, bold: set[str]) -> str:
    cell = row.cells.get(name)
    if cell is None:
        return ""
    if not cell.records:
        return "--"
    value = text(results.summary(row, name).estimate.value, row.kind)
    shown = rf"$\mathbf{{{value}}}$" if name in bold else f"${value}$"
    return shown + late_mark(results, row, name)


def _head(row: Row) -> str:
    arrow = {"higher": r"$\uparrow$", "lower": r"$\downarrow$"}.get(row.kind.better, "")
    unit = r"\%" if row.kind.unit == "percent" else latex_text(row.kind.unit)
    return rf"{{\scriptsize {latex_text(row.metric)}{f' ({unit})' if unit else ''}{arrow}}}"


def _titles(rows: Sequence[Row]) -> dict[tuple[str, str], str]:
    """Key of a row -> its head: the task, with a letter where it has several protocols, which comments explain."""
    out: dict[tuple[str, str], str] = {}
    seen: dict[str, int] = {}
    for row in rows:
        number = seen[row.task] = seen.get(row.task, 0) + 1
        out[row.key] = latex_text(row.task) + (rf"$^{{{_letters(number)}}}$" if row.mark else "")
    return out


def _letters(number: int) -> str:
    """1 -> a, 26 -> z, 27 -> aa, 28 -> ab: no two protocols under one."""
    rest, last = divmod(number - 1, 26)
    return (_letters(rest) if rest else "") + ascii_lowercase[last]


def _table(results: Results, chosen: Sequence[Row], titles: Mapping[tuple[str, str], str]) -> str:
    names = [n for n in results.backbones if any(n in row.cells for row in chosen)]
    bold = {row.key: best_and_ties(results, row) for row in chosen}
    lines = [rf"\begin{{tabular}}{{@{{}}l{'r' * len(chosen)}@{{}}}}", r"\toprule"]
    lines.append(" & ".join(["", *(titles[row.key] for row in chosen)]) + r" \\")
    lines += [" & ".join(["", *map(_head, chosen)]) + r" \\", r"\midrule"]
    lines += [" & ".join([latex_text(n), *(_cell(results, row, n, bold[row.key]) for row in chosen)]) + r" \\" for n in names]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def column(results: Results) -> str:
    """Backbones by tasks, values alone, split into tables that fit a column; the notes follow as comments."""
    parts = [results.rows[k : k + COLUMNS] for k in range(0, len(results.rows), COLUMNS)]
    titles = _titles(results.rows)
    protocols = [f"{titles[row.key]}: {latex_text(row.title)}" for row in results.rows if row.mark]
    notes = "\n".join([f"% {line}" for line in (HEAD, *protocols, *map(latex_text, all_notes(results)))])
    return "\n\n".join([notes, *(_table(results, rows, titles) for rows in parts)]) + "\n"


def _tex_entry(e: Entry) -> str:
    shown, bracket, rest = e.text.partition(" [")
    if not bracket:
        return latex_text(shown)
    # Numbers are in math mode, so that a minus is not a hyphen.
    value = rf"$\mathbf{{{shown}}}$" if e.bold else f"${shown}$"
    low_high, _, more = rest.partition("]")
    return rf"{value} {{\scriptsize $[{low_high}]${latex_text(more)}}}"


def with_intervals(results: Results) -> str:
    """Every wide table as it is shown elsewhere: tasks by backbones, with intervals and notes. Wider than a column of a paper."""
    out = []
    for table in tables(results):
        lines = [rf"% {printable(table.caption)}", rf"\begin{{tabular}}{{ll{'r' * (len(table.heads) - 2)}}}", r"\toprule"]
        lines += [" & ".join(map(latex_text, table.heads)) + r" \\", r"\midrule"]
        lines += [" & ".join([latex_text(t), latex_text(m), *map(_tex_entry, entries)]) + r" \\" for t, m, entries in table.rows]
        out.append("\n".join([*lines, r"\bottomrule", r"\end{tabular}"]))
    notes = r" \\ ".join(latex_text(n) for n in all_notes(results))
    return "\n\n".join([*out, rf"{{\footnotesize\raggedright {notes}\par}}"]) + "\n"
