"""Masks and maps in odd forms: palettes made one by one, several pages, TIFF that is to be turned, labels to ignore beyond a byte."""

from __future__ import annotations

import io

import datasets
import numpy as np
import pytest
from PIL import Image

from levl_eval.cards import DataSpec, HubSource
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.data import hub_dense
from levl_eval.data.depth import load_depth
from levl_eval.data.fingerprints import fingerprint_of
from levl_eval.data.hub_tables import HubTable
from levl_eval.data.normals import load_normals
from levl_eval.data.readers import read_segmentation
from levl_eval.data.rgb import Rules, decode_rgb, open_rgb, to_rgb
from levl_eval.data.stated_sizes import size_as_opened
from tests.data import small_sets as small

COLOURS = ((0, 0, 0), (255, 0, 0), (0, 255, 0))
LABELS = np.random.default_rng(0).integers(0, 3, (10, 12))


def palette_mask(order=(0, 1, 2), colours=COLOURS) -> bytes:
    """Labels as indices of a palette in an order of its own."""
    image = Image.fromarray(np.argsort(order)[LABELS].astype(np.uint8), "P")
    image.putpalette([v for k in order for v in colours[k]])
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def spec(root, masks, classes=("a", "b", "c"), **more) -> DataSpec:
    for k, mask in enumerate(masks):
        small.write(root / "i" / f"{k}.png", small.image_bytes(k))
        small.write(root / "m" / f"{k}.png", mask)
    return DataSpec(
        layout="segmentation",
        images=str(root / "i"),
        annotations=str(root / "m"),
        classes=classes if isinstance(classes, str) else list(classes),
        **more,
    )


def test_palettes_made_one_by_one_are_no_labels(tmp_path, monkeypatch):
    same, other = palette_mask(), palette_mask((2, 0, 1))
    assert (read_segmentation(spec(tmp_path / "same", [same, same]), "").mask("1.png") == LABELS).all()
    words = (
        r"label 0 has the colour \(0, 255, 0\) in its palette, \(0, 0, 0\) in that of .*: "
        r"masks of colours whose palettes were made one by one"
    )
    with pytest.raises(UsageError, match=rf"m/1\.png: {words}"):
        read_segmentation(spec(tmp_path / "two", [same, other]), "")
    # by a table of colours each is read as what it shows, and a grey ramp is no choice of colours
    table = small.write(tmp_path / "c.txt", "0 0 0 a\n255 0 0 b\n0 255 0 c\n")
    assert (read_segmentation(spec(tmp_path / "table", [same, other], str(table)), "").mask("1.png") == LABELS).all()
    ramp = palette_mask(colours=((9, 9, 9), (1, 1, 1), (2, 2, 2)))
    assert (read_segmentation(spec(tmp_path / "ramp", [same, ramp]), "").mask("1.png") == LABELS).all()

    rows = small.table_of([{"image": small.image_bytes(k), "mask": m} for k, m in enumerate((same, other))], ("image", "mask"))
    assert isinstance(rows.features["mask"], datasets.Image)
    monkeypatch.setattr(hub_dense, "load_split", lambda source, config: HubTable(rows))
    with pytest.raises(UsageError, match=f"someone/set: row 1: {words}"):
        read_segmentation(
            DataSpec(layout="segmentation", classes=["a", "b", "c"], hub=HubSource(repo="someone/set", split="test")), "hub"
        )


def test_maps_of_several_pages_are_refused(tmp_path):
    one, two = (Image.fromarray(np.full((6, 8), v, np.float32)) for v in (1.0, 2.0))
    one.save(tmp_path / "d.tif", save_all=True, append_images=[two])
    with pytest.raises(LevlError, match=r"d\.tif: holds 2 pages or frames, of which a depth map has one; store that alone"):
        load_depth(tmp_path / "d.tif", 1000)
    rgb = Image.fromarray(np.full((6, 8, 3), 200, np.uint8))
    rgb.save(tmp_path / "n.tif", save_all=True, append_images=[rgb.transpose(0)])
    with pytest.raises(LevlError, match=r"n\.tif: holds 2 pages or frames, of which a map of normals has one"):
        load_normals(tmp_path / "n.tif")


def test_an_array_is_one_whatever_the_case_of_its_suffix(tmp_path):
    np.save(tmp_path / "d.npy", np.ones((6, 8), np.float32))
    (tmp_path / "d.npy").rename(tmp_path / "d.NPY")
    assert (load_depth(tmp_path / "d.NPY", 1000) == 1).all()


@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("kind", ["TIFF", "PNG"])
def test_as_stored_is_as_stored(kind, tag):
    pixels = np.random.default_rng(1).integers(0, 256, (6, 8, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = tag
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, exif=exif.tobytes())
    stored = np.asarray(decode_rgb(out.getvalue(), "x", Rules("stored")))
    assert stored.shape == pixels.shape and (stored == pixels).all()
    turned = np.asarray(decode_rgb(out.getvalue(), "x"))
    assert turned.shape[:2] == ((8, 6) if tag > 4 else (6, 8)) and (tag == 1) == bool(
        turned.shape == pixels.shape and (turned == pixels).all()
    )


@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16", "RGB", "1"])
def test_a_tiff_to_be_turned_has_one_size_and_the_same_pixels_from_its_path_as_from_its_bytes(tmp_path, mode, tag):
    pixels = np.random.default_rng(tag).integers(0, 256, (6, 8), np.uint8)
    image = Image.fromarray(pixels.astype(np.uint16) * 256) if mode == "I;16" else Image.fromarray(pixels).convert(mode)
    path = tmp_path / "a.tif"
    image.save(path, tiffinfo={0x0112: tag})
    for rules in (Rules(), Rules("stored")):
        of_bytes = decode_rgb(path.read_bytes(), "x", rules)
        for of_path in (open_rgb(path, rules), to_rgb(Image.open(path), "x", rules)):
            assert of_path.size == of_bytes.size and of_path.tobytes() == of_bytes.tobytes()
        assert size_as_opened(path, rules) == of_bytes.size


def test_labels_to_ignore_beyond_a_byte_are_told_apart(tmp_path):
    out = io.BytesIO()
    Image.fromarray((LABELS + 300).astype(np.uint16)).save(out, "PNG")
    names = [f"c{k}" for k in range(400)]
    prints = [
        fingerprint_of(read_segmentation(spec(tmp_path / "set", [out.getvalue()] * 2, names, ignore_index=k), ""))
        for k in (-1, 300, 301)
    ]
    assert len(set(prints)) == 3
