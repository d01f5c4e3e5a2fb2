"""The mmseg engine: real trainings by mmengine's Runner on a tiny world, going on after a kill, users' configs, bad input."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from levl_eval.backbones import load_backbone
from levl_eval.cards.registry import task_card
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.progress import Progress
from levl_eval.engines.contract import Context
from levl_eval.features.store import FeatureStore
from levl_eval.records import read_samples
from levl_eval.runner.evaluate import evaluate

QUIET = Progress(quiet=True)


def context(world: Path, work: Path | None, limit: int | None = None, **fields: object) -> Context:
    card = task_card(
        "ade20k-mmseg",
        {k: str(v) for k, v in {**({} if "config" in fields else {"steps": 4}), "batch_size": 4, **fields}.items()},
    )
    backbone = load_backbone("random:nano")
    return Context(
        card, backbone, str(world), 0, FeatureStore(world / "f"), world, torch.device("cpu"), limit, progress=QUIET, work=work
    )


def head_of(work: Path) -> dict[str, torch.Tensor]:
    return torch.load(work / "head.pt", weights_only=True)["head"]


@pytest.mark.slow
def test_a_training_learns_and_its_record_is_whole(world, tmp_path):
    settings = [f"ade20k-mmseg.{s}" for s in ("steps=40", "batch_size=8", "lr=0.01", "ratio=[1.0,1.5]", "photometric=false")]
    [record] = evaluate(
        ["random:nano"], ["ade20k-mmseg"], data=str(world), settings=settings, out=tmp_path / "o", cache=tmp_path / "c",
        device="cpu", progress=QUIET, debug=True,
    )  # fmt: skip
    losses = record.notes["head_loss"]
    assert record.status == "done" and np.mean(losses[-10:]) < 0.7 * np.mean(losses[:5])
    found = record.metrics["mean_iou"]
    assert 0 < found.low < found.value < found.high and found.clusters == 12
    # mmseg's own summary of the same predictions, printed as rounded percents
    for name, metric in (("mIoU", "mean_iou"), ("aAcc", "pixel_accuracy"), ("mAcc", "mean_accuracy")):
        assert record.notes["mmseg"][name] == pytest.approx(100 * record.metrics[metric].value, abs=0.0051)
    samples = list(read_samples(tmp_path / "o", record))
    assert len(samples) == 12 and all(s.meta["counts"] for s in samples)
    # masks count at their own resolution: every labelled pixel, once
    from levl_eval.data.readers import read_segmentation

    data = read_segmentation(record_card(record).data, str(world))
    want = {i: int((data.mask(i) != 255).sum()) for i in data.images.ids}
    assert {s.id: sum(v[1] for v in s.meta["counts"].values()) for s in samples} == want
    read = read_segmentation(record_card(record).train, str(world))
    there = set(np.concatenate([np.unique(read.mask(i)) for i in read.images.ids]).tolist())
    absent = set(record.notes["classes_absent_from_training"])  # of random crops: at least what no image holds
    assert {c for k, c in enumerate(read.classes) if k not in there} <= absent < set(read.classes)
    # the kept file holds the head alone, and the images for the report lie beside it
    folder = tmp_path / "o" / "work" / record.key
    state = head_of(folder)
    sheets = [Image.open(folder / f).size for f in ("truth.png", "dense.png")]
    assert sheets == [(2 * 100 + 4, 16 + 6 * 100 + 4)] * 2
    assert sum(t.numel() for t in state.values()) == record.notes["head_parameters"] == len(data.classes) * 193
    assert record.cache == {} and record.protocol["crop"] is None and "config" not in record.protocol


def record_card(record):
    from levl_eval.cards import parse_card

    return parse_card(record.card, "record")


@pytest.mark.parametrize("fields,keys", [
    ({"head": "upernet", "channels": 16}, "neck.upsample_4x"),
    ({"head": "segmenter", "channels": 32, "depth": 1, "layers": "[-1]"}, "decode_head.cls_emb"),
    ({"head": "fcn", "channels": 16, "depth": 1, "short": 96, "stride": 32}, "decode_head.convs.0"),
    ({"head": "linear-bn", "test": "whole"}, "decode_head.norm"),
])  # fmt: skip
@pytest.mark.slow
def test_every_head_runs(world, tmp_path, fields, keys):
    from levl_eval.engines.segmentation.mmseg_task import run

    outcome = run(context(world, tmp_path, limit=2, **{**fields, "steps": 2}))
    assert any(k.startswith(keys) for k in head_of(tmp_path)) and not any("backbone" in k for k in head_of(tmp_path))
    assert 0 <= outcome.metrics["mean_iou"].value <= 1 and len(list(outcome.samples)) == 2


SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.engines.segmentation.test_mmseg import context
from levl_eval.engines.segmentation.mmseg_task import run
run(context(Path(sys.argv[1]), Path(sys.argv[2]), limit=1, steps=2000, checkpoint_every=3))
"""


@pytest.mark.slow
def test_killed_and_gone_on_it_is_the_training_that_was_never_stopped(world, tmp_path):
    from levl_eval.engines.segmentation.mmseg_task import run

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the child's, so that sums are added in the same order
    try:
        # a real kill -9 in the middle of a training
        child = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(world), str(tmp_path / "killed")], cwd=Path(__file__).parents[3], env=os.environ
        )
        deadline = time.monotonic() + 300
        while not (tmp_path / "killed" / "head.pt").exists():
            assert child.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        child.send_signal(signal.SIGKILL)
        child.wait()
        state = torch.load(tmp_path / "killed" / "head.pt", weights_only=True)
        step = state["step"]
        assert 3 <= step < 2000 and step % 3 == 0 and len(state["losses"]) == step
        # its first steps are the first ones of an undisturbed training of the same card
        whole = context(world, tmp_path / "whole", limit=1, steps=9, checkpoint_every=3, dropout=0.3)
        run(whole)
        part = context(world, tmp_path / "part", limit=1, steps=9, checkpoint_every=3, dropout=0.3)
        with pytest.raises(RuntimeError, match="pulled"):
            run(stopped_after(part, 6))
        assert torch.load(tmp_path / "part" / "head.pt", weights_only=True)["step"] == 6
        again = run(part)
        assert again.notes["steps_before_this_run"] == 6
        one, other = head_of(tmp_path / "whole"), head_of(tmp_path / "part")
        assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
        # a damaged file, and one of another training, are not gone on from
        (tmp_path / "part" / "head.pt").write_bytes(b"damaged")
        assert run(part).notes["steps_before_this_run"] == 0
        other_seed = context(world, tmp_path / "part", limit=1, steps=9, checkpoint_every=3, dropout=0.3)
        other_seed.seed = 1
        assert run(other_seed).notes["steps_before_this_run"] == 0
    finally:
        torch.set_num_threads(threads)


def stopped_after(context: Context, steps: int) -> Context:
    """The same piece of work on a backbone whose power cord is pulled after so many steps."""
    from dataclasses import replace

    backbone = load_backbone("random:nano")
    encode, calls = backbone.encode, []

    def cut(x):
        calls.append(1)
        if len(calls) > steps:
            raise RuntimeError("pulled")
        return encode(x)

    backbone.encode = cut
    return replace(context, backbone=backbone)


CONFIG = """
_base_ = ["./base.py"]
custom_imports = dict(imports=["levl_eval.engines.segmentation.mmseg_backbone"])
norm_cfg = dict(type="SyncBN", requires_grad=True)
model = dict(
    type="EncoderDecoder", pretrained="somewhere.pth",
    data_preprocessor=dict(type="SegDataPreProcessor", mean=[1.0], std=[2.0], bgr_to_rgb=True, size=(64, 64), pad_val=0, seg_pad_val=255),
    backbone=dict(type="ResNetV1c", depth=50),
    decode_head=dict(type="FCNHead", in_channels=2048, in_index=1, channels=8, num_convs=1, num_classes=19, norm_cfg=norm_cfg),
    auxiliary_head=dict(type="FCNHead", in_channels=1024, in_index=0, channels=8, num_convs=1, num_classes=19, norm_cfg=norm_cfg,
                        loss_decode=dict(type="CrossEntropyLoss", loss_weight=0.4)),
    test_cfg=dict(mode="whole"))
pipeline = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", reduce_zero_label=True),
            dict(type="Resize", scale=(64, 64), keep_ratio=False), dict(type="PackSegInputs")]
train_dataloader = dict(batch_size=3, dataset=dict(type="RepeatDataset", times=2, dataset=dict(type="ADE20KDataset", pipeline=pipeline)))
test_dataloader = dict(batch_size=1, dataset=dict(type="ADE20KDataset", pipeline=[
    dict(type="LoadImageFromFile"), dict(type="Resize", scale=(64, 64), keep_ratio=False), dict(type="LoadAnnotations"),
    dict(type="PackSegInputs")]))
train_cfg = dict(type="IterBasedTrainLoop", max_iters=2)
"""
BASE = """
optim_wrapper = dict(type="AmpOptimWrapper", loss_scale="dynamic", optimizer=dict(type="SGD", lr=0.01, momentum=0.9))
param_scheduler = [dict(type="PolyLR", eta_min=1e-4, power=0.9, begin=0, end=2, by_epoch=False)]
custom_hooks = [dict(type="EMAHook")]
"""


@pytest.mark.slow
def test_a_users_mmseg_config(world, tmp_path):
    from levl_eval.cards import parse_card, protocol_hash, protocol_of
    from levl_eval.engines.segmentation.mmseg_task import run

    (tmp_path / "base.py").write_text(BASE)
    (tmp_path / "mine.py").write_text(CONFIG)
    work = context(world, tmp_path / "w", limit=2, config=tmp_path / "mine.py")
    outcome = run(work)
    assert outcome.notes["layers"] == [1, 3] and outcome.notes["config_backbone"] == "ResNetV1c"
    assert outcome.notes["config_not_used"] == ["custom_hooks", "pipeline"] and "CUDA" in outcome.notes["mixed_precision"]
    state = head_of(tmp_path / "w")
    assert state["auxiliary_head.conv_seg.weight"].shape[1:] == (8, 1, 1)
    assert state["decode_head.convs.0.conv.weight"].shape == (8, 192, 3, 3)
    # the record's card runs without the file, and the protocol is what the file says, not where it lies
    card = parse_card(work.card.model_dump(mode="json", exclude_none=True), "record")
    assert protocol_hash(protocol_of(card)) == protocol_hash(protocol_of(work.card))
    (tmp_path / "mine.py").rename(tmp_path / "moved.py")
    same = context(world, None, config=tmp_path / "moved.py").card
    assert protocol_hash(protocol_of(same)) == protocol_hash(protocol_of(card))
    work.card = card
    assert run(work).notes["steps_before_this_run"] == 2  # trained already
    (tmp_path / "base.py").write_text(BASE.replace("0.01", "0.02"))
    changed = context(world, None, config=tmp_path / "moved.py").card
    assert protocol_hash(protocol_of(changed)) != protocol_hash(protocol_of(card))


def test_configs_that_are_none(world, tmp_path):
    from levl_eval.engines.segmentation.mmseg_task import run

    file = tmp_path / "bad.py"
    with pytest.raises(UsageError, match="no such mmseg config"):
        context(world, None, config=file)
    file.write_text("model = dict(")
    with pytest.raises(UsageError, match=r"bad\.py: not an mmseg config"):
        context(world, None, config=file)
    (tmp_path / "base.py").write_text(BASE)
    for old, new, message in (
        ('type="IterBasedTrainLoop", max_iters=2', "max_epochs=3", "count steps, not epochs"),
        ('dict(type="LoadAnnotations", reduce_zero_label=True),', "", "has no LoadAnnotations"),
        ("test_dataloader =", "other =", "`test_dataloader` is missing"),
        ("in_index=1", "in_index=9", "fewer than the 10 maps"),
    ):
        assert old in CONFIG
        file.write_text(CONFIG.replace(old, new))
        with pytest.raises(LevlError, match=message):
            run(context(world, tmp_path / "w", config=file))


def test_what_does_not_fit(world, tmp_path):
    from levl_eval.engines.segmentation.mmseg_task import quiet_libraries, run

    with pytest.raises(LevlError, match=r"^a\.png: broken$"), quiet_libraries():  # as a loader's process tells it
        raise LevlError(
            "Caught LevlError in DataLoader worker process 0.\nTraceback:\n  x\nlevl_eval.errors.LevlError: a.png: broken\n"
        )
    with pytest.raises(LevlError, match="`size`: 60 is no multiple of its patch size 8"):
        run(context(world, tmp_path, crop=60))
    with pytest.raises(UsageError, match="`heads`: 3 does not divide"):
        run(context(world, tmp_path, head="segmenter", channels=32, heads=3))
    with pytest.raises(UsageError, match="upernet takes 4 blocks, found 2"):
        run(context(world, tmp_path, head="upernet", layers=[0, 1]))
    with pytest.raises(LevlError, match="loss is"):
        run(context(world, tmp_path, lr=1e30, head="fcn", channels=8, warmup=0, steps=20))
