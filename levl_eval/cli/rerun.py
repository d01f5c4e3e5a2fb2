"""`levl-eval rerun RECORD`: run a record again from itself, and say whether the numbers are the same."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from levl_eval.cards.trust import HELP, check_card
from levl_eval.cards.twins import check_backbone
from levl_eval.cli.options import Commands
from levl_eval.core.errors import UsageError
from levl_eval.core.hashing import digest
from levl_eval.core.text import printable

if TYPE_CHECKING:
    from levl_eval.cards import TaskFields
    from levl_eval.records import Record

TOLERANCE = 1e-6  # of a fraction: equal numbers on one machine, up to the last bits of another one's arithmetic


def add(commands: Commands) -> None:
    p = commands.add_parser("rerun", help="repeat the job of a record and compare the numbers")
    p.add_argument("record", metavar="RECORD.json", help="a record, as in RUN/records")
    p.add_argument("--out", metavar="DIR", help="where the new record goes (default: rerun/ beside the run's records/)")
    p.add_argument("--cache", metavar="DIR", help="cache folder; give an empty one to recompute features and connectors too")
    p.add_argument("--data", metavar="DIR|hub|scenes", help="folder of the data, if they have moved")
    p.add_argument("--backbone", metavar="URI", help="the weights, if they have moved")
    p.add_argument("--trust", action="store_true", help=HELP)
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    p.add_argument("--quiet", action="store_true", help="show no progress")
    p.add_argument("--json", action="store_true", help="print JSON")
    p.add_argument("--debug", action="store_true", help="show tracebacks")
    p.set_defaults(call=run)


def changes(old: Record, new: Record) -> list[str]:
    """What is not the same, one line each; empty where everything is."""
    out = _identity_changes(old, new)
    if old.status != "done":
        return [*out, f"failed then: {old.reason}"]
    for name in sorted(old.metrics.keys() | new.metrics.keys()):
        if name not in old.metrics or name not in new.metrics:
            out.append(f"{name} only {'then' if name in old.metrics else 'now'}")
        else:
            a, b = old.metrics[name].value, new.metrics[name].value
            if not math.isclose(a, b, rel_tol=0, abs_tol=TOLERANCE):
                out.append(f"{name} {a:.6f} then, {b:.6f} now")
    return out


def _identity_changes(old: Record, new: Record) -> list[str]:
    """Where the two identities differ. A record of schema 1 has fewer parts: weights, protocol and test data."""
    from levl_eval.records import identity_of
    from levl_eval.report.compare import differing_fields

    if old.identity_hash and new.identity_hash:
        return [f"{line} (then, now)" for line in differing_fields(identity_of(old).parts(), identity_of(new).parts())]
    pairs = {
        "weights": (old.weights, new.weights),
        "protocol": (old.protocol_hash, new.protocol_hash),
        "data": (str(old.data.get("fingerprint")), str(new.data.get("fingerprint"))),
    }
    return [f"{name} {then[:12]} then, {now[:12]} now" for name, (then, now) in pairs.items() if then != now]


def _forget(out: Path, old: Record, card: TaskFields) -> None:
    """Remove what earlier reruns of this record left, under any identity:
    on other data or another device a record has another name, and would be read instead of computed again."""
    from levl_eval.cards import protocol_of
    from levl_eval.records.record import read_record, record_files

    (out / "records" / f"{old.key}.json").unlink(missing_ok=True)
    for path in record_files(out):
        with contextlib.suppress(UsageError):  # a damaged one is reported and computed again anyway
            r = read_record(path)
            if (r.task, r.backbone_name, r.seed, r.limit) == (old.task, old.backbone_name, old.seed, old.limit):
                if digest(r.card_protocol) == digest(protocol_of(card)):
                    path.unlink()
                    (out / "samples" / f"{path.stem}.jsonl").unlink(missing_ok=True)


def run(args: argparse.Namespace) -> int:
    """Exit code 0: the same numbers, 1: others, or the run failed."""
    from levl_eval.cards import BackboneCard, TaskFields, expect, parse_card
    from levl_eval.core.json_types import object_at
    from levl_eval.core.progress import Progress
    from levl_eval.records.record import read_record, record_files
    from levl_eval.runner.evaluate import evaluate

    path = Path(args.record)
    if path.exists() and not path.is_file():
        raise UsageError(f"{path}: no regular file; give a record's file")
    old = read_record(path)
    if object_at(old.backbone, "info").get("external"):
        raise UsageError(f"{path}: holds another system's predictions, which nothing here can make again; import them again")
    if not old.card:
        raise UsageError(f"{path}: was written before records held their card; run the task again by `levl-eval run`")
    card = parse_card(old.card, str(path))
    if not isinstance(card, TaskFields):
        raise UsageError(f"{path}: field `card`: a task card was expected, found {card.kind}")
    kept = {**object_at(old.backbone, "card"), "kind": "backbone"}
    backbone = expect(parse_card(kept, str(path)), BackboneCard, path, "backbone")
    card.trusted = args.trust
    check_card(card, str(path))
    check_backbone(backbone.uri, str(path), args.trust or args.backbone is not None)
    if args.backbone:
        backbone = backbone.model_copy(update={"uri": args.backbone, "sha256": None})
    out = Path(args.out) if args.out else old.home / "rerun"
    if out.resolve() == old.home.resolve():
        raise UsageError(f"--out {out}: is the record's own run; give another folder")
    if not args.out:
        _forget(out, old, card)
    before = {p.name: p.stat().st_mtime_ns for p in record_files(out)}
    new = evaluate(
        [backbone], [card], data=args.data or old.source, llm=str(old.call.get("llm", "scenes-lm")),
        seeds=[old.seed], limit=old.limit, out=out, cache=args.cache, device=args.device,
        precision=words if isinstance(words := old.call.get("precision"), str) else "float32",
        compile=old.call.get("compile") is True, channels_last=old.call.get("channels_last") is True,
        cuda_graphs=old.call.get("cuda_graphs") is True,
        batch_size=batch if isinstance(batch := old.call.get("batch_size"), int) else 64,
        progress=Progress(quiet=args.quiet), debug=args.debug, trust=args.trust,
    )[0]  # fmt: skip
    differences = changes(old, new) if new.status == "done" else [f"failed now: {new.reason}"]
    again = out / "records" / f"{new.key}.json"
    computed = before.get(again.name) != again.stat().st_mtime_ns
    if args.json:
        print(json.dumps({"record": str(path), "again": str(again), "computed": computed, "changes": differences}, indent=1))
    else:
        words = "the same numbers" if not differences else "; ".join(differences)
        more = "" if computed else f" ({again} was there: nothing was computed again; give another --out)"
        print(printable(f"{old.backbone_name} on {old.task}: {words}{more}"))
    return 1 if differences else 0
