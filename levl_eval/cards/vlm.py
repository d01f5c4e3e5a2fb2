"""Cards of the tasks a frozen language model answers, and of the recipes by which connectors are trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import model_validator

from levl_eval.cards.base import PLACE, PROSE, DataSpec, StrictModel, TaskFields
from levl_eval.cards.fields import (
    BatchSize,
    Between,
    Block,
    Count,
    Name,
    Rate,
    Scale,
    Seed,
    Share,
    Small,
    Steps,
    TokenDtype,
    Width,
    not_protocol,
    protocol,
)


class MixSpec(DataSpec):
    """One part of a training mix."""

    weight: Scale = protocol(1.0)  # of each of its answers in the loss
    count: Count | None = protocol(None)  # a fixed random subset of so many questions


class ConnectorSpec(StrictModel):
    """The trained bridge between an encoder's tokens and the language model's input space."""

    kind: Literal["linear", "mlp2x_gelu", "mlp_norm", "unshuffle_mlp", "resampler"] = protocol("mlp2x_gelu")  # vlm/connector.py
    tokens: Literal["patches", "cls+patches", "cls"] = protocol("patches")
    # A block's number (0 the first, -2 the last but one), read after the final norm; "last": the encoder's own output.
    layer: Block | Literal["last"] = protocol("last")
    token_dtype: TokenDtype = protocol("float16")  # what stored tokens are held in
    standardize: bool = protocol(True)  # features per dimension by the training images' mean and std; part of the connector
    # unshuffle_mlp: so many by so many neighbouring patches become one token
    downsample: Annotated[int, Between(2, 64)] = protocol(2)
    queries: Width = protocol(32)  # resampler: how many tokens it gives
    depth: Small = protocol(2)  # resampler: blocks

    @model_validator(mode="after")
    def _check(self) -> ConnectorSpec:
        if self.kind == "unshuffle_mlp" and self.tokens != "patches":
            raise ValueError("kind unshuffle_mlp joins neighbouring patches; expected tokens: patches")
        return self


class PromptSpec(StrictModel):
    """Prompt and decoding. ``{image}`` marks where the image tokens go, ``{question}`` the question."""

    template: str = protocol("{image}\nQuestion: {question}\nAnswer:")
    # The model's chat template around ``user`` instead of ``template``; None: as the model's card says.
    chat: bool | None = protocol(None)
    user: str = protocol("{image}\n{question}\nAnswer the question using a single word or phrase.")  # the user's turn of a chat
    system: str = protocol("")  # system turn of a chat; "": none
    stop: list[str] = protocol(["\n"], max_length=100)
    max_new_tokens: Annotated[int, Between(1, 8_192)] = protocol(8)


class RecipeCard(StrictModel):
    """How a connector is trained: only it learns, by the loss on the answers."""

    kind: Literal["recipe"] = protocol("recipe")
    name: Name = protocol()
    description: str = not_protocol(PROSE, "")
    # The recipe that takes its place on --data scenes; None: recipe scenes.
    on_scenes: Name | None = not_protocol("the recipe it names is the one that counts there", None)
    # an earlier stage, or the name of its recipe: its connector is where this one starts
    first: RecipeCard | None = protocol(None)
    data: list[MixSpec] = protocol(max_length=100)  # concatenated
    max_questions: Count | None = protocol(None)  # a fixed random subset of the mix
    connector: ConnectorSpec = protocol(ConnectorSpec())
    prompt: PromptSpec | None = protocol(None)  # None: the task's
    epochs: Annotated[float, Between(0, 100_000)] = protocol(1.0)
    steps: Steps | None = protocol(None)  # instead of epochs
    images_per_batch: BatchSize = protocol(32)  # over all processes
    questions_per_image: Count = protocol(8)  # at most so many of an image's questions in one step, the rest in later passes
    optimizer: Literal["adamw", "muon"] = protocol("adamw")  # muon: on matrices, AdamW on the rest (engines/muon.py)
    lr: Rate = protocol(1e-3)
    weight_decay: Rate = protocol(0.0)
    warmup: Share = protocol(0.03)  # share of the steps
    schedule: Literal["cosine", "linear", "constant"] = protocol("cosine")
    clip: Rate = protocol(1.0)
    seed: Seed | None = protocol(None)  # None: the run's
    precision: Literal["auto", "bf16", "fp32"] = protocol("auto")  # auto: bf16 autocast on a GPU, fp32 on a CPU
    checkpointing: Literal["auto", "on", "off"] = not_protocol("recomputes the language model's activations: memory only", "auto")


class QuestionCard(TaskFields):
    """What the tasks have in common whose questions a language model answers through a connector."""

    data: DataSpec = protocol()
    recipe: RecipeCard | str = protocol("vqa-train")
    # The recipe that takes its place on --data scenes; None: the one that the recipe names.
    on_scenes: Name | None = not_protocol("the recipe it names is the one that counts there", None)
    prompt: PromptSpec = protocol(PromptSpec())
    scorer: Literal[
        "gqa", "vqav2", "pope", "exact", "mme", "textvqa", "vizwiz", "letter", "letter-or-text", "soft", "relaxed", "anls", "ocrbench",
        "truth", "box",
    ] = protocol()  # vlm/scoring.py  # fmt: skip
    # Answers whose likelihoods are measured beside: yes and no, for average precision and calibration; or the letters of options.
    likelihood: list[str] = protocol([], max_length=10)
    llm_dtype: Literal["auto", "fp32", "bf16"] = protocol("auto")  # auto: bf16 on a GPU, fp32 elsewhere
    # The questions are about print in images, of which little is left at the input size of most encoders.
    small_text: bool = not_protocol("a word of warning where the encoder's input is small", False)
    floors: list[Literal["text-only", "blank-image", "shuffled-images", "random-vit"]] = not_protocol(
        "which floors are measured beside the metrics; a record without one that is asked for is completed", ["text-only"]
    )


class VQACard(QuestionCard):
    engine: Literal["vqa"] = protocol("vqa")

    @model_validator(mode="after")
    def _two(self) -> VQACard:
        if len(self.likelihood) > 2:
            raise ValueError(f"`likelihood`: expected at most 2 answers, yes and no, found {len(self.likelihood)}")
        return self


class MultipleChoiceCard(QuestionCard):
    """Questions with lettered options: the letter that is answered, the likelihoods of the letters, and those of the options' texts."""

    engine: Literal["mcq"] = protocol("mcq")
    likelihood: list[str] = protocol(["A", "B", "C", "D", "E", "F"], max_length=10)
    # What stands behind a question and its options, LLaVA's wording. The prompt is the recipe's, so that a connector serves all its tasks.
    instruction: str = protocol("\nAnswer with the option's letter from the given choices directly.")
    # Also the log-likelihood of each option's text as the answer to the question without options (SEED-Bench's own way).
    option_texts: bool = protocol(True)


GENERATION = ("task", "card")
INSTRUCTION = "\nAnswer the question using a single word or phrase."  # lmms-eval's own way of asking for a short answer


class LMMSCard(TaskFields):
    """A task of the installed lmms-eval, `lmms:NAME` on the command line. Its scores keep lmms-eval's names and scale.

    `--limit N` means N documents here, as lmms-eval counts.
    """

    engine: Literal["lmms"] = protocol("lmms")
    main_metric: str = protocol("")  # "": the first one lmms-eval reports
    task: str = protocol(min_length=1)  # a task, group or tag of lmms-eval
    # A folder of further task files, beside lmms-eval's own.
    include: str | None = not_protocol("a place; the folder's files count by their content (lmms_identity)", None)
    # A folder of hub repositories (OWNER/NAME or NAME); None: DIR/lmms, then the hub or its cache.
    datasets: str | None = not_protocol(PLACE, None)
    recipe: RecipeCard | str = protocol("vqa-train")
    prompt: PromptSpec = protocol(PromptSpec())  # around lmms-eval's question
    drop: list[str] = protocol([INSTRUCTION])  # texts taken out of lmms-eval's question, which the prompt says in its own way
    # whose answer length; "task": its stop strings too, beside the prompt's
    generation: Literal["task", "card"] = protocol("task")
    llm_dtype: Literal["auto", "fp32", "bf16"] = protocol("auto")


class LLMCard(StrictModel):
    """A named language model: where it comes from and how it wants to be asked."""

    kind: Literal["llm"] = protocol("llm")
    name: Name = not_protocol("a label; repository and revision count")
    repo: str = protocol(min_length=1)  # hub name or directory
    revision: str | None = protocol(None)
    file: str | None = protocol(None)  # a GGUF file in it, which holds weights, settings and tokenizer
    # an installed package that holds the file
    package: str | None = not_protocol("a place; the file counts by its content", None)
    install: str = not_protocol(PROSE, "")  # how to get that package
    # Ask through its chat template unless the task's prompt says otherwise; None: where its tokenizer has one.
    chat: bool | None = protocol(None)
    description: str = not_protocol(PROSE, "")
    licence: str = not_protocol(PROSE, "")
