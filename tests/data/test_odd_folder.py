"""The golden folder of odd files through the public readers: each is read as it says, or refused in one line that names the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from levl_eval.cards import DataSpec
from levl_eval.core.errors import LevlError
from levl_eval.core.text import printable
from levl_eval.data.readers import read_captions, read_classification, read_questions, read_segmentation
from levl_eval.data.rgb import decode_rgb, open_rgb
from levl_eval.pretrain.samples import opened
from levl_eval.pretrain.tars import read_tar
from tests.data import odd_files
from tests.data.odd_files import ODD, Odd


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out: Path = tmp_path_factory.mktemp("odd")
    odd_files.make(out)
    return out


def _image(path: Path, odd: Odd) -> Any:
    image = open_rgb(path)
    pixel = image.getpixel((0, 0))
    assert image.mode == "RGB" and np.asarray(decode_rgb(path.read_bytes(), "row 0")).tolist() == np.asarray(image).tolist()
    return image.size, pixel


def _labels(path: Path, odd: Odd) -> Any:
    spec = DataSpec(layout="labels", images=str(path.parent / "images"), annotations=str(path), **odd.fields)
    return read_classification(spec, "").labels.tolist()


def _mask(path: Path, odd: Odd) -> Any:
    images = path.parent.parent / "images"  # masks lie in a folder beside it
    spec = DataSpec(layout="segmentation", images=str(images), annotations=str(path.parent), **odd.fields)
    return np.unique(read_segmentation(spec, "").mask("m.png")).tolist()


def _questions(path: Path, odd: Odd) -> Any:
    own = odd.fields["layout"] in ("vqa", "llava", "vizwiz")
    where = {"questions": str(path), "images": str(path.parent / "images")} if own else {"root": str(path.parent)}
    return [(q.question, q.answer) for q in read_questions(DataSpec(**where, **odd.fields), "").questions]


def _captions(path: Path, odd: Odd) -> Any:
    kind = {"layout": "karpathy", "split": "test"} if path.name.startswith("dataset_") else {"layout": "captions"}
    return list(read_captions(DataSpec(annotations=str(path), images=str(path.parent), **kind), "").captions)


def _tar(path: Path, odd: Odd) -> Any:
    return [r.captions[0] for r in read_tar(str(path), ("txt",)) if opened(r)[0] is not None]


READ = {"images": _image, "labels": _labels, "masks": _mask, "questions": _questions, "captions": _captions, "tars": _tar}


@pytest.mark.parametrize("odd", ODD, ids=lambda o: o.key)
def test_odd_file(odd, folder):
    path = odd.path(folder)
    if not odd.words:
        assert odd.gives is not None and READ[odd.kind](path, odd) == odd.gives
        return
    with pytest.raises(LevlError, match=odd.words) as e:
        READ[odd.kind](path, odd)
    line = printable(str(e.value))
    assert printable(path.name) in line or "field `classes`" in line
    assert "\n" not in line and "\x1b" not in line
