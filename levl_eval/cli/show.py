"""`levl-eval list` and `levl-eval show`: which cards there are, and what a card resolves to."""

from __future__ import annotations

import argparse
import json
import sys

from levl_eval.cards.registry import ROOMS
from levl_eval.cli.options import Commands
from levl_eval.core.errors import UsageError
from levl_eval.core.json_types import Json
from levl_eval.core.registry import SHIPPED
from levl_eval.core.terminal import columns, print_rows, yaml_text
from levl_eval.core.text import json_text, printable

# layouts of masks
MASKS = ("ade20k", "coco-stuff", "coco-stuff-27", "voc", "cityscapes", "pascal-context", "pascal-context-59", "segmentation")
OF_MASKS: dict[str, Json] = {"ignore_index": 255, "reduce_zero_label": False}  # fields of masks alone, with their defaults


def without_idle_fields(value: Json) -> Json:
    """A card as it is shown: data that are no masks without what only masks have. Left out are defaults, so it reads back the same."""
    if isinstance(value, list):
        return [without_idle_fields(v) for v in value]
    if not isinstance(value, dict):
        return value
    idle = OF_MASKS if isinstance(value.get("layout"), str) and value["layout"] not in MASKS else {}
    return {k: without_idle_fields(v) for k, v in value.items() if k not in idle or v != idle[k]}


def add(commands: Commands) -> None:
    """Add the subparsers to ``levl-eval``'s."""
    lister = commands.add_parser("list", help=f"list the shipped and your own {', '.join(ROOMS)}")
    lister.add_argument("what", nargs="?", choices=list(ROOMS), help="which cards (default: how many there are of each kind)")
    lister.add_argument("--json", action="store_true", help="print JSON")
    lister.set_defaults(call=_list)

    show = commands.add_parser("show", help="print a card with all its fields")
    show.add_argument(
        "name", metavar="NAME", help="a card's name or path; KIND/NAME (sets/imagenet) where several kinds share a name"
    )
    show.add_argument("--json", action="store_true", help="print JSON")
    show.set_defaults(call=_show)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _row(what: str, name: str) -> dict[str, str]:
    """The row of one card in a list. Raises UsageError for one that cannot be read."""
    from levl_eval.cards import BackboneCard, ClaimCard, TaskFields

    card = ROOMS[what][1](name)
    about: dict[str, str] = {"name": name}
    if isinstance(card, TaskFields):
        about |= {"engine": card.engine, "metric": card.main_metric}
    elif isinstance(card, BackboneCard):
        about["uri"] = card.uri
    return {**about, "description": _one_line(card.statement if isinstance(card, ClaimCard) else card.description)}


def _kinds() -> list[dict[str, str]]:
    """How many cards there are of each kind, none of them read."""
    from levl_eval.cards.registry import cards_in

    return [
        {"name": kind, "description": f"{len(cards_in(place))} cards: levl-eval list {kind}"}
        for kind, (place, _) in ROOMS.items()
    ]


def _print_table(table: list[dict[str, str]], as_json: bool) -> None:
    if as_json:
        print(json.dumps(table, indent=1))
    else:
        print_rows([list(row.values()) for row in table])


def _list(args: argparse.Namespace) -> int:
    """Exit code 1: a card cannot be read and is left out, with a message on stderr; all others are listed."""
    from levl_eval.cards.registry import cards_in, language_models

    if args.what is None:
        _print_table(_kinds(), args.json)
        return 0
    known = cards_in(ROOMS[args.what][0])
    table, broken = [], 0
    if args.what == "llms":
        table = [{"name": n, "description": "embedded, shipped with the package"} for n in language_models()]
    for name in sorted(known):
        try:
            row = _row(args.what, name)
        except UsageError as e:
            print(printable(f"left out: {e}"), file=sys.stderr)
            broken += 1
            continue
        origin = known.origin(name)
        table.append(row if origin == SHIPPED else {**row, "description": f"{row['description']} ({origin})".strip()})
    if args.what == "llms":
        table.append(
            {"name": "NAME or DIR", "description": "any causal language model of transformers, by hub name or directory"}
        )
    _print_table(table, args.json)
    return int(bool(broken))


def _show(args: argparse.Namespace) -> int:
    from levl_eval.cards.base import plain
    from levl_eval.cards.registry import any_card, kinds_of

    card = any_card(args.name)
    content = without_idle_fields(plain(card))
    print(json_text(content) if args.json else yaml_text(content, columns()))
    for other in kinds_of(args.name)[1:]:
        print(f"there is also `levl-eval show {other}/{args.name}`", file=sys.stderr)
    return 0
