"""Our frozen encoder, connector and language model as a model of lmms-eval.

    lmms-eval --model levl --model_args backbone=levljepa-nano,llm=scenes-lm --tasks pope

Model arguments: ``model`` (a folder of VLM.save), or ``backbone`` with ``llm``, ``recipe``, ``data`` and ``seed`` as `levl-eval
ask` takes them (the connector is reused or trained); ``max_new_tokens`` and ``template`` of the prompt; ``generation``, ``drop``.
Requests are grouped by image, whatever their order: an image is encoded once, and prefilled once for all its questions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from lmms_eval.api.instance import GenerationResult
from lmms_eval.api.model import lmms
from PIL import Image
from torch import Tensor

from levl_eval.cards import GENERATION, INSTRUCTION, PromptSpec
from levl_eval.core.distributed import process_group, work_alone
from levl_eval.core.errors import UsageError
from levl_eval.core.hashing import digest
from levl_eval.core.kept import tree_digest
from levl_eval.core.third_party import repair_lmms
from levl_eval.data.images import SUFFIXES, fingerprint_text, open_rgb
from levl_eval.data.rgb import to_rgb
from levl_eval.data.types import ImageSet, Question
from levl_eval.engines.vlm.answers import ENGINE, Journal, answer_set, bounds_for, cut_words, flip_rate
from levl_eval.engines.vlm.connector import Connector
from levl_eval.engines.vlm.engine import likelihood_all, too_long
from levl_eval.engines.vlm.prompts import Prompt
from levl_eval.engines.vlm.recipe import VQAResources, vlm_parts
from levl_eval.engines.vlm.tokens import read_tokens
from levl_eval.records.identity import cache_key

if TYPE_CHECKING:
    from lmms_eval.api.instance import Instance

_GREEDY = {"do_sample": (False, None), "num_beams": (1, None), "temperature": (0, 0.0, None)}


@dataclass
class Images:
    """The images requests come with, known by their pixels; opened when they are needed, never all held."""

    places: dict[str, Callable[[], Image.Image]] = field(default_factory=dict)

    def add(self, opened: Callable[[], Image.Image]) -> str:
        """The image's id: equal for equal pixels, wherever they come from."""
        image = opened()
        name = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
        self.places.setdefault(name, opened)
        return name

    def images(self) -> ImageSet:
        names = tuple(sorted(self.places))
        return ImageSet(names, lambda n: self.places[n](), fingerprint_text(["pixels", *names]), "lmms-eval", lambda n: n)


def _image(value: object, where: str) -> Image.Image | None:
    """The one image of a document; None for a text-only one. Raises UsageError: several images, sound, video."""
    visuals = list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]
    if not visuals:
        return None
    if len(visuals) > 1:
        raise UsageError(f"{where}: has {len(visuals)} images; a connector is trained for one image a question")
    (one,) = visuals
    if isinstance(one, Image.Image):
        return to_rgb(one, where)
    if isinstance(one, (str, Path)) and Path(one).suffix.lower() in SUFFIXES:
        return open_rgb(Path(one))
    raise UsageError(f"{where}: shows {str(one)[:60]!r} ({type(one).__name__}); only images can be answered about")


@dataclass
class Asker:
    """Answers lmms-eval's requests by image.

    docs: (task, split) -> documents by number. drop: texts taken out of lmms-eval's questions. generation: whose answer length
    and stop strings hold (cards.LMMSCard). Notes gather what a record should tell.
    """

    resources: VQAResources
    connector: Connector
    prompt: Prompt
    connector_name: str = ""
    drop: Sequence[str] = (INSTRUCTION,)
    generation: str = "task"
    docs: Callable[[str, str], Mapping[int, object]] = lambda task, split: {}
    image_of: dict[tuple[str, str, int], str] = field(default_factory=dict)  # "" for a text-only document
    question_of: dict[tuple[str, str, int], str] = field(default_factory=dict)
    notes: dict[str, object] = field(default_factory=dict)
    journals: list[Journal] = field(default_factory=list)
    _images: Images = field(default_factory=Images)

    def _document(self, document_to_image: Callable[[object], object], task: str, split: str, number: int) -> str:
        """Id of the image of a document, "" where it has none."""
        at = (task, split, number)
        if at not in self.image_of:
            where = f"lmms-eval task {task}: document {number} of {split}"

            def opened() -> Image.Image:
                image = _image(document_to_image(self.docs(task, split)[number]), where)
                assert image is not None
                return image

            first = _image(document_to_image(self.docs(task, split)[number]), where)
            self.image_of[at] = "" if first is None else self._images.add(_once(first, opened))
        return self.image_of[at]

    def _text(self, context: str) -> str:
        """The question of a request's context."""
        for words in ("<image>", *self.drop):
            context = context.replace(words, "")
        return context.strip()

    def _prompt(self, wanted: Mapping[str, object]) -> Prompt:
        """The prompt with a request's answer length and stop strings."""
        spec = self.prompt.spec
        others = sorted(k for k, usual in _GREEDY.items() if wanted.get(k) not in usual)
        if others:
            self.notes["greedy"] = f"the task asks for {', '.join(f'{k}={wanted[k]}' for k in others)}; answers are greedy"
        if self.generation == "card":
            return self.prompt
        until = wanted.get("until")
        more = [until] if isinstance(until, str) else until if isinstance(until, (list, tuple)) else []
        stop = list(dict.fromkeys([*spec.stop, *(mark for mark in more if mark)]))
        new = wanted.get("max_new_tokens") or wanted.get("max_gen_toks")
        length = int(new) if isinstance(new, (int, float)) else spec.max_new_tokens
        return replace(self.prompt, spec=spec.model_copy(update={"stop": stop, "max_new_tokens": length}))

    def _visual(self) -> Callable[[Sequence[str]], Tensor]:
        """Image ids -> visual tokens, from stored features of all images so far."""
        features = self.resources.features(self._images.images(), self.connector.spec)
        row, net = features.row, self.connector

        def visual_of(names: Sequence[str]) -> Tensor:
            raw = read_tokens(features, [row[n] for n in names], net.spec)
            with torch.inference_mode():
                out: Tensor = net(torch.from_numpy(raw).to(self.resources.device))
                return out

        return visual_of

    def generate(self, requests: Sequence[Instance]) -> list[str]:
        """One answer a request, in their order."""
        names: list[str] = []
        asked: dict[str, dict[str, Question]] = {}  # by answer length and stop strings, and whether there is a image
        prompts: dict[str, Prompt] = {}
        with self.resources.progress.stage("lmms-eval's documents", len(requests), "document") as bar:
            for r in requests:
                context, wanted, document_to_image, number, task, split = r.args
                prompt, image = self._prompt(wanted or {}), self._document(document_to_image, task, split, number)
                kind = f"{bool(image)} {prompt.spec.model_dump_json()}"
                prompts[kind] = prompt
                name, text = f"{task}/{split}/{number}/{r.idx}", self._text(context)
                self.question_of[task, split, number] = text
                names.append(name)
                asked.setdefault(kind, {})[name] = Question(name, image or name, text, "")
                bar.advance()
        answers: dict[str, str] = {}
        for kind, questions in asked.items():
            answers |= self._answer(prompts[kind], kind.startswith("True"), list(questions.values()))
        return [answers[n] for n in names]

    def _answer(self, prompt: Prompt, seeing: bool, questions: list[Question]) -> dict[str, str]:
        resources = self.resources
        visual_of = self._visual() if seeing else None
        key = cache_key(
            "lmms answers", ENGINE, **vlm_parts(resources), connector=self.connector_name, prompt=prompt.spec.model_dump(mode="json"),
            asked=digest([[q.question_id, q.image_id, q.question] for q in questions]), seeing=seeing,
        )  # fmt: skip
        journal = Journal(resources.cache / "answers" / f"{key}.jsonl")
        self.journals.append(journal)
        self._check_fits(prompt, 0 if visual_of is None else visual_of([questions[0].image_id]).shape[1], questions)
        answers = answer_set(resources.language, prompt, visual_of, questions, resources.progress, "answering lmms-eval", journal)
        if words := cut_words(len(answers.cut), len(questions), prompt.spec.max_new_tokens):
            self.notes["cut_answers"] = words
            resources.progress.say(f"  {words}")
        before = self.notes.get("resumed", 0)
        self.notes["resumed"] = (before if isinstance(before, int) else 0) + answers.resumed
        if resources.language.dtype != torch.float32 and visual_of is not None:
            self.notes["flip_rate"] = flip_rate(resources.language, prompt, visual_of, questions, answers)
        return answers.texts

    def _check_fits(self, prompt: Prompt, visual: int, questions: list[Question]) -> None:
        """Raises UsageError naming the first question that does not fit the language model's context."""
        language = self.resources.language
        long = too_long(language, prompt, visual, ((q.question_id, q.question) for q in questions))
        if long:
            first, need = next(iter(long.items()))
            more = "; or take the answer length of the prompt: generation=card" if self.generation == "task" else ""
            raise UsageError(
                f"lmms-eval document {first}: needs {need} positions with {visual} image tokens and the answer, "
                f"{language.name} has {language.context} ({len(long)} of {len(questions)} do not fit); "
                f"use fewer image tokens or a model with more positions{more}"
            )

    def likelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """(log-likelihood of the continuation, whether greedy decoding would give it) for each request, in their order."""
        groups: dict[str, list[tuple[int, str, str]]] = {}
        with self.resources.progress.stage("lmms-eval's documents", len(requests), "document") as bar:
            for k, r in enumerate(requests):
                context, end, document_to_image, number, task, split = r.args
                image = self._document(document_to_image, task, split, number)
                text = str(end(self.docs(task, split)[number]) if callable(end) else end)
                question = self.question_of[task, split, number] = self._text(context)
                groups.setdefault(image, []).append((k, question, text))
                bar.advance()
        results: list[tuple[int, tuple[float, bool]]] = []
        for seeing in (True, False):  # of several processes each scores its share of the images
            names = process_group().share([n for n in groups if bool(n) == seeing])
            for name, values in self._score(names, [[(q, end) for _, q, end in groups[n]] for n in names], seeing):
                results += [(k, value) for (k, _, _), value in zip(groups[name], values, strict=True)]
        return [value for _, value in sorted(process_group().gather(results))]

    def _score(
        self, names: list[str], pairs: list[list[tuple[str, str]]], seeing: bool
    ) -> Iterator[tuple[str, list[tuple[float, bool]]]]:
        """Name by name what its (question, continuation) pairs get."""
        language, progress = self.resources.language, self.resources.progress
        visual_of = self._visual() if seeing and names else None
        source = None if visual_of is None else lambda rows: visual_of([names[i] for i in rows])
        with progress.stage("likelihoods for lmms-eval", sum(map(len, pairs)), "continuation") as bar:
            for i, values in likelihood_all(language, self.prompt, source, pairs, bounds_for(language.device)):
                yield names[i], values
                bar.advance(len(values))

    def forget(self) -> None:
        """Remove the journals: the answers are safe elsewhere."""
        for journal in self.journals:
            journal.remove()
        self.journals.clear()


def _once(first: Image.Image, then: Callable[[], Image.Image]) -> Callable[[], Image.Image]:
    """A image that was opened just now, and afterwards only the way to open it again."""
    held = [first]
    return lambda: held.pop() if held else then()


class Likelihood(tuple[object, ...], GenerationResult):
    """(log-likelihood, greedy) as lmms-eval documents it, and a result of its other kind: 0.7.3 turns bare pairs into text."""

    token_counts = None

    def __init__(self, *pair: object) -> None:
        pass

    @property
    def text(self) -> tuple[object, ...]:
        return tuple(self)


class Levl(lmms):
    """lmms-eval's view of an :class:`Asker`. Raises UsageError for wrong arguments, as lmms-eval builds it."""

    is_simple = True

    def __init__(
        self,
        model: str = "",
        backbone: str = "",
        llm: str = "scenes-lm",
        recipe: str = "",
        data: str = "scenes",
        seed: int = 0,
        template: str = "",
        max_new_tokens: int = 0,
        generation: str = "task",
        drop: str = INSTRUCTION,
        device: str | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | str | None = None,
        asker: Asker | None = None,
    ) -> None:
        super().__init__()
        repair_lmms()
        self.alone = asker is None
        if generation not in GENERATION:
            raise UsageError(f"model argument generation={generation}: expected one of {', '.join(GENERATION)}")
        if asker is None:
            given = Arguments(
                model, backbone, llm, recipe, data, int(seed), device or "auto", batch_size, template, max_new_tokens
            )
            asker = _assemble(given)
            asker.drop, asker.generation = ([drop] if drop else []), generation
        self.asker = asker
        asker.docs = lambda task, split: self.task_dict[task][split]
        self.device = asker.resources.device  # lmms-eval counts its documents on it

    def generate_until(self, requests: list[Instance]) -> list[str]:
        out = self.asker.generate(requests)
        if self.alone:
            self.asker.forget()
        return out

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        return [Likelihood(pair) for pair in self.asker.likelihood(requests)]

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise UsageError(
            f"lmms-eval task {requests[0].task_name}: asks in several rounds; a frozen language model is asked once here"
        )


@dataclass(frozen=True)
class Arguments:
    """lmms-eval's model arguments that say which model it is; see the module's text. "" and 0: not given."""

    model: str
    backbone: str
    llm: str
    recipe: str
    data: str
    seed: int
    device: str
    batch_size: int | str | None
    template: str
    max_new_tokens: int


def _assemble(given: Arguments) -> Asker:
    """The connector is reused or trained as in `levl-eval ask`."""
    from levl_eval.core.device import pick_device
    from levl_eval.core.messages import show_messages
    from levl_eval.core.paths import default_cache
    from levl_eval.core.progress import Progress
    from levl_eval.engines.vlm.api import assemble, load
    from levl_eval.engines.vlm.prompts import make_prompt
    from levl_eval.features.store import FeatureStore

    if bool(given.model) == bool(given.backbone):
        raise UsageError("lmms-eval --model_args: give either backbone=... (with llm=...) or model=DIR of a saved one")
    show_messages()  # lmms-eval's own handlers, where it has some, go first
    where, cache, progress = pick_device(given.device), default_cache(), Progress()
    if given.model:
        vlm = load(given.model, device=str(where))
    else:
        vlm = assemble(given.backbone, given.llm, given.recipe or None, given.data, given.seed, where, cache, progress)
    asked = str(given.batch_size)
    size = int(asked) if asked.isdigit() and int(asked) > 1 else 64  # lmms-eval's default is 1
    resources = VQAResources(
        vlm.backbone, vlm.language, given.data, FeatureStore(cache / "features"), cache, where, progress, size
    )
    changes = {"template": given.template, "max_new_tokens": given.max_new_tokens}
    spec = PromptSpec(**{**vlm.spec.model_dump(), **{k: v for k, v in changes.items() if v}})
    name = tree_digest(vlm.connector.state_dict())
    # Now the connector is there: trained together, or, where accelerate takes the processes of a launcher for one each (on a CPU
    # without ACCELERATE_USE_CPU), by the first while the others waited for it. lmms-eval itself shares out its documents.
    work_alone()
    return Asker(resources, vlm.connector, make_prompt(spec, vlm.language), name)
