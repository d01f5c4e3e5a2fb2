"""Headers of GGUF files: what a language model's file says of itself, without its weights. No heavy imports.

The layout is ggml's (docs/gguf.md of ggml-org/ggml): magic, version, counts, key-value pairs, then a name, a shape, a type and an
offset for every tensor. Weights are read by transformers (engines/vlm/loading.py).
"""

from __future__ import annotations

import mmap
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from levl_eval.core.errors import UsageError

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}  # type -> struct's letter
_STRING, _ARRAY = 8, 9
# ggml's tensor types by number; those that were withdrawn are left out.
TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K",
    13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S",
    22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 30: "BF16", 34: "TQ1_0",
    35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip
_PLAIN = frozenset({"F32", "F16", "BF16", "F64"})

Value = str | int | float | bool


@dataclass(frozen=True)
class GGUFHeader:
    """values: scalar key-value pairs (arrays are left out). tensors: type -> how many weights have it, in elements."""

    values: dict[str, Value]
    tensors: dict[str, int]

    @property
    def quantization(self) -> str:
        """Types of its weights, that of most of them first: "Q4_1+Q6_K"; norms and biases in floats are not named beside others."""
        ordered = [t for t, _ in sorted(self.tensors.items(), key=lambda item: (-item[1], item[0]))]
        quantized = [t for t in ordered if t not in _PLAIN]
        return "+".join(quantized or ordered[:1])

    @property
    def chat_template(self) -> str:
        """ "" where it has none."""
        return str(self.values.get("tokenizer.chat_template", ""))


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 0

    def number(self, letter: str) -> int | float | bool:
        out: int | float | bool = struct.unpack_from("<" + letter, self.data, self.at)[0]
        self.at += struct.calcsize("<" + letter)
        return out

    def count(self, letter: str) -> int:
        return int(self.number(letter))

    def text(self) -> str:
        return self._bytes(self.count("Q")).decode("utf-8", "replace")

    def _bytes(self, length: int) -> bytes:
        if self.at + length > len(self.data):
            raise struct.error("past the end")
        self.at += length
        return bytes(self.data[self.at - length : self.at])

    def value(self, kind: int) -> Value | None:
        """A scalar; None for an array, which is skipped."""
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            return self.number(_NUMBERS[kind])
        inner, length = self.count("I"), self.count("Q")
        if inner in _NUMBERS:
            self.at += length * struct.calcsize("<" + _NUMBERS[inner])
        elif inner == _STRING:
            for _ in range(length):
                self.at += 8 + struct.unpack_from("<Q", self.data, self.at)[0]
        else:
            for _ in range(length):
                self.value(inner)
        return None


def read_gguf_header(path: Path) -> GGUFHeader:
    """Raises UsageError: no such file, not GGUF, an older version of it, cut short, one part of several."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            header = _header(_Reader(data), path)
    except (OSError, ValueError) as e:  # mmap refuses an empty file with a ValueError
        raise UsageError(f"{path}: cannot be read as GGUF ({' '.join(str(e).split())[:120]}); copy it again") from e
    except (struct.error, KeyError, IndexError, OverflowError) as e:
        raise UsageError(f"{path}: its GGUF header is damaged or cut short; copy it again") from e
    if int(header.values.get("split.count", 0) or 0) > 1:
        raise UsageError(
            f"{path}: one part of {header.values['split.count']}; join them first (llama-gguf-split --merge FIRST OUT.gguf)"
        )
    return header


def _header(reader: _Reader, path: Path) -> GGUFHeader:
    if bytes(reader.data[:4]) != b"GGUF":
        raise UsageError(f"{path}: not a GGUF file (it does not begin with GGUF); give a .gguf file or a transformers directory")
    reader.at = 4
    version = reader.count("I")
    if version not in (2, 3):
        raise UsageError(f"{path}: GGUF of version {version}, versions 2 and 3 (little-endian) are read; convert it again")
    tensors, pairs = reader.count("Q"), reader.count("Q")
    values: dict[str, Value] = {}
    for _ in range(pairs):
        key, kind = reader.text(), reader.count("I")
        value = reader.value(kind)
        if value is not None:
            values[key] = value
    sizes: Counter[str] = Counter()
    end = 0
    for _ in range(tensors):
        reader.text()
        elements = 1
        for _ in range(reader.count("I")):
            elements *= reader.count("Q")
        kind = reader.count("I")
        sizes[TYPES.get(kind, f"type {kind}")] += elements
        end = max(end, reader.count("Q"))
    if tensors and reader.at + end >= len(reader.data):
        raise struct.error("weights are missing")
    return GGUFHeader(values, dict(sizes))
