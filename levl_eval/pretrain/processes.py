"""One process or many: the accelerator, what runs where, and states that may be in shards (core.distributed has rank and world size).

`accelerate launch` and `torchrun` set the environment that says how many processes there are; without it there is one.
"""

from __future__ import annotations

import os
import warnings
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from levl_eval.core.device import pick_device
from levl_eval.core.distributed import joined_group, keep_freed_memory, launched_rank
from levl_eval.core.errors import UsageError
from levl_eval.models.config import PretrainConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

_PATIENCE = timedelta(hours=12)  # others wait this long while one process of a node decodes the data
_PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",), "trackio": ("trackio",)}


def has_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` computes in bfloat16 itself. A CPU without such instructions emulates it, many times slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type == "cpu":
        tests = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
        return any(test() for test in tests if test is not None)
    return False


def _trackers(config: PretrainConfig) -> list[str]:
    """The trackers asked for. Raises UsageError for an unknown one or one whose package is missing."""
    from importlib.util import find_spec

    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    for name in config.trackers:
        if name not in _PACKAGES:
            raise UsageError(f"field `trackers`: {name!r} is not one of {', '.join(_PACKAGES)}")
        if not any(find_spec(p) for p in _PACKAGES[name]):
            raise UsageError(
                f"field `trackers`: the package {_PACKAGES[name][0]} is not installed; pip install {_PACKAGES[name][0]}"
            )
        if name not in LOGGER_TYPE_TO_CLASS:
            raise UsageError(f"field `trackers`: the installed accelerate does not know {name}; pip install -U accelerate")
    return list(config.trackers)


def begin_trackers(accelerator: Accelerator, config: PretrainConfig) -> None:
    """Let the trackers asked for begin a run. Raises UsageError where one does not, as without a login."""
    if not config.trackers:
        return
    plain = {k: v if isinstance(v, (int, float, str, bool)) else str(v) for k, v in config.model_dump().items()}
    try:
        accelerator.init_trackers("levl-pretrain", config=plain)
    except Exception as e:  # each has errors of its own
        words = " ".join(str(e).split())[:200]
        raise UsageError(
            f"field `trackers`: {', '.join(config.trackers)} cannot begin ({type(e).__name__}: {words}); set it up, or leave it out"
        ) from e


def start(config: PretrainConfig) -> tuple[Any, torch.device]:
    """(accelerate's Accelerator, device of this process); joins the other processes where there are any.

    Raises UsageError for a device that is not there.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
    from accelerate.state import AcceleratorState, PartialState

    many = launched_rank()[1] > 1
    device = pick_device(config.device)
    if device.type == "cpu":
        keep_freed_memory()
    if device.type == "cpu" and many:
        os.environ.setdefault("OMP_NUM_THREADS", str(config.threads or 1))
    if joined_group().size == 1 and PartialState._shared_state and PartialState().device.type != device.type:
        AcceleratorState._reset_state(True)  # an earlier run of this Python process used another device
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        accelerator = Accelerator(
            cpu=device.type == "cpu",
            device_placement=False,
            mixed_precision="no",  # the loop's own autocast, recorded in the run, says what is in bfloat16
            log_with=_trackers(config) or None,
            project_dir=config.out,
            kwargs_handlers=[
                # BatchNorm's buffers are equal in all processes by construction (parallel.SyncBatchNorm1d).
                DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
                InitProcessGroupKwargs(timeout=_PATIENCE),
            ],
        )
    return accelerator, accelerator.device if many else device


def on_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """A copy on the device; to a GPU from pinned memory, so that the host does not wait for it."""
    x = torch.from_numpy(array)
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def log_image(accelerator: Accelerator, name: str, pixels: np.ndarray, step: int) -> None:
    """uint8 [H, W, 3] to the trackers that take images."""
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":
            tracker.log_images({name: pixels[None]}, step=step, dataformats="NHWC")
        elif hasattr(tracker, "log_images"):
            tracker.log_images({name: [pixels]}, step=step)


def sharded(accelerator: Any) -> bool:
    """Whether weights lie in shards (FSDP)."""
    out: bool = accelerator.distributed_type.value == "FSDP"
    return out


def states(accelerator: Any, wrapped: Any, model: Any, optimizer: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """(weights, optimizer state), whole, as the first process writes them. Where FSDP holds shards they are put together."""
    if not sharded(accelerator):
        return model.state_dict(), optimizer.state_dict()
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

    whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights, slots = get_state_dict(wrapped, optimizer.optimizer, options=whole)
    return weights, {"by_name": slots}


def restore_optimizer(accelerator: Any, wrapped: Any, optimizer: Any, state: dict[str, Any], where: Any) -> None:
    """Put back what :func:`states` gave. Raises UsageError where a run changes between FSDP and a single or DDP process."""
    if sharded(accelerator) != ("by_name" in state):
        raise UsageError(f"{where}: written {'without' if sharded(accelerator) else 'with'} FSDP; resume as it was started")
    if "by_name" not in state:
        optimizer.load_state_dict(state)
        return
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

    whole = StateDictOptions(full_state_dict=True)
    set_optimizer_state_dict(wrapped, optimizer.optimizer, state["by_name"], options=whole)
