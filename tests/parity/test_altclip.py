"""AltCLIP and its towers against the reference."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from askers import Given, Nothing, Pictures, Question, Text
from harness import Head, Parity, Table
from safetensors.torch import load_file, save_file

from reference import close, omniform, padded, ragged, transformers

TEXT = {
    "vocab_size": 60, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 24, "project_dim": 20,
}  # fmt: skip
VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 20,
    "patch_size": 4,
}  # fmt: skip
BASE = Nothing(("last_hidden_state", "pooler_output"))


class TestAltCLIPText(Parity):
    table = Table(
        model_type="altclip_text_model",
        config=transformers.AltCLIPTextConfig,
        tiny=TEXT,
        heads={"Model": Head("AltCLIPTextModel", "AutoModel", Text(BASE, vocabulary=60))},
        variants={
            "plain": {},
            "types": {"type_vocab_size": 3, "layer_norm_eps": 1e-2, "hidden_act": "relu", "pad_token_id": 3},
        },
    )


class TestAltCLIPVision(Parity):
    table = Table(
        model_type="altclip_vision_model",
        config=transformers.AltCLIPVisionConfig,
        tiny=VISION,
        heads={"Model": Head("AltCLIPVisionModel", "AutoModel", Pictures(BASE))},
        variants={"plain": {}},
    )


def both(text=(), vision=(), **changes: object) -> object:
    return transformers.AltCLIPConfig(
        text_config={**TEXT, **dict(text)}, vision_config={**VISION, **dict(vision)}, **changes
    )


FIELDS = ("logits_per_image", "logits_per_text", "text_embeds", "image_embeds")


def given(side: str = "right") -> dict[str, torch.Tensor]:
    ids, mask = padded(ragged(50, (9, 6, 2)), pad=1, side=side)
    pixels = torch.randn(3, 3, 20, 20, generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}


class TestAltCLIP(Parity):
    table = Table(
        model_type="altclip",
        config=lambda **changes: both(**changes),
        config_class=transformers.AltCLIPConfig,
        tiny={"projection_dim": 12},
        heads={
            "Model": Head(
                "AltCLIPModel",
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


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("altclip")
    torch.manual_seed(0)
    transformers.AltCLIPModel(both(projection_dim=12)).save_pretrained(folder)
    return folder


SPELLINGS = {"published": ("layer", "layers"), "saved again": ("layer", "layer"), "modules": ("layers", "layers")}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_layers_are_spelled_as_they_came(saved, tmp_path, spelling):
    (tmp_path / "config.json").write_text((saved / "config.json").read_text())
    text, sight = SPELLINGS[spelling]
    weights = load_file(saved / "model.safetensors")
    keys = {key: key.replace(".layer.", f".{text if key.startswith('text') else sight}.") for key in weights}
    renamed = {keys[key]: tensor for key, tensor in weights.items()}
    save_file(renamed, tmp_path / "model.safetensors", {"format": "pt"})
    model = omniform.AutoModel.from_pretrained(tmp_path)
    expected = transformers.AltCLIPModel.from_pretrained(saved).eval()(**given())
    close(model(**given()).logits_per_image, expected.logits_per_image)
    model.save_pretrained(tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert again.keys() == renamed.keys()
    assert all(torch.equal(again[key], tensor) for key, tensor in renamed.items())
    # A tower of such a file is saved as the reference reads one.
    for name, part in (("AltCLIPTextModel", expected.text_model_output), ("AltCLIPVisionModel", None)):
        tower = getattr(omniform, name).from_pretrained(tmp_path)
        tower.save_pretrained(tmp_path / name)
        _, told = getattr(transformers, name).from_pretrained(tmp_path / name, output_loading_info=True)
        assert not told["missing_keys"] and not told["unexpected_keys"]
        if part is not None:
            inputs = {key: value for key, value in given().items() if key != "pixel_values"}
            close(tower(**inputs).pooler_output, part.pooler_output)
