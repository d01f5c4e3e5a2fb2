"""Sets of the hub by their shipped cards, from caches made here:
which revision is read and recorded, and the tables of masks, captions and conversations."""

from __future__ import annotations

import io
import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from huggingface_hub import constants
from PIL import Image

from levl_eval.cards import DataSpec, HubSource
from levl_eval.cards.registry import names, recipe_card, task_card
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.progress import Progress
from levl_eval.data.colours import voc_colours
from levl_eval.data.fingerprint_cache import FingerprintCache
from levl_eval.data.readers import read_captions, read_questions, read_segmentation
from levl_eval.data.set_identity import of_set
from levl_eval.runner.evaluate import evaluate
from tests.data import small_sets as small
from tests.engines.vlm.models import make

pytestmark = pytest.mark.hub

PINNED = "4db1276663dfa5eb8ad16a52d24c31a09e470896"
OTHER = "b" * 40


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "tables")
    return tmp_path / "hub"


def pope(count: int):
    return small.table_of([
        {"id": f"{i}", "question_id": str(i), "question": f"Is there a {i}?", "answer": "yes", "image_source": f"COCO_val2014_{i:012d}",
         "image": small.image_bytes(i, "JPEG"), "category": "random"} for i in range(count)
    ])  # fmt: skip


def snapshot(cache: Path, commit: str, count: int, ref: str = "main") -> None:
    small.hub_snapshot(cache, "lmms-lab/POPE", {"default": {"test": pope(count)}}, commit, ref)


def read(**hub):
    return read_questions(DataSpec(layout="pope", hub=HubSource(repo="lmms-lab/POPE", split="test", **hub)), "hub")


# ---- which revision


def test_a_cards_pin_is_read_where_it_is_cached(cache):
    snapshot(cache, PINNED, 2)
    snapshot(cache, OTHER, 3)
    found = read_questions(task_card("pope").data, "hub")
    assert (len(found.questions), found.images.revision, found.images.remark) == (2, PINNED, "")


@pytest.mark.parametrize("ref", ["main", ""])
def test_without_a_network_another_cached_revision_is_read_and_said(cache, ref):
    snapshot(cache, OTHER, 3, ref)
    found = read_questions(task_card("pope").data, "hub")
    assert (len(found.questions), found.images.revision) == (3, OTHER)
    assert found.images.remark == "revision bbbbbbbbbbbb was read in place of the card's 4db1276663df, which is not cached"


def test_a_revision_that_the_user_names_is_that_one_or_none(cache):
    snapshot(cache, OTHER, 3)
    with pytest.raises(UsageError, match="cannot be reached and its cache holds no copy"):
        read(revision=PINNED)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("split", "val", "has no such split: val; it has test"),
        ("questions", "full", "has no such configuration: full; it has default"),
    ],
)
def test_what_another_revision_lacks_is_told_as_such(field, value, words, cache):
    snapshot(cache, OTHER, 3)
    card = task_card("pope").data
    with pytest.raises(UsageError, match=words):
        read_questions(card.model_copy(update={"hub": card.hub.model_copy(update={field: value})}), "hub")


def prepared(cache: Path, commit: str, count: int) -> None:
    """Tables as `datasets` keeps those of a commit."""
    root = cache.parent
    repo = small.repository(root / f"src{commit[:3]}" / "POPE", {"default": ("test", pope(count))})
    datasets.load_dataset(str(repo), cache_dir=str(root / f"made{commit[:3]}"))
    (made,) = (root / f"made{commit[:3]}").glob("*/default/*/*/dataset_info.json")
    target = root / "tables" / "lmms-lab___pope" / "default" / made.parent.parent.name / commit
    target.parent.mkdir(parents=True, exist_ok=True)
    made.parent.rename(target)


def test_tables_prepared_from_another_revision_are_not_taken_for_the_named_one(cache):
    prepared(cache, PINNED, 2)
    prepared(cache, OTHER, 3)
    for revision, count in ((PINNED, 2), (OTHER, 3)):
        found = read(revision=revision)
        assert (len(found.questions), found.images.revision) == (count, revision)
    with pytest.raises(UsageError, match="cannot be reached"):
        read(revision="c" * 40)
    pin = read(pinned="c" * 40)
    assert pin.images.revision in (PINNED, OTHER) and "in place of the card's cccccccccccc" in pin.images.remark


@pytest.mark.slow
def test_the_record_holds_the_commit_and_the_screen_says_what_was_read_instead(cache, tmp_path):
    lines: list[str] = []

    class Collected(Progress):
        def say(self, text: str) -> None:
            lines.append(text)

    snapshot(cache, OTHER, 3)
    small.write(tmp_path / "a.png", small.image_bytes(0))
    train = small.write(tmp_path / "train.jsonl", json.dumps({"image": "a.png", "question": "what", "answer": "x"}))
    llm = make("llama", tmp_path / "llm", context=512)
    settings = [f"pope.recipe={_recipe(tmp_path, train)}", "pope.prompt.max_new_tokens=2"]
    (record,) = evaluate(
        ["random:nano"], ["pope"], data="hub", llm=llm.name, settings=settings,
        out=tmp_path / "out", cache=tmp_path / "c", progress=Collected()
    )  # fmt: skip
    assert record.status == "done", record.reason
    assert record.data["revisions"] == {"lmms-lab-encoder/POPE": OTHER}
    assert "was read in place of the card's 4db1276663df" in record.data["remarks"]["lmms-lab-encoder/POPE"]
    assert any(line.startswith("pope: lmms-lab-encoder/POPE: revision bbbbbbbbbbbb was read in place") for line in lines)


def _recipe(folder, train):
    file = folder / "own.yaml"
    file.write_text(f"kind: recipe\nname: own\ndata:\n  - {{layout: vqa, questions: {train}, images: {folder}}}\nsteps: 1\n")
    return file


def test_every_hub_source_of_a_card_is_pinned_by_a_whole_commit_or_not_at_all():
    for name in names("tasks"):
        for part in ("data", "train"):
            hub = getattr(getattr(task_card(name), part, None), "hub", None)
            assert hub is None or hub.pinned is None or len(hub.pinned) == 40, name


# ---- masks


def png(pixels: np.ndarray, palette: np.ndarray | None = None) -> bytes:
    out = io.BytesIO()
    image = Image.fromarray(pixels)
    if palette is not None:
        image = Image.fromarray(pixels, "L").convert("P")
        image.putpalette(palette.reshape(-1).tolist())
        image.putdata(pixels.reshape(-1).tolist())
    image.save(out, "PNG")
    return out.getvalue()


VALUES = np.array([[0, 1, 20], [255, 7, 15]], np.uint8)


def voc_table(mask: bytes):
    return small.table_of([{"image": small.image_bytes(0, "JPEG"), "mask": mask}], ("image", "mask"))


@pytest.mark.parametrize("kind", ["palette", "grey", "colours"])
def test_voc_by_palette_by_number_and_by_the_devkits_colours(kind, cache):
    colours = voc_colours(256)
    mask = {"palette": png(VALUES, colours), "grey": png(VALUES), "colours": png(colours[VALUES])}[kind]
    small.hub_snapshot(
        cache, "nateraw/pascal-voc-2012", {"data": {"train": voc_table(mask), "val": voc_table(mask)}}, readme=False
    )
    found = read_segmentation(task_card("voc").data, "hub")
    assert found.mask(found.images.ids[0]).tolist() == VALUES.tolist() and len(found.classes) == 21
    assert found.images.remark.startswith("revision ") and len(found.images.revision) == 40


def test_a_colour_that_voc_does_not_have_is_refused_with_its_row(cache):
    pixels = voc_colours(256)[VALUES]
    pixels[0, 0] = (1, 2, 3)
    small.hub_snapshot(cache, "nateraw/pascal-voc-2012", {"data": {"val": voc_table(png(pixels))}}, readme=False)
    found = read_segmentation(task_card("voc").data, "hub")
    with pytest.raises(LevlError, match=r"row 0: colour \(1, 2, 3\) of 1 pixels is none of the 22"):
        found.mask(found.images.ids[0])


def stuff(values):
    mask = png(np.array([values], np.uint8))
    return {"data": {"val": voc_table(mask)}}


def test_coco_stuff_by_the_published_ids(cache):
    small.hub_snapshot(cache, "GATE-engine/COCOStuff164K", stuff([0, 181, 255, 91]))
    found = read_segmentation(task_card("coco-stuff").data, "hub")
    names = [found.classes[k] if k != 255 else None for k in found.mask("00000000")[0]]
    assert names == ["person", "wood", None, "banner"] and len(found.classes) == 171
    coarse = read_segmentation(task_card("coco-stuff-27").data, "hub")
    assert [coarse.classes[k] if k != 255 else None for k in coarse.mask("00000000")[0]] == ["person", "solid", None, "textile"]


@pytest.mark.parametrize("value", [11, 90, 182, 254])
def test_coco_stuff_numbered_anew_is_not_read_as_the_published_ids(value, cache, tmp_path):
    small.hub_snapshot(cache, "GATE-engine/COCOStuff164K", stuff([0, value]))
    found = read_segmentation(task_card("coco-stuff").data, "hub")
    with pytest.raises(LevlError, match=f"row 0: label {value} stands for nothing in the published files"):
        found.mask("00000000")
    small.write(tmp_path / "coco_stuff" / "val2017" / "a.jpg", small.image_bytes(0, "JPEG"))
    small.write(tmp_path / "coco_stuff" / "annotations" / "val2017" / "a.png", png(np.array([[0, value]], np.uint8)))
    files = read_segmentation(task_card("coco-stuff").data, str(tmp_path))
    with pytest.raises(LevlError, match=f"a.png: label {value} stands for nothing"):
        files.mask("a.jpg")


# ---- captions


def karpathy_rows(split="test"):
    return [
        {"image": small.image_bytes(k, "JPEG"), "caption": [f"cap {k} {j}" for j in range(5)], "sentids": ["1"],
         "split": split if k else "train", "filename": f"{k}.jpg"} for k in range(3)
    ]  # fmt: skip


def captions_snapshot(cache, repo, rows):
    small.hub_snapshot(cache, repo, {"TEST/test": {"0000": small.table_of(rows)}}, ref="refs/convert/parquet", readme=False)
    (file,) = cache.glob(f"datasets--{repo.replace('/', '--')}/snapshots/*/TEST/test/*.parquet")
    file.rename(file.with_name("0000.parquet"))


@pytest.mark.parametrize(
    ("task", "repo"),
    [("flickr30k", "nlphuji/flickr_1k_test_image_text_retrieval"), ("coco-5k", "nlphuji/mscoco_2014_5k_test_image_text_retrieval"),
     ("coco-1k", "nlphuji/mscoco_2014_5k_test_image_text_retrieval")],
)  # fmt: skip
def test_captions_by_karpathys_split(task, repo, cache, tmp_path):
    captions_snapshot(cache, repo, karpathy_rows())
    card = task_card(task)
    found = read_captions(card.data, "hub")
    assert found.images.ids == ("1.jpg", "2.jpg") and found.owner.tolist() == [0] * 5 + [1] * 5
    assert found.captions[5] == "cap 2 0" and found.name == card.data.directory and len(found.images.revision) == 40
    assert len(read_captions(card.data, "hub", 1).images) == 1
    # The same images and captions from files have the same fingerprint.
    images = [
        {"filename": r["filename"], "split": r["split"], "sentences": [{"raw": c} for c in r["caption"]]} for r in karpathy_rows()
    ]
    root = tmp_path / card.data.directory
    small.write(root / "dataset_x.json", json.dumps({"images": images, "dataset": card.data.directory}))
    for r in karpathy_rows():
        small.write(root / "images" / r["filename"], r["image"])
    known = FingerprintCache(tmp_path / "known")
    assert (
        of_set(known, "captions", card.data, str(tmp_path)).fingerprint == of_set(known, "captions", card.data, "hub").fingerprint
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"caption": []}, "row 1: field `captions`.*at least 1"),
        ({"caption": ["a", " "]}, "row 1: field `captions.1`: expected text that is not blank"),
        ({"filename": "2.jpg"}, "rows 1 and 2 are both about image 2.jpg"), ({"filename": "a\x00"}, "null character"),
        ({"image": None}, "row 1: .*holds no image"),
    ],
)  # fmt: skip
def test_captions_that_do_not_fit_are_refused_by_their_row(change, words, cache):
    rows = karpathy_rows()
    rows[1] |= change
    captions_snapshot(cache, "nlphuji/flickr_1k_test_image_text_retrieval", rows)
    with pytest.raises(LevlError, match=words):
        read_captions(task_card("flickr30k").data, "hub")


def test_captions_of_another_split_or_column_are_told(cache):
    captions_snapshot(cache, "nlphuji/flickr_1k_test_image_text_retrieval", karpathy_rows("val"))
    with pytest.raises(UsageError, match="holds no images of split 'test'; it has train, val"):
        read_captions(task_card("flickr30k").data, "hub")
    spec = task_card("flickr30k").data
    with pytest.raises(UsageError, match="field 'words' is missing; its columns are"):
        read_captions(spec.model_copy(update={"hub": spec.hub.model_copy(update={"label": "words"})}), "hub")


# ---- LLaVA


def conversation(*turns):
    return [{"from": ("human", "gpt")[k % 2], "value": v} for k, v in enumerate(turns)]


def llava_table(rows):
    features = datasets.Features({
        "id": datasets.Value("string"), "conversations": [{"from": datasets.Value("string"), "value": datasets.Value("string")}],
        "data_source": datasets.Value("string"), "image": datasets.Image(),
    })  # fmt: skip
    return datasets.Dataset.from_list(rows, features=features)


def test_llava_next_conversations_rows_of_text_alone_are_counted(cache):
    image = {"bytes": small.image_bytes(1, "JPEG"), "path": None}
    rows = [
        {
            "id": "a",
            "conversations": conversation("<image>\nWhat?", "A dog.", "Where?", "Here."),
            "data_source": "x",
            "image": image,
        },
        {"id": "b", "conversations": conversation("Hello", "Hi"), "data_source": "x", "image": None},
    ]
    small.hub_snapshot(cache, "lmms-lab/LLaVA-NeXT-Data", {"default": {"train": llava_table(rows)}})
    found = read_questions(recipe_card("llava-next").data[0], "hub")
    assert [(q.question, q.answer) for q in found.questions] == [("What?", "A dog."), ("Where?", "Here.")]
    assert len(found.images) == 1 and dict(found.images.left_out) == {"entries without an image": 1}
    assert found.images.open("00000000").size == (12, 10)


def test_llava_turns_in_the_wrong_order_are_refused_by_their_row(cache):
    image = {"bytes": small.image_bytes(1, "JPEG"), "path": None}
    turns = conversation("What?", "A dog.")[::-1]
    small.hub_snapshot(
        cache,
        "lmms-lab/LLaVA-NeXT-Data",
        {"default": {"train": llava_table([{"id": "a", "conversations": turns, "data_source": "", "image": image}])}},
    )
    with pytest.raises(UsageError, match="row 0: turns 1 and 2 are no question"):
        read_questions(recipe_card("llava-next").data[0], "hub")
