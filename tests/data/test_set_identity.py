"""What a set is, known without reading it; and never once any file that its reader looks at has changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from levl_eval.cards import DataSpec, HubSource, layouts
from levl_eval.core.errors import LevlError
from levl_eval.data import readers, set_identity
from levl_eval.data.fingerprint_cache import FingerprintCache, using
from levl_eval.data.places import scope_of
from levl_eval.data.set_identity import of_set
from tests.data import small_sets as small

OLD = 0.08  # s; what has changed within 0.05 s is not remembered


@pytest.fixture(autouse=True)
def _own_tables(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "tables")


@pytest.fixture
def read(monkeypatch):
    """How often a reader was called."""
    calls = []
    plain = set_identity.read_set

    def counted(*args):
        calls.append(args)
        return plain(*args)

    monkeypatch.setattr(set_identity, "read_set", counted)
    return calls


@pytest.fixture
def cache(tmp_path):
    return FingerprintCache(tmp_path / "cache")


VQA, POPE = DataSpec(layout="vqav2", directory="vqav2", split="val2014"), DataSpec(layout="pope", directory="pope")


def known(cache, read, kind, spec, data, **options):
    """The identity, which must be remembered by the second call."""
    time.sleep(OLD)
    first = of_set(cache, kind, spec, str(data), **options)
    count = len(read)
    assert of_set(cache, kind, spec, str(data), **options) == first and len(read) == count, "not remembered"
    return first


def test_all_kinds_are_remembered_and_say_what_they_are(tmp_path, cache, read):
    root = small.gqa_files(small.vqav2_files(small.pope_files(small.ade_files(small.class_files(tmp_path / "data")))))
    gqa = known(cache, read, "questions", small.gqa_spec(), root)
    assert gqa.counts == {"images": 4, "questions": 8} and gqa.split == "testdev_balanced" and gqa.published is None
    assert gqa.source == str(root / "gqa" / "questions" / "testdev_balanced_questions.json") and not gqa.sampled
    assert known(cache, read, "segmentation", small.ade_spec(), root).counts == {"images": 4, "classes": 3}
    assert known(cache, read, "classification", small.class_spec(), root).counts == {"images": 8, "classes": 2}
    assert known(cache, read, "questions", POPE, root).version.startswith("own files")
    whole = known(cache, read, "questions", VQA, root)
    assert known(cache, read, "questions", VQA, root, limit=2).counts["images"] == 2 != whole.counts["images"]
    assert len(read) == 6
    fresh = FingerprintCache(cache.folder)
    assert of_set(fresh, "questions", VQA, str(root)) == whole and len(read) == 6
    assert of_set(FingerprintCache(cache.folder, rehash=True), "questions", VQA, str(root)) == whole and len(read) == 7


def _pixel(path: Path) -> None:
    """One byte of an image in place, of equal size and time."""
    before, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    with open(path, "r+b") as f:
        f.write(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns and path.stat().st_size == before.st_size


def _text(path: Path, old: str, new: str) -> None:
    before, text = path.stat(), path.read_text()
    assert old in text and len(old) == len(new)
    with open(path, "r+") as f:
        f.write(text.replace(old, new, 1))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_any_change_is_noticed(tmp_path, cache, read):
    root = small.gqa_files(small.vqav2_files(small.pope_files(small.ade_files(small.class_files(tmp_path / "data")))))
    (root / "ade20k" / "objectInfo150.txt").write_text("Idx\tName\n1\tsky\n2\ttree\n3\troad\n")
    ade, base, test = small.ade_spec(classes=None), root / "ade20k" / "ADEChallengeData2016", root / "classification" / "test"
    classes, vqa = small.class_spec(), root / "vqav2"
    for kind, spec, change in [
        ("questions", small.gqa_spec(), lambda: _pixel(root / "gqa" / "images" / "n2.jpg")),
        ("questions", small.gqa_spec(), lambda: _text(root / "gqa" / "questions" / "testdev_balanced_questions.json", '"yes"', '"yep"')),
        ("questions", VQA, lambda: _text(vqa / "v2_mscoco_val2014_annotations.json", '"a2"', '"a0"')),
        ("questions", VQA, lambda: _text(vqa / "v2_OpenEnded_mscoco_val2014_questions.json", "What is 3", "What is 4")),
        ("questions", POPE, lambda: _text(root / "pope" / "coco_pope_random.json", '"yes"', '"yea"'.replace("yea", "no "))),
        ("segmentation", ade, lambda: small.write(base / "annotations" / "validation" / "v1.png", small.mask_bytes(99))),
        ("segmentation", ade, lambda: _text(root / "ade20k" / "objectInfo150.txt", "tree", "bush")),
        ("classification", classes, lambda: _pixel(test / "cat" / "1.png")),
        ("classification", classes, lambda: (test / "cat" / "1.png").rename(test / "dog" / "9.png")),
        ("classification", classes, lambda: small.write(test / "dog" / "new.png", small.image_bytes(77))),
        ("classification", classes, lambda: (test / "dog" / "new.png").unlink()),
        ("classification", classes, lambda: (test / "dog").rename(test / "cow")),
    ]:  # fmt: skip
        before = known(cache, read, kind, spec, root)
        change()
        after = of_set(cache, kind, spec, str(root))
        assert after.fingerprint != before.fingerprint
        with using(FingerprintCache(None)):  # and is what a machine that has never seen the set finds
            assert after == set_identity.identity_of(set_identity.read_set(kind, spec, str(root), None, {}), spec, str(root))


def test_a_file_beside_the_set_that_was_not_there(tmp_path, cache, read):
    """GQA's file of valid answers, and images in a place that comes first."""
    root = small.pope_files(small.gqa_files(tmp_path / "data"))
    before = known(cache, read, "questions", small.gqa_spec(), root)
    small.write(root / "gqa" / "eval" / "testdev_choices.json", '{"q1": {"valid": ["yes"], "plausible": ["yes"]}}')
    assert of_set(cache, "questions", small.gqa_spec(), str(root)).fingerprint != before.fingerprint
    (root / "pope" / "val2014").rename(root / "coco2014")
    (root / "coco").mkdir()
    (root / "coco2014").rename(root / "coco" / "val2014")
    before = known(cache, read, "questions", POPE, root)
    for k in range(small.N):
        small.write(root / "pope" / "val2014" / f"COCO_val2014_{k:012d}.jpg", small.image_bytes(50 + k, "JPEG"))
    assert of_set(cache, "questions", POPE, str(root)).fingerprint != before.fingerprint


def test_it_does_not_matter_from_where_a_relative_folder_is_named(tmp_path, cache, read, monkeypatch):
    one, two = small.class_files(tmp_path / "one" / "data"), small.class_files(tmp_path / "two" / "data", 3)
    first, second = (
        known(cache, read, "classification", small.class_spec(), one),
        known(cache, read, "classification", small.class_spec(), two),
    )
    assert first.fingerprint != second.fingerprint
    for folder, expected in (("one", first), ("two", second)):
        monkeypatch.chdir(tmp_path / folder)
        assert of_set(cache, "classification", small.class_spec(), "data") == expected
        assert of_set(cache, "classification", small.class_spec(), "./data/../data") == expected
    assert len(read) == 2
    spec = DataSpec(layout="vqa", questions="q.jsonl", images="i")  # relative to here where it is there, else below --data
    for folder, answer in (("one", "x"), ("two", "y"), ("data", "z")):
        small.write(tmp_path / folder / "q.jsonl", '{"image": "a.png", "question": "?", "answer": "' + answer + '"}')
        small.write(tmp_path / folder / "i" / "a.png", small.image_bytes(0))
    (tmp_path / "three").mkdir()
    prints = set()
    for folder in ("one", "two", "three"):
        monkeypatch.chdir(tmp_path / folder)
        prints.add(known(cache, read, "questions", spec, tmp_path / "data").fingerprint)
    assert len(prints) == 3


def test_links(tmp_path, cache, read):
    one, two = small.class_files(tmp_path / "one"), small.class_files(tmp_path / "two", 3)
    link = tmp_path / "data"
    link.symlink_to(one)
    before = known(cache, read, "classification", small.class_spec(), link)
    link.unlink()
    link.symlink_to(two)
    assert of_set(cache, "classification", small.class_spec(), str(link)).fingerprint != before.fingerprint
    inner = tmp_path / "inner" / "classification" / "test"
    inner.mkdir(parents=True)
    for name in ("cat", "dog"):
        (inner / name).symlink_to(one / "classification" / "test" / name)
    (inner / "cat" / "loop").symlink_to(inner)
    linked = known(cache, read, "classification", small.class_spec(), tmp_path / "inner")
    assert linked.fingerprint == before.fingerprint
    _pixel(one / "classification" / "test" / "dog" / "2.png")
    assert of_set(cache, "classification", small.class_spec(), str(tmp_path / "inner")).fingerprint != before.fingerprint


def test_a_local_repository(tmp_path, cache, read):
    repo = small.gqa_repository(tmp_path / "GQA")
    before = known(cache, read, "questions", small.gqa_spec(repo), "hub")
    files = small.gqa_files(tmp_path / "files")
    assert known(cache, read, "questions", small.gqa_spec(), files).fingerprint == before.fingerprint
    rows = [{"id": f"nx{k}", "image": small.image_bytes(k + (k == 2) * 90)} for k in range(small.N)]
    small.table_of(rows).to_parquet(repo / "images" / "testdev-00000-of-00001.parquet")
    assert of_set(cache, "questions", small.gqa_spec(repo), "hub").fingerprint != before.fingerprint


def test_a_cached_repository_of_the_hub(tmp_path, cache, read, monkeypatch):
    """Remembered offline or at a commit; where a newer revision may be meant, the table is asked for each time."""
    import datasets
    import huggingface_hub.constants

    def fill(extra: int) -> None:
        shutil.rmtree(tmp_path / "tables", ignore_errors=True)
        rows = [{"image": small.image_bytes(10 * c + k + extra), "label": c} for c in range(2) for k in range(small.N)]
        table = small.table_of(rows, ("image",), label=datasets.ClassLabel(names=["cat", "dog"]))
        source = small.repository(tmp_path / "source" / "animals", {"default": ("test", table)})
        datasets.load_dataset(str(source), cache_dir=str(tmp_path / "tables"))
        (made,) = (p for p in (tmp_path / "tables").iterdir() if p.is_dir() and "___" not in p.name)
        made.rename(tmp_path / "tables" / f"owner___{made.name}")

    fill(0)
    spec = DataSpec(layout="imagefolder", directory="x", hub=HubSource(repo="owner/animals", split="test"))
    before = known(cache, read, "classification", spec, "hub")
    assert before.source == "owner/animals"
    files = small.class_files(tmp_path / "files")
    assert known(cache, read, "classification", small.class_spec(), files).fingerprint == before.fingerprint
    fill(5)
    after = known(cache, read, "classification", spec, "hub")
    assert after.fingerprint != before.fingerprint
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert scope_of(spec, "hub") is None
    pinned = spec.model_copy(update={"hub": spec.hub.model_copy(update={"revision": "0" * 40})})  # type: ignore[union-attr]
    assert scope_of(pinned, "hub") is not None


def test_sampled_sets_are_stated(tmp_path, read):
    root = small.class_files(tmp_path / "data", 60)
    cache = FingerprintCache(tmp_path / "cache", sample_above=100)
    said = known(cache, read, "classification", small.class_spec(), root)
    assert said.sampled and said.about()["sampled"] is True and 0 < said.counts["hashed_whole"] < said.counts["images"] == 120
    whole = of_set(FingerprintCache(None), "classification", small.class_spec(), str(root))
    assert not whole.sampled and "sampled" not in whole.about() and whole.fingerprint != said.fingerprint
    assert not of_set(FingerprintCache(cache.folder), "classification", small.class_spec(), str(root)).sampled


def test_nothing_heavy_is_imported_to_know_it(tmp_path, cache, read):
    root = small.gqa_files(tmp_path / "data")
    known(cache, read, "questions", small.gqa_spec(), root)
    code = (
        "import sys; from levl_eval.cards.base import DataSpec; from levl_eval.data.fingerprint_cache import FingerprintCache\n"
        "from levl_eval.data.set_identity import of_set\n"
        "print(of_set(FingerprintCache(sys.argv[1]), 'questions', DataSpec.model_validate_json(sys.argv[2]), sys.argv[3]).fingerprint)\n"
        "print([m for m in ('torch', 'datasets', 'PIL', 'numpy') if m in sys.modules])"
    )
    words = [sys.executable, "-c", code, str(cache.folder), small.gqa_spec().model_dump_json(), str(root)]
    out = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split("\n")
    assert out[0] == of_set(cache, "questions", small.gqa_spec(), str(root)).fingerprint and out[1] == "[]"


# ---- whatever a reader looks at is part of what its set is remembered under


class Looks:
    """Paths that are opened, listed or asked for within ``levl_eval.data``'s readers."""

    def __init__(self, monkeypatch) -> None:
        self.paths: set[str] = set()
        self.opened: set[str] = set()
        for name in ("stat", "scandir", "listdir", "open"):
            monkeypatch.setattr(os, name, self._noted(getattr(os, name), name == "open"))
        import builtins
        import io

        monkeypatch.setattr(builtins, "open", self._noted(open, True))
        monkeypatch.setattr(io, "open", self._noted(io.open, True))

    def _noted(self, plain, opens):
        def call(path, *args, **kwargs):
            if isinstance(path, (str, os.PathLike)):
                name = os.path.abspath(os.path.expanduser(os.fspath(path)))
                self.paths.add(name)
                if opens and os.path.isfile(name):
                    self.opened.add(name)
            return plain(path, *args, **kwargs)

        return call


def _covered(path: str, opened: bool, spec: DataSpec, data: str, touched: dict[str, bytes]) -> bool:
    scope = scope_of(spec, data)
    assert scope is not None
    inside = any(path == t or path.startswith(t + os.sep) for t in scope.trees)
    if path in touched or path in scope.files or path in scope.folders or inside:
        return True
    if opened:  # its contents count, not only that it is there
        return False
    everything = [*scope.trees, *scope.folders, *scope.files, *touched]
    if os.path.isdir(path):  # on the way to something that is looked at
        return any(x.startswith(path.rstrip(os.sep) + os.sep) for x in everything)
    above = os.path.dirname(path)
    while not os.path.exists(above):
        above = os.path.dirname(above)
    return above in scope.folders or any(above == t or above.startswith(t + os.sep) for t in scope.trees)


LAYOUTS = get_args(DataSpec.model_fields["layout"].annotation)
KINDS: dict[str, str] = {
    **dict.fromkeys(readers.QUESTIONS, "questions"), **dict.fromkeys(readers.CLASSES, "classification"),
    **dict.fromkeys(readers.MASKS, "segmentation"), **dict.fromkeys(readers.CAPTIONS, "captions"),
    **dict.fromkeys(readers.DEPTHS, "depth"), **dict.fromkeys(readers.NORMALS, "normals"),
    **dict.fromkeys(readers.PAIRS, "pairs"), **dict.fromkeys(readers.VIDEOS, "videos"),
    **dict.fromkeys(readers.INSTANCES, "instances"), **dict.fromkeys(readers.CHOICES, "choices"),
    **dict.fromkeys(readers.VIEWS, "views"),
}  # fmt: skip
# Files that bring a reader further than its first complaint.
SEEDS = {
    "gqa": ["questions/val_balanced_questions.json"], "vqav2": ["v2_OpenEnded_mscoco_val_questions.json", "v2_mscoco_val_annotations.json"],
    "pope": ["coco_pope_random.json"], "textvqa": ["TextVQA_0.5.1_val.json"], "vizwiz": ["Annotations/val.json"],
    "scienceqa": ["problems.json", "pid_splits.json"], "mme": ["color/1.txt", "empty/x.jpg"], "voc": ["ImageSets/Segmentation/val.txt"],
    "coco-stuff": ["images/val2017/1.jpg", "annotations/val2017/1.png"], "cityscapes": ["leftImg8bit/val/a/a_leftImg8bit.png"],
    "imagenet": ["val/n1/a.JPEG", "val/n2/a.JPEG", "LOC_val_solution.csv"], "places365": ["places365_val.txt", "categories_places365.txt"],
    "aircraft": ["images_variant_val.txt"], "pets": ["annotations/val.txt"],
    "sun397": ["Partitions/val.txt"], "karpathy": ["dataset_x.json"],
    "nyuv2": ["test/a/rgb_1.png", "splits.mat"], "imagefolder": ["val/a/1.png", "val/b/1.png"], "ade20k": ["images/validation/a.jpg"],
    "sugarcrepe": [f"data/{k}.json" for k in ("add_obj", "add_att", "replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att")],
    "objectnet": [
        "images/chair/1.png", "mappings/folder_to_objectnet_label.json", "mappings/objectnet_to_imagenet_1k.json",
        "mappings/pytorch_to_imagenet_2012_id.json", "mappings/imagenet_to_label_2012_v2",
    ], "imagenet-v2": ["0/a.jpg"], **{k: ["n01440764/a.jpg"] for k in ("imagenet-a", "imagenet-r", "imagenet-sketch")},
    "food101": ["meta/val.txt"], "dtd": ["labels/val.txt"],
    "cub": [f"{n}.txt" for n in ("images", "image_class_labels", "train_test_split", "classes")],
    "gtsrb": ["GTSRB/Training/00000/a.png"], "flowers102": ["setid.mat"], "stanford-cars": ["devkit/cars_meta.mat"],
    "cv-bench": ["test_2d.jsonl"], "mmvp": ["Questions.csv"], "seedbench": ["SEED-Bench.json"], "realworldqa": ["annotations.jsonl"],
    "ai2d": ["questions/1.png.json"], "mmbench": ["mmbench_val.tsv"],
    "winoground": ["examples.jsonl"], "aro": ["coco_order.json"], "mmvp-vlm": ["Questions.csv"],
    "chartqa": ["val/val_human.json", "val/val_augmented.json"], "docvqa": ["val_v1.0_withQT.json", "documents/b.png"],
    "infovqa": ["infographicsVQA_val_v1.0_withQT.json", "images/b.png"], "ocrbench": ["OCRBench.json"],
    "tallyqa": ["val.json"], "vsr": ["splits/zeroshot/val.jsonl"],
    **{k: ["finetune_refcoco_val.json"] for k in ("refcoco", "refcoco-places")},
    "davis": ["ImageSets/2017/val.txt", "JPEGImages/480p/v/0.jpg", "JPEGImages/480p/v/1.jpg", "JPEGImages/480p/v/2.jpg"],
    "revisited": ["gnd_x.json", "jpg/a.jpg"], "navi": ["bear/wild_set/annotations.json", "bear/wild_set/images/a.jpg"],
    "kitti": ["kitti_eigen_test.txt", "input/d/a.png"], "sunrgbd": ["SUNRGBD_val_splits.txt", "SUNRGBD/a.jpg"],
    "nyuv2-normals": ["test/a_img.png"], "spair71k": ["Layout/large/val.txt", "PairAnnotation/val/p.json"],
}  # fmt: skip

SEED_TEXTS = {
    "pope": '{"question_id": 1, "image": "a.jpg", "text": "Is there a dog?", "label": "yes"}',
    "gqa": '{"1": {"imageId": "a", "question": "Is it?", "answer": "yes"}}',
    "vqav2": '{"questions": [{"question_id": 1, "image_id": 2, "question": "Is it?"}], "annotations": []}', "places365": "/a/abbey 0",
    "voc": "a", "aircraft": "a A318", "pets": "Abyssinian_1 1 1 1", "sun397": "/a/abbey/sun_a.jpg", "imagenet": "ImageId,x\nv,n1 1 2 3 4",
    "scienceqa": '{"1": {"image": "image.png", "question": "Is it?", "choices": ["a", "b"], "answer": 0}, "val": ["1"]}',
    "sugarcrepe": '{"0": {"filename": "a.jpg", "caption": "a", "negative_caption": "b"}}',
    "mmvp-vlm": "Question ID,Type,Statement\n1,a,b\n2,a,c", "food101": "a/b", "dtd": "a/b.jpg", "cub": "1 1",
    "cv-bench": '{"idx": 0, "type": "2D", "task": "Count", "question": "w", "choices": ["1", "2"], "answer": "(A)", '
    '"source": "x", "filename": "a.jpg"}',
    "mmvp": "Index,Question,Options,Correct Answer\n1,w,(a) x (b) y,(a)",
    "realworldqa": '{"image": "a.jpg", "question": "w", "answer": "x"}',
    "seedbench": '{"questions": [{"question_id": 1, "data_id": "a", "data_type": "image", "question": "w", '
    '"choice_a": "1", "choice_b": "2", "choice_c": "3", "choice_d": "4", "answer": "A"}]}',
    "ai2d": '{"questions": {"w": {"answerTexts": ["x", "y"], "correctAnswer": 0, "questionId": "1"}}}',
    "mmbench": "index\tquestion\thint\tA\tB\tC\tD\tanswer\timage\n1\tw\t\tx\ty\t\t\tA\tiVBORw0KGgo=",
    "chartqa": '[{"imgname": "a.png", "query": "Is it?", "label": "yes"}]',
    "docvqa": '{"data": [{"questionId": 1, "question": "Is it?", "image": "documents/a.png", "answers": ["yes"]}]}',
    "infovqa": '{"data": [{"questionId": 1, "question": "Is it?", "image_local_name": "a.jpeg", "answers": ["yes"]}]}',
    "tallyqa": '[{"question_id": 1, "image": "VG_100K/1.jpg", "question": "How many?", "answer": 2}]',
    "vsr": '{"image": "1.jpg", "image_link": "http://x/val2017/1.jpg", "caption": "It is on it.", "label": 1, "relation": "on"}',
    **dict.fromkeys(
        ("refcoco", "refcoco-places"),
        '{"images": [{"id": 1, "file_name": "1.jpg", "width": 9, "height": 9, "caption": "a"}, '
        '{"id": 2, "file_name": "1.jpg", "width": 9, "height": 9, "caption": "b"}], '
        '"annotations": [{"image_id": 1, "bbox": [0, 0, 3, 3]}, {"image_id": 2, "bbox": [3, 3, 3, 3]}]}',
    ),
    "ocrbench": '[{"dataset_name": "svt", "image_path": "a.png", "question": "Is it?", "answers": "yes", "type": "x"}]',
    "winoground": '{"id": 0, "image_0": "x", "image_1": "y", "caption_0": "a", "caption_1": "b"}',
    "aro": '[{"image": "a.jpg", "caption_options": ["a", "b"]}]',
    "kitti": "d/a.png a/b.png 721.5", "sunrgbd": "SUNRGBD/a.jpg SUNRGBD/b.png",
    "mme": "Is it?\tYes", "spair71k": "p", "davis": "v",
    "navi": '[{"filename": "a.jpg", "image_size": [9, 9], "camera": {"q": [1, 0, 0, 0], "t": [0, 0, 1], "focal_length": 9}}]',
    "revisited": '{"imlist": ["a"], "qimlist": ["b"], "gnd": [{"bbx": [0, 0, 9, 9], "easy": [0], "hard": [], "junk": []}]}',
    "karpathy": '{"images": [{"filename": "a.jpg", "split": "val", "sentences": [{"raw": "one"}]}]}',
}  # fmt: skip


@pytest.mark.parametrize("place", ["directory", "root", "top", "fields"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_is_looked_at_that_is_not_remembered(tmp_path, layout, place):
    """Each reader on a set that is not whole: where it looks before it complains is where a set could be."""
    assert layout in KINDS, "a new layout needs a line here"
    from levl_eval.data.places import TOPS

    data = tmp_path / "above" / "data"
    folder = {"directory": data / layout, "root": tmp_path / "else" / "deep" / "set", "fields": tmp_path / "own"}.get(place)
    folder = folder or data / TOPS.get(layout, (layout,))[0]
    for name in SEEDS.get(layout, ["a.txt"]):
        content: Any = small.image_bytes(0) if name.endswith((".png", ".jpg", ".JPEG")) else SEED_TEXTS.get(layout, "{}")
        small.write(folder / name, content)
    (data / "coco" / "val2014").mkdir(parents=True)
    splits = {
        "pope": "random",
        **dict.fromkeys(("nyuv2", "nyuv2-normals", "kitti", "sunrgbd", "cifar10", "cifar100", "stl10"), "test"),
        "sugarcrepe": "",
        "aro": "order",
        **dict.fromkeys(("cub", "stanford-cars"), "test"),
        "cv-bench": "2D",
        "navi": "wild_set",
    }
    fields: dict[str, Any] = {"directory": layout, "split": splits.get(layout, "val")}
    if place == "root":
        fields["root"] = str(folder)
    if place == "fields" or layout in (
        "labels",
        "captions",
        "vqa",
        "llava",
        "depth",
        "normals",
        "segmentation",
        "choices",
        "mcq",
    ):
        small.write(folder / "i" / "a.png", small.image_bytes(0))
        small.write(folder / "m" / "a.png", small.mask_bytes(0))
        small.write(folder / "t.jsonl", '{"image": "a.png", "question": "?", "answer": "x"}\n')
        small.write(folder / "t.csv", "image,caption,split\na.png,one,val\n")
        small.write(folder / "t.txt", "a.png 0\n")
        notes = {"labels": "t.txt", "captions": "t.csv", "karpathy": "t.jsonl", "choices": "t.jsonl"}.get(layout, "m")
        fields |= {"questions": str(folder / "t.jsonl"), "images": str(folder / "i"), "annotations": str(folder / notes)}
        fields["choices"] = str(folder / "t.jsonl") if layout == "gqa" else None
        (folder / "c.txt").write_text("a\nb\nc\n")
        fields["classes"] = str(folder / "c.txt")
        if layout == "pope":
            fields["questions"] = str(folder)
    known = layouts.LAYOUTS[layout].files  # what else stands here is refused
    spec = DataSpec(layout=layout, **{k: v for k, v in fields.items() if k in known})
    options = {"scale": 1000.0} if KINDS[layout] == "depth" else {}
    cache = FingerprintCache(None)
    try:
        set_identity.read_set(KINDS[layout], spec, str(data), None, options)  # imports what it imports
    except (LevlError, AttributeError, TypeError, KeyError, ValueError):
        pass
    with pytest.MonkeyPatch.context() as patch, using(cache), cache.watch() as touched:
        looks = Looks(patch)
        try:
            set_identity.read_set(KINDS[layout], spec, str(data), None, options)
        except (LevlError, AttributeError, TypeError, KeyError, ValueError):
            pass
    seen = {p for p in looks.paths if p.startswith(str(tmp_path))}
    assert seen
    stray = sorted(p for p in seen if not _covered(p, p in looks.opened, spec, str(data), touched))
    assert not stray, f"{layout}: looked at {stray}"


def test_the_generated_world_is_covered_too(world):
    for spec in (
        small.gqa_spec(), VQA, POPE, DataSpec(layout="ade20k", directory="ade20k", split="training", reduce_zero_label=True),
        DataSpec(layout="imagefolder", directory="classification", split="train"),
    ):  # fmt: skip
        cache = FingerprintCache(None)
        with pytest.MonkeyPatch.context() as patch, using(cache), cache.watch() as touched:
            looks = Looks(patch)
            found = set_identity.read_set(KINDS[spec.layout], spec, str(world), None, {})  # type: ignore[arg-type]
        assert len(touched) >= len(found.images) and isinstance(found.images.open(found.images.ids[0]), Image.Image)
        assert all(_covered(p, p in looks.opened, spec, str(world), touched) for p in looks.paths if p.startswith(str(world)))
        assert np.all([found.images.content(i) for i in found.images.ids])
