"""--data hub on a machine without a network: the four further question sets from a cache of `datasets`, by their shipped cards."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest
from PIL import Image

from levl_eval.cards.registry import task_card
from levl_eval.data.readers import read_questions
from levl_eval.metrics.vqa import vqa_accuracy

pytestmark = pytest.mark.hub


def image(red: int) -> Image.Image:
    return Image.new("RGB", (8, 8), (red, 0, 0))


TEN = ["stop"] * 7 + ["Stop sign"] * 3
ROWS = {
    "textvqa": ("textvqa", "default", [
        {"image_id": "a1", "question_id": 34602, "question": "what is the brand?", "answers": ["nokia"] * 6 + ["toshiba"] * 4,
         "image": image(10), "image_width": 8, "image_height": 8, "set_name": "val"},
        {"image_id": "a1", "question_id": 34603, "question": "what does the sign say?", "answers": TEN, "image": image(10),
         "image_width": 8, "image_height": 8, "set_name": "val"},
    ]),
    "vizwiz": ("VizWiz-VQA", "default", [
        {"question_id": "VizWiz_val_00000000.jpg", "question": "Which one is it?", "answers": TEN, "category": "other", "image": image(20)},
        {"question_id": "VizWiz_val_00000001.jpg", "question": "Is it on?",
         "answers": ["yes"] * 10, "category": "yes/no", "image": image(30)},
    ]),
    "scienceqa-img": ("ScienceQA", "ScienceQA-IMG", [
        {"question": "Which is colder?", "choices": ["ice", "steam", "water"], "answer": 0, "hint": "Look at the image.",
         "subject": "natural science", "topic": "physics", "image": image(40)},
        {"question": "Which state?", "choices": ["Ohio", "Utah"], "answer": 1, "hint": "", "subject": "social science",
         "topic": "geography", "image": image(50)},
    ]),
    "mme": ("MME", "default", [
        {"question_id": "color/0001.png", "question": "Is it red? Please answer yes or no.",
         "answer": "Yes", "category": "color", "image": image(60)},
        {"question_id": "color/0001.png", "question": "Is it blue? Please answer yes or no.",
         "answer": "No", "category": "color", "image": image(60)},
    ]),
}  # fmt: skip


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> Path:
    """A cache as `datasets` leaves it behind after a download of the four repositories."""
    root = tmp_path_factory.mktemp("hub")
    for name, (repo, config, rows) in ROWS.items():
        split = task_card(name).data.hub.split
        source = root / "source" / repo
        source.mkdir(parents=True)
        datasets.Dataset.from_list(rows).to_parquet(source / f"{split}-00000-of-00001.parquet")
        (source / "README.md").write_text(
            f"---\nconfigs:\n- config_name: {config}\n  data_files:\n  - {{split: {split}, path: {split}-*}}\n---\n"
        )
        datasets.load_dataset(str(source), config, cache_dir=str(root / "cache"))
        (made,) = (p for p in (root / "cache").iterdir() if p.is_dir() and "___" not in p.name)
        made.rename(root / "cache" / f"lmms-lab___{made.name}")
    return root / "cache"


@pytest.mark.parametrize("name", ROWS)
def test_a_shipped_card_reads_the_cache(name, filled, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", filled)
    found, rows = read_questions(task_card(name).data, "hub"), ROWS[name][2]
    assert len(found.questions) == 2 and len({q.question_id for q in found.questions}) == 2
    reds = [found.images.open(q.image_id).getpixel((0, 0))[0] for q in found.questions]
    assert reds == [r["image"].getpixel((0, 0))[0] for r in rows]
    assert len(found.images) == len(set(reds)) and found.version == "2 questions"
    one, two = found.questions
    if name == "textvqa":
        assert one.answer == "nokia" and two.answers == tuple(TEN) and one.question_id == "34602"
    elif name == "vizwiz":
        assert one.answer == "stop" and vqa_accuracy("stop", one.answers) == 1.0 and two.meta == {"answer_type": "yes/no"}
    elif name == "scienceqa-img":
        assert (one.answer, two.answer) == ("A", "B") and one.meta["subject"] == "natural science"
        assert one.question == "Context: Look at the image.\nWhich is colder?\n(A) ice (B) steam (C) water"
    else:
        assert (one.answer, two.answer) == ("yes", "no") and one.question == "Is it red?" and one.meta == {"category": "color"}
    assert len(read_questions(task_card(name).data, "hub", 1).questions) == (1 if name in ("vizwiz", "scienceqa-img") else 2)
