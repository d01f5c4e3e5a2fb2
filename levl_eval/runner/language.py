"""The language model of a run by content: weights, tokenizer and template, known without loading it."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from levl_eval.cards.registry import language_models, llm_cards
from levl_eval.core.errors import UsageError
from levl_eval.core.hashing import digest
from levl_eval.core.text import did_you_mean

WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt")
_IGNORED = ("README.md", "LICENSE", "LICENSE.txt", ".gitattributes")
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.bin"]


def language_model_parts(name: str, sha256: Callable[[Path], str]) -> dict[str, Any]:
    """Its part of an identity: what answers depend on besides the prompt. sha256: of a file, remembered.

    A hub name is looked up in the local cache, and downloaded where that is allowed. Raises UsageError for an unknown name.
    """
    card = llm_cards().get(name)
    folder = _folder(name)
    files = [p for p in sorted(folder.iterdir()) if p.is_file() and not p.name.startswith(".") and p.name not in _IGNORED]
    weights = {p.name: sha256(p) for p in files if p.suffix in WEIGHTS}
    if any(n.endswith(".safetensors") for n in weights):  # what transformers then reads
        weights = {n: h for n, h in weights.items() if n.endswith(".safetensors")}
    rest = {p.name: sha256(p) for p in files if p.suffix not in WEIGHTS}
    return {
        "weights": digest(weights),
        "tokenizer_and_settings": digest(rest),
        "chat": bool(card and card.chat),
        "transformers": version("transformers"),
    }


def _folder(name: str) -> Path:
    """The directory with a language model's files."""
    shipped, cards = language_models(), llm_cards()
    card = cards.get(name)
    source = card.repo if card else name
    here = shipped.get(name) or Path(source).expanduser()
    if here.is_dir():
        return here
    hint = did_you_mean(name, [*shipped, *cards])
    if card is None and "/" not in name:
        raise UsageError(
            f"--llm {name}: unknown language model{hint}; give a hub name, a directory, or one of {', '.join([*shipped, *cards])}"
        )
    from huggingface_hub import snapshot_download

    from levl_eval.core.hub import hub

    with hub(f"--llm {name}"):
        return Path(snapshot_download(source, revision=card.revision if card else None, allow_patterns=_HUB_FILES))
