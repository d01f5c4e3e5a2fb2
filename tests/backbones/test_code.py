"""What computes a backbone's features is part of who it is: a user's own source and constants, tokenizers, library versions."""

from __future__ import annotations

import sys
import textwrap

import pytest
import torch

from levl_eval.backbones import load_backbone
from levl_eval.backbones.code import LIBRARIES, LOADER_VERSIONS, code_of, tokenizer_digest, user_sources
from levl_eval.backbones.constants import constants_of
from levl_eval.cards.registry import SCHEMES
from levl_eval.core.errors import UsageError

MODEL = """
    import torch
    from levl_eval.backbones.base import Backbone, Features, Preprocess
    from {package}.pooling import pool

    class Own(Backbone):
        def __init__(self, how):
            super().__init__()
            torch.manual_seed(0)
            self.conv = torch.nn.Conv2d(3, 8, 4, 4)
            self.how, self.threshold, self.preprocess = how, {threshold}, Preprocess(16)

        def encode(self, images):
            tokens = self.conv(images).flatten(2).transpose(1, 2)
            return Features(pool(tokens, self.how), tokens, (images.shape[-2] // 4, images.shape[-1] // 4))

    def mean(): return Own("mean")
    def most(): return Own("max")
    def zeros(): return Own("zeros")
"""
POOLING = """
    def pool(tokens, how):
        from . import details
        return tokens.mean(1) if how == "mean" else tokens.amax(1) if how == "max" else tokens.mean(1) * details.ZERO
"""


@pytest.fixture
def package(tmp_path, monkeypatch, request):
    """A user's package of three modules, one of which is imported inside a function; gone again after the test."""
    name = f"users_{abs(hash(request.node.name)) % 10**8}"
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / name
    folder.mkdir()

    def write(threshold="1.0", zero="ZERO = 0.0"):
        for key in [k for k in sys.modules if k.partition(".")[0] == name]:
            del sys.modules[key]
        (folder / "__init__.py").write_text("")
        (folder / "models.py").write_text(textwrap.dedent(MODEL.format(package=name, threshold=threshold)))
        (folder / "pooling.py").write_text(textwrap.dedent(POOLING))
        (folder / "details.py").write_text(zero + "\n")
        return name

    yield write
    for key in [k for k in sys.modules if k.partition(".")[0] == name]:
        del sys.modules[key]


def test_three_factories_of_one_module_with_one_set_of_weights_are_three_encoders(package):
    name = package()
    found = [load_backbone(f"py:{name}.models:{f}") for f in ("mean", "most", "zeros")]
    assert len({b.weights_sha256 for b in found}) == 1
    assert len({str(b.encoder_parts()) for b in found}) == 3


def test_what_the_factory_imports_from_the_users_folders_counts_also_inside_functions(package):
    name = package()
    assert set(user_sources(f"{name}.models")) == {name, f"{name}.models", f"{name}.pooling", f"{name}.details"}
    before = code_of("py", f"{name}.models:mean")
    assert code_of("py", f"{name}.models:mean") == before
    package(zero="ZERO = 0.5")
    assert code_of("py", f"{name}.models:mean")["source"] != before["source"]


def test_constants_that_are_in_no_state_dict_count(package, monkeypatch):
    name = package()
    before = load_backbone(f"py:{name}.models:mean")
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    hashes = [constants_of(model, frozenset(), name)]
    for value in (0.5, 0.25, torch.ones(2), torch.zeros(2), [1, 2], {"a": 1}):
        model[0].extra = value
        hashes.append(constants_of(model, frozenset(), name))
    assert len(set(hashes)) == len(hashes)
    package(threshold="2.0")
    after = load_backbone(f"py:{name}.models:mean")
    assert after.code["constants"] != before.code["constants"] and after.weights_sha256 == before.weights_sha256


def test_a_module_that_is_not_there_is_one_line():
    with pytest.raises(UsageError, match="no such module"):
        code_of("py", "nowhere_at_all.models:f")


def test_every_scheme_says_its_libraries_and_its_loaders_version():
    assert set(LIBRARIES) == set(LOADER_VERSIONS) == set(SCHEMES)
    assert {"timm", "torch", "loader"} <= set(code_of("random", "nano"))


def test_tokenizers_are_told_apart_by_what_they_do():
    from tokenizers import Tokenizer, models

    def words(*names):
        return Tokenizer(models.WordLevel({n: i for i, n in enumerate(names)}, unk_token=names[0]))

    a, b = tokenizer_digest(words("u", "a")), tokenizer_digest(words("u", "b"))
    assert a != b and a == tokenizer_digest(words("u", "a")) and tokenizer_digest(None) == ""


@pytest.mark.slow
def test_readout_and_length_of_a_text_side_are_parts(checkpoints):
    one = load_backbone(str(checkpoints["clip"]))
    parts = one.text_parts()
    one.readout = "pad77"
    other = one.text_parts()
    one.max_length = 12
    assert len({str(parts), str(other), str(one.text_parts())}) == 3
