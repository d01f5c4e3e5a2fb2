"""`levl-eval run --dry-run`: resolved protocols, and what the run will read, store and take, as far as it is known."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from levl_eval.core.terminal import columns, print_rows, yaml_text
from levl_eval.core.text import printable, size_text

if TYPE_CHECKING:
    from levl_eval.cards import TaskCard
    from levl_eval.runner.forecast import SetSize

NOT_DRAWN = "the synthetic scenes are not drawn yet; a run draws them, and counts them then"


def print_plan(cards: dict[str, TaskCard], args: argparse.Namespace) -> None:
    """The plan of a run, on stdout; nothing is computed and no image is read."""
    from levl_eval.cards.base import plain
    from levl_eval.core.hashing import digest

    protocols = _protocols(cards, args)
    sets = _sets(cards, args)
    if args.json:
        rows = [
            {"task": card.name, "variant": label, "protocol_hash": digest(protocols[label]), "protocol": protocols[label],
             "card": plain(card), "sets": [{"role": s.role, "images": s.images, "why": s.why} for s in sets if s.task == label]}
            for label, card in cards.items()
        ]  # fmt: skip
        print(json.dumps(rows, indent=1))
        return
    for label, card in cards.items():
        print(f"# {printable(label)}: protocol {digest(protocols[label])[:12]}")
        print(yaml_text(plain(card), columns()) + "\n")
    _print_images(cards, sets)
    for line in _lines(cards, sets, args):
        print(printable(line))


def _protocols(cards: Mapping[str, TaskCard], args: argparse.Namespace) -> dict[str, dict[str, object]]:
    from levl_eval.backbones.execution import Execution, check_execution
    from levl_eval.cards import protocol_of
    from levl_eval.core.device import device_kind
    from levl_eval.core.paths import default_cache
    from levl_eval.core.precision import check_precision
    from levl_eval.data.fingerprint_cache import FingerprintCache
    from levl_eval.engines.contract import TOGETHER, versions_of
    from levl_eval.records.identity import shown_protocol
    from levl_eval.runner.language import check_asked, language_model_parts
    from levl_eval.runner.plan import precision_of, resolved_of

    device = device_kind(args.device)
    execution = check_execution(Execution(args.compile, args.channels_last, args.cuda_graphs), device)
    known = FingerprintCache(default_cache() / "fingerprints")
    asked = any(c.engine in TOGETHER for c in cards.values())
    language = language_model_parts(args.llm, known.sha256) if asked else None
    if language is not None:  # as a run would: a dry run that says yes to what the run refuses says nothing
        check_asked((*args.settings, *args.grid), cards, bool(language["chat"]))
    return {
        label: shown_protocol(
            protocol_of(card), versions_of(card.engine), resolved_of(card, None),
            precision_of(card, device, check_precision(args.precision, device), execution),
            language if card.engine in TOGETHER else None, args.limit,
        )
        for label, card in cards.items()
    }  # fmt: skip


def _sets(cards: Mapping[str, TaskCard], args: argparse.Namespace) -> list[SetSize]:
    """The sets with their sizes. The synthetic scenes are counted where they are drawn, and are not drawn for it."""
    from levl_eval.core.paths import default_cache
    from levl_eval.data.fingerprint_cache import FingerprintCache
    from levl_eval.runner.forecast import sizes
    from levl_eval.scenes.export import world_folder

    cache = default_cache()
    data = args.data if args.data == "hub" else str(Path(args.data).expanduser())
    if args.data == "scenes":
        data = str(world_folder(cache))
    counted = sizes(cards, data, args.limit, FingerprintCache(cache / "fingerprints"))
    # neither where to download the real set nor its published count answers that
    if args.data == "scenes" and not Path(data).exists():
        return [replace(s, images=None, why=NOT_DRAWN) if s.why else s for s in counted]
    return counted


def _print_images(cards: Mapping[str, TaskCard], sets: Sequence[SetSize]) -> None:
    def count(label: str, role: str) -> str:
        mine = [s for s in sets if s.task == label and s.role.startswith(role)]
        known = [s.images for s in mine if s.images is not None]
        if len(known) < len(mine) or not mine:
            return "unknown" if mine else "-"
        return f"{sum(known):,}" + (" (published)" if any(s.why for s in mine) else "")

    print_rows(
        [["task", "test images", "training images"], *([printable(t), count(t, "test"), count(t, "train")] for t in cards)]
    )


def _lines(cards: Mapping[str, TaskCard], sets: Sequence[SetSize], args: argparse.Namespace) -> list[str]:
    """Bytes and hours of each backbone, and why something is not known."""
    from levl_eval.cards.registry import backbone_card
    from levl_eval.core.device import device_kind
    from levl_eval.core.errors import LevlError
    from levl_eval.core.paths import default_cache
    from levl_eval.core.precision import check_precision
    from levl_eval.data.fingerprint_cache import FingerprintCache
    from levl_eval.report.reading import read_directory
    from levl_eval.runner.backbones import BackboneHandle
    from levl_eval.runner.forecast import encoder_passes, feature_bytes, hours, measured

    device, cache = device_kind(args.device), default_cache()
    out = []
    for why in dict.fromkeys(s.why for s in sets if s.why):
        out.append(f"not counted: {', '.join(dict.fromkeys(s.task for s in sets if s.why == why))}: {why}")
    folder = Path(args.out) if args.out is not None else None
    records = read_directory(folder).records if folder is not None and (folder / "records").is_dir() else ()
    known = FingerprintCache(cache / "fingerprints")
    seeds = {t: len(args.seeds) if args.seeds is not None else int(getattr(c, "seeds", 1)) for t, c in cards.items()}
    for name in args.backbone:
        card = backbone_card(name)
        handle = BackboneHandle(card, cache, known, str(args.data), check_precision(args.precision, device))
        stored = feature_bytes(handle, sets)
        if stored is None:
            out.append(f"{card.name}: bytes and hours unknown: its weights are not at hand")
            continue
        try:
            rates = measured(records, handle.facts.weights_sha256, device)
        except LevlError as e:
            out.append(f"{card.name}: {e}")
            continue
        known_hours, unknown = hours(rates, sets, seeds)
        what = f"at most {size_text(stored)} of features" + (
            " of the sets whose images are known" if any(s.images is None for s in sets) else ""
        )
        if len(unknown) == len(seeds):
            took = f"hours unknown: no record in {args.out or '--out'} measured it on {device}"
        else:
            took = f"{known_hours:.2f} hours by the records of {args.out}" + (
                f", besides {', '.join(unknown)}, not measured" if unknown else ""
            )
        out.append(f"{card.name}: {what}; {took}")
        out.append(f"{card.name}: {_passes(encoder_passes(handle, sets) or {}, any(s.images is None for s in sets))}")
    return out


def _passes(passes: Mapping[tuple[int, int], int], partly: bool) -> str:
    """How often images go through an encoder, and what that takes as a formula: the rate is the machine's.

    partly: some sets are unknown.
    """
    whole = sum(passes.values())
    each = " and ".join(f"{n:,} images of {side} px ({tokens} tokens)" for (side, tokens), n in passes.items())
    more = " of the sets whose images are known" if partly else ""
    takes = f": {whole:,} / R / 3600 hours at R images a second, {whole / 3.6e6:.2f} hours at 1,000" if whole else ""
    return f"through the encoder {each or 'nothing'}{more}{takes}"
