"""Records in the form of Every Eval Ever (evalevalai.com), the shared database of evaluation results: one JSON a record, samples beside it.

Aggregates are written by schema 0.3.0 (eval.schema.json as in gbemike/every_eval_ever at 37ec18d, a copy of
evaleval/every_eval_ever), samples by instance_level_eval.schema.json 0.2.2 (evaleval/every_eval_ever at c6d861b), the newest that
was seen. Field names and required fields stand here; values they want as text are JSON.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from datetime import datetime, timezone
from pathlib import Path
from uuid import UUID

from levl_eval import __version__
from levl_eval.core.files import atomic_path, atomic_write, sha256_file
from levl_eval.core.hashing import digest
from levl_eval.metrics.estimate import Estimate
from levl_eval.records import Record, Sample, read_samples
from levl_eval.report.provenance import published_set, source_word
from levl_eval.report.results import entry_of

SCHEMA, INSTANCES = "0.3.0", "0.2.2"
_OPEN = ("hf:", "official:", "timm:", "open_clip:", "random:")  # URIs whose weights are public


def _texts(values: dict[str, object]) -> dict[str, str]:
    """``additional_details`` hold texts alone; what is empty is left out."""
    return {
        k: v if isinstance(v, str) else json.dumps(v, sort_keys=True, ensure_ascii=False)
        for k, v in values.items()
        if v not in (None, "", {}, [])
    }


def _epoch(record: Record) -> str:
    """The record's date in seconds since 1970, as the schema wants; a second publication of a record is equal to the first."""
    date = str(record.environment.get("date", ""))
    try:
        return f"{datetime.fromisoformat(date).timestamp():.1f}"
    except ValueError:
        return f"{datetime(1970, 1, 1, tzinfo=timezone.utc).timestamp():.1f}"


def model_id(record: Record, repo: str | None = None, name: str | None = None) -> str:
    """The model as developer/name: the repository it is published to, that of its URI, else local/NAME.

    name: tells it from others of the same publication; None: its backbone's.
    """
    uri = str(record.backbone.get("uri", ""))
    match = re.fullmatch(r"(?:hf|official):([\w.-]+/[\w.-]+)(?:@.*)?", uri)
    return repo or (match[1] if match else f"local/{name or _slug(record.backbone_name)}")


def _slug(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text).strip("-.") or "unnamed"


def evaluation_id(record: Record, model: str) -> str:
    """Task, model and time, as the schema wants, and the record's own identity: seeds and protocols of one run share the three."""
    return f"{record.task}/{model.replace('/', '_')}/{_epoch(record)}/{(record.identity_hash or record.key)[:20]}"


def _source_data(record: Record) -> dict[str, object]:
    details = _texts(
        {
            "fingerprint": record.data.get("fingerprint"), "split": record.data.get("split"), "source": Path(source_word(record)).name,
            "train": list(record.train), "limit": record.limit,
        }
    )  # fmt: skip
    return {"dataset_name": published_set(record) or record.task, "source_type": "other", "additional_details": details}


def _result(record: Record, name: str, e: Estimate) -> dict[str, object]:
    kind = entry_of(record, name)
    config: dict[str, object] = {
        "evaluation_description": kind.meaning or f"{name} of task {record.task}", "metric_id": name, "metric_name": name,
        "metric_unit": "proportion" if kind.unit == "percent" else kind.unit or "none", "lower_is_better": kind.lower_is_better,
        "additional_details": _texts({"better": kind.better, "main": name == record.main_metric}),
    }  # fmt: skip
    low, high = ({math.inf: "Infinity", -math.inf: "-Infinity"}.get(end, end) for end in kind.bounds)
    config |= {"score_type": "continuous", "min_score": low, "max_score": high}
    uncertainty: dict[str, object] = {"num_samples": e.n}
    if e.stderr is not None:
        uncertainty["standard_error"] = {"value": e.stderr, "method": e.method or "analytic"}
    if e.low is not None and e.high is not None:
        uncertainty["confidence_interval"] = {
            "lower": e.low, "upper": e.high, "confidence_level": 0.95, "method": e.method or "analytic",
        }  # fmt: skip
    return {
        "evaluation_result_id": f"{record.key}/{name}", "evaluation_name": record.task, "source_data": _source_data(record),
        "metric_config": config, "score_details": {
            "score": e.value, "uncertainty": uncertainty,
            "additional_details": _texts({
                "images": e.clusters, "protocol_hash": record.protocol_hash, "comparison_hash": record.comparison_hash,
            }),
        },
    }  # fmt: skip


def _availability(record: Record) -> str:
    return "open_weights" if str(record.backbone.get("uri", "")).startswith(_OPEN) else "unknown"


def _name(record: Record) -> str:
    """Of a record's files: a UUID in the form of version 4,
    as the schema's pattern wants, made of its identity so that it stays the same."""
    made_of = hashlib.sha256(f"levl-eval/{record.identity_hash or record.key}".encode()).digest()
    return str(UUID(bytes=made_of[:16], version=4))


def aggregate(record: Record, model: str, organisation: str, samples: dict[str, object] | None) -> dict[str, object]:
    """The aggregate file of a record. model: :func:`model_id`. organisation: who provides the data.

    samples: the reference to the file beside it.
    """
    git = record.environment.get("git")
    library = {
        "name": "levl-eval", "version": __version__,
        "additional_details": _texts({"git": git, "packages": record.environment.get("packages"), "device": record.device}),
    }  # fmt: skip
    out: dict[str, object] = {
        "schema_version": SCHEMA, "evaluation_id": evaluation_id(record, model),
        "evaluation_timestamp": str(record.environment.get("date", "")), "retrieved_timestamp": _epoch(record),
        "source_metadata": {
            "source_name": "levl-eval", "source_type": "evaluation_run",
            "source_organization_name": organisation, "evaluator_relationship": "other",
        },
        "eval_library": library,
        "model_info": {
            "name": record.backbone_name, "id": model, "developer": model.split("/")[0],
            "additional_details": {"deployment_type": "self_deployed", "model_availability": _availability(record)} | _texts(
                {
                    "external": "predictions of another system, scored by levl-eval, which has not run it" if record.external else "",
                    "predictions_sha256" if record.external else "weights_sha256": record.weights,
                    "uri": record.backbone.get("uri"), "preprocess": record.backbone.get("preprocess"),
                    "language_model": record.language_model, "seed": record.seed,
                }
            ),
        },
        "evaluation_results": [_result(record, name, e) for name, e in record.metrics.items()],
    }  # fmt: skip
    if samples is not None:
        out["detailed_evaluation_results"] = samples
    return out


def instance(record: Record, model: str, sample: Sample) -> dict[str, object]:
    """One scored sample as a line of the instance-level file."""
    question = str(sample.meta.get("question", sample.image_id))
    return {
        "schema_version": INSTANCES, "evaluation_id": evaluation_id(record, model), "model_id": model, "evaluation_name": record.task,
        "evaluation_result_id": f"{record.key}/{record.main_metric}", "sample_id": sample.id,
        "sample_hash": digest([question, sample.target]), "interaction_type": "single_turn",
        "input": {"raw": question, "reference": [sample.target]}, "output": {"raw": [sample.prediction]}, "messages": None,
        "answer_attribution": [
            {"turn_idx": 0, "source": "output.raw", "extracted_value": sample.prediction,
             "extraction_method": "custom", "is_terminal": True}
        ],
        "evaluation": {"score": sample.score, "is_correct": sample.score == 1.0},
        "error": None if sample.status == "ok" else sample.status,
        "metadata": _texts({"image_id": sample.image_id, **{k: v for k, v in sample.meta.items() if k not in ("question", "counts")}}),
    }  # fmt: skip


def write(record: Record, folder: Path, model: str, organisation: str) -> Path:
    """Write a record's two files below ``folder``/data/TASK/DEVELOPER/MODEL and return the aggregate's path.

    Samples without a score (of sets without public answers) are left out. Raises UsageError for damaged samples.
    """
    name = _name(record)
    home = folder / "data" / _slug(record.task) / "/".join(_slug(part) for part in model.split("/", 1))
    rows = 0
    details = home / f"{name}_samples.jsonl"
    with atomic_path(details) as temporary, open(temporary, "w", encoding="utf-8", errors="backslashreplace") as f:
        for sample in read_samples(record.home, record):
            if sample.score is not None:  # the form wants a number, and none is not nought
                f.write(json.dumps(instance(record, model, sample), ensure_ascii=False) + "\n")
                rows += 1
    reference: dict[str, object] = {
        "format": "jsonl", "file_path": details.relative_to(folder).as_posix(),
        "hash_algorithm": "sha256", "checksum": sha256_file(details), "total_rows": rows,
    }  # fmt: skip
    path = home / f"{name}.json"
    atomic_write(path, json.dumps(aggregate(record, model, organisation, reference), indent=1, ensure_ascii=False) + "\n")
    return path
