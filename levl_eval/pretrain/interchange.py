"""From the published forms (PAPER 1.10) to a ckpt.pt; the other way is checkpoints.export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn

from levl_eval.errors import UsageError
from levl_eval.pretrain import checkpoints
from levl_eval.pretrain.config import SIZES, PretrainConfig
from levl_eval.pretrain.model import DualEncoder
from levl_eval.pretrain.tokenizer import eot_id, load_gpt2


def _told(folder: Path) -> dict[str, Any]:
    """config.json of the directory, or nothing. Raises UsageError where it is no JSON object."""
    path = folder / "config.json"
    if not path.exists():
        return {}
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise UsageError(f"{path}: not valid JSON; repair or remove it") from e
    if not isinstance(told, dict):
        raise UsageError(f"{path}: expected a JSON object; repair or remove it")
    return told


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


def _config(model: DualEncoder, told: dict[str, Any], image_size: int, length: int, source: str, vocab: int) -> PretrainConfig:
    """The configuration that rebuilds ``model``: dimensions from its weights, heads from config.json, else 64 channels a head."""
    v, t = model.vision.encoder.state_dict(), model.text.encoder.state_dict()
    head = model.vision.pre_proj
    assert isinstance(head, nn.Sequential)
    first, last = head[0], head[3]
    assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
    sides = {}
    for side, state, width, blocks, where in (
        ("vision", v, v["cls_token"].shape[-1], "blocks.", "vision_encoder"),
        ("text", t, t["wte.weight"].shape[1], "h.", "text_encoder"),
    ):
        depth = 1 + max(int(k.split(".")[1]) for k in state if k.startswith(blocks))
        heads = (told.get(where) or {}).get("num_heads", max(1, width // 64))
        if not isinstance(heads, int) or heads < 1 or width % heads:
            raise UsageError(
                f"{source}: config.json field `{where}.num_heads` is {heads!r}, which does not divide {width} channels"
            )
        sides[side] = {"width": width, "depth": depth, "heads": heads}
    sides["vision"]["patch"] = v["patch_embed.proj.weight"].shape[-1]
    training = told.get("training") or {}
    predicts = model.vision.projector is not None
    objective = training.get("objective") if training.get("objective") in ("clip", "siglip") else "clip"
    predictor = {}
    if predicts:
        linear = [m for m in model.vision.projector if isinstance(m, nn.Linear)]  # type: ignore[union-attr]
        predictor = {"predictor_width": linear[0].out_features, "predictor_depth": len(linear) - 1}
    alike = (n for n, s in SIZES.items() if s["vision"]["width"] == sides["vision"]["width"])
    size = told["model_size"] if told.get("model_size") in SIZES else next(alike, "base")
    batch = training.get("batch_size")
    positions = t["wpe.weight"].shape[0]
    return PretrainConfig.model_validate(
        {
            "model": size, "objective": "levljepa" if predicts else objective, "data": str(training.get("dataset") or source),
            "image_size": image_size, "embed_dim": last.out_features, "head_width": first.out_features, **sides, **predictor,
            "max_length": length, "positions": positions if positions != length else None, "vocab_size": vocab,
            **({"batch_size": batch} if isinstance(batch, int) and batch >= 2 else {}),
        }
    )  # fmt: skip


def import_published(source: str, out: Path, tokenizer: str | None = None) -> Path:
    """Write a ckpt.pt from a published directory (safetensors or .pt pair) or hub repository; returns ``out``.

    Weights are kept bit for bit; predictors without dropout modules are renumbered (0,3,6,... to 0,4,8,...). A ckpt.pt made this
    way is for evaluation and export: it holds no optimizer. Preprocessing is config.json's where it tells one, else the
    model cards' (shortest side to 256/224 of the size, centre crop, ImageNet statistics; PAPER 3.2).
    Raises UsageError: nothing found, truncated, foreign, heads that do not divide, a tokenizer of another size.
    """
    from levl_eval.backbones.official import IMAGENET_MEAN, IMAGENET_STD, build, read_pair

    if out.exists():
        raise UsageError(f"--out {out}: is there already; choose another name")
    vision, text, folder = read_pair(source, source)
    told = _told(folder)
    try:
        model, side, length = build(vision, text)
    except (KeyError, RuntimeError, ValueError, IndexError) as e:
        words = " ".join(str(e).split())[:160]
        raise UsageError(f"{folder}: weights do not form the published model ({type(e).__name__}: {words})") from e
    vocab = text["encoder"]["wte.weight"].shape[0]
    words_of = _tokenizer(folder, tokenizer, vocab)
    config = _config(model, told, side, length, source, vocab)
    step = (told.get("training") or {}).get("total_steps")
    state = checkpoints.payload(model.state_dict(), config, words_of.to_str(), step if isinstance(step, int) else 0)
    state["preprocess"] = told.get("preprocess") or {
        "size": side, "resize": "shortest", "resize_to": round(side * 256 / 224), "interpolation": "bicubic",
        "mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD),
    }  # fmt: skip
    bad = [
        k
        for s in (vision, text)
        for p in s.values()
        for k, x in p.items()
        if x.is_floating_point() and not torch.isfinite(x).all()
    ]
    if bad:
        raise UsageError(f"{folder}: {bad[0]} holds NaN or infinity; use an earlier checkpoint")
    checkpoints.save(out, state)
    return out
