"""`--data hub` without a network, from files as `hf download` leaves them: GQA, VQAv2 and POPE from their cards to a record."""

from __future__ import annotations

import json
import shutil

import datasets
import pytest
from huggingface_hub import constants

from levl_eval.cards import DataSpec, HubSource
from levl_eval.core.errors import UsageError
from levl_eval.core.progress import Progress
from levl_eval.data.readers import read_questions
from levl_eval.runner.evaluate import evaluate
from tests.data import small_sets as small
from tests.engines.vlm.models import make

pytestmark = pytest.mark.hub

FAST = ["recipe.steps=2", "recipe.images_per_batch=4", "recipe.max_questions=20", "prompt.max_new_tokens=3"]


def gqa_tables(split, kind):
    rows = [{**r, "fullAnswer": "", "equivalent": str(r["entailed"]), "entailed": str(r["entailed"])} for r in small.gqa_rows()]
    images = [{"id": f"n{k}", "image": small.image_bytes(k)} for k in range(small.N)]
    return {f"{kind}_instructions": {split: small.table_of(rows, ())}, f"{kind}_images": {split: small.table_of(images)}}


def vqav2_rows():
    out = []
    for i in range(2 * small.N):
        answers = [{"answer": "red", "answer_confidence": "yes", "answer_id": k + 1} for k in range(10)]
        out.append({"question_type": "what is", "multiple_choice_answer": "red", "answers": answers, "image_id": i % small.N,
                    "answer_type": "other", "question_id": i, "question": f"What colour is {i}?",
                    "image": small.image_bytes(i % small.N, "JPEG")})  # fmt: skip
    return small.table_of(out)


def pope_rows():
    return small.table_of([
        {"id": f"{s}{i}", "question_id": str(i), "question": f"Is there a {s} {i}?", "answer": ("yes", "no")[i % 2],
         "image_source": f"COCO_val2014_{i % small.N:012d}", "image": small.image_bytes(i % small.N, "JPEG"), "category": s}
        for s in ("adversarial", "popular", "random") for i in range(2 * small.N)
    ])  # fmt: skip


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "tables")
    return tmp_path / "hub"


def fill(cache, owner):
    small.hub_snapshot(
        cache, f"{owner}/GQA", {**gqa_tables("train", "train_balanced"), **gqa_tables("testdev", "testdev_balanced")}
    )
    small.hub_snapshot(cache, f"{owner}/VQAv2-FewShot", {"full": {"train": vqav2_rows(), "validation": vqav2_rows()}})
    small.hub_snapshot(cache, f"{owner}/VQAv2", {"default": {"validation": vqav2_rows(), "testdev": vqav2_rows()}})
    small.hub_snapshot(cache, f"{owner}/POPE", {"default": {"test": pope_rows()}})


@pytest.mark.slow
@pytest.mark.parametrize("owner", ["lmms-lab-encoder", "lmms-lab"])
def test_gqa_vqav2_and_pope_from_card_to_record(owner, cache, tmp_path):
    fill(cache, owner)
    llm = make("llama", tmp_path / "llm", context=512)
    words = [f"{t}.{s}" for t in ("gqa", "vqav2", "pope") for s in FAST]
    records = evaluate(
        ["random:nano"], ["gqa", "vqav2", "pope"], data="hub", llm=llm.name, settings=words, out=tmp_path / "out", cache=tmp_path / "cache",
        progress=Progress(quiet=True),
    )  # fmt: skip
    assert [r.status for r in records] == ["done"] * 3, [r.reason for r in records]
    assert all(r.data["source"] == "hub" for r in records)
    prepared = {p.name for p in (tmp_path / "tables" / "local").glob("**/*.arrow")}
    assert prepared and not any("validation" in n for n in prepared if "few_shot" in n.lower()), prepared
    made = [p.name for p in (tmp_path / "tables" / "local").glob("**/*-train*.arrow")]
    assert len(made) == 3  # GQA's two configurations and VQAv2's training split: the wanted split of each, no other


def test_only_the_wanted_split_is_prepared(cache, tmp_path):
    snapshot = small.hub_snapshot(cache, "lmms-lab/VQAv2-FewShot", {"full": {"train": vqav2_rows(), "validation": vqav2_rows()}})
    (snapshot / "full" / "validation-00000-of-00001.parquet").write_bytes(b"never read")
    spec = DataSpec(
        layout="vqav2", split="train2014", hub=HubSource(repo="lmms-lab/VQAv2-FewShot", questions="full", split="train")
    )
    assert len(read_questions(spec, "hub").questions) == 2 * small.N


def test_a_pinned_revision_is_the_one_that_is_read(cache):
    small.hub_snapshot(cache, "lmms-lab/VQAv2", {"default": {"validation": vqav2_rows()}}, "a" * 40)
    small.hub_snapshot(cache, "lmms-lab/VQAv2", {"default": {"validation": vqav2_rows().select(range(3))}}, "b" * 40)
    for revision, count in (("a" * 40, 2 * small.N), ("b" * 40, 3), (None, 3)):
        source = HubSource(repo="lmms-lab/VQAv2", split="validation", revision=revision)
        assert len(read_questions(DataSpec(layout="vqav2", hub=source), "hub").questions) == count
    with pytest.raises(UsageError, match="cannot be reached and its cache holds no copy"):
        source = HubSource(repo="lmms-lab/VQAv2", split="validation", revision="c" * 40)
        read_questions(DataSpec(layout="vqav2", hub=source), "hub")


def test_what_the_cache_lacks_is_named_with_the_command_that_fetches_it(cache):
    snapshot = small.hub_snapshot(cache, "lmms-lab/VQAv2", {"default": {"validation": vqav2_rows()}})
    file = snapshot / "default" / "validation-00000-of-00001.parquet"

    def read(**source):
        read_questions(DataSpec(layout="vqav2", hub=HubSource(repo="lmms-lab/VQAv2", **{"split": "validation", **source})), "hub")

    with pytest.raises(UsageError, match="has no such split: train; it has validation; correct `hub.split`"):
        read(split="train")
    with pytest.raises(UsageError, match="has no such configuration: full; it has default; correct `hub.questions`"):
        read(questions="full")
    with pytest.raises(UsageError, match="field `hub.split` is not set"):
        read(split=None)
    file.rename(file.with_name("validation-00000-of-00003.parquet"))
    with pytest.raises(
        UsageError,
        match=r"2 of 3 files of split validation are not in its cache, first .*00001-of-00003.*hf download lmms-lab/VQAv2",
    ):
        read()
    shutil.rmtree(snapshot / "default")
    with pytest.raises(UsageError, match="its cache holds no file of split validation; where there is a network: hf download"):
        read()


def test_a_column_that_is_missing_is_named(cache):
    small.hub_snapshot(
        cache, "lmms-lab/VQAv2-FewShot", {"full": {"train": small.table_of([json.loads('{"question": "?"}')], ())}}
    )
    spec = DataSpec(layout="vqav2", hub=HubSource(repo="lmms-lab/VQAv2-FewShot", questions="full", split="train"))
    with pytest.raises(UsageError, match="field 'answers' is missing; its columns are question"):
        read_questions(spec, "hub")
