"""Names to cards: the shipped ones, those of installed plug-ins, and a user's own folders and files. No heavy imports.

Plug-ins: entry points in the groups ``levl_eval.backbones`` and ``levl_eval.tasks`` that resolve to a folder of YAML cards
(a path, or a function that returns one). Own folders: ./tasks and ./backbones (with sets/, recipes/, ... below tasks/), and those of
$LEVL_CARDS.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Collection, Sequence
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TypeAlias

from levl_eval.cards import (
    BackboneCard,
    Card,
    ClaimCard,
    LLMCard,
    RecipeCard,
    SetCard,
    SuiteCard,
    TaskCard,
    TaskFields,
    card_fields,
    expect,
    load_card,
    names_by_content,
    parse_card,
    read_yaml,
)
from levl_eval.cards.lmms import PREFIX, lmms_value
from levl_eval.cards.overrides import embed_recipe, override
from levl_eval.cards.trust import FIELDS, check_fields
from levl_eval.cards.unread import check_all_read, check_main, check_own
from levl_eval.core.errors import UsageError
from levl_eval.core.registry import SHIPPED, Registry, imported
from levl_eval.core.text import did_you_mean
from levl_eval.core.user_code import told

PACKAGE = Path(__file__).resolve().parents[1]
ASSETS = PACKAGE / "assets"
# scheme of a backbone's URI -> its loader, a function of (what follows the scheme, name, URI)
SCHEMES: Registry[str, Callable[[str, str, str], object]] = Registry("scheme", imported, {
    scheme: f"levl_eval.backbones.{function}" for scheme, function in {
        "levl": "levl:load", "official": "official:load", "timm": "timm:load", "open_clip": "open_clip:load", "hf": "hf:load",
        "random": "timm:load_random", "py": "py:load", "oracle": "oracle:load", "twin": "twin:load",
    }.items()
})  # fmt: skip


def card_folder(room: str) -> Path:
    """The shipped cards of ``room`` ("tasks" or "backbones"): inside an installed package, or beside it in a checkout."""
    inside = PACKAGE / "_cards" / room
    return inside if inside.is_dir() else PACKAGE.parent / room


@cache
def folders_of(room: str) -> tuple[tuple[Path, str], ...]:
    """Folders of cards with their origins: ours, then those of plug-ins."""
    folders = [(card_folder(room), SHIPPED)]
    for point in entry_points(group=f"levl_eval.{room}"):
        brought_by = f"plug-in {point.dist.name if point.dist else point.name}"
        try:
            target = point.load()
            folder = Path(str(target() if callable(target) else target))
        except Exception as e:  # others' Python
            raise UsageError(f"{brought_by}: its cards cannot be found ({told(e)}); correct or uninstall it") from e
        folders.append((folder, brought_by))
    return tuple(folders)


_KINDS: dict[str, tuple[str, Callable[[list[str]], str]]] = {
    "tasks": ("task", lambda names: "`levl-eval list tasks` shows all, or give a card's path, or lmms:NAME"),
    "backbones": ("backbone", lambda names: "`levl-eval list backbones` shows all"),
    "tasks/sets": ("set", lambda names: f"there are {', '.join(names)}, or give a card's path"),
    "tasks/recipes": ("recipe", lambda names: f"there are {', '.join(names)}, or give a card's path"),
    "tasks/claims": ("claim", lambda names: f"there are {', '.join(names)}, or give a card's path"),
    "tasks/suites": ("suite", lambda names: f"there are {', '.join(names)}, or give a card's path"),
    "tasks/llms": ("language model", lambda names: f"there are {', '.join(names)}"),
}


OWN = "LEVL_CARDS"  # folders with tasks/ and backbones/ of the user's own, separated as in PATH


def _own_folders(room: str) -> list[tuple[Path, str]]:
    """Folders of the user's own cards with their origins: ./tasks or ./backbones, and those below each folder of $LEVL_CARDS.

    Raises UsageError for a folder of $LEVL_CARDS that is not there or has neither.
    """
    folders = [(Path(room), f"./{room}")]
    for word in filter(None, os.environ.get(OWN, "").split(os.pathsep)):
        root = Path(word).expanduser()
        if not any((root / r).is_dir() for r in ("tasks", "backbones")):
            raise UsageError(f"{OWN}={word}: holds no folder tasks/ or backbones/ with cards; correct the variable, or unset it")
        folders.append((root / room, f"${OWN}"))
    shipped = card_folder(room).resolve()
    out: list[tuple[Path, str]] = []
    for folder, origin in folders:
        if folder.is_dir() and folder.resolve() != shipped and all(not folder.samefile(f) for f, _ in out):
            out.append((folder, origin))
    return out


def cards_in(place: str) -> Registry[Path, Card]:
    """The cards of a place of _KINDS ("tasks", "backbones", "tasks/sets", ...): name -> file, loaded as :func:`cards.load_card` does.

    Those that ship and those of plug-ins, then the user's own: of ./tasks and ./backbones, and of the folders in $LEVL_CARDS.
    """
    room, _, inner = place.partition("/")
    own = [(path, origin) for folder, origin in _own_folders(room) for path in sorted((folder / inner).glob("*.yaml"))]
    return _registry(place, own) if own else shipped_cards(place)


@cache
def shipped_cards(place: str) -> Registry[Path, Card]:
    return _registry(place, ())


def _registry(place: str, own: Sequence[tuple[Path, str]]) -> Registry[Path, Card]:
    kind, remedy = _KINDS[place]
    out: Registry[Path, Card] = Registry(kind, named_card, remedy=remedy)
    room, _, inner = place.partition("/")
    for folder, origin in folders_of(room):
        for path in sorted((folder / inner).glob("*.yaml")):
            out.add(path.stem, path, origin)
    for path, origin in own:
        if path.stem not in out:
            out.add(path.stem, path, origin)
        elif path.read_bytes() != out[path.stem].read_bytes():  # a copy of a card is that card
            out.contest(path.stem, path, origin)
    return out


def check_name(path: Path, name: object) -> None:
    """Raises UsageError where a card's name is not its file's: one of the two would then be unknown to commands or records."""
    if name != path.stem:
        raise UsageError(
            f"{path}: field `name`: {name!r} is not the file's name; call the file {name}.yaml, or the card {path.stem}"
        )


def named_card(path: Path) -> Card:
    """:func:`cards.load_card`, refusing a card that is not named like its file."""
    card = load_card(path)
    check_name(path, card.name)
    return card


def names(room: str) -> list[str]:
    """Names of the cards of a room ("tasks", "backbones"), sorted."""
    return sorted(cards_in(room))


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _task_file(name: str) -> Path:
    return Path(name) if _is_file(name) else cards_in("tasks").find(name)


def _recipe(name: str) -> dict[str, object]:
    """A recipe's mapping, with the recipes of its earlier stages (field ``first``) in place of their names."""
    path = Path(name) if _is_file(name) else cards_in("tasks/recipes").find(name)
    value = read_yaml(path)
    check_name(path, value.get("name", path.stem))  # without a name it is no recipe, which is said where it is read as one
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
    path = Path(name) if _is_file(name) else cards_in("tasks/sets").find(name)
    card = expect(load_card(path), SetCard, path, "set")
    check_name(path, card.name)
    return card


def set_names() -> dict[str, Path]:
    """Classification sets that any head can be run on as HEAD@SET: name -> file."""
    return dict(cards_in("tasks/sets"))


def claim_files() -> dict[str, Path]:
    """Claim cards that ship with the package and those of plug-ins: name -> file."""
    return dict(cards_in("tasks/claims"))


def claim_card(name: str) -> ClaimCard:
    """A claim card by name or path. Raises UsageError for an unknown name or a bad card."""
    path = Path(name) if _is_file(name) else cards_in("tasks/claims").find(name)
    card = expect(load_card(path), ClaimCard, path, "claim")
    check_name(path, card.name)
    return card


SUITE = "suite:"  # before a suite's name in --tasks


def suite_card(name: str) -> SuiteCard:
    """A suite's card by name or path. Raises UsageError for an unknown name or a bad card."""
    path = Path(name) if _is_file(name) else cards_in("tasks/suites").find(name)
    card = expect(load_card(path), SuiteCard, path, "suite")
    check_name(path, card.name)
    return card


def _place(value: dict[str, object], chosen: str, own: bool) -> None:
    """Fill a head's mapping with a set's fields, in place. own: the card names the set itself and its other fields win."""
    card_of_set = set_card(chosen)
    head_source = value.get("source", "")
    known = card_fields(value.get("engine"))
    for field, content in card_of_set.model_dump(mode="json", exclude_none=True, exclude={"kind", "name", "description"}).items():
        if field in known and not (own and field in value):
            value[field] = content
    if head_source and not own:
        value["source"] = f"{head_source} On {card_of_set.name}: {card_of_set.source}".strip()
    value["set"] = card_of_set.name


def task_card(
    name: str,
    overrides: dict[str, str] | None = None,
    default_recipe: str | None = None,
    trust: bool = False,
    shared: Collection[str] = (),
) -> TaskCard:
    """The resolved card of a task: recipe embedded, ``--set`` values applied, validated.

    default_recipe: takes the place of the card's recipe unless the user set one (``--data scenes`` does this).
    shared: fields of ``overrides`` that another combination of a grid reads, so that this one may pass them over.
    trust: the card may name Python that runs here (trust.FIELDS); what ``overrides`` name may anyway.
    Raises UsageError naming file and field, or the near misses of an unknown name.
    """
    head, at, chosen = name.partition("@")
    if name.startswith(PREFIX):
        head, at, chosen, path, value = name, "", "", Path(name), lmms_value(name)
    else:
        path = _task_file(head if at else name)
        value = copy.deepcopy(read_yaml(path))
    declared = value.get("name")
    overrides = overrides or {}
    if at:
        if "set" not in card_fields(value.get("engine")):
            raise UsageError(f"task {name!r}: {head} is no head for classification sets; use linear@{chosen}, knn@{chosen}, ...")
        _place(value, chosen, own=False)
        value["name"] = name if not chosen.endswith((".yaml", ".yml")) else f"{head}@{value['set']}"
    elif isinstance(named := value.get("set"), str) and named:
        _place(value, named, own=True)
    if value.get("engine") in ("vqa", "mcq", "lmms"):
        embed_recipe(_recipe, value, overrides.get("recipe"), default_recipe, str(value.get("name", name)))
    check_own(value, str(path))
    for field, text in sorted(overrides.items(), key=lambda f: f[0].count(".")):  # a mapping first, then what is set inside it
        if field == "set":
            raise UsageError(f"--set {name}.set: choose the set in the task's name instead, as {head}@{text}")
        if field != "recipe":
            override(value, field, text, str(value.get("name", name)))
    if "main_metric" in overrides and "chance" not in overrides:
        value.pop("chance", None)  # it is that of the card's own main metric
    where = str(path) + (" with --set" if overrides else "")
    card = parse_card(value, where)
    if not isinstance(card, TaskFields):
        raise UsageError(f"{path}: field `kind`: a task card was expected, found {card.kind}")
    check_main(card, value, overrides, where)
    names_by_content(card)
    check_all_read(card, value, [f for f in overrides if f not in shared], where)
    check_fields(card, where, set(overrides), trust)
    if not name.startswith(PREFIX):
        check_name(path, declared)
    card.trusted = trust or bool(set(FIELDS) & set(overrides))
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
    if _is_file(name):
        card = expect(load_card(Path(name)), BackboneCard, name, "backbone")
        check_name(Path(name), card.name)
        return card
    paths = cards_in("backbones")
    if name in paths:
        return expect(paths.load(name), BackboneCard, paths[name], "backbone")
    scheme, colon, rest = name.partition(":")
    if colon and scheme in SCHEMES:
        if not rest:
            raise UsageError(f"backbone {name!r}: nothing after `{scheme}:`")
        return _named(name, name, baseline=scheme in ("random", "twin"))
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


def recipe_names() -> list[str]:
    """Names of the recipe cards, sorted."""
    return names("tasks/recipes")


AnyCard: TypeAlias = TaskCard | BackboneCard | SetCard | RecipeCard | ClaimCard | SuiteCard | LLMCard

# Word of a kind, as `list` takes it -> (place of its cards, from a name or path to the resolved card)
ROOMS: dict[str, tuple[str, Callable[[str], AnyCard]]] = {
    "tasks": ("tasks", lambda n: task_card(n)),
    "backbones": ("backbones", lambda n: backbone_card(n)),
    "sets": ("tasks/sets", lambda n: set_card(n)),
    "recipes": ("tasks/recipes", lambda n: recipe_card(n)),
    "claims": ("tasks/claims", lambda n: claim_card(n)),
    "suites": ("tasks/suites", lambda n: suite_card(n)),
    "llms": ("tasks/llms", lambda n: llm_card(n)),
}


def any_card(word: str) -> AnyCard:
    """The resolved card of a name of any kind, of KIND/NAME (``sets/imagenet``), HEAD@SET, lmms:NAME, suite:NAME, or of a card's path.

    Several kinds may have cards of one name: the first of ROOMS is taken. Raises UsageError for an unknown name or a bad card.
    """
    if _is_file(word):
        kind = read_yaml(Path(word)).get("kind", "task")
        room = f"{kind}s" if f"{kind}s" in ROOMS else "tasks"  # which refuses an unknown kind by its field
        return ROOMS[room][1](word)
    if word.startswith(SUITE):
        return suite_card(word.removeprefix(SUITE))
    room, slash, name = word.partition("/")
    if slash and room in ROOMS:
        return ROOMS[room][1](name)
    if word.startswith(PREFIX) or word.partition("@")[0] in cards_in("tasks"):
        return task_card(word)
    for place, make in ROOMS.values():
        if word in cards_in(place):
            return make(word)
    known = [n for place, _ in ROOMS.values() for n in cards_in(place)]
    raise UsageError(
        f"no card named {word!r}{did_you_mean(word, known)}; `levl-eval list {'|'.join(ROOMS)}` shows them, or give a card's path"
    )


def kinds_of(name: str) -> list[str]:
    """The kinds that have a card of a name, in order of ROOMS."""
    return [room for room, (place, _) in ROOMS.items() if name in cards_in(place)]


def llm_card(name: str) -> LLMCard:
    """The card of a language model, by name or path. Raises UsageError for an unknown name or a bad card."""
    card = named_card(Path(name)) if _is_file(name) else cards_in("tasks/llms").load(name)
    return expect(card, LLMCard, name, "llm")


def language_models() -> dict[str, Path]:
    """Language models that ship with the package: name -> Hugging Face directory."""
    return {p.parent.name: p.parent for p in sorted(ASSETS.glob("*/config.json"))}


def llm_cards() -> dict[str, LLMCard]:
    """Cards of language models (tasks/llms/*.yaml): name -> card."""
    known = cards_in("tasks/llms")
    return {name: expect(known.load(name), LLMCard, known[name], "language model") for name in known}
