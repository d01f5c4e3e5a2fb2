"""Text embeddings, made once: kept in the cache by the backbone's weights and the texts. Prompts and class names."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from levl_eval.data.classification import lines_of
from levl_eval.errors import UsageError
from levl_eval.io import atomic_path
from levl_eval.progress import Progress

BATCH = 256  # texts encoded at once


@torch.inference_mode()
def text_embeddings(backbone, texts: list[str], cache: Path | None = None, progress: Progress | None = None) -> dict[str, Tensor]:
    """float32 [N, E] on the CPU by the embedding's name. Equal texts are encoded once, so their embeddings are equal bit by bit."""
    progress = progress or Progress(quiet=True)
    distinct = list(dict.fromkeys(texts))
    at = {t: i for i, t in enumerate(distinct)}
    rows = torch.tensor([at[t] for t in texts], dtype=torch.long)
    key = hashlib.sha256("\0".join([backbone.weights_sha256, str(type(backbone).__name__), *distinct]).encode()).hexdigest()
    path = cache / "texts" / f"{key}.npz" if cache else None
    if path is not None and path.exists():
        try:
            with np.load(path, allow_pickle=False) as stored:
                return {k: torch.from_numpy(stored[k])[rows] for k in stored.files}
        except (OSError, ValueError):
            path.unlink(missing_ok=True)  # damaged: made again
    parts: list[dict[str, Tensor]] = []
    with progress.stage(f"texts of {backbone.name}", len(distinct), "text") as bar:
        for i in range(0, len(distinct), BATCH):
            chunk = distinct[i : i + BATCH]
            parts.append({k: v.float().cpu() for k, v in backbone.text_embeddings(chunk).items()})
            bar.advance(len(chunk))
    out = {k: torch.cat([p[k] for p in parts]) for k in parts[0]}
    if path is not None:
        with atomic_path(path) as temporary, open(temporary, "wb") as f:
            np.savez(f, **{k: v.numpy() for k, v in out.items()})
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
    """The card's templates. Raises UsageError for none, or one without the place of the class name."""
    if isinstance(templates, str) and templates != "openai":
        raise UsageError(f"{task}: field `templates`: expected a list of templates, or openai, found {templates!r}")
    found = _open_clip("templates", "templates") if isinstance(templates, str) else templates
    wrong = [t for t in found if "{}" not in t]
    if wrong or not found:
        raise UsageError(f"{task}: field `templates`: {(wrong or [''])[0]!r} has no {{}} for the class name")
    return found


def said_names(chosen: list[str] | str | None, classes: tuple[str, ...], names: tuple[str, ...], task: str) -> list[str]:
    """Names of the classes for prompts: a list, a text file with one a line, "openai" (ImageNet's), or the data set's own."""
    if chosen is None:
        return [c.replace("_", " ").strip() for c in (names or classes)]
    if chosen == "openai":
        found = _open_clip("names", "class_names")
    else:
        found = (
            lines_of(Path(chosen).expanduser(), "a name a line is expected (field `class_names`)")
            if isinstance(chosen, str)
            else chosen
        )
    if len(found) != len(classes):
        raise UsageError(f"{task}: field `class_names`: {len(found)} names for {len(classes)} class folders")
    return list(found)


def class_embeddings(backbone, names: list[str], templates: list[str], cache: Path | None = None) -> dict[str, Tensor]:
    """[C, E] by name: the mean over the templates' normalised embeddings, normalised again (as CLIP's prompt ensembles)."""
    texts = [t.format(n) for t in templates for n in names]
    found = text_embeddings(backbone, texts, cache)
    return {
        k: torch.nn.functional.normalize(v.view(len(templates), len(names), -1).mean(0), dim=-1) if len(templates) > 1 else v
        for k, v in found.items()
    }


@torch.inference_mode()
def image_embeddings(backbone, pooled: np.ndarray, device: torch.device) -> dict[str, Tensor]:
    """[N, E] on the CPU by name, from stored pooled features."""
    parts = [
        backbone.image_embeddings(torch.from_numpy(np.asarray(pooled[i : i + 4096], np.float32)).to(device))
        for i in range(0, len(pooled), 4096)
    ]
    return {k: torch.cat([p[k].float().cpu() for p in parts]) for k in parts[0]}
