"""The training loop: one process, exact resume, atomic checkpoints, metrics as JSON lines."""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from tokenizers import Tokenizer
from torch import Tensor

from levl_eval.errors import LevlError, UsageError
from levl_eval.evaluate import default_cache, pick_device
from levl_eval.io import atomic_write
from levl_eval.pretrain import checkpoints, tokenizer
from levl_eval.pretrain.config import PretrainConfig
from levl_eval.pretrain.data import Pool, open_pool
from levl_eval.pretrain.model import DualEncoder, build_model, plain_attention
from levl_eval.pretrain.objectives import loss_of
from levl_eval.pretrain.sigreg import SIGReg
from levl_eval.progress import Progress


def learning_rate(config: PretrainConfig, step: int) -> float:
    """Linear warm-up from 0, then a cosine to ``final_lr`` of the peak at the last step (PAPER 1.6)."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    t = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * (config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * t)))


def effective_rank(z: Tensor) -> float:
    """exp of the entropy of the normalised singular values of mean-centred embeddings [N, d] (PAPER 1.6)."""
    s = torch.linalg.svdvals((z - z.mean(0)).double())
    p = s / s.sum()
    return float(torch.exp(-(p * torch.log(p + 1e-7)).sum()))


def optimizer_of(model: DualEncoder, config: PretrainConfig) -> torch.optim.Optimizer:
    """AdamW; gains, biases and scales without weight decay."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Random crop of 80 to 100% of the area, resized back, a different one for every picture: [B, 3, S, S] -> the same shape."""
    b = len(x)
    scale = torch.empty(b).uniform_(0.8, 1.0, generator=generator).sqrt()
    shift = (torch.rand(b, 2, generator=generator) * 2 - 1) * (1 - scale)[:, None]
    theta = torch.zeros(b, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    theta[:, :, 2] = shift
    grid = F.affine_grid(theta.to(x.device), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _lines(path: Path, until: int) -> list[str]:
    """The lines of a metrics file up to a step; what a kill left half-written is dropped."""
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= until:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    return kept


@contextmanager
def _stop_between_steps() -> Iterator[list[int]]:
    """A list that receives SIGINT or SIGTERM, so that a run ends between two steps and its last checkpoint is exact.

    A second signal interrupts at once. Outside the main thread signals cannot be caught, and nothing is changed.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def note(number: int, frame: Any) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


class Trainer:
    """State of a run: model, optimizer, data and random generators; ``run`` goes from ``step`` to the end."""

    def __init__(self, config: PretrainConfig, progress: Progress | None = None, cache: Path | None = None) -> None:
        self.config, self.progress, self.out = config, progress or Progress(), Path(config.out)
        if config.threads:
            torch.set_num_threads(config.threads)
        self.device = pick_device(config.device)
        self.ckpt = self.out / "ckpt.pt"
        if self.ckpt.exists() and not config.resume:
            raise UsageError(f"{self.ckpt}: a checkpoint is there already; add resume=true to go on, or choose another out=")
        state = checkpoints.read(self.ckpt) if self.ckpt.exists() else None
        if state is not None:
            self._must_match(state)
        atomic_write(self.out / "config.yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
        self.pool: Pool = open_pool(config, cache or default_cache(), self.progress)
        if state is not None:
            self.tokenizer = Tokenizer.from_str(state["tokenizer"])
        elif config.tokenizer == "trained":
            self.tokenizer = tokenizer.train((c for captions in self.pool.captions for c in captions), config.vocab_size)
        else:
            self.tokenizer = tokenizer.load_gpt2(config.tokenizer)
        torch.manual_seed(config.seed)
        self.model = build_model(config, self.tokenizer.get_vocab_size()).to(self.device)
        if self.device.type == "cpu" and config.precision == "bf16":
            plain_attention(self.model)
        self.optimizer = optimizer_of(self.model, config)
        self.sigreg = SIGReg(config.sigreg_slices, config.sigreg_knots, config.sigreg_t_max)
        self.step = 0
        if state is not None:
            self._restore(state)
        self.mean = torch.tensor(config.mean, device=self.device).view(3, 1, 1)
        self.std = torch.tensor(config.std, device=self.device).view(3, 1, 1)

    def _must_match(self, state: dict[str, Any]) -> None:
        """A run goes on only as it began: where it stands and how it logs may change; steps may not, the cosine depends on them."""
        if "optimizer" not in state:
            raise UsageError(
                f"{self.ckpt}: has weights but no optimizer (imported or released); it cannot be resumed, choose another out="
            )
        free = {"resume", "out", "log_every", "save_every", "threads", "device"}
        old, new = state["config"], self.config.model_dump(mode="json")
        other = [k for k in new if k not in free and k in old and old[k] != new[k]]
        if other:
            raise UsageError(
                f"{self.ckpt}: field `{other[0]}` was {old[other[0]]!r}, now {new[other[0]]!r}; resume with the same values"
            )

    def _restore(self, state: dict[str, Any]) -> None:
        for side in ("vision", "text"):
            for part in checkpoints.PARTS:
                module = getattr(getattr(self.model, side), part)
                if module is not None:
                    module.load_state_dict(state[side][part])
        for k, v in state["logit"].items():
            getattr(self.model, f"logit_{k}").data.copy_(v)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]

    def save(self) -> None:
        state = checkpoints.payload(self.model, self.config, self.tokenizer.to_str(), self.step)
        checkpoints.save(self.ckpt, {**state, "optimizer": self.optimizer.state_dict()})

    def pixels(self, raw: np.ndarray, generator: torch.Generator | None) -> Tensor:
        x = torch.from_numpy(np.ascontiguousarray(raw)).to(self.device).permute(0, 3, 1, 2).float().div_(255)
        x = (x - self.mean) / self.std
        return augment(x, generator) if generator is not None and self.config.augmentation == "crop" else x

    def train_step(self) -> tuple[float, dict[str, float], Tensor, Tensor]:
        """One update. All randomness of a step comes from (seed, step), which makes resuming exact."""
        c = self.config
        generator = torch.Generator().manual_seed((c.seed * 1_000_003 + self.step) % (1 << 62))
        raw, captions = self.pool.batch(self.step, c.batch_size, c.seed)
        ids, last = tokenizer.encode(self.tokenizer, captions, c.max_length)
        x = self.pixels(raw, generator)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(c, self.step)
        directions = (
            self.sigreg.directions(c.embed_dim, torch.empty(0), generator).to(self.device) if c.objective == "levljepa" else None
        )
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=c.precision == "bf16"):
            z_v = self.model.embed_images(x)
            z_t = self.model.embed_texts(torch.from_numpy(ids).to(self.device), torch.from_numpy(last).to(self.device))
            loss, parts = loss_of(self.model, z_v, z_t, lambda z: self.sigreg(z, directions), c.lambda_v, c.lambda_t)
        value = float(loss.detach())
        self._finite("loss", value)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        # Checked before the update: after it a checkpoint could be written with NaN in it.
        self._finite("gradient norm", float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), c.clip)))
        self.optimizer.step()
        if c.objective != "levljepa":
            self.model.logit_scale.data.clamp_(0, math.log(100))  # as OpenCLIP does after every update
        self.step += 1
        return value, {k: float(v) for k, v in parts.items()}, z_v.detach().float(), z_t.detach().float()

    def _finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            kept = self.ckpt if self.ckpt.exists() else "none"
            raise LevlError(
                f"step {self.step}: the {what} is {value}; last good checkpoint: {kept}; lower lr or use precision=fp32"
            )

    def run(self) -> None:
        """Train to the last step. Ctrl-C and SIGTERM end the step, save, and raise KeyboardInterrupt; on an error the last checkpoint stands."""
        c = self.config
        self.model.train()
        started, first = time.monotonic(), self.step
        metrics = self.out / "metrics.jsonl"
        if metrics.exists():  # lines behind the checkpoint belong to steps that are made again
            atomic_write(metrics, "".join(f"{line}\n" for line in _lines(metrics, self.step)))
        with (
            _stop_between_steps() as signals,
            self.progress.stage(f"{c.objective} {c.model}", c.steps - first, "step") as bar,
            open(metrics, "a", encoding="utf-8") as log,
        ):
            while self.step < c.steps:
                loss, parts, z_v, z_t = self.train_step()
                rate = (self.step - first) * c.batch_size / max(1e-9, time.monotonic() - started)
                bar.advance(note=f"loss {loss:.3f} {rate:,.0f} pictures/s")
                if self.step % c.log_every == 0 or self.step == c.steps:
                    line: dict[str, Any] = {"step": self.step, "loss": loss, **parts, "lr": learning_rate(c, self.step - 1)}
                    if self.step % (5 * c.log_every) == 0 or self.step == c.steps:
                        matched = F.cosine_similarity(z_v, z_t).mean()
                        line |= {
                            "rank_v": effective_rank(z_v),
                            "rank_t": effective_rank(z_t),
                            "matched_cosine": float(matched),
                        }
                        line["shuffled_cosine"] = float(F.cosine_similarity(z_v, z_t.roll(1, 0)).mean())
                    log.write(json.dumps({**line, "pictures_per_second": round(rate, 1)}) + "\n")
                    log.flush()
                if self.step % c.save_every == 0 or self.step == c.steps or signals:
                    self.save()
                if signals and self.step < c.steps:
                    raise KeyboardInterrupt
