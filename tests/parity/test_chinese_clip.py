"""Chinese-CLIP and its towers against the reference."""

from __future__ import annotations

import pytest
import torch
from askers import Given, Nothing, Pictures, Question, Text
from harness import Head, Parity, Table

from reference import close, omniform, padded, ragged, transformers

TEXT = {
    "vocab_size": 60, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 24, "pad_token_id": 0,
}  # fmt: skip
VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 20,
    "patch_size": 4,
}  # fmt: skip
BASE = Nothing(("last_hidden_state", "pooler_output"))


class TestChineseCLIPText(Parity):
    table = Table(
        model_type="chinese_clip_text_model",
        config=transformers.ChineseCLIPTextConfig,
        tiny=TEXT,
        heads={"Model": Head("ChineseCLIPTextModel", "AutoModel", Text(BASE, vocabulary=60))},
        variants={"plain": {}, "types": {"type_vocab_size": 3, "layer_norm_eps": 1e-2, "hidden_act": "relu"}},
    )


class TestChineseCLIPVision(Parity):
    table = Table(
        model_type="chinese_clip_vision_model",
        config=transformers.ChineseCLIPVisionConfig,
        tiny=VISION,
        heads={"Model": Head("ChineseCLIPVisionModel", "AutoModel", Pictures(BASE))},
        variants={"plain": {}},
    )


def both(text=(), vision=(), **changes: object) -> object:
    return transformers.ChineseCLIPConfig(
        text_config={**TEXT, **dict(text)}, vision_config={**VISION, **dict(vision)}, **changes
    )


FIELDS = ("logits_per_image", "logits_per_text", "text_embeds", "image_embeds")


def given(side: str = "right") -> dict[str, torch.Tensor]:
    ids, mask = padded(ragged(50, (9, 6, 2)), pad=0, side=side)
    pixels = torch.randn(3, 3, 20, 20, generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": ids % 2, "pixel_values": pixels}


class TestChineseCLIP(Parity):
    table = Table(
        model_type="chinese_clip",
        config=lambda **changes: both(**changes),
        config_class=transformers.ChineseCLIPConfig,
        tiny={"projection_dim": 12},
        heads={
            "Model": Head(
                "ChineseCLIPModel",
                "AutoModel",
                Given(
                    lambda config: [Question(given(), FIELDS), Question({**given(), "return_loss": True}, ("loss",))],
                    lambda config: {**given(), "return_loss": True},
                ),
                rate=1e-4,
            )
        },
        variants={"plain": {}, "scale": {"logit_scale_init_value": 1.5}},
        derived=frozenset({"text_config", "vision_config"}),
    )


@pytest.mark.parametrize("tower", ["Text", "Vision"])
def test_a_tower_of_both(tmp_path, tower):
    whole = transformers.ChineseCLIPModel(both(projection_dim=12))
    whole.save_pretrained(tmp_path)
    ours = getattr(omniform, f"ChineseCLIP{tower}Model").from_pretrained(tmp_path)
    inputs = given()
    inputs = {key: x for key, x in inputs.items() if (key == "pixel_values") == (tower == "Vision")}
    theirs = getattr(whole.eval(), f"{tower.lower()}_model")
    close(ours(**inputs).last_hidden_state, theirs(**inputs).last_hidden_state)
