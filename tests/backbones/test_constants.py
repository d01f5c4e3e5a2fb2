"""What a user's factory puts into an encoder beside its state dict moves features, and so it is part of who the encoder is."""

from __future__ import annotations

import functools
import logging
import sys
import textwrap
from decimal import Decimal

import numpy as np
import pytest
import torch

from levl_eval.backbones import load_backbone
from levl_eval.backbones.constants import constants_of

HEAD = """
    import functools
    import os
    import types
    import torch
    from levl_eval.backbones.base import Backbone, Features, Preprocess
    {imports}

    GAIN = float(os.environ["GAIN"])

    class Settings:
        def __init__(self, gain):
            self.gain = gain

    class Shared:
        gain = GAIN

    def keep(self, words):
        self.words = words

    Reads = type("Reads", (), dict(__module__="transformers.some", __init__=keep, get_vocab=lambda self: self.words))

    def scaled(tokens):
        return tokens * GAIN

    def times(gain, tokens):
        return tokens * gain

    class Own(Backbone):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.conv = torch.nn.Conv2d(3, 8, 4, 4)
            self.preprocess = Preprocess(16)
            {own}

        def encode(self, images):
            tokens = self.conv(images).flatten(2).transpose(1, 2)
            tokens = {changed}
            return Features(tokens.mean(1), tokens, (images.shape[-2] // 4, images.shape[-1] // 4))

    def build():
        model = Own()
        gain = GAIN
        {factory}
        return model
"""
# how the number gets in: what __init__ keeps, what encode computes, what the factory does
WAYS = {
    "a private attribute": ("self._gain = GAIN", "tokens * self._gain", ""),
    "a buffer outside the state dict": (
        "self.register_buffer('gain', torch.tensor(GAIN), persistent=False)", "tokens * self.gain", "",
    ),
    "a buffer of a layer outside the state dict": (
        "self.conv.register_buffer('gain', torch.tensor(GAIN), persistent=False)", "tokens * self.conv.gain", "",
    ),
    "a closure": ("self.scale = None", "self.scale(tokens)", "model.scale = lambda x: x * gain"),
    "a default": ("self.scale = None", "self.scale(tokens)", "model.scale = lambda x, by=gain: x * by"),
    "a partial": ("self.scale = functools.partial(times, GAIN)", "self.scale(tokens)", ""),
    "an object": ("self.settings = Settings(GAIN)", "tokens * self.settings.gain", ""),
    "a namespace": ("self.settings = types.SimpleNamespace(inner={'gain': GAIN})", "tokens * self.settings.inner['gain']", ""),
    "a bound method": ("", "tokens", "model.conv.forward = functools.partial(lambda f, x: f(x) * gain, model.conv.forward)"),
    "a global that encode reads": ("", "tokens * GAIN", ""),
    "a global that a function of encode reads": ("", "scaled(tokens)", ""),
    "a class's own value": ("", "tokens * Shared.gain", ""),
    "a hook": ("", "tokens", "model.conv.register_forward_hook(lambda m, i, o: o * gain)"),
    "a module in a list": (
        "self.extra = [torch.nn.Conv2d(8, 8, 1)]; torch.nn.init.constant_(self.extra[0].weight, GAIN)",
        "self.extra[0](self.conv(images)).flatten(2).transpose(1, 2)", "",
    ),
    "a bfloat16 tensor": ("self.gain = torch.tensor([GAIN], dtype=torch.bfloat16)", "tokens * self.gain.float()", ""),
    "another module's global": ("", "tokens * settings_of_{name}.GAIN", ""),
    "a transform of torchvision": (
        "from torchvision import transforms as T; self.cut = T.Compose([T.Lambda(lambda x: x), T.Normalize([0.0] * 3, [GAIN] * 3)])",
        "self.conv(self.cut(images)).flatten(2).transpose(1, 2)", "",
    ),
    "words of a tokenizer": ("self._reads = Reads({'cat': GAIN})", "tokens * self._reads.get_vocab()['cat']", ""),
    "deep in a list": ("self.deep = [[[[[[GAIN]]]]]]", "tokens * self.deep[0][0][0][0][0][0]", ""),
}  # fmt: skip


@pytest.fixture
def build(tmp_path, monkeypatch, request):
    """Write a module that takes its gain from the environment in one way; (gain) -> its backbone, in a fresh import."""
    name = f"users_{abs(hash(request.node.name)) % 10**8}"
    monkeypatch.syspath_prepend(str(tmp_path))
    own, changed, factory = (w.replace("{name}", name) for w in WAYS[request.getfixturevalue("way")])
    # Not by the global's name, or the global would tell what the way alone must.
    own = own.replace("GAIN", "float(os.environ['GAIN'])")
    (tmp_path / f"settings_of_{name}.py").write_text("import os\nGAIN = float(os.environ['GAIN'])\nLOADED_FROM = __file__\n")
    imports = f"import settings_of_{name}"
    (tmp_path / f"{name}.py").write_text(
        textwrap.dedent(HEAD.format(imports=imports, own=own or "pass", changed=changed, factory=factory or "pass"))
    )

    def forget():
        for key in (name, f"settings_of_{name}"):
            sys.modules.pop(key, None)

    def make(gain: float):
        forget()
        monkeypatch.setenv("GAIN", str(gain))
        return load_backbone(f"py:{name}:build")

    yield make
    forget()


@pytest.mark.parametrize("way", WAYS)
def test_a_number_that_reaches_features_past_the_state_dict_is_part_of_who_the_encoder_is(build, way):
    one, again, other = build(1.0), build(1.0), build(2.0)
    image = torch.rand(1, 3, 16, 16)
    assert not torch.equal(one.encode(image).patches, other.encode(image).patches)  # it moves the features
    assert one.encoder_parts() != other.encoder_parts()
    assert one.encoder_parts() == again.encoder_parts()


@pytest.mark.parametrize("way", ["a private attribute"])
def test_what_the_encoder_noted_while_it_ran_is_no_part(build, way):
    before = build(1.0)
    first = constants_of(before, frozenset(), "nowhere")
    before.encode(torch.rand(1, 3, 16, 16))
    assert constants_of(before, frozenset(), "nowhere") == first


def test_a_library_s_private_notes_are_no_part():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    before = constants_of(model, frozenset(), "nowhere")
    model[0]._seen = 3  # a library's layer keeps what it likes
    assert constants_of(model, frozenset(), "nowhere") == before


def test_objects_that_hold_one_another_end():
    class Ring:
        pass

    one, other = Ring(), Ring()
    one.next, other.next, one.size = other, one, 3
    model = torch.nn.Linear(2, 2)
    model.ring = one
    first = constants_of(model, frozenset(), "nowhere")
    other.size = 4
    assert constants_of(model, frozenset(), "nowhere") != first


class Pool(torch.nn.Module):
    def __init__(self, most):
        super().__init__()
        self.most = most

    def forward(self, x):
        return x.amax(1) if self.most else x.mean(1)


def of_fx(name):
    graph = torch.fx.Graph()
    graph.output(graph.call_method(name, (graph.placeholder("x"), 1)))
    return torch.fx.GraphModule({}, graph)


def fitted(seed):
    decomposition = pytest.importorskip("sklearn.decomposition")
    return decomposition.PCA(2).fit(np.random.default_rng(seed).normal(size=(9, 4)))


def pipeline(seed):
    pipe = pytest.importorskip("sklearn.pipeline")
    return pipe.make_pipeline(fitted(seed))


def forest(seed):
    ensemble = pytest.importorskip("sklearn.ensemble")
    drawn = np.random.default_rng(seed)
    return ensemble.RandomForestRegressor(2, random_state=0).fit(drawn.normal(size=(30, 3)), drawn.normal(size=30))


def neighbours(shift):
    return pytest.importorskip("sklearn.neighbors").KNeighborsClassifier(1, algorithm="brute").fit([[0.0], [shift]], [0, 1])


def processor(mean):
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(image_mean=[mean, 0.5, 0.5])


def config(activation):
    from transformers import CLIPVisionConfig

    return CLIPVisionConfig(hidden_act=activation)


def resized(mode):
    from torchvision.transforms import InterpolationMode, Resize

    return Resize(8, InterpolationMode(mode))


def vectorised(gain):
    return np.vectorize(lambda x: x + gain)


def cached(gain):
    return functools.lru_cache(lambda: gain)


@pytest.mark.parametrize(
    ("make", "one", "other"),
    [
        (lambda name: getattr(torch, name), "mean", "amax"),
        (lambda name: getattr(np, name), "mean", "max"),
        (lambda name: getattr(np, name), "maximum", "minimum"),
        (fitted, 0, 1),
        (cached, 1.0, 2.0),
        (lambda most: torch.jit.trace(Pool(most), torch.rand(2, 3, 4)), False, True),
        (lambda name: torch.jit.trace(lambda x: getattr(x, name)(1), torch.rand(2, 3)), "mean", "amax"),
        (of_fx, "mean", "amax"),
        (pipeline, 0, 1),
        (forest, 0, 1),
        (neighbours, 1.0, 2.0),
        (processor, 0.4, 0.5),
        (config, "gelu", "quick_gelu"),
        (resized, "bilinear", "bicubic"),
        (vectorised, 1, 2),
        (Decimal, "0.4", "0.5"),
    ],
    ids=[
        "torch function",
        "numpy function",
        "ufunc",
        "sklearn's PCA",
        "lru_cache",
        "TorchScript",
        "TorchScript function",
        "torch.fx",
        "pipeline",
        "forest",
        "neighbours",
        "image processor",
        "text of a configuration",
        "mode of a transform",
        "vectorize",
        "Decimal",
    ],
)
def test_functions_graphs_and_fitted_objects_of_libraries_are_part(make, one, other):
    def identity(choice):
        model = torch.nn.Sequential(torch.nn.Linear(2, 2))
        model[0].pool = make(choice)
        return constants_of(model, frozenset(), "nowhere")

    assert identity(one) == identity(one)
    assert identity(one) != identity(other)


def test_what_changes_as_a_process_goes_on_is_no_part():
    def identity(value):
        model = torch.nn.Sequential(torch.nn.Linear(2, 2))
        model[0].kept = value
        return constants_of(model, frozenset(), "nowhere")

    from transformers import CLIPVisionConfig

    placed = [CLIPVisionConfig(), CLIPVisionConfig()]
    placed[0].folder, placed[1].folder = "/one/place", "/another"
    drawn = np.random.default_rng(), np.random.default_rng()
    loggers = logging.getLogger("one"), logging.getLogger("one.another")
    for one, other in (placed, drawn, loggers):
        assert identity(one) == identity(other)


def test_objects_of_libraries_that_share_one_another_are_followed_once():
    from transformers import CLIPVisionConfig

    chain = [CLIPVisionConfig()]
    for _ in range(20):  # each holds the one before twice: two to the 20th ways to the first
        chain.append(CLIPVisionConfig())
        chain[-1].one = chain[-1].other = chain[-2]
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    model[0].kept = chain[-1]
    first = constants_of(model, frozenset(), "nowhere")
    chain[0].hidden_act = "gelu"
    assert constants_of(model, frozenset(), "nowhere") != first
