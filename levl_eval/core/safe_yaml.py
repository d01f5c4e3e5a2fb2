"""The one way YAML is read: cards, `--set` values and pretraining configurations. Plain values only, and bounded.

A file of a few lines can stand for more than any memory holds (aliases of aliases), nest until Python's stack ends, or give a key
twice, of which YAML readers silently take the last: all are refused in one line.
"""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path

import yaml

from levl_eval.core.errors import UsageError

MAX_BYTES = 1_000_000  # of a file or a value; the largest shipped card has 3 kB
MAX_DEPTH = 32  # of nested lists and mappings
MAX_NODES = 100_000  # values, each alias counted as what it stands for
MAX_CHARS = 4_000_000  # of all texts, counted the same way


class _TooMuch(yaml.YAMLError):
    """More than a card can need; told without yaml's words."""


class _Loader(yaml.SafeLoader):
    """SafeLoader without duplicate keys, endless depth and aliases that multiply."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0
        self.sizes: dict[int, tuple[int, int]] = {}  # by node: values and characters, aliases as what they stand for

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
        if self.depth > MAX_DEPTH:
            raise _TooMuch(f"line {line}: more than {MAX_DEPTH} lists or mappings inside one another")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        if node is not None and id(node) not in self.sizes:  # an alias of what is not whole yet holds itself
            if not isinstance(node, yaml.ScalarNode) and node.end_mark is None:
                raise _TooMuch(f"line {line}: an alias inside what it stands for")
            self._measure(node, line)
        return node

    def _measure(self, node: yaml.Node, line: int) -> None:
        values, chars = 1, len(node.value) if isinstance(node, yaml.ScalarNode) else 0
        if not isinstance(node, yaml.ScalarNode):
            parts = [p for pair in node.value for p in pair] if isinstance(node, yaml.MappingNode) else node.value
            for part in parts:
                if id(part) not in self.sizes:
                    raise _TooMuch(f"line {line}: an alias inside what it stands for")
                values, chars = values + self.sizes[id(part)][0], chars + self.sizes[id(part)][1]
        if values > MAX_NODES or chars > MAX_CHARS:
            raise _TooMuch(f"line {line}: stands for more than {MAX_NODES:,} values or {MAX_CHARS:,} characters")
        self.sizes[id(node)] = (values, chars)

    def compose_mapping_node(self, anchor: dict[str, yaml.Node]) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: dict[Hashable, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise _TooMuch(f"line {line}: a key is a word, not a list or mapping")
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            value = self.construct_object(key)
            if value in seen:
                raise _TooMuch(f"line {line}: the key `{key.value}` is there already, in line {seen[value]}")
            seen[value] = line
        return node


def parse_yaml(text: str, where: str) -> object:
    """The plain values of a YAML text. Raises UsageError naming ``where`` and the line."""
    if len(text) > MAX_BYTES:
        raise UsageError(f"{where}: {len(text):,} characters of YAML; at most {MAX_BYTES:,} are read")
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, OverflowError, TypeError, RecursionError) as e:
        reason = "nested too deeply" if isinstance(e, RecursionError) else " ".join(str(e).split())[:300]
        raise UsageError(f"{where}: not valid YAML ({reason})") from e


def read_yaml(path: Path) -> dict[str, object]:
    """A YAML mapping, loaded safely. Raises UsageError naming the file."""
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"{path}: no regular file; a card is a YAML file")
        with open(path, "rb") as f:
            content = f.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise UsageError(f"{path}: larger than {MAX_BYTES:,} bytes; a card is a YAML file of a few lines")
        text = content.decode("utf-8-sig")
    except OSError as e:
        raise UsageError(f"{path}: cannot be read ({e.strerror})") from e
    except (UnicodeDecodeError, ValueError) as e:
        raise UsageError(f"{path}: not valid YAML ({' '.join(str(e).split())})") from e
    value = parse_yaml(text, str(path))
    if not isinstance(value, dict):
        raise UsageError(f"{path}: a card is a YAML mapping with `name:` and so on, found {type(value).__name__}")
    return value
