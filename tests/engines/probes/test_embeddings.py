"""Embeddings that are compared by their cosines are looked at before."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from levl_eval.core.errors import LevlError
from levl_eval.engines.probes.texts import image_embeddings, text_embeddings


class Odd:
    name = "odd"
    device = torch.device("cpu")

    def __init__(self, change) -> None:
        self.change, self.memory = change, torch.zeros(256, 4)

    def _of(self, count: int) -> dict[str, torch.Tensor]:
        return {"embedding": self.change(normalize(torch.randn(count, 4), dim=1))}

    def text_embeddings(self, texts: list[str]) -> dict[str, torch.Tensor]:
        return self._of(len(texts))

    def image_embeddings(self, pooled: torch.Tensor) -> dict[str, torch.Tensor]:
        return self._of(len(pooled))


def third_is_nan(x: torch.Tensor) -> torch.Tensor:
    return x.index_fill(0, torch.tensor([2]), torch.nan)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x * 3, r"give 'embedding' of length 3; divide it by that"),
        (third_is_nan, "'embedding' that is not finite for number 2"),
        (lambda x: x[0], r"of shape \[4\] for 5 of them; expected \[5, E\]"),
        (lambda x: x[:1], r"of shape \[1, 4\] for 5 of them"),
    ],
)
def test_what_is_no_embedding_of_each_is_refused(change, message):
    with pytest.raises(LevlError, match=message) as e:
        text_embeddings(Odd(change), list("abcde"))
    assert "text_embeddings of 5 texts" in str(e.value)
    with pytest.raises(LevlError, match=message):
        image_embeddings(Odd(change), np.ones((5, 3), np.float32), torch.device("cpu"))


@pytest.mark.parametrize(
    "change", [lambda x: x, lambda x: x.half(), lambda x: x.bfloat16(), lambda x: x * 0, lambda x: x.requires_grad_()]
)
def test_embeddings_in_half_precision_with_gradient_or_of_nothing_are_taken(change):
    found = text_embeddings(Odd(change), ["a", "b", "a"])["embedding"]
    assert found.dtype == torch.float32 and not found.requires_grad and torch.equal(found[0], found[2])


def test_embeddings_in_memory_that_is_used_again_are_kept():
    def in_memory(x: torch.Tensor) -> torch.Tensor:
        odd.memory[: len(x)] = x
        return odd.memory[: len(x)]

    odd = Odd(in_memory)
    found = text_embeddings(odd, [str(k) for k in range(300)])["embedding"]
    assert not torch.equal(found[:44], found[256:])
