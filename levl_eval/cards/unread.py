"""Fields that a card's engine passes over because of what its other fields say, such as a rate beside a head that is solved.

Such a field would be in the row's protocol without having moved its number, and every value of it would count as a protocol of its own.
Whoever sets one is told: the fields that a card's file states under the file's own values, and those of ``--set`` and ``--grid`` under what
comes of them. A field that ships in a card stays where ``--set`` chooses a head that does not read it, as nobody asked for it there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from pydantic import BaseModel

from levl_eval.cards.base import TaskFields
from levl_eval.cards.dense import DepthCard, DepthRecipeCard, InContextCard, MMSegCard, SegmentationCard, TextSegmentationCard
from levl_eval.cards.layouts import passed_over_place
from levl_eval.cards.loading import parse_card
from levl_eval.cards.matching import InstanceCard
from levl_eval.cards.normals import NormalsCard
from levl_eval.cards.probes import AttentiveCard, KNNCard, LinearPathCard, LinearProbeCard, ProbeCard, ShiftCard
from levl_eval.cards.vlm import ConnectorSpec, LMMSCard, RecipeCard
from levl_eval.core.errors import UsageError


@dataclass(frozen=True)
class Read:
    """Fields that are read only where one of the fields ``others`` has one of ``values``; of a list: holds one.

    values: () for any that is not empty, 0 or None. others: "" where no other field makes the engine read them.
    """

    fields: str
    others: str = ""
    values: tuple[object, ...] = ()

    def holds(self, card: BaseModel) -> bool:
        """Whether a card's engine reads the fields, as far as this condition goes."""
        return any(self._allows(getattr(card, name)) for name in self.others.split())

    def _allows(self, value: object) -> bool:
        if not self.values:
            return bool(value)
        return value in self.values or (isinstance(value, list) and any(v in self.values for v in value))

    @property
    def remedy(self) -> str:
        """What to do so that they are read, or are not asked for."""
        if not self.others:
            return "take it out"
        name = self.others.split()[0]
        if self.values in ((None,), ([],)):
            return "take one of the two out"
        words = ", ".join(map(_word, self.values))
        return f"take it out, or set `{name}`" + (f" to {' or '.join(words.rsplit(', ', 1))}" if words else "")


def _word(value: object) -> str:
    """A value as YAML writes it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


_SOLVED = "lr betas weight_decay epochs until schedule"
_VIEWS = "view_scale view_ratio view_seed"
_TRAINED = ("linear", "linear-bn", "conv")
RULES: dict[type[BaseModel], tuple[Read, ...]] = {
    SegmentationCard: (
        Read(f"optimizer {_SOLVED}", "head", _TRAINED),
        Read("sweep_lr sweep_weight_decay", "head", ("linear",)),
        Read("lr until", "sweep_lr", (None,)),
        Read("weight_decay until", "sweep_weight_decay", (None,)),
        Read("sweep_holdout", "sweep_lr sweep_weight_decay"),
        Read("conv_width", "head", ("conv",)),
        Read("ridge_lambda", "head", ("ridge",)),
        Read("knn_k knn_temperature knn_memory", "head", ("knn",)),
        Read("bias", "head", (*_TRAINED, "ridge")),
        Read("standardize std_floor", "head", ("linear", "conv", "ridge", "knn")),
        Read("std_floor", "standardize", (True,)),
        Read("stride", "window"),
        Read("score_size", "score", ("input",)),
    ),
    InContextCard: (Read(_VIEWS, "views"), Read("sampling", "memory_size"), Read("score_size", "score", ("input",))),
    TextSegmentationCard: (
        Read("stride", "window"),
        Read("score_size", "score", ("input",)),
        Read("background_class", "background", ("text", "threshold", "void")),
        Read("background_texts", "background", ("text",)),
        Read("background_threshold logit_scale", "background", ("text", "threshold")),
    ),
    MMSegCard: (
        Read(
            "head channels depth heads dropout avg_non_ignore crop short long ratio interpolation cat_max_ratio flip photometric "
            "test stride lr betas weight_decay steps warmup schedule power", "config", (None,),
        ),
        Read("channels", "head", ("fcn", "upernet", "segmenter")),
        Read("depth", "head", ("fcn", "segmenter")),
        Read("heads", "head", ("segmenter",)),
        Read("stride", "test", ("slide",)),
        Read("power", "schedule", ("poly",)),
    ),
    DepthCard: (
        Read("bins bin_spacing bin_weights", "head", ("bins",)),
        Read("target", "head", ("regression", "ridge")),
        Read(f"loss silog_lambda {_SOLVED}", "head", ("bins", "regression")),
        Read("silog_lambda", "loss", ("silog",)),
        Read("ridge_lambda", "head", ("ridge",)),
        Read("std_floor", "standardize", (True,)),
    ),
    DepthRecipeCard: (Read("gamma brightness channels", "colour"),),
    NormalsCard: (
        Read(f"loss {_SOLVED}", "head", ("linear",)),
        Read("ridge_lambda", "head", ("ridge",)),
        Read("std_floor", "standardize", (True,)),
    ),
    LinearProbeCard: (Read("validation", "keep", ("best",)),),
    ShiftCard: (Read("validation"),),
    KNNCard: (Read("validation"), Read("l2_normalize", "standardize", (True,))),  # cosines alone do not see lengths
    LinearPathCard: (Read("draws shot_validation", "shots"), Read("refit ece_bins", "shots", ([],))),
    AttentiveCard: (
        Read("validation readout standardize l2_normalize"),
        Read(f"{_VIEWS} view_flip view_interpolation", "views"),
    ),
    InstanceCard: (Read("gem_power", "readouts", ("gem",)),),
    LMMSCard: (Read("prompt.max_new_tokens", "generation", ("card",)),),
    RecipeCard: (Read("epochs", "steps", (None,)),),
    ConnectorSpec: (Read("downsample", "kind", ("unshuffle_mlp",)), Read("queries depth", "kind", ("resampler",))),
}  # fmt: skip


def _passed_over(node: object, path: str = "") -> Iterator[tuple[BaseModel, str, Read]]:
    """(model, its place in the card, condition that does not hold) of every model in a card of which fields are passed over."""
    if isinstance(node, BaseModel):
        yield from ((node, path, rule) for rule in RULES.get(type(node), ()) if not rule.holds(node))
        for name in type(node).model_fields:
            yield from _passed_over(getattr(node, name), f"{path}{name}.")
    elif isinstance(node, list):
        for k, one in enumerate(node):
            yield from _passed_over(one, f"{path}{k}.")


def passed_over(card: BaseModel) -> list[str]:
    """The dotted fields of a card that its engine does not read, as its other fields are."""
    return [f"{path}{name}" for _, path, rule in _passed_over(card) for name in rule.fields.split()]


def stated_in(value: object, path: str = "") -> Iterator[str]:
    """The dotted fields that a card's mapping sets, those inside mappings and lists of mappings one by one."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from stated_in(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(v, Mapping) for v in value):
        for k, inner in enumerate(value):
            yield from stated_in(inner, f"{path}.{k}")
    else:
        yield path


def _sets_in(value: object, path: str = "") -> Iterator[tuple[str, str, list[str]]]:
    """(place in a card's mapping, layout, fields that are stated) of every set in it."""
    inner = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    if isinstance(value, Mapping) and isinstance(value.get("layout"), str):
        yield path, str(value["layout"]), [str(k) for k, v in value.items() if v not in (None, "")]
    for key, one in inner:
        yield from _sets_in(one, f"{path}.{key}" if path else str(key))


def _check_places(value: Mapping[str, object], where: str, given: Collection[str] | None) -> None:
    """Raises UsageError for a place of a set that more specific ones beside it leave unread. given: only what of it is there; None: all."""
    for path, layout, fields in _sets_in(value):
        asked = [f for f in fields if given is None or any(f"{path}.{f}.".startswith(f"{g}.") for g in given)]
        place = passed_over_place(layout, asked)
        if place is not None:
            raise UsageError(f"{where}: field `{path}.{place[0]}`: is not read beside {place[1]}; take one of them out")


def _is_default(card: BaseModel, field: str) -> bool:
    """Whether a dotted field has its model's default value."""
    node: object = card
    default = False
    for part in field.split("."):
        if isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node, default = node[int(part)], False
        elif isinstance(node, BaseModel) and part in type(node).model_fields:
            declared = type(node).model_fields[part]
            node = getattr(node, part)
            default = node == declared.get_default(call_default_factory=True)
        else:
            return False
    return default


def _check(card: BaseModel, where: str, stated: Collection[str], even_defaults: bool) -> None:
    for node, path, rule in _passed_over(card):
        fields = [f"{path}{name}" for name in rule.fields.split()]
        mine = next((s for s in stated if any(f"{s}.".startswith(f"{f}.") for f in fields)), None)
        if mine is None or (not even_defaults and _is_default(card, mine)):
            continue
        other = rule.others.partition(" ")[0]
        value = getattr(node, other, None)
        reason = f"with `{path}{other}: {_word(value)}`" if other else f"by engine {getattr(card, 'engine', '')}"
        raise UsageError(f"{where}: field `{mine}`: is not read {reason}; {rule.remedy}")


def check_own(value: Mapping[str, object], where: str) -> None:
    """Raises UsageError for a field that a task card's file states and its engine passes over under the file's own values.

    value: the card's mapping, its recipe in it. A field with its default value is none of these, nor is a set's validation, as any head
    may be run on a set; a card that only ``--set`` makes whole is looked at with that.
    """
    _check_places(value, where, None)
    try:
        card = parse_card(value, where)
    except UsageError:
        return
    stated = stated_in(value)
    if isinstance(card, ProbeCard) and card.set is not None:
        stated = (s for s in stated if s.partition(".")[0] != "validation")
    _check(card, where, list(stated), even_defaults=False)


def check_all_read(card: BaseModel, value: Mapping[str, object], overrides: Collection[str], where: str) -> None:
    """Raises UsageError for a field that ``--set`` or ``--grid`` gives (overrides, dotted) and that the card's engine then passes over.

    value: the card's mapping with what they set. A default value is told too: it was asked for.
    """
    given = [f for f in overrides if f != "recipe"]
    _check_places(value, where, given)
    _check(card, where, [p for p in stated_in(value) if any(f"{p}.".startswith(f"{g}.") for g in given)], even_defaults=True)


def check_main(card: TaskFields, value: Mapping[str, object], overrides: Collection[str], where: str) -> None:
    """Raises UsageError where a main metric is asked for that is not measured: ``top1_k7`` of the neighbours 10 and 20.

    value: the card's mapping, of which ``card`` came. A card's own main metric follows where ``--set`` changes what is measured.
    """
    asked = value.get("main_metric")
    if asked is not None and asked != card.main_metric and ("main_metric" in overrides or not {"k", "shots"} & set(overrides)):
        raise UsageError(
            f"{where}: field `main_metric`: {asked!r} is not measured; there is {card.main_metric}, or change what is measured"
        )
