"""ConvNeXt, its second version and DINOv3's against the reference."""

from __future__ import annotations

import pytest
import torch
from askers import Nothing
from convs import asked, conv_heads
from harness import Head, Parity, Table

from omniform.core.errors import ConfigError, InputError
from reference import close, compare, omniform, saved_reference, transformers

TINY = {"num_stages": 3, "hidden_sizes": [8, 12, 16], "depths": [1, 2, 1]}

VARIANTS = {
    "plain": {},
    "some maps": {"out_features": ["stem", "stage2"], "layer_norm_eps": 1e-2},
    "relu, patches": {"hidden_act": "relu", "patch_size": [3, 2], "num_channels": 1, "out_indices": [1, -1]},
    "one stage": {"num_stages": 1, "hidden_sizes": [8], "depths": [2], "drop_path_rate": 0.5},
}


class TestConvNext(Parity):
    table = Table(
        model_type="convnext",
        config=transformers.ConvNextConfig,
        tiny=TINY,
        heads=conv_heads("ConvNext"),
        variants={**VARIANTS, "unscaled": {"layer_scale_init_value": 0.0}},
    )


class TestConvNextV2(Parity):
    table = Table(
        model_type="convnextv2",
        config=transformers.ConvNextV2Config,
        tiny=TINY,
        heads=conv_heads("ConvNextV2"),
        variants=VARIANTS,
    )


class TestDINOv3ConvNext(Parity):
    table = Table(
        model_type="dinov3_convnext",
        config=transformers.DINOv3ConvNextConfig,
        tiny={"hidden_sizes": [8, 12, 16], "depths": [1, 2, 1]},
        heads={
            "Model": Head(
                "DINOv3ConvNextModel", "AutoModel", asked(Nothing(("last_hidden_state", "pooler_output"))),
                everywhere=True,
            ),
            "Backbone": Head(
                "DINOv3ConvNextBackbone", "AutoBackbone", asked(Nothing(("feature_maps",))), everywhere=True
            ),
        },
        variants={
            "plain": {},
            "some maps": {"out_features": ["stem", "stage2"], "layer_norm_eps": 1e-2},
            "relu": {"hidden_act": "relu", "num_channels": 1, "out_indices": [1, -1]},
        },
    )  # fmt: skip


def pair(folder, name: str = "ConvNext", **changes: object):
    made = getattr(transformers, f"{name}Config")(**{**TINY, **changes})
    theirs = saved_reference(getattr(transformers, f"{name}ForImageClassification"), made, folder)
    return getattr(omniform, f"{name}ForImageClassification").from_pretrained(folder), theirs


@pytest.mark.parametrize("name", ["ConvNext", "ConvNextV2"])
def test_sizes_and_training(tmp_path, name):
    ours, theirs = pair(tmp_path, name, drop_path_rate=0.5)
    for size in ((16, 16), (17, 31), (70, 16)):
        compare(ours, theirs, {"pixel_values": torch.randn(2, 3, *size)}, ["logits", "hidden_states"])
    for small in ((15, 64), (64, 3)):
        with pytest.raises(InputError, match=r"at least \[16, 16\]"):
            ours(torch.randn(1, 3, *small))
    # Branches are dropped for the same rows.
    pixels, outputs = torch.randn(6, 3, 20, 20), []
    for model in (ours.train(), theirs.train()):
        torch.manual_seed(3)
        outputs.append(model(pixels).logits)
    close(*outputs)
    with torch.no_grad():
        assert not torch.equal(outputs[0], ours.eval()(pixels).logits)


def test_fresh_weights():
    made = omniform.ConvNextForImageClassification(omniform.ConvNextConfig(**TINY, layer_scale_init_value=0.25))
    assert (made.model.network.stages[0].layers[0].scale.lambda1 == 0.25).all()
    made = omniform.ConvNextV2Model(omniform.ConvNextV2Config(**TINY))
    assert not made.network.stages[0].layers[0].response.weight.any()


@pytest.mark.parametrize("changes", [{"num_stages": 4}, {"depths": [1, 1]}, {"hidden_act": "x"}, {"patch_size": 0}])
def test_configs_refused(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        omniform.AutoConfig.for_model("convnext", **{**TINY, **changes})
