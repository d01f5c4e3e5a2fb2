"""lmms-eval both ways: its tasks run by our engine (`lmms:NAME`), and our model found and run by lmms-eval; no network."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

import levl_eval.vlm
from levl_eval.cli import main
from levl_eval.core.errors import UsageError
from levl_eval.core.progress import Progress
from levl_eval.metrics import gqa_scores, pope_scores, vqa_accuracy
from levl_eval.records import read_records, read_samples
from levl_eval.runner.evaluate import evaluate
from tests.core.test_processes import launch
from tests.engines.vlm.models import make

ROOT = Path(__file__).resolve().parents[3]
RECIPE = ["recipe=scenes", "recipe.steps=2", "recipe.images_per_batch=4", "recipe.max_questions=40"]
TASKS = {
    "tiny_yes": """
task: tiny_yes
dataset_path: here/TINY
test_split: test
output_type: generate_until
doc_to_visual: !function utils.visual
doc_to_text: "<image>{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {max_new_tokens: 4, until: [" no"], temperature: 0.7, do_sample: true}
process_results: !function utils.process
metric_list:
  - {metric: squared, aggregation: !function utils.squared, higher_is_better: true}
  - {metric: submission, aggregation: !function utils.submit, higher_is_better: true}
metadata: {version: 3.5}
""",
    "tiny_choice": """
task: tiny_choice
dataset_path: here/TINY
test_split: test
output_type: multiple_choice
doc_to_visual: !function utils.visual
doc_to_text: "{{question}}"
doc_to_choice: ["yes", "no"]
doc_to_target: "{{answer}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
""",
    "tiny_pairs": """
task: tiny_pairs
dataset_path: here/TINY
test_split: test
output_type: generate_until
doc_to_visual: !function utils.two
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
""",
}
UTILS = """
import json
from lmms_eval.tasks._task_utils.file_utils import generate_submission_file


def visual(doc):
    return [doc["image"].convert("RGB")] if doc["shown"] else []


def two(doc):
    return [doc["image"].convert("RGB")] * 2


def process(doc, results):
    return {"squared": {"long": len(results[0])}, "submission": {"id": doc["question_id"], "answer": results[0]}}


def squared(items):
    return (sum(i["long"] for i in items) / len(items)) ** 2


def submit(items, args):
    with open(generate_submission_file("tiny.json", args), "w") as f:
        json.dump(items, f)
"""


def write_repo(folder: Path, parts: dict[str, list[dict]]) -> None:
    """A hub repository of parquet files: "CONFIG/SPLIT" or "SPLIT" -> rows; `image` is a file."""
    configs: dict[str, str] = {}
    for name, rows in parts.items():
        held = [{k: Image.open(v).convert("RGB") if k == "image" else v for k, v in row.items()} for row in rows]
        path = folder / f"{name}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_list(held).to_parquet(path)
        config, _, split = name.rpartition("/")
        line = f"  - {{split: {split}, path: {path.relative_to(folder)}}}\n"
        configs[config or "default"] = configs.get(config or "default", "") + line
    listed = "".join(f"- config_name: {name}\n  data_files:\n{lines}" for name, lines in configs.items())
    (folder / "README.md").write_text(f"---\nconfigs:\n{listed}---\n")


@pytest.fixture(scope="module")
def data(world, tmp_path_factory) -> Path:
    """The tiny world with the same questions once more as hub repositories below lmms/, in the published schemas."""
    root = tmp_path_factory.mktemp("data")
    for name in ("gqa", "vqav2", "pope"):
        shutil.copytree(world / name, root / name)
    owner = root / "lmms" / "lmms-lab-encoder"
    gqa = json.loads(next((root / "gqa").glob("**/testdev_balanced_questions.json")).read_text())
    rows = [{"id": k, **{f: q[f] for f in ("imageId", "question", "answer", "types")}} for k, q in list(gqa.items())[:12]]
    images = [{"id": i, "image": root / "gqa" / "images" / f"{i}.jpg"} for i in sorted({r["imageId"] for r in rows})]
    configs = {"testdev_balanced_instructions/testdev": rows, "testdev_balanced_images/testdev": images}
    write_repo(owner / "GQA", configs)
    asked = json.loads((root / "vqav2" / "v2_OpenEnded_mscoco_val2014_questions.json").read_text())["questions"]
    told = json.loads((root / "vqav2" / "v2_mscoco_val2014_annotations.json").read_text())["annotations"]
    rows = [
        {**q, **a, "image": root / "vqav2" / "val2014" / f"COCO_val2014_{q['image_id']:012d}.jpg"}
        for q, a in list(zip(asked, told, strict=True))[:12]
    ]
    write_repo(owner / "VQAv2", {"validation": rows, "test": rows[:1]})
    rows = []
    for split in ("random", "popular"):
        lines = (root / "pope" / f"coco_pope_{split}.json").read_text().splitlines()[:12]
        for q in map(json.loads, lines):
            image = next((root / "pope").glob(f"**/{q['image']}"))
            rows.append({"question_id": str(q["question_id"]), "question": q["text"], "answer": q["label"], "image": image,
                         "image_source": q["image"], "category": split, "id": f"{len(rows)}"})  # fmt: skip
    write_repo(owner / "POPE", {"test": rows})
    seen = sorted((root / "vqav2" / "val2014").glob("*.jpg"))[:5]  # an odd number, so that two processes have unlike shares
    tiny = [{**r, "image": seen[i % 5], "shown": i % 3 > 0} for i, r in enumerate(rows[:9])]
    write_repo(root / "lmms" / "here" / "TINY", {"test": tiny})
    more = root / "tasks"
    more.mkdir()
    for name, text in TASKS.items():
        (more / f"{name}.yaml").write_text(text)
    (more / "utils.py").write_text(UTILS)
    return root


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    return make("llama", tmp_path_factory.mktemp("llm"), context=512)


@pytest.fixture(scope="module")
def go(data, llm, tmp_path_factory):
    """Run tasks on the tiny data: (task names, further settings) -> records by task, in one run directory."""
    out, cache = tmp_path_factory.mktemp("out"), tmp_path_factory.mktemp("cache")
    patch = pytest.MonkeyPatch()
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hf"))
    # lmms-eval looks there, and so does a second process
    patch.setenv("HF_DATASETS_CACHE", str(datasets.config.HF_DATASETS_CACHE))

    def run(tasks, *settings, **more):
        words = [f"{t}.{s}" for t in tasks for s in RECIPE] + list(settings)
        records = evaluate(["random:nano"], tasks, data=str(data), llm=llm.name, settings=words, out=out, cache=cache,
                           progress=Progress(quiet=True), **more)  # fmt: skip
        return dict(zip(tasks, records, strict=True))

    yield run
    patch.undo()


@pytest.mark.slow
def test_its_own_pope_vqav2_and_gqa(go, data):
    tasks = ["lmms:pope", "lmms:vqav2_val", "lmms:gqa"]
    found = go(tasks)
    assert all(r.status == "done" for r in found.values()), [r.reason for r in found.values()]
    pope, vqa, gqa = (found[t] for t in tasks)
    rows = {t: list(read_samples(r.home, r)) for t, r in found.items()}

    assert set(pope.metrics) == {f"pope_{m}" for m in ("accuracy", "precision", "recall", "f1_score", "yes_ratio")}
    assert pope.main_metric == "pope_accuracy" and pope.data["version"] == "pope version 0.0"
    assert pope.resolved["lmms_eval"] and pope.data["counts"]["questions"] == 24 and pope.data["counts"]["images"] < 24
    score = pope.metrics["pope_accuracy"]
    assert "cluster" in score.method and score.clusters == pope.data["counts"]["images"]
    assert score.low <= score.value <= score.high and score.value == np.mean([s.score for s in rows["lmms:pope"]])
    ours = pope_scores([s.prediction for s in rows["lmms:pope"]], [s.target for s in rows["lmms:pope"]])
    # It wants the bare word, and counts the questions in its yes ratio; so it is never above the official parsing.
    assert score.value <= ours["accuracy"] + 1e-12
    assert pope.metrics["pope_yes_ratio"].value == np.mean([s.target == "yes" for s in rows["lmms:pope"]])

    # On the same predictions its scores are ours.
    questions = json.loads(next((data / "gqa").glob("**/testdev_balanced_questions.json")).read_text())
    told = dict(zip(list(questions)[:12], [s.prediction for s in rows["lmms:gqa"]], strict=True))
    assert gqa.main_metric == "exact_match"
    assert gqa.metrics["exact_match"].value == pytest.approx(gqa_scores(told, {k: questions[k] for k in told})["accuracy"])
    notes = json.loads((data / "vqav2" / "v2_mscoco_val2014_annotations.json").read_text())["annotations"]
    official = [
        vqa_accuracy(s.prediction, [x["answer"] for x in a["answers"]])
        for s, a in zip(rows["lmms:vqav2_val"], notes, strict=False)
    ]
    assert vqa.metrics["exact_match"].value == pytest.approx(np.mean(official))


@pytest.mark.slow
def test_answers_are_those_of_our_own_task(go):
    """The same questions through our reader and through lmms-eval's give the same answers: images and prompts are the same."""
    card = "prompt.max_new_tokens=3"
    found = go(["pope", "lmms:pope"], f"pope.{card}", f"lmms:pope.{card}", "lmms:pope.generation=card")
    mine, theirs = (list(read_samples(found[t].home, found[t])) for t in ("pope", "lmms:pope"))
    told = {(s.meta["split"], s.meta["question"], s.target): s.prediction for s in mine}
    assert len({s.prediction for s in theirs}) > 1
    known = [(("random" if k < 12 else "popular"), s.meta["question"], s.target) for k, s in enumerate(theirs)]
    unique = [k for k in known if sum(j[:2] == k[:2] for j in [(s.meta["split"], s.meta["question"]) for s in mine]) == 1]
    assert unique
    for key, s in zip(known, theirs, strict=True):
        if key in unique:
            assert told[key] == s.prediction
    # One connector for both, and the features of the same pixels are another set: lmms-eval has no file names.
    assert found["pope"].notes["connector"] == found["lmms:pope"].notes["connector"]


@pytest.mark.slow
def test_tasks_of_ones_own(go, data):
    more = [f"lmms:{t}.include={data / 'tasks'}" for t in TASKS]
    found = go([f"lmms:{t}" for t in TASKS], *more)
    yes, choice, pairs = found.values()
    assert yes.status == "done", yes.reason
    assert choice.status == "done", choice.reason
    # A score of its own kind: bootstrapped through its own aggregation; its file for the server beside the record.
    squared = yes.metrics["squared"]
    rows = list(read_samples(yes.home, yes))
    assert squared.value == pytest.approx(np.mean([len(s.prediction) for s in rows]) ** 2)
    assert squared.low <= squared.value <= squared.high and "own" not in squared.method and "bootstrap" in squared.method
    assert all(s.score is None and " no" not in s.prediction for s in rows)  # the task's stop string
    (file,) = (yes.home / "uploads" / yes.key).iterdir()
    assert [e["answer"] for e in json.loads(file.read_text())] == [s.prediction for s in rows]
    assert yes.data["version"] == "tiny_yes version 3.5" and "temperature=0.7" in yes.notes["lmms"]["greedy"]
    assert yes.data["counts"]["questions"] == 9 and yes.data["counts"]["images"] == 5  # three have no image
    assert "lmms_tasks" in yes.resolved and "include" not in yes.protocol
    assert 0 <= choice.metrics["acc"].value <= 1
    assert pairs.status == "failed" and re.match(r"lmms-eval task tiny_pairs: document 0 of test: has 2 images", pairs.reason)
    # Nothing is asked twice, and a changed task file is another protocol.
    assert go(["lmms:tiny_yes"], more[0])["lmms:tiny_yes"] == yes
    (data / "tasks" / "utils.py").write_text(UTILS + "\n# changed\n")
    assert go(["lmms:tiny_yes"], more[0])["lmms:tiny_yes"].protocol_hash != yes.protocol_hash


@pytest.mark.slow
def test_wrong_names_are_one_line(go, data):
    found = go(["lmms:poep", "lmms:scienceqa_img"])
    assert "no task 'poep'" in found["lmms:poep"].reason and "pope" in found["lmms:poep"].reason
    assert "the hub cannot be reached" in found["lmms:scienceqa_img"].reason
    assert all("\n" not in r.reason for r in found.values())
    with pytest.raises(UsageError, match="nothing after `lmms:`"):
        go(["lmms:"])


@pytest.mark.slow
def test_lmms_eval_finds_and_runs_our_model(go, data, llm, tmp_path, monkeypatch):
    """The entry point of pyproject.toml, a saved model, and likelihoods equal to the engine's own."""
    import lmms_eval.models
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    from levl_eval.engines.lmms.task import local_datasets
    from levl_eval.engines.vlm.api import assemble

    lines = (ROOT / "pyproject.toml").read_text().partition('[project.entry-points."lmms_eval.models"]')[2].split("[", 1)[0]
    info = tmp_path / "site" / "levl_eval_entry-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: levl-eval-entry\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[lmms_eval.models]\n" + lines.replace('"', ""))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.chdir(tmp_path)  # lmms-eval writes its submissions into the current folder
    lmms_eval.models.MODEL_REGISTRY_V2.load_entrypoint_manifests(overwrite=True)
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "cache"))
    recipe = tmp_path / "small.yaml"
    text = (ROOT / "tasks" / "recipes" / "scenes.yaml").read_text()
    text = re.sub(r"(?m)^(max_questions|epochs|steps|images_per_batch):.*\n", "", text)
    recipe.write_text(text.replace("name: scenes", "name: small") + "max_questions: 40\nsteps: 2\nimages_per_batch: 4\n")
    import torch

    vlm = assemble(
        "random:nano", llm.name, str(recipe), str(data), 0, torch.device("cpu"), tmp_path / "cache", Progress(quiet=True)
    )
    vlm.save(tmp_path / "vlm")
    manager = TaskManager("ERROR", include_path=str(data / "tasks"), include_defaults=False, model_name="levl")
    scores = []
    for words in (f"model={tmp_path / 'vlm'}", f"backbone=random:nano,llm={llm.name},recipe={recipe},data={data}"):
        with local_datasets(data / "lmms"):
            found = simple_evaluate(
                "levl", model_args=words, tasks=["tiny_yes", "tiny_choice"], task_manager=manager, device="cpu", batch_size=1,
                bootstrap_iters=0, process_docs_parallel=1,
            )  # fmt: skip
        scores.append({t: [s["filtered_resps"] for s in found["samples"][t]] for t in ("tiny_yes", "tiny_choice")})
    assert scores[0] == scores[1]
    again = levl_eval.vlm.load(tmp_path / "vlm")
    table = datasets.load_dataset(str(data / "lmms" / "here" / "TINY"), split="test")
    for row, got in zip(table, scores[0]["tiny_yes"], strict=True):
        if row["shown"]:
            want = again.answer(row["image"], row["question"])  # of eight tokens
            assert got[0] is not None and want.startswith(got[0].rstrip("\ufffd"))  # cut within a character of several bytes
    with pytest.raises(UsageError, match="either backbone"):
        lmms_eval.models.get_model("levl").create_from_arg_string("llm=x")


@pytest.mark.distributed
def test_two_processes_run_its_tasks_as_one_does(go, data, llm, tmp_path, monkeypatch):
    """Their shares of the images are unlike (five), and so are those of the questions without one (three)."""
    tasks = ("tiny_yes", "tiny_choice")
    # In float32 the sum over two shares of a batch is that over the batch up to rounding.
    settings = [f"lmms:{t}.{s}" for t in tasks for s in (*RECIPE, "recipe.precision=fp32", f"include={data / 'tasks'}")]
    words = ["run", "--backbone", "random:nano", "--tasks", ",".join(f"lmms:{t}" for t in tasks)]
    words += ["--data", str(data), "--llm", llm.name, *(w for s in settings for w in ("--set", s))]
    p = launch([*words, "--out", str(tmp_path / "two")], tmp_path / "cache")
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "other cache"))
    assert main([*words, "--out", str(tmp_path / "one"), "--quiet"]) == 0
    out, err = p.communicate(timeout=600)
    assert p.returncode == 0, err[-3000:]
    assert out.count("report.html") == 1  # one process speaks
    one, two = ({r.task: r for r in read_records(tmp_path / n)} for n in ("one", "two"))
    rows = {t: [list(read_samples(r[f"lmms:{t}"].home, r[f"lmms:{t}"])) for r in (one, two)] for t in tasks}
    for t in tasks:
        a, b = one[f"lmms:{t}"], two[f"lmms:{t}"]
        assert a.metrics == b.metrics and a.protocol_hash == b.protocol_hash and a.data == b.data
        assert a.data["counts"]["images"] == 5 and len(rows[t][0]) == 9
        assert [(s.id, s.image_id, s.target, s.score, s.meta) for s in rows[t][0]] == [
            (s.id, s.image_id, s.target, s.score, s.meta) for s in rows[t][1]
        ]
    told = [[s.prediction for s in part] for part in rows["tiny_yes"]]
    assert told[0] == told[1] and len(set(told[0])) > 5
    likely = [[float(re.findall(r"-[\d.]+", s.prediction)[0]) for s in part] for part in rows["tiny_choice"]]
    assert likely[0] == pytest.approx(likely[1], abs=1e-3) and len(set(likely[0])) > 5
    assert not list((tmp_path / "cache" / "answers").glob("*"))


@pytest.mark.distributed
def test_two_processes_of_lmms_eval_run_our_model_as_one_does(go, data, llm, tmp_path, monkeypatch):
    """It shares nine documents out as five and four, and pads; the connector is trained once for both."""
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    from levl_eval.engines.lmms.model import Levl

    (tmp_path / "tasks").mkdir()
    for name in ("tiny_yes", "tiny_choice"):
        text = TASKS[name].replace("here/TINY", str(data / "lmms" / "here" / "TINY"))
        (tmp_path / "tasks" / f"{name}.yaml").write_text(text)
    (tmp_path / "tasks" / "utils.py").write_text(UTILS)
    recipe = tmp_path / "small.yaml"
    recipe.write_text(
        "kind: recipe\nname: small\ndata:\n- {layout: gqa, directory: gqa, split: train_balanced}\n"
        "max_questions: 40\nsteps: 2\nimages_per_batch: 4\nprecision: fp32\n"
    )
    arguments = f"backbone=random:nano,llm={llm.name},recipe={recipe},data={data}"
    words = [
        "--model",
        "levl",
        "--model_args",
        arguments,
        "--include_path",
        str(tmp_path / "tasks"),
        "--tasks",
        "tiny_yes,tiny_choice",
    ]
    words += ["--device", "cpu", "--log_samples"]
    both = launch([*words, "--output_path", str(tmp_path / "two")], tmp_path / "cache", "levl_eval.lmms")
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "other cache"))
    monkeypatch.chdir(tmp_path)  # lmms-eval writes its submissions into the current folder
    manager = TaskManager("ERROR", include_path=str(tmp_path / "tasks"), include_defaults=False, model_name="levl")
    model = Levl.create_from_arg_string(arguments)
    found = simple_evaluate(model, tasks=["tiny_yes", "tiny_choice"], task_manager=manager, device="cpu", bootstrap_iters=0)
    _, err = both.communicate(timeout=600)
    assert both.returncode == 0, err[-3000:]

    def rows(task):
        (file,) = (tmp_path / "two").glob(f"*_samples_{task}.jsonl")
        two = {r["doc_id"]: r["filtered_resps"] for r in map(json.loads, file.read_text().splitlines())}
        return {r["doc_id"]: r["filtered_resps"] for r in found["samples"][task]}, two

    one, two = rows("tiny_yes")
    assert sorted(two) == list(range(9)) and list(two) != sorted(two)  # two shares, one behind the other
    assert {k: v[0] for k, v in one.items()} == {k: v if isinstance(v, str) else v[0] for k, v in two.items()}
    one, two = rows("tiny_choice")
    for k in range(9):
        likely = [[float(v) for v, _ in part[k]] for part in (one, two)]
        assert likely[0] == pytest.approx(likely[1], abs=1e-3)
    (file,) = (tmp_path / "two").glob("*_results.json")
    told = json.loads(file.read_text())["results"]
    assert told["tiny_yes"]["squared,none"] == pytest.approx(found["results"]["tiny_yes"]["squared,none"])
    assert told["tiny_choice"]["acc,none"] == found["results"]["tiny_choice"]["acc,none"]
    assert len(list((tmp_path / "cache" / "connectors").glob("*.safetensors"))) == 1
    assert not list((tmp_path / "cache" / "answers").glob("*"))
