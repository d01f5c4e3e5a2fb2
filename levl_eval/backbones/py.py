"""`py:package.module:factory`: a user's own Python. The factory takes nothing and returns a Backbone (docs/your-encoder.md)."""

from __future__ import annotations

import importlib.util
import marshal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from levl_eval.backbones.base import Backbone
from levl_eval.backbones.code import user_sources
from levl_eval.backbones.common import finish
from levl_eval.backbones.constants import constants_of
from levl_eval.cards.fields import of_levels
from levl_eval.core.errors import UsageError
from levl_eval.core.files import sha256_file
from levl_eval.core.precision import settings_kept
from levl_eval.core.text import did_you_mean
from levl_eval.core.user_code import place_of

# Set by us, or part of the identity already.
_OURS = frozenset({"name", "uri", "preprocess", "info", "code", "weights_sha256", "dim", "patch_dim", "grid", "readouts"})


@contextmanager
def _users_errors(uri: str, module: str) -> Iterator[None]:
    """Whatever the user's code raises as one line with its file and line. SystemExit too: a module may parse a command line."""
    try:
        yield
    except UsageError:
        raise
    except (Exception, SystemExit) as e:
        words = " ".join(str(e).split())[:200] or "no message"
        own: list[Path] = []
        with suppress(UsageError):
            own = list(user_sources(module).values())
        place = place_of(e, own)
        raise UsageError(f"{uri}: {type(e).__name__}: {words}{f' ({place})' if place else ''}; correct it there") from e


def load(spec: str, name: str, uri: str) -> Backbone:
    """The factory sets ``preprocess`` (and, with text, ``readouts``); the rest is filled in. Raises UsageError."""
    module, colon, name_of_factory = spec.partition(":")
    if not colon:
        raise UsageError(f"{uri}: expected py:package.module:factory")
    _check_imported(uri, module)
    with _users_errors(uri, module), settings_kept():
        backbone = _factory(module, name_of_factory, uri)()
    if not isinstance(backbone, Backbone):
        raise UsageError(f"{uri}: the factory returned {type(backbone).__name__}; expected a levl_eval.backbones.base.Backbone")
    if backbone.missing():
        raise UsageError(f"{uri}: {type(backbone).__name__} lacks {backbone.missing()}; see docs/your-encoder.md")
    own = backbone.preprocess
    if of_levels((*own.mean, *own.std)):
        raise UsageError(
            f"{uri}: its pixels are to have mean {own.mean} and std {own.std}, which are of levels 0 to 255; "
            "pixels are in [0, 1]: divide both by 255"
        )
    constants = constants_of(backbone, _OURS, module.partition(".")[0])  # before it runs: some note what they have last seen
    with _users_errors(uri, module), settings_kept():
        backbone = finish(backbone, name, uri, backbone.preprocess, getattr(backbone, "info", {}))
    backbone.code = {"constants": constants}  # the loader adds the source
    return backbone


_HEADER = 16  # bytes before the code in a .pyc
_imported: dict[str, tuple[object, str]] = {}  # module -> its spec, None before it was imported, and its source's hash then


def _check_imported(uri: str, module: str) -> None:
    """Raises UsageError where a source has changed since Python imported it: its hash would be that of code which does not run."""
    try:
        sources = user_sources(module)
    except UsageError:  # no module, or none with a source: told where it is imported, or by what its factory gives
        return
    for name, path in sources.items():
        spec, source = getattr(sys.modules.get(name), "__spec__", None), sha256_file(path)  # another one after importlib.reload
        known, before = _imported.get(name, (spec, source))
        if spec is not None and (known is None or known is spec) and source != before:
            raise UsageError(
                f"{uri}: {path} was changed after it was imported; start Python again, so that what runs is what it says"
            )
        if spec is None:
            _drop_stale_bytecode(path)
        _imported[name] = spec, source


def _drop_stale_bytecode(path: Path) -> None:
    """Python keeps to the bytecode beside a source of equal size and time (of whole seconds), whatever the source says."""
    with suppress(NotImplementedError, OSError):  # none is kept here, or it is another's
        cached = Path(importlib.util.cache_from_source(str(path)))
        raw = cached.read_bytes()
        try:
            same = marshal.loads(raw[_HEADER:]) == compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
        except (ValueError, EOFError, TypeError, SyntaxError):
            same = False
        if not same:
            cached.unlink()


def _factory(module: str, name: str, uri: str) -> Callable[[], object]:
    try:
        value = importlib.import_module(module)
    except ModuleNotFoundError as e:
        if e.name and (module == e.name or module.startswith(f"{e.name}.")):  # not one that the user's code wants
            raise UsageError(f"{uri}: {e}; is the package installed, or its folder on PYTHONPATH?") from e
        raise
    factory: Callable[[], object] | None = getattr(value, name, None)
    if not callable(factory):
        near = did_you_mean(name, [k for k, v in vars(value).items() if callable(v) and not k.startswith("_")])
        raise UsageError(f"{uri}: {module} holds no function or class {name!r}{near}")
    return factory
