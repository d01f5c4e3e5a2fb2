"""Names to cards: the shipped ones, those of installed plug-ins, and a user's own files. No heavy imports.

Plug-ins: entry points in the groups ``levl_eval.backbones`` and ``levl_eval.tasks`` that resolve to a folder of YAML cards
(a path, or a function that returns one).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from levl_eval.cards import (
    BackboneCard,
    Card,
    ClaimCard,
    LLMCard,
    RecipeCard,
    SetCard,
    TaskCard,
    TaskFields,
    ZeroShotCard,
    card_fields,
    expect,
    load_card,
    parse_card,
    read_yaml,
)
from levl_eval.cards.lmms import PREFIX, lmms_value
from levl_eval.cards.overrides import override
from levl_eval.cards.trust import FIELDS, check_fields
from levl_eval.core.errors import UsageError
from levl_eval.core.registry import SHIPPED, Registry, imported
from levl_eval.core.text import did_you_mean

PACKAGE = Path(__file__).resolve().parents[1]
ASSETS = PACKAGE / "assets"
# scheme of a backbone's URI -> its loader, a function of (what follows the scheme, name, URI)
SCHEMES: Registry[str, Callable[[str, str, str], object]] = Registry("scheme", imported, {
    scheme: f"levl_eval.backbones.{function}" for scheme, function in {
        "levl": "levl:load", "official": "official:load", "timm": "timm:load", "open_clip": "open_clip:load", "hf": "hf:load",
        "random": "timm:load_random", "py": "py:load", "oracle": "oracle:load",
    }.items()
})  # fmt: skip


def card_folder(room: str) -> Path:
    """The shipped cards of ``room`` ("tasks" or "backbones"): inside an installed package, or beside it in a checkout."""
    inside = PACKAGE / "_cards" / room
    return inside if inside.is_dir() else PACKAGE.parent / room


@cache
def _folders(room: str) -> tuple[tuple[Path, str], ...]:
    """Folders of cards with their origins: ours, then those of plug-ins."""
    folders = [(card_folder(room), SHIPPED)]
    for point in entry_points(group=f"levl_eval.{room}"):
        target = point.load()
        brought_by = f"plug-in {point.dist.name if point.dist else point.name}"
        folders.append((Path(str(target() if callable(target) else target)), brought_by))
    return tuple(folders)


_KINDS: dict[str, tuple[str, Callable[[list[str]], str]]] = {
    "tasks": ("task", lambda names: "`levl-eval list tasks` shows all, or give a card's path, or lmms:NAME"),
    "backbones": ("backbone", lambda names: "`levl-eval list backbones` shows all"),
    "tasks/sets": ("set", lambda names: f"there are {', '.join(names)}, or give a card's path"),
    "tasks/recipes": ("recipe", lambda names: f"there are {', '.join(names)}, or give a card's path"),
    "tasks/claims": ("claim", lambda names: f"there are {', '.join(names)}, or give a card's path"),
    "tasks/llms": ("language model", lambda names: f"there are {', '.join(names)}"),
}


@cache
def cards_in(place: str) -> Registry[Path, Card]:
    """The cards of "tasks", "backbones", "tasks/sets", "tasks/recipes" or "tasks/llms": name -> file, loaded as :func:`cards.load_card` does."""
    kind, remedy = _KINDS[place]
    out: Registry[Path, Card] = Registry(kind, load_card, remedy=remedy)
    room, _, inner = place.partition("/")
    for folder, origin in _folders(room):
        for path in sorted((folder / inner).glob("*.yaml")):
            out.add(path.stem, path, origin)
    return out


def names(room: str) -> list[str]:
    """Names of the cards of a room ("tasks", "backbones"), sorted."""
    return sorted(cards_in(room))


def _task_file(name: str) -> Path:
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    return cards_in("tasks").find(name)


def _recipe(name: str) -> dict[str, object]:
    """A recipe's mapping, with the recipes of its earlier stages (field ``first``) in place of their names."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else cards_in("tasks/recipes").find(name)
    value = read_yaml(path)
    first = value.get("first")
    if isinstance(first, str):
        if first in (name, value.get("name")):
            raise UsageError(f"{path}: field `first`: a recipe cannot be its own earlier stage")
        value["first"] = _recipe(first)
    return value


def recipe_card(name: str) -> RecipeCard:
    """The resolved card of a recipe, by name or file."""
    return expect(parse_card({"kind": "recipe", **_recipe(name)}, name), RecipeCard, name, "recipe")


def set_card(name: str) -> SetCard:
    """A card of tasks/sets by name or path."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else cards_in("tasks/sets").find(name)
    return expect(load_card(path), SetCard, path, "set")


def set_names() -> dict[str, Path]:
    """Classification sets that any head can be run on as HEAD@SET: name -> file."""
    return dict(cards_in("tasks/sets"))


def claim_files() -> dict[str, Path]:
    """Claim cards that ship with the package and those of plug-ins: name -> file."""
    return dict(cards_in("tasks/claims"))


def claim_card(name: str) -> ClaimCard:
    """A claim card by name or path. Raises UsageError for an unknown name or a bad card."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else cards_in("tasks/claims").find(name)
    return expect(load_card(path), ClaimCard, path, "claim")


def _place(value: dict[str, object], chosen: str, own: bool) -> None:
    """Fill a head's mapping with a set's fields, in place. own: the card names the set itself and its other fields win."""
    found = set_card(chosen)
    head_source = value.get("source", "")
    known = card_fields(value.get("engine"))
    for field, content in found.model_dump(mode="json", exclude_none=True, exclude={"kind", "name", "description"}).items():
        if field in known and not (own and field in value):
            value[field] = content
    if head_source and not own:
        value["source"] = f"{head_source} On {found.name}: {found.source}".strip()
    value["set"] = found.name


def task_card(
    name: str, overrides: dict[str, str] | None = None, default_recipe: str | None = None, trust: bool = False
) -> TaskCard:
    """The resolved card of a task: recipe embedded, ``--set`` values applied, validated.

    default_recipe: takes the place of the card's recipe unless the user set one (``--data scenes`` does this).
    trust: the card may name Python that runs here (trust.FIELDS); what ``overrides`` name may anyway.
    Raises UsageError naming file and field, or the near misses of an unknown name.
    """
    head, at, chosen = name.partition("@")
    if name.startswith(PREFIX):
        head, at, chosen, path, value = name, "", "", Path(name), lmms_value(name)
    else:
        path = _task_file(head if at else name)
        value = copy.deepcopy(read_yaml(path))
    overrides = overrides or {}
    if at:
        if "set" not in card_fields(value.get("engine")):
            raise UsageError(f"task {name!r}: {head} is no head for classification sets; use linear@{chosen}, knn@{chosen}, ...")
        _place(value, chosen, own=False)
        value["name"] = name if not chosen.endswith((".yaml", ".yml")) else f"{head}@{value['set']}"
    elif isinstance(named := value.get("set"), str) and named:
        _place(value, named, own=True)
    if value.get("engine") in ("vqa", "lmms"):
        recipe = value.get("recipe", "vqa-train")
        if "recipe" in overrides:
            recipe = text = overrides["recipe"]
            if text.lstrip().startswith("{"):  # a whole recipe, written as a YAML mapping
                override(value, "recipe", text, str(value.get("name", name)))
                recipe = value["recipe"]
        elif default_recipe and isinstance(recipe, str):
            recipe = default_recipe
        value["recipe"] = _recipe(recipe) if isinstance(recipe, str) else recipe
    for field, text in overrides.items():
        if field == "set":
            raise UsageError(f"--set {name}.set: choose the set in the task's name instead, as {head}@{text}")
        if field != "recipe":
            override(value, field, text, str(value.get("name", name)))
    where = str(path) + (" with --set" if overrides else "")
    card = parse_card(value, where)
    if not isinstance(card, TaskFields):
        raise UsageError(f"{path}: field `kind`: a task card was expected, found {card.kind}")
    if isinstance(card, ZeroShotCard) and isinstance(card.class_names, str) and card.class_names != "openai":
        from levl_eval.core.files import lines_of  # numpy, only where a file is given

        # By its content: the names move numbers, where they lie does not.
        card.class_names = lines_of(Path(card.class_names).expanduser(), "a name a line is expected (field `class_names`)")
    check_fields(card, where, set(overrides), trust)
    card._trusted = trust or bool(set(FIELDS) & set(overrides))
    if card.engine == "mmseg" and card.config and (card.config_text is None or "config" in overrides):
        from levl_eval.cards.mmseg_text import read_config  # mmengine, only where a config is given

        card.config_text = read_config(card.config)
    return card


def _named(name: str, uri: str, baseline: bool = False) -> BackboneCard:
    card = parse_card({"kind": "backbone", "name": name, "uri": uri, "baseline": baseline}, f"backbone {uri[:60]!r}")
    assert isinstance(card, BackboneCard)
    return card


def backbone_card(name: str) -> BackboneCard:
    """The card of a named backbone, a card file, or one made for a path or URI."""
    if name.endswith((".yaml", ".yml")):
        return expect(load_card(Path(name)), BackboneCard, name, "backbone")
    paths = cards_in("backbones")
    if name in paths:
        return expect(paths.load(name), BackboneCard, paths[name], "backbone")
    scheme, colon, rest = name.partition(":")
    if colon and scheme in SCHEMES:
        if not rest:
            raise UsageError(f"backbone {name!r}: nothing after `{scheme}:`")
        return _named(name, name, baseline=scheme == "random")
    path = Path(name).expanduser()
    if path.exists():
        return _named(path.stem if path.stem != "ckpt" else path.resolve().parent.name, name)
    known = [*paths, *(s + ":" for s in SCHEMES)]
    if path.suffix in (".pt", ".pth", ".safetensors", ".ckpt") or len(path.parts) > 1:
        raise UsageError(
            f"{name}: no such file or directory; give a checkpoint, a URI ({', '.join(SCHEMES)}:...) or a card's name"
        )
    if colon:
        raise UsageError(
            f"backbone {name!r}: unknown scheme `{scheme}:`{did_you_mean(scheme, list(SCHEMES))}; known are {', '.join(SCHEMES)}"
        )
    raise UsageError(f"unknown backbone {name!r}{did_you_mean(name, known)}; `levl-eval list backbones` shows all")


def language_models() -> dict[str, Path]:
    """Language models that ship with the package: name -> Hugging Face directory."""
    return {p.parent.name: p.parent for p in sorted(ASSETS.glob("*/config.json"))}


def llm_cards() -> dict[str, LLMCard]:
    """Cards of language models (tasks/llms/*.yaml): name -> card."""
    known = cards_in("tasks/llms")
    return {name: expect(known.load(name), LLMCard, known[name], "language model") for name in known}
