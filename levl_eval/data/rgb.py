"""The one way from an encoded image to RGB pixels: files, tables of the hub, pretraining, `ask` and reports all come through here.

orientation  "exif": turned as the EXIF tag says (what viewers and browsers show); "stored": the pixels as they lie in the file.
background   what shows through transparent pixels: "white", "black", or "dropped", the stored colours without their alpha
             (Pillow's convert("RGB"), which many published evaluations use).
depth        16 bits a channel are scaled by the mode's range (65535 is white), a TIFF's 12 by theirs (4095), floats from 0 to 1 by
             theirs; other floats, 32-bit and signed integers have no agreed white and are refused, never clipped.
max_pixels   images above Pillow's limit (178,956,970 pixels, against decompression bombs) are refused unless a card allows more.
animated     the first frame. Colour profiles are left as they are: no conversion to sRGB.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from levl_eval.core.errors import LevlError
from levl_eval.core.files import misplaced, regular

if TYPE_CHECKING:
    from levl_eval.cards.base import DataSpec

# Raised when an encoded image becomes other pixels than before, or is refused: part of the key of everything that is kept of pixels or of
# whether a file can be read. Stored features have a version of their own (features/version.py), to be raised with it.
READING = 3
_ORIENTATION = 0x0112  # EXIF tag
_WIDTH, _HEIGHT = 256, 257  # TIFF tags, of the pixels as they are stored
_HEAD = 256  # bytes that tell what a file is
_PHOTOMETRIC = 262  # TIFF tag: 0 says that 0 is white
_BITS, _SAMPLE_FORMAT, _SIGNED = 258, 339, 2  # TIFF tags, and what the second says of signed integers
_ALPHA = ("RGBA", "LA", "PA", "La", "RGBa")
_CONVERTED = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", *_ALPHA)
# Formats whose opened image may be handed on once its file is closed; not where it is turned, as Pillow keeps that tag beside the pixels.
_UNCOPIED = ("JPEG", "PNG")
_SIXTEEN = ("I;16", "I;16B", "I;16L", "I;16N")
_SIXTEEN_AS_I = ("PNG", "PPM")  # which some versions of Pillow open as 32-bit integers of 16-bit range
# Formats that Pillow decodes by itself. EPS, which it gives to Ghostscript to run, and formats for which it needs another program
# are no images here, whatever a file's name says.
FORMATS = (
    "JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "MPO", "JPEG2000", "AVIF", "DIB", "TGA", "ICO", "ICNS", "CUR", "PSD", "PCX",
    "DCX", "DDS", "BLP", "FTEX", "FITS", "FLI", "GBR", "IPTC", "IM", "IMT", "MSP", "PCD", "PIXAR", "QOI", "SUN", "SGI", "SPIDER",
    "XBM", "XPM", "XVTHUMB", "MCIDAS",
)  # fmt: skip
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip
_BACK = {**_TURNS, 6: _TURNS[8], 8: _TURNS[6]}  # what undoes each of them
_CLEAR: dict[str, Callable[[int], int]] = {"L;2": lambda v: v * 85, "L;4": lambda v: v * 17, "RGB;16B": lambda v: v >> 8}
_COLOURS = {"white": (255, 255, 255), "black": (0, 0, 0)}


@dataclass(frozen=True)
class Rules:
    """How images become RGB; see the module's text. ``key`` is "" for the default rules, else what distinguishes their pixels.

    max_pixels: 0 for Pillow's own limit. It allows or refuses and changes no pixel, so it is no part of the key.
    """

    orientation: str = "exif"
    background: str = "white"
    max_pixels: int = 0

    @property
    def key(self) -> str:
        plain = (self.orientation, self.background) == ("exif", "white")
        turned = "stored, TIFF too" if self.orientation == "stored" else self.orientation
        return "" if plain else f"orientation {turned}, background {self.background}"


DEFAULT = Rules()


def rules_of(spec: DataSpec) -> Rules:
    """The rules that a card's data specification states."""
    return Rules(spec.orientation, spec.background, spec.max_pixels or 0)


def open_rgb(path: str | os.PathLike[str], rules: Rules = DEFAULT) -> Image.Image:
    """An image file as RGB. Raises LevlError naming the file where it is missing, no regular file or cannot be decoded."""
    try:
        with decoding(str(path)), open_image(path, rules.max_pixels) as image:
            return _rgb(image, str(path), rules, ours=True)
    except FileNotFoundError:
        raise LevlError(f"{path}: no such image; put it there or correct the data set's file list") from None


def decode_rgb(content: bytes | BinaryIO, what: str, rules: Rules = DEFAULT) -> Image.Image:
    """Encoded bytes as RGB; ``what`` names them in errors. Raises LevlError."""
    with decoding(what), open_image(io.BytesIO(content) if isinstance(content, bytes) else content, rules.max_pixels) as image:
        return _rgb(image, what, rules, ours=True)


def open_image(file: str | os.PathLike[str] | BinaryIO, max_pixels: int = 0) -> Image.Image:
    """Pillow's lazily opened image of a regular file or stream, of :data:`FORMATS` alone. max_pixels: 0 for Pillow's limit.

    Raises what Pillow raises; see decoding.
    """
    path = regular(file) if isinstance(file, (str, os.PathLike)) else file
    if not max_pixels:
        return _unturned(_identified(path))
    with _LIMIT:  # the limit is Pillow's global; the header alone is read under it
        usual, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = _identified(path)
        finally:
            Image.MAX_IMAGE_PIXELS = usual
    if image.width * image.height > max_pixels:
        image.close()
        raise TooLarge(f"has {image.width * image.height:,} pixels, the card's `max_pixels` allows {max_pixels:,}; raise it")
    return _unturned(image)


def _identified(path: str | os.PathLike[str] | BinaryIO) -> Image.Image:
    try:
        return Image.open(path, formats=_formats())
    except UnidentifiedImageError as e:
        if isinstance(path, (str, os.PathLike)):
            with open(path, "rb") as f:
                head = f.read(_HEAD)
        else:
            path.seek(0)
            head = path.read(_HEAD)
        if reason := misplaced(head) if head else "is empty; replace the file":
            raise NoImage(reason) from e
        raise


def _unturned(image: Image.Image) -> Image.Image:
    if image.format == "TIFF" and image.mode in _SIXTEEN and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0:
        image.close()
        raise WhiteIsZero(
            "a 16-bit TIFF in which 0 is white (PhotometricInterpretation 0), which is not read; store it with 0 as black"
        )
    return image


class NoImage(UnidentifiedImageError):
    """A file that is something else, with what it is and the remedy."""


class TooLarge(Exception):
    """An image above the limit of its card."""


class WhiteIsZero(Exception):
    """A 16-bit TIFF whose tag says that 0 is white: Pillow turns 8 bits round by it, and leaves 16 as they are."""


_LIMIT = Lock()


@lru_cache(1)
def _formats() -> tuple[str, ...]:
    Image.preinit()
    first = [f for f in FORMATS if f in Image.OPEN]
    Image.init()  # what this build of Pillow has of the others
    return (*first, *(f for f in FORMATS if f in Image.OPEN and f not in first))


@contextmanager
def decoding(what: str) -> Iterator[None]:
    """Whatever a decoder throws at a damaged image, as a LevlError of one line; FileNotFoundError passes.

    A file that is cut off is an error: Pillow's switch for the whole process, by which it would be read with grey for what is missing, is
    turned off each time. lmms-eval turns it on when it is imported.
    """
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    except (LevlError, FileNotFoundError):
        raise
    except Image.DecompressionBombError as e:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise LevlError(
            f"{what}: has more than Pillow's limit of {limit:,} pixels; store a smaller copy, or allow it by the data's field `max_pixels`"
        ) from e
    except (TooLarge, WhiteIsZero, NoImage) as e:
        raise LevlError(f"{what}: {e}") from e
    except UnidentifiedImageError as e:
        raise LevlError(f"{what}: cannot be decoded (no image format Pillow knows); replace the file") from e
    except OSError as e:
        reason = e.strerror or ("it is cut off" if "truncated" in str(e) else type(e).__name__)
        raise LevlError(f"{what}: cannot be decoded ({reason}); replace the file") from e
    except Exception as e:  # Pillow's plugins raise SyntaxError, ValueError, struct.error, KeyError, zlib.error and others
        raise LevlError(f"{what}: cannot be decoded ({type(e).__name__}); replace the file") from e


def to_rgb(image: Image.Image, what: str = "image", rules: Rules = DEFAULT) -> Image.Image:
    """An opened image of any mode as RGB, turned and laid on a background by ``rules``. Plain RGB comes back as its own copy.

    Raises LevlError naming ``what``: a mode without an agreed range, or a file that cannot be decoded.
    """
    return _rgb(image, what, rules, ours=False)


def _rgb(image: Image.Image, what: str, rules: Rules, ours: bool) -> Image.Image:
    """ours: nobody else holds the image, so that plain RGB needs no copy."""
    with decoding(what):
        animated = getattr(image, "is_animated", False)
        if animated:
            image.seek(0)
        stored = image.format
        # Pillow turns a TIFF itself when it is loaded, and takes the tag away.
        by_pillow = orientation(image) if stored == "TIFF" else 0
        packed = _packed_as(image)
        _load(image)
        turned = orientation(image)
        turn = _TURNS.get(turned) if rules.orientation == "exif" else _BACK.get(by_pillow) if not turned else None
        out = _with_clear(_eight_bits(image, stored, what, packed), packed)
        transparent = out.mode in _ALPHA or "transparency" in out.info
        if transparent and not packed and rules.background != "dropped":
            _check_clear(out, what)
        if transparent and rules.background != "dropped":
            rgba = out.convert("RGBA")
            base = Image.new("RGBA", rgba.size, (*_COLOURS[rules.background], 255))
            out = Image.alpha_composite(base, rgba).convert("RGB")
        elif not (ours and stored in _UNCOPIED and out.mode == "RGB" and turned < 2 and not animated):
            out = out.convert("RGB")
        if turn is not None:
            out = out.transpose(turn)
        out.info.clear()  # what was applied must not be applied again by whoever gets the pixels
        return out


def _load(image: Image.Image) -> None:
    """Decode. Pillow maps uncompressed pixels of a path into memory, those of a TIFF by its turned size: they would be scrambled."""
    if not isinstance(image, ImageFile.ImageFile):
        image.load()
        return
    path, image.filename = image.filename, ""
    try:
        image.load()
    finally:
        image.filename = path


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 0 where there is none, or one that cannot be read."""
    try:
        value = image.getexif().get(_ORIENTATION, 0)
    except Exception:  # a damaged tag: the pixels are as they are stored
        return 0
    return value if isinstance(value, int) and 1 <= value <= 8 else 0


def stored_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) of an opened image's pixels as they lie in the file: of a TIFF, newer versions of Pillow give the turned size."""
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    width, height = image.size
    return tags.get(_WIDTH, width), tags.get(_HEIGHT, height)


def upright(image: Image.Image, what: str) -> None:
    """Raises LevlError for a mask or map whose file says that it is to be turned: its pixels are read as they are stored."""
    turned = orientation(image)
    if turned > 1:
        raise LevlError(
            f"{what}: says by its EXIF orientation ({turned}) that it is to be turned; store its pixels upright, without the tag"
        )


def crop_within(image: Image.Image, box: tuple[int, int, int, int], what: str) -> Image.Image:
    """What a box (left, top, right, bottom) cuts out; black where it reaches beyond the image.

    Raises LevlError for a box of no pixel, or most of which lies beyond the image: nothing, or another image's.
    """
    left, top, right, bottom = box
    within = max(0, min(right, image.width) - max(left, 0)) * max(0, min(bottom, image.height) - max(top, 0))
    if right <= left or bottom <= top or 2 * within < (right - left) * (bottom - top):
        raise LevlError(
            f"{what}: is {image.width}x{image.height}, its box {list(box)} (left, top, right, bottom) "
            + ("lies beyond it for the most part" if right > left and bottom > top else "holds no whole pixel")
            + "; correct the box, or take the published images"
        )
    return image.crop(box)


def _packed_as(image: Image.Image) -> str:
    """Pillow's raw mode of an image that is not yet loaded: how its samples lie in the file. "" where that is not known."""
    tiles = getattr(image, "tile", None)
    form = tiles[0][3] if tiles else ""
    form = form[0] if isinstance(form, tuple) and form else form
    return form if isinstance(form, str) else ""


def _with_clear(image: Image.Image, packed: str) -> Image.Image:
    """The image with its one transparent value on the scale of its pixels:
    of 2, 4 and 16 bits a channel, Pillow scales the pixels alone."""
    clear = image.info.get("transparency")
    if image.format != "PNG" or packed not in _CLEAR or not isinstance(clear, (int, tuple)):
        return image
    out, scale = image.copy(), _CLEAR[packed]
    out.info["transparency"] = scale(clear) if isinstance(clear, int) else tuple(map(scale, clear))
    return out


def _check_clear(image: Image.Image, what: str) -> None:
    """Raises LevlError for a loaded image whose one transparent value is likely not of 8 bits as its pixels are: of 2 or 4 bits a
    channel, whose pixels are multiples of 17, or of 16."""
    clear = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(clear, tuple):
        other = max(clear) > 255
    else:
        other = image.mode == "L" and isinstance(clear, int) and 0 < clear < 16 and not (np.asarray(image) % 17).any()
    if other:
        raise LevlError(
            f"{what}: has one transparent value, of fewer or more bits than its pixels now have; "
            "hand it over before it is loaded, or as RGBA"
        )


def _eight_bits(image: Image.Image, stored: str | None, what: str, packed: str) -> Image.Image:
    """An image of 8 bits a channel. Raises LevlError for modes without an agreed range."""
    mode = image.mode
    tags = getattr(image, "tag_v2", {}) if stored == "TIFF" else {}
    if _SIGNED in tags.get(_SAMPLE_FORMAT, ()) and min(tags.get(_BITS, (32,))) < 32:
        raise LevlError(f"{what}: an image of signed integers, which has no agreed white; store it with 8 or 16 bits, unsigned")
    if mode == "La":  # which Pillow turns to RGBA only by way of LA
        return image.convert("LA")
    if mode in _CONVERTED:
        return image
    if mode in _SIXTEEN or (mode == "I" and stored in _SIXTEEN_AS_I):
        white = 4095 if packed == "I;12" else 65535  # Pillow leaves 12 bits of a TIFF as they are
        values = np.asarray(image).astype(np.float64)
        grey = Image.fromarray(np.round(np.clip(values, 0, white) * (255 / white)).astype(np.uint8))
        clear = image.info.get("transparency")  # the one value that is transparent, of 16 bits as they are
        return (
            Image.merge("LA", (grey, Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8))))
            if isinstance(clear, int)
            else grey
        )
    if mode == "F":
        values = np.asarray(image)
        if np.isfinite(values).all() and values.size and 0 <= values.min() and values.max() <= 1:
            return Image.fromarray(np.round(values.astype(np.float64) * 255).astype(np.uint8))
        raise LevlError(
            f"{what}: a float image with values outside 0 to 1, which have no agreed white; store it with 8 or 16 bits"
        )
    if mode == "I":
        raise LevlError(f"{what}: a 32-bit integer image, which has no agreed white; store it with 8 or 16 bits")
    raise LevlError(f"{what}: has Pillow's mode {mode}, which cannot be shown as RGB; store it as RGB")


def conversions(path: Path) -> list[str]:
    """What opening a file changes besides its colour space, from its header: "animated", "turned", "transparent", "16 bits", "float"."""
    try:
        with open_image(path) as image:
            alpha = image.mode in _ALPHA or "transparency" in image.info
            deep = image.mode in _SIXTEEN or image.mode == "I"
            counts = {
                "animated": getattr(image, "is_animated", False), "turned": orientation(image) > 1, "transparent": alpha,
                "16 bits": deep, "float": image.mode == "F", "colour profile": bool(image.info.get("icc_profile")),
            }  # fmt: skip
    except Exception:  # told by whoever opens it
        return []
    return [name for name, is_so in counts.items() if is_so]
