"""The whole GQA and POPE question files, run through, killed with -9 in the middle, and gone on with: counts, memory, rate.

    python benchmarks/scale.py --gqa testdev_balanced_questions.json --pope DIR [--vqav2 214354] [--work DIR] [--json FILE]

The question files are the published ones (POPE: the folder of coco_pope_*.json). Their images are drawn here under the names
the files expect, and the language model is a small one with random weights: what is measured is the machinery, not an answer.
--vqav2 N: also N made-up questions in VQAv2's layout, about one image for every five, for the memory of its size.

Each set is run in a process of its own. When a third of its questions are answered it is killed; the second call must take the
answers from the journal and end with one sample for every question. Memory is the process's peak beyond that of a run
on one image, so that libraries and weights do not count.
"""

from __future__ import annotations

import argparse
import colorsys
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

SPLITS = ("random", "popular", "adversarial")


def draw(path: Path, number: int) -> None:
    """A 64 px image of a colour of its own."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    shade = tuple(round(255 * v) for v in colorsys.hsv_to_rgb(number * 0.618 % 1, 0.3 + 0.7 * (number % 7) / 6, 0.9))
    Image.new("RGB", (64, 64), shade).save(path, quality=85)


def read(path: Path) -> bytes:
    """A file, or the first JSON file of a tar archive."""
    if path.name.endswith((".tar.gz", ".tgz", ".tar")):
        with tarfile.open(path) as archive:
            member = next(m for m in archive.getmembers() if m.name.endswith(".json"))
            held = archive.extractfile(member)
            assert held is not None
            return held.read()
    return path.read_bytes()


def lay_out(root: Path, gqa: Path | None, pope: Path | None, vqav2: int) -> dict[str, int]:
    """The data directory; number of questions by task."""
    counts: dict[str, int] = {}
    if gqa:
        raw = read(gqa)
        questions = json.loads(raw)
        (root / "gqa").mkdir(parents=True)
        (root / "gqa" / "testdev_balanced_questions.json").write_bytes(raw)
        for i, name in enumerate(sorted({q["imageId"] for q in questions.values()})):
            draw(root / "gqa" / "images" / f"{name}.jpg", i)
        counts["gqa"] = len(questions)
    if pope:
        names: set[str] = set()
        (root / "pope").mkdir(parents=True)
        for split in SPLITS:
            raw = (pope / f"coco_pope_{split}.json").read_bytes()
            (root / "pope" / f"coco_pope_{split}.json").write_bytes(raw)
            lines = [json.loads(line) for line in raw.splitlines() if line.strip()]
            names |= {q["image"] for q in lines}
            counts["pope"] = counts.get("pope", 0) + len(lines)
        for i, name in enumerate(sorted(names)):
            draw(root / "pope" / "val2014" / name, i)
    if vqav2:
        counts["vqav2"] = _vqav2(root / "vqav2", vqav2)
    training = root / "training.jsonl"
    draw(root / "training.jpg", 0)
    training.write_text(json.dumps({"image": "training.jpg", "question": "Is it red?", "answer": "yes"}) + "\n")
    return counts


def _vqav2(root: Path, n: int) -> int:
    """So many questions, five a image, ten annotators each."""
    rng, questions, notes = random.Random(0), [], []
    for i in range(n):
        image = i // 5 + 1
        words = " ".join(rng.choices("is the there a red small boat bird on left of what color how many".split(), k=7))
        questions.append({"image_id": image, "question": f"{words}?", "question_id": i})
        told = [
            {"answer": rng.choice(("yes", "no", "2", "red")), "answer_confidence": "yes", "answer_id": k + 1} for k in range(10)
        ]
        notes.append({"question_id": i, "image_id": image, "question_type": "is the", "answer_type": "other",
                      "multiple_choice_answer": "yes", "answers": told})  # fmt: skip
    (root / "val2014").mkdir(parents=True)
    (root / "v2_OpenEnded_mscoco_val2014_questions.json").write_text(json.dumps({"questions": questions}))
    (root / "v2_mscoco_val2014_annotations.json").write_text(json.dumps({"annotations": notes}))
    for image in range(1, (n - 1) // 5 + 2):
        draw(root / "val2014" / f"COCO_val2014_{image:012d}.jpg", image)
    return n


def language_model(folder: Path) -> None:
    """A Llama of two small layers with random weights and the embedded language model's tokenizer."""
    import torch

    from levl_eval.cards.registry import language_models
    from levl_eval.engines.vlm import language as _  # noqa: F401  before transformers: it repairs a torchvision that does not load

    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM  # isort: skip

    tokenizer = AutoTokenizer.from_pretrained(language_models()["scenes-lm"])
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            initializer_range=0.2,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    ).save_pretrained(folder)


def command(work: Path, task: str, out: Path, *more: str) -> list[str]:
    recipe = {"kind": "recipe", "name": "one-question", "data": [{"layout": "vqa", "questions": str(work / "data" / "training.jsonl"),
              "images": str(work / "data")}], "steps": 1}  # fmt: skip
    return [
        sys.executable, "-m", "levl_eval.cli", "run", "--backbone", "random:nano", "--tasks", task, "--data", str(work / "data"), "--llm",
        str(work / "llm"), "--set", f"{task}.recipe={json.dumps(recipe)}",
        "--set", f"{task}.floors=[]", "--out", str(out), "--quiet", *more,
    ]  # fmt: skip


def answered(cache: Path) -> int:
    """Questions in the journals so far."""
    return sum(len(json.loads(line)) for f in (cache / "answers").glob("*.jsonl") for line in f.read_bytes().split(b"\n")[:-1])


def peak() -> float:
    """MiB of the largest child so far."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def one(work: Path, task: str, count: int) -> dict[str, Any]:
    """Kill, go on, and look at what is there."""
    cache, out = work / f"cache-{task}", work / f"out-{task}"
    env = {**os.environ, "LEVL_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    first = subprocess.Popen(command(work, task, out), env=env, stdout=subprocess.DEVNULL)
    look = 0.0
    while first.poll() is None:
        time.sleep(max(0.2, 20 * look))  # a journal of 200,000 answers takes its time to read, which is not to be measured
        start = time.perf_counter()
        if answered(cache) >= count / 3:
            break
        look = time.perf_counter() - start
    if first.poll() is not None:
        raise SystemExit(f"{task}: ended before it could be killed (exit code {first.returncode})")
    first.send_signal(signal.SIGKILL)
    first.wait()
    begun = answered(cache)
    code = subprocess.run(command(work, task, out), env=env, stdout=subprocess.DEVNULL).returncode
    (file,) = (out / "records").glob("*.json")
    record = json.loads(file.read_text())
    if code or record["status"] != "done":
        raise SystemExit(f"{task}: exit code {code}, {record['reason']}")
    ids = [json.loads(line)["id"] for line in next((out / "samples").glob("*.jsonl")).read_text().splitlines()]
    note = record["notes"]["answering"]
    return {
        "questions": record["data"]["counts"]["questions"], "images": record["data"]["counts"]["images"],
        "version": record["data"]["version"], "expected": count, "samples": len(ids), "distinct_samples": len(set(ids)),
        "in_journal_when_killed": begun, "resumed": note["resumed"],
        "asked_after": note["questions"], "questions_per_second": round(note["questions"] / max(note["seconds"], 1e-9), 1),
        "peak_mib": round(peak()), "seconds": {k: round(v, 1) for k, v in record["seconds"].items()},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gqa", type=Path, metavar="FILE", help="testdev_balanced_questions.json, or a tar archive of it")
    parser.add_argument("--pope", type=Path, metavar="DIR", help="the folder of coco_pope_*.json")
    parser.add_argument("--vqav2", type=int, default=0, metavar="N", help="so many made-up questions in VQAv2's layout")
    parser.add_argument("--work", type=Path, help="where everything is written (default: a temporary folder)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    o = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = o.work or Path(temporary)
        counts = lay_out(work / "data", o.gqa, o.pope, o.vqav2)
        if not counts:
            parser.error("give --gqa, --pope or --vqav2")
        language_model(work / "llm")
        smallest = min(counts, key=lambda t: counts[t])
        env = {**os.environ, "LEVL_CACHE": str(work / "cache-one"), "HF_HUB_OFFLINE": "1"}
        subprocess.run(command(work, smallest, work / "out-one", "--limit", "1"), env=env, stdout=subprocess.DEVNULL, check=True)
        base = peak()
        print(f"one image of {smallest}: {base:.0f} MiB")
        found = {"one_image_mib": round(base)}
        for task in sorted(counts, key=lambda t: counts[t]):  # ascending: the peak is that of the largest child so far
            found[task] = figures = one(work, task, counts[task])
            print(
                f"{task}: {figures['questions']:,} questions ({figures['version']}) "
                f"about {figures['images']:,} images, {figures['samples']:,} samples; "
                f"killed at {figures['in_journal_when_killed']:,}, {figures['resumed']:,} taken from the journal; "
                f"{figures['questions_per_second']:,} questions a second; {figures['peak_mib'] - base:+.0f} MiB",
                flush=True,
            )
            lost = figures["samples"] != figures["expected"] or figures["distinct_samples"] != figures["expected"]
            if lost or figures["resumed"] < figures["in_journal_when_killed"]:
                raise SystemExit(f"{task}: answers were lost")
    if o.json:
        o.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
