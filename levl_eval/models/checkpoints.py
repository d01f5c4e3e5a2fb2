"""Checkpoints: the run's own ckpt.pt, the half-precision release file, and the two published forms (docs/paper.md).

ckpt.pt is a dictionary of plain values and tensors, loadable with ``weights_only=True``:
  format "levl-pretrain/1"; config (dict); step; vision, text: {"encoder", "pre_proj", "projector"} state dicts (projector empty
  for clip and siglip); logit {scale, bias}; tokenizer (JSON string); preprocess; and, for resuming, optimizer, loss and feeds.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict, TypeGuard, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from levl_eval.core.errors import UsageError
from levl_eval.core.files import atomic_path, atomic_write, check_permitted
from levl_eval.core.json_types import JsonObject, object_at
from levl_eval.models.config import PretrainConfig
from levl_eval.models.presets import BEFORE
from levl_eval.models.towers import DualEncoder, build_model

FORMAT = "levl-pretrain/1"
PARTS = ("encoder", "pre_proj", "projector")


Parts = dict[str, dict[str, Tensor]]  # of a tower: encoder, pre_proj, projector (PARTS) -> state dict


class Facts(TypedDict):
    """What a checkpoint says besides its weights."""

    config: Mapping[str, object]
    step: int
    tokenizer: str
    preprocess: Mapping[str, object]


class _Whole(Facts):
    format: str
    vision: Parts
    text: Parts
    logit: dict[str, Tensor]


class FeedState(TypedDict, total=False):
    """Where a stream stands, as checkpoints hold it; of a pool, whose batches depend on their number alone, its source.

    See pretrain/feed.py. broken: [name, kind] of each, or of earlier versions the name alone; skipped: theirs, not counted by
    kind. source: Source.identity, Pool.identity.
    """

    turn: int
    positions: list[list[int]]
    seen: int
    skipped: int
    kinds: dict[str, int]
    broken: list[list[str] | str]
    source: str


class Checkpoint(_Whole, total=False):
    """ckpt.pt's dictionary; what may be missing is for resuming, and ``before``: fields that its writer's version did not have.

    earlier: the runs whose weights this one began with, oldest first (pretrain/beginning.py). known: of an imported model, the
    fields of its configuration that its files told; the others are defaults, with which nobody trained it.
    """

    before: list[str]
    earlier: list[dict[str, object]]
    known: list[str]
    optimizer: dict[str, object]
    loss: tuple[float, float]
    feeds: list[FeedState]
    attentive: Mapping[str, object]


def preprocess_of(config: PretrainConfig) -> JsonObject:
    """How training saw its images without augmentation: squashed to the image size, or shortest side and centre crop."""
    return {
        "size": config.image_size,
        "resize": "squash" if config.resize == "squash" else "shortest",
        "interpolation": config.interpolation,
        "mean": list(config.mean),
        "std": list(config.std),
    }


def payload(state: dict[str, Tensor], config: PretrainConfig, tokenizer: str, step: int) -> Checkpoint:
    """What every form of a checkpoint holds; state: DualEncoder.state_dict()."""
    towers: dict[str, dict[str, dict[str, Tensor]]] = {side: {p: {} for p in PARTS} for side in ("vision", "text")}
    logit: dict[str, Tensor] = {}
    for name, value in state.items():
        side, _, rest = name.partition(".")
        if rest:
            part, _, key = rest.partition(".")
            towers[side][part][key] = value
        else:
            logit[name.removeprefix("logit_")] = value.detach().clone()
    return {
        "format": FORMAT, "config": config.model_dump(mode="json"), "step": step, "vision": towers["vision"], "text": towers["text"],
        "logit": logit, "tokenizer": tokenizer, "preprocess": preprocess_of(config),
    }  # fmt: skip


def _sides(state: Checkpoint) -> dict[str, Parts]:
    return {"vision": state["vision"], "text": state["text"]}


def restore(model: DualEncoder, state: Checkpoint) -> None:
    """Put the weights of a checkpoint's dictionary into ``model``."""
    for side, parts in _sides(state).items():
        for part in PARTS:
            module = getattr(getattr(model, side), part)
            if module is not None:
                module.load_state_dict(parts[part])
    for k, v in state["logit"].items():
        getattr(model, f"logit_{k}").data.copy_(v)


def save(path: Path, state: Mapping[str, object]) -> None:
    """Write a checkpoint atomically: the same bytes for the same state."""
    with atomic_path(path) as temporary, open(temporary, "wb") as f:  # given a path, torch writes its name into the file
        torch.save(state, f)


def keep_last(path: Path, step: int, keep: int) -> None:
    """Give the checkpoint just written at ``path`` its second name ckpt-STEP.pt, and remove all but the newest ``keep`` of them.

    With ``keep`` 1 there is ckpt.pt alone. The second name is a hard link where the file system has them, else a copy.
    """
    if keep > 1:
        name = path.with_name(f"{path.stem}-{step}{path.suffix}")
        name.unlink(missing_ok=True)
        try:
            os.link(path, name)
        except OSError:
            with atomic_path(name) as temporary:
                shutil.copyfile(path, temporary)
    numbered = [p for p in path.parent.glob(f"{path.stem}-*{path.suffix}") if p.stem.rpartition("-")[2].isdigit()]
    for old in sorted(numbered, key=lambda p: int(p.stem.rpartition("-")[2]))[: -keep if keep > 1 else None]:
        old.unlink(missing_ok=True)


def read(path: Path) -> Checkpoint:
    """A ckpt.pt as its dictionary. Raises UsageError: missing, truncated, foreign, or with pickled code in it."""
    check_permitted(path)
    if not path.exists():
        raise UsageError(f"{path}: no such checkpoint")
    if path.is_dir():
        raise UsageError(f"{path}: is a directory; give the file in it, for example {path / 'ckpt.pt'}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:
        text = str(e)
        if "weights_only" in text or "Unsupported global" in text or "WeightsUnpickler" in text:
            raise UsageError(f"{path}: holds pickled code, which is never run here; export its weights to safetensors") from e
        raise UsageError(f"{path}: cannot be read as a checkpoint (truncated or not a torch file); copy or make it again") from e
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UsageError(
            f"{path}: not a levl-pretrain checkpoint (field `format` is not {FORMAT!r}); give other weights as py:MODULE:FACTORY, "
            "open_clip:MODEL/FILE, timm:local-dir:DIR or hf:DIR, and LeVLJEPA's published pair as official:DIR"
        )
    missing = [k for k in ("config", "step", "vision", "text", "logit", "tokenizer", "preprocess") if k not in state]
    if missing:
        raise UsageError(f"{path}: field `{missing[0]}` is missing; make the checkpoint again")
    return completed(_checked(state, path))


def _checked(state: dict[str, object], path: Path) -> Checkpoint:
    """What torch read, which may be anything, where its fields are of the right kind. Raises UsageError naming the field."""
    kinds = {"config": dict, "step": int, "vision": dict, "text": dict, "logit": dict, "tokenizer": str, "preprocess": dict}
    wrong = [name for name, kind in kinds.items() if not isinstance(state[name], kind)]
    wrong = wrong or [
        f"{side}.{part}"
        for side in ("vision", "text")
        for part in PARTS
        if not isinstance(object_at(state, side).get(part), dict)
    ]
    wrong += [] if is_history(state.get("earlier", [])) else ["earlier"]
    wrong += [] if _is_names(state.get("known", [])) else ["known"]
    if wrong:
        raise UsageError(f"{path}: field `{wrong[0]}` is missing or of another kind; make the checkpoint again")
    return cast(Checkpoint, state)


def is_history(value: object) -> TypeGuard[list[dict[str, object]]]:
    """Whether this can be the list of earlier runs."""
    return isinstance(value, list) and all(isinstance(run, dict) and "data" in run for run in value)


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def completed(state: Checkpoint) -> Checkpoint:
    """A checkpoint's dictionary whose configuration also says what runs of earlier versions did without a field for it."""
    config = state["config"]
    if isinstance(config, dict):
        start = 0.01 if config.get("schedule") == "wsd" else None
        before = {**BEFORE, "warmup_start_factor": start}
        state["before"] = [k for k in before if k not in config]
        state["config"] = {**before, **config}
    return state


def flat(state: Checkpoint) -> dict[str, Tensor]:
    """All weights by one name each: side.part.key, logit.key."""
    out = {
        f"{side}.{part}.{k}": v
        for side, parts in _sides(state).items()
        for part, tensors in parts.items()
        for k, v in tensors.items()
    }
    return out | {f"logit.{k}": v for k, v in state["logit"].items()}


def _without_folders(config: Mapping[str, object]) -> dict[str, object]:
    """A run's configuration, or what is kept of it, with the last part alone of ``out``, ``probe``,
    ``init_from`` and the files of ``data``."""
    local = {k: str(v).rsplit("/", 1)[-1] for k, v in config.items() if k in ("out", "probe", "init_from") and v}
    kind, _, where = str(config["data"]).partition(":")
    if kind in ("csv", "tsv", "wds", "lance"):
        local["data"] = f"{kind}:{where.rsplit('/', 1)[-1]}"
    return {**config, **local}


def _halved(x: Tensor) -> Tensor:
    """In half precision, unless a number is beyond its range (65,504), as a BatchNorm's running variance may be."""
    if not x.is_floating_point():
        return x
    half = x.half()
    return x.float() if torch.isinf(half).any() else half


def save_release(path: Path, state: Checkpoint) -> None:
    """One safetensors file in half precision (a tensor beyond its range stays in float32) with configuration,
    tokenizer and preprocessing as metadata.

    What names folders of the machine that trained it, or an earlier run, is cut to the last part.
    """
    tensors = {k: _halved(v).contiguous() for k, v in flat(state).items()}
    meta = {
        "format": state["format"], "config": json.dumps(_without_folders(state["config"])), "step": json.dumps(state["step"]),
        "tokenizer": state["tokenizer"], "preprocess": json.dumps(state["preprocess"]),
    }  # fmt: skip
    if state.get("earlier"):
        meta["earlier"] = json.dumps([_without_folders(run) for run in state["earlier"]])
    if "known" in state:
        meta["known"] = json.dumps(state["known"])
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=meta)


def read_release(path: Path) -> Checkpoint:
    """A release file as the dictionary of :func:`read`, in float32."""
    check_permitted(path)
    if not path.exists():
        raise UsageError(f"{path}: no such checkpoint")
    try:
        with safe_open(path, framework="pt") as f:
            meta = f.metadata() or {}
            tensors = {k: f.get_tensor(k) for k in f.keys()}
    except (SafetensorError, OSError) as e:
        raise UsageError(f"{path}: cannot be read as safetensors (truncated or another format); copy it again") from e
    if meta.get("format") != FORMAT:
        raise UsageError(f"{path}: not a levl-pretrain release (metadata `format`); for the published directory use official:DIR")
    try:
        state: Checkpoint = {
            "format": FORMAT, "tokenizer": meta["tokenizer"], "logit": {}, "config": json.loads(meta["config"]),
            "step": json.loads(meta["step"]), "preprocess": json.loads(meta["preprocess"]),
            "vision": {p: {} for p in PARTS}, "text": {p: {} for p in PARTS},
        }  # fmt: skip
        sides = _sides(state)
        for name, value in tensors.items():
            value = value.float() if value.is_floating_point() else value
            side, part, *rest = name.split(".")
            if side == "logit":
                state["logit"][part] = value
            else:
                sides[side][part][".".join(rest)] = value
        if "earlier" in meta:
            state["earlier"] = json.loads(meta["earlier"])
            if not is_history(state["earlier"]):
                raise ValueError("`earlier`")
        if "known" in meta:
            state["known"] = json.loads(meta["known"])
            if not _is_names(state["known"]):
                raise ValueError("`known`")
    except (KeyError, ValueError) as e:
        raise UsageError(
            f"{path}: metadata or tensor {e} is missing or unknown; export the release again from its ckpt.pt"
        ) from e
    return completed(state)


def read_any(path: Path) -> Checkpoint:
    """A ckpt.pt or a release file (by its ending .safetensors) as a dictionary. Raises UsageError."""
    return read_release(path) if path.suffix == ".safetensors" else read(path)


def _misfit(path: Path, error: Exception) -> UsageError:
    first = str(error).strip().splitlines() or [type(error).__name__]
    return UsageError(f"{path}: does not fit its own configuration ({(first[1] if len(first) > 1 else first[0]).strip()[:160]})")


def load_model(path: str | Path) -> tuple[DualEncoder, Facts]:
    """The model of a ckpt.pt or release file in eval mode, and what the file says besides its weights.

    Raises UsageError naming the file: missing, truncated, foreign, pickled code, other shapes than its configuration, NaN.
    """
    path = Path(path)
    state = read_any(path)
    from tokenizers import Tokenizer

    try:
        config = PretrainConfig.model_validate(state["config"])
        model = build_model(config, Tokenizer.from_str(state["tokenizer"]).get_vocab_size())
        restore(model, state)
    except Exception as e:  # shapes, keys, configuration; a broken tokenizer raises a bare Exception
        raise _misfit(path, e) from e
    bad = [n for n, p in model.state_dict().items() if p.is_floating_point() and not torch.isfinite(p).all()]
    if bad:
        raise UsageError(f"{path}: {bad[0]} holds NaN or infinity; the training diverged, use an earlier checkpoint")
    return model.eval(), Facts(
        config=state["config"], step=state["step"], tokenizer=state["tokenizer"], preprocess=state["preprocess"]
    )


def _same_model(out: Path, content: Mapping[str, object], tokenizer: str) -> None:
    """Raises UsageError where a directory already describes another model, whose weights would be read by this one's description."""
    path, words = out / "config.json", out / "tokenizer.json"
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return

    def but_steps(c: Mapping[str, object]) -> dict[str, object]:
        return {**c, "training": {**object_at(c, "training"), "total_steps": 0}}

    now = json.loads(json.dumps(content))
    other_words = words.exists() and words.read_text(encoding="utf-8", errors="replace") != tokenizer
    if other_words or not isinstance(there, dict) or but_steps(there) != but_steps(now):
        raise UsageError(f"{path}: describes another model; choose another --out")


def export(source: Path, form: str, out: Path) -> list[Path]:
    """Write a ckpt.pt or release file in another form; returns the files of weights and config.json.

    "release": one file in half precision; "official": the .pt pair; "safetensors": the published directory. Both directories get
    tokenizer.json and config.json with what weights do not tell (published.py), and the text tower's 1,024 positions.
    """
    from levl_eval.models.published import described, with_positions

    state = read_any(source)
    if form == "release":
        if out.is_dir():
            raise UsageError(f"--out {out}: is a directory; a release is one file, for example {out / 'backbone.safetensors'}")
        if out.suffix != ".safetensors":  # how a release is told from a ckpt.pt, which must not be overwritten by one
            raise UsageError(f"--out {out}: a release is a file whose name ends with .safetensors")
        save_release(out, state)
        return [out]
    if form not in ("official", "safetensors"):
        raise UsageError(f"--to {form}: expected official, safetensors or release")
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: is a file; the form {form} is a directory")
    try:
        content = described(state)
        if state.get("earlier"):
            content["earlier"] = [_without_folders(run) for run in state["earlier"]]
    except (KeyError, ValueError, TypeError) as e:
        raise _misfit(source, e) from e
    _same_model(out, content, state["tokenizer"])
    state["text"]["encoder"] = with_positions(state["text"]["encoder"])
    paths = []
    # Towers appear together: a killed export must not leave those of two steps in one folder.
    with contextlib.ExitStack() as files:
        for side, parts in _sides(state).items():
            if form == "official":
                paths.append(out / f"{source.resolve().parent.name}_{side}_step{state['step']}.pt")
                save(paths[-1], parts)
            else:
                tensors = {f"{part}.{k}": v.contiguous() for part, values in parts.items() for k, v in values.items()}
                paths.append(out / f"{side}_encoder.safetensors")
                save_file(tensors, files.enter_context(atomic_path(paths[-1])))
    atomic_write(out / "config.json", json.dumps(content, indent=1) + "\n")
    atomic_write(out / "tokenizer.json", state["tokenizer"])
    return [*paths, out / "config.json"]
