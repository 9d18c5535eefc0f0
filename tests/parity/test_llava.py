"""LLaVA against the reference: pictures and text through one decoder."""

from __future__ import annotations

import json

import pytest
import torch
from askers import Given, Question
from harness import Head, Parity, Table, compiled
from safetensors.torch import load_file, save_file
from writers import Illustrated

from omniform.architectures.fusion import check_fit
from omniform.core.errors import ConfigError, InputError, WeightsError
from reference import (
    check_round_trip,
    compare,
    omniform,
    saved_reference,
    transformers,
)

IMAGE = 95
TEXT = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
VISION = {
    "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 16,
    "patch_size": 8, "projection_dim": 12,
}  # fmt: skip

VARIANTS = {
    "plain": {},
    "full": {"vision_feature_select_strategy": "full"},
    "last layer": {"vision_feature_layer": -1, "projector_hidden_act": "relu"},
    "first layer": {"vision_feature_layer": 1},
    "several layers": {"vision_feature_layer": [-2, 1, 3], "vision_feature_select_strategy": "full"},
    "no bias": {"multimodal_projector_bias": False},
    "tied": {"tie_word_embeddings": True},
    "siglip": {"tower": "Siglip", "vision_feature_select_strategy": "full", "vision_feature_layer": -1},
    "gelu tower": {"vision": {"hidden_act": "gelu", "layer_norm_eps": 1e-3}},
    "tied text": {"text": {"tie_word_embeddings": True}},
}


def tower_config(tower, settings):
    """The config of a vision tower; only CLIP's has a width for projections."""
    known = settings if tower == "CLIP" else {k: v for k, v in settings.items() if k != "projection_dim"}
    return getattr(transformers, f"{tower}VisionConfig")(**known)


def config(**changes):
    text, vision, tower = changes.pop("text", {}), changes.pop("vision", {}), changes.pop("tower", "CLIP")
    return transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**{**TEXT, **text}),
        vision_config=tower_config(tower, {**VISION, **vision}),
        image_token_index=IMAGE,
        **changes,
    )


def pair(tmp_path, head="ForConditionalGeneration", scale=0.2, **changes):
    theirs = saved_reference(getattr(transformers, f"Llava{head}"), config(**changes), tmp_path / "model", scale=scale)
    auto = omniform.AutoModel if head == "Model" else omniform.AutoModelForImageTextToText
    return auto.from_pretrained(tmp_path / "model"), theirs


def inputs(full=False, seed=0):
    """Two rows: one with two pictures, one with one, right-padded."""
    torch.manual_seed(seed)
    n = 5 if full else 4
    first = [1, 7, *[IMAGE] * n, 9, *[IMAGE] * n, 11, 12, 13]
    second = [1, *[IMAGE] * n, 21, 22]
    width = len(first)
    ids = torch.tensor([first, second + [0] * (width - len(second))])
    mask = torch.tensor([[1] * width, [1] * len(second) + [0] * (width - len(second))])
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": torch.randn(3, 3, 16, 16)}


def full_strategy(variant):
    return VARIANTS[variant].get("vision_feature_select_strategy") == "full"


def one_row(batch):
    return {k: v[:1] if k != "pixel_values" else v[:2] for k, v in batch.items()}


def full(config):
    """Whether a class token is among a picture's features: SigLIP's towers have none."""
    return config.vision_feature_select_strategy == "full" and config.vision_config.model_type == "clip_vision_model"


def read(*fields):
    """A row without padding, hidden states and attentions included."""
    return lambda config: [Question(one_row(inputs(full(config))), (*fields, "hidden_states", "attentions"))]


def written_on(config):
    batch = inputs(full(config))
    real = batch["attention_mask"].bool()
    labels = batch["input_ids"].masked_fill(~real, -100)
    fields = ("loss", "logits", "image_hidden_states")
    return [*read("logits", "image_hidden_states")(config), Question({**batch, "labels": labels}, fields, real)]


def lesson(config):
    batch = inputs(full(config))
    return {**batch, "labels": batch["input_ids"]}


def rows():
    """The rows of a batch, each with its pictures."""
    batch = inputs()
    real, pixels = batch["attention_mask"].bool(), batch["pixel_values"]
    return [(batch["input_ids"][0][real[0]], pixels[:2]), (batch["input_ids"][1][real[1]], pixels[2:])]


class TestLlava(Parity):
    table = Table(
        model_type="llava",
        config=lambda **changes: config(**changes),
        config_class=transformers.LlavaConfig,
        tiny={},
        heads={
            "Model": Head("LlavaModel", "AutoModel", Given(read("last_hidden_state", "image_hidden_states"))),
            # The towers' last layer and pooled output are not asked for.
            "ForConditionalGeneration": Head(
                "LlavaForConditionalGeneration", "AutoModelForImageTextToText", Given(written_on, lesson),
                everywhere=True, unused=("model.vision_tower.pooler", "model.vision_tower.layers.2"),
            ),
        },
        variants=VARIANTS,
        writes=("ForConditionalGeneration", Illustrated(rows)),
        writing=["plain", "tied", "last layer"],
        scale=0.3,
        derived=frozenset({"text_config", "vision_config"}),
        spellings={"compiled": compiled},
    )  # fmt: skip


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("variant", ["several layers"])
def test_generation_token_for_token(tmp_path, variant, side):
    ours, theirs = pair(tmp_path, scale=0.3, **VARIANTS[variant])
    batch = inputs(full_strategy(variant))
    pixels = batch["pixel_values"]
    rows = [row[mask.bool()] for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    alone = []
    for row, pictures in zip(rows, (pixels[:2], pixels[2:]), strict=True):
        mask = torch.ones_like(row)[None]
        expected = theirs.generate(input_ids=row[None], attention_mask=mask, pixel_values=pictures, max_new_tokens=10)
        found = ours.generate(input_ids=row[None], pixel_values=pictures, max_new_tokens=10)
        assert found.tolist() == expected.tolist()
        alone.append(found[0, len(row) :].tolist())
    if side == "left":
        batch["input_ids"][1] = batch["input_ids"][1].roll(int((batch["attention_mask"][1] == 0).sum()))
        batch["attention_mask"][1] = batch["attention_mask"][1].flip(0)
    together = ours.generate(**batch, max_new_tokens=10)[:, batch["input_ids"].shape[1] :].tolist()
    ragged = ours.generate([row.tolist() for row in rows], pixel_values=pixels, max_new_tokens=10)
    for found in (together, ragged[:, len(rows[0]) :].tolist()):
        for mine, other in zip(found, alone, strict=True):
            assert mine[: len(other)] == other and not any(mine[len(other) :])


@pytest.mark.parametrize("layout", ["new", "published", "double model"])
def test_other_layouts_of_the_same_weights(tmp_path, layout):
    _, theirs = pair(tmp_path)
    path = tmp_path / "model" / "model.safetensors"
    tensors = load_file(path)

    def renamed(key):
        if layout == "published":
            return key.replace("vision_tower.", "vision_tower.vision_model.")
        if layout == "double model":
            return key.replace("language_model.model.", "model.language_model.model.")
        return (
            "lm_head.weight" if "lm_head" in key else "model." + key.replace("language_model.model.", "language_model.")
        )

    save_file({renamed(k): t for k, t in tensors.items()}, path, {"format": "pt"})
    again = omniform.AutoModelForImageTextToText.from_pretrained(tmp_path / "model")
    compare(again, theirs, {k: v[:1] if k != "pixel_values" else v[:2] for k, v in inputs().items()}, ["logits"])
    check_round_trip(tmp_path / "model", again, tmp_path / "again")
    base = omniform.LlavaModel.from_pretrained(tmp_path / "model")
    compare(base, theirs.model, one_row(inputs()), ["last_hidden_state"])


def test_config_that_leaves_out_its_defaults(tmp_path):
    config(image_seq_length=1).save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    for name in ("vision_feature_layer", "projector_hidden_act", "multimodal_projector_bias", "image_seq_length"):
        raw.pop(name, None)
    raw["vision_config"].pop("model_type")
    raw["text_config"].pop("model_type")
    (tmp_path / "config.json").write_text(json.dumps(raw))
    spec = omniform.AutoConfig.from_pretrained(tmp_path).spec
    assert spec.vision.config.model_type == "clip_vision_model" and spec.text.config.model_type == "llama"
    assert spec.feature_layers == (-2,) and spec.drop_class_token and spec.projector_bias


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda b: b["input_ids"][0].__setitem__(3, 5), r"placeholder"),
        (lambda b: b.update(pixel_values=b["pixel_values"][:2]), r"8 placeholder tokens for 2 image.*12 placeholder"),
        (lambda b: b.update(pixel_values=torch.randn(4, 3, 16, 16)), r"16 placeholder tokens for 4"),
        (lambda b: b.pop("pixel_values"), r"0 image"),
        (lambda b: b.update(pixel_values=torch.randn(3, 3, 24, 24)), r"16"),
        (lambda b: b.update(pixel_values=torch.randn(3, 16, 16)), r"shape"),
    ],
)
def test_pictures_that_do_not_match_the_text(tmp_path, change, says):
    ours, _ = pair(tmp_path)
    batch = inputs()
    change(batch)
    with pytest.raises(InputError, match=says):
        ours(**batch)
    with pytest.raises(InputError, match=says):
        ours.generate(**batch)


def test_calls_that_ask_for_other_features(tmp_path):
    ours, theirs = pair(tmp_path)
    batch = one_row(inputs(full=True))
    asked = {"vision_feature_layer": 1, "vision_feature_select_strategy": "full"}
    torch.testing.assert_close(ours(**batch, **asked).logits, theirs(**batch, **asked).logits, atol=1e-4, rtol=1e-4)
    for options in ({}, asked):
        found = ours.get_image_features(batch["pixel_values"], **options, output_hidden_states=True)
        expected = theirs.get_image_features(batch["pixel_values"], **options, output_hidden_states=True)
        assert len(found.pooler_output) == len(expected.pooler_output) == 2
        for mine, other in zip(found.pooler_output, expected.pooler_output, strict=True):
            torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state, atol=1e-4, rtol=1e-4)
        assert len(found.hidden_states) == len(expected.hidden_states)
    ready = {"image": ours.get_image_features(batch["pixel_values"], **asked)}
    told = {name: value for name, value in batch.items() if name != "pixel_values"}
    torch.testing.assert_close(ours(**told, mm_encoder_outputs=ready).logits, ours(**batch, **asked).logits)
    with pytest.raises(InputError, match=r"mm_encoder_outputs, pixel_values"):
        ours(**batch, mm_encoder_outputs=ready)
    with pytest.raises(InputError, match=r"8 placeholder tokens|10 placeholder tokens"):
        ours(**told, mm_encoder_outputs={"image": ours.get_image_features(batch["pixel_values"])})
    with pytest.raises(InputError, match=r"get_image_features or its like.*found Tensor"):
        ours(**told, mm_encoder_outputs={"image": batch["pixel_values"]})
    with pytest.raises(InputError, match=r"vision_feature_select_strategy.*default or full.*'all'"):
        ours(**batch, vision_feature_select_strategy="all")
    with pytest.raises(TypeError, match="image_sizes"):
        ours(**batch, image_sizes=torch.tensor([[16, 16]]))


def test_parts_that_do_not_fit_are_named_with_their_sizes():
    with pytest.raises(ConfigError, match=r"(?s)projector does not fit behind vision_tower.*24 numbers.*vectors of 32"):
        check_fit("vision_tower", 24, "projector", 32)


def test_a_missing_tower_is_named(tmp_path):
    pair(tmp_path)
    path = tmp_path / "model" / "model.safetensors"
    tensors = load_file(path)
    tensors.pop("vision_tower.encoder.layers.0.self_attn.q_proj.weight")
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(WeightsError, match=r"missing vision_tower.*q_proj.weight, shape \[24, 24\]"):
        omniform.AutoModelForImageTextToText.from_pretrained(tmp_path / "model")
