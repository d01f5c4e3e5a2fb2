"""Places from several viewpoints: the same things, moved and lit otherwise, and the annotation that says so."""

from __future__ import annotations

import json

import numpy as np

from levl_eval.scenes.places import KIND, VIEWS, places_file, view_of
from levl_eval.scenes.render import render_image


def test_views_show_one_place_in_other_light():
    for seed in range(12):
        views = [view_of(seed, k) for k in range(VIEWS)]
        assert (
            len({tuple((o.category, o.color, o.variant) for o in v.objects) for v in views}) == 1
            and len({v.seed for v in views}) == VIEWS
        )
        assert all(0 < b.bottom <= 1 for v in views for b in v.bands) and views[0].bands[-1].bottom == 1
        images = [render_image(v, 64).astype(float) for v in views]
        near, far = (np.abs(images[0] - images[k]).mean() for k in (KIND.index("easy"), KIND.index("junk")))
        assert 0 < near < far


def test_annotation_names_what_is_easy_hard_and_junk(world):
    value = json.loads((world / "roxford5k/gnd_roxford5k.json").read_text())
    assert value == places_file(24, 64) and len(value["qimlist"]) == 4 and len(value["imlist"]) == 20
    for name, truth in zip(value["qimlist"], value["gnd"], strict=True):
        place = name.rsplit("_", 1)[0]
        for kind in ("easy", "hard", "junk"):
            for i in truth[kind]:
                assert value["imlist"][i].rsplit("_", 1)[0] == place and KIND[int(value["imlist"][i][-1])] == kind
    partial = places_file(VIEWS + 2, 64)
    assert len(partial["qimlist"]) == 1 and len(partial["imlist"]) == VIEWS + 1  # type: ignore[arg-type]
