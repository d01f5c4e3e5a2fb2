"""benchmarks/gpu.py runs through on a CPU at toy size, and what it left in results/gpu is of GPUs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def _run(*words):
    return subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "gpu.py", "--device", "cpu", *words], capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
def test_every_part_runs_through_and_is_written_down(tmp_path):
    done = _run("--toy", "--out", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    (figures,) = tmp_path.glob("*.json")
    got = json.loads(figures.read_text())
    assert list(got["parts"]) == ["features", "extraction", "sigreg", "segmentation", "answering", "connector", "pretrain"]
    assert got["toy"] and got["about"]["kind"] == "cpu" and "torch" in got["about"]["versions"]
    parts = got["parts"]
    assert (
        parts["features"]["float32, pooled: relative difference"]
        == 0
        < parts["features"]["bf16, pooled: relative difference"]
        < 0.05
    )
    assert parts["answering"]["30 questions an image: answers that differ"] == "0 of 2"
    assert parts["sigreg"]["loss, relative difference"] < 1e-5
    text = figures.with_suffix(".md").read_text()
    assert "Toy size" in text and all(f"## {name}" in text for name in parts)


@pytest.mark.slow
def test_without_a_gpu_it_asks_for_toy_size_and_without_time_it_says_what_is_missing(tmp_path):
    refused = _run()
    assert refused.returncode == 2 and "no GPU is here; --toy --out DIR" in refused.stderr and "Traceback" not in refused.stderr
    late = _run("--toy", "--out", tmp_path, "--only", "sigreg,answer")
    assert late.returncode == 2 and "--only answer: expected some of features, " in late.stderr
    late = _run("--toy", "--out", tmp_path, "--only", "sigreg", "--minutes", "-1")
    assert late.returncode == 1 and "left out 0 s were left" in late.stdout


def test_kept_figures_are_of_gpus_at_full_size():
    for file in (ROOT / "results" / "gpu").glob("*.json"):
        got = json.loads(file.read_text())
        assert got["about"]["kind"] == "cuda" and not got["toy"], file
