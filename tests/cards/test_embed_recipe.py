"""Which recipe a card's connector is trained by, where the data are the scenes: the card's word counts before its recipe's."""

import pytest

from levl_eval.cards.overrides import embed_recipe

_RECIPES: dict[str, dict[str, object]] = {
    name: {"name": name, **({"on_scenes": named} if named else {})}
    for name, named in (
        ("plain", ""),
        ("mixed", "of-recipe"),
        ("of-recipe", ""),
        ("of-card", ""),
        ("scenes", ""),
        ("vqa-train", ""),
    )
}


@pytest.mark.parametrize(
    ("card", "chosen", "default", "expected"),
    [
        ({"recipe": "plain"}, None, "scenes", "scenes"),
        ({"recipe": "plain", "on_scenes": "of-card"}, None, "scenes", "of-card"),
        ({"recipe": "mixed"}, None, "scenes", "of-recipe"),
        ({"recipe": "mixed", "on_scenes": "of-card"}, None, "scenes", "of-card"),
        ({"recipe": "mixed", "on_scenes": "of-card"}, None, None, "mixed"),  # real data
        ({"recipe": "mixed", "on_scenes": "of-card"}, None, "vqa-train", "vqa-train"),  # another default than the scenes'
        ({"recipe": "mixed", "on_scenes": "of-card"}, "plain", "scenes", "plain"),  # --set
        ({}, None, None, "vqa-train"),
    ],
)
def test_which_recipe(card, chosen, default, expected):
    value = dict(card)
    embed_recipe(lambda name: dict(_RECIPES[name]), value, chosen, default, "task")
    assert value["recipe"] == _RECIPES[expected]
    assert value.get("on_scenes") == card.get("on_scenes")


def test_a_recipe_written_out_in_the_card_stays():
    value = {"recipe": {"name": "own"}, "on_scenes": "of-card"}
    embed_recipe(lambda name: dict(_RECIPES[name]), value, None, "scenes", "task")
    assert value["recipe"] == {"name": "own"}


def test_a_recipe_written_behind_set_is_the_one():
    value = {"recipe": "mixed", "on_scenes": "of-card"}
    embed_recipe(lambda name: dict(_RECIPES[name]), value, "{name: written, epochs: 2}", "scenes", "task")
    assert value["recipe"] == {"name": "written", "epochs": 2}
