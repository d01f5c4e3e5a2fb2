"""Counting and spatial relations in their published layouts: TallyQA and Visual Spatial Reasoning (VSR).

TallyQA (github.com/manoja328/TallyQA_dataset; Acharya et al., AAAI 2019), VSR (github.com/cambridgeltl/visual-spatial-reasoning;
Liu et al., TACL 2023).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from levl_eval.cards import DataSpec
from levl_eval.core.errors import UsageError
from levl_eval.data.formats import VSR, HubTallyQA, TallyQA, checked, shown
from levl_eval.data.images import put_into, root_of, under
from levl_eval.data.questions import About, finish_questions, first_of
from levl_eval.data.stream import stream_rows
from levl_eval.data.types import Question, QuestionSet

STATEMENT = "Is this statement true or false? {}"
# VSR's kinds of relations, as its authors group them (analysis_scripts/rel_meta_category_dict.txt).
RELATIONS: dict[str, str] = {
    "Adjacency":
        "adjacent to|alongside|at the side of|at the right side of|at the left side of|attached to|at the back of|ahead of|"
        "against|at the edge of",
    "Directional": "off|past|toward|down|deep down|up|away from|along|around|from|into|to|across|across from|through|down from",
    "Orientation": "facing|facing away from|parallel to|perpendicular to",
    "Projective": "on top of|beneath|beside|behind|left of|right of|under|in front of|below|above|over|in the middle of",
    "Proximity": "by|close to|near|far from|far away from",
    "Topological":
        "connected to|detached from|has as a part|part of|contains|within|at|on|in|with|surrounding|among|consists of|out of|"
        "between|inside|outside|touching",
    "Unallocated": "beyond|next to|opposite to|after|among|enclosed by",
}  # fmt: skip
KIND_OF = {relation: kind for kind, names in reversed(RELATIONS.items()) for relation in names.split("|")}  # of two, the first


def _kind(simple: bool | None) -> dict[str, object]:
    return {} if simple is None else {"type": "simple" if simple else "complex"}


def read_tallyqa(spec: DataSpec, data: str, limit: int | None) -> QuestionSet:
    """TallyQA: SPLIT.json (a list of image, question, answer, question_id, issimple);
    Visual Genome's and COCO's folders below the set's own, or DIR/visual_genome and DIR/coco."""
    root, split = root_of(spec.root, spec.directory, data), spec.split or "test"
    where = "get tallyqa.zip from github.com/manoja328/TallyQA_dataset, and the images of Visual Genome (VG_100K, VG_100K_2) and COCO 2014"
    file = under(data, spec.questions) or first_of(root, [f"{split}.json"], "the question file", where)
    given = under(data, spec.images)
    bases = [given] if given else [root, Path(data) / "visual_genome", Path(data) / "coco"]
    folders: dict[str, Path] = {}

    def locate(name: str) -> Path:
        top = (PurePosixPath(name).parts or (name,))[0]
        if top not in folders:
            folders[top] = next((b for b in bases if (b / top).is_dir()), bases[0])
        return folders[top] / name

    questions = []
    for number, raw in stream_rows(file):
        e = checked(TallyQA, raw, file, f"entry {number}")
        questions.append(Question(e.question_id, e.image, e.question, str(e.answer), (), _kind(e.issimple)))
    about = About("tallyqa", split, file, where, f"{len(questions)} questions")
    return finish_questions(about, questions, locate, spec, limit)


def tallyqa_row(row: int, cells: Mapping[str, object], source: str) -> list[Question]:
    """The questions of a row of the hub's table (an image and its questions)."""
    e = checked(HubTallyQA, cells, source, f"row {row}")
    return [Question(f"{row}/{k}", f"{row:06d}", q.question, str(q.answer), (), _kind(q.is_simple)) for k, q in enumerate(e.qa)]


def read_vsr(spec: DataSpec, data: str, limit: int | None) -> QuestionSet:
    """VSR: [data/]splits/LEVEL/SPLIT.jsonl (image, image_link, caption, label, relation), LEVEL zeroshot or random;
    [data/]images/IMAGE, or DIR/coco/{train2017,val2017}/IMAGE."""
    root, split, level = root_of(spec.root, spec.directory, data), spec.split or "test", spec.level or "zeroshot"
    if level not in ("zeroshot", "random"):
        raise UsageError(f"field `data.level`: {shown(level)}: expected zeroshot or random")
    where = "get the splits from github.com/cambridgeltl/visual-spatial-reasoning (data), and COCO 2017's images"
    names = [f"{top}splits/{level}/{split}.jsonl" for top in ("", "data/")]
    file = under(data, spec.questions) or first_of(root, names, f"the file of the {level} {split} split", where)
    folder = under(data, spec.images) or next((f for f in (root / "images", root / "data" / "images") if f.is_dir()), None)
    places, parts, questions = dict[str, Path](), dict[str, str](), []
    for number, raw in stream_rows(file):
        e = checked(VSR, raw, file, f"entry {number}")
        kind = KIND_OF.get(e.relation.strip())
        part = PurePosixPath(e.image_link).parent.name if e.image_link else ""
        if parts.setdefault(e.image, part) != part:
            raise UsageError(
                f"{file}: entry {number}: field `image_link`: image {shown(e.image)} is of {shown(part)[1:-1]}, in an earlier entry of "
                f"{shown(parts[e.image])[1:-1]}; take the published file"
            )
        places[e.image] = (folder or Path(data) / "coco" / (part or "train2017")) / e.image
        meta: dict[str, object] = {"type": kind} if kind else {}
        answer = "true" if e.label else "false"
        questions.append(Question(str(number), e.image, STATEMENT.format(e.caption), answer, (), meta))
    about = About("vsr", split, file, f"{put_into(folder or root / 'images')}; {where}", f"{level}, {len(questions)} statements")
    return finish_questions(about, questions, places.__getitem__, spec, limit)
