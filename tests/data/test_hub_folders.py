"""A repository in a folder: all parts of a split or none, tables that are tables, columns that lost their features."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from levl_eval.cards import DataSpec, HubSource
from levl_eval.core.errors import UsageError
from levl_eval.data.readers import read_questions
from tests.data import small_sets as small

pytestmark = pytest.mark.hub

CARD = "---\nconfigs:\n- config_name: default\n  data_files:\n  - {split: test, path: data/test-*}\n---\n"


def pope(numbers) -> datasets.Dataset:
    return small.table_of([
        {"id": f"{i}", "question_id": str(i), "question": f"Is there a {i}?", "answer": "yes", "image_source": f"COCO_val2014_{i:012d}",
         "image": small.image_bytes(i, "JPEG"), "category": "random"} for i in numbers
    ])  # fmt: skip


def parts(folder: Path, total: int, numbers, ending: str = "", split: str = "test") -> Path:
    for k in numbers:
        file = folder / "data" / f"{split}-{k:05d}-of-{total:05d}{ending}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pope([k]).to_parquet(file)
    return folder


def read(folder: Path, **hub) -> int:
    return len(read_questions(DataSpec(layout="pope", hub=HubSource(repo=str(folder), split="test", **hub)), "hub").questions)


@pytest.fixture(autouse=True)
def tables(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "tables")


@pytest.mark.parametrize("card", [CARD, ""])
@pytest.mark.parametrize("ending", ["", "-0123456789abcdef"])
def test_a_part_that_is_missing_is_told(card, ending, tmp_path):
    folder = parts(tmp_path / "set", 4, [0, 1, 2, 3], ending)
    if card:
        (folder / "README.md").write_text(card)
    assert read(folder) == 4
    (folder / "data" / f"test-00002-of-00004{ending}.parquet").unlink()
    with pytest.raises(UsageError, match=r"set: 1 of 4 files are missing, first data/test-00002-of-00004\.parquet; copy them"):
        read(folder)
    with pytest.raises(UsageError, match="1 of 4 files are missing"):
        read(folder, files="data/test-*")


def test_parts_of_another_split_do_not_count(tmp_path):
    folder = parts(parts(tmp_path / "set", 2, [0, 1]), 9, [3], split="train")
    (folder / "README.md").write_text(CARD)
    assert read(folder) == 2


def test_two_countings_are_two_versions(tmp_path):
    folder = parts(parts(tmp_path / "set", 2, [0, 1]), 1, [0])
    with pytest.raises(
        UsageError, match="set: data/test lies there in 1 parts and in 2, of which one are another version's; remove"
    ):
        read(folder)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
            "is a Git LFS pointer, .* fetch the file itself",
        ),
        (b"<!DOCTYPE html><html>", "is an HTML page, as a failed download leaves it"),
        (b"", "is no whole Parquet file; download it again"),
        (None, "is no whole Parquet file; download it again"),
    ],
)
def test_a_table_that_is_none_is_named(content, words, tmp_path):
    folder = parts(tmp_path / "set", 2, [0, 1])
    file = folder / "data" / "test-00001-of-00002.parquet"
    file.write_bytes(file.read_bytes()[:-9] if content is None else content)
    with pytest.raises(UsageError, match=rf"test-00001-of-00002\.parquet: {words}"):
        read(folder)


def test_a_folder_that_holds_nothing_and_one_of_several_configurations(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="empty: holds no files; give the folder of the whole repository"):
        read(tmp_path / "empty")
    folder = small.repository(tmp_path / "two", {"a": ("test", pope([0])), "b": ("test", pope([1]))})
    with pytest.raises(UsageError, match=r"has several configurations \(a, b\); name one of them by `hub.questions`"):
        read(folder)


@pytest.mark.parametrize("card", [CARD, ""])
def test_a_file_with_other_columns_than_its_siblings_is_named(card, tmp_path, capfd):
    folder = parts(tmp_path / "set", 2, [0, 1])
    if card:
        (folder / "README.md").write_text(card)
    pope([1]).add_column("note", ["x"]).rename_column("category", "kind").to_parquet(
        folder / "data" / "test-00001-of-00002.parquet"
    )
    with pytest.raises(UsageError) as e:
        read(folder)
    assert "\n" not in str(e.value) and "Generation" not in str(e.value)
    for words in (
        "set/data/test-00001-of-00002.parquet: has 'kind', 'note' and lacks 'category'",
        "give all of them the same columns",
    ):
        assert words in str(e.value)
    assert "Couldn't cast" not in capfd.readouterr().err


def test_pretraining_names_the_file_too(tmp_path):
    from levl_eval.pretrain.streams import Hub

    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train-0.jsonl").write_text('{"image": "a.png", "text": "a"}\n')
    (folder / "train-1.jsonl").write_text('{"image": "b.png", "text": "b", "note": "x"}\n')
    hub = Hub(str(folder), "", "image", ("text",), 0, 10, streaming=False)
    with pytest.raises(UsageError, match=r"data=hf:.*set:train: .*: has 'note', unlike the files before it"):
        hub.open()
