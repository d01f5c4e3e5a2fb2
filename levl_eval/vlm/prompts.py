"""Prompts as tokens: what stands before the image, and behind it with the question."""

from __future__ import annotations

from dataclasses import dataclass

from levl_eval.cards import PromptSpec
from levl_eval.errors import UsageError
from levl_eval.vlm.language import LanguageModel


@dataclass(frozen=True)
class Prompt:
    """A prompt template cut at the image. ``head``: token ids before the image, beginning-of-text included."""

    spec: PromptSpec
    head: tuple[int, ...]
    tail: str

    def question(self, language: LanguageModel, text: str) -> list[int]:
        """Tokens behind the image for a question."""
        return language.ids(self.tail.replace("{question}", text))

    def answer(self, language: LanguageModel, text: str) -> list[int]:
        """Target tokens of an answer with its end. Tokenised apart from the prompt, so that no merge crosses the boundary.

        Raises UsageError for an empty answer.
        """
        if not text.strip():
            raise UsageError("an answer is empty; every training question needs one")
        return [*language.ids(" " + text.strip()), language.eos]


def make_prompt(spec: PromptSpec, language: LanguageModel) -> Prompt:
    """Raises UsageError where the template lacks {image} or {question}, or has them in the wrong order."""
    head, found, tail = spec.template.partition("{image}")
    if not found or "{question}" not in tail or "{image}" in tail or "{question}" in head:
        raise UsageError(f"field `prompt.template`: {spec.template!r}: expected one {{image}} and behind it one {{question}}")
    return Prompt(spec, (*language.bos, *(language.ids(head) if head else [])), tail)
