"""`twin:BACKBONE` and `--floors random-twin`: the same architecture with other weights, and whose gains are over it."""

from __future__ import annotations

import pytest
import torch

from levl_eval.backbones.loader import load_backbone
from levl_eval.cards.registry import backbone_card
from levl_eval.cards.twins import check_backbone, twinned, with_floors
from levl_eval.cli import main
from levl_eval.cli import run as cli
from levl_eval.core.errors import UsageError
from levl_eval.data.fingerprint_cache import FingerprintCache
from levl_eval.report.reference import reference_of
from levl_eval.runner.backbones import BackboneHandle

from tests.report.conftest import record  # isort: skip


def test_a_twin_is_the_same_architecture_with_drawn_weights():
    backbone, twin = load_backbone("clip-nano"), load_backbone("twin:clip-nano")
    again = load_backbone("twin:clip-nano")
    assert twin.weights_sha256 == again.weights_sha256 != backbone.weights_sha256 == twin.info["twin_of"]
    assert twin.preprocess == backbone.preprocess and twin.info["architecture"] == backbone.info["architecture"]
    assert (twin.name, twin.uri, twin.info["baseline"], twin.code["of"]) == ("twin:clip-nano",) * 2 + (
        True,
        backbone.code["loader"],
    )
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = twin.encode(image), backbone.encode(image)
    assert ours.patches.shape == theirs.patches.shape and not torch.allclose(ours.patches, theirs.patches, atol=0.1)
    assert load_backbone("twin:siglip-nano").weights_sha256 != twin.weights_sha256  # whose scale and bias are others


def test_floors_add_a_twin_for_each_backbone_that_has_weights():
    asked = ["clip-nano", "random-nano", "oracle:classes", "twin:siglip-nano", "siglip-nano"]
    assert with_floors(asked, []) == asked
    assert with_floors(asked, ["random-twin"]) == [*asked, "twin:clip-nano"]
    with pytest.raises(UsageError, match="'majority' is not known; there is random-twin"):
        with_floors(asked, ["majority"])
    with pytest.raises(UsageError, match="clip-nano was given as a card"):
        with_floors([backbone_card("clip-nano")], ["random-twin"])
    assert backbone_card("twin:clip-nano").baseline and twinned(backbone_card("twin:twin:clip-nano")).name == "clip-nano"


def test_a_twin_of_python_runs_nothing_unasked():
    for uri in ("twin:py:os:system", " twin: twin:py:os:system"):
        with pytest.raises(UsageError, match="is Python that would run here"):
            check_backbone(uri, "r.json", False)
        check_backbone(uri, "r.json", True)


def test_a_twin_of_a_card_that_names_python_runs_nothing_unasked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kind.yaml").write_text("kind: backbone\nname: kind\nuri: py:os:system\n")
    (tmp_path / "more.yaml").write_text("kind: backbone\nname: more\nuri: twin:kind.yaml\n")
    for uri in ("twin:kind.yaml", "twin:more.yaml", "twin: twin:kind.yaml"):
        with pytest.raises(UsageError, match="is Python that would run here"):
            check_backbone(uri, "r.json", False)
        check_backbone(uri, "r.json", True)
    check_backbone("twin:clip-nano", "r.json", False)


def test_a_gain_is_over_the_twin_of_its_own_weights():
    shapes = {"architecture": [1, 2]}
    cells = {n: record(n, "linear", "top1", {}) for n in ("a", "b", "c", "twin:a", "twin:b")}
    for name, r in cells.items():
        of = {"twin_of": cells[name.removeprefix("twin:")].weights, "baseline": True, "random_seed": 0} if "twin" in name else {}
        r.backbone["info"] = {**shapes, **of}
    assert [reference_of(n, cells, None) for n in cells] == ["twin:a", "twin:b", None, None, None]  # c: two that are alike
    del cells["twin:b"]
    assert [reference_of(n, cells, None) for n in ("a", "b")] == ["twin:a", "twin:a"]  # of the same architecture
    cells["b"].backbone["info"] = {"architecture": [3, 4]}
    assert reference_of("b", cells, None) is None


def test_the_command_line_runs_twins_as_backbones(monkeypatch):
    """So that they may be the reference, are in the plan, and have their data: everything after the words were read sees them."""
    seen = []
    monkeypatch.setattr(cli, "shared_run", lambda count, args: seen.append(args.backbone) or 0)
    assert main(["run", "--backbone", "clip-nano,random-nano", "--floors", "random-twin", "--tasks", "linear"]) == 0
    assert seen == [["clip-nano", "random-nano", "twin:clip-nano"]]


def test_a_twin_of_itself_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tw.yaml").write_text("kind: backbone\nname: tw\nuri: twin:tw.yaml\n")
    for load in (
        lambda: load_backbone("tw.yaml"),
        lambda: BackboneHandle(backbone_card("tw.yaml"), tmp_path, FingerprintCache(None)).facts,
    ):
        with pytest.raises(UsageError, match="is a twin of itself"):
            load()
