"""A folder ready for a hub: weights, description, model card. Uploading is the user's own command; nothing here reaches a network.

Read by `official:DIR`, as the authors' published models are, and its vision tower by plain timm (`timm.create_model("local-dir:DIR")`, on
the hub "hf-hub:NAME"). transformers' AutoModel knows no such model without remote code, so there is no such form.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml
from safetensors.torch import save_file

from levl_eval.backbones import load_backbone
from levl_eval.core.errors import UsageError
from levl_eval.core.files import atomic_path, atomic_write
from levl_eval.core.text import markdown_text
from levl_eval.models import checkpoints
from levl_eval.models.checkpoints import Checkpoint
from levl_eval.models.config import PretrainConfig
from levl_eval.models.preprocess import Preprocess
from levl_eval.models.published import preprocess_from
from levl_eval.records import Record, read_records

# Of the machine or of how the run was watched, none of a recipe.
_LOCAL = {
    "out", "device", "threads", "resume", "extend_to", "log_every", "save_every", "keep", "diagnose_every", "diagnose_images", "probe",
    "probe_template", "attentive_every", "neighbours", "trackers", "workers",
}  # fmt: skip


def release(source: Path, out: Path, results: Sequence[Path], licence: str, name: str | None) -> list[Path]:
    """Write the folder of a run (its folder or ckpt.pt); returns its files. It appears whole: what a killed release leaves beside it is
    removed by the next.

    results: run directories of `levl-eval run`, whose records of these very weights become the card's table.
    Raises UsageError: no checkpoint, a folder that holds something, results without a record of these weights.
    """
    path = source / "ckpt.pt" if source.is_dir() else source
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {out}: is there already and not empty; choose another name")
    state = checkpoints.read_any(path)
    records = measured(path, results)
    target = out.resolve()
    beside = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        files = _written(beside, path, state, records, licence, name or path.resolve().parent.name)
        os.replace(beside, target)  # an empty folder gives way
    except OSError as e:
        raise UsageError(f"--out {out}: cannot be written ({e.strerror or e}); choose another name") from e
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return [out / f.name for f in files]


def _written(out: Path, path: Path, state: Checkpoint, records: Sequence[Record], licence: str, name: str) -> list[Path]:
    """The files of a release of the checkpoint ``path`` in ``out``."""
    config = PretrainConfig.model_validate(state["config"])
    files = [f for f in checkpoints.export(path, "safetensors", out) if f.name != "config.json"]
    tower = out / "model.safetensors"
    encoder = state["vision"]["encoder"]
    with atomic_path(tower) as temporary:
        save_file({k: v.contiguous() for k, v in encoder.items()}, temporary, metadata={"format": "pt"})
    description = json.loads((out / "config.json").read_text(encoding="utf-8"))
    if "dataset" in description["training"]:
        description["training"]["dataset"] = data_name(config.data)
    seen = preprocess_from(state["preprocess"], str(path))
    atomic_write(out / "config.json", json.dumps(description | timm_part(config, seen), indent=1) + "\n")
    run = path.parent / "run.json"
    pairs = json.loads(run.read_text(encoding="utf-8")).get("pairs") if run.exists() else None
    atomic_write(out / "README.md", model_card(state, pairs, records, licence, name))
    return [*files, tower, out / "config.json", out / "tokenizer.json", out / "README.md"]


def data_name(data: str) -> str:
    """The data without folders of the machine that trained on it."""
    kind, colon, where = data.partition(":")
    return kind + colon + where.rsplit("/", 1)[-1] if kind in ("csv", "tsv", "wds", "lance") else data


def _crop_share(seen: Preprocess) -> float:
    """timm's crop_pct: it resizes the shortest side to floor(size / crop_pct)."""
    target = seen.resize_to or seen.size
    exact = seen.size / target
    return exact if math.floor(seen.size / exact) == target else seen.size / (target + 0.5)


def timm_part(config: PretrainConfig, seen: Preprocess) -> dict[str, object]:
    """What timm reads in config.json; it takes a ViT of any size by its arguments. seen: how images are evaluated."""
    c, v = config, config.vision
    size = [3, c.image_size, c.image_size]
    return {
        "architecture": "vit_base_patch16_224", "num_classes": 0, "num_features": v.width,
        "model_args": {"img_size": c.image_size, "patch_size": v.patch or 16, "embed_dim": v.width, "depth": v.depth, "num_heads": v.heads,
                       "dynamic_img_size": True},
        "pretrained_cfg": {
            "tag": "levl_pretrain", "input_size": size, "fixed_input_size": False, "interpolation": seen.interpolation,
            "crop_pct": 1.0 if seen.resize == "squash" else _crop_share(seen),
            "crop_mode": "squash" if seen.resize == "squash" else "center", "mean": list(seen.mean), "std": list(seen.std),
            "num_classes": 0, "first_conv": "patch_embed.proj", "classifier": "head",
        },
    }  # fmt: skip


def measured(path: Path, results: Sequence[Path]) -> list[Record]:
    """Records in ``results`` that were measured on the weights of ``path``. Raises UsageError where there are none."""
    if not results:
        return []
    weights = load_backbone(f"levl:{path}").weights_sha256
    finished = [r for folder in results for r in read_records(folder) if r.status == "done"]
    own = [r for r in finished if r.backbone.get("weights_sha256") == weights]
    if not own:
        raise UsageError(
            f"--results {' '.join(map(str, results))}: {len(finished)} records, none of these weights; run "
            f"`levl-eval run --backbone {path} --tasks ... --out DIR` first"
        )
    return own


def _rows(records: Iterable[Record]) -> list[str]:
    rows = ["| task | metric | value | 95% interval | n | test data | seed |", "|---|---|---|---|---|---|---|"]
    for r in sorted(records, key=lambda r: (r.task, r.seed)):
        e = r.metrics[r.main_metric]
        between = f"{e.low:.4g} to {e.high:.4g}" if e.low is not None and e.high is not None else ""
        data = r.source if r.source in ("scenes", "hub") else Path(r.source).name
        limit = f", first {r.limit}" if r.limit is not None else ""
        task, metric, source = map(markdown_text, (r.task, r.main_metric, data + limit))  # records may be others'
        rows.append(f"| {task} | {metric} | {e.value:.4g} | {between} | {e.n} | {source} | {r.seed} |")
    return rows


def _training(state: Checkpoint, config: PretrainConfig, pairs: int | None) -> str:
    """What was seen, and the runs before it; of an imported model what its files told."""
    c, known = config, state.get("known")
    seen = state["step"] * c.batch_size
    many = f", {pairs:,} image-text pairs ({seen / pairs:.3g} epochs)" if pairs else ""
    what = markdown_text(data_name(c.data)) if known is None or "data" in known else "Data that were not stated"
    if known is None or {"steps", "batch_size"} <= {*known}:
        many += f"; {seen:,} pairs seen in {state['step']:,} steps of {c.batch_size}"
    lines = [f"{what}{many}."]
    for run in state.get("earlier", []):
        of = f"{run.get('step')} steps on {data_name(str(run['data']))}, file {run.get('file')}, SHA-256 {run.get('sha256')}"
        lines.append(f"Begun with the weights of an earlier run ({markdown_text(of)}).")
    return "\n\n".join(lines)


def _recipe(state: Checkpoint, config: PretrainConfig) -> str:
    known = state.get("known")
    recipe = {k: v for k, v in config.model_dump(mode="json").items() if k not in _LOCAL and (known is None or k in known)}
    recipe |= {"data": data_name(config.data)} if "data" in recipe else {}
    recipe |= {"init_from": config.init_from.rsplit("/", 1)[-1]} if config.init_from else {}
    text = "Every choice of the run; `levl-pretrain` reads it back." if known is None else (
        "What the imported model's own files told, and no more: its rates, its order and its augmentation are not known.")  # fmt: skip
    return f"{text}\n\n```yaml\n{yaml.safe_dump(recipe, sort_keys=False)}```"


def model_card(state: Checkpoint, pairs: int | None, records: Sequence[Record], licence: str, name: str) -> str:
    """README.md with the header that hubs read."""
    config = PretrainConfig.model_validate(state["config"])
    known = state.get("known")
    stated = known is None or "objective" in known
    head = {"license": licence, "library_name": "timm", "pipeline_tag": "image-feature-extraction",
            "tags": ["levl-pretrain", *([config.objective] if stated else []), "vision-language"]}  # fmt: skip
    how = f"trained with `levl-pretrain` (objective `{config.objective}`, size `{config.model}`)"
    if known is not None:
        how = "imported by `levl-pretrain` from a published form" + (f" (objective `{config.objective}`)" if stated else "")
    parts = [
        "---\n" + yaml.safe_dump(head, sort_keys=False) + "---",
        f"# {markdown_text(name)}",
        f"A vision-language encoder {how}.",
        "## Reading it\n\n```python\n"
        "import timm\nvision = timm.create_model(\"hf-hub:OWNER/NAME\", pretrained=True)  # or local-dir:FOLDER\n\n"
        "from levl_eval import load_backbone\nboth = load_backbone(\"official:OWNER/NAME\")  # or official:FOLDER; images and texts\n```",
        f"## Training data\n\n{_training(state, config, pairs)}",
        "## Measured\n\n" + (
            "\n".join(_rows(records)) + "\n\nWith `levl-eval`, of these very weights (equal SHA-256). Fractions, not percent."
            if records else "Nothing was given (`levl-pretrain release RUN --out DIR --results DIR`)."
        ),
        f"## Recipe\n\n{_recipe(state, config)}",
        f"## Licence\n\n{licence}. The training data has terms of its own.",
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"
