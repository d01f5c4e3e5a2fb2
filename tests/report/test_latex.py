"""The table for papers: values alone, as wide as a column, bold with its ties."""

from __future__ import annotations

import re

from levl_eval.cli import main
from levl_eval.report.latex import COLUMNS, best_and_ties, column, with_intervals
from levl_eval.report.results import Results

WIDEST = 62  # characters of \small in 8 cm, about


def _rows(tex):
    return [line.removesuffix(r" \\").split(" & ") for line in tex.splitlines() if line.endswith(r"\\")]


def _seen(cell):
    """What a cell shows: without commands and signs of math mode."""
    return re.sub(r"\\[a-z]+|[{}$^\\]", "", cell)


def test_it_fits_a_column_and_names_what_it_needs(run_dir):
    tex = column(Results.read([run_dir]))
    head, *parts = tex.split("\n\n")
    assert all(line.startswith("% ") for line in head.splitlines()) and r"\usepackage{booktabs}" in head
    assert len(parts) == -(-len(Results.read([run_dir]).rows) // COLUMNS)
    for part in parts:
        table = _rows(part)
        assert len({len(r) for r in table}) == 1 and len(table[0]) <= COLUMNS + 1
        width = sum(max(len(_seen(r[k])) for r in table) + 2 for k in range(len(table[0])))
        assert width <= WIDEST + 20  # heads are set smaller
        assert "[" not in part  # no intervals
        assert part.count(r"\begin{tabular}") == part.count(r"\end{tabular}") == part.count(r"\toprule") == 1


def test_bold_is_the_best_and_what_the_test_does_not_tell_from_it(run_dir):
    results = Results.read([run_dir])
    for row in results.rows:
        bold = best_and_ties(results, row)
        values = {n: results.summary(row, n).estimate.value for n, c in row.cells.items() if c.records}
        best = max(values, key=values.get)
        assert best in bold
        for name in values.keys() - {best}:
            d = results.difference(row, best, name)
            assert (name in bold) == (d is None or d.low <= 0 <= d.high)
        if results.best(row) is not None:
            assert bold == {results.best(row)}


def test_the_command(run_dir, capsys):
    assert main(["leaderboard", str(run_dir), "--format", "tex"]) == 0
    assert capsys.readouterr().out == column(Results.read([run_dir]))
    assert main(["leaderboard", str(run_dir), "--format", "tex", "--intervals"]) == 0
    wide = capsys.readouterr().out
    assert wide == with_intervals(Results.read([run_dir])) and r"\scriptsize $[" in wide
    assert main(["leaderboard", str(run_dir), "--format", "md", "--intervals"]) == 2
    assert "--intervals goes with --format tex" in capsys.readouterr().err


def test_no_two_protocols_share_a_letter(tmp_path):
    from levl_eval.metrics.statistics import mean_estimate
    from levl_eval.records import Sample, write_record
    from tests.report.conftest import record

    samples = [Sample(id=str(k), image_id=str(k), score=float(k)) for k in range(2)]
    for k in range(28):
        changed = {"protocol": {"epochs": k}, "protocol_hash": f"{k:02d}" * 32}
        write_record(tmp_path, record("good", "linear", "top1", {"top1": mean_estimate([0.0, 1.0])}, **changed), samples)
    marks = re.findall(r"^% linear\$\^\{(\w+)\}", column(Results.read([tmp_path])), re.M)
    assert len(marks) == len(set(marks)) == 28 and marks[25:] == ["z", "aa", "ab"]
