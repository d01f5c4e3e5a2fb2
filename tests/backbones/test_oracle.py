"""The oracle backbones: what they tell, how much of it, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from levl_eval.backbones import load_backbone
from levl_eval.backbones.twin import random_twin
from levl_eval.cards.registry import backbone_card
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.data.types import ImageSet
from levl_eval.features.store import FeatureStore
from levl_eval.scenes.truth import KINDS
from levl_eval.scenes.world import MASK_CLASSES


@pytest.fixture(scope="module")
def files(world) -> list[Path]:
    return sorted((Path(world) / "gqa/images").glob("*.jpg"))[:8]


def tell(uri: str, world: Path, files: list[Path]):
    backbone = load_backbone(uri)
    backbone.open_data(str(world))
    return backbone, backbone.encode(torch.stack([backbone.preprocess(Image.open(f)) for f in files]))


def test_tokens_and_pooled_features(world, files):
    for kind, width in KINDS.items():
        backbone, found = tell(f"oracle:{kind}", world, files)
        assert found.patches.shape == (8, 64, width) and found.pooled.shape == (8, width) and found.grid == (8, 8)
        assert torch.allclose(found.pooled, found.patches.mean(1))
        assert (backbone.dim, backbone.patch_dim, backbone.grid) == (width, width, (8, 8))
        assert backbone.info["oracle"]["kind"] == kind and backbone.has_text == (kind == "words")
        assert not torch.equal(found.patches[0], found.patches[1])


def test_texts_are_the_classes_they_name(world, files):
    backbone, found = tell("oracle:words", world, files)
    _, classes = tell("oracle:classes", world, files)
    assert torch.equal(found.patches, classes.patches)
    texts = backbone.encode_text(["a photo of a cat.", "a car and a cat", "a scatter", "cats"])
    named = [[MASK_CLASSES[k] for k in row.nonzero().flatten()] for row in texts]
    assert [set(n) for n in named] == [{"cat"}, {"car", "cat"}, set(), set()]
    assert torch.allclose(texts.norm(dim=1), torch.tensor([1.0, 1.0, 0.0, 0.0]))


def test_kept_patches_are_nested_and_exact(world, files):
    _, whole = tell("oracle:attributes", world, files)
    before = torch.zeros(8, 64, dtype=torch.bool)
    for keep in (0, 0.25, 0.5, 0.75, 1):
        _, found = tell(f"oracle:attributes?keep={keep}", world, files)
        kept = found.patches.abs().sum(-1) > 0
        assert (kept.sum(1) == round(64 * keep)).all()
        assert (kept | ~before).all()  # nothing is taken back
        assert torch.equal(found.patches[kept], whole.patches[kept])
        before = kept
    assert (before[0] == before[1]).all()  # everything at last
    _, half = tell("oracle:classes?keep=0.5", world, files)
    chosen = half.patches.abs().sum(-1) > 0
    assert not (chosen[0] == chosen[1]).all()  # by image too


def test_noise_is_of_its_deviation_and_the_same_again(world, files):
    _, clean = tell("oracle:classes", world, files)
    _, noisy = tell("oracle:classes?noise=0.2", world, files)
    _, again = tell("oracle:classes?noise=0.2", world, files[::-1])
    assert (noisy.patches - clean.patches).std().item() == pytest.approx(0.2, rel=0.05)
    assert torch.equal(noisy.patches, again.patches.flip(0))


def test_identity_goes_by_all_that_moves_features(world):
    hashes = {}
    for uri in ("oracle:classes", "oracle:attributes", "oracle:classes?keep=0.5", "oracle:classes?noise=0.5"):
        backbone = load_backbone(uri)
        hashes[uri] = backbone.weights_sha256
        backbone.open_data(str(world))
        assert backbone.weights_sha256 != hashes[uri]  # another world than the default one
        assert backbone.code["loader"] == "oracle/1"
    assert len(set(hashes.values())) == 4
    assert load_backbone("oracle:classes?keep=1.0").weights_sha256 == hashes["oracle:classes"]
    assert backbone_card("oracle:classes").baseline is False


def test_what_is_none_of_the_scenes_is_refused(world, files, tmp_path):
    backbone = load_backbone("oracle:classes")
    for data in ("hub", str(tmp_path)):
        with pytest.raises(UsageError, match="know the synthetic scenes only"):
            backbone.open_data(data)
    backbone.open_data(str(world))
    image = backbone.preprocess(Image.open(files[0]))
    with pytest.raises(LevlError, match="none of the synthetic scenes"):
        backbone.encode(image.flip(-1)[None])
    with pytest.raises(LevlError, match="without other sizes, crops or views"):
        backbone.encode(torch.zeros(1, 3, 128, 128))
    assert (backbone.encode(torch.full((1, 3, 64, 64), 0.5)).patches == 0).all()  # a blank image shows nothing
    with pytest.raises(UsageError, match="no weights to draw"):
        random_twin(backbone)


@pytest.mark.parametrize(
    ("uri", "word"),
    [
        ("oracle:colours", "oracle:words or oracle:attributes"), ("oracle:classes?keep=2", "from 0 to 1"),
        ("oracle:classes?keep=nan", "from 0 to 1"), ("oracle:classes?keep=", "from 0 to 1"), ("oracle:classes?share=1", "'share'"),
        ("oracle:classes?keep=1&keep=0", "twice"), ("oracle:classes?half", "half"), ("oracle:", "nothing after"),
    ],
)  # fmt: skip
def test_wrong_uris_are_told_in_one_line(uri, word):
    with pytest.raises(UsageError, match=word.replace("?", r"\?")) as e:
        load_backbone(uri)
    assert "\n" not in str(e.value)


def test_features_are_stored_exactly_enough(world, files, tmp_path):
    """The store's half precision and threads leave a share of 1/144 apart from its neighbours."""
    backbone, direct = tell("oracle:attributes", world, files)
    images = ImageSet(tuple(f.name for f in files), lambda n: Image.open(files[0].parent / n).convert("RGB"), "test", "here")
    stored = FeatureStore(tmp_path).get(backbone, images)
    np.testing.assert_allclose(np.asarray(stored.patches, np.float32), direct.patches.numpy(), atol=5e-4)
