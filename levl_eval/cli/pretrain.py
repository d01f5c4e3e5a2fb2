"""`levl-pretrain`, and its `--launcher slurm`: one job of Slurm over nodes, torchrun on each. Everything else is pretrain/cli.py."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from levl_eval.core.text import printable

if TYPE_CHECKING:
    from levl_eval.runner.launch import Launch
    from levl_eval.runner.slurm_options import SlurmOptions


def split_launcher(words: Sequence[str]) -> tuple[SlurmOptions, bool, list[str]]:
    """(what is asked of Slurm, whether to end at once, the words of the training). Raises UsageError for what is wrong with the first."""
    from levl_eval.core.command import Parser
    from levl_eval.core.errors import UsageError
    from levl_eval.runner.slurm_options import parse_slurm

    parser = Parser(prog="levl-pretrain", allow_abbrev=False)
    parser.add_argument("--launcher", choices=["slurm"])
    parser.add_argument("--slurm", action="append", default=[])
    parser.add_argument("--detach", action="store_true")
    args, rest = parser.parse_known_args(list(words))
    options = parse_slurm(args.slurm, pretraining=True)
    if args.launcher is None:
        raise UsageError("levl-pretrain: --slurm and --detach go with --launcher slurm")
    if options.minutes is None:
        raise UsageError("--slurm: no time limit for the job; for example --slurm time=24:00:00")
    return options, args.detach, rest


def _launched(words: Sequence[str]) -> int:
    from levl_eval.core.files import locked
    from levl_eval.core.messages import message
    from levl_eval.models.config import parse_config
    from levl_eval.runner.launch import FOLDER, check_launcher, launch_pretraining, new_folder, running
    from levl_eval.runner.shared_folders import check_locks

    options, detach, rest = split_launcher(words)
    check_launcher("slurm")
    out = Path(parse_config(rest).out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    check_locks(out)
    with locked(out / FOLDER / "submit.lock"):
        launch = running(out, rest)
        if launch is not None:
            message(f"{launch.name} of this command still runs; nothing is submitted", __name__)
        else:
            launch = launch_pretraining(rest, options, new_folder(out, rest))
            message(f"{launch.name}: {options.numbers.get('nodes', 1)} nodes; logs are {launch.folder}/copy-*.log", __name__)
    if detach:
        print(printable(launch.going_on))
        return 0
    return _wait(launch, out)


def _wait(launch: Launch, out: Path) -> int:
    """Until the job has ended; 1 where it did not complete. Raises KeyboardInterrupt, with what becomes of it, for Ctrl-C."""
    from levl_eval.cli.launching import interrupted
    from levl_eval.runner.watching import endings, wait

    try:
        states = wait(launch, lambda: None, lambda: None, quiet=False)
    except KeyboardInterrupt as e:
        interrupted(launch, e)
    if states[0].state in ("COMPLETED", "ENDED") and (out / "ckpt.pt").exists():
        from levl_eval.models.checkpoints import read
        from levl_eval.pretrain.messages import made

        # From the file, not from a copy's log, whose last line may be srun's or torch's.
        print(printable(made(out / "ckpt.pt", read(out / "ckpt.pt")["step"])))
        return 0
    for line in endings(launch, states):
        print(printable(line), file=sys.stderr)
    print("the same command submits it again, and it resumes where it was", file=sys.stderr)
    return 1


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``levl-pretrain``; returns the exit code."""
    from levl_eval.core.command import guard

    words = list(sys.argv[1:] if argv is None else argv)

    def call() -> int:
        # Within the guard, as Ctrl-C may come while these modules are still read.
        from levl_eval.pretrain.cli import dispatch

        if any(w.partition("=")[0] in ("--launcher", "--slurm", "--detach") for w in words):
            return _launched([w for w in words if w != "--debug"])
        return dispatch(words)

    return guard(call, "--debug" in words, "levl-pretrain", argv is None)


if __name__ == "__main__":
    sys.exit(main())
