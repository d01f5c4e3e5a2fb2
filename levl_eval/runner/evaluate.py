"""`levl_eval.evaluate`: backbones x tasks x seeds -> records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from levl_eval.cards import BackboneCard, TaskCard
from levl_eval.core.errors import UsageError
from levl_eval.core.progress import Progress
from levl_eval.data.fingerprint_cache import using
from levl_eval.records import Record
from levl_eval.runner.folders import run_folder
from levl_eval.runner.options import check_place
from levl_eval.runner.plan import RunConfig, make_plan
from levl_eval.runner.runner import Runner

if TYPE_CHECKING:
    from typing_extensions import Unpack


class RunOptions(TypedDict, total=False):
    """What :func:`evaluate` takes besides backbones and tasks: the other fields of :class:`levl_eval.runner.plan.RunConfig`."""

    data: str
    llm: str
    seeds: Sequence[int] | None
    limit: int | None
    skip_broken: int | str | None
    settings: Sequence[str]
    grid: Sequence[str]
    floors: Sequence[str]
    out: str | Path | None
    cache: str | Path | None
    device: str
    batch_size: int
    precision: str
    compile: bool
    channels_last: bool
    cuda_graphs: bool
    store_limit: int | None
    rehash: bool
    trust: bool
    debug: bool


def evaluate(
    backbones: Sequence[str | BackboneCard],
    tasks: Sequence[str | TaskCard],
    *,
    progress: Progress | None = None,
    **options: Unpack[RunOptions],
) -> list[Record]:
    """Evaluate every backbone on every task with every seed and return the records, in that order.

    backbones: card names, checkpoint paths or URIs. tasks: card names, card files or resolved cards. options, as in RunConfig:

    - ``data``: a directory, "hub" or "scenes"
    - ``llm``: the name of a language model, a hub name or a directory
    - ``seeds``: of heads and connectors; None: as many as each card's ``seeds`` says, from 0 (one for cards without)
    - ``limit``: at most so many test images a task
    - ``skip_broken``: so many (3) or such a share ("0.5%") of a set's items may be left out because they cannot be read: images, masks
      and depth maps that are missing or broken, questions that do not fit the context. They are rows of status "failed"; those of
      question sets count as wrong answers, all others are in no metric. None: the first one fails the task
    - ``settings``: ``task.field=value`` overrides
    - ``grid``: ``task.field=v1,v2``; every combination is a protocol with records of its own
    - ``floors``: "random-twin" evaluates each backbone's random twin too (backbones.twin), which its gains are then over
    - ``out``, ``cache``: folders; records and samples are written to ``out`` as soon as each is done, and a record of equal
      identity that is there already is read, not computed; ``out`` None: a new folder runs/DATE-TIME, to which runs/latest is a link
    - ``precision``: of the image encoders: "float32", "tf32" (NVIDIA GPUs) or "bf16"; rows of another precision are not compared
    - ``compile``, ``channels_last``, ``cuda_graphs``: image encoders through torch.compile, with channels last in memory, and as
      CUDA graphs of what is compiled (NVIDIA GPUs); rows of another execution are not compared either, as the last bits of features differ
    - ``store_limit``: bytes that stored features may take in all; patch tokens beyond it, or beyond the disk, are encoded each time a
      head reads them, and pooled features are stored all the same
    - ``device``, ``batch_size``, ``debug``, ``rehash`` (distrust remembered fingerprints of files)
    - ``trust``: cards may name Python that runs here (levl_eval.cards.trust)

    A failing job gives a record with status "failed" and the run goes on.

    Raises UsageError for wrong names, cards, paths and unreadable backbones, before anything is computed.
    """
    for kind, given in (("backbones", backbones), ("tasks", tasks)):
        if isinstance(given, str):
            raise UsageError(f"{kind}: {given!r} is one text; give a list, [{given!r}]")
    config = RunConfig(backbones, tasks, **options)
    for name, place in (("data", config.data), ("out", config.out), ("cache", config.cache)):
        check_place(name, place)
    progress = progress or Progress()
    with run_folder(config.out) as out:
        plan = make_plan(replace(config, out=out), progress)
        call: dict[str, object] = {
            "llm": config.llm, "batch_size": config.batch_size, "device": config.device, "precision": config.precision,
            "compile": config.compile, "channels_last": config.channels_last, "cuda_graphs": config.cuda_graphs, "folder": str(Path.cwd()),
            "order": {"backbones": [b.name for b in plan.backbones], "tasks": list(plan.cards)},  # as tables show them
        }  # fmt: skip
        with using(plan.fingerprints):  # readers hash files through it
            records = Runner(plan, progress, call).work()
    for backbone in plan.backbones:
        backbone.to("cpu")
    return records
