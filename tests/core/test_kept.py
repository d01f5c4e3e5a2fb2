"""What is kept comes back as it was, arrays without numpy's parser of headers, and is written as the same bytes each time."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
import torch

from levl_eval.core.kept import Damaged, read_arrays, write_arrays, write_state
from levl_eval.models import checkpoints

ARRAYS = {
    "none": np.zeros((0, 3)), "one": np.array(2.5), "truth": np.array([True, False]), "long": np.arange(7, dtype=np.int64),
    "half": np.arange(6, dtype=np.float16).reshape(2, 3), "turned": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "words": np.array(["a", "\u00e9b"]), "large end": np.arange(3, dtype=">i4"), "nan": np.array([np.nan, -0.0]),
}  # fmt: skip


def test_arrays_come_back_as_numpy_itself_reads_them_and_can_be_changed(tmp_path):
    path = tmp_path / "a.npz"
    write_arrays(path, "key", ARRAYS)
    got = read_arrays(path, "key")
    with np.load(path) as theirs:
        for name in ARRAYS:
            assert got[name].dtype == theirs[name].dtype and got[name].shape == theirs[name].shape
            assert got[name].tobytes() == theirs[name].tobytes()
    got["long"][0] = 9
    assert read_arrays(path, "key")["long"][0] == 0


def test_what_is_not_theirs_or_damaged_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    write_arrays(path, "key", ARRAYS)
    with pytest.raises(Damaged, match="something else"):
        read_arrays(path, "other")
    raw = path.read_bytes()
    at = raw.index(np.arange(7, dtype=np.int64).tobytes())
    path.write_bytes(raw[:at] + b"\x05" + raw[at + 1 :])
    with pytest.raises(Damaged):
        read_arrays(path, "key")
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(Damaged, match="cannot be read"):
        read_arrays(path, "key")
    np.savez(path, seal=np.array([{}], object))
    with pytest.raises(Damaged, match="cannot be read"):
        read_arrays(path, "key")


def test_any_changed_byte_is_refused_or_changes_nothing(tmp_path):
    """Members are cut out without zipfile's reader."""
    path, few = tmp_path / "a.npz", {k: ARRAYS[k] for k in ("truth", "long")}
    write_arrays(path, "key", few)
    raw, refused = path.read_bytes(), 0
    for at in range(len(raw)):
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 0x11]) + raw[at + 1 :])
        try:
            got = read_arrays(path, "key")
        except Damaged:
            refused += 1
            continue
        assert got.keys() == few.keys() and all(got[k].tobytes() == few[k].tobytes() for k in few)
    assert refused > sum(v.nbytes for v in few.values())


@pytest.mark.parametrize("at, value", [(8, 1), (10, 97)])
def test_members_that_are_encrypted_or_of_an_unknown_form_are_damage(tmp_path, at, value):
    """Flags and compression of the first member, in the directory at the file's end."""
    path, packed = tmp_path / "a.npz", tmp_path / "b.npz"
    write_arrays(path, "key", ARRAYS)
    with zipfile.ZipFile(path) as plain, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as z:
        for name in plain.namelist():
            z.writestr(name, plain.read(name))
    raw = bytearray(packed.read_bytes())
    raw[raw.index(b"PK\x01\x02") + at] = value
    packed.write_bytes(raw)
    with pytest.raises(Damaged):
        read_arrays(packed, "key")


def test_members_that_are_compressed_are_read_too(tmp_path):
    path, packed = tmp_path / "a.npz", tmp_path / "b.npz"
    write_arrays(path, "key", ARRAYS)
    with zipfile.ZipFile(path) as stored, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as out:
        for name in stored.namelist():
            out.writestr(name, stored.read(name))
    for name, value in read_arrays(packed, "key").items():
        assert value.tobytes() == ARRAYS[name].tobytes()


@pytest.mark.parametrize(
    "write", [lambda path, state: write_state(path, "k", state), checkpoints.save], ids=["state", "checkpoint"]
)
def test_what_torch_writes_is_the_same_bytes_each_time(tmp_path, write):
    """torch writes the name of the file it is given into it, and that of a temporary file is another one each time."""
    for name in "ab":
        (tmp_path / name).mkdir()
        write(tmp_path / name / "x.pt", {"weights": torch.arange(5.0), "step": 3})
    assert (tmp_path / "a" / "x.pt").read_bytes() == (tmp_path / "b" / "x.pt").read_bytes()
