"""Text of the embedded language model: scene descriptions with questions, and where in them each answer stands.

No image is involved. To learn reading and comparing rather than 24 words by heart, a share of the scenes is told in another
lexicon (COCO's object names, shapes, invented words), and another share is told with words missing.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from levl_eval.scenes.language import STYLES, phrases, swap_words
from levl_eval.scenes.programs import SceneQuestion, a, plural
from levl_eval.scenes.questions import GQA_MIX, READING, ask
from levl_eval.scenes.world import CATEGORIES, COLORS, STUFF, Scene, SceneObject, sample_scene, stable_seed

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
ASK, ANSWER = "\nQuestion:", "\nAnswer:"
PROMPT = ASK + " {question}" + ANSWER
TOGETHER = "together"  # a style of training only: all words of a phrase at one position, as a connector's tokens hold them

# Words a user's own questions may hold: COCO's 80 object names and simple shapes. They widen reading, nothing is asserted of them.
NOUNS: tuple[str, ...] = tuple(
    (
        "person bicycle motorcycle bus train traffic light|fire hydrant|stop sign|parking meter|bench horse sheep cow elephant "
        "bear zebra giraffe backpack handbag tie suitcase frisbee skis snowboard|sports ball|baseball bat|baseball glove|"
        "skateboard surfboard|tennis racket|bottle wine glass|fork knife spoon bowl banana apple sandwich orange broccoli "
        "carrot|hot dog|pizza donut cake couch|potted plant|bed|dining table|toilet tv laptop mouse remote keyboard|cell phone|"
        "microwave oven toaster sink refrigerator book vase scissors|teddy bear|hair drier|toothbrush circle triangle rectangle "
        "square star shape man woman child hat shirt window door phone box bag wall shoe plate key"
    ).replace("traffic light", "traffic_light").replace("|", " | ").split()
)  # fmt: skip
_TWO_WORDS = {
    "traffic_light": "traffic light", "fire": "fire hydrant", "stop": "stop sign", "parking": "parking meter", "sports": "sports ball",
    "wine": "wine glass", "hot": "hot dog", "cell": "cell phone", "teddy": "teddy bear", "hair": "hair drier", "potted": "potted plant",
    "dining": "dining table", "tennis": "tennis racket", "baseball": "baseball bat",
}  # fmt: skip
_SECOND = {
    "|",
    "hydrant",
    "sign",
    "meter",
    "ball",
    "bat",
    "glove",
    "racket",
    "glass",
    "dog",
    "plant",
    "table",
    "phone",
    "bear",
    "drier",
}
LEXICON: tuple[str, ...] = tuple(dict.fromkeys(_TWO_WORDS.get(w, w) for w in NOUNS if w not in _SECOND))
EXTRA_COLORS = ("brown", "gray", "teal", "pink")
_SYLLABLES = (
    "ba",
    "do",
    "ki",
    "lu",
    "mo",
    "ne",
    "pa",
    "ri",
    "su",
    "ta",
    "vo",
    "zu",
    "fen",
    "gor",
    "mip",
    "tal",
    "wex",
    "bru",
    "sto",
    "cha",
)


@dataclass(frozen=True)
class Phrase:
    """A piece of a description. names: what it tells of, "" for the background. copies: how often it stands there (style TOGETHER)."""

    text: str
    name: str = ""
    copies: int = 1


@dataclass(frozen=True)
class Asked:
    """A question with its answer, and what a reader looks at: indices of phrases.

    cues: (place of a word's last character in the question, phrases it points at; none where there is no such thing).
    source: phrases that hold the answer, where these are known. compares: the later of two cues is to be held against the earlier.
    """

    question: str
    answer: str
    family: str
    cues: tuple[tuple[int, tuple[int, ...]], ...] = ()
    source: tuple[int, ...] = ()
    compares: bool = False


@dataclass(frozen=True)
class Example:
    """A description with its questions. absent: names of things that could be there and are not.

    unsure: whether what is told TOGETHER is told with doubt.
    """

    phrases: tuple[Phrase, ...]
    style: str
    questions: tuple[Asked, ...]
    absent: tuple[str, ...] = ()
    unsure: bool = False

    @property
    def text(self) -> str:
        return " ".join(p.text for p in self.phrases)


def other_words(rng: random.Random) -> dict[str, str]:
    """A consistent exchange of all category words, and sometimes of some colours."""
    invented = ["".join(rng.choices(_SYLLABLES, k=rng.randint(2, 3))) for _ in range(8)]
    pool = [w for w in (*LEXICON, *invented) if w not in CATEGORIES and w not in COLORS]
    table = dict(zip(CATEGORIES, rng.sample(pool, len(CATEGORIES)), strict=True))
    if rng.random() < 0.4:
        table |= dict(zip(rng.sample(COLORS, 3), rng.sample(EXTRA_COLORS, 3), strict=True))
    return table


def _generic(obj: SceneObject, rng: random.Random) -> list[tuple[str, str]]:
    """Questions in other people's wording about a scene's only object, called a shape or an object."""
    color, name = obj.color, obj.category
    other_color = rng.choice([c for c in COLORS if c != color])
    other = rng.choice([c for c in CATEGORIES if c != name])
    thing = rng.choice(("shape", "object", "thing"))
    noun = rng.choice(("image", "picture"))
    return [
        (f"what color is the {thing}?", color),
        (f"what is the color of the {name}?", color),
        (f"what {thing} is in the {noun}?", name),
        (f"what {thing} does the {noun} contain?", name),
        (f"does the {noun} contain {a(name)}?", "yes"),
        (f"does the {noun} contain {a(other)}?", "no"),
        (f"is there a {color} {thing} in the {noun}?", "yes"),
        (f"is there a {other_color} {thing}?", "no"),
        (f"is {a(name)} present?", "yes"),
        (f"is {a(other)} present?", "no"),
        (f"does the {noun} not contain {a(name)}?", "no"),
        (f"is there not {a(other)} in the {noun}?", "yes"),
        (f"is no {name} present?", "no"),
        (f"is no {other_color} {thing} present?", "yes"),
    ]


_CELL = re.compile(r"\b(?:top|center|bottom) (?:left|middle|right)\b")
_READ_OFF = frozenset((*COLORS, *STUFF, "left", "right"))  # answers that stand in the phrase of the one thing named
_PAIRS = frozenset(("verify-rel", "compare-color", "logical"))


def _asked(q: SceneQuestion, tokens_by_fact: Mapping[str, tuple[int, ...]], table: Mapping[str, str], lower: bool) -> Asked:
    """The question in the example's words, with what its words point at. ``tokens_by_fact``: phrases that name each category."""
    text = swap_words(q.question, table)
    text = text.lower() if lower else text
    cues: list[tuple[int, tuple[int, ...]]] = []
    named: list[str] = []
    for category in CATEGORIES:
        word = table.get(category, category)
        for match in re.finditer(rf"\b(?:{re.escape(word)}|{re.escape(plural(word))})\b", text):
            cues.append((match.end() - 1, tokens_by_fact.get(category, ())))
            named.append(category)
    compares = q.group in _PAIRS and len(cues) == 2
    source = tokens_by_fact.get(q.answer, ())
    if len(source) > 1 and q.group != "choose-object":
        source = ()  # which of them is meant, their place says
    if source:
        cue = _CELL.search(text) if q.group == "place" else None
        if q.group.startswith("group-"):
            cue = re.search(rf"\b{q.group.removeprefix('group-')}\b", text)
        if cue:
            cues.append((cue.end() - 1, source))
    elif q.answer in _READ_OFF and len(named) == 1:
        source = tokens_by_fact.get(named[0], ())
    return Asked(text, swap_words(q.answer, table), q.group, tuple(sorted(cues)), source, compares)


def told_together(scene: Scene, rng: random.Random, repeat: bool) -> list[tuple[str, SceneObject | None, int]]:
    """Phrases of which each becomes one position, or with ``repeat`` several, as an object covers several patches."""
    objects = [(text, o) for text, o in phrases(scene, rng, "list") if o is not None]
    background = [(f"background: {stuff}.", None) for stuff in scene.stuff_names()]
    return [(text, o, rng.randint(1, 6) if repeat else 1) for text, o in (*objects, *background)]


def _example(seed: int, scene: Scene, style: str, families: Mapping[str, float], n: int, swap: float, drop: float) -> Example:
    rng = random.Random(stable_seed("wording", seed))
    repeat = style == TOGETHER and rng.random() < 0.7
    if style == TOGETHER:
        pieces = told_together(scene, rng, repeat)
    else:
        pieces = [(text, o, 1) for text, o in phrases(scene, rng, style)]
    table = other_words(rng) if rng.random() < swap else {}
    thin = style != TOGETHER and rng.random() < drop
    tokens_by_fact: dict[str, tuple[int, ...]] = {}
    parts: list[Phrase] = []
    for text, o, copies in pieces:
        text = swap_words(text, table)
        if thin:
            text = " ".join(w for w in text.split(" ") if w not in ("a", "the", "at", "on", "is", "there") or rng.random() < 0.5)
        if o is not None:
            tokens_by_fact[o.category] = (*tokens_by_fact.get(o.category, ()), len(parts))
        parts.append(Phrase(text, table.get(o.category, o.category) if o else "", copies))
    asked = ask(scene, rng, families, n)
    if table:  # other words belong to no group, and their plurals are not known
        asked = [q for q in asked if q.group != "count" and not q.group.startswith("group")]
    if repeat:  # copies cannot be counted
        asked = [q for q in asked if q.group != "count"]
    lower = rng.random() < 0.5
    absent = tuple(table.get(c, c) for c in CATEGORIES if c not in tokens_by_fact)
    return Example(tuple(parts), style, tuple(_asked(q, tokens_by_fact, table, lower) for q in asked), absent, repeat)


def easy_example(seed: int, questions: int = 12) -> Example:
    """Two or three objects, asked for presence, colour, ground and place: the lookups that everything else builds on."""
    families = {
        "exist": 2, "query_color": 2, "query_stuff": 1, "choose_side": 1, "choose_object": 1, "query_place": 2, "verify_rel": 0.5,
    }  # fmt: skip
    style = random.Random(seed).choice((*STYLES, TOGETHER))
    return _example(seed, sample_scene(seed, 2, 3), style, families, questions, 0.0, 0.0)


def make_example(
    seed: int, questions: int = 12, swap: float = 0.3, drop: float = 0.15, style: str | None = None, hard: bool = False
) -> Example:
    """The training text of ``seed``, with ``hard`` in the mix of READING, else in that of the question sets.

    ``swap`` and ``drop`` are the shares told in another lexicon and with words missing.
    """
    rng = random.Random(seed)
    if style is None and rng.random() < 0.06:
        scene = sample_scene(seed, 1, 1)
        style = rng.choice(STYLES)
        made = _example(seed, scene, style, {"exist": 1.0}, 0, 0.0, drop)
        table = other_words(rng) if rng.random() < 0.5 else {}
        asked = [
            Asked(swap_words(q, table), swap_words(x, table), "generic")
            for q, x in rng.sample(_generic(scene.objects[0], rng), 8)
        ]
        parts = tuple(Phrase(swap_words(p.text, table), swap_words(p.name, table)) for p in made.phrases)
        return Example(parts, style, tuple(asked))
    style = style or rng.choices((*STYLES, TOGETHER), (0.35, 0.25, 0.4))[0]
    families = READING if hard else {**GQA_MIX, "count": 1.0}
    return _example(seed, sample_scene(seed), style, families, questions, swap, drop)


def corpus(n: int, seed: int = 0) -> list[str]:
    """Texts for training the tokenizer: descriptions with questions, and every word of the wider lexicon."""
    out = []
    for i in range(n):
        e = make_example(stable_seed("tokenizer", seed, i))
        out.append(" " + e.text + "".join(PROMPT.format(question=q.question) + f" {q.answer}" for q in e.questions))
    out += [f" {w}" for w in (*LEXICON, *EXTRA_COLORS) for _ in range(30)]
    return out


def train_tokenizer(texts: list[str], vocab_size: int = 1024) -> Tokenizer:
    """A byte-level BPE that takes any text back as it was; the two marks of the prompt are one token each."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 2,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(ASK, normalized=False), AddedToken(ANSWER, normalized=False)])
    return tokenizer


def with_words(tokenizer: Tokenizer, words: Sequence[str]) -> Tokenizer:
    """The tokenizer with a token for each of ``words`` as it stands behind a space.

    What was a token keeps its number; other text is cut as before, but where one of the new pieces stands in it.
    """
    from tokenizers import Tokenizer as Loaded

    state = json.loads(tokenizer.to_str())
    vocab, merges = state["model"]["vocab"], state["model"]["merges"]
    # which are numbered behind the vocabulary otherwise
    vocab |= {added["content"]: added["id"] for added in state["added_tokens"]}
    number = tokenizer.get_vocab_size()
    for word in words:
        pieces = Loaded.from_str(json.dumps(state)).encode(f" {word}").tokens
        while len(pieces) > 1:
            joined = pieces[0] + pieces[1]
            if joined not in vocab:
                vocab[joined] = number
                number += 1
            merges.append(pieces[:2])
            pieces = [joined, *pieces[2:]]
    return Loaded.from_str(json.dumps(state))
