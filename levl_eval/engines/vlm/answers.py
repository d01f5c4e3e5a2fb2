"""Answering a whole question set, image by image, into a journal that survives kill -9."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch

from levl_eval.core.distributed import process_group
from levl_eval.core.errors import LevlError
from levl_eval.core.hashing import digest
from levl_eval.core.progress import Progress
from levl_eval.data.types import Question
from levl_eval.engines.contract import ANSWERS
from levl_eval.engines.vlm.engine import Bounds, answer_all, answer_alone
from levl_eval.engines.vlm.language import LanguageModel
from levl_eval.engines.vlm.prompts import Prompt

ENGINE = ANSWERS  # part of a journal's name


@dataclass
class Answers:
    """Texts, and log-likelihoods of the asked choices, by question id."""

    texts: dict[str, str] = field(default_factory=dict)
    likelihoods: dict[str, list[float]] = field(default_factory=dict)
    resumed: int = 0  # questions found in the journal
    cut: set[str] = field(default_factory=set)  # question ids whose answers reached max_new_tokens without an end
    seconds: float = 0.0

    def add(self, entry: Entry) -> None:
        """Take in what a journal holds of a question."""
        self.texts[entry.question_id] = entry.text
        if entry.cut:
            self.cut.add(entry.question_id)
        if entry.likelihoods:
            self.likelihoods[entry.question_id] = entry.likelihoods


class Entry(NamedTuple):
    """An answer in a journal. likelihoods: of the choices, where there are any."""

    question_id: str
    text: str
    likelihoods: list[float]
    cut: bool = False

    def row(self) -> list[object]:
        """As it stands in the file, and enters the line's checksum."""
        return [self.question_id, self.text, self.likelihoods, *([1] if self.cut else [])]


class Journal:
    """Answers as they come, appended, one file a process. A line is [checksum, entries] of one image, an entry [question id, text,
    likelihoods] with a 1 behind them where the answer was cut; the checksum is over the journal's key too. A line torn by a crash
    is forgotten, any other broken one is said.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.with_suffix(f".{process_group().rank}.jsonl")
        self.stem = path
        self.broken = 0  # lines left out by the last ``read``

    def read(self) -> list[Entry]:
        """Entries of all processes so far."""
        out: list[Entry] = []
        self.broken = 0
        for file in sorted(self.stem.parent.glob(f"{self.stem.stem}.*.jsonl")):
            entries, end, broken = read_journal(file)
            self.broken += broken
            if end is not None and file == self.path:
                with open(file, "r+b") as f:
                    f.truncate(end)
            out += entries
        return out

    def append(self, entries: Sequence[Entry]) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab") as f:  # one write: whole lines, whoever is killed
                rows = [e.row() for e in entries]
                line = [_line_sum(self.stem.stem, rows), rows]
                f.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
        except OSError as e:
            raise LevlError(
                f"{self.path}: answers cannot be kept ({e.strerror}); free the disk and run the same command again"
            ) from e

    def remove(self) -> None:
        if process_group().main:
            for file in self.stem.parent.glob(f"{self.stem.stem}.*.jsonl"):
                file.unlink(missing_ok=True)


def _line_sum(key: str, rows: object) -> str:
    return digest([key, rows])[:16]


def read_journal(file: Path) -> tuple[list[Entry], int | None, int]:
    """(entries, where a torn last line begins or None, how many other lines are broken or of another journal) of one file."""
    try:
        whole = file.read_bytes()
    except OSError:
        return [], None, 1
    key, end = file.name.split(".")[0], whole.rfind(b"\n") + 1
    out: list[Entry] = []
    broken = 0
    for line in whole[:end].splitlines():
        try:
            checksum, rows = json.loads(line.decode("utf-8", "surrogatepass"))
            for question, text, values, *_ in rows:
                if not (isinstance(question, str) and isinstance(text, str) and isinstance(values, list)):
                    raise ValueError("an entry of another form")
            if checksum != _line_sum(key, rows):
                raise ValueError("checksum")
        except (ValueError, TypeError, RecursionError):
            broken += 1
            continue
        out += [Entry(question, text, values, bool(cut)) for question, text, values, *cut in rows]
    return out, end if end < len(whole) else None, broken


def damage(file: Path) -> str:
    """What is wrong with a journal, or ''; a torn last line is what a killed process leaves."""
    broken = read_journal(file)[2]
    return f"{file}: {broken} damaged lines" if broken else ""


def bounds_for(device: torch.device) -> Bounds:
    """A quarter of a GPU's free memory, 1 GiB elsewhere."""
    if device.type == "cuda":
        return Bounds(rows=1024, memory=torch.cuda.mem_get_info(device)[0] // 4)
    return Bounds()


def by_image(questions: Sequence[Question]) -> dict[str, list[Question]]:
    out: dict[str, list[Question]] = {}
    for q in questions:
        out.setdefault(q.image_id, []).append(q)
    return out


def answer_set(
    language: LanguageModel,
    prompt: Prompt,
    visual_of: Callable[[Sequence[str]], torch.Tensor] | None,
    questions: Sequence[Question],
    progress: Progress,
    what: str,
    journal: Journal | None = None,
    choices: Sequence[str] = (),
) -> Answers:
    """Answers to all questions. visual_of: image ids -> visual tokens [b, N, width]; None: the prompt has no image.

    Those in the journal are not asked again. With several processes each answers its share of the images.
    """
    group = process_group()
    out = Answers()
    wanted = {q.question_id for q in questions}
    for entry in journal.read() if journal else ():
        if entry.question_id in wanted and len(entry.likelihoods) == len(choices):
            out.add(entry)
    if journal and journal.broken:
        progress.say(f"{journal.path}: {journal.broken} damaged lines; these questions are asked again")
    group.wait()
    out.resumed = len(out.texts)
    groups = by_image([q for q in questions if q.question_id not in out.texts])
    names = group.share(list(groups))
    asked = [[q.question for q in groups[i]] for i in names]

    def visual(indices: Sequence[int]) -> torch.Tensor:
        assert visual_of is not None
        return visual_of([names[i] for i in indices])

    started = time.monotonic()
    fresh: list[Entry] = []
    with progress.stage(what, sum(map(len, asked)), "question") as bar:
        source = None if visual_of is None else visual
        cut: dict[int, list[bool]] = {}
        bounds = bounds_for(language.device)
        for i, texts, values in answer_all(language, prompt, source, asked, bounds, choices, cut.__setitem__):
            rows = zip(groups[names[i]], texts, values or [[]] * len(texts), cut.pop(i, [False] * len(texts)), strict=True)
            entries = [Entry(q.question_id, t, v, c) for q, t, v, c in rows]
            if journal:
                journal.append(entries)
            fresh += entries
            bar.advance(len(entries))
    for entry in group.gather(fresh):
        out.add(entry)
    out.seconds = time.monotonic() - started
    return out


def cut_words(cut: int, of: int, new: int) -> str:
    """How many answers may be cut, in words; "" where none is."""
    return f"{cut} of {of} answers end at max_new_tokens ({new}) and may be cut short" if cut else ""


def flip_rate(
    language: LanguageModel,
    prompt: Prompt,
    visual_of: Callable[[Sequence[str]], torch.Tensor],
    questions: Sequence[Question],
    answers: Answers,
    sample: int = 64,
) -> dict[str, object]:
    """Share of answers that change when a question is asked alone: 0 in float32; in bfloat16 the shapes of a batch matter."""
    chosen = [questions[i] for i in range(0, len(questions), max(1, len(questions) // sample))][:sample]
    with torch.inference_mode():
        flips = sum(
            answer_alone(language, prompt, visual_of([q.image_id])[0], q.question) != answers.texts[q.question_id] for q in chosen
        )
    return {"flips": flips, "of": len(chosen), "dtype": str(language.dtype).removeprefix("torch.")}
