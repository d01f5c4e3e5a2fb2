"""`levl-eval claims DIR... --as ROLE=BACKBONE[,BACKBONE...]`: a verdict on each claim, with the numbers behind it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from levl_eval.cli.options import Commands
from levl_eval.core.errors import ProtocolMismatch, UsageError
from levl_eval.core.text import printable

if TYPE_CHECKING:
    from levl_eval.cards import ClaimCard
    from levl_eval.records import Record


def add(commands: Commands) -> None:
    p = commands.add_parser(
        "claims",
        help="judge claims on the results of runs: supported, contradicted or undecided",
        description="Each role of a claim is taken by one backbone of the runs, or by several that differ in their pretraining seed.",
    )
    p.add_argument("dirs", nargs="+", metavar="DIR", help="run directories")
    add_roles(p)
    p.add_argument(
        "--claims", metavar="C[,C...]", help="names of claim cards, or files (default: all shipped ones of which a task was run)"
    )
    p.add_argument("--alpha", type=float, default=0.05, help="chance of a false verdict over all claims (default: 0.05)")
    p.add_argument("--curve", action="store_true", help="also the specification curve of each claim, as a table")
    p.add_argument("--json", action="store_true", help="print JSON")
    p.add_argument("--debug", action="store_true", help="show tracebacks")
    p.set_defaults(call=run)


def add_roles(p: argparse.ArgumentParser) -> None:
    """The option ``--as``."""
    p.add_argument(
        "--as", action="append", default=[], dest="roles", metavar="ROLE=B[,B...]",
        help="which backbone takes a role of a claim: its name, NAME@PREFIX with a prefix of its weights' hash, "
             "or one per pretraining seed (repeatable)",
    )  # fmt: skip


def named_roles(words: Sequence[str]) -> dict[str, list[str]]:
    """``["clip=a,b"]`` -> {"clip": ["a", "b"]}. Raises UsageError for another form, and for a role given twice."""
    out: dict[str, list[str]] = {}
    for word in words:
        role, equals, rest = word.partition("=")
        backbones = [b.strip() for b in rest.split(",") if b.strip()]
        if not equals or not role or not backbones:
            raise UsageError(f"--as {word!r}: expected ROLE=BACKBONE, for example clip=clip-nano")
        if role in out:
            raise UsageError(f"--as {role}: given twice; its pretraining seeds stand in one: --as {role}=A,B")
        if len(set(backbones)) < len(backbones):
            raise UsageError(f"--as {word}: a backbone is named twice")
        out[role] = backbones
    return out


def chosen_claims(words: str | None, records: Sequence[Record], roles: Sequence[str]) -> tuple[list[ClaimCard], list[str]]:
    """The claims asked for; else every shipped claim whose roles are all assigned and of which a task was run on its kind of data.

    Returns them and the names of the shipped ones that are left out.
    """
    from levl_eval.cards.registry import claim_card, claim_files
    from levl_eval.report.provenance import source_word

    if words is not None:
        names = list(dict.fromkeys(w.strip() for w in words.split(",") if w.strip()))
        if not names:
            raise UsageError("--claims: none given; `levl-eval list claims` shows all")
        chosen = {n: claim_card(n) for n in names}
        first: dict[str, str] = {}
        for n, card in chosen.items():
            if first.setdefault(card.name, n) != n:
                raise UsageError(
                    f"--claims: {first[card.name]} and {n} are both the claim {card.name}, which a family holds once; give one"
                )
        return list(chosen.values()), []
    cards = [claim_card(n) for n in claim_files()]
    there = {(r.task, source_word(r) == "scenes") for r in records}

    def fits(card: ClaimCard) -> bool:
        kinds = {"published": (False,), "scenes": (True,), "any": (False, True)}[card.data]
        return card.subject in roles and any((t.task, k) in there for t in card.tasks for k in kinds)

    return [c for c in cards if fits(c)], [c.name for c in cards if not fits(c)]


def _failed(records: Sequence[Record], cards: Sequence[ClaimCard], named: Mapping[str, Sequence[str]]) -> list[str]:
    """A line on each failed job of the claims' tasks and backbones: a protocol that failed for all roles is in no verdict."""
    tasks = {t.task for c in cards for t in c.tasks}
    names = {n for words in named.values() for w in words for n in (w, w.rpartition("@")[0])}
    return [
        f"{r.backbone_name} on {r.task}, seed {r.seed}: {r.reason}"
        for r in records
        if r.status != "done" and r.task in tasks and r.backbone_name in names
    ]


def run(args: argparse.Namespace) -> int:
    """Exit code 0: judged; 1: some sides were not measured alike, the rest is judged; 2: nothing else could be judged."""
    from levl_eval.claims import judge
    from levl_eval.claims.curve import curve_of
    from levl_eval.claims.verdict import records_of
    from levl_eval.claims.wording import as_dict, lines

    every = records_of(args.dirs)
    records = [r for r in every if r.status == "done"]
    named = named_roles(args.roles)
    if not named:
        names = ", ".join(dict.fromkeys(r.backbone_name for r in records))
        raise UsageError(f"claims: say who is who, as --as levljepa=NAME --as clip=NAME --as siglip=NAME; there are {names}")
    cards, left = chosen_claims(args.claims, records, list(named))
    if not cards:
        raise UsageError(
            "claims: none of the shipped claims fits these roles and tasks; name one with --claims (`levl-eval list claims`)"
        )
    judged = judge(cards, records, named, args.alpha)
    refused = [d for j in judged for d in j.differences if d.refused]
    if refused and not any(j.tested for j in judged):
        raise ProtocolMismatch(refused[0].reason)
    failed = _failed(every, cards, named)
    if args.json:
        values = {"alpha": args.alpha, "roles": named, "claims": [as_dict(j) for j in judged], "left_out": left, "failed": failed}
        print(json.dumps(values, indent=1))
        return int(bool(refused))
    for j in judged:
        print("\n".join(lines(j)))
        if args.curve:
            print("\n".join([*("    " + line for line in curve_of(j).lines()), ""]))
    for line in failed:
        print(printable(f"failed, and in no verdict: {line}"))
    if left:
        print(f"no task of these was run here on their data: {', '.join(left)}")
    return int(bool(refused))
