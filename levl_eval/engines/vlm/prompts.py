"""Prompts as tokens: what stands before the image, and behind it with the question; plain, or a model's chat template."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from levl_eval.cards import PromptSpec
from levl_eval.core.errors import UsageError

if TYPE_CHECKING:
    from levl_eval.engines.vlm.language import LanguageModel

_PROBES = ("yes", "two dogs", "7")


@dataclass(frozen=True)
class Prompt:
    """A prompt template cut at the image.

    head: token ids before the image, beginning-of-text included. tail: text behind it, with ``{question}``. lead: what stands
    between the prompt and an answer when the two are tokenised apart ("" or a space, whatever this tokenizer needs).
    """

    spec: PromptSpec
    head: tuple[int, ...]
    tail: str
    lead: str = " "

    def question(self, language: LanguageModel, text: str) -> list[int]:
        """Tokens behind the image for a question."""
        return language.ids(self.tail.replace("{question}", text))

    def answer_start(self, language: LanguageModel, text: str) -> list[int]:
        """Tokens of an answer without its end."""
        return language.ids(self.lead + text.strip())

    def answer(self, language: LanguageModel, text: str) -> list[int]:
        """Target tokens of an answer with its end. Tokenised apart from the prompt, so that no merge crosses the boundary.

        Raises UsageError for an empty answer.
        """
        if not text.strip():
            raise UsageError("an answer is empty; every training question needs one")
        return [*self.answer_start(language, text), language.eos]


def _chat_text(spec: PromptSpec, language: LanguageModel) -> str:
    """The user's turn, with the model's own marks around it, up to where its answer begins."""
    if not getattr(language.tokenizer, "chat_template", None):
        raise UsageError(
            f"{language.name}: its tokenizer has no chat template; set `prompt.chat=false`, or give the model's instruction-tuned version"
        )
    turns = [{"role": "system", "content": spec.system}] if spec.system else []
    turns.append({"role": "user", "content": spec.user})
    try:
        out: str = language.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return out
    except Exception as e:  # templates are programs of their own and raise what they like
        raise UsageError(
            f"{language.name}: its chat template refuses the prompt ({' '.join(str(e).split())[:120]}); "
            "change `prompt.system` or `prompt.user`"
        ) from e


def _lead(language: LanguageModel, tail: str, chat: bool, field: str) -> str:
    """What to put before an answer so that, tokenised apart, it gets the tokens it has behind the prompt.

    Raises UsageError where no choice does: the tokenizer then joins the prompt's end with the answer's beginning.
    """
    text = tail.replace("{question}", "What is it?")
    behind = language.ids(text)
    between = "" if chat or text[-1:].isspace() else " "
    for lead in dict.fromkeys((between, "")):
        if all(behind + language.ids(lead + p) == language.ids(text + between + p) for p in _PROBES):
            return lead
    raise UsageError(
        f"field `{field}`: the tokenizer of {language.name} joins the end of the prompt ({text[-12:]!r}) with the first answer token; "
        "end the prompt otherwise, for example with a colon and no space"
    )


def asks_by_template(language: LanguageModel, spec: PromptSpec) -> bool:
    """Whether a prompt goes through the model's chat template: as the prompt says, else the model's card, else where there is one."""
    return language.chat if spec.chat is None else spec.chat


def how_asked(language: LanguageModel, spec: PromptSpec) -> str:
    """For people: which of the two forms is taken, and who says so."""
    chat = asks_by_template(language, spec)
    form = "through its chat template" if chat else "by a plain prompt"
    if spec.chat is not None:
        return f"asked {form}, as `prompt.chat` says"
    has_template = bool(getattr(language.tokenizer, "chat_template", None))
    return f"asked {form}" + (f" (`prompt.chat={str(not chat).lower()}` asks otherwise)" if has_template else "")


_FIELD = re.compile(r"\{\w*\}")  # what looks like a place to be filled


def make_prompt(spec: PromptSpec, language: LanguageModel) -> Prompt:
    """The prompt for a language model, through its chat template where :func:`asks_by_template`.

    Raises UsageError where the template lacks {image} or {question}, has them in the wrong order, or has another field; where a
    chat template is wanted and there is none, or it drops or repeats what the user says; and where the tokenizer merges across
    the border of prompt and answer.
    """
    chat = asks_by_template(language, spec)
    field, given = ("prompt.user", spec.user) if chat else ("prompt.template", spec.template)
    if given.count("{image}") != 1 or given.count("{question}") != 1 or given.index("{image}") > given.index("{question}"):
        raise UsageError(f"field `{field}`: {given!r}: expected one {{image}} and behind it one {{question}}")
    other = _FIELD.search(given.replace("{image}", "").replace("{question}", ""))
    if other is not None:
        raise UsageError(f"field `{field}`: {given!r}: nothing fills {other[0]}; take it out, or write it without braces")
    text = _chat_text(spec, language) if chat else spec.template
    # then an image or a question would be left out, or asked twice
    if text.count("{image}") != 1 or text.count("{question}") != 1:
        raise UsageError(
            f"{language.name}: its chat template does not write the user's turn once and as it is; set `prompt.chat=false`, or correct it"
        )
    head, _, tail = text.partition("{image}")
    bos = [] if chat else language.bos  # a chat template writes its own beginning
    return Prompt(spec, (*bos, *language.ids(head)), tail, _lead(language, tail, chat, field))
