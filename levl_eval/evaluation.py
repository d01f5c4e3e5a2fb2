"""The run: backbones x tasks x seeds -> records. What is done is never done again; what fails is recorded and the rest goes on."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from levl_eval.cards import BackboneCard, near, protocol_of
from levl_eval.errors import UsageError
from levl_eval.io import locked, sha256_file
from levl_eval.lmms import lmms_identity
from levl_eval.processes import cores, keep_freed_memory
from levl_eval.progress import Progress
from levl_eval.records import Record
from levl_eval.registry import backbone_card, language_models, llm_cards, names, task_card

PACKAGES = (
    "levl-eval",
    "torch",
    "torchvision",
    "transformers",
    "accelerate",
    "lmms-eval",
    "timm",
    "open_clip_torch",
    "mmsegmentation",
    "mmengine",
    "datasets",
    "numpy",
    "pillow",
)


def default_cache() -> Path:
    """$LEVL_CACHE, else ~/.cache/levl-eval."""
    return Path(os.environ.get("LEVL_CACHE") or Path.home() / ".cache" / "levl-eval")


def split_overrides(settings: Sequence[str], tasks: Sequence[str]) -> dict[str, dict[str, str]]:
    """``["pope.prompt.max_new_tokens=4"]`` -> {"pope": {"prompt.max_new_tokens": "4"}}. Raises UsageError for an unknown task."""
    out: dict[str, dict[str, str]] = {t: {} for t in tasks}
    by_stem = {Path(t).stem if t.endswith((".yaml", ".yml")) else t: t for t in tasks}
    for setting in settings:
        left, eq, value = setting.partition("=")
        task, dot, field = left.partition(".")
        if not eq or not dot or not field:
            raise UsageError(f"--set {setting!r}: expected task.field=value, for example pope.prompt.max_new_tokens=4")
        if task not in by_stem:
            raise UsageError(f"--set {setting!r}: {task!r} is not among --tasks{near(task, list(by_stem))}")
        out[by_stem[task]][field] = value
    return out


def llm_identity(name: str) -> dict[str, str]:
    """What stands in the protocol for the language model: content hash of a directory, or the hub name."""
    card = llm_cards().get(name)
    if card is not None:
        revision = {"llm_revision": card.revision} if card.revision else {}
        return {"llm": card.repo, **revision, **({"llm_chat": "true"} if card.chat else {})}
    folder = language_models().get(name) or Path(name).expanduser()
    if not folder.is_dir():
        return {"llm": name}
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.name in ("config.json", "tokenizer.json") or file.suffix in (".safetensors", ".bin"):
            digest.update(f"{file.name}:{sha256_file(file)};".encode())
    return {"llm": name if name in language_models() else folder.name, "llm_sha256": digest.hexdigest()}


def environment() -> dict[str, Any]:
    """Versions, machine and source revision, as written into every record."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    here = Path(__file__).resolve().parent
    git: dict[str, Any] = {}
    if (here.parent / ".git").exists():
        try:
            call = ["git", "--no-optional-locks", "-C", str(here.parent)]  # looking must not write to the user's index
            git["revision"] = subprocess.run(
                [*call, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
            ).stdout.strip()
            status = subprocess.run([*call, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True).stdout
            git["dirty"] = bool(status.strip())
        except (OSError, subprocess.CalledProcessError):
            git = {}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": found,
        "git": git,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def pick_device(name: str) -> Any:
    """ "auto" -> cuda, then mps, then cpu; any torch device name otherwise. Raises UsageError for one that is not there."""
    import torch

    if name == "auto" and torch.cuda.is_available() and "LOCAL_RANK" in os.environ:
        name = f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"  # one GPU a process
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as e:
        raise UsageError(f"--device {name}: not usable here ({str(e).splitlines()[0]}); try --device auto") from e
    return device


def device_name(device: Any) -> str:
    """What the device is, for the records: the GPU's name, or the processor's."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            return next(line.partition(":")[2].strip() for line in f if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def resolve_data(data: str, cache: Path, progress: Progress) -> str:
    """``scenes`` -> the generated world, made in the cache if it is not there; a directory or "hub" as they are."""
    if data == "hub":
        return data
    if data == "scenes":
        from levl_eval.scenes.export import make_scenes

        folder = cache / "scenes" / "seed0"
        with locked(cache / "scenes" / ".lock"):
            make_scenes(folder, progress=progress)
        return str(folder)
    if not Path(data).expanduser().is_dir():
        raise UsageError(
            f"--data {data}: no such directory; give one that holds gqa/, pope/, ade20k/, ..., or `hub`, or `scenes`"
        )
    return str(Path(data).expanduser())


def resolve_tasks(tasks: Sequence[Any], settings: Sequence[str], data: str) -> dict[str, Any]:
    """Task names to resolved cards, in order. Raises UsageError for the first thing that is wrong."""
    if not tasks:
        raise UsageError(f"--tasks: none given; there are {', '.join(names('tasks'))}")
    words = [t for t in tasks if isinstance(t, str)]
    overrides = split_overrides(settings, words)
    recipe = "scenes" if data == "scenes" else None
    out: dict[str, Any] = {}
    for t in tasks:
        if isinstance(t, str):
            out[t] = task_card(t, overrides[t], default_recipe=recipe)
        else:  # resolved already, as a record holds it
            out[t.name] = t
    return out


def _protocol(card: Any, llm: str, limit: int | None) -> dict[str, Any]:
    extra: dict[str, Any] = dict(llm_identity(llm)) if card.engine in ("vqa", "lmms") else {}
    if card.engine == "lmms":
        extra |= lmms_identity(card.include)
    if limit is not None:
        extra["limit"] = limit
    return protocol_of(card, extra)


def evaluate(
    backbones: Sequence[str | BackboneCard],
    tasks: Sequence[Any],
    *,
    data: str = "scenes",
    llm: str = "scenes-lm",
    seeds: Sequence[int] | None = None,
    limit: int | None = None,
    settings: Sequence[str] = (),
    out: str | Path = "runs/latest",
    cache: str | Path | None = None,
    device: str = "auto",
    batch_size: int = 64,
    progress: Progress | None = None,
    debug: bool = False,
) -> list[Record]:
    """Evaluate every backbone on every task with every seed and return the records, in that order.

    backbones: card names, checkpoint paths or URIs. tasks: card names, card files or resolved cards. data: a directory, "hub" or "scenes".
    seeds: of heads and connectors; None: as many as each card's ``seeds`` says, from 0 (one for cards without).
    settings: ``task.field=value`` overrides. Records and samples are written to ``out`` as soon as each is done; those already
    there are read, not computed. A failing piece gives a record with status "failed" and the run goes on.

    Raises UsageError for wrong names, cards, paths and unreadable backbones, before anything is computed.
    """
    from levl_eval.backbones import load_backbone
    from levl_eval.features import FeatureStore
    from levl_eval.pieces import Desk, Piece

    progress = progress or Progress()
    out, cache = Path(out), Path(cache) if cache else default_cache()
    cards = resolve_tasks(tasks, settings, data)
    who = [b if isinstance(b, BackboneCard) else backbone_card(b) for b in backbones]
    if not who:
        raise UsageError(f"--backbone: none given; there are {', '.join(names('backbones'))}")
    repeated = sorted({c.name for c in who if sum(c.name == d.name for d in who) > 1})
    if repeated:
        raise UsageError(f"--backbone: two of them are named {repeated[0]!r}; give each a card with its own `name:`")
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit}: at least 1 image")
    where = pick_device(device)
    if where.type == "cpu":
        keep_freed_memory()
    for folder in (out / "records", out / "samples", cache):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK):
                raise PermissionError(13, "Permission denied")
        except OSError as e:
            raise UsageError(f"{folder}: cannot be written ({e.strerror}); choose another --out or cache (LEVL_CACHE)") from e
    loaded = [load_backbone(c.uri, card=c) for c in who]
    source = resolve_data(data, cache, progress)
    for backbone in loaded:
        backbone.open_data(source)
    store = FeatureStore(cache / "features")
    env = environment()
    env |= {"device": str(where), "device_name": device_name(where), "cores": cores()}
    protocols = {t: _protocol(c, llm, limit) for t, c in cards.items()}

    planned = {t: list(seeds) if seeds is not None else list(range(getattr(c, "seeds", 1))) for t, c in cards.items()}
    work = [
        Piece(spec, backbone, cards[task], seed, protocols[task], many=len(planned[task]) > 1)
        for spec, backbone in zip(who, loaded, strict=True)
        for task in cards
        for seed in planned[task]
    ]
    call = {"llm": llm, "batch_size": batch_size, "device": device, "folder": str(Path.cwd())}
    desk = Desk(out, cache, store, source, data, where, limit, llm, batch_size, progress, env, call, debug)
    records = desk.work(work)
    for backbone in loaded:
        backbone.to("cpu")
    return records
