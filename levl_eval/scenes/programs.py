"""A question about a scene and its functional program, in GQA's form; executing the program on the scene gives the answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from levl_eval.scenes.language import column, relation, row
from levl_eval.scenes.world import GROUP_OF, Scene, SceneObject


class Operation(TypedDict):
    """One step of a program, as GQA writes it; dependencies: the steps whose results it takes, by number."""

    operation: str
    argument: str
    dependencies: list[int]


Program = list[Operation]
Value = list[SceneObject] | bool | str  # of a step


@dataclass(frozen=True)
class SceneQuestion:
    """A question with its answer, GQA's types and program, and what it tells (``facts``) for entailment."""

    question: str
    answer: str
    full_answer: str
    structural: str  # verify | query | choose | logical | compare
    semantic: str  # obj | attr | cat | rel | global
    group: str  # answers are balanced within a group
    program: Program
    facts: frozenset[str] = frozenset()
    needs: str = "objects"  # what a description must hold: objects | color | stuff | count
    answers: tuple[str, ...] = ()  # ten annotators' answers (VQAv2)
    entailed: tuple[int, ...] = ()  # indices within the scene's list

    @property
    def answer_type(self) -> str:
        return "yes/no" if self.answer in ("yes", "no") else "number" if self.answer.isdigit() else "other"


def operation(operation: str, argument: str = "", *dependencies: int) -> Operation:
    """One step of a program; dependencies: the steps whose results it takes, by number."""
    return {"operation": operation, "argument": argument, "dependencies": list(dependencies)}


def _objects(value: Value) -> list[SceneObject]:
    if not isinstance(value, list):
        raise TypeError(f"expected objects, found {value!r}")
    return value


def execute(program: Program, scene: Scene) -> str:
    """The answer of a functional program on a scene: "yes"/"no", a word or a number.

    Operations: select NAME | all; filter color VALUE; relate SIDE (objects on that side of the one selected); at "ROW COLUMN";
    group NAME; exist; count; query name | color | stuff; verify color VALUE; verify rel SIDE (of two dependencies); choose A|B;
    same color; stuff NAME (exists in the background); ground; and; or.
    """
    results: list[Value] = []
    for step in program:
        op, arg, deps = step["operation"], step["argument"], [results[i] for i in step["dependencies"]]
        value: Value
        if op == "select":
            value = [o for o in scene.objects if arg in ("all", o.category)]
        elif op == "group":
            value = [o for o in scene.objects if GROUP_OF[o.category] == arg]
        elif op == "filter color":
            value = [o for o in _objects(deps[0]) if o.color == arg]
        elif op == "relate":
            one = _objects(deps[0])[0]
            value = [o for o in scene.objects if o is not one and relation(o, one) == arg]
        elif op == "at":
            value = [o for o in _objects(deps[0]) if f"{row(o)} {column(o)}" == arg]
        elif op == "exist":
            value = bool(deps[0])
        elif op == "stuff":
            value = arg in scene.stuff_names()
        elif op == "ground":
            value = scene.bands[-1].stuff
        elif op == "count":
            value = str(len(_objects(deps[0])))
        elif op == "query":
            one = _objects(deps[0])[0]
            value = {"name": one.category, "color": one.color, "stuff": one.stuff, "column": column(one)}[arg]
        elif op == "verify color":
            value = _objects(deps[0])[0].color == arg
        elif op == "verify rel":
            value = relation(_objects(deps[0])[0], _objects(deps[1])[0]) == arg
        elif op == "same color":
            value = _objects(deps[0])[0].color == _objects(deps[1])[0].color
        elif op == "choose":
            options = arg.split("|")
            value = next(x for x in options if x == deps[0])
        elif op == "choose present":
            value = next(x for x in arg.split("|") if any(o.category == x for o in scene.objects))
        elif op == "and":
            value = all(deps)
        elif op == "or":
            value = any(deps)
        else:
            raise ValueError(f"operation {op!r}: not known")
        results.append(value)
    last = results[-1]
    return last if isinstance(last, str) else "yes" if last else "no"


def a(word: str) -> str:
    """The word with its indefinite article."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def plural(word: str) -> str:
    """The plural of a category's name."""
    return {"fish": "fish", "butterfly": "butterflies", "snowman": "snowmen"}.get(word, word + "s")
