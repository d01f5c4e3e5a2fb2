"""Augmentations of pretraining. Randomness comes from the generator given, never from the global one.

``crop`` is batched tensor arithmetic, cheap enough for the smallest models; the others go picture by picture through
torchvision's kernels, in the reading workers.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from levl_eval._compat import repair

repair()


def crop(x: Tensor, generator: torch.Generator, part: tuple[int, int] = (0, 1)) -> Tensor:
    """Random crop of 80 to 100% of the area, resized back, a different one for every picture: [B, 3, S, S] -> the same shape.

    part: (k, n) where x is the k-th of n equal parts of a batch; all parts together are cropped as the whole batch would be.
    """
    k, n = part
    b = len(x)
    scale = torch.empty(b * n).uniform_(0.8, 1.0, generator=generator).sqrt()
    shift = (torch.rand(b * n, 2, generator=generator) * 2 - 1) * (1 - scale)[:, None]
    scale, shift = scale[k * b : (k + 1) * b], shift[k * b : (k + 1) * b]
    theta = torch.zeros(b, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    theta[:, :, 2] = shift
    grid = F.affine_grid(theta.to(x.device), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def resized(image: Image.Image, size: int, how: str = "squash") -> np.ndarray:
    """uint8 [S, S, 3]: squashed, or shortest side to S and centre crop; bicubic."""
    image = image.convert("RGB")
    if how == "crop":
        w, h = image.size
        side = min(w, h)
        left, top = (w - side) // 2, (h - side) // 2
        image = image.crop((left, top, left + side, top + side))
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))


def _box(width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float], g: np.random.Generator) -> tuple:
    """(top, left, h, w) of a random resized crop: ten attempts at area and aspect, then the largest centred box."""
    area = width * height
    for _ in range(10):
        target = area * g.uniform(*scale)
        aspect = math.exp(g.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(g.integers(0, height - h + 1)), int(g.integers(0, width - w + 1)), h, w
    w, h = min(width, round(height * ratio[1])), min(height, round(width / ratio[0]))
    return (height - h) // 2, (width - w) // 2, h, w


def _jitter(x: Tensor, strength: tuple[float, float, float, float], g: np.random.Generator) -> Tensor:
    """Brightness, contrast, saturation and hue in random order, as ColorJitter."""
    from torchvision.transforms.v2 import functional as T

    b, c, s, h = strength
    change = {
        0: lambda y: T.adjust_brightness(y, g.uniform(1 - b, 1 + b)),
        1: lambda y: T.adjust_contrast(y, g.uniform(1 - c, 1 + c)),
        2: lambda y: T.adjust_saturation(y, g.uniform(1 - s, 1 + s)),
        3: lambda y: T.adjust_hue(y, g.uniform(-h, h)),
    }
    for k in g.permutation(4):
        x = change[int(k)](x)
    return x


def _cropped(x: Tensor, size: int, scale: tuple[float, float], g: np.random.Generator) -> Tensor:
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as T

    top, left, h, w = _box(x.shape[-1], x.shape[-2], scale, (3 / 4, 4 / 3), g)
    return T.resized_crop(x, top, left, h, w, [size, size], interpolation=InterpolationMode.BICUBIC, antialias=True)


def standard(image: np.ndarray, size: int, g: np.random.Generator) -> np.ndarray:
    """uint8 [H, W, 3] -> [S, S, 3]: crop of 0.8 to 1, flip 0.5, jitter (.2, .2, .2, .02) at 0.3, grey 0.05 (PAPER 1.6, C2)."""
    from torchvision.transforms.v2 import functional as T

    x = _cropped(torch.from_numpy(np.array(image)).permute(2, 0, 1), size, (0.8, 1.0), g)
    if g.random() < 0.5:
        x = x.flip(-1)
    if g.random() < 0.3:
        x = _jitter(x, (0.2, 0.2, 0.2, 0.02), g)
    if g.random() < 0.05:
        x = T.rgb_to_grayscale(x, num_output_channels=3)
    return x.permute(1, 2, 0).contiguous().numpy()


def views(
    image: np.ndarray, sizes: tuple[int, int], counts: tuple[int, int], scales: tuple[tuple[float, float], tuple[float, float]],
    g: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """uint8 [H, W, 3] -> global crops [V, S, S, 3] and local crops [v, s, s, 3] with DINO's augmentation (PAPER 1.8).

    Flip 0.5; jitter (.4, .4, .2, .1) at 0.8; grey 0.2; Gaussian blur (sigma 0.1 to 2) at 1.0 on the first global crop, 0.1 on the
    others, 0.5 on local ones; solarisation at 0.2 on the second global crop.
    """
    from torchvision.transforms.v2 import functional as T

    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    out: list[np.ndarray] = []
    for kind in (0, 1):
        made = []
        for k in range(counts[kind]):
            y = _cropped(x, sizes[kind], scales[kind], g)
            if g.random() < 0.5:
                y = y.flip(-1)
            if g.random() < 0.8:
                y = _jitter(y, (0.4, 0.4, 0.2, 0.1), g)
            if g.random() < 0.2:
                y = T.rgb_to_grayscale(y, num_output_channels=3)
            if g.random() < (0.5 if kind else 1.0 if k == 0 else 0.1):
                kernel = max(3, 2 * (sizes[kind] * 23 // 448) + 1)  # 23 at 224 pixels
                y = T.gaussian_blur(y, [kernel, kernel], [g.uniform(0.1, 2.0)] * 2)
            if kind == 0 and k == 1 and g.random() < 0.2:
                y = T.solarize(y, 128)
            made.append(y.permute(1, 2, 0).contiguous().numpy())
        empty = np.empty((0, sizes[kind], sizes[kind], 3), np.uint8)
        out.append(np.stack(made) if made else empty)
    return out[0], out[1]
