"""Muon: steps of one size in every direction; what it is applied to; rates and states through the pair with AdamW."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from levl_eval.engines.muon import Muon, MuonAndAdamW, orthogonalised


def test_muon_makes_steps_of_one_size_in_every_direction():
    p = torch.nn.Parameter(torch.zeros(8, 24))
    p.grad = torch.randn(8, 24, generator=torch.Generator().manual_seed(0)) * torch.logspace(0, -2, 8)[:, None]
    Muon([p], lr=1.0, weight_decay=0.0).step()
    sizes = torch.linalg.svdvals(p.detach()) / (0.2 * 24**0.5)
    assert sizes.min() > 0.5 and sizes.max() < 1.4


def test_an_orthogonal_update_keeps_the_matrix_s_directions():
    """Against the polar factor by SVD, of which the iteration is an approximation: same singular vectors, values near 1."""
    for shape in ((6, 20), (20, 6)):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        u, _, v = torch.linalg.svd(x, full_matrices=False)
        inside = u.T @ orthogonalised(x) @ v.T
        assert torch.allclose(inside, torch.diag(inside.diagonal()), atol=1e-4)
        assert inside.diagonal().min() > 0.5 and inside.diagonal().max() < 1.3


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has it from 2.9 on")
def test_it_is_what_torch_s_own_does():
    """torch's orthogonalises in bfloat16: the same steps up to its rounding."""
    start = torch.randn(12, 7, generator=torch.Generator().manual_seed(2))
    moved = []
    for kind, words in ((Muon, {}), (torch.optim.Muon, {"adjust_lr_fn": "match_rms_adamw"})):
        p = nn.Parameter(start.clone())
        optimizer = kind([p], lr=0.1, weight_decay=0.01, momentum=0.95, **words)
        for step in range(4):
            p.grad = torch.randn(12, 7, generator=torch.Generator().manual_seed(step)) + p.detach()
            optimizer.step()
        moved.append(p.detach() - start)
    assert (moved[0] - moved[1]).norm() < 0.02 * moved[0].norm()


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.queries = nn.Parameter(torch.randn(3, 4))
        self.one, self.norm, self.two = nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2)

    def forward(self) -> torch.Tensor:
        return self.two(self.norm(self.one(self.queries)).relu()).square().mean()


def _steps(net: _Net, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = 0.1 / (step + 1)
        optimizer.zero_grad()
        net().backward()
        optimizer.step()


def test_linear_layers_are_muon_s_and_the_rest_is_adamw_s():
    net = _Net()
    muon, adamw = MuonAndAdamW(net, 0.1, 0.0).parts
    names = {id(p): name for name, p in net.named_parameters()}
    assert [names[id(p)] for p in muon.param_groups[0]["params"]] == ["one.weight", "two.weight"]
    assert {names[id(p)] for p in adamw.param_groups[0]["params"]} == {
        "queries", "one.bias", "two.bias", "norm.weight", "norm.bias",
    }  # fmt: skip
    assert len(MuonAndAdamW(nn.Linear(3, 3, bias=False), 0.1, 0.0).parts) == 1
    assert len(MuonAndAdamW(nn.LayerNorm(3), 0.1, 0.0).parts) == 1


def test_a_rate_that_is_set_on_the_pair_is_set_on_both_also_behind_a_state():
    whole, first = _Net(), _Net()
    _steps(whole, MuonAndAdamW(whole, 0.1, 0.01), range(6))
    before = MuonAndAdamW(first, 0.1, 0.01)
    _steps(first, before, range(3))
    second = copy.deepcopy(first)
    after = MuonAndAdamW(second, 7.0, 0.01)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    assert [group["lr"] for group in after.param_groups] == [0.1 / 3, 0.1 / 3]
    _steps(second, after, range(3, 6))
    for a, b in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    still = [p.clone() for p in second.parameters()]
    for group in after.param_groups:
        group["lr"] = 0.0
    after.step()
    assert all(torch.equal(a, b) for a, b in zip(still, second.parameters(), strict=True))


def test_another_optimiser_s_state_is_refused():
    net = _Net()
    with pytest.raises((KeyError, ValueError)):
        MuonAndAdamW(net, 0.1, 0.0).load_state_dict(torch.optim.AdamW(net.parameters()).state_dict())
