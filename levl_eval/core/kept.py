"""Files that are kept between runs, each tied to its key and to a checksum of its contents.

A key says what a file was made from (records.identity.cache_key), the checksum that it is what was written. The files keep their native
forms: JSON, .npz, torch's. Readers raise FileNotFoundError where there is nothing and :class:`Damaged` for everything else that is
wrong, so that a caller says one line and computes again (:func:`recall`); what this user may not read is another's and stays.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard, TypeVar

import numpy as np

from levl_eval.core.errors import LevlError
from levl_eval.core.files import atomic_path, atomic_write
from levl_eval.core.hashing import digest
from levl_eval.core.progress import Progress

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
_SEAL = "levl-eval"  # name of the member of a .npz that holds key and checksum


class Damaged(LevlError):
    """What is kept is not what was written, or was made from something else. One line: the file, and what is wrong with it."""


class NotPermitted(Damaged):
    """What is kept is there, and this user may not read it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(
            f"{path}: this user may not read it (Permission denied); ask its owner for it, or use a folder of your own (LEVL_CACHE, --out)"
        )


def recall(read: Callable[[], T], progress: Progress) -> T | None:
    """What ``read`` gives; None where nothing is kept, or where that is damaged, which is said.

    Raises NotPermitted: computing again would replace another user's file, or fail to.
    """
    try:
        return read()
    except FileNotFoundError:
        return None
    except NotPermitted:
        raise
    except Damaged as e:
        progress.say(f"{e}; computed again")
        return None


def mark_used(path: str | os.PathLike[str]) -> None:
    """Note that something kept was used just now, as its modification time: reading, copying and backups leave that alone.

    Nothing happens where the file belongs to someone else.
    """
    with contextlib.suppress(OSError):
        os.utime(path)


def tree_digest(value: object) -> str:
    """SHA-256 of nested dicts, lists, tuples, plain values, arrays and tensors, of their types, names and bytes."""
    h = hashlib.sha256()
    _feed(h, value)
    return h.hexdigest()


def _is_tensor(value: object) -> TypeGuard[torch.Tensor]:
    return hasattr(value, "detach")  # known without importing torch


def _feed(h: hashlib._Hash, value: object) -> None:
    if _is_tensor(value):
        tensor = value.detach().cpu()
        h.update(f"tensor {tensor.dtype} {tuple(tensor.shape)};".encode())
        if tensor.numel():
            import torch

            h.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, np.ndarray):
        h.update(f"array {value.dtype.str} {value.shape};".encode())
        h.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data if value.size else b"")
    elif isinstance(value, Mapping):
        h.update(f"dict {len(value)};".encode())
        for key in sorted(value, key=lambda k: (type(k).__name__, str(k))):
            h.update(f"{type(key).__name__} {str(key)!r}:".encode("utf-8", "surrogatepass"))
            _feed(h, value[key])
    elif isinstance(value, (list, tuple)):
        h.update(f"list {len(value)};".encode())
        for item in value:
            _feed(h, item)
    else:
        h.update(f"{type(value).__name__} {value!r};".encode("utf-8", "surrogatepass"))


def _read_error(path: Path, e: BaseException) -> Damaged:
    return NotPermitted(path) if isinstance(e, PermissionError) else Damaged(f"{path}: cannot be read ({type(e).__name__})")


def _check(path: Path, key: str, stored_key: object, checksum: object, actual: str) -> None:
    if stored_key != key:
        raise Damaged(f"{path}: was made from something else than its name says")
    if checksum != actual:
        raise Damaged(f"{path}: damaged (checksum)")


def write_json(path: Path, key: str, value: object) -> None:
    """Plain JSON values, atomically."""
    atomic_write(path, json.dumps({"key": key, "checksum": digest(value), "value": value}, ensure_ascii=False))


def read_json(path: Path, key: str) -> object:
    """What :func:`write_json` has written. Raises FileNotFoundError, Damaged."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        stored_key, checksum = kept["key"], kept["checksum"]
        value: object = kept["value"]
        actual = digest(value)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as e:
        raise _read_error(path, e) from e
    _check(path, key, stored_key, checksum, actual)
    return value


def write_arrays(path: Path, key: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Arrays by name as one .npz, atomically. Raises LevlError where the disk is full."""
    seal = json.dumps({"key": key, "checksum": tree_digest(arrays)}).encode()
    with atomic_path(path) as temporary, open(temporary, "wb") as f:
        np.savez(f, **arrays, **{_SEAL: np.frombuffer(seal, np.uint8)})  # type: ignore[arg-type]


@lru_cache(1024)
def _layout(header: bytes) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array that an .npy header of version 1.0 says. Raises ValueError for objects and for Fortran's order."""
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(io.BytesIO(header[8:]))
    if dtype.hasobject or (fortran and len(shape) > 1):
        raise ValueError("not an array of plain values in C order")
    return shape, dtype


def _array(raw: bytes) -> np.ndarray:
    """An .npy file's array. numpy's own reader parses each header as Python; tables read thousands that are alike."""
    if raw[:8] != b"\x93NUMPY\x01\x00":
        out: np.ndarray = np.lib.format.read_array(io.BytesIO(raw), allow_pickle=False)
        return out
    begin = 10 + int.from_bytes(raw[8:10], "little")
    try:
        shape, dtype = _layout(raw[:begin])
    except ValueError:
        out = np.lib.format.read_array(io.BytesIO(raw), allow_pickle=False)
        return out
    return np.frombuffer(bytearray(memoryview(raw)[begin:]), dtype).reshape(shape)


_LOCAL_HEADER = 30  # bytes of a zip member's own header before its name and extra field, whose lengths stand at its end


def _member(raw: bytes, stored: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """A member of a .npz that lies in ``raw``.

    One that is not compressed is cut out: zipfile's own reader costs as much as all the rest where arrays are small. Raises
    BadZipFile for another checksum, as that does.
    """
    if info.compress_type != zipfile.ZIP_STORED:
        return stored.read(info)
    at = info.header_offset + _LOCAL_HEADER
    begin = at + sum(int.from_bytes(raw[i : i + 2], "little") for i in (at - 4, at - 2))
    data = raw[begin : begin + info.file_size]
    if zlib.crc32(data) != info.CRC:
        raise zipfile.BadZipFile(f"{info.filename}: another checksum")
    return data


def read_arrays(path: Path, key: str) -> dict[str, np.ndarray]:
    """What :func:`write_arrays` has written. Raises FileNotFoundError, Damaged."""
    try:
        raw = path.read_bytes()
        with zipfile.ZipFile(io.BytesIO(raw)) as stored:
            arrays = {i.filename.removesuffix(".npy"): _array(_member(raw, stored, i)) for i in stored.infolist()}
        seal = json.loads(arrays.pop(_SEAL).tobytes())
        stored_key, checksum = seal["key"], seal["checksum"]
    except FileNotFoundError:
        raise
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        EOFError,
        RuntimeError,
        zlib.error,
        zipfile.BadZipFile,
    ) as e:
        raise _read_error(path, e) from e  # RuntimeError: also an encrypted member, a form that zipfile does not know
    _check(path, key, stored_key, checksum, tree_digest(arrays))
    return arrays


def write_state(path: Path, key: str, state: Mapping[str, object]) -> None:
    """What lets a training resume, as torch writes it, atomically."""
    import torch

    with atomic_path(path) as temporary, open(temporary, "wb") as f:  # given a path, torch writes its name into the file
        torch.save({**state, "key": key, "checksum": tree_digest(state)}, f)


def read_state(path: Path, key: str, device: torch.device | str = "cpu") -> dict[str, object]:
    """What :func:`write_state` has written. Raises FileNotFoundError, Damaged."""
    import torch

    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        stored_key, checksum = state.pop("key"), state.pop("checksum")
        actual = tree_digest(state)
    except FileNotFoundError:
        raise
    except Exception as e:  # a damaged file has many ways to fail in torch's reader
        raise _read_error(path, e) from e
    _check(path, key, stored_key, checksum, actual)
    return {name: value if str(device) == "cpu" else _moved(value, device) for name, value in state.items()}


def _moved(value: object, device: torch.device | str) -> object:
    if _is_tensor(value):
        return value.to(device)
    if isinstance(value, dict):
        return {k: _moved(v, device) for k, v in value.items()}
    return type(value)(_moved(v, device) for v in value) if isinstance(value, (list, tuple)) else value
