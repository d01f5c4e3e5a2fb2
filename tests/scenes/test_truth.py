"""What is known of a patch agrees with the masks and with the scene; images are found by their pixels alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from levl_eval.core.errors import LevlError, UsageError
from levl_eval.scenes.render import render_instances, render_mask
from levl_eval.scenes.truth import KINDS, World, digest_of, patch_facts, read_manifest
from levl_eval.scenes.world import CLASS_ID, COLORS, MASK_CLASSES, SIZES, TEXTURES, sample_scene

GRID, SIZE = 8, 96


@pytest.mark.parametrize("seed", range(6))
def test_shares_are_those_of_the_mask_and_the_objects(seed):
    scene = sample_scene(seed)
    mask, shown = render_mask(scene, SIZE), render_instances(scene, SIZE)
    classes, all_ = (patch_facts(scene, kind, SIZE, GRID) for kind in ("classes", "attributes"))
    assert classes.shape == (64, KINDS["classes"]) and all_.shape == (64, KINDS["attributes"])
    assert (all_[:, : len(MASK_CLASSES)] == classes).all()  # the richer one knows what the poorer does
    np.testing.assert_allclose(classes.sum(1), 1, atol=1e-6)
    side = SIZE // GRID
    for patch in range(64):
        rows, columns = (slice(k * side, (k + 1) * side) for k in divmod(patch, GRID))
        of = [o for o in shown[rows, columns].reshape(-1) if o]
        for word in MASK_CLASSES:
            assert classes[patch, MASK_CLASSES.index(word)] == pytest.approx((mask[rows, columns] == CLASS_ID[word]).mean())
        words = [("color", w) for w in COLORS] + [("texture", w) for w in TEXTURES] + [("size", w) for w in SIZES]
        for at, (field, word) in enumerate(words, len(MASK_CLASSES)):
            share = sum(getattr(scene.objects[o - 1], field) == word for o in of) / side**2
            assert all_[patch, at] == pytest.approx(share), (field, word)


def test_instances_lie_where_the_mask_has_their_class():
    for seed in range(20):
        scene = sample_scene(seed)
        mask, shown = render_mask(scene, SIZE), render_instances(scene, SIZE)
        for i, o in enumerate(scene.objects):
            assert (mask[shown == i + 1] == CLASS_ID[o.category]).all()
        assert (mask[shown == 0] <= 8).all()  # the rest is stuff


def test_every_image_of_a_world_is_found_by_its_pixels(world):
    manifest = read_manifest(world)
    known = World(world, manifest)
    files = sorted(p for p in Path(world).rglob("*.jpg"))
    variants = [p for p in files if "mixed_rand" in str(p)]
    assert variants
    for path in [*files[::7], *variants]:
        entry = known.lookup(digest_of(np.asarray(Image.open(path).convert("RGB"))))
        assert entry is not None, path
        scene = entry[0]
        if "classification" in str(path):
            assert scene.objects[0].category == path.parent.name
        if "ade20k" in str(path):
            mask = Image.open(str(path).replace("/images/", "/annotations/").replace(".jpg", ".png"))
            assert (np.asarray(mask) == render_mask(scene, known.size)).all()


def test_mixed_images_have_the_background_they_show(world):
    """The oracle tells the other scene's background: the same foreground, another ground."""
    known = World(world, read_manifest(world))
    at = Path(world) / "imagenet9"
    for path in sorted((at / "original/val").rglob("*.jpg")):
        other = at / "mixed_rand" / path.relative_to(at / "original")
        one, two = (known.lookup(digest_of(np.asarray(Image.open(p).convert("RGB"))))[0] for p in (path, other))
        assert one.objects[0].category == two.objects[0].category and one.bands != two.bands


def test_what_is_no_world_is_told(world, tmp_path):
    assert read_manifest(tmp_path) is None
    assert World(world, read_manifest(world)).lookup(b"0" * 16) is None
    for text in ("{", "[]", '{"generator": 3}', '{"generator": 1, "seed": 0, "size": 64, "counts": {}}'):
        (tmp_path / "scenes.json").write_text(text)
        with pytest.raises(UsageError, match="make the world again"):
            read_manifest(tmp_path)
    (tmp_path / "scenes.json").write_text((Path(world) / "scenes.json").read_text())
    with pytest.raises(LevlError, match="make the world of synthetic scenes again"):
        World(tmp_path, read_manifest(tmp_path)).lookup(b"0" * 16)
