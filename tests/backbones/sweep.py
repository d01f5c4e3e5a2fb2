"""Every loader against its library, with random weights: which models were tried, are equal, refused, or wrong.

The whole sweep, in parts, and the table of docs/encoders.md written from its results:

    python -m tests.backbones.sweep timm --part 1/4 --out FOLDER       (likewise 2/4 .. 4/4)
    python -m tests.backbones.sweep open_clip --part 1/4 --out FOLDER
    python -m tests.backbones.sweep table --out FOLDER                 (rewrites the tables between the marks of docs/encoders.md)

`pytest -m sweep tests/backbones/test_sweep.py` runs the same, and a small subset of it runs with the other tests.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import logging
import re
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from levl_eval.backbones.base import Backbone
from levl_eval.core.errors import LevlError, UsageError

TOLERANCE = 1e-5  # of the largest value, in float32
DOCS = Path(__file__).resolve().parents[2] / "docs" / "encoders.md"


# ---- building: no time is spent on initial values that are replaced anyway --------------------------------------------------


@contextlib.contextmanager
def without_init() -> Iterator[None]:
    """Models are built with whatever memory holds; see :func:`randomise`."""
    import timm.layers.weight_init as timm_init

    with contextlib.ExitStack() as stack:
        for name in dir(nn.init):
            if name.endswith("_") and not name.startswith("_"):
                stack.enter_context(mock.patch.object(nn.init, name, lambda tensor, *a, **k: tensor))
        stack.enter_context(mock.patch.object(timm_init, "_trunc_normal_", lambda tensor, *a, **k: tensor))
        yield


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Random values everywhere: norms that are not the identity, layer scales and biases that are not nought.

    What is left at its initial value cannot show a mistake: zero biases hide a norm that is missing.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if not p.is_floating_point():
                continue
            if p.ndim >= 2 and p.shape[1:].numel() > 1:
                p.uniform_(-1.0, 1.0, generator=generator).mul_((1.5 / p.shape[1:].numel()) ** 0.5)
            elif name.endswith("weight"):
                p.uniform_(0.7, 1.3, generator=generator)
            else:
                p.uniform_(-0.3, 0.3, generator=generator)


@contextlib.contextmanager
def shallow(depth: int = 2) -> Iterator[None]:
    """open_clip's models with ``depth`` blocks in every tower (ResNets and Swins: a block a stage) and vocabularies of at most 250,000.

    How a model is read has no depth.
    """
    import open_clip.factory
    import timm

    create = timm.create_model

    def fewer(name: str, **options: Any) -> Any:
        staged = name.startswith(("convnext", "swin"))
        sizes = {} if name.startswith("fastvit") else {"depths": (1, 1, depth, 1)} if staged else {"depth": depth}
        return create(name, **options, **sizes)

    configs = json.loads(json.dumps(open_clip.factory._MODEL_CONFIGS))
    for config in configs.values():
        for tower in (config["vision_cfg"], config["text_cfg"], config.get("multimodal_cfg", {})):
            if isinstance(tower.get("layers"), int):
                tower["layers"] = depth
            elif isinstance(tower.get("layers"), list):
                tower["layers"] = [1] * len(tower["layers"])
            if tower.get("vocab_size", 0) > 250_000:  # gigabytes of rows that no text of ours reads
                tower["vocab_size"] = 250_000
    with mock.patch.object(timm, "create_model", fewer), mock.patch.object(open_clip.factory, "_MODEL_CONFIGS", configs):
        yield


# in a family's smallest member: up to 17 GB of weights
_LARGE = re.compile(r"huge|giant|gigantic|enormous|_[57]b_|_so400m_|_so150m")


@contextlib.contextmanager
def fewer_blocks(name: str, depth: int = 2) -> Iterator[str]:
    """timm's largest ViTs with ``depth`` blocks; yields what was changed, "" for all others."""
    import timm

    if not _LARGE.search(name):
        yield ""
        return
    create = timm.create_model
    with mock.patch.object(timm, "create_model", lambda name, **options: create(name, **options, depth=depth)):
        yield f"with {depth} blocks"


# ---- comparing ------------------------------------------------------------------------------------------------------------


def apart(found: Tensor, want: Tensor) -> float:
    """Largest difference over the largest value; infinite where shapes differ or a value is not finite."""
    if found.shape != want.shape or not (torch.isfinite(found).all() and torch.isfinite(want).all()):
        return float("inf")
    return float((found - want).abs().max() / want.abs().max().clamp_min(1e-6))


def _watched(model: Any, calls: list[tuple[nn.Module, Tensor]]) -> list[Any]:
    """Hooks that note every norm over channels that runs, with its output."""
    kinds = [
        m
        for m in model.modules()
        if isinstance(m, nn.LayerNorm) or "RmsNorm" in type(m).__name__ or "SimpleNorm" in type(m).__name__
    ]
    return [m.register_forward_hook(lambda module, inputs, output: calls.append((module, output))) for m in kinds]


def late_norm(
    tokens: Tensor, before: list[tuple[nn.Module, Tensor]], after: list[tuple[nn.Module, Tensor]], width: int
) -> nn.Module | None:
    """The norm that a model applies behind its pooling alone, from what ran (not by the names the loader looks at).

    before, after: norms that ran for the tokens, and for what is pooled of them. None where the tokens are themselves a norm's output.
    """
    for _, output in before[-1:]:
        if output.numel() == tokens.numel() and torch.equal(output.flatten().sort().values, tokens.flatten().sort().values):
            return None
    ran = {id(module) for module, _ in before}
    wide = [m for m, output in after if id(m) not in ran and output.numel() == output.shape[0] * width]
    return wide[-1] if wide else None  # an attention pool's own norm stands before it


def timm_reference(model: Any, images: Tensor) -> tuple[Tensor | None, Tensor]:
    """(pooled or None where the library pools nothing, map [B, D, h, w] after the norm) by timm's own functions alone."""
    calls: list[tuple[nn.Module, Tensor]] = []
    hooks = _watched(model, calls)
    tokens = model.forward_features(images)
    before = calls.copy()
    pooled = model.forward_head(tokens, pre_logits=True)
    for hook in hooks:
        hook.remove()
    norm = late_norm(tokens, before, calls[len(before) :], model.num_features)
    if tokens.ndim == 3:  # timm's own map of the last block tells grid and order; class attention may follow it (XCiT, CaiT)
        normed = not type(model).__name__.startswith("Hiera")  # whose blocks timm shows before their norm alone
        last = model.forward_intermediates(images, indices=1, norm=normed, intermediates_only=True, output_fmt="NCHW")[-1]
        own = tokens[:, tokens.shape[1] - last.shape[2] * last.shape[3] :].transpose(1, 2).unflatten(2, tuple(last.shape[2:]))
        if apart(own, last) > TOLERANCE:
            a, b = (nn.functional.normalize(t.flatten(2)[0].float(), dim=0) for t in (own, last))
            nearest = (a.T @ b).argmax(1)
            assert (nearest == torch.arange(len(nearest))).float().mean() > 0.9, (
                "the tokens are in another order than timm's own map"
            )
    else:
        own = tokens.movedim(-1, 1) if tokens.shape[1] != model.num_features else tokens
    if norm is not None:
        own = norm(own) if "2d" in type(norm).__name__ else norm(own.movedim(1, -1)).movedim(-1, 1)
    return (None if pooled.shape == tokens.shape else pooled.flatten(1)), own


def compare(backbone: Backbone, images: Tensor, pooled: Tensor | None, own: Tensor) -> dict[str, float]:
    """Differences of a backbone's features from (pooled, map [B, D, h, w])."""
    found = backbone.encode(images)
    rows, columns = found.grid
    patches = found.patches.transpose(1, 2).unflatten(2, (rows, columns))
    out = {"patches": apart(patches, own)}
    if pooled is not None:
        out["pooled"] = apart(found.pooled, pooled)
    if backbone.depth:
        last = backbone.encode_layers(images, [-1])
        out["layers"] = apart(last.patches, found.patches)
        if backbone.class_token == "pooled":
            out["cls"] = apart(last.pooled, found.pooled)
    return out


def images_for(backbone: Backbone) -> Tensor:
    side = backbone.preprocess.size
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def check_timm(name: str) -> dict[str, Any]:
    """One timm model, loaded by `random:NAME`."""
    from levl_eval.backbones import load_backbone

    with (
        without_init(),
        mock.patch("levl_eval.backbones.common.hash_weights", lambda module: "-"),
        _finite(),
        fewer_blocks(name) as note,
    ):
        backbone = load_backbone(f"random:{name}")
    images = images_for(backbone)
    pooled, own = timm_reference(backbone.model, images)
    return {"differences": compare(backbone, images, pooled, own), "pooled": backbone.info["pooled"], "note": note}


@contextlib.contextmanager
def _finite() -> Iterator[None]:
    """Memory of unknown content may hold NaN: weights get finite values before the loader looks."""
    from levl_eval.backbones import common

    finish = common.finish

    def filled(backbone: Any, *rest: Any) -> Any:
        randomise(backbone)
        return finish(backbone, *rest)

    with contextlib.ExitStack() as stack:
        for module in ("timm", "open_clip", "hf"):
            with contextlib.suppress(ImportError):
                stack.enter_context(mock.patch(f"levl_eval.backbones.{module}.finish", filled))
        yield


class StandInTokenizer:
    """Token ids made from a text's bytes, where a tokenizer's files are on the hub; the model's own vocabulary and length."""

    def __init__(self, length: int, vocabulary: int, end: int | None) -> None:
        self.length, self.vocabulary, self.end = length, vocabulary, end

    def __call__(self, texts: list[str]) -> Tensor:
        rows = [[3 + b % (self.vocabulary - 4) for b in t.encode()][: self.length - 1] for t in texts]
        ids = torch.zeros(len(texts), self.length, dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            ids[i, len(row)] = self.vocabulary - 1 if self.end is None else self.end
        return ids


@contextlib.contextmanager
def hub_texts(name: str) -> Iterator[list[str]]:
    """Text towers and tokenizers that open_clip takes from the hub, replaced by small ones of the same kind; yields what was."""
    import open_clip
    import transformers

    text = open_clip.get_model_config(name)["text_cfg"]
    notes: list[str] = []
    with contextlib.ExitStack() as stack:
        if text.get("hf_tokenizer_name"):
            stand_in = StandInTokenizer(
                text.get("context_length", 77), min(text.get("vocab_size", 1000), 1000), text.get("eos_id")
            )
            stack.enter_context(mock.patch.object(open_clip, "get_tokenizer", lambda *a, **k: stand_in))
            notes.append("stand-in tokenizer")
        source = text.get("hf_model_name")
        if source:
            small: dict[str, Any] = {"vocab_size": 1000, "pad_token_id": 1}
            if "roberta" in source:
                kind = transformers.XLMRobertaConfig if "xlm" in source else transformers.RobertaConfig
                config = kind(**small, num_hidden_layers=2, hidden_size=64, num_attention_heads=2, intermediate_size=64)
            elif "mt5" in source:
                config = transformers.MT5Config(
                    vocab_size=1000, d_model=64, d_kv=16, d_ff=64, num_layers=2, num_decoder_layers=1, num_heads=2
                )
            else:
                config = transformers.M2M100Config(
                    **small, d_model=64, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=64
                )
            stack.enter_context(mock.patch("open_clip.hf_model.AutoConfig.from_pretrained", lambda *a, **k: config))
            notes.append(f"text tower of the kind {source} with 2 small layers")
        yield notes


def open_clip_reference(net: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """(feature before the projection, map of the last normed tokens) by open_clip's own functions alone."""
    visual = net.visual
    if hasattr(visual, "trunk"):
        pooled, own = timm_reference(visual.trunk, images)
        assert pooled is not None
        return pooled, own
    if hasattr(visual, "attnpool"):
        stage = visual.forward_intermediates(images, indices=1, intermediates_only=True)["image_intermediates"][-1]
        return net.encode_image(images, normalize=False), stage
    projection, visual.proj = visual.proj, None
    try:
        pooled = net.encode_image(images, normalize=False)
    finally:
        visual.proj = projection
    if visual.attn_pool is None:
        found = visual.forward_intermediates(images, indices=1, normalize_intermediates=True, intermediates_only=True)
        return pooled, found["image_intermediates"][-1]
    seen: list[Tensor] = []
    hook = visual.attn_pool.ln_k.register_forward_hook(lambda module, inputs, output: seen.append(output))
    visual(images)
    hook.remove()
    return pooled, seen[0][:, 1:].transpose(1, 2).unflatten(2, visual.grid_size)


@torch.inference_mode()
def check_open_clip(name: str, full: bool = False) -> dict[str, Any]:
    """One configuration of open_clip, loaded by `random:open_clip:NAME`; with two blocks a tower unless ``full``."""
    from levl_eval.backbones import load_backbone

    with contextlib.ExitStack() as stack:
        for context in (without_init(), mock.patch("levl_eval.backbones.common.hash_weights", lambda module: "-"), _finite()):
            stack.enter_context(context)
        notes = stack.enter_context(hub_texts(name))
        if not full:
            stack.enter_context(shallow())
        backbone = load_backbone(f"random:open_clip:{name}")
    net, images = backbone.model, images_for(backbone)
    pooled, own = open_clip_reference(net, images)
    differences = compare(backbone, images, pooled, own)
    texts = ["a photo of a cat", "two dogs on the road, one of them asleep"]
    found = backbone.encode(images)
    differences["image"] = apart(backbone.image_embeddings(found.pooled)["embedding"], net.encode_image(images, normalize=True))
    tokens = backbone.tokenizer(texts)
    differences["text"] = apart(backbone.encode_text(texts), net.encode_text(tokens, normalize=True))
    return {"differences": differences, "pooled": backbone.info["pooled"], "note": "; ".join(notes)}


# ---- what is tried --------------------------------------------------------------------------------------------------------


_SIZES = (
    "zepto", "atto", "femto", "pico", "nano", "xxs", "xxt", "xs", "xt", "test", "tiny", "ti", "t", "mini", "small", "s", "little", "medium",
    "m", "betwixt", "base", "b", "large", "l", "xlarge", "xl", "xxlarge", "huge", "h", "giant", "giantopt", "g", "gigantic", "enormous",
)  # fmt: skip


def timm_families() -> dict[str, str]:
    """Smallest member of every family of timm: name -> module and family.

    A family is a module's models whose names differ in numbers and words of size alone (vit_*_patch*_siglip_gap_*); the smallest is
    told by those words, then by the numbers: nothing of 1,300 models has to be built to find it.
    """
    import timm

    smallest: dict[tuple[str, str], tuple[tuple[Any, ...], str]] = {}
    for module in timm.list_modules():
        for name in timm.list_models(module=module):
            words = name.split("_")
            size = next((_SIZES.index(w) for w in words if w in _SIZES), len(_SIZES) // 2)
            stem = re.sub(r"\d+", "", "_".join(w for w in words if w not in _SIZES)).strip("_")
            rank = (size, [int(n) for n in re.findall(r"\d+", name)], len(name))
            if (module, stem) not in smallest or rank < smallest[module, stem][0]:
                smallest[module, stem] = (rank, name)
    return {name: " ".join(key) for key, (_, name) in sorted(smallest.items())}


def cases(library: str) -> dict[str, str]:
    """Name -> family of every case of ``library`` ("timm" or "open_clip")."""
    if library == "timm":
        return timm_families()
    import open_clip

    return {name: "" for name in open_clip.list_models()}


def run(library: str, name: str, full: bool = False) -> dict[str, Any]:
    """One case's row: ``verdict`` equal, refused (with the loader's line) or wrong (with what differs or was raised)."""
    row: dict[str, Any] = {"library": library, "name": name}
    start = time.perf_counter()
    try:
        found = check_timm(name) if library == "timm" else check_open_clip(name, full)
        off = {k: v for k, v in found["differences"].items() if not v <= TOLERANCE}
        row |= {"verdict": "wrong" if off else "equal", "off": off, "largest": max(found["differences"].values()), **found}
    except (UsageError, LevlError) as e:
        row |= {"verdict": "refused", "note": str(e).partition(": ")[2] or str(e)}
    except Exception as e:
        row |= {"verdict": "wrong", "note": f"{type(e).__name__}: {' '.join(str(e).split())[:200]}"}
    gc.collect()
    return row | {"seconds": round(time.perf_counter() - start, 1)}


def sweep(library: str, part: str, out: Path, full: bool = False) -> list[dict[str, Any]]:
    """Every ``n``-th case, a row each in OUT/LIBRARY.jsonl; cases that stand there already are not run again."""
    index, count = (int(x) for x in part.split("/"))
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{library}.jsonl"
    done = {json.loads(line)["name"] for line in file.read_text().splitlines()} if file.exists() else set()
    rows = []
    for i, (name, family) in enumerate(cases(library).items()):
        if i % count != index - 1 or name in done:
            continue
        row = run(library, name, full) | {"family": family}
        rows.append(row)
        with file.open("a") as f:
            f.write(json.dumps(row) + "\n")
        print(f"{row['verdict']:8} {row['seconds']:6.1f} s  {name}  {row.get('note', '')}{row.get('off') or ''}", flush=True)
    return rows


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=("timm", "open_clip", "table"))
    parser.add_argument("--part", default="1/1")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--full", action="store_true", help="open_clip with all its blocks")
    args = parser.parse_args(words)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    if args.what == "table":
        from tests.backbones.sweep_table import write

        write(args.out, DOCS)
        return 0
    rows = sweep(args.what, args.part, args.out, args.full)
    return 1 if any(r["verdict"] == "wrong" for r in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
