"""`levl-eval rerun RECORD`: run a record again from itself, and say whether the numbers are the same."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from levl_eval.errors import UsageError

if TYPE_CHECKING:
    from levl_eval.records import Record

TOLERANCE = 1e-6  # of a fraction: equal numbers on one machine, up to the last bits of another one's arithmetic


def add(commands: Any) -> None:
    p = commands.add_parser("rerun", help="run a record again from itself and compare the numbers")
    p.add_argument("record", metavar="RECORD.json")
    p.add_argument("--out", metavar="DIR", help="where the new record goes (default: rerun/ beside the run's records/)")
    p.add_argument("--cache", metavar="DIR", help="an empty folder here recomputes features and connectors too")
    p.add_argument("--data", metavar="DIR|hub|scenes", help="where the data lie now, if not where the record says")
    p.add_argument("--backbone", metavar="URI", help="where the weights lie now, if not where the record says")
    p.add_argument("--device", default="auto")
    p.add_argument("--quiet", action="store_true", help="no progress")
    p.add_argument("--json", action="store_true")
    p.add_argument("--debug", action="store_true", help="show tracebacks")
    p.set_defaults(call=run)


def changes(old: Record, new: Record) -> list[str]:
    """What is not the same, one line each; empty where everything is."""
    out = []
    if old.backbone["weights_sha256"] != new.backbone["weights_sha256"]:
        out.append(f"weights {old.backbone['weights_sha256'][:12]} then, {new.backbone['weights_sha256'][:12]} now")
    if old.protocol_hash != new.protocol_hash:
        out.append(f"protocol {old.protocol_hash[:12]} then, {new.protocol_hash[:12]} now")
    if old.data.get("fingerprint") != new.data.get("fingerprint"):
        out.append(f"data {str(old.data.get('fingerprint'))[:12]} then, {str(new.data.get('fingerprint'))[:12]} now")
    for name in sorted(old.metrics.keys() | new.metrics.keys()):
        if name not in old.metrics or name not in new.metrics:
            out.append(f"{name} only {'then' if name in old.metrics else 'now'}")
        else:
            a, b = old.metrics[name].value, new.metrics[name].value
            if not math.isclose(a, b, rel_tol=0, abs_tol=TOLERANCE):
                out.append(f"{name} {a:.6f} then, {b:.6f} now")
    return out


def run(args: argparse.Namespace) -> int:
    """Exit code 0: the same numbers, 1: others, or the run failed."""
    from levl_eval.cards import BackboneCard, parse_card
    from levl_eval.progress import Progress
    from levl_eval.records import read_record
    from levl_eval.runner.evaluate import evaluate

    path = Path(args.record)
    old = read_record(path)
    if not old.card:
        raise UsageError(f"{path}: was written before records held their card; run the task again by `levl-eval run`")
    card = parse_card(old.card, str(path))
    backbone = BackboneCard.model_validate(old.backbone["card"])
    if args.backbone:
        backbone = backbone.model_copy(update={"uri": args.backbone, "sha256": None})
    out = Path(args.out) if args.out else old.home / "rerun"
    if out.resolve() == old.home.resolve():
        raise UsageError(f"--out {out}: is the record's own run; give another folder")
    if not args.out:  # what an earlier rerun found there says nothing about this one
        (out / "records" / f"{old.key}.json").unlink(missing_ok=True)
    new = evaluate(
        [backbone], [card], data=args.data or old.source, llm=str(old.call.get("llm", "scenes-lm")),
        seeds=[old.seed], limit=old.limit, out=out, cache=args.cache, device=args.device,
        batch_size=int(old.call.get("batch_size", 64)), progress=Progress(quiet=args.quiet), debug=args.debug,
    )[0]  # fmt: skip
    found = changes(old, new) if new.status == "done" else [f"failed now: {new.reason}"]
    if args.json:
        print(json.dumps({"record": str(path), "again": str(out / "records" / f"{new.key}.json"), "changes": found}, indent=1))
    else:
        print(f"{old.backbone['name']} on {old.task}: " + ("the same numbers" if not found else "; ".join(found)))
    return 1 if found else 0
