"""Small sets of the same bytes in two forms: published files, and parquet repositories in the hub's schemas."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from levl_eval.cards import DataSpec, HubSource

N = 4


def image_bytes(seed: int, kind: str = "PNG") -> bytes:
    """A noisy 12 x 10 image, encoded."""
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (10, 12, 3), np.uint8)
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def mask_bytes(seed: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 4, (10, 12), np.uint8)).save(out, "PNG")
    return out.getvalue()


def write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# ---- questions as GQA holds them; ids and images' names are given by a function, so that they can be spelled otherwise


def gqa_rows(name: Any = str) -> list[dict[str, Any]]:
    rows = []
    for i in range(2 * N):
        rows.append(
            {
                "id": f"q{name(i)}", "imageId": f"n{name(i % N)}", "question": f"Is it number {i}?", "answer": "yes" if i % 2 else "no",
                "isBalanced": True, "types": {"structural": "verify", "semantic": "obj", "detailed": "existC"},
                "entailed": [f"q{name((i + 2) % (2 * N))}", f"q{name(i)}"] if i % 3 == 0 else [],
                "semantic": [{"operation": "select", "dependencies": [], "argument": "x"}] * (1 + i % 3),
            }
        )  # fmt: skip
    return rows


def gqa_files(root: Path, rows: list[dict[str, Any]] | None = None, reverse: bool = False) -> Path:
    """ROOT/gqa as published. The image nK has the bytes of seed K, whatever its name is by ``rows``."""
    rows = gqa_rows() if rows is None else rows
    names = list(dict.fromkeys(r["imageId"] for r in rows))
    for k, n in enumerate(names):
        write(root / "gqa" / "images" / f"{n}.jpg", image_bytes(k))
    file = {r["id"]: {k: v for k, v in r.items() if k != "id"} for r in (reversed(rows) if reverse else rows)}
    write(root / "gqa" / "questions" / "testdev_balanced_questions.json", json.dumps(file))
    return root


def repository(folder: Path, tables: dict[str, tuple[str, Any]]) -> Path:
    """A parquet repository: configuration -> (split, datasets.Dataset)."""
    lines = []
    for config, (split, table) in tables.items():
        (folder / config).mkdir(parents=True, exist_ok=True)
        table.to_parquet(folder / config / f"{split}-00000-of-00001.parquet")
        lines.append(f"- config_name: {config}\n  data_files:\n  - {{split: {split}, path: {config}/{split}-*}}\n")
    (folder / "README.md").write_text("---\nconfigs:\n" + "".join(lines) + "---\n")
    return folder


def hub_snapshot(
    cache: Path, repo: str, tables: dict[str, dict[str, Any]], commit: str = "", ref: str = "main", readme: bool = True
) -> Path:
    """A snapshot of a hub repository in the hub's cache, as `hf download` leaves it: configuration -> split -> table. ref: "" for none."""
    commit = commit or hashlib.sha1(repo.encode()).hexdigest()
    home = cache / f"datasets--{repo.replace('/', '--')}"
    snapshot = home / "snapshots" / commit
    lines = []
    for config, splits in tables.items():
        lines.append(f"- config_name: {config}\n  data_files:\n")
        for split, table in splits.items():
            (snapshot / config).mkdir(parents=True, exist_ok=True)
            table.to_parquet(snapshot / config / f"{split}-00000-of-00001.parquet")
            lines.append(f"  - {{split: {split}, path: {config}/{split}-*}}\n")
    if readme:
        (snapshot / "README.md").write_text("---\nconfigs:\n" + "".join(lines) + "---\n")
    if ref:
        write(home / "refs" / ref, commit)
    return snapshot


def table_of(rows: list[dict[str, Any]], images: tuple[str, ...] = ("image",), **features: Any) -> Any:
    """Rows as a table; columns of ``images`` hold encoded bytes."""
    import datasets

    plain = [{k: {"bytes": v, "path": None} if k in images else v for k, v in r.items()} for r in rows]
    table = datasets.Dataset.from_list(plain)
    for name in images:
        if name in table.column_names:
            table = table.cast_column(name, datasets.Image())
    for name, feature in features.items():
        table = table.cast_column(name, feature)
    return table


def gqa_repository(folder: Path) -> Path:
    rows = [{**r, "entailed": str(r["entailed"]), "groups": {"global": None, "local": None}} for r in gqa_rows(lambda i: f"x{i}")]
    images = [{"id": f"nx{k}", "image": image_bytes(k)} for k in reversed(range(N))]
    return repository(folder, {"instructions": ("testdev", table_of(rows[::-1])), "images": ("testdev", table_of(images))})


def gqa_spec(repo: Path | None = None) -> DataSpec:
    source = HubSource(repo=str(repo), questions="instructions", images="images", split="testdev") if repo else None
    return DataSpec(layout="gqa", directory="gqa", split="testdev_balanced", hub=source)


# ---- VQAv2, POPE


def vqav2_files(root: Path) -> Path:
    questions, notes = [], []
    for i in range(2 * N):
        questions.append({"question_id": 10 + i, "image_id": i % N, "question": f"What is {i}?"})
        answers = [{"answer": f"a{(i + k) % 3}", "answer_id": k + 1} for k in range(10)]
        notes.append(
            {"question_id": 10 + i, "image_id": i % N, "multiple_choice_answer": "a1", "answers": answers, "question_type": "what is",
             "answer_type": "other"}
        )  # fmt: skip
    for k in range(N):
        write(root / "vqav2" / "val2014" / f"COCO_val2014_{k:012d}.jpg", image_bytes(k, "JPEG"))
    write(root / "vqav2" / "v2_OpenEnded_mscoco_val2014_questions.json", json.dumps({"questions": questions}))
    write(root / "vqav2" / "v2_mscoco_val2014_annotations.json", json.dumps({"annotations": notes}))
    return root


def vqav2_repository(folder: Path, files: Path) -> Path:
    questions = json.loads((files / "vqav2" / "v2_OpenEnded_mscoco_val2014_questions.json").read_text())["questions"]
    notes = json.loads((files / "vqav2" / "v2_mscoco_val2014_annotations.json").read_text())["annotations"]
    rows = [{**q, **a, "image": image_bytes(q["image_id"], "JPEG")} for q, a in zip(questions, notes, strict=True)]
    return repository(folder, {"default": ("validation", table_of(rows))})


def pope_files(root: Path) -> Path:
    for split in ("random", "popular", "adversarial"):
        rows = [
            {"question_id": i, "image": f"COCO_val2014_{i % N:012d}.jpg", "text": f"Is there a {split} {i}?", "label": ("yes", "no")[i % 2]}
            for i in range(2 * N)
        ]  # fmt: skip
        write(root / "pope" / f"coco_pope_{split}.json", "\n".join(map(json.dumps, rows)))
    for k in range(N):
        write(root / "pope" / "val2014" / f"COCO_val2014_{k:012d}.jpg", image_bytes(k, "JPEG"))
    return root


def pope_repository(folder: Path) -> Path:
    rows = [
        {"id": f"{split}{i}", "question_id": str(i), "question": f"Is there a {split} {i}?", "answer": ("yes", "no")[i % 2],
         "image_source": f"COCO_val2014_{i % N:012d}", "image": image_bytes(i % N, "JPEG"), "category": split}
        for split in ("adversarial", "popular", "random") for i in range(2 * N)
    ]  # fmt: skip
    return repository(folder, {"default": ("test", table_of(rows))})


# ---- masks, classes

CLASSES = ["sky", "tree", "road"]


def ade_files(root: Path) -> Path:
    base = root / "ade20k" / "ADEChallengeData2016"
    for k in range(N):
        write(base / "images" / "validation" / f"v{k}.jpg", image_bytes(k, "JPEG"))
        write(base / "annotations" / "validation" / f"v{k}.png", mask_bytes(k))
    return root


def ade_repository(folder: Path) -> Path:
    rows = [{"image": image_bytes(k, "JPEG"), "annotation": mask_bytes(k)} for k in range(N)]
    return repository(folder, {"default": ("validation", table_of(rows, ("image", "annotation")))})


def ade_spec(repo: Path | None = None, **more: Any) -> DataSpec:
    source = HubSource(repo=str(repo), split="validation") if repo else None
    fields = {"classes": CLASSES, "reduce_zero_label": True, **more}
    return DataSpec(layout="ade20k", directory="ade20k", split="validation", hub=source, **fields)


def class_files(root: Path, count: int = N) -> Path:
    for c, name in enumerate(("cat", "dog")):
        for k in range(count):
            write(root / "classification" / "test" / name / f"{k}.png", image_bytes(10 * c + k))
    return root


def class_repository(folder: Path) -> Path:
    import datasets

    rows = [{"image": image_bytes(10 * c + k), "label": c} for c in range(2) for k in range(N)]
    table = table_of(rows, ("image",), label=datasets.ClassLabel(names=["cat", "dog"]))
    return repository(folder, {"default": ("test", table)})


def class_spec(repo: Path | None = None) -> DataSpec:
    source = HubSource(repo=str(repo), split="test") if repo else None
    return DataSpec(layout="imagefolder", directory="classification", split="test", hub=source)
