"""What cards are built of: strict models, where a data set lies, and the fields every task has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, PrivateAttr, model_validator

from levl_eval.cards.fields import Between, Name, Share, mark_of, not_protocol, protocol
from levl_eval.cards.layouts import LAYOUTS, UnreadField
from levl_eval.cards.skip import NO_SKIPPING, SkipBound, checked_bound
from levl_eval.core.json_types import JsonObject, as_object

if TYPE_CHECKING:
    from typing_extensions import Self


def plain(card: BaseModel) -> JsonObject:
    """A card as JSON and YAML write it, and as it is read back the same: fields that are not set are left out.

    A field set to None whose default is another value is one that is set, and stays.
    """

    def kept(node: object, written: object) -> object:
        if isinstance(node, BaseModel) and isinstance(written, dict):
            return {
                name: kept(getattr(node, name), written[name])
                for name, field in type(node).model_fields.items()
                if getattr(node, name) is not None or field.get_default(call_default_factory=True) is not None
            }
        if isinstance(node, (list, tuple)) and isinstance(written, list):
            return [kept(n, w) for n, w in zip(node, written, strict=True)]
        return written

    return as_object(kept(card, card.model_dump(mode="json")), type(card).__name__)


class StrictModel(BaseModel):
    """No unknown fields, no NaN, and no field that does not say whether it is protocol (TypeError where a class has one)."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: object) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        for name, field in cls.model_fields.items():
            if mark_of(field) is None:
                raise TypeError(f"{cls.__name__}.{name}: declare it by card_fields.protocol or card_fields.not_protocol")


PLACE = "where the data lie; they count by their content, which is their fingerprint"
PROSE = "words for people"


class HubSource(StrictModel):
    """Where ``--data hub`` finds the set: repository and configurations, read through ``datasets``."""

    repo: str = not_protocol(PLACE)
    questions: str | None = not_protocol(PLACE, None)  # configuration with questions or with everything
    images: str | None = not_protocol(PLACE, None)  # configuration with images, where they are apart
    split: str | None = not_protocol(PLACE, None)
    revision: str | None = not_protocol(PLACE, None)  # branch or commit: this one and no other
    # The commit that the card was written against: read where it can be had, else another one, which is said (data/hub_tables.py).
    pinned: str | None = not_protocol(PLACE, None)
    files: str | None = not_protocol(PLACE, None)  # pattern of the split's files, where the repository's card does not list them
    # column of the class, where it is not label, labels or fine_label; of the masks
    label: str | None = not_protocol(PLACE, None)


class DataSpec(StrictModel):
    """A data set in the layout it is published in. Paths are relative to ``--data DIR`` / ``directory`` unless absolute."""

    layout: Literal[
        "gqa", "vqav2", "pope", "vqa", "ade20k", "coco-stuff", "coco-stuff-27", "voc", "cityscapes", "pascal-context",
        "pascal-context-59", "segmentation", "imagefolder", "labels", "imagenet", "places365", "aircraft", "pets", "cifar10",
        "cifar100", "stl10", "sun397", "tiny-imagenet", "karpathy", "captions",
        "llava", "textvqa", "vizwiz", "scienceqa", "mme", "nyuv2", "depth", "kitti", "sunrgbd", "nyuv2-normals", "normals",
        "chartqa", "docvqa", "infovqa", "ocrbench", "tallyqa", "vsr", "refcoco", "refcoco-places",
        "spair71k", "davis", "revisited", "navi",
        "sugarcrepe", "winoground", "aro", "mmvp-vlm", "choices",
        "imagenet-v2", "imagenet-a", "imagenet-r", "imagenet-sketch", "objectnet",
        "mmvp", "cv-bench", "realworldqa", "seedbench", "mmbench", "blink", "ai2d", "mcq",
        "food101", "dtd", "cub", "gtsrb", "flowers102", "stanford-cars",
    ] = protocol()  # fmt: skip
    directory: str = not_protocol(PLACE, "")  # folder below --data DIR
    root: str | None = not_protocol(PLACE, None)  # replaces DIR/directory
    split: str = protocol("")
    questions: str | None = not_protocol(PLACE, None)  # question file(s), where not at the published place
    annotations: str | None = not_protocol(PLACE, None)  # annotation file (VQAv2) or mask folder (segmentation)
    images: str | None = not_protocol(PLACE, None)  # image folder, where not at the published place
    classes: str | list[str] | None = protocol(None)  # class names, or a text file with one a line
    ignore_index: Annotated[int, Between(-65_535, 65_535)] = protocol(255)
    reduce_zero_label: bool = protocol(False)  # mask value 0 is void and v stands for class v - 1 (ADE20K)
    orientation: Literal["exif", "stored"] = protocol("exif")  # whether images are turned as their EXIF tag says (data/rgb.py)
    # behind transparent pixels; dropped: their stored colours
    background: Literal["white", "black", "dropped"] = protocol("white")
    # images of more pixels than Pillow's limit (178,956,970) are refused; a number here allows up to so many
    max_pixels: Annotated[int, Between(1, 1_000_000_000_000)] | None = not_protocol("a permission; no pixel is another", None)
    # which of several label sets: aircraft variant|family|manufacturer, cifar100 fine|coarse, pope coco|aokvqa|gqa, vsr
    # zeroshot|random, refcoco refcoco|refcoco+|refcocog; which part of a frame: kitti kb|whole
    level: str | None = protocol(None)
    hub: HubSource | None = not_protocol(PLACE, None)
    choices: str | None = not_protocol(PLACE, None)  # GQA's file of valid and plausible answers, where not at the published place
    # N or P%: how many of the set's items may be left out because they cannot be read; None: none (--skip-broken)
    skip_broken: Annotated[str, BeforeValidator(checked_bound)] | None = not_protocol(
        "a permission; what was left out is part of the data's fingerprint", None
    )

    def stated(self) -> tuple[str, ...]:
        """Fields of the data that are set to another value than their default, those of ``hub`` one by one ("hub.repo"); not ``layout``."""

        def of(model: BaseModel, fields: Iterable[str]) -> list[str]:
            declared = type(model).model_fields
            return [f for f in fields if getattr(model, f) != declared[f].get_default(call_default_factory=True)]

        inside = [f"hub.{f}" for f in of(self.hub, type(self.hub).model_fields)] if self.hub is not None else []
        return (*of(self, (f for f in DataSpec.model_fields if f not in ("layout", "hub"))), *inside)

    @model_validator(mode="after")
    def _check_read(self) -> Self:
        known = LAYOUTS[self.layout]
        unread = next((f for f in self.stated() if f not in known.may_state()), None)
        if unread is not None:
            raise UnreadField(self.layout, unread, (*known.files, *known.hub))
        return self

    @property
    def may_skip(self) -> SkipBound:
        """``skip_broken`` as a bound."""
        return NO_SKIPPING if self.skip_broken is None else SkipBound.parse(self.skip_broken)


_Model = TypeVar("_Model", bound=BaseModel)


def with_skipping(card: _Model, bound: str) -> _Model:
    """A copy of a card whose data sets, those of its recipe included, may leave out broken items; fields that are set already stay."""

    def changed(node: object) -> object:
        if isinstance(node, DataSpec):
            return node.model_copy(update={} if node.skip_broken is not None else {"skip_broken": bound})
        if isinstance(node, BaseModel):
            return with_skipping(node, bound)
        return [changed(n) for n in node] if isinstance(node, list) else node

    return card.model_copy(update={name: changed(getattr(card, name)) for name in type(card).model_fields})


class TaskFields(StrictModel):
    kind: Literal["task"] = protocol("task")
    name: Name = protocol()
    description: str = not_protocol(PROSE, "")
    main_metric: str = protocol()
    chance: Share | None = not_protocol("a line beside the metrics, which do not use it", None)
    source: str = not_protocol(PROSE, "")  # paper and data set the protocol follows
    # Whether what the card names may run Python here: the user named it on the command line, or said --trust. Never written.
    _trusted: bool = PrivateAttr(False)

    @property
    def trusted(self) -> bool:
        """Whether what the card names may run Python here."""
        return self._trusted

    @trusted.setter
    def trusted(self, value: bool) -> None:
        self._trusted = value
