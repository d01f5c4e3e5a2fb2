"""`--slurm key=value,...`: what a copy (or, for pretraining, a node) asks of Slurm, checked before anything is submitted."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from levl_eval.core.errors import UsageError
from levl_eval.core.text import did_you_mean

TEXTS = (
    "partition", "qos", "account", "constraint", "exclude", "nodelist", "gres", "reservation", "comment", "name", "mail_user", "mail_type",
)  # fmt: skip
NUMBERS = {"gpus": (0, 64), "cpus": (1, 4096), "array_parallelism": (1, 100_000), "nodes": (1, 10_000), "processes": (1, 64)}
OF_PRETRAINING = ("nodes", "processes")  # of one job over nodes, in place of an array of copies
_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")
_MEMORY = re.compile(r"\d+[KMGT]?B?", re.I)
# Fields of sbatch that submitit knows under these names; the others go to it as further ones.
_KNOWN = {
    "partition": "partition", "qos": "qos", "account": "account", "constraint": "constraint", "exclude": "exclude", "nodelist": "nodelist",
    "gres": "gres", "comment": "comment", "mail_user": "mail_user", "mail_type": "mail_type", "name": "job_name", "gpus": "gpus_per_node",
    "cpus": "cpus_per_task", "mem": "mem", "array_parallelism": "array_parallelism", "nodes": "nodes",
}  # fmt: skip


@dataclass(frozen=True)
class SlurmOptions:
    """texts, numbers: by key. minutes: the time limit of a copy; None where none was given."""

    texts: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, int] = field(default_factory=dict)
    minutes: int | None = None

    @property
    def gpus(self) -> int:
        """GPUs of a copy or node that were asked for as a number."""
        return self.numbers.get("gpus", 0)

    @property
    def device(self) -> str:
        """Kind of device that a copy computes on, as far as Slurm was asked for one."""
        return "cuda" if self.gpus or "gpu" in self.texts.get("gres", "") else "cpu"

    def parameters(self) -> dict[str, object]:
        """As submitit's SlurmExecutor takes them. A copy whose node fails, or that is preempted, is queued again by Slurm."""
        given: dict[str, object] = {**self.texts, **self.numbers}
        out = {_KNOWN[key]: value for key, value in given.items() if key in _KNOWN}
        out.setdefault("job_name", "levl-eval")
        # SIGTERM 90 s before the end of the time lets a training save its step; submitit's own signal would kill it.
        more: dict[str, object] = {"requeue": True, "signal": "TERM@90"}
        if "reservation" in given:
            more["reservation"] = given["reservation"]
        if out.get("gpus_per_node") == 0:
            del out["gpus_per_node"]
        return {**out, "time": self.minutes, "additional_parameters": more}


def _minutes(text: str) -> int:
    """Slurm's forms of a time: minutes, hours:minutes:seconds, minutes:seconds, days-hours[:minutes[:seconds]]; rounded up."""
    match = _TIME.fullmatch(text)
    if not match:
        raise ValueError
    days, *rest = match.groups()
    parts = [int(p) for p in rest if p is not None]
    if days is not None:
        hours, minutes, seconds = [*parts, 0, 0][:3]
    elif len(parts) == 1:
        hours, minutes, seconds = 0, parts[0], 0
    else:
        hours, minutes, seconds = parts if len(parts) == 3 else [0, *parts]
    total = ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
    if total < 1:
        raise ValueError
    return -(-total // 60)


def _pairs(words: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    """Key -> value. A part without "=" belongs to the value before it: ``nodelist=a,b`` and ``exclude=n[1,3]`` hold commas."""
    out: dict[str, str] = {}
    for word in words:
        key = ""
        for part in word.split(","):
            name, equals, value = part.partition("=")
            if not equals:
                if not key:
                    raise UsageError(f"--slurm {part!r}: expected key=value, for example partition=gpu,time=4:00:00,gpus=1")
                out[key] += f",{part}"
                continue
            key = name.strip().replace("-", "_")
            if key not in known:
                raise UsageError(f"--slurm: no key {key!r}{did_you_mean(key, list(known))}; there are {', '.join(known)}")
            if key in out:
                raise UsageError(f"--slurm: {key} is given twice")
            out[key] = value.strip()
    return out


def parse_slurm(words: Sequence[str], pretraining: bool = False) -> SlurmOptions:
    """``["partition=gpu,time=4:00:00", "gpus=1"]``. Raises UsageError, in one line, for the first key or value that is wrong."""
    left_out = ("array_parallelism",) if pretraining else OF_PRETRAINING
    known = [k for k in (*TEXTS, "time", "mem", *NUMBERS) if k not in left_out]
    texts: dict[str, str] = {}
    numbers: dict[str, int] = {}
    minutes = None
    for key, value in _pairs(words, known).items():
        if key in NUMBERS:
            low, high = NUMBERS[key]
            if not value.isascii() or not value.isdigit() or not low <= int(value) <= high:
                raise UsageError(f"--slurm {key}={value}: expected a whole number from {low} to {high:,}")
            numbers[key] = int(value)
        elif key == "time":
            try:
                minutes = _minutes(value)
            except ValueError:
                raise UsageError(
                    f"--slurm time={value}: expected minutes, 4:00:00 or 1-12:00:00 (days-hours:minutes:seconds)"
                ) from None
        elif not value or not value.isprintable():
            raise UsageError(f"--slurm {key}={value}: expected a text, for example partition=gpu")
        elif key == "mem" and not _MEMORY.fullmatch(value):
            raise UsageError(f"--slurm mem={value}: expected a size such as 32G")
        else:
            texts[key] = value
    if "mem" in texts:
        texts["mem"] = texts["mem"].upper()
    return SlurmOptions(texts, numbers, minutes)
