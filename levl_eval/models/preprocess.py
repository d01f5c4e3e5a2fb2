"""Image preprocessing as data: it travels in cards, checkpoints, cache keys and records."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from PIL import Image
from torch import Tensor

from levl_eval.core.json_types import JsonObject
from levl_eval.data.rgb import to_rgb


@dataclass(frozen=True)
class Preprocess:
    """Image preprocessing as data, so that it can travel in cards, cache keys and records.

    resize: "squash" (to size x size), "shortest" (shortest side to ``resize_to``, then centre crop to ``size``), "squash-crop" (to
    ``resize_to`` x ``resize_to``, then the crop: some of timm's evaluation transforms).
    mean, std: per channel, for inputs in [0, 1].
    """

    size: int = 224
    resize: str = "shortest"
    resize_to: int | None = None  # None: equal to size
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)

    def describe(self) -> JsonObject:
        """As plain JSON values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def __call__(self, image: Image.Image) -> Tensor:
        """PIL image -> float32 [3, size, size]."""
        import numpy as np

        return self.normalize(torch.from_numpy(np.array(self.geometry(to_rgb(image)))))

    def geometry(self, image: Image.Image, nearest: bool = False, fill: int = 0) -> Image.Image:
        """Resize and crop only; ``nearest`` for label maps, which must follow exactly the image's geometry.

        "shortest" is to the pixel what the published protocols use, torchvision's Resize and CenterCrop: the longer side is
        truncated, the crop's corner rounded (halves to even), and a crop larger than the image has black, or ``fill``, around it.
        """
        method = Image.Resampling.NEAREST if nearest else Image.Resampling[self.interpolation.upper()]
        if self.resize == "squash":
            return image.resize((self.size, self.size), method)
        target, short = self.resize_to or self.size, min(image.size)
        free = self.resize != "squash-crop"  # the longer side follows the shorter
        image = image.resize([int(target * side / short) if free and side != short else target for side in image.size], method)
        left, top = (_corner(side, self.size) for side in image.size)
        wide, high = image.size
        if wide >= self.size and high >= self.size:
            return image.crop((left, top, left + self.size, top + self.size))
        out = Image.new(
            image.mode, (self.size, self.size), fill if len(image.getbands()) == 1 else (fill,) * len(image.getbands())
        )
        out.paste(image, (-left, -top))
        return out

    def normalize(self, pixels: Tensor) -> Tensor:
        """uint8 [..., H, W, 3] -> float32 [..., 3, H, W], scaled to [0, 1] and standardised."""
        x = pixels.movedim(-1, -3).float().div(255.0)
        mean = torch.tensor(self.mean, device=x.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=x.device).view(3, 1, 1)
        return (x - mean) / std


def _corner(side: int, crop: int) -> int:
    """Where a centred crop begins on a side; negative where the crop reaches beyond it (the odd pixel then lies behind)."""
    return round((side - crop) / 2) if side >= crop else -((crop - side) // 2)
