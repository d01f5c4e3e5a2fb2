"""A real Slurm of two nodes on this machine, started once and ended with the tests (start.sh)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

START = Path(__file__).with_name("start.sh")
NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol")


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    """The environment in which its commands work."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root and Debian's slurm-wlm and munge (not here: {', '.join(missing) or 'root'})")
    folder = tmp_path_factory.mktemp("slurm")
    try:
        subprocess.run(["bash", str(START), str(folder)], check=True, timeout=120)
        yield {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "OMP_NUM_THREADS": "1"}
    finally:
        subprocess.run(["bash", str(START), str(folder), "stop"], check=False, timeout=120)
