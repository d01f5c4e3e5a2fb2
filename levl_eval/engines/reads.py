"""Which arrays of an image's features a task's head reads, so that a run makes in one pass what its jobs need together."""

from __future__ import annotations

from levl_eval.cards import (
    AttentiveCard,
    BackgroundsCard,
    ChoiceCard,
    ConnectorSpec,
    CorrespondenceCard,
    DepthCard,
    InContextCard,
    InstanceCard,
    LMMSCard,
    MultiviewCard,
    NormalsCard,
    ProbeCard,
    PropagationCard,
    QuestionCard,
    RecipeCard,
    RetrievalCard,
    SegmentationCard,
    TaskFields,
    TextSegmentationCard,
    ZeroShotCard,
)

# Of a head on one vector an image (cards.ReadoutCard). A class token stands under "pooled" of the layer that is read for it.
OF_READOUT: dict[str, tuple[str, ...]] = {
    "pooled": ("pooled",), "cls": ("pooled",), "mean-patch": ("mean",), "pooled+mean-patch": ("pooled", "mean"),
}  # fmt: skip
# Of one vector an image that images are compared by (cards.InstanceCard.readouts).
OF_INSTANCES: dict[str, str] = {"pooled": "pooled", "mean-patch": "mean", "gem": "patches"}
# Of a connector (cards.ConnectorSpec.tokens).
OF_TOKENS: dict[str, tuple[str, ...]] = {"patches": ("patches",), "cls": ("pooled",), "cls+patches": ("pooled", "patches")}


def arrays_of(card: TaskFields) -> tuple[str, ...]:
    """Names of features.extraction.ARRAYS; () where the engine reads nothing from the store."""
    if isinstance(
        card,
        (
            AttentiveCard,
            SegmentationCard,
            InContextCard,
            TextSegmentationCard,
            DepthCard,
            NormalsCard,
            CorrespondenceCard,
            PropagationCard,
            MultiviewCard,
        ),
    ):
        return ("patches",)
    if isinstance(card, (ProbeCard, BackgroundsCard)):
        return OF_READOUT[card.readout]
    if isinstance(card, InstanceCard):
        return tuple(dict.fromkeys(OF_INSTANCES[r] for r in card.readouts))
    if isinstance(card, (ZeroShotCard, RetrievalCard, ChoiceCard)):
        return ("pooled",)
    if isinstance(card, (QuestionCard, LMMSCard)) and isinstance(card.recipe, RecipeCard):
        return arrays_of_connector(card.recipe.connector)
    return ()


def arrays_of_connector(spec: ConnectorSpec) -> tuple[str, ...]:
    """The same for a connector."""
    return OF_TOKENS[spec.tokens]
