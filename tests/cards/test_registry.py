"""Names to cards: near misses, URIs, paths."""

from __future__ import annotations

import pytest

from levl_eval.cards.registry import backbone_card, task_card
from levl_eval.core.errors import UsageError


def test_unknown_task_names_the_near_miss():
    with pytest.raises(UsageError, match="did you mean pope"):
        task_card("poppe")


def test_unknown_backbone_names_the_near_miss():
    with pytest.raises(UsageError, match="random-nano"):
        backbone_card("randm-nano")


def test_unknown_scheme_and_empty_uri():
    with pytest.raises(UsageError, match="did you mean timm"):
        backbone_card("tim:vit_base_patch16_224")
    with pytest.raises(UsageError, match="nothing after"):
        backbone_card("hf:")


def test_missing_checkpoint_is_not_mistaken_for_a_name():
    with pytest.raises(UsageError, match="no such file"):
        backbone_card("runs/none/ckpt.pt")


def test_checkpoints_are_named_after_their_run(tmp_path):
    run = tmp_path / "my-run"
    run.mkdir()
    (run / "ckpt.pt").write_bytes(b"")
    (run / "other.safetensors").write_bytes(b"")
    assert backbone_card(str(run / "ckpt.pt")).name == "my-run"
    assert backbone_card(str(run / "other.safetensors")).name == "other"


def test_random_uris_are_baselines():
    assert backbone_card("random:vit_tiny_patch16_224").baseline
    assert not backbone_card("timm:vit_tiny_patch16_224").baseline


def test_a_card_file_is_a_backbone(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("kind: backbone\nname: mine\nuri: random:nano\n")
    assert backbone_card(str(path)).name == "mine"
    path.write_text("kind: recipe\nname: r\ndata: []\n")
    with pytest.raises(UsageError, match="backbone card was expected"):
        backbone_card(str(path))


def test_a_whole_recipe_can_be_given_as_a_mapping():
    own = "{name: own, epochs: 2, data: [{layout: pope, root: train}]}"
    card = task_card("pope", {"recipe": own, "recipe.lr": "0.5"})
    assert (card.recipe.name, card.recipe.epochs, card.recipe.lr, card.recipe.data[0].root) == ("own", 2, 0.5, "train")
    with pytest.raises(UsageError, match="unknown recipe"):
        task_card("pope", {"recipe": "nosuch"})
