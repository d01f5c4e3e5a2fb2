"""What is published is read by the libraries it is for, holds the run's own numbers, and leaves the machine only when asked to."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas
import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from huggingface_hub.repocard_data import model_index_to_eval_results

import levl_eval
from levl_eval.cli import main
from levl_eval.core.files import sha256_file
from levl_eval.core.progress import Progress
from levl_eval.metrics.statistics import mean_estimate
from levl_eval.records import Sample, read_records, write_record
from levl_eval.report import every_eval_ever
from tests.report.conftest import record as drawn

# Required fields of Every Eval Ever's two schemas, 0.2.2, and the values their enumerations allow.
SAMPLES_PATH = re.compile(
    r"data/[^/]+/[^/]+/[^/]+/[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}_samples\.jsonl"
)
AGGREGATE = {
    "schema_version",
    "evaluation_id",
    "retrieved_timestamp",
    "source_metadata",
    "model_info",
    "eval_library",
    "evaluation_results",
}
OPTIONAL = {"evaluation_timestamp", "detailed_evaluation_results"}
RESULT = {"evaluation_name", "source_data", "metric_config", "score_details"}
INSTANCE = {
    "schema_version", "evaluation_id", "model_id", "evaluation_name",
    "sample_id", "interaction_type", "input", "answer_attribution", "evaluation",
}  # fmt: skip
INSTANCE_OPTIONAL = {"evaluation_result_id", "sample_hash", "output", "messages", "error", "metadata"}


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("publish") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEVL_CACHE", str(out.parent / "cache"))
        levl_eval.evaluate(
            ["levljepa-nano", "random-nano"], ["knn", "ade20k"], data=str(world), out=out, seeds=[0],
            settings=["knn.k=[5]", "knn.main_metric=top1_k5", "ade20k.epochs=1"], progress=Progress(quiet=True),
        )  # fmt: skip
    return out


def published(run, tmp_path, *words):
    assert main(["publish", str(run), "--out", str(tmp_path / "p"), *words]) == 0
    return tmp_path / "p"


def all_texts(value):
    return all(isinstance(v, str) for v in value.values())


def test_a_model_card_holds_the_numbers_as_the_hub_reads_them(run, tmp_path, capsys):
    folder = published(run, tmp_path, "--benchmark", "knn=lab/scenes:knn")
    card = ModelCard.load(folder / "models" / "levljepa-nano" / "README.md")
    name, results = model_index_to_eval_results(card.data.to_dict()["model-index"])
    table = pandas.read_csv(run / "leaderboard.csv") if (run / "leaderboard.csv").exists() else None
    assert name == "levljepa-nano" and {r.dataset_type for r in results} == {"knn", "ade20k"}
    assert {r.task_type for r in results} == {"image-classification", "image-segmentation"}
    for r in results:
        assert r.metric_config.startswith("levl-eval ") and "protocol" in r.metric_config and r.source_url is None
        assert r.metric_args["low"] <= r.metric_value <= r.metric_args["high"]
        assert table is None or round(r.metric_value, 3) in set(table["value"].round(3))
    assert "majority" in card.content and "random-nano" in card.content and "| protocol |" in card.content
    entries = parse_eval_result_entries(
        yaml.safe_load((folder / "models" / "levljepa-nano" / ".eval_results" / "knn.yaml").read_text())
    )
    assert (entries[0].dataset_id, entries[0].task_id) == ("lab/scenes", "knn")
    assert entries[0].value == next(r.metric_value for r in results if r.dataset_type == "knn")
    assert not (folder / "models" / "levljepa-nano" / ".eval_results" / "ade20k.yaml").exists(), "no benchmark was named for it"


def test_every_eval_ever(run, tmp_path, capsys):
    folder = published(run, tmp_path, "--backbone", "levljepa-nano", "--organisation", "lab") / "every_eval_ever" / "data"
    files = sorted(folder.rglob("*.json"))
    assert [f.parent.relative_to(folder).as_posix() for f in files] == ["ade20k/local/levljepa-nano", "knn/local/levljepa-nano"]
    for file in files:
        content = json.loads(file.read_text())
        assert AGGREGATE <= content.keys() <= AGGREGATE | OPTIONAL and content["schema_version"] == "0.3.0"
        assert (
            content["source_metadata"]["source_type"] == "evaluation_run"
            and content["source_metadata"]["source_organization_name"] == "lab"
        )
        assert content["model_info"]["additional_details"]["deployment_type"] == "self_deployed"
        assert content["model_info"]["additional_details"]["model_availability"] in ("open_weights", "unknown")
        assert {"name", "id"} <= content["model_info"].keys() and all_texts(content["model_info"]["additional_details"])
        assert {"name", "version"} <= content["eval_library"].keys() and all_texts(content["eval_library"]["additional_details"])
        for result in content["evaluation_results"]:
            assert result.keys() >= RESULT and result["source_data"]["source_type"] == "other"
            config, score = result["metric_config"], result["score_details"]
            assert (
                isinstance(config["lower_is_better"], bool)
                and all_texts(config["additional_details"])
                and all_texts(score["additional_details"])
            )
            ends = [float(config[end]) for end in ("min_score", "max_score")]  # "Infinity" where there is none
            assert config["score_type"] == "continuous" and ends[0] <= score["score"] <= ends[1]
            assert score.keys() <= {"score", "uncertainty", "additional_details"}
        about = content["detailed_evaluation_results"]
        # the schema's own pattern: rooted at data/, named by a UUID of version 4
        assert SAMPLES_PATH.fullmatch(about["file_path"])
        details = folder.parent / about["file_path"]
        lines = [json.loads(line) for line in details.read_text().splitlines()]
        assert len(lines) == about["total_rows"] > 0 and sha256_file(details) == about["checksum"]
        ids = {r["evaluation_result_id"] for r in content["evaluation_results"]}
        for line in lines:
            assert INSTANCE <= line.keys() <= INSTANCE | INSTANCE_OPTIONAL and line["evaluation_id"] == content["evaluation_id"]
            assert line["evaluation_result_id"] in ids and line["interaction_type"] == "single_turn" and line["messages"] is None
            assert isinstance(line["evaluation"]["is_correct"], bool) and isinstance(line["evaluation"]["score"], float)
            assert line["output"]["raw"] and all_texts(line["metadata"])


def test_names_with_one_file_stem_and_seeds_of_one_run_stay_apart(tmp_path, capsys):
    """What is published of `m 1`, `m-1` and `M-1` lies in folders of its own, and no two records are one evaluation."""
    run, right = tmp_path / "run", {"m 1": 1.0, "m-1": 0.5, "M-1": 0.25, "plain": 0.0}
    for name, value in right.items():
        for seed in (0, 1):
            rows = [Sample(id=f"{k}", image_id=f"{k}", score=value) for k in range(4)]
            estimate = mean_estimate(np.full(4, value))
            write_record(run, drawn(name, "knn", "top1", {"top1": estimate}, seed, identity_hash=f"{seed}{name}"), rows)
    folder = published(run, tmp_path)
    cards = {p.parent.name: ModelCard.load(p).data for p in (folder / "models").glob("*/README.md")}
    shown = {r.metric_value for card in cards.values() for r in card.eval_results}
    assert shown == {100 * v for v in right.values()} and "plain" in cards and len({c.lower() for c in cards}) == len(right)
    files = [json.loads(p.read_text()) for p in (folder / "every_eval_ever").rglob("*.json")]
    assert len({f["evaluation_id"] for f in files}) == len(files) == 2 * len(right)
    scores: dict[str, set[float]] = {}
    for f in files:
        scores.setdefault(f["model_info"]["id"].lower(), set()).add(f["evaluation_results"][0]["score_details"]["score"])
    assert len(scores) == len(right) and all(len(values) == 1 for values in scores.values())
    few = tmp_path / "one"
    assert main(["publish", str(run), "--out", str(few), "--backbone", "m-1"]) == 0  # alone it is called as among the others
    assert {p.name for p in (few / "models").iterdir()} < set(cards)


def test_publishing_twice_gives_the_same_bytes(run, tmp_path, capsys):
    first, second = published(run, tmp_path / "a"), published(run, tmp_path / "b")
    files = [p.relative_to(first) for p in sorted(first.rglob("*")) if p.is_file()]
    assert len(files) == 12 and all((first / f).read_bytes() == (second / f).read_bytes() for f in files)


def test_the_leaderboard_is_a_table_with_a_card(run, tmp_path, capsys):
    folder = published(run, tmp_path) / "leaderboard"
    table = pandas.read_parquet(folder / "leaderboard.parquet")
    assert set(table["backbone"]) == {"levljepa-nano", "random-nano"} and table["value"].dtype == float
    front = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    assert front["configs"][0]["data_files"] == "leaderboard.parquet"
    assert "`comparison_hash`" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--benchmark", "gqa=lab/gqa"], "gqa is not among the finished tasks"), (["--benchmark", "knn"], "expected TASK=ORG/DATASET"),
        (["--backbone", "clip"], "is not among levljepa-nano"),
        (["--repo", "lab/m"], "holds 2 backbones"), (["--push", "lab/m"], "holds 2 backbones"),
        (["--organisation", "lab/m"], "--organisation 'lab/m': expected the name of who measured"),
    ],
)  # fmt: skip
def test_what_cannot_be_published_is_one_line(run, tmp_path, capsys, words, message):
    assert main(["publish", str(run), "--out", str(tmp_path / "p"), *words]) == 2
    assert message in capsys.readouterr().err


def test_nothing_is_uploaded_unless_asked_for(run, tmp_path, capsys, monkeypatch):
    import huggingface_hub

    calls = []

    class Info:
        pr_url, commit_url = "https://hub/pr/1", "https://hub/commit"

    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", lambda self, **k: calls.append(k) or Info())
    published(run, tmp_path)
    assert calls == []
    published(run, tmp_path, "--backbone", "levljepa-nano", "--push", "lab/model")
    assert (
        calls[0]["repo_id"] == "lab/model" and calls[0]["create_pr"] is True and calls[0]["folder_path"].name == "levljepa-nano"
    )
    assert "https://hub/pr/1" in capsys.readouterr().out
    left = [".README.md.r7uc2hou.tmp", "README.md"]  # the first by a publish that was killed
    assert list(huggingface_hub.utils.filter_repo_objects(left, ignore_patterns=calls[0].get("ignore_patterns"))) == left[1:]

    def refused(self, **k):
        raise OSError("no token")

    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", refused)
    words = ["publish", str(run), "--out", str(tmp_path / "p"), "--backbone", "levljepa-nano", "--push", "lab/model"]
    assert main(words) == 2 and "not uploaded (no token)" in capsys.readouterr().err


def test_samples_without_a_score_are_not_published_as_wrong_ones(run, tmp_path, monkeypatch):
    record = next(r for r in read_records(run) if r.task == "knn")
    few = [Sample(id="a", image_id="a", prediction="x"), Sample(id="b", image_id="b", prediction="x", score=1.0)]
    monkeypatch.setattr(every_eval_ever, "read_samples", lambda home, record: iter(few))
    path = every_eval_ever.write(record, tmp_path, "local/m", "lab")
    about = json.loads(path.read_text())["detailed_evaluation_results"]
    lines = (tmp_path / about["file_path"]).read_text().splitlines()
    assert about["total_rows"] == len(lines) == 1 and json.loads(lines[0])["sample_id"] == "b"
