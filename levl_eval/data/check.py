"""`levl-eval data check DIR`: are the data sets below a directory complete and consistent?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from levl_eval.cards import ChoiceCard, DataSpec, DepthCard, MultipleChoiceCard
from levl_eval.cards.registry import set_card, set_names, task_card
from levl_eval.core.errors import LevlError
from levl_eval.data.depth import check_unit, sampled_depths
from levl_eval.data.images import FileOpener
from levl_eval.data.leakage import shared_images
from levl_eval.data.listing import in_words
from levl_eval.data.pairs import image_sizes, points_beyond
from levl_eval.data.places import TOPS
from levl_eval.data.published import ADE20K, CHOICES, DAVIS, DEPTHS, IMAGES, NORMALS, RELEASES, REVISITED, SETS, SPAIR, VIEWS
from levl_eval.data.readers import (
    read_choices,
    read_classification,
    read_depth,
    read_instances,
    read_normals,
    read_pairs,
    read_questions,
    read_segmentation,
    read_videos,
    read_views,
)
from levl_eval.data.rgb import conversions
from levl_eval.data.types import ClassificationSet, DepthSet, ImageSet
from levl_eval.data.videos import check_sizes

# Task of a choice by image-text score -> the file or folder below DIR that says its set is there.
CHOICE_TASKS = {
    "sugarcrepe": "sugarcrepe/data", "winoground": "winoground", "mmvp-vlm": "mmvp_vlm", "aro-relation": "aro/visual_genome_relation.json",
    "aro-attribution": "aro/visual_genome_attribution.json", "aro-order": "aro/coco_order.json",
}  # fmt: skip
# Sets of questions -> splits, and the files below DIR/SET of which one says that a split is there.
QUESTION_SETS: dict[str, dict[str, tuple[str, ...]]] = {
    "gqa": {s: (f"**/{s}_questions.json",) for s in ("train_balanced", "val_balanced", "testdev_balanced")},
    "vqav2": {s: (f"*{s}_questions.json",) for s in ("train2014", "val2014")}, "pope": {"": ("coco_pope_*.json",)},
    "chartqa": {s: (f"**/{s}_human.json",) for s in ("train", "val", "test")}, "docvqa": {"val": ("**/val_v1.0*.json",)},
    "infovqa": {"val": ("**/infographic*VQA_val_v1.0*.json",)}, "ocrbench": {"": ("**/OCRBench.json",)},
    "tallyqa": {"test": ("test.json",)}, "vsr": {"test": ("**/splits/zeroshot/test.jsonl",)},
}  # fmt: skip
# Tasks of questions with options -> files or folders below DIR of which one says that the set is there.
OPTION_TASKS: dict[str, tuple[str, ...]] = {
    "mmvp": ("mmvp/Questions.csv",), "cv-bench-2d": ("cv_bench/test_2d.jsonl",), "cv-bench-3d": ("cv_bench/test_3d.jsonl",),
    "realworldqa": ("realworldqa/annotations.json*",), "seed-image": ("seed_bench/SEED-Bench.json",),
    "mmbench": ("mmbench/mmbench_dev_en*.tsv", "mmbench/MMBench_DEV_EN*.tsv"), "ai2d": ("ai2d/questions", "ai2d/ai2d/questions"),
    **{
        f"blink-{task.replace('_', '-').lower()}": (f"blink/{task}/questions.jsonl",)
        for task in ("Counting", "Relative_Depth", "Spatial_Relation", "Object_Localization", "Relative_Reflectance", "IQ_Test")
    },
}  # fmt: skip
REFERRING = {
    "refcoco": ("train", "val", "testA", "testB"),
    "refcoco+": ("train", "val", "testA", "testB"),
    "refcocog": ("train", "val", "test"),
}
VALIDATION = {"aircraft": (3_333,)}
LISTED = (  # sets whose splits are lists of names in ImageSets/
    *(DataSpec(layout="voc", directory="voc", split=s) for s in ("train", "trainaug", "val")),
    *(DataSpec(layout="pascal-context", directory="pascal_context", split=s) for s in ("train", "val")),
)


@dataclass(frozen=True)
class Finding:
    """level: ok | note | error. set: which data set and split. message: what was found."""

    level: str
    set: str
    message: str


def _guard(name: str, call: Callable[[], Iterable[Finding]]) -> list[Finding]:
    try:
        return list(call())
    except LevlError as e:
        return [Finding("error", name, str(e))]


def _questions(spec: DataSpec, data: str, seen: dict[str, set[str]]) -> list[Finding]:
    question_set, split = read_questions(spec, data), spec.split
    layout = question_set.name
    name = f"{layout}/{split or 'all'}"
    seen.setdefault(layout, set())
    shared = seen[layout] & set(question_set.images.ids)
    seen[layout] |= set(question_set.images.ids)
    text = f"{len(question_set.questions):,} questions about {len(question_set.images):,} images"
    out = [Finding("ok", name, f"{text}; {question_set.version}" if layout == "pope" else text)]
    expected = RELEASES.get((layout, split))
    if expected:
        same = len(question_set.questions) == expected[0] and expected[1] in (None, len(question_set.images))
        of = f"{expected[0]:,} questions" + (f", {expected[1]:,} images" if expected[1] else "")
        out.append(Finding("ok" if same else "note", name, f"{'is' if same else 'is not'} the published release ({of})"))
    if shared:
        out.append(Finding("error", name, f"{len(shared)} images stand in another split too, first {sorted(shared)[0]}"))
    return out


def _options(task: str, data: str) -> list[Finding]:
    """Questions with options: counts against the release. A test set alone: images that another asks about too are no leak."""
    card = task_card(task)
    assert isinstance(card, MultipleChoiceCard)
    return _questions(card.data, data, {})


def _pairs(task: str, data: str) -> Iterable[Finding]:
    """The pairs of a choice by image-text score: counts against the release, and what they are about."""
    card = task_card(task)
    assert isinstance(card, ChoiceCard)
    pairs = read_choices(card.data, data)
    name = "/".join(filter(None, (card.data.directory, card.data.split)))
    yield Finding("ok", name, f"{len(pairs.trials):,} pairs about {len(pairs.images):,} images")
    title, count = CHOICES.get((card.data.layout, card.data.split), ("", len(pairs.trials)))
    if len(pairs.trials) != count:
        yield Finding("note", name, f"is not the published release ({title}, {count:,} pairs)")


def _keypoints(split: str, data: str) -> Iterable[Finding]:
    """Pairs with keypoints: counts, sizes of all images, and points beyond them."""
    pairs = read_pairs(DataSpec(layout="spair71k", directory="spair71k", split=split), data)
    name, count = f"spair71k/{split}", len(pairs.pairs)
    sizes = image_sizes(pairs)  # refuses an image of another size than annotated
    points, kinds = sum(len(p.names) for p in pairs.pairs), len({p.category for p in pairs.pairs})
    release = "" if count == SPAIR[split] else f"; published {SPAIR[split]:,} pairs"
    text = f"{count:,} pairs of {len(pairs.images):,} images, {points:,} keypoints, {kinds} categories{release}"
    yield Finding("note" if release else "ok", name, text)
    beyond = points_beyond(pairs, sizes)
    if beyond:
        yield Finding("note", name, f"{beyond} keypoints lie beyond their image")


def _instances(folder: str, data: str) -> Iterable[Finding]:
    """Queries over a database: counts against the release, and every query's box."""
    test = read_instances(DataSpec(layout="revisited", directory=folder), data)
    for query in test.queries:
        test.images.open(query.image)  # refuses a box beyond its image
    count = (len(test.queries), len(test.database))
    release = "" if count == REVISITED[folder] else "; published {:,} over {:,}".format(*REVISITED[folder])
    yield Finding("note" if release else "ok", folder, f"{count[0]:,} queries over {count[1]:,} images{release}")


def _videos(split: str, data: str) -> Iterable[Finding]:
    """Videos with masks: counts, and sizes of all frames and masks."""
    videos = read_videos(DataSpec(layout="davis", directory="davis", split=split), data)
    check_sizes(videos)
    count, objects = len(videos.videos), sum(int(videos.mask(v.frames[0]).max()) for v in videos.videos)
    release = "" if count == DAVIS[split] else f"; published {DAVIS[split]} videos"
    text = f"{count} videos, {len(videos.images):,} frames, {objects} objects{release}"
    yield Finding("note" if release else "ok", f"davis/{split}", text)


def _masks(spec: DataSpec, data: str) -> list[Finding]:
    """Every pair of image and mask of a split: equal sizes, labels within the classes, their count against the release."""
    test_set = read_segmentation(spec, data)
    where = f"{spec.directory}/{spec.split}"
    labels: set[int] = set()
    for name in test_set.images.ids:
        mask = test_set.mask(name)  # refuses labels out of range and names the file
        size = test_set.images.open(name).size
        if (mask.shape[1], mask.shape[0]) != size:
            return [Finding("error", where, f"{name}: image is {size[0]}x{size[1]}, mask {mask.shape[1]}x{mask.shape[0]}")]
        labels |= set(np.unique(mask).tolist())
    labels.discard(test_set.ignore_index)
    same = len(test_set.images) == IMAGES[spec.layout, spec.split]
    text = f"{len(test_set.images):,} pairs, {len(labels)} of {len(test_set.classes)} classes occur"
    return [Finding("ok", where, text + (", the published release" if same else "")), *_converted(where, test_set.images)]


def _converted(name: str, images: ImageSet) -> list[Finding]:
    """What opening the images changes besides their colour space, and what their folders hold besides them, counted."""
    opener = images.open
    kinds = Counter(k for i in images.ids for k in conversions(opener.locate(i))) if isinstance(opener, FileOpener) else Counter()
    words = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())
    out = [Finding("note", name, f"images that are converted (data/rgb.py): {words}")] if words else []
    return out + ([Finding("note", name, in_words(images.left_out))] if images.left_out else [])


def _unit(depth_set: DepthSet, far: float) -> Iterable[Finding]:
    check_unit(depth_set, far)
    return ()


def _depths(task: str, split: str, data: str) -> Iterable[Finding]:
    """Every pair of a split: equal sizes, and a depth somewhere. One line a kind of defect."""
    card = task_card(task)
    assert isinstance(card, DepthCard)
    spec, scale = card.train if split == "train" else card.data, card.scale_of(split)
    depth_set, far = read_depth(spec, data, scale), card.caps_of(split)[1]
    name, unlike, empty, ends = f"{task}/{split}", [], [], [np.inf, 0.0]
    for image in depth_set.images.ids:
        depth, size = depth_set.depth(image), depth_set.images.open(image).size
        known = depth[np.isfinite(depth) & (depth > 0)]
        if depth.shape != size[::-1]:
            unlike.append(f"{image}: image {size[0]}x{size[1]}, depth map {depth.shape[1]}x{depth.shape[0]}")
        if not known.size:
            empty.append(image)
        else:
            ends = [min(ends[0], float(known.min())), max(ends[1], float(known.max()))]
    count = len(depth_set.images)
    text = f"{count:,} pairs" + (
        f", {ends[0]:.2f} to {ends[1]:.2f} m, the middle {sampled_depths(depth_set)[0].median:.2f} m" if ends[1] else ""
    )
    release = "labelled release" if task == "nyuv2" else "published split"
    if count == DEPTHS[task][split]:
        yield Finding("ok", name, f"{text}, the {release}")
    else:  # NYUv2's raw recordings, often trained on, have no fixed number
        yield Finding("note", name, f"{text}; the {release} has {DEPTHS[task][split]:,}")
    unit = _guard(name, lambda: _unit(depth_set, far))
    yield from unit
    if ends[1] > far and not unit:
        yield Finding("note", name, f"depths beyond {far:g} m: is depth_scale={scale:g} that of these files?")
    if unlike:
        yield Finding("error", name, f"{len(unlike)} depth maps are of another size than their image, first {unlike[0]}")
    if empty:
        yield Finding("error", name, f"{len(empty)} depth maps hold no depth, first {empty[0]}")


def _normals(split: str, data: str) -> Iterable[Finding]:
    """Every pair of a split: equal sizes, and a normal somewhere."""
    spec = DataSpec(layout="nyuv2-normals", directory="nyuv2_normals", split=split)
    normal_set = read_normals(spec, data)
    name, unlike, empty = f"nyuv2_normals/{split}", [], []
    for image in normal_set.images.ids:
        normals, size = normal_set.normals(image), normal_set.images.open(image).size
        if normals.shape[:2] != size[::-1]:
            unlike.append(f"{image}: image {size[0]}x{size[1]}, normals {normals.shape[1]}x{normals.shape[0]}")
        if not (normals != 0).any():
            empty.append(image)
    count = len(normal_set.images)
    release = "" if count == NORMALS[split] else f"; the published split has {NORMALS[split]:,}"
    yield Finding("note" if release else "ok", name, f"{count:,} pairs{release}")
    for wrong, what in ((unlike, "are of another size than their image"), (empty, "hold no normal")):
        if wrong:
            yield Finding("error", name, f"{len(wrong)} maps {what}, first {wrong[0]}")


def _views(split: str, data: str) -> Iterable[Finding]:
    """Photographs of objects with cameras: counts against the release, images and depth maps that can be read."""
    test = read_views(DataSpec(layout="navi", directory="navi", split=split), data)
    for view in test.views:
        test.images.open(view.image)
        test.points(view.image, 2)
    counts = (len(test.images), len({v.scene for v in test.views}))
    yield Finding("ok", f"navi/{split}", f"{counts[0]:,} images in {counts[1]:,} collections")
    if counts != VIEWS[split]:
        yield Finding(
            "note",
            f"navi/{split}",
            f"is not the published release ({VIEWS[split][0]:,} images in {VIEWS[split][1]:,} collections)",
        )


def _folders(room: str, split: str, data: str) -> list[Finding]:
    image_folders = read_classification(DataSpec(layout="imagefolder", directory=room, split=split), data)
    for name in image_folders.images.ids:
        image_folders.images.open(name)
    counts = np.bincount(image_folders.labels, minlength=len(image_folders.classes))
    text = f"{len(image_folders.images):,} images, {len(image_folders.classes)} classes, {counts.min()} to {counts.max()} each"
    return [Finding("ok", f"{room}/{split}", text), *_converted(f"{room}/{split}", image_folders.images)]


def _set(name: str, data: str) -> Iterable[Finding]:
    """The splits of a set of tasks/sets: counts against the release, classes, images that stand in both."""
    card = set_card(name)
    findings: list[ClassificationSet] = []
    own = [card.validation] if isinstance(card.validation, DataSpec) else []  # a published list beside training and test
    shifted = card.train is not None and card.train.directory != card.data.directory  # a test set of another set's probe
    for k, spec in enumerate((card.train, card.data, *own)):
        assert spec is not None
        if shifted and k == 0:
            continue
        got = read_classification(spec, data)
        findings.append(got)
        counts = np.bincount(got.labels, minlength=len(got.classes))
        text = f"{len(got.images):,} images, {len(got.classes)} classes, {counts.min()} to {counts.max()} each"
        published = (*SETS.get(name, ()), *VALIDATION.get(name, ()))
        if k < len(published):
            same = len(got.images) == published[k]
            yield Finding(
                "ok" if same else "note", f"{name}/{spec.split}", text + ("" if same else f"; published {published[k]:,}")
            )
    if shifted:
        return
    for other, which in zip(findings[1:], ("test", "validation"), strict=False):
        if findings[0].classes != other.classes:
            yield Finding("error", name, f"training and {which} have different classes")
    for other, which in zip((findings[0], *findings[2:]), ("training", "validation"), strict=False):
        twice = shared_images(findings[1].images, other.images)
        if twice:
            first = f"{twice[0][0]} is {twice[0][1]}"
            yield Finding("error", name, f"leakage: {len(twice)} test images are {which} images too, first {first}")


def _depth_places(name: str, split: str) -> list[str]:
    """Files and folders of a depth set, of which one says that a split is there."""
    if name == "nyuv2":
        own = ["sync"] if split == "train" else []
        return ["nyu_depth_v2_labeled.mat", split, f"official_splits/{split}", *own]
    if name == "kitti":
        return [f"kitti_eigen_{split}.txt", f"eigen_{split}_files_with_gt.txt"]
    return ["SUNRGBD_val_splits.txt", "SUNRGBDtoolbox", "SUNRGBD"]


def _question_sets(directory: Path, data: str) -> list[Finding]:
    """All that are asked about: questions, referring expressions, questions with options."""
    out: list[Finding] = []
    seen: dict[str, set[str]] = {}
    for layout, splits in QUESTION_SETS.items():
        for split, patterns in splits.items():
            if any(next((directory / layout).glob(p), None) for p in patterns):
                name = "/".join(filter(None, (layout, split)))
                own = DataSpec(layout=layout, directory=layout, split=split)  # type: ignore[arg-type]
                out += _guard(name, lambda s=own: _questions(s, data, seen))  # type: ignore[misc]
    for level, parts in REFERRING.items():
        for split in parts:
            names = [f"finetune_{level}_{split}.json", f"REC_{level}_*_{split}.jsonl"]
            if split == "train":
                names += ["REC_ref3_train.jsonl"]
            if any(next((directory / "refcoco").glob(f"**/{n}"), None) for n in names):
                own = DataSpec(layout="refcoco", directory="refcoco", split=split, level=level, orientation="stored")
                if split == "train" and (directory / "scenes.json").is_file():  # of the scenes, as recipe scenes-boxes has them
                    own = own.model_copy(update={"images": "gqa/images"})
                out += _guard(f"{level}/{split}", lambda s=own: _questions(s, data, seen))  # type: ignore[misc]
    for task, files in OPTION_TASKS.items():
        if any(next(directory.glob(f), None) for f in files):
            out += _guard(task, lambda t=task: _options(t, data))  # type: ignore[misc]
    return out


def check(directory: Path) -> list[Finding]:
    """Findings for every data set found below ``directory``: counts, missing images, label ranges, duplicate ids, shared images."""
    data = str(directory)
    out = _question_sets(directory, data)
    base = directory / "ade20k"
    for split in ADE20K:
        if any((b / "annotations" / split).is_dir() for b in (base, base / "ADEChallengeData2016")):
            ade = DataSpec(layout="ade20k", directory="ade20k", split=split, reduce_zero_label=True)
            out += _guard(f"ade20k/{split}", lambda s=ade: _masks(s, data))  # type: ignore[misc]
    for split in SPAIR:
        if any(
            (b / "PairAnnotation" / split).is_dir()
            for b in (directory / "spair71k", directory / "spair71k" / "SPair-71k", directory / "SPair-71k")
        ):
            out += _guard(f"spair71k/{split}", lambda s=split: _keypoints(s, data))  # type: ignore[misc]
    for folder in REVISITED:
        if list((directory / folder).glob("gnd_*.*")):
            out += _guard(folder, lambda f=folder: _instances(f, data))  # type: ignore[misc]
    for split in DAVIS:
        if any(
            (b / "ImageSets" / "2017" / f"{split}.txt").is_file()
            for b in (directory / "davis", directory / "davis" / "DAVIS", directory / "DAVIS")
        ):
            out += _guard(f"davis/{split}", lambda s=split: _videos(s, data))  # type: ignore[misc]
    for split in VIEWS:
        tops = (directory / "navi", *(b / t for b in (directory / "navi", directory) for t in TOPS["navi"]))
        if any(next(t.glob(f"*/{split}*/annotations.json"), None) for t in tops):
            out += _guard(f"navi/{split}", lambda s=split: _views(s, data))  # type: ignore[misc]
    for voc in LISTED:
        base, lists = directory / voc.directory, "Segmentation" + ("" if voc.layout == "voc" else "Context")
        if list(base.glob(f"**/ImageSets/{lists}/{voc.split}.txt")):
            out += _guard(f"{voc.directory}/{voc.split}", lambda s=voc: _masks(s, data))  # type: ignore[misc]
    for name, published in DEPTHS.items():
        for split in published:
            if any((directory / name / p).exists() for p in _depth_places(name, split)):
                out += _guard(f"{name}/{split}", lambda n=name, s=split: _depths(n, s, data))  # type: ignore[misc]
    for split in NORMALS:
        if any(
            (b / split).is_dir()
            for b in (directory / "nyuv2_normals", directory / "nyuv2_normals/dsine_eval/nyuv2", directory / "dsine_eval/nyuv2")
        ):
            out += _guard(f"nyuv2_normals/{split}", lambda s=split: _normals(s, data))  # type: ignore[misc]
    for room in ("classification", "imagenet9/original", "imagenet9/mixed_same", "imagenet9/mixed_rand"):
        for split in ("train", "val", "test"):
            if (directory / room / split).is_dir():
                out += _guard(f"{room}/{split}", lambda r=room, s=split: _folders(r, s, data))  # type: ignore[misc]
    for task, file in CHOICE_TASKS.items():
        if (directory / file).exists():
            out += _guard(task, lambda t=task: _pairs(t, data))  # type: ignore[misc]
    for name in set_names():
        card = set_card(name)
        if all(spec and (directory / spec.directory).is_dir() for spec in (card.train, card.data)):
            out += _guard(name, lambda n=name: _set(n, data))  # type: ignore[misc]
    return out
