"""Predictions that other systems made: an answer or a class for each item of a task, or a mask for each image, read and checked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from levl_eval.core.errors import UsageError
from levl_eval.core.files import sha256_file
from levl_eval.core.hashing import digest
from levl_eval.core.text import printable
from levl_eval.data.formats import shown
from levl_eval.data.questions import read_json

IDS = ("id", "question_id", "image_id", "image")  # where an entry's id is looked for, in this order
VALUES = ("prediction", "answer", "text", "label")  # and what was predicted
_OUTPUTS = ("filtered_resps", "resps")  # of lmms-eval's logs: the texts of the answer to `doc`
_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")


def read_predictions(path: Path) -> dict[str, str | int]:
    """Id -> what was predicted, of JSON lines or a JSON list.

    An entry holds an id (``id``, ``question_id``, ``image_id`` or ``image``) and a prediction (``prediction``, ``answer``, ``text`` or
    ``label``): a text, or the number of a class. The VQA server's result files and lmms-eval's sample logs are such files.
    Raises UsageError naming file and entry: neither, an id twice, a prediction of another kind.
    """
    entries = read_json(path)
    out: dict[str, str | int] = {}
    for number, entry in enumerate(entries if isinstance(entries, list) else [entries], 1):
        where = f"{path}: entry {number}"
        if not isinstance(entry, dict):
            raise UsageError(f"{where}: expected an object with an id and a prediction, found {shown(entry)}")
        name, value = _of_log(entry) if isinstance(entry.get("doc"), dict) else (_first(entry, IDS), _predicted(entry, where))
        if isinstance(name, bool) or not isinstance(name, (str, int)) or name == "":
            raise UsageError(f"{where}: has no id; give one of {', '.join(IDS)}")
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise UsageError(
                f"{where}: has no prediction, found {shown(value)}; give one of {', '.join(VALUES)} as a text or a class's number"
            )
        if str(name) in out:
            raise UsageError(f"{where}: id {shown(str(name))} stands twice; keep one prediction for each")
        out[str(name)] = value
    if not out:
        raise UsageError(f"{path}: holds no predictions")
    return out


def _first(entry: dict[str, object], fields: Sequence[str]) -> object:
    return next((entry[f] for f in fields if f in entry), None)


def _predicted(entry: dict[str, object], where: str) -> object:
    """What an entry predicts.

    Raises UsageError where several fields could hold it and differ: a reference or a question may stand there too.
    """
    there = {f: entry[f] for f in VALUES if f in entry}
    if "prediction" not in there and len({json.dumps(v, sort_keys=True) for v in there.values()}) > 1:
        fields = " and ".join(f"`{f}`" for f in there)
        raise UsageError(
            f"{where}: {fields} differ, and one of them may be the question or its reference; name what was predicted `prediction`"
        )
    return next(iter(there.values()), None)


def _of_log(entry: dict[str, object]) -> tuple[object, object]:
    """Id and answer of a line of lmms-eval's log: ``doc`` holds the item, ``filtered_resps`` what was answered."""
    doc = entry["doc"]
    value = _first(entry, _OUTPUTS)
    while isinstance(value, list) and value:
        value = value[0]
    return (_first(doc, ("question_id", "id", "image_id")) if isinstance(doc, dict) else None), value


def check_ids(given: Sequence[str], wanted: Sequence[str], source: Path, what: str) -> None:
    """Raises UsageError where predictions and the items of a set are not the same, naming the first of each."""
    missing, strange = sorted(set(wanted) - set(given)), sorted(set(given) - set(wanted))
    if missing:
        more = f"; it holds {len(strange)} others, first {printable(strange[0])[:100]}" if strange else ""
        raise UsageError(
            f"{source}: no prediction for {len(missing)} of {len(wanted)} {what}, first {printable(missing[0])[:100]}{more}"
        )
    if strange:
        raise UsageError(
            f"{source}: {len(strange)} predictions are for no {what[:-1]} of the set, first {printable(strange[0])[:100]}"
        )


def mask_files(folder: Path) -> dict[str, Path]:
    """File stem -> mask file, of a folder. Raises UsageError where there are none, or two of one stem."""
    out: dict[str, Path] = {}
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in _SUFFIXES and not p.name.startswith(".")):
        if path.stem in out:
            raise UsageError(f"{folder}: {out[path.stem].name} and {path.name} are masks of one image; keep one")
        out[path.stem] = path
    if not out:
        raise UsageError(f"{folder}: holds no masks ({', '.join(_SUFFIXES)})")
    return out


def content_digest(source: Path) -> str:
    """SHA-256 of a file of predictions; of a folder, of its masks' names and contents."""
    if source.is_dir():
        return digest({stem: sha256_file(path) for stem, path in mask_files(source).items()})
    return sha256_file(source)
