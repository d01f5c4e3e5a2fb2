"""Images decoded and cut for an encoder: per CPU-second against torchvision and our earlier form, and how busy cores are.

    python benchmarks/feeding.py [--images 200] [--rounds 5] [--parts] [--folder DIR] [--json FILE]

JPEGs of 500 x 375 pixels (smooth noise, quality 90, made here) to 224: shortest side, bicubic, centre crop. One process, one
thread; the three forms run in turn, a round each:
  ours         data.rgb.open_rgb and Preprocess.pixels (what a worker does), normalised by the batch of 64
  torchvision  Image.open(...).convert("RGB"), Resize, CenterCrop, ToTensor, Normalize
  before       as levl-eval at 185fc12: opened and converted, converted once more, resized, cropped, normalised one by one
Their pixels are compared first. Then workers alone feed a consumer that does nothing: images a second of wall time, and the
processor's seconds of the workers over wall time and cores ("busy"). Ratios are medians over rounds with their range; busy cores
mean something on an idle machine alone. --parts: where torchvision's milliseconds go instead, step by step, and what would be
left were everything free but the JPEG decoder and Pillow's two resampling passes, which no other order of ours can avoid while
pixels stay equal: the most that "ours" can win.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from levl_eval.core.third_party import repair

repair()
from torchvision import transforms  # noqa: E402

from levl_eval.data.images import image_set  # noqa: E402
from levl_eval.data.rgb import open_rgb  # noqa: E402
from levl_eval.features.feeding import Batch, pixels_of, worker_count  # noqa: E402
from levl_eval.models.preprocess import Preprocess  # noqa: E402

SIZE, BATCH = 224, 64


def make(folder: Path, count: int) -> list[Path]:
    """JPEGs of 500 x 375."""
    rng = np.random.default_rng(0)
    files = []
    for k in range(count):
        base = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)).resize((500, 375), Image.Resampling.BICUBIC)
        noisy = np.clip(np.asarray(base, np.int16) + rng.normal(0, 12, (375, 500, 3)), 0, 255).astype(np.uint8)
        files.append(folder / f"{k}.jpg")
        Image.fromarray(noisy).save(files[-1], quality=90)
    return files


def forms(own: Preprocess) -> dict[str, Callable[[list[Path]], torch.Tensor]]:
    """Name -> files to normalised batches, one form each."""
    theirs = transforms.Compose([
        transforms.Resize(SIZE, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(SIZE), transforms.ToTensor(),
        transforms.Normalize(own.mean, own.std),
    ])  # fmt: skip
    crop = transforms.Compose(theirs.transforms[:2])
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (own.mean, own.std))

    def before(file: Path) -> torch.Tensor:
        with Image.open(file) as image:
            opened = image.convert("RGB")
        pixels = torch.from_numpy(np.array(crop(opened.convert("RGB"))))
        return (pixels.movedim(-1, -3).float().div(255.0) - mean) / std

    def library(file: Path) -> torch.Tensor:
        with Image.open(file) as image:
            return theirs(image.convert("RGB"))

    return {
        "ours": lambda files: own.normalize(torch.from_numpy(np.stack([own.pixels(open_rgb(f)) for f in files]))),
        "torchvision": lambda files: torch.stack([library(f) for f in files]),
        "before": lambda files: torch.stack([before(f) for f in files]),
    }


def compared(files: list[Path], own: Preprocess, rounds: int) -> dict[str, object]:
    """CPU milliseconds an image of each form, and ratios by round."""
    ways = forms(own)
    first = {name: way(files[:8]) for name, way in ways.items()}
    apart = {name: float((first[name] - first["ours"]).abs().max()) for name in ways if name != "ours"}
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            started = time.process_time()
            for i in range(0, len(files), BATCH):
                way(files[i : i + BATCH])
            spent[name].append((time.process_time() - started) / len(files) * 1e3)
    ratios = {name: sorted(o / n for o, n in zip(spent[name], spent["ours"], strict=True)) for name in ways if name != "ours"}
    return {"cpu_ms_an_image": {k: float(np.median(v)) for k, v in spent.items()}, "ratios": ratios, "largest_difference": apart}


def parts(files: list[Path], own: Preprocess, rounds: int) -> dict[str, float]:
    """CPU milliseconds an image of each step of torchvision's form, and of what ours cannot do without; medians over rounds in turn."""
    bicubic = Image.Resampling.BICUBIC
    tensor, normalize = transforms.ToTensor(), transforms.Normalize(own.mean, own.std)
    crop = transforms.CenterCrop(SIZE)

    def opened(file: Path) -> Image.Image:
        with Image.open(file) as image:
            image.load()
        return image

    whole = [opened(f) for f in files]
    wide = SIZE * whole[0].width // whole[0].height
    left = round((wide - SIZE) / 2)
    rows = [i.resize((wide, i.height), bicubic) for i in whole]
    narrow = [i.crop((left, 0, left + SIZE, i.height)) for i in rows]
    resized = [i.resize((wide, SIZE), bicubic) for i in whole]
    cut = [crop(i) for i in resized]
    steps: dict[str, tuple[Sequence[object], Callable[[Any], object]]] = {
        "opened and decoded": (files, opened), "copied as RGB": (whole, lambda i: i.convert("RGB")),
        "resized": (whole, lambda i: i.resize((wide, SIZE), bicubic)), "cropped": (resized, crop),
        "to floats, normalised": (cut, lambda i: normalize(tensor(i))),
        "ours: rows resized": (whole, lambda i: i.resize((wide, i.height), bicubic)),
        "ours: columns resized": (narrow, lambda i: i.resize((SIZE, SIZE), bicubic)),
    }  # fmt: skip
    spent: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, (inputs, step) in steps.items():
            started = time.process_time()
            for one in inputs:
                step(one)
            spent[name].append((time.process_time() - started) / len(files) * 1e3)
    return {name: float(np.median(values)) for name, values in spent.items()}


def show_parts(ms: dict[str, float]) -> None:
    """The steps with their shares, and the bound."""
    theirs = sum(v for name, v in ms.items() if not name.startswith("ours"))
    for name, value in ms.items():
        print(f"{name:24} {value:6.3f} ms  {100 * value / theirs:4.0f} % of torchvision's {theirs:.2f}")
    least = ms["opened and decoded"] + ms["ours: rows resized"] + ms["ours: columns resized"]
    print(f"decoder and both passes alone: {least:.2f} ms, at most {theirs / least:.2f} times torchvision's speed")


def fed(files: list[Path], own: Preprocess, times: int) -> dict[str, float]:
    """Worker processes and a consumer that does nothing."""
    names = [f"{t}/{f.name}" for t in range(times) for f in files]
    images = image_set(names, lambda n: files[0].parent / n.partition("/")[2], str(files[0].parent), "")
    workers = worker_count(len(names), BATCH, SIZE)
    batches = [Batch(i, images.ids[i : i + BATCH]) for i in range(0, len(names), BATCH)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    for _ in pixels_of(images, own, batches, torch.device("cpu"), workers):
        pass
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "workers": workers,
        "images": len(names),
        "images_a_second": len(names) / wall,
        "busy": cpu / wall / (os.cpu_count() or 1),
    }


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    p.add_argument("--images", type=int, default=200)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--repeat", type=int, default=10, help="times that the workers go through the images")
    p.add_argument("--parts", action="store_true", help="where the milliseconds go, and what equal pixels cost at least")
    p.add_argument("--folder", type=Path)
    p.add_argument("--json", type=Path)
    args = p.parse_args()
    torch.set_num_threads(1)
    own = Preprocess(SIZE)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        files = make(Path(folder), args.images)
        if args.parts:
            ms = parts(files, own, args.rounds)
            show_parts(ms)
            if args.json:
                args.json.write_text(json.dumps(ms, indent=1))
            return
        result = {"load": os.getloadavg()[0], **compared(files, own, args.rounds), "workers": fed(files, own, args.repeat)}
    ms = result["cpu_ms_an_image"]
    for name, ratios in result["ratios"].items():
        print(
            f"ours against {name}: {np.median(ratios):.2f} times the images a CPU-second "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f} over {args.rounds} rounds; {1e3 / ms['ours']:.0f} and {1e3 / ms[name]:.0f}); "
            f"values at most {result['largest_difference'][name]:.1g} apart"
        )
    w = result["workers"]
    print(
        f"{w['workers']:.0f} workers: {w['images_a_second']:.0f} images a second, "
        f"{100 * w['busy']:.0f} % of the cores busy with decoding (load before: {result['load']:.1f})"
    )
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
