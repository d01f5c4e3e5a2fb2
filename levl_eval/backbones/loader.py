"""From a URI or path to a frozen backbone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from levl_eval.backbones.base import Backbone, Preprocess
from levl_eval.backbones.code import code_of, structure_of
from levl_eval.backbones.common import prepare_by
from levl_eval.backbones.levl import DualEncoderBackbone
from levl_eval.backbones.locate import locate
from levl_eval.cards import BackboneCard
from levl_eval.cards.registry import SCHEMES, backbone_card
from levl_eval.core.errors import UsageError
from levl_eval.core.files import sha256_file


def load_backbone(uri: str, card: BackboneCard | None = None) -> Backbone:
    """A frozen backbone in eval mode on the CPU, from a card's name, a path or a URI.

    card: gives the name, the expected hash of the file and preprocessing overrides. Raises UsageError for whatever is missing,
    unreadable, unsafe or not finite, with the file and the remedy.
    """
    card = card or backbone_card(uri)
    location = locate(card)
    scheme, rest = location.scheme, location.rest
    if card.sha256 is not None:
        file = Path(rest)
        if not file.is_file():
            raise UsageError(f"{file}: the weights of {card.name} are missing; install the package again")
        if sha256_file(file) != card.sha256:
            raise UsageError(
                f"{file}: its SHA-256 is not the one in the card of {card.name} (field `sha256`); the file is damaged or another one"
            )
    backbone = SCHEMES.load(scheme)(rest, card.name, card.uri)
    if not isinstance(backbone, Backbone):
        raise TypeError(f"{card.uri}: its loader gave a {type(backbone).__name__} in place of a backbone")
    backbone.code = {**backbone.code, "modules": structure_of(backbone), **code_of(scheme, rest)}
    if card.readout is not None:
        state_readout(backbone, card.readout)
    if card.preprocess is not None:
        changes = {k: v for k, v in card.preprocess.model_dump().items() if v is not None}
        prepare_by(backbone, replace(backbone.preprocess, **changes))
    return backbone


def state_readout(backbone: Backbone, readout: str) -> None:
    """Give ``official:`` weights the text read-out of their card. Raises UsageError for other forms, which say it themselves, and
    where config.json says another one.
    """
    stated = backbone.info.get("readout")
    if not isinstance(backbone, DualEncoderBackbone) or stated is None:
        raise UsageError(f"{backbone.uri}: field `readout`: this form says its text read-out itself; remove it from the card")
    if stated not in ("not stated", readout):
        raise UsageError(
            f"{backbone.uri}: field `readout`: the card says {readout}, its config.json {stated}; correct one of them"
        )
    backbone.read_texts(readout)


__all__ = ["Backbone", "Preprocess", "load_backbone"]
