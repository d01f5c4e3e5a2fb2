"""Pools of decoded images belong to their inputs: whatever moves them makes another, and a damaged one is made again."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.messages import on_stderr
from levl_eval.core.progress import Progress
from levl_eval.models import checkpoints
from levl_eval.models.config import parse_config
from levl_eval.models.tokenizer import train
from levl_eval.pretrain import data
from levl_eval.pretrain.data import open_pool
from levl_eval.pretrain.feed import PoolFeed
from levl_eval.pretrain.loop import Trainer
from levl_eval.scenes.world import CATEGORIES


def _bmps(folder, first=0, count=16):
    """Images of one colour each, all files of one size."""
    folder.mkdir(exist_ok=True)
    for i in range(count):
        Image.fromarray(np.full((20, 30, 3), first + i, np.uint8)).save(folder / f"{i:02d}.bmp")


def _csv(tmp_path, texts=None):
    texts = texts or [f"a caption, number {i}" for i in range(16)]
    lines = ["image,caption", *(f'{i:02d}.bmp,"{t}"' for i, t in enumerate(texts))]
    (tmp_path / "captions.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "captions.csv"


def _config(where, *words):
    return parse_config([f"data=csv:{where}", "batch_size=16", "image_size=16", "vocab_size=300", *words])


def _open(config, tmp_path):
    return open_pool(config, tmp_path / "cache", Progress(quiet=True))


def _means(pool):
    return [round(float(np.mean(pool.pixels[i]))) for i in range(len(pool))]


@pytest.fixture
def source(tmp_path):
    _bmps(tmp_path / "images")
    return _csv(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("augmentation=standard",)])
def test_images_replaced_under_equal_size_and_time_are_noticed(tmp_path, source, words):
    config = _config(source, *words)
    assert _means(_open(config, tmp_path)) == list(range(16))
    before = {p: p.stat() for p in (tmp_path / "images").iterdir()}
    _bmps(tmp_path / "images", first=100)
    for p, s in before.items():
        assert p.stat().st_size == s.st_size
        os.utime(p, ns=(s.st_atime_ns, s.st_mtime_ns))
        assert p.stat().st_mtime_ns == s.st_mtime_ns
    assert _means(_open(config, tmp_path)) == list(range(100, 116))


@pytest.mark.slow
def test_everything_that_moves_a_pool_moves_its_key(tmp_path, source):
    first = _open(_config(source), tmp_path)
    made = {first.sha256}
    for words in (["image_size=24"], ["resize=crop"], ["interpolation=bilinear"], ["augmentation=standard"]):
        made.add(_open(_config(source, *words), tmp_path).sha256)
    assert len(made) == 3  # of one colour each, cropping and the method of resizing show in the key alone
    assert len(list((tmp_path / "cache" / "pretrain").glob("csv-*/"))) == 5
    _csv(tmp_path, [f"another caption, number {i}" for i in range(16)])
    assert _open(_config(source), tmp_path).captions[0] == ["another caption, number 0"]
    assert len(list((tmp_path / "cache" / "pretrain").glob("csv-*/"))) == 6
    again = _open(_config(source, "out=elsewhere", "seed=5", "steps=3"), tmp_path)
    assert again.captions[0] == ["another caption, number 0"]
    assert len(list((tmp_path / "cache" / "pretrain").glob("csv-*/"))) == 6  # and nothing else does


def test_versions_move_the_key(tmp_path, source, monkeypatch):
    keys = []
    for name, value in (("VERSION", data.VERSION), ("VERSION", 99)):
        monkeypatch.setattr(data, name, value)
        keys.append((data.csv_plan(_config(source)).key, data.scenes_plan(parse_config([])).key))
    monkeypatch.setattr("PIL.__version__", "0.0")
    keys.append((data.csv_plan(_config(source)).key, data.scenes_plan(parse_config([])).key))
    assert all(len(set(column)) == 3 for column in zip(*keys, strict=True))


def test_scenes_pools_have_keys_of_everything_that_draws_them(monkeypatch):
    import levl_eval.scenes as scenes

    def key(*words):
        return data.scenes_plan(parse_config(["scenes_pool=20", *words])).key

    keys = [
        key(),
        key("seed=2"),
        key("scenes_pool=21"),
        key("image_size=72"),
        key("captions_per_image=3"),
        key("scenes_captions=both"),
    ]
    keys += [key("scenes_captions=long"), key("scenes_singles=0.5")]
    monkeypatch.setattr(scenes, "VERSION", scenes.VERSION + 1)
    keys.append(key())
    assert len(set(keys)) == 9


def test_a_share_of_a_scenes_pool_shows_one_object_and_every_second_caption_is_long():
    """The other images, and the web's captions where nothing is asked, are those of the pool without either."""
    made = [
        data.scenes_plan(parse_config(["scenes_pool=200", "image_size=32", *words]))
        for words in ([], ["scenes_singles=0.5", "scenes_captions=both"])
    ]
    old, new = (np.concatenate([plan.work(job)[0] for job in plan.jobs]) for plan in made)
    captions = np.array([row for job in made[1].jobs for row in made[1].work(job)[1]])
    same = (old == new).all((1, 2, 3))
    assert 0.4 < same.mean() < 0.6, "half of the images are drawn anew, as one object"
    words = np.vectorize(lambda text: len(text.split()))(captions[same])
    assert words[:, 1::2].mean() > 1.7 * words[:, ::2].mean()
    named = [{w for w in CATEGORIES if re.search(rf"\b{w}\b", " ".join(row).lower())} for row in captions[~same]]
    assert max(map(len, named)) == 1


def test_tokens_are_made_of_the_pool_and_never_kept_in_it(tmp_path, source):
    """Tokenizer, maximal length and read-out change what is fed, from one and the same pool."""
    config = _config(source)
    pool = _open(config, tmp_path)
    texts = [c for captions in pool.captions for c in captions]
    fed = []
    for words, vocab in (([], 300), ([], 270), (["max_length=4"], 300), (["text_readout=pad77"], 300)):
        feed = PoolFeed(_config(source, *words), pool, (0, 1))
        feed.start(train(texts, vocab), 0)
        fed.append(feed.next().ids)
        feed.close()
    assert len({(x.shape, x.tobytes()) for x in fed}) == 4


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _cut(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.slow
@pytest.mark.parametrize("form", ["pixels", "originals", "scenes"])
@pytest.mark.parametrize("harm", [_flip, _cut, lambda p: p.unlink(), lambda p: p.write_bytes(b"")])
def test_a_damaged_pool_is_said_and_made_again(tmp_path, source, capsys, form, harm):
    words = {"pixels": [], "originals": ["augmentation=standard"], "scenes": ["data=scenes", "scenes_pool=16"]}[form]
    config = _config(source, *words)
    whole = _open(config, tmp_path)
    (folder,) = (tmp_path / "cache" / "pretrain").glob("*-*/")
    names = sorted(p.name for p in folder.iterdir())
    for name in names:
        harm(folder / name)
        with on_stderr():
            again = open_pool(config, tmp_path / "cache", Progress())
        assert again.sha256 == whole.sha256 and again.captions == whole.captions, name
        assert all(np.array_equal(again.pixels[i], whole.pixels[i]) for i in range(16))
        err = capsys.readouterr().err
        assert str(folder) in err and "making it again" in err, name
    with on_stderr():
        open_pool(config, tmp_path / "cache", Progress())
    assert "making it again" not in capsys.readouterr().err


@pytest.mark.slow
def test_a_pool_being_written_has_no_manifest_and_what_a_kill_left_is_gone(tmp_path, source):
    code = f"""
import os
from levl_eval.pretrain import data, sealed
from levl_eval.models.config import parse_config
from levl_eval.core.progress import Progress
from pathlib import Path
whole = data._Plan.build
def killed(self, folder, *more):
    (folder / "left-over").write_text("x")
    whole(self, folder, *more)
    os._exit(9)
data._Plan.build = killed
config = parse_config(["data=csv:{source}", "batch_size=16", "image_size=16", "vocab_size=300"])
data.open_pool(config, Path("{tmp_path}/cache"), Progress(quiet=True))
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == 9
    (folder,) = (tmp_path / "cache" / "pretrain").glob("csv-*/")
    assert (folder / "pixels.npy").exists() and not (folder / "manifest.json").exists()
    assert _means(_open(_config(source), tmp_path)) == list(range(16))
    assert sorted(p.name for p in folder.iterdir()) == ["captions.json", "manifest.json", "pixels.npy"]


def test_images_that_change_while_they_are_read_make_no_pool(tmp_path, source, monkeypatch):
    plan = data.csv_plan(_config(source))
    _bmps(tmp_path / "images", first=50)
    monkeypatch.setattr(data, "csv_plan", lambda config: plan)
    with pytest.raises(LevlError, match="changed while they were being read"):
        _open(_config(source), tmp_path)
    assert not list((tmp_path / "cache" / "pretrain").glob("csv-*/"))


def test_a_pool_that_is_there_is_held_to_this_runs_share_of_broken_images(tmp_path, source):
    (tmp_path / "images" / "03.bmp").write_bytes(b"no image")
    words = ["batch_size=8"]
    assert len(_open(_config(source, *words, "max_broken=0.1"), tmp_path)) == 15
    with pytest.raises(UsageError, match="1 of 16 images cannot be read, more than max_broken=0.05"):
        _open(_config(source, *words), tmp_path)


def test_random_crops_are_taken_of_the_original_image(tmp_path):
    """The mean absolute logarithm of the crops' aspect is that of July's range, also for images far from square (PAPER 1.6)."""
    (tmp_path / "images").mkdir()
    y, x = np.mgrid[:120, :240]
    ramp = np.stack([x * 255 // 239, y * 255 // 119, 0 * x], -1).astype(np.uint8)  # where a pixel comes from is its colour
    for i in range(16):
        Image.fromarray(ramp).save(tmp_path / "images" / f"{i:02d}.bmp")
    means = {}
    for crops in ("original", "resized"):
        config = _config(
            _csv(tmp_path), "augmentation=standard", f"crops={crops}", "image_size=64", "color_jitter_prob=0", "grayscale_prob=0",
            "flip_prob=0", "crop_scale=[0.3, 0.4]",
        )  # fmt: skip
        feed = PoolFeed(config, _open(config, tmp_path), (0, 1))
        feed.start(train(["a caption, number"], 300), 0)
        found = []
        for _ in range(12):
            for image in feed.next().pixels.astype(float):
                wide = (image[32, 60, 0] - image[32, 3, 0]) / 57 * 64 / 255 * 240
                high = (image[60, 32, 1] - image[3, 32, 1]) / 57 * 64 / 255 * 120
                found.append(abs(np.log(wide / high)))
        feed.close()
        means[crops] = float(np.mean(found))
    assert means["original"] == pytest.approx(0.144, abs=0.03)  # uniform in +-log(4/3)
    assert means["resized"] > 0.5


def test_the_run_records_what_pool_it_saw(tmp_path, source):
    from levl_eval.pretrain.loop import Trainer

    config = _config(
        source, f"out={tmp_path / 'out'}", "steps=1", "precision=fp32", "threads=1", "vision.depth=1", "text.depth=1"
    )
    trainer = Trainer(config, Progress(quiet=True), tmp_path / "cache")
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["pool_sha256"] == trainer.pool.sha256 and len(run["pool_sha256"]) == 64
    trainer.feed.close()


def _begun(tmp_path, *words):
    """A run of two steps on the captions of tmp_path."""
    words = [f"data=csv:{tmp_path / 'captions.csv'}", f"out={tmp_path / 'run'}", "batch_size=8", "image_size=16",
             "vision.depth=1", "text.depth=1", "steps=2", "sigreg_slices=8", "vocab_size=300", "precision=fp32",
             "device=cpu", *words]  # fmt: skip

    def trainer(*more):
        return Trainer(parse_config([*words, *more]), Progress(quiet=True), tmp_path / "cache")

    trainer().run()
    return trainer


def _other_captions(folder):
    _csv(folder, [f"another caption, number {i}" for i in range(16)])


def _other_images(folder):
    _bmps(folder / "images", first=100)


def _fewer(folder):
    _csv(folder, [f"a caption, number {i}" for i in range(12)])


@pytest.mark.slow
@pytest.mark.parametrize("change", [_other_captions, _other_images, _fewer])
@pytest.mark.parametrize("words", [[], ["augmentation=standard"]], ids=["pixels", "originals"])
def test_a_run_whose_pool_changed_is_not_resumed(tmp_path, source, change, words):
    """The pool of other data is another; a run went on with it without a word."""
    trainer = _begun(tmp_path, *words)
    before = (tmp_path / "run" / "ckpt.pt").read_bytes()
    change(tmp_path)
    with pytest.raises(UsageError, match="captions.csv: is not what this run began with"):
        trainer("extend_to=3")
    assert (tmp_path / "run" / "ckpt.pt").read_bytes() == before


@pytest.mark.slow
def test_a_pool_made_again_of_the_same_data_is_the_same(tmp_path, source):
    """Of files that were copied (other times), and of a run of an earlier version, whose checkpoint does not say what it saw."""
    trainer = _begun(tmp_path)
    for p in (tmp_path / "images").iterdir():
        p.write_bytes(p.read_bytes())
    trainer("extend_to=3").run()
    path = tmp_path / "run" / "ckpt.pt"
    state = checkpoints.read(path)
    assert state["step"] == 3 and set(state["feeds"][0]) == {"source"}
    checkpoints.save(path, {**state, "feeds": [{}]})
    _other_captions(tmp_path)
    trainer("extend_to=4").run()
