"""Pretraining: SIGReg and objectives against plain formulas, gradient paths, read-out, exact resume, checkpoints, bad input."""

from __future__ import annotations

import json
import math
import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from levl_eval.core.errors import UsageError
from levl_eval.core.progress import Progress
from levl_eval.models.checkpoints import export, load_model, read, save
from levl_eval.models.config import parse_config
from levl_eval.models.spectrum import effective_rank
from levl_eval.models.towers import text_tower
from levl_eval.pretrain import SIGReg, objectives
from levl_eval.pretrain.cli import main
from levl_eval.pretrain.loop import Trainer
from levl_eval.pretrain.schedule import learning_rate


def plain_sigreg(z, a, knots=17, t_max=3.0):
    """PAPER 1.3 written out: the tensor batch x slices x knots and all."""
    t = torch.linspace(0, t_max, knots, dtype=z.dtype)
    h = t_max / (knots - 1)
    w = torch.full((knots,), 2 * h, dtype=z.dtype)
    w[0] = w[-1] = h
    window = torch.exp(-(t**2) / 2)
    x = (z @ a)[:, :, None] * t
    per_slice = ((x.cos().mean(0) - window) ** 2 + x.sin().mean(0) ** 2) @ (w * window) * len(z)
    return per_slice.mean()


@pytest.mark.parametrize("knots, t_max", [(17, 3.0), (5, 2.0), (3, 1.0)])
def test_sigreg_equals_the_plain_formula(knots, t_max):
    g = torch.Generator().manual_seed(0)
    z = (1.4 * torch.randn(37, 9, generator=g, dtype=torch.float64) + 0.3).requires_grad_()
    a = F.normalize(torch.randn(9, 70, generator=g, dtype=torch.float64), dim=0)
    one, two = plain_sigreg(z, a, knots, t_max), SIGReg(70, knots, t_max)(z, a)
    assert one.item() == pytest.approx(two.item(), rel=1e-12)
    assert torch.allclose(torch.autograd.grad(one, z)[0], torch.autograd.grad(two, z)[0], rtol=1e-9, atol=1e-12)


def test_sigreg_in_low_precision_and_on_gaussians():
    g = torch.Generator().manual_seed(1)
    z = torch.randn(512, 32, generator=g)
    s = SIGReg(256)
    a = s.directions(32, z, g)
    assert torch.allclose(a.norm(dim=0), torch.ones(256))
    assert s(z.bfloat16(), a).item() == pytest.approx(s(z, a).item(), rel=0.05)
    assert s(3 * z, a) > 20 * s(z, a) and s(0.1 * z, a) > 20 * s(z, a)
    views = torch.stack([z, 2 * z])
    assert s(views, a).item() == pytest.approx((s(z, a).item() + s(2 * z, a).item()) / 2, rel=1e-6)
    with pytest.raises(ValueError, match="shape"):
        s(torch.zeros(3))


def _two(rank, port, out):
    import torch.distributed as dist

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    g = torch.Generator().manual_seed(0)
    z = torch.randn(20, 6, generator=g, dtype=torch.float64)[rank * 10 : rank * 10 + 10].clone().requires_grad_()
    a = F.normalize(torch.randn(6, 30, generator=torch.Generator().manual_seed(1), dtype=torch.float64), dim=0)
    value = SIGReg(30, distributed=True)(z, a)
    value.backward()
    torch.save({"value": value.detach(), "grad": z.grad}, f"{out}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.distributed
def test_distributed_sigreg_is_the_global_statistic_times_the_local_batch(tmp_path):
    import torch.multiprocessing as mp

    mp.start_processes(_two, args=(29500 + os.getpid() % 1000, str(tmp_path)), nprocs=2, start_method="spawn")
    parts = [torch.load(tmp_path / f"{r}.pt", weights_only=True) for r in range(2)]
    z = torch.randn(20, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    a = F.normalize(torch.randn(6, 30, generator=torch.Generator().manual_seed(1), dtype=torch.float64), dim=0)
    whole = plain_sigreg(z, a) / 2  # 20 rows times f, against 10 rows times f
    (gradient,) = torch.autograd.grad(whole, z)
    assert parts[0]["value"].item() == pytest.approx(whole.item())
    # Averaged over processes, as DDP does, each row's gradient is that of (local batch) f(global function).
    assert torch.allclose(torch.cat([p["grad"] for p in parts]) / 2, gradient, atol=1e-12)


def test_levljepa_is_the_codes_formula_and_keeps_its_gradient_paths():
    g = torch.Generator().manual_seed(0)
    z_v, z_t = (torch.randn(8, 5, generator=g, dtype=torch.float64, requires_grad=True) for _ in range(2))
    h_v, h_t = nn.Linear(5, 5).double(), nn.Linear(5, 5).double()
    quiet = lambda z: z.sum() * 0  # noqa: E731
    loss, parts = objectives.levljepa(z_v, z_t, h_v, h_t, quiet, 0.02, 0.03)
    cross = 0.5 * (((h_v(z_v) - z_t) ** 2).mean() + ((h_t(z_t) - z_v) ** 2).mean())
    assert loss.item() == pytest.approx(0.95 * cross.item()) and parts["cross"].item() == pytest.approx(cross.item())
    loss.backward()
    own = torch.autograd.grad(0.95 * 0.5 * ((h_v(z_v) - z_t.detach()) ** 2).mean(), z_v)[0]
    assert torch.allclose(z_v.grad, own)  # nothing from the other direction, where z_v is the target
    reg, _ = objectives.levljepa(z_v, z_t, h_v, h_t, lambda z: z.pow(2).mean(), 0.1, 0.2)
    assert reg.item() == pytest.approx(0.7 * cross.item() + 0.1 * z_v.pow(2).mean().item() + 0.2 * z_t.pow(2).mean().item())


def test_contrastive_objectives_against_loops():
    g = torch.Generator().manual_seed(0)
    v, t = torch.randn(6, 4, generator=g, dtype=torch.float64), torch.randn(6, 4, generator=g, dtype=torch.float64)
    cos = F.normalize(v, dim=1) @ F.normalize(t, dim=1).T
    s = 7.0
    rows = sum(-math.log(math.exp(s * cos[i, i]) / sum(math.exp(s * cos[i, j]) for j in range(6))) for i in range(6)) / 6
    cols = sum(-math.log(math.exp(s * cos[i, i]) / sum(math.exp(s * cos[j, i]) for j in range(6))) for i in range(6)) / 6
    assert objectives.clip(v, t, torch.tensor(math.log(s), dtype=torch.float64)).item() == pytest.approx((rows + cols) / 2)
    capped = objectives.clip(v, t, torch.tensor(9.0, dtype=torch.float64)).item()
    assert capped == pytest.approx(objectives.clip(v, t, torch.tensor(math.log(100), dtype=torch.float64)).item())
    b = -3.0
    total = sum(math.log(1 + math.exp(-(1 if i == j else -1) * (s * cos[i, j] + b))) for i in range(6) for j in range(6)) / 6
    got = objectives.siglip(v, t, torch.tensor(math.log(s), dtype=torch.float64), torch.tensor(b, dtype=torch.float64))
    assert got.item() == pytest.approx(total)


def test_text_readout_does_not_depend_on_padding(checkpoints):
    model, _ = load_model(checkpoints["levljepa"])
    ids = torch.tensor([[5, 6, 7, 0], [8, 0, 0, 0]])
    last = torch.tensor([3, 1])
    long = torch.cat([ids, torch.zeros(2, 20, dtype=torch.long)], 1)
    with torch.no_grad():
        assert torch.allclose(model.embed_texts(ids, last), model.embed_texts(long, last), atol=1e-5)
        masked = model.text.encoder(
            input_ids=long, attention_mask=(torch.arange(24)[None] <= last[:, None]).long()
        ).last_hidden_state
        assert torch.allclose(model.text.pre_proj(masked[torch.arange(2), last]), model.embed_texts(ids, last), atol=1e-5)


def test_schedule_and_rank():
    c = parse_config(["steps=1000", "warmup=100", "lr=0.01"])
    assert learning_rate(c, 0) == pytest.approx(1e-4) and learning_rate(c, 99) == pytest.approx(0.01)
    assert learning_rate(c, 550) == pytest.approx(0.01 * (0.1 + 0.9 * 0.5)) and learning_rate(c, 999) == pytest.approx(
        0.001, rel=1e-2
    )
    z = torch.randn(4000, 10, generator=torch.Generator().manual_seed(0))
    assert 9.8 < effective_rank(z) <= 10.01
    assert effective_rank(z[:, :1] @ torch.ones(1, 10)) < 1.1


def _words(out, *more):
    return [f"out={out}", "batch_size=16", "scenes_pool=64", "captions_per_image=2", "sigreg_slices=32", "vision.depth=1", "text.depth=1",
            "vocab_size=400", "precision=fp32", "log_every=1", "threads=1", *more]  # fmt: skip


@pytest.mark.slow
def test_killed_at_any_moment_and_resumed_it_ends_with_the_same_weights(tmp_path):
    env = {**os.environ, "LEVL_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    kind = ("steps=30", "accumulate=2", "dropout=0.1", "keep=2")  # dropout draws from the global generator
    command = [sys.executable, "-m", "levl_eval.pretrain.cli", *_words(tmp_path / "a", *kind, "save_every=4", "resume=true")]
    metrics = tmp_path / "a" / "metrics.jsonl"
    for wanted in (6, 15):
        p = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.time() + 600
        while time.time() < deadline and p.poll() is None:
            if metrics.exists() and len(metrics.read_text().splitlines()) >= wanted:
                break
            time.sleep(0.02)
        p.send_signal(signal.SIGKILL)
        p.wait()
        read(tmp_path / "a" / "ckpt.pt")  # never unreadable
    assert subprocess.run(command, env=env, capture_output=True).returncode == 0
    whole = [sys.executable, "-m", "levl_eval.pretrain.cli", *_words(tmp_path / "b", *kind, "save_every=4")]
    assert subprocess.run(whole, env=env, capture_output=True).returncode == 0
    a, b = (load_model(tmp_path / x / "ckpt.pt")[0].state_dict() for x in "ab")
    assert all(torch.equal(a[k], b[k]) for k in b)
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == list(range(1, 31))
    assert sorted(p.name for p in (tmp_path / "a").glob("ckpt*")) == ["ckpt-28.pt", "ckpt-30.pt", "ckpt.pt"]
    assert read(tmp_path / "a" / "ckpt-28.pt")["step"] == 28 and read(tmp_path / "a" / "ckpt-30.pt")["step"] == 30


def test_release_round_trip_and_published_forms(checkpoints, tmp_path):
    state = read(checkpoints["levljepa"])
    (path,) = export(checkpoints["levljepa"], "release", tmp_path / "r.safetensors")
    model, meta = load_model(path)
    out = state["config"]["out"]  # where it was trained is nobody's business
    assert "/" in out and meta["config"] == {**state["config"], "out": out.rsplit("/", 1)[-1]}
    assert meta["tokenizer"] == state["tokenizer"]
    for k, v in state["vision"]["encoder"].items():
        assert torch.equal(model.vision.encoder.state_dict()[k], v.half().float()), k
    assert path.stat().st_size < 0.4 * checkpoints["levljepa"].stat().st_size
    pair = export(checkpoints["levljepa"], "official", tmp_path / "pair")
    loaded = torch.load(pair[0], weights_only=True)
    assert set(loaded) == {"encoder", "pre_proj", "projector"} and {"0.weight", "4.weight", "16.weight"} <= set(
        loaded["projector"]
    )
    assert {"0.weight", "1.running_mean", "3.weight"} <= set(loaded["pre_proj"])
    names = {p.name for p in export(checkpoints["clip"], "safetensors", tmp_path / "dir")}
    assert names == {"vision_encoder.safetensors", "text_encoder.safetensors", "config.json"}


class _Evil:
    def __reduce__(self):
        return (os.system, ("true",))


def test_bad_checkpoints_are_one_line_each(checkpoints, tmp_path):
    good = checkpoints["clip"].read_bytes()
    cases = {
        "missing.pt": (None, "no such checkpoint"),
        "cut.pt": (good[: len(good) // 2], "truncated"),
        "text.pt": (b"hello", "truncated or not a torch file"),
        "cut.safetensors": (b"\x08\0\0\0\0\0\0\0{}      "[:10], "truncated"),
    }
    for name, (content, words) in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match=words) as e:
            load_model(tmp_path / name)
        assert name in str(e.value) and "\n" not in str(e.value)
    torch.save({"x": _Evil()}, tmp_path / "evil.pt")
    with pytest.raises(UsageError, match="pickled code"):
        load_model(tmp_path / "evil.pt")
    with open(tmp_path / "raw.pt", "wb") as f:
        pickle.dump(_Evil(), f)
    with pytest.raises(UsageError):
        load_model(tmp_path / "raw.pt")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "foreign.pt")
    with pytest.raises(
        UsageError, match="not a levl-pretrain checkpoint.* py:MODULE:FACTORY, open_clip:MODEL/FILE, timm:local-dir:DIR or hf:DIR"
    ):
        load_model(tmp_path / "foreign.pt")
    state = read(checkpoints["clip"])
    headless = {**state, "vision": {"encoder": state["vision"]["encoder"]}}
    for name, changed, field in (("part.pt", headless, "vision.pre_proj"), ("config.pt", {**state, "config": []}, "config")):
        save(tmp_path / name, changed)
        with pytest.raises(UsageError, match=rf"{name}: field `{field}` is missing or of another kind"):
            export(tmp_path / name, "official", tmp_path / "none")
    state["vision"]["encoder"]["norm.weight"][0] = float("nan")
    save(tmp_path / "nan.pt", state)
    with pytest.raises(UsageError, match="NaN or infinity"):
        load_model(tmp_path / "nan.pt")
    del state["vision"]["encoder"]["norm.weight"]
    save(tmp_path / "less.pt", state)
    with pytest.raises(UsageError, match="does not fit"):
        load_model(tmp_path / "less.pt")
    del state["text"]["encoder"]["wpe.weight"]
    for name, changed, field in (
        ("table.pt", state, "wpe.weight"),
        ("steps.pt", {**state, "config": {"steps": "many"}}, "steps"),
    ):
        save(tmp_path / name, changed)
        with pytest.raises(UsageError, match=rf"{name}: does not fit its own configuration \('?{field}"):
            export(tmp_path / name, "official", tmp_path / "none")


def test_csv_data_skips_broken_images_and_stops_when_there_are_many(tmp_path, capsys):
    from PIL import Image

    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    lines = ["image,caption"]
    for i in range(40):
        Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(tmp_path / "images" / f"{i}.png")
        lines += [f'{i}.png,"a image, number {i}"', f"{i}.png,another"]
    (tmp_path / "images" / "3.png").write_bytes(b"no image")
    file = tmp_path / "captions.csv"
    file.write_text("\n".join(lines) + "\n")
    words = [w for w in _words(tmp_path / "out", f"data=csv:{file}", "steps=2", "objective=clip") if "scenes_pool" not in w]
    t = Trainer(parse_config(words), Progress(quiet=True), tmp_path / "cache")
    assert len(t.pool) == 39 and all(len(c) == 2 for c in t.pool.captions)
    t.run()
    for i in range(10):
        (tmp_path / "images" / f"{i}.png").write_bytes(b"no")
    with pytest.raises(UsageError, match=r"10 of 40 images cannot be read.*max_broken"):
        Trainer(parse_config([*words, "resume=true"]), Progress(quiet=True), tmp_path / "cache")


@pytest.mark.parametrize(
    "words, expected",
    [
        (["objectiv=clip"], "did you mean objective"),
        (["objective=clap"], "field `objective`"),
        (["steps=0"], "field `steps`"),
        (["model=giant"], "field `model`"),
        (["data=csv:/none.csv"], "cannot be read"),
        (["data=zip:x"], "expected scenes"),
        (["lr"], "expected key=value"),
        (["/none.yaml"], "cannot be read"),
        (["export", "/none/ckpt.pt", "--to", "release", "--out", "/tmp/x"], "no such checkpoint"),
        (["export", "/none/ckpt.pt"], "--to"),
    ],
)
def test_wrong_words_are_one_line_and_exit_2(words, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path))
    assert main(words) == 2
    err = capsys.readouterr().err
    assert expected in err and err.count("\n") == 1


def test_an_existing_run_is_not_overwritten_nor_resumed_with_other_values(checkpoints, capsys):
    out = checkpoints["clip"].parent
    before = checkpoints["clip"].read_bytes()
    assert main([*_words(out, "objective=clip", "steps=3"), "resume=false"]) == 2
    assert "is not empty, and resume=false starts anew" in capsys.readouterr().err
    words = [w for w in _words(out, "objective=clip", "steps=3") if not w.startswith("threads")]
    assert main([*words, "lr=0.5"]) == 2
    assert "field `lr`" in capsys.readouterr().err
    assert checkpoints["clip"].read_bytes() == before


def test_help_needs_no_torch():
    code = "import sys; from levl_eval.pretrain.cli import main; main(['--help']); main(['fields']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_gpt2_tokenizer_from_files(shared):
    from levl_eval.models.tokenizer import encode, load_gpt2

    tok = load_gpt2(str(shared / "gpt2_bpe"))
    ids, last = encode(tok, ["hello world", "a"], 77)
    # published ids of "hello", " world", end of text
    assert ids[0].tolist()[:3] == [31373, 995, 50256] and last.tolist() == [2, 1]


def test_gpt2_tower_is_causal():
    tower = text_tower(32, 1, 2, 50, 16).eval()
    ids = torch.tensor([[3, 4, 5, 6]])
    other = torch.tensor([[3, 4, 9, 9]])
    with torch.no_grad():
        x, y = (tower(input_ids=i, use_cache=False).last_hidden_state for i in (ids, other))
    assert torch.allclose(x[:, :2], y[:, :2]) and not torch.allclose(x[:, 2:], y[:, 2:])


@pytest.mark.parametrize(
    ("more", "advice"), [([], "run the same command again"), (["resume=false"], "run the same command without resume=false")]
)
def test_the_advice_of_ctrl_c_holds(more, advice, tmp_path, monkeypatch, capsys):
    def interrupted(self):
        (tmp_path / "out" / "ckpt.pt").write_text("")
        raise KeyboardInterrupt

    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Trainer, "__init__", lambda self, config: None)
    monkeypatch.setattr(Trainer, "run", interrupted)
    assert main(["model=nano", "data=scenes", f"out={tmp_path / 'out'}", *more]) == 130
    assert advice in capsys.readouterr().err
