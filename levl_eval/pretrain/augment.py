"""Augmentations of pretraining. Randomness comes from the generator given, never from the global one.

``crop`` is batched tensor arithmetic, cheap enough for the smallest models; the others go image by image through
torchvision's kernels, in the reading workers.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from levl_eval.core.third_party import repair
from levl_eval.data.rgb import to_rgb
from levl_eval.models.config import Pair, PretrainConfig
from levl_eval.models.config_checks import local_size

repair()

Pixels: TypeAlias = "np.ndarray | tuple[np.ndarray, np.ndarray]"  # uint8: one array, or global and local crops


def crop(x: Tensor, generator: torch.Generator, part: tuple[int, int] = (0, 1)) -> Tensor:
    """Random crop of 80 to 100% of the area, resized back, a different one for every image: [B, 3, S, S] -> the same shape.

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
    grid = F.affine_grid(theta.to(x.device, non_blocking=True), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def erase(x: Tensor, config: PretrainConfig, generator: torch.Generator, part: tuple[int, int] = (0, 1)) -> Tensor:
    """Random erasing of normalised images [B, 3, S, S] as torchvision's: with ``random_erasing_prob`` a box of ``erasing_scale`` of the
    area and ``erasing_ratio`` is set to 0, which after normalising is the mean colour (July). part: as for :func:`crop`.
    """
    (k, n), b = part, len(x)
    (low, high_share), (flat, tall) = config.erasing_scale, config.erasing_ratio
    random = torch.rand(b * n, 3 + 2 * 10, generator=generator)[k * b : (k + 1) * b]
    high, wide = x.shape[-2:]
    out = x.clone()
    for i, (hit, top, left, *attempts) in enumerate(random.tolist()):
        for area, aspect in zip(attempts[::2], attempts[1::2], strict=True) if hit < config.random_erasing_prob else ():
            area = high * wide * (low + (high_share - low) * area)
            ratio = math.exp(math.log(flat) + aspect * (math.log(tall) - math.log(flat)))
            h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if h < high and w < wide:
                y, z = int(top * (high - h + 1)), int(left * (wide - w + 1))
                out[i, :, y : y + h, z : z + w] = 0.0
                break
    return out


def resized(image: Image.Image, size: int, how: str = "squash", interpolation: str = "bicubic") -> np.ndarray:
    """uint8 [S, S, 3]: squashed, or shortest side to S and centre crop."""
    image = to_rgb(image)
    if how == "crop":
        w, h = image.size
        side = min(w, h)
        left, top = (w - side) // 2, (h - side) // 2
        image = image.crop((left, top, left + side, top + side))
    return np.asarray(image.resize((size, size), Image.Resampling[interpolation.upper()]))


def _box(
    width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float], g: np.random.Generator
) -> tuple[int, int, int, int]:
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
    """Brightness, contrast, saturation and hue in random order, as ColorJitter: a factor within 1 - s and 1 + s, not below 0."""
    from torchvision.transforms.v2 import functional as T

    b, c, s, h = strength
    change = {
        0: lambda y: T.adjust_brightness(y, g.uniform(max(0.0, 1 - b), 1 + b)),
        1: lambda y: T.adjust_contrast(y, g.uniform(max(0.0, 1 - c), 1 + c)),
        2: lambda y: T.adjust_saturation(y, g.uniform(max(0.0, 1 - s), 1 + s)),
        3: lambda y: T.adjust_hue(y, g.uniform(-h, h)),
    }
    for k in g.permutation(4):
        x = change[int(k)](x)
    return x


def _blurred(x: Tensor, kernel: int | None, g: np.random.Generator, sigma: Pair = (0.1, 2.0)) -> Tensor:
    """Gaussian blur with a sigma within the pair; a kernel of None grows with the image, 23 at 224 pixels."""
    from torchvision.transforms.v2 import functional as T

    side = kernel or max(3, 2 * (x.shape[-1] * 23 // 448) + 1)
    out: Tensor = T.gaussian_blur(x, [side, side], [g.uniform(*sigma)] * 2)
    return out


def _cropped(x: Tensor, size: int, scale: Pair, g: np.random.Generator, ratio: Pair = (3 / 4, 4 / 3)) -> Tensor:
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as T

    top, left, h, w = _box(x.shape[-1], x.shape[-2], scale, ratio, g)
    out: Tensor = T.resized_crop(x, top, left, h, w, [size, size], interpolation=InterpolationMode.BICUBIC, antialias=True)
    return out


def standard(image: np.ndarray, config: PretrainConfig, g: np.random.Generator) -> np.ndarray:
    """uint8 [H, W, 3] -> [S, S, 3] by July's augmentation without its random erasing (:func:`erase`): crop, flip, colour, grey, blur."""
    from torchvision.transforms.v2 import functional as T

    c = config
    x = _cropped(torch.from_numpy(np.array(image)).permute(2, 0, 1), c.image_size, c.crop_scale, g, c.crop_ratio)
    if g.random() < c.flip_prob:
        x = x.flip(-1)
    if g.random() < c.color_jitter_prob:
        x = _jitter(x, c.color_jitter, g)
    if g.random() < c.grayscale_prob:
        x = T.rgb_to_grayscale(x, num_output_channels=3)
    if c.gaussian_blur_prob and g.random() < c.gaussian_blur_prob:
        x = _blurred(x, c.blur_kernel, g, c.blur_sigma)
    return x.permute(1, 2, 0).contiguous().numpy()


def augmented(image: np.ndarray, config: PretrainConfig, g: np.random.Generator) -> Pixels:
    """One image's training form: the standard augmentation [S, S, 3], or its (global, local) crops for levljepa_plus."""
    if config.objective == "levljepa_plus":
        return views(image, config, g)
    return standard(image, config, g)


def views(image: np.ndarray, config: PretrainConfig, g: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [H, W, 3] -> global crops [V, S, S, 3] and local crops [v, s, s, 3] with DINO's augmentation (docs/paper.md).

    Crop, flip, colour jitter, grey, blur and, on the second global crop, solarisation, by the fields ``views_*``.
    """
    from torchvision.transforms.v2 import functional as T

    c = config
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    first, others, local = c.views_blur_prob
    out: list[np.ndarray] = []
    for kind, (size, count, scale) in enumerate(
        ((c.image_size, c.global_views, c.global_scale), (local_size(c), c.local_views, c.local_scale))
    ):
        made = []
        for k in range(count):
            y = _cropped(x, size, scale, g, c.crop_ratio)
            if g.random() < c.views_flip_prob:
                y = y.flip(-1)
            if g.random() < c.views_color_jitter_prob:
                y = _jitter(y, c.views_color_jitter, g)
            if g.random() < c.views_grayscale_prob:
                y = T.rgb_to_grayscale(y, num_output_channels=3)
            if g.random() < (local if kind else first if k == 0 else others):
                y = _blurred(y, c.blur_kernel, g, c.blur_sigma)
            if kind == 0 and k == 1 and g.random() < c.views_solarize_prob:
                y = T.solarize(y, c.views_solarize_threshold)
            made.append(y.permute(1, 2, 0).contiguous().numpy())
        empty = np.empty((0, size, size, 3), np.uint8)
        out.append(np.stack(made) if made else empty)
    return out[0], out[1]
