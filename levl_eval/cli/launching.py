"""`levl-eval run --launcher local|slurm`: plan here, compute in copies of the same command elsewhere, show the tables here."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from levl_eval.core.errors import Terminated, UsageError
from levl_eval.core.text import printable

if TYPE_CHECKING:
    from levl_eval.records import Record
    from levl_eval.runner.copies import Copy
    from levl_eval.runner.launch import Launch
    from levl_eval.runner.plan import Plan, RunConfig
    from levl_eval.runner.runner import Runner
    from levl_eval.runner.slurm_options import SlurmOptions

# Options of `run` that copies do not get: what is about the launch, and what only the process that shows the tables does.
DEFAULT_COPIES = 8  # on a cluster
OF_THE_LAUNCH = (
    "launcher",
    "jobs",
    "slurm",
    "detach",
    "workers",
    "dry_run",
    "json",
    "quiet",
    "rehash",
    "debug",
    "log",
    "roles",
    "budget",
)


def launcher_options(p: argparse.ArgumentParser) -> None:
    """Add them to the parser of a command."""
    p.add_argument(
        "--launcher",
        choices=["local", "slurm"],
        help="run copies of this command: local processes, or a Slurm job array",
    )
    p.add_argument("--jobs", type=int, metavar="N", help="copies to start (default: one per job, at most 8)")
    p.add_argument(
        "--slurm", action="append", default=[], metavar="KEY=VALUE[,...]",
        help="resources of each copy: partition, qos, account, time (required), gpus, cpus, mem, array_parallelism, constraint, ...",
    )  # fmt: skip
    p.add_argument(
        "--detach", action="store_true", help="submit and exit; the same command later waits for the jobs and shows the tables"
    )


def check_words(args: argparse.Namespace) -> SlurmOptions | None:
    """What was asked of Slurm, or None without a launcher. Raises UsageError for options that do not go together."""
    from levl_eval.runner.launch import MOST, check_launcher
    from levl_eval.runner.slurm_options import parse_slurm

    if args.launcher is None:
        alone = [
            n for n, given in (("--jobs", args.jobs is not None), ("--slurm", args.slurm), ("--detach", args.detach)) if given
        ]
        if alone:
            raise UsageError(f"{alone[0]}: goes with --launcher local or --launcher slurm")
        return None
    options = parse_slurm(args.slurm)
    if args.workers is not None:
        raise UsageError("--workers: a copy is one process; say how many with --jobs")
    if args.jobs is not None and not 1 <= args.jobs <= MOST:
        raise UsageError(f"--jobs {args.jobs}: at least 1, at most {MOST:,}")
    if args.launcher == "local" and args.slurm:
        raise UsageError("--slurm: goes with --launcher slurm; processes of this machine ask for nothing")
    if args.launcher == "slurm" and options.minutes is None:
        raise UsageError("--slurm: no time limit for a copy; for example --slurm time=4:00:00")
    if options.gpus > 1:
        raise UsageError(f"--slurm gpus={options.gpus}: a copy uses one GPU; gpus=1 and --jobs {options.gpus} use {options.gpus}")
    check_launcher(args.launcher)
    return options


def device_of_copies(args: argparse.Namespace, options: SlurmOptions) -> tuple[str, str]:
    """(--device for the copies, its kind). On Slurm it is explicit, so that a node without its GPU fails instead of computing a CPU record.

    Raises UsageError where a GPU is named and none was asked for.
    """
    from levl_eval.core.device import device_kind

    if args.launcher == "local":
        return args.device, device_kind(args.device)
    kind = options.device if args.device == "auto" else args.device.partition(":")[0]
    if kind == "cuda" and options.device != "cuda":
        raise UsageError(f"--device {args.device}: --slurm asks for no GPU; for example gpus=1")
    return kind, kind


def copy_words(args: argparse.Namespace, out: Path, device: str) -> list[str]:
    """The command of every copy, from what was understood of ours."""
    words = [
        "run",
        "--backbone",
        ",".join(args.backbone),
        "--tasks",
        ",".join(args.tasks),
        "--data",
        args.data,
        "--llm",
        args.llm,
    ]
    for option, value in (
        ("--seeds", args.seeds and ",".join(map(str, args.seeds))),
        ("--limit", args.limit),
        ("--skip-broken", args.skip_broken),
        ("--reference", args.reference),
        ("--store-limit", args.store_limit),
    ):
        if value is not None:
            words.append(f"{option}={value}")
    words += [f"--set={s}" for s in args.settings] + [f"--grid={g}" for g in args.grid] + [f"--floors={f}" for f in args.floors]
    words += [
        f"--{flag.replace('_', '-')}" for flag in ("trust", "compile", "channels_last", "cuda_graphs") if getattr(args, flag)
    ]
    return [*words, "--out", str(out), "--device", device, "--batch-size", str(args.batch_size), "--precision", args.precision]


def _config(args: argparse.Namespace, out: Path) -> RunConfig:
    from levl_eval.runner.plan import RunConfig

    return RunConfig(
        args.backbone, args.tasks, data=args.data, llm=args.llm, seeds=args.seeds, limit=args.limit, skip_broken=args.skip_broken,
        settings=args.settings, grid=args.grid, floors=args.floors, out=out, batch_size=args.batch_size, precision=args.precision,
        compile=args.compile, channels_last=args.channels_last, cuda_graphs=args.cuda_graphs, store_limit=args.store_limit,
        rehash=args.rehash, trust=args.trust, debug=args.debug,
    )  # fmt: skip


def launched_run(args: argparse.Namespace, options: SlurmOptions) -> list[Record] | None:
    """Submit, or find the running array, and wait: the records of the run's jobs.

    None with --detach, or if records are missing, which is reported. Raises UsageError for what is wrong with words, data,
    folders or their locks, before anything is submitted.
    """
    from levl_eval.core.files import locked
    from levl_eval.core.progress import Progress
    from levl_eval.runner.launch import FOLDER, running
    from levl_eval.runner.plan import make_plan
    from levl_eval.runner.runner import Runner

    if args.out is None:
        raise UsageError(
            "--launcher: name the folder that the copies share, and by which the same command finds them again: --out DIR"
        )
    device, kind = device_of_copies(args, options)
    out, progress = Path(args.out).resolve(), Progress(quiet=args.quiet)
    runner = Runner(make_plan(_config(args, out), progress, kind), progress, {})
    words = copy_words(args, out, device)
    with locked(out / FOLDER / "submit.lock"):  # two of the same command at once submit one array
        launch = running(out, words)
        if launch is not None:
            progress.say(f"{launch.name} of this command still runs; nothing is submitted")
        else:
            present = runner.present()
            left = sum(record is None for record in present)
            if not left:
                progress.say(f"all {len(present)} jobs are there; nothing is submitted")
                return [r for r in present if r is not None]
            launch = _submit(args, runner.plan, words, left, options)
            progress.say(f"{launch.name}: {launch.count} copies for {left} jobs; logs are {launch.folder}/copy-*.log")
    if args.detach:
        print(printable(launch.going_on))
        return []
    return _outcome(launch, runner, _wait(args, launch, runner.plan))


def _submit(args: argparse.Namespace, plan: Plan, words: Sequence[str], left: int, options: SlurmOptions) -> Launch:
    from levl_eval.core.device import visible_gpus
    from levl_eval.core.distributed import cores
    from levl_eval.runner.launch import launch_copies, new_folder
    from levl_eval.runner.shared_folders import check_locks, leave_tokens, remove_tokens

    out, cache = Path(args.out).resolve(), plan.config.cache_folder
    check_locks(out, cache)
    default = DEFAULT_COPIES if args.launcher == "slurm" else len(visible_gpus()) or cores()
    folder = new_folder(out, words)
    leave_tokens(folder, cache, waits=not args.detach)
    try:
        return launch_copies(args.launcher, words, min(left, args.jobs or default), options, folder)
    except UsageError:
        remove_tokens(folder, cache)
        raise


def _wait(args: argparse.Namespace, launch: Launch, plan: Plan) -> list[Copy]:
    """Until all copies have ended. Raises KeyboardInterrupt, with what becomes of them, where the user ends the waiting."""
    from levl_eval.runner.shared_folders import holding
    from levl_eval.runner.watching import tally, wait

    out = Path(args.out).resolve()
    with holding(launch.folder) as beat:
        try:
            return wait(launch, lambda: tally(out, plan.jobs, launch.began), beat, args.quiet)
        except KeyboardInterrupt as e:
            interrupted(launch, e)


def interrupted(launch: Launch, by: KeyboardInterrupt) -> NoReturn:
    """Ctrl-C: ask on a terminal whether the copies are to end; without one, and for SIGTERM, end nothing.

    Raises KeyboardInterrupt, or Terminated, with the state of the copies.
    """
    answer = ""
    if not isinstance(by, Terminated) and sys.stdin.isatty() and sys.stderr.isatty():
        try:
            print(printable(f"\ncancel {launch.name}? [y/N] "), end="", file=sys.stderr, flush=True)
            answer = sys.stdin.readline()
        except KeyboardInterrupt:
            pass
    if answer.strip().lower() in ("y", "yes"):
        launch.queue.cancel(launch.jobs)
        raise KeyboardInterrupt(f"cancelled {launch.name}; the same command submits what is left") from None
    raise type(by)(launch.going_on) from None


def _outcome(launch: Launch, runner: Runner, states: Sequence[Copy]) -> list[Record] | None:
    """The records when all copies have ended. If some are missing, the state of the copies is reported, and the result is None."""
    from levl_eval.runner.shared_folders import remove_tokens
    from levl_eval.runner.watching import endings

    remove_tokens(launch.folder, runner.plan.config.cache_folder)
    records = runner.present(launch.began)
    missing = sum(record is None for record in records)
    lost = [line for line in endings(launch, states) if missing]
    for line in lost:
        print(printable(line), file=sys.stderr)
    if missing:
        print(f"{missing} of {len(records)} jobs have no record; the same command submits them again", file=sys.stderr)
        return None
    return [r for r in records if r is not None]
