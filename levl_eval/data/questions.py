"""Question sets in their published layouts: GQA and GQA-OOD, VQAv2, and a user's own JSON lines (POPE: data/pope.py)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from levl_eval.cards import DataSpec
from levl_eval.core.errors import UsageError
from levl_eval.core.files import split_lines, text_of
from levl_eval.core.text import printable
from levl_eval.data.formats import GQA, VQA, VQAv2Annotation, VQAv2Question, checked, shown, unique_ids
from levl_eval.data.images import fingerprint_text, image_set, put_into, root_of, under
from levl_eval.data.listing import in_words, junk
from levl_eval.data.stream import stream, unrepeated
from levl_eval.data.types import ImageSet, Question, QuestionSet
from levl_eval.metrics.gqa import gqa_steps


def read_json(path: Path) -> object:
    """A JSON file, a JSON array, or one JSON value a line (POPE, JSON lines)."""
    text = text_of(path)
    try:
        return json.loads(text, object_pairs_hook=unrepeated(path))
    except RecursionError:
        raise UsageError(f"{path}: nested too deeply; take the published file") from None
    except ValueError:
        pass
    out = []
    for number, line in enumerate(split_lines(text), 1):
        if line.strip():
            try:
                out.append(json.loads(line, object_pairs_hook=unrepeated(path)))
            except RecursionError:
                raise UsageError(f"{path}: line {number} is nested too deeply; correct it") from None
            except ValueError as e:
                words = str(e).split(":")[0]
                if path.suffix.lower() in (".csv", ".tsv"):
                    raise UsageError(f"{path}: is a table; store it as JSON lines, one object per row") from e
                raise UsageError(f"{path}: line {number} is not valid JSON ({words}); correct or download it again") from e
    return out


def first_of(folder: Path, patterns: Sequence[str], what: str, where: str) -> Path:
    """The one file of the first pattern that has any; hidden ones are passed over.

    Raises UsageError: none, or several of one pattern, of which none says that it is the one.
    """
    for pattern in patterns:
        fitting = [p for p in sorted(folder.glob(pattern)) if not any(map(junk, p.relative_to(folder).parts))]
        if len(fitting) > 1:
            others = ", ".join(printable(str(p.relative_to(folder)))[:100] for p in fitting[:3])
            raise UsageError(
                f"{folder}: {what} could be each of {len(fitting)} files ({others}); keep one there, or name it by the data's fields"
            )
        if fitting:
            return fitting[0]
    raise UsageError(f"{folder}: {what} is missing (expected {folder / patterns[0]}); {where}")


def limited(questions: list[Question], limit: int | None) -> list[Question]:
    """Questions about the first ``limit`` distinct images."""
    if limit is None:
        return questions
    keep = set(list(dict.fromkeys(q.image_id for q in questions))[:limit])
    return [q for q in questions if q.image_id in keep]


class FileNames:
    """Names of image files of which a set's annotations give paths, below folders that are not always there. field: the annotations' field.

    Raises UsageError, called with a path and where it stands, for a path without a name, and where two folders hold files of one
    name: which of them lies in the one folder of images could not be told.
    """

    def __init__(self, field: str) -> None:
        self.field = field
        self.paths: dict[str, str] = {}

    def __call__(self, path: str, where: str) -> str:
        pure = PurePosixPath(path.replace("\\", "/"))
        if pure.name in ("", ".."):
            raise UsageError(
                f"{where}: field `{self.field}`: expected a file's path, found {shown(path)}; take the published file"
            )
        first = self.paths.setdefault(pure.name, str(pure))
        if first != str(pure):
            raise UsageError(
                f"{where}: field `{self.field}`: {shown(str(pure))} has the file name of {shown(first)}, "
                "and images are looked for by their names in one folder; rename the files so that names differ, here and there"
            )
        return pure.name


class Pool:
    """One object for equal strings: answers and types repeat a thousandfold in large sets."""

    def __init__(self) -> None:
        self.seen: dict[str, str] = {}

    def __call__(self, value: str) -> str:
        return self.seen.setdefault(value, value)

    def within(self, value: object) -> object:
        """A value of JSON with its strings pooled."""
        if isinstance(value, str):
            return self(value)
        if isinstance(value, dict):
            return {self.within(k): self.within(v) for k, v in value.items()}
        return [self.within(v) for v in value] if isinstance(value, list) else value


class About(NamedTuple):
    """What a question set is called and where it comes from. where: what to do about images that are missing."""

    name: str
    split: str
    source: Path
    where: str
    version: str


def finish_questions(
    about: About, questions: list[Question], locate: Callable[[str], Path], spec: DataSpec, limit: int | None,
    left_out: Mapping[str, int] | None = None,
) -> QuestionSet:  # fmt: skip
    """Questions with their images as a set. locate: image id -> file. left_out: entries that are none of its questions.

    Raises UsageError: none, ids that repeat, images that are missing.
    """
    source = about.source
    if not questions:
        raise UsageError(f"{source}: holds no questions{f' ({in_words(left_out)})' if left_out else ''}")
    unique_ids((q.question_id for q in questions), source)
    questions = limited(questions, limit)
    images = image_set((q.image_id for q in questions), locate, str(source), about.where, left_out, spec)
    return of_images(about.name, about.split, questions, images, about.version)


def of_images(name: str, split: str, questions: list[Question], images: ImageSet, version: str) -> QuestionSet:
    """Questions over an image set; those about skipped images have failed."""
    digest = fingerprint_text(json.dumps([q.question_id, q.image_id, q.question, q.answer, list(q.answers)]) for q in questions)
    failed = tuple(q for q in questions if q.image_id in images.skipped)
    asked = [q for q in questions if q.image_id not in images.skipped] if failed else questions
    return QuestionSet(name, split, asked, images, digest, version, failed)


GQA_IMAGES, COCO = "GQA's images", "COCO's"
# GQA-OOD (Kervadec et al., CVPR 2021): testdev_ood_head, testdev_ood_tail, testdev_ood_all and the same of val, in GQA's form; the
# files are named ood_testdev_head.json, ...
_OOD = re.compile(r"(testdev|val)_ood_(head|tail|all)")
_OOD_FOLDERS = ("", "ood/", "data/", "questions/", "GQA-OOD/data/")


def read_gqa(spec: DataSpec, data: str, limit: int | None) -> QuestionSet:
    """GQA: questions*/SPLIT_questions.json (or parts of it in a folder), images/ID.jpg. GQA-OOD: its question files, GQA's images."""
    root = root_of(spec.root, spec.directory, data)
    where = "get questions and images from cs.stanford.edu/people/dorarad/gqa (questions1.2.zip, images.zip)"
    split = spec.split or "testdev_balanced"
    names = [f"questions/{split}_questions.json", f"questions*/{split}_questions.json", f"{split}_questions.json"]
    if ood := _OOD.fullmatch(split):
        where = "get the files from github.com/gqa-ood/GQA-OOD (data), and GQA's images from cs.stanford.edu/people/dorarad/gqa"
        names = [f"{d}{w}.json" for w in (f"ood_{ood[1]}_{ood[2]}", f"{ood[1]}_ood_{ood[2]}") for d in _OOD_FOLDERS]
    file = under(data, spec.questions) or first_of(root, names, f"the question file of {split}", where)
    images = under(data, spec.images) or root / "images"
    choices = _gqa_choices(spec, data, root, file, split)
    questions = gqa_file(file, choices)
    version = f"{len(questions)} questions" + (", with choices" if choices else "")
    about = About("gqa", split, file, f"{put_into(images, GQA_IMAGES)}; {where}", version)
    return finish_questions(about, questions, lambda i: images / f"{i}.jpg", spec, limit)


def gqa_file(file: Path, choices: Mapping[str, object] | None = None) -> list[Question]:
    """Questions of one of GQA's question files. Raises UsageError naming the file and what is wrong."""
    pool, questions = Pool(), []
    for qid, q in stream(file):
        if not isinstance(qid, str):
            raise UsageError(f"{file}: expected GQA's mapping of question ids, found a list")
        questions.append(gqa_question(qid, q, pool, str(file), choices))
    return questions


def gqa_question(qid: str, q: object, pool: Pool, source: str, choices: Mapping[str, object] | None = None) -> Question:
    """One entry of GQA's files. Of the program only the number of steps is kept. Raises UsageError naming a missing field."""
    e = checked(GQA, q, source, f"question {shown(qid)}")
    meta: dict[str, object] = {
        k: pool.within(v) for k in ("types", "groups", "entailed", "isBalanced") if (v := getattr(e, k)) is not None
    }
    if e.semantic is not None:
        try:
            meta["steps"] = gqa_steps(e.semantic)
        except KeyError as error:
            raise UsageError(
                f"{source}: question {shown(qid)}: field `semantic`: a step has no {error}; take the published file"
            ) from None
    if choices and qid in choices:
        lists = choices[qid]
        if not isinstance(lists, dict) or not all(isinstance(lists.get(k), list) for k in ("valid", "plausible")):
            raise UsageError(
                f"{source}: question {shown(qid)}: its choices have no lists `valid` and `plausible`; take the published file"
            )
        meta |= {k: [pool(str(a)) for a in lists[k]] for k in ("valid", "plausible")}
    return Question(qid, pool(e.imageId), e.question, pool(e.answer), (), meta)


def _gqa_choices(spec: DataSpec, data: str, root: Path, file: Path, split: str) -> dict[str, object] | None:
    """The official file of valid and plausible answers, where there is one: TIER_choices.json (val_choices.json, ...)."""
    given = under(data, spec.choices)
    if given is not None and not given.exists():
        raise UsageError(f"{given}: no such file; field `data.choices` names GQA's file of valid and plausible answers")
    tier = split.split("_")[0]
    places = [given] if given else [d / f"{tier}_choices.json" for d in (file.parent, root, root / "eval")]
    choices_file = next((p for p in places if p is not None and p.exists()), None)
    return {str(k): v for k, v in stream(choices_file)} if choices_file is not None and tier != "train" else None


def _vqav2_images(spec: DataSpec, data: str, root: Path, split: str) -> Path:
    split = "test2015" if split.startswith("test") else split  # test-dev and test share their images
    return under(data, spec.images) or next((d for d in (root / split, Path(data) / "coco" / split) if d.is_dir()), root / split)


def read_vqav2(spec: DataSpec, data: str, limit: int | None) -> QuestionSet:
    """VQA v2: v2_OpenEnded_mscoco_SPLIT_questions.json, v2_mscoco_SPLIT_annotations.json, SPLIT/COCO_SPLIT_%012d.jpg."""
    root = root_of(spec.root, spec.directory, data)
    split = {"val": "val2014", "train": "train2014", "": "val2014"}.get(spec.split, spec.split)
    where = "get questions, annotations and COCO images from visualqa.org/download.html"
    file = under(data, spec.questions) or first_of(
        root, [f"v2_OpenEnded_mscoco_{split}_questions.json", f"*{split}_questions.json"], "the question file", where
    )
    pool, answers = Pool(), {}
    about_image: dict[str, int] = {}
    if not split.startswith("test"):
        notes = under(data, spec.annotations) or first_of(
            root, [f"v2_mscoco_{split}_annotations.json", f"*{split}_annotations.json"], "the annotation file", where
        )
        for number, (_, raw) in enumerate(stream(notes, "annotations"), 1):
            a = checked(VQAv2Annotation, raw, notes, f"annotation {number}")
            meta = {"question_type": pool(a.question_type), "answer_type": pool(a.answer_type)}
            if a.question_id in answers:
                raise UsageError(f"{notes}: question {shown(a.question_id)} is annotated twice; take the published file")
            answers[a.question_id] = pool(a.multiple_choice_answer), tuple(map(pool, a.answers)), meta
            if a.image_id is not None:
                about_image[a.question_id] = a.image_id
    folder, prefix = _vqav2_images(spec, data, root, split), "test2015" if split.startswith("test") else split
    questions = []
    for number, (_, raw) in enumerate(stream(file, "questions"), 1):
        q = checked(VQAv2Question, raw, file, f"question {number}")
        if not split.startswith("test") and q.question_id not in answers:
            raise UsageError(
                f"{file}: question {shown(q.question_id)} has no annotation; questions and annotations are of different releases"
            )
        if about_image.get(q.question_id, q.image_id) != q.image_id:
            raise UsageError(
                f"{file}: question {shown(q.question_id)} is about image {q.image_id}, its annotation about image "
                f"{about_image[q.question_id]}; questions and annotations are of different releases"
            )
        answer, given, meta = answers.get(q.question_id, ("", (), {}))
        questions.append(
            Question(q.question_id, pool(f"COCO_{prefix}_{q.image_id:012d}.jpg"), pool(q.question), answer, given, meta)
        )
    about = About("vqav2", split, file, f"{put_into(folder, f'{COCO} {prefix} images')}; {where}", f"{len(questions)} questions")
    return finish_questions(about, questions, lambda i: folder / i, spec, limit)


def read_vqa(spec: DataSpec, data: str, limit: int | None) -> QuestionSet:
    """A user's questions: JSON lines (or an array) of image, question, answer or answers, and optionally question_id; see formats.VQA."""
    file = under(data, spec.questions)
    if file is None:
        raise UsageError(
            "task vqa: field `data.questions` (and `recipe.data.0.questions` for training) is not set; give a JSON-lines file"
        )
    rows = read_json(file)
    folder = under(data, spec.images) or file.parent
    questions = []
    for number, q in enumerate(rows if isinstance(rows, list) else [rows], 1):
        e = checked(VQA, q, file, f"entry {number}")
        answer, answers = e.references()
        meta = {"type": e.type} if e.type is not None else {}
        questions.append(
            Question(str(number) if e.question_id is None else e.question_id, e.image, e.question, answer, answers, meta)
        )
    about = About("vqa", spec.split, file, f"images are looked for in {folder}; set `data.images`", f"{len(questions)} questions")
    return finish_questions(about, questions, lambda i: folder / i, spec, limit)
