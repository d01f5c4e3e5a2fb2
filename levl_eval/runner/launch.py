"""`--launcher local|slurm`: copies of one command, started through submitit, that share a run's folder by its locks.

Nothing of this package is pickled: submitit carries a list of words (its own CommandFunction), and each copy is the plain command
line. What is known of a launch lies below ``OUT/slurm``::

  20261130-214500-ab12/launch.json      its words, what the queue calls its copies, when and where it was submitted
  20261130-214500-ab12/shared.json      a token, by which copies see that they look at the folders of the submitting machine
  20261130-214500-ab12/copy-003.log     what copy 3 printed
  20261130-214500-ab12/submitit/        submitit's own files, its batch script among them
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from levl_eval.core.device import visible_gpus
from levl_eval.core.distributed import cores
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.files import atomic_write
from levl_eval.core.hashing import digest
from levl_eval.runner.copies import Copy, LocalQueue, Queue, SlurmQueue, has_slurm
from levl_eval.runner.environment import COMMAND, command_line
from levl_eval.runner.shared_folders import BEGAN, SHARED
from levl_eval.runner.slurm_options import SlurmOptions

if TYPE_CHECKING:
    from submitit import Executor

LAUNCHERS = ("local", "slurm")
MOST = 1_000  # copies
FOLDER = "slurm"  # below a run's folder, whichever launcher it is: what `serve` and users look for
_FOREVER = 60 * 24 * 365  # minutes; a copy on this machine has no limit


@dataclass(frozen=True)
class Launch:
    """Copies that were submitted. folder: below ``OUT/slurm``. jobs: the array's id, or process ids. words: their command."""

    folder: Path
    launcher: str
    words: list[str]
    jobs: list[str]
    count: int

    @property
    def queue(self) -> Queue:
        """Where its copies run."""
        return SlurmQueue() if self.launcher == "slurm" else LocalQueue(str(self.folder / "submitit"))

    def states(self) -> list[Copy] | None:
        """Of its copies, in order; None where the queue does not answer."""
        return self.queue.states(self.jobs, self.count)

    def log(self, copy: int) -> Path:
        """What copy number ``copy`` prints."""
        return self.folder / f"copy-{copy:03}.log"

    @property
    def began(self) -> float:
        """When, by the clock of the file system that records lie on too: seconds since 1970."""
        return (self.folder / BEGAN).stat().st_mtime

    @property
    def name(self) -> str:
        """For messages."""
        if self.launcher == "slurm":
            return f"Slurm job {self.jobs[0]}"
        return "a process of this machine" if self.count == 1 else f"{self.count} processes of this machine"

    @property
    def going_on(self) -> str:
        """That it goes on, and what one may do."""
        many = self.launcher == "local" and self.count > 1
        it, ends = "them" if many else "it", self.queue.how_to_cancel(self.jobs)
        return f"{self.name} {'go' if many else 'goes'} on; the same command waits for {it}, `{ends}` ends {it}"


def check_launcher(launcher: str) -> None:
    """Raises UsageError where submitit, or Slurm itself, is not there."""
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise UsageError(
            f"--launcher {launcher}: the package submitit is not installed; pip install 'levl-eval[slurm]'"
        ) from None
    if launcher == "slurm" and not has_slurm():
        raise UsageError("--launcher slurm: no `sbatch` here; start it on a login node of the cluster, or take --launcher local")


def _read(path: Path) -> Launch | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Launch(**{**content, "folder": path.parent})
    except (OSError, ValueError, TypeError):
        return None  # half a launch: its submission was killed


def running(out: Path, words: Sequence[str]) -> Launch | None:
    """The newest launch of the same words whose copies still run or wait. Raises LevlError where the queue does not answer."""
    for path in sorted((out / FOLDER).glob("*/launch.json"), reverse=True):
        launch = _read(path)
        if launch is None or launch.words != list(words):
            continue
        states = launch.states()
        if states is None:
            raise LevlError(
                f"{launch.name} of {path.parent}: the queue does not answer; try again, so that nothing is submitted twice"
            )
        if any(c.live for c in states):
            return launch
    return None


def _environment(launch: Path, copy: int, count: int, launcher: str, options: SlurmOptions) -> dict[str, str]:
    """What a copy is told beside its words: where in the list of jobs it begins, and what the launch is."""
    threads = options.numbers.get("cpus") or (max(1, cores() // count) if launcher == "local" else None)
    out = {"RANK": str(copy), "WORLD_SIZE": str(count), SHARED: str(launch), COMMAND: json.dumps(command_line())}
    if threads and not os.environ.get("OMP_NUM_THREADS"):
        out["OMP_NUM_THREADS"] = str(threads)
    gpus = visible_gpus() if launcher == "local" else []
    if gpus:
        out["CUDA_VISIBLE_DEVICES"] = gpus[copy % len(gpus)]
    return out


def with_log(words: Sequence[str], log: Path, environment: dict[str, str]) -> list[str]:
    """A command that runs ``words`` with more in its environment and writes all it prints to ``log``.

    submitit would keep what a command prints in memory, and fail where a letter of several bytes is cut in two.
    """
    pairs = [f"{name}={value}" for name, value in environment.items()]
    return ["env", *pairs, "sh", "-c", f'exec "$0" "$@" >>{shlex.quote(str(log))} 2>&1', *words]


@contextlib.contextmanager
def _apart() -> Iterator[None]:
    """What is started meanwhile hears no Ctrl-C of the terminal, which is ours to answer, and holds none of our streams.

    Else a pipe that our output goes into would stay open until the copies have ended.
    """
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
    sys.stdout.flush()
    sys.stderr.flush()
    with open(os.devnull, "r+b") as nowhere:
        kept = [os.dup(stream) for stream in range(3)]
        try:
            for stream in range(3):
                os.dup2(nowhere.fileno(), stream)
            yield
        finally:
            for stream, copy in enumerate(kept):
                os.dup2(copy, stream)
                os.close(copy)
            if main:
                signal.signal(signal.SIGINT, before)


def _executor(launcher: str, folder: Path, options: SlurmOptions, by_srun: bool) -> Executor:
    if launcher == "local":
        from submitit import LocalExecutor

        local = LocalExecutor(folder=folder)
        local.update_parameters(timeout_min=options.minutes or _FOREVER)
        return local
    from submitit import SlurmExecutor

    slurm = SlurmExecutor(folder=folder)
    # Without srun: since Slurm 22.05 a step does not get the CPUs of its job unless asked for again.
    if not by_srun:
        slurm.update_parameters(**options.parameters(), use_srun=False)
        return slurm
    cpus = options.numbers.get("cpus")
    asked = ["--kill-on-bad-exit=1", *([f"--cpus-per-task={cpus}"] if cpus else [])]
    slurm.update_parameters(**options.parameters(), ntasks_per_node=1, srun_args=asked)
    return slurm


def submit(
    folder: Path, launcher: str, words: Sequence[str], commands: Sequence[list[str]], options: SlurmOptions, by_srun: bool = False
) -> Launch:
    """Submit one command a copy, as one job array where there are several, and write ``launch.json``.

    folder: of the launch, below ``OUT/slurm``. words: by which the launch is known again. by_srun: each node of one job runs the command.
    Raises UsageError where the queue refuses.
    """
    from submitit.core.utils import CommandFunction, FailedJobError, FailedSubmissionError
    from submitit.helpers import clean_env

    configuration = {name: os.environ[name] for name in ("SLURM_CONF",) if name in os.environ}
    with clean_env(), _apart():  # from within a job of Slurm's its variables would pass for the new one's
        os.environ.update(configuration)  # where Slurm is, not what a job is: clean_env takes it away too
        executor = _executor(launcher, folder / "submitit", options, by_srun)
        try:
            jobs = executor.submit_array([CommandFunction(c, verbose=False) for c in commands])
        except (FailedJobError, FailedSubmissionError) as e:
            shutil.rmtree(folder, ignore_errors=True)
            why = [line for line in str(e).splitlines() if line.strip()] or ["no reason given"]
            raise UsageError(f"--launcher {launcher}: sbatch refuses: {why[-1].removeprefix('sbatch: ')}; change --slurm") from e
    ids = [jobs[0].job_id.partition("_")[0]] if launcher == "slurm" else [j.job_id for j in jobs]
    launch = Launch(folder, launcher, list(words), ids, len(commands))
    content = {k: v for k, v in asdict(launch).items() if k != "folder"}
    atomic_write(folder / "launch.json", json.dumps(content, indent=1))
    return launch


def new_folder(out: Path, words: Sequence[str]) -> Path:
    """A folder for a launch, named by the time so that the newest is the last."""
    folder = out / FOLDER / f"{time.strftime('%Y%m%d-%H%M%S')}-{digest(list(words))[:4]}{secrets.token_hex(2)}"
    folder.mkdir(parents=True)
    (folder / BEGAN).touch()
    return folder


def launch_copies(launcher: str, words: Sequence[str], count: int, options: SlurmOptions, folder: Path) -> Launch:
    """``count`` copies of `levl-eval` ``words``, each beginning at its own part of the jobs. folder: of the launch."""
    command = [sys.executable, "-u", "-m", "levl_eval.cli", *words]
    copies = []
    for copy in range(count):
        environment = _environment(folder, copy, count, launcher, options)
        copies.append(with_log(command, folder / f"copy-{copy:03}.log", environment))
    return submit(folder, launcher, words, copies, options)


# On every node of a job: torchrun, whose processes meet at the job's first node, at a port that its number chooses. What a node
# prints goes to a log of its own. $0: Python; $1: the log's folder; $2: processes a node; the rest: the words of `levl-pretrain`.
_ON_EACH_NODE = """log="$1/copy-$(printf %03d "$SLURM_NODEID").log"; each="$2"; shift 2
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(scontrol show node "$first" | sed -n 's/.*NodeAddr=\\([^ ]*\\).*/\\1/p')
exec "$0" -u -m torch.distributed.run --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "$each" --rdzv-backend c10d \\
  --rdzv-id "$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}" --rdzv-endpoint "${address:-$first}:$((20000 + SLURM_JOB_ID % 20000))" \\
  -m levl_eval.pretrain.cli "$@" >>"$log" 2>&1"""


def launch_pretraining(words: Sequence[str], options: SlurmOptions, folder: Path) -> Launch:
    """`levl-pretrain` ``words`` as one job of Slurm over nodes, by torchrun on each. folder: of the launch."""
    each = options.numbers.get("processes") or options.gpus or 1
    command = ["sh", "-c", _ON_EACH_NODE, sys.executable, str(folder), str(each), *words]
    return submit(folder, "slurm", words, [command], options, by_srun=True)
