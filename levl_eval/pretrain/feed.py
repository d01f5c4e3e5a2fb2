"""What the loop is fed: batches prepared while the step before them computes, and the share of time it waited for them."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from levl_eval.core.children import begin_child
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.progress import Progress
from levl_eval.models import tokenizer as words
from levl_eval.models.checkpoints import FeedState
from levl_eval.models.config import PretrainConfig, augments
from levl_eval.pretrain.augment import Pixels, augmented, resized
from levl_eval.pretrain.data import Pool, open_pool
from levl_eval.pretrain.samples import Source, by_kind, opened
from levl_eval.pretrain.streams import Decoded, Read, open_source, stack

_FOR_TOKENIZER = 20_000  # samples of a stream whose captions train a tokenizer


@dataclass
class Batch:
    """One process's share of one forward pass: uint8 images [B, S, S, 3] (or two arrays of crops), token ids [B, L], read-outs [B]."""

    pixels: Pixels
    ids: np.ndarray
    last: np.ndarray


@dataclass
class Feed:
    """Batches in order. ``waited``: seconds the loop stood still for data since it was last set to 0.

    seen, skipped: samples met and those among them that could not be read; kinds: the latter by what is wrong with them; broken:
    their names and kinds, each once.
    """

    config: PretrainConfig
    part: tuple[int, int]  # (this process, processes)
    waited: float = 0.0
    seen: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    broken: list[tuple[str, str]] = field(default_factory=list)

    @property
    def pairs(self) -> int | None:
        """Images with their captions; None where a stream does not know."""
        return None

    @property
    def data_identity(self) -> str:
        """Changes where the data does, as far as it was looked at (docs/pretraining.md)."""
        return ""

    @property
    def skipped(self) -> int:
        return self.kinds.total()

    @property
    def rows(self) -> int:
        """Images a forward pass in this process."""
        return self.config.batch_size // self.config.accumulate // self.part[1]

    def captions(self) -> Iterator[str]:
        """Captions for training a tokenizer."""
        raise NotImplementedError

    def sample(self, n: int) -> tuple[np.ndarray, list[str]]:
        """At most ``n`` fixed pairs without augmentation: uint8 [n, S, S, 3] and a caption each."""
        raise NotImplementedError

    def start(self, tokenizer: Tokenizer, at: int, state: FeedState | None = None) -> None:
        """Begin with forward pass number ``at``, where a run with ``state`` had come to."""
        raise NotImplementedError

    def state(self) -> FeedState:
        """What ``start`` needs to resume after the batches handed out so far."""
        return {}

    def _check_source(self, state: FeedState, *now: str) -> None:
        """Raises UsageError where the data of a run to be resumed is none of ``now``;
        checkpoints of earlier versions do not say what it was."""
        if state.get("source", now[0]) not in now:
            raise UsageError(
                f"data={self.config.data}: is not what this run began with (its files, contents or version changed); "
                "put it back as it was, or choose another out="
            )

    def _next(self) -> Batch:
        raise NotImplementedError

    def close(self) -> None:
        """End threads and processes."""

    def next(self) -> Batch:
        began = time.monotonic()
        batch = self._next()
        self.waited += time.monotonic() - began
        return batch

    def tokens(self, tokenizer: Tokenizer, captions: list[str]) -> tuple[np.ndarray, np.ndarray]:
        return words.encode(tokenizer, captions, self.config.max_length, self.config.text_readout)


class PoolFeed(Feed):
    """From a decoded pool; threads prepare the next batch. Every batch is a function of (seed, number), however many processes.

    Augmentation beyond ``crop`` starts from the original image of csv and tsv data, and from the scene as it was drawn.
    """

    def __init__(self, config: PretrainConfig, pool: Pool, part: tuple[int, int]) -> None:
        super().__init__(config, part)
        self.pool = pool
        self._threads: ThreadPoolExecutor | None = None  # one prepares batches, which others may augment
        self._helpers: ThreadPoolExecutor | None = None
        self._ahead: Future[Batch] | None = None
        self._at = 0

    @property
    def pairs(self) -> int | None:
        return len(self.pool)

    @property
    def data_identity(self) -> str:
        return self.pool.identity

    def captions(self) -> Iterator[str]:
        return (c for captions in self.pool.captions for c in captions)

    def sample(self, n: int) -> tuple[np.ndarray, list[str]]:
        c, pool = self.config, self.pool
        rows = np.unique(np.linspace(0, len(pool) - 1, min(n, len(pool))).astype(int))
        captions = [pool.captions[i][0] for i in rows]
        if isinstance(pool.pixels, np.ndarray):
            return pool.pixels[rows], captions
        images = [resized(Image.fromarray(pool.pixels[int(i)]), c.image_size, c.resize, c.interpolation) for i in rows]
        return np.stack(images), captions

    def start(self, tokenizer: Tokenizer, at: int, state: FeedState | None = None) -> None:
        self.close()
        if state:
            self._check_source(state, self.pool.identity)
        self._tokenizer, self._at = tokenizer, at

    def state(self) -> FeedState:
        return {"source": self.pool.identity}

    def prepare(self, number: int) -> Batch:
        c = self.config
        size = c.batch_size // c.accumulate
        rows, captions = self.pool.rows(number, size, c.seed, self.part)
        source = self.pool.pixels
        pixels: Pixels
        if augments(c):
            first = self.part[0] * len(rows)

            def one(i: int) -> Pixels:
                return augmented(source[int(rows[i])], c, np.random.default_rng([c.seed, number, first + i]))

            pixels = stack(list((self._helpers.map if self._helpers else map)(one, range(len(rows)))))
        else:
            assert isinstance(source, np.ndarray)
            pixels = np.ascontiguousarray(source[rows])
        return Batch(pixels, *self.tokens(self._tokenizer, captions))

    def _next(self) -> Batch:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(1)
            self._helpers = ThreadPoolExecutor(self.config.workers) if self.config.workers > 1 else None
        ahead = self._ahead or self._threads.submit(self.prepare, self._at)
        self._at += 1
        self._ahead = self._threads.submit(self.prepare, self._at)
        self.seen += self.rows
        return ahead.result()

    def close(self) -> None:
        for threads in (self._threads, self._helpers):
            if threads is not None:
                threads.shutdown(wait=True, cancel_futures=True)
        self._threads = self._helpers = self._ahead = None


@dataclass
class Readers(IterableDataset[Read]):
    """The reading workers of one process for torch's DataLoader, which takes their batches in turn, beginning with the first.

    turn: the reader whose batch comes next; positions: where each reader stands, as (epoch, samples taken of it).
    """

    config: PretrainConfig
    source: Source
    rows: int
    part: tuple[int, int]
    turn: int
    positions: list[tuple[int, int]]

    def __iter__(self) -> Iterator[Read]:
        info = get_worker_info()
        readers, (k, n) = len(self.positions), self.part
        reader = ((info.id if info else 0) + self.turn) % readers
        batches = Decoded(self.config, self.source, self.rows, k * readers + reader, n * readers, self.positions[reader])
        try:
            yield from batches
        except LevlError as e:  # an exception would come out of the loader with its whole traceback as its message
            yield {"error": str(e), "usage": isinstance(e, UsageError)}


class StreamFeed(Feed):
    """From tars or `datasets` by reading processes of torch's DataLoader; exact on resume (streams.py)."""

    def __init__(self, config: PretrainConfig, part: tuple[int, int]) -> None:
        super().__init__(config, part)
        self.source = open_source(config)
        self._identity = self.source.identity()
        self._loader: Iterator[Read] | None = None
        self._start: Readers | None = None

    @property
    def pairs(self) -> int | None:
        return self.source.count()

    @property
    def data_identity(self) -> str:
        return self._identity

    def captions(self) -> Iterator[str]:
        for i, raw in enumerate(self.source.epoch(0, 0, 1)):
            if i >= _FOR_TOKENIZER:
                return
            yield from raw.captions

    def sample(self, n: int) -> tuple[np.ndarray, list[str]]:
        images: list[np.ndarray] = []
        captions: list[str] = []
        for tried, raw in enumerate(self.source.epoch(0, 0, 1)):
            if len(images) == n or tried == 4 * n:
                break
            image, _ = opened(raw)
            if image is not None:
                images.append(resized(image, self.config.image_size, self.config.resize, self.config.interpolation))
                captions.append(raw.captions[0])
        side = self.config.image_size
        return np.array(images, np.uint8).reshape(len(images), side, side, 3), captions

    def start(self, tokenizer: Tokenizer, at: int, state: FeedState | None = None) -> None:
        self.close()
        self._tokenizer = tokenizer
        readers = max(1, self.config.workers)
        state = state or {"turn": 0, "positions": [[0, 0]] * readers, "seen": 0, "kinds": {}, "broken": []}
        self._check_source(state, self._identity, self.source.earlier_identity())
        if len(state["positions"]) != readers:
            raise UsageError(
                f"field `workers`: the run was read by {len(state['positions'])} readers a process, now {readers}; "
                "resume with the same number"
            )
        self._turn, self._positions = state["turn"], [(int(e), int(i)) for e, i in state["positions"]]
        self.seen = state["seen"]
        # Earlier versions counted without kinds, and named broken samples alone.
        self.kinds = Counter(state.get("kinds") or {"unknown": state.get("skipped", 0)})
        self.broken = [(b, "unknown") if isinstance(b, str) else (b[0], b[1]) for b in state["broken"]]
        self._start = Readers(self.config, self.source, self.rows, self.part, self._turn, list(self._positions))

    def state(self) -> FeedState:
        return {
            "turn": self._turn, "positions": [list(p) for p in self._positions],
            "seen": self.seen, "kinds": dict(self.kinds), "broken": [list(b) for b in self.broken], "source": self._identity,
        }  # fmt: skip

    def _next(self) -> Batch:
        if self._loader is None:
            assert self._start is not None, "start() comes first"
            workers = self.config.workers
            loader = DataLoader(
                self._start, batch_size=None, num_workers=workers, prefetch_factor=2 if workers else None,
                worker_init_fn=begin_child, generator=torch.Generator(),  # else it draws from the run's
                multiprocessing_context="spawn" if workers and not self.source.fork_safe else None,
            )  # fmt: skip
            self._loader = iter(loader)
        got = next(self._loader)
        if "error" in got:
            raise (UsageError if got["usage"] else LevlError)(got["error"])
        self._positions[self._turn] = (got["position"][0], got["position"][1])
        self._turn = (self._turn + 1) % len(self._positions)
        self.seen += got["seen"]
        self.kinds.update(got["skipped"])
        known = {name for name, _ in self.broken}
        self.broken += [(name, kind) for name, kind in got["broken"] if name not in known]
        if self.skipped > max(3, self.config.max_broken * self.seen):
            raise UsageError(
                f"data={self.config.data}: {self.skipped} of {self.seen} samples cannot be read, more than field "
                f"`max_broken`={self.config.max_broken} ({by_kind(self.kinds)}); first {', '.join(n for n, _ in self.broken[:3])}; "
                "repair or leave them out"
            )
        pixels = got["pixels"]
        as_numpy = (np.asarray(pixels[0]), np.asarray(pixels[1])) if isinstance(pixels, (tuple, list)) else np.asarray(pixels)
        return Batch(as_numpy, *self.tokens(self._tokenizer, list(got["captions"])))

    def close(self) -> None:
        self._loader = None


def open_feed(config: PretrainConfig, part: tuple[int, int], cache: Path, progress: Progress) -> Feed:
    """The feed of a configuration. Raises UsageError for unusable data or a batch that processes cannot share evenly."""
    share = part[1] * config.accumulate
    if config.batch_size % share or config.batch_size // share < 2:
        raise UsageError(
            f"field `batch_size`: {config.batch_size} over {part[1]} processes and accumulate={config.accumulate}; "
            f"choose a multiple of {share} with at least 2 images each"
        )
    if config.data.startswith(("wds:", "hf:", "lance:")):
        return StreamFeed(config, part)
    first = os.environ.get("LOCAL_RANK", "0") == "0"  # its neighbours on a machine need not read the whole pool as well
    return PoolFeed(config, open_pool(config, cache, progress, deep=first), part)
