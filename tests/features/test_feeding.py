"""Images on their way to an encoder: pixels equal to torchvision's, the same from threads, processes and one by one; errors and ends."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from levl_eval.core.errors import LevlError
from levl_eval.data.images import image_set
from levl_eval.data.rgb import Rules, open_rgb, to_rgb
from levl_eval.features.feeding import Batch, pixels_of, to_device, worker_count
from levl_eval.models.preprocess import Preprocess

CPU = torch.device("cpu")


def noise_image(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng([seed, width, height])
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos"])
def test_pixels_are_torchvisions_to_the_bit(interpolation):
    from levl_eval.core.third_party import repair

    repair()
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    method = InterpolationMode[interpolation.upper()]
    sizes = [(50, 37), (37, 50), (32, 32), (20, 64), (64, 20), (31, 90), (33, 32), (500, 41), (48, 47)]
    for resize_to in (32, 36, 40):
        own = Preprocess(32, "shortest", resize_to, interpolation)
        theirs = Compose([Resize(resize_to, method), CenterCrop(32)])
        for k, size in enumerate(sizes):
            image = noise_image(*size, k)
            np.testing.assert_array_equal(own.pixels(image), np.asarray(theirs(image)), f"{size} {resize_to}")
    with pytest.raises(ValueError, match="mode L"):
        own.pixels(Image.new("L", (8, 8)))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos", "box", "hamming", "nearest"])
@pytest.mark.parametrize("resize", ["shortest", "squash-crop"])
def test_columns_that_the_crop_removes_never_change_those_it_keeps(resize, interpolation):
    """Pillow resizes rows or columns first as sizes and versions say; what is kept is what one resize and a crop give."""
    rng = np.random.default_rng(3)
    for k in range(40):
        wide, high, to = (int(n) for n in rng.integers(1, 160, 3))
        own = Preprocess(int(rng.integers(1, 50)), resize, to, interpolation)
        image = noise_image(wide, high, k)
        plain = replace(own, size=to, resize="squash", resize_to=None).geometry(image) if resize == "squash-crop" else None
        if plain is None:  # Resize(to)
            short = min(wide, high)
            plain = image.resize(
                tuple(to if s == short else int(to * s / short) for s in (wide, high)), Image.Resampling[interpolation.upper()]
            )
        whole = replace(own, resize="shortest", resize_to=min(plain.size)).geometry(plain)  # crops alone
        np.testing.assert_array_equal(own.pixels(image), np.asarray(whole), f"{own} {image.size}")


def test_settings_whose_pixels_moved_are_of_another_key_and_no_others():
    assert Preprocess(224, "shortest", 256).describe() != Preprocess(224, "shortest", 256).settings()
    for other in (
        Preprocess(224),
        Preprocess(224, "shortest", 224),
        Preprocess(224, "squash", 256),
        Preprocess(96, "pad"),
        Preprocess(97, "shortest", 64),
        Preprocess(480, "free", 512),
    ):
        assert (
            other.describe()
            == other.settings()
            == {k: list(v) if isinstance(v, tuple) else v for k, v in vars(other).items() if k != "crop"}
        )


FILES = [
    ("RGB", "JPEG", {"quality": 90}), ("RGB", "JPEG", {"quality": 95, "subsampling": 0}), ("RGB", "JPEG", {"progressive": True}),
    ("L", "JPEG", {}), ("CMYK", "JPEG", {}), ("RGB", "PNG", {}), ("L", "PNG", {}), ("RGB", "BMP", {}), ("RGB", "WEBP", {"lossless": True}),
    ("RGB", "TIFF", {}), ("P", "PNG", {}),
]  # fmt: skip


@pytest.mark.parametrize("mode, form, options", FILES)
def test_files_give_the_values_of_torchvisions_transforms_to_the_bit(mode, form, options, tmp_path):
    """From the encoded file to the encoder's input, at sizes that are resized and cropped on either side or not at all."""
    from levl_eval.core.third_party import repair

    repair()
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

    own = Preprocess(32, "shortest", 36)
    theirs = Compose([Resize(36, InterpolationMode.BICUBIC), CenterCrop(32), ToTensor(), Normalize(own.mean, own.std)])
    for k, size in enumerate([(50, 37), (37, 50), (36, 36), (20, 64), (96, 21), (32, 32)]):
        path = tmp_path / f"{k}.x"
        noise_image(*size, k).convert(mode).save(path, form, **options)
        with Image.open(path) as image:
            wanted = theirs(image.convert("RGB"))
        opened = open_rgb(path)
        assert torch.equal(own.normalize(torch.from_numpy(own.pixels(opened))), wanted), size


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize("tag", [0, 1, 3, 6])
def test_an_opened_image_is_whole_without_its_file_and_is_not_turned_twice(form, tag, tmp_path):
    path, image = tmp_path / "a.x", noise_image(12, 7)
    exif = image.getexif()
    if tag:
        exif[0x0112] = tag
    image.save(path, form, exif=exif)
    for rules in (Rules(), Rules(orientation="stored")):
        opened = open_rgb(path, rules)
        with Image.open(path) as again:
            wanted = to_rgb(again, rules=rules)
        path.rename(tmp_path / "gone")
        assert not opened.info and opened.size == wanted.size
        for got in (opened, to_rgb(opened), opened.copy(), pickle.loads(pickle.dumps(opened))):
            np.testing.assert_array_equal(np.asarray(got), np.asarray(wanted))
        small = opened.copy()
        small.thumbnail((4, 4))
        assert max(small.size) == 4 and to_rgb(opened, rules=Rules(background="black")).tobytes() == wanted.tobytes()
        (tmp_path / "gone").rename(path)


def test_plain_images_are_handed_on_without_a_copy(tmp_path, monkeypatch):
    noise_image(12, 7).save(tmp_path / "a.jpg")
    monkeypatch.setattr(Image.Image, "convert", None)
    assert open_rgb(tmp_path / "a.jpg").mode == "RGB"


@pytest.fixture
def images(tmp_path):
    for k in range(11):
        noise_image(30 + k, 40 - k, k).save(tmp_path / f"{k}.png")
    return image_set([f"{k}.png" for k in range(11)], lambda n: tmp_path / n, str(tmp_path), "")


def batches(images, size=4):
    return [Batch(i, images.ids[i : i + size]) for i in range(0, len(images.ids), size)]


@pytest.mark.parametrize("workers", [0, 2])
def test_every_way_gives_the_values_of_one_image_at_a_time(images, workers):
    own = Preprocess(16, mean=(0.1, 0.5, 0.4), std=(0.3, 0.26, 0.9))
    fed = list(pixels_of(images, own, batches(images), CPU, workers))
    assert [tag for tag, _ in fed] == [0, 4, 8] and fed[0][1].dtype == torch.uint8
    got = torch.cat([to_device(pixels, own, CPU) for _, pixels in fed])
    assert torch.equal(got, torch.stack([own(images.open(n)) for n in images.ids]))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_keeps_its_message(images, tmp_path, workers):
    (tmp_path / "6.png").write_bytes(b"junk")
    fed = pixels_of(images, Preprocess(16), batches(images), CPU, workers)
    assert next(fed)[0] == 0
    with pytest.raises(LevlError, match=r"6\.png: cannot be decoded"):
        list(fed)


def test_processes_are_for_large_sets_and_need_shared_memory(monkeypatch):
    monkeypatch.setattr("levl_eval.features.feeding.cores", lambda: 4)
    assert worker_count(100, 64, 224) == 0 and worker_count(10_000, 64, 224) == 4 and worker_count(600, 300, 224) == 2
    small = os.statvfs_result((4096, 4096, 100, 16_000, 16_000, 0, 0, 0, 0, 255))  # 64 MB, a container's default
    monkeypatch.setattr("levl_eval.features.feeding.os.statvfs", lambda path: small)
    assert worker_count(10_000, 64, 224) == 0 and worker_count(10_000, 64, 32) == 4
    monkeypatch.setattr("levl_eval.features.feeding.cores", lambda: 1)
    assert worker_count(10_000, 64, 32) == 0


CHILD = """
import multiprocessing, sys, time
import torch
from PIL import Image
from levl_eval.data.types import ImageSet
from levl_eval.features.feeding import Batch, pixels_of
from levl_eval.models.preprocess import Preprocess
ids = tuple(map(str, range(40)))
images = ImageSet(ids=ids, open=lambda n: Image.new("RGB", (20, 20)), fingerprint="f", source="s")
fed = pixels_of(images, Preprocess(16), (Batch(i, ids[i:i + 4]) for i in range(0, 40, 4)), torch.device("cpu"), 2)
next(fed)
print(*[p.pid for p in multiprocessing.active_children()], flush=True)
time.sleep(60)
"""


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_a_worker_whose_process_was_killed_before_it_began_ends_at_once():
    """It is no child of that process any more, so that no signal would come."""
    slow = CHILD.replace("import multiprocessing", "import ctypes, multiprocessing").replace(
        "ids =", "real = ctypes.CDLL\nctypes.CDLL = lambda name: (time.sleep(3), real(name))[1]\nids ="
    )
    slow = slow.replace(
        "next(fed)\n", "import threading\nthreading.Thread(target=next, args=(fed,), daemon=True).start()\ntime.sleep(2)\n"
    )
    with subprocess.Popen([sys.executable, "-c", slow], stdout=subprocess.PIPE, text=True) as main:
        assert main.stdout is not None
        workers = [int(p) for p in main.stdout.readline().split()]
        main.kill()
    assert len(workers) == 2
    deadline = time.monotonic() + 15
    while any(map(_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_alive, workers))


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_the_process_they_work_for(how):
    with subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as main:
        assert main.stdout is not None
        workers = [int(p) for p in main.stdout.readline().split()]
        assert len(workers) == 2 and all(map(_alive, workers))
        main.send_signal(how)
        main.wait(20)
    deadline = time.monotonic() + 10
    while any(map(_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_alive, workers))
