"""`py:package.module:factory`: a user's own Python. The factory takes nothing and returns a Backbone."""

from __future__ import annotations

import importlib

from levl_eval.backbones.base import Backbone
from levl_eval.backbones.code import constants_of
from levl_eval.backbones.common import finish
from levl_eval.core.errors import UsageError

# Set by us, or part of the identity already.
_OURS = frozenset({"name", "uri", "preprocess", "info", "code", "weights_sha256", "dim", "patch_dim", "grid", "readouts"})


def load(spec: str, name: str, uri: str) -> Backbone:
    """The factory sets ``preprocess`` (and, with text, ``readouts``); the rest is filled in. Raises UsageError."""
    module, colon, factory = spec.partition(":")
    if not colon:
        raise UsageError(f"{uri}: expected py:package.module:factory")
    try:
        backbone = getattr(importlib.import_module(module), factory)()
    except (ImportError, AttributeError) as e:
        raise UsageError(f"{uri}: {e}; is the package installed and the name right?") from e
    if not isinstance(backbone, Backbone) or not hasattr(backbone, "preprocess"):
        raise UsageError(
            f"{uri}: the factory returned {type(backbone).__name__}; expected a levl_eval.backbones.base.Backbone with `preprocess`"
        )
    backbone = finish(backbone, name, uri, backbone.preprocess, getattr(backbone, "info", {}))
    backbone.code = {"constants": constants_of(backbone, _OURS)}  # the loader adds the source
    return backbone
