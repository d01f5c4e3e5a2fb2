"""Cards: YAML files that declare backbones, tasks, recipes and language models, as validated models without heavy imports.

A card says everything that can move a number and was not fixed by the paper (docs/paper.md: what it leaves open are fields here, never
buried constants). ``protocol`` of a task card, hashed, is what two rows must share to be compared: the fields that are declared
by ``card_fields.protocol``. The models lie beside their kind (vlm_cards, probe_cards, dense_cards) and are all found here.
"""

from __future__ import annotations

import hashlib
import json
import reprlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias, TypeVar, get_args

from pydantic import BaseModel, Field, TypeAdapter, ValidationError, model_validator

from levl_eval.cards.base import PROSE, DataSpec, HubSource, StrictModel, TaskFields
from levl_eval.cards.claim import ClaimCard
from levl_eval.cards.dense import DepthCard, DepthRecipeCard, InContextCard, MMSegCard, SegmentationCard, TextSegmentationCard
from levl_eval.cards.fields import Between, Name, Side, mark_of, not_protocol, of_levels, protocol
from levl_eval.cards.layouts import UnreadField
from levl_eval.cards.matching import CorrespondenceCard, InstanceCard, MultiviewCard, PropagationCard
from levl_eval.cards.normals import NormalsCard
from levl_eval.cards.probes import (
    AttentiveCard,
    BackgroundsCard,
    CarvedSpec,
    ChoiceCard,
    KNNCard,
    LinearPathCard,
    LinearProbeCard,
    LinearTraining,
    ProbeCard,
    ReadoutCard,
    RetrievalCard,
    SetCard,
    ShiftCard,
    ZeroShotCard,
)
from levl_eval.cards.suite import SuiteCard, SuitePart
from levl_eval.cards.vlm import (
    GENERATION,
    INSTRUCTION,
    ConnectorSpec,
    LLMCard,
    LMMSCard,
    MixSpec,
    MultipleChoiceCard,
    PromptSpec,
    QuestionCard,
    RecipeCard,
    VQACard,
)
from levl_eval.core.errors import UsageError
from levl_eval.core.json_types import as_object
from levl_eval.core.safe_yaml import read_yaml
from levl_eval.core.text import did_you_mean

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = [
    "GENERATION",
    "INSTRUCTION",
    "AttentiveCard",
    "BackboneCard",
    "BackgroundsCard",
    "Card",
    "CarvedSpec",
    "ChoiceCard",
    "ClaimCard",
    "ConnectorSpec",
    "CorrespondenceCard",
    "DataSpec",
    "DepthCard",
    "DepthRecipeCard",
    "HubSource",
    "InContextCard",
    "InstanceCard",
    "KNNCard",
    "LLMCard",
    "LMMSCard",
    "LinearPathCard",
    "LinearProbeCard",
    "LinearTraining",
    "MMSegCard",
    "MixSpec",
    "MultipleChoiceCard",
    "MultiviewCard",
    "NormalsCard",
    "PreprocessOverride",
    "ProbeCard",
    "PromptSpec",
    "PropagationCard",
    "QuestionCard",
    "ReadoutCard",
    "RecipeCard",
    "RetrievalCard",
    "SegmentationCard",
    "SetCard",
    "ShiftCard",
    "SuiteCard",
    "SuitePart",
    "TaskCard",
    "TaskFields",
    "TextSegmentationCard",
    "VQACard",
    "ZeroShotCard",
    "card_fields",
    "expect",
    "load_card",
    "names_by_content",
    "parse_card",
    "protocol_hash",
    "protocol_of",
    "read_yaml",
]  # fmt: skip

TaskCard = Annotated[
    VQACard
    | SegmentationCard
    | LinearProbeCard
    | ZeroShotCard
    | LinearPathCard
    | KNNCard
    | AttentiveCard
    | RetrievalCard
    | ChoiceCard
    | ShiftCard
    | MultipleChoiceCard
    | BackgroundsCard
    | LMMSCard
    | MMSegCard
    | DepthCard
    | DepthRecipeCard
    | NormalsCard
    | InContextCard
    | CorrespondenceCard
    | PropagationCard
    | InstanceCard
    | MultiviewCard
    | TextSegmentationCard,
    Field(discriminator="engine"),
]
_TASK: TypeAdapter[TaskCard] = TypeAdapter(TaskCard)

_Mean = Annotated[float, Between(-1e30, 1e30)]
_Std = Annotated[float, Between(0, 1e30, above=True)]  # `audit` tells a wrong one


class PreprocessOverride(StrictModel):
    """Preprocessing fields a backbone card sets differently from its loader (see backbones.base.Preprocess)."""

    size: Side | None = protocol(None)
    resize: Literal["shortest", "squash"] | None = protocol(None)
    resize_to: Side | None = protocol(None)
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] | None = protocol(None)
    mean: tuple[_Mean, _Mean, _Mean] | None = protocol(None)
    std: tuple[_Std, _Std, _Std] | None = protocol(None)
    crop: Literal["round", "floor"] | None = protocol(None)

    @model_validator(mode="before")
    @classmethod
    def _own_crop(cls, values: object) -> object:
        """A card that says how to resize crops as torchvision does, whatever its library does."""
        return {"crop": "round", **values} if isinstance(values, Mapping) and values.get("resize") else values

    @model_validator(mode="after")
    def _of_pixels_in_0_to_1(self) -> PreprocessOverride:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if of_levels(values or ()):
                raise ValueError(
                    f"{name} {list(values or ())} is of levels 0 to 255, pixels are in [0, 1]; divide mean and std by 255"
                )
        return self


class BackboneCard(StrictModel):
    """Who is measured: a name for a URI, its file's hash, its preprocessing and where it comes from."""

    kind: Literal["backbone"] = protocol("backbone")
    name: Name = not_protocol("a label; the weights count")
    # "@assets/FILE" in it stands for the package's assets folder
    uri: str = not_protocol("where the weights lie; they count by their content", min_length=1)
    description: str = not_protocol(PROSE, "")
    # of the weights file
    sha256: str | None = not_protocol("checked when the weights are loaded, which count by their content", None)
    preprocess: PreprocessOverride | None = protocol(None)
    # Of texts, for `official:` weights whose config.json is silent: the state of an end token, or of the 77th place.
    readout: Literal["eot", "pad77", "pad77-all"] | None = protocol(None)
    licence: str = not_protocol(PROSE, "")
    training_data: str = not_protocol(PROSE, "")
    citation: str = not_protocol(PROSE, "")
    baseline: bool = not_protocol("whom a gain is over, not what is measured", False)  # a random-initialised floor


Model = TypeVar("Model", bound=BaseModel)
Card: TypeAlias = TaskCard | BackboneCard | RecipeCard | SetCard | LLMCard | ClaimCard | SuiteCard


def _models() -> dict[str, type[BaseModel]]:
    cards: tuple[type[BaseModel], ...] = (
        VQACard, SegmentationCard, LinearProbeCard, ZeroShotCard, LinearPathCard, KNNCard, AttentiveCard, RetrievalCard,
        BackgroundsCard, LMMSCard, MMSegCard, DepthCard, DepthRecipeCard, NormalsCard, InContextCard, CorrespondenceCard,
        PropagationCard, InstanceCard, MultiviewCard, ChoiceCard, ShiftCard, MultipleChoiceCard, TextSegmentationCard,
    )  # fmt: skip
    return {c.model_fields["engine"].default: c for c in cards}


def card_fields(engine: object) -> frozenset[str]:
    """Field names of an engine's card; empty for an unknown engine."""
    model = _models().get(str(engine))
    return frozenset(model.model_fields) if model else frozenset()


def _branch(loc: Sequence[int | str]) -> tuple[int | str, ...]:
    """Up to the model of a union that an error is of; () where it is of none."""
    at = [n for n, p in enumerate(loc) if str(p).endswith(_BRANCHES)]
    return tuple(loc[: at[-1] + 1]) if at else ()


_BRANCHES = ("Card", "Spec", "str", "list[str]", "]")  # how pydantic names the models and types of a union in a place


def _nearest(errors: Sequence[ErrorDetails]) -> ErrorDetails:
    """The first complaint about a range, which says more than a union's other branch;
    else the first of the branch with fewest complaints."""
    of_value = next((e for e in errors if e["type"] == "value_error"), None)
    counts = Counter(_branch(e["loc"]) for e in errors)
    first = errors[0]
    inside = [e for e in errors if _branch(e["loc"])[:-1] == _branch(first["loc"])[:-1] and e["type"] == "extra_forbidden"]
    return of_value or min(inside, key=lambda e: counts[_branch(e["loc"])], default=first)


def _fields_at(model: type[BaseModel] | None, loc: Sequence[int | str]) -> list[str]:
    """Fields of the model in which the last of ``loc`` is unknown: the card's own, or those of a model inside it."""
    known: list[type[BaseModel]] = [model] if model else []
    for part in loc[:-1]:
        if isinstance(part, str) and known:
            inner = [m.model_fields[part].annotation for m in known if part in m.model_fields]
            known = [m for annotation in inner for m in _models_in(annotation)] or known
            known = [m for m in known if m.__name__ == part] or known
    return list(dict.fromkeys(name for m in known for name in m.model_fields))


def _models_in(annotation: object) -> list[type[BaseModel]]:
    """The models that an annotation names, in unions and lists too."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for part in get_args(annotation) for m in _models_in(part)]


def _explain(error: ValidationError, where: str, model: type[BaseModel] | None = None) -> UsageError:
    """One line from pydantic's first complaint, or the first about a range: file, field, what was expected."""
    errors = error.errors()
    first = _nearest(errors)
    engines = set(_models())
    loc = [str(p) for p in first["loc"] if p not in engines and not str(p).endswith(_BRANCHES)]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, UnreadField):
        loc.append(cause.field)
    field = ".".join(loc) or "(card)"
    expected = first["msg"].removeprefix("Value error, ")
    expected = expected[0].lower() + expected[1:]
    if first["type"] == "extra_forbidden":
        expected = "no such field" + did_you_mean(loc[-1], _fields_at(model, first["loc"])) + "; take it out, or correct its name"
    elif "input" in first and ", found " not in expected and not isinstance(first["input"], (dict, BaseModel)):
        expected += f", found {reprlib.repr(first['input'])}"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return UsageError(f"{where}: field `{field}`: {expected}{more}")


def parse_card(value: Mapping[str, object], where: str) -> Card:
    """A mapping with ``kind: task | recipe | set | llm | claim | suite | backbone`` as its card model.

    Raises UsageError naming ``where`` and the field.
    """
    kind = value.get("kind", "task")
    try:
        if kind == "backbone":
            return BackboneCard.model_validate(value)
        if kind == "recipe":
            return RecipeCard.model_validate(value)
        if kind == "set":
            return SetCard.model_validate(value)
        if kind == "llm":
            return LLMCard.model_validate(value)
        if kind == "claim":
            return ClaimCard.model_validate(value)
        if kind == "suite":
            return SuiteCard.model_validate(value)
        if kind != "task":
            raise UsageError(f"{where}: field `kind`: expected task, recipe, set, llm, claim, suite or backbone, found {kind!r}")
        engine = value.get("engine")
        if not isinstance(engine, str) or engine not in _models():
            raise UsageError(f"{where}: field `engine`: expected one of {', '.join(_models())}, found {engine!r}")
        return _TASK.validate_python(value)
    except ValidationError as e:
        kinds: dict[str, type[BaseModel]] = {
            "backbone": BackboneCard, "recipe": RecipeCard, "set": SetCard, "llm": LLMCard, "claim": ClaimCard,
            "suite": SuiteCard,
        }  # fmt: skip
        model = kinds.get(str(kind)) or _models().get(str(value.get("engine")))
        raise _explain(e, where, model) from e


def load_card(path: Path) -> Card:
    """The card of a YAML file. Raises UsageError naming the file and the field."""
    return parse_card(read_yaml(path), str(path))


def expect(card: Card, model: type[Model], where: str | Path, kind: str) -> Model:
    """``card`` where it is of that kind. Raises UsageError naming ``where``."""
    if not isinstance(card, model):
        raise UsageError(f"{where}: field `kind`: a {kind} card was expected, found {card.kind}")
    return card


def names_by_content(card: TaskFields) -> None:
    """Class names of a file in the file's place: the names move numbers, where they lie does not. Raises UsageError: no such file."""
    if (
        isinstance(card, (ZeroShotCard, TextSegmentationCard))
        and isinstance(card.class_names, str)
        and card.class_names != "openai"
    ):
        from levl_eval.core.files import names_of  # numpy, only where a file is given

        card.class_names = names_of(Path(card.class_names).expanduser(), "a name a line is expected (field `class_names`)")


def protocol_of(card: BaseModel, extra: Mapping[str, object] | None = None) -> dict[str, object]:
    """Everything in a task card that can move a number, plus ``extra`` (language model's hash, ...).

    By the declaration of each field in its class, at every depth: of two fields of one name one may be protocol and one not.
    """

    def kept(node: object, written: object) -> object:
        if isinstance(node, BaseModel) and isinstance(written, dict):
            fields = type(node).model_fields.items()
            return {name: kept(getattr(node, name), written[name]) for name, field in fields if mark_of(field) is True}
        if isinstance(node, (list, tuple)) and isinstance(written, list):
            return [kept(n, w) for n, w in zip(node, written, strict=True)]
        return written

    return {**as_object(kept(card, card.model_dump(mode="json")), type(card).__name__), **(extra or {})}


def protocol_hash(protocol: Mapping[str, object]) -> str:
    """SHA-256 of the canonical JSON of a protocol (sorted keys, no spaces)."""
    text = json.dumps(protocol, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
