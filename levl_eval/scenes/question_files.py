"""The question files of GQA's and VQAv2's layouts over scenes:
questions of every image, balanced over answers or with ten annotators' ones."""

from __future__ import annotations

import random
from collections.abc import Callable

from levl_eval.scenes.answers import balance_answers
from levl_eval.scenes.programs import Program, SceneQuestion
from levl_eval.scenes.questions import gqa_questions, vqa_questions
from levl_eval.scenes.world import Scene, stable_seed


def gqa_file(part: str, names: list[str], seed: int, scene_of: Callable[[int], Scene]) -> dict[str, dict[str, object]]:
    """The official question file's dictionary, id -> fields, about the images of ``names``. scene_of: number -> scene."""
    pairs: list[tuple[str, SceneQuestion]] = []
    known: dict[int, str] = {}
    entailed: dict[str, list[str]] = {}
    for index, image in enumerate(names):
        rng = random.Random(stable_seed("questions", part, seed, index))
        asked = gqa_questions(scene_of(index), rng)
        ids = [f"{index:06d}{k:02d}" for k in range(len(asked))]
        for k, q in enumerate(asked):
            known[id(q)] = ids[k]
            entailed[ids[k]] = [ids[j] for j in q.entailed]
            pairs.append((image, q))
    kept = balance_answers(pairs, random.Random(stable_seed("balance", part, seed)))
    present = {known[id(q)] for _, q in kept}
    out: dict[str, dict[str, object]] = {}
    for image, q in kept:
        name = known[id(q)]
        out[name] = {
            "imageId": image, "question": q.question, "answer": q.answer, "fullAnswer": q.full_answer, "isBalanced": True,
            "types": {"structural": q.structural, "semantic": q.semantic, "detailed": q.group},
            "groups": {"global": q.semantic, "local": q.group}, "semantic": q.program, "semanticStr": _program_text(q.program),
            "entailed": [name, *(e for e in entailed[name] if e in present)], "equivalent": [name],
        }  # fmt: skip
    return out


def _program_text(program: Program) -> str:
    return " -> ".join(f"{p['operation']}: {p['argument']} {p['dependencies'] or ''}".strip() for p in program)


def vqav2_files(
    part: str, count: int, seed: int, scene_of: Callable[[int], Scene]
) -> tuple[dict[str, object], dict[str, object]]:
    """The official question and annotation files of the first ``count`` images. scene_of: number -> scene."""
    split = part.split("/")[1]
    head = {
        "data_subtype": split,
        "data_type": "mscoco",
        "license": {"name": "generated"},
        "info": {"description": "levl-eval scenes"},
    }
    questions, annotations = [], []
    for index in range(count):
        rng = random.Random(stable_seed("questions", part, seed, index))
        for k, q in enumerate(vqa_questions(scene_of(index), rng)):
            common = {"question_id": (index + 1) * 1000 + k, "image_id": index + 1}
            questions.append({**common, "question": q.question})
            answers = [{"answer": x, "answer_confidence": "yes", "answer_id": i + 1} for i, x in enumerate(q.answers)]
            first = " ".join(q.question.lower().split()[:2])
            annotations.append(
                {
                    **common,
                    "question_type": first,
                    "answer_type": q.answer_type,
                    "multiple_choice_answer": q.answer,
                    "answers": answers,
                }
            )
    task = {"task_type": "Open-Ended"}
    return {**head, **task, "questions": questions}, {**head, "annotations": annotations}
