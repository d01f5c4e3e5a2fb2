"""Two processes over gloo are one process with twice the batch; both launchers start a run, and continue one another's."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from levl_eval.core.distributed import joined_group
from levl_eval.core.errors import UsageError
from levl_eval.core.progress import Progress
from levl_eval.models.config import parse_config
from levl_eval.pretrain import objectives, processes
from levl_eval.pretrain.loop import Trainer
from levl_eval.pretrain.parallel import SyncBatchNorm1d, gather, sync_batch_norm

RUNS = {
    "levljepa": ["sigreg_scope=global"],
    "levljepa_plus": ["objective=levljepa_plus", "local_views=1"],
    "clip": ["objective=clip", "accumulate=2"],
    "siglip": ["objective=siglip"],
}


def _words(folder, name):
    return [f"out={folder / name}", "steps=5", "batch_size=16", "scenes_pool=48", "captions_per_image=2", "sigreg_slices=64",
            "vision.depth=1", "text.depth=1", "vocab_size=400", "precision=fp32", "log_every=1", "diagnose_every=5",
            "diagnose_images=16", "threads=1", "device=cpu", "warmup=2", *RUNS[name]]  # fmt: skip


def _losses(folder, name):
    return [json.loads(line)["loss"] for line in (folder / name / "metrics.jsonl").read_text().splitlines()]


def _exact():
    """Embeddings of eight rows and what the losses are made of, in float64: this process's share or all of it."""
    g = torch.Generator().manual_seed(0)
    z_v, z_t = (torch.randn(8, 5, generator=g, dtype=torch.float64) for _ in range(2))
    norm = nn.BatchNorm1d(5).double()
    with torch.no_grad():
        norm.weight.copy_(torch.arange(1.0, 6.0))
        norm.bias.fill_(0.3)
    scale, bias = torch.tensor(1.1, dtype=torch.float64), torch.tensor(-2.0, dtype=torch.float64)
    return z_v, z_t, norm, scale, bias


def _losses_and_gradients(rank, count):
    """Loss of each objective on this process's rows behind a BatchNorm, and its gradients; to be averaged over processes."""
    out = {}
    for name in ("clip", "siglip", "norm"):
        z_v, z_t, norm, scale, bias = _exact()
        rows = slice(rank * 8 // count, (rank + 1) * 8 // count)
        v, t = z_v[rows].clone().requires_grad_(), z_t[rows].clone().requires_grad_()
        scale.requires_grad_(), bias.requires_grad_()
        if count > 1:
            norm = sync_batch_norm(nn.Sequential(norm))[0]
            assert isinstance(norm, SyncBatchNorm1d)
        y = norm(v)
        if name == "clip":
            loss = objectives.clip(y, t, scale)
        elif name == "siglip":
            loss = objectives.siglip(y, t, scale, bias)
        else:
            loss = y.pow(3).mean()
        loss.backward()
        shared = {"scale": scale.grad, "bias": bias.grad, "weight": norm.weight.grad, "shift": norm.bias.grad}
        out[name] = {
            "loss": loss.detach(), "v": v.grad, "t": t.grad, "mean": norm.running_mean, "var": norm.running_var,
            "shared": {k: g for k, g in shared.items() if g is not None},
        }  # fmt: skip
    return out


def _process(rank, port, folder):
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2",
        OMP_NUM_THREADS="1",
    )  # fmt: skip
    for name in RUNS:
        Trainer(parse_config(_words(folder, name)), Progress(quiet=True), folder / "cache").run()
    there = folder / "levljepa" if rank == 0 else folder / "elsewhere"  # a node that does not share out=
    with pytest.raises(
        UsageError, match="ckpt.pt: the first process sees step 5, process 1 no checkpoint; all nodes must share out="
    ):
        Trainer(
            parse_config([*_words(folder, "levljepa"), f"out={there}", "resume=true"]), Progress(quiet=True), folder / "cache"
        )
    x = torch.full((2, 3), float(rank), dtype=torch.float64, requires_grad=True)
    whole = gather(x)
    assert whole[:, 0].tolist() == [0, 0, 1, 1]
    torch.save({"exact": _losses_and_gradients(rank, 2), "mean": joined_group().mean(rank, 4.0)}, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def _port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The runs by two processes together."""
    import torch.multiprocessing as mp

    folder = tmp_path_factory.mktemp("two")
    mp.start_processes(_process, args=(_port(), folder), nprocs=2, start_method="spawn")
    return folder


@pytest.mark.distributed
@pytest.mark.parametrize("name", list(RUNS))
def test_two_processes_follow_one_with_the_same_batch(two, tmp_path, name):
    words = _words(tmp_path, name)
    Trainer(parse_config(words), Progress(quiet=True), two / "cache").run()
    one, both = _losses(tmp_path, name), _losses(two, name)
    assert len(both) == 5 and both == pytest.approx(one, rel=2e-4)
    assert len(set(both)) == 5
    a, b = (torch.load(f / name / "ckpt.pt", weights_only=True) for f in (tmp_path, two))
    for side in ("vision", "text"):
        x, y = (s[side]["pre_proj"]["1.running_var"] for s in (a, b))
        assert torch.allclose(x, y, rtol=1e-3, atol=1e-5)


@pytest.mark.distributed
def test_gathered_negatives_and_batch_norm_have_the_gradients_of_the_whole_batch(two):
    whole = _losses_and_gradients(0, 1)
    parts = [torch.load(two / f"{r}.pt", weights_only=True) for r in range(2)]
    assert all(p["mean"] == [0.5, 4.0] for p in parts)
    for name, expected in whole.items():
        got = [p["exact"][name] for p in parts]
        assert sum(g["loss"] for g in got).item() / 2 == pytest.approx(expected["loss"].item(), rel=1e-12)
        for side in ("v", "t"):
            if expected[side] is not None:  # gradients of parameters behind these rows are averaged over processes
                joined = torch.cat([g[side] for g in got]) / 2
                assert torch.allclose(joined, expected[side], rtol=1e-9, atol=1e-12), (name, side)
        for k, g in expected["shared"].items():
            assert torch.allclose(sum(p["shared"][k] for p in got) / 2, g, rtol=1e-9, atol=1e-12), (name, k)
        for k in ("mean", "var"):
            assert torch.allclose(got[0][k], expected[k]) and torch.equal(got[0][k], got[1][k])


@pytest.mark.distributed
def test_torchrun_on_two_nodes_begins_and_accelerate_on_one_goes_on(tmp_path):
    env = {**os.environ, "LEVL_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    run = [*_words(tmp_path, "levljepa"), "resume=true"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1",
                "--master-port", str(_port())]  # fmt: skip
    # On CPUs `--cpu` asks for mpirun; `--multi_gpu` is the launcher of several processes, and device=cpu keeps them off GPUs.
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
                  "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(_port())]  # fmt: skip
    nodes = [
        subprocess.Popen(
            [*torchrun, "--node-rank", str(i), "-m", "levl_eval.pretrain.cli", *run],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for i in range(2)
    ]  # fmt: skip
    said = [p.communicate(timeout=600) for p in nodes]
    assert [p.returncode for p in nodes] == [0, 0], said[0][1][-2000:] + said[1][1][-2000:]
    assert sum(out.count("ckpt.pt: step 5") for out, _ in said) == 1  # one process of all speaks
    told = json.loads((tmp_path / "levljepa" / "run.json").read_text())
    assert told["processes"] == 2 and told["precision"] == "fp32"
    script = [*accelerate, "--no_python", str(Path(sys.executable).with_name("levl-pretrain")), *run]
    p = subprocess.run(script, env=env, capture_output=True, text=True, timeout=600)
    assert p.returncode == 0, p.stderr[-2000:]
    assert json.loads((tmp_path / "levljepa" / "run.json").read_text())["started_at_step"] == 5
    assert len(_losses(tmp_path, "levljepa")) == 5


@pytest.mark.slow
def test_precision_follows_the_device_and_stays(tmp_path, monkeypatch):
    words = [w for w in _words(tmp_path, "clip") if not w.startswith("precision")] + ["steps=1", "accumulate=1"]
    monkeypatch.setattr(processes, "has_bfloat16", lambda device: False)
    t = Trainer(parse_config(words), Progress(quiet=True), tmp_path / "cache")
    assert t.config.precision == "fp32" and "precision: fp32" in (tmp_path / "clip" / "config.yaml").read_text()
    t.run()
    monkeypatch.setattr(processes, "has_bfloat16", lambda device: True)
    assert Trainer(parse_config([*words, "resume=true"]), Progress(quiet=True), tmp_path / "cache").config.precision == "fp32"
    fresh = [w if not w.startswith("out=") else f"out={tmp_path / 'b'}" for w in words]
    t = Trainer(parse_config(fresh), Progress(quiet=True), tmp_path / "cache")
    assert t.config.precision == "bf16"
    t.wrapped.train()
    value, _ = t.train_step()
    assert value > 0 and all(p.dtype == torch.float32 for p in t.model.parameters())


def test_trackers_that_are_not_there_are_one_line(tmp_path, monkeypatch):
    import importlib.util

    words = _words(tmp_path, "clip")
    with pytest.raises(UsageError, match="'mlflow' is not one of tensorboard, wandb, trackio"):
        Trainer(parse_config([*words, "trackers=[mlflow]"]), Progress(quiet=True), tmp_path / "cache")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="package wandb is not installed; pip install wandb"):
        Trainer(parse_config([*words, "trackers=[wandb]"]), Progress(quiet=True), tmp_path / "cache")


@pytest.mark.slow
def test_a_tracker_that_cannot_begin_is_one_line(tmp_path):
    """wandb without a login was called a fault of this program."""

    class Accelerator:
        def init_trackers(self, *_, **__):
            raise RuntimeError("No API key configured.\nUse `wandb login` to log in.")

    config = parse_config(["trackers=[wandb]", f"out={tmp_path}"])
    with pytest.raises(
        UsageError, match="^field `trackers`: wandb cannot begin .RuntimeError: No API key configured. Use .*; set it up"
    ) as e:
        processes.begin_trackers(Accelerator(), config)
    assert "\n" not in str(e.value)
    processes.begin_trackers(None, parse_config([]))


def test_a_tracker_receives_what_the_metrics_file_says(tmp_path):
    from accelerate.tracking import GeneralTracker

    class RunCache(GeneralTracker):
        name, requires_logging_directory = "kept", False

        def __init__(self):
            super().__init__()
            self.lines, self.config, self.ended = [], None, False

        @property
        def tracker(self):
            return self.lines

        def store_init_configuration(self, values):
            self.config = values

        def log(self, values, step=None, **kwargs):
            self.lines.append((step, values))

        def finish(self):
            self.ended = True

    t = Trainer(parse_config([*_words(tmp_path, "clip"), "steps=2", "accumulate=1"]), Progress(quiet=True), tmp_path / "cache")
    kept = RunCache()
    t.config = t.config.model_copy(update={"trackers": ("kept",)})
    t.accelerator.log_with = [kept]
    t.run()
    lines = [json.loads(line) for line in (tmp_path / "clip" / "metrics.jsonl").read_text().splitlines()]
    assert [(step, values["loss"]) for step, values in kept.lines] == [(1, lines[0]["loss"]), (2, lines[1]["loss"])]
    assert kept.config["objective"] == "clip" and kept.ended and "rank_v" in kept.lines[-1][1]


def test_batch_norm_of_one_process_is_torchs():
    x = torch.randn(7, 3, dtype=torch.float64)
    plain, ours = nn.BatchNorm1d(3).double(), SyncBatchNorm1d(3).double()
    assert torch.equal(plain(x), ours(x)) and torch.equal(plain.running_var, ours.running_var)
    assert F.mse_loss(ours.eval()(x), plain.eval()(x)) == 0


STUBS = {
    "wandb": """
class Settings: ...
class Image:
    def __init__(self, x): self.shape = list(x.shape)
class Run:
    config = {}
    def log(self, values, step=None, **more): note(values, step)
    def finish(self): note({"finished": 1}, None)
def init(**words):
    global run, config
    run = Run(); config = Config(); return run
class Config(dict):
    def update(self, values, **more): dict.update(self, values)
def log(values, step=None, **more): note(values, step)
""",
    "trackio": """
class Run:
    def log(self, values, step=None, **more): note(values, step)
    def finish(self): note({"finished": 1}, None)
class Config(dict):
    def update(self, values, **more): dict.update(self, values)
config = Config()
def init(project, **words): return Run()
""",
    "tensorboardX": """
class SummaryWriter:
    def __init__(self, folder, **words): self.folder = folder
    def add_hparams(self, values, metric_dict): pass
    def add_scalar(self, name, value, global_step=None): note({name: value}, global_step)
    def add_images(self, name, pixels, global_step=None, dataformats=None): note({name: list(pixels.shape)}, global_step)
    def add_text(self, name, value, global_step=None): note({name: value}, global_step)
    def flush(self): pass
    def close(self): note({"finished": 1}, None)
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_every_tracker_names_metrics_as_the_file_does(tmp_path, name):
    """Stand-ins for the libraries, behind accelerate's own trackers, write what they are given."""
    stub = tmp_path / "stubs"
    stub.mkdir()
    package = "tensorboardX" if name == "tensorboard" else name
    (stub / f"{package}.py").write_text(
        "import json, os\n__version__ = '9.9'\n"
        "def note(values, step):\n    shape = lambda x: getattr(x, 'shape', str(x))\n"
        "    open(os.environ['NOTES'], 'a').write(json.dumps([values, step], default=shape) + '\\n')\n" + STUBS[package]
    )
    (stub / f"{package}-9.9.dist-info").mkdir()  # accelerate asks for a package's metadata
    (stub / f"{package}-9.9.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 9.9\n")
    if name == "tensorboard":  # torch's own writer needs the package; without it accelerate takes tensorboardX
        (stub / "sitecustomize.py").write_text(
            "import sys\nsys.modules['tensorboard'] = None\nsys.modules['torch.utils.tensorboard'] = None\n"
        )
    _classes(tmp_path / "probe")
    env = {**os.environ, "PYTHONPATH": f"{stub}{os.pathsep}{os.environ.get('PYTHONPATH', '')}", "NOTES": str(tmp_path / "notes"),
           "LEVL_CACHE": str(tmp_path / "cache")}  # fmt: skip
    words = [
        *_words(tmp_path, "clip"),
        f"trackers=[{name}]",
        "steps=2",
        "diagnose_every=2",
        f"probe={tmp_path / 'probe'}",
        "neighbours=1",
    ]
    p = subprocess.run(
        [sys.executable, "-m", "levl_eval.pretrain.cli", *words], env=env, capture_output=True, text=True, timeout=300
    )
    assert p.returncode == 0, p.stderr[-3000:]
    lines = [json.loads(line) for line in (tmp_path / "clip" / "metrics.jsonl").read_text().splitlines()]
    notes = [json.loads(line) for line in (tmp_path / "notes").read_text().splitlines()]
    by_step = {}
    for values, step in notes:
        by_step.setdefault(step, {}).update(values)
    assert by_step.pop(None) == {"finished": 1}
    assert bool(by_step[2].pop("neighbours", None)) == (name != "trackio")  # accelerate gives trackio no images
    assert [{"step": step, **values} for step, values in sorted(by_step.items())] == lines


def _classes(folder):
    from PIL import Image

    for split in ("train", "test"):
        for label, colour in (("dark", 20), ("light", 220)):
            (folder / split / label).mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (40, 40), (colour + i,) * 3).save(folder / split / label / f"{i}.png")
