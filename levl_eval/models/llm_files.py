"""Where a language model lies: a card's name, a directory, a GGUF file, or a hub name. Nothing is loaded here.

`NAME` of `levl-eval list llms`; `DIR` in transformers' form, or with one .gguf in it; `FILE.gguf`; `REPO` and `REPO:FILE.gguf` of the hub
or its cache. A card is looked for below $LEVL_LLMS first (a directory of its name, or its file), then in the installed package that it
names, then on the hub.
"""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path

from levl_eval.cards import LLMCard
from levl_eval.cards.registry import language_models, llm_cards
from levl_eval.core.errors import UsageError
from levl_eval.core.text import did_you_mean

PLACES = "LEVL_LLMS"
_HUB_FILE = re.compile(r"([^/:]+/[^/:]+):([^:]+\.gguf)", re.IGNORECASE)


@dataclass(frozen=True)
class LLMPlace:
    """source: a directory, or a hub repository's name. gguf: the file that holds all of it, which then lies on this disk."""

    source: str
    revision: str | None = None
    gguf: Path | None = None
    card: LLMCard | None = None

    @property
    def chat(self) -> bool | None:
        """Whether its card wants its chat template; None where nobody says, so that the tokenizer decides by having one."""
        return self.card.chat if self.card else None


def find_llm(name: str) -> LLMPlace:
    """Raises UsageError: unknown name (near misses), no such file, several GGUF files in a directory, hub not reached for a file."""
    shipped, cards = language_models(), llm_cards()
    if name in shipped:
        return LLMPlace(str(shipped[name]))
    if name in cards:
        return _of_card(name, cards[name])
    path = Path(name).expanduser()
    if path.is_dir():
        return LLMPlace(str(path), gguf=gguf_of(path))
    if path.is_file() and path.suffix.lower() == ".gguf":
        return LLMPlace(str(path.parent), gguf=path)
    on_hub = _HUB_FILE.fullmatch(name)
    if on_hub:
        return LLMPlace(on_hub[1], gguf=_fetched(on_hub[1], on_hub[2], None, f"--llm {name}"))
    if path.suffix.lower() == ".gguf":
        raise UsageError(f"--llm {name}: no such file; give the path of a .gguf file, or REPO:FILE.gguf for one on the hub")
    if "/" not in name:
        known = [*shipped, *cards]
        raise UsageError(
            f"--llm {name}: unknown language model{did_you_mean(name, known)}; give a hub name, a directory, a .gguf file, or one of "
            f"{', '.join(known)}"
        )
    return LLMPlace(name)


def gguf_of(folder: Path) -> Path | None:
    """The GGUF file of a directory that holds no weights in transformers' form; None where it holds those, or none at all.

    Raises UsageError where there are several.
    """
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() == ".gguf" and p.is_file())
    if not files or any(p.suffix in (".safetensors", ".bin") for p in folder.iterdir()):
        return None
    if len(files) > 1:
        raise UsageError(f"{folder}: holds {len(files)} GGUF files ({', '.join(p.name for p in files[:4])}); name one of them")
    return files[0]


def _of_card(name: str, card: LLMCard) -> LLMPlace:
    below = os.environ.get(PLACES)
    for folder in [Path(below).expanduser() / name, Path(below).expanduser()] if below else []:
        if card.file and (folder / card.file).is_file():
            return LLMPlace(str(folder), gguf=folder / card.file, card=card)
        if folder.name == name and folder.is_dir():
            return LLMPlace(str(folder), gguf=gguf_of(folder), card=card)
    if not card.file:
        return LLMPlace(card.repo, card.revision, card=card)
    inside = _in_package(card)
    if inside is None:
        try:
            inside = _fetched(card.repo, card.file, card.revision, f"--llm {name}")
        except UsageError as e:
            get = f"{card.install}, or " if card.install else ""
            raise UsageError(f"--llm {name}: {card.file} is not here; {get}put it into a folder named by {PLACES} ({e})") from e
    return LLMPlace(card.repo, card.revision, inside, card)


def _in_package(card: LLMCard) -> Path | None:
    """The card's file in the installed package that brings it; the package's code is not run."""
    spec = importlib.util.find_spec(card.package) if card.package else None
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if card.file and (Path(folder) / card.file).is_file():
            return Path(folder) / card.file
    return None


def _fetched(repo: str, file: str, revision: str | None, title: str) -> Path:
    """A file of the hub or its cache. Raises UsageError in one line."""
    from huggingface_hub import hf_hub_download

    from levl_eval.core.offline import hub_or_cache

    with hub_or_cache(title):
        return Path(hf_hub_download(repo, file, revision=revision))
