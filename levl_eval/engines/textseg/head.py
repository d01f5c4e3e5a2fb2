"""Cosines of patch tokens with the texts of classes, and the labels they give under the card's rule for background."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from levl_eval.engines.dense_common import upsample
from levl_eval.engines.segmentation.fitting import Fitted


class TextHead(nn.Module):
    """Tokens [B, n, D] to cosines [B, M, h, w] with M texts, in the image-text space that ``project`` leads to."""

    texts: Tensor

    def __init__(
        self, project: Callable[[Tensor], Mapping[str, Tensor]], image: str, texts: Tensor, grid: tuple[int, int]
    ) -> None:
        super().__init__()
        self.project, self.image, self.grid = project, image, grid
        self.register_buffer("texts", texts)  # [M, E], unit length

    def forward(self, tokens: Tensor) -> Tensor:
        embedded = self.project(tokens.flatten(0, 1))[self.image].float()
        return (embedded @ self.texts.T).view(len(tokens), *self.grid, -1).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Rule:
    """How cosines with texts become labels. owner: [M] the class of each text; scale: of the softmax over all texts.

    threshold: a pixel whose largest probability is below it is of class ``background``; None: no pixel is for that reason.
    """

    owner: Tensor
    scale: float
    threshold: float | None
    background: int

    def labels(self, cosines: Tensor) -> Tensor:
        """[M, H, W] -> [H, W]."""
        best, text = cosines.max(0)
        label = self.owner[text]
        if self.threshold is None:
            return label
        # The largest probability of a softmax: 1 / sum exp(scale (cosine - the largest)).
        probability = 1 / ((cosines - best) * self.scale).exp().sum(0)
        return torch.where(probability < self.threshold, self.background, label)


@dataclass
class ByText(Fitted):
    """Predictions by text."""

    rule: Rule | None = None

    @torch.inference_mode()
    def predict(self, row: int, size: tuple[int, int]) -> Tensor:
        """See Fitted.predict."""
        assert self.rule is not None
        return self.rule.labels(upsample(self.logits(row), size, self.card.upsample)[0])
