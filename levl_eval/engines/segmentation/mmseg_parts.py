"""What mmengine's Runner is given: our data set, labels, linear head and metric, and a training loop that resumes after a kill.

Importing this module registers them with mmseg. A image's augmentation depends on the seed and on its place in the training
alone, so that a resumed training gives the same head as one that was never stopped (on a CPU bit for bit).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from levl_eval.core.third_party import repair_mmseg

repair_mmseg()

from mmengine.dataset import Compose, pseudo_collate  # noqa: E402
from mmengine.dist import utils as dist_utils  # noqa: E402
from mmengine.hooks import Hook  # noqa: E402
from mmengine.runner import IterBasedTrainLoop, Runner  # noqa: E402
from mmengine.utils import import_modules_from_strings  # noqa: E402
from mmseg.evaluation import IoUMetric  # noqa: E402
from mmseg.models.decode_heads.decode_head import BaseDecodeHead  # noqa: E402
from mmseg.registry import LOOPS, MODELS, TRANSFORMS  # noqa: E402
from mmseg.utils import register_all_modules  # noqa: E402

from levl_eval.core.children import begin_child  # noqa: E402
from levl_eval.core.errors import check_finite  # noqa: E402
from levl_eval.core.kept import Damaged, read_state, write_state  # noqa: E402
from levl_eval.core.progress import Stage  # noqa: E402
from levl_eval.core.random_state import RandomState, random_state, restore_random_state, seeded  # noqa: E402
from levl_eval.data.types import SegmentationSet  # noqa: E402
from levl_eval.engines.segmentation.fitting import full_mask  # noqa: E402
from levl_eval.engines.segmentation.mmseg_backbone import LevlBackbone  # noqa: E402, F401 (imported for its registration)

if TYPE_CHECKING:
    from mmseg.structures import SegDataSample

VOID = 255  # mmseg's label of pixels that do not count
FORMAT = 3


def register(imports: Mapping[str, object] | None = None) -> None:
    """Fill mmseg's registries, and import what a user's config asks for (mmengine's ``custom_imports``)."""
    register_all_modules()
    if imports:
        import_modules_from_strings(**imports)


@contextlib.contextmanager
def by_itself() -> Iterator[None]:
    """mmengine would join a process group that other tasks of a run use together; a head is trained by one process alone."""
    before = dist_utils.is_distributed
    dist_utils.is_distributed = lambda: False
    try:
        yield
    finally:
        dist_utils.is_distributed = before


@TRANSFORMS.register_module()
class LevlLabels:
    """Puts a image's labels (uint8 [H, W], 255 void) where mmseg's LoadAnnotations would."""

    def __call__(self, results: dict[str, object]) -> dict[str, object]:
        results["gt_seg_map"] = results.pop("levl_mask")
        fields = results["seg_fields"]
        assert isinstance(fields, list)
        fields.append("gt_seg_map")
        return results


@MODELS.register_module()
class LevlLinearHead(BaseDecodeHead):
    """Batch norm and one linear layer on each token (DINOv2's linear head)."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.norm = nn.BatchNorm2d(self.in_channels)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        out: Tensor = self.cls_seg(self.norm(self._transform_inputs(inputs)))
        return out


class TaskImages(Dataset[dict[str, object]]):
    """A segmentation set behind an mmseg pipeline. Indexed by (place in the training, image); BGR images, as mmseg expects."""

    def __init__(self, data: SegmentationSet, pipeline: Sequence[Mapping[str, object]], seed: int) -> None:
        self.data, self.seed = data, seed
        self.pipeline = Compose(list(pipeline))
        self.metainfo = {"classes": data.classes, "palette": None}

    def __len__(self) -> int:
        return len(self.data.images)

    def __getitem__(self, where: tuple[int, int] | int) -> dict[str, object]:
        place, row = where if isinstance(where, tuple) else (0, where)
        name = self.data.images.ids[row]
        mask = full_mask(self.data, name)
        pixels = np.ascontiguousarray(np.asarray(self.data.images.open(name))[..., ::-1])
        results = {
            "img": pixels, "img_shape": pixels.shape[:2], "ori_shape": pixels.shape[:2], "img_path": name, "seg_map_path": name,
            "seg_fields": [], "reduce_zero_label": False,
            "levl_mask": np.where(mask == self.data.ignore_index, VOID, mask).astype(np.uint8),
        }  # fmt: skip
        with seeded(int(np.random.SeedSequence([self.seed, place]).generate_state(1)[0])):
            out: dict[str, object] = self.pipeline(results)
            return out


class Places(Sampler[tuple[int, int]]):
    """(place, image) from place ``start`` to ``end``: one permutation of the images after another."""

    def __init__(self, images: int, start: int, end: int, seed: int) -> None:
        self.images, self.start, self.end, self.seed = images, start, end, seed

    def __len__(self) -> int:
        return self.end - self.start

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order, of = np.zeros(0, np.int64), -1
        for place in range(self.start, self.end):
            epoch, k = divmod(place, self.images)
            if epoch != of:
                order, of = np.random.default_rng([self.seed, epoch]).permutation(self.images), epoch
            yield place, int(order[k])


def loader(
    images: TaskImages, sampler: Sampler[tuple[int, int]] | None, batch_size: int, device: torch.device
) -> DataLoader[dict[str, object]]:
    """Batches in the sampler's order; decoded by processes beside a GPU, in place on a CPU that has the encoder to run."""
    workers = min(8, os.cpu_count() or 1) if device.type == "cuda" else 0
    return DataLoader(
        images,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=pseudo_collate,
        persistent_workers=workers > 0,
        worker_init_fn=begin_child,
    )


class _Segmented(TypedDict):
    """Of an mmseg data sample, as its metrics get it, what is read here."""

    img_path: str
    pred_sem_seg: dict[str, Tensor]


class PerImage(IoUMetric):
    """mmseg's IoUMetric that also keeps its areas by image: ``ids`` and ``areas`` (intersection, union, prediction, target)."""

    default_prefix = ""
    wanted: frozenset[str] = frozenset()  # images whose predictions are kept too
    ids: list[str]
    areas: list[tuple[Tensor, Tensor, Tensor, Tensor]]
    kept: dict[str, np.ndarray]

    def process(self, data_batch: dict[str, object], data_samples: Sequence[_Segmented]) -> None:
        super().process(data_batch, data_samples)
        self.ids = [*getattr(self, "ids", []), *(s["img_path"] for s in data_samples)]
        self.kept = getattr(self, "kept", {})
        for sample in data_samples:
            if sample["img_path"] in self.wanted:
                self.kept[sample["img_path"]] = sample["pred_sem_seg"]["data"].squeeze(0).cpu().numpy()

    def compute_metrics(self, results: list[tuple[Tensor, Tensor, Tensor, Tensor]]) -> dict[str, float]:
        self.areas = list(results)
        out: dict[str, float] = super().compute_metrics(results)
        return out

    def counts(self) -> np.ndarray:
        """int64 [N, C, 3] pixels of (intersection, target, prediction) by image and class."""
        return np.stack([torch.stack([i, t, p], -1).cpu().numpy() for i, _, p, t in self.areas]).round().astype(np.int64)


@LOOPS.register_module()
class LevlTrainLoop(IterBasedTrainLoop):
    """mmengine's loop by steps, whose loader begins where the training resumes: nothing is decoded only to be skipped."""

    def run(self) -> nn.Module:
        self.runner.call_hook("before_train")
        self.runner.call_hook("before_train_epoch")
        while self._iter < self._max_iters:
            self.runner.model.train()
            self.run_iter(next(self.dataloader_iterator))
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")
        out: nn.Module = self.runner.model
        return out


class Keeper(Hook):
    """Watches the loss, shows progress and keeps the head with all a training needs to resume, in one atomic file."""

    priority = "VERY_LOW"  # after the schedulers took their step

    def __init__(self, file: Path, identity: str, every: int, stage: Stage, losses: list[float], seen: Tensor) -> None:
        """losses: one a step so far, added to. seen: bool [256], which labels stood in a training crop, filled in."""
        self.file, self.identity, self.every, self.stage, self.losses, self.seen = file, identity, every, stage, losses, seen

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Mapping[str, Sequence[SegDataSample]] | None = None,
        outputs: dict[str, Tensor] | None = None,
    ) -> None:
        loss = float((outputs or {})["loss"].detach())
        check_finite(loss, f"mmseg head, step {runner.iter}: the loss", "lower `lr`")
        self.losses.append(loss)
        for sample in (data_batch or {}).get("data_samples", ()):
            self.seen |= torch.bincount(sample.gt_sem_seg.data.flatten().cpu(), minlength=VOID + 1) > 0
        self.stage.advance(note=f"loss {loss:.3f}")
        done = runner.iter + 1
        if done % self.every == 0 or done == runner.max_iters:
            state: HeadState = {
                "format": FORMAT, "step": done, "losses": self.losses, "seen": self.seen,
                "head": runner.model.state_dict(), "optim": runner.optim_wrapper.state_dict(),
                "schedulers": [s.state_dict() for s in runner.param_schedulers], "random": random_state(),
            }  # fmt: skip
            write_state(self.file, self.identity, state)


class HeadState(TypedDict):
    """What a training needs to resume; ``format`` is FORMAT."""

    format: int
    step: int
    losses: list[float]  # one a step
    seen: Tensor
    head: dict[str, Tensor]
    optim: dict[str, object]
    schedulers: list[dict[str, object]]
    random: RandomState


def kept(file: Path, identity: str) -> HeadState | None:
    """What a Keeper of the same training left, or None: nothing, a damaged file, or another training's."""
    try:
        state = read_state(file, identity)
    except (FileNotFoundError, Damaged):
        return None
    return cast("HeadState", state) if state.get("format") == FORMAT else None  # tied to its key, hence ours


class HeadRunner(Runner):
    """mmengine's Runner on one device, going on from a Keeper's state."""

    def __init__(self, *args: object, device: torch.device, state: HeadState | None, **kwargs: object) -> None:
        self.levl_device, self.levl_state = device, state
        super().__init__(*args, **kwargs)

    def wrap_model(self, model_wrapper_cfg: object, model: nn.Module) -> nn.Module:
        return model.to(self.levl_device)

    def load_or_resume(self) -> None:
        state, self.levl_state = self.levl_state, None
        if state is None:
            return
        self.model.load_state_dict(state["head"])
        self.optim_wrapper.load_state_dict(state["optim"])
        for scheduler, values in zip(self.param_schedulers, state["schedulers"], strict=True):
            scheduler.load_state_dict(values)
        restore_random_state(state["random"])
        self.train_loop._iter = state["step"]
