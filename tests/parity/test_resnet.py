"""ResNet against the reference."""

from __future__ import annotations

import pytest
import torch
from convs import conv_heads
from harness import Parity, Table

from omniform.core.errors import ConfigError, InputError
from reference import close, compare, omniform, saved_reference, transformers

TINY = {"embedding_size": 8, "hidden_sizes": [12, 16, 20], "depths": [1, 2, 1], "layer_type": "basic"}

VARIANTS = {
    "plain": {},
    "bottleneck": {"layer_type": "bottleneck", "out_features": ["stem", "stage2"]},
    "stride in the first convolution": {"layer_type": "bottleneck", "downsample_in_bottleneck": True},
    "stride in the first stage": {"downsample_in_first_stage": True, "out_indices": [1, -1]},
    "gelu": {"hidden_act": "gelu", "layer_type": "bottleneck", "num_channels": 1},
    "one stage": {"hidden_sizes": [8], "depths": [1]},
}


class TestResNet(Parity):
    table = Table(
        model_type="resnet",
        config=transformers.ResNetConfig,
        tiny=TINY,
        heads=conv_heads("ResNet"),
        variants=VARIANTS,
    )


def pair(folder, head: str = "ForImageClassification", **changes: object):
    theirs = saved_reference(
        getattr(transformers, f"ResNet{head}"), transformers.ResNetConfig(**{**TINY, **changes}), folder
    )
    return getattr(omniform, f"ResNet{head}").from_pretrained(folder), theirs


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (5, 3), (32, 64)])
def test_odd_sizes(tmp_path, size):
    ours, theirs = pair(tmp_path)
    compare(ours, theirs, {"pixel_values": torch.randn(2, 3, *size)}, ["logits", "hidden_states"])


def test_batch_norms_train(tmp_path):
    """Statistics move in training as the reference's do; what was trained is saved with them."""
    ours, theirs = pair(tmp_path / "model")
    pixels = torch.randn(4, 3, 37, 46)
    for model in (ours.train(), theirs.train()):
        for _ in range(2):
            model(pixel_values=pixels, labels=torch.arange(4) % 2).loss.backward()
    close(ours.classifier.weight.grad, theirs.classifier[1].weight.grad)
    assert ours.model.network.stem.normalization.num_batches_tracked == 2
    compare(ours.eval(), theirs.eval(), {"pixel_values": pixels}, ["logits"])
    ours.save_pretrained(tmp_path / "again")
    again = transformers.ResNetForImageClassification.from_pretrained(tmp_path / "again")
    compare(ours, again, {"pixel_values": pixels}, ["logits"])


def test_fresh_weights():
    torch.manual_seed(0)
    config = omniform.ResNetConfig(hidden_sizes=[64, 64], depths=[1, 1], num_labels=9)
    ours = omniform.ResNetForImageClassification(config)
    theirs = transformers.ResNetForImageClassification(
        transformers.ResNetConfig(hidden_sizes=[64, 64], depths=[1, 1], num_labels=9)
    )
    mine, other = dict(ours.named_parameters()), dict(theirs.named_parameters())
    deep = "stages.1.layers.0.layer.1.convolution.weight"
    deep = "stages.1.layers.0.layer.1.convolution.weight"
    for a, b in (
        ("classifier.weight", "classifier.1.weight"),
        ("classifier.bias", "classifier.1.bias"),
        (
            "model.network.stages.1.0.layer.1.convolution.weight",
            f"resnet.encoder.{deep}",
        ),
    ):
        assert 0.6 < mine[a].std().item() / other[b].std().item() < 1.6, a
    assert ours.model.network.stem.normalization.num_batches_tracked == 0


@pytest.mark.parametrize(
    "changes", [{"depths": [1]}, {"depths": [1, 0, 1]}, {"layer_type": "wide"}, {"hidden_act": "x"}]
)
def test_configs_refused(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        omniform.AutoConfig.for_model("resnet", **{**TINY, **changes})


def test_pictures_refused(tmp_path):
    ours, _ = pair(tmp_path)
    for wrong in (torch.randn(1, 1, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.randn(3, 8, 8)):
        with pytest.raises(InputError, match="pixel_values"):
            ours(wrong)
    with pytest.raises(InputError, match="no pictures"):
        ours.model()
