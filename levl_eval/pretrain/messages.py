"""What a run says: its first lines, settings that are odd, how long it will take, its history, and what was left out."""

from __future__ import annotations

import json
import math
import platform
import resource
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from levl_eval.cards.fields import of_levels
from levl_eval.core.files import atomic_write
from levl_eval.models.config import PretrainConfig
from levl_eval.models.towers import DualEncoder, Tower
from levl_eval.pretrain.feed import Feed, PoolFeed

MEASURED_AFTER = 10  # updates, of which the first warm up
_FEW_ROWS = 32  # below it the noise of an empirical characteristic function, 1 / sqrt(rows), is above 0.18
_MANY_EPOCHS = 20


def parameters_of(tower: Tower) -> dict[str, int]:
    """Part -> its number of parameters."""
    parts = {"encoder": tower.encoder, "pre_proj": tower.pre_proj, "projector": tower.projector}
    return {name: sum(p.numel() for p in m.parameters()) for name, m in parts.items() if m is not None}


def _count(n: float) -> str:
    """Three digits with a unit."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if n >= size:
            return f"{n / size:.3g}{unit}"
    return f"{n:.3g}"


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device.type} ({torch.get_num_threads()} threads)" if device.type == "cpu" else device.type


def first_lines(config: PretrainConfig, model: DualEncoder, feed: Feed, device: torch.device, processes: int) -> list[str]:
    """Where it runs, what is trained, on what, and the memory that is known before the first step."""
    c = config
    towers = {side: parameters_of(getattr(model, side)) for side in ("vision", "text")}
    total = sum(p.numel() for p in model.parameters())
    share = "" if processes == 1 else f" of {c.batch_size // processes} images a step each"
    lines = [
        f"{c.objective} {c.model} on {device_name(device)}, {c.precision}, {processes} process{'es' if processes > 1 else ''}{share}"
        + (", compiled" if c.compile else ""),
        f"{_count(total)} parameters; "
        + "; ".join(f"{side}: " + ", ".join(f"{k} {_count(n)}" for k, n in parts.items()) for side, parts in towers.items()),
    ]
    end = c.extend_to or c.steps
    if feed.pairs is None:
        lines.append(f"{c.data}: a stream whose length is not known; {c.batch_size} pairs a step, {end:,} steps")
    else:
        epoch = max(1, feed.pairs // c.batch_size)
        lines.append(
            f"{feed.pairs:,} image-text pairs; {epoch:,} steps per epoch of {c.batch_size} pairs per step, "
            f"{end / epoch:.3g} epochs in {end:,} steps"
        )
    memory = 16 * total  # float32 weights, gradients and both moments
    lines.append(
        f"weights, gradients and AdamW's moments: {_count(memory)}B per process; time and peak memory follow after {MEASURED_AFTER} steps"
    )
    return lines


def odd_settings(config: PretrainConfig, feed: Feed, device: torch.device, processes: int, has_bfloat16: bool) -> list[str]:
    """A warning for each allowed but probably unintended setting, one line each."""
    c, out = config, []
    if c.warmup >= c.steps:
        out.append(f"warmup is {c.warmup} of {c.steps} steps: the rate never reaches lr={c.lr:g}")
    rows = c.batch_size // c.accumulate // (processes if c.sigreg_scope == "local" else 1)
    if c.objective.startswith("levljepa") and (c.lambda_v or c.lambda_t) and rows < _FEW_ROWS:
        out.append(
            f"SIGReg sees {rows} rows at a time, so that the characteristic function it tests has a noise of {1 / math.sqrt(rows):.2f}; "
            f"take batch_size={_FEW_ROWS * c.accumulate * (c.batch_size // c.accumulate // rows)} or more"
        )
    if isinstance(feed, PoolFeed) and feed.pairs:
        epochs = (c.extend_to or c.steps) * c.batch_size / feed.pairs
        if epochs > _MANY_EPOCHS and all(len(texts) == 1 for texts in feed.pool.captions):
            more = "captions_per_image" if c.data == "scenes" else "several rows an image"
            out.append(f"every image has one caption and is seen {epochs:.0f} times; {more} would give it more")
    if c.data == "scenes" and c.augmentation == "standard" and c.flip_prob > 0:
        out.append("captions of scenes say left and right, and flip_prob is above 0; take augmentation=crop or flip_prob=0")
    if of_levels((*c.mean, *c.std)):
        out.append(f"mean {c.mean} and std {c.std} are of levels 0 to 255, pixels are in [0, 1]: divide both by 255")
    if c.precision == "bf16" and not has_bfloat16:
        out.append(f"{device.type} has no bfloat16 arithmetic: precision=bf16 is emulated, many times slower than fp32")
    return [f"warning: {line}" for line in out]


def write_run(
    out: Path,
    config: PretrainConfig,
    model: DualEncoder,
    feed: Feed,
    distributed: str,
    device: torch.device,
    processes: int,
    step: int,
) -> None:
    """run.json: what is not in the configuration and may explain speed or rounding."""
    values: dict[str, object] = {
        "processes": processes, "distributed": distributed, "device": device.type, "precision": config.precision, "compile": config.compile,
        "channels_last": config.channels_last, "threads": torch.get_num_threads(), "torch": torch.__version__,
        "python": platform.python_version(), "parameters": sum(p.numel() for p in model.parameters()), "started_at_step": step,
        "data_identity": feed.data_identity,
    }  # fmt: skip
    if feed.pairs is not None:
        values["pairs"] = feed.pairs
    if isinstance(feed, PoolFeed):
        values |= {"images": len(feed.pool), "broken": list(feed.pool.broken), "pool_sha256": feed.pool.sha256}
    atomic_write(out / "run.json", json.dumps(values, indent=1) + "\n")


def peak_memory(device: torch.device) -> int:
    """Bytes this process has held at most: of the GPU where it is one, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def outlook(seconds_a_step: float, left: int, batch: int, device: torch.device) -> str:
    """Of the time that is left, from the steps measured."""
    return (
        f"{batch / seconds_a_step:,.0f} images/s: about {duration(seconds_a_step * left)} for the {left:,} steps left; "
        f"peak memory {_count(peak_memory(device))}B"
    )


_SHOWN = ("loss", "rank_v", "rank_t", "matched_cosine", "probe_knn", "probe_zeroshot", "probe_attentive")


def history_line(line: Mapping[str, float]) -> str:
    """One diagnosis as it stays in the terminal."""
    return f"step {line['step']}: " + ", ".join(f"{k} {line[k]:.4g}" for k in _SHOWN if k in line)


def made(ckpt: Path, step: int) -> str:
    """What a finished run ends with."""
    return f"{ckpt}: step {step}; evaluate it with `levl-eval run --backbone {ckpt} --tasks gqa,pope,ade20k`"
