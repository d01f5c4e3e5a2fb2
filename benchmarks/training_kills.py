"""Training killed at random steps and resumed: is the end the uninterrupted run, bit for bit?

    python benchmarks/training_kills.py [--kills 25] [--seed 0] [--steps 60] [--data scenes|wds] [--work DIR] [--json FILE] [key=value ...]

Each run is a process of its own (forked after the imports) and is ended by signal 9 within training: after a random number of further
steps, at a random moment of the step. Then the same command begins again, until --kills of them were survived, and it may end.
Steps and kills are spread so that each run makes some way. Its ckpt.pt, metrics without times and the checkpoints kept must equal
those of a run that nobody disturbed; every checkpoint met on the way must be readable. Dropout, accumulation and augmentation
draw random numbers at every step.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import signal
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import forked  # beside this file

WORDS = ["batch_size=16", "scenes_pool=64", "captions_per_image=2", "sigreg_slices=64", "vision.depth=1", "text.depth=1", "vocab_size=400",
         "precision=fp32", "log_every=1", "save_every=3", "diagnose_every=10",
         "diagnose_images=16", "threads=1", "warmup=5", "accumulate=2",
         "dropout=0.1", "head_dropout=0.1", "augmentation=standard", "device=cpu", "workers=1", "keep=2"]  # fmt: skip


def shards(folder: Path) -> str:
    """Generated scenes as two tars."""
    from PIL import Image

    from levl_eval.pretrain.data import _scene_chunk

    pixels, captions, *_ = _scene_chunk((1, 0, 80, 64, 2))
    for k in range(2):
        with tarfile.open(folder / f"{k}.tar", "w") as tar:
            for i in range(k * 40, k * 40 + 40):
                picture = io.BytesIO()
                Image.fromarray(pixels[i]).save(picture, "png")
                for name, content in ((f"{i:06d}.png", picture.getvalue()), (f"{i:06d}.txt", captions[i][0].encode())):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return f"wds:{folder}/*.tar"


def start(words: list[str], cache: Path, output: Path) -> int:
    """Train in a forked process that leads a group of its own; its id."""

    def levl_pretrain() -> forked.Main:
        from levl_eval.pretrain.cli import main

        return main

    return forked.start(levl_pretrain, words, cache, output, own_group=True)


def steps_of(out: Path) -> list[int]:
    """Steps of the lines that are whole."""
    try:
        text = (out / "metrics.jsonl").read_text()
    except OSError:
        return []
    return [json.loads(line)["step"] for line in text[: text.rfind("\n") + 1].splitlines()]


def wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed_run(words: list[str], out: Path, cache: Path, kills: int, steps: int, rng: random.Random, said: Path) -> list[int]:
    """Kill and resume; the steps at which it was killed. Exits where a run ends by itself with an error."""
    from levl_eval.models.checkpoints import read

    at: list[int] = []
    metrics = out / "metrics.jsonl"
    while len(at) < kills:
        begun = read(out / "ckpt.pt")["step"] if (out / "ckpt.pt").exists() else 0
        # As many steps further as leave room for the kills that remain; counted once the run has cut the lines of steps it makes again.
        further = rng.randint(1, max(1, min(2 * (steps - 4) // kills, steps - 1 - begun)))
        before = metrics.stat().st_ino if metrics.exists() else None
        pid = start(words, cache, said)
        while not (metrics.exists() and metrics.stat().st_ino != before and (steps_of(out) or [0])[-1] >= begun + further):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                code = os.waitstatus_to_exitcode(status)
                if code:
                    sys.exit(f"a run ended with code {code}:\n{said.read_text()[-2000:]}")
                return at
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.15))
        os.killpg(pid, signal.SIGKILL)
        if wait(pid) != -signal.SIGKILL:
            return at
        at.append((steps_of(out) or [0])[-1])
        if (out / "ckpt.pt").exists():
            read(out / "ckpt.pt")  # never unreadable
        print(f"kill {len(at)} at step {at[-1]}, resumed from {begun}", flush=True)
    code = wait(start(words, cache, said))
    if code:
        sys.exit(f"the last run ended with code {code}:\n{said.read_text()[-2000:]}")
    return at


def differences(a: Path, b: Path) -> list[str]:
    """What is not equal in two runs' folders, bit for bit; times are left out."""
    import torch

    from levl_eval.models.checkpoints import read

    out: list[str] = []

    def compare(name: str, x: object, y: object) -> None:
        if isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor):
            if not torch.equal(x, y):
                out.append(name)
        elif isinstance(x, dict) and isinstance(y, dict):
            if x.keys() != y.keys():
                out.append(f"{name}: keys")
            for k in x.keys() & y.keys():
                compare(f"{name}.{k}", x[k], y[k])
        elif isinstance(x, (list, tuple)) and isinstance(y, (list, tuple)) and len(x) == len(y):
            for i, (p, q) in enumerate(zip(x, y, strict=True)):
                compare(f"{name}.{i}", p, q)
        elif x != y:
            out.append(name)

    names = [sorted(p.name for p in folder.glob("ckpt*.pt")) for folder in (a, b)]
    if names[0] != names[1]:
        out.append(f"checkpoints {names[0]} and {names[1]}")
    for name in set(names[0]) & set(names[1]):
        x, y = (dict(read(folder / name)) for folder in (a, b))
        for state in (x, y):
            state["config"] = {k: v for k, v in state["config"].items() if k != "out"}  # type: ignore[attr-defined]
        compare(name, x, y)
    times = ("images_per_second", "waiting")
    lines = [
        [
            {k: v for k, v in json.loads(line).items() if k not in times}
            for line in (folder / "metrics.jsonl").read_text().splitlines()
        ]
        for folder in (a, b)
    ]
    compare("metrics", lines[0], lines[1])
    return out


def main() -> int:
    p = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, default in (("kills", 25), ("seed", 0), ("steps", 60)):
        p.add_argument(f"--{name}", type=int, default=default)
    p.add_argument("--data", choices=("scenes", "wds"), default="scenes")
    p.add_argument("--work", metavar="DIR", help="where the runs go (default: a temporary folder, removed at the end)")
    p.add_argument("--json", type=Path, help="write the figures here")
    p.add_argument("words", nargs="*", help="further fields of levl-pretrain, key=value")
    args = p.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

    import torch
    import transformers  # noqa: F401  (before the forks, so that they start at once)

    from levl_eval.pretrain import loop  # noqa: F401

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(args.work or temporary)
        work.mkdir(parents=True, exist_ok=True)
        data = "scenes" if args.data == "scenes" else shards(work)
        words = [*WORDS, f"data={data}", f"steps={args.steps}", *args.words]
        cache, said = work / "cache", work / "said.txt"
        began = time.monotonic()
        code = wait(start([*words, f"out={work / 'whole'}"], cache, said))
        if code:
            sys.exit(f"the undisturbed run ended with code {code}:\n{said.read_text()[-2000:]}")
        print(f"undisturbed: {args.steps} steps in {time.monotonic() - began:.0f} s", flush=True)
        at = killed_run(
            [*words, f"out={work / 'killed'}"], work / "killed", cache, args.kills, args.steps, random.Random(args.seed), said
        )
        wrong = differences(work / "whole", work / "killed")
    print(
        f"{len(at)} kills in {args.steps} steps of training on {args.data}: "
        + ("weights, optimizer, place in the data and metrics equal bit for bit" if not wrong else f"DIFFERS in {wrong[:5]}")
    )
    if args.json:
        args.json.write_text(
            json.dumps({"kills": at, "steps": args.steps, "data": args.data, "different": wrong}, indent=1) + "\n"
        )
    return 0 if not wrong and len(at) >= args.kills else 1


if __name__ == "__main__":
    sys.exit(main())
