"""`levl-eval doctor`: versions, devices, data, caches, hub or offline, known-broken combinations, and a small evaluation."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from levl_eval.cli.options import Commands
from levl_eval.core.terminal import print_rows
from levl_eval.core.text import size_text

# Folder below --data (as in the tasks' cards) -> where its contents come from.
SETS = {
    "gqa": "questions and images: https://cs.stanford.edu/people/dorarad/gqa/download.html",
    "vqav2": "questions, annotations and COCO images: https://visualqa.org/download.html",
    "pope": "coco_pope_*.json: https://github.com/AoiDragon/POPE, and COCO val2014: https://cocodataset.org",
    "textvqa": "https://textvqa.org/dataset",
    "chartqa": "ChartQA Dataset.zip: https://huggingface.co/datasets/ahmed-masry/ChartQA, or --data hub",
    "docvqa": "task 1, single page (free registration): https://rrc.cvc.uab.es/?ch=17, or --data hub",
    "infovqa": "task 3, infographics (free registration): https://rrc.cvc.uab.es/?ch=17, or --data hub",
    "ocrbench": "OCRBench.json and OCRBench_Images.zip: https://github.com/Yuliang-Liu/MultimodalOCR, or --data hub",
    "tallyqa": "tallyqa.zip: https://github.com/manoja328/TallyQA_dataset, and the images of Visual Genome; or --data hub",
    "vsr": "data/splits: https://github.com/cambridgeltl/visual-spatial-reasoning, and COCO 2017's images",
    "refcoco": "mdetr_annotations: https://zenodo.org/record/4729015, and COCO 2014's train images; tests also from --data hub",
    "mmvp": "https://huggingface.co/datasets/MMVP/MMVP, or --data hub",
    "cv_bench": "https://huggingface.co/datasets/nyu-visionx/CV-Bench, or --data hub",
    "realworldqa": "https://huggingface.co/datasets/xai-org/RealworldQA, or --data hub",
    "seed_bench": "SEED-Bench-image: https://huggingface.co/datasets/AILab-CVC/SEED-Bench",
    "mmbench": "https://github.com/open-compass/MMBench, or --data hub",
    "blink": "https://huggingface.co/datasets/BLINK-Benchmark/BLINK, or --data hub",
    "ai2d": "https://prior.allenai.org/projects/diagram-understanding, or --data hub",
    "sugarcrepe": "https://github.com/RAIVNLab/sugar-crepe, and COCO val2017: https://cocodataset.org",
    "winoground": "https://huggingface.co/datasets/facebook/winoground (terms to accept), or --data hub",
    "aro": "https://github.com/mertyg/vision-language-models-are-bows",
    "mmvp_vlm": "https://huggingface.co/datasets/MMVP/MMVP_VLM",
    "vizwiz": "https://vizwiz.org/tasks-and-datasets/vqa",
    "scienceqa": "https://scienceqa.github.io, or --data hub",
    "mme": "see the evaluation tools of https://github.com/BradyFU/Awesome-Multimodal-Large-Language-Models, or --data hub",
    "llava": "instruction files and their images: https://github.com/haotian-liu/LLaVA, or --data hub",
    "ade20k": "ADEChallengeData2016.zip: http://sceneparsing.csail.mit.edu",
    "coco_stuff": "stuffthingmaps_trainval2017.zip: https://github.com/nightrome/cocostuff, and COCO images: https://cocodataset.org",
    "pascal_context": "see docs/data.md; images of VOC 2010: http://host.robots.ox.ac.uk/pascal/VOC/voc2010",
    "voc": "VOC2012: http://host.robots.ox.ac.uk/pascal/VOC/voc2012",
    "cityscapes": "gtFine and leftImg8bit (free registration): https://www.cityscapes-dataset.com",
    "nyuv2": "nyu_depth_v2_labeled.mat and splits.mat: https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html",
    "nyuv2_normals": "dsine_eval (nyuv2): https://github.com/baegwangbin/DSINE",
    "kitti": "raw drives and data_depth_annotated (free registration): https://www.cvlibs.net/datasets/kitti",
    "sunrgbd": "SUNRGBD.zip and SUNRGBDtoolbox.zip: https://rgbd.cs.princeton.edu",
    "spair71k": "SPair-71k.tar.gz: https://cvlab.postech.ac.kr/research/SPair-71k",
    "navi": "navi_v1.0.tar.gz: https://github.com/google/navi",
    "roxford5k": "gnd_roxford5k.pkl: http://cmp.felk.cvut.cz/revisitop, and Oxford5k: https://www.robots.ox.ac.uk/~vgg/data/oxbuildings",
    "rparis6k": "gnd_rparis6k.pkl: http://cmp.felk.cvut.cz/revisitop, and Paris6k: https://www.robots.ox.ac.uk/~vgg/data/parisbuildings",
    "davis": "DAVIS-2017-trainval-480p.zip: https://davischallenge.org/davis2017/code.html",
    "imagenet": "ILSVRC 2012 (free registration): https://image-net.org/download",
    "imagenet_v2": "matched frequency: https://github.com/modestyachts/ImageNetV2",
    "imagenet_a": "imagenet-a.tar: https://github.com/hendrycks/natural-adv-examples",
    "imagenet_r": "imagenet-r.tar: https://github.com/hendrycks/imagenet-r",
    "imagenet_sketch": "https://github.com/HaohanWang/ImageNet-Sketch",
    "objectnet": "objectnet-1.0.zip: https://objectnet.dev",
    "imagenet9": "https://github.com/MadryLab/backgrounds_challenge",
    "places365": "places365standard_easyformat.tar: http://places2.csail.mit.edu/download.html",
    "sun397": "SUN397.tar.gz and Partitions.zip: https://vision.princeton.edu/projects/2010/SUN",
    "aircraft": "fgvc-aircraft-2013b.tar.gz: https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft",
    "pets": "images.tar.gz and annotations.tar.gz: https://www.robots.ox.ac.uk/~vgg/data/pets",
    "cifar10": "https://www.cs.toronto.edu/~kriz/cifar.html",
    "cifar100": "https://www.cs.toronto.edu/~kriz/cifar.html",
    "tiny-imagenet": "tiny-imagenet-200.zip: http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    "stl10": "stl10_binary.tar.gz: https://cs.stanford.edu/~acoates/stl10",
    "coco": "dataset_coco.json (Karpathy): https://cs.stanford.edu/people/karpathy/deepimagesent, and COCO val2014 images",
    "flickr30k": "dataset_flickr30k.json (Karpathy): https://cs.stanford.edu/people/karpathy/deepimagesent; images on request",
    "classification_shifts": "the synthetic scenes: `levl-eval data make scenes --out DIR`; your own: see docs/shifts.md",
    "classification": "your own images: train/CLASS/IMAGE and test/CLASS/IMAGE",
}


def add(commands: Commands) -> None:
    p = commands.add_parser("doctor", help="report what works on this machine and what is missing")
    p.add_argument("--data", default=".", metavar="DIR", help="where data sets are looked for (default: here)")
    p.add_argument("--no-self-test", action="store_true", help="leave out the small evaluation, which takes up to a minute")
    p.add_argument("--json", action="store_true", help="print JSON")
    p.set_defaults(call=run)


def _size(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) if folder.is_dir() else 0


def findings(data: Path, test: bool = True) -> list[dict[str, str]]:
    """One mapping a finding: level (ok | note | error), what, found. test: run the self-test too."""
    from levl_eval.core import third_party
    from levl_eval.core.distributed import cores
    from levl_eval.runner import selftest
    from levl_eval.runner.environment import packages

    out: list[dict[str, str]] = []

    def tell(level: str, what: str, message: str) -> None:
        out.append({"level": level, "what": what, "found": message})

    tell("ok", "python", f"{platform.python_version()} on {platform.platform()}")
    tell("ok", "packages", ", ".join(f"{k} {v}" for k, v in packages().items()))
    try:
        import torch

        name = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no CUDA device: encoders run on the CPU"
        tell("ok", "device", f"{name}, {cores()} CPU cores")
        import levl_eval.backbones  # noqa: F401  (repairs what can be, before torchvision is imported)

        if third_party.repaired():
            tell(
                "note",
                "combination",
                "torchvision is built for CUDA, torch is not: repaired in levl-eval, other programs may fail",
            )
        trouble = selftest.device_trouble()
    except Exception as e:  # any failure here is a finding to report
        tell("error", "device", f"{type(e).__name__}: {' '.join(str(e).split())[:200]}")
        trouble = []
    trouble = [*selftest.broken(selftest.installed(), selftest.requirements()), *trouble]
    for line in trouble:
        tell("error", "combination", line)
    if not trouble:
        tell("ok", "combinations", "none that is known to fail: versions within the tested bounds, packages that fit each other")
    if test:
        try:
            tell("ok", "self-test", selftest.self_test())
        except Exception as e:
            tell("error", "self-test", f"{type(e).__name__}: {' '.join(str(e).split())[:200]}")
    _surroundings(data, tell)
    return out


def _surroundings(data: Path, tell: Callable[[str, str, str], None]) -> None:
    """The hub, the data sets and the disks, which change from day to day."""
    from levl_eval.core.paths import default_cache

    offline = os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0")
    tell(
        "ok",
        "hub",
        "offline (HF_HUB_OFFLINE is set): only its cache is read"
        if offline
        else "online: asked only when a hub name or --data hub is given (not tried here)",
    )
    for name, source in SETS.items():
        there = (data / name).is_dir()
        tell("ok" if there else "note", f"data {name}", str(data / name) if there else f"not in {data}; {source}")
    cache = default_cache()
    where = next(p for p in (cache, *cache.parents) if p.exists())
    free = shutil.disk_usage(where).free
    level = "ok" if free > 2e9 else "error"
    tell(level, "cache", f"{cache}: {size_text(_size(cache))} used, {size_text(free)} free on its disk")
    here = shutil.disk_usage(".").free
    tell("ok" if here > 5e8 else "error", "disk", f"{size_text(here)} free where runs are written (this folder's disk)")


def run(args: argparse.Namespace) -> int:
    """Exit code 1 where something is broken; missing data are notes."""
    if not args.no_self_test and not args.json:
        print("a small evaluation is run on this machine, up to a minute ...", file=sys.stderr, flush=True)
    all_findings = findings(Path(args.data), not args.no_self_test)
    if args.json:
        print(json.dumps(all_findings, indent=1))
    else:
        print_rows([[f["level"], f["what"], f["found"]] for f in all_findings])
    return 1 if any(f["level"] == "error" for f in all_findings) else 0
