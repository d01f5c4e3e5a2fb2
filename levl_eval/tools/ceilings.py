"""Write assets/ceilings.json: what perfect sight of the synthetic scenes reaches under the shipped cards,
so that tables need not measure it.

    levl-eval run --backbone oracle:scene,oracle:attributes --tasks gqa,vqav2,pope,ade20k,linear --set ade20k.score_size=64 --out RUN
    python -m levl_eval.tools.ceilings RUN

ade20k is scored at 64 pixels, the size of the shipped backbones, as an oracle's own images are larger. An entry holds for rows of its
comparison hash alone (report.sight): another protocol, precision, library of images or number of test images has no ceiling from here.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import PIL

from levl_eval.core.errors import UsageError
from levl_eval.core.files import atomic_write
from levl_eval.report.results import Results
from levl_eval.report.sight import SHIPPED, ceiling_of

DIGITS = 6


def entries(run: Path) -> list[dict[str, object]]:
    """One an oracle's row of a run. Raises UsageError where the run has none."""
    results = Results.read([run])
    out: list[dict[str, object]] = []
    for row in results.rows:
        ceiling = ceiling_of(results, row)
        if ceiling is not None and ceiling.records:
            estimates = {
                name: {k: round(v, DIGITS) if isinstance(v, float) else v for k, v in e.model_dump().items()}
                for name, e in (("value", ceiling.value), ("room", ceiling.room))
            }
            out.append(
                {"task": row.task, "comparison_hash": row.key[1], "backbone": ceiling.name, "metric": row.metric, **estimates}
            )
    if not out:
        raise UsageError(f"{run}: holds no oracle's records with a floor; the module's first lines say which run is needed")
    return out


def main(words: list[str] | None = None) -> int:
    words = sys.argv[1:] if words is None else words
    if len(words) != 1 or words[0].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        made = entries(Path(words[0]))
    except UsageError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    content = {"command": "python -m levl_eval.tools.ceilings RUN", "pillow": PIL.__version__, "ceilings": made}
    atomic_write(SHIPPED, json.dumps(content, indent=1) + "\n")
    print(f"{SHIPPED}: {len(made)} ceilings")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
