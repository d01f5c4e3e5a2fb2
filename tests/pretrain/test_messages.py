"""What a run says, and what stops it on a device that must not be waited for."""

from __future__ import annotations

import json
import re
import traceback

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from levl_eval.core.errors import LevlError
from levl_eval.core.messages import on_stderr
from levl_eval.core.progress import Progress
from levl_eval.models.config import parse_config
from levl_eval.pretrain.feed import PoolFeed
from levl_eval.pretrain.loop import Trainer
from levl_eval.pretrain.messages import duration, odd_settings

SMALL = ["batch_size=32", "scenes_pool=128", "captions_per_image=2", "sigreg_slices=32", "vision.depth=1", "text.depth=1", "vocab_size=400",
         "precision=fp32", "log_every=1", "threads=1", "warmup=2", "diagnose_images=8"]  # fmt: skip


def _trainer(tmp_path, *words, out="a"):
    return Trainer(parse_config([f"out={tmp_path / out}", *SMALL, *words]), Progress(), tmp_path / "cache")


@pytest.mark.slow
def test_first_lines_outlook_and_history(tmp_path, capsys):
    with on_stderr():
        t = _trainer(tmp_path, "steps=14", "diagnose_every=5")
        t.run()
    said = capsys.readouterr().err
    count = sum(p.numel() for p in t.model.parameters())
    assert "levljepa nano on cpu (1 threads), fp32, 1 process\n" in said
    assert f"{count / 1e6:.3g} M parameters; vision: encoder " in said and "text: encoder " in said
    assert "128 image-text pairs; 4 steps per epoch of 32 pairs per step, 3.5 epochs in 14 steps\n" in said
    assert f"AdamW's moments: {16 * count / 1e6:.3g} MB per process" in said
    assert re.search(r"images/s: about \d+ s for the 4 steps left; peak memory [\d.]+ [MG]B\n", said)
    history = [line for line in said.splitlines() if line.startswith("step ")]
    assert [line.split(":")[0] for line in history] == ["step 5", "step 10", "step 14"] and "rank_v" in history[0]
    run = json.loads((tmp_path / "a" / "run.json").read_text())
    assert run["pairs"] == 128 and run["parameters"] == count and run["started_at_step"] == 0
    assert run["data_identity"] == t.feed.data_identity and run["data_identity"]


class _Pool:
    def __init__(self, captions):
        self.captions = captions

    def __len__(self):
        return len(self.captions)


@pytest.mark.parametrize(
    ("words", "captions", "processes", "expected"),
    [
        (["warmup=100", "steps=50"], 2, 1, "warmup is 100 of 50 steps: the rate never reaches lr"),
        (["batch_size=16"], 2, 1, "SIGReg sees 16 rows at a time, .* noise of 0.25; take batch_size=32 or more"),
        (["batch_size=128", "sigreg_scope=local"], 2, 8, "SIGReg sees 16 rows at a time, .* take batch_size=256 or more"),
        (["batch_size=128", "accumulate=8"], 2, 1, "SIGReg sees 16 rows at a time, .* take batch_size=256 or more"),
        (["steps=2000"], 1, 1, "every image has one caption and is seen 640 times; captions_per_image"),
        (["augmentation=standard"], 2, 1, "captions of scenes say left and right"),
        (
            ["mean=[123.7,116.3,103.5]", "std=[58.4,57.1,57.4]"],
            2,
            1,
            "mean .* are of levels 0 to 255, pixels are in .0, 1.: divide",
        ),
        (["precision=bf16"], 2, 1, "cpu has no bfloat16 arithmetic"),
    ],
)
def test_odd_settings_are_said(words, captions, processes, expected):
    def said(*words, captions=2, processes=1):
        config = parse_config(["batch_size=64", "steps=100", "warmup=10", "precision=fp32", *words])
        return odd_settings(
            config, PoolFeed(config, _Pool([["x"] * captions] * 200), (0, 1)), torch.device("cpu"), processes, False
        )

    assert said() == [] and said("objective=clip", "batch_size=16") == []
    lines = said(*words, captions=captions, processes=processes)
    assert len(lines) == 1 and re.match(f"warning: {expected}", lines[0]), lines


def test_durations_read_well():
    assert [duration(s) for s in (5, 200, 7300, 400_000)] == ["5 s", "3 min", "2.0 h", "4.6 days"]


@pytest.mark.slow
def test_an_update_that_is_not_finite_is_left_out_without_waiting_for_the_device(tmp_path):
    """As on a GPU: weights stay, and what happened is told with the log, at its own step."""
    t = _trainer(tmp_path, "steps=9", "objective=clip", "log_every=4", "diagnose_every=100")
    t.watch.deferred = True
    t.model.train()
    t.train_step()
    assert t.watch.unchecked and t.watch.last != t.watch.last  # not read yet
    before = {k: v.clone() for k, v in t.model.named_parameters()}
    hook = next(t.model.vision.encoder.blocks[0].parameters()).register_hook(lambda g: g * float("nan"))
    t.train_step()
    hook.remove()
    assert all(torch.equal(before[k], v) for k, v in t.model.named_parameters() if k != "logit_scale")
    t.train_step()
    assert any(not torch.equal(before[k], v) for k, v in t.model.named_parameters())
    with pytest.raises(LevlError, match="step 1: the gradient norm is nan; last good checkpoint: none"):
        t.save()
    assert not (tmp_path / "a" / "ckpt.pt").exists()


@pytest.mark.slow
def test_deferred_checks_change_no_number(tmp_path):
    for out, deferred in (("a", False), ("b", True)):
        t = _trainer(tmp_path, "steps=6", "log_every=3", "diagnose_every=100", out=out)
        t.watch.deferred = deferred
        t.run()
    a, b = ([json.loads(line) for line in (tmp_path / x / "metrics.jsonl").read_text().splitlines()] for x in "ab")
    assert [x["loss"] for x in a] == [x["loss"] for x in b] and len(a) == 2
    assert t.watch.first > 0 and t.watch.running > 0


class _Reads(TorchDispatchMode):
    """What a GPU would be waited for: values read by the host, and results whose shape depends on values."""

    def __init__(self):
        super().__init__()
        self.evidence = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (
            torch.ops.aten._local_scalar_dense.default,
            torch.ops.aten.nonzero.default,
            torch.ops.aten.masked_select.default,
        ):
            self.evidence.append((func, "".join(traceback.format_stack()[-12:-1])))
        return func(*args, **(kwargs or {}))


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["levljepa", "levljepa_plus", "clip", "siglip"])
def test_no_step_waits_for_the_device(tmp_path, objective):
    t = _trainer(tmp_path, f"objective={objective}", "local_views=1", "batch_size=16", "text_buckets=2")
    t.watch.deferred = True
    t.model.train()
    t.train_step()  # the first makes the optimizer's state
    t.watch.unchecked.clear()
    t.feed.next()
    with _Reads() as reads:
        t.train_step()
    assert reads.evidence == []
    with _Reads() as reads:
        torch.ones(3)[1].item()
    assert len(reads.evidence) == 1
