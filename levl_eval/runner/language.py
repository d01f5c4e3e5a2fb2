"""The language model of a run by content: weights, tokenizer and template, known without loading it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from levl_eval.cards import PromptSpec
from levl_eval.core.errors import UsageError
from levl_eval.core.hashing import digest
from levl_eval.models.gguf import read_gguf_header
from levl_eval.models.llm_files import LLMPlace, find_llm

WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt")
_IGNORED = ("README.md", "LICENSE", "LICENSE.txt", ".gitattributes")
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.bin"]


def language_model_parts(name: str, sha256: Callable[[Path], str]) -> dict[str, object]:
    """Its part of an identity: what answers depend on besides the prompt. sha256: of a file, remembered.

    A hub name is looked up in the local cache, and downloaded where that is allowed. Raises UsageError for an unknown name.
    """
    place = find_llm(name)
    if place.gguf is not None:
        return _gguf_parts(place, place.gguf, sha256)
    folder = _folder(name, place)
    files = [p for p in sorted(folder.iterdir()) if p.is_file() and not p.name.startswith(".") and p.name not in _IGNORED]
    weights = {p.name: sha256(p) for p in files if p.suffix in WEIGHTS}
    if any(n.endswith(".safetensors") for n in weights):  # what transformers then reads
        weights = {n: h for n, h in weights.items() if n.endswith(".safetensors")}
    rest = {p.name: sha256(p) for p in files if p.suffix not in WEIGHTS}
    return {
        "weights": digest(weights),
        "tokenizer_and_settings": digest(rest),
        "chat": _has_template(folder) if place.chat is None else place.chat,
        "transformers": version("transformers"),
    }


def check_asked(words: Sequence[str], cards: Mapping[str, object], chat: bool) -> None:
    """Raises UsageError for a field of a prompt that ``--set`` or ``--grid`` gives (words) and that the language model is not asked by:
    `user` and `system` are of a chat template, `template` of a plain prompt.

    cards: label -> resolved task card. chat: whether the model is asked through its template where a prompt leaves it open.
    """
    for word in words:
        left = word.partition("=")[0]
        task, _, field = left.partition(".")
        place, _, last = field.rpartition(".")
        prompts = [p for label, card in cards.items() if _called(label) == task for p in _prompts_at(card, place)]
        read = {("user", "system") if (chat if p.chat is None else p.chat) else ("template",) for p in prompts}
        if last in ("user", "system", "template") and read and all(last not in names for names in read):
            asked, other = ("by a plain prompt", "true") if last != "template" else ("through its chat template", "false")
            instead = "`template`" if last != "template" else "`user` and `system`"
            raise UsageError(
                f"{left}: is not read, as the language model is asked {asked}; "
                f"take it out, set {instead}, or {task}.{place}.chat to {other}"
            )


def _called(label: str) -> str:
    """How ``--set`` calls the task of a label: without what a grid sets, a card's file by its stem."""
    name = label.partition("[")[0]
    return Path(name).stem if name.endswith((".yaml", ".yml")) else name


def _prompts_at(card: object, place: str) -> list[PromptSpec]:
    """The prompt at a dotted place of a card, if there is one."""
    node: object = card
    for part in place.split("."):
        node = getattr(node, part, None)
    return [node] if isinstance(node, PromptSpec) else []


def has_changed(name: str, parts: Mapping[str, object], sha256: Callable[[Path], str]) -> bool:
    """Whether the files of a language model that lies on this disk are no longer those that ``parts`` is of. The hub's stay as they are."""
    place = find_llm(name)
    if place.gguf is None and not Path(place.source).expanduser().is_dir():
        return False
    return language_model_parts(name, sha256) != dict(parts)


def _gguf_parts(place: LLMPlace, file: Path, sha256: Callable[[Path], str]) -> dict[str, object]:
    """A GGUF file is weights, settings and tokenizer in one; neither its name nor what lies beside it counts."""
    header = read_gguf_header(file)
    return {
        "weights": sha256(file),
        "quantization": header.quantization,
        "chat": bool(header.chat_template) if place.chat is None else place.chat,
        "transformers": version("transformers"),
    }


def _has_template(folder: Path) -> bool:
    """Whether the tokenizer of a directory has a chat template, in one of the places where transformers keeps it."""
    if (folder / "chat_template.jinja").exists() or (folder / "chat_template.json").exists():
        return True
    try:
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # loading says what is wrong
    return isinstance(settings, dict) and bool(settings.get("chat_template"))


def _folder(name: str, place: LLMPlace) -> Path:
    """The directory with a language model's files."""
    here = Path(place.source).expanduser()
    if here.is_dir():
        return here
    from huggingface_hub import snapshot_download

    from levl_eval.core.offline import hub_or_cache

    with hub_or_cache(f"--llm {name}"):
        folder = Path(snapshot_download(place.source, revision=place.revision, allow_patterns=_HUB_FILES))
    if not (folder / "config.json").exists():
        raise UsageError(
            f"--llm {name}: the repository has no config.json; of a GGUF repository name the file, as {name}:FILE.gguf"
        )
    return folder
