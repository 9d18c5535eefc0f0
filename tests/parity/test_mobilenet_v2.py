"""MobileNetV2 against the reference."""

from __future__ import annotations

import pytest
import torch
from askers import Given, Nothing, Question
from convs import asked, conv_heads
from harness import Head, Parity, Table

from omniform.core.errors import ConfigError, InputError
from reference import close, compare, omniform, saved_reference, transformers

TINY = {
    "depth_multiplier": 0.25,
    "expand_ratio": 2.0,
    "finegrained_output": False,
    "classifier_dropout_prob": 0.0,
    "output_stride": 8,
}


def maps(config: object) -> list[Question]:
    pixels = torch.randn(2, 3, 70, 45, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 4, (2, 70, 45), generator=torch.Generator().manual_seed(1))
    labels[0, :9] = config.semantic_loss_ignore_index
    inputs = {"pixel_values": pixels}
    return [Question(inputs, ("logits", "hidden_states")), Question({**inputs, "labels": labels}, ("loss", "logits"))]


HEADS = conv_heads("MobileNetV2", backbone=False, rate=1e-3)
HEADS["Model"] = Head("MobileNetV2Model", "AutoModel",
    asked(Nothing(("last_hidden_state", "pooler_output")), (70, 45)), everywhere=True)  # fmt: skip
HEADS["ForSemanticSegmentation"] = Head(
    "MobileNetV2ForSemanticSegmentation", "AutoModelForSemanticSegmentation",
    Given(maps, lambda config: maps(config)[1].inputs, {"num_labels": 4}),
    rate=1e-3, unused=("model.conv_1x1",),
)  # fmt: skip


class TestMobileNetV2(Parity):
    table = Table(
        model_type="mobilenet_v2",
        config=transformers.MobileNetV2Config,
        tiny=TINY,
        heads=HEADS,
        variants={
            "plain": {},
            "unpadded": {"tf_padding": False, "output_stride": 16, "hidden_act": "relu"},
            "wide end": {
                "output_stride": 32,
                "finegrained_output": True,
                "first_layer_is_expansion": False,
                "num_channels": 1,
            },
            "other channels": {"depth_divisible_by": 4, "min_depth": 6, "depth_multiplier": 0.3, "layer_norm_eps": 0.1},
        },
    )


def pair(folder, head: str = "ForImageClassification", **changes: object):
    config = transformers.MobileNetV2Config(**{**TINY, **changes})
    theirs = saved_reference(getattr(transformers, f"MobileNetV2{head}"), config, folder)
    return getattr(omniform, f"MobileNetV2{head}").from_pretrained(folder), theirs


@pytest.mark.parametrize("pads", [True, False])
@pytest.mark.parametrize("size", [(1, 1), (1, 33), (7, 6)])
def test_odd_sizes(tmp_path, size, pads):
    for head in ("ForImageClassification", "ForSemanticSegmentation"):
        ours, theirs = pair(tmp_path / head, head, tf_padding=pads)
        compare(ours, theirs, {"pixel_values": torch.randn(2, 3, *size)}, ["logits", "hidden_states"])


def test_training(tmp_path):
    """Dropout falls on the same channels; norms keep the moving averages of the reference."""
    for head in ("ForImageClassification", "ForSemanticSegmentation"):
        ours, theirs = pair(tmp_path / head, head, classifier_dropout_prob=0.6)
        pixels, outputs = torch.randn(3, 3, 64, 64), []
        for model in (ours.train(), theirs.train()):
            torch.manual_seed(3)
            outputs.append(model(pixel_values=pixels).logits)
        close(*outputs, tolerance=1e-3)
        compare(ours.eval(), theirs.eval(), {"pixel_values": pixels}, ["logits"], tolerance=1e-3)


def test_refused(tmp_path):
    ours, _ = pair(tmp_path, "ForSemanticSegmentation", num_labels=1)
    with pytest.raises(InputError, match="two classes"):
        ours(torch.randn(1, 3, 32, 32), labels=torch.zeros(1, 32, 32, dtype=torch.long))
    with pytest.raises(InputError, match="pixel_values"):
        ours(torch.randn(1, 2, 32, 32))
    for name in ("depth_multiplier", "expand_ratio"):
        with pytest.raises(ConfigError, match=name):
            omniform.AutoConfig.for_model("mobilenet_v2", **{name: 0})
