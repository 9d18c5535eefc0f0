"""Mixtures of experts: choices as written in the papers, tokens as if each went its own way."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from omniform.blocks import moe
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


@pytest.mark.parametrize("bias", [False, True])
@torch.no_grad()
def test_some_at_a_time_and_without_looking(bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    experts = Experts(9, 10, 7, "silu", bias=bias)
    for parameter in experts.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(23, 10)
    shares, chosen = SoftmaxTop(3)(torch.randn(23, 9).index_fill(1, torch.tensor([0, 4, 8]), -9.0))
    expected = one_by_one(experts, x, chosen, shares)
    for run in (1, 12, 69, 70):
        monkeypatch.setattr(moe, "RUN", run)
        close(experts(x, chosen, shares), expected)
    close(experts.double()(x.double(), chosen, shares), expected)
    monkeypatch.setattr(moe, "counts_of", lambda *_: None)
    close(experts.float()(x, chosen, shares), expected)
    assert experts(x[:0], chosen[:0], shares[:0]).shape == (0, 10)
    monkeypatch.undo()
    assert experts(x[:0], chosen[:0], shares[:0]).shape == (0, 10)


def test_a_long_prompt_takes_no_matrix_per_token() -> None:
    experts = Experts(4, 33, 35, "silu")
    for parameter in experts.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(600, 33, requires_grad=True)
    shares, chosen = SoftmaxTop(2)(torch.randn(600, 4))
    made: list[int] = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None
        ) -> object:
            out = func(*args, **(kwargs or {}))
            made.append(max((y.numel() for y in pytree.tree_leaves(out) if isinstance(y, Tensor)), default=0))
            return out

    with Sizes():
        experts(x, chosen, shares).sum().backward()
    assert max(made) <= 600 * 2 * 70  # what the chosen experts make of each token, at most


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
