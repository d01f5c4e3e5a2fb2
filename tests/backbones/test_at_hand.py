"""Models of the hub that are neither cached nor to be had are told before their library is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest
from huggingface_hub import constants

from levl_eval.core import offline
from levl_eval.core.errors import UsageError
from levl_eval.core.offline import check_at_hand


@pytest.fixture
def unreached(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(offline, "reachable", lambda *a: False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("scheme", "rest"),
    [
        ("hf", "facebook/dinov2-base"),
        ("timm", "vit_base_patch16_224"),
        ("timm", "hf-hub:timm/x@main"),
        ("open_clip", "ViT-B-32/openai"),
    ],
)
def test_what_is_not_there_is_told(scheme, rest, unreached):
    with pytest.raises(UsageError, match=f"{scheme}:{rest}: the hub cannot be reached and its cache holds no copy"):
        check_at_hand(scheme, rest, f"{scheme}:{rest}")


def test_what_may_be_there_is_left_to_the_library(unreached, monkeypatch):
    (unreached / "hub" / "models--facebook--dinov2-base").mkdir(parents=True)
    check_at_hand("hf", "facebook/dinov2-base", "u")
    check_at_hand("timm", "vit_base_patch16_224", "u")  # a cache that holds something may hold it
    check_at_hand("open_clip", "ViT-B-32", "u")  # names no weights, which is said
    check_at_hand("levl", "ckpt.pt", "u")
    check_at_hand("hf", str(unreached), "u")
    with pytest.raises(UsageError):
        check_at_hand("hf", "facebook/dinov2-large", "u")
    monkeypatch.setattr(offline, "reachable", lambda *a: True)
    check_at_hand("hf", "facebook/dinov2-large", "u")


def test_no_library_is_imported_for_it(tmp_path):
    code = (
        "import sys; from levl_eval.cli import main\n"
        "code = main(['run', '--backbone', 'hf:facebook/dinov2-base', '--tasks', 'knn'])\n"
        "assert code == 2 and not {'torch', 'transformers', 'timm'} & set(sys.modules), (code, sorted(sys.modules))"
    )
    env = {
        **__import__("os").environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "hf"),
        "LEVL_CACHE": str(tmp_path / "cache"),
    }
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "the hub cannot be reached" in done.stderr and list(tmp_path.iterdir()) == []
