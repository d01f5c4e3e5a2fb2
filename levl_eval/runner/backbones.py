"""Backbones of a run: who they are without being built, and the built encoder once somebody needs it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from pydantic import TypeAdapter

from levl_eval.backbones.code import code_of
from levl_eval.backbones.execution import EAGER, Execution, lay_out
from levl_eval.backbones.locate import Location, locate, stated
from levl_eval.backbones.reads import Sources, noted_reads, places, sources_of
from levl_eval.cards import BackboneCard
from levl_eval.cards.base import plain
from levl_eval.cards.registry import backbone_card
from levl_eval.cards.twins import twinned
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.files import atomic_write
from levl_eval.core.hashing import digest
from levl_eval.core.json_types import as_object
from levl_eval.core.precision import Precision
from levl_eval.data.fingerprint_cache import FingerprintCache
from levl_eval.records.identity import cache_key

if TYPE_CHECKING:
    import torch

    from levl_eval.backbones.base import Backbone

FACTS_VERSION = 6  # of what is remembered about a backbone
_ANY_FILE = ("py", "oracle")  # a user's own code may read, and draw, what nobody can know; oracles read the run's data


@dataclass(frozen=True)
class BackboneFacts:
    """What a run knows of a backbone before it builds it. preprocess: the loader's own, without the card's overrides."""

    weights_sha256: str
    code: dict[str, str]
    preprocess: Mapping[str, object]
    text: Mapping[str, object]
    info: Mapping[str, object]
    shapes: Mapping[str, object]  # backbones.deferred.Shapes


class BackboneHandle:
    """One backbone of a run. Its facts come from the cache where the files they were read from are unchanged, else from loading it: the
    files of a checkpoint or directory, or for a name of the hub those that loading it was seen to read (backbones.reads).

    known: hashes of files, remembered. data: the run's directory of data sets, for encoders that must know it (oracles). Raises
    UsageError, when facts or the encoder are asked for, for whatever is missing, unreadable, unsafe or not finite.
    """

    def __init__(
        self,
        card: BackboneCard,
        cache: Path,
        known: FingerprintCache,
        data: str = "scenes",
        precision: Precision = "float32",
        execution: Execution = EAGER,
    ) -> None:
        self.card, self.name, self._data = card, card.name, data
        self._precision, self._execution = precision, execution
        self._cache, self._known = cache / "backbones", known
        self._loaded: Backbone | None = None

    @property
    def loaded(self) -> Backbone | None:
        """The encoder, where somebody has needed it."""
        return self._loaded

    @cached_property
    def facts(self) -> BackboneFacts:
        location = locate(self.card)
        if location.files is None:
            return self._facts_by_reads(location)
        self._check_file(location.files)
        code = code_of(location.scheme, location.rest)
        read = location.files
        files = {f.name: self._known.sha256(f) for f in read}
        key = cache_key(
            "backbone", FACTS_VERSION, scheme=location.scheme, uri="" if files else location.rest, code=code, files=files
        )
        path = self._cache / f"{key}.json"
        remembered = _read(path)
        if remembered is not None:
            return remembered[0]
        facts = self._facts_of_loaded()
        with suppress(LevlError):  # gone meanwhile
            if {f.name: self._known.sha256(f) for f in read} == files:  # else a training has written its next checkpoint there
                _write(path, facts)
        return facts

    def _facts_by_reads(self, location: Location) -> BackboneFacts:
        """Of a name of the hub, or of what reads there: by the files that loading it read, as long as all of them are as they were."""
        twinned(self.card)  # refuses a twin of itself
        chain = _chain(self.card)
        if self._loaded is not None or any(part["scheme"] in _ANY_FILE for part in chain):
            return self._facts_of_loaded()
        key = cache_key("backbone by reads", FACTS_VERSION, chain=chain, places=places())
        path = self._cache / f"{key}.json"
        remembered = _read(path)
        if remembered is not None and remembered[1] is not None and remembered[1].unchanged(self._known.sha256):
            return remembered[0]
        started = time.time_ns()
        with noted_reads() as reads:
            facts = self._facts_of_loaded()
        drawn = location.scheme in ("random", "twin")
        least = 0 if drawn else sum(p.numel() for p in self.load().parameters())  # a byte each, in the least form there is
        # GPT-2's tokenizer may not have been at hand for weights in the published form: nobody is told when it comes.
        silent = any(part["scheme"] == "official" for part in chain) and not facts.text
        files = tuple(str(f) for part in chain for f in part["stated"])
        sources = None if silent else sources_of(reads, files, started, least, self._known.sha256)
        if sources is not None:
            _write(path, facts, sources)
        return facts

    def _facts_of_loaded(self) -> BackboneFacts:
        b = self.load()
        return BackboneFacts(
            b.weights_sha256, dict(b.code), self._own_preprocess, self._own_text, dict(b.info), self._shapes
        )  # fmt: skip

    def _check_file(self, files: tuple[Path, ...]) -> None:
        """The card's hash of its file holds also where the encoder is not built."""
        if self.card.sha256 is not None and len(files) == 1 and self._known.sha256(files[0]) != self.card.sha256:
            raise UsageError(
                f"{files[0]}: its SHA-256 is not the one in the card of {self.name} (field `sha256`); the file is damaged or another one"
            )

    def load(self) -> Backbone:
        """The encoder, built once."""
        if self._loaded is None:
            from levl_eval.backbones.common import prepare_by
            from levl_eval.backbones.deferred import Shapes
            from levl_eval.backbones.loader import load_backbone, state_readout

            bare = self.card.model_copy(update={"preprocess": None, "readout": None})
            loaded = load_backbone(bare.uri, card=bare)
            loaded.open_data(self._data)
            self._own_text, self._shapes = loaded.text_parts(), asdict(Shapes.of(loaded))
            if self.card.readout is not None:
                state_readout(loaded, self.card.readout)
            self._own_preprocess = loaded.preprocess.describe()
            if self.card.preprocess is not None:
                changes = self.card.preprocess.model_dump(exclude_none=True)
                prepare_by(loaded, replace(loaded.preprocess, **changes))
            self._loaded = loaded
            known = self.__dict__.get("facts")
            if known is not None and digest(self._told(known)) != digest(self._told(self._facts_of_loaded())):
                self._loaded = None
                raise UsageError(f"{self.card.uri}: its weights or settings changed while the run went on; start it again")
        return self._loaded

    @staticmethod
    def _told(facts: BackboneFacts) -> list[object]:
        """What of the facts moves numbers."""
        return [facts.weights_sha256, facts.preprocess, facts.text, facts.shapes]

    def at_hand(self) -> Backbone:
        """What stands in the encoder's place until somebody needs it, encoding in the run's precision and by its execution.

        One for all jobs: what it compiled stays.
        """
        return self._deferred

    @cached_property
    def _deferred(self) -> Backbone:
        from levl_eval.backbones.base import Preprocess
        from levl_eval.backbones.common import resized
        from levl_eval.backbones.deferred import DeferredBackbone, Known, Shapes

        f = self.facts
        preprocess = TypeAdapter(Preprocess).validate_python(self.preprocess)
        shapes = TypeAdapter(Shapes).validate_python(f.shapes)
        own = TypeAdapter(Preprocess).validate_python(f.preprocess)
        if own.size != preprocess.size:
            shapes = replace(shapes, grid=resized(shapes.grid, own.size, preprocess.size, shapes.depth))
        known = Known(self.name, self.card.uri, f.weights_sha256, f.code, self.text, f.info, preprocess, shapes)
        return DeferredBackbone(known, self.load, self._precision, self._execution)

    def plain(self) -> Backbone:
        """The encoder as it is loaded, for engines that run it themselves: in float32 and not compiled."""
        backbone = self.load()
        lay_out(backbone, channels_last=False)
        return backbone

    @property
    def _overrides(self) -> dict[str, object]:
        given = self.card.preprocess
        return {} if given is None else {k: v for k, v in given.model_dump(mode="json").items() if v is not None}

    @property
    def preprocess(self) -> dict[str, object]:
        """As resolved: the loader's, with what the card sets."""
        from levl_eval.models.preprocess import described

        return {**described(as_object({**self.facts.preprocess, **self._overrides}, self.name))}

    @property
    def text(self) -> Mapping[str, object]:
        """What moves text embeddings: the loader's, with the card's read-out."""
        recorded = self.facts.text
        return {**recorded, "readout": self.card.readout} if recorded and self.card.readout is not None else recorded

    def parts(self, engine: str = "") -> dict[str, object]:
        """The backbone's part of an identity, of a task of ``engine``."""
        f = self.facts
        code = {**f.code, **self._patch(engine)}
        return {"name": self.name, "weights": f.weights_sha256, "code": code, "preprocess": self.preprocess, "text": self.text}

    def _patch(self, engine: str) -> dict[str, str]:
        """The patch that an engine fits its inputs to, where it was another one (size // rows),
        or own sizes were padded, until it was told."""
        from levl_eval.backbones.base import patch_of

        if engine not in ("propagation", "mmseg", "depth-recipe"):
            return {}
        b = self.at_hand()
        size, rows = b.preprocess.size, b.grid[0]
        patch = patch_of(size, rows, b.depth)
        return {"patch": str(patch)} if patch != size // rows or (size % patch and engine != "propagation") else {}

    def describe(self) -> dict[str, object]:
        """As a record holds it."""
        f = self.facts
        return {
            "name": self.name, "uri": self.card.uri, "weights_sha256": f.weights_sha256, "code": f.code, "preprocess": self.preprocess,
            "text": self.text, "info": {**f.info, "baseline": self.card.baseline or bool(f.info.get("baseline"))}, "card": plain(self.card),
        }  # fmt: skip

    def to(self, device: torch.device | str) -> None:
        """Move the encoder, where it is built."""
        if self._loaded is not None:
            self._loaded.to(device)


class _Part(TypedDict):
    """One backbone of a chain of twins: what its facts rest on besides the files that loading it reads."""

    scheme: str
    rest: str
    code: dict[str, str]
    card: dict[str, object]
    stated: list[str]


def _chain(card: BackboneCard) -> list[_Part]:
    """The backbone, and where it is a twin whose it is. Cards of the latter are named in the URI, and so belong to it."""
    location = locate(card)
    files = [os.path.abspath(f) for f in stated(location)]
    code = code_of(location.scheme, location.rest)
    part = _Part(scheme=location.scheme, rest=location.rest, code=code, card={}, stated=files)
    if location.scheme != "twin":
        return [part]
    inner = backbone_card(location.rest)
    first, *more = _chain(inner)
    first["card"] = dict(plain(inner))
    return [part, first, *more]


def _write(path: Path, facts: BackboneFacts, sources: Sources | None = None) -> None:
    content = {**asdict(facts), "sources": None if sources is None else asdict(sources)}
    with suppress(LevlError):  # a full disk: loaded again the next time
        atomic_write(path, json.dumps({**content, "checksum": digest(content)}))


def _read(path: Path) -> tuple[BackboneFacts, Sources | None] | None:
    """Remembered facts, and the files that they were read from where these are not in the file's name;
    None where there are none or they are damaged, which costs one loading."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        checksum = content.pop("checksum")
        if checksum != digest(content):
            return None
        sources = content.pop("sources")
        return BackboneFacts(**content), None if sources is None else Sources(**sources)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
