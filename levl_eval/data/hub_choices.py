"""Choices by image-text score on the hub: a row a choice, with one column of images and several of captions, or two of each.

Columns as mteb's tasks name them (mteb/tasks/image_text_pair_classification): SugarCrepe images, caption, negative_caption; ARO image,
true_caption, false_caption, and images, correct_caption, hard_text_1 to 4; Winoground image_0, image_1, caption_0, caption_1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from levl_eval.cards import DataSpec
from levl_eval.core.errors import UsageError
from levl_eval.core.text import blank, printable
from levl_eval.data.choices import choice_set, kept_trials
from levl_eval.data.formats import shown
from levl_eval.data.hub_cells import named_rows
from levl_eval.data.hub_images import source_of, table_images
from levl_eval.data.hub_tables import HubTable, load_split
from levl_eval.data.images import fingerprint_contents
from levl_eval.data.rgb import DEFAULT, Rules
from levl_eval.data.types import ChoiceSet, ImageSet, Trial

if TYPE_CHECKING:
    from datasets import Dataset

# (layout, split) -> columns of images, columns of captions, the right one first. Split "": any.
COLUMNS: dict[tuple[str, str], tuple[tuple[str, ...], tuple[str, ...]]] = {
    ("sugarcrepe", ""): (("images",), ("caption", "negative_caption")),
    ("winoground", ""): (("image_0", "image_1"), ("caption_0", "caption_1")),
    ("aro", "relation"): (("image",), ("true_caption", "false_caption")),
    ("aro", "attribution"): (("image",), ("true_caption", "false_caption")),
    ("aro", "order"): (("images",), ("correct_caption", "hard_text_1", "hard_text_2", "hard_text_3", "hard_text_4")),
}
# split -> column of the kind, where a table has it
_KINDS = {"": "kind", "relation": "relation_name", "attribution": "attributes"}


@dataclass(frozen=True)
class JoinedOpener:
    """id -> image, by the opener of the column it stands in."""

    openers: Mapping[str, Callable[[str], Image.Image]]
    rules: Rules = DEFAULT

    def __call__(self, name: str) -> Image.Image:
        opener = self.openers[name]
        if self.rules != DEFAULT and dataclasses.is_dataclass(opener) and not isinstance(opener, type):
            opener = dataclasses.replace(opener, rules=self.rules)
        return opener(name)


def joined(parts: list[ImageSet]) -> ImageSet:
    """Image sets over distinct ids as one."""
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    contents = {i: part.content(i) for part in parts if part.content is not None for i in part.ids}
    whole = [p.whole for p in parts if p.whole is not None]
    return dataclasses.replace(
        first, ids=tuple(i for p in parts for i in p.ids), open=JoinedOpener({i: p.open for p in parts for i in p.ids}),
        fingerprint=fingerprint_contents(contents), content=contents.__getitem__, whole=sum(whole) if whole else None,
        skipped={k: v for p in parts for k, v in p.skipped.items()},
    )  # fmt: skip


def hub_choices(spec: DataSpec, limit: int | None) -> ChoiceSet:
    """Raises UsageError naming the repository and what is wrong: no such columns, a row without a caption."""
    hub = source_of(spec)
    columns = COLUMNS.get((spec.layout, spec.split)) or COLUMNS.get((spec.layout, ""))
    if columns is None:
        raise UsageError(f"--data hub: {hub.repo}: layout {spec.layout} is read from files; use --data DIR")
    got = load_split(hub, hub.questions)
    trials = kept_trials(_trials(spec, got.rows, hub.repo, *columns), limit, hub.repo)
    named = {i for t in trials for i in t.images}
    parts = [table_images(got, column, _rows(got, column, named), spec) for column in columns[0]]
    return choice_set(spec, spec.layout, trials, joined(parts))


def _rows(got: HubTable, column: str, named: set[str]) -> dict[str, int]:
    ids = {f"{row:08d}/{column}": row for row in range(len(got.rows))}
    return {i: row for i, row in ids.items() if i in named}


def _trials(spec: DataSpec, table: Dataset, source: str, images: tuple[str, ...], captions: tuple[str, ...]) -> list[Trial]:
    missing = next((c for c in (*images, *captions) if c not in table.column_names), None)
    if missing is not None:
        raise UsageError(
            f"{source}: field {missing!r} is missing; its columns are {', '.join(map(printable, table.column_names))}"
        )
    kind = "collapsed_tag" if spec.layout == "winoground" else _KINDS.get(spec.split, "")
    kind = kind if kind in table.column_names else ""
    out = []
    for row, cells in enumerate(named_rows(table.select_columns([*captions, *([kind] if kind else [])]))):
        given = [cells[c] for c in captions]
        texts = tuple(t for t in given if isinstance(t, str) and not blank(t))
        if len(texts) < len(given):
            wrong = next(t for t in given if not isinstance(t, str) or blank(t))
            raise UsageError(f"{source}: row {row}: a caption was expected, found {shown(wrong)}; correct the table")
        names = tuple(f"{row:08d}/{c}" for c in images)
        value = cells[kind] if kind else ""
        of_kind = "_".join(map(str, value)) if isinstance(value, list) else str(value or "")
        out.append(Trial(str(row), names, texts, of_kind))
    return out
