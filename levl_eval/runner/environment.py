"""Where a run happens: versions, machine and source revision, as written into every record."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "levl-eval", "torch", "torchvision", "transformers", "accelerate", "lmms-eval", "timm", "open_clip_torch", "mmsegmentation",
    "mmengine", "datasets", "numpy", "pillow",
)  # fmt: skip
COMMAND = "LEVL_COMMAND"  # in a worker's environment: the words its run was started by, as a JSON list


def command_line() -> list[str]:
    """The words this run was started by, the program's name without its folder; in a worker those of the process that started it."""
    if given := os.environ.get(COMMAND):
        return [str(word) for word in json.loads(given)]
    return [Path(sys.argv[0]).name, *sys.argv[1:]]


def packages() -> dict[str, str]:
    """Name -> version of those of PACKAGES that are installed."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def environment() -> dict[str, object]:
    """Versions, machine and source revision, as written into every record."""
    here = Path(__file__).resolve().parents[1]
    git: dict[str, object] = {}
    if (here.parent / ".git").exists():
        try:
            call = ["git", "--no-optional-locks", "-C", str(here.parent)]  # looking must not write to the user's index
            git["revision"] = subprocess.run(
                [*call, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
            ).stdout.strip()
            status = subprocess.run([*call, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True).stdout
            git["dirty"] = bool(status.strip())
        except (OSError, subprocess.CalledProcessError):
            git = {}
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages(),
        "git": git,
        "command": command_line(),
    }
