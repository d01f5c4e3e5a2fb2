"""What matters on one GPU, by one command, in under 8 minutes, with nothing downloaded.

    python benchmarks/gpu.py [--minutes 8] [--only NAME,...] [--out results/gpu] [--vllm]
    python benchmarks/gpu.py --toy --out DIR        everything at toy size, on a CPU too: that it runs through, not how fast

  features    a ViT-B/16's features on the GPU (float32, tf32, bf16) against the CPU's in float32
  extraction  JPEGs of 500 x 375 through the same encoder in bf16, decoded by worker processes: images a second, GPU busy share
  answering   a 1B-shaped Llama with random weights behind 196 image tokens: an image prefix that its questions share against one `generate`
              each, and with --vllm against vLLM's automatic prefix caching (tried on no machine yet; its failure is told and ends nothing)
  connector   training steps of a two-layer connector in front of that Llama
  sigreg      SIGReg, forward and backward, against the batch x slices x knots tensor (batch 1,024)
  pretrain    a training step of levljepa, model=base, batch 1,024, in bf16 (halved until it fits), as it is and compiled
  segmentation  a linear head's training on stored tokens of 150 classes

Writes OUT/DEVICE.md and OUT/DEVICE.json: device, clocks, versions, figures. Times are medians over repeats, the device waited for
before and after each. A part that fails is told with its reason, and so is one for which no time was left; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # the other benchmarks beside this file
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from gpu_page import clocks, page, shown, surroundings


@dataclass(frozen=True)
class Size:
    """How large everything is. least: seconds that a part needs at all, by a guess on the safe side."""

    vit: str = "random:vit_base_patch16_224"
    compared: int = 16
    jpegs: int = 256
    times: int = 24  # that the JPEGs are gone through
    batch: int = 256
    llama: tuple[int, int] = (2048, 16)  # width, layers
    images: int = 4
    rows: int = 16  # images a connector step
    tokens: int = 196
    sigreg: tuple[int, int, int] = (1024, 768, 4096)  # batch, dimension, slices
    model: tuple[str, ...] = ("model=base",)
    pairs: int = 1024
    maps: tuple[int, int] = (512, 768)  # images, dimension of the head's tokens
    epochs: int = 5
    repeats: int = 5
    least: int = 25


TOY = Size(
    vit="random:vit_tiny_patch16_224", compared=2, jpegs=4, times=1, batch=4, llama=(64, 1), images=1, rows=2, tokens=4, sigreg=(16, 8, 32),
    model=("model=nano", "vision.depth=1", "text.depth=1", "sigreg_slices=16"), pairs=8, maps=(4, 8), epochs=1, repeats=1, least=0,
)  # fmt: skip


class Bench:
    """The device, the sizes, and what parts share."""

    def __init__(self, device: Any, size: Size, folder: Path, vllm: bool) -> None:
        self.device, self.size, self.folder, self.vllm = device, size, folder, vllm
        self.cuda = device.type == "cuda"
        self._language: Any = None

    def wait(self) -> None:
        if self.cuda:
            import torch

            torch.cuda.synchronize(self.device)

    def seconds(self, call: Callable[[], object], repeats: int | None = None, warm: int = 2) -> float:
        """Median of some calls' seconds."""
        for _ in range(warm):
            call()
        out = []
        for _ in range(repeats or self.size.repeats):
            self.wait()
            start = time.perf_counter()
            call()
            self.wait()
            out.append(time.perf_counter() - start)
        return statistics.median(out)

    def free(self) -> None:
        """Leave the device's memory to what comes."""
        self._language = None
        gc.collect()
        if self.cuda:
            import torch

            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def llama(self) -> Any:
        if self._language is None:
            import answering
            import torch

            dtype = torch.bfloat16 if self.cuda else torch.float32
            (self.folder / "llama").mkdir(exist_ok=True)
            self._language = answering.model(str(self.folder / "llama"), *self.size.llama, device=str(self.device), dtype=dtype)
        return self._language


def features(b: Bench) -> dict[str, object]:
    import torch

    from levl_eval.backbones import load_backbone
    from levl_eval.core.precision import encoding_in

    net = load_backbone(b.size.vit)
    images = torch.randn(b.size.compared, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    out: dict[str, object] = {}
    with torch.no_grad():
        exact = net.encode(images)
        net.to(b.device)
        for precision in ("float32", "tf32", "bf16") if b.cuda else ("float32", "bf16"):
            with encoding_in(precision, b.device):
                got = net.encode(images.to(b.device))
            for name in ("pooled", "patches"):
                x, y = getattr(got, name).float().cpu(), getattr(exact, name)
                out[f"{precision}, {name}: relative difference"] = float((x - y).norm() / y.norm())
    return out


def extraction(b: Bench) -> dict[str, object]:
    import feeding
    import torch

    from levl_eval.backbones import load_backbone
    from levl_eval.core.distributed import cores
    from levl_eval.core.precision import encoding_in
    from levl_eval.data.images import image_set
    from levl_eval.features.feeding import Batch, pixels_of, to_device, worker_count

    folder = b.folder / "jpegs"
    folder.mkdir()
    feeding.make(folder, b.size.jpegs)
    names = [f"{t}/{i}.jpg" for t in range(b.size.times) for i in range(b.size.jpegs)]
    images = image_set(names, lambda n: folder / n.partition("/")[2], str(folder), "")
    net = load_backbone(b.size.vit).to(b.device)
    batches = [Batch(i, images.ids[i : i + b.size.batch]) for i in range(0, len(names), b.size.batch)]
    workers = worker_count(len(names), b.size.batch, net.preprocess.size)
    spans: list[Any] = []
    on_cpu = 0.0

    def encode(pixels: Any) -> None:
        nonlocal on_cpu
        begun = time.perf_counter()
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if b.cuda else []
        if marks:
            marks[0].record()
        with encoding_in("bf16", b.device):
            net.encode(to_device(pixels, net.preprocess, b.device))
        if marks:
            marks[1].record()
            spans.append(marks)
        on_cpu += time.perf_counter() - begun

    with torch.no_grad():
        encode(torch.zeros(min(b.size.batch, len(names)), net.preprocess.size, net.preprocess.size, 3, dtype=torch.uint8))
        b.wait()
        spans.clear()
        on_cpu = 0.0
        start = time.perf_counter()
        for _, pixels in pixels_of(images, net.preprocess, batches, b.device, workers):
            encode(pixels)
        b.wait()
        wall = time.perf_counter() - start
        busy = sum(first.elapsed_time(last) for first, last in spans) / 1e3 if b.cuda else on_cpu
        alone = torch.zeros(b.size.batch, net.preprocess.size, net.preprocess.size, 3, dtype=torch.uint8).to(b.device)
        fastest = b.size.batch / b.seconds(lambda: encode(alone))
    return {
        "images": len(names), "decoding processes": workers, "cores": cores(), "images a second": len(names) / wall,
        "device busy share": busy / wall, "images a second of the encoder alone": fastest,
    }  # fmt: skip


def answered(b: Bench) -> dict[str, object]:
    import answering

    language, out = b.llama(), {}
    for name, images, each in (("30 questions an image", b.size.images, 30), ("5 questions an image", 2 * b.size.images, 5)):
        each = each if b.size.least else 2
        got = answering.load(language, images, each, b.size.tokens, 8 if b.size.least else 2, min(3, b.size.repeats))
        out[f"{name}: questions a second, shared prefix"] = statistics.median(got["shared_prefix_per_second"])
        out[f"{name}: questions a second, generate"] = statistics.median(got["generate_per_second"])
        out[f"{name}: answers that differ"] = f"{got['different_answers']} of {got['questions']}"
    out["million parameters"] = sum(p.numel() for p in language.model.parameters()) / 1e6
    if b.vllm:
        out["vLLM, prefix caching: questions a second"] = by_vllm(b)
    return out


def by_vllm(b: Bench) -> object:
    """The GQA-like load through vLLM: each prompt the image's embeddings and the question's. Why not, where it does not run."""
    if not b.cuda or find_spec("vllm") is None:
        return "not installed, or no GPU"
    import answering
    import torch

    try:
        from vllm import LLM, SamplingParams

        language = b.llama()
        table = language.model.get_input_embeddings().weight
        visual = torch.randn(b.size.images, b.size.tokens, language.width, generator=torch.Generator().manual_seed(1)) * 0.05
        prompts = []
        for i in range(b.size.images):
            for question in answering.questions(30, i):
                ids = language.tokenizer(question, return_tensors="pt").input_ids[0].to(table.device)
                prompts.append({"prompt_embeds": torch.cat([visual[i].to(table), table[ids]]).cpu()})
        engine = LLM(str(b.folder / "llama"), dtype="bfloat16", enable_prompt_embeds=True, enable_prefix_caching=True,
                     gpu_memory_utilization=0.5, max_model_len=1024)  # fmt: skip
        how = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
        return len(prompts) / b.seconds(lambda: engine.generate(prompts, how, use_tqdm=False), repeats=3, warm=1)
    except Exception as e:  # another library's, of any kind: the table says which
        return f"failed: {type(e).__name__}: {str(e)[:200]}"


def connector(b: Bench) -> dict[str, object]:
    import answering
    import torch

    from levl_eval.cards import PromptSpec
    from levl_eval.cards.vlm import ConnectorSpec
    from levl_eval.engines.vlm.connector import Connector
    from levl_eval.engines.vlm.packing import Item, packed_terms
    from levl_eval.engines.vlm.prompts import make_prompt

    language = b.llama()
    prompt = make_prompt(PromptSpec(stop=[]), language)
    torch.manual_seed(0)
    net = Connector(ConnectorSpec(), 768, language.width, 0.02).to(b.device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    pairs = tuple((tuple(prompt.question(language, q)), (5, 6)) for q in answering.questions(8, 0))
    items = [Item(0, row, pairs) for row in range(b.size.rows)]
    tokens = torch.randn(b.size.rows, b.size.tokens, 768, device=b.device)

    def step() -> None:
        with torch.autocast(b.device.type, dtype=torch.bfloat16, enabled=b.cuda):
            total, weight = packed_terms(language, prompt, net(tokens), items)
        optimizer.zero_grad(set_to_none=True)
        (total / weight).backward()
        optimizer.step()

    took = b.seconds(step)
    return {
        "images a step": b.size.rows,
        "questions an image": len(pairs),
        "steps a second": 1 / took,
        "images a second": b.size.rows / took,
    }


def regulariser(b: Bench) -> dict[str, object]:
    import sigreg
    import torch

    from levl_eval.models.sigreg import SIGReg

    batch, dim, slices = b.size.sigreg
    z = torch.randn(batch, dim, device=b.device, requires_grad=True)
    a = torch.randn(dim, slices, device=b.device)
    a = a / a.norm(dim=0)
    ours = SIGReg(slices)
    with torch.device(b.device):  # the plain form makes its knots where the default is
        first = [f(z, a) for f in (lambda z, a: sigreg.plain(z, a, 17), ours)]
        times = [b.seconds(lambda f=f: f(z, a).backward()) for f in (lambda z, a: sigreg.plain(z, a, 17), ours)]
    peaks = []
    if b.cuda:
        with torch.device(b.device):
            for f in (lambda z, a: sigreg.plain(z, a, 17), ours):
                torch.cuda.reset_peak_memory_stats(b.device)
                f(z, a).backward()
                peaks.append(torch.cuda.max_memory_allocated(b.device) / 2**20)
    return {
        "milliseconds, streamed": 1e3 * times[1], "milliseconds, with the tensor": 1e3 * times[0], "times faster": times[0] / times[1],
        "loss, relative difference": float(((first[0] - first[1]).abs() / first[0].abs()).detach()),
        **({"MiB at the peak, streamed": peaks[1], "MiB at the peak, with the tensor": peaks[0]} if peaks else {}),
    }  # fmt: skip


def pretraining(b: Bench) -> dict[str, object]:
    import torch

    from levl_eval.models.config import parse_config
    from levl_eval.models.sigreg import SIGReg
    from levl_eval.models.towers import build_model, fuse_blocks, plain_attention
    from levl_eval.pretrain.objectives import loss_of
    from levl_eval.pretrain.schedule import optimizer_of

    config = parse_config([*b.size.model, "precision=bf16"])
    regularise = SIGReg(config.sigreg_slices)
    generator = torch.Generator().manual_seed(0)
    out: dict[str, object] = {}

    def measured(pairs: int, compiled: bool) -> float:
        torch.manual_seed(0)
        model = build_model(config, 8192).train().to(b.device)
        if not b.cuda:
            plain_attention(model)
            fuse_blocks(model)
        if compiled:
            model.vision.encoder.compile()
            model.text.encoder.compile(dynamic=True)
        optimizer = optimizer_of(model, config)
        pixels = torch.randn(pairs, 3, config.image_size, config.image_size, generator=generator).to(b.device)
        last = torch.randint(5, min(40, config.max_length), (pairs,), generator=generator)
        ids = torch.randint(0, 8192, (pairs, int(last.max()) + 1), generator=generator).to(b.device)
        ends, lengths = last.to(b.device), last.tolist()

        def step() -> None:
            with torch.autocast(b.device.type, dtype=torch.bfloat16):
                embedded = model(pixels, ids, ends, lengths=lengths)
            loss, _ = loss_of(config, embedded, regularise)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

        return b.seconds(step)

    b.free()
    pairs = b.size.pairs
    while True:
        try:
            took = measured(pairs, False)
            break
        except torch.OutOfMemoryError:
            if pairs < 32:
                raise
            pairs //= 2
        b.free()
    out |= {"pairs a step": pairs, "seconds a step": took, "pairs a second": pairs / took}
    if b.cuda:
        out["GiB at the peak"] = torch.cuda.max_memory_allocated(b.device) / 2**30
        b.free()
        out["pairs a second, compiled"] = pairs / measured(pairs, True)
    return out


def segmentation(b: Bench) -> dict[str, object]:
    import numpy as np

    from levl_eval.cards.registry import task_card
    from levl_eval.core.progress import Progress
    from levl_eval.engines.segmentation.head import ClassTokens, train_head

    images, dim = b.size.maps
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((images, 28 * 28, dim), dtype=np.float32).astype(np.float16)
    labels = rng.integers(0, 150, (images, 28, 28))
    card = task_card("ade20k", {"epochs": str(b.size.epochs), "batch_size": str(min(64, images))})
    data = ClassTokens(tokens, labels, (28, 28), 150, 255)
    took = b.seconds(lambda: train_head(data, card, 0, b.device, Progress(quiet=True)), repeats=min(3, b.size.repeats), warm=1)
    return {"images": images, "seconds an epoch": took / b.size.epochs, "images a second": images * b.size.epochs / took}


PARTS: dict[str, Callable[[Bench], dict[str, object]]] = {
    "features": features, "extraction": extraction, "sigreg": regulariser, "segmentation": segmentation, "answering": answered,
    "connector": connector, "pretrain": pretraining,
}  # fmt: skip


def main(words: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    p.add_argument("--minutes", type=float, default=8.0, help="no part is begun that may end later")
    p.add_argument("--only", metavar="NAME,...", help=f"of {', '.join(PARTS)}")
    p.add_argument("--out", type=Path, help="folder of the page and the figures (results/gpu)")
    p.add_argument("--toy", action="store_true", help="toy size, also without a GPU; needs --out")
    p.add_argument("--vllm", action="store_true", help="answering by vLLM too, where it is installed")
    p.add_argument("--device", default="auto")
    args = p.parse_args(words)
    chosen = args.only.split(",") if args.only else list(PARTS)
    unknown = [name for name in chosen if name not in PARTS]
    if unknown:
        p.error(f"--only {unknown[0]}: expected some of {', '.join(PARTS)}")
    from levl_eval.core.device import pick_device
    from levl_eval.core.errors import LevlError
    from levl_eval.core.third_party import repair

    repair()
    try:
        device = pick_device(args.device)
    except LevlError as e:
        p.error(str(e))
    if device.type != "cuda" and not (args.toy and args.out):
        p.error("no GPU is here; --toy --out DIR runs through everything at toy size")
    begun = time.monotonic()
    result: dict[str, Any] = {"about": surroundings(device), "toy": args.toy, "parts": {}}
    complete = True
    with tempfile.TemporaryDirectory() as folder:
        b = Bench(device, TOY if args.toy else Size(), Path(folder), args.vllm)
        for name in chosen:
            left = 60 * args.minutes - (time.monotonic() - begun)
            if left < b.size.least * (3 if name == "pretrain" else 1):
                part: dict[str, object] = {"left out": f"{max(0.0, left):.0f} s were left"}
                complete = False
            else:
                start = time.monotonic()
                try:
                    part = PARTS[name](b)
                except Exception as e:  # the other parts are measured all the same
                    part = {"failed": f"{type(e).__name__}: {str(e).splitlines()[0][:300] if str(e) else ''}"}
                    complete = False
                part["seconds in all"] = time.monotonic() - start
                gc.collect()
            if clocks():
                part["clocks, power, temperature, driver"] = clocks()
            result["parts"][name] = part
            print(f"{name}: " + "; ".join(f"{k} {shown(v)}" for k, v in part.items()), flush=True)
    result["seconds"] = time.monotonic() - begun
    out = args.out or Path(__file__).resolve().parents[1] / "results" / "gpu"
    out.mkdir(parents=True, exist_ok=True)
    stem = re.sub(r"[^A-Za-z0-9]+", "-", str(result["about"]["device"])).strip("-").lower()
    command = " ".join(
        ["python benchmarks/gpu.py", *(["--toy", "--out DIR"] if args.toy else []), *(["--vllm"] if args.vllm else [])]
    )
    (out / f"{stem}.md").write_text(page(result, command), encoding="utf-8")
    (out / f"{stem}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
