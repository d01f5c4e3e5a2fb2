"""What cards are built of: strict models, where a data set lies, and the fields every task has."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


def plain(card: BaseModel) -> dict[str, Any]:
    """A card as JSON and YAML write it, and as it is read back the same: fields that are not set are left out.

    A field set to None whose default is another value is one that is set, and stays.
    """

    def kept(node: Any, written: Any) -> Any:
        if isinstance(node, BaseModel):
            return {
                name: kept(getattr(node, name), written[name])
                for name, field in type(node).model_fields.items()
                if getattr(node, name) is not None or field.get_default(call_default_factory=True) is not None
            }
        if isinstance(node, (list, tuple)):
            return [kept(n, w) for n, w in zip(node, written, strict=True)]
        return written

    return kept(card, card.model_dump(mode="json"))


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class HubSource(_Strict):
    """Where ``--data hub`` finds the set: repository and configurations, read through ``datasets``."""

    repo: str
    questions: str | None = None  # configuration with questions or with everything
    images: str | None = None  # configuration with images, where they are apart
    split: str | None = None
    revision: str | None = None
    label: str | None = None  # column of the class, where it is not label, labels or fine_label


class DataSpec(_Strict):
    """A data set in the layout it is published in. Paths are relative to ``--data DIR`` / ``directory`` unless absolute."""

    layout: Literal[
        "gqa", "vqav2", "pope", "vqa", "ade20k", "coco-stuff", "coco-stuff-27", "voc", "cityscapes", "segmentation",
        "imagefolder", "labels", "imagenet", "places365", "aircraft", "pets", "cifar10", "cifar100", "stl10", "sun397",
        "karpathy", "captions",
        "llava", "textvqa", "vizwiz", "scienceqa", "mme", "nyuv2", "depth",
    ]  # fmt: skip
    directory: str = ""  # folder below --data DIR
    root: str | None = None  # replaces DIR/directory
    split: str = ""
    questions: str | None = None  # question file(s), where not at the published place
    annotations: str | None = None  # annotation file (VQAv2) or mask folder (segmentation)
    images: str | None = None  # image folder, where not at the published place
    classes: str | list[str] | None = None  # class names, or a text file with one a line
    ignore_index: int = 255
    reduce_zero_label: bool = False  # mask value 0 is void and v stands for class v - 1 (ADE20K)
    level: str | None = None  # which of several label sets: aircraft variant|family|manufacturer, cifar100 fine|coarse
    hub: HubSource | None = None
    choices: str | None = None  # GQA's file of valid and plausible answers, where not at the published place


class _TaskCard(_Strict):
    kind: Literal["task"] = "task"
    name: str
    description: str = ""
    main_metric: str
    chance: float | None = None
    source: str = ""  # paper and data set the protocol follows
