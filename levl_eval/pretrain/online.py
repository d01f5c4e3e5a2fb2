"""A labelled set that a run is measured on while it goes: kNN, zero-shot in every read-out, an attentive probe, neighbours as images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from levl_eval.core.errors import UsageError
from levl_eval.core.files import atomic_path
from levl_eval.core.in_use import hold
from levl_eval.core.progress import Progress
from levl_eval.core.random_state import seeded
from levl_eval.core.schedule import Schedule
from levl_eval.data.listing import list_classes, list_images
from levl_eval.data.rgb import open_rgb
from levl_eval.engines.probes.attentive import AttentiveHead
from levl_eval.metrics.statistics import wilson
from levl_eval.models.config import PretrainConfig
from levl_eval.pretrain.augment import resized
from levl_eval.pretrain.diagnostics import knn_accuracy

Encode = Callable[[Tensor], Tensor]


def share(name: str, value: float, n: int) -> dict[str, float]:
    """A fraction of ``n`` items with its 95% interval (Wilson's), as metrics name, name_low, name_high."""
    low, high = wilson(value * n, n)
    return {name: value, f"{name}_low": low, f"{name}_high": high}


class Probe:
    """A small labelled set, class folders train/ and test/, whose kNN and zero-shot accuracy are followed during a run.

    names: the folders' names as words.
    At most ``limit`` images of each split, evenly over classes. Raises UsageError where the folders are not there.
    """

    def __init__(self, folder: Path, size: int, resize: str, interpolation: str = "bicubic", limit: int = 1000) -> None:
        self.pixels: dict[str, Tensor] = {}
        self.labels: dict[str, Tensor] = {}
        if not (folder / "train").is_dir() or not (folder / "test").is_dir():
            raise UsageError(f"probe={folder}: expected class folders below train/ and test/")
        classes = list_classes(folder / "train")[0]
        if len(classes) < 2:
            raise UsageError(f"probe={folder}: {len(classes)} class folders below train/; at least 2")
        self.names = [name.replace("_", " ") for name in classes]
        for split in ("train", "test"):
            images, labels, folders = [], [], list_classes(folder / split)[0]
            for i, name in enumerate(classes):
                files = list_images(folder / split / folders.get(name, name)).files
                for f in files[: max(1, limit // len(classes))]:
                    images.append(resized(open_rgb(f), size, resize, interpolation))
                    labels.append(i)
            self.pixels[split] = torch.from_numpy(np.stack(images))
            self.labels[split] = torch.tensor(labels)

    @classmethod
    def of(cls, config: PretrainConfig, cache: Path, progress: Progress) -> Probe:
        """The probe of a configuration; "scenes" is the generated world's classification set, written to the cache once."""
        assert config.probe is not None
        folder = Path(config.probe).expanduser()
        if config.probe == "scenes":
            from levl_eval.scenes.export import COUNTS, make_scenes

            folder = cache / "pretrain" / f"probe-{config.image_size}"
            hold(folder)
            few = {part: 12 for part in COUNTS} | {"classification/train": 960, "classification/test": 480}
            make_scenes(folder, size=max(64, config.image_size), counts=few, progress=progress)
            folder = folder / "classification"
        return cls(folder, config.image_size, config.resize, config.interpolation)

    def features(self, encode: Encode, batch: int = 128) -> dict[str, Tensor]:
        """Class tokens [N, D] of both splits; encode: uint8 [B, S, S, 3] -> class token [B, D]."""
        return {s: torch.cat([encode(x).float().cpu() for x in p.split(batch)]) for s, p in self.pixels.items()}

    def knn(self, features: Mapping[str, Tensor]) -> dict[str, float]:
        """Accuracy of the nearest neighbours' vote on test/, with its interval."""
        right = knn_accuracy(features["train"], self.labels["train"], features["test"], self.labels["test"])
        return share("probe_knn", right, len(features["test"]))

    def zero_shot(self, embed: Callable[[Tensor], dict[str, Tensor]], batch: int = 128) -> dict[str, float]:
        """Share of test images nearest by cosine to their own class's text, in every read-out the model has, with intervals.

        embed: uint8 [B, S, S, 3] -> the model's output for them and the classes' prompts: z_v [B, d], z_t [C, d] and, where there are
        predictors, p_v and p_t. ``probe_zeroshot`` is the authors' own demonstration's read-out (image to predicted text); the others are
        ``probe_zeroshot/NAME`` by the names `levl-eval` gives them.
        """
        right: dict[str, list[Tensor]] = {}
        for x, label in zip(self.pixels["test"].split(batch), self.labels["test"].split(batch), strict=True):
            for name, cosines in readouts(embed(x)).items():
                right.setdefault(name, []).append(cosines.argmax(1).cpu() == label)
        out: dict[str, float] = {}
        for k, (name, rows) in enumerate(right.items()):
            value = float(torch.cat(rows).float().mean())
            out |= share("probe_zeroshot" if k == 0 else f"probe_zeroshot/{name}", value, len(self.labels["test"]))
        return out

    def neighbours(self, features: Mapping[str, Tensor], count: int, nearest: int = 5) -> np.ndarray:
        """uint8 [count S, (1 + nearest) S, 3]: test images, each with the training images nearest to it by cosine, the nearest first."""
        rows = np.unique(np.linspace(0, len(features["test"]) - 1, min(count, len(features["test"]))).astype(int))
        test = F.normalize(features["test"][torch.from_numpy(rows)], dim=1)
        near = (test @ F.normalize(features["train"], dim=1).T).topk(min(nearest, len(features["train"])), dim=1).indices
        lines = [
            np.concatenate([self.pixels["test"][int(r)].numpy(), *(self.pixels["train"][i].numpy() for i in line)], axis=1)
            for r, line in zip(rows, near.tolist(), strict=True)
        ]
        return np.concatenate(lines)


def readouts(out: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Cosines [B, C] of images and texts, the main read-out first (names as backbones.common)."""
    e = {k: F.normalize(out[k].float(), dim=1) for k in ("z_v", "z_t", "p_v", "p_t") if k in out}
    embedding = e["z_v"] @ e["z_t"].T
    if "p_t" not in e:
        return {"embedding": embedding}
    text, image = e["z_v"] @ e["p_t"].T, e["p_v"] @ e["z_t"].T
    pair = e["p_v"] @ e["p_t"].T
    return {
        "image-to-predicted-text": text, "embedding": embedding, "predicted-image-to-text": image, "predictor-pair": pair,
        "average": (text + image) / 2,
    }  # fmt: skip


def save_image(path: Path, pixels: np.ndarray) -> None:
    """A PNG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="png")


class AttentiveProbe:
    """July's online attentive probe: a head on the frozen patch tokens that takes a step of its own beside the run's, in the first process.

    Its images are the probe's training images without augmentation, in an order that depends on the seed alone; AdamW at 1e-3 with weight
    decay 1e-4 and a cosine to 0.01 of the rate, batches of 256 (July's).
    """

    lr, decay, final, batch = 1e-3, 1e-4, 0.01, 256

    def __init__(self, config: PretrainConfig, probe: Probe, device: torch.device) -> None:
        c = config
        self.config, self.probe, self.device = config, probe, device
        with seeded(c.seed):  # the run's own random numbers stay as they are without a probe
            self.head = AttentiveHead(c.vision.width, len(probe.names), c.vision.heads, 4.0).to(device)
        self.optimizer = torch.optim.AdamW(self.head.parameters(), lr=self.lr, weight_decay=self.decay)
        self.taken = 0
        self.schedule = Schedule(max(1, c.steps // max(1, c.attentive_every)), "cosine", final=self.final)

    def _rows(self) -> np.ndarray:
        n = len(self.probe.labels["train"])
        size = min(self.batch, n)
        epoch, at = divmod(self.taken, n // size)
        return np.random.default_rng([self.config.seed, epoch]).permutation(n)[at * size : (at + 1) * size]

    @torch.no_grad()
    def _tokens(self, encoder: nn.Module, pixels: Tensor) -> Tensor:
        """Normalised images -> patch tokens [B, N, D] in float32."""
        before = encoder.training
        encoder.eval()
        try:
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.config.precision == "bf16"):
                tokens: Tensor = encoder.forward_features(pixels)  # type: ignore[operator]
            return tokens[:, 1:].float()
        finally:
            encoder.train(before)

    def step(self, encoder: nn.Module, pixels: Encode) -> None:
        """One step of the head. pixels: uint8 [B, S, S, 3] -> normalised [B, 3, S, S]."""
        rows = torch.from_numpy(self._rows())
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * self.schedule.at(self.taken)
        logits = self.head(self._tokens(encoder, pixels(self.probe.pixels["train"][rows])))
        loss = F.cross_entropy(logits, self.probe.labels["train"][rows].to(self.device))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.taken += 1

    @torch.no_grad()
    def accuracy(self, encoder: nn.Module, pixels: Encode) -> dict[str, float]:
        """Top-1 on test/ with its interval, and top-5 where there are more classes than that."""
        logits = torch.cat([self.head(self._tokens(encoder, pixels(x))).cpu() for x in self.probe.pixels["test"].split(128)])
        labels = self.probe.labels["test"]
        out = share("probe_attentive", float((logits.argmax(1) == labels).float().mean()), len(labels))
        if logits.shape[1] > 5:
            five = (logits.topk(5, dim=1).indices == labels[:, None]).any(1)
            out |= share("probe_attentive_top5", float(five.float().mean()), len(labels))
        return out

    def state(self) -> dict[str, object]:
        return {"head": self.head.state_dict(), "optimizer": self.optimizer.state_dict(), "taken": self.taken}

    def restore(self, state: Mapping[str, object] | None) -> None:
        """What :meth:`state` gave; a probe that the run had not before begins where the run is."""
        if state is None:
            return
        head, optimizer, taken = state["head"], state["optimizer"], state["taken"]
        assert isinstance(head, dict) and isinstance(optimizer, dict) and isinstance(taken, int)
        if {k: v.shape for k, v in head.items()} != {k: v.shape for k, v in self.head.state_dict().items()}:
            raise UsageError("field `probe`: its classes are not those the attentive probe was trained on; set attentive_every=0")
        self.head.load_state_dict(head)
        self.optimizer.load_state_dict(optimizer)
        self.taken = taken
