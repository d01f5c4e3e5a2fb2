"""The depth-recipe engine: a bins head trained on augmented images
with the frozen encoder in every step (DINOv2's and DINOv3's linear depth heads)."""

from __future__ import annotations

import math
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from levl_eval.backbones.base import Backbone, missing_pixels
from levl_eval.cards import protocol_of
from levl_eval.cards.dense import DepthRecipeCard
from levl_eval.core.distributed import cores
from levl_eval.core.errors import LevlError
from levl_eval.core.hashing import digest
from levl_eval.core.random_state import seeded
from levl_eval.core.schedule import Schedule
from levl_eval.data.readers import read_depth
from levl_eval.data.types import DepthSet
from levl_eval.engines.contract import Context, Outcome
from levl_eval.engines.convergence import convergence, thinned
from levl_eval.engines.dense_common import upsample
from levl_eval.engines.depth.augment import augmented
from levl_eval.engines.depth.fitting import full_depth
from levl_eval.engines.depth.head import bin_centres, binned, grid_depth_of, valid
from levl_eval.engines.depth.images import keep_predictions
from levl_eval.engines.depth.task import scored_outcome
from levl_eval.engines.fit import Resumable, Settings, training_loop
from levl_eval.engines.floors import mean_map
from levl_eval.features.request import Encoder, check_finite
from levl_eval.records.identity import cache_key

HEAD = 2  # version of the training: raised when equal inputs would give another head; 2: patches of encoders that round up
PLACES = (24, 32)  # rows and columns of the floor's map
POINTS = 100  # of the loss in a record


@dataclass(frozen=True)
class Tokens:
    """The frozen encoder as heads are fed by it: normalised images [B, 3, H, W] -> [B, D, h, w].

    Sides that the patch does not divide are padded with zeros on both ends (the longer part last), as DINOv2 and DINOv3 do. Images of the
    encoder's own size stay as they are: it may take no other.
    """

    backbone: Backbone
    layers: tuple[int, ...] | None
    norm: bool = True  # of the tokens of ``layers``, the encoder's last
    class_token: bool = False  # concatenated to each patch token of ``layers``

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Raises LevlError for an encoder that takes no images of this shape, or gives for them what is no features."""
        b = self.backbone
        high, wide = missing_pixels(images, b)
        x = F.pad(images, (wide // 2, wide - wide // 2, high // 2, high - high // 2))
        try:
            features = Encoder(b, self.layers, norm=self.norm)(x)
            maps: Tensor = features.patches.transpose(1, 2).unflatten(2, features.grid)
            if self.class_token:
                maps = torch.cat([maps, features.pooled[:, :, None, None].expand(-1, -1, *features.grid)], 1)
        except LevlError:
            raise
        except Exception as e:  # each library's own way to say so
            why = " ".join(str(e).split())[:120]
            size = f"{images.shape[-1]}x{images.shape[-2]}"
            raise LevlError(
                f"{b.name}: does not take images of {size} pixels ({why}); its own size is {b.preprocess.size}"
            ) from e
        check_finite(b, maps)
        out: Tensor = maps.float().clone()  # clone: no inference tensor reaches autograd
        return out

    def normalised(self, levels: np.ndarray, device: torch.device) -> Tensor:
        """Levels 0 to 255 [..., H, W, 3] -> [..., 3, H, W] in the backbone's normalisation."""
        return self.backbone.preprocess.normalize(torch.from_numpy(levels).to(device))


class BinsHead(nn.Module):
    """[B, D, h, w] tokens -> metres [B, s h, s w], s the card's ``output_scale``:
    batch norm, a linear layer, bins weighted by its outputs."""

    centres: Tensor

    def __init__(self, dim: int, card: DepthRecipeCard) -> None:
        super().__init__()
        self.card = card
        self.norm = nn.BatchNorm2d(dim) if card.batch_norm else nn.Identity()
        self.linear = nn.Conv2d(dim, card.bins, 1)
        if card.init == "normal":
            nn.init.normal_(self.linear.weight, std=0.01)
            assert self.linear.bias is not None
            nn.init.zeros_(self.linear.bias)
        self.register_buffer("centres", bin_centres(card))

    def forward(self, tokens: Tensor) -> Tensor:
        outputs = self.linear(self.norm(tokens))
        scale = self.card.output_scale
        if scale > 1:
            outputs = upsample(outputs, (scale * outputs.shape[2], scale * outputs.shape[3]), "bilinear")
        return binned(outputs, self.centres, self.card.bin_weights)


def log_loss(predicted: Tensor, truth: Tensor, card: DepthRecipeCard, step: int) -> Tensor:
    """sqrt(var d + mean_weight mean(d)^2) of d = ln(p + eps) - ln(t + eps) over flat metres; without the variance in the first steps."""
    d = torch.log(predicted + card.loss_eps) - torch.log(truth + card.loss_eps)
    value = card.mean_weight * d.mean() ** 2
    if step >= card.variance_from and len(d) > 1:
        value = value + d.var()
    return value.clamp_min(1e-12).sqrt()


def batch_loss(predicted: Tensor, truth: Tensor, keep: Tensor, card: DepthRecipeCard, step: int) -> Tensor:
    """The mean loss of a batch's parts of ``loss_images`` images, [B, H, W] each; a part without a known pixel is left out."""
    size = card.loss_images or len(truth)
    parts = zip(predicted.split(size), truth.split(size), keep.split(size), strict=True)
    return torch.stack([log_loss(p[k], t[k], card, step) for p, t, k in parts if k.any()]).mean()


def first_beta(card: DepthRecipeCard, step: int) -> float:
    """Adam's first coefficient in a step, of a card with a cycle."""
    assert card.cycle is not None
    low, high = card.cycle

    def between(start: float, end: float, share: float) -> float:
        return end + (start - end) * (1 + math.cos(math.pi * share)) / 2

    if card.cycle_fall is None:
        warmup = round(card.warmup * card.steps)
        return 0.0 if step < warmup else between(low, high, (step - warmup) / max(1, card.steps - warmup))
    lowest, last = card.cycle_fall * card.steps - 1, card.steps - 1  # as mmcv's OneCycleMomentumUpdaterHook counts
    if step < lowest:
        return between(high, low, step / lowest)
    return between(low, high, (step - lowest) / (last - lowest))


@dataclass(frozen=True)
class Batches:
    """The training set by the number of a step: which images, and how they are changed, follow from the seed alone."""

    train: DepthSet
    card: DepthRecipeCard
    seed: int

    def rows(self, step: int) -> list[int]:
        """Images of a step: permutations of the set one after another, without an incomplete last part where there is a whole one."""
        size = min(self.card.batch_size, len(self.train.images))
        per_epoch = len(self.train.images) // size
        order = np.random.default_rng([self.seed, step // per_epoch]).permutation(len(self.train.images))
        at = step % per_epoch * size
        return [int(i) for i in order[at : at + size]]

    def one(self, step: int, place: int, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Levels [h, w, 3] and metres [h, w] of the image at a place of a step."""
        name = self.train.images.ids[row]
        depth = full_depth(self.train, name)
        rng = np.random.default_rng([self.seed, step, place])
        try:
            return augmented(self.train.images.open(name), depth, self.card, rng)
        except LevlError as e:
            raise LevlError(f"{self.train.images.source}/{name}: {e}") from e

    def submit(self, pool: ThreadPoolExecutor, step: int) -> list[Future[tuple[np.ndarray, np.ndarray]]]:
        return [pool.submit(self.one, step, k, row) for k, row in enumerate(self.rows(step))]


def stacked(parts: list[np.ndarray], what: str) -> np.ndarray:
    """Raises LevlError for arrays of different sizes."""
    if len({p.shape for p in parts}) > 1:
        raise LevlError(
            f"training {what} have different sizes ({', '.join(sorted({f'{p.shape[1]}x{p.shape[0]}' for p in parts}))}); set `train_crop`"
        )
    return np.stack(parts)


def train_head(context: Context[DepthRecipeCard], train: DepthSet, tokens: Tokens, work: Path) -> tuple[BinsHead, list[float]]:
    """The trained head and its loss by step. Raises LevlError where no pixel is labelled or the loss is not finite."""
    card, device = context.card, context.device
    batches = Batches(train, card, context.seed)
    with seeded(context.seed):
        head = BinsHead(context.backbone.patch_dim * len(card.layers or (0,)) * (2 if card.class_token else 1), card).to(device)
    optimizer = torch.optim.AdamW(head.parameters(), lr=card.lr, betas=card.betas, weight_decay=card.weight_decay)
    schedule = Schedule(card.steps, "cosine", warmup=round(card.warmup * card.steps), start=1e-3)
    settings = Settings(card.name, card.steps, schedule, clip=card.clip)
    resumable = Resumable(work / "head.pt", head_key(context, train), head, device, context.progress)
    with ThreadPoolExecutor(min(8, cores())) as pool:
        ahead: dict[int, list[Future[tuple[np.ndarray, np.ndarray]]]] = {}

        def loss(step: int) -> Tensor | None:
            coming = ahead.pop(step, None) or batches.submit(pool, step)
            if step + 1 < card.steps:
                ahead[step + 1] = batches.submit(pool, step + 1)  # decoded while this one is trained on
            levels, metres = zip(*(f.result() for f in coming), strict=True)
            truth = torch.from_numpy(stacked(list(metres), "maps")).to(device)
            keep = torch.from_numpy(valid(truth.cpu().numpy(), card)).to(device)
            if card.cycle is not None:
                for group in optimizer.param_groups:
                    group["betas"] = (first_beta(card, step), group["betas"][1])
            maps = tokens(tokens.normalised(stacked(list(levels), "images"), device))
            if not keep.any():
                return None
            predicted = upsample(head(maps)[:, None], (truth.shape[1], truth.shape[2]), card.upsample)[:, 0]
            return batch_loss(predicted, truth, keep, card, step)

        curve = training_loop(optimizer, settings, loss, context.progress, resumable=resumable)
    return head.eval().requires_grad_(False), [float(x) for x in curve]


def head_key(context: Context[DepthRecipeCard], train: DepthSet) -> str:
    """What a kept training must share to be resumed."""
    backbone = context.backbone
    return cache_key(
        "depth recipe head", HEAD, encoder=backbone.encoder_parts(), preprocess=backbone.preprocess.describe(),
        protocol=protocol_of(context.card), seed=context.seed, device=context.device.type,
        train={"maps": train.fingerprint, "images": train.images.fingerprint, "order": digest(list(train.images.ids))},
    )  # fmt: skip


@dataclass
class Trained:
    """A trained head with the encoder it reads and the test images."""

    head: BinsHead
    tokens: Tokens
    test: DepthSet
    card: DepthRecipeCard
    device: torch.device

    @torch.no_grad()
    def predict(self, row: int, size: tuple[int, int]) -> np.ndarray:
        """Metres [H, W] of a test image at its own size, clipped to the card's caps."""
        levels = np.array(self.test.images.open(self.test.images.ids[row]))
        image = self.tokens.normalised(levels, self.device)[None]
        metres = self.head(self.tokens(image))
        if self.card.test_flip:
            metres = (metres + self.head(self.tokens(image.flip(-1))).flip(-1)) / 2
        large = upsample(metres[:, None], size, self.card.upsample)[0, 0]
        return large.clamp(self.card.min_depth, self.card.max_depth).cpu().numpy()


@dataclass
class Blind:
    """The training mean of each place, for every image."""

    places: np.ndarray
    card: DepthRecipeCard

    def predict(self, row: int, size: tuple[int, int]) -> np.ndarray:
        """Metres [H, W]."""
        large = upsample(torch.from_numpy(self.places)[None, None], size, self.card.upsample)[0, 0]
        return large.clamp(self.card.min_depth, self.card.max_depth).numpy()


def run(context: Context[DepthRecipeCard]) -> Outcome:
    """Train the card's head and score it on its test set. Raises UsageError/LevlError for unusable data."""
    card = context.card
    context.ready()  # no features are stored here, so nobody can help
    test = read_depth(card.data, context.data, card.scale_of("test"), context.limit, card.caps_of("test"))
    train = read_depth(card.train, context.data, card.scale_of("train"), caps=card.caps_of("train"))
    context.backbone.to(context.device)
    layers = None if card.layers is None else context.backbone.layer_indices(card.layers)
    tokens = Tokens(context.backbone, None if layers is None else tuple(layers), card.final_norm, card.class_token)
    started = time.monotonic()
    if context.work is None:
        with tempfile.TemporaryDirectory() as folder:
            head, curve = train_head(context, train, tokens, Path(folder))
    else:
        head, curve = train_head(context, train, tokens, context.work)
    names = context.progress.track(train.images.ids, "training depths", unit="map")
    places = mean_map(np.stack([grid_depth_of(full_depth(train, name), PLACES, card) for name in names]))
    seconds = {"head": time.monotonic() - started}
    capped = card.in_scoring()
    made = Trained(head, tokens, test, capped, context.device)
    notes = {"head_loss": thinned(curve, POINTS), "converged": convergence(curve)}
    outcome = scored_outcome(context, (train, test), made, Blind(places, capped), notes, seconds)
    if context.work is not None:
        keep_predictions(context.work, made, test)
    return outcome
