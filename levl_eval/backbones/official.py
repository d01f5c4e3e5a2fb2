"""`official:DIR_OR_REPO`: the published forms of LeVLJEPA and its baselines (docs/paper.md).

Either `vision_encoder.safetensors`, `text_encoder.safetensors` (keys `encoder.`, `pre_proj.`, `projector.`), or the pair
`{run}_vision_step{N}.pt`, `{run}_text_step{N}.pt`. All dimensions are read off the weights; what they do not tell (attention heads, text
read-out, maximal length, preprocessing) is config.json's where it says so, else the model cards'.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from levl_eval.backbones.base import Backbone
from levl_eval.backbones.common import finish
from levl_eval.backbones.levl import DualEncoderBackbone
from levl_eval.core.errors import UsageError
from levl_eval.core.files import check_permitted
from levl_eval.core.offline import hub_or_cache
from levl_eval.core.text import printable
from levl_eval.models.checkpoints import Parts
from levl_eval.models.published import Description, cut_positions
from levl_eval.models.towers import DualEncoder, Tower, pre_projection, predictor, text_tower, vision_tower

_PAIRED = re.compile(r"(.*)_(vision|text)_step(\d+)\.pt")
_FILES = ("vision_encoder.safetensors", "text_encoder.safetensors")


def pair_of(path: Path) -> tuple[Path, Path]:
    """Vision and text file of the run and step that one of them names. Raises UsageError: another name, or the other file is missing."""
    match = _PAIRED.fullmatch(path.name)
    if match is None:
        raise UsageError(f"{path}: expected a file named RUN_vision_stepN.pt or RUN_text_stepN.pt, or their folder")
    vision, text = (path.with_name(f"{match[1]}_{side}_step{match[3]}.pt") for side in ("vision", "text"))
    lost = next((p for p in (vision, text) if not p.is_file()), None)
    if lost is not None:
        raise UsageError(f"{lost}: no such file; it belongs to {path.name}")
    return vision, text


def _split(flat: dict[str, Tensor], where: str) -> Parts:
    out: Parts = {"encoder": {}, "pre_proj": {}, "projector": {}}
    for name, value in flat.items():
        part, _, rest = name.partition(".")
        if part not in out:
            raise UsageError(f"{where}: key {name!r} begins with none of encoder., pre_proj., projector.; not the published form")
        out[part][rest] = value
    return out


def _read_pt(path: Path) -> Parts:
    check_permitted(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:
        raise UsageError(f"{path}: cannot be read safely (truncated, or pickled code in it); export it to safetensors") from e
    if not isinstance(state, dict) or "encoder" not in state or "pre_proj" not in state:
        raise UsageError(f"{path}: expected the keys encoder, pre_proj, projector; not the published form")
    return {k: dict(state.get(k) or {}) for k in ("encoder", "pre_proj", "projector")}


def read_pair(source: str, uri: str) -> tuple[Parts, Parts, Path]:
    """(vision, text, folder) state dictionaries of a directory (its last step),
    of the step that a file of it names, or of a hub repository through its cache. Raises UsageError."""
    folder = Path(source).expanduser()
    if folder.is_file():
        vision, text = pair_of(folder)
        return _read_pt(vision), _read_pt(text), folder.parent
    if not folder.is_dir():
        if folder.exists() or len(folder.parts) != 2:
            raise UsageError(f"{uri}: no such directory; expected {' and '.join(_FILES)} in it, or a hub name OWNER/NAME")
        from huggingface_hub import snapshot_download

        with hub_or_cache(uri):
            folder = Path(snapshot_download(source, allow_patterns=["*.safetensors", "*.json"]))
    if all((folder / f).exists() for f in _FILES):
        for name in _FILES:
            check_permitted(folder / name)
        try:
            flat = [load_file(folder / f) for f in _FILES]
        except (SafetensorError, OSError) as e:
            raise UsageError(f"{folder}: {_FILES[0]} or {_FILES[1]} is truncated or no safetensors file; copy it again") from e
        return _split(flat[0], str(folder / _FILES[0])), _split(flat[1], str(folder / _FILES[1])), folder
    steps: dict[tuple[str, int], dict[str, Path]] = {}
    for path in sorted(folder.glob("*_step*.pt")):
        match = _PAIRED.fullmatch(path.name)
        if match:
            steps.setdefault((match[1], int(match[3])), {})[match[2]] = path
    whole = [at for at, pair in steps.items() if len(pair) == 2]
    if not whole:
        raise UsageError(f"{folder}: holds neither {' and '.join(_FILES)} nor a pair RUN_vision_stepN.pt, RUN_text_stepN.pt")
    runs = sorted({run for run, _ in whole})
    if len(runs) > 1:
        raise UsageError(
            f"{folder}: holds several runs' checkpoints ({', '.join(map(printable, runs[:3]))}); name one, RUN_vision_stepN.pt"
        )
    last = steps[max(whole)]
    return _read_pt(last["vision"]), _read_pt(last["text"]), folder


def _projector(state: dict[str, Tensor]) -> nn.Module | None:
    """The predictor, whether its dropouts occupy indices (0,4,8,...) or not (0,3,6,...)."""
    if not state:
        return None
    linear = sorted({int(k.split(".")[0]) for k, v in state.items() if k.endswith("weight") and v.ndim == 2})
    head = predictor(state["0.weight"].shape[1], _hidden(state, linear), 0.0)
    if linear[1:] and linear[1] == 3:  # without dropout modules
        state = {f"{(i := int(k.split('.')[0])) // 3 * 4 + i % 3}.{k.split('.', 1)[1]}": v for k, v in state.items()}
    head.load_state_dict(state)
    return head


def _hidden(state: dict[str, Tensor], linear: list[int]) -> list[int]:
    return [state[f"{i}.weight"].shape[0] for i in linear[:-1]]


def _head(state: dict[str, Tensor]) -> nn.Module:
    """pre_proj with any number of hidden layers, as July's `pre_proj_hidden_dims` makes them."""
    linear = sorted({int(k.split(".")[0]) for k, v in state.items() if k.endswith("weight") and v.ndim == 2})
    head = pre_projection(state["0.weight"].shape[1], _hidden(state, linear), state[f"{linear[-1]}.weight"].shape[0])
    head.load_state_dict(state)
    return head


def build(vision: Parts, text: Parts, description: Description) -> tuple[DualEncoder, int, int]:
    """The model of two published state dictionaries; also its image size and maximal text length.

    Shapes are the weights'; heads, read-out, maximal length and positions are config.json's (published.Description).
    """
    v, t = vision["encoder"], text["encoder"]
    width, _, patch, _ = v["patch_embed.proj.weight"].shape
    depth = 1 + max(int(k.split(".")[1]) for k in v if k.startswith("blocks."))
    side = round((v["pos_embed"].shape[1] - 1) ** 0.5) * patch
    image = vision_tower(width, depth, description.heads("vision", width), patch, side)
    image.load_state_dict(v)
    vocab, text_width = t["wte.weight"].shape
    layers = 1 + max(int(k.split(".")[1]) for k in t if k.startswith("h."))
    t = cut_positions(t, description)
    positions = t["wpe.weight"].shape[0]
    language = text_tower(text_width, layers, description.heads("text", text_width), vocab, positions)
    language.load_state_dict({k: x for k, x in t.items() if not k.endswith((".attn.bias", ".attn.masked_bias"))})
    towers = [Tower(e, _head(s["pre_proj"]), _projector(s["projector"])) for e, s in ((image, vision), (language, text))]
    objective = "levljepa" if towers[0].projector is not None else "baseline"
    logit = description.logit()
    if logit and objective == "baseline":
        objective = "siglip" if "bias" in logit else "clip"
    model = DualEncoder(towers[0], towers[1], objective, readout=description.readout())
    for k, value in logit.items():
        if hasattr(model, f"logit_{k}"):
            getattr(model, f"logit_{k}").data.fill_(value)
    return model, side, description.max_length(positions)


class Published(NamedTuple):
    """A published pair: where it lies, what its files hold and say, and the model of it with its image size and maximal text length."""

    folder: Path
    vision: Parts
    text: Parts
    description: Description
    model: DualEncoder
    side: int
    length: int

    @property
    def vocab(self) -> int:
        """Rows of the text encoder's token embeddings."""
        return self.text["encoder"]["wte.weight"].shape[0]


def read_published(source: str, uri: str) -> Published:
    """Raises UsageError: missing, truncated, foreign or unsafe files, shapes that do not fit, hub not reached."""
    vision, text, folder = read_pair(source, uri)
    description = Description.of(folder)
    try:
        return Published(folder, vision, text, description, *build(vision, text, description))
    except UsageError:
        raise
    except (KeyError, RuntimeError, ValueError, IndexError) as e:
        words = " ".join(str(e).split())[:160]
        raise UsageError(f"{folder}: weights do not form the published model ({type(e).__name__}: {words})") from e


def load(source: str, name: str, uri: str) -> Backbone:
    """Raises UsageError: missing, truncated, foreign or unsafe files, shapes that do not fit, hub not reached."""
    published = read_published(source, uri)
    folder, description, model = published.folder, published.description, published.model
    tokenizer = None
    if (folder / "tokenizer.json").exists():
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as e:  # tokenizers raises bare Exceptions
            raise UsageError(f"{folder / 'tokenizer.json'}: not a tokenizer file of the tokenizers library; copy it again") from e
    elif published.vocab == 50257:
        from levl_eval.models.tokenizer import load_gpt2

        try:
            tokenizer = load_gpt2("gpt2")
        except UsageError:
            tokenizer = None  # images can be measured; text read-outs say what is missing
    info = {
        "library": "official", "embed_dim": model.vision.pre_proj[-1].out_features,  # type: ignore[index]
        "readout": description.stated_readout,
    }  # fmt: skip
    backbone = DualEncoderBackbone(model, tokenizer, published.length, model.readout)
    return finish(backbone, name, uri, description.preprocess(published.side), info)
