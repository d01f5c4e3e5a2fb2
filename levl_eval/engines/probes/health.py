"""Health of embeddings without labels: do the features use their dimensions, and do different images get different ones?

effective_rank      exp of the entropy of the singular values of the centred features (docs/paper.md); at most the number of dimensions
epps_pulley         SIGReg's statistic against a standard Gaussian, after centring and one common scale: small is isotropic.
                    epps_pulley_gaussian is what Gaussian noise of the same shape gets
uniformity          log of the mean of exp(-2 ||x - y||^2) over pairs on the sphere (Wang and Isola, ICML 2020); lower is better
alignment           mean ||x - x'||^2 on the sphere between a image and its mirrored, cut view; lower is better
variance_*          of the dimensions; dead_dimensions: below a millionth of the mean
duplicates          images of other content whose features are exactly those of an earlier image; near_duplicates: cosine >= 0.9999
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from levl_eval.data.images import fingerprint_text
from levl_eval.data.types import ImageSet
from levl_eval.models.sigreg import SIGReg
from levl_eval.models.spectrum import effective_rank

NEAR = 0.9999  # cosine from which two features count as near duplicates
BLOCK = 1024


def epps_pulley(x: Tensor, slices: int = 1024, seed: int = 0) -> tuple[float, float]:
    """The statistic of [N, D] after centring and one common scale, and that of Gaussian noise of the same shape."""
    generator = torch.Generator().manual_seed(seed)
    directions = F.normalize(torch.randn(x.shape[1], slices, generator=generator), dim=0)
    centred = (x - x.mean(0)).float()
    scaled = centred / centred.square().mean().sqrt().clamp(min=1e-12)
    statistic = SIGReg(slices)
    with torch.no_grad():
        noise = torch.randn(x.shape, generator=generator)
        return float(statistic(scaled, directions)), float(statistic(noise, directions))


def uniformity(x: Tensor) -> float:
    """log mean exp(-2 ||x - y||^2) over all pairs of different rows of [N, D], normalised, block by block."""
    z = F.normalize(x.double(), dim=-1)
    total = 0.0
    for i in range(0, len(z), BLOCK):
        total += float(torch.exp(-2 * (2 - 2 * z[i : i + BLOCK] @ z.T).clamp(min=0)).sum())
    pairs = len(z) * (len(z) - 1)
    return float(np.log(max(total - len(z), 1e-300) / max(pairs, 1)))


def alignment(x: Tensor, y: Tensor) -> float:
    """Mean squared distance on the sphere of two views' features [N, D]."""
    return float((F.normalize(x.double(), dim=-1) - F.normalize(y.double(), dim=-1)).square().sum(-1).mean())


def duplicates(x: Tensor, content: np.ndarray | None = None) -> tuple[int, int]:
    """How many rows equal an earlier row exactly, and how many come near one; images of equal ``content`` [N] do not count."""
    same = content if content is not None else np.arange(len(x))
    _, number = np.unique(same, return_inverse=True)
    code = torch.from_numpy(number.reshape(-1))
    z = F.normalize(x.float(), dim=-1)
    exact = nearly_equal = 0
    for i in range(0, len(z), BLOCK):
        rows = torch.arange(i, min(i + BLOCK, len(z)))
        other = (torch.arange(len(z)).unsqueeze(0) < rows.unsqueeze(1)) & (code.unsqueeze(0) != code[rows].unsqueeze(1))
        close = (z[rows] @ z.T >= NEAR) & other
        nearly_equal += int(close.any(1).sum())
        for r in torch.nonzero(close.any(1)).flatten().tolist():
            exact += bool((x[close[r]] == x[rows[r]]).all(1).any())
    return exact, nearly_equal


def view(image: Image.Image) -> Image.Image:
    """The second view of a image: mirrored, with a fifth cut off two sides."""
    width, height = image.size
    cut = image.crop((0, 0, max(1, round(0.8 * width)), max(1, round(0.8 * height))))
    return cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def second_views(images: ImageSet) -> ImageSet:
    """The same set with every image replaced by its second view."""
    return ImageSet(images.ids, lambda i: view(images.open(i)), fingerprint_text([images.fingerprint, "view 1"]), images.source)


class Health(TypedDict):
    """Figures of one space of features; see the module's text."""

    images: int
    dimensions: int
    effective_rank: float
    epps_pulley: float
    epps_pulley_gaussian: float
    uniformity: float
    alignment: float | None  # None: no second views
    variance_mean: float
    variance_min: float
    variance_median: float
    variance_max: float
    dead_dimensions: int
    duplicates: int
    near_duplicates: int
    warnings: list[str]  # what is wrong, in words


def health(x: Tensor, y: Tensor | None, content: np.ndarray | None = None) -> Health:
    """All figures of features [N, D], ``y`` those of the second views."""
    variance = x.double().var(0)
    mean = float(variance.mean())
    statistic, gaussian = epps_pulley(x)
    exact, nearly_equal = duplicates(x, content)
    out: Health = {
        "images": len(x), "dimensions": x.shape[1], "effective_rank": effective_rank(x), "epps_pulley": statistic,
        "epps_pulley_gaussian": gaussian, "uniformity": uniformity(x), "alignment": None if y is None else alignment(x, y),
        "variance_mean": mean, "variance_min": float(variance.min()), "variance_median": float(variance.median()),
        "variance_max": float(variance.max()), "dead_dimensions": int((variance <= 1e-6 * max(mean, 1e-30)).sum()),
        "duplicates": exact, "near_duplicates": nearly_equal, "warnings": [],
    }  # fmt: skip
    limit = min(x.shape[1], len(x) - 1)
    warnings = out["warnings"]
    if out["effective_rank"] < 0.05 * limit:
        warnings.append(f"collapse: effective rank {out['effective_rank']:.1f} of at most {limit}")
    if out["dead_dimensions"] > 0.1 * x.shape[1]:
        warnings.append(f"{out['dead_dimensions']} of {x.shape[1]} dimensions never change")
    if exact:
        warnings.append(f"{exact} different images have exactly the features of another one")
    if nearly_equal > 0.01 * len(x):
        warnings.append(f"{nearly_equal} images have nearly the features of another one (cosine from {NEAR})")
    return out
