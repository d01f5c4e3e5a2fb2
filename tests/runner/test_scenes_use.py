"""The synthetic scenes are drawn where something of them is read, and nobody is sent to the folder of the cache where they lie."""

from __future__ import annotations

import pytest
import torch

from levl_eval.cards import RecipeCard
from levl_eval.cards.registry import backbone_card
from levl_eval.cli import main
from levl_eval.core.errors import UsageError
from levl_eval.core.progress import Progress
from levl_eval.engines.vlm.api import assemble
from levl_eval.runner import plan
from levl_eval.runner.datasets import needs_scenes
from levl_eval.runner.plan import resolve_tasks
from levl_eval.scenes.manifest import ROOMS

CHOICES = ("sugarcrepe", "winoground", "aro-order", "mmvp-vlm")
OWN_LINEAR = ["linear.data.root=a", "linear.train.root=b"]
OWN_VQA = ["vqa.data.questions=test.jsonl", "vqa.recipe.data.0.questions=train.jsonl"]


@pytest.mark.parametrize(
    ("tasks", "settings", "backbone", "needed"),
    [
        (["gqa"], [], "random:nano", True),
        (["linear"], [], "random:nano", True),
        (["linear"], OWN_LINEAR[:1], "random:nano", True),  # trained on the scenes
        (["linear"], OWN_LINEAR, "random:nano", False),
        (["linear", "gqa"], OWN_LINEAR, "random:nano", True),
        (["vqa"], OWN_VQA, "random:nano", False),
        (["imagenet", "knn@pets"], [], "random:nano", False),  # none of theirs
        (["linear"], OWN_LINEAR, "oracle:classes", True),
    ],
)
def test_when_they_are_needed(tasks, settings, backbone, needed):
    cards = resolve_tasks(tasks, settings, "scenes")
    assert needs_scenes(cards.values(), [backbone_card(backbone)]) is needed


def test_a_task_on_folders_of_ones_own_draws_none(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "resolve_data", lambda *a: pytest.fail("the scenes are drawn"))
    cards = resolve_tasks(["linear"], OWN_LINEAR, "scenes")
    folder = plan.data_folder("scenes", cards.values(), [backbone_card("random:nano")], tmp_path, Progress(quiet=True))
    assert folder.startswith(str(tmp_path)) and list(tmp_path.iterdir()) == []


def test_ask_with_a_recipe_on_a_folder_of_ones_own_draws_none(tmp_path, monkeypatch):
    monkeypatch.setattr("levl_eval.data.sources.resolve_data", lambda *a: pytest.fail("the scenes are drawn"))
    recipe = tmp_path / "own.yaml"
    recipe.write_text("kind: recipe\nname: own\ndata:\n  - {layout: vqa, questions: gone.jsonl, images: gone}\n")
    with pytest.raises(UsageError, match=r"gone"):  # the folder of one's own is looked for
        assemble(
            "random-nano", "scenes-lm", str(recipe), "scenes", 0, torch.device("cpu"), tmp_path / "cache", Progress(quiet=True)
        )


def test_rooms_of_the_scenes_are_those_their_tasks_read():
    cards = resolve_tasks(
        [
            "gqa",
            "vqav2",
            "pope",
            "ade20k",
            "linear",
            "imagenet9",
            "spair71k",
            "davis",
            "roxford5k",
            *CHOICES,
            "shift",
            "cv-bench-2d",
            "mmbench",
            *("chartqa", "docvqa", "infovqa", "ocrbench", "tallyqa", "vsr", "refcoco"),
            *("nyuv2", "sunrgbd", "kitti", "nyuv2-normals"),
            *("mmvp", "realworldqa", "seed-image", "ai2d", "blink-counting", "navi"),
        ],
        [],
        "scenes",
    )
    mixes = [c.recipe.data for c in cards.values() if isinstance(getattr(c, "recipe", None), RecipeCard)]
    read = {d.directory.partition("/")[0] for d in [*(c.data for c in cards.values()), *(d for mix in mixes for d in mix)]}
    assert read == set(ROOMS)


@pytest.mark.parametrize("task", ["imagenet", "vqav2-testdev", "blink-iq-test"])
def test_a_set_that_they_do_not_have_is_said_without_a_way_into_the_cache(task, tmp_path, monkeypatch, capsys):
    cache = tmp_path / "the-cache"
    monkeypatch.setenv("LEVL_CACHE", str(cache))
    monkeypatch.setattr(plan, "resolve_data", lambda *a: str(plan.world_folder(cache)))  # as if they were drawn
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--backbone", "random:nano", "--tasks", task, "--seeds", "0", "--quiet"]) == 1
    told = capsys.readouterr()
    assert "the synthetic scenes, which are read without it, hold no such set" in told.out
    assert "the-cache" not in told.out + told.err
