"""The mmseg engine: a head trained by mmengine's Runner on augmented images, the frozen encoder in every step."""

from __future__ import annotations

import contextlib
import hashlib
import io
import tempfile
import time
import warnings
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from levl_eval.cards import MMSegCard, protocol_of
from levl_eval.cards.mmseg_trust import no_imports_by_name
from levl_eval.core.errors import LevlError
from levl_eval.core.hashing import digest
from levl_eval.data.readers import read_segmentation
from levl_eval.data.types import SegmentationSet
from levl_eval.engines.contract import Context, Outcome
from levl_eval.engines.convergence import convergence, thinned
from levl_eval.engines.dense_common import upsample
from levl_eval.engines.dense_images import spread
from levl_eval.engines.floors import class_shares, of_counts
from levl_eval.engines.segmentation.fitting import full_mask, grid_labels
from levl_eval.engines.segmentation.images import keep_predictions
from levl_eval.engines.segmentation.mmseg_config import Config, Plan, plan_of
from levl_eval.engines.segmentation.sweep import class_counts
from levl_eval.engines.segmentation.task import mean_iou_of, outcome_of
from levl_eval.features.request import check_size
from levl_eval.records.identity import cache_key

if TYPE_CHECKING:
    from mmengine.config import ConfigDict

    from levl_eval.backbones.base import Backbone

POINTS = 100  # of the loss in a record
PLACES = 32  # rows and columns of the majority map


def run(context: Context[MMSegCard]) -> Outcome:
    """Train the card's head and score it on its test set. Raises UsageError/LevlError for unusable data and configs."""
    card = context.card
    context.ready()  # no features are stored here, so nobody can help
    test = read_segmentation(card.data, context.data, context.limit)
    train = read_segmentation(card.train, context.data)
    if train.classes != test.classes:
        raise LevlError(
            f"{card.name}: training and test set name different classes ({len(train.classes)} and {len(test.classes)}); use one list"
        )
    if len(test.classes) > 255:
        raise LevlError(
            f"{card.name}: mmseg's masks hold at most 255 classes, the set has {len(test.classes)}; use `segmentation`"
        )
    plan = plan_of(card, context.backbone, len(test.classes))
    if card.config_text is None:
        check_size(context.backbone, card.crop or context.backbone.preprocess.size, context.device)
    if context.work is None:
        with tempfile.TemporaryDirectory() as folder:
            return _train_and_score(context, plan, train, test, Path(folder))
    return _train_and_score(context, plan, train, test, context.work)


HEAD = 2  # version of the training: raised when equal inputs would give another head; 2: patches of encoders that round up


def head_key(context: Context[MMSegCard], train: SegmentationSet, amp: str = "") -> str:
    """What a kept training must share to be resumed. amp: where mixed precision was asked for, what became of it."""
    backbone = context.backbone
    return cache_key(
        "mmseg head", HEAD, encoder=backbone.encoder_parts(), preprocess=backbone.preprocess.describe(),
        protocol=protocol_of(context.card), seed=context.seed, device=context.device.type, mixed_precision=amp,
        train={"masks": train.fingerprint, "images": train.images.fingerprint, "order": digest(list(train.images.ids))},
        classes=list(train.classes), ignore=train.ignore_index, libraries={p: _version(p) for p in ("mmsegmentation", "mmengine")},
    )  # fmt: skip


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _train_and_score(
    context: Context[MMSegCard], plan: Plan, train: SegmentationSet, test: SegmentationSet, work: Path
) -> Outcome:
    from levl_eval.engines.segmentation import mmseg_parts

    mmseg_parts.register(plan.imports)
    device, card, seed = context.device, context.card, context.seed
    wrapper, amp = _on_device(plan.optim_wrapper, device)
    file, identity = work / "head.pt", head_key(context, train, amp)
    state = mmseg_parts.kept(file, identity)
    if state is None and file.exists():
        context.progress.say(f"  {file}: of another training, or damaged; training starts anew")
    first = 0 if state is None else int(state["step"])
    if first:
        context.progress.say(f"  resumes from step {first} of {plan.steps}")
    losses: list[float] = [] if state is None else list(state["losses"])
    seen = torch.zeros(mmseg_parts.VOID + 1, dtype=torch.bool) if state is None else state["seen"]
    learn = mmseg_parts.TaskImages(train, plan.train_pipeline, seed)
    places = mmseg_parts.Places(len(learn), first * plan.batch_size, plan.steps * plan.batch_size, seed)
    judge = mmseg_parts.TaskImages(test, plan.test_pipeline, seed)
    started = time.monotonic()
    with (
        quiet_libraries(),
        no_imports_by_name(card.trusted),
        context.progress.stage(f"{card.name} head", plan.steps, "step") as stage,
    ):
        stage.done = first
        shown = [test.images.ids[i] for i in spread(len(test.images), 6)]
        metric = mmseg_parts.PerImage(ignore_index=mmseg_parts.VOID, iou_metrics=["mIoU"])
        metric.wanted = frozenset(shown)
        runner = mmseg_parts.HeadRunner(
            model=_with_backbone(plan.model, context.backbone), work_dir=str(work), device=device, state=state,
            train_dataloader=mmseg_parts.loader(learn, places, plan.batch_size, device),
            test_dataloader=mmseg_parts.loader(judge, None, 1, device),
            train_cfg={"type": "LevlTrainLoop", "max_iters": plan.steps}, test_cfg={"type": "TestLoop"},
            optim_wrapper=wrapper, param_scheduler=plan.param_scheduler, test_evaluator=[metric],
            default_hooks={"checkpoint": None, "logger": None},
            custom_hooks=[mmseg_parts.Keeper(file, identity, card.checkpoint_every, stage, losses, seen)],
            default_scope="mmseg", randomness={"seed": seed}, log_level="ERROR",
            experiment_name=hashlib.sha256(f"{identity}{work}".encode()).hexdigest()[:16],
        )  # fmt: skip
        runner.train()
    seconds = {"head": time.monotonic() - started}
    started = time.monotonic()
    with quiet_libraries(), no_imports_by_name(card.trusted):
        official = runner.test()
    seconds["scores"] = time.monotonic() - started
    keep_predictions(work, card, test, {name: metric.kept[name] for name in shown})
    order = {name: k for k, name in enumerate(metric.ids)}
    counts = metric.counts()[[order[name] for name in test.images.ids]]
    notes: dict[str, object] = {
        **plan.notes, "steps_before_this_run": first, "head_loss": thinned(losses, POINTS), "converged": convergence(losses),
        "classes_absent_from_training": [name for c, name in enumerate(test.classes) if not seen[c]],
        "head_parameters": sum(p.numel() for p in runner.model.parameters()),
        "mmseg": {k: float(v) for k, v in official.items()},  # as its IoUMetric prints them: percent, rounded
        **({"mixed_precision": amp} if amp else {}),
    }  # fmt: skip
    outcome = outcome_of(train, test, counts, notes, seconds, {})
    outcome.metrics |= of_counts("majority_map", counts, _unsighted(context, train, test), mean_iou_of)
    return outcome


def _unsighted(context: Context[MMSegCard], train: SegmentationSet, test: SegmentationSet) -> np.ndarray:
    """int64 [N, C, 3] counts of the floor without an image: the most frequent class at each place of the training masks."""
    grid = (PLACES, PLACES)
    names = context.progress.track(train.images.ids, "training masks", unit="mask")
    labels = np.stack([grid_labels(full_mask(train, n), grid).astype(np.int16) for n in names])
    shares = torch.from_numpy(class_shares(labels, len(train.classes), train.ignore_index))[None]
    out = np.zeros((len(test.images), len(test.classes), 3), np.int64)
    for k, name in enumerate(context.progress.track(test.images.ids, "scoring the floor", unit="mask")):
        truth = torch.from_numpy(full_mask(test, name)).long()
        predicted = upsample(shares, (truth.shape[0], truth.shape[1])).argmax(1)[0]
        keep = truth != test.ignore_index
        out[k] = class_counts(predicted[keep], truth[keep], len(test.classes)).numpy()
    return out


def _with_backbone(model: Config, backbone: Backbone) -> ConfigDict:
    from mmengine.config import ConfigDict  # mmseg reads its test_cfg by attribute

    own = model["backbone"]
    assert isinstance(own, dict)
    return ConfigDict({**model, "backbone": {**own, "uri": backbone, "normalized": True}})


def _on_device(wrapper: Config, device: torch.device) -> tuple[Config, str]:
    """mmengine's mixed precision works on a GPU only; elsewhere the same optimiser runs in full precision, and the record says so."""
    if wrapper.get("type") == "AmpOptimWrapper" and device.type != "cuda":
        kept = {k: v for k, v in wrapper.items() if k not in ("dtype", "loss_scale")}
        return {**kept, "type": "OptimWrapper"}, "off: no CUDA device"
    return wrapper, ""


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keeps mmengine's and mmseg's talk about themselves out of a run's table (its log is in the work folder), and errors to a line."""
    from levl_eval.engines.segmentation.mmseg_parts import by_itself

    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(), by_itself():
        warnings.simplefilter("ignore")
        try:
            yield
        except LevlError as e:
            lines = str(e).strip().splitlines()
            if len(lines) > 1:  # a loader's process sends its whole traceback
                raise LevlError(lines[-1].partition("Error: ")[2] or lines[-1]) from e
            raise
