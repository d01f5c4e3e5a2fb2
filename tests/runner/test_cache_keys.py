"""Every kind of thing that is kept has a key of all its inputs: each input is changed in turn, and exactly the kinds it moves must miss."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from levl_eval.backbones import load_backbone
from levl_eval.cards import RecipeCard
from levl_eval.cards.registry import task_card
from levl_eval.core.files import sha256_file
from levl_eval.core.progress import Progress
from levl_eval.data.images import image_set
from levl_eval.data.leakage import content_key
from levl_eval.data.types import ImageSet, Question, QuestionSet, SegmentationSet
from levl_eval.engines.probes.texts import text_embeddings, texts_key
from levl_eval.engines.segmentation.mmseg_task import head_key
from levl_eval.engines.vlm import recipe as recipes
from levl_eval.engines.vlm.floors import floor_key
from levl_eval.engines.vlm.recipe import VQAResources, get_or_train_connector
from levl_eval.engines.vlm.task import answers_key
from levl_eval.features.store import FeatureStore
from levl_eval.features.views import make_views
from levl_eval.models.config import PretrainConfig
from levl_eval.runner import caches
from levl_eval.scenes import export
from tests.data import small_sets as small
from tests.engines.vlm.models import make

QUIET = Progress(quiet=True)
ENCODER = frozenset({"features", "connectors", "answers", "heads"})
LANGUAGE = frozenset({"connectors", "floors", "answers"})
EVERY = ENCODER | LANGUAGE | {"texts"}


@dataclass
class Inputs:
    """What everything kept is made from."""

    backbone: Any
    language: Any
    images: ImageSet
    questions: tuple[Question, ...]
    card: Any
    head: Any
    texts: tuple[str, ...] = ("a cat", "a dog")
    seed: int = 0
    device: str = "cpu"
    layers: tuple[int, ...] | None = None
    views: Any = None
    world: tuple[int, int] = (0, 96)
    batch_size: int = 64


def keys(x: Inputs, tmp_path, monkeypatch) -> dict[str, str]:
    """Kind -> key, by the functions that the caches themselves use."""
    monkeypatch.setattr(recipes, "train", lambda *a, **k: (None, {}, True))
    monkeypatch.setattr(VQAResources, "features", lambda self, images, spec: None)
    device = torch.device(x.device)
    asked = QuestionSet("s", "test", x.questions, x.images, "q" + str(len(x.questions)))
    monkeypatch.setattr(recipes, "questions", lambda *a: replace(asked))
    resources = VQAResources(
        x.backbone, x.language, "d", FeatureStore(tmp_path), tmp_path, device, QUIET, x.batch_size, kept=SimpleNamespace()
    )  # type: ignore[arg-type]
    trained = get_or_train_connector(resources, x.card.recipe, x.card.prompt, x.seed)
    masks = SegmentationSet("s", "train", x.images, lambda n: np.zeros(1), ("a", "b"), 255, "m")
    context = SimpleNamespace(backbone=x.backbone, card=x.head, seed=x.seed, device=device)
    return {
        "features": FeatureStore.key(x.backbone, x.images, x.backbone.preprocess, x.layers, x.views, device),
        "texts": texts_key(x.backbone, list(x.texts)),
        "content": content_key(x.images),
        "connectors": trained.key,
        "answers": answers_key(resources, x.card, trained, asked),
        "floors": floor_key(resources, x.card, asked),
        "heads": head_key(context, masks),  # type: ignore[arg-type]
        "scenes": export.world_folder(tmp_path, *x.world).name,
    }


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Inputs:
    folder = tmp_path_factory.mktemp("images")
    for k in range(3):
        pixels = np.random.default_rng(k).integers(0, 255, (70, 70, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{k}.bmp")
    images = image_set([f"{k}.bmp" for k in range(3)], lambda n: folder / n, str(folder), "")
    asked = tuple(Question(str(k), f"{k}.bmp", "Is there a cat?", "yes") for k in range(3))
    card = task_card("pope", {"recipe": "scenes"})
    card = card.model_copy(update={"recipe": RecipeCard(name="r", data=[{"layout": "gqa"}])})
    return Inputs(
        load_backbone("clip-nano"), make("llama", tmp_path_factory.mktemp("llm")), images, asked, card, task_card("ade20k-mmseg")
    )


def _backbone(x: Inputs, **changes: Any) -> Inputs:
    backbone = copy.copy(x.backbone)
    backbone.__dict__.pop("_structure", None)
    for name, value in changes.items():
        setattr(backbone, name, value)
    return replace(x, backbone=backbone)


def _language(x: Inputs, change: Callable[[Any], None] | None = None, **fields: Any) -> Inputs:
    model = x.language.model
    language = replace(x.language, tokenizer=copy.deepcopy(x.language.tokenizer), **fields)
    language.model = SimpleNamespace(
        config=copy.deepcopy(model.config), generation_config=copy.deepcopy(model.generation_config),
        get_input_embeddings=model.get_input_embeddings,
    )  # fmt: skip
    if change is not None:
        change(language)
    return replace(x, language=language)


def _card(x: Inputs, **changes: Any) -> Inputs:
    return replace(x, card=x.card.model_copy(update=changes))


def _prompt(x: Inputs, **changes: Any) -> Inputs:
    return _card(x, prompt=x.card.prompt.model_copy(update=changes))


def _recipe(x: Inputs, **changes: Any) -> Inputs:
    return _card(x, recipe=x.card.recipe.model_copy(update=changes))


def _activation(x: Inputs) -> Inputs:
    backbone = copy.deepcopy(x.backbone)
    backbone.__dict__.pop("_structure", None)
    name = next(n for n, m in backbone.named_modules() if isinstance(m, torch.nn.GELU))
    backbone.get_submodule(name.rpartition(".")[0])._modules[name.rpartition(".")[2]] = torch.nn.SiLU()
    return replace(x, backbone=backbone)


def _pixels(x: Inputs, tmp_path) -> Inputs:
    """Other pixels in a file of equal size and times."""
    for name in x.images.ids:
        x.images.open(name).save(tmp_path / name)
    raw = bytearray((tmp_path / "1.bmp").read_bytes())
    raw[-9] ^= 255
    (tmp_path / "1.bmp").write_bytes(raw)
    return replace(x, images=image_set(x.images.ids, lambda n: tmp_path / n, x.images.source, ""))


def _order(x: Inputs) -> Inputs:
    """Rows are stored in order: another order misses also where a fingerprint does not tell it."""
    return replace(x, images=replace(x.images, ids=x.images.ids[::-1]))


def _question(x: Inputs, **changes: Any) -> Inputs:
    return replace(x, questions=(replace(x.questions[0], **changes), *x.questions[1:]))


def _tokenizer(language: Any) -> None:
    language.tokenizer.add_tokens(["Question"])


MUTATIONS: dict[str, tuple[Callable[..., Inputs], frozenset[str]]] = {
    "weights": (lambda x: _backbone(x, weights_sha256="0" * 64), ENCODER | {"texts"}),
    "encoder code": (lambda x: _backbone(x, code={**x.backbone.code, "source": "1"}), ENCODER | {"texts"}),
    "activation": (_activation, ENCODER | {"texts"}),
    "preprocess": (lambda x: _backbone(x, preprocess=replace(x.backbone.preprocess, mean=(0.0, 0.0, 0.0))), ENCODER),
    "text read-out": (lambda x: _backbone(x, readout="pad77"), frozenset({"texts"})),
    "text length": (lambda x: _backbone(x, max_length=9), frozenset({"texts"})),
    "text tokenizer": (
        lambda x: _backbone(x, tokenizer=SimpleNamespace(to_str=lambda: "{}")), frozenset({"texts"}),
    ),
    "texts": (lambda x: replace(x, texts=("a cat", "a bird")), frozenset({"texts"})),
    "order of texts": (lambda x: replace(x, texts=("a dog", "a cat")), frozenset({"texts"})),
    "layers": (lambda x: replace(x, layers=(-1,)), frozenset({"features"})),
    "views": (lambda x: replace(x, views=make_views(64, 32, None, True)), frozenset({"features"})),
    "kind of device": (lambda x: replace(x, device="meta"), (ENCODER | LANGUAGE)),
    "pixels of equal size": (_pixels, ENCODER | {"content"}),
    "order of images": (_order, ENCODER | {"content"}),
    "question": (lambda x: _question(x, question="Is there a dog?"), LANGUAGE),
    "question id": (lambda x: _question(x, question_id="77"), LANGUAGE),
    "answer": (lambda x: _question(x, answer="no"), frozenset({"connectors", "answers"})),
    "order of questions": (lambda x: replace(x, questions=x.questions[::-1]), LANGUAGE),
    "model's weights": (lambda x: _language(x, sha256="1"), LANGUAGE),
    "model's settings": (lambda x: _language(x, lambda m: setattr(m.model.config, "rms_norm_eps", 0.5)), LANGUAGE),
    "model's tokenizer": (lambda x: _language(x, _tokenizer), LANGUAGE),
    "chat template": (lambda x: _language(x, lambda m: setattr(m.tokenizer, "chat_template", "x")), LANGUAGE),
    "what ends an answer": (lambda x: _language(x, lambda m: setattr(m.model.generation_config, "eos_token_id", [2, 7])), LANGUAGE),
    "prompt": (lambda x: _prompt(x, template="{image}\nQ: {question}\nA:"), LANGUAGE),
    "stop": (lambda x: _prompt(x, stop=["."]), frozenset({"answers", "floors"})),
    "answer length": (lambda x: _prompt(x, max_new_tokens=3), frozenset({"answers", "floors"})),
    "choices": (lambda x: _card(x, likelihood=["a", "b"]), frozenset({"answers"})),
    "learning rate": (lambda x: _recipe(x, lr=0.5), frozenset({"connectors", "answers"})),
    "precision": (lambda x: _recipe(x, precision="bf16"), frozenset({"connectors", "answers"})),
    "first stage": (lambda x: _recipe(x, first=x.card.recipe), frozenset({"connectors", "answers"})),
    "head": (lambda x: replace(x, head=x.head.model_copy(update={"steps": 7})), frozenset({"heads"})),
    "seed": (lambda x: replace(x, seed=1), frozenset({"connectors", "answers", "heads"})),
    "world's seed": (lambda x: replace(x, world=(1, 96)), frozenset({"scenes"})),
    "world's size": (lambda x: replace(x, world=(0, 64)), frozenset({"scenes"})),
}  # fmt: skip

IRRELEVANT: dict[str, Callable[[Inputs], Inputs]] = {
    "name of the backbone": lambda x: _backbone(x, name="other", uri="levl:/elsewhere"),
    "path of the images": lambda x: replace(x, images=replace(x.images, source="/elsewhere", open=lambda n: None)),
    "name of the model": lambda x: _language(
        x, lambda m: setattr(m.model.config, "_name_or_path", "/elsewhere"), name="/elsewhere"
    ),
    "batch size": lambda x: replace(x, batch_size=3),
    "nothing": lambda x: _backbone(x),
}


@pytest.mark.parametrize("what", MUTATIONS)
def test_each_input_moves_the_keys_of_what_is_made_from_it(what, base, tmp_path, monkeypatch):
    change, moved = MUTATIONS[what]
    before = keys(base, tmp_path, monkeypatch)
    after = keys(change(base, tmp_path) if change is _pixels else change(base), tmp_path, monkeypatch)
    assert {k for k in before if before[k] != after[k]} == moved


@pytest.mark.parametrize("what", IRRELEVANT)
def test_what_moves_no_number_hits(what, base, tmp_path, monkeypatch):
    assert keys(IRRELEVANT[what](base), tmp_path, monkeypatch) == keys(base, tmp_path, monkeypatch)


def test_the_index_of_a_device_moves_nothing_and_its_kind_does(base):
    b, images = base.backbone, base.images
    of = {d: FeatureStore.key(b, images, b.preprocess, device=d) for d in ("cpu", "cuda", "cuda:1")}
    assert of["cuda"] == of["cuda:1"] != of["cpu"]


def test_a_version_raised_is_another_key(base, tmp_path, monkeypatch):
    from levl_eval.data import leakage
    from levl_eval.engines.probes import texts
    from levl_eval.engines.segmentation import mmseg_task
    from levl_eval.engines.vlm import floors, task, training
    from levl_eval.features import request as features

    before = keys(base, tmp_path, monkeypatch)
    raised = {
        "features": (features, "FEATURES"), "texts": (texts, "TEXTS"), "content": (leakage, "CONTENT"),
        "connectors": (training, "TRAINING"), "answers": (task, "ENGINE"), "floors": (floors, "ENGINE"),
        "heads": (mmseg_task, "HEAD"), "scenes": (export, "VERSION"),
    }  # fmt: skip
    assert raised.keys() == before.keys()
    for kind, (module, name) in raised.items():
        with monkeypatch.context() as patch:
            patch.setattr(module, name, 99)
            assert keys(base, tmp_path, patch)[kind] != before[kind], kind


def test_another_reading_of_images_is_another_key_of_what_is_kept_of_pixels(base, tmp_path, monkeypatch):
    """Stored features have FEATURES."""
    from levl_eval.data import leakage, rgb, skipping
    from levl_eval.pretrain import data as pools

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    small.write(tmp_path / "pairs.csv", "image,caption\na.png,a cat\n")
    config = PretrainConfig(objective="clip", model="nano", data=f"csv:{tmp_path / 'pairs.csv'}")
    decoded, hashed = replace(base.images, content=None), replace(base.images, content=lambda n: "0" * 64)
    time.sleep(0.1)  # of files of just now nothing is remembered

    def of_pixels():
        return [skipping.state_key(tmp_path / "a.png", "exif"), leakage.content_key(decoded), pools.csv_plan(config).key]

    before, of_bytes = of_pixels(), leakage.content_key(hashed)
    for module in (skipping, leakage, pools):
        monkeypatch.setattr(module, "READING", rgb.READING + 1)
    assert None not in before and not set(before) & set(of_pixels()) and leakage.content_key(hashed) == of_bytes


def test_no_kind_of_the_cache_is_left_out(base, tmp_path, monkeypatch):
    elsewhere = {"backbones", "fingerprints", "pools"}  # tested beside what makes them
    assert set(caches.KINDS) - elsewhere == keys(base, tmp_path, monkeypatch).keys() - {"heads"}  # those lie below --out
    assert {k for _, moved in MUTATIONS.values() for k in moved} | {"content", "scenes"} == keys(
        base, tmp_path, monkeypatch
    ).keys()


POOLS = """
import torch
from torch import nn
from levl_eval.backbones.base import Backbone, Features, Preprocess


class Net(Backbone):
    def __init__(self):
        super().__init__()
        self.preprocess = Preprocess(size=32)
        torch.manual_seed(0)
        self.map = nn.Conv2d(3, 8, 8, 8)

    def pool(self, x):
        raise NotImplementedError

    def encode(self, images):
        x = self.map(images).flatten(2).transpose(1, 2)
        return Features(self.pool(x), x, (images.shape[-2] // 8, images.shape[-1] // 8))


class Mean(Net):
    def pool(self, x):
        return x.mean(1)


class Max(Net):
    def pool(self, x):
        return x.amax(1)


class Zeros(Net):
    def pool(self, x):
        return torch.zeros_like(x[:, 0])


def mean():
    return Mean()


def largest():
    return Max()


def zeros():
    return Zeros()
"""


def test_three_factories_of_one_module_with_one_set_of_weights(base, tmp_path, monkeypatch):
    (tmp_path / "pools_of_a_user.py").write_text(POOLS)
    monkeypatch.syspath_prepend(tmp_path)
    store = FeatureStore(tmp_path / "s")
    loaded = [load_backbone(f"py:pools_of_a_user:{f}") for f in ("mean", "largest", "zeros")]
    assert len({b.weights_sha256 for b in loaded}) == 1
    found = [np.array(store.get(b, base.images).pooled) for b in loaded]
    assert not np.array_equal(found[0], found[1]) and not found[2].any() and found[1].any()
    sys.modules.pop("pools_of_a_user", None)


def test_one_set_of_weights_read_at_two_places_has_two_text_embeddings(base, tmp_path):
    eot = base.backbone
    padded = copy.copy(eot)
    padded.readout = "pad77"
    one, other = (text_embeddings(b, ["a cat", "a small dog"], tmp_path)["embedding"] for b in (eot, padded))
    assert not torch.equal(one, other)
    again = text_embeddings(padded, ["a cat", "a small dog"], tmp_path)["embedding"]
    assert torch.equal(other, again) and len(list((tmp_path / "texts").iterdir())) == 2


def test_files_of_equal_bytes_have_equal_hashes_here(base, tmp_path):
    """What the mutation of pixels relies on: the changed file has the size of the first."""
    changed = _pixels(base, tmp_path)
    assert changed.images.fingerprint != base.images.fingerprint
    assert (tmp_path / "1.bmp").stat().st_size == (tmp_path / "0.bmp").stat().st_size
    assert sha256_file(tmp_path / "0.bmp") != sha256_file(tmp_path / "1.bmp")
