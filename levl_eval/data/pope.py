"""POPE in its published files: the objects of COCO, A-OKVQA or GQA, asked by three strategies; which release they are, by what they ask."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from levl_eval.cards import DataSpec
from levl_eval.core.errors import UsageError
from levl_eval.data.formats import POPE, checked
from levl_eval.data.images import put_into, root_of, under
from levl_eval.data.published import POPE_OLDER, POPE_WHOLE, published_pope
from levl_eval.data.questions import About, finish_questions, read_json
from levl_eval.data.types import Question, QuestionSet

POPE_SPLITS = ("random", "popular", "adversarial")
SOURCES = {"coco": "COCO", "aokvqa": "A-OKVQA", "gqa": "GQA"}  # a card's `level`: whose images and objects
# Names of the files, as POPE's repository and its copies have them: coco_pope_random.json, aokvqa_pope_seem_random.json, ...
_NAMES = ("{source}_pope_{split}.json", "{source}_pope_seem_{split}.json")
_FOLDERS = ("", "{source}", "output/{source}", "output/seem/{source}")
_FILES = "get the files from github.com/AoiDragon/POPE (output/coco, or output/seem for A-OKVQA and GQA)"
_QUESTION = re.compile(r"Is there an? .+ in the ima(?:n)?ge\?")  # "imange" stands so in some of the published files


def _file(root: Path, source: str, split: str) -> Path | None:
    places = (root / f.format(source=source) / n.format(source=source, split=split) for f in _FOLDERS for n in _NAMES)
    return next((p for p in places if p.is_file()), None)


def _source(root: Path, level: str | None) -> str:
    """Whose files are read: the card's level; else COCO's where they are there, or those of the only other source. Raises UsageError."""
    if level is not None:
        if level not in SOURCES:
            raise UsageError(f"pope: field `level`: expected {', '.join(SOURCES)}, found {level!r}")
        return level
    there = [s for s in SOURCES if any(_file(root, s, k) for k in POPE_SPLITS)]
    if len(there) > 1 and "coco" not in there:
        raise UsageError(f"{root}: holds POPE's files of {' and '.join(there)}; say which by the data's field `level`")
    return there[0] if there else "coco"


def pope_questions(root: Path, split: str = "", level: str | None = None) -> list[Question]:
    """Questions of POPE's three files in ``root``, or of the one of ``split``; level: coco, aokvqa or gqa. Raises UsageError."""
    if split and split not in POPE_SPLITS:
        raise UsageError(f"pope: field `split`: expected {', '.join(POPE_SPLITS)}, or none for all three, found {split!r}")
    source = _source(root, level)
    files = {s: _file(root, source, s) for s in POPE_SPLITS if not split or s == split}
    missing = [s for s, f in files.items() if f is None]
    if missing:
        first = root / _NAMES[0].format(source=source, split=missing[0])
        raise UsageError(f"{root}: POPE's question files are missing, first {first}; {_FILES}")
    questions = []
    for kind, file in files.items():
        assert file is not None
        rows = read_json(file)
        for number, q in enumerate(rows if isinstance(rows, list) else [rows], 1):  # a file of one line is one value
            e = checked(POPE, q, file, f"line {number}")
            questions.append(Question(f"{kind}/{e.question_id}", e.image, e.text, e.label, (), {"split": kind}))
    return questions


def pope_version(questions: Sequence[Question], source: str = "coco") -> str:
    """Which release POPE's questions are: recognised by what they ask, never by how many they are alone."""
    counts = Counter(str(q.meta.get("split", "")) for q in questions)
    known = published_pope(questions)
    if known == POPE_WHOLE:
        return "official, 3 x 3,000"
    if known == POPE_OLDER:
        return "older release, 2,910 random, 3,000 popular, 3,000 adversarial"
    listed = ", ".join(f"{k} {n}" for k, n in counts.items())
    if source != "coco" and of_popes_form(questions):
        return f"{SOURCES[source]}, {listed}: of POPE's form, not verified by content"
    own = "own files, " + listed
    return f"{own} (as many random ones as the older release has)" if counts.get("random") == 2910 else own


def of_popes_form(questions: Sequence[Question]) -> bool:
    """Whether every strategy asks about the same images, each six times with three times yes, and all ask the same where it is yes."""
    groups: dict[str, dict[str, list[Question]]] = {}
    for q in questions:
        groups.setdefault(str(q.meta.get("split", "")), {}).setdefault(q.image_id, []).append(q)
    of_yes = [{(q.image_id, q.question) for g in images.values() for q in g if q.answer == "yes"} for images in groups.values()]
    six = all(len(g) == 6 and sum(q.answer == "yes" for q in g) == 3 for images in groups.values() for g in images.values())
    return six and all(y == of_yes[0] for y in of_yes) and all(_QUESTION.fullmatch(q.question) for q in questions)


def read_pope(spec: DataSpec, data: str, limit: int | None) -> QuestionSet:
    """POPE: {coco,aokvqa,gqa}_pope_{random,popular,adversarial}.json, one JSON object a line; COCO's val2014 images, or GQA's.

    ``level`` says whose files; all splits are read unless ``split`` names one. ``questions`` may name one of the files itself.
    """
    root, split, level = under(data, spec.questions) or root_of(spec.root, spec.directory, data), spec.split, spec.level
    if root.is_file():
        named = re.fullmatch(r"(coco|aokvqa|gqa)_pope_(?:seem_)?(random|popular|adversarial)\.json", root.name)
        if named is None:
            raise UsageError(
                f"{root}: is none of POPE's file names (coco_pope_random.json, ...); name its folder, or rename the file"
            )
        root, level, split = root.parent, named[1], named[2]
    questions = pope_questions(root, split, level)
    source = _source(root, level)
    own = [root / "val2014", root / "images"]
    coco = [Path(data) / "coco" / "val2014", Path(data) / "vqav2" / "val2014", root.parent / "val2014"]
    candidates = [*own, Path(data) / "gqa" / "images"] if source == "gqa" else own + coco
    folder = under(data, spec.images) or next(
        (c for c in candidates if questions and os.path.exists(c / questions[0].image_id)), candidates[0]
    )
    images = (
        "GQA's images from cs.stanford.edu/people/dorarad/gqa"
        if source == "gqa"
        else "COCO's val2014 images from cocodataset.org"
    )
    about = About(
        "pope", split or "all", root, f"{put_into(folder)}; {_FILES} and {images}",
        pope_version(questions, source),
    )  # fmt: skip
    return finish_questions(about, questions, lambda i: folder / i, spec, limit)
