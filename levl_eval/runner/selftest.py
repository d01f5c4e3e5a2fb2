"""What `levl-eval doctor` tries: combinations of packages that are known to fail, and a whole small evaluation in a minute."""

from __future__ import annotations

import importlib.metadata
import math
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from levl_eval.core.errors import LevlError

# Of sets not named here, the fewest images there can be; heads and connector are trained for moments, so the numbers mean nothing.
_COUNTS = {"gqa/train": 16, "ade20k/training": 16, "classification/train": 48, "classification/test": 24}
_LANGUAGE, _HEADS = ["gqa"], ["ade20k", "linear"]
_SETTINGS = ["gqa.recipe=scenes", "gqa.recipe.epochs=1", "gqa.recipe.max_questions=12", "ade20k.epochs=1", "linear.epochs=2"]


def installed() -> dict[str, str]:
    """Version of every installed distribution by its name in lower case with dashes."""
    versions: dict[str, str] = {}
    for d in importlib.metadata.distributions():
        if name := d.metadata["Name"]:
            versions.setdefault(name.lower().replace("_", "-"), d.version)
    return versions


def requirements() -> list[str]:
    """What levl-eval asks for, extras included; empty where it is not installed as a package."""
    try:
        return importlib.metadata.requires("levl-eval") or []
    except importlib.metadata.PackageNotFoundError:
        return []


def broken(versions: Mapping[str, str], wanted: list[str]) -> list[str]:
    """Known-broken combinations among the installed packages, one line each with a remedy. wanted: requirement lines."""
    from packaging.requirements import Requirement
    from packaging.version import Version

    out = []
    for line in wanted:
        need = Requirement(line)
        have = versions.get(need.name.lower().replace("_", "-"))
        if have is not None and not need.specifier.contains(have, prereleases=True):
            out.append(f"{need.name} {have} is outside the tested {need.specifier}; pip install '{need.name}{need.specifier}'")
    torch, vision = versions.get("torch"), versions.get("torchvision")
    if torch and vision:
        a, b = Version(torch), Version(vision)
        # torchvision 0.(m + 15) is built for torch 2.m and does not load beside another.
        if (a.major, b.major) == (2, 0) and b.minor != a.minor + 15:
            out.append(f"torchvision {vision} is not the one for torch {torch}; pip install 'torchvision==0.{a.minor + 15}.*'")
    mmcv = versions.get("mmcv")
    if mmcv and "mmcv-lite" in versions:
        out.append(
            "mmcv and mmcv-lite are both installed and overwrite each other's files; pip uninstall mmcv mmcv-lite, then install one"
        )
    elif mmcv and "mmsegmentation" in versions and Version(mmcv) >= Version("2.2"):
        out.append(f"mmsegmentation refuses mmcv {mmcv}; pip install 'mmcv-lite==2.1.0' in its place")
    return out


def device_trouble() -> list[str]:
    """GPUs that the installed torch has no code for, one line each."""
    import torch

    out = []
    for k in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        major, minor = torch.cuda.get_device_capability(k)
        # Code for one architecture runs on later ones of the same major number; "compute" code is compiled for any later one.
        fits = False
        for arch in torch.cuda.get_arch_list():
            kind, _, number = arch.partition("_")
            a, b = divmod(int(number.rstrip("af")), 10)
            fits = fits or (kind == "sm" and a == major and b <= minor) or (kind == "compute" and (a, b) <= (major, minor))
        if not fits:
            name = torch.cuda.get_device_name(k)
            out.append(
                f"{name} (compute capability {major}.{minor}) is not supported by torch {torch.__version__}; use --device cpu"
            )
    return out


def self_test() -> str:
    """Draw images, encode them, train a connector and two heads, score; the heads once more from nothing.

    Everything lies in a temporary folder that is removed. Returns what was done; raises LevlError where a task fails, a number is
    not finite or the second time gives another one.
    """
    from levl_eval.core.progress import Progress
    from levl_eval.runner.evaluate import evaluate
    from levl_eval.scenes.export import COUNTS, make_scenes

    started, quiet = time.monotonic(), Progress(quiet=True)
    with tempfile.TemporaryDirectory(prefix="levl-eval-doctor-", ignore_cleanup_errors=True) as folder:
        root = Path(folder)
        make_scenes(root / "world", size=64, counts=dict.fromkeys(COUNTS, 0) | _COUNTS, progress=quiet)

        def measured(name: str, tasks: list[str]) -> dict[str, dict[str, float]]:
            records = evaluate(
                ["levljepa-nano"], tasks, data=str(root / "world"), seeds=(0,), limit=4, out=root / name, cache=root / f"{name}-cache",
                settings=[s for s in _SETTINGS if s.split(".")[0] in tasks], device="cpu", progress=quiet,
            )  # fmt: skip
            for r in records:
                if r.status != "done":
                    raise LevlError(f"{r.task} failed: {r.reason}")
            return {r.task: {m: e.value for m, e in r.metrics.items()} for r in records}

        first = measured("first", [*_LANGUAGE, *_HEADS])
        second = measured("second", _HEADS)
    for task, record in first.items():
        for name, value in record.items():
            again = second.get(task, record).get(name, math.nan)
            if not math.isfinite(value) or value != again:
                raise LevlError(f"{task}: {name} is {value:.6f} the first time and {again:.6f} the second")
    seconds = time.monotonic() - started
    return f"{', '.join(first)} on drawn images; {', '.join(second)} twice, with the same numbers; {seconds:.0f} s on the CPU"
