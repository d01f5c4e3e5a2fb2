"""A user's own Python: the page's encoder is complete, and what is wrong in the user's code is told by file and line."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from levl_eval.backbones import load_backbone
from levl_eval.core.errors import UsageError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "your-encoder.md"
GOOD = """
import torch
from levl_eval.backbones.base import Backbone, Features, Preprocess

class Own(Backbone):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 4, 4)
        self.preprocess = Preprocess(16)

    def encode(self, images):
        maps = self.conv(images)
        return Features(maps.mean((2, 3)), maps.flatten(2).transpose(1, 2), tuple(maps.shape[2:]))
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a module of the user's; gone again after the test."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def file(name: str, text: str) -> Path:
        path = tmp_path / f"{name}.py"
        path.write_text(textwrap.dedent(text))
        return path

    before = set(sys.modules)
    yield file
    for name in set(sys.modules) - before:
        if name.startswith("users_"):
            del sys.modules[name]


def test_the_pages_resnet_is_complete_and_short(write):
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)[1]
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    write("users_resnet", code)
    torch.manual_seed(0)
    found = load_backbone("py:users_resnet:ResNet")
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        features, net = found.encode(images), found.net
        assert found.grid == features.grid == (7, 7) and not net.training and not any(p.requires_grad for p in net.parameters())
        assert torch.allclose(net.fc(features.pooled), net(images), atol=1e-5)  # torchvision's own pooling


def line_of(path: Path, words: str) -> int:
    return next(i for i, line in enumerate(path.read_text().splitlines(), 1) if words in line)


@pytest.mark.parametrize("change, words, at", [
    (("self.preprocess = Preprocess(16)", "self.preprocess = Preprocess(16)\n        self.table = {}['gone']"),
     "KeyError: 'gone'", "self.table"),
    (("super().__init__()", "super().__init__(); raise RuntimeError('two\\nlines')"), "RuntimeError: two lines", "RuntimeError"),
    (("maps = self.conv(images)", "maps = self.conv(images[:, :2])"), "RuntimeError: .*channels", "images[:, :2]"),
    (("import torch\n", "import torch\nimport no_such_library_here\n"),
     "ModuleNotFoundError: No module named 'no_such_library_here'", "no_such"),
    (("class Own", "raise SystemExit(3)\nclass Own"), "SystemExit: 3", "SystemExit"),
    (("def encode(self, images):", "def encode(self, images:"), "SyntaxError: ", "def encode"),
])  # fmt: skip
def test_what_the_users_code_raises_is_one_line_with_file_and_line(write, change, words, at):
    path = write("users_broken", GOOD.replace(*change))
    with pytest.raises(UsageError, match=words) as e:
        load_backbone("py:users_broken:Own")
    assert f"({path}, line {line_of(path, at)})" in str(e.value) and "\n" not in str(e.value)


def test_the_line_is_that_of_the_file_which_failed(write):
    helper = write("users_helper", "def pool(x):\n    return x.mean((2, 3)) / None\n")
    write("users_caller", "from users_helper import pool\n" + GOOD.replace("maps.mean((2, 3))", "pool(maps)"))
    with pytest.raises(UsageError) as e:
        load_backbone("py:users_caller:Own")
    assert f"({helper}, line 2)" in str(e.value)


@pytest.mark.parametrize("change, words", [
    (("        self.preprocess = Preprocess(16)\n", ""), "Own lacks `preprocess`, a levl_eval.backbones.base.Preprocess"),
        (("= Preprocess(16)", "= type('Mine', (Preprocess,), {})(16)"),
         "a levl_eval.backbones.base.Preprocess and no class derived from it"),
    (("Preprocess(16)", "224"), "Own lacks `preprocess`"),
    (("Preprocess(16)", "Preprocess(16, mean=(123.7, 116.3, 103.5), std=(58.4, 57.1, 57.4))"),
     r"levels 0 to 255; pixels are in \[0, 1\]: divide"),
    (("return Features(", "return tuple("), "TypeError"),
    (("return Features(maps.mean((2, 3)), ", "return (maps.mean((2, 3)), "), "encode returned tuple; expected Features"),
    (("maps.mean((2, 3))", "maps.mean((2, 3)).long()"), "`pooled` is no tensor of floats"),
    (("maps.mean((2, 3))", "maps"), r"`pooled` has shape \[1, 8, 4, 4\] for 1 image; expected \[B, D\]"),
    (("maps.flatten(2).transpose(1, 2)", "maps.flatten(2)[0]"), r"`patches` has shape \[8, 16\]"),
    (("tuple(maps.shape[2:])", "(4, 3)"), r"16 patch tokens do not form its grid \(4, 3\)"),
    (("self.preprocess =", "self.depth = 3; self.preprocess ="), "Own lacks `_blocks`, since `depth`"),
    (("self.preprocess =", "self.readouts = (1,); self.preprocess ="), "Own lacks `has_text`, `image_embeddings`, `text_embeddings`"),
    (("class Own", "class Owm"), "holds no function or class 'Own' .did you mean Owm"),
])  # fmt: skip
def test_what_the_class_lacks_is_told(write, change, words):
    write("users_partial", GOOD.replace(*change))
    with pytest.raises(UsageError, match=words) as e:
        load_backbone("py:users_partial:Own")
    assert "\n" not in str(e.value) and "py:users_partial:Own" in str(e.value)


@pytest.mark.parametrize(
    "setting",
    [
        "torch.set_default_dtype(torch.float64)", "torch.set_float32_matmul_precision('medium')", "torch.set_grad_enabled(False)",
        "torch.set_num_threads(torch.get_num_threads() + 1)", "torch.backends.mkldnn.matmul.fp32_precision = 'bf16'",
        "torch.backends.fp32_precision = 'tf32'",
    ],
)  # fmt: skip
@pytest.mark.parametrize("where", ["module", "factory"])
def test_settings_of_the_whole_process_are_not_the_users_to_leave_changed(write, setting, where):
    """What the next encoder of the run and its heads compute would be other numbers under the same identity."""

    def state():
        backends = [
            torch.backends.mkldnn.matmul,
            torch.backends.mkldnn.conv,
            torch.backends.cuda.matmul,
            torch.backends.cudnn.conv,
        ]
        formats = [b.fp32_precision.replace("none", "ieee") for b in backends]
        return [
            torch.get_default_dtype(),
            torch.get_float32_matmul_precision(),
            torch.is_grad_enabled(),
            torch.get_num_threads(),
            formats,
        ]

    before, name = state(), f"users_settings_{abs(hash((setting, where)))}"
    write(
        name,
        GOOD
        + (
            f"\n{setting}\ndef build(): return Own().float()\n"
            if where == "module"
            else f"\ndef build():\n    {setting}\n    return Own().float()\n"
        ),
    )
    try:
        load_backbone(f"py:{name}:build")
        assert state() == before
    finally:  # where it fails the other tests are not to suffer
        torch.set_default_dtype(torch.float32)
        torch.set_grad_enabled(True)
        torch.set_num_threads(before[3])
        torch.set_float32_matmul_precision("highest")


def test_a_source_that_was_changed_after_it_was_imported_is_refused(write):
    """In a notebook: the file on the disk says who the encoder is, and Python runs what it has read before."""
    name = "users_edited"
    write(f"{name}_parts", "SCALE = 1.0\n")
    whole = GOOD + f"\nimport {name}_parts\ndef build():\n    torch.manual_seed(0)\n    return Own()\n"
    write(name, whole)
    first = load_backbone(f"py:{name}:build")
    assert load_backbone(f"py:{name}:build").encoder_parts() == first.encoder_parts()
    for file, text in (
        (name, whole.replace("maps.mean((2, 3))", "maps.amax((2, 3), False)")),
        (f"{name}_parts", "SCALE = 2.0\n"),
    ):
        path = write(file, text)
        with pytest.raises(UsageError, match=f"{re.escape(str(path))} was changed after it was imported"):
            load_backbone(f"py:{name}:build")
        importlib.reload(sys.modules[file])
    second = load_backbone(f"py:{name}:build")
    assert second.encoder_parts() != first.encoder_parts()
    image = torch.rand(1, 3, 16, 16)
    assert torch.equal(second.encode(image).pooled, second.encode(image).patches.amax(1))


def test_bytecode_of_another_source_of_equal_size_and_time_is_not_run(write, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    name = "users_same_size"
    text = GOOD + "\ndef build():\n    torch.manual_seed(0)\n    return Own()\n"
    path = write(name, text)
    before = path.stat()
    first = load_backbone(f"py:{name}:build")
    assert Path(importlib.util.cache_from_source(str(path))).exists()
    write(name, text.replace("maps.mean((2, 3))", "maps.amax((2, 3))"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    del sys.modules[name]  # as another process finds it
    second = load_backbone(f"py:{name}:build")
    image = torch.rand(1, 3, 16, 16)
    assert second.code["source"] != first.code["source"]
    assert torch.equal(second.encode(image).pooled, second.encode(image).patches.amax(1))
