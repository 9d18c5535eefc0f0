"""DINOv3's vision transformers against the reference."""

from __future__ import annotations

import pytest
import torch
from askers import Nothing, noise
from harness import Head, Parity, Table, compiled
from test_dinov2 import AnySize, Maps

from omniform.core.errors import ConfigError
from reference import close, compare, omniform, saved_reference, transformers

TINY = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 16,
    "patch_size": 4, "num_register_tokens": 3,
}  # fmt: skip


def backbone(**config: object) -> Head:
    return Head("DINOv3ViTBackbone", "AutoBackbone", Maps(Nothing(("feature_maps",), config)))


class TestDINOv3ViT(Parity):
    table = Table(
        model_type="dinov3_vit",
        config=transformers.DINOv3ViTConfig,
        tiny=TINY,
        heads={
            "Model": Head(
                "DINOv3ViTModel", "AutoModel", AnySize(Nothing(("last_hidden_state", "pooler_output"))), everywhere=True
            ),
            "Backbone": backbone(),
            "Backbone, several": backbone(out_features=["stem", "stage1", "stage2"]),
            "Backbone, not normed": backbone(out_features=["stem", "stage1", "stage2"], apply_layernorm=False),
            "Backbone, patches": backbone(out_indices=[-2], reshape_hidden_states=False),
        },
        variants={
            "plain": {},
            "other biases": {"query_bias": False, "key_bias": True, "value_bias": False, "proj_bias": False},
            "gated": {"use_gated_mlp": True, "hidden_act": "silu", "mlp_bias": False},
            "no biases between": {"mlp_bias": False, "hidden_act": "relu", "layer_norm_eps": 1e-2},
            "other turns": {"rope_theta": 10.0, "num_attention_heads": 2, "layerscale_value": 1e-3},
            "no registers": {"num_register_tokens": 0},
            "grey": {"num_channels": 1, "pos_embed_shift": 0.5, "pos_embed_jitter": 2.0, "pos_embed_rescale": None},
            "tall patches": {"image_size": [24, 12], "patch_size": [8, 3]},
        },
        spellings={"compiled": compiled},
    )  # fmt: skip


def pair(folder, head="Model", **changes):
    config = transformers.DINOv3ViTConfig(**{**TINY, **changes})
    theirs = saved_reference(getattr(transformers, f"DINOv3ViT{head}"), config, folder)
    return getattr(omniform, f"DINOv3ViT{head}").from_pretrained(folder), theirs


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pos_embed_rescale": None, "pos_embed_shift": 0.4},
        {"pos_embed_jitter": 1.7, "drop_path_rate": 0.4},
        {"attention_dropout": 0.3, "pos_embed_shift": 0.2, "pos_embed_jitter": 3.0},
    ],
)
def test_places_move_alike_in_training(tmp_path, changes):
    ours, theirs = pair(tmp_path, **changes)
    found = []
    for model in (ours, theirs):
        model.set_attn_implementation("eager")
        model.train()
        torch.manual_seed(3)
        with torch.no_grad():
            found.append(model(noise(4, 3, 16, 24)).last_hidden_state)
    close(*found)
    with torch.no_grad():
        assert not torch.equal(found[0], ours.eval()(noise(4, 3, 16, 24)).last_hidden_state)


def test_class_tokens_beside_the_maps(tmp_path):
    changes = {"out_indices": [1, 2], "return_class_token": True, "apply_layernorm": False}
    ours, theirs = pair(tmp_path, "Backbone", **changes)
    pixels = {"pixel_values": noise(2, 3, 16, 20)}
    compare(ours, theirs, pixels, ["feature_maps", "cls_tokens"])
    with torch.no_grad():
        assert list(ours(**pixels)) == list(theirs(**pixels))


@pytest.mark.parametrize(
    "change", [{"num_attention_heads": 16}, {"pos_embed_rescale": 0.0}, {"out_features": ["stage3"]}]
)
def test_bad_configs(change):
    with pytest.raises(ConfigError):
        omniform.AutoConfig.for_model("dinov3_vit", **{**TINY, **change})
