"""Published sets, recognised by content, or by counts where their content is not at hand (and then called so).

The digests below are ``fingerprints.questions_digest`` of the official question files:

    python -m levl_eval.tools.published_sets pope DIR      DIR with coco_pope_{random,popular,adversarial}.json, github.com/AoiDragon/POPE
                                                     (output/coco) at 08d957b
    python -m levl_eval.tools.published_sets gqa FILE      testdev_balanced_questions.json of GQA 1.2 (questions1.2.zip)
"""

from __future__ import annotations

from collections.abc import Sequence

from levl_eval.data.fingerprints import AnySet, questions_digest
from levl_eval.data.types import (
    CaptionSet,
    ChoiceSet,
    ClassificationSet,
    DepthSet,
    ImageSet,
    InstanceSet,
    MultiviewSet,
    NormalSet,
    PairSet,
    Question,
    QuestionSet,
    SegmentationSet,
    VideoSet,
)

_POPE = "POPE COCO (github.com/AoiDragon/POPE at 08d957b)"
POPE_WHOLE = f"{_POPE}, 3 x 3,000"
POPE_OLDER = "POPE COCO, older release with 2,910 random questions"
# Digest -> name. The random file of the older release (LLaVA's) has no digest here:
# it is recognised beside the two others, which are the same.
POPE: dict[str, str] = {
    "d6d5dc41613ac782ba5b0e7ce27f525915e3b34149ae617d6be1253410a1d07d": POPE_WHOLE,
    "6d2c2c6b74a6c5ae2c164fca787327794a2fe5df10507f7b5ac0ee707b097dbb": f"{_POPE}, random, 3,000",
    "e21992c74322dbc45720cac42404393c931732f693ec4d2ad9ae6290a71e90e2": f"{_POPE}, popular, 3,000",
    "6176b710c34c44654f8d3a969c078ef789f8ced97b19e599b7fd780f77e56775": f"{_POPE}, adversarial, 3,000",
}
GQA: dict[str, str] = {
    "d92ee37e461e40fda861c71577ebf2684f639c33a53cecbfd811e16a83df9a94": "GQA 1.2 testdev_balanced, 12,578 questions",
}
# What the real releases hold: (questions, images) by layout and split.
RELEASES: dict[tuple[str, str], tuple[int, int | None]] = {
    ("gqa", "testdev_balanced"): (12_578, 398),
    ("gqa", "val_balanced"): (132_062, None),
    ("gqa", "train_balanced"): (943_000, None),
    ("vqav2", "val2014"): (214_354, 40_504),
    ("vqav2", "train2014"): (443_757, 82_783),
    ("chartqa", "test"): (2_500, None),
    ("chartqa", "val"): (1_920, None),
    ("chartqa", "train"): (28_299, None),
    ("docvqa", "val"): (5_349, None),
    ("infovqa", "val"): (2_801, 500),
    ("ocrbench", ""): (1_000, None),
    # Expressions and images of UNC's splits of RefCOCO and RefCOCO+, UMD's of RefCOCOg.
    ("refcoco", "train"): (120_624, 16_994),
    ("refcoco", "val"): (10_834, 1_500),
    ("refcoco", "testA"): (5_657, 750),
    ("refcoco", "testB"): (5_095, 750),
    ("refcoco+", "val"): (10_758, 1_500),
    ("refcoco+", "testA"): (5_726, 750),
    ("refcoco+", "testB"): (4_889, 750),
    ("refcocog", "val"): (4_896, 1_300),
    ("refcocog", "test"): (9_602, 2_600),
    # As TRI-ML/vlm-evaluation expects them (conf/datasets.py); VSR's is the file of its zero-shot split.
    ("tallyqa", "test"): (38_589, None),
    ("vsr", "test"): (1_222, None),
    # Questions with options: rows of the release.
    ("mmvp", ""): (300, None),
    ("cv-bench", "2D"): (1_438, None),
    ("cv-bench", "3D"): (1_200, None),
    ("realworldqa", ""): (765, None),
    ("seedbench", ""): (14_233, None),
    ("mmbench", "dev_en"): (4_329, None),
    ("ai2d", ""): (3_088, None),
}
_TITLES = {
    "gqa": "GQA",
    "vqav2": "VQAv2",
    "chartqa": "ChartQA",
    "docvqa": "DocVQA",
    "infovqa": "InfographicVQA",
    "ocrbench": "OCRBench",
    "refcoco": "RefCOCO",
    "refcoco+": "RefCOCO+",
    "refcocog": "RefCOCOg",
    "tallyqa": "TallyQA",
    "vsr": "VSR zero-shot",
    "mmvp": "MMVP",
    "cv-bench": "CV-Bench",
    "realworldqa": "RealWorldQA",
    "seedbench": "SEED-Bench, images,",
    "mmbench": "MMBench",
    "ai2d": "AI2D test",
}
# Images of training and test in the releases of the sets of tasks/sets; and how many classes they have.
SETS: dict[str, tuple[int, int]] = {
    "imagenet": (1_281_167, 50_000), "places365": (1_803_460, 36_500), "aircraft": (6_667, 3_333), "pets": (3_680, 3_669),
    "cifar10": (50_000, 10_000), "cifar100": (50_000, 10_000), "stl10": (5_000, 8_000), "sun397": (19_850, 19_850),
    "tiny-imagenet": (100_000, 10_000),
    "food101": (75_750, 25_250), "dtd": (1_880, 1_880), "cub": (5_994, 5_794), "gtsrb": (39_209, 12_630), "flowers102": (1_020, 6_149),
    "stanford-cars": (8_144, 8_041), "country211": (31_650, 21_100), "inat2021": (2_686_843, 100_000),
    # shifted test sets of a probe trained on ImageNet
    "imagenet-v2": (1_281_167, 10_000), "imagenet-a": (1_281_167, 7_500), "imagenet-r": (1_281_167, 30_000),
    "imagenet-sketch": (1_281_167, 50_889), "objectnet": (1_281_167, 18_574),
}  # fmt: skip
CLASSES: dict[str, tuple[int, ...]] = {
    "imagenet": (1000,), "places365": (365,), "aircraft": (100, 70, 30), "pets": (37,), "cifar10": (10,), "cifar100": (100, 20),
    "stl10": (10,), "sun397": (397,), "tiny-imagenet": (200,), "imagenet-v2": (1000,), "imagenet-a": (200,), "imagenet-r": (200,),
    "imagenet-sketch": (1000,), "objectnet": (113,), "food101": (101,), "dtd": (47,), "cub": (200,), "gtsrb": (43,),
    "flowers102": (102,), "stanford-cars": (196,), "country211": (211,), "inat2021": (10_000,),
}  # fmt: skip
SPAIR = {"trn": 53_340, "val": 5_384, "test": 12_234}  # pairs of SPair-71k by split, of 18 categories
REVISITED = {"roxford5k": (70, 4_993), "rparis6k": (70, 6_322)}  # queries and images of the database, by folder
DAVIS = {"train": 60, "val": 30}  # videos of DAVIS 2017 by split
# Pairs in the releases of the sets of choices by image-text score, by layout and split.
CHOICES: dict[tuple[str, str], tuple[str, int]] = {
    ("sugarcrepe", ""): ("SugarCrepe", 7_511), ("winoground", ""): ("Winoground", 400), ("mmvp-vlm", ""): ("MMVP-VLM", 135),
    ("aro", "relation"): ("ARO, Visual Genome Relation", 23_937), ("aro", "attribution"): ("ARO, Visual Genome Attribution", 28_748),
}  # fmt: skip
ADE20K = {"training": 20_210, "validation": 2_000}
# Images by split. NYUv2: of the labelled set; KITTI: of the Eigen split, those with a depth map; SUN RGB-D: of the toolbox's test list.
DEPTHS = {"nyuv2": {"train": 795, "test": 654}, "kitti": {"train": 23_158, "test": 652}, "sunrgbd": {"test": 5_050}}
VIEWS = {"wild_set": (2_298, 35), "multiview": (8_217, 324)}  # NAVI: images, collections (github.com/google/navi)
NORMALS = {"train": 795, "test": 654}  # NYUv2's labelled set, as its normals are published
_DEPTH_TITLES = {"nyuv2": "NYU Depth V2 labelled", "kitti": "KITTI, Eigen split,", "sunrgbd": "SUN RGB-D"}
# Images of other releases, by layout and split, for plans only: none of them is recognised by its count.
IMAGES: dict[tuple[str, str], int] = {
    ("voc", "train"): 1_464, ("voc", "val"): 1_449, ("voc", "trainaug"): 10_582, ("cityscapes", "train"): 2_975, ("cityscapes", "val"): 500,
    ("coco-stuff", "train2017"): 118_287, ("coco-stuff", "val2017"): 5_000, ("pope", ""): 500, ("textvqa", "val"): 3_166,
    ("vizwiz", "val"): 4_319, ("scienceqa", "test"): 2_017, ("winoground", ""): 800, ("mmvp-vlm", ""): 270, ("mmvp", ""): 300,
    ("realworldqa", ""): 765, ("mmbench", "dev_en"): 1_164,
    **{(f"pascal-context{k}", s): n for k in ("", "-59") for s, n in (("train", 4_998), ("val", 5_105))},
    **{("ade20k", k): v for k, v in ADE20K.items()}, **{(name, k): v for name, splits in DEPTHS.items() for k, v in splits.items()},
    **{("nyuv2-normals", k): v for k, v in NORMALS.items()}, **{("navi", k): n for k, (n, _) in VIEWS.items()},
    **{k: images for k, (_, images) in RELEASES.items() if images is not None},
}  # fmt: skip
KARPATHY = {"flickr30k": 1_000, "coco": 5_000}  # test images by folder


def images_as_published(layout: str, split: str, directory: str, role: str) -> int | None:
    """How many images a part of a published set has by its authors' account; None where that is not known here."""
    if layout in SETS and role in ("train", "test"):
        return SETS[layout][role == "test"]
    if layout == "karpathy" and split == "test":
        return KARPATHY.get(directory)
    return IMAGES.get((layout, split))


def published_pope(questions: Sequence[Question]) -> str | None:
    """Which of POPE's official question files these are, whole; None: others, or a part of them."""
    if len(questions) == 8910:
        return POPE_OLDER if _older_pope(questions) else None
    return POPE.get(questions_digest(questions)) if len(questions) in (3000, 9000) else None


def _older_pope(questions: Sequence[Question]) -> bool:
    """Whether popular and adversarial questions are the official ones, and the 2,910 random ones are about the same images,
    with no object said to be there that the others do not say to be there."""
    of = {s: [q for q in questions if q.meta.get("split") == s] for s in ("random", "popular", "adversarial")}
    if len(of["random"]) != 2910 or any(questions_digest(of[s]) not in POPE for s in ("popular", "adversarial")):
        return False
    there = {(q.image_id, q.question) for q in of["popular"] if q.answer == "yes"}
    asked = {q.image_id for q in of["popular"]}
    return all((q.image_id, q.question) in there if q.answer == "yes" else q.image_id in asked for q in of["random"])


def published_set(dataset: AnySet, layout: str = "") -> str | None:
    """The published set that ``dataset`` is, whole; None where it is none that is known.

    layout: of the card's data, which names the set where only counts are known; question sets know theirs. Recognised by counts, the
    name ends in "(by counts)": another set of equal counts would be called the same.
    """
    if isinstance(dataset, QuestionSet):
        if dataset.name == "pope":
            return published_pope(dataset.questions)
        if (dataset.name, len(dataset.questions)) == ("gqa", RELEASES["gqa", "testdev_balanced"][0]):
            return GQA.get(questions_digest(dataset.questions))
        return _by_counts_of_questions(dataset)
    n = len(dataset) if isinstance(dataset, ImageSet) else len(dataset.images)
    if isinstance(dataset, ClassificationSet) and layout in SETS and len(dataset.classes) in CLASSES[layout]:
        train, test = SETS[layout]
        part = "training" if n == train and "train" in dataset.split.lower() else "test" if n == test else None
        return f"{layout} {part} split, {n:,} images of {len(dataset.classes)} classes (by counts)" if part else None
    if isinstance(dataset, SegmentationSet) and layout == "ade20k" and len(dataset.classes) == 150:
        return next((f"ADE20K {k}, {n:,} images of 150 classes (by counts)" for k, v in ADE20K.items() if v == n), None)
    if isinstance(dataset, DepthSet) and layout in DEPTHS:
        return next((f"{_DEPTH_TITLES[layout]} {k}, {n:,} images (by counts)" for k, v in DEPTHS[layout].items() if v == n), None)
    if isinstance(dataset, NormalSet) and layout == "nyuv2-normals":
        return next((f"normals of NYU Depth V2 {k}, {n:,} images (by counts)" for k, v in NORMALS.items() if v == n), None)
    if isinstance(dataset, ChoiceSet):
        name, count = CHOICES.get((layout, dataset.split), ("", -1))
        return f"{name}, {count:,} pairs (by counts)" if len(dataset.trials) == count else None
    if isinstance(dataset, PairSet) and len(dataset.pairs) == SPAIR.get(dataset.split):
        return f"SPair-71k {dataset.split}, {len(dataset.pairs):,} pairs (by counts)"
    if isinstance(dataset, InstanceSet) and (len(dataset.queries), len(dataset.database)) == REVISITED.get(dataset.name):
        return f"revisited {dataset.name}, {len(dataset.queries)} queries over {len(dataset.database):,} images (by counts)"
    if isinstance(dataset, VideoSet) and len(dataset.videos) == DAVIS.get(dataset.split) and n >= 1_000:
        return f"DAVIS 2017 {dataset.split}, {len(dataset.videos)} videos (by counts)"
    if isinstance(dataset, MultiviewSet) and (n, len({v.scene for v in dataset.views})) == VIEWS.get(dataset.split):
        return f"NAVI {dataset.split}, {n:,} images (by counts)"
    if isinstance(dataset, CaptionSet) and layout == "karpathy":
        known = {("flickr30k", 1000): "Flickr30k Karpathy test", ("coco", 5000): "COCO Karpathy test"}
        return f"{known[dataset.name, n]}, {n:,} images (by counts)" if (dataset.name, n) in known else None
    return None


def _by_counts_of_questions(question_set: QuestionSet) -> str | None:
    for (layout, split), (questions, images) in RELEASES.items():
        if (
            layout == question_set.name
            and question_set.split in (split, "")
            and len(question_set.questions) == questions
            and images in (None, len(question_set.images))
        ):
            if (layout, split) != ("gqa", "testdev_balanced"):
                name = f"{_TITLES[layout]} {split}".strip()
                return f"{name}, {questions:,} questions (by counts)"
    return None
