"""What a user's own encoder holds beside its state dict, as part of its identity: attributes, closures, hooks, and globals it reads.

A factory may read a threshold from a file or the environment, keep a mean image in a buffer that is not saved, scale by a number of a
closure, or hold layers in a plain list: these move features as weights do, and its source does not tell them. What code that is no
user's keeps privately is left out, but for the arrays of fitted objects: libraries note there what they have last seen, and where.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import re
import sys
import types
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from levl_eval.backbones.code import tokenizer_digest
from levl_eval.core.hashing import digest
from levl_eval.core.kept import tree_digest
from levl_eval.core.user_code import is_users

if TYPE_CHECKING:
    from torch import Tensor, nn

_DEEP = 24  # of values inside values, beyond which nobody keeps a number
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
# In TorchScript: lines of sources, and counts of what one process has loaded.
_PLACES = re.compile(r" # .*|___torch_mangle_\d+\.")
_PATH = re.compile(r"[/\\]")
_PLAIN = (types.SimpleNamespace, slice, range)  # of Python's own, and nothing but what was put into them


def constants_of(model: nn.Module, skipped: frozenset[str], package: str) -> str:
    """SHA-256 over what ``model`` and the modules inside it hold that is in no state dict and can move features.

    skipped: attributes of ``model`` that count elsewhere. package: top package that is the user's, wherever it is installed.
    """
    return digest(_Walk(package).module(model, skipped))


class _Walk:
    """One look through what an encoder holds. Values that hold one another are followed once."""

    def __init__(self, package: str) -> None:
        self._package = package
        self._open: list[int] = []  # of what is being described
        # By id, with the value, kept alive so that no other takes its id: its digest, and which of the libraries' objects it is.
        self._done: dict[int, tuple[object, str]] = {}
        self._met: dict[int, tuple[object, int]] = {}

    def module(self, model: nn.Module, skipped: frozenset[str] = frozenset()) -> dict[str, object]:
        """What a torch module and those inside it hold, by name."""
        from torch.nn import Module

        own = frozenset(vars(Module()))
        out: dict[str, object] = {}
        for name, module in model.named_modules():
            users = self._is_users_class(type(module))
            for key, value in vars(module).items():
                if key in own or (key.startswith("_") and not users) or (name == "" and key in skipped):
                    continue
                self._put(out, f"{name}.{key}", value)
            if (graph := _graph(module)) is not None:
                out[f"{name}:graph"] = graph
            for key in sorted(module._non_persistent_buffers_set):
                self._put(out, f"{name}.{key}", module._buffers[key])
            for key in _HOOKS:
                if hooks := getattr(module, key, None):
                    out[f"{name}.{key}"] = [self.value(hook) for hook in hooks.values()]
            for cls in type(module).__mro__ if users else ():
                if self._is_users_class(cls) and (read := self._class(cls)):
                    out[f"{name}:{cls.__qualname__}"] = read
        return out

    def _put(self, out: dict[str, object], name: str, value: object) -> None:
        described = self.value(value)
        if described is not None:
            out[name] = described

    def value(self, value: object) -> object:
        """A value as JSON, the larger ones by a hash; None for what holds nothing that we know of."""
        if value is None or isinstance(value, (types.ModuleType, types.GeneratorType)):
            return None
        if isinstance(value, (bool, int, str)):
            return [type(value).__name__, str(value)]
        if isinstance(value, float):
            return ["float", value.hex()]
        if isinstance(value, (complex, bytes, bytearray, array, Decimal, Fraction)):
            return [type(value).__name__, hashlib.sha256(repr(value).encode()).hexdigest()]
        at = id(value)
        if at in self._done:
            return self._done[at][1]
        if at in self._open:
            return ["the value", len(self._open) - self._open.index(at), "above"]
        if len(self._open) >= _DEEP:
            return None
        self._open.append(at)
        try:
            described = self._composite(value)
        finally:
            self._open.pop()
        if described is None:
            return None
        if not self._open:  # what is inside another value may be told by its place in it
            self._done[at] = value, digest(described)
        return digest(described)

    def _composite(self, value: object) -> object:
        if isinstance(value, type):
            return self._class(value) if self._is_users_class(value) else None
        if (described := _array(value)) is not None:
            return described
        if isinstance(value, (list, tuple, deque)):
            return [self.value(v) for v in value]
        if isinstance(value, Mapping):
            return [[self.value(k), self.value(v)] for k, v in value.items()]
        if isinstance(value, (set, frozenset)):
            return sorted(digest(self.value(v)) for v in value)
        if isinstance(value, functools.partial):
            return ["partial", self.value(value.func), self.value(value.args), self.value(value.keywords)]
        if isinstance(value, types.MethodType):
            return ["method", self.value(value.__func__), self._receiver(value.__self__)]
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, (property, staticmethod, classmethod)):
            inner = [value.fget, value.fset] if isinstance(value, property) else [value.__func__]
            return [self.value(f) for f in inner]
        return self._object(value)

    def _receiver(self, value: object) -> object:
        """What a method belongs to; of a module its name alone, where it is one of the encoder's own."""
        return type(value).__qualname__ if _is_module(value) and not self._is_users_class(type(value)) else self.value(value)

    def _object(self, value: object) -> object:
        kind = type(value)
        if _is_module(value):  # layers in a list, where torch does not find them
            return [kind.__qualname__, tree_digest(dict(value.state_dict())), self.module(value)]
        if kind.__module__ == "torch" and kind.__name__ in ("dtype", "memory_format"):
            return str(value)
        if hasattr(value, "get_vocab") or hasattr(value, "bpe_ranks"):
            return ["tokenizer", tokenizer_digest(value)]
        if isinstance(value, re.Pattern):
            return [str(value.pattern), value.flags]
        if isinstance(value, enum.Enum):
            return [kind.__qualname__, value.name]
        if not (isinstance(value, _PLAIN) or self._is_users_class(kind)):
            inner = getattr(value, "__wrapped__", None)  # behind functools.lru_cache
            return self._function(inner) if isinstance(inner, types.FunctionType) else self._library(value)
        if isinstance(value, (slice, range)):
            return repr(value)
        held = {**{k: getattr(value, k) for k in _slots(kind) if hasattr(value, k)}, **getattr(value, "__dict__", {})}
        read = self._class(kind) if self._is_users_class(kind) else None
        return [kind.__qualname__, {k: self.value(v) for k, v in held.items()}, read]

    def _library(self, value: object) -> object:
        """A library's object, such as a fitted pipeline or an image processor: its name where it is a function, and what it holds.

        Each is followed once. Texts that may be paths are left out; so are the standard library's objects (loggers, locks) and what
        torch and numpy have besides arrays (random generators), which change as a process goes on.
        """
        package = type(value).__module__.partition(".")[0]
        named = _graph(value) or _named(value)
        if package in sys.stdlib_module_names or (package in ("torch", "numpy") and not hasattr(value, "__dict__")):
            return named
        if id(value) in self._met:
            return ["met", self._met[id(value)][1]]
        self._met[id(value)] = value, len(self._met)
        held: dict[str, object] = {}
        for key, inner in _held(value).items():
            if not (isinstance(inner, str) and _PATH.search(inner)):
                self._put(held, key, inner)
        return [type(value).__qualname__, named, held] if named or held else None

    def _class(self, cls: type) -> object:
        """A user's class: its own values, and the globals that its functions read; None where there is neither."""
        held = {k: self.value(v) for k, v in vars(cls).items() if not _is_dunder(k) and not hasattr(v, "__get__")}
        read = {
            k: self.value(v)
            for k, v in vars(cls).items()
            if isinstance(v, (types.FunctionType, property, staticmethod, classmethod))
        }
        described = {k: v for k, v in (held | read).items() if v is not None}
        return described or None

    def _function(self, function: types.FunctionType) -> object:
        code = function.__code__
        if not self._is_users_file(code.co_filename, function.__module__):
            return ["function", str(function.__module__), function.__qualname__]
        cells = []
        for cell in function.__closure__ or ():
            try:
                cells.append(self.value(cell.cell_contents))
            except ValueError:  # empty still
                cells.append(None)
        defaults = [self.value(function.__defaults__ or ()), self.value(function.__kwdefaults__ or {})]
        names = sorted(set(_names(code)))
        return [
            "users function",
            function.__qualname__,
            code.co_firstlineno,
            cells,
            defaults,
            self._globals(function.__globals__, names),
        ]

    def _globals(self, held: Mapping[str, object], names: Iterable[str]) -> dict[str, object]:
        """What is told of a module's globals that a function names; of other modules of the user's, what it may name of them."""
        out: dict[str, object] = {}
        for name in names:
            if name not in held or _is_dunder(name):
                continue
            value = held[name]
            if not isinstance(value, types.ModuleType):
                self._put(out, name, value)
            elif self._is_users_file(getattr(value, "__file__", None) or "", value.__name__):
                for inner in names:
                    if inner in vars(value) and not isinstance(vars(value)[inner], types.ModuleType):
                        self._put(out, f"{name}.{inner}", vars(value)[inner])
        return out

    def _is_users_class(self, cls: type) -> bool:
        module = sys.modules.get(cls.__module__)
        return self._is_users_file(getattr(module, "__file__", None) or "", cls.__module__)

    def _is_users_file(self, file: str, module: str | None) -> bool:
        if module and module.partition(".")[0] == self._package:
            return True
        if module in ("builtins", "types", "torch", "functools") or not file.endswith(".py"):
            return False
        return _users_file(file)


@functools.cache
def _users_file(file: str) -> bool:
    return is_users(Path(file).resolve())


def _is_tensor(value: object) -> TypeGuard[Tensor]:
    return hasattr(value, "detach") and hasattr(value, "is_sparse")  # known without importing torch


def _is_module(value: object) -> TypeGuard[nn.Module]:
    return hasattr(value, "named_modules") and hasattr(value, "state_dict")


def _array(value: object) -> object:
    """A tensor or an array by its type and bytes; None for anything else."""
    if _is_tensor(value):
        return ["tensor", tree_digest(value.to_dense() if value.is_sparse else value)]
    if hasattr(value, "tobytes") and hasattr(value, "shape") and hasattr(value, "dtype"):
        return ["array", str(value.shape), str(value.dtype), hashlib.sha256(value.tobytes()).hexdigest()]
    return None


def _graph(value: object) -> str | None:
    """The hash of what a TorchScript or torch.fx module or function computes, which no class of theirs tells; None of anything else."""
    for name in ("inlined_graph", "code"):
        text = str(getattr(value, name, "")) if type(value).__module__.startswith(("torch.jit", "torch.fx")) else ""
        if text:
            return hashlib.sha256(_PLACES.sub("", text).encode()).hexdigest()
    return None


def _named(value: object) -> object:
    """A function in no Python source (torch.amax, numpy.mean, a ufunc) by its name; None where it has none."""
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    return ["function", str(getattr(value, "__module__", "")), str(name)] if name and callable(value) else None


def _held(value: object) -> dict[str, object]:
    """Public attributes and all arrays of a library's object by name; of one that is not written in Python, what it is pickled as."""
    if hasattr(value, "__dict__"):
        held = {k: getattr(value, k) for k in _slots(type(value)) if hasattr(value, k)} | vars(value)
        return {k: v for k, v in held.items() if isinstance(k, str) and (not k.startswith("_") or _array(v) is not None)}
    try:
        reduced = value.__reduce_ex__(2)
        return {"pickled": reduced[1:3]} if isinstance(reduced, tuple) else {}
    except Exception:  # of any kind: not everything can be pickled
        return {}


def _names(code: types.CodeType) -> Iterator[str]:
    """What a function and those inside it name of globals and attributes."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _slots(cls: type) -> list[str]:
    """Names of the slots of a class and of those it is derived from."""
    out: list[str] = []
    for c in cls.__mro__:
        slots = vars(c).get("__slots__", ())
        out += [slots] if isinstance(slots, str) else list(slots)
    return [n for n in out if not _is_dunder(n)]


def _is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")
