"""`levl-eval cache ls|verify|prune|clear`: what is kept between runs ($LEVL_CACHE)."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from levl_eval.cli.options import Commands
from levl_eval.core.errors import UsageError
from levl_eval.core.terminal import print_rows
from levl_eval.core.text import printable, size_text
from levl_eval.runner.options import size_of

if TYPE_CHECKING:
    from levl_eval.runner.caches import Entry


def add(commands: Commands) -> None:
    p = commands.add_parser(
        "cache",
        help="list, verify, shrink or clear what is kept between runs",
        description="Features, text embeddings, connectors, floors, answers, hashes, generated data, pools. The folder is $LEVL_CACHE.",
    )
    p.add_argument("what", choices=["ls", "verify", "prune", "clear"])
    p.add_argument("--limit", type=size_of, metavar="SIZE", help="prune: how much may stay, for example 200GB or 50GiB")
    p.add_argument(
        "--kind", action="append", metavar="KIND", help="only this kind (features, texts, ...); may be given several times"
    )
    p.add_argument("--json", action="store_true", help="print JSON")
    p.set_defaults(call=run)


def run(args: argparse.Namespace) -> int:
    from levl_eval.core.paths import default_cache
    from levl_eval.runner import caches

    cache = default_cache()
    if (args.limit is not None) != (args.what == "prune"):
        raise UsageError("levl-eval cache prune --limit SIZE: the limit is for `prune`, and `prune` needs it")
    entries = caches.listed(cache, args.kind)
    hidden = caches.unreadable(cache, args.kind)
    for folder in hidden:
        print(printable(f"{folder}: passed over: this user may not read it (Permission denied)"), file=sys.stderr)
    if args.what == "ls":
        return _ls(entries, args.json, cache)
    if args.what == "verify":
        broken = caches.verify(cache, args.kind)
        count = f"{len(broken)} broken" + (f", {len(hidden)} folders not read" if hidden else "")
        print(json.dumps({"broken": broken}, indent=1) if args.json else "\n".join([*broken, count]))
        return 1 if broken or hidden else 0
    removed, left = caches.prune(cache, args.limit, args.kind) if args.what == "prune" else caches.clear(cache, args.kind)
    if args.json:
        total = sum(e.bytes for e in removed)
        summary = {"removed": len(removed), "bytes": total, "left": left, "entries": [e.row() for e in removed]}
        print(json.dumps(summary, indent=1))
        return 0
    if args.what == "prune":
        print_rows([_row(e) for e in removed])
    why = " (in use, in the making, or not this user's to remove)" if left > (args.limit or 0) else ""
    print(f"{_sum_of(removed)} removed, {size_text(left)} left{why}")
    return 0


def _ls(entries: Sequence[Entry], as_json: bool, cache: Path) -> int:
    from levl_eval.features.store import FeatureStore

    stored = FeatureStore(cache / "features").table() if any(e.kind == "features" for e in entries) else []
    by_key = {s["key"]: s for s in stored}
    described = [by_key.get(e.key) if e.kind == "features" else None for e in entries]
    if as_json:
        wanted = ("backbone", "array", "images", "source")
        table = [
            {**e.row(), **{k: v for k, v in (s or {}).items() if k in wanted}} for e, s in zip(entries, described, strict=True)
        ]
        print(json.dumps(table, indent=1))
        return 0
    rows: list[list[str]] = []
    for e, s in zip(entries, described, strict=True):
        what = f"{s['backbone']}, {s['array']}, {s['images']:,} images of {s['source']}" if s is not None and s["whole"] else ""
        if e.whole and e.kind == "features" and not (s and s["backbone"]):
            what = "its description cannot be read; `levl-eval cache verify` says why"
        rows.append([*_row(e)[:-1], what or ("" if e.whole else "unfinished; the run that makes it resumes from here")])
    print_rows(rows)
    print(f"{_sum_of(entries)} in {cache}")
    return 0


def _row(entry: Entry) -> list[str]:
    day = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
    return [entry.kind, entry.key[:24], size_text(entry.bytes), day, "" if entry.whole else "unfinished"]


def _sum_of(entries: Sequence[Entry]) -> str:
    counts = Counter(e.kind for e in entries)
    kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items()))
    return f"{len(entries)} entries{f' ({kinds})' if kinds else ''}, {size_text(sum(e.bytes for e in entries))}"
