"""A context for engines on the tiny world."""

from __future__ import annotations

import pytest


@pytest.fixture
def context(tmp_path, world):
    import torch  # here: the readers' tests beside this file need neither torch nor the world

    from levl_eval.core.progress import Progress
    from levl_eval.engines.contract import Context
    from levl_eval.features.store import FeatureStore

    def make(card, backbone, data=None, seed=0) -> Context:
        quiet = Progress(quiet=True)
        return Context(
            card, backbone, str(data or world), seed, FeatureStore(tmp_path / "f"), tmp_path, torch.device("cpu"), progress=quiet
        )

    return make
