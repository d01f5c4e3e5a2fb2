"""What is kept and this user may not read is told in one line and stays: computed again, it would replace another's, or fail to."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from levl_eval.backbones import load_backbone
from levl_eval.cards.vlm import ConnectorSpec
from levl_eval.core import kept
from levl_eval.core.command import guard
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.progress import Progress
from levl_eval.data.fingerprint_cache import FingerprintCache
from levl_eval.engines.probes.texts import class_embeddings, text_embeddings
from levl_eval.engines.vlm.connector import Connector, load, recover, save
from tests.runner.test_damage import Heard, Texts

NOBODY = 65534


@contextlib.contextmanager
def unreadable(path):
    """As a user who may not read ``path``; the tests may be root, who may read everything."""
    path.chmod(0)
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(NOBODY)
        yield
    finally:
        if root:
            os.seteuid(0)
        path.chmod(0o644)


@pytest.fixture
def folder():
    """One that another user may pass; those of pytest are root's alone."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def connector(path, **notes):
    save(path, Connector(ConnectorSpec(kind="linear"), 4, 6, 1.0, None), {"notes": {"connector": path.stem, **notes}})


READERS = {
    "arrays": (lambda p: kept.write_arrays(p, "k", {"a": np.zeros(2)}), lambda p: kept.read_arrays(p, "k")),
    "json": (lambda p: kept.write_json(p, "k", [1]), lambda p: kept.read_json(p, "k")),
    "state": (lambda p: kept.write_state(p, "k", {"a": torch.zeros(2)}), lambda p: kept.read_state(p, "k")),
    "connector": (connector, lambda p: recover(p, ConnectorSpec(kind="linear"), 4, 6, None)[1]),
    "connector of the user's": (connector, lambda p: load(p, ConnectorSpec(kind="linear"), 4, 6)[1]),
}


@pytest.mark.parametrize("kind", READERS)
def test_it_is_told_and_stays(kind, tmp_path):
    write, read = READERS[kind]
    path = tmp_path / "k.kept"
    write(path)
    raw, heard = path.read_bytes(), Heard()
    assert kept.recall(lambda: read(path), heard) is not None
    with unreadable(path), pytest.raises(LevlError) as e:
        kept.recall(lambda: read(path), heard)
    assert str(e.value).startswith(
        f"{path}: this user may not read it (Permission denied); ask its owner for it, or use a folder"
    )
    assert not heard.lines and path.read_bytes() == raw


def test_texts_are_not_embedded_again(tmp_path):
    backbone = Texts()
    text_embeddings(backbone, ["a", "b"], tmp_path)
    (path,) = (tmp_path / "texts").iterdir()
    with unreadable(path), pytest.raises(LevlError, match="this user may not read it"):
        text_embeddings(backbone, ["a", "b"], tmp_path, Progress(quiet=True))
    assert backbone.calls == 1


def test_damaged_embeddings_of_classes_are_told(tmp_path):
    heard = Heard()
    class_embeddings(Texts(), ["a"], ["{}"], tmp_path, heard)
    (path,) = (tmp_path / "texts").iterdir()
    path.write_bytes(b"x")
    class_embeddings(Texts(), ["a"], ["{}"], tmp_path, heard)
    assert len(heard.lines) == 1 and "cannot be read" in heard.lines[0]


@pytest.mark.parametrize("name", ["ckpt.pt", "release.safetensors", "vision_encoder.safetensors", "a_vision_step1.pt"])
def test_a_checkpoint_is_not_called_damaged(name, folder):
    path = folder / name
    for beside in ("text_encoder.safetensors", "a_text_step1.pt"):
        (folder / beside).write_bytes(b"x")
    path.write_bytes(b"x")
    uri = f"official:{folder}" if "vision" in name else f"levl:{path}"
    with unreadable(path), pytest.raises(UsageError) as e:
        load_backbone(uri)
    assert str(e.value) == f"{path}: this user may not read it (Permission denied); ask its owner for it, or copy it"


@pytest.mark.parametrize("uri", ["hf:{}", "random:hf:{}", "timm:local-dir:{}", "open_clip:local-dir:{}", "{}"])
def test_a_librarys_folder_names_the_file(uri, folder):
    """It was told in the library's words, as a file that is not there."""
    for name in ("config.json", "model.safetensors", "open_clip_config.json"):
        (folder / name).write_text("{}")
    path = folder / "model.safetensors"
    with unreadable(path), pytest.raises(UsageError) as e:
        load_backbone(uri.format(folder))
    assert str(e.value) == f"{path}: this user may not read it (Permission denied); ask its owner for it, or copy it"


def test_a_file_of_a_data_set_is_not_sent_to_the_sets_list(folder):
    path = folder / "a.png"
    path.write_bytes(b"x")
    with (
        unreadable(path),
        pytest.raises(LevlError, match=r"a\.png: this user may not read it .*; ask its owner for it, or copy it"),
    ):
        FingerprintCache(None).sha256(path)


def test_a_folder_on_the_way_is_no_fault_of_the_program(folder, capsys):
    inside = folder / "private" / "ckpt.pt"
    inside.parent.mkdir()
    inside.write_bytes(b"x")
    with unreadable(inside.parent):
        code = guard(lambda: load_backbone(f"levl:{inside}") and 0, False, "levl-eval run")
    assert code == 2
    assert capsys.readouterr().err == f"levl-eval run: {inside}: Permission denied; ask its owner for it, or name another\n"
