"""Random twins by name: whose a ``twin:`` card is, and the ones that ``--floors random-twin`` adds."""

from __future__ import annotations

from collections.abc import Sequence

from levl_eval.cards import BackboneCard
from levl_eval.cards.registry import backbone_card
from levl_eval.core.errors import UsageError


def twinned(card: BackboneCard) -> BackboneCard:
    """The card whose random twin a ``twin:`` card is; any other card as it is."""
    while card.uri.startswith("twin:"):
        card = backbone_card(card.uri.removeprefix("twin:"))
    return card


def with_floors(backbones: Sequence[str | BackboneCard], floors: Sequence[str]) -> list[str | BackboneCard]:
    """Backbones, with ``floors`` "random-twin" each one's random twin behind them; those without weights of their own have none.

    Raises UsageError for another floor, and for a card given as an object, which has no name that a twin could be found by.
    """
    unknown = [f for f in floors if f != "random-twin"]
    if unknown:
        raise UsageError(f"floors: {unknown[0]!r} is not known; there is random-twin")
    out, twins = list(backbones), []
    for b in backbones if floors else ():
        if isinstance(b, BackboneCard):
            raise UsageError(f"floors: {b.name} was given as a card; give its name, path or URI to have its random twin")
        card = backbone_card(b)
        if not card.baseline and not card.uri.startswith(("oracle:", "twin:")):
            twins.append(f"twin:{b}")
    return [*out, *(t for t in twins if t not in out)]
