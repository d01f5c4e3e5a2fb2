"""Revisited Oxford and Paris' layout:
JSON and the published pickle read alike, nothing in a pickle runs, bad files are refused in one line."""

from __future__ import annotations

import json
import os
import pickle

import numpy as np
import pytest
from PIL import Image

from levl_eval.cards import DataSpec
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.data.check import check
from levl_eval.data.fingerprints import content_of
from levl_eval.data.readers import read_instances

SPEC = DataSpec(layout="revisited", directory="roxford5k")


def annotation(**changed):
    """Two queries over six images."""
    truth = [
        {"bbx": [3.4, 2.6, 20.5, 18.0], "easy": [0], "hard": [1, 2], "junk": [3]},
        {"bbx": [0, 0, 24, 20], "easy": [], "hard": [4], "junk": []},
    ]
    truth[0].update(changed)
    return {"imlist": [f"im_{k}" for k in range(6)], "qimlist": ["q_0", "q_1"], "gnd": truth}


def small(root, value=None, form="json"):
    """A set in the published layout, its annotation as JSON or as the pickle that is published."""
    value = value or annotation()
    rng = np.random.default_rng(0)
    (root / "jpg").mkdir(parents=True)
    for name in ("im_0", "im_1", "im_2", "im_3", "im_4", "im_5", "q_0", "q_1"):
        Image.fromarray(rng.integers(0, 255, (20, 24, 3), np.uint8)).save(root / "jpg" / f"{name}.jpg")
    if form == "json":
        (root / "gnd_roxford5k.json").write_text(json.dumps(value))
    else:
        for one in value["gnd"]:
            one |= {k: np.array(one[k], np.int64) for k in ("easy", "hard", "junk")}
        (root / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(value, protocol=2))
    return root


def test_both_forms_are_read_alike(tmp_path):
    one, other = (read_instances(SPEC, str(small(tmp_path / f / "roxford5k", form=f).parent)) for f in ("json", "pkl"))
    assert content_of(one) == content_of(other) and one.database == other.database == tuple(f"im_{k}" for k in range(6))
    first = one.queries[0]
    assert (first.image, first.easy, first.hard, first.junk) == ("query/q_0", ("im_0",), ("im_1", "im_2"), ("im_3",))
    # The query is cut as Pillow cuts it; the file itself is as large as the others.
    whole = Image.open(tmp_path / "json/roxford5k/jpg/q_0.jpg").convert("RGB")
    np.testing.assert_array_equal(np.array(one.images.open("query/q_0")), np.array(whole.crop((3.4, 2.6, 20.5, 18.0))))
    assert one.images.open("query/q_0").size == (17, 15) and one.images.open("im_0").size == (24, 20)


def test_boxes_and_truth_move_the_fingerprint(tmp_path):
    plain = content_of(read_instances(SPEC, str(small(tmp_path / "a" / "roxford5k").parent))).fingerprint
    for k, change in enumerate(({"bbx": [4, 2, 20, 18]}, {"easy": [0, 5]}, {"junk": []})):
        other = read_instances(SPEC, str(small(tmp_path / f"b{k}" / "roxford5k", annotation(**change)).parent))
        assert content_of(other).fingerprint != plain, change


def test_a_limit_keeps_queries_with_their_images(tmp_path):
    data = str(small(tmp_path / "roxford5k").parent)
    found = read_instances(SPEC, data, 6)
    assert len(found.queries) == 1 and found.database == tuple(f"im_{k}" for k in range(5))
    with pytest.raises(UsageError, match="the first query needs more images than --limit 4"):
        read_instances(SPEC, data, 4)


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil",)


@pytest.mark.parametrize("value", [Evil(), {"imlist": [Evil()]}, np.array([Evil()], object)])
def test_nothing_in_a_pickle_runs(tmp_path, monkeypatch, value):
    monkeypatch.chdir(tmp_path)
    root = small(tmp_path / "roxford5k")
    (root / "gnd_roxford5k.json").unlink()
    (root / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(value))
    with pytest.raises(
        UsageError, match=r"names (posix|nt)\.system, which is neither a plain container nor a numpy array"
    ) as told:
        read_instances(SPEC, str(tmp_path))
    assert "\n" not in str(told.value) and not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", pickle.dumps(annotation())[:60], pickle.dumps([1, 2]), pickle.dumps({"imlist": 3})]
)
def test_a_damaged_pickle_is_one_line(tmp_path, content):
    root = small(tmp_path / "roxford5k")
    (root / "gnd_roxford5k.json").unlink()
    (root / "gnd_roxford5k.pkl").write_bytes(content)
    with pytest.raises(UsageError, match=r"gnd_roxford5k\.pkl") as told:
        read_instances(SPEC, str(tmp_path))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"easy": [6]}, "position 6 is beyond the 6 images"), ({"easy": [1]}, "image 1 is of two kinds"),
        ({"bbx": [5, 5, 5, 9]}, "is no box"), ({"bbx": [5, 5, 9]}, "bbx"), ({"hard": ["a"]}, "hard.0"),
        ({"junk": [-1]}, "expected a position from 0"), ({"bbx": [90, 0, 99, 9]}, "lies beyond it"),
    ],
)  # fmt: skip
def test_lists_that_do_not_fit_are_refused_in_one_line(tmp_path, change, message):
    small(tmp_path / "roxford5k", annotation(**change))
    with pytest.raises(LevlError, match=message) as told:
        read_instances(SPEC, str(tmp_path)).images.open("query/q_0")
    assert "\n" not in str(told.value)


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(UsageError, match=r"is missing .*get gnd_roxford5k\.pkl"):
        read_instances(SPEC, str(tmp_path))
    with pytest.raises(UsageError, match="--data hub: queries of instances are read from files"):
        read_instances(SPEC, "hub")
    with pytest.raises(UsageError, match="holds no queries of instances"):
        read_instances(DataSpec(layout="ade20k"), str(tmp_path))
    root = small(tmp_path / "roxford5k")
    (root / "jpg/im_4.jpg").unlink()
    with pytest.raises(UsageError, match="1 of 8 images are missing"):
        read_instances(SPEC, str(tmp_path))
    found = read_instances(SPEC.model_copy(update={"skip_broken": "1"}), str(tmp_path))
    assert "im_4" not in found.database and found.queries[1].hard == ()
    for change, message in (
        (lambda v: v["imlist"].append("im_0"), "'im_0' is listed twice"), (lambda v: v["qimlist"].pop(), "has 2 entries for 1 queries"),
        (lambda v: v["imlist"].append("../x"), "is no file name"),
    ):  # fmt: skip
        value = annotation()
        change(value)
        (root / "gnd_roxford5k.json").write_text(json.dumps(value))
        with pytest.raises(UsageError, match=message):
            read_instances(SPEC, str(tmp_path))


def test_data_check_counts_queries_and_looks_at_their_boxes(tmp_path):
    root = small(tmp_path / "roxford5k")
    [found] = [f for f in check(tmp_path) if f.set == "roxford5k"]
    assert (found.level, found.message) == ("note", "2 queries over 6 images; published 70 over 4,993")
    (root / "gnd_roxford5k.json").write_text(json.dumps(annotation(bbx=[90, 0, 99, 9])))
    [found] = [f for f in check(tmp_path) if f.set == "roxford5k"]
    assert found.level == "error" and "lies beyond it" in found.message
