"""Questions about scenes: GQA's form (functional programs, types, entailment) and VQAv2's (ten annotators).

Every answer is what executing the question's program on the scene gives. Attribute and relation questions are asked only of
categories that occur once; pairs are compared only along an axis on which their thirds differ (language.relation), so that
each question can be answered from a complete description as well as from the image.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from levl_eval.scenes.answers import annotators
from levl_eval.scenes.language import COLUMNS_OF_IMAGE, ROWS_OF_IMAGE, column, relation, row
from levl_eval.scenes.programs import Program, SceneQuestion, a, execute, operation, plural
from levl_eval.scenes.world import CATEGORIES, COLORS, GROUP_OF, GROUPS, STUFF, Scene, SceneObject, place_weights

_SIDE = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}
_OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}


def _absent(scene: Scene, rng: random.Random) -> str:
    """A category that is not there: half the time one the place makes likely, so that the place alone does not answer."""
    present = scene.counts()
    weights = place_weights(scene.place) if rng.random() < 0.5 else [1.0] * len(CATEGORIES)
    return rng.choices(CATEGORIES, [0.0 if c in present else w for c, w in zip(CATEGORIES, weights, strict=True)])[0]


class _Asker:
    """Asks about one scene. Each method gives a question or None where the scene does not allow it."""

    def __init__(self, scene: Scene, rng: random.Random) -> None:
        self.scene, self.rng = scene, rng
        counts = scene.counts()
        self.present = list(counts)
        self.single = [o for o in scene.objects if counts[o.category] == 1]

    def make(
        self, texts: Iterable[str], full: str, structural: str, semantic: str, group: str, program: Program,
        facts: frozenset[str] = frozenset(), needs: str = "objects",
    ) -> SceneQuestion:  # fmt: skip
        answer = execute(program, self.scene)
        return SceneQuestion(
            self.rng.choice(list(texts)), answer, full.format(answer), structural, semantic, group, program, facts, needs
        )

    def one(self) -> SceneObject | None:
        return self.rng.choice(self.single) if self.single else None

    def pair(self) -> tuple[SceneObject, SceneObject] | None:
        if len(self.single) < 2:
            return None
        x, y = self.rng.sample(self.single, 2)
        return x, y

    def exist(self) -> SceneQuestion:
        c = self.rng.choice(self.present) if self.rng.random() < 0.5 else _absent(self.scene, self.rng)
        texts = (f"Is there {a(c)} in the picture?", f"Do you see {a(c)}?", f"Is there {a(c)} in the image?", f"Is there {a(c)}?")
        program = [operation("select", c), operation("exist", "", 0)]
        return self.make(
            texts,
            f"{{}}, {a(c)}",
            "verify",
            "obj",
            "exist",
            program,
            facts=frozenset({f"{'has' if c in self.present else 'no'}:{c}"}),
        )

    def exist_color(self) -> SceneQuestion:
        o = self.rng.choice(self.scene.objects)
        color = o.color if self.rng.random() < 0.5 else self.rng.choice([c for c in COLORS if c != o.color])
        texts = (f"Is there {a(color)} {o.category}?", f"Do you see {a(color)} {o.category} in the picture?")
        program = [operation("select", o.category), operation("filter color", color, 0), operation("exist", "", 1)]
        there = any(p.category == o.category and p.color == color for p in self.scene.objects)
        facts = {f"has:{o.category}", f"some:{o.category}:{color}"} if there else {f"nosome:{o.category}:{color}"}
        return self.make(texts, "{}", "verify", "attr", "exist-color", program, needs="color", facts=frozenset(facts))

    def logical(self) -> SceneQuestion:
        both = self.rng.random() < 0.5
        yes = self.rng.random() < 0.5
        present = self.rng.sample(self.present, min(2, len(self.present)))
        if both:
            words = present if yes and len(present) == 2 else [present[0], _absent(self.scene, self.rng)]
            texts = [f"Are there both {a(words[0])} and {a(words[1])}?", f"Is there {a(words[0])} and {a(words[1])}?"]
        else:
            first = present[0] if yes else _absent(self.scene, self.rng)
            second = _absent(self.scene, self.rng)
            words = [first, second if second != first else next(c for c in CATEGORIES if c not in (*self.present, first))]
            texts = [f"Is there either {a(words[0])} or {a(words[1])}?", f"Do you see {a(words[0])} or {a(words[1])}?"]
        if self.rng.random() < 0.5:
            texts = [_exchange(t, a(words[0]), a(words[1])) for t in texts]
        ops = [
            operation("select", words[0]),
            operation("exist", "", 0),
            operation("select", words[1]),
            operation("exist", "", 2),
            operation("and" if both else "or", "", 1, 3),
        ]
        there = [w in self.present for w in words]
        decided = all(there) if both else not any(there)  # "not both" and "one of them" do not tell which
        facts = frozenset(f"{'has' if both else 'no'}:{w}" for w in words) if decided else frozenset()
        return self.make(texts, "{}", "logical", "obj", "logical", ops, facts=facts)

    def choose_object(self) -> SceneQuestion:
        words = [self.rng.choice(self.present), _absent(self.scene, self.rng)]
        self.rng.shuffle(words)
        texts = (f"Which is in the picture, {a(words[0])} or {a(words[1])}?", f"What do you see, {a(words[0])} or {a(words[1])}?")
        facts = frozenset(f"{'has' if w in self.present else 'no'}:{w}" for w in words)
        return self.make(
            texts, "the {}", "choose", "obj", "choose-object", [operation("choose present", "|".join(words))], facts=facts
        )

    def query_group(self) -> SceneQuestion | None:
        groups = Counter(GROUP_OF[o.category] for o in self.scene.objects)
        fit = [g for g, n in groups.items() if n == 1 and len(GROUPS[g]) > 1 and g != "object"]  # everything is an object
        if not fit:
            return None
        g = self.rng.choice(fit)
        texts = (f"Which {g} is in the picture?", f"What kind of {g} is it?", f"What {g} do you see?")
        name = next(o.category for o in self.scene.objects if GROUP_OF[o.category] == g)
        program, facts = [operation("group", g), operation("query", "name", 0)], frozenset({f"has:{name}", f"group:{g}:{name}"})
        return self.make(texts, "the {}", "query", "cat", f"group-{g}", program, facts=facts)

    def query_color(self) -> SceneQuestion | None:
        if (o := self.one()) is None:
            return None
        texts = (
            f"What color is the {o.category}?",
            f"What is the color of the {o.category}?",
            f"Which color does the {o.category} have?",
        )
        program = [operation("select", o.category), operation("query", "color", 0)]
        facts = frozenset({f"has:{o.category}", f"color:{o.category}:{o.color}"})
        return self.make(texts, f"the {o.category} is {{}}", "query", "attr", "color", program, needs="color", facts=facts)

    def verify_color(self) -> SceneQuestion | None:
        if (o := self.one()) is None:
            return None
        color = o.color if self.rng.random() < 0.5 else self.rng.choice([c for c in COLORS if c != o.color])
        truth = f"color:{o.category}:{color}" if color == o.color else f"notcolor:{o.category}:{color}"
        program = [operation("select", o.category), operation("verify color", color, 0)]
        texts = (f"Is the {o.category} {color}?", f"Does the {o.category} look {color}?")
        return self.make(
            texts, "{}", "verify", "attr", "verify-color", program, needs="color", facts=frozenset({f"has:{o.category}", truth})
        )

    def choose_color(self) -> SceneQuestion | None:
        if (o := self.one()) is None:
            return None
        colors = [o.color, self.rng.choice([c for c in COLORS if c != o.color])]
        self.rng.shuffle(colors)
        program = [operation("select", o.category), operation("query", "color", 0), operation("choose", "|".join(colors), 1)]
        return self.make(
            (f"Is the {o.category} {colors[0]} or {colors[1]}?",),
            f"the {o.category} is {{}}",
            "choose",
            "attr",
            "choose-color",
            program,
            needs="color",
            facts=frozenset({f"has:{o.category}", f"color:{o.category}:{o.color}"}),
        )

    def compare_color(self) -> SceneQuestion | None:
        if (p := self.pair()) is None:
            return None
        x, y = p
        program = [operation("select", x.category), operation("select", y.category), operation("same color", "", 0, 1)]
        texts = (
            f"Are the {x.category} and the {y.category} the same color?",
            f"Does the {x.category} have the color of the {y.category}?",
        )
        facts = {f"has:{x.category}", f"has:{y.category}"} | {f"compared:{':'.join(sorted((x.category, y.category)))}"}
        return self.make(texts, "{}", "compare", "attr", "compare-color", program, needs="color", facts=frozenset(facts))

    def query_stuff(self) -> SceneQuestion | None:
        if (o := self.one()) is None:
            return None
        program = [operation("select", o.category), operation("query", "stuff", 0)]
        facts = frozenset({f"has:{o.category}", f"stuff:{o.category}:{o.stuff}"})
        texts = (
            (f"What is the {o.category} on?", f"What is behind the {o.category}?")
            if o.stuff in ("sky", "brick")
            else (f"What is the {o.category} on?",)
        )
        return self.make(texts[:1], "the {}", "query", "rel", "stuff", program, needs="stuff", facts=facts)

    def verify_rel(self) -> SceneQuestion | None:
        if (p := self.pair()) is None or not (side := relation(*p)):
            return None
        x, y = p
        asked = side if self.rng.random() < 0.5 else _OPPOSITE[side]
        program = [operation("select", x.category), operation("select", y.category), operation("verify rel", asked, 0, 1)]
        texts = (
            f"Is the {x.category} {_SIDE[asked]} the {y.category}?",
            f"Do you see the {x.category} {_SIDE[asked]} the {y.category}?",
        )
        truth = f"{'rel' if asked == side else 'notrel'}:{x.category}:{asked}:{y.category}"
        facts = frozenset({f"has:{x.category}", f"has:{y.category}", truth})
        return self.make(texts, "{}", "verify", "rel", "verify-rel", program, facts=facts)

    def query_rel(self) -> SceneQuestion | None:
        if (o := self.one()) is None:
            return None
        others = [p for p in self.scene.objects if p is not o]
        # One object by the rule, and no further one by the plain reading (another column may hold things above, too).
        fit = [s for s in _SIDE if sum(relation(p, o) == s for p in others) == 1 and sum(_lies(p, o, s) for p in others) == 1]
        if not fit:
            return None
        side = self.rng.choice(fit)
        program = [operation("select", o.category), operation("relate", side, 0), operation("query", "name", 1)]
        texts = (f"What is {_SIDE[side]} the {o.category}?", f"Which object is {_SIDE[side]} the {o.category}?")
        name = next(p.category for p in self.scene.objects if p is not o and relation(p, o) == side)
        facts = {f"has:{name}", f"has:{o.category}", f"rel:{name}:{side}:{o.category}", f"only:{side}:{o.category}"}
        return self.make(texts, "the {}", "query", "rel", f"rel-{side}", program, facts=frozenset(facts))

    def query_place(self) -> SceneQuestion | None:
        cells = Counter(f"{row(o)} {column(o)}" for o in self.scene.objects)
        fit = [c for c, n in cells.items() if n == 1]
        if not fit:
            return None
        cell = self.rng.choice(fit)
        name = next(o.category for o in self.scene.objects if f"{row(o)} {column(o)}" == cell)
        program = [operation("select", "all"), operation("at", cell, 0), operation("query", "name", 1)]
        return self.make(
            (f"What is at the {cell}?", f"Which object is in the {cell} of the picture?"),
            "the {}",
            "query",
            "obj",
            "place",
            program,
            facts=frozenset({f"has:{name}", f"at:{name}:{cell}"}),
        )

    def choose_side(self) -> SceneQuestion | None:
        fit = [o for o in self.single if column(o) != "middle"]
        if not fit:
            return None
        o = self.rng.choice(fit)
        sides = ["left", "right"]
        self.rng.shuffle(sides)
        program = [operation("select", o.category), operation("query", "column", 0), operation("choose", "|".join(sides), 1)]
        return self.make(
            (f"Is the {o.category} on the {sides[0]} or on the {sides[1]}?",),
            "on the {}",
            "choose",
            "rel",
            "choose-side",
            program,
            facts=frozenset({f"has:{o.category}", f"side:{o.category}:{column(o)}"}),
        )

    def stuff(self) -> SceneQuestion:
        names = self.scene.stuff_names()
        s = self.rng.choice(names) if self.rng.random() < 0.5 else self.rng.choice([x for x in STUFF if x not in names])
        texts = (f"Is there {s} in the picture?", f"Do you see {s}?", f"Is there any {s}?")
        return self.make(texts, "{}", "verify", "global", "stuff-exist", [operation("stuff", s)], needs="stuff")

    def ground(self) -> SceneQuestion:
        return self.make(
            ("What covers the ground?", "What is the ground made of?"),
            "{}",
            "query",
            "global",
            "ground",
            [operation("ground")],
            needs="stuff",
        )

    def count(self) -> SceneQuestion:
        c = self.rng.choice(self.present) if self.rng.random() < 0.8 else _absent(self.scene, self.rng)
        texts = (f"How many {plural(c)} are there?", f"How many {plural(c)} do you see?")
        return self.make(texts, "{}", "query", "obj", "count", [operation("select", c), operation("count", "", 0)], needs="count")


def _lies(p: SceneObject, o: SceneObject, side: str) -> bool:
    """Whether ``p`` lies on that side of ``o`` along that axis alone."""
    if side in ("left", "right"):
        d = COLUMNS_OF_IMAGE.index(column(p)) - COLUMNS_OF_IMAGE.index(column(o))
    else:
        d = ROWS_OF_IMAGE.index(row(p)) - ROWS_OF_IMAGE.index(row(o))
    return d < 0 if side in ("left", "above") else d > 0


def _exchange(text: str, x: str, y: str) -> str:
    """Swap two phrases of a text."""
    return text.replace(x, "\0").replace(y, x).replace("\0", y)


# How often each family is asked; categories carry most questions, colour about one in seven.
GQA_MIX: dict[str, float] = {
    "exist": 3, "logical": 1.5, "choose_object": 1.5, "query_group": 1.5, "query_rel": 2, "verify_rel": 1.5, "query_place": 1.5,
    "choose_side": 1, "query_stuff": 1.2, "stuff": 0.8, "ground": 0.4, "query_color": 0.9, "verify_color": 0.5, "choose_color": 0.4,
    "compare_color": 0.4, "exist_color": 0.3,
}  # fmt: skip
VQA_MIX: dict[str, float] = {
    "exist": 3,
    "count": 2,
    "query_color": 1.2,
    "query_stuff": 1.2,
    "query_place": 1.5,
    "query_group": 1.5,
    "verify_rel": 1,
    "stuff": 0.6,
    "query_rel": 1,
}


def _implied(facts: frozenset[str]) -> set[str]:
    """What follows from the facts wherever the presuppositions of the questions ("the dog": exactly one) hold."""
    out = set(facts)
    for fact in facts:
        kind, *rest = fact.split(":")
        if kind == "no":
            out |= {f"nosome:{rest[0]}:{c}" for c in COLORS}
        elif kind == "color":
            name, color = rest
            out |= {f"some:{name}:{color}"} | {f"{k}:{name}:{c}" for c in COLORS if c != color for k in ("notcolor", "nosome")}
        elif kind == "notcolor":
            out.add(f"nosome:{rest[0]}:{rest[1]}")
        elif kind == "at":
            out.add(f"side:{rest[0]}:{rest[1].split()[1]}")
        elif kind in ("rel", "notrel"):
            x, side, y = rest
            out.add(f"{kind}:{y}:{_OPPOSITE[side]}:{x}")
            if kind == "rel":
                out |= {f"notrel:{x}:{s}:{y}" for s in _SIDE if s != side} | {
                    f"notrel:{y}:{_OPPOSITE[s]}:{x}" for s in _SIDE if s != side
                }
    return out


def ask(scene: Scene, rng: random.Random, families: Mapping[str, float], n: int) -> list[SceneQuestion]:
    """Up to ``n`` different questions about a scene; ``families`` weighs the kinds by their method's name."""
    asker = _Asker(scene, rng)
    out: dict[str, SceneQuestion] = {}
    names, weights = list(families), list(families.values())
    for _ in range(6 * n):
        if len(out) == n:
            break
        method: Callable[[], SceneQuestion | None] = getattr(asker, rng.choices(names, weights)[0])
        q = method()
        if q is not None and q.question not in out:
            out[q.question] = q
    return list(out.values())


def gqa_questions(scene: Scene, rng: random.Random, n: int = 12) -> list[SceneQuestion]:
    """Up to ``n`` different questions in GQA's form, with the indices of the questions each one entails."""
    asked = ask(scene, rng, GQA_MIX, n)
    implied = [_implied(q.facts) for q in asked]
    return [
        replace(q, entailed=tuple(j for j, p in enumerate(asked) if j != i and p.facts and p.facts <= implied[i]))
        for i, q in enumerate(asked)
    ]


def vqa_questions(scene: Scene, rng: random.Random, n: int = 8) -> list[SceneQuestion]:
    """``n`` questions in VQAv2's manner, each with ten annotators' answers whose mode is ``answer``."""
    return [replace(q, answers=annotators(q.answer, rng)) for q in ask(scene, rng, VQA_MIX, n)]


# Training text asks more of what is hard to read: which attribute and which place belong to which object.
READING: dict[str, float] = {
    "exist": 1, "logical": 0.7, "choose_object": 0.7, "query_group": 0.7, "query_rel": 2.5, "verify_rel": 2.5, "query_place": 3,
    "choose_side": 2.5, "query_stuff": 0.7, "stuff": 0.4, "ground": 0.3, "query_color": 3, "verify_color": 1, "choose_color": 1,
    "compare_color": 1, "exist_color": 1, "count": 1.5,
}  # fmt: skip
