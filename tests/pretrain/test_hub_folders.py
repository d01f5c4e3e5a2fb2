"""data=hf: of folders: what lies there is read, whatever was read from a folder of the same name before."""

from __future__ import annotations

from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from levl_eval.core.errors import UsageError
from levl_eval.models.config import parse_config
from levl_eval.pretrain.streams import open_source
from tests.data import small_sets as small

CARD = "---\nconfigs:\n- config_name: default\n  data_files:\n  - {split: train, path: train-*}\n---\n"


@pytest.fixture(autouse=True)
def tables(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "tables")


def table(*captions, **columns) -> datasets.Dataset:
    return small.table_of([
        {"image": small.image_bytes(k), "caption": c, **{n: v[k] for n, v in columns.items()}} for k, c in enumerate(captions)
    ])  # fmt: skip


def folder_of(folder: Path, rows: datasets.Dataset) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows.to_parquet(folder / "train-00000-of-00001.parquet")
    (folder / "README.md").write_text(CARD)
    return folder


def captions(data: str, *words: str) -> list[list[str]]:
    return [raw.captions for raw in open_source(parse_config([f"data=hf:{data}", *words])).epoch(0, 0, 1)]


def test_folders_of_one_name_are_each_read_and_a_changed_one_anew(tmp_path):
    one, other = folder_of(tmp_path / "x" / "set", table("a", "b")), folder_of(tmp_path / "y" / "set", table("c", "d"))
    assert sorted(map(str, captions(str(one)))) == ["['a']", "['b']"]
    assert sorted(map(str, captions(str(other)))) == ["['c']", "['d']"]
    folder_of(one, table("A", "B"))
    assert sorted(map(str, captions(str(one)))) == ["['A']", "['B']"]


def test_a_part_that_is_missing_is_told(tmp_path):
    folder = folder_of(tmp_path / "set", table("a", "b"))
    (folder / "train-00000-of-00001.parquet").rename(folder / "train-00000-of-00002.parquet")
    with pytest.raises(UsageError, match=r"data=hf:.*set:train: 1 of 2 files are missing, first train-00001-of-00002\.parquet"):
        captions(str(folder))


def test_a_column_of_something_else_than_images_is_told(tmp_path):
    rows = table("a", "b").remove_columns("image")
    numbers = folder_of(tmp_path / "numbers", rows.add_column("image", [1, 2]))
    with pytest.raises(UsageError, match="field `image_field`: column 'image' holds no images but int64"):
        captions(str(numbers))
    lists = folder_of(tmp_path / "lists", rows.add_column("image", [[{"bytes": b"x", "path": None}]] * 2))
    with pytest.raises(UsageError, match="column 'image' holds no images but List"):
        captions(str(lists))


@pytest.mark.parametrize("empty", [" ", "", None])
def test_captions_come_from_the_first_column_that_holds_any(empty, tmp_path):
    folder = folder_of(tmp_path / "set", table(empty, "b", text=["t", "u"]))
    assert sorted(map(str, captions(str(folder)))) == ["['b']", "['t']"]
    lists = folder_of(tmp_path / "lists", table([empty], ["b"], text=["t", "u"]))
    assert sorted(map(str, captions(str(lists)))) == ["['b']", "['t']"]


def test_a_split_is_one_of_the_folder_and_may_be_a_part(tmp_path):
    folder = folder_of(tmp_path / "set", table("a", "b", "c"))
    assert sorted(map(str, captions(f"{folder}:train[:2]"))) == ["['a']", "['b']"]
    table("a", "b").save_to_disk(str(tmp_path / "disk"))
    assert len(captions(str(tmp_path / "disk"))) == len(captions(f"{tmp_path}/disk:train")) == 2
    with pytest.raises(UsageError, match="disk:test: the folder holds one table, of no split; take `:test` out"):
        captions(f"{tmp_path}/disk:test")


def test_an_empty_image_of_a_table_is_no_file_of_its_name_beside_us(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here" / "a.png").write_bytes(b"another image")
    table = pa.table({"image": pa.array([{"bytes": b"", "path": "a.png"}]), "text": ["a"]})
    (tmp_path / "hub").mkdir()
    pq.write_table(table, tmp_path / "hub" / "train.parquet")
    source = open_source(parse_config([f"data=hf:{tmp_path / 'hub'}", "batch_size=4"]))
    assert [(raw.captions, raw.image) for raw in source.epoch(0, 0, 1)] == [(["a"], b"")]
