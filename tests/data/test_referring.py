"""RefCOCO, RefCOCO+ and RefCOCOg: small sets as MDETR, Shikra and the hub have them, and how answers to them are scored."""

from __future__ import annotations

import json

import datasets
import pytest

from levl_eval.cards import DataSpec
from levl_eval.cards.registry import task_card
from levl_eval.core.errors import UsageError
from levl_eval.data import hub
from levl_eval.data.check import check
from levl_eval.data.fingerprints import fingerprint_of
from levl_eval.data.hub_tables import HubTable
from levl_eval.data.readers import read_questions
from levl_eval.data.referring import ASKED, place_of
from levl_eval.engines.vlm.scoring import estimates
from tests.data import small_sets as small

A, B = "COCO_train2014_000000000001.jpg", "COCO_train2014_000000000002.jpg"
# Objects: image, box (left, top, width, height) in pixels of 12 x 10, expressions.
OBJECTS = [
    (A, [1.25, 2.0, 4.11, 3.07], ["the dog", "left dog"]),
    (A, [6.0, 1.0, 6.01, 8.5], ["right dog"]),  # COCO's own boxes reach beyond their images by as much
    (B, [0.0, 0.0, 12.0, 10.0], ["everything", " "]),
]
SEED = {A: 1, B: 2}


def mdetr(objects=OBJECTS):
    images, annotations = [], []
    for k, (name, box, texts) in enumerate(objects):
        for text in texts:
            common = {"id": len(images), "original_id": k}
            images.append(
                {
                    **common,
                    "file_name": name,
                    "width": 12,
                    "height": 10,
                    "caption": text,
                    "dataset_name": "refcoco",
                    "tokens_negative": [],
                }
            )
            annotations.append(
                {
                    **common,
                    "image_id": common["id"],
                    "bbox": box,
                    "area": 1.0,
                    "iscrowd": 0,
                    "category_id": 18,
                    "tokens_positive": [],
                }
            )
    return json.dumps({"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": []})


def shikra(level="refcoco"):
    rows = [
        {"img_path": name, "expression": text, "bbox": [x, y, x + w, y + h], "dataset_name": level, "height": 10, "width": 12}
        for name, (x, y, w, h), texts in OBJECTS
        for text in texts
    ]
    return "".join(json.dumps(r) + "\n" for r in rows)


def table(objects=OBJECTS):
    rows = [
        {"question_id": str(k), "image": {"bytes": small.image_bytes(SEED[name]), "path": None}, "question": "Where?", "answer": texts,
         "segmentation": [], "bbox": box, "iscrowd": 0, "file_name": name.replace(".jpg", f"_{k}.jpg")}
        for k, (name, box, texts) in enumerate(objects)
    ]  # fmt: skip
    features = datasets.Features({
        "question_id": datasets.Value("string"), "image": datasets.Image(), "question": datasets.Value("string"),
        "answer": datasets.List(datasets.Value("string")), "segmentation": datasets.List(datasets.Value("float32")),
        "bbox": datasets.List(datasets.Value("float32")), "iscrowd": datasets.Value("int8"), "file_name": datasets.Value("string"),
    })  # fmt: skip
    return datasets.Dataset.from_list(rows, features=features)


@pytest.fixture
def data(tmp_path):
    small.write(tmp_path / "refcoco/mdetr_annotations/finetune_refcoco_testA.json", mdetr())
    for name, seed in SEED.items():
        small.write(tmp_path / "coco/train2014" / name, small.image_bytes(seed))
    return tmp_path


def test_the_three_forms_are_one_set(data, monkeypatch):
    spec = task_card("refcoco").data
    theirs = read_questions(spec, str(data))
    assert [(q.image_id, q.question, q.answer) for q in theirs.questions] == [
        (A, ASKED.format("the dog"), "[0.10, 0.20, 0.45, 0.51]"),
        (A, ASKED.format("left dog"), "[0.10, 0.20, 0.45, 0.51]"),
        (A, ASKED.format("right dog"), "[0.50, 0.10, 1.00, 0.95]"),
        (B, ASKED.format("everything"), "[0.00, 0.00, 1.00, 1.00]"),
    ]
    assert theirs.questions[0].answers == ("[0.10417, 0.20000, 0.44667, 0.50700]",)
    assert theirs.images.left_out == {"expressions that are blank": 1} and theirs.name == "refcoco"
    (data / "refcoco/mdetr_annotations/finetune_refcoco_testA.json").unlink()
    with pytest.raises(UsageError, match=r"the file of refcoco's testA split is missing.*zenodo.org/record/4729015"):
        read_questions(spec, str(data))
    small.write(data / "refcoco/REC_refcoco_unc_testA.jsonl", shikra())
    assert fingerprint_of(read_questions(spec, str(data))) == fingerprint_of(theirs)
    monkeypatch.setattr(hub, "load_split", lambda source, config: HubTable(table()))
    assert fingerprint_of(read_questions(spec, "hub")) == fingerprint_of(theirs)


def test_places_from_files_and_hub(data, monkeypatch):
    (data / "refcoco/mdetr_annotations/finetune_refcoco_testA.json").rename(data / "refcoco/finetune_refcoco+_testA.json")
    spec = task_card("refcoco-places").data
    files = read_questions(spec, str(data))
    assert files.images.left_out == {"expressions whose image has all its boxes at one place": 1, "expressions that are blank": 1}
    assert [(q.image_id, q.meta["stem"]) for q in files.questions] == [
        (A, f"Where is {t}?") for t in ("the dog", "left dog", "right dog")
    ]
    for q in files.questions:
        assert set(q.meta["choices"]) == {"top left", "center right"}
        assert q.meta["choices"]["AB".index(q.answer)] == ("center right" if "right" in q.meta["stem"] else "top left")
        assert q.question == "\n".join([q.meta["stem"], *(f"{a}. {c}" for a, c in zip("AB", q.meta["choices"], strict=True))])
    monkeypatch.setattr(hub, "load_split", lambda source, config: HubTable(table()))
    assert fingerprint_of(read_questions(spec, "hub")) == fingerprint_of(files)


@pytest.mark.parametrize(
    ("centre", "place"),
    [((0, 0), "top left"), ((0.334, 0.401), "center middle"), ((0.66, 0.639), "center middle"),
     ((0.67, 0.64), "bottom right"), ((0.32, 0.7), "bottom left")],
)  # fmt: skip
def test_the_place_of_a_box(centre, place):
    x, y = centre
    assert place_of((x - 0.25, y - 0.25, x + 0.25, y + 0.25)) == place


def test_shikras_training_file_holds_all_three(tmp_path):
    small.write(tmp_path / "refcoco/REC_ref3_train.jsonl", shikra("refcoco") + shikra("refcoco+") + shikra("refcoco+"))
    for name, seed in SEED.items():
        small.write(tmp_path / "refcoco/train2014" / name, small.image_bytes(seed))
    counts = {}
    for level in ("refcoco", "refcoco+", "refcocog"):
        spec = DataSpec(layout="refcoco", directory="refcoco", split="train", level=level)
        try:
            counts[level] = len(read_questions(spec, str(tmp_path)).questions)
        except UsageError as e:
            counts[level] = str(e)
    assert counts["refcoco"] == 4 and counts["refcoco+"] == 8 and "holds no questions" in counts["refcocog"]


@pytest.mark.parametrize(
    ("objects", "words"),
    [
        ([(A, [1.0, 2.0, 0.0, 3.0], ["dog"])], r"image 1: field `bbox`: \[1.0, 2.0, 1.0, 5.0\].*has no area"),
        ([(A, [5.0, 2.0, 9.0, 3.0], ["dog"])], "lies beyond its image of 12 x 10"),
        ([(A, [5.0, 2.0, 1.0], ["dog"])], "annotation 1: field `bbox`"),
        ([(A, [5.0, 2.0, 1.0, float("nan")], ["dog"])], "annotation 1: field `bbox.3`"),
        ([(A, [5.0, 2.0, 1.0, "3"], ["dog"])], "annotation 1: field `bbox.3`"),
        ([("", [5.0, 2.0, 1.0, 3.0], ["dog"])], "image 1: field `file_name`"),
        ([(A, [1.0, 2.0, 4.0, 3.0], [""])], "holds no questions"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, objects, words):
    small.write(tmp_path / "refcoco/finetune_refcoco_testA.json", mdetr(objects))
    with pytest.raises(UsageError, match=words):
        read_questions(task_card("refcoco").data, str(tmp_path))


def test_files_that_are_not_whole_are_refused(tmp_path):
    file, spec = tmp_path / "refcoco/finetune_refcoco_testA.json", task_card("refcoco").data
    whole = json.loads(mdetr())
    small.write(file, json.dumps({**whole, "annotations": whole["annotations"][1:]}))
    with pytest.raises(UsageError, match='image 1: expression "0" has no annotation'):
        read_questions(spec, str(tmp_path))
    small.write(file, json.dumps({**whole, "annotations": whole["annotations"] + whole["annotations"][:1]}))
    with pytest.raises(UsageError, match='expression "0" has two boxes'):
        read_questions(spec, str(tmp_path))
    small.write(file, json.dumps(whole))
    with pytest.raises(UsageError, match=r"2 of 2 images are missing.*train2014"):
        read_questions(spec, str(tmp_path))
    with pytest.raises(UsageError, match=r"field `data.level`: \"refclef\": expected refcoco, refcoco\+, refcocog"):
        read_questions(spec.model_copy(update={"level": "refclef"}), str(tmp_path))


def test_tables_that_mix_two_splits_are_refused(monkeypatch):
    spec = task_card("refcoco").data
    monkeypatch.setattr(hub, "load_split", lambda source, config: HubTable(table()))
    monkeypatch.setattr("levl_eval.data.referring.MIXED", {("refcoco", "val"): (3, 2)})
    assert len(read_questions(spec, "hub").questions) == 4
    mixed = spec.model_copy(update={"hub": spec.hub.model_copy(update={"split": "val"})})
    with pytest.raises(UsageError, match=r"split val: holds 3 objects, those of UNC's split \(2\) and of Google's"):
        read_questions(mixed, "hub")


def test_rows_of_one_image_with_other_pixels_are_refused(monkeypatch):
    rows = table()
    other = datasets.Dataset.from_list(
        [{**r, "image": {"bytes": small.image_bytes(7 + k), "path": None}}
         for k, r in enumerate(rows.cast_column("image", datasets.Image(decode=False)))],
        features=rows.features,
    )  # fmt: skip
    monkeypatch.setattr(hub, "load_split", lambda source, config: HubTable(other))
    with pytest.raises(UsageError, match="hold other images"):
        read_questions(task_card("refcoco").data, "hub")


def test_data_check_knows_them(data):
    told = {f.set: (f.level, f.message) for f in check(data)}
    assert told["refcoco/testA"] == ("note", "is not the published release (5,657 questions, 750 images)")
    findings = [f for f in check(data) if f.set == "refcoco/testA"]
    assert [f.level for f in findings] == ["ok", "note"] and findings[0].message == "4 questions about 2 images"


def test_scores_against_a_plain_formulation(data):
    questions = read_questions(task_card("refcoco").data, str(data)).questions
    given = ["[0.10, 0.20, 0.45, 0.51]", "no idea", "[0.50, 0.10, 1.00, 0.52]", "[0.2, 0.2, 0.8, 0.8]"]
    out = estimates("box", questions, {q.question_id: t for q, t in zip(questions, given, strict=True)})
    whole = (1.0 - 0.5) * (0.95 - 0.1)
    half = (1.0 - 0.5) * (0.52 - 0.1) / whole  # 0.494: not yet right
    assert out["accuracy"].value == 0.25 and out["accuracy@0.3"].value == 0.75 and out["accuracy@0.9"].value == 0.25
    exact = (0.44667 - 0.10417) * (0.507 - 0.2) / ((0.45 - 0.1) * (0.51 - 0.2))
    assert out["box_iou"].value == pytest.approx((exact + 0 + half + 0.36) / 4, abs=1e-6)
    assert out["unparsed"].value == 0.25 and out["center_accuracy"].value == 0.75 and out["ceiling_rounded"].value == 1.0
    assert {"floor_median_box", "gain_over_median_box"} <= out.keys()
    failed = estimates("box", questions, {questions[0].question_id: given[0]})
    assert failed["accuracy"].value == 0.25 and failed["unparsed"].value == 0.75


def test_references_that_are_no_boxes_are_refused(data):
    questions = read_questions(DataSpec(layout="refcoco", directory="refcoco", split="testA"), str(data)).questions
    from dataclasses import replace

    with pytest.raises(UsageError, match=r"scorer box: question 0: its answer is no box"):
        estimates("box", [replace(questions[0], answer="left", answers=())], {"0": "[0, 0, 1, 1]"})


@pytest.mark.parametrize("task", ["refcoco", "refcoco-plus", "refcocog", "refcoco-places"])
def test_on_the_scenes_sight_is_right_and_a_constant_is_not(task, world):
    card = task_card(task, default_recipe="scenes")
    assert card.recipe.name == ("scenes-reading" if task == "refcoco-places" else "scenes-boxes")
    test = read_questions(card.data, str(world))
    whole = estimates(card.scorer, test.questions, {q.question_id: q.answer for q in test.questions})
    assert whole["accuracy"].value == 1.0
    if task == "refcoco-places":
        assert 0.2 < whole["floor_chance"].value <= 0.5
    else:
        assert len(test.images) == 16 and whole["floor_median_box"].value < 0.3 and whole["ceiling_rounded"].value == 1.0
    trained = [read_questions(s, str(world)) for s in card.recipe.data]
    assert [len(s.images) for s in trained] == ([24, 20] if task == "refcoco-places" else [24] * 3) and not {
        i for s in trained for i in s.images.ids
    } & set(test.images.ids)
