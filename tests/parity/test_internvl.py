"""InternVL against the reference: its tower, and pictures and text through one decoder."""

from __future__ import annotations

import pytest
import torch
from askers import Given, Question
from harness import Head, Parity, Table
from test_llava import IMAGE, TEXT, inputs, lesson, read, rows, written_on
from writers import Illustrated

from omniform.core.errors import ConfigError, InputError
from reference import omniform, saved_reference, transformers

TOWER = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 4,
}  # fmt: skip


def seen(config):
    torch.manual_seed(0)
    fields = ("last_hidden_state", "hidden_states", "attentions")
    whole, wide = torch.randn(2, 3, 16, 16), torch.randn(2, 3, 12, 20)
    asked = [Question({"pixel_values": whole}, fields)]
    asked += [Question({"pixel_values": wide}, fields[:1])] if config.use_absolute_position_embeddings else []
    hidden = {"pixel_values": whole, "bool_masked_pos": torch.rand(2, 16) < 0.5}
    return [*asked, Question(hidden, fields[:1])] if config.use_mask_token else asked


class TestInternVLVision(Parity):
    table = Table(
        model_type="internvl_vision",
        config=transformers.InternVLVisionConfig,
        tiny=TOWER,
        heads={"Model": Head("InternVLVisionModel", "AutoModel", Given(seen), everywhere=True)},
        variants={
            "plain": {},
            "other norms": {"norm_type": "rms_norm", "use_qk_norm": True, "layer_norm_eps": 1e-3},
            "norm behind": {"use_mean_pooling": False, "use_mask_token": True, "attention_bias": True},
            "no places": {"use_absolute_position_embeddings": False, "hidden_act": "relu"},
        },
    )


def config(text=None, vision=None, **changes):
    return transformers.InternVLConfig(
        text_config=transformers.Qwen2Config(**{**TEXT, **(text or {})}),
        vision_config=transformers.InternVLVisionConfig(**{**TOWER, **(vision or {})}),
        image_token_id=IMAGE,
        **changes,
    )


class TestInternVL(Parity):
    table = Table(
        model_type="internvl",
        config=config,
        config_class=transformers.InternVLConfig,
        tiny={},
        heads={
            "Model": Head("InternVLModel", "AutoModel", Given(read("last_hidden_state", "image_hidden_states"))),
            "ForConditionalGeneration": Head(
                "InternVLForConditionalGeneration", "AutoModelForImageTextToText", Given(written_on, lesson),
                everywhere=True,
            ),
        },
        variants={
            "plain": {},
            "norm behind": {"vision": {"use_mean_pooling": False}, "projector_hidden_act": "relu"},
            "another layer": {"vision_feature_layer": 1, "tie_word_embeddings": False},
            "no shuffling": {"downsample_ratio": 1.0, "vision": {"patch_size": 8}},
        },
        writes=("ForConditionalGeneration", Illustrated(rows)),
        writing=["plain"],
        scale=0.3,
        derived=frozenset({"text_config", "vision_config"}),
    )  # fmt: skip


@pytest.mark.parametrize("wrong", [{"downsample_ratio": 0.3}, {"vision_feature_layer": [1, -1]}])
def test_configs_that_nothing_computes(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        omniform.InternVLConfig.from_dict(config().to_dict() | wrong)


def test_features_and_pictures_that_do_not_fit(tmp_path):
    theirs = saved_reference(transformers.InternVLForConditionalGeneration, config(), tmp_path, scale=0.2)
    ours = omniform.AutoModelForImageTextToText.from_pretrained(tmp_path)
    given = inputs()
    found, expected = (model.get_image_features(given["pixel_values"]).pooler_output for model in (ours, theirs))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(InputError, match="squares"):
        ours(**{**given, "pixel_values": torch.randn(3, 3, 12, 16)})
