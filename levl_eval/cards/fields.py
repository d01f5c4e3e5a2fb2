"""How a card's fields are declared: whether each is protocol, and the range of each number.

``protocol`` and ``not_protocol`` are the only two ways to declare a field; ``StrictModel`` (card_base) refuses a class with another one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn, TypedDict, TypeVar, cast

from pydantic import Field, GetCoreSchemaHandler
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

if TYPE_CHECKING:
    from typing_extensions import Unpack

MARK = "levl_protocol"  # in a field's json_schema_extra: True, or why it is none


T = TypeVar("T")
REQUIRED: NoReturn = cast(NoReturn, ...)  # pydantic's mark of a field without a default; typed as what fits every field


class Rules(TypedDict, total=False):
    """Of pydantic's constraints those that cards use; ranges of numbers are :class:`Between`."""

    min_length: int
    max_length: int
    gt: float
    lt: float


def protocol(default: T = REQUIRED, **rules: Unpack[Rules]) -> T:
    """A field that can move a number: part of the protocol, so that rows that differ in it are never compared."""
    return Field(default, json_schema_extra={MARK: True}, **rules)


def not_protocol(why: str, default: T = REQUIRED, **rules: Unpack[Rules]) -> T:
    """A field that moves no number of a job, and why not."""
    return Field(default, json_schema_extra={MARK: why}, **rules)


def mark_of(field: FieldInfo) -> bool | str | None:
    """True: protocol; a text: not, for that reason; None: declared without either."""
    extra = field.json_schema_extra
    mark = extra.get(MARK) if isinstance(extra, dict) else None
    return mark if isinstance(mark, (bool, str)) else None


@dataclass(frozen=True)
class Between:
    """A number's range, both ends allowed unless ``above``: then ``low`` is not. Refuses NaN, infinity and booleans.

    In an annotation of a card's field, and by ``check`` for options.
    """

    low: float
    high: float
    above: bool = False

    def __str__(self) -> str:
        low, high = (f"{e:,}" if isinstance(e, int) else f"{e:g}" for e in (self.low, self.high))
        return f"{'above' if self.above else 'at least'} {low}, at most {high}"

    def holds(self, value: float) -> bool:
        inside = self.low < value if self.above else self.low <= value
        return math.isfinite(value) and inside and value <= self.high

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        def bounded(value: object, inner: core_schema.ValidatorFunctionWrapHandler) -> float:
            if isinstance(value, bool):
                raise ValueError(f"expected a number {self}")
            number: float = inner(value)
            if not self.holds(number):
                raise ValueError(f"expected a number {self}")
            return number

        return core_schema.no_info_wrap_validator_function(bounded, handler(source))


_LARGEST = 2.0  # of a mean or standard deviation of pixels in [0, 1]; no published encoder has one above 1


def of_levels(values: Iterable[float]) -> bool:
    """Whether means or standard deviations of pixels can only be meant for levels of 0 to 255."""
    return any(abs(v) > _LARGEST for v in values)


# Wide enough for every use known, narrow enough that a slip of the finger is refused before it costs a night or the memory.
MAX_SEED = 2**32 - 1  # numpy's legacy generators take no more
Name = Annotated[str, Field(min_length=1, max_length=200)]
Seed = Annotated[int, Between(0, MAX_SEED)]
Seeds = Annotated[int, Between(1, 1_000)]  # how many
Count = Annotated[int, Between(1, 1_000_000_000)]  # of images, questions, tokens
BatchSize = Annotated[int, Between(1, 1_000_000)]
Epochs = Annotated[int, Between(1, 100_000)]
Steps = Annotated[int, Between(1, 100_000_000)]
Side = Annotated[int, Between(1, 16_384)]  # pixels
Width = Annotated[int, Between(1, 65_536)]  # channels, queries
Small = Annotated[int, Between(1, 1_000)]  # layers, heads, draws, folds, views
Block = Annotated[int, Between(-1_000, 1_000)]  # a block's number, negative from the end
Bins = Annotated[int, Between(1, 10_000)]
Neighbours = Annotated[int, Between(1, 1_000_000)]
Share = Annotated[float, Between(0, 1)]
Rate = Annotated[float, Between(0, 1e30)]  # learning rates and decays; far too large a one is told by the loss it gives
Scale = Annotated[float, Between(0, 1_000_000, above=True)]  # temperatures, weights, metres
Beta = Annotated[float, Between(0, 0.999_999_999)]
# What stored patch tokens are held in; half as many bytes, or every bit the encoder gave.
TokenDtype = Literal["float16", "float32"]
Layers = Annotated[list[Block], Field(min_length=1, max_length=1_000)]
