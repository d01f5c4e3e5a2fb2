"""TallyQA and VSR: small sets in the published layouts, TallyQA as the hub's table, and how answers to them are read."""

from __future__ import annotations

import json

import datasets
import pytest

from levl_eval.cards import DataSpec
from levl_eval.cards.registry import task_card
from levl_eval.core.errors import UsageError
from levl_eval.data import hub
from levl_eval.data.check import check
from levl_eval.data.counting import KIND_OF
from levl_eval.data.fingerprints import fingerprint_of
from levl_eval.data.hub_tables import HubTable
from levl_eval.data.readers import read_questions
from levl_eval.engines.vlm.scoring import estimates
from levl_eval.metrics.truth import truth_answer
from tests.data import small_sets as small

COUNTS = [
    {"answer": 4, "data_source": "imported_genome", "image": "VG_100K_2/24.jpg", "image_id": 9024, "issimple": False,
     "question": "How many headlights does the black bus have?", "question_id": 30095774},
    {"answer": 0, "data_source": "amt", "image": "VG_100K_2/24.jpg", "image_id": 9024,
     "issimple": True, "question": "How many dogs?", "question_id": 2},
    {"answer": 12, "data_source": "amt", "image": "VG_100K/7.jpg", "image_id": 7,
     "issimple": True, "question": "How many cups?", "question_id": 3},
]  # fmt: skip
STATEMENTS = [
    {"image": "000000017697.jpg", "image_link": "http://images.cocodataset.org/train2017/000000017697.jpg",
     "caption": "The car is behind the suitcase.", "label": 1, "relation": "behind", "subj": "car", "obj": "suitcase",
     "annotator_id": 2, "vote_true_validator_id": "[18, 2]"},
    {"image": "000000001675.jpg", "image_link": "http://images.cocodataset.org/val2017/000000001675.jpg",
     "caption": "The cat is on the keyboard.", "label": 0, "relation": "on"},
]  # fmt: skip


@pytest.fixture
def data(tmp_path):
    small.write(tmp_path / "tallyqa/test.json", json.dumps(COUNTS))
    small.write(tmp_path / "tallyqa/VG_100K_2/24.jpg", small.image_bytes(0))
    small.write(tmp_path / "visual_genome/VG_100K/7.jpg", small.image_bytes(1))  # Visual Genome's folders here or there
    small.write(tmp_path / "vsr/data/splits/zeroshot/test.jsonl", "".join(json.dumps(r) + "\n" for r in STATEMENTS))
    small.write(tmp_path / "coco/train2017/000000017697.jpg", small.image_bytes(2))
    small.write(tmp_path / "coco/val2017/000000001675.jpg", small.image_bytes(3))
    return tmp_path


def test_tallyqa_from_files_and_hub_is_one_set(data, monkeypatch):
    files = read_questions(task_card("tallyqa").data, str(data))
    assert [(q.image_id, q.answer, q.meta["type"]) for q in files.questions] == [
        ("VG_100K_2/24.jpg", "4", "complex"),
        ("VG_100K_2/24.jpg", "0", "simple"),
        ("VG_100K/7.jpg", "12", "simple"),
    ]
    rows = [
        {"image": {"bytes": small.image_bytes(k), "path": None}, "qa": [
            {"question": r["question"], "answer": str(r["answer"]), "is_simple": r["issimple"], "data_source": "amt"}
            for r in COUNTS if r["image"] == name
        ]}
        for k, name in enumerate(("VG_100K_2/24.jpg", "VG_100K/7.jpg"))
    ]  # fmt: skip
    table = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
    monkeypatch.setattr(hub, "load_split", lambda source, config: HubTable(table))
    assert fingerprint_of(read_questions(task_card("tallyqa").data, "hub")) == fingerprint_of(files)


def test_vsr_finds_cocos_images_by_their_links_or_in_its_own_folder(data):
    there = read_questions(task_card("vsr").data, str(data))
    assert [(q.question, q.answer, q.meta) for q in there.questions] == [
        ("Is this statement true or false? The car is behind the suitcase.", "true", {"type": "Projective"}),
        ("Is this statement true or false? The cat is on the keyboard.", "false", {"type": "Topological"}),
    ]
    for k, r in enumerate(STATEMENTS):
        small.write(data / "vsr/data/images" / r["image"], small.image_bytes(2 + k))
    assert fingerprint_of(read_questions(task_card("vsr").data, str(data))) == fingerprint_of(there)
    assert KIND_OF["among"] == "Topological" and KIND_OF["next to"] == "Unallocated" and len(KIND_OF) == 70
    with pytest.raises(UsageError, match="expected zeroshot or random"):
        read_questions(DataSpec(layout="vsr", directory="vsr", level="all"), str(data))
    with pytest.raises(UsageError, match="the file of the random test split is missing"):
        read_questions(DataSpec(layout="vsr", directory="vsr", level="random"), str(data))


@pytest.mark.parametrize(
    ("layout", "file", "entry", "words"),
    [
        ("tallyqa", "test.json", {**COUNTS[0], "answer": -1}, "entry 1: field `answer`"),
        ("tallyqa", "test.json", {**COUNTS[0], "answer": "4"}, "entry 1: field `answer`"),
        ("vsr", "splits/zeroshot/test.jsonl", {**STATEMENTS[0], "label": 2}, "entry 1: field `label`"),
        ("vsr", "splits/zeroshot/test.jsonl", {**STATEMENTS[0], "label": "true"}, "entry 1: field `label`"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, layout, file, entry, words):
    small.write(tmp_path / layout / file, json.dumps([entry]))
    with pytest.raises(UsageError, match=words):
        read_questions(DataSpec(layout=layout, directory=layout, split="test"), str(tmp_path))


def test_data_check_knows_them(data):
    told = [(f.set, f.level, f.message) for f in check(data)]
    assert told == [
        ("tallyqa/test", "ok", "3 questions about 2 images"),
        ("tallyqa/test", "note", "is not the published release (38,589 questions)"),
        ("vsr/test", "ok", "2 questions about 2 images"),
        ("vsr/test", "note", "is not the published release (1,222 questions)"),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("True", "true"), ("yes.", "true"), ("This is false.", "false"), ("It is not true", "false"),
        ("No, it is true of the other", "false"), ("incorrect", "false"), ("The truth", "other"), ("", "other"),
    ],
)  # fmt: skip
def test_what_an_answer_says_of_a_statement(text, said):
    assert truth_answer(text) == said


@pytest.mark.parametrize("task", ["tallyqa", "vsr"])
def test_on_the_scenes_sight_is_right_and_a_constant_is_not(task, world):
    card = task_card(task)
    test = read_questions(card.data, str(world))
    assert len(test.images) == 16
    whole = estimates(card.scorer, test.questions, {q.question_id: q.answer for q in test.questions})
    constant = estimates(card.scorer, test.questions, dict.fromkeys((q.question_id for q in test.questions), "true"))
    assert whole["accuracy"].value == 1.0 and constant["accuracy"].value == (0.5 if task == "vsr" else 0.0)
    kinds = {k for k in whole if k.startswith("type/")}
    assert kinds == ({"type/Projective"} if task == "vsr" else {"type/simple", "type/complex"})
    plain = [str(q.answer) for q in test.questions]
    assert len(set(plain)) == 2 if task == "vsr" else max(plain.count(a) for a in set(plain)) < 0.6 * len(plain)
