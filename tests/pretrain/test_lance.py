"""Lance data sets, written here: split, broken rows, exact resume, and what is told where something is missing."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from levl_eval.core.errors import UsageError
from levl_eval.core.progress import Progress
from levl_eval.models.checkpoints import load_model
from levl_eval.models.config import parse_config
from levl_eval.pretrain.feed import StreamFeed
from levl_eval.pretrain.loop import Trainer
from levl_eval.pretrain.streams import open_source

lance = pytest.importorskip("lance", reason="needs pylance, the extra `lance`")


def _png(i):
    buffer = io.BytesIO()
    Image.fromarray(np.full((30, 40, 3), i, np.uint8)).save(buffer, "png")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    """Sixty rows in fragments of 16, two of them broken, as the July code writes them."""
    import pyarrow as pa

    images = [b"broken" if i == 7 else _png(i) for i in range(60)]
    texts = ["" if i == 33 else f"number {i}" for i in range(60)]
    table = pa.table({"sample_idx": list(range(60)), "key": [str(i) for i in range(60)], "image": images, "text": texts})
    path = tmp_path / "train.lance"
    lance.write_dataset(table, str(path), max_rows_per_file=16)
    return path


def _config(folder, *words):
    return parse_config([f"data=lance:{folder}", "batch_size=8", "image_size=16", "vision.depth=1", "text.depth=1", "vocab_size=300",
                         "threads=1", "sigreg_slices=16", "precision=fp32", "log_every=1", "shuffle_buffer=5", "diagnose_images=8",
                         "workers=0", "max_broken=0.2", *words])  # fmt: skip


@pytest.mark.parametrize("n", [1, 3, 5])
def test_consumers_share_an_epoch_and_each_resumes_anywhere(folder, n):
    source = open_source(_config(folder))
    seen = [[r.name for r in source.epoch(0, k, n)] for k in range(n)]
    assert sorted((x for part in seen for x in part), key=lambda x: int(x.split("[")[1][:-1])) == [
        f"{folder}[{i}]" for i in range(60)
    ]
    assert seen[0] != sorted(seen[0]) and seen[0] != [r.name for r in source.epoch(1, 0, n)]
    for taken in (1, 5, len(seen[0]) - 1, len(seen[0])):
        assert [r.name for r in source.epoch(0, 0, n, taken)] == seen[0][taken:]
    captions = {r.name: r.captions for r in source.epoch(0, 0, 1)}
    assert captions[f"{folder}[12]"] == ["number 12"] and captions[f"{folder}[33]"] == []


def test_a_run_resumes_exactly_and_counts_broken_rows(folder, tmp_path):
    def trainer(out):
        config = _config(folder, "steps=9", "save_every=100", "augmentation=standard", f"out={tmp_path / out}")
        return Trainer(config, Progress(quiet=True), tmp_path / "cache")

    trainer("whole").run()
    part = trainer("part")
    part.wrapped.train()
    for _ in range(4):
        part.train_step()
    part.save()
    part.feed.close()
    trainer("part").run()
    a, b = (load_model(tmp_path / x / "ckpt.pt")[0].state_dict() for x in ("whole", "part"))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert sorted(line.split("\t")[1] for line in (tmp_path / "part" / "broken.txt").read_text().splitlines()) == [
        "image that cannot be decoded", "no caption"]  # fmt: skip


@pytest.mark.slow
def test_reading_workers_open_it_themselves(folder):
    from levl_eval.models.tokenizer import train

    words = train([f"number {i}" for i in range(30)], 300)
    batches = []
    for workers in (0, 1):
        feed = StreamFeed(_config(folder, f"workers={workers}"), (0, 1))
        feed.start(words, 0)
        list(feed.captions())  # opened in this process as well
        batches.append([feed.next().pixels for _ in range(4)])
        feed.close()
    assert all(np.array_equal(a, b) for a, b in zip(*batches, strict=True))


def test_what_is_missing_is_one_line(folder, tmp_path, monkeypatch):
    for words, expected in [
        ((folder, "image_field=photo"), r"no column 'photo'; there are \['sample_idx', 'key', 'image', 'text'\]"),
        ((folder, "caption_fields=[title]"), "field `caption_fields`: none of"),
        ((tmp_path / "gone.lance",), "cannot be opened"),
    ]:
        with pytest.raises(UsageError, match=expected) as e:
            open_source(_config(*words))
        assert "\n" not in str(e.value)
    monkeypatch.setitem(sys.modules, "lance", None)
    with pytest.raises(UsageError, match=r"pylance is not installed; pip install 'levl-eval\[lance\]'"):
        open_source(_config(folder))


def test_rows_added_during_a_run_stop_a_resume(folder):
    import pyarrow as pa

    feed = StreamFeed(_config(folder), (0, 1))
    feed.start(None, 0)
    state = feed.state()
    table = pa.table({"sample_idx": [60], "key": ["60"], "image": [_png(60)], "text": ["number 60"]})
    lance.write_dataset(table, str(folder), mode="append")
    with pytest.raises(UsageError, match="is not what this run began with"):
        StreamFeed(_config(folder), (0, 1)).start(None, 1, state)


@pytest.mark.parametrize("kind", ["paths", "tables", "blob"])
def test_a_column_of_something_else_than_encoded_images_is_told_by_its_type(tmp_path, kind):
    import pyarrow as pa

    images = {
        "paths": pa.array(["a.png", "b.png"]),
        "tables": pa.array([{"bytes": _png(1), "path": "x"}] * 2),
        "blob": pa.array([_png(1), _png(2)], pa.large_binary()),
    }[kind]
    metadata = {"lance-encoding:blob": "true"} if kind == "blob" else None
    schema = pa.schema([pa.field("image", images.type, metadata=metadata), pa.field("text", pa.string())])
    lance.write_dataset(pa.table({"image": images, "text": ["a", "b"]}, schema=schema), str(tmp_path / "x.lance"))
    shown = {"paths": "string", "tables": "struct<", "blob": "(large_binary, a blob column|extension<lance.blob)"}[kind]
    with pytest.raises(UsageError, match=f"column 'image' holds no encoded images but {shown}.*store them as plain binary"):
        open_source(_config(tmp_path / "x.lance")).count()
