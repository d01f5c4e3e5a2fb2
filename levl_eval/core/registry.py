"""One table from names to what they stand for: engines, backbone libraries, cards. Nothing is imported or read before it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, Generic, TypeVar

from levl_eval.core.errors import UsageError
from levl_eval.core.text import did_you_mean

Target = TypeVar("Target")  # where something is: "module:name" of Python, the path of a file
Loaded = TypeVar("Loaded")  # what is there

SHIPPED = "shipped"


def imported(target: str) -> Any:
    """What ``"module:name"`` names."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


class Registry(MutableMapping[str, Target], Generic[Target, Loaded]):
    """Name -> target, in the order in which they were added, each with its origin: "shipped", or who brought it.

    kind: what the names are of, for messages ("engine", "recipe"). remedy: what to do about an unknown one, a function of the
    names, since a list of them may be part of it. A name stands for one thing: :meth:`add` refuses another of the same name, item
    assignment (for tests, and for who means it) replaces.
    """

    def __init__(
        self,
        kind: str,
        load: Callable[[Target], Loaded],
        targets: Mapping[str, Target] | None = None,
        remedy: Callable[[list[str]], str] = lambda names: f"known are {', '.join(names)}",
    ) -> None:
        self.kind, self._load, self._remedy = kind, load, remedy
        self._targets = dict(targets or {})
        self._origins = dict.fromkeys(self._targets, SHIPPED)
        self._contested: dict[str, str] = {}

    def __getitem__(self, name: str) -> Target:
        return self._targets[name]

    def __setitem__(self, name: str, target: Target) -> None:
        self._targets[name] = target
        self._origins.setdefault(name, "set here")

    def __delitem__(self, name: str) -> None:
        del self._targets[name], self._origins[name]
        self._contested.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._targets)

    def __len__(self) -> int:
        return len(self._targets)

    def add(self, name: str, target: Target, origin: str) -> None:
        """Raises UsageError where the name is taken: a plug-in cannot silently replace what is shipped."""
        if name in self._targets:
            raise UsageError(
                f"{target} ({origin}): the {self.kind} {name} "
                f"exists already ({self._targets[name]}, {self._origins[name]}); rename the file"
            )
        self._targets[name], self._origins[name] = target, origin

    def contest(self, name: str, target: Target, origin: str) -> None:
        """A second thing of a name that is there: whoever asks for the name is told of both, all other names are as they were."""
        self._contested[name] = (
            f"two {self.kind}s are named {name}: {self._targets[name]} ({self._origins[name]}) and {target} ({origin}); "
            "rename one, or give its path"
        )

    def origin(self, name: str) -> str:
        """Who brought it."""
        return self._origins[name]

    def find(self, name: str) -> Target:
        """The target. Raises UsageError with the near misses and the remedy, and for a name that two things have."""
        if name in self._contested:
            raise UsageError(self._contested[name])
        if name not in self._targets:
            known = list(self._targets)
            raise UsageError(f"unknown {self.kind} {name!r}{did_you_mean(name, known)}; {self._remedy(known)}")
        return self._targets[name]

    def load(self, name: str) -> Loaded:
        """What the name stands for, imported or read now. Raises UsageError as :meth:`find`, and what loading raises."""
        return self._load(self.find(name))
