"""The wheel carries cards and assets; the repairs of third-party imports work in a fresh process."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from levl_eval.cards.registry import names

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_wheel_carries_the_cards_and_they_are_found_there(tmp_path):
    build = "import hatchling.build as b, sys; print(b.build_wheel(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wheel = tmp_path / done.stdout.split()[-1]
    with zipfile.ZipFile(wheel) as z:
        inside = set(z.namelist())
        z.extractall(tmp_path / "site")
    for task in names("tasks"):
        assert f"levl_eval/_cards/tasks/{task}.yaml" in inside
    assert {"levl_eval/_cards/tasks/recipes/vqa-train.yaml", "levl_eval/py.typed"} <= inside
    shipped = {p.relative_to(ROOT).as_posix() for p in (ROOT / "levl_eval" / "assets").rglob("*") if p.is_file()}
    assert shipped <= inside
    # -S and -I keep the checkout out of the path: what is found is the extracted wheel's.
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]; import levl_eval.cards.registry as r; "
        "print(r.card_folder('tasks')); print(r.names('tasks'))"
    )
    site = [str(tmp_path / "site"), *[p for p in sys.path if p.endswith("site-packages")]]
    out = subprocess.run([sys.executable, "-I", "-S", "-c", code, *site], capture_output=True, text=True, cwd=tmp_path)
    assert out.returncode == 0, out.stderr
    assert str(tmp_path / "site") in out.stdout and str(names("tasks")) in out.stdout


@pytest.mark.slow
def test_torchvision_imports_after_the_repair():
    code = (
        "from levl_eval.core.third_party import repair; first = repair(); import torchvision.transforms.functional as F, timm\n"
        "from PIL import Image; assert F.pil_to_tensor(Image.new('RGB', (4, 4))).shape == (3, 4, 4); assert repair() is False"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_submodule_bears_a_public_name():
    """An import of it anywhere would put the module in the function's place."""
    import levl_eval

    inside = {p.stem for p in (Path(levl_eval.__file__).parent).iterdir()}
    assert not inside & set(levl_eval.__all__)
