"""The same command resumes; what is asked for works; a finished run can be trained on; every field is explained."""

from __future__ import annotations

import json

import pytest
import torch
import yaml

from levl_eval.core.errors import UsageError
from levl_eval.core.messages import on_stderr
from levl_eval.core.progress import Progress
from levl_eval.models.checkpoints import read, save
from levl_eval.models.config import PretrainConfig, parse_config
from levl_eval.pretrain.cli import main
from levl_eval.pretrain.interrupts import alone_in
from levl_eval.pretrain.loop import Trainer
from levl_eval.pretrain.resuming import as_it_began
from levl_eval.pretrain.schedule import learning_rate

SMALL = ["batch_size=16", "scenes_pool=64", "captions_per_image=2", "sigreg_slices=32", "vision.depth=1", "text.depth=1", "vocab_size=400",
         "precision=fp32", "log_every=1", "threads=1", "warmup=2"]  # fmt: skip


def _run(tmp_path, *words, out="a"):
    config = parse_config([f"out={tmp_path / out}", *SMALL, *words])
    with on_stderr():
        trainer = Trainer(config, Progress(), tmp_path / "cache")
        trainer.run()
    return trainer


@pytest.mark.slow
def test_the_same_command_resumes_and_says_where(tmp_path, capsys):
    _run(tmp_path, "steps=3", "objective=clip")
    assert "resuming" not in capsys.readouterr().err
    assert _run(tmp_path, "steps=3", "objective=clip").step == 3
    assert "ckpt.pt: resuming at step 3 of 3 (finished; extend_to=STEPS trains on)" in capsys.readouterr().err


@pytest.mark.slow
def test_more_steps_name_the_field_that_trains_on(tmp_path):
    _run(tmp_path, "steps=1", "objective=clip")
    with pytest.raises(UsageError, match=r"`steps` was 1, now 3; .*steps=1 extend_to=3"):
        _run(tmp_path, "steps=3", "objective=clip")
    with pytest.raises(UsageError) as e:
        _run(tmp_path, "steps=3", "objective=siglip")
    assert "extend_to" not in str(e.value)


@pytest.mark.slow
def test_starting_anew_needs_an_empty_folder(tmp_path):
    (tmp_path / "a").mkdir()
    _run(tmp_path, "steps=1", "objective=clip", "resume=false")
    for left in ("ckpt.pt", "metrics.jsonl"):
        with pytest.raises(UsageError, match=r"a: is not empty, and resume=false starts anew; choose another out="):
            _run(tmp_path, "steps=1", "objective=clip", "resume=false")
        (tmp_path / "a" / left).unlink()


@pytest.mark.slow
def test_a_finished_run_is_trained_on_at_the_last_rate(tmp_path, capsys):
    _run(tmp_path, "steps=3", "objective=clip")
    _run(tmp_path, "steps=3", "objective=clip", "extend_to=5")
    assert "resuming at step 3 of 5" in capsys.readouterr().err
    lines = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert [line["lr"] for line in lines[3:]] == pytest.approx([1e-4, 1e-4])  # final_lr of the peak
    _run(tmp_path, "steps=3", "objective=clip", "extend_to=5", out="b")  # extended from the beginning, it is the same run
    a, b = (read(tmp_path / x / "ckpt.pt") for x in "ab")
    assert a["step"] == 5 and all(torch.equal(v, b["text"]["encoder"][k]) for k, v in a["text"]["encoder"].items())
    for words, expected in ((["extend_to=3"], "but steps is 3"), (["extend_to=9", "final_lr=0"], "but final_lr is 0")):
        with pytest.raises(UsageError, match=expected):
            parse_config(["steps=3", *words])
    for words in ([], ["schedule=wsd"], ["schedule=wsd", "wsd_decay=linear"]):
        c = parse_config(["steps=100", "warmup=10", "extend_to=300", *words])
        assert [learning_rate(c, s) for s in (100, 150, 299)] == pytest.approx([1e-4] * 3)


@pytest.mark.slow
def test_a_run_of_an_earlier_version_is_resumed_as_it_began(tmp_path, capsys):
    _run(tmp_path, "steps=2", "objective=clip")
    state = read(tmp_path / "a" / "ckpt.pt")
    for field in ("weight_decay_on", "warmup_start_factor", "strip_captions", "pad77_attends"):
        del state["config"][field]
    del state["before"]
    save(tmp_path / "a" / "ckpt.pt", state)
    trainer = _run(tmp_path, "steps=2", "objective=clip", "weight_decay_on=all", "extend_to=3")
    c = trainer.config
    assert (c.weight_decay_on, c.warmup_start_factor, c.strip_captions, c.pad77_attends) == ("matrices", None, True, "all")
    assert trainer.step == 3
    kept = capsys.readouterr().err.partition("resumed as it began: ")[2].splitlines()[0].split()
    assert set(kept) == {"weight_decay_on=matrices", "strip_captions=True", "pad77_attends=all"}


def test_a_field_that_an_earlier_version_lacked_is_compared_with_what_that_version_did(tmp_path):
    config = parse_config(SMALL)
    state = {"optimizer": {}, "config": config.model_dump(mode="json"), "before": []}
    del state["config"]["blur_sigma"], state["config"]["views_flip_prob"], state["config"]["preset"]
    assert as_it_began(state, config, tmp_path).blur_sigma == (0.1, 2.0)
    with pytest.raises(UsageError, match=r"field `blur_sigma` was \[0.1, 2.0\], now \[0.1, 1.0\]"):
        as_it_began(state, parse_config([*SMALL, "blur_sigma=[0.1, 1.0]"]), tmp_path)


@pytest.mark.parametrize(
    ("data", "free", "fixed"),
    [
        ("scenes", ["workers=7", "shuffle_buffer=9", "streaming=true"], "scenes_pool=80"),
        ("csv:a.csv", ["workers=7", "scenes_pool=80", "scenes_captions=long"], "caption_fields=[x]"),
        ("wds:a.tar", ["scenes_pool=80", "captions_per_image=1"], "workers=7"),
        ("lance:a", ["scenes_pool=80"], "shuffle_buffer=9"),
    ],
)
def test_only_what_moves_the_numbers_is_fixed_on_resume(tmp_path, data, free, fixed):
    words = [*SMALL, f"data={data}", "workers=1"]
    config = parse_config(words)
    state = {"optimizer": {}, "config": config.model_dump(mode="json"), "before": []}
    for word in free:
        as_it_began(state, parse_config([*words, word]), tmp_path)
    with pytest.raises(UsageError, match=f"field `{fixed.split('=')[0]}` was"):
        as_it_began(state, parse_config([*words, fixed]), tmp_path)


@pytest.mark.slow
def test_a_folder_in_which_a_run_trains_is_refused_whatever_the_configuration(tmp_path, capsys):
    words = [f"out={tmp_path / 'a'}", *SMALL, "steps=1", "objective=clip", "device=cpu"]
    with alone_in(tmp_path / "a"):  # as from its first second: nothing is written yet
        for more in ([], ["lr=0.5"], ["resume=false"]):
            assert main([*words, *more]) == 2
            said = capsys.readouterr().err.splitlines()
            assert len(said) == 1 and said[0].endswith(
                "a: another levl-pretrain trains in this folder; wait for its end, or choose another out="
            )
        assert [p.name for p in (tmp_path / "a").iterdir()] == [".lock"]
    assert main([*words, "resume=false"]) == 0  # the lock alone leaves a folder empty
    assert main([*words, "resume=false"]) == 2


def test_every_field_is_explained_and_can_be_given_back(tmp_path, capsys):
    assert main(["fields", "model=tiny", "lr=0.5"]) == 0
    text = capsys.readouterr().out
    (tmp_path / "c.yaml").write_text(text)
    assert parse_config([str(tmp_path / "c.yaml")]) == parse_config(["model=tiny", "lr=0.5"])
    assert list(yaml.safe_load(text)) == list(PretrainConfig.model_fields)
    assert all(f.description and len(f.description) > 5 for f in PretrainConfig.model_fields.values())
    by_name = {line.split(":")[0]: line for line in text.splitlines()}
    assert by_name["lr"].startswith("lr: 0.5  # float: peak of the rate (May, July)")
    assert "# eot | pad77: " in by_name["text_readout"] and "# list of text: " in by_name["trackers"]
    assert "or none: " in by_name["clip"] and "true | false" in by_name["resume"]
