"""Connectors: patch tokens to the language model's input space. The only thing that is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from levl_eval.cards import ConnectorSpec
from levl_eval.errors import UsageError
from levl_eval.io import atomic_path


class Connector(nn.Module):
    """Standardisation (buffers, from the training images) and a linear map or LLaVA-1.5's two-layer MLP with GELU.

    patches [B, N, D'] -> visual tokens [B, N, width]. ``scale`` is the root mean square of the language model's word
    embeddings: outputs start at the size of words, since a frozen model was never shown larger ones.
    """

    def __init__(self, spec: ConnectorSpec, patch_dim: int, width: int, scale: float) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer("mean", torch.zeros(patch_dim))
        self.register_buffer("std", torch.ones(patch_dim))
        self.register_buffer("scale", torch.tensor(float(scale)))
        if spec.kind == "linear":
            self.map: nn.Module = nn.Linear(patch_dim, width)
        else:
            self.map = nn.Sequential(nn.Linear(patch_dim, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, patches: Tensor) -> Tensor:
        x = (patches - self.mean) / self.std
        return self.map(x) * self.scale * 4.0  # a default-initialised last layer gives outputs of about a quarter


def fit_standardization(connector: Connector, patches: Any, block: int = 2048) -> None:
    """Per-dimension mean and standard deviation over all tokens of ``patches`` [N, n, D'], read in blocks."""
    if not connector.spec.standardize:
        return
    total = torch.zeros(patches.shape[-1], dtype=torch.float64)
    square, count = total.clone(), 0
    for i in range(0, len(patches), block):
        x = torch.from_numpy(patches[i : i + block].astype("float32")).flatten(0, 1).double()
        total += x.sum(0)
        square += (x * x).sum(0)
        count += len(x)
    mean = total / count
    connector.mean.copy_(mean)  # type: ignore[operator]
    connector.std.copy_((square / count - mean * mean).clamp(min=1e-12).sqrt())  # type: ignore[operator]


def save(path: Path, connector: Connector, meta: dict[str, Any]) -> None:
    """One safetensors file; ``meta`` (what it was trained for) as JSON in its header."""
    with atomic_path(path) as temporary:
        save_file(
            {k: v.contiguous() for k, v in connector.state_dict().items()},
            temporary,
            metadata={"levl": json.dumps(meta, sort_keys=True)},
        )


def load(
    path: Path, spec: ConnectorSpec, patch_dim: int, width: int, expect: dict[str, Any] | None = None
) -> tuple[Connector, dict[str, Any]]:
    """The connector of a file and its meta. Raises UsageError: unreadable, or made for another encoder, model or recipe (``expect``)."""
    try:
        with safe_open(path, framework="pt") as f:
            meta = json.loads((f.metadata() or {}).get("levl", "{}"))
            state = {k: f.get_tensor(k) for k in f.keys()}
    except (SafetensorError, OSError, ValueError) as e:
        raise UsageError(f"{path}: no readable connector ({type(e).__name__}); delete it, it will be trained again") from e
    for key, value in (expect or {}).items():
        if meta.get(key) != value:
            raise UsageError(
                f"{path}: this connector was trained for another {key} ({meta.get(key)}, not {value}); train one for this pair"
            )
    connector = Connector(spec, patch_dim, width, 1.0)
    try:
        connector.load_state_dict(state)
    except RuntimeError as e:
        raise UsageError(f"{path}: this connector was trained for another encoder or language model (shapes differ)") from e
    return connector.eval(), meta
