"""`oracle:classes`, `oracle:words`, `oracle:attributes`, `oracle:parts`, `oracle:scene`, `oracle:geometry`: perfect sight of the
synthetic scenes, as a ceiling for what an encoder could give.

Patch tokens are what the renderer knows of each patch (scenes.truth), pooled features their mean. An image is recognised by its
pixels, so it must come as it was made: no other size, crop or mirror image. ``?keep=0.5`` leaves that share of an image's patches
(nested: a larger share keeps what a smaller one kept) and zeroes the others; ``?noise=S`` adds normal noise of that deviation.
`oracle:words` tells what `oracle:classes` does, and has texts: a text is the classes that it names.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qsl

import numpy as np
import torch
from torch import Tensor

from levl_eval.backbones.base import Backbone, Features, Preprocess
from levl_eval.backbones.common import EMBEDDING, unit
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.hashing import digest
from levl_eval.scenes.truth import (
    KINDS,
    NOTHING,
    World,
    default_manifest,
    digest_of,
    patch_facts,
    printed,
    read_manifest,
    world_at,
)
from levl_eval.scenes.world import MASK_CLASSES, Scene

GRID = 8
VERSION = 1  # of what an oracle tells; a change of any number raises it
_LIMITS = {"keep": (0.0, 1.0), "noise": (0.0, 1000.0)}


class OracleBackbone(Backbone):
    """Tells the facts of ``kind`` for each patch of an image of ``world``; an image of one colour shows nothing: zeros."""

    def __init__(self, uri: str, name: str, kind: str, keep: float, noise: float, world: World) -> None:
        super().__init__()
        self.uri, self.name, self.kind, self.keep, self.noise = uri, name, kind, keep, noise
        self.dim = self.patch_dim = KINDS[kind]
        self.grid = (GRID, GRID)
        if kind == "words":
            self.readouts, self.class_token = EMBEDDING, "pooled"  # patches and their mean lie in the space of the texts
        self._place(world)
        self.eval()

    def _place(self, world: World) -> None:
        """Everything that follows from the world."""
        if world.size % GRID:
            raise UsageError(f"{self.uri}: images of {world.size} px do not divide into {GRID} x {GRID} patches")
        self.world = world
        # Nothing is resized and no level moved: the pixels come back exactly.
        self.preprocess = Preprocess(world.size, "shortest", None, "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        described = {"kind": self.kind, "keep": self.keep, "noise": self.noise, "version": VERSION}
        self.weights_sha256 = digest({"oracle": described, "grid": GRID, "world": world.manifest})
        self.info: dict[str, object] = {"oracle": {**described, "world": world.manifest}}

    def open_data(self, data: str) -> None:
        """See Backbone.open_data. Raises UsageError where the data are not synthetic scenes."""
        manifest = read_manifest(Path(data)) if data != "hub" else None
        if manifest is None:
            raise UsageError(f"{self.uri}: --data {data}: `oracle:` backbones know the synthetic scenes only; use --data scenes")
        if manifest != self.world.manifest or Path(data) != self.world.root:
            self._place(world_at(Path(data), json.dumps(manifest)))

    @property
    def has_text(self) -> bool:
        return self.kind == "words"

    def text_parts(self) -> dict[str, object]:
        return {"classes": list(MASK_CLASSES)} if self.has_text else {}

    def image_embeddings(self, pooled: Tensor) -> Mapping[str, Tensor]:
        return {"embedding": unit(pooled)}

    def text_embeddings(self, texts: list[str]) -> Mapping[str, Tensor]:
        named = [[bool(re.search(rf"\b{re.escape(c)}\b", t)) for c in MASK_CLASSES] for t in texts]
        return {"embedding": unit(torch.tensor(named, dtype=torch.float32))}

    def encode(self, images: Tensor) -> Features:
        """Raises LevlError for an image that is not one of the world's, as it was made."""
        if images.shape[-2:] != (self.world.size, self.world.size):
            raise LevlError(
                f"{self.uri}: knows the synthetic scenes at {self.world.size} px as they were made, without other sizes, crops or views; "
                f"asked for {images.shape[-1]} px"
            )
        pixels = (images.detach().float() * 255).round().clamp(0, 255).to(torch.uint8).movedim(1, -1).cpu().numpy()
        patches = torch.from_numpy(np.stack([self._tokens(p) for p in pixels])).to(images.device)
        return Features(patches.mean(1), patches, self.grid)

    def _facts(self, scene: Scene, part: str, index: int) -> np.ndarray:
        """float32 [GRID * GRID, D] of image ``index`` of a part of the world, which shows ``scene``."""
        size = self.world.size
        beside = printed(part, index, self.world.manifest["seed"], scene, size) if self.kind == "scene" else NOTHING
        return patch_facts(scene, self.kind, size, GRID, beside)

    def _tokens(self, pixels: np.ndarray) -> np.ndarray:
        """float32 [GRID * GRID, D] of uint8 [S, S, 3]."""
        if (pixels == pixels[0, 0]).all():
            return np.zeros((GRID * GRID, self.patch_dim), np.float32)
        key = digest_of(pixels)
        known = self.world.lookup(key)
        if known is None:
            raise LevlError(
                f"{self.uri}: an image is none of the synthetic scenes in {self.world.root}; `oracle:` backbones know those only, as "
                "they were made"
            )
        facts = self._facts(*known)
        facts[_order(key)[round(self.keep * len(facts)) :]] = 0
        if self.noise:
            rng = np.random.default_rng(list(key))
            facts += self.noise * rng.standard_normal(facts.shape, dtype=np.float32)
        return facts


def _order(key: bytes) -> np.ndarray:
    """Patches in the order in which they are kept: by a hash of image and patch."""
    drawn = np.frombuffer(hashlib.shake_128(b"keep" + key).digest(8 * GRID * GRID), np.dtype("<u8"))
    return np.argsort(drawn, kind="stable")


def parse(rest: str, uri: str) -> tuple[str, float, float]:
    """(kind, keep, noise) of what stands behind ``oracle:``. Raises UsageError."""
    kind, _, query = rest.partition("?")
    if kind not in KINDS:
        raise UsageError(f"{uri}: expected oracle:{' or oracle:'.join(KINDS)}, then ?keep=SHARE or ?noise=DEVIATION where wanted")
    values = {"keep": 1.0, "noise": 0.0}
    given = parse_qsl(query, keep_blank_values=True)
    for key, text in given:
        if key not in values or sum(k == key for k, _ in given) > 1:
            raise UsageError(f"{uri}: {key!r} is not known or given twice; there are {' and '.join(values)}")
        low, high = _LIMITS[key]
        try:
            values[key] = float(text)
        except ValueError:
            values[key] = math.nan
        if not low <= values[key] <= high:
            raise UsageError(f"{uri}: {key}={text}: expected a number from {low:g} to {high:g}")
    if query and not given:
        raise UsageError(f"{uri}: {query!r}: expected ?keep=SHARE or ?noise=DEVIATION")
    return kind, values["keep"], values["noise"]


def load(rest: str, name: str, uri: str) -> Backbone:
    """An oracle of the world that ``--data scenes`` makes in the cache; open_data changes to another. Raises UsageError."""
    from levl_eval.core.paths import default_cache
    from levl_eval.scenes.export import world_folder

    kind, keep, noise = parse(rest, uri)
    return OracleBackbone(uri, name, kind, keep, noise, world_at(world_folder(default_cache()), json.dumps(default_manifest())))
