"""Weight norm against torch's own parametrization, whose modules can be neither pickled nor copied."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from omniform.blocks.weight_norm import NormedConv1d
from omniform.weights.init import initialise


@pytest.mark.parametrize("along", [0, 2])
@pytest.mark.parametrize(("kernel", "padding", "dilation", "groups"), [(1, 0, 1, 1), (3, 2, 2, 1), (4, 2, 1, 2)])
def test_as_torchs(along, kernel, padding, dilation, groups):
    theirs = nn.Conv1d(4, 6, kernel, padding=padding, dilation=dilation, groups=groups)
    theirs = nn.utils.parametrizations.weight_norm(theirs, dim=along)
    ours = NormedConv1d(4, 6, kernel, padding=padding, dilation=dilation, groups=groups, along=along)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    ours.load_state_dict(theirs.state_dict())
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    x = torch.randn(2, 4, 9)
    for one in (ours, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert torch.equal(one(x), theirs(x)) and torch.equal(one.weight, theirs.weight)
    for model in (ours, theirs):
        model(x).square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name])


def test_begins_as_a_convolution_of_torch():
    ours = NormedConv1d(64, 48, 5)
    initialise(ours, 0.02)
    reach = (64 * 5) ** -0.5
    weight = ours.weight
    torch.testing.assert_close(weight, ours.parametrizations.weight.original1)  # lengths are those of the directions
    for drawn in (weight.detach(), ours.bias.detach()):
        assert drawn.abs().max() <= reach * 1.001 and float(drawn.std()) == pytest.approx(reach / 3**0.5, rel=0.3)
