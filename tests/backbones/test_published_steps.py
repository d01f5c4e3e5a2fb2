"""The published form of two files a step: which step and run a path stands for."""

from __future__ import annotations

import pytest
import torch

from levl_eval.backbones.locate import locate
from levl_eval.backbones.official import read_pair
from levl_eval.cards import BackboneCard
from levl_eval.core.errors import UsageError


def save(folder, run: str, step: int, sides=("vision", "text")) -> None:
    for side in sides:
        torch.save({"encoder": {"w": torch.tensor([step])}, "pre_proj": {}}, folder / f"{run}_{side}_step{step}.pt")


def test_a_file_stands_for_its_own_step_and_a_folder_for_its_last(tmp_path):
    for step in (10, 20):
        save(tmp_path, "a", step)
    save(tmp_path, "a", 30, ("vision",))  # still being written
    for name, step in (("a_vision_step10.pt", 10), ("a_text_step10.pt", 10), ("a_vision_step20.pt", 20), ("", 20)):
        vision, text, folder = read_pair(str(tmp_path / name), "x")
        assert (int(vision["encoder"]["w"]), int(text["encoder"]["w"]), folder) == (step, step, tmp_path), name
    found = locate(BackboneCard(kind="backbone", name="m", uri=str(tmp_path / "a_vision_step10.pt")))
    assert (found.scheme, found.rest) == ("official", str(tmp_path / "a_vision_step10.pt")) and found.files is None
    (tmp_path / "tokenizer.json").write_text("{}")
    found = locate(BackboneCard(kind="backbone", name="m", uri=str(tmp_path / "a_vision_step10.pt")))
    assert {p.name for p in found.files or ()} == {"a_vision_step10.pt", "a_text_step10.pt", "tokenizer.json"}


def test_towers_of_two_runs_are_not_put_together(tmp_path):
    save(tmp_path, "a", 10, ("vision",))
    save(tmp_path, "b", 10, ("text",))
    with pytest.raises(UsageError, match="nor a pair RUN_vision_stepN"):
        read_pair(str(tmp_path), "x")
    with pytest.raises(UsageError, match=r"a_text_step10\.pt: no such file; it belongs to a_vision_step10\.pt"):
        read_pair(str(tmp_path / "a_vision_step10.pt"), "x")
    for run in "ab":
        save(tmp_path, run, 10)
    with pytest.raises(UsageError, match=r"holds several runs' checkpoints \(a, b\); name one"):
        read_pair(str(tmp_path), "x")
    with pytest.raises(UsageError, match="expected a file named RUN_vision_stepN"):
        read_pair(__file__, "x")
