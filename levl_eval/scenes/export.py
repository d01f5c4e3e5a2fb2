"""The generated world written in the layouts the real data sets are published in; the same readers read both.

    gqa/questions/{train,testdev}_balanced_questions.json, gqa/images/*.jpg
    vqav2/v2_OpenEnded_mscoco_{train2014,val2014}_questions.json, v2_mscoco_*_annotations.json, {train2014,val2014}/COCO_*.jpg
    pope/coco_pope_{random,popular,adversarial}.json over pope/val2014/COCO_val2014_*.jpg
    ade20k/ADEChallengeData2016/{images,annotations}/{training,validation}, objectInfo150.txt
    sugarcrepe, winoground, aro, mmvp_vlm: scenes.choices; classification_shifts: scenes.shifts; cv_bench, mmbench: scenes.options
    chartqa, docvqa, infovqa, ocrbench: scenes.signs; tallyqa, vsr: scenes.counting; refcoco: scenes.referring
    mmvp, realworldqa, seed_bench, ai2d, blink: scenes.lettered; reading: scenes.reading
    classification/{train,test}/<class>/*.jpg, imagenet9/{original/train, {original,mixed_same,mixed_rand}/val}/<class>/*.jpg
    roxford5k/jpg/*.jpg, gnd_roxford5k.json
    nyuv2, sunrgbd, kitti: scenes.depths; navi: scenes.views
    davis/DAVIS/{JPEGImages,Annotations}/480p/<video>/<frame>, ImageSets/2017/val.txt
    spair71k/SPair-71k/{JPEGImages,ImageAnnotation}/<class>/*, PairAnnotation/test/*.json, Layout/large/test.txt

Every scene's seed is a hash of (set, split, number, seed): splits never share a scene.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from levl_eval.core.children import process_pool
from levl_eval.core.distributed import cores
from levl_eval.core.files import disk_full_as_error, locked
from levl_eval.core.in_use import hold
from levl_eval.core.progress import Progress
from levl_eval.records.identity import cache_key
from levl_eval.scenes import (
    VERSION,
    choices,
    counting,
    depths,
    labels,
    lettered,
    manifest,
    options,
    reading,
    referring,
    shifts,
    signs,
    views,
)
from levl_eval.scenes.keypoints import annotated, posed_scene, spair_files
from levl_eval.scenes.motion import FRAMES, moving_scene
from levl_eval.scenes.places import VIEWS, place_name, places_file, view_of
from levl_eval.scenes.pope import STRATEGIES, pope_questions
from levl_eval.scenes.question_files import gqa_file, vqav2_files
from levl_eval.scenes.render import render_image, render_instances, render_mask
from levl_eval.scenes.world import (
    CATEGORIES,
    GROUP_OF,
    GROUPS,
    MASK_CLASSES,
    Scene,
    sample_scene,
    single_object_scene,
    stable_seed,
    with_background,
)

# Images a set, sized for the demo on two cores.
COUNTS: dict[str, int] = {
    "gqa/train": 2500, "gqa/testdev": 800, "vqav2/train2014": 1500, "vqav2/val2014": 800, "pope/val2014": 300,
    "ade20k/training": 2000, "ade20k/validation": 1000, "classification/train": 60 * 24, "classification/test": 30 * 24,
    "imagenet9/train": 40 * 9, "imagenet9/val": 20 * 9, "spair71k/test": 8 * 16, "davis/val": 12 * FRAMES, "roxford5k/jpg": 24 * VIEWS,
    **choices.COUNTS, **shifts.COUNTS, **options.COUNTS, **signs.COUNTS, **counting.COUNTS, **depths.COUNTS, **referring.COUNTS,
    **lettered.COUNTS, **views.COUNTS, **reading.COUNTS,
}  # fmt: skip
QUALITY = 95
_ADE20K = "ade20k/ADEChallengeData2016"
_SPAIR = "spair71k/SPair-71k"
_DAVIS = "davis/DAVIS"
FOREGROUNDS = tuple(g for g in GROUPS if g not in ("insect", "building"))  # nine, as ImageNet-9 has


def scene_of(part: str, index: int, seed: int) -> Scene:
    """The scene of picture ``index`` of a part ("gqa/train", ...)."""
    key = stable_seed("export", part, seed, index)
    if part.partition("/")[0] in choices.ROOMS:
        return choices.part_scene(part, index, seed)[0]
    room, _, kind = part.partition("/")
    if part == options.PART:
        return options.option_scene(key)
    if room == shifts.ROOM:
        return shifts.shifted_scene(scene_of("classification/test", index, seed), kind)
    if room in signs.ROOMS:
        return signs.signed_scene(part, index, seed)
    if room in lettered.ROOMS:
        return lettered.lettered_scene(part, index, seed)
    if room in counting.ROOMS:
        return counting.counted_scene(part, index, seed)
    if room in depths.ROOMS:
        return depths.deep_scene(part, key)
    if part == referring.PART:
        return referring.referred_scene(key)
    if part == views.PART:
        return views.viewed_scene(index, seed)
    if part == reading.PART:
        return reading.of_image(index, seed).scene
    if part.startswith("classification"):
        return single_object_scene(key, CATEGORIES[index % len(CATEGORIES)])
    if part.startswith("imagenet9"):
        members = GROUPS[FOREGROUNDS[index % len(FOREGROUNDS)]]
        return single_object_scene(key, members[(index // len(FOREGROUNDS)) % len(members)])
    if part.startswith("spair71k"):
        return posed_scene(key, index)
    if part.startswith("roxford5k"):
        return view_of(stable_seed("export", part, seed, index // VIEWS), index % VIEWS)
    if part.startswith("davis"):
        return moving_scene(stable_seed("export", part, seed, index // FRAMES), index % FRAMES)
    return sample_scene(key)


def _encoded(path: str, pixels: np.ndarray) -> bytes:
    """An image file's bytes: PNG where its name says so, else JPEG."""
    buffer, png = io.BytesIO(), path.endswith(".png")
    Image.fromarray(pixels).save(buffer, "PNG" if png else "JPEG", **({} if png else {"quality": QUALITY}))
    return buffer.getvalue()


def image_scenes(part: str, index: int, seed: int) -> Iterator[tuple[str, Scene]]:
    """(path below the root, scene) of every image that number ``index`` of ``part`` gives; imagenet9/val gives three."""
    room, split = part.split("/")
    if room in (*choices.ROOMS, *lettered.ROOMS):
        yield from (choices if room in choices.ROOMS else lettered).images(part, index, seed)
        return
    scene = scene_of(part, index, seed)
    if room == "gqa":
        yield f"gqa/images/{image_id(part, index)}.jpg", scene
    elif room in ("vqav2", "pope"):
        yield f"{room}/{split}/{image_id(part, index)}.jpg", scene
    elif room == "ade20k":
        yield f"{_ADE20K}/images/{split}/{_ade_stem(split, index)}.jpg", scene
    elif room == "classification":
        yield f"classification/{split}/{scene.objects[0].category}/{index:06d}.jpg", scene
    elif part == options.PART:
        yield f"{room}/{options.image_name(index)}", scene
    elif room == shifts.ROOM:
        yield f"{room}/{split}/{scene.objects[0].category}/{index:06d}.jpg", scene
    elif room == "spair71k":
        yield f"{_SPAIR}/JPEGImages/{scene.objects[0].category}/{image_id(part, index)}.jpg", scene
    elif room == "roxford5k":
        yield f"{part}/{image_id(part, index)}.jpg", scene
    elif room in signs.ROOMS:
        yield signs.image_path(part, index), scene
    elif room in counting.ROOMS:
        yield counting.image_path(part, index), scene
    elif room in depths.ROOMS:
        yield depths.image_path(part, index), scene
    elif part == referring.PART:
        yield referring.image_path(index), scene
    elif part == views.PART:
        yield views.image_path(index), scene
    elif part == reading.PART:
        yield reading.image_path(index), scene
    elif room == "davis":
        yield f"{_DAVIS}/JPEGImages/480p/{image_id(part, index)}.jpg", scene
    else:
        group = GROUP_OF[scene.objects[0].category]
        yield f"imagenet9/original/{split}/{group}/{index:06d}.jpg", scene
        if split == "val":
            # Another image's background: of the same group, or of the next one (never the same group).
            groups = len(FOREGROUNDS)
            for name, step in (("mixed_same", groups), ("mixed_rand", 1 + stable_seed("mix", seed, index) % (groups - 1))):
                other = scene_of("imagenet9/background", index + step, seed)
                yield f"imagenet9/{name}/val/{group}/{index:06d}.jpg", with_background(scene, other)


def _ade_stem(split: str, index: int) -> str:
    return f"ADE_{'train' if split == 'training' else 'val'}_{index + 1:08d}"


def _files(part: str, index: int, seed: int, size: int) -> Iterator[tuple[str, bytes]]:
    """(path below the root, bytes) of everything image ``index`` of ``part`` gives."""
    room, _, kind = part.partition("/")
    for path, scene in image_scenes(part, index, seed):
        pixels = render_image(scene, size)
        if room == shifts.ROOM:
            pixels = shifts.shifted_pixels(pixels, kind, index, seed)
        if reading.has_sign(part, index):
            pixels = signs.signed_pixels(pixels, part, index, seed)
        if room in lettered.ROOMS:
            pixels = labels.labelled(pixels, lettered.labels_of(part, index, seed, scene))
        if part == reading.PART:
            pixels = labels.labelled(pixels, reading.labels_of(reading.of_image(index, seed)))
        yield path, _encoded(path, pixels)
        if part.startswith("ade20k"):
            split = part.split("/")[1]
            buffer = io.BytesIO()
            Image.fromarray(render_mask(scene, size)).save(buffer, "PNG")
            yield f"{_ADE20K}/annotations/{split}/{_ade_stem(split, index)}.png", buffer.getvalue()
        if room in depths.ROOMS:
            yield depths.map_file(part, index, scene, size)
        if part == views.PART:
            yield views.map_file(index, scene, size)
        if part.startswith("davis"):
            yield f"{_DAVIS}/Annotations/480p/{image_id(part, index)}.png", _indexed(render_instances(scene, size))


def _indexed(objects: np.ndarray) -> bytes:
    """An image of object numbers as DAVIS has them: a palette PNG, 0 the background."""
    image, buffer = Image.fromarray(objects).convert("P"), io.BytesIO()
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
    image.save(buffer, "PNG")
    return buffer.getvalue()


def image_id(part: str, index: int) -> str:
    """Name of a picture without its ending, as the data set names its images."""
    if part.startswith("gqa"):
        return f"s{part.split('/')[1]}{index:06d}"
    if part.startswith("spair71k"):
        return f"scene_{index + 1:06d}"
    if part.startswith("roxford5k"):
        return place_name(index)
    if part.startswith("davis"):
        return f"{_video(index // FRAMES)}/{index % FRAMES:05d}"
    split = part.split("/")[1]
    number = index + 1 + (500_000 if part.startswith("pope") else 0)
    return f"COCO_{split}_{number:012d}"


def _video(number: int) -> str:
    return f"scene-{number + 1:03d}"


def _listed(name: str, content: bytes) -> tuple[str, int, str]:
    return name, len(content), hashlib.sha256(content).hexdigest()


def _write_chunk(args: tuple[str, int, int, int, int, str]) -> list[tuple[str, int, str]]:
    """Writes some images of a part; (name, bytes, SHA-256) of every file."""
    part, start, stop, seed, size, out = args
    written = []
    for index in range(start, stop):
        for name, content in _files(part, index, seed, size):
            written.append(_put(Path(out), name, content))
    return written


def _put(out: Path, name: str, content: bytes) -> tuple[str, int, str]:
    """Write a file of the world; the manifest, written last, says that everything is there."""
    path = out / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with disk_full_as_error(path):
        path.write_bytes(content)
    return _listed(name, content)


def _object_info() -> str:
    """The class list in ADE20K's objectInfo150.txt columns (ratios are not given)."""
    lines = ["Idx\tRatio\tTrain\tVal\tName"]
    return "\n".join(lines + [f"{i + 1}\t0.0\t0\t0\t{name}" for i, name in enumerate(MASK_CLASSES)]) + "\n"


def _annotations(part: str, count: int, seed: int, size: int) -> Iterator[tuple[str, str]]:
    """(path below the root, text) of what a part's images are annotated with together."""
    room, split = part.split("/")
    if room == "gqa":
        names = [image_id(part, i) for i in range(count)]
        yield (
            f"gqa/questions/{split}_balanced_questions.json",
            json.dumps(gqa_file(part, names, seed, lambda i: scene_of(part, i, seed))),
        )
        if split == "train":
            yield from referring.training_files([f"{n}.jpg" for n in names], seed, size, lambda i: scene_of(part, i, seed))
    elif room == "vqav2":
        questions, annotations = vqav2_files(part, count, seed, lambda i: scene_of(part, i, seed))
        yield f"vqav2/v2_OpenEnded_mscoco_{split}_questions.json", json.dumps(questions)
        yield f"vqav2/v2_mscoco_{split}_annotations.json", json.dumps(annotations)
    elif room == "pope":
        images = [(f"{image_id(part, i)}.jpg", scene_of(part, i, seed).counts()) for i in range(count)]
        for strategy in STRATEGIES:
            lines = [json.dumps(q) for q in pope_questions(images, strategy, seed)]
            yield f"pope/coco_pope_{strategy}.json", "\n".join(lines) + "\n"
    elif room == "spair71k":
        known = {image_id(part, i): annotated(scene_of(part, i, seed).objects[0], size) for i in range(count)}
        for name, text in spair_files(known, split, size):
            yield f"{_SPAIR}/{name}", text
    elif room in choices.ROOMS:
        yield from choices.files_of(part, count, seed, size)
    elif part == options.PART:
        yield from options.files_of(count, seed, lambda i: scene_of(part, i, seed), lambda s: _encoded("", render_image(s, size)))
    elif room == "roxford5k":
        yield "roxford5k/gnd_roxford5k.json", json.dumps(places_file(count, size))
    elif room in signs.ROOMS:
        yield from signs.files_of(part, count, seed)
    elif room in lettered.ROOMS:
        yield from lettered.files_of(part, count, seed)
    elif room in counting.ROOMS:
        yield from counting.files_of(part, count, seed)
    elif room in depths.ROOMS:
        yield from depths.files_of(part, count)
    elif part == views.PART:
        yield from views.files_of(count, seed, size)
    elif part == reading.PART:
        yield from reading.files_of(count, seed)
    elif part == referring.PART:
        yield from referring.files_of(count, seed, size, lambda i: scene_of(part, i, seed))
    elif room == "davis":  # frames beyond the last whole video are listed nowhere
        yield f"{_DAVIS}/ImageSets/2017/{split}.txt", "".join(f"{_video(k)}\n" for k in range(count // FRAMES))
    elif part == "ade20k/validation":
        yield "ade20k/ADEChallengeData2016/objectInfo150.txt", _object_info()


def make_scenes(
    out: Path,
    seed: int = 0,
    size: int = 96,
    scale: float = 1.0,
    progress: Progress | None = None,
    counts: dict[str, int] | None = None,
) -> str:
    """Write the whole world below ``out``; does nothing where the same world is there and whole already (scenes.manifest).

    size: side in pixels, 64 to 512. scale multiplies the number of images. Deterministic: equal arguments, equal files. Returns
    "there", "written", or "written again" where an earlier world was unfinished, another one, or had changed, which is said.
    Raises UsageError where ``out`` cannot be written, or holds something else.
    """
    progress = progress or Progress()
    numbers = world_counts(scale, counts)
    wanted = {"generator": VERSION, "seed": seed, "size": size, "counts": numbers}
    manifest.check_ours(out)
    with locked(out / manifest.LOCK):
        wrong = manifest.damage(out, wanted)
        if not wrong:
            manifest.used(out)
            return "there"
        if wrong != "absent":
            progress.say(f"{out}: {wrong}; written again")
        manifest.begin(out)
        _write(out, numbers, seed, size, wanted, progress)
    return "written" if wrong == "absent" else "written again"


def _write(out: Path, numbers: dict[str, int], seed: int, size: int, wanted: Mapping[str, object], progress: Progress) -> None:
    jobs = [
        (part, i, min(n, i + 100), seed, size, str(out))
        for part, n in numbers.items()
        if part != "imagenet9/background"
        for i in range(0, n, 100)
    ]
    files: list[tuple[str, int, str]] = []
    workers = min(8, cores())
    with progress.stage("drawing scenes", sum(numbers.values()), "image") as bar, process_pool(workers) as pool:
        for job, written in zip(jobs, pool.map(_write_chunk, jobs), strict=True):
            files += written
            bar.advance(job[2] - job[1])
    for part, n in numbers.items():
        files += [_put(out, name, text.encode()) for name, text in _annotations(part, n, seed, size)]
    manifest.mark_complete(out, wanted, files)


def world_counts(scale: float = 1.0, counts: dict[str, int] | None = None) -> dict[str, int]:
    """Images a set; with ``counts`` of the sets that it names alone."""
    return {part: max(12, round(n * scale)) for part, n in (COUNTS if counts is None else counts).items()}


def world_folder(cache: Path, seed: int = 0, size: int = 96) -> Path:
    """Where the cache keeps the world that ``--data scenes`` stands for; every version of the generator has its own."""
    key = cache_key("scenes", VERSION, seed=seed, size=size, counts=world_counts())
    return cache / "scenes" / f"seed{seed}-v{VERSION}-{key[:16]}"


def cached_world(cache: Path, progress: Progress, seed: int = 0) -> Path:
    """That world, made or repaired where it is not there whole, and from now on held (core.in_use)."""
    folder = world_folder(cache, seed)
    hold(folder)
    make_scenes(folder, seed=seed, progress=progress)
    return folder
