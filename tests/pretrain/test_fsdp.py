"""FSDP as far as CPUs go: two gloo processes hold shards, give the whole state, and go on from it like one process.

accelerate offers FSDP on accelerators only. Its own preparation runs over gloo all the same, once its state says so: ``_by_fsdp``.
"""

from __future__ import annotations

import json
import os
import socket
from types import SimpleNamespace

import pytest
import torch

from levl_eval.core.progress import Progress
from levl_eval.models.config import parse_config
from levl_eval.models.towers import build_model
from levl_eval.pretrain import objectives, processes
from levl_eval.pretrain.loop import Trainer
from levl_eval.pretrain.parallel import sync_batch_norm
from levl_eval.pretrain.schedule import optimizer_of

pytestmark = pytest.mark.distributed

FSDP = SimpleNamespace(distributed_type=SimpleNamespace(value="FSDP"))
CONFIG = parse_config(["vision.depth=2", "text.depth=1", "vision.width=24", "text.width=16", "embed_dim=12", "head_width=20",
                       "predictor_width=16", "predictor_depth=1", "image_size=16", "max_length=9", "lr=0.01"])  # fmt: skip


def _sharded(model):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2,))
    for block in [*model.vision.encoder.blocks, *model.text.encoder.h]:  # as accelerate wraps transformer blocks
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def _steps(model, optimizer, first, last, rank=0, count=1):
    """Updates ``first`` to ``last``, each over this process's share of eight pairs."""
    for i in range(first, last):
        g = torch.Generator().manual_seed(i)
        pixels = torch.randn(8, 3, 16, 16, generator=g)
        ids, end = torch.randint(1, 50, (8, 9), generator=g), torch.arange(8) % 8 + 1
        mine = slice(rank * 8 // count, (rank + 1) * 8 // count)
        optimizer.zero_grad(set_to_none=True)
        loss, _ = objectives.loss_of(CONFIG, model(pixels[mine], ids[mine], end[mine]), lambda z: (z * z).mean())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def _optimizer(model):
    optimizer = optimizer_of(model, CONFIG)
    for group in optimizer.param_groups:  # biases in front of a BatchNorm have no gradient but rounding, which Adam would enlarge
        group["eps"] = 1e-3
    return optimizer


def _built(seed):
    torch.manual_seed(seed)
    return build_model(CONFIG, 50).train()


def _process(rank, port, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    model = _built(0)
    sync_batch_norm(model)
    model = _sharded(model)
    optimizer = _optimizer(model)
    _steps(model, optimizer, 0, 2, rank, 2)
    weights, slots = processes.states(FSDP, model, model, SimpleNamespace(optimizer=optimizer))
    if rank == 0:
        torch.save(weights, folder / "half.pt")
    box = [weights, slots]
    torch.distributed.broadcast_object_list(box, 0)  # the checkpoint, which every process reads
    weights, slots = box

    again = _built(1)
    again.load_state_dict(weights)
    sync_batch_norm(again)
    again = _sharded(again)
    optimizer = _optimizer(again)
    processes.restore_optimizer(FSDP, again, SimpleNamespace(optimizer=optimizer), slots, "ckpt.pt")
    _steps(again, optimizer, 2, 4, rank, 2)
    weights, _ = processes.states(FSDP, again, again, SimpleNamespace(optimizer=optimizer))
    if rank == 0:
        torch.save(weights, folder / "end.pt")
    torch.distributed.destroy_process_group()


def test_two_shards_train_save_and_go_on_like_one_process(tmp_path):
    import torch.multiprocessing as mp

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    mp.start_processes(_process, args=(port, tmp_path), nprocs=2, start_method="spawn")
    one = _built(0)
    optimizer = _optimizer(one)
    for first, last, name in ((0, 2, "half"), (2, 4, "end")):
        _steps(one, optimizer, first, last)
        both, expected = torch.load(tmp_path / f"{name}.pt", weights_only=True), one.state_dict()
        assert both.keys() == expected.keys()
        for k, v in expected.items():
            assert torch.allclose(both[k].float(), v.float(), rtol=1e-3, atol=1e-4), (name, k)
    moved = max((v - w).abs().max().item() for v, w in zip(_built(0).parameters(), one.parameters(), strict=True))
    assert moved > 0.01


WORDS = ["batch_size=16", "scenes_pool=48", "captions_per_image=2", "sigreg_slices=64", "vision.depth=2", "text.depth=1", "vocab_size=400",
         "precision=fp32", "log_every=1", "diagnose_every=5", "diagnose_images=16", "threads=1", "device=cpu", "warmup=2", "steps=5",
         "resume=true"]  # fmt: skip


def _by_fsdp(version, start=processes.start):
    """processes.start, and accelerate's state as a configuration with FSDP leaves it on a GPU."""

    def started(config):
        from accelerate.state import PartialState
        from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

        accelerator, device = start(config)
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
            fsdp_version=version, auto_wrap_policy="transformer_based_wrap"
        )
        accelerator.state.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        return accelerator, device

    return started


def _trainer(folder, name):
    return Trainer(parse_config([*WORDS, f"out={folder / name}"]), Progress(quiet=True), folder / "cache")


def _interrupted_run(rank, port, folder):
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2",
        OMP_NUM_THREADS="1",
    )  # fmt: skip
    processes.start = _by_fsdp(2)
    first = _trainer(folder, "fsdp")
    units = [m for m in first.wrapped.modules() if type(m).__name__ in ("FSDPClassTokenBlock", "FSDPGPT2Block")]
    assert len(units) == 3  # each block, without being named
    first.wrapped.train()
    for _ in range(3):
        first.train_step()
    first.save()  # and no more of it: as if it were killed here
    torch.distributed.barrier()
    _trainer(folder, "fsdp").run()
    torch.distributed.destroy_process_group()


def test_accelerates_own_fsdp_trains_saves_and_resumes_like_one_process(tmp_path):
    import torch.multiprocessing as mp

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    _trainer(tmp_path, "one").run()
    mp.start_processes(_interrupted_run, args=(port, tmp_path), nprocs=2, start_method="spawn")
    losses, ends = [], []
    for name in ("one", "fsdp"):
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        losses.append({line["step"]: line["loss"] for line in lines})
        ends.append(torch.load(tmp_path / name / "ckpt.pt", weights_only=True))
    assert list(losses[0]) == [1, 2, 3, 4, 5] and list(losses[1]) == [4, 5]
    assert [losses[1][k] for k in (4, 5)] == pytest.approx([losses[0][k] for k in (4, 5)], rel=2e-4)
    for side in ("vision", "text"):
        for part in ("encoder", "pre_proj"):
            one, two = (e[side][part] for e in ends)
            assert one.keys() == two.keys() and all(one[k].shape == two[k].shape for k in one)
    one, two = (e["vision"]["encoder"]["blocks.0.mlp.fc1.weight"] for e in ends)
    assert torch.allclose(one, two, atol=2e-3) and not torch.equal(two, torch.zeros_like(two))
