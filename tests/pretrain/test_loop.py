"""The loop where it is disturbed: signals, half-written files, NaN, other values; and configurations given in part."""

from __future__ import annotations

import json
import os
import signal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml

from levl_eval.core.errors import LevlError, Terminated, UsageError
from levl_eval.core.progress import Progress
from levl_eval.metrics.statistics import wilson
from levl_eval.models.checkpoints import load_model, read, save
from levl_eval.models.config import SIZES, parse_config
from levl_eval.models.towers import build_model, plain_attention
from levl_eval.pretrain import SIGReg, diagnostics, journal
from levl_eval.pretrain.augment import crop
from levl_eval.pretrain.data import csv_rows
from levl_eval.pretrain.loop import Trainer

SMALL = ["batch_size=16", "scenes_pool=64", "captions_per_image=2", "sigreg_slices=32", "vision.depth=1", "text.depth=1",
         "vocab_size=400", "precision=fp32", "log_every=1", "threads=1"]  # fmt: skip


def _trainer(tmp_path, *words, out="a"):
    return Trainer(parse_config([f"out={tmp_path / out}", *SMALL, *words]), Progress(quiet=True), tmp_path / "cache")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_saves_and_the_run_goes_on_exactly(tmp_path, number):
    steps = "steps=8"
    t = _trainer(tmp_path, steps, "save_every=1000")
    step = t.train_step

    def disturbed():
        if t.step == 2:
            os.kill(os.getpid(), number)  # in the middle of the third step
        return step()

    t.train_step = disturbed
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt) as ended:
        t.run()
    assert signal.getsignal(number) == before and ended.type is (Terminated if number == signal.SIGTERM else KeyboardInterrupt)
    metrics = tmp_path / "a" / "metrics.jsonl"
    assert read(tmp_path / "a" / "ckpt.pt")["step"] == 3 and metrics.read_text().count("\n") == 3
    with open(metrics, "a") as f:
        f.write('{"step": 4, "lo')  # a kill in the middle of a line
    _trainer(tmp_path, steps, "resume=true", "save_every=1000").run()
    _trainer(tmp_path, steps, "save_every=1000", out="b").run()
    a, b = (load_model(tmp_path / x / "ckpt.pt")[0].state_dict() for x in "ab")
    assert all(torch.equal(a[k], b[k]) for k in b)
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()] == list(range(1, 9))


@pytest.mark.slow
def test_nan_stops_before_the_weights_are_touched(tmp_path):
    t = _trainer(tmp_path, "steps=3", "objective=clip", "save_every=1")
    t.model.train()
    t.train_step()
    t.save()
    before = {k: v.clone() for k, v in t.model.named_parameters()}
    hook = next(t.model.vision.encoder.blocks[0].parameters()).register_hook(lambda g: g * float("nan"))
    with pytest.raises(LevlError, match=r"step 1: the gradient norm is nan; last good checkpoint: .*ckpt\.pt"):
        t.train_step()
    hook.remove()
    assert t.step == 1 and all(torch.equal(before[k], v) for k, v in t.model.named_parameters())
    next(t.model.vision.encoder.parameters()).data.fill_(float("nan"))
    with pytest.raises(LevlError, match="the loss is nan"):
        t.train_step()


@pytest.mark.slow
def test_a_diverging_loss_stops_the_run_and_names_the_checkpoint(tmp_path):
    t = _trainer(tmp_path, "steps=12", "objective=siglip", "save_every=2", "max_loss_growth=3")
    whole = t.train_step

    def worse():
        if t.step >= 2:
            t.model.logit_bias.data.fill_(20.0)  # says that every pair belongs together: thirty times the first loss
        return whole()

    t.train_step = worse
    with pytest.raises(LevlError, match=r"step \d+: diverged: the running loss is .*last good checkpoint: .*ckpt\.pt"):
        t.run()
    assert read(tmp_path / "a" / "ckpt.pt")["step"] >= 2


@pytest.mark.slow
def test_diagnostics_of_a_run(tmp_path):
    t = _trainer(tmp_path, "steps=2", "diagnose_every=1", "diagnose_images=40")
    before = [b.clone() for b in t.model.buffers()]
    one, two = t.diagnose(), t.diagnose()
    assert one == two and t.model.training  # fixed pairs, evaluation mode, and the statistics of BatchNorm untouched
    assert all(torch.equal(a, b) for a, b in zip(before, t.model.buffers(), strict=True))
    wanted = {f"{k}_{m}" for k in ("rank", "std", "kurtosis") for m in "vt"} | {"matched_cosine", "shuffled_cosine"}
    assert set(one) == wanted and 1 <= one["rank_v"] <= 40
    t.run()
    lines = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    assert all(wanted <= set(line) for line in lines) and 0 <= lines[-1]["waiting"] <= 1


def test_projections_and_neighbours_where_the_answer_is_known():
    g = torch.Generator().manual_seed(0)
    z = torch.randn(20_000, 16, generator=g)
    std, kurtosis = diagnostics.projections(3 * z)
    assert std == pytest.approx(3, rel=0.02) and kurtosis == pytest.approx(3, rel=0.05)
    found = diagnostics.of_pairs(z[:500], z[:500])
    assert found["matched_cosine"] == pytest.approx(1) and abs(found["shuffled_cosine"]) < 0.1
    centres = 10 * torch.eye(16)[:4]
    labels = torch.arange(400) % 4
    x = centres[labels] + z[:400]
    assert diagnostics.knn_accuracy(x[:300], labels[:300], x[300:], labels[300:]) == 1
    assert diagnostics.knn_accuracy(x[:300], labels[:300], x[300:], (labels[300:] + 1) % 4) == 0


def test_the_probe_reads_class_folders(tmp_path):
    from PIL import Image

    for split, count in (("train", 6), ("test", 3)):
        for label, colour in (("dark", 20), ("light", 230)):
            folder = tmp_path / "probe" / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(np.full((30, 40, 3), colour + i, np.uint8)).save(folder / f"{i}.png")
    t = _trainer(tmp_path, "steps=1", f"probe={tmp_path / 'probe'}", "diagnose_images=8")
    told = t.diagnose()
    assert told["probe_knn"] == 1.0  # brightness is visible to random weights
    t.model.eval()
    ids, last = (torch.from_numpy(a) for a in t.feed.tokens(t.tokenizer, ["a photo of a dark.", "a photo of a light."]))
    texts = F.normalize(t.model.text.projector(t.model.embed_texts(ids, last)), dim=1)
    images = F.normalize(t.model.embed_images(t.pixels(t.probe.pixels["test"].numpy(), None)), dim=1)
    by_hand = ((images @ texts.T).argmax(1) == t.probe.labels["test"]).float().mean().item()
    assert told["probe_zeroshot"] == pytest.approx(by_hand)
    one_hot = torch.eye(2)
    for truth, score in ((t.probe.labels["test"], 1.0), (1 - t.probe.labels["test"], 0.0)):
        found = t.probe.zero_shot(lambda x, z=one_hot[truth]: {"z_v": z, "z_t": 3 * one_hot})
        low, high = wilson(6 * score, 6)
        assert found == {"probe_zeroshot": score, "probe_zeroshot_low": low, "probe_zeroshot_high": high} and low < high
    with pytest.raises(UsageError, match="probe_template"):
        parse_config(["probe_template=nothing"])
    with pytest.raises(UsageError, match="expected class folders below train/ and test/"):
        _trainer(tmp_path, "steps=1", f"probe={tmp_path}", out="b")


@pytest.mark.slow
def test_a_refused_resume_leaves_the_run_as_it_was(tmp_path):
    _trainer(tmp_path, "steps=1", "objective=clip").run()
    before = (tmp_path / "a" / "config.yaml").read_text()
    with pytest.raises(UsageError, match="field `lr` was 0.001, now 0.5"):
        _trainer(tmp_path, "steps=1", "objective=clip", "resume=true", "lr=0.5")
    assert (tmp_path / "a" / "config.yaml").read_text() == before
    state = read(tmp_path / "a" / "ckpt.pt")
    # A field that a later version brings does not keep an earlier run from going on.
    del state["config"]["positions"]
    save(tmp_path / "a" / "ckpt.pt", state)
    assert _trainer(tmp_path, "steps=1", "objective=clip", "resume=true").step == 1
    del state["optimizer"]
    save(tmp_path / "a" / "ckpt.pt", state)
    with pytest.raises(UsageError, match="no optimizer"):
        _trainer(tmp_path, "steps=1", "objective=clip", "resume=true")


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["levljepa", "levljepa_plus"])
def test_parts_of_the_loss_are_of_all_forward_passes(tmp_path, objective):
    """With accumulate they were of the last one, beside a loss that is the mean of all."""
    t = _trainer(tmp_path, "steps=2", f"objective={objective}", "accumulate=4", "local_views=1")
    t.run()
    for line in map(json.loads, (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()):
        weights = {"sigreg_v": 0.02, "sigreg_t": 0.02} | ({"multi": 0.2} if objective == "levljepa_plus" else {})
        weights["cross"] = 1 - sum(weights.values())
        assert sum(w * line[name] for name, w in weights.items()) == pytest.approx(line["loss"], rel=1e-5)


@pytest.mark.slow
def test_a_full_disk_is_told_where_metrics_are_written(tmp_path):
    """What was written stands, and the run goes on once there is space."""
    words = ["steps=3", "save_every=1", "log_every=3"]
    t = _trainer(tmp_path, *words)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "open", lambda *_, **__: open("/dev/full", "w"), raising=False)
        with pytest.raises(LevlError, match=r"metrics.jsonl: disk full; free space and run the same command again"):
            t.run()
    assert read(tmp_path / "a" / "ckpt.pt")["step"] == 2
    _trainer(tmp_path, *words).run()
    assert [json.loads(line)["step"] for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()] == [3]


def test_the_learned_scale_stays_in_openclips_range(tmp_path):
    t = _trainer(tmp_path, "steps=1", "objective=clip")
    t.model.logit_scale.data.fill_(9.0)
    t.model.train()
    t.train_step()
    assert t.model.logit_scale.item() == pytest.approx(np.log(100))


def test_plain_attention_is_the_fused_one():
    config = parse_config(["vision.depth=2", "text.depth=2"])
    torch.manual_seed(0)
    model = build_model(config, 300).eval()
    pixels = torch.randn(3, 3, 64, 64)
    ids, last = torch.randint(0, 300, (3, 12)), torch.tensor([11, 4, 7])
    with torch.no_grad():
        v, t = model.embed_images(pixels), model.embed_texts(ids, last)
        plain_attention(model)
        assert not torch.equal(v, model.embed_images(pixels)) or not torch.equal(t, model.embed_texts(ids, last))
        assert torch.allclose(v, model.embed_images(pixels), atol=1e-5) and torch.allclose(
            t, model.embed_texts(ids, last), atol=1e-5
        )


def test_parts_of_a_tower_keep_the_rest_of_the_size_in_any_order(tmp_path):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"vision": {"depth": 3}, "model": "small"}))
    for words in (["vision.depth=3", "model=small"], ["model=small", "vision.depth=3"], [str(tmp_path / "c.yaml")]):
        c = parse_config(words)
        assert c.vision.model_dump() == {**SIZES["small"]["vision"], "depth": 3}
        assert c.text.model_dump(exclude_none=True) == SIZES["small"]["text"]
    with pytest.raises(UsageError, match=r"vision\.dept: no such field \(did you mean vision\.depth"):
        parse_config(["vision.dept=3"])
    with pytest.raises(UsageError, match=r"lr\.peak: no such field"):
        parse_config(["lr.peak=3"])


def test_augmentation_keeps_size_and_crops_at_most_a_fifth():
    ramp = torch.linspace(0, 1, 64).view(1, 1, 1, 64).expand(500, 3, 64, 64)
    x = crop(ramp, torch.Generator().manual_seed(0))
    assert x.shape == ramp.shape
    span = (x[:, 0, 32, -1] - x[:, 0, 32, 0]) / (ramp[:, 0, 32, -1] - ramp[:, 0, 32, 0])
    area = span**2  # a ramp shows how much of the width is seen, and that nothing was mirrored
    assert 0.78 < area.min() < 0.82 and 0.95 < area.max() <= 1.001
    assert torch.equal(x, crop(ramp, torch.Generator().manual_seed(0)))


@pytest.mark.slow
def test_order_is_a_function_of_seed_and_epoch(tmp_path):
    pool = _trainer(tmp_path, "steps=1", "objective=clip").pool
    epoch = np.concatenate([pool.order(1, 0)])
    assert sorted(epoch) == list(range(64)) and not np.array_equal(epoch, pool.order(1, 1))
    assert not np.array_equal(epoch, pool.order(2, 0))
    one, two = pool.batch(5, 16, 1), pool.batch(5, 16, 1)
    assert np.array_equal(one[0], two[0]) and one[1] == two[1]
    seen = np.concatenate([pool.batch(s, 16, 1)[0] for s in range(4)])
    assert len(np.unique(seen.reshape(64, -1), axis=0)) == len(np.unique(pool.pixels.reshape(64, -1), axis=0))


def test_csv_names_beside_the_file_or_in_images(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "x.png").write_bytes(b"")
    (tmp_path / "images" / "y.png").write_bytes(b"")
    (tmp_path / "c.csv").write_text("image,caption\ngone.png,a\nx.png,b\ny.png,c\nx.png,d\n")
    rows = {p.relative_to(tmp_path).as_posix(): c for p, c in csv_rows(tmp_path / "c.csv")}
    assert rows == {"images/gone.png": ["a"], "x.png": ["b", "d"], "images/y.png": ["c"]}
    (tmp_path / "t.txt").write_text("image\ttitle\nx.png\ta, b\n")
    assert csv_rows(tmp_path / "t.txt", fields=("caption", "title"), delimiter="\t") == [(tmp_path / "x.png", ["a, b"])]
    (tmp_path / "latin.csv").write_bytes("image,caption\nx.png,fa\xe7ade\n".encode("latin-1"))
    with pytest.raises(UsageError, match="UTF-8"):
        csv_rows(tmp_path / "latin.csv")


def test_sigreg_gradient_numerically():
    g = torch.Generator().manual_seed(3)
    z = torch.randn(5, 3, generator=g, dtype=torch.float64, requires_grad=True)
    a = torch.nn.functional.normalize(torch.randn(3, 7, generator=g, dtype=torch.float64), dim=0)
    assert torch.autograd.gradcheck(lambda x: 2 * SIGReg(7)(x, a), (z,))
    with torch.no_grad():
        assert not SIGReg(7)(z, a).requires_grad
