"""Images and captions as the published codes make them, each knob where it acts."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from levl_eval.core.errors import UsageError
from levl_eval.models.config import parse_config
from levl_eval.pretrain import augment
from levl_eval.pretrain.data import csv_rows
from levl_eval.pretrain.tars import read_tar


def _image(seed=0, size=(90, 60)):
    return np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)


def _standard(*words, image=None, seed=0):
    config = parse_config(["model=base", "image_size=32", *words])
    return augment.standard(_image() if image is None else image, config, np.random.default_rng(seed))


@pytest.mark.slow
def test_no_augmentation_is_torchvisions_bilinear_resize():
    from torchvision.transforms.v2 import functional as T

    image = _image()
    c = parse_config(["model=base", "augmentation=none"])
    assert (c.interpolation, c.resize) == ("bilinear", "squash") and parse_config([]).interpolation == "bicubic"
    theirs = T.resize(torch.from_numpy(image).permute(2, 0, 1).float() / 255, [32, 32], antialias=True)
    ours = augment.resized(Image.fromarray(image), 32, c.resize, c.interpolation)
    assert np.abs(ours / 255 - theirs.permute(1, 2, 0).numpy()).max() < 1.01 / 255  # uint8 between


QUIET = ["crop_scale=[1, 1]", "crop_ratio=[1, 1]", "flip_prob=0", "color_jitter_prob=0", "grayscale_prob=0"]


def test_each_knob_of_the_standard_augmentation():
    square = _image(size=(64, 64))
    plain = _standard(*QUIET, image=square)
    assert np.array_equal(plain, _standard(*QUIET, image=square, seed=9))
    assert np.array_equal(_standard(*QUIET, "flip_prob=1", image=square), _standard(*QUIET, image=square[:, ::-1]))
    grey = _standard(*QUIET, "grayscale_prob=1", image=square)
    assert np.ptp(grey, axis=2).max() == 0 < np.ptp(plain, axis=2).max()
    flat = np.full((64, 64, 3), 100, np.uint8)
    bright = [
        _standard(*QUIET, "color_jitter_prob=1", "color_jitter=[0.5, 0, 0, 0]", image=flat, seed=s).mean() for s in range(200)
    ]
    assert 48 <= min(bright) < 56 and 144 < max(bright) <= 152
    assert all(
        _standard(*QUIET, "color_jitter_prob=1", "color_jitter=[0, 0, 0, 0]", image=flat, seed=s).mean() == 100 for s in range(9)
    )
    blurred = _standard(*QUIET, "gaussian_blur_prob=1", image=square, seed=3)
    assert blurred.std() < 0.9 * plain.std()
    tall = [_standard(*QUIET[2:], "crop_scale=[0.1, 0.2]", "crop_ratio=[3, 3]", image=square, seed=s).shape for s in range(3)]
    assert tall == [(32, 32, 3)] * 3


def test_random_erasing_is_of_normalised_images_and_of_their_rows_alone():
    x = torch.ones(400, 3, 40, 40)
    half = parse_config(["random_erasing_prob=0.5"])
    out = augment.erase(x, half, torch.Generator().manual_seed(0))
    area = (out == 0).float().mean((1, 2, 3))
    assert 0.4 < (area > 0).float().mean() < 0.6 and 0.018 < area[area > 0].min() and area.max() < 0.34
    assert area[area > 0].mean().item() == pytest.approx(0.17, abs=0.03)
    parts = [augment.erase(x[:200], half, torch.Generator().manual_seed(0), (k, 2)) for k in range(2)]
    assert torch.equal(torch.cat(parts), out)  # two processes are one
    assert torch.equal(augment.erase(x, parse_config([]), torch.Generator().manual_seed(0)), x)
    flat = parse_config(["random_erasing_prob=1", "erasing_scale=[0.1, 0.1]", "erasing_ratio=[4, 4]"])
    boxes = augment.erase(x, flat, torch.Generator().manual_seed(0))[:, 0] == 0
    assert boxes.any(2).sum(1).tolist() == [25] * 400 and boxes.any(1).sum(1).tolist() == [6] * 400  # 160 pixels, four to one


def test_local_crops_are_blurred_by_a_kernel_of_23(monkeypatch):
    from torchvision.transforms.v2 import functional as T

    kernels = []
    blur = T.gaussian_blur
    monkeypatch.setattr(
        T, "gaussian_blur", lambda x, kernel, sigma: (kernels.append((x.shape[-1], kernel[0])), blur(x, kernel, sigma))[1]
    )
    for words in (["model=base"], ["model=nano", "image_size=224", "vision.patch=16"]):
        config = parse_config([*words, "objective=levljepa_plus"])
        for seed in range(6):
            augment.augmented(_image(size=(120, 100)), config, np.random.default_rng(seed))
        found = set(kernels)
        kernels.clear()
        assert found == ({(224, 23), (96, 23)} if words[0] == "model=base" else {(224, 23), (96, 9)})
    with pytest.raises(UsageError, match="blur_kernel 23 needs crops of more than 11 pixels, found 8"):
        parse_config(["objective=levljepa_plus", "blur_kernel=23", "local_size=8"])


STILL = ["objective=levljepa_plus", "image_size=32", "vision.patch=8", "local_size=16", "global_scale=[1, 1]", "local_scale=[1, 1]",
         "crop_ratio=[1, 1]", "views_flip_prob=0", "views_color_jitter_prob=0", "views_grayscale_prob=0", "views_blur_prob=[0, 0, 0]",
         "views_solarize_prob=0"]  # fmt: skip


def _views(*words, image=None, seed=0):
    config = parse_config([*STILL, *words])
    return augment.augmented(_image(size=(64, 64)) if image is None else image, config, np.random.default_rng(seed))


def test_each_knob_of_the_views():
    square = _image(size=(64, 64))
    plain, small = _views(image=square)
    assert plain.shape == (2, 32, 32, 3) and small.shape == (4, 16, 16, 3)
    assert np.array_equal(plain[0], plain[1]) and all(np.array_equal(small[0], s) for s in small)
    flipped = _views("views_flip_prob=1", image=square)
    assert np.array_equal(flipped[0], _views(image=square[:, ::-1])[0])
    grey = _views("views_grayscale_prob=1")
    assert np.ptp(grey[0], axis=3).max() == 0 == np.ptp(grey[1], axis=3).max()
    blurred = _views("views_blur_prob=[0, 1, 0]", "blur_sigma=[2, 2]")
    assert (
        np.array_equal(blurred[0][0], plain[0])
        and blurred[0][1].std() < 0.8 * plain[1].std()
        and np.array_equal(blurred[1], small)
    )
    sharp = _views("views_blur_prob=[1, 1, 1]", "blur_sigma=[0.01, 0.01]")  # a kernel that is a point
    assert np.array_equal(sharp[0], plain) and np.array_equal(sharp[1], small)
    turned = _views("views_solarize_prob=1", "views_solarize_threshold=100")
    assert np.array_equal(turned[0][0], plain[0]) and np.array_equal(turned[1], small)
    assert np.array_equal(turned[0][1], np.where(plain[1] >= 100, 255 - plain[1], plain[1]))
    flat = np.full((64, 64, 3), 100, np.uint8)
    bright = [
        _views("views_color_jitter_prob=1", "views_color_jitter=[0.5, 0, 0, 0]", image=flat, seed=s)[0].mean((1, 2, 3))
        for s in range(60)
    ]
    assert 48 <= np.min(bright) < 60 and 140 < np.max(bright) <= 152
    wide = _views(
        "global_scale=[0.3, 0.3]",
        "crop_ratio=[3, 3]",
        "views_solarize_prob=0",
        image=np.tile(np.arange(64, dtype=np.uint8)[:, None, None], (1, 64, 3)),
    )
    assert np.ptp(wide[0][0].astype(int)) < 24  # 20 rows of a ramp of 64: as wide as three times its height


def test_the_views_are_mays_where_nothing_is_said():
    c = parse_config(["model=base", "objective=levljepa_plus"])
    assert c.views_color_jitter == (0.4, 0.4, 0.2, 0.1) and c.views_blur_prob == (1.0, 0.1, 0.5) and c.blur_sigma == (0.1, 2.0)
    assert (c.views_flip_prob, c.views_color_jitter_prob, c.views_grayscale_prob, c.views_solarize_prob) == (0.5, 0.8, 0.2, 0.2)
    assert c.views_solarize_threshold == 128 and c.crop_ratio == (0.75, 4 / 3) and c.blur_kernel == 23
    with pytest.raises(UsageError, match="field `views_blur_prob.2`: input should be less than or equal to 1"):
        parse_config(["views_blur_prob=[1, 1, 2]"])
    with pytest.raises(UsageError, match="blur_sigma is \\(2, 1\\)"):
        parse_config(["blur_sigma=[2, 1]"])


@pytest.mark.parametrize("strip", [False, True])
def test_captions_are_taken_as_they_are(tmp_path, strip):
    caption = "  a cat \n"
    (tmp_path / "c.csv").write_text(f'image,caption\nx.png,"{caption}"\n')
    wanted = [caption.strip() if strip else caption]
    assert [c for _, c in csv_rows(tmp_path / "c.csv", strip=strip)] == [wanted]
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, content in (
            ("1.jpg", b"x"),
            ("1.txt", caption.encode()),
            ("2.jpg", b"x"),
            ("2.json", b'{"caption": "  a cat \\n"}'),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    assert [r.captions for r in read_tar(str(tmp_path / "a.tar"), ("caption", "txt"), strip)] == [wanted, wanted]
    assert parse_config(["model=base"]).strip_captions is False
