"""Deformable attention beside the reference's, which samples with ``grid_sample``."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from omniform.blocks.deformable import (
    DeformableAttention,
    DeformableCrossAttention,
    MapContext,
    bilinear,
    centres,
    filled,
    nearest,
    sampled,
)
from omniform.core.context import Memory, StepContext, Taps
from omniform.core.errors import InputError
from reference import close, transformers

SIZES = ((6, 9), (3, 5), (1, 2))
PLACES = sum(h * w for h, w in SIZES)


def theirs_of() -> nn.Module:
    from transformers.models.deformable_detr import modeling_deformable_detr as m

    config = transformers.DeformableDetrConfig(
        d_model=32,
        num_feature_levels=3,
        use_timm_backbone=False,
        backbone_config=transformers.ResNetConfig(),
    )
    torch.manual_seed(0)
    module = m.DeformableDetrMultiscaleDeformableAttention(config, num_heads=4, n_points=2)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


def context(references: torch.Tensor, places: torch.Tensor, **given: object) -> MapContext:
    ctx = StepContext(positions=torch.zeros(1, references.shape[1]), **given)
    return MapContext.on(ctx, SIZES, references, places)


@pytest.mark.parametrize("coordinates", [2, 4])
@pytest.mark.parametrize("levels", [3, 1])
@pytest.mark.parametrize("padded", [False, True])
def test_against_the_reference(coordinates, levels, padded):
    theirs = theirs_of()
    ours = DeformableCrossAttention(32, 4, 3, 2)
    ours.load_state_dict(theirs.state_dict())
    x, memory, places = torch.randn(2, 7, 32), torch.randn(2, PLACES, 32), torch.randn(2, 7, 32)
    # Some of them outside of the maps.
    references = torch.rand(2, 7, levels, coordinates) * 1.6 - 0.3
    padding = torch.rand(2, PLACES) > 0.4 if padded else None
    inputs = [tensor.requires_grad_() for tensor in (x, memory, places, references)]
    shapes = torch.tensor(SIZES)
    expected, weights = theirs(
        hidden_states=x, encoder_hidden_states=memory, position_embeddings=places, reference_points=references,
        attention_mask=padding, spatial_shapes=shapes, spatial_shapes_list=list(SIZES),
        level_start_index=torch.cat((shapes.new_zeros(1), shapes.prod(1).cumsum(0)[:-1])),
    )  # fmt: skip
    taps = Taps({"output_attentions": True})
    found = ours(x, context(references, places, memory=Memory(memory, padding), taps=taps))
    close(found, expected)
    close(taps.cross_attentions[0], weights)
    pull = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, [*inputs, *theirs.parameters()], pull)
    got = torch.autograd.grad(found, [*inputs, *ours.parameters()], pull)
    for mine, other in zip(got, wanted, strict=True):
        scale = other.abs().max().clamp(min=1)
        close(mine / scale, other / scale)


def test_self_attention_is_over_its_own_rows():
    own, across = DeformableAttention(32, 4, 3, 2), DeformableCrossAttention(32, 4, 3, 2)
    across.load_state_dict(own.state_dict())
    x, padding = torch.randn(2, PLACES, 32), torch.rand(2, PLACES) > 0.3
    at = centres(SIZES, torch.ones(2, 3, 2))
    taps = Taps({"output_attentions": True})
    found = own(x, context(at, x * 0.1, padding=padding, taps=taps))
    close(found, across(x, context(at, x * 0.1, memory=Memory(x, padding))), tolerance=1e-6)
    assert taps.attentions[0].shape == (2, PLACES, 4, 3, 2)


@pytest.mark.parametrize("how", [bilinear, nearest])
def test_places_that_are_far_away_or_no_numbers(how):
    values = torch.randn(1, PLACES, 1, 4)
    places = torch.tensor([[1e30, 0.5], [-1e30, 0.5], [0.5, float("inf")], [0.0, -float("inf")]])
    places = places.view(1, 4, 1, 1, 1, 2).expand(1, 4, 1, 3, 1, 2)
    found = sampled(values, places, torch.ones(1, 4, 1, 3, 1), SIZES, how)
    assert found.isfinite().all()
    if how is bilinear:
        assert not found.any()
        lost = sampled(values, places * float("nan"), torch.ones(1, 4, 1, 3, 1), SIZES, how)
        assert lost.isnan().all()


def test_a_single_pixel_is_read_as_it_is():
    values = torch.randn(3, 1, 2, 4)
    for how, at in ((bilinear, 0.5), (nearest, 0.2)):
        found = sampled(values, torch.full((3, 1, 2, 1, 1, 2), at), torch.ones(3, 1, 2, 1, 1), [(1, 1)], how)
        close(found, values.flatten(2), tolerance=1e-6)


def test_centres_of_padded_maps():
    real = torch.zeros(2, 6, 9, dtype=torch.bool)
    real[0, :6, :9], real[1, :3, :6] = True, True
    close(filled(real), torch.tensor([[1.0, 1.0], [6 / 9, 0.5]]))
    at = centres([(6, 9)], filled(real)[:, None])
    close(at[0, 0, 0], torch.tensor([0.5 / 9, 0.5 / 6]))
    close(at[1, 10, 0], torch.tensor([1.5 / 9, 1.5 / 6]))


def test_maps_that_do_not_fit():
    block = DeformableAttention(32, 4, 3, 2)
    x = torch.randn(1, PLACES + 1, 32)
    with pytest.raises(InputError, match="maps"):
        block(x, context(torch.rand(1, PLACES + 1, 3, 2), x))


def test_begins_as_the_reference():
    from transformers.models.rt_detr import modeling_rt_detr as m

    from omniform.weights.init import initialise

    config = transformers.RTDetrConfig(d_model=32, num_feature_levels=3)
    theirs = m.RTDetrMultiscaleDeformableAttention(config, num_heads=4, n_points=2)
    m.RTDetrPreTrainedModel._init_weights(m.RTDetrDecoder(config), theirs)
    ours = DeformableCrossAttention(32, 4, 3, 2)
    initialise(ours, 0.02)
    for name in ("sampling_offsets.weight", "sampling_offsets.bias", "attention_weights.weight", "output_proj.bias"):
        close(ours.get_parameter(name), theirs.get_parameter(name))
    assert 0.2 < ours.value_proj.weight.std() / theirs.value_proj.weight.std() < 5
