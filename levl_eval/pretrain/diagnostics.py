"""What a run tells of its embeddings while it goes: rank, shape, alignment, and a nearest-neighbour probe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from levl_eval.core.errors import UsageError
from levl_eval.core.progress import Progress
from levl_eval.data.listing import list_classes, list_images
from levl_eval.data.rgb import open_rgb
from levl_eval.models.config import PretrainConfig


def effective_rank(z: Tensor) -> float:
    """exp of the entropy of the normalised singular values of mean-centred embeddings [N, d] (docs/paper.md)."""
    s = torch.linalg.svdvals((z - z.mean(0)).double())
    p = s / s.sum().clamp_min(1e-30)
    return float(torch.exp(-(p * torch.log(p + 1e-7)).sum()))


def projections(z: Tensor, directions: int = 64) -> tuple[float, float]:
    """(mean standard deviation, mean kurtosis) of z [N, d] along fixed random directions; 1 and 3 for a standard Gaussian."""
    a = torch.randn(z.shape[1], directions, generator=torch.Generator().manual_seed(0)).to(z.device)
    x = z.float() @ (a / a.norm(dim=0))
    x = x - x.mean(0)
    var = x.square().mean(0)
    return float(var.sqrt().mean()), float((x.pow(4).mean(0) / var.square().clamp_min(1e-12)).mean())


def of_pairs(z_v: Tensor, z_t: Tensor) -> dict[str, float]:
    """Diagnostics of pairs [N, d]: ranks, projections of both modalities, matched and shuffled cosine."""
    out: dict[str, float] = {}
    for name, z in (("v", z_v), ("t", z_t)):
        out[f"rank_{name}"] = effective_rank(z)
        out[f"std_{name}"], out[f"kurtosis_{name}"] = projections(z)
    out["matched_cosine"] = float(F.cosine_similarity(z_v, z_t).mean())
    out["shuffled_cosine"] = float(F.cosine_similarity(z_v, z_t.roll(1, 0)).mean())
    return out


def knn_accuracy(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, k: int = 20) -> float:
    """Share of test rows [M, D] whose k nearest training rows by cosine vote for their label, votes weighted exp(cos / 0.07)."""
    cosine = F.normalize(test.float(), dim=1) @ F.normalize(train.float(), dim=1).T
    value, index = cosine.topk(min(k, len(train)), dim=1)
    votes = torch.zeros(len(test), int(train_labels.max()) + 1, device=train.device)
    votes.scatter_add_(1, train_labels[index], (value / 0.07).exp())
    return float((votes.argmax(1) == test_labels).float().mean())


class Probe:
    """A small labelled set, class folders train/ and test/, whose kNN and zero-shot accuracy are followed during a run.

    names: the folders' names as words.
    At most ``limit`` images of each split, evenly over classes. Raises UsageError where the folders are not there.
    """

    def __init__(self, folder: Path, size: int, resize: str, interpolation: str = "bicubic", limit: int = 1000) -> None:
        import numpy as np

        from levl_eval.pretrain.augment import resized

        self.pixels: dict[str, Tensor] = {}
        self.labels: dict[str, Tensor] = {}
        if not (folder / "train").is_dir() or not (folder / "test").is_dir():
            raise UsageError(f"probe={folder}: expected class folders below train/ and test/")
        classes = list_classes(folder / "train")[0]
        if len(classes) < 2:
            raise UsageError(f"probe={folder}: {len(classes)} class folders below train/; at least 2")
        self.names = [name.replace("_", " ") for name in classes]
        for split in ("train", "test"):
            images, labels = [], []
            for i, name in enumerate(classes):
                files = list_images(folder / split / name).files
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
            few = {part: 12 for part in COUNTS} | {"classification/train": 960, "classification/test": 480}
            make_scenes(folder, size=max(64, config.image_size), counts=few, progress=progress)
            folder = folder / "classification"
        return cls(folder, config.image_size, config.resize, config.interpolation)

    def accuracy(self, encode: Callable[[Tensor], Tensor], batch: int = 128) -> float:
        """encode: uint8 [B, S, S, 3] -> class token [B, D]."""
        found = {s: torch.cat([encode(x).float().cpu() for x in p.split(batch)]) for s, p in self.pixels.items()}
        return knn_accuracy(found["train"], self.labels["train"], found["test"], self.labels["test"])

    def zero_shot(self, embed: Callable[[Tensor], dict[str, Tensor]], batch: int = 128) -> float:
        """Share of test images nearest by cosine to their own class's text.

        embed: uint8 [B, S, S, 3] -> the model's output for them and the classes' prompts: z_v [B, d], and p_t [C, d] where there is a
        predictor (the read-out of the authors' own demonstration), else z_t.
        """
        right = []
        for x, label in zip(self.pixels["test"].split(batch), self.labels["test"].split(batch), strict=True):
            out = embed(x)
            image, text = out["z_v"].float(), out.get("p_t", out["z_t"]).float()
            right.append((F.normalize(image, dim=1) @ F.normalize(text, dim=1).T).argmax(1).cpu() == label)
        return float(torch.cat(right).float().mean())
