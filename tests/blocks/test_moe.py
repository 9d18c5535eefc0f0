"""Mixtures of experts: choices as written in the papers, tokens as if each went its own way."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from omniform.blocks.moe import Experts, SigmoidGroups, SoftmaxTop, TopSoftmax
from omniform.weights.init import initialise
from reference import close


def one_by_one(experts: Experts, x: Tensor, chosen: Tensor, shares: Tensor) -> Tensor:
    """Each token through its experts, as the definition has it."""
    rows = []
    for token, numbers, weights in zip(x, chosen, shares, strict=True):
        row = torch.zeros_like(token)
        for n, weight in zip(numbers.tolist(), weights, strict=True):
            h = experts.gate_up_proj.weight[n] @ token
            h = h if experts.gate_up_proj.bias is None else h + experts.gate_up_proj.bias[n]
            y = experts.down_proj.weight[n] @ experts.gated(h)
            y = y if experts.down_proj.bias is None else y + experts.down_proj.bias[n]
            row = row + weight * y
        rows.append(row)
    return torch.stack(rows)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dim", [16, 10])  # the second is none that the kernel takes
@pytest.mark.parametrize("tokens", [1, 7])
def test_each_token_through_its_own_experts(dim: int, tokens: int, bias: bool) -> None:
    torch.manual_seed(0)
    experts = Experts(5, dim, 12, "gelu", bias=bias)
    for parameter in experts.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(tokens, dim, requires_grad=True)
    shares, chosen = SoftmaxTop(3)(torch.randn(tokens, 5))
    found, expected = experts(x, chosen, shares), one_by_one(experts, x, chosen, shares)
    close(found, expected)
    weights = [x, *experts.parameters()]
    probe = torch.randn_like(found)
    mine, other = (torch.autograd.grad((y * probe).sum(), weights) for y in (found, expected))
    close(mine, other)


def test_choices() -> None:
    scores = torch.tensor([[2.0, 1.0, 0.0, 3.0]])
    shares, chosen = SoftmaxTop(2)(scores)
    assert chosen.tolist() == [[3, 0]]
    close(shares, torch.tensor([[3.0, 2.0]]).softmax(-1))
    close(SoftmaxTop(2, normed=False)(scores)[0], scores.softmax(-1)[:, [3, 0]])
    close(TopSoftmax(2)(scores)[0], shares)


def test_groups_are_chosen_by_their_two_best_and_bias_counts_in_the_choice_alone() -> None:
    choose = SigmoidGroups(6, 2, groups=3, top_groups=1, scale=2.5)
    initialise(choose, 0.02)
    scores = torch.tensor([[4.0, -4.0, 1.0, 1.5, 0.0, 0.5]])  # the best of all is in a group that is not the best
    shares, chosen = choose(scores)
    assert sorted(chosen[0].tolist()) == [2, 3]
    likely = scores.sigmoid()[0, chosen[0]]
    close(shares[0], likely / likely.sum() * 2.5)
    choose.e_score_correction_bias[4:] = 1.0
    shares, chosen = choose(scores)
    assert sorted(chosen[0].tolist()) == [4, 5]
    close(shares.sum(), torch.tensor(2.5))
    close(SigmoidGroups(6, 2, normed=False)(scores)[0].sum(), scores.sigmoid()[0, [0, 3]].sum())
