"""Random twins by name: whose a ``twin:`` card is, what building one would run, and the ones that ``--floors random-twin`` adds."""

from __future__ import annotations

from collections.abc import Sequence

from levl_eval.cards import BackboneCard
from levl_eval.cards.registry import backbone_card
from levl_eval.cards.trust import REMEDY
from levl_eval.core.errors import UsageError


def twinned(card: BackboneCard) -> BackboneCard:
    """The card whose random twin a ``twin:`` card is; any other card as it is. Raises UsageError for a twin of itself."""
    seen: set[str] = set()
    while card.uri.startswith("twin:"):
        if card.uri in seen:
            raise UsageError(f"{card.name}: `uri: {card.uri}` is a twin of itself; name the backbone whose twin it is")
        seen.add(card.uri)
        card = backbone_card(card.uri.removeprefix("twin:"))
    return card


def check_backbone(uri: str, where: str, trust: bool) -> None:
    """Raises UsageError for a `py:` backbone that the user did not name, also where a twin is of a card that names one."""
    scheme = uri.strip()
    while scheme.startswith("twin:"):  # a twin is built of what it names
        scheme = scheme.removeprefix("twin:").strip()
        if not trust and scheme.partition(":")[0] not in ("twin", "py"):
            scheme = twinned(backbone_card(scheme)).uri.strip()
    if scheme.partition(":")[0].strip() == "py" and not trust:
        raise UsageError(f"{where}: its backbone {uri!r} is Python that would run here; {REMEDY}")


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
