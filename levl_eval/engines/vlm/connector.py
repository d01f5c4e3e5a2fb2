"""Connectors: an encoder's tokens to the language model's input space. The only thing that is trained.

linear         one linear map a token
mlp2x_gelu     LLaVA-1.5's two linear maps with GELU between
mlp_norm       the same behind a layer norm
unshuffle_mlp  ``downsample`` x ``downsample`` neighbouring patches side by side in one token, then mlp_norm (fewer tokens)
resampler      ``queries`` learned tokens that attend to the encoder's through ``depth`` blocks (fixed number of tokens)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from levl_eval.cards import ConnectorSpec
from levl_eval.core.errors import UsageError
from levl_eval.core.files import atomic_path
from levl_eval.core.json_types import JsonObject
from levl_eval.core.kept import Damaged, NotPermitted, tree_digest
from levl_eval.engines.moments import Moments


class _Attend(nn.Module):
    """One resampler block: the queries attend to the tokens, then a two-layer perceptron; both with pre-norm and residual."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.heads = next(h for h in (8, 6, 4, 3, 2, 1) if dim % h == 0)
        self.norm_x, self.norm_t, self.norm_m = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.q, self.kv, self.out = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        def split(t: Tensor) -> Tensor:
            out: Tensor = t.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            return out

        k, v = self.kv(self.norm_t(tokens)).chunk(2, -1)
        seen = F.scaled_dot_product_attention(split(self.q(self.norm_x(x))), split(k), split(v))
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        out: Tensor = x + self.mlp(self.norm_m(x))
        return out


class _Resampler(nn.Module):
    """[B, N, dim] -> [B, queries, width]."""

    def __init__(self, dim: int, width: int, queries: int, depth: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(queries, dim))
        self.blocks = nn.ModuleList(_Attend(dim) for _ in range(depth))
        self.last = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, width))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.queries.expand(len(tokens), -1, -1).to(tokens.dtype)
        for block in self.blocks:
            x = block(x, tokens)
        out: Tensor = self.last(x)
        return out


def _mlp(dim: int, width: int) -> list[nn.Module]:
    return [nn.Linear(dim, width), nn.GELU(), nn.Linear(width, width)]


def unshuffle(x: Tensor, grid: tuple[int, int], d: int) -> Tensor:
    """[B, h*w, D] -> [B, h/d * w/d, d*d*D]: each token holds a d x d square of patches, row by row."""
    b, _, dim = x.shape
    x = x.view(b, grid[0] // d, d, grid[1] // d, d, dim)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(b, -1, d * d * dim)


class Connector(nn.Module):
    """Standardisation (buffers, from the training images) and the map of ``spec.kind``.

    tokens [B, N, D'] -> visual tokens [B, M, width]. ``scale`` is the root mean square of the language model's word
    embeddings: outputs start at the size of words, since a frozen model was never shown larger ones. ``grid``: (h, w) of the
    patches, needed by unshuffle_mlp only. Raises UsageError where it cannot be divided.
    """

    mean: Tensor
    std: Tensor
    scale: Tensor

    def __init__(
        self, spec: ConnectorSpec, patch_dim: int, width: int, scale: float, grid: tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        self.spec, self.grid = spec, grid
        self.register_buffer("mean", torch.zeros(patch_dim))
        self.register_buffer("std", torch.ones(patch_dim))
        self.register_buffer("scale", torch.tensor(float(scale)))
        if spec.kind == "linear":
            self.map: nn.Module = nn.Linear(patch_dim, width)
        elif spec.kind == "mlp2x_gelu":
            self.map = nn.Sequential(*_mlp(patch_dim, width))
        elif spec.kind == "mlp_norm":
            self.map = nn.Sequential(nn.LayerNorm(patch_dim), *_mlp(patch_dim, width))
        elif spec.kind == "resampler":
            self.map = _Resampler(patch_dim, width, spec.queries, spec.depth)
        else:
            if grid is None or grid[0] % spec.downsample or grid[1] % spec.downsample:
                raise UsageError(
                    f"field `recipe.connector.downsample`: a grid of {grid} patches cannot be divided by {spec.downsample}"
                )
            wide = patch_dim * spec.downsample**2
            self.map = nn.Sequential(nn.LayerNorm(wide), *_mlp(wide, width))

    def forward(self, patches: Tensor) -> Tensor:
        x = (patches - self.mean) / self.std
        if self.spec.kind == "unshuffle_mlp":
            assert self.grid is not None
            x = unshuffle(x, self.grid, self.spec.downsample)
        out: Tensor = self.map(x) * self.scale * 4.0  # a default-initialised last layer gives outputs of about a quarter
        return out

    def count(self, tokens: int) -> int:
        """How many visual tokens come out for so many in."""
        if self.spec.kind == "resampler":
            return self.spec.queries
        return tokens // self.spec.downsample**2 if self.spec.kind == "unshuffle_mlp" else tokens


def fit_standardization(connector: Connector, read: Callable[[int, int], np.ndarray], count: int, block: int = 256) -> None:
    """Per-dimension mean and standard deviation over all tokens of ``count`` images; read(i, j): tokens [j - i, n, D']."""
    if not connector.spec.standardize:
        return
    moments = Moments()
    for i in range(0, count, block):
        moments.add(torch.from_numpy(read(i, min(count, i + block))).flatten(0, 1))
    connector.mean.copy_(moments.mean)
    connector.std.copy_(moments.std().clamp(min=1e-6))


def save(path: Path, connector: Connector, meta: Mapping[str, object]) -> None:
    """One safetensors file; ``meta`` (what it was trained for) as JSON in its header, with a checksum of it and the weights."""
    state = {k: v.detach().cpu().contiguous() for k, v in connector.state_dict().items()}
    text = json.dumps(dict(meta), sort_keys=True)
    with atomic_path(path) as temporary:
        save_file(state, temporary, metadata={"levl": text, "checksum": tree_digest({"meta": text, "state": state})})


def _read(path: Path, bare: bool = False) -> tuple[dict[str, Tensor], JsonObject]:
    """Weights and meta of a file; ``bare``: also of one that was saved before files had a checksum. Raises FileNotFoundError, Damaged."""
    try:
        open(path, "rb").close()  # of a file that this user may not read safetensors says that there is none
        with safe_open(path, framework="pt") as f:
            metadata = f.metadata() or {}
            meta = json.loads(metadata.get("levl", "{}"))
            state = {k: f.get_tensor(k) for k in f.keys()}
    except FileNotFoundError:
        raise
    except PermissionError as e:
        raise NotPermitted(path) from e
    except (SafetensorError, OSError, ValueError, TypeError, RecursionError) as e:
        raise Damaged(f"{path}: no readable connector ({type(e).__name__})") from e
    checksum = metadata.get("checksum")
    tied = (bare and checksum is None) or tree_digest({"meta": metadata.get("levl", ""), "state": state}) == checksum
    if not isinstance(meta, dict) or not tied:
        raise Damaged(f"{path}: no readable connector (damaged: checksum)")
    return state, meta


def recover(
    path: Path, spec: ConnectorSpec, patch_dim: int, width: int, grid: tuple[int, int] | None
) -> tuple[Connector, JsonObject]:
    """A trained connector that is kept under its key, and its notes. Raises FileNotFoundError, Damaged."""
    state, meta = _read(path)
    notes = meta.get("notes")
    if not isinstance(notes, dict) or notes.get("connector") != path.stem:
        raise Damaged(f"{path}: was made from something else than its name says")
    connector = Connector(spec, patch_dim, width, 1.0, grid)
    try:
        connector.load_state_dict(state)
    except RuntimeError as e:
        raise Damaged(f"{path}: its shapes are another connector's") from e
    return connector.eval(), notes


def damage(path: Path) -> str:
    """What is wrong with a kept connector, or ''."""
    try:
        _, meta = _read(path)
        notes = meta.get("notes")
        wrong = not isinstance(notes, dict) or notes.get("connector") != path.stem
        return f"{path}: was made from something else than its name says" if wrong else ""
    except (FileNotFoundError, Damaged) as e:
        return str(e)


def load(
    path: Path,
    spec: ConnectorSpec,
    patch_dim: int,
    width: int,
    expect: Mapping[str, object] | None = None,
    grid: tuple[int, int] | None = None,
) -> tuple[Connector, JsonObject]:
    """The connector of a file and its meta.

    Raises UsageError: unreadable or damaged, or made for another encoder, model or recipe (``expect``).
    """
    try:
        state, meta = _read(path, bare=True)
    except NotPermitted as e:
        raise UsageError(str(e)) from e
    except (Damaged, FileNotFoundError) as e:
        why = str(e) if isinstance(e, Damaged) else f"{path}: no readable connector (there is none)"
        raise UsageError(f"{why}; delete it, it will be trained again") from e
    for key, value in (expect or {}).items():
        if meta.get(key) != value:
            raise UsageError(
                f"{path}: this connector was trained for another {key} ({meta.get(key)}, not {value}); train one for this pair"
            )
    connector = Connector(spec, patch_dim, width, 1.0, grid)
    try:
        connector.load_state_dict(state)
    except RuntimeError as e:
        raise UsageError(f"{path}: this connector was trained for another encoder or language model (shapes differ)") from e
    return connector.eval(), meta
