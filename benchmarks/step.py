"""A whole training step against a plainly written one: forward, loss, backward, clipping, AdamW. Ratio of images a second.

    python benchmarks/step.py [--model nano|tiny] [--batch 64] [--slices 4096] [--repeats 5] [--precision fp32|bf16]
                              [--compile] [--json FILE] [--profile]

The plain step has the published shape: every text padded to 77 tokens with an attention mask, and SIGReg from the tensor
[batch, slices, knots]. The other is `levl-pretrain`'s: texts in buckets of their real lengths, SIGReg streamed. Both start from the
same weights, see the same batches with the same directions, and must give the same losses. In bf16 both towers run under
autocast, as the published code does, and the losses are in float32: so both round, each in its own places. Each has a process of
its own, set up as a user of it would find it (ours keeps freed memory, as `levl-pretrain` does on a CPU); they take turns, step
by step, and seconds are CPU seconds where one thread is used, so that a busy machine disturbs the ratio less. Also printed: the
share of a real run's steps spent waiting for data. With --profile instead: where the CPU milliseconds of our step go, by kind of operation.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

PADDED = 77


def plain_sigreg(z: Any, a: Any) -> Any:
    """SIGReg (docs/paper.md) written down: cos and sin of a tensor [batch, slices, 17]."""
    import torch

    t = torch.linspace(0, 3.0, 17, dtype=z.dtype)
    h = 3.0 / 16
    weights = torch.full((17,), 2 * h, dtype=z.dtype)
    weights[0] = weights[-1] = h
    window = torch.exp(-(t**2) / 2)
    x = (z @ a).unsqueeze(-1) * t
    distance = (x.cos().mean(0) - window) ** 2 + x.sin().mean(0) ** 2
    return ((distance @ (weights * window)) * len(z)).mean()


def plain_step(model: Any, optimizer: Any, pixels: Any, ids: Any, last: Any, directions: Any, config: Any) -> float:
    """The published shape, line by line."""
    import torch
    import torch.nn.functional as F

    rows = torch.arange(len(ids))
    padded = torch.zeros(len(ids), PADDED, dtype=torch.long)
    padded[:, : ids.shape[1]] = ids
    mask = (torch.arange(PADDED)[None] <= last[:, None]).long()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.precision == "bf16"):
        z_v = model.vision.pre_proj(model.vision.encoder(pixels))
        hidden = model.text.encoder(input_ids=padded, attention_mask=mask, use_cache=False).last_hidden_state
        z_t = model.text.pre_proj(hidden[rows, last])
        p_t, p_v = model.vision.projector(z_v), model.text.projector(z_t)
    z_v, z_t, p_t, p_v = (x.float() for x in (z_v, z_t, p_t, p_v))
    cross = 0.5 * (F.mse_loss(p_t, z_t.detach()) + F.mse_loss(p_v, z_v.detach()))
    lv, lt = config.lambda_v, config.lambda_t
    loss = (1 - lv - lt) * cross + lv * plain_sigreg(z_v, directions[0]) + lt * plain_sigreg(z_t, directions[1])
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
    optimizer.step()
    return float(loss.detach())


def our_step(model: Any, optimizer: Any, pixels: Any, ids: Any, last: Any, directions: Any, config: Any) -> float:
    """What loop.Trainer.train_step does in one process."""
    import torch

    from levl_eval.models.sigreg import SIGReg
    from levl_eval.pretrain.objectives import loss_of

    sigreg = SIGReg(config.sigreg_slices)
    queue = iter(directions)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.precision == "bf16"):
        out = model(pixels, ids, last)
    loss, _ = loss_of(config, out, lambda z: sigreg(z, next(queue)))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
    optimizer.step()
    return float(loss.detach())


KINDS = {
    "matrix products": ("mm", "addmm", "bmm", "addmm_", "convolution", "convolution_backward", "baddbmm"),
    "conversions and copies": ("_to_copy", "clone", "copy_", "cat", "stack"),
    "GELU": ("gelu", "gelu_backward", "tanh", "tanh_backward", "pow"),
    "LayerNorm": ("native_layer_norm", "native_layer_norm_backward"),
    "softmax and fused attention": (
        "_softmax", "_softmax_backward_data", "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_flash_attention_for_cpu_backward",
    ),
    "sums and differences": ("add", "add_", "sub", "mul", "mul_", "div", "rsub"),
    "bias gradients": ("sum",),
}  # fmt: skip


def profile(step: Any, steps: int) -> dict[str, float]:
    """CPU milliseconds a step by kind of operation; "SIGReg" and "clipping, AdamW" hold all that runs within them."""
    from torch.utils._python_dispatch import TorchDispatchMode

    from levl_eval.models import sigreg

    spent: dict[str, float] = {}
    within: list[str] = []

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            start = time.process_time()
            out = func(*args, **(kwargs or {}))
            took = time.process_time() - start
            name = func.name().removeprefix("aten::").split(".")[0]
            kind = next((k for k, names in KINDS.items() if name in names), "other operations")
            if name.startswith(("_fused_adamw", "_foreach", "linalg_vector")):
                kind = "clipping, AdamW"
            kind = within[-1] if within else kind
            spent[kind] = spent.get(kind, 0.0) + 1e3 * took / steps
            return out

    regularise = sigreg.SIGReg.forward

    def marked(*args: Any, **kwargs: Any) -> Any:  # its gradient is made in its forward pass
        within.append("SIGReg")
        try:
            return regularise(*args, **kwargs)
        finally:
            within.pop()

    start = time.process_time()
    for i in range(steps):
        step(i)
    whole = 1e3 * (time.process_time() - start) / steps
    sigreg.SIGReg.forward = marked
    try:
        with Count():
            for i in range(steps):
                step(i)
    finally:
        sigreg.SIGReg.forward = regularise
    spent["autograd, Python, the clock itself"] = max(0.0, whole - sum(spent.values()))
    return {**dict(sorted(spent.items(), key=lambda x: -x[1])), "whole step": whole}


def waiting(words: list[str], steps: int, folder: str) -> float:
    """Share of a real run's time spent waiting for data, as its metrics tell it."""
    from levl_eval.core.progress import Progress
    from levl_eval.models.config import parse_config
    from levl_eval.pretrain.loop import Trainer

    config = parse_config(
        [*words, f"out={folder}/run", f"steps={steps}", f"log_every={steps}", "diagnose_every=1000000", "diagnose_images=8"]
    )
    Trainer(config, Progress(quiet=True), Path(folder) / "cache").run()
    return json.loads(Path(f"{folder}/run/metrics.jsonl").read_text().splitlines()[-1])["waiting"]


def contestant(which: str, o: argparse.Namespace, words: list[str], pipe: Any) -> None:
    """Makes the model and a batch, then one step a request: (seconds, loss). First answers the mean number of tokens of a text."""
    import torch
    from transformers.activations import ACT2FN

    from levl_eval.core.distributed import keep_freed_memory
    from levl_eval.models import tokenizer
    from levl_eval.models.config import parse_config
    from levl_eval.models.towers import build_model, fuse_blocks, plain_attention
    from levl_eval.pretrain.data import _scene_chunk
    from levl_eval.pretrain.schedule import optimizer_of

    torch.set_num_threads(o.threads)
    config = parse_config(words)
    raw, captions, *_ = _scene_chunk((1, 0, o.batch, config.image_size, 1))
    texts = [c[0] for c in captions]
    tok = tokenizer.train(texts, config.vocab_size)
    ids, last = (torch.from_numpy(x) for x in tokenizer.encode(tok, texts, PADDED))
    pixels = torch.from_numpy(raw).permute(0, 3, 1, 2).float() / 127.5 - 1
    torch.manual_seed(0)
    model = build_model(config, tok.get_vocab_size()).train()
    step = plain_step
    if which == "plain":  # as transformers makes a GPT-2 by default
        model.text.encoder.set_attn_implementation("sdpa")
        model.text.encoder.config.activation_function = "gelu_new"
        for block in model.text.encoder.h:
            block.mlp.act = ACT2FN["gelu_new"]
    if which == "ours":
        step = our_step
        keep_freed_memory()
        if o.precision == "bf16":
            plain_attention(model)
            if not o.compile:
                fuse_blocks(model)
        if o.compile:
            model.vision.encoder.compile()
            model.text.encoder.compile(dynamic=True)
    optimizer = optimizer_of(model, config)
    clock = time.process_time if o.threads == 1 else time.perf_counter

    def directions(i: int) -> Any:
        a = torch.randn(2, config.embed_dim, o.slices, generator=torch.Generator().manual_seed(i))
        return a / a.norm(dim=1, keepdim=True)

    pipe.send(float((last + 1).float().mean()))
    if o.profile:
        shared = directions(0)
        for _ in range(2):
            step(model, optimizer, pixels, ids, last, shared, config)
        pipe.send(profile(lambda i: step(model, optimizer, pixels, ids, last, shared, config), o.repeats))
    while (i := pipe.recv()) is not None:
        a = directions(i)
        start = clock()
        loss = step(model, optimizer, pixels, ids, last, a, config)
        pipe.send((clock() - start, loss))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    for name, default in (("batch", 64), ("slices", 4096), ("repeats", 5), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--compile", action="store_true", help="torch.compile of our towers (compilation is not timed)")
    parser.add_argument("--profile", action="store_true", help="where our step's time goes, instead of the ratio")
    parser.add_argument("--json", type=Path, help="write the figures here")
    o = parser.parse_args()
    words = [f"model={o.model}", f"batch_size={o.batch}", f"sigreg_slices={o.slices}", f"max_length={PADDED}", f"precision={o.precision}",
             "scenes_pool=512", f"threads={o.threads}", "warmup=1", "lr=0.0001"]  # fmt: skip
    context = multiprocessing.get_context("spawn")
    pipes, tokens = {}, 0.0
    for which in ("ours",) if o.profile else ("plain", "ours"):
        pipes[which], other = context.Pipe()
        context.Process(target=contestant, args=(which, o, words, other), daemon=True).start()
        other.close()
        tokens = pipes[which].recv()
    if o.profile:
        table = pipes["ours"].recv()
        pipes["ours"].send(None)
        print(f"{o.model}, {o.precision}, batch {o.batch}: CPU milliseconds of our step, mean of {o.repeats}")
        print("\n".join(f"{kind:36s} {ms:7.1f} {100 * ms / table['whole step']:5.0f} %" for kind, ms in table.items()))
        return
    seconds: dict[str, list[float]] = {k: [] for k in pipes}
    losses: dict[str, list[float]] = {k: [] for k in pipes}
    for i in range(o.repeats + 2):  # the first two warm up: the optimizer's state, and memory
        for which, pipe in pipes.items():
            pipe.send(i)
            took, loss = pipe.recv()
            seconds[which].append(took)
            losses[which].append(loss)
    for pipe in pipes.values():
        pipe.send(None)
    ratios = [p / q for p, q in zip(seconds["plain"][2:], seconds["ours"][2:], strict=True)]
    mean = sum(ratios) / len(ratios)
    spread = math.sqrt(sum((r - mean) ** 2 for r in ratios) / max(1, len(ratios) - 1) / len(ratios))
    difference = max(abs(p - q) / abs(p) for p, q in zip(losses["plain"], losses["ours"], strict=True))
    with tempfile.TemporaryDirectory() as folder:
        share = waiting(words, 8, folder) if o.model == "nano" else None
    out = {
        "model": o.model, "batch": o.batch, "slices": o.slices, "threads": o.threads, "compile": o.compile, "tokens": tokens,
        "precision": o.precision, "ratio": mean, "interval": [mean - 1.96 * spread, mean + 1.96 * spread], "loss_difference": difference,
        "first_loss_difference": abs(losses["plain"][0] - losses["ours"][0]) / abs(losses["plain"][0]), "waiting": share,
    }  # fmt: skip
    print(f"{o.model}, {o.precision}, batch {o.batch}, {o.slices} slices: {mean:.2f} times the images a second (95% interval "
          f"{out['interval'][0]:.2f} to {out['interval'][1]:.2f}, {o.repeats} pairs of steps)")  # fmt: skip
    print(f"losses: relative difference {out['first_loss_difference']:.1e} at the first step, at most {difference:.1e}")
    if share is not None:
        print(f"a run waits {100 * share:.1f}% of its time for data")
    if o.json:
        o.json.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
