"""`levl-eval publish DIR...`: a run as files that hubs and model cards read, written offline into a folder.

    FOLDER/models/NAME/README.md                 model card section with `model-index` (Hugging Face's metadata of evaluation results)
    FOLDER/models/NAME/.eval_results/TASK.yaml   only for tasks whose registered benchmark the user names
    FOLDER/every_eval_ever/data/...              Every Eval Ever, with samples
    FOLDER/leaderboard/leaderboard.parquet       the long table, with a data set card

Nothing is uploaded unless asked for.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from levl_eval import __version__
from levl_eval.core.errors import UsageError
from levl_eval.core.files import atomic_path, atomic_write
from levl_eval.core.hashing import digest
from levl_eval.core.text import blank, markdown_text, printable
from levl_eval.report import every_eval_ever
from levl_eval.report.provenance import date_of, published_set
from levl_eval.report.results import Results, Row
from levl_eval.report.sight import is_of_main
from levl_eval.report.tables import COLUMNS, chance_of, rows, to_csv
from levl_eval.report.units import interval, text

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from levl_eval.records import Record

TASK_TYPES = {  # engine -> the hub's name of the kind of task
    "vqa": "visual-question-answering", "mcq": "visual-question-answering", "lmms": "visual-question-answering",
    "segmentation": "image-segmentation", "mmseg": "image-segmentation", "incontext": "image-segmentation",
    "textseg": "image-segmentation", "depth": "depth-estimation",
    "depth-recipe": "depth-estimation", "normals": "image-to-image", "zeroshot": "zero-shot-image-classification",
    "retrieval": "image-text-retrieval", "correspondence": "keypoint-matching", "propagation": "video-object-segmentation",
    "instance": "image-retrieval", "multiview": "keypoint-matching", "choice": "image-text-retrieval",
}  # fmt: skip
CLASSIFICATION = "image-classification"


@dataclass(frozen=True)
class PublishOptions:
    """benchmarks: task -> DATASET_ID or DATASET_ID:TASK_ID of a benchmark registered on the hub; other tasks get no .eval_results.

    backbone: only this column of the tables; gains stay those of the whole run. repo: the model repository, where one backbone is
    published.
    organisation: who has measured, for Every Eval Ever.
    """

    benchmarks: Mapping[str, str] = field(default_factory=dict)
    backbone: str | None = None
    repo: str | None = None
    organisation: str = "unnamed"


def publish(results: Results, folder: Path, options: PublishOptions | None = None) -> list[Path]:
    """Write everything and return the files.

    Raises UsageError for a task among ``benchmarks`` or a backbone that was not run, a repository given for several backbones, and an
    organisation that is no name.
    """
    options = options or PublishOptions()
    who = options.organisation
    if blank(who) or "/" in who or who != printable(who):
        raise UsageError(f"--organisation {printable(who)!r}: expected the name of who measured; a repository is --repo's")
    done = {row.task for row in results.rows if any(c.records for c in row.cells.values())}
    for task in options.benchmarks:
        if task not in done:
            raise UsageError(
                f"--benchmark {task}=...: {task} is not among the finished tasks {', '.join(sorted(done)) or '(none)'}"
            )
    names = results.backbones if options.backbone is None else [_column(results, options.backbone)]
    if options.repo is not None and len(names) > 1:
        raise UsageError(f"--repo {options.repo}: the run holds {len(names)} backbones; choose one with --backbone")
    out: list[Path] = []
    for name in names:
        out += _model(results, name, model_folder(results, folder, name), options)
    stems = file_stems(results.backbones)
    for record in results.records:
        if record.status == "done" and results.label(record) in names:
            model = every_eval_ever.model_id(record, options.repo, stems[results.label(record)])
            out.append(every_eval_ever.write(record, folder / "every_eval_ever", model, options.organisation))
    return out + _leaderboard(results, folder / "leaderboard")


def _column(results: Results, backbone: str) -> str:
    """The column of a backbone that is named as in the tables, or as in the run where that is one column."""
    same = {results.label(r): None for r in results.records if r.backbone_name == backbone}
    if backbone not in results.backbones and len(same) != 1:
        raise UsageError(f"--backbone {backbone}: is not among {', '.join(results.backbones)}")
    return backbone if backbone in results.backbones else next(iter(same))


def model_folder(results: Results, folder: Path, name: str) -> Path:
    """Where a backbone's own files go. Raises UsageError as :func:`publish`."""
    return folder / "models" / file_stems(results.backbones)[_column(results, name)]


def file_stems(names: Sequence[str]) -> dict[str, str]:
    """Name -> a file's stem of its own: the name as files can have it, with a hash behind it where several would share one.

    "m 1" and "m-1" are two; so are names that differ in small and capital letters, which some disks do not tell apart.
    """
    stems = {name: _slug(name) for name in names}
    count = Counter(stem.lower() for stem in stems.values())
    return {name: stem if count[stem.lower()] == 1 else f"{stem}-{digest(name)[:8]}" for name, stem in stems.items()}


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "unnamed"


def _cells(results: Results, name: str) -> list[Row]:
    return [row for row in results.rows if name in row.cells and row.cells[name].records]


def _model(results: Results, name: str, home: Path, options: PublishOptions) -> list[Path]:
    from huggingface_hub.repocard_data import eval_results_to_model_index

    rows_of = _cells(results, name)
    if not rows_of:
        return []
    index = {"model-index": eval_results_to_model_index(name, [_index_entry(results, row, name) for row in rows_of])}
    front = yaml.safe_dump(index, sort_keys=False, allow_unicode=True)
    atomic_write(home / "README.md", f"---\n{front}---\n\n{section(results, name)}")
    out, stems = [home / "README.md"], file_stems([row.title for row in results.rows])
    for row in rows_of:
        if target := options.benchmarks.get(row.task):
            path = home / ".eval_results" / f"{stems[row.title]}.yaml"
            atomic_write(path, yaml.safe_dump(_eval_results(results, row, name, target), sort_keys=False, allow_unicode=True))
            out.append(path)
    return out


def _eval_results(results: Results, row: Row, name: str, target: str) -> list[dict[str, object]]:
    """The content of a file of `.eval_results`. Raises UsageError where the installed huggingface_hub does not know the form yet."""
    try:
        from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
    except ImportError as e:
        raise UsageError(
            "--benchmark: the installed huggingface_hub does not know .eval_results; pip install -U huggingface_hub"
        ) from e
    dataset, _, task_id = target.partition(":")
    record, value = row.cells[name].any, row.kind.factor * results.summary(row, name).estimate.value
    entry = EvalResultEntry(
        dataset, task_id or "default", round(value, 4), date=date_of(record) or None, notes=_measured_by(record)
    )
    entries: list[dict[str, object]] = eval_result_entries_to_yaml([entry])
    return entries


def _measured_by(record: Record) -> str:
    scored = "predictions of another system, scored by " if record.external else ""
    return f"{scored}levl-eval {__version__}, protocol {record.protocol_hash[:12]}"


def _index_entry(results: Results, row: Row, name: str) -> EvalResult:
    """One result of `model-index`: task, data set, the main metric with its interval."""
    from huggingface_hub import EvalResult

    record, kind, estimate = row.cells[name].any, row.kind, results.summary(row, name).estimate
    ends = {k: round(kind.factor * v, 4) for k, v in (("low", estimate.low), ("high", estimate.high)) if v is not None}
    split = str(record.data.get("split") or "test")
    return EvalResult(
        task_type=TASK_TYPES.get(record.engine, CLASSIFICATION), task_name=row.title, dataset_type=row.task, dataset_split=split,
        dataset_name=published_set(record) or f"{row.task} ({split})", metric_type=row.metric, metric_name=row.metric,
        metric_value=round(kind.factor * estimate.value, 4), metric_args={**ends, "confidence": 0.95} if len(ends) == 2 else None,
        metric_config=_measured_by(record),
    )  # fmt: skip


def section(results: Results, name: str) -> str:
    """A model card's section in Markdown: every task's main metric with interval, floors, gain and protocol."""
    heads = ["task", "metric", "value", "95 % interval", "seeds", "floor", "chance", "gain", "over", "protocol"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in _cells(results, name):
        record, s = row.cells[name].any, results.summary(row, name)
        e, kind = s.estimate, row.kind
        ends = f"{text(e.low, kind)} to {text(e.high, kind)}" if e.low is not None and e.high is not None else ""
        floors = [
            f"{n.removeprefix('floor_').replace('_', ' ')} {text(f.value, kind)}"
            for n, f in record.metrics.items()
            if n.startswith("floor_") and is_of_main(record, n.removeprefix("floor_"))
        ]
        gain, chance = results.gain(row, name), chance_of(record)
        shown = interval(gain.value, gain.low, gain.high, kind, signed=True) if gain else ""
        cells = [
            row.title, row.metric, text(e.value, kind), ends, str(s.seeds),
            "; ".join(floors), text(chance, kind) if chance is not None else "",
            shown, (results.reference(row, name) or "") if gain else "", f"`{record.protocol_hash[:12]}`",
        ]  # fmt: skip
        lines.append("| " + " | ".join(c if c.startswith("`") else markdown_text(c) for c in cells) + " |")
    data = [f"- {markdown_text(row.title)}: {markdown_text(row.data)}" for row in _cells(results, name)]
    first = _cells(results, name)[0].cells[name].any
    made = (
        f"Predictions of another system, scored with levl-eval {__version__}, "
        f"which has not run it; SHA-256 of the predictions {first.weights[:12]}"
        if first.external
        else f"Measured frozen with levl-eval {__version__}; weights {first.weights[:12]}"
    )
    about = (
        f"{made}. Values in percent where the metric is a "
        "fraction; intervals over test images; a protocol's hash names every choice that can move a number."
    )
    return "\n".join(["## Evaluation", "", about, "", *lines, "", "Data:", "", *data, ""])


def _leaderboard(results: Results, home: Path) -> list[Path]:
    """The long table as parquet, with the card of a data set."""
    import io

    import pandas

    # As the CSV, with its escapes and its order; numbers as numbers, everything else as text.
    table = pandas.read_csv(io.StringIO(to_csv(rows(results))), dtype=str, keep_default_na=False)
    for column in (
        "main",
        "seed",
        "value",
        "stderr",
        "low",
        "high",
        "n",
        "clusters",
        "gain",
        "gain_low",
        "gain_high",
        "chance",
        "images",
    ):
        table[column] = pandas.to_numeric(table[column], errors="coerce")
    with atomic_path(home / "leaderboard.parquet") as temporary:
        table.to_parquet(temporary, index=False)
    columns = "\n".join(f"| `{name}` | {markdown_text(meaning)} |" for name, meaning in COLUMNS.items())
    front = yaml.safe_dump(
        {"configs": [{"config_name": "default", "data_files": "leaderboard.parquet"}], "tags": ["evaluation", "levl-eval"]},
        sort_keys=False,
    )
    atomic_write(
        home / "README.md",
        f"---\n{front}---\n\n# Leaderboard\n\nOne metric a row, {len(table):,} rows, written by levl-eval {__version__}. "
        f"Rows may be compared only where `comparison_hash` is equal.\n\n| column | meaning |\n|---|---|\n{columns}\n",
    )
    return [home / "leaderboard.parquet", home / "README.md"]


def push(folder: Path, repo: str, kind: str = "model", create_pr: bool = True) -> str:
    """Upload a folder to a repository of the hub, by default as a pull request; returns its address.

    Raises UsageError with the hub's reason.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    try:
        info = HfApi().upload_folder(
            repo_id=repo, repo_type=kind, folder_path=folder, create_pr=create_pr, commit_message="Evaluation results of levl-eval",
            ignore_patterns=["*.tmp"],  # atomic_path's, of a publish that was killed
        )  # fmt: skip
    except (HfHubHTTPError, LocalTokenNotFoundError, OSError, ValueError) as e:
        why = printable(" ".join(str(e).split()))[:300]
        raise UsageError(
            f"--push {repo}: not uploaded ({why}); the files are in {folder}: `hf auth login`, then give the command again"
        ) from e
    return str(info.pr_url or info.commit_url)
