"""What a record, a card or a saved model of others may not do: run Python, wait for a pipe, ask for endless work."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

import pytest

from levl_eval.cards import parse_card
from levl_eval.cards.registry import backbone_card, task_card
from levl_eval.cards.trust import check_card
from levl_eval.cli import main
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.files import sha256_file
from levl_eval.data.images import image_set, open_rgb
from levl_eval.runner.evaluate import evaluate

HERE = Path(__file__).resolve().parent


def record(folder: Path, card: dict[str, object], uri: str = "random:nano", **more: object) -> Path:
    """A record as somebody may send it."""
    value = {
        "schema": "levl-eval/record/1", "task": "t", "engine": str(card.get("engine")), "main_metric": "m", "protocol": {},
        "metrics": {"m": {"value": 0.5}},
        "backbone": {"name": "b", "weights_sha256": "0" * 64, "card": {"kind": "backbone", "name": "b", "uri": uri}, "info": {}},
        "protocol_hash": "0" * 64, "data": {"source": str(folder)}, "seed": 0, "card": card, "call": {}, **more,
    }  # fmt: skip
    path = folder / "records" / "r.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value))
    return path


DATA = {"layout": "ade20k", "directory": "ade20k", "split": "validation"}
MMSEG = {"kind": "task", "engine": "mmseg", "name": "t", "main_metric": "mean_iou", "train": DATA, "data": DATA}
LINEAR = {
    "kind": "task", "engine": "linear", "name": "t", "main_metric": "top1", "train": {"layout": "imagefolder"},
    "data": {"layout": "imagefolder"},
}  # fmt: skip


def config(**changes: object) -> str:
    """An mmseg config as a record holds it."""
    steps = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}, {"type": "PackSegInputs"}]
    head = {"type": "FCNHead", "in_channels": 8, "channels": 8, "num_convs": 1, "num_classes": 2}
    value = {
        "model": {"type": "EncoderDecoder", "backbone": {"type": "anything.at.all"}, "decode_head": head, "test_cfg": {"mode": "whole"}},
        "train_dataloader": {"batch_size": 1, "dataset": {"type": "Mine", "pipeline": steps}},
        "test_dataloader": {"batch_size": 1, "dataset": {"type": "Mine", "pipeline": steps}},
        "train_cfg": {"type": "IterBasedTrainLoop", "max_iters": 1},
        "optim_wrapper": {"type": "OptimWrapper", "optimizer": {"type": "SGD", "lr": 0.1}, "clip_grad": {"type": "norm", "max_norm": 1}},
    }  # fmt: skip
    for path, new in changes.items():
        node = value
        *parents, last = path.split("__")
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = new
    return repr(value)


EVIL = {"type": "os.system", "command": "touch executed"}
ATTACKS = {
    "head": {"model__decode_head": EVIL},
    "loss": {"model__decode_head__loss_decode": EVIL},
    "deep in lists": {"model__neck": {"type": "FPN", "norm_cfg": [{"x": ({"y": EVIL},)}]}},
    "segmentor": {"model__type": "os.system"},
    "optimiser": {"optim_wrapper__optimizer": EVIL},
    "wrapper": {"optim_wrapper": EVIL},
    "constructor": {"optim_wrapper__constructor": "os.system"},
    "schedule": {"param_scheduler": [EVIL]},
    "transform": {"train_dataloader__dataset__pipeline": [{"type": "LoadAnnotations"}, EVIL]},
    "test transform": {"test_dataloader__dataset__pipeline": [{"type": "LoadAnnotations"}, {"type": "subprocess.run", "args": "x"}]},
    "albumentations": {
        "train_dataloader__dataset__pipeline": [{"type": "Albu", "transforms": [{"type": "load", "filepath_or_buffer": "x"}]}],
    },
    "module by name": {"model__decode_head": {"type": "antigravity"}},
    "other scope": {"model__decode_head": {"type": "mmdet.Mask2FormerHead"}},
    "in our scope": {"model__decode_head": {"type": "mmengine.utils.import_modules_from_strings"}},
    "scope switch": {"model__decode_head___scope_": "evil"},
    "no name": {"model__decode_head__type": ["os", "system"]},
    "python backbone": {"model__neck": {"type": "LevlBackbone", "uri": "py:os:abort"}},
    "pickled checkpoint": {"model__decode_head__init_cfg": {"type": "Pretrained", "checkpoint": "evil.pth"}},
    "checkpoint key": {"model__neck": {"type": "FPN", "checkpoint": "evil.pth"}},
    "loading backbone": {"model__neck": {"type": "VPD", "diffusion_cfg": {}}},
    "imports": {"custom_imports": {"imports": ["evil"]}},
    "imports, one": {"custom_imports": {"imports": "evil"}},
    "imports, nested": {"custom_imports": {"imports": [["evil"]]}},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=list(ATTACKS))
def test_a_config_of_a_record_names_registered_types_only(tmp_path, monkeypatch, capsys, attack):
    pytest.importorskip("mmseg")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text("open('executed', 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = record(tmp_path, {**MMSEG, "config_text": config(**attack)})
    assert main(["rerun", str(path), "--device", "cpu", "--quiet"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "--trust" in err and str(path) in err
    assert not (tmp_path / "executed").exists() and "evil" not in sys.modules
    from levl_eval.engines.segmentation.mmseg_config import plan_of  # the engine itself asks too, whoever made the card

    with pytest.raises(UsageError, match="--trust"):
        plan_of(parse_card({**MMSEG, "config_text": config(**attack)}, "t"), None, 2)  # type: ignore[arg-type]


@pytest.mark.slow
def test_an_ordinary_config_of_a_record_passes_and_what_is_no_config_is_told():
    pytest.importorskip("mmseg")
    check_card(parse_card({**MMSEG, "config_text": config()}, "t"), "t")
    named = {
        "model__decode_head__type": "mmseg.FCNHead",
        "custom_imports": {"imports": ["levl_eval.engines.segmentation.mmseg_backbone"]},
    }
    check_card(parse_card({**MMSEG, "config_text": config(**named)}, "t"), "t")
    for text in ("__import__('os').system('true')", "[" * 5_000, "[1]", "{1: 2}[1]", "9" * 10_000):
        with pytest.raises(UsageError, match="not the text of a config"):
            check_card(parse_card({**MMSEG, "config_text": text}, "t"), "t")


def test_trust_lets_a_config_of_a_record_name_what_it_wants():
    pytest.importorskip("mmseg")
    card = parse_card({**MMSEG, "config_text": config(**ATTACKS["imports"])}, "t")
    card.trusted = True
    check_card(card, "t")
    assert "_trusted" not in card.model_dump() and not parse_card(card.model_dump(), "t").trusted


@pytest.mark.slow
def test_nothing_is_imported_by_name_while_a_foreign_config_runs():
    pytest.importorskip("mmseg")
    from mmengine.registry import MODELS

    from levl_eval.cards.mmseg_trust import no_imports_by_name

    with no_imports_by_name(False), pytest.raises((LevlError, RuntimeError, KeyError)):
        MODELS.build({"type": "os.system", "command": "true"})
    with no_imports_by_name(True):
        assert MODELS.get("os.getcwd") is os.getcwd


def test_a_config_file_runs_where_the_user_names_it_and_not_where_a_card_does(tmp_path, monkeypatch):
    pytest.importorskip("mmengine")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w').close()\nmodel = dict(type='X')\n")
    card = tmp_path / "theirs.yaml"
    card.write_text(json.dumps({**MMSEG, "name": "theirs", "config": "evil.py"}))
    for call in (lambda: task_card(str(card)), lambda: evaluate(["random:nano"], [str(card)], out=tmp_path / "o")):
        with pytest.raises(UsageError, match=r"theirs\.yaml: field `config`: 'evil\.py' may run Python here; say --trust"):
            call()
    assert main(["show", str(card)]) == 2
    assert not (tmp_path / "executed").exists()
    assert task_card(str(card), trust=True).trusted and (tmp_path / "executed").exists()
    (tmp_path / "executed").unlink()
    assert task_card("ade20k-mmseg", {"config": "evil.py"}).trusted and (tmp_path / "executed").exists()


def test_python_backbones_of_a_record_need_trust(tmp_path, capsys, monkeypatch):
    (tmp_path / "evil_module.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = record(tmp_path, LINEAR, uri="py:evil_module:factory")
    assert main(["rerun", str(path), "--device", "cpu", "--quiet"]) == 2
    err = capsys.readouterr().err
    assert "'py:evil_module:factory' is Python that would run here; say --trust" in err and err.count("\n") == 1
    assert not (tmp_path / "executed").exists() and "evil_module" not in sys.modules
    assert main(["rerun", str(path), "--device", "cpu", "--quiet", "--trust"]) == 2  # it runs, and has no factory
    assert (tmp_path / "executed").exists() and "evil_module" in capsys.readouterr().err


def test_task_folders_of_lmms_eval_in_a_record_or_card_need_trust(tmp_path, capsys):
    value = {"kind": "task", "engine": "lmms", "name": "t", "task": "x", "include": str(tmp_path), "recipe": "scenes"}
    path = record(tmp_path, value)
    assert main(["rerun", str(path), "--device", "cpu", "--quiet"]) == 2
    assert "field `include`" in (err := capsys.readouterr().err) and "--trust" in err
    card = tmp_path / "t.yaml"
    card.write_text(json.dumps(value))
    with pytest.raises(UsageError, match=r"t\.yaml: field `include`.*--trust.*--set t\.include="):
        task_card(str(card))
    with pytest.raises(UsageError, match="field `include`"):  # a card made in Python is no exception
        evaluate(["random:nano"], [parse_card(value, "t")], data=str(tmp_path), out=tmp_path / "o")
    assert task_card(str(card), trust=True).include and task_card(str(card), {"include": str(tmp_path)}).trusted


def test_a_saved_models_python_backbone_needs_trust(tmp_path):
    from levl_eval.engines.vlm.api import load

    (tmp_path / "vlm.json").write_text(json.dumps({"backbone": "py:os:abort", "llm": "scenes-lm", "connector": {}, "prompt": {}}))
    with pytest.raises(UsageError, match=r"vlm\.json: its backbone 'py:os:abort' is Python.*--trust"):
        load(tmp_path)


def test_records_with_foreign_cards_are_told(tmp_path, capsys):
    for card, uri, message in (
        ({**LINEAR, "epochs": 10**9}, "random:nano", "`epochs`"),
        ({"kind": "recipe", "name": "r", "data": []}, "random:nano", "a task card was expected"),
        (LINEAR, "", "`uri`"),
    ):
        assert main(["rerun", str(record(tmp_path, card, uri)), "--quiet"]) == 2
        assert message in capsys.readouterr().err
    unnamed = record(tmp_path, LINEAR, backbone={"name": "b", "weights_sha256": "0" * 64, "info": {}})  # no card of its backbone
    assert main(["rerun", str(unnamed), "--quiet"]) == 2
    assert "field `name`" in capsys.readouterr().err
    assert main(["rerun", str(record(tmp_path, LINEAR, call={"batch_size": -5})), "--quiet", "--device", "cpu"]) == 2
    assert "--batch-size -5" in capsys.readouterr().err
    os.mkfifo(tmp_path / "pipe.json")
    assert main(["rerun", str(tmp_path / "pipe.json")]) == 2


@pytest.mark.parametrize("kind", ["pipe", "directory", "socket", "device"])
def test_what_is_no_regular_file_is_not_waited_for(tmp_path, kind):
    path = tmp_path / "x.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with socket.socket(socket.AF_UNIX) as s:
            os.chdir(tmp_path)  # short enough a name
            s.bind("x.png")
            os.chdir(HERE)
    calls = (
        lambda: open_rgb(path), lambda: sha256_file(path), lambda: image_set(["x"], lambda i: path, "s", "w"),
    )  # fmt: skip
    for call in calls:
        with pytest.raises(LevlError, match=r"x\.png: is a (named pipe|directory|socket|device), not a regular file"):
            call()
    from levl_eval.core.files import lines_of
    from levl_eval.data.masks import LabelMap
    from levl_eval.data.questions import read_json
    from levl_eval.data.segmentation import load_mask

    for call in (lambda: lines_of(path, "w"), lambda: read_json(path), lambda: load_mask(path, LabelMap(3))):
        with pytest.raises(LevlError):
            call()


def test_a_pipe_among_class_folders_ends_a_run_in_one_line(tmp_path, capsys):
    from PIL import Image

    for side in ("train", "val"):
        for name in ("a", "b"):
            folder = tmp_path / "classification" / side / name
            folder.mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(folder / "0.png")
    os.mkfifo(tmp_path / "classification" / "val" / "a" / "x.png")
    sides = {"train": "train", "data": "val"}
    where = [w for p, f in sides.items() for w in ("--set", f"classify.{p}.root={tmp_path / 'classification' / f}")]
    words = ["run", "--backbone", "random:nano", "--tasks", "classify", "--data", str(tmp_path), "--out", str(tmp_path / "o")]
    assert main([*words, "--device", "cpu", "--quiet", "--seeds", "0", *where]) in (1, 2)
    shown = capsys.readouterr()
    assert "not a regular file" in shown.out + shown.err


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--batch-size", "-5", "at least 1, at most 65,536"), ("--batch-size", "0", "at least 1"), ("--batch-size", "1e9", "whole number"),
        ("--batch-size", "9" * 5_000, "at least 1"), ("--limit", "0", "at least 1"), ("--limit", "-1", "at least 1"),
        ("--seeds", "-1", "at least 0, at most 4,294,967,295"), ("--seeds", "", "--seeds: is empty"),
        ("--seeds", ",", "1 to 1,000 seeds"), ("--seeds", "a", "not a list"),
        ("--workers", "999999", r"4 for each of the \d+ cores"), ("--workers", "0", "at least 1"), ("--workers", "-3", "at least 1"),
    ],
)  # fmt: skip
def test_options_have_a_range(tmp_path, capsys, option, value, told):
    import re

    words = ["run", "--backbone", "random:nano", "--tasks", "linear", "--out", str(tmp_path), "--device", "cpu", "--quiet"]
    assert main([*words, f"{option}={value}", "--data", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and option in err and re.search(told, err) and len(err) < 300


def test_options_of_the_other_commands_have_a_range(tmp_path, capsys):
    make = ["data", "make", "scenes", "--out", str(tmp_path)]
    health = ["health", "--backbone", "random:nano"]
    for words in (
        [*make, "--size", "9999"], [*make, "--scale", "nan"], [*make, "--scale", "0"], [*make, "--scale", "inf"], [*make, "--seed", "-1"],
        [*health, "--batch-size", "0"], [*health, "--limit", "-1"], ["compare", "a", "b", "--differ", "-1"],
        ["show-dense", "--backbone", "random:nano", "--count", "0"], ["show-dense", "--backbone", "random:nano", "--side", "1000000"],
        ["verify", "--against", "project-page", "--batch-size", "-1"], ["audit", "--backbone", "b", "--batch-size", "0"],
        ["ask", "x.png", "q", "--seed", "-1"], ["verify", "--against", "project-page", "--tolerance", "nan"],
    ):  # fmt: skip
        assert main(words) == 2, words
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and "expected a" in err and "at most" in err, err


def test_evaluate_itself_has_the_same_ranges(tmp_path):
    for options in ({"batch_size": -5}, {"batch_size": True}, {"limit": 0}, {"seeds": [-1]}, {"seeds": []}, {"seeds": [1.5]}):
        with pytest.raises(UsageError, match="--"):
            evaluate(["random:nano"], ["linear"], out=tmp_path, data=str(tmp_path), **options)


def test_a_uri_too_long_for_a_name_is_one_line():
    with pytest.raises(UsageError, match="field `name`"):
        backbone_card("hf:" + "x" * 5_000)


@pytest.mark.parametrize(
    ("text", "line"), [("x = 1\nmodel = dict(type=nowhere)\n", 2), ("def f():\n    return 1 / 0\n\n\ny = f()\n", 2)]
)
def test_a_config_file_that_fails_is_told_with_its_line(text, line, tmp_path, monkeypatch):
    pytest.importorskip("mmengine")
    (tmp_path / "bad.py").write_text(text)
    with pytest.raises(UsageError, match=rf"not an mmseg config \(\w+Error: .*bad\.py, line {line}\)"):
        task_card("ade20k-mmseg", {"config": str(tmp_path / "bad.py")})


@pytest.mark.parametrize("words,option", [
    (["--out", ""], "--out"), (["--out="], "--out"), (["--data", " "], "--data"),
    (["--backbone", ""], "--backbone"), (["--cache", ""], "--cache"),
])  # fmt: skip
def test_an_option_that_is_empty_is_told(words, option, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--backbone", "random-nano", "--tasks", "knn", *words, "--dry-run"]) == 2
    assert f"{option}: is empty; give a value" in capsys.readouterr().err and not any(tmp_path.iterdir())


def test_a_folder_that_is_empty_is_told_in_python():
    for name in ("data", "out", "cache"):
        with pytest.raises(UsageError, match=f"{name}: is empty; give a folder"):
            evaluate(["random-nano"], ["knn"], **{name: ""})
    with pytest.raises(UsageError, match=r"tasks: 'knn' is one text; give a list, \['knn'\]"):
        evaluate(["random-nano"], "knn")


@pytest.mark.parametrize("setting", ["knn.name=linear", "knn.kind=set", "knn.engine=linear"])
def test_which_card_it_is_cannot_be_set(setting, capsys):
    assert main(["run", "--backbone", "random-nano", "--tasks", "knn", "--set", setting, "--dry-run"]) == 2
    assert "says which card this is" in capsys.readouterr().err


def test_a_device_without_numbers_is_none(capsys):
    assert main(["run", "--backbone", "random-nano", "--tasks", "knn", "--device", "meta", "--dry-run"]) == 2
    assert "--device meta: not usable here (it holds no numbers)" in capsys.readouterr().err
