"""ViP-LLaVA against the reference: several layers of the tower, normed together."""

from __future__ import annotations

import pytest
import torch
from askers import Given
from harness import Head, Parity, Table, compiled
from test_llava import IMAGE, TEXT, VISION, inputs, lesson, one_row, read, rows, written_on
from writers import Illustrated

from reference import omniform, saved_reference, transformers

VARIANTS = {
    "plain": {},
    "one layer": {"vision_feature_layer": -1, "projector_hidden_act": "relu", "projector_layernorm_eps": 1e-2},
    "one layer, listed": {"vision_feature_layer": [1]},
    "tied": {"tie_word_embeddings": True},
    "tied text": {"text": {"tie_word_embeddings": True}},
}


def config(**changes):
    text, vision = changes.pop("text", {}), changes.pop("vision", {})
    made = transformers.VipLlavaConfig(
        text_config=transformers.LlamaConfig(**{**TEXT, **text}),
        vision_config=transformers.CLIPVisionConfig(**{**VISION, **vision}),
        image_token_index=IMAGE,
        **{"vision_feature_layer": [-2, 1, 3], **changes},
    )
    made.vision_feature_select_strategy = "default"  # what LLaVA's questions ask of a config
    return made


class TestVipLlava(Parity):
    table = Table(
        model_type="vipllava",
        config=lambda **changes: config(**changes),
        config_class=transformers.VipLlavaConfig,
        tiny={},
        heads={
            "Model": Head("VipLlavaModel", "AutoModel", Given(read("last_hidden_state", "image_hidden_states"))),
            "ForConditionalGeneration": Head(
                "VipLlavaForConditionalGeneration", "AutoModelForImageTextToText", Given(written_on, lesson),
                everywhere=True, unused=("model.vision_tower.pooler", "model.vision_tower.layers.2"),
            ),
        },
        variants=VARIANTS,
        writes=("ForConditionalGeneration", Illustrated(rows)),
        writing=["plain"],
        scale=0.3,
        derived=frozenset({"text_config", "vision_config"}),
        spellings={"compiled": compiled},
    )  # fmt: skip


def test_features_of_pictures_and_older_spellings(tmp_path):
    theirs = saved_reference(transformers.VipLlavaForConditionalGeneration, config(), tmp_path, scale=0.2)
    ours = omniform.AutoModelForImageTextToText.from_pretrained(tmp_path)
    batch = one_row(inputs())
    for options in ({}, {"vision_feature_layer": [0, 2, 1]}):
        found = ours.get_image_features(batch["pixel_values"], **options)
        expected = theirs.get_image_features(batch["pixel_values"], **options)
        torch.testing.assert_close(found.pooler_output, expected.pooler_output, atol=1e-4, rtol=1e-4)
        mine, other = ours(**batch, **options).logits, theirs(**batch, **options).logits
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)
    assert omniform.VipLlavaConfig.from_dict({"vision_feature_layers": [1, 2]}).spec.seeing.feature_layers == (1, 2)
    usual = omniform.VipLlavaConfig()
    assert usual.vision_feature_layer == usual.vision_feature_layers == [-2, -5, -8, -11, 6]
    with pytest.raises(TypeError, match="image_sizes"):
        ours(**batch, image_sizes=torch.tensor([[16, 16]]))
