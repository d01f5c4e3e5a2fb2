"""Text embeddings, made once: kept in the cache by what the backbone's text side is, and the texts. Prompts and class names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from levl_eval.backbones.base import Backbone
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.files import names_of
from levl_eval.core.kept import Damaged, mark_used, read_arrays, recall, write_arrays
from levl_eval.core.progress import Progress
from levl_eval.core.text import printable
from levl_eval.data.wordnet import are_wnids, imagenet_wnids
from levl_eval.features.stored import Rows
from levl_eval.records.identity import cache_key

BATCH = 256  # texts encoded at once
_LENGTH = 0.01  # how far from 1 an embedding's length may be: half precision moves it by a thousandth
TEXTS = 1  # version of how they are encoded


def texts_key(backbone: Backbone, distinct: list[str]) -> str:
    """Under what the embeddings of some texts are kept: equal weights may be read with another tokenizer, length or read-out."""
    parts = {"encoder": backbone.encoder_parts(), "text": backbone.text_parts(), "device": backbone.device.type}
    return cache_key("texts", TEXTS, **parts, texts=distinct)


def _kept(path: Path, count: int) -> dict[str, Tensor]:
    """Kept embeddings by name. Raises FileNotFoundError, Damaged."""
    out = read_arrays(path, path.stem)
    if not out or any(v.ndim != 2 or len(v) != count or v.dtype != np.float32 for v in out.values()):
        raise Damaged(f"{path}: does not hold embeddings of {count} texts")
    mark_used(path)
    return {k: torch.from_numpy(v) for k, v in out.items()}


def checked_embeddings(embeddings: Mapping[str, Tensor], count: int, what: str) -> dict[str, Tensor]:
    """float32 on the CPU: what a backbone gave for ``count`` texts or images, by the embedding's name. what: begins messages.

    Raises LevlError for another number of them, for what is not finite, and for lengths other than 1 (or 0, of nothing seen or said).
    """
    out = {k: v.detach().float().cpu().clone() for k, v in embeddings.items()}  # it may give them in the same memory each time
    for name, values in out.items():
        if values.ndim != 2 or len(values) != count:
            raise LevlError(f"{what} give {name!r} of shape {list(values.shape)} for {count} of them; expected [{count}, E]")
        lengths = values.norm(dim=1)
        if not lengths.isfinite().all():
            raise LevlError(f"{what} give {name!r} that is not finite for number {int((~lengths.isfinite()).int().argmax())}")
        odd = ((lengths - 1).abs() > _LENGTH) & (lengths > 0)
        if odd.any():
            raise LevlError(
                f"{what} give {name!r} of length {float(lengths[odd][0]):.4g}; divide it by that, as cosines are compared"
            )
    return out


@torch.inference_mode()
def text_embeddings(
    backbone: Backbone, texts: list[str], cache: Path | None = None, progress: Progress | None = None
) -> dict[str, Tensor]:
    """float32 [N, E] on the CPU by the embedding's name. Equal texts are encoded once, so their embeddings are equal bit by bit."""
    progress = progress or Progress(quiet=True)
    distinct = list(dict.fromkeys(texts))
    at = {t: i for i, t in enumerate(distinct)}
    rows = torch.tensor([at[t] for t in texts], dtype=torch.long)
    path = cache / "texts" / f"{texts_key(backbone, distinct)}.npz" if cache else None
    kept = recall(lambda: _kept(path, len(distinct)), progress) if path is not None else None
    if kept is not None:
        return {k: v[rows] for k, v in kept.items()}
    parts: list[dict[str, Tensor]] = []
    with progress.stage(f"texts of {backbone.name}", len(distinct), "text") as bar:
        for i in range(0, len(distinct), BATCH):
            chunk = distinct[i : i + BATCH]
            made = backbone.text_embeddings(chunk)
            parts.append(checked_embeddings(made, len(chunk), f"{backbone.name}: text_embeddings of {len(chunk)} texts"))
            bar.advance(len(chunk))
    out = {k: torch.cat([p[k] for p in parts]) for k in parts[0]}
    if path is not None:
        write_arrays(path, path.stem, {k: v.numpy() for k, v in out.items()})
    return {k: v[rows] for k, v in out.items()}


def _open_clip(what: str, field: str) -> list[str]:
    try:
        import open_clip
    except ImportError as e:
        raise UsageError(f"field `{field}`: `openai` is read from the open_clip package; install levl-eval[open-clip]") from e
    if what == "names":
        return list(open_clip.IMAGENET_CLASSNAMES)
    return [t("{}") for t in open_clip.OPENAI_IMAGENET_TEMPLATES]


def prompt_templates(templates: list[str] | str, task: str) -> list[str]:
    """The card's templates. Raises UsageError for none, one without the place of the class name, or with another field than it."""
    if isinstance(templates, str) and templates != "openai":
        raise UsageError(f"{task}: field `templates`: expected a list of templates, or openai, found {templates!r}")
    chosen = _open_clip("templates", "templates") if isinstance(templates, str) else templates
    wrong = [t for t in chosen if "{}" not in t]
    if wrong or not chosen:
        raise UsageError(f"{task}: field `templates`: {(wrong or [''])[0]!r} has no {{}} for the class name")
    other = next((t for t in chosen if "{" in t.replace("{}", "", 1) or "}" in t.replace("{}", "", 1)), None)
    if other is not None:
        raise UsageError(
            f"{task}: field `templates`: {other!r} has other braces than one {{}}, where the class name goes; take them out"
        )
    return chosen


def check_names(names: list[str], classes: tuple[str, ...], task: str) -> str:
    """A line on classes whose prompts are equal, of which the first is always chosen; "" where none are.

    Raises UsageError: an empty name.
    """
    empty = next((c for c, n in zip(classes, names, strict=True) if not n.strip()), None)
    if empty is not None:
        raise UsageError(f"{task}: class {printable(empty)!r} has an empty name, so its prompt names nothing; set `class_names`")
    twice = [n for n, count in Counter(names).items() if count > 1]
    if not twice:
        return ""
    of = [c for c, n in zip(classes, names, strict=True) if n == twice[0]]
    words = ", ".join(printable(c) for c in of[:3])
    return (
        f"{len(twice)} prompts stand for several classes each, first {printable(twice[0])!r} for {words}: "
        "the first class is always chosen"
    )


def spoken_names(chosen: list[str] | str | None, classes: tuple[str, ...], names: tuple[str, ...], task: str) -> list[str]:
    """Names of the classes for prompts: a list, a text file with one a line, "openai" (ImageNet's), or the data set's own."""
    if chosen is None:
        return [c.replace("_", " ").strip() for c in (names or classes)]
    if chosen == "openai":
        spoken = _open_clip("names", "class_names")
        if are_wnids(classes) and len(classes) != len(spoken):  # some of ImageNet's classes
            spoken = [spoken[imagenet_wnids().index(c)] for c in classes]
    else:
        spoken = (
            names_of(Path(chosen).expanduser(), "a name a line is expected (field `class_names`)")
            if isinstance(chosen, str)
            else chosen
        )
    if len(spoken) != len(classes):
        raise UsageError(f"{task}: field `class_names`: {len(spoken)} names for {len(classes)} class folders")
    return list(spoken)


def class_embeddings(
    backbone: Backbone, names: list[str], templates: list[str], cache: Path | None = None, progress: Progress | None = None
) -> dict[str, Tensor]:
    """[C, E] by name: the mean over the templates' normalised embeddings, normalised again (as CLIP's prompt ensembles)."""
    texts = [t.format(n) for t in templates for n in names]
    embeddings = text_embeddings(backbone, texts, cache, progress)
    return {
        k: torch.nn.functional.normalize(v.view(len(templates), len(names), -1).mean(0), dim=-1) if len(templates) > 1 else v
        for k, v in embeddings.items()
    }


@torch.inference_mode()
def image_embeddings(backbone: Backbone, pooled: Rows, device: torch.device) -> dict[str, Tensor]:
    """[N, E] on the CPU by name, from stored pooled features."""
    parts = []
    for i in range(0, len(pooled), 4096):
        block = torch.from_numpy(np.array(pooled[i : i + 4096], np.float32))
        made = backbone.image_embeddings(block.to(device))
        parts.append(checked_embeddings(made, len(block), f"{backbone.name}: image_embeddings of {len(block)} images"))
    return {k: torch.cat([p[k] for p in parts]) for k in parts[0]}
