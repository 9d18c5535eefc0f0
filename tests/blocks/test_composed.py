"""Modules that name their parts: parts of several bases, and norms that are made."""

import pytest
import torch
from torch import nn

import omniform
from omniform.blocks.composed import Composed
from omniform.blocks.layers import CrossPostNorm, CrossPreNorm, PostNorm, PreNorm, Sandwich
from omniform.core.errors import InputError


class Left(Composed):
    left: nn.Module
    size: int = 1


class Right(Composed):
    right: nn.Module


class Both(Left, Right):
    own: int = 3


def test_parts_of_every_base_count():
    made = Both(left=nn.Identity(), right=nn.Identity(), size=2)
    assert (made.size, made.own) == (2, 3) and {*dict(made.named_children())} == {"left", "right"}
    with pytest.raises(TypeError, match="misses right"):
        Both(left=nn.Identity())
    with pytest.raises(TypeError, match="has no part wrong"):
        Both(left=nn.Identity(), right=nn.Identity(), wrong=1)


@pytest.mark.parametrize(
    ("kind", "norms"), [(PreNorm, 2), (PostNorm, 2), (Sandwich, 4), (CrossPreNorm, 3), (CrossPostNorm, 3)]
)
def test_every_norm_of_a_layer_is_one_of_its_own(kind, norms):
    cross = {"encoder_attn": nn.Identity()} if kind.READS_MEMORY else {}
    layer = kind.of(lambda: nn.LayerNorm(4), self_attn=nn.Identity(), mlp=nn.Identity(), dropout=0.5, **cross)
    made = [m for m in layer.children() if isinstance(m, nn.LayerNorm)]
    assert len(made) == len({id(m) for m in made}) == norms and layer.dropout == 0.5
    with pytest.raises(TypeError, match="misses mlp"):
        kind.of(lambda: nn.LayerNorm(4), self_attn=nn.Identity(), **cross)


def test_labels_of_pre_training_are_looked_at():
    config = omniform.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    model = omniform.BertForPreTraining(config)
    ids = torch.tensor([[1, 2, 3]])
    with pytest.raises(InputError, match="outside the classes"):
        model(input_ids=ids, labels=torch.tensor([[1, 2, 20]]), next_sentence_label=torch.tensor([0]))
