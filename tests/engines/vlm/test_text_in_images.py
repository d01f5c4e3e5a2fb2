"""Questions about signs through the vqa engine: the metric's own name with its floor, one connector for all prompts, a word of warning."""

from __future__ import annotations

import pytest

from levl_eval.core.progress import Progress
from levl_eval.runner.evaluate import evaluate
from tests.engines.vlm.models import make

TASKS = ("docvqa", "ocrbench")
FAST = ("recipe=scenes", "recipe.steps=1", "recipe.images_per_batch=4", "recipe.max_questions=12", "prompt.max_new_tokens=2")


def test_text_in_images_on_the_scenes_through_one_connector(world, tmp_path, caplog):
    caplog.set_level("INFO")
    llm = make("llama", tmp_path / "llm", context=512)
    records = evaluate(
        ["random:nano"], list(TASKS), data=str(world), llm=llm.name, settings=[f"{t}.{s}" for t in TASKS for s in FAST],
        out=tmp_path / "out", cache=tmp_path / "cache", progress=Progress(),
    )  # fmt: skip
    assert [r.status for r in records] == ["done"] * 2, [r.reason for r in records]
    told = caplog.text
    for name, main, record in zip(TASKS, ("anls", "accuracy"), records, strict=True):
        assert record.metrics[main].clusters == 12 and record.metrics.keys().isdisjoint({"anls", "accuracy"} - {main})
        gain = record.metrics["gain_over_text_only"].value
        assert gain == pytest.approx(record.metrics[main].value - record.metrics["floor_text_only"].value)
        assert (
            record.notes["small_text"] == "asks about text in images, which is hardly legible at 64 px, the input of random:nano"
        )
        assert f"{name}: {record.notes['small_text']}" in told
    assert {"question_type/layout", "question_type/table/list"} <= records[0].metrics.keys()
    assert {"recognition", "type/Key Information Extraction"} <= records[1].metrics.keys()
    assert len(list((tmp_path / "cache" / "connectors").glob("*.safetensors"))) == 1


@pytest.mark.parametrize("llm", ["scenes-lm", "scenes-reader"])
def test_a_model_that_has_never_read_what_is_asked_is_named_with_the_one_that_has(world, tmp_path, caplog, llm):
    caplog.set_level("INFO")
    fast = [f"ocrbench.{s}" for s in FAST if s != "recipe=scenes"]
    (record,) = evaluate(
        ["random:nano"], ["ocrbench"], data=str(world), settings=["ocrbench.recipe=scenes-reading", *fast], llm=llm, out=tmp_path / "out",
        cache=tmp_path / "cache", progress=Progress(), limit=4,
    )  # fmt: skip
    assert record.status == "done", record.reason
    warned = "asks what the language model scenes-lm has never read; scenes-reader has (--llm scenes-reader)"
    assert record.notes.get("never_read") == (warned if llm == "scenes-lm" else None)
    assert (f"ocrbench: {warned}" in caplog.text) == (llm == "scenes-lm")
