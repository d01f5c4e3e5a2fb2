"""What is called float32 is float32: an environment that makes libraries compute it in another format is refused before anything is."""

from __future__ import annotations

import pytest

from levl_eval.cli import main
from levl_eval.core.device import pick_device
from levl_eval.core.errors import UsageError
from levl_eval.core.precision import check_precision


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ONEDNN_DEFAULT_FPMATH_MODE", "BF16"), ("DNNL_DEFAULT_FPMATH_MODE", "any"), ("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "1"),
        ("NVIDIA_TF32_OVERRIDE", "1"),
    ],
)  # fmt: skip
def test_an_environment_that_changes_the_format_is_refused(tmp_path, monkeypatch, capsys, name, value):
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "cache"))
    words = ["run", "--backbone", "random-nano", "--tasks", "knn", "--out", str(tmp_path / "run"), "--device", "cpu"]
    assert main(words) == 2 and f"{name}={value} in the environment" in capsys.readouterr().err
    assert not (tmp_path / "run" / "records").exists()
    with pytest.raises(UsageError, match=name):
        pick_device("cpu")


def test_what_leaves_it_as_it_is_is_no_error(monkeypatch):
    for name, value in (
        ("ONEDNN_DEFAULT_FPMATH_MODE", "strict"),
        ("NVIDIA_TF32_OVERRIDE", "0"),
        ("DNNL_DEFAULT_FPMATH_MODE", ""),
    ):
        monkeypatch.setenv(name, value)
    assert check_precision("float32", "cuda") == "float32"
    with pytest.raises(UsageError, match="NVIDIA_TF32_OVERRIDE=0"):  # TF32 would be recorded, and not be computed
        check_precision("tf32", "cuda")
