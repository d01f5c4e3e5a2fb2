"""Backbones of a run: who they are without being built, and the built encoder once somebody needs it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from levl_eval.backbones.code import code_of
from levl_eval.backbones.locate import locate
from levl_eval.cards import BackboneCard
from levl_eval.cards.base import plain
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.files import atomic_write
from levl_eval.core.hashing import digest
from levl_eval.core.precision import Precision
from levl_eval.data.fingerprint_cache import FingerprintCache
from levl_eval.records.identity import cache_key

if TYPE_CHECKING:
    import torch

    from levl_eval.backbones.base import Backbone

FACTS_VERSION = 3  # of what is remembered about a backbone


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
    """One backbone of a run. Its facts come from the cache where the files they were read from are unchanged, else from loading it.

    known: hashes of files, remembered. data: the run's directory of data sets, for encoders that must know it (oracles). Raises UsageError, when facts or the encoder are asked for, for whatever is missing,
    unreadable, unsafe or not finite.
    """

    def __init__(
        self, card: BackboneCard, cache: Path, known: FingerprintCache, data: str = "scenes", precision: Precision = "float32"
    ) -> None:
        self.card, self.name, self._data, self._precision = card, card.name, data, precision
        self._cache, self._known = cache / "backbones", known
        self._loaded: Backbone | None = None

    @property
    def loaded(self) -> Backbone | None:
        """The encoder, where somebody has needed it."""
        return self._loaded

    @cached_property
    def facts(self) -> BackboneFacts:
        location = locate(self.card)
        code = code_of(location.scheme, location.rest)
        path = None
        if location.files is not None:
            self._check_file(location.files)
            files = {f.name: self._known.sha256(f) for f in location.files}
            key = cache_key(
                "backbone", FACTS_VERSION, scheme=location.scheme, uri="" if files else location.rest, code=code, files=files
            )
            path = self._cache / f"{key}.json"
            remembered = _read(path)
            if remembered is not None:
                return remembered
        backbone = self.load()
        facts = BackboneFacts(
            backbone.weights_sha256,
            dict(backbone.code),
            self._own_preprocess,
            self._own_text,
            dict(backbone.info),
            self._shapes,
        )
        if path is not None:
            content = asdict(facts)
            with suppress(LevlError):  # a full disk: loaded again the next time
                atomic_write(path, json.dumps({**content, "checksum": digest(content)}))
        return facts

    def _check_file(self, files: tuple[Path, ...]) -> None:
        """The card's hash of its file holds also where the encoder is not built."""
        if self.card.sha256 is not None and len(files) == 1 and self._known.sha256(files[0]) != self.card.sha256:
            raise UsageError(
                f"{files[0]}: its SHA-256 is not the one in the card of {self.name} (field `sha256`); the file is damaged or another one"
            )

    def load(self) -> Backbone:
        """The encoder, built once."""
        if self._loaded is None:
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
                loaded.preprocess = replace(loaded.preprocess, **changes)
            self._loaded = loaded
            known = self.__dict__.get("facts")
            if known is not None and known.weights_sha256 != loaded.weights_sha256:
                raise UsageError(f"{self.card.uri}: its weights changed while the run went on; start it again")
        return self._loaded

    def at_hand(self) -> Backbone:
        """What stands in the encoder's place until somebody needs it, encoding in the run's precision."""
        from levl_eval.backbones.base import Preprocess
        from levl_eval.backbones.deferred import DeferredBackbone, Known, Shapes

        f = self.facts
        preprocess = TypeAdapter(Preprocess).validate_python(self.preprocess)
        shapes = TypeAdapter(Shapes).validate_python(f.shapes)
        known = Known(self.name, self.card.uri, f.weights_sha256, f.code, self.text, f.info, preprocess, shapes)
        return DeferredBackbone(known, self.load, self._precision)

    @property
    def _overrides(self) -> dict[str, object]:
        given = self.card.preprocess
        return {} if given is None else {k: v for k, v in given.model_dump(mode="json").items() if v is not None}

    @property
    def preprocess(self) -> dict[str, object]:
        """As resolved: the loader's, with what the card sets."""
        return {**self.facts.preprocess, **self._overrides}

    @property
    def text(self) -> Mapping[str, object]:
        """What moves text embeddings: the loader's, with the card's read-out."""
        recorded = self.facts.text
        return {**recorded, "readout": self.card.readout} if recorded and self.card.readout is not None else recorded

    def parts(self) -> dict[str, object]:
        """The backbone's part of an identity."""
        f = self.facts
        return {"name": self.name, "weights": f.weights_sha256, "code": f.code, "preprocess": self.preprocess, "text": self.text}

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


def _read(path: Path) -> BackboneFacts | None:
    """Remembered facts; None where there are none or they are damaged, which costs one loading."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        checksum = content.pop("checksum")
        return BackboneFacts(**content) if checksum == digest(content) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
