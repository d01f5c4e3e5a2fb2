"""The training loop: one process or many, exact resume, atomic checkpoints, metrics as JSON lines.

A loop of its own beside engines/fit.py: backward passes go through accelerate (DDP's no_sync over accumulated batches, FSDP's
shards), a GPU's updates are checked later than they are made, and signals end it between steps. It shares core's schedule, finite
check and process group.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
import yaml
from tokenizers import Tokenizer
from torch import Tensor

from levl_eval.core.distributed import joined_group
from levl_eval.core.errors import Terminated, UsageError
from levl_eval.core.files import atomic_write
from levl_eval.core.paths import default_cache
from levl_eval.core.progress import Progress
from levl_eval.models import checkpoints, tokenizer
from levl_eval.models.config import PretrainConfig
from levl_eval.models.sigreg import SIGReg
from levl_eval.models.towers import DualEncoder, build_model, fuse_blocks, plain_attention
from levl_eval.pretrain import diagnostics, processes
from levl_eval.pretrain.augment import crop, erase
from levl_eval.pretrain.beginning import beginning
from levl_eval.pretrain.data import Pool
from levl_eval.pretrain.feed import PoolFeed, open_feed
from levl_eval.pretrain.interrupts import holds_a_run, stop_between_steps
from levl_eval.pretrain.journal import Journal
from levl_eval.pretrain.messages import first_lines, odd_settings, write_run
from levl_eval.pretrain.objectives import loss_of
from levl_eval.pretrain.online import AttentiveProbe, Probe, save_image
from levl_eval.pretrain.parallel import sync_batch_norm
from levl_eval.pretrain.resuming import as_it_began
from levl_eval.pretrain.schedule import learning_rate, optimizer_of
from levl_eval.pretrain.watch import Watch


class Trainer:
    """State of a run: model, optimizer, data and random generators; ``run`` goes from ``step`` to the end.

    Every process builds one with the same configuration; the first alone writes files.
    """

    def __init__(self, config: PretrainConfig, progress: Progress | None = None, cache: Path | None = None) -> None:
        self.out = Path(config.out)
        if config.threads:
            torch.set_num_threads(config.threads)
        self.ckpt = self.out / "ckpt.pt"
        if not config.resume and holds_a_run(self.out):
            raise UsageError(
                f"{self.out}: is not empty, and resume=false starts anew; choose another out=, or leave resume=false away to resume"
            )
        state = checkpoints.read(self.ckpt) if self.ckpt.exists() else None
        self.accelerator, self.device = processes.start(config)
        self.group = joined_group()
        seen = self.group.each(None if state is None else state["step"])
        if len(set(seen)) > 1:  # else some would wait for ever for what the others do not do
            other = next(i for i, step in enumerate(seen) if step != seen[0])
            steps = ["no checkpoint" if step is None else f"step {step}" for step in (seen[0], seen[other])]
            raise UsageError(
                f"{self.ckpt}: the first process sees {steps[0]}, process {other} {steps[1]}; all nodes must share out="
            )
        self.config = config = self._with_precision(config, state)
        if state is not None:
            asked, self.config = config, as_it_began(state, config, self.ckpt)
            kept = [f"{k}={v}" for k, v in self.config.model_dump().items() if v != asked.model_dump()[k]]
            config = self.config
        self.progress = progress or Progress(quiet=not self.group.main)
        if self.group.main:
            atomic_write(self.out / "config.yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
        earlier = beginning(config) if state is None else None  # refused before images are drawn or read
        for line in earlier.differences(config) if earlier else ():
            self.progress.say(line)
        weights = state if earlier is None else earlier.state
        self.earlier = state.get("earlier", []) if state is not None else earlier.history() if earlier else []
        with self.accelerator.local_main_process_first():
            self.feed = open_feed(config, self.group.part, cache or default_cache(), self.progress)
            self.probe = Probe.of(config, cache or default_cache(), self.progress) if config.probe else None
        self.tokenizer = self._tokenizer(weights)
        torch.manual_seed(config.seed)
        self.model = self._model(weights)
        self.wrapped, self.optimizer = self.accelerator.prepare(self.model, optimizer_of(self.model, config))
        self.attentive = None if self.probe is None or not config.attentive_every else self._attentive(self.probe)
        self.sigreg = SIGReg(config.sigreg_slices, config.sigreg_knots, config.sigreg_t_max, config.sigreg_scope != "local")
        self.step = 0
        self.watch = Watch(config, lambda: str(self.ckpt if self.ckpt.exists() else "none"), self.device.type == "cuda")
        if state is not None:
            self._restore(state)
            done = " (finished; extend_to=STEPS trains on)" if self.step >= self.end else ""
            self.progress.say(f"{self.ckpt}: resuming at step {self.step} of {self.end}{done}")
            if kept:
                self.progress.say(f"{self.ckpt}: of an earlier version, resumed as it began: {' '.join(kept)}")
        self.feed.start(self.tokenizer, self.step * config.accumulate, self._feed_state(state))
        self._introduce()
        self.mean = torch.tensor(config.mean, device=self.device).view(3, 1, 1)
        self.std = torch.tensor(config.std, device=self.device).view(3, 1, 1)

    # ---- building

    def _with_precision(self, config: PretrainConfig, state: checkpoints.Checkpoint | None) -> PretrainConfig:
        """``auto`` made definite: what the run to be resumed has, else what this device is good at; processes agree on it."""
        if config.precision != "auto":
            return config
        recorded = state["config"].get("precision") if state is not None else None
        if recorded not in ("fp32", "bf16"):
            recorded = self.group.from_main("bf16" if processes.has_bfloat16(self.device) else "fp32")
        return config.model_copy(update={"precision": recorded})

    @property
    def end(self) -> int:
        """The last update."""
        return self.config.extend_to or self.config.steps

    def _tokenizer(self, state: checkpoints.Checkpoint | None) -> Tokenizer:
        c = self.config
        if state is not None:
            return Tokenizer.from_str(state["tokenizer"])
        if c.tokenizer != "trained":
            return tokenizer.load_gpt2(c.tokenizer)
        made = tokenizer.train(self.feed.captions(), c.vocab_size).to_str() if self.group.main else ""
        return Tokenizer.from_str(self.group.from_main(made))

    def _model(self, state: checkpoints.Checkpoint | None) -> DualEncoder:
        c = self.config
        model = build_model(c, self.tokenizer.get_vocab_size())
        if state is not None:
            checkpoints.restore(model, state)
        if self.group.size > 1:
            sync_batch_norm(model)
        model.to(self.device)
        if c.channels_last:
            model.vision.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.device.type == "cpu" and c.precision == "bf16":
            plain_attention(model)
            if c.bf16_blocks == "fused" and not c.compile and not processes.sharded(self.accelerator):
                fuse_blocks(model)
        if c.compile:
            model.vision.encoder.compile()
            model.text.encoder.compile(dynamic=True)
        return model

    @property
    def pool(self) -> Pool:
        """The decoded images of scenes, csv and tsv data."""
        assert isinstance(self.feed, PoolFeed)
        return self.feed.pool

    def _restore(self, state: checkpoints.Checkpoint) -> None:
        processes.restore_optimizer(self.accelerator, self.wrapped, self.optimizer, state["optimizer"], self.ckpt)
        self.step = state["step"]
        self.watch.first, self.watch.running = state.get("loss", (math.nan, math.nan))
        if self.attentive is not None:
            self.attentive.restore(state.get("attentive"))

    def _feed_state(self, state: checkpoints.Checkpoint | None) -> checkpoints.FeedState | None:
        """This process's place in a stream. A pool's batches depend on their number alone, so that any number of processes may resume."""
        feeds = state.get("feeds") if state is not None else None
        if not feeds:
            return None
        if isinstance(self.feed, PoolFeed):
            return feeds[0]
        rank, count = self.group.part
        if len(feeds) != count:
            raise UsageError(f"{self.ckpt}: this stream was read by {len(feeds)} processes, now {count}; resume with as many")
        return feeds[rank]

    def _introduce(self) -> None:
        """The first lines, what is odd, and run.json."""
        c, count = self.config, self.group.size
        if self.group.main:
            write_run(self.out, c, self.model, self.feed, self.accelerator.distributed_type.value, self.device, count, self.step)
        for line in first_lines(c, self.model, self.feed, self.device, count):
            self.progress.say(line)
        for line in odd_settings(c, self.feed, self.device, count, processes.has_bfloat16(self.device)):
            self.progress.say(line)

    def _attentive(self, probe: Probe) -> AttentiveProbe | None:
        """Of the first process, which holds whole weights unless FSDP shards them."""
        if self.accelerator.distributed_type.value == "FSDP":
            raise UsageError("field `attentive_every`: the attentive probe reads whole weights, which FSDP shards; set it to 0")
        return AttentiveProbe(self.config, probe, self.device) if self.group.main else None

    def save(self) -> None:
        """Write the checkpoint; every process takes part, the first writes. Raises LevlError for an update that was not finite."""
        self.watch.check()
        weights, optimizer = processes.states(self.accelerator, self.wrapped, self.model, self.optimizer)
        feeds = self.group.each(self.feed.state())
        if self.group.main:
            state = checkpoints.payload(weights, self.config, self.tokenizer.to_str(), self.step)
            state |= {"earlier": self.earlier} if self.earlier else {}
            state |= {"optimizer": optimizer, "loss": (self.watch.first, self.watch.running), "feeds": feeds}
            if self.attentive is not None:
                state["attentive"] = self.attentive.state()
            checkpoints.save(self.ckpt, state)
            checkpoints.keep_last(self.ckpt, self.step, self.config.keep)

    # ---- a step

    def pixels(self, raw: np.ndarray, generator: torch.Generator | None) -> Tensor:
        """uint8 [..., H, W, 3] -> standardised [..., 3, H, W], cropped at random where that is the augmentation."""
        x = processes.on_device(np.ascontiguousarray(raw), self.device).movedim(-1, -3).float().div_(255)
        x = (x - self.mean) / self.std
        c = self.config
        if generator is not None and c.objective != "levljepa_plus":
            if c.augmentation == "crop":
                x = crop(x, generator, self.group.part)
            elif c.augmentation == "standard" and c.random_erasing_prob:
                x = erase(x, c, generator, self.group.part)
        return x.contiguous(memory_format=torch.channels_last) if c.channels_last and x.ndim == 4 else x

    def _regulariser(self, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
        """SIGReg with this step's directions, which are the same in every process."""
        c = self.config
        if self.device.type == "cuda":  # millions of normal numbers a step are not drawn on the CPU
            generator = torch.Generator(self.device).manual_seed(generator.initial_seed())
        like = torch.empty(0, device=self.device)

        def draw() -> Tensor:
            return self.sigreg.directions(c.embed_dim, like, generator)

        shared = draw() if c.sigreg_directions == "shared" and c.objective.startswith("levljepa") else None
        factor = self.group.size if c.sigreg_scope == "global" else 1  # global: times the rows of all processes
        return lambda z: factor * self.sigreg(z, draw() if shared is None else shared)

    def _forward(self, number: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of forward pass ``number`` over this process's rows. All its randomness comes from (seed, number), hence exact resume."""
        c = self.config
        seed = (c.seed * 1_000_003 + number) % (1 << 62)
        if c.dropout or c.head_dropout:
            torch.manual_seed((seed * 1009 + self.group.rank) % (1 << 62))
        generator = torch.Generator().manual_seed(seed)
        batch = self.feed.next()
        x: Tensor | list[Tensor]
        if isinstance(batch.pixels, tuple):
            x = [self.pixels(p, generator) for p in batch.pixels]
        else:
            x = self.pixels(batch.pixels, generator)
        out = self._embed(x, batch.ids, batch.last)
        return loss_of(c, out, self._regulariser(generator))

    def _embed(self, x: Tensor | list[Tensor], ids: np.ndarray, last: np.ndarray) -> dict[str, Tensor]:
        """ids, last: of a batch of captions, as a Batch holds them."""
        tokens, ends = (processes.on_device(a, self.device) for a in (ids, last))
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.config.precision == "bf16"):
            out: dict[str, Tensor] = self.wrapped(x, tokens, ends, self.config.global_views, last.tolist())
            return out

    def train_step(self) -> tuple[float, dict[str, Tensor]]:
        """One update; returns the last loss known over all processes (on a CPU this update's)
        and the parts of this process's loss, of all its forward passes."""
        c = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(c, self.step)
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        parts: dict[str, Tensor] = {}
        for i in range(c.accumulate):
            wait = nullcontext() if i + 1 == c.accumulate else self.accelerator.no_sync(self.wrapped)
            with wait:
                loss, made = self._forward(self.step * c.accumulate + i)
                self.accelerator.backward(loss / c.accumulate)
            total += loss.detach() / c.accumulate
            parts = {k: parts.get(k, 0) + v / c.accumulate for k, v in made.items()}
        norm = self.accelerator.clip_grad_norm_(self.wrapped.parameters(), math.inf if c.clip is None else c.clip)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        self.watch.add(self.step, total, norm, getattr(self.optimizer, "optimizer", self.optimizer))
        self.optimizer.step()
        if c.objective in ("clip", "siglip"):
            self.model.logit_scale.data.clamp_(0, math.log(100))  # as OpenCLIP does after every update
        self.step += 1
        return self.watch.last, parts

    # ---- the run

    @torch.no_grad()
    def diagnose(self) -> dict[str, float]:
        """Diagnostics on fixed pairs in evaluation mode, and the probe's accuracy where there is one; every process takes part."""
        c = self.config
        if not hasattr(self, "_fixed"):
            raw, captions = self.feed.sample(c.diagnose_images)
            self._fixed = raw, self.feed.tokens(self.tokenizer, captions)
        raw, (ids, last) = self._fixed
        self.wrapped.eval()
        try:
            embeddings: dict[str, list[Tensor]] = {"z_v": [], "z_t": []}
            for at in range(0, len(raw), 128):
                rows = slice(at, at + 128)
                out = self._embed(self.pixels(raw[rows], None), ids[rows], last[rows])
                for k, z in embeddings.items():
                    z.append(out[k].float().cpu())
            line = diagnostics.of_pairs(*(torch.cat(z) for z in embeddings.values())) if len(raw) > 1 else {}
            if self.probe is not None:
                line |= self._measure(self.probe)
            return line
        finally:
            self.wrapped.train()

    def _measure(self, probe: Probe) -> dict[str, float]:
        """What the labelled set says of the model in evaluation mode; every process takes part."""
        c = self.config
        ids, last = self.feed.tokens(self.tokenizer, [c.probe_template.replace("{}", n) for n in probe.names])
        features = probe.features(lambda x: self.wrapped(self.pixels(x.numpy(), None))["pooled"])
        line = probe.knn(features) | probe.zero_shot(lambda x: self._embed(self.pixels(x.numpy(), None), ids, last))
        if self.attentive is not None:
            line |= self.attentive.accuracy(self.model.vision.encoder, lambda x: self.pixels(x.numpy(), None))
        if c.neighbours and self.group.main:
            sheet = probe.neighbours(features, c.neighbours)
            save_image(self.out / "neighbours" / f"step-{self.step}.png", sheet)
            processes.log_image(self.accelerator, "neighbours", sheet, self.step)
        return line

    def run(self) -> None:
        """Train to the last step.

        Ctrl-C and SIGTERM end the step, save, and raise KeyboardInterrupt; on an error the last checkpoint stands.
        """
        try:
            processes.begin_trackers(self.accelerator, self.config)
            self._run()
        finally:
            self.feed.close()
            for tracker in self.accelerator.trackers:
                tracker.finish()

    def close(self) -> None:
        """Leave the other processes, where there are any."""
        if self.group.size > 1:
            self.accelerator.wait_for_everyone()
            torch.distributed.destroy_process_group()

    def _run(self) -> None:
        c = self.config
        self.wrapped.train()
        journal = Journal(c, self.feed, self.progress, self.accelerator, self.step, self.end)
        with (
            stop_between_steps() as signals,
            self.progress.stage(f"{c.objective} {c.model}", max(0, self.end - self.step), "step") as bar,
            journal,
        ):
            while self.step < self.end:
                loss, parts = self.train_step()
                if self.attentive is not None and self.step % c.attentive_every == 0:
                    self.attentive.step(self.model.vision.encoder, lambda x: self.pixels(x.numpy(), None))
                journal.after(self.step, self.device)
                bar.advance(note=f"loss {loss:.3f} {journal.rate:,.0f} images/s")
                last, due = self.step == self.end, journal.due(self.step)
                if due:
                    self.watch.check()
                    figures = self.diagnose() if journal.diagnosed(self.step) else {}
                    journal.write(self.step, self.watch.last, parts, figures)
                saving = self.step % c.save_every == 0 or last
                # Asking all processes is a wait for the device where it is a GPU, so there not at every step.
                stop = self._anyone(bool(signals)) if due or saving or not self.watch.deferred else False
                if saving or stop:
                    self.save()
                if stop and not last:
                    raise Terminated if signal.SIGTERM in signals else KeyboardInterrupt
        journal.summary()

    def _anyone(self, asked: bool) -> bool:
        """Whether any process was asked to stop: they stop together."""
        return self.group.mean(float(asked))[0] > 0
