"""Swin v2, and the Swin that MaskFormer stands on, against the reference."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from askers import PROBLEMS, Nothing, Pictures
from harness import Head, Parity, Table
from test_swin import STAGES, Hidden, pictures

from omniform.core.errors import ConfigError
from reference import close, compare, omniform, saved_reference, transformers

TINY = {
    "image_size": 24, "patch_size": 2, "embed_dim": 8, "depths": [2, 1], "num_heads": [2, 4], "window_size": 3,
    "mlp_ratio": 2.0,
}  # fmt: skip
VARIANTS = {
    "plain": {},
    "no biases": {"qkv_bias": False, "hidden_act": "relu", "layer_norm_eps": 1e-2},
    "trained on other windows": {"pretrained_window_sizes": [5, 2], "num_channels": 1},
    "wide": {"image_size": [14, 26], "window_size": 4},
    "odd maps": {"image_size": 22, "depths": [2, 2, 1], "num_heads": [1, 2, 4], "mlp_ratio": 1.7},
    "windows as large as maps": {"window_size": 6, "depths": [2, 2]},
    "windows larger than maps": {"window_size": 9, "patch_size": 4, "depths": [2, 2]},
    "squares of one": {"window_size": 1},
}


def pair(folder: Path, name: str = "Swinv2Model", **changes: object):
    kind = transformers.Swinv2Config if "v2" in name else transformers.MaskFormerSwinConfig
    theirs = saved_reference(getattr(transformers, name), kind(**{**TINY, **changes}), folder, scale=0.3)
    return getattr(omniform, name).from_pretrained(folder), theirs


class TestSwinv2(Parity):
    table = Table(
        model_type="swinv2",
        config=transformers.Swinv2Config,
        tiny={**TINY, "encoder_stride": 4},
        heads={
            "Model": Head(
                "Swinv2Model", "AutoModel", Pictures(Nothing(("last_hidden_state", "pooler_output")), STAGES),
                everywhere=True,
            ),
            "ForImageClassification": Head(
                "Swinv2ForImageClassification", "AutoModelForImageClassification", Pictures(PROBLEMS["classes"], STAGES)
            ),
            "ForMaskedImageModeling": Head(
                "Swinv2ForMaskedImageModeling", "AutoModelForMaskedImageModeling", Hidden(Nothing(), STAGES), rate=1e-3
            ),
            "Backbone": Head(
                "Swinv2Backbone", "AutoBackbone",
                Pictures(Nothing(("feature_maps",), {"out_features": ["stem", "stage1"], "image_size": [23, 38]})),
            ),
        },
        variants=VARIANTS,
        half=5e-2,
    )  # fmt: skip


class TestMaskFormerSwin(Parity):
    table = Table(
        model_type="maskformer-swin",
        config=transformers.MaskFormerSwinConfig,
        tiny=TINY,
        heads={
            "Model": Head(
                "MaskFormerSwinModel", "AutoModel",
                Pictures(Nothing(("last_hidden_state", "pooler_output")), ("hidden_states",)), everywhere=True,
            ),
            "Backbone": Head(
                "MaskFormerSwinBackbone", "AutoBackbone",
                Pictures(Nothing(("feature_maps",), {"out_features": ["stage1", "stage2"]}), ("hidden_states",)),
            ),
        },
        variants={
            "plain": {},
            "no biases": {"qkv_bias": False, "hidden_act": "relu", "layer_norm_eps": 1e-2},
            "windows larger than maps": {"window_size": 8, "patch_size": 4, "image_size": [22, 30]},
        },
    )  # fmt: skip


@pytest.mark.parametrize("size", [(24, 24), (25, 13), (3, 3), (1, 50)])
@pytest.mark.parametrize("name", ["Swinv2Model", "MaskFormerSwinModel"])
def test_other_sizes(tmp_path, name, size):
    ours, theirs = pair(tmp_path, name)
    inputs = {"pixel_values": pictures(size=size)}
    compare(ours, theirs, inputs, ["last_hidden_state", "pooler_output", "hidden_states"])
    if name == "MaskFormerSwinModel":
        sizes = ours(**inputs).hidden_states_spatial_dimensions
        assert sizes == tuple(map(tuple, theirs(**inputs).hidden_states_spatial_dimensions))
        # The reference gives the hidden states of a layer in the place of its weights.
        weights = ours(**inputs, output_attentions=True).attentions
        assert [w.shape[1:] for w in weights] == [(2, 9, 9), (4, 9, 9)]
        close(weights[0].sum(-1), torch.ones(weights[0].shape[:-1]))


@pytest.mark.parametrize("name", ["Swinv2Model", "MaskFormerSwinModel"])
def test_chance_falls_on_the_same_places(tmp_path, name):
    ours, theirs = pair(tmp_path, name, hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2, drop_path_rate=0.4)
    ours.set_attn_implementation("eager")
    found = []
    for model in (ours, theirs):
        torch.manual_seed(3)
        with torch.no_grad():
            found.append(model.train()(pictures(4)).last_hidden_state)
    close(*found)


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("swinv2", {"use_absolute_embeddings": True}, "use_absolute_embeddings"),
        ("swinv2", {"pretrained_window_sizes": [1, 0]}, "pretrained_window_sizes"),
        ("swinv2", {"pretrained_window_sizes": [8]}, "pretrained_window_sizes"),
        ("maskformer-swin", {"use_absolute_embeddings": True}, "use_absolute_embeddings"),
    ],
)
def test_bad_configs(kind, change, words):
    with pytest.raises(ConfigError, match=words):
        omniform.AutoConfig.for_model(kind, **{**TINY, **change})


def test_no_map_of_the_stem():
    config = omniform.MaskFormerSwinConfig(**TINY, out_features=["stem"])
    with pytest.raises(ConfigError, match="stem"):
        omniform.MaskFormerSwinBackbone(config)
    made = omniform.MaskFormerSwinBackbone(omniform.MaskFormerSwinConfig(**TINY))
    with pytest.raises(ConfigError, match="stem"):
        made.out_indices = [0, 1]


def test_fresh_weights():
    attention = omniform.Swinv2Model(omniform.Swinv2Config(**TINY)).stages[0].blocks[1].self_attn
    assert torch.allclose(attention.logit_scale, torch.tensor(10.0).log())
    made = omniform.MaskFormerSwinModel(omniform.MaskFormerSwinConfig(**TINY))
    theirs = transformers.MaskFormerSwinModel(transformers.MaskFormerSwinConfig(**TINY))
    index = made.stages[0].blocks[0].self_attn.distance_bias.index.places
    assert torch.equal(index, theirs.encoder.layers[0].blocks[0].attention.self.relative_position_index)
