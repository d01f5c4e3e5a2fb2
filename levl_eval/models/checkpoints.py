"""Checkpoints: the run's own ckpt.pt, the half-precision release file, and the two published forms (docs/paper.md).

ckpt.pt is a dictionary of plain values and tensors, loadable with ``weights_only=True``:
  format "levl-pretrain/1"; config (dict); step; vision, text: {"encoder", "pre_proj", "projector"} state dicts (projector empty
  for clip and siglip); logit {scale, bias}; tokenizer (JSON string); preprocess; and, for resuming, optimizer, loss and feeds.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from levl_eval.core.errors import UsageError
from levl_eval.core.files import atomic_path, atomic_write
from levl_eval.models.config import PretrainConfig
from levl_eval.models.presets import BEFORE
from levl_eval.models.towers import DualEncoder, build_model

FORMAT = "levl-pretrain/1"
PARTS = ("encoder", "pre_proj", "projector")


def preprocess_of(config: PretrainConfig) -> dict[str, Any]:
    """How training saw its images without augmentation: squashed to the image size, or shortest side and centre crop."""
    return {
        "size": config.image_size,
        "resize": "squash" if config.resize == "squash" else "shortest",
        "interpolation": config.interpolation,
        "mean": list(config.mean),
        "std": list(config.std),
    }


def payload(state: dict[str, Tensor], config: PretrainConfig, tokenizer: str, step: int) -> dict[str, Any]:
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
        "format": FORMAT, "config": config.model_dump(mode="json"), "step": step, **towers, "logit": logit,
        "tokenizer": tokenizer, "preprocess": preprocess_of(config),
    }  # fmt: skip


def restore(model: DualEncoder, state: dict[str, Any]) -> None:
    """Put the weights of a checkpoint's dictionary into ``model``."""
    for side in ("vision", "text"):
        for part in PARTS:
            module = getattr(getattr(model, side), part)
            if module is not None:
                module.load_state_dict(state[side][part])
    for k, v in state["logit"].items():
        getattr(model, f"logit_{k}").data.copy_(v)


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint atomically."""
    with atomic_path(path) as temporary:
        torch.save(state, temporary)


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


def read(path: Path) -> dict[str, Any]:
    """A ckpt.pt as its dictionary. Raises UsageError: missing, truncated, foreign, or with pickled code in it."""
    if not path.exists():
        raise UsageError(f"{path}: no such checkpoint")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:
        text = str(e)
        if "weights_only" in text or "Unsupported global" in text or "WeightsUnpickler" in text:
            raise UsageError(f"{path}: holds pickled code, which is never run here; export its weights to safetensors") from e
        raise UsageError(f"{path}: cannot be read as a checkpoint (truncated or not a torch file); copy or make it again") from e
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UsageError(
            f"{path}: not a levl-pretrain checkpoint (field `format` is not {FORMAT!r}); for the published pair use official:DIR"
        )
    missing = [k for k in ("config", "step", "vision", "text", "logit", "tokenizer", "preprocess") if k not in state]
    if missing:
        raise UsageError(f"{path}: field `{missing[0]}` is missing; make the checkpoint again")
    return _completed(state)


def _completed(state: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's dictionary whose configuration also says what runs of earlier versions did without a field for it."""
    config = state["config"]
    if isinstance(config, dict):
        start = 0.01 if config.get("schedule") == "wsd" else None
        before = {**BEFORE, "warmup_start_factor": start}
        state["before"] = [k for k in before if k not in config]
        state["config"] = {**before, **config}
    return state


def _flat(state: dict[str, Any]) -> dict[str, Tensor]:
    out = {
        f"{side}.{part}.{k}": v
        for side in ("vision", "text")
        for part, tensors in state[side].items()
        for k, v in tensors.items()
    }
    return out | {f"logit.{k}": v for k, v in state["logit"].items()}


def save_release(path: Path, state: dict[str, Any]) -> None:
    """One safetensors file in half precision with configuration, tokenizer and preprocessing as metadata.

    What names folders of the machine that trained it (``out``, and the files of ``data`` and ``probe``) is cut to the last part.
    """
    tensors = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in _flat(state).items()}
    local = {k: str(v).rsplit("/", 1)[-1] for k, v in state["config"].items() if k in ("out", "probe") and v}
    kind, colon, where = state["config"]["data"].partition(":")
    if kind in ("csv", "tsv", "wds", "lance"):
        local["data"] = kind + colon + where.rsplit("/", 1)[-1]
    told = {**state, "config": {**state["config"], **local}}
    meta = {
        k: told[k] if isinstance(told[k], str) else json.dumps(told[k])
        for k in ("format", "config", "step", "tokenizer", "preprocess")
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=meta)


def read_release(path: Path) -> dict[str, Any]:
    """A release file as the dictionary of :func:`read`, in float32."""
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
        state: dict[str, Any] = {
            "format": FORMAT, "tokenizer": meta["tokenizer"], "logit": {},
            **{k: json.loads(meta[k]) for k in ("config", "step", "preprocess")}, "vision": {p: {} for p in PARTS}, "text": {p: {} for p in PARTS},
        }  # fmt: skip
        for name, value in tensors.items():
            value = value.float() if value.is_floating_point() else value
            side, part, *rest = name.split(".")
            if side == "logit":
                state["logit"][part] = value
            else:
                state[side][part][".".join(rest)] = value
    except (KeyError, ValueError) as e:
        raise UsageError(
            f"{path}: metadata or tensor {e} is missing or unknown; export the release again from its ckpt.pt"
        ) from e
    return _completed(state)


def read_any(path: Path) -> dict[str, Any]:
    """A ckpt.pt or a release file (by its ending .safetensors) as a dictionary. Raises UsageError."""
    return read_release(path) if path.suffix == ".safetensors" else read(path)


def load_model(path: str | Path) -> tuple[DualEncoder, dict[str, Any]]:
    """The model of a ckpt.pt or release file in eval mode, and its {"config", "tokenizer", "preprocess", "step"}.

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
        first = str(e).strip().splitlines()
        raise UsageError(
            f"{path}: does not fit its own configuration ({(first[1] if len(first) > 1 else first[0]).strip()[:160]})"
        ) from e
    bad = [n for n, p in model.state_dict().items() if p.is_floating_point() and not torch.isfinite(p).all()]
    if bad:
        raise UsageError(f"{path}: {bad[0]} holds NaN or infinity; the training diverged, use an earlier checkpoint")
    return model.eval(), {k: state[k] for k in ("config", "tokenizer", "preprocess", "step")}


def _same_model(out: Path, content: dict[str, Any], tokenizer: str) -> None:
    """Raises UsageError where a directory already describes another model, whose weights would be read by this one's description."""
    path, words = out / "config.json", out / "tokenizer.json"
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return

    def but_steps(c: dict[str, Any]) -> dict[str, Any]:
        return {**c, "training": {**c.get("training", {}), "total_steps": 0}}

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
        save_release(out, state)
        return [out]
    if form not in ("official", "safetensors"):
        raise UsageError(f"--to {form}: expected official, safetensors or release")
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: is a file; the form {form} is a directory")
    content = described(state)
    _same_model(out, content, state["tokenizer"])
    state["text"]["encoder"] = with_positions(state["text"]["encoder"])
    if form == "official":
        paths = [out / f"{source.resolve().parent.name}_{side}_step{state['step']}.pt" for side in ("vision", "text")]
        for side, path in zip(("vision", "text"), paths, strict=True):
            save(path, state[side])
    else:
        paths = []
        for side in ("vision", "text"):
            tensors = {f"{part}.{k}": v.contiguous() for part, values in state[side].items() for k, v in values.items()}
            paths.append(out / f"{side}_encoder.safetensors")
            with atomic_path(paths[-1]) as temporary:
                save_file(tensors, temporary)
    atomic_write(out / "config.json", json.dumps(content, indent=1) + "\n")
    atomic_write(out / "tokenizer.json", state["tokenizer"])
    return [*paths, out / "config.json"]
