"""From the published forms (docs/paper.md) to a ckpt.pt; the other way is checkpoints.export."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn

from levl_eval.core.errors import UsageError
from levl_eval.models import checkpoints
from levl_eval.models.config import PretrainConfig
from levl_eval.models.presets import TOWERS
from levl_eval.models.published import Description
from levl_eval.models.tokenizer import eot_id, load_gpt2
from levl_eval.models.towers import DualEncoder


def _tokenizer(folder: Path, name: str | None, vocab: int) -> Tokenizer:
    """The named tokenizer, else tokenizer.json of the directory, else GPT-2's from the hub; it must have ``vocab`` tokens."""
    where = name or (folder / "tokenizer.json" if (folder / "tokenizer.json").exists() else "gpt2")
    if isinstance(where, Path):
        try:
            tokenizer = Tokenizer.from_file(str(where))
        except Exception as e:  # tokenizers raises bare Exceptions
            raise UsageError(f"{where}: not a tokenizer file of the tokenizers library; give --tokenizer DIR") from e
    else:
        tokenizer = load_gpt2(where)
    eot_id(tokenizer)
    if tokenizer.get_vocab_size() != vocab:
        raise UsageError(
            f"tokenizer {where}: {tokenizer.get_vocab_size()} tokens, the text tower has {vocab}; give --tokenizer DIR"
        )
    return tokenizer


def _dims(head: nn.Module | None) -> list[int]:
    """Hidden widths of a head."""
    return [m.out_features for m in head if isinstance(m, nn.Linear)][:-1] if isinstance(head, nn.Sequential) else []


def _widths(dims: list[int], width: str, depth: str, each: str) -> dict[str, int | list[int]]:
    """A head's fields: one width and a depth where all are equal, else each width."""
    if dims and len(set(dims)) == 1:
        return {width: dims[0], depth: len(dims)}
    return {each: dims}


def _towers(model: DualEncoder, description: Description) -> dict[str, dict[str, int]]:
    """Width, depth, heads and patch of both towers, read off the weights but for the heads."""
    v, t = model.vision.encoder.state_dict(), model.text.encoder.state_dict()
    out = {}
    for side, state, width, blocks in (
        ("vision", v, v["cls_token"].shape[-1], "blocks."),
        ("text", t, t["wte.weight"].shape[1], "h."),
    ):
        depth = 1 + max(int(k.split(".")[1]) for k in state if k.startswith(blocks))
        out[side] = {"width": width, "depth": depth, "heads": description.heads(side, width)}
    out["vision"]["patch"] = v["patch_embed.proj.weight"].shape[-1]
    return out


def _stated(model: DualEncoder, description: Description, image_size: int, length: int) -> dict[str, object]:
    """What weights and config.json tell of a model's configuration."""
    head = model.vision.pre_proj
    assert isinstance(head, nn.Sequential) and isinstance(head[-1], nn.Linear)
    training, projector = description.part("training"), model.vision.projector
    readout, positions = description.readout(), model.text.encoder.state_dict()["wpe.weight"].shape[0]
    out: dict[str, object] = {
        "image_size": image_size, "embed_dim": head[-1].out_features, **_towers(model, description),
        **_widths(_dims(head), "head_width", "pre_proj_depth", "pre_proj_hidden_dims"),
        **(_widths(_dims(projector), "predictor_width", "predictor_depth", "projector_hidden_dims") if projector is not None else {}),
        "max_length": length, "positions": positions if positions != length else None,
        "text_readout": readout.partition("-")[0], "pad77_attends": "all" if readout == "pad77-all" else "text",
    }  # fmt: skip
    allowed = ("levljepa", "levljepa_plus") if projector is not None else ("levljepa", "clip", "siglip")
    if training.get("objective") in allowed:
        out["objective"] = training["objective"]
    elif projector is None and model.objective in allowed:  # its scale, and bias, tell
        out["objective"] = model.objective
    for name, field, least in (("batch_size", "batch_size", 2), ("steps", "total_steps", 1)):
        value = training.get(field)
        if isinstance(value, int) and not isinstance(value, bool) and value >= least:
            out[name] = value
    return out | ({"data": str(training["dataset"])} if training.get("dataset") else {})


def _seen(description: Description, image_size: int) -> dict[str, object]:
    """The fields of a configuration that say how images are evaluated, as far as a training has them."""
    p = description.preprocess(image_size)
    out: dict[str, object] = {"mean": p.mean, "std": p.std}
    if p.interpolation in ("bilinear", "bicubic"):
        out["interpolation"] = p.interpolation
    if p.resize == "squash" or p.resize_to in (None, p.size):
        out["resize"] = "squash" if p.resize == "squash" else "crop"
    return out


def _config(
    model: DualEncoder, description: Description, image_size: int, length: int, source: str, vocab: int
) -> tuple[PretrainConfig, list[str]]:
    """The configuration that rebuilds ``model``, and those of its fields that weights and config.json tell; the rest are defaults."""
    stated, seen = _stated(model, description, image_size, length), _seen(description, image_size)
    predicts = model.vision.projector is not None
    objective = stated.get("objective", "levljepa" if predicts else "clip")
    direct = {"prediction": "direct"} if objective == "levljepa" and not predicts else {}
    width = model.vision.encoder.state_dict()["cls_token"].shape[-1]
    size = description.values.get("model_size")
    if not isinstance(size, str) or size not in TOWERS:
        size = next((n for n, s in TOWERS.items() if s["vision"]["width"] == width), "base")
    guessed = {"model": size, "objective": objective, "data": source, "vocab_size": max(vocab, 257)}
    known = {*stated, *direct, *(seen if "preprocess" in description.values else ())}
    return PretrainConfig.model_validate({**guessed, **seen, **direct, **stated}), sorted(known)


def import_published(source: str, out: Path, tokenizer: str | None = None) -> Path:
    """Write a ckpt.pt from a published directory (safetensors or .pt pair) or hub repository; returns ``out``.

    Weights are kept bit for bit; predictors without dropout modules are renumbered (0,3,6,... to 0,4,8,...). A ckpt.pt made this
    way is for evaluation and export: it holds no optimizer. Preprocessing is config.json's where it tells one, else the
    model cards' (shortest side to 256/224 of the size, centre crop, ImageNet statistics; docs/paper.md).
    Raises UsageError: nothing found, truncated, foreign, heads that do not divide, a tokenizer of another size.
    """
    from levl_eval.backbones.official import read_published

    if out.exists():
        raise UsageError(f"--out {out}: is there already; choose another name")
    published = read_published(source, source)
    folder, description, model, side = published.folder, published.description, published.model, published.side
    words_of = _tokenizer(folder, tokenizer, published.vocab)
    config, known = _config(model, description, side, published.length, source, published.vocab)
    state = checkpoints.payload(model.state_dict(), config, words_of.to_str(), config.steps if "steps" in known else 0)
    state["known"] = known
    if earlier := description.values.get("earlier"):
        if not checkpoints.is_history(earlier):
            raise UsageError(f"{description.path}: field `earlier` is no list of earlier runs; repair or remove it")
        state["earlier"] = earlier
    state["preprocess"] = {k: v for k, v in description.preprocess(side).settings().items() if v is not None}
    bad = [
        k
        for s in (published.vision, published.text)
        for p in s.values()
        for k, x in p.items()
        if x.is_floating_point() and not torch.isfinite(x).all()
    ]
    if bad:
        raise UsageError(f"{folder}: {bad[0]} holds NaN or infinity; use an earlier checkpoint")
    checkpoints.save(out, state)
    return out
