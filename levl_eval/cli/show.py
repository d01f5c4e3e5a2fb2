"""`levl-eval list` and `levl-eval show`: which cards there are, and what a card resolves to."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from levl_eval.cli.options import Commands
from levl_eval.core.errors import UsageError
from levl_eval.core.terminal import columns, print_rows, yaml_text
from levl_eval.core.text import did_you_mean, json_text

if TYPE_CHECKING:
    from levl_eval.cards import BackboneCard, ClaimCard, TaskCard


def add(commands: Commands) -> None:
    """Add the subparsers to ``levl-eval``'s."""
    lister = commands.add_parser("list", help="list backbones, tasks, sets (for HEAD@SET), llms or claims")
    lister.add_argument("what", choices=["backbones", "tasks", "sets", "llms", "claims"])
    lister.add_argument("--json", action="store_true")
    lister.set_defaults(call=_list)

    show = commands.add_parser("show", help="show a card, resolved")
    show.add_argument("name")
    show.add_argument("--json", action="store_true")
    show.set_defaults(call=_show)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _list(args: argparse.Namespace) -> int:
    from levl_eval.cards.registry import (
        backbone_card,
        claim_card,
        claim_files,
        language_models,
        llm_cards,
        names,
        set_card,
        set_names,
        task_card,
    )

    if args.what == "tasks":
        rows = [(n, task_card(n)) for n in names("tasks")]
        table = [
            {"name": n, "engine": c.engine, "metric": c.main_metric, "description": _one_line(c.description)} for n, c in rows
        ]
    elif args.what == "backbones":
        cards = [backbone_card(n) for n in names("backbones")]
        table = [{"name": c.name, "uri": c.uri, "description": _one_line(c.description)} for c in cards]
    elif args.what == "sets":  # any classification head runs on them: knn@pets, few-shot@cifar10, zeroshot@imagenet
        table = [{"name": n, "description": _one_line(set_card(n).description)} for n in set_names()]
    elif args.what == "claims":
        table = [{"name": n, "description": _one_line(claim_card(n).statement)} for n in claim_files()]
    else:
        table = [{"name": n, "description": "embedded, shipped with the package"} for n in language_models()]
        table += [{"name": n, "description": c.description} for n, c in llm_cards().items()]
        table.append(
            {"name": "NAME or DIR", "description": "any causal language model of transformers, by hub name or directory"}
        )
    if args.json:
        print(json.dumps(table, indent=1))
        return 0
    print_rows([[str(v) for v in row.values()] for row in table])
    return 0


def _show(args: argparse.Namespace) -> int:
    from levl_eval.cards.base import plain
    from levl_eval.cards.registry import backbone_card, claim_card, claim_files, names, task_card

    card: TaskCard | BackboneCard | ClaimCard
    if args.name in claim_files() or (args.name.endswith(".yaml") and "claims" in Path(args.name).parts):
        card = claim_card(args.name)
    elif (
        args.name.startswith("lmms:")
        or args.name.partition("@")[0] in names("tasks")
        or (args.name.endswith(".yaml") and "tasks" in Path(args.name).parts)
    ):
        card = task_card(args.name)
    elif args.name in names("backbones"):
        card = backbone_card(args.name)
    else:
        known = names("tasks") + names("backbones") + list(claim_files())
        raise UsageError(f"no card named {args.name!r}{did_you_mean(args.name, known)}; there are {', '.join(known)}")
    print(json_text(plain(card)) if args.json else yaml_text(plain(card), columns()))
    return 0
