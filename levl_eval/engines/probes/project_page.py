"""The authors' own cosines recomputed: 500 Imagenette images by 10 prompts, as their project page shows them (docs/paper.md).

The reference is the page's `data.json`: {"meta": {"seed"}, "classes": [{"id", "prompt"}], "images": [{"id", "classId", "scores":
{"levl": [10], "clip": [10]}}]}. Everything else is fixed as the page's script has it: which images are drawn, shortest side to 224
(bicubic), centre crop, ImageNet's mean and std, one prompt a class, and the read-out the model's authors report (text predicted into
image space for LeVLJEPA, the shared space for InfoNCE).
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from levl_eval.backbones.base import Backbone, Preprocess
from levl_eval.core.errors import UsageError
from levl_eval.core.progress import Progress
from levl_eval.data.images import open_rgb

MODELS = {"LeVLJEPA": "levl", "InfoNCE": "clip"}  # the paper's name -> the reference's
IMAGES = 3925  # in Imagenette's validation split
SIDE = 224
PREPROCESS = Preprocess(SIDE, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Reference:
    """classes: folder name and prompt of each; owner [N]: each image's class; scores by model [N, C]."""

    seed: int
    classes: tuple[tuple[str, str], ...]
    ids: tuple[str, ...]
    owner: np.ndarray
    scores: dict[str, np.ndarray]


@dataclass(frozen=True)
class Difference:
    """Cosines recomputed beside the published ones."""

    model: str  # the paper's name
    backbone: str
    images: int
    largest: float
    mean: float
    image: str  # where it is largest
    prompt: str
    accuracy: float  # share of images whose class's prompt scores highest, here
    published_accuracy: float


def read_reference(path: Path) -> Reference:
    """Raises UsageError naming the file and what is not as the page writes it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        classes = tuple((str(c["id"]), str(c["prompt"])) for c in value["classes"])
        images = value["images"]
        number = {name: k for k, (name, _) in enumerate(classes)}
        owner = np.array([number[i["classId"]] for i in images])
        scores = {m: np.array([i["scores"][m] for i in images], float) for m in images[0]["scores"]}
        seed = int(value["meta"]["seed"])
    except OSError as e:
        raise UsageError(
            f"{path}: cannot be read ({e.strerror}); it is static/embedding-demo/data.json of the project page"
        ) from e
    except (ValueError, KeyError, TypeError, IndexError) as e:
        raise UsageError(f"{path}: not the project page's data.json ({type(e).__name__}: {e})") from e
    wrong = [m for m, s in scores.items() if s.shape != (len(images), len(classes))]
    if wrong or (np.diff(owner) < 0).any():
        raise UsageError(
            f"{path}: field `images`: {len(classes)} scores a model and images in the order of `classes` are expected"
        )
    return Reference(seed, classes, tuple(str(i["id"]) for i in images), owner, scores)


def choose(folder: Path, reference: Reference) -> list[Path]:
    """The images the page shows, in its order: one generator draws from each class's sorted files.

    Raises UsageError where a class folder is missing or holds too few.
    """
    root = folder / "val" if (folder / "val").is_dir() else folder
    draw, out = random.Random(reference.seed), []
    for k, (name, _) in enumerate(reference.classes):
        files = sorted((root / name).glob("*.JPEG"))
        count = int((reference.owner == k).sum())
        if len(files) < count:
            raise UsageError(
                f"{root / name}: holds {len(files)} *.JPEG, {count} are drawn; unpack Imagenette's validation split there"
            )
        out += draw.sample(files, count)
    return out


@torch.inference_mode()
def cosines(
    backbone: Backbone, files: Sequence[Path], prompts: Sequence[str], device: torch.device, batch_size: int, progress: Progress
) -> np.ndarray:
    """[N, C] cosines of the backbone's first read-out. Raises UsageError where it has no text encoder."""
    if not backbone.has_text or not backbone.readouts:
        raise UsageError(
            f"{backbone.name}: has no text encoder (or its tokenizer, gpt2, is not in the hub's cache), so no cosines"
        )
    backbone.to(device)
    way = backbone.readouts[0]
    texts = backbone.text_embeddings(list(prompts))[way.text]
    out = []
    with progress.stage(f"images through {backbone.name}", len(files), "image") as bar:
        for i in range(0, len(files), batch_size):
            part = torch.stack([PREPROCESS(open_rgb(f)) for f in files[i : i + batch_size]])
            seen = backbone.image_embeddings(backbone.encode(part.to(device)).pooled)[way.image]
            out.append((seen @ texts.T).double().cpu().numpy())
            bar.advance(len(part))
    return np.concatenate(out)


def difference(model: str, backbone: Backbone, measured: np.ndarray, reference: Reference) -> Difference:
    """model: the paper's name. Raises UsageError where the reference holds no scores of it."""
    key = MODELS[model]
    if key not in reference.scores:
        raise UsageError(f"the reference holds no scores of {model} (`{key}`); there are {', '.join(reference.scores)}")
    published = reference.scores[key]
    off = np.abs(measured - published)
    row, column = np.unravel_index(int(off.argmax()), off.shape)
    right, theirs = (float((s.argmax(1) == reference.owner).mean()) for s in (measured, published))
    return Difference(
        model, backbone.name, len(measured), float(off.max()), float(off.mean()), reference.ids[row], reference.classes[column][1],
        right, theirs,
    )  # fmt: skip
