"""Dose and response of a run: a Markdown table on stdout, and the figure of the documentation, docs/dose.svg.

    python results/instrument/dose.py RUN

RUN holds `oracle:attributes?keep=...` at several shares of patches. README.md here has the command.
"""

from __future__ import annotations

import sys
from pathlib import Path

from levl_eval.report.results import Results
from levl_eval.report.sight import doses
from levl_eval.report.svg import response

FIGURE = Path(__file__).resolve().parents[2] / "docs" / "dose.svg"
STYLE = (
    "text{font:12px sans-serif;fill:#1c1e21}.axis{stroke:#ccc}.whisker{stroke:#1c1e21;stroke-width:1.5}path{fill:none;stroke-width:2}"
    ".c0{--c:#2458c5}.c1{--c:#c2571a}.c2{--c:#2b8a57}.c3{--c:#8b4bb3}.c4{--c:#a8324f}[class^=c]{fill:var(--c);stroke:var(--c)}"
    "path[class^=c]{fill:none}@media (prefers-color-scheme:dark){text{fill:#e8e8ea}.whisker{stroke:#e8e8ea}.axis{stroke:#555}}"
)


def main(run: Path) -> None:
    found = doses(Results.read([run]))
    keeps = sorted({x for *_, points in found for x, _ in points})
    print("| | " + " | ".join(f"{100 * k:g} %" for k in keeps) + " |\n|---|" + "---|" * len(keeps))
    for title, _, points in found:
        at = dict(points)
        cells = [f"{at[k].value:.1f} [{at[k].low:.1f}, {at[k].high:.1f}]" if k in at else "" for k in keeps]
        print(f"| {title} | " + " | ".join(cells) + " |")
    lines = [(title, k, points) for k, (title, _, points) in enumerate(found)]
    drawing = str(response(lines, "share of patches that the oracle tells of", "percent")).strip()
    head, rest = drawing.split(">", 1)
    FIGURE.write_text(f'{head} xmlns="http://www.w3.org/2000/svg">\n<style>{STYLE}</style>{rest}\n', encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
