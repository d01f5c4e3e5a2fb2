"""Images of every kind become RGB by one rule, from files, tables of the hub, pretraining and Python; folders say what they leave out."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from levl_eval.cards import DataSpec, HubSource
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.data.images import open_rgb
from levl_eval.data.masks import mask_file
from levl_eval.data.places import SUFFIXES
from levl_eval.data.readers import read_classification, read_depth, read_segmentation
from levl_eval.data.rgb import FORMATS, Rules, conversions, decode_rgb, to_rgb
from levl_eval.models.preprocess import Preprocess
from levl_eval.pretrain.augment import resized
from levl_eval.pretrain.samples import Raw, opened
from tests.data import small_sets as small

RAMP = np.linspace(0, 255, 48).astype(np.uint8).reshape(6, 8)


def encoded(image: Image.Image, kind: str = "PNG", **more) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **more)
    return out.getvalue()


def turned(size=(60, 40), tag: int = 6) -> bytes:
    image = Image.new("RGB", size, (200, 10, 10))
    exif = image.getexif()
    exif[0x0112] = tag
    return encoded(image, "JPEG", exif=exif)


def grey(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image).astype(int)
    assert pixels.ndim == 3 and (pixels[..., :1] == pixels).all()
    return pixels[..., 0]


DEEP = {
    "16-bit PNG": (Image.fromarray(RAMP.astype(np.uint16) * 257), "PNG"),
    "16-bit TIFF": (Image.fromarray(RAMP.astype(np.uint16) * 257), "TIFF"),
    "16-bit PGM": (Image.fromarray(RAMP.astype(np.uint16) * 257), "PPM"),
    "float TIFF": (Image.fromarray(RAMP.astype(np.float32) / 255), "TIFF"),
    "8-bit grey": (Image.fromarray(RAMP), "PNG"),
}


@pytest.mark.parametrize("name", DEEP)
def test_depths_are_scaled_by_their_range(name, tmp_path):
    image, kind = DEEP[name]
    (tmp_path / "a.png").write_bytes(encoded(image, kind))
    for found in (
        open_rgb(tmp_path / "a.png"),
        decode_rgb(encoded(image, kind), "row 1"),
        opened(Raw("a", encoded(image, kind), ["x"]))[0],
    ):
        assert np.abs(grey(found) - RAMP).max() <= 1
    assert np.abs(resized(Image.open(tmp_path / "a.png"), 6)[..., 0].mean() - RAMP.mean()) < 8  # neither white nor black


@pytest.mark.parametrize(
    ("image", "kind", "words"),
    [
        (Image.fromarray(np.full((4, 4), 70_000, np.int32)), "TIFF", "32-bit integer"),
        (Image.fromarray(np.full((4, 4), 255.0, np.float32)), "TIFF", "outside 0 to 1"),
        (Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF", "outside 0 to 1"),
    ],
)
def test_a_range_that_nobody_agreed_on_is_refused(image, kind, words, tmp_path):
    (tmp_path / "a.tif").write_bytes(encoded(image, kind))
    with pytest.raises(LevlError, match=rf"a\.tif: .*{words}.*; store it"):
        open_rgb(tmp_path / "a.tif")
    assert opened(Raw("a", encoded(image, kind), ["x"])) == (None, "image that cannot be decoded")  # counted as broken


def png(bits: int, colour: int, samples: bytes, clear: tuple[int, ...]) -> bytes:
    """A PNG of one line, two pixels wide, one value of which is transparent."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", 2, 1, bits, colour, 0, 0, 0)), (b"tRNS", struct.pack(f">{len(clear)}H", *clear))]
    parts += [(b"IDAT", zlib.compress(b"\0" + samples)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


def tiff(bits: int, samples: bytes, width: int, *more: tuple[int, int]) -> bytes:
    """A grey TIFF of one uncompressed line."""
    tags = {256: width, 257: 1, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: len(samples), **dict(more)}
    entries = b"".join(struct.pack("<HHIHxx", tag, 3, 1, value) for tag, value in sorted(tags.items()))
    at = struct.pack("<I", 8 + len(samples))
    return b"II*\0" + at + samples + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize(
    ("content", "seen"),
    [
        (png(2, 0, bytes([0b0001_0000]), (1,)), 0),
        (png(4, 0, bytes([0x05]), (5,)), 0),
        (png(8, 0, bytes([0, 5]), (5,)), 0),
        (png(16, 0, struct.pack(">2H", 257, 40_000), (40_000,)), 1),
        (png(16, 2, struct.pack(">6H", 257, 257, 257, 40_000, 50_000, 60_000), (40_000, 50_000, 60_000)), 1),
    ],
    ids=["2 bits", "4 bits", "8 bits", "16 bits", "16 bits of RGB"],
)
def test_the_one_transparent_value_is_of_the_depth_of_its_pixels(content, seen):
    """Pillow scales the pixels of 2, 4 and 16 bits, and leaves the value that is transparent."""
    assert list(grey(decode_rgb(content, "x"))[0]) == [seen, 255]
    assert list(grey(decode_rgb(content, "x", Rules(background="black")))[0]) == [seen, 0]


@pytest.mark.parametrize(
    "content",
    [png(2, 0, bytes([0b0001_0000]), (1,)), png(4, 0, bytes([0x05]), (5,)), png(16, 2, bytes(12), (40_000, 50_000, 60_000))],
    ids=["2 bits", "4 bits", "16 bits of RGB"],
)
def test_a_transparent_value_whose_depth_is_lost_is_refused(content):
    """Of an image that is loaded already nothing tells how many bits its file had: it was read as without transparent pixels."""
    image = Image.open(io.BytesIO(content))
    image.load()
    for loaded in (image, image.copy()):
        with pytest.raises(LevlError, match=r"x: has one transparent value, .*; hand it over before it is loaded, or as RGBA"):
            to_rgb(loaded, "x")
        to_rgb(loaded, "x", Rules(background="dropped"))


@pytest.mark.parametrize(("pixels", "clear"), [((0, 5), 5), ((0, 17), 17), ((0, 18), 5), ((0, 17), 0), ((0, 255), 255)])
def test_a_transparent_value_of_loaded_pixels_is_of_eight_bits(pixels, clear):
    image = Image.open(io.BytesIO(png(8, 0, bytes(pixels), (clear,))))
    image.load()
    assert list(grey(to_rgb(image))[0]) == [255 if v == clear else v for v in pixels]


def test_twelve_bits_of_a_tiff_are_scaled_by_theirs(tmp_path):
    packed = b"".join(bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in [(0, 1000), (2047, 4095)])
    assert list(grey(decode_rgb(tiff(12, packed, 4), "x"))[0]) == [0, 62, 127, 255]
    (tmp_path / "a.tif").write_bytes(tiff(12, packed, 4))
    assert list(grey(to_rgb(Image.open(tmp_path / "a.tif")))[0]) == [0, 62, 127, 255]


@pytest.mark.parametrize("bits", [8, 16])
def test_signed_integers_have_no_white(bits):
    with pytest.raises(LevlError, match=r"x: an image of signed integers.*; store it"):
        decode_rgb(tiff(bits, bytes([1, 200, 3, 100]), 32 // bits, (339, 2)), "x")


def test_premultiplied_grey_is_read():
    la = Image.new("LA", (2, 2), (100, 255)).convert("La")
    assert (np.asarray(to_rgb(la)) == 100).all()


def test_colours_transparency_and_frames(tmp_path):
    red = Image.new("RGB", (4, 4), (200, 10, 10))
    clear = Image.new("RGBA", (4, 4), (200, 10, 10, 0))
    palette = red.quantize(2)
    see_through = encoded(palette, "PNG", transparency=palette.getpixel((0, 0)))
    frames = encoded(red.quantize(4), "GIF", save_all=True, append_images=[Image.new("RGB", (4, 4), (0, 0, 250)).quantize(4)])
    for content, expected, rules in [
        (encoded(red), (200, 10, 10), Rules()),
        (encoded(palette), (200, 10, 10), Rules()),
        (encoded(clear), (255, 255, 255), Rules()),
        (encoded(clear), (0, 0, 0), Rules(background="black")),
        (encoded(clear), (200, 10, 10), Rules(background="dropped")),
        (see_through, (255, 255, 255), Rules()),
        (frames, (200, 10, 10), Rules()),
        (encoded(Image.new("LA", (4, 4), (0, 0))), (255, 255, 255), Rules()),
        (encoded(Image.new("CMYK", (4, 4), (0, 0, 0, 0)), "TIFF"), (255, 255, 255), Rules()),
        (encoded(Image.new("1", (4, 4), 1)), (255, 255, 255), Rules()),
    ]:
        pixel = decode_rgb(content, "x", rules).getpixel((1, 1))
        assert max(abs(a - b) for a, b in zip(pixel, expected, strict=True)) <= 4, (pixel, expected)
    (tmp_path / "a.gif").write_bytes(frames)
    assert conversions(tmp_path / "a.gif") == ["animated"]


@pytest.mark.parametrize("tag", range(1, 9))
def test_files_hub_and_python_turn_an_image_alike(tag, tmp_path):
    from PIL import ImageOps

    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 4, 3), np.uint8))
    exif = image.getexif()
    exif[0x0112] = tag
    content = encoded(image, "PNG", exif=exif)
    (tmp_path / "a.png").write_bytes(content)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    found = open_rgb(tmp_path / "a.png")
    assert (np.asarray(found) == expected).all()
    assert (np.asarray(to_rgb(found)) == expected).all(), "what was turned must not be turned again"
    assert (np.asarray(open_rgb(tmp_path / "a.png", Rules(orientation="stored"))) == np.asarray(image)).all()
    assert (np.asarray(to_rgb(open_rgb(tmp_path / "a.png", Rules(orientation="stored")))) == np.asarray(image)).all()
    made = Preprocess(size=4)
    assert (made(Image.open(tmp_path / "a.png")) == made(found)).all()


def test_orientation_is_one_rule_for_files_and_hub_and_a_field_of_the_card(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "tables")
    for c in ("cat", "dog"):
        small.write(tmp_path / "classification" / "test" / c / "0.jpg", turned())
    rows = [{"image": turned(), "label": c} for c in range(2)]
    table = small.table_of(rows, ("image",), label=datasets.ClassLabel(names=["cat", "dog"]))
    repo = small.repository(tmp_path / "repo", {"default": ("test", table)})
    marks = set()
    for data, source in ((str(tmp_path), None), ("hub", HubSource(repo=str(repo), split="test"))):
        for field, size in (("exif", (40, 60)), ("stored", (60, 40))):
            spec = DataSpec(layout="imagefolder", directory="classification", split="test", hub=source, orientation=field)
            found = read_classification(spec, data)
            assert found.images.open(found.images.ids[0]).size == size, (data, field)
            marks.add((found.images.fingerprint, field))
    assert len({m for m, _ in marks}) == 4  # features of the two rules never meet (ids differ between files and hub)


def test_every_suffix_that_pillow_decodes_is_taken():
    Image.init()
    decoded = {e for e, f in Image.registered_extensions().items() if f in FORMATS}
    assert decoded <= set(SUFFIXES)
    assert set(Image.OPEN) - set(FORMATS) <= {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"}  # run or need other programs


def test_postscript_is_never_run_whatever_its_name(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    with pytest.raises(LevlError, match="no image format"):
        open_rgb(tmp_path / "a.png")


def test_what_is_no_readable_image_is_named(tmp_path, monkeypatch):
    png = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)))
    (tmp_path / "cut.png").write_bytes(png[: len(png) // 2])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "circle.png").symlink_to("circle.png")
    os.mkfifo(tmp_path / "pipe.png")
    for name, words in [
        ("cut.png", "cannot be decoded"), ("text.png", "no image format"), ("empty.png", "is empty"), ("folder.png", "a directory"),
        ("circle.png", "symbolic links"), ("pipe.png", "a named pipe"), ("none.png", "no such image"),
    ]:  # fmt: skip
        with pytest.raises(LevlError, match=words) as e:
            open_rgb(tmp_path / name)
        assert name in str(e.value) and "\n" not in str(e.value)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    (tmp_path / "large.png").write_bytes(png)
    with pytest.raises(LevlError, match=r"large\.png: has more than Pillow's limit of 2,000 pixels"):
        open_rgb(tmp_path / "large.png")


def test_class_folders_leave_junk_out_and_count_it(tmp_path):
    root = small.class_files(tmp_path)
    test = root / "classification" / "test"
    for name in (".ipynb_checkpoints", "__MACOSX", ".hidden"):
        small.write(test / name / "0.png", small.image_bytes(1))
    for name in ("._0.png", ".DS_Store", "Thumbs.db", "notes.txt", "README"):
        small.write(test / "cat" / name, small.image_bytes(1))
    small.write(test / "labels.csv", "a,b")
    small.write(test / "dog" / "9.gif", encoded(Image.new("RGB", (4, 4)), "GIF"))
    found = read_classification(small.class_spec(), str(root))
    assert found.classes == ("cat", "dog") and len(found.images) == 9 and "dog/9.gif" in found.images.ids
    assert dict(found.images.left_out) == {
        "hidden": 4, "system": 2, "of unknown suffix .txt": 1, "without suffix": 1, "files beside the class folders": 1
    }  # fmt: skip


def test_what_was_left_out_reaches_the_record(tmp_path):
    from levl_eval.data.fingerprint_cache import FingerprintCache
    from levl_eval.data.set_identity import of_set

    root = small.class_files(tmp_path)
    small.write(root / "classification" / "test" / "cat" / "._0.png", b"x")
    known = FingerprintCache(tmp_path / "cache")
    assert of_set(known, "classification", small.class_spec(), str(root)).about()["left_out"] == {"hidden": 1}


def test_pairs_of_images_and_masks(tmp_path):
    for k in range(2):
        small.write(tmp_path / "images" / f"{k}.jpg", small.image_bytes(k, "JPEG"))
        small.write(tmp_path / "masks" / f"{k}.png", small.mask_bytes(k))
    small.write(tmp_path / "masks" / "._0.png", b"x")
    small.write(tmp_path / "images" / "2.jpg", small.image_bytes(2, "JPEG"))
    spec = DataSpec(
        layout="segmentation", images=str(tmp_path / "images"), annotations=str(tmp_path / "masks"), classes=["a", "b", "c", "d"]
    )
    found = read_segmentation(spec, "")
    assert found.images.ids == ("0.jpg", "1.jpg") and dict(found.images.left_out) == {"hidden": 1, "images without a mask": 1}
    maps = DataSpec(layout="depth", images=str(tmp_path / "images"), annotations=str(tmp_path / "masks"))
    depth = read_depth(maps, "", 1.0)
    assert dict(depth.images.left_out) == {"hidden": 1, "images without a depth map": 1}
    small.write(tmp_path / "images" / "0.png", small.image_bytes(0))
    for read in (lambda: read_segmentation(spec, ""), lambda: read_depth(maps, "", 1.0)):
        with pytest.raises(UsageError, match=r"0\.jpg and 0\.png have one name"):
            read()


def test_names_in_other_alphabets_and_encodings(tmp_path):
    root = small.class_files(tmp_path)
    cat = root / "classification" / "test" / "cat"
    small.write(cat / "cafe\u0301.png", small.image_bytes(7))  # NFD, as macOS writes it
    assert len(read_classification(small.class_spec(), str(root)).images) == 9
    labels = small.write(tmp_path / "labels.txt", "caf\u00e9.png 0\n0.png 1\n")  # NFC, as it is typed
    spec = DataSpec(layout="labels", images=str(cat), annotations=str(labels), classes=["a", "b"])
    found = read_classification(spec, "")
    assert found.images.open("caf\u00e9.png").size == (12, 10)
    Path(os.fsdecode(os.fsencode(cat) + b"/caf\xe9.png")).write_bytes(small.image_bytes(8))
    with pytest.raises(UsageError, match="is not UTF-8; rename the file") as e:
        read_classification(small.class_spec(), str(root))
    assert str(e.value).isprintable()


def test_links_in_circles_end(tmp_path):
    for k in range(3):
        small.write(tmp_path / "images" / "deep" / f"{k}.png", small.image_bytes(k))
    (tmp_path / "images" / "deep" / "up").symlink_to(tmp_path / "images")
    labels = small.write(tmp_path / "labels.txt", "0\n1\n0\n")
    spec = DataSpec(layout="labels", images=str(tmp_path / "images"), annotations=str(labels), classes=["a", "b"])
    assert len(read_classification(spec, "").images) == 3


def test_a_card_may_allow_images_beyond_pillows_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)  # an image of 120 pixels stands for one of 179 million
    root = small.class_files(tmp_path)
    spec = small.class_spec()
    name = "cat/0.png"
    with pytest.raises(
        LevlError,
        match="more than Pillow's limit of 100 pixels; store a smaller copy, or allow it by the data's field `max_pixels`",
    ):
        read_classification(spec, str(root)).images.open(name)
    allowed = read_classification(spec.model_copy(update={"max_pixels": 120}), str(root))
    assert allowed.images.open(name).size == (12, 10) and Image.MAX_IMAGE_PIXELS == 50
    assert allowed.images.fingerprint == read_classification(spec, str(root)).images.fingerprint  # no pixel is another
    with pytest.raises(LevlError, match="has 120 pixels, the card's `max_pixels` allows 119"):
        read_classification(spec.model_copy(update={"max_pixels": 119}), str(root)).images.open(name)
    ade = small.ade_files(tmp_path)
    assert read_segmentation(small.ade_spec(max_pixels=120), str(ade)).mask("v0.jpg").shape == (10, 12)
    repo = small.class_repository(tmp_path / "repo")
    hub = read_classification(small.class_spec(repo).model_copy(update={"max_pixels": 120}), "hub")
    assert hub.images.open(hub.images.ids[0]).size == (12, 10)


PNG, JPEG = small.image_bytes(0), small.image_bytes(0, "JPEG")


@settings(max_examples=120, deadline=1000, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(st.sampled_from([PNG, JPEG, turned(), encoded(DEEP["float TIFF"][0], "TIFF")]), st.data())
def test_damaged_images_raise_levlerror_alone(content, data):
    """Bytes cut, changed and inserted at random: an image, or one line."""
    broken = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        k = data.draw(st.integers(0, max(0, len(broken) - 1)))
        broken[k : k + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    if data.draw(st.booleans()):
        del broken[data.draw(st.integers(0, len(broken))) :]
    try:
        assert decode_rgb(bytes(broken), "x").mode == "RGB"
    except LevlError as e:
        assert str(e).isprintable()


def test_a_cut_file_is_refused_whatever_another_library_has_switched_on(tmp_path, monkeypatch):
    """lmms-eval sets Pillow's LOAD_TRUNCATED_IMAGES for the process: half an image would be read with grey below."""
    from PIL import ImageFile

    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) // 2])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(LevlError, match="cut off"):
        open_rgb(tmp_path / "a.jpg")
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(LevlError, match="cut off"):
        decode_rgb(whole[: len(whole) // 2], "row 3")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n", "is a Git LFS pointer, .*git lfs pull"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "is an HTML page, as a failed download leaves it"),
        (b"", "is empty; replace the file"),
        (b"a dog on a mat, seen from above", "no image format Pillow knows"),
    ],
)
def test_what_stands_in_place_of_an_image_is_told(content, reason, tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(content)
    for read in (lambda: open_rgb(file), lambda: open_rgb(file, Rules(max_pixels=100)), lambda: decode_rgb(content, str(file))):
        with pytest.raises(LevlError, match=f"a.png: .*{reason}"):
            read()
    with pytest.raises(LevlError, match=f"a.png: .*{reason}"):
        mask_file(file)
