"""Content fingerprints: one set has one, from files or hub and under any name; whatever moves a number changes it."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from levl_eval.cards import DataSpec, HubSource
from levl_eval.core.errors import LevlError
from levl_eval.data.fingerprint_cache import FingerprintCache, using
from levl_eval.data.fingerprints import content_of, fingerprint_of
from levl_eval.data.readers import read_captions, read_classification, read_depth, read_questions, read_segmentation
from tests.data import small_sets as small


@pytest.fixture(autouse=True)
def _own_tables(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "tables")


def gqa(root):
    return content_of(read_questions(small.gqa_spec(), str(root)))


VQA, POPE = DataSpec(layout="vqav2", directory="vqav2", split="val2014"), DataSpec(layout="pope", directory="pope")


def test_gqa_from_files_and_hub_under_other_ids_and_in_another_order(tmp_path):
    files, repo = small.gqa_files(tmp_path / "files"), small.gqa_repository(tmp_path / "owner" / "GQA")
    ours = gqa(files)
    hub = content_of(read_questions(small.gqa_spec(repo), "hub"))
    assert hub.fingerprint == ours.fingerprint and hub.order != ours.order
    moved = shutil.copytree(repo, tmp_path / "other-owner" / "GQA2")
    assert content_of(read_questions(small.gqa_spec(moved), "hub")) == hub
    renamed = small.gqa_files(tmp_path / "renamed", small.gqa_rows(lambda i: f"z{9 - i}"))
    assert gqa(renamed) == ours  # ids, file names and what is entailed are spelled otherwise
    reverse = gqa(small.gqa_files(tmp_path / "reverse", reverse=True))
    assert reverse.fingerprint == ours.fingerprint and reverse.order != ours.order
    assert gqa(shutil.copytree(files, tmp_path / "elsewhere")) == ours
    part = content_of(read_questions(small.gqa_spec(), str(files), 2))
    assert part.fingerprint != ours.fingerprint
    by_hub = content_of(read_questions(small.gqa_spec(repo), "hub", 2))
    assert by_hub.fingerprint not in (part.fingerprint, ours.fingerprint)  # the hub's first two images are others


@pytest.mark.parametrize(
    "change",
    [
        {"answer": "maybe"}, {"question": "Is it not?"}, {"types": {"structural": "query", "semantic": "obj", "detailed": "existC"}},
        {"entailed": ["q1"]}, {"semantic": []}, {"imageId": "n2"}, {"groups": {"global": "colour", "local": "x"}},
    ],
    ids=lambda c: next(iter(c)),
)  # fmt: skip
def test_every_part_of_a_gqa_question_counts(tmp_path, change):
    rows = small.gqa_rows()
    before = gqa(small.gqa_files(tmp_path / "a", rows))
    rows[5] = {**rows[5], **change}
    assert gqa(small.gqa_files(tmp_path / "b", rows)).fingerprint != before.fingerprint


def test_what_moves_no_number_does_not_count(tmp_path):
    rows = small.gqa_rows()
    before = gqa(small.gqa_files(tmp_path / "a", rows))
    rows[5] = {
        **rows[5],
        "isBalanced": False,
        "fullAnswer": "No, it is not.",
        "groups": {"global": None},
        "entailed": ["elsewhere"],
    }
    assert gqa(small.gqa_files(tmp_path / "b", rows)) == before


def test_vqav2_and_pope_from_files_and_hub(tmp_path):
    files = small.pope_files(small.vqav2_files(tmp_path / "files"))
    repo = small.vqav2_repository(tmp_path / "VQAv2", files)
    ours = read_questions(VQA, str(files))
    hub = read_questions(VQA.model_copy(update={"hub": HubSource(repo=str(repo), split="validation")}), "hub")
    assert content_of(hub) == content_of(ours)
    path = files / "vqav2" / "v2_mscoco_val2014_annotations.json"
    notes = json.loads(path.read_text())
    notes["annotations"][3]["answers"][9]["answer"] = "another"  # one of ten answers of one question
    path.write_text(json.dumps(notes))
    assert fingerprint_of(read_questions(VQA, str(files))) != fingerprint_of(ours)

    repo = small.pope_repository(tmp_path / "POPE")
    ours = read_questions(POPE, str(files))
    hub = read_questions(POPE.model_copy(update={"hub": HubSource(repo=str(repo), split="test")}), "hub")
    assert fingerprint_of(hub) == fingerprint_of(ours) and content_of(hub).order != content_of(ours).order
    path = files / "pope" / "coco_pope_popular.json"
    path.write_text(path.read_text().replace('"yes"', '"no"', 1))
    assert fingerprint_of(read_questions(POPE, str(files))) != fingerprint_of(ours)


def test_masks_from_files_and_hub(tmp_path):
    files, repo = small.ade_files(tmp_path / "files"), small.ade_repository(tmp_path / "parse")
    ours = fingerprint_of(read_segmentation(small.ade_spec(), str(files)))
    hub = read_segmentation(small.ade_spec(repo), "hub")
    assert fingerprint_of(hub) == ours
    first = hub.images.ids[0]
    assert (hub.mask(first) == read_segmentation(small.ade_spec(), str(files)).mask("v0.jpg")).all()
    for more in (
        {"reduce_zero_label": False},
        {"ignore_index": 254},
        {"classes": ["tree", "sky", "road"]},
        {"classes": ["sky", "tree", "way"]},
    ):
        assert fingerprint_of(read_segmentation(small.ade_spec(**more), str(files))) != ours, more
    mask = next((files / "ade20k").rglob("v2.png"))
    pixels = np.array(Image.open(mask))
    pixels[3, 3] = 1 + pixels[3, 3] % 3
    Image.fromarray(pixels).save(mask)
    assert fingerprint_of(read_segmentation(small.ade_spec(), str(files))) != ours
    # Named classes are those of the published list, so that a copy without it and the hub agree.
    plain = small.ade_spec(classes=None)
    assert read_segmentation(plain, str(files)).classes[:2] == ("wall", "building, edifice")
    assert read_segmentation(small.ade_spec(repo, classes=None), "hub").classes == read_segmentation(plain, str(files)).classes
    with pytest.raises(LevlError, match=r"parse: row 0: label 3 is beyond the 2 classes"):
        read_segmentation(small.ade_spec(repo, classes=["a", "b"]), "hub").mask(first)


def test_classes_from_files_and_hub(tmp_path):
    files, repo = small.class_files(tmp_path / "files"), small.class_repository(tmp_path / "pets")

    def ours():
        return content_of(read_classification(small.class_spec(), str(files)))

    before = ours()
    assert content_of(read_classification(small.class_spec(repo), "hub")) == before
    folder = files / "classification" / "test"
    (folder / "cat" / "0.png").rename(folder / "cat" / "zz.png")
    renamed = ours()
    assert renamed.fingerprint == before.fingerprint and renamed.order != before.order
    (folder / "cat" / "zz.png").rename(folder / "dog" / "zz.png")  # one label
    assert ours().fingerprint != before.fingerprint
    (folder / "dog" / "zz.png").rename(folder / "cat" / "0.png")
    assert ours() == before
    (folder / "cat").rename(folder / "cow")  # one class name
    assert ours().fingerprint != before.fingerprint


def test_arrays_of_cifar_and_the_hubs_png_are_one_set(tmp_path):
    import io

    import datasets

    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    labels = np.array([1, 0, 1, 0], np.uint8)
    flat = pixels.transpose(0, 3, 1, 2).reshape(4, -1)
    small.write(tmp_path / "cifar10" / "test_batch.bin", np.concatenate([labels[:, None], flat], 1).tobytes())
    small.write(tmp_path / "cifar10" / "batches.meta.txt", "airplane\nautomobile\n")
    rows = []
    for p, y in zip(pixels, labels.tolist(), strict=True):
        out = io.BytesIO()
        Image.fromarray(p).save(out, "PNG")
        rows.append({"img": out.getvalue(), "label": y})
    table = small.table_of(rows, ("img",), label=datasets.ClassLabel(names=["airplane", "automobile"]))
    repo = small.repository(tmp_path / "repo", {"default": ("test", table)})
    spec = DataSpec(layout="cifar10", directory="cifar10", split="test", hub=HubSource(repo=str(repo), split="test"))
    assert content_of(read_classification(spec, "hub")) == content_of(read_classification(spec, str(tmp_path)))


def test_captions_and_depth(tmp_path):
    for k in range(3):
        small.write(tmp_path / "images" / f"{k}.png", small.image_bytes(k))
    file = tmp_path / "captions.csv"
    spec = DataSpec(layout="captions", annotations=str(file))
    lines = ["image,caption", *(f"{k}.png,number {k} {j}" for k in range(3) for j in range(2))]

    def captions(some):
        file.write_text("\n".join(some))
        return content_of(read_captions(spec, ""))

    before = captions(lines)
    swapped = captions([lines[0], lines[2], lines[1], *lines[3:]])
    assert swapped.fingerprint == before.fingerprint and swapped.order != before.order
    assert captions([*lines[:-1], "2.png,number 0"]).fingerprint != before.fingerprint
    for k in range(3):
        small.write(tmp_path / "maps" / f"{k}.png", b"")
        Image.fromarray(np.full((10, 12), 1000 + k, np.uint16)).save(tmp_path / "maps" / f"{k}.png")
    depth = DataSpec(layout="depth", images=str(tmp_path / "images"), annotations=str(tmp_path / "maps"))
    first = fingerprint_of(read_depth(depth, "", 1000.0))
    assert fingerprint_of(read_depth(depth, "", 5000.0)) != first
    Image.fromarray(np.full((10, 12), 1007, np.uint16)).save(tmp_path / "maps" / "1.png")
    assert fingerprint_of(read_depth(depth, "", 1000.0)) != first


def test_which_questions_share_an_image_counts(tmp_path):
    """Intervals resample images: two questions about one image are not two questions about copies of it."""
    for name in ("a.png", "b.png"):
        small.write(tmp_path / name, small.image_bytes(0))
    file = tmp_path / "q.jsonl"

    def of(images):
        file.write_text("\n".join(json.dumps({"image": i, "question": f"{k}?", "answer": "x"}) for k, i in enumerate(images)))
        return fingerprint_of(read_questions(DataSpec(layout="vqa", questions=str(file)), ""))

    assert of(["a.png", "a.png"]) != of(["a.png", "b.png"]) and of(["a.png", "a.png"]) == of(["b.png", "b.png"])


def test_a_set_too_large_is_hashed_in_part_and_says_so(tmp_path):
    files = small.class_files(tmp_path, count=60)
    whole = read_classification(small.class_spec(), str(files))
    with using(FingerprintCache(None, sample_above=100)):
        part = read_classification(small.class_spec(), str(files))
        again = fingerprint_of(read_classification(small.class_spec(), str(files)))
    assert whole.images.whole is None and part.images.whole is not None and part.images.whole < 120
    assert fingerprint_of(part) == again != fingerprint_of(whole)


def test_an_unreadable_image_is_one_line(tmp_path):
    files = small.class_files(tmp_path)
    folder = files / "classification" / "test" / "cat" / "dir.png"
    folder.mkdir()
    with pytest.raises(LevlError, match=r"dir\.png: is a directory") as e:
        read_classification(small.class_spec(), str(files))
    assert "\n" not in str(e.value)
