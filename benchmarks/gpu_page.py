"""What benchmarks/gpu.py says of the machine, and how it writes figures for people."""

from __future__ import annotations

import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("levl-eval", "torch", "torchvision", "transformers", "timm", "numpy", "pillow", "triton", "vllm")


def clocks() -> str:
    """What nvidia-smi says of clocks, power and temperature; "" where it is not there."""
    words = "clocks.sm,clocks.max.sm,clocks.mem,power.draw,power.limit,temperature.gpu,driver_version"
    try:
        out = subprocess.run(
            ["nvidia-smi", f"--query-gpu={words}", "--format=csv,noheader"], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return out.stdout.strip().splitlines()[0] if out.returncode == 0 and out.stdout.strip() else ""


def surroundings(device: Any) -> dict[str, object]:
    """Device and versions."""
    import torch

    from levl_eval.core.device import device_name
    from levl_eval.core.distributed import cores

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
    out: dict[str, object] = {
        "device": device_name(device), "kind": device.type, "cores": cores(), "python": platform.python_version(), "versions": versions,
        "cuda": torch.version.cuda, "revision": git.stdout.strip() or None, "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    if device.type == "cuda":
        out |= {
            "memory GiB": torch.cuda.get_device_properties(device).total_memory / 2**30,
            "cudnn": torch.backends.cudnn.version(),
        }
    return out


def shown(value: object) -> str:
    return (
        f"{value:.3g}"
        if isinstance(value, float) and abs(value) < 100
        else f"{value:,.0f}"
        if isinstance(value, float)
        else str(value)
    )


def page(result: dict[str, Any], command: str) -> str:
    """The Markdown."""
    about = result["about"]
    lines = [f"# {about['device']}", "", f"`{command}`, {about['date']}, {result['seconds']:.0f} s.", ""]
    lines += ["Toy size: says that it runs, not how fast.", ""] if result["toy"] else []
    lines += ["| | |", "|---|---|"]
    lines += [
        f"| {k} | {', '.join(f'{n} {v}' for n, v in x.items()) if isinstance(x, dict) else shown(x)} |" for k, x in about.items()
    ]
    for name, part in result["parts"].items():
        lines += ["", f"## {name}", "", "| | |", "|---|---|", *(f"| {k} | {shown(v)} |" for k, v in part.items())]
    return "\n".join(lines) + "\n"
