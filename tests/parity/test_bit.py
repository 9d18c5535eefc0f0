"""BiT against the reference."""

from __future__ import annotations

import pytest
import torch
from convs import conv_heads
from harness import Parity, Table

from omniform.core.errors import ConfigError, InputError
from reference import close, compare, omniform, saved_reference, transformers

TINY = {"embedding_size": 8, "hidden_sizes": [16, 24, 32], "depths": [1, 2, 1], "num_groups": 2}

VARIANTS = {
    "plain": {},
    "bottleneck": {"layer_type": "bottleneck", "out_features": ["stem", "stage2"], "num_channels": 1},
    "as TensorFlow pads": {
        "layer_type": "bottleneck", "global_padding": "same", "embedding_dynamic_padding": True, "hidden_act": "gelu"},
    "as TensorFlow pads, normed before": {"global_padding": "SAME", "embedding_dynamic_padding": True},
    "dilated": {"layer_type": "bottleneck", "output_stride": 4, "out_indices": [1, -1]},
    "dilated, normed before": {"output_stride": 8},
}  # fmt: skip


class TestBit(Parity):
    table = Table(
        model_type="bit", config=transformers.BitConfig, tiny=TINY, heads=conv_heads("Bit"), variants=VARIANTS
    )


def pair(folder, head: str = "ForImageClassification", **changes: object):
    theirs = saved_reference(getattr(transformers, f"Bit{head}"), transformers.BitConfig(**{**TINY, **changes}), folder)
    return getattr(omniform, f"Bit{head}").from_pretrained(folder), theirs


@pytest.mark.parametrize("size", [(1, 1), (9, 70), (32, 64)])
def test_odd_sizes(tmp_path, size):
    ours, theirs = pair(tmp_path)
    compare(ours, theirs, {"pixel_values": torch.randn(2, 3, *size)}, ["logits", "hidden_states"])


def test_no_padding(tmp_path):
    """Where the reference's stem works and its blocks, which add maps of two sizes, do not."""
    made = {**TINY, "layer_type": "bottleneck", "global_padding": "valid"}
    theirs = saved_reference(transformers.BitBackbone, transformers.BitConfig(**made), tmp_path)
    ours = omniform.BitBackbone.from_pretrained(tmp_path, out_features=["stem"])
    pixels = torch.randn(1, 3, 40, 47)
    with torch.no_grad():
        close(ours(pixels).feature_maps[0], theirs.bit.embedder(pixels))
    with pytest.raises(InputError, match="too small"):
        ours(torch.randn(1, 3, 6, 40))


def test_branches_are_dropped_as_in_the_reference(tmp_path):
    ours, theirs = pair(tmp_path, "Model", drop_path_rate=0.6)
    found = []
    for model in (ours.train(), theirs.train()):
        torch.manual_seed(3)
        with torch.no_grad():
            found.append(model(torch.ones(4, 3, 32, 32)).last_hidden_state)
    close(*found)


def test_fresh_weights():
    torch.manual_seed(0)
    config = {**TINY, "num_labels": 9}
    ours = omniform.BitForImageClassification(omniform.BitConfig(**config))
    theirs = transformers.BitForImageClassification(transformers.BitConfig(**config))
    mine, other = dict(ours.named_parameters()), dict(theirs.named_parameters())
    for a, b in (
        ("classifier.weight", "classifier.1.weight"),
        ("model.network.convolution.weight", "bit.embedder.convolution.weight"),
    ):
        assert 0.6 < mine[a].std().item() / other[b].std().item() < 1.6, a


@pytest.mark.parametrize(
    "changes",
    [{"depths": [1]}, {"layer_type": "wide"}, {"global_padding": "full"}, {"num_groups": 3}, {"drop_path_rate": 2.0}],
)
def test_configs_refused(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        omniform.AutoConfig.for_model("bit", **{**TINY, **changes})


def test_pictures_refused(tmp_path):
    ours, _ = pair(tmp_path)
    for wrong in (torch.randn(1, 1, 8, 8), torch.randn(3, 8, 8)):
        with pytest.raises(InputError, match="pixel_values"):
            ours(wrong)
