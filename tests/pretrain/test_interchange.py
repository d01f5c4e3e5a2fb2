"""The published forms: out and back bit for bit, the other predictor layout, and what a user can give wrongly."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from levl_eval.core.errors import UsageError
from levl_eval.models import checkpoints as checkpoint
from levl_eval.models.checkpoints import export, load_model, read, read_any
from levl_eval.pretrain.cli import main
from levl_eval.pretrain.interchange import import_published


def _equal(a, b):
    for side in ("vision", "text"):
        for part in ("encoder", "pre_proj", "projector"):
            assert a[side][part].keys() == b[side][part].keys()
            for k, v in a[side][part].items():
                assert torch.equal(v, b[side][part][k]), (side, part, k)


@pytest.mark.parametrize("form", ["official", "safetensors"])
@pytest.mark.parametrize("objective", ["levljepa", "siglip"])
def test_published_forms_come_back_bit_for_bit(checkpoints, tmp_path, form, objective):
    source = checkpoints[objective]
    assert main(["export", str(source), "--to", form, "--out", str(tmp_path / "dir")]) == 0
    assert main(["import", str(tmp_path / "dir"), "--out", str(tmp_path / "back.pt")]) == 0
    before, after = read(source), read(tmp_path / "back.pt")
    _equal(before, after)
    for field in ("objective", "model", "vision", "text", "embed_dim", "head_width", "max_length", "image_size"):
        assert before["config"][field] == after["config"][field], field
    assert (before["step"], before["preprocess"], before["tokenizer"]) == (after["step"], after["preprocess"], after["tokenizer"])
    one, two = load_model(source)[0], load_model(tmp_path / "back.pt")[0]
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    ids, last = torch.tensor([[5, 6, 0], [7, 0, 0]]), torch.tensor([2, 1])
    with torch.no_grad():  # equal weights are not enough: the number of heads is not in them
        assert torch.equal(one.embed_images(pixels), two.embed_images(pixels))
        assert torch.equal(one.embed_texts(ids, last), two.embed_texts(ids, last))


def test_predictors_without_dropout_modules_are_renumbered(checkpoints, tmp_path):
    export(checkpoints["levljepa"], "safetensors", tmp_path / "dir")
    for side in ("vision", "text"):
        path = tmp_path / "dir" / f"{side}_encoder.safetensors"
        tensors = load_file(path)
        renamed = {}
        for k, v in tensors.items():
            if k.startswith("projector."):
                i, rest = k.split(".")[1:]
                k = f"projector.{int(i) // 4 * 3 + int(i) % 4}.{rest}"
            renamed[k] = v
        assert "projector.12.weight" in renamed and "projector.16.weight" not in renamed
        save_file(renamed, path)
    import_published(str(tmp_path / "dir"), tmp_path / "back.pt")
    _equal(read(checkpoints["levljepa"]), read(tmp_path / "back.pt"))


def test_a_longer_position_table_is_kept(checkpoints, tmp_path):
    export(checkpoints["clip"], "safetensors", tmp_path / "dir")
    path = tmp_path / "dir" / "text_encoder.safetensors"
    tensors = load_file(path)
    table = tensors["encoder.wpe.weight"]
    assert table.shape == (1024, 128) and not table[32:].any()  # as the authors' loader expects; the model's own are 32
    tensors["encoder.wpe.weight"] = torch.cat([table[:32], torch.randn(992, 128)])
    save_file(tensors, path)
    config = tmp_path / "dir" / "config.json"
    told = json.loads(config.read_text())
    for name in ("positions", "max_length"):  # the authors' config.json says neither
        del told["text_encoder"][name]
    config.write_text(json.dumps(told))
    import_published(str(tmp_path / "dir"), tmp_path / "back.pt")
    model, meta = load_model(tmp_path / "back.pt")
    assert torch.equal(model.text.encoder.wpe.weight, tensors["encoder.wpe.weight"]) and meta["config"]["max_length"] == 77


def test_a_size_that_is_no_name_is_found_by_the_weights(checkpoints, tmp_path):
    export(checkpoints["clip"], "safetensors", tmp_path / "dir")
    config = tmp_path / "dir" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_size": ["nano"]}))
    import_published(str(tmp_path / "dir"), tmp_path / "back.pt")
    assert read(tmp_path / "back.pt")["config"]["model"] == "nano"


def test_a_release_exports_like_its_checkpoint(checkpoints, tmp_path):
    (release,) = export(checkpoints["levljepa"], "release", tmp_path / "r.safetensors")
    export(release, "safetensors", tmp_path / "dir")
    import_published(str(tmp_path / "dir"), tmp_path / "back.pt")
    _equal(read_any(release), read(tmp_path / "back.pt"))
    assert read_any(release)["vision"]["pre_proj"]["1.num_batches_tracked"].dtype == torch.int64


def test_wrong_sources_are_one_line_each(checkpoints, tmp_path, capsys):
    export(checkpoints["clip"], "safetensors", tmp_path / "dir")
    config = tmp_path / "dir" / "config.json"
    good = json.loads(config.read_text())
    (tmp_path / "empty").mkdir()
    cases = [
        (["import", str(tmp_path / "empty"), "--out", str(tmp_path / "x.pt")], None, "holds neither"),
        (["import", str(tmp_path / "dir"), "--out", str(checkpoints["clip"])], None, "is there already"),
        (["import", str(tmp_path / "dir"), "--out", str(tmp_path / "x.pt")], "{", "not valid JSON"),
        (["import", str(tmp_path / "dir")], json.dumps(good), "--out"),
        (
            ["import", str(tmp_path / "dir"), "--out", str(tmp_path / "x.pt")],
            json.dumps({**good, "text_encoder": {"num_heads": 5}}),
            "does not divide",
        ),
        (["export", str(checkpoints["clip"]), "--to", "release", "--out", str(tmp_path / "empty")], None, "is a directory"),
        (["export", str(checkpoints["clip"]), "--to", "official", "--out", str(config)], None, "is a file"),
    ]
    for words, content, expected in cases:
        if content is not None:
            config.write_text(content)
        assert main(words) == 2
        err = capsys.readouterr().err
        assert expected in err and err.count("\n") == 1
    config.write_text(json.dumps(good))
    (tmp_path / "dir" / "tokenizer.json").write_text("nothing")
    with pytest.raises(UsageError, match=r"tokenizer\.json"):
        import_published(str(tmp_path / "dir"), tmp_path / "x.pt")
    assert not (tmp_path / "x.pt").exists()


def test_release_with_missing_metadata_is_one_line(checkpoints, tmp_path):
    (release,) = export(checkpoints["clip"], "release", tmp_path / "r.safetensors")
    save_file(load_file(release), tmp_path / "bare.safetensors", metadata={"format": "levl-pretrain/1"})
    with pytest.raises(UsageError, match=r"bare\.safetensors.*'tokenizer'"):
        load_model(tmp_path / "bare.safetensors")


def test_an_interrupted_export_leaves_no_towers_of_two_steps(checkpoints, tmp_path, monkeypatch):
    out = tmp_path / "dir"
    export(checkpoints["clip"], "safetensors", out)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    later = read(checkpoints["clip"])
    later["step"] += 1
    for side in ("vision", "text"):
        later[side]["encoder"] = {k: v + 1 for k, v in later[side]["encoder"].items()}
    checkpoint.save(tmp_path / "later.pt", later)
    written = []

    def save_one(tensors, path):
        if written:
            raise KeyboardInterrupt
        written.append(path)
        save_file(tensors, path)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(checkpoint, "save_file", save_one)
        export(tmp_path / "later.pt", "safetensors", out)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    export(tmp_path / "later.pt", "safetensors", out)
    assert (out / "vision_encoder.safetensors").read_bytes() != before["vision_encoder.safetensors"]
