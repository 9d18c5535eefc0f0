"""Donut against the reference: its encoder of pages, and the pair with an mBART that writes."""

from __future__ import annotations

import pytest
import torch
from askers import PROBLEMS, Labels, Nothing, Pictures, Words, noise
from harness import Head, Parity, Table
from test_swin import CHANCES, STAGES, pictures
from test_swin import TINY as SWIN
from test_vision_encoder_decoder import Seen

from omniform.core.errors import ConfigError
from reference import close, compare, omniform, saved_reference, transformers

TINY = {name: value for name, value in SWIN.items() if name != "encoder_stride"}
PAGES = {**TINY, "model_type": "donut-swin", "image_size": [16, 16], "embed_dim": 8, "window_size": 2}
MBART = {
    "model_type": "mbart", "vocab_size": 97, "d_model": 16, "decoder_layers": 2, "decoder_attention_heads": 4,
    "decoder_ffn_dim": 28, "max_position_embeddings": 50, "scale_embedding": True, "add_final_layer_norm": True,
    "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 8,
}  # fmt: skip
PAIR = {"encoder": PAGES, "decoder": MBART, "pad_token_id": 1, "decoder_start_token_id": 2, "eos_token_id": 2}
BASE = Pictures(Nothing(("last_hidden_state", "pooler_output")), STAGES)


def pair(folder, head="Model", scale=0.3, **changes):
    config = transformers.DonutSwinConfig(**{**TINY, **changes})
    theirs = saved_reference(getattr(transformers, f"DonutSwin{head}"), config, folder, scale=scale)
    return getattr(omniform, f"DonutSwin{head}").from_pretrained(folder), theirs


def classifier(labels: Labels) -> Head:
    return Head("DonutSwinForImageClassification", "AutoModelForImageClassification", Pictures(labels, STAGES))


class TestDonutSwin(Parity):
    table = Table(
        model_type="donut-swin",
        config=transformers.DonutSwinConfig,
        tiny=TINY,
        heads={
            "Model": Head("DonutSwinModel", "AutoModel", BASE, everywhere=True),
            **{f"ForImageClassification, {name}": classifier(labels) for name, labels in PROBLEMS.items()},
            "ForImageClassification, no classes": classifier(Nothing(("logits",), {"num_labels": 0})),
        },
        variants={
            "plain": {},
            "no biases": {"qkv_bias": False, "hidden_act": "relu", "layer_norm_eps": 1e-2, "mlp_ratio": 2.6},
            "filled": {"image_size": [23, 38], "window_size": 4, "num_channels": 1},
            "odd maps": {"image_size": 22, "depths": [2, 2, 1], "num_heads": [1, 2, 4]},
        },
    )


class TestDonut(Parity):
    table = Table(
        model_type="vision-encoder-decoder",
        config=transformers.VisionEncoderDecoderConfig,
        tiny=PAIR,
        heads={"Model": Head("VisionEncoderDecoderModel", "AutoModelForImageTextToText", Seen(Words()))},
        variants={"plain": {}, "a bridge": {"decoder": {**MBART, "d_model": 20}}},
        derived=frozenset({"encoder", "decoder"}),
    )


@pytest.mark.parametrize("size", [(24, 24), (12, 40), (25, 13)])
def test_other_sizes(tmp_path, size):
    ours, theirs = pair(tmp_path)
    compare(ours, theirs, {"pixel_values": pictures(size=size)}, ["last_hidden_state", "pooler_output", *STAGES])


@pytest.mark.parametrize("changes", CHANCES, ids=str)
def test_chance_falls_on_the_same_places(tmp_path, changes):
    found = []
    for model in pair(tmp_path, **{"drop_path_rate": 0.0, **changes}):
        torch.manual_seed(3)
        with torch.no_grad():
            found.append(model.train()(pictures(4)).last_hidden_state)
    close(*found)


def test_written_token_for_token(tmp_path):
    config = transformers.VisionEncoderDecoderConfig(**PAIR)
    theirs = saved_reference(transformers.VisionEncoderDecoderModel, config, tmp_path, scale=0.4)
    theirs.generation_config.pad_token_id, theirs.generation_config.decoder_start_token_id = 1, 2
    ours = omniform.VisionEncoderDecoderModel.from_pretrained(tmp_path)
    pixels, begun = noise(3, 3, 16, 16), torch.tensor([[5, 7], [5, 9], [5, 11]])
    for settings in ({}, {"num_beams": 3}, {"decoder_input_ids": begun}, {"use_cache": False}):
        expected = theirs.generate(pixels, **settings, max_new_tokens=7)
        assert ours.generate(pixels, **settings, max_new_tokens=7).tolist() == expected.tolist()


def test_positions_that_the_reference_cannot_add(tmp_path):
    with pytest.raises(ConfigError, match="use_absolute_embeddings"):
        omniform.DonutSwinModel(omniform.DonutSwinConfig(**TINY, use_absolute_embeddings=True))
