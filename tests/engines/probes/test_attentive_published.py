"""The attentive probe as July's script has it: initial weights, the loader's last batch, bilinear crops."""

from __future__ import annotations

import types

import numpy as np
import pytest
import torch

from levl_eval.cards import AttentiveCard
from levl_eval.cards.registry import task_card
from levl_eval.core.progress import Progress
from levl_eval.engines.probes import attentive


def test_initial_weights():
    torch.manual_seed(0)
    head = attentive.AttentiveHead(192, 1000, 12, 4.0)
    for weight, std in (
        (head.q.weight, 0.02),
        (head.v.weight, 0.02),
        (head.proj.weight, 0.02 / 2**0.5),
        (head.mlp[2].weight, 0.02 / 2**0.5),
    ):
        assert weight.std().item() == pytest.approx(std, rel=0.02)  # cut at two deviations it would be 0.88 of that
        assert weight.abs().max() > 3.5 * std
    assert not any(m.bias.any() for m in (head.q, head.v, head.proj, head.mlp[0], head.mlp[2]))
    bound = 192**-0.5  # torch's default for a linear layer: uniform, weights and biases
    assert head.linear.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert head.linear.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert 0.9 * bound < head.linear.bias.abs().max() <= bound


@pytest.mark.parametrize("drop, batches", [("true", [4, 4]), ("false", [4, 4, 2])])
def test_the_incomplete_last_batch_is_left_out(monkeypatch, drop, batches):
    tokens = np.random.default_rng(0).normal(size=(10, 3, 4)).astype(np.float32)
    seen = []
    read = attentive.tokens_at
    monkeypatch.setattr(
        attentive, "tokens_at", lambda array, rows, device: (seen.append(len(rows)), read(array, rows, device))[1]
    )
    card = task_card("attentive", {"epochs": "1", "batch_size": "4", "drop_last": drop})
    head = attentive.AttentiveHead(4, 3, 2, 1.0)
    data = attentive.TrainingTokens([tokens], np.arange(10), np.arange(10) % 3)
    attentive.train(head, data, card, 0, torch.device("cpu"), Progress(quiet=True))
    assert seen == batches
    seen.clear()  # an epoch of less than a batch is still one
    few = task_card("attentive", {"epochs": "1", "batch_size": "64"})
    attentive.train(head, data, few, 0, torch.device("cpu"), Progress(quiet=True))
    assert seen == [10]


@pytest.mark.parametrize("words, wanted", [({}, "bilinear"), ({"view_interpolation": "bicubic"}, "bicubic")])
def test_random_crops_are_resized_bilinearly(words, wanted):
    from levl_eval.backbones.base import Preprocess
    from levl_eval.data.types import ImageSet

    asked = []

    def features(images, arrays, preprocess, layers):
        asked.append(preprocess)
        return types.SimpleNamespace(patches=None)

    card = task_card("attentive", {"views": "1", **words})
    assert isinstance(card, AttentiveCard)
    context = types.SimpleNamespace(card=card, backbone=types.SimpleNamespace(preprocess=Preprocess(64)), features=features)
    images = ImageSet.__new__(ImageSet)
    parts = types.SimpleNamespace(train=types.SimpleNamespace(data=types.SimpleNamespace(images=images)))
    original, attentive.cropped = attentive.cropped, lambda images, *more: images
    try:
        attentive.training_tokens(context, parts)
    finally:
        attentive.cropped = original
    assert [(p.resize, p.interpolation) for p in asked] == [("squash", wanted)]
