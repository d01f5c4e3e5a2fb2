"""Text of the embedded language model: scene descriptions with questions, as token sequences with a block mask.

No picture is involved. To learn reading and comparing rather than 24 words by heart, a share of the scenes is told in another
lexicon (COCO's object names, shapes, invented words), and another share is told with words missing.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from levl_eval.scenes.language import STYLES, describe, swap_words
from levl_eval.scenes.questions import READING, _ask, a, textual_examples
from levl_eval.scenes.world import CATEGORIES, COLORS, sample_scene, stable_seed

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
PROMPT = "\nQuestion: {question}\nAnswer:"

# Words a user's own questions may hold: COCO's 80 object names and simple shapes. They widen reading, nothing is asserted of them.
NOUNS: tuple[str, ...] = tuple(
    "person bicycle motorcycle bus train traffic light|fire hydrant|stop sign|parking meter|bench horse sheep cow elephant bear zebra giraffe "
    "backpack handbag tie suitcase frisbee skis snowboard|sports ball|baseball bat|baseball glove|skateboard surfboard|tennis racket|bottle "
    "wine glass|fork knife spoon bowl banana apple sandwich orange broccoli carrot|hot dog|pizza donut cake couch|potted plant|bed|dining table|"
    "toilet tv laptop mouse remote keyboard|cell phone|microwave oven toaster sink refrigerator book vase scissors|teddy bear|hair drier|"
    "toothbrush circle triangle rectangle square star shape man woman child hat shirt window door phone box bag wall shoe plate key".replace(
        "traffic light", "traffic_light"
    )
    .replace("|", " | ")
    .split()
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
class Example:
    """A description with its questions: (question, answer, family)."""

    text: str
    style: str
    questions: tuple[tuple[str, str, str], ...]


def _other_words(rng: random.Random) -> dict[str, str]:
    """A consistent exchange of all category words, and sometimes of some colours."""
    invented = ["".join(rng.choices(_SYLLABLES, k=rng.randint(2, 3))) for _ in range(8)]
    pool = [w for w in (*LEXICON, *invented) if w not in CATEGORIES and w not in COLORS]
    table = dict(zip(CATEGORIES, rng.sample(pool, len(CATEGORIES)), strict=True))
    if rng.random() < 0.4:
        table |= dict(zip(rng.sample(COLORS, 3), rng.sample(EXTRA_COLORS, 3), strict=True))
    return table


def _generic(obj: object, rng: random.Random) -> list[tuple[str, str, str]]:
    """Questions in other people's wording about a scene's only object, called a shape or an object."""
    color, name = obj.color, obj.category  # type: ignore[attr-defined]
    other_color = rng.choice([c for c in COLORS if c != color])
    other = rng.choice([c for c in CATEGORIES if c != name])
    thing = rng.choice(("shape", "object", "thing"))
    picture = rng.choice(("image", "picture"))
    return [
        (f"what color is the {thing}?", color, "generic"),
        (f"what is the color of the {name}?", color, "generic"),
        (f"what {thing} is in the {picture}?", name, "generic"),
        (f"what {thing} does the {picture} contain?", name, "generic"),
        (f"does the {picture} contain {a(name)}?", "yes", "generic"),
        (f"does the {picture} contain {a(other)}?", "no", "generic"),
        (f"is there a {color} {thing} in the {picture}?", "yes", "generic"),
        (f"is there a {other_color} {thing}?", "no", "generic"),
        (f"is {a(name)} present?", "yes", "generic"),
        (f"is {a(other)} present?", "no", "generic"),
        (f"does the {picture} not contain {a(name)}?", "no", "generic"),
        (f"is there not {a(other)} in the {picture}?", "yes", "generic"),
        (f"is no {name} present?", "no", "generic"),
        (f"is no {other_color} {thing} present?", "yes", "generic"),
    ]


def easy_example(seed: int, questions: int = 10) -> Example:
    """Two or three objects as a list, asked for presence, colour and ground: the lookups that everything else builds on."""
    rng = random.Random(seed)
    scene = sample_scene(seed, 2, 3)
    style = rng.choice(STYLES[:2])
    asked = _ask(scene, rng, {"exist": 3, "query_color": 2, "query_stuff": 1, "choose_side": 1, "choose_object": 1}, questions)
    return Example(describe(scene, rng, style), style, tuple((q.question, q.answer, q.group) for q in asked))


def make_example(
    seed: int, questions: int = 12, swap: float = 0.3, drop: float = 0.15, style: str | None = None, hard: bool = False
) -> Example:
    """The training text of ``seed``, with ``hard`` in the mix of READING. ``swap`` and ``drop`` are the shares told in another lexicon and with words missing."""
    rng = random.Random(seed)
    if rng.random() < 0.08 and style is None:
        scene = sample_scene(seed, 1, 1) if rng.random() < 0.5 else sample_scene(seed, 2, 2)
        style_now = rng.choice(STYLES[:2])
        if len(scene.objects) == 1:
            text = describe(scene, rng, style_now)
            asked = rng.sample(_generic(scene.objects[0], rng), 8)
        else:
            text, found = textual_examples(scene, rng, questions, style_now, READING if hard else None)
            asked = [(q.question, q.answer, q.group) for q in found]
    else:
        scene = sample_scene(seed)
        style_now = style or rng.choices(STYLES, (0.35, 0.3, 0.35))[0]
        text, found = textual_examples(scene, rng, questions, style_now, READING if hard else None)
        asked = [(q.question, q.answer, q.group) for q in found]
    if rng.random() < swap:
        table = _other_words(rng)
        text = swap_words(text, table)
        asked = [
            (swap_words(q, table), swap_words(x, table), g) for q, x, g in asked if g != "count" and not g.startswith("group")
        ]
    if style is None and rng.random() < drop and style_now != "map":
        words = [w for w in text.split(" ") if w not in ("a", "the", "at", "on", "is", "there") or rng.random() < 0.5]
        text = " ".join(words)
    if rng.random() < 0.5:
        asked = [(q.lower(), x, g) for q, x, g in asked]
    return Example(text, style_now, tuple(asked))


def corpus(n: int, seed: int = 0) -> list[str]:
    """Texts for training the tokenizer: descriptions with questions, and every word of the wider lexicon."""
    out = []
    for i in range(n):
        e = make_example(stable_seed("tokenizer", seed, i))
        out.append(e.text + "".join(PROMPT.format(question=q) + f" {x}" for q, x, _ in e.questions))
    out += [f" {w}" for w in (*LEXICON, *EXTRA_COLORS) for _ in range(30)]
    return out


def train_tokenizer(texts: list[str], vocab_size: int = 1024) -> Tokenizer:
    """A byte-level BPE that takes any text back as it was."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


@dataclass
class Batch:
    """Packed sequences. ids, positions, targets: int64 [B, T] (targets -100 where nothing is asked); weights float32 [B, T];
    block: int64 [B, T], 0 for the description, k for question k, -1 for padding."""

    ids: np.ndarray
    positions: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    block: np.ndarray


def pack(examples: list[Example], tokenizer: Tokenizer, text_weight: float = 0.1, blind: frozenset[int] = frozenset()) -> Batch:
    """Descriptions with all their questions in one row each. Every question sees the description and itself, and stands right
    behind the description by its positions, as at inference. ``blind``: rows whose description is left out (text-only prior)."""
    bos, eos = tokenizer.token_to_id(BOS), tokenizer.token_to_id(EOS)
    texts: list[str] = []
    for e in examples:
        texts.append(" " + e.text)  # every word then carries its space, also the first
        for q, x, _ in e.questions:
            texts += [PROMPT.format(question=q), f" {x}"]
    encoded = iter([t.ids for t in tokenizer.encode_batch(texts)])
    rows = []
    for i, e in enumerate(examples):
        text = next(encoded)
        ids = [bos, *([] if i in blind else text)]
        start = len(ids)
        positions, block = list(range(start)), [0] * start
        weights = [0.0] + [text_weight] * (start - 1)
        for k in range(len(e.questions)):
            prompt, answer = next(encoded), [*next(encoded), eos]
            ids += prompt + answer
            positions += range(start, start + len(prompt) + len(answer))
            block += [k + 1] * (len(prompt) + len(answer))
            weights += [0.0] + [text_weight * 0.5] * (len(prompt) - 1) + [1.0] * len(answer)
        rows.append((ids, positions, block, weights))
    width = max(len(r[0]) for r in rows)
    shape = (len(rows), width)
    out = Batch(
        ids=np.zeros(shape, np.int64),
        positions=np.zeros(shape, np.int64),
        targets=np.full(shape, -100),
        weights=np.zeros(shape, np.float32),
        block=np.full(shape, -1),
    )
    for i, (ids, positions, block, weights) in enumerate(rows):
        n = len(ids)
        out.ids[i, :n], out.positions[i, :n], out.block[i, :n] = ids, positions, block
        # Token t is predicted by t - 1, which lies in the same block wherever the weight is not zero.
        out.targets[i, : n - 1], out.weights[i, : n - 1] = ids[1:], weights[1:]
    return out
