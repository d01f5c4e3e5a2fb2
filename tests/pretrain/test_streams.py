"""Streams: tars as img2dataset and cc12m-wds write them, and `datasets`; split, broken samples, exact resume."""

from __future__ import annotations

import io
import json
import random
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.messages import on_stderr
from levl_eval.core.progress import Progress
from levl_eval.models.checkpoints import load_model, read
from levl_eval.models.config import parse_config
from levl_eval.pretrain import samples, tars
from levl_eval.pretrain.feed import StreamFeed, open_feed
from levl_eval.pretrain.loop import Trainer
from levl_eval.pretrain.samples import Raw, shuffled, shuffled_from
from levl_eval.pretrain.streams import Decoded, open_source
from levl_eval.pretrain.tars import Tars, captions_of, expand, first_texts, read_tar


def _jpeg(i: int, size=(40, 30)) -> bytes:
    """A image in which sample i can be recognised: its mean is i."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((size[1], size[0], 3), i, np.uint8)).save(buffer, "png")
    return buffer.getvalue()


def _tar(path, numbers, broken=(), form="txt"):
    with tarfile.open(path, "w") as tar:
        for i in numbers:
            members = {"jpg": b"no image" if i in broken else _jpeg(i)}
            if form == "json":
                members["json"] = json.dumps({"caption": f"number {i}", "url": "x", "captions": ["other"]}).encode()
            else:
                members["txt"] = f"number {i}".encode()
            for suffix, data in members.items():
                info = tarfile.TarInfo(f"{i:09d}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def _config(data, *words):
    return parse_config([f"data={data}", "batch_size=8", "image_size=16", "vision.depth=1", "text.depth=1", "vocab_size=300", "threads=1",
                         "sigreg_slices=16", "precision=fp32", "log_every=1", "shuffle_buffer=5", "diagnose_images=8", *words])  # fmt: skip


def _numbers(batch):
    return [round(float(np.asarray(p, np.float32).mean())) for p in batch["pixels"]]


def test_braces_and_globs(tmp_path):
    for i in range(3):
        (tmp_path / f"s{i:02d}.tar").write_bytes(b"")
    assert [p[-7:] for p in expand(f"{tmp_path}/s{{00..02}}.tar")] == ["s00.tar", "s01.tar", "s02.tar"]
    assert expand(f"{tmp_path}/s*.tar") == expand(f"{tmp_path}/s{{00,01,02}}.tar")
    with pytest.raises(UsageError, match=r"s03\.tar: no such file"):
        expand(f"{tmp_path}/s{{00..03}}.tar")


def test_both_ways_of_writing_captions(tmp_path):
    fields = ("caption", "text", "txt", "captions")
    for form in ("txt", "json"):
        got = list(read_tar(str(_tar(tmp_path / f"{form}.tar", [4, 7], form=form)), fields))
        assert [r.captions for r in got] == [["number 4"], ["number 7"]] and got[0].name.endswith("000000004")
    (raw, _) = read_tar(str(tmp_path / "json.tar"), ("captions", "caption"))
    assert raw.captions == ["other"]
    whole = (tmp_path / "txt.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[:700])
    with pytest.raises(LevlError, match=r"cut\.tar: cannot be read as a tar"):
        list(read_tar(str(tmp_path / "cut.tar"), fields))


def test_a_shuffle_buffer_loses_nothing():
    import random

    raws = [Raw(str(i), None, []) for i in range(50)]
    out = [r.name for r in shuffled(iter(raws), 8, random.Random(0))]
    assert sorted(out, key=int) == [r.name for r in raws] and out != [r.name for r in raws]


@pytest.mark.parametrize("shards", [1, 4])
def test_consumers_share_an_epoch_without_overlap(tmp_path, shards):
    for s in range(shards):
        _tar(tmp_path / f"{s}.tar", range(s * 12, s * 12 + 12))
    source = open_source(_config(f"wds:{tmp_path}/*.tar"))
    seen = [[int(r.captions[0].split()[1]) for r in source.epoch(0, k, 3)] for k in range(3)]
    assert sorted(n for part in seen for n in part) == list(range(12 * shards))
    other = [[int(r.captions[0].split()[1]) for r in source.epoch(1, k, 3)] for k in range(3)]
    assert seen != other and seen == [[int(r.captions[0].split()[1]) for r in source.epoch(0, k, 3)] for k in range(3)]


def test_a_consumer_goes_on_where_it_was_and_counts_broken_samples_once_an_epoch(tmp_path):
    _tar(tmp_path / "a.tar", range(20, 50), broken={23, 31, 40})
    config = _config(f"wds:{tmp_path}/a.tar")
    source = open_source(config)

    def take(count, position=(0, 0)):
        batches = iter(Decoded(config, source, 4, 0, 1, position))
        return [next(batches) for _ in range(count)]

    whole = take(14)  # 27 usable samples an epoch: two epochs and a half
    assert sorted([n for b in whole for n in _numbers(b)][:27]) == [i for i in range(20, 50) if i not in (23, 31, 40)]
    assert all(b["captions"] == [f"number {n}" for n in _numbers(b)] for b in whole)
    assert {n.split(":")[-1][-2:] for b in whole for n, _ in b["broken"]} == {"23", "31", "40"}
    assert (
        sum(b["skipped"].get("image that cannot be decoded", 0) for b in whole) >= 6 > 3 == sum(len(b["broken"]) for b in whole)
    )
    assert sum(b["seen"] - sum(b["skipped"].values()) for b in whole) == 56
    for done in (1, 6, 7, 11):
        rest = take(14 - done, whole[done - 1]["position"])
        assert [_numbers(b) for b in rest] == [_numbers(b) for b in whole[done:]]
        assert [(b["seen"], b["skipped"], b["position"]) for b in rest] == [
            (b["seen"], b["skipped"], b["position"]) for b in whole[done:]
        ]


def test_a_batch_of_few_samples_again_and_again_is_refused(tmp_path):
    """Three samples filled a batch of eight; a reader may have few in one epoch, as long as its batches are of different ones."""
    _tar(tmp_path / "few.tar", range(3))
    config = _config(f"wds:{tmp_path}/few.tar")
    with pytest.raises(
        UsageError, match="few.tar: reader 1 of 1 finds 3 different samples for a batch of 8.*; give fewer workers, a smaller"
    ):
        next(iter(Decoded(config, open_source(config), 8, 0, 1)))
    for i in range(6):  # whole shards of three samples, another one each epoch
        _tar(tmp_path / f"s{i}.tar", range(10 * i, 10 * i + 3))
    config = _config(f"wds:{tmp_path}/s*.tar")
    for reader in range(6):
        batches = iter(Decoded(config, open_source(config), 4, reader, 6))
        assert len(next(batches)["captions"]) == 4
    _tar(tmp_path / "nine.tar", range(9))
    config = _config(f"wds:{tmp_path}/nine.tar")
    batches = iter(Decoded(config, open_source(config), 8, 0, 1))
    assert [len(next(batches)["captions"]) for _ in range(40)] == [8] * 40


@pytest.mark.slow
def test_a_run_on_tars_resumes_exactly_with_two_readers(tmp_path):
    for s in range(2):
        _tar(tmp_path / f"{s}.tar", range(s * 40, s * 40 + 40), broken={3, 50}, form="json")
    data = f"wds:{tmp_path}/{{0,1}}.tar"
    words = ["steps=9", "workers=2", "augmentation=standard", "save_every=100", "max_broken=0.2"]

    def trainer(out, *more):
        return Trainer(_config(data, *words, f"out={tmp_path / out}", *more), Progress(quiet=True), tmp_path / "cache")

    trainer("whole").run()
    part = trainer("part")
    part.wrapped.train()
    for _ in range(4):
        part.train_step()
    part.save()
    part.feed.close()
    trainer("part", "resume=true").run()
    a, b = (load_model(tmp_path / x / "ckpt.pt")[0].state_dict() for x in ("whole", "part"))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert read(tmp_path / "whole" / "ckpt.pt")["feeds"] == read(tmp_path / "part" / "ckpt.pt")["feeds"]
    line = json.loads((tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()[-1])
    assert line["skipped"] >= 2 and 0 <= line["waiting"] <= 1
    listed = (tmp_path / "whole" / "broken.txt").read_text()
    assert "000000003" in listed and "000000050" in listed
    with pytest.raises(UsageError, match="field `workers`"):
        trainer("part", "resume=true", "workers=1")


def test_too_many_broken_samples_stop_the_run_and_are_named(tmp_path):
    _tar(tmp_path / "bad.tar", range(40), broken=set(range(0, 40, 2)))
    config = _config(f"wds:{tmp_path}/bad.tar", f"out={tmp_path / 'out'}", "steps=9", "workers=1")
    with pytest.raises(UsageError, match=r"of \d+ samples cannot be read.*max_broken.*first .*bad\.tar:0000000\d\d"):
        Trainer(config, Progress(quiet=True), tmp_path / "cache").run()
    assert len((tmp_path / "out" / "broken.txt").read_text().splitlines()) > 3
    _tar(tmp_path / "none.tar", range(6), broken=set(range(6)))
    feed = open_feed(_config(f"wds:{tmp_path}/none.tar", "workers=0"), (0, 1), tmp_path, Progress(quiet=True))
    feed.start(None, 0)
    with pytest.raises(UsageError, match="no usable sample for reader 1 of 1; first broken"):
        feed.next()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set as `datasets` saves it: 24 rows, one image broken, one caption missing, two captions each."""
    import datasets

    rows = [{"bytes": b"broken" if i == 5 else _jpeg(i), "path": None} for i in range(24)]
    texts = [[] if i == 9 else [f"number {i}", f"again {i}"] for i in range(24)]
    features = datasets.Features({"image": datasets.Image(), "text": datasets.List(datasets.Value("string"))})
    data = datasets.Dataset.from_dict({"image": rows, "text": texts}, features=features)
    path = tmp_path_factory.mktemp("hf") / "set"
    data.save_to_disk(str(path))
    return path


@pytest.mark.slow
@pytest.mark.hub
@pytest.mark.parametrize("streaming", ["false", "true"])
def test_hub_data_map_style_and_streaming(folder, tmp_path, streaming):
    config = _config(f"hf:{folder}", f"streaming={streaming}", "workers=2", "max_broken=0.3")
    source = open_source(config)
    seen = sorted(int(r.captions[0].split()[1]) for k in range(2) for r in source.epoch(0, k, 2) if r.captions)
    assert seen == [i for i in range(24) if i != 9]
    feed = StreamFeed(config, (0, 1))
    feed.start(_tok(), 0)
    got = [feed.next() for _ in range(4)]  # 32 samples of 22 usable ones: into the second epoch
    assert {"image", "text"} == set(source.open().column_names) and feed.skipped >= 2
    means = [round(float(p.mean())) for b in got for p in b.pixels]
    assert set(means) <= set(range(24)) - {5, 9} and len(set(means)) >= 20
    feed.close()
    # the same again from the middle
    again = StreamFeed(config, (0, 1))
    again.start(_tok(), 0)
    for _ in range(2):
        again.next()
    state = again.state()
    again.close()
    last = StreamFeed(config, (0, 1))
    last.start(_tok(), 2, state)
    for b in got[2:]:
        c = last.next()
        assert np.array_equal(b.pixels, c.pixels) and np.array_equal(b.ids, c.ids)
    last.close()


@pytest.mark.slow
@pytest.mark.hub
def test_a_stream_is_resumed_with_the_data_it_began_with(folder, tmp_path):
    import datasets

    saved = datasets.load_from_disk(str(folder))
    states = []
    for name, rows in (("a", saved), ("b", saved.select(range(23, -1, -1))), ("c", saved)):
        rows.to_parquet(str(tmp_path / name / "train.parquet"))
        feed = StreamFeed(_config(f"hf:{tmp_path / name}", "streaming=true"), (0, 1))
        feed.start(_tok(), 0)
        states.append(feed.state())
        if name == "b":  # other rows under the same name
            with pytest.raises(UsageError, match="is not what this run began with"):
                feed.start(_tok(), 1, states[0])
        feed.start(_tok(), 1, {**states[0], "source": ""})  # an earlier version's
        feed.close()
    assert states[0]["source"] == states[2]["source"] and "1 files, " in states[0]["source"]


def _tok():
    from levl_eval.models.tokenizer import train

    return train([f"number {i} again" for i in range(30)], 300)


def test_wrong_hub_data_is_one_line(folder, tmp_path):
    for words, expected in [
        ([f"hf:{folder}", "image_field=photo"], "field `image_field`: no column 'photo'"),
        ([f"hf:{folder}", "caption_fields=[title]"], "field `caption_fields`"),
        ([f"hf:{tmp_path}/gone"], "cannot be opened"),
    ]:
        with pytest.raises(UsageError, match=expected) as e:
            open_source(_config(*words))
        assert "\n" not in str(e.value)
    with pytest.raises(UsageError, match="field `batch_size`: 8 over 3 processes"):
        open_feed(_config(f"hf:{folder}"), (0, 3), tmp_path, Progress(quiet=True))


@pytest.mark.parametrize("total, size", [(40, 7), (5, 7), (7, 7), (8, 1), (0, 3)])
def test_a_shuffle_buffer_resumes_without_its_past(total, size):
    read = set()

    def stream(wanted):
        for i in range(total):
            if wanted is None or wanted(i):
                read.add(i)
                yield Raw(str(i), None, [])
            else:
                yield None

    whole = [r.name for r in shuffled(stream(None), size, random.Random("s"))]
    for taken in range(total + 1):
        read.clear()
        assert [r.name for r in shuffled_from(stream, size, "s", taken)] == whole[taken:]
        assert len(read) <= total - taken + size


@pytest.mark.parametrize("n", [1, 3])
def test_a_tar_read_to_a_place_is_resumed_without_the_bytes_before_it(tmp_path, monkeypatch, n):
    for s in range(2):
        _tar(tmp_path / f"{s}.tar", range(s * 60, s * 60 + 60))
    source = open_source(_config(f"wds:{tmp_path}/*.tar"))
    whole = [[r.name for r in source.epoch(0, k, n)] for k in range(n)]
    read = []
    extract = tarfile.TarFile.extractfile
    monkeypatch.setattr(tarfile.TarFile, "extractfile", lambda self, m: (read.append(m.name), extract(self, m))[1])
    for k in range(n):
        for taken in (1, len(whole[k]) // 2, len(whole[k]) - 2, len(whole[k])):
            read.clear()
            assert [r.name for r in source.epoch(0, k, n, taken)] == whole[k][taken:]
            left = len(whole[k]) - taken  # an image and a text of each; a buffer more where the end is near
            assert 2 * left <= len(read) <= 2 * (left + 5 if left < 5 else left)
    got = list(read_tar(str(tmp_path / "0.tar"), ("txt",), wanted=lambda i: i > 50))
    assert [r is None for r in got] == [True] * 51 + [False] * 9


def test_bad_shards_stop_the_run_or_are_counted(tmp_path):
    _tar(tmp_path / "0.tar", range(30))
    cut = _tar(tmp_path / "1.tar", range(100, 130))
    cut.write_bytes(cut.read_bytes()[: 20 * 1024])
    data = f"wds:{tmp_path}/*.tar"
    with pytest.raises(LevlError, match=r"1\.tar: (cannot be read as a tar|is cut off)"):
        list(open_source(_config(data)).epoch(0, 0, 1))
    source = open_source(_config(data, "broken_shards=skip"))
    samples = list(source.epoch(0, 0, 1))
    bad = [s for s in samples if s.problem]
    assert (
        len(samples) - 1 >= 30 + 4
        and [s.problem for s in bad] == ["shard that cannot be read to its end"]
        and "1.tar" in bad[0].name
    )
    for taken in (3, 20, len(samples) - 3):
        assert [s.name for s in source.epoch(0, 0, 1, taken)] == [s.name for s in samples[taken:]]


def test_what_is_wrong_is_counted_by_kind_and_shown_at_the_end(tmp_path, capsys):
    parts = {"a.jpg": _jpeg(1), "a.txt": b"one", "b.jpg": b"none", "b.txt": b"two", "c.txt": b"three", "d.jpg": _jpeg(4), "e.jpg": _jpeg(5),
             "e.txt": b"\xff\xfe\xff",
             **{f"g{i}.{x}": _jpeg(9) if x == "jpg" else b"fine" for i in range(20) for x in ("jpg", "txt")}}  # fmt: skip
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, content in parts.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    config = _config(
        f"wds:{tmp_path}/x.tar", f"out={tmp_path / 'out'}", "steps=4", "workers=0", "max_broken=0.5", "objective=clip"
    )
    with on_stderr():
        Trainer(config, Progress(), tmp_path / "cache").run()
    said = capsys.readouterr().err
    for kind in ("image that cannot be decoded", "no image", "no caption", "caption that is no UTF-8"):
        assert f" {kind}" in said.partition("samples: ")[2], kind
    listed = dict(line.split("\t") for line in (tmp_path / "out" / "broken.txt").read_text().splitlines())
    assert {k.rpartition(":")[2]: v for k, v in listed.items()} == {
        "b": "image that cannot be decoded", "c": "no image", "d": "no caption", "e": "caption that is no UTF-8"}  # fmt: skip


def test_a_stream_that_changed_is_not_resumed(tmp_path):
    _tar(tmp_path / "0.tar", range(30))
    data = f"wds:{tmp_path}/*.tar"
    feed = StreamFeed(_config(data, "workers=0"), (0, 1))
    feed.start(_tok(), 0)
    feed.next()
    state = feed.state()
    _tar(tmp_path / "1.tar", range(40, 60))
    with pytest.raises(UsageError, match="is not what this run began with"):
        StreamFeed(_config(data, "workers=0"), (0, 1)).start(_tok(), 1, state)


def _began_with(data, change):
    """Start a run, change its data, resume it. Returns the state it was left with."""
    feed = StreamFeed(_config(data, "workers=0"), (0, 1))
    feed.start(_tok(), 0)
    feed.next()
    state = feed.state()
    feed.close()
    change()
    with pytest.raises(UsageError, match=r"is not what this run began with \(its files, contents or version changed\)"):
        StreamFeed(_config(data, "workers=0"), (0, 1)).start(_tok(), 1, state)
    return state


def test_shards_of_other_contents_and_equal_size_are_not_resumed(tmp_path):
    path = _tar(tmp_path / "0.tar", range(30))
    size = path.stat().st_size
    state = _began_with(f"wds:{path}", lambda: _tar(path, range(40, 70)))
    assert path.stat().st_size == size, "as tars often are, padded to multiples of 10 KiB"
    feed = StreamFeed(_config(f"wds:{path}", "workers=0"), (0, 1))
    feed.start(_tok(), 1, {**state, "source": feed.source.earlier_identity()})  # as runs before 2026-12-01 kept it
    assert feed.state()["source"] == feed.source.identity() != state["source"]


def test_of_many_shards_some_are_read_and_all_are_weighed(tmp_path, monkeypatch):
    """A start on a cluster's file system must not read from 100,000 files; a shard of another size is noticed wherever it stands."""
    files = [str(_tar(tmp_path / f"{k}.tar", range(2))) for k in range(7)]
    monkeypatch.setattr(samples, "LOOKED_AT", 3)
    read = []
    monkeypatch.setattr(tars, "regular", lambda path: read.append(path) or path)
    before = Tars(files, ("txt",), 0, 8).identity()
    assert read == [files[k] for k in (0, 3, 6)]
    _tar(tmp_path / "1.tar", range(40))
    assert Tars(files, ("txt",), 0, 8).identity() != before


def test_a_table_of_other_contents_and_equal_length_is_not_resumed(tmp_path):
    import datasets

    def save(first):
        rows = {
            "image": [{"bytes": _jpeg(first + i), "path": None} for i in range(24)],
            "text": [f"number {i}" for i in range(24)],
        }
        features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
        datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "set"))

    save(0)
    _began_with(f"hf:{tmp_path / 'set'}", lambda: save(40))


def test_captions_that_no_tokenizer_takes_are_none():
    members = {"json": json.dumps({"caption": ["half \ud800", "\u200b", "whole"]}).encode()}
    assert captions_of(members, ["caption"]) == ["whole"]


@pytest.mark.parametrize("text", ["['a dog', 'a cat']", "{'en': 'a dog'}", '["a dog"]', '[{"text": "a dog"}]'])
def test_a_list_or_an_object_written_as_text_is_no_caption(text):
    assert captions_of({"txt": text.encode()}, ["txt"]) == []
    assert captions_of({"json": json.dumps({"caption": text}).encode()}, ["caption"]) == []
    assert first_texts({"caption": text}, ["caption"], strip=True) == []
    assert captions_of({"txt": b"[a dog] {on a mat}"}, ["txt"]) == ["[a dog] {on a mat}"]


@pytest.mark.parametrize("workers", [0, 1])
def test_beginning_to_read_draws_none_of_the_runs_random_numbers(tmp_path, workers):
    """Dropout draws from them: a resumed run begins to read at another step than an uninterrupted one."""
    _tar(tmp_path / "0.tar", range(30))
    feed = StreamFeed(_config(f"wds:{tmp_path}/*.tar", f"workers={workers}"), (0, 1))
    feed.start(_tok(), 0)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    feed.next()
    feed.close()
    assert torch.equal(before, torch.get_rng_state())
