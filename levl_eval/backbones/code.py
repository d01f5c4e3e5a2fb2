"""What computes a backbone's features, as part of its identity: libraries, our loader, and a user's own Python by content.

No heavy imports: a finished run asks for this without building a model.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import resolve_name
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from levl_eval.core.errors import UsageError
from levl_eval.core.files import sha256_file
from levl_eval.core.hashing import digest
from levl_eval.core.user_code import is_users

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

# Scheme -> the version of our loader, raised when its features change on purpose (CHANGELOG says how).
LOADER_VERSIONS = {"levl": 1, "official": 2, "timm": 4, "random": 4, "open_clip": 2, "hf": 2, "py": 1, "oracle": 1, "twin": 1}
# Scheme -> distributions whose code computes the features.
LIBRARIES = {
    "levl": ("timm", "transformers"), "official": ("timm", "transformers"), "timm": ("timm",), "random": ("timm",),
    "open_clip": ("open_clip_torch", "timm", "transformers"), "hf": ("transformers",), "py": (), "oracle": ("pillow", "numpy"), "twin": (),
}  # fmt: skip


def code_of(scheme: str, rest: str) -> dict[str, str]:
    """Name -> version or hash of all code behind a URI's features. Raises UsageError for a `py:` factory that cannot be found."""
    out = {"loader": f"{scheme}/{LOADER_VERSIONS[scheme]}"}
    library = rest.partition(":")[0] if scheme == "random" else scheme  # `random:hf:REPO` is built by transformers
    for package in LIBRARIES[library if library in ("hf", "open_clip") else scheme]:
        try:
            out[package] = version(package)
        except PackageNotFoundError:
            continue  # its loader says what is missing
    if scheme == "random":
        out["torch"] = version("torch")  # its generator draws the weights
    if scheme == "py":
        module, _, factory = rest.partition(":")
        sources = user_sources(module)
        out |= {"factory": factory, "source": digest({name: sha256_file(path) for name, path in sources.items()})}
    return out


def user_sources(module: str) -> dict[str, Path]:
    """Module name -> source file: the module, and whatever it imports (inside functions too) from the user's own folders.

    Installed libraries and Python's own are left out, other than the top package of ``module`` itself. Raises UsageError where
    ``module`` is not found.
    """
    if _find(module) is None:
        raise UsageError(f"py:{module}: no such module; is it installed, or its folder on PYTHONPATH?")
    sources: dict[str, Path] = {}
    own, todo = module.partition(".")[0], [module]
    while todo:
        name = todo.pop()
        parts = name.split(".")
        for depth in range(1, len(parts) + 1):  # packages run their __init__ first
            part = ".".join(parts[:depth])
            if part in sources:
                continue
            path = _find(part)
            if path is None or not (part.partition(".")[0] == own or is_users(path)):
                continue
            sources[part] = path
            todo += _imports(part, path)
    return sources


def _find(name: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, AttributeError, ValueError, TypeError):
        return None
    origin = spec.origin if spec is not None else None
    return Path(origin).resolve() if origin and Path(origin).is_file() else None


def _imports(name: str, path: Path) -> Iterator[str]:
    """Absolute names of what a source file imports anywhere in it; ``from a import b`` gives a and a.b, of which b may be a module."""
    if path.suffix != ".py":
        return
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return  # importing it says what is wrong
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            try:
                base = resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module or ""
            except ImportError:
                continue
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names if alias.name != "*")


def structure_of(model: nn.Module) -> str:
    """SHA-256 over the classes of a torch module and of those inside it, what they print of themselves, and their plain settings.

    Two encoders may share every weight and differ in an activation, a norm's epsilon or a number of heads: CLIP's with and without
    QuickGELU. Texts are left out, other than the name of a pooling: they may be paths.
    """
    h = hashlib.sha256()
    for name, module in model.named_modules():
        shown = module.extra_repr()
        plain = {
            key: _plain(value) for key, value in vars(module).items()
            if not key.startswith("_") and key not in ("training", "max_length") and "cached" not in key  # length: of texts
            and (isinstance(value, (bool, int, float)) or (isinstance(value, str) and key in _SETTINGS))
        }  # fmt: skip
        h.update(f"{name}:{type(module).__name__}({_ADDRESS.sub('', shown)}){digest(plain)};".encode())
    return h.hexdigest()


_SETTINGS = frozenset({"global_pool", "pool_type", "pool", "pooling", "family", "act", "hidden_act"})
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def _is_array(value: object) -> TypeGuard[np.ndarray]:
    return hasattr(value, "tobytes") and hasattr(value, "shape")  # known without importing numpy


def _plain(value: object, depth: int = 0) -> object:
    """A value as JSON, arrays by the hash of their bytes; None for what is neither (functions, objects)."""
    if isinstance(value, (bool, int, str)):
        return [type(value).__name__, str(value)]
    if isinstance(value, float):
        return ["float", value.hex()]
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy() if hasattr(value, "numpy") else None
    if _is_array(value):
        return ["array", str(value.shape), str(value.dtype), hashlib.sha256(value.tobytes()).hexdigest()]
    if depth < 4 and isinstance(value, (list, tuple)):
        return [_plain(v, depth + 1) for v in value]
    if depth < 4 and isinstance(value, dict):
        return {str(k): _plain(v, depth + 1) for k, v in value.items()}
    return None


def tokenizer_digest(tokenizer: object) -> str:
    """SHA-256 of what a tokenizer does: of tokenizers, transformers or open_clip. "" for none."""
    if tokenizer is None:
        return ""
    parts: dict[str, object] = {"class": type(tokenizer).__name__}
    inner = getattr(tokenizer, "tokenizer", None)  # open_clip's wrapper of a transformers tokenizer
    for candidate in (tokenizer, getattr(tokenizer, "backend_tokenizer", None), inner, getattr(inner, "backend_tokenizer", None)):
        if candidate is not None and hasattr(candidate, "to_str"):
            parts["rules"] = hashlib.sha256(candidate.to_str().encode("utf-8", "surrogatepass")).hexdigest()
            break
    else:
        table = tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else getattr(tokenizer, "encoder", {})
        parts["vocabulary"] = digest({str(k): int(v) for k, v in dict(table).items()})
        parts["merges"] = digest(sorted((*map(str, k), int(v)) for k, v in dict(getattr(tokenizer, "bpe_ranks", {})).items()))
    for key in ("context_length", "model_max_length", "padding_side", "clean_fn", "reduction_fn", "strip_sep_token", "language"):
        value = getattr(tokenizer, key, None)
        if value is not None:
            parts[key] = getattr(value, "__name__", None) or str(value)
    return digest(parts)
