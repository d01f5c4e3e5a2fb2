"""Of equally near neighbours those that stand first are taken, however the search is cut into blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from levl_eval.core.progress import Progress
from levl_eval.engines.nearest import largest
from levl_eval.engines.probes import knn
from levl_eval.engines.probes.common import Matrix

CPU = torch.device("cpu")
KEYS = torch.eye(4)[torch.randint(0, 4, (300,), generator=torch.Generator().manual_seed(0))]  # cosines are exactly 0 or 1
QUERIES = torch.eye(4)[[0, 3, 1, 1, 2]]
FIRST = np.argsort(-(QUERIES @ KEYS.T).numpy(), axis=1, kind="stable")


@pytest.mark.parametrize("block", [3, 64, 299, 300])
@pytest.mark.parametrize("k", [1, 30, 100, 300])
def test_which_of_equal_neighbours_are_kept(block, k, monkeypatch):
    monkeypatch.setattr(knn, "KEYS", block)
    places = knn.neighbours(Matrix(QUERIES.numpy()), Matrix(KEYS.numpy()), k, CPU, Progress(quiet=True))[1]
    assert (places == FIRST[:, :k]).all()


def test_the_largest_of_rows_with_and_without_equals():
    values = torch.tensor([[1.0, 3.0, 2.0, 3.0, 3.0], [5.0, 1.0, 4.0, 2.0, 3.0], [0.0, 0.0, -0.0, 0.0, 0.0]])
    top, at = largest(values, 2)
    assert at.tolist() == [[1, 3], [0, 2], [0, 1]] and top.tolist() == [[3, 3], [5, 4], [0, 0]]
    assert largest(values, 5)[1].tolist() == [[1, 3, 4, 2, 0], [0, 2, 4, 3, 1], [0, 1, 2, 3, 4]]
