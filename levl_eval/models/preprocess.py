"""Image preprocessing as data: it travels in cards, checkpoints, cache keys and records."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from levl_eval.core.json_types import JsonObject
from levl_eval.data.rgb import to_rgb


@dataclass(frozen=True)
class Preprocess:
    """Image preprocessing as data, so that it can travel in cards, cache keys and records.

    resize: "squash" (to size x size), "pad" (longest side to size, in the middle of a black square), "shortest" (shortest side to
    ``resize_to``, then centre crop to ``size``), "squash-crop" (to ``resize_to`` x ``resize_to``, then the crop: some of
    timm's evaluation transforms).
    "free": shortest side to ``size``, the longest one, aspect kept, down to a multiple of ``resize_to`` (1 where it is None);
    alone no square.
    mean, std: per channel, for inputs in [0, 1]. crop: where a crop begins whose margin is odd: "round", half the margin rounded
    as torchvision does (halves to even), or "floor", as transformers does.
    """

    size: int = 224
    resize: str = "shortest"
    resize_to: int | None = None  # None: equal to size
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    crop: str = "round"

    def settings(self) -> JsonObject:
        """The fields as plain JSON values; ``crop`` where it is not "round"."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items() if (k, v) != ("crop", "round")}

    def describe(self) -> JsonObject:
        """What keys, identities and records hold: the settings, and the version of their pixels."""
        return described(self.settings())

    def __call__(self, image: Image.Image) -> Tensor:
        """PIL image -> float32 [3, size, size]."""
        return self.normalize(torch.from_numpy(self.pixels(to_rgb(image))))

    def pixels(self, image: Image.Image) -> np.ndarray:
        """An RGB image, as data.rgb gives it -> uint8 [size, size, 3], resized and cropped. Raises ValueError for another mode."""
        if image.mode != "RGB":
            raise ValueError(f"mode {image.mode}; data.rgb makes it RGB")
        return np.array(self.geometry(image))

    def geometry(self, image: Image.Image, nearest: bool = False, fill: int = 0) -> Image.Image:
        """Resize and crop only; ``nearest`` for label maps, which must follow exactly the image's geometry.

        "shortest" is to the pixel what the published protocols use, torchvision's Resize and CenterCrop: the longer side is
        truncated, the crop's corner rounded (halves to even), and a crop larger than the image has black, or ``fill``, around it.
        """
        method = Image.Resampling.NEAREST if nearest else Image.Resampling[self.interpolation.upper()]
        if self.resize == "squash":
            return image.resize((self.size, self.size), method)
        if self.resize == "free":
            multiple, least = self.resize_to or 1, min(image.size)
            wide, high = (max(1, self.size * s // least // multiple) * multiple if s > least else self.size for s in image.size)
            return image.resize((wide, high), method)
        if self.resize == "pad":
            return _padded(image, self.size, method, fill)
        target, short = self.resize_to or self.size, min(image.size)
        free = self.resize != "squash-crop"  # the longer side follows the shorter
        wide, high = (int(target * side / short) if free and side != short else target for side in image.size)
        left, top = (_corner(side, self.size, self.crop) for side in (wide, high))
        if wide > self.size and not nearest and (wide, high) != image.size and _width_first(image.size, (wide, high)):
            # Pillow resizes to the width, rounds to bytes, then resizes to the height:
            # between the two, what the crop removes at the sides can go.
            image = image.resize((wide, image.height), method).crop((left, 0, left + self.size, image.height))
            wide, left = self.size, 0
        image = image.resize((wide, high), method)
        if wide >= self.size and high >= self.size:
            return image.crop((left, top, left + self.size, top + self.size))
        out = Image.new(
            image.mode, (self.size, self.size), fill if len(image.getbands()) == 1 else (fill,) * len(image.getbands())
        )
        out.paste(image, (-left, -top))
        return out

    def normalize(self, pixels: Tensor) -> Tensor:
        """uint8 (or floats of that range) [..., H, W, 3] -> float32 [..., 3, H, W], contiguous, scaled to [0, 1] and standardised."""
        device = pixels.device
        mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (self.mean, self.std))
        # By a tensor, since CUDA divides by a plain number through its reciprocal, which rounds otherwise than a CPU.
        scale = torch.tensor(255.0, device=device)
        if device.type != "cpu" or pixels.dtype != torch.uint8:
            x = pixels.movedim(-1, -3).to(torch.float32, memory_format=torch.contiguous_format, copy=True)
            return x.div_(scale).sub_(mean).div_(std)
        # The same operations image by image, which stay in the processor's cache, the first of them on the bytes themselves.
        bytes_of = pixels.numpy().reshape(-1, *pixels.shape[-3:])
        out = np.empty((len(bytes_of), 3, *pixels.shape[-3:-1]), np.float32)
        one, less, by = scale.numpy(), mean.numpy(), std.numpy()
        for image, into in zip(bytes_of, out, strict=True):
            np.divide(np.moveaxis(image, -1, 0), one, out=into, dtype=np.float32)
            np.subtract(into, less, out=into)
            np.divide(into, by, out=into)
        return torch.from_numpy(out).view(*pixels.shape[:-3], *out.shape[1:])


def _padded(image: Image.Image, size: int, method: Image.Resampling, fill: int) -> Image.Image:
    """The longest side scaled to ``size``, the other one rounded (halves to even), in the middle of a square of ``fill``."""
    longest = max(image.size)
    wide, high = (size if side == longest else max(1, int(np.around(size * side / longest))) for side in image.size)
    out = Image.new(image.mode, (size, size), fill if len(image.getbands()) == 1 else (fill,) * len(image.getbands()))
    out.paste(image.resize((wide, high), method), (int((size - wide) / 2), int((size - high) / 2)))
    return out


def _width_first(size: tuple[int, int], to: tuple[int, int]) -> bool:
    """Whether Pillow resizes to the new width before it resizes to the new height, which tells where it rounds to bytes.

    Since Pillow 13 (ImagingResampleInner) not where the height shrinks by more than twice what the width does; until then always, but for
    images a hundred times as high as wide (12), which the same rule holds for.
    """
    narrower, lower = size[0] - to[0], size[1] - to[1]
    return not (lower > 0 and lower > 2 * narrower)


def _corner(side: int, crop: int, how: str) -> int:
    """Where a centred crop begins on a side; negative where the crop reaches beyond it (the odd pixel then lies behind)."""
    if side < crop:
        return -((crop - side) // 2)
    return (side - crop) // 2 if how == "floor" else round((side - crop) / 2)


def described(settings: JsonObject) -> JsonObject:
    """A Preprocess's settings as keys, identities and records hold them.

    ``version`` is 2 where the image is resized to more than is kept: since then portrait images have the pixels of a plain resize and a
    crop, whichever side Pillow resizes first. No other settings' pixels moved. ``crop`` stands only where something is cropped.
    """
    out = {k: v for k, v in settings.items() if k != "version"}
    crops = out["resize"] in ("shortest", "squash-crop")
    if not crops or out.get("crop") == "round":
        out.pop("crop", None)
    larger = out["resize_to"]
    if crops and isinstance(larger, int) and isinstance(out["size"], int) and larger > out["size"]:
        out["version"] = 2
    return out
