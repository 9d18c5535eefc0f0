"""Pixtral's tower, LLaVA over it and Mistral 3 against the reference: pictures of any sizes among the words."""

from __future__ import annotations

import pytest
import torch
from askers import Given, Question
from harness import Head, Parity, Table
from sized import IMAGE, ROWS, TEXT, TOWER, Sized, batch, lesson, pictures, read, written_on

from omniform.core.errors import ConfigError, InputError
from reference import omniform, saved_reference, transformers

SIZES = [size for row in ROWS for size in row]


def seen(config):
    """The tower: padded pictures and their sizes, and pictures alike without."""
    fields = ("last_hidden_state", "hidden_states", "attentions")
    channels = config.num_channels
    given = pictures(SIZES)
    given["pixel_values"] = given["pixel_values"][:, :channels]
    whole = {"pixel_values": given["pixel_values"]}
    return [Question(given, fields), Question(given, fields[:1]), Question(whole, fields[:1]), Question(whole, fields)]


class TestPixtralVision(Parity):
    table = Table(
        model_type="pixtral",
        config=transformers.PixtralVisionConfig,
        tiny=TOWER,
        heads={"Model": Head("PixtralVisionModel", "AutoModel", Given(seen), everywhere=True)},
        variants={
            "plain": {},
            "other base": {"rope_parameters": {"rope_type": "axial", "rope_theta": 100.0}},
            "other sizes": {"num_channels": 1, "num_attention_heads": 1, "hidden_act": "silu"},
        },
    )


def parts(model, text=None, vision=None, **changes):
    return getattr(transformers, f"{model}Config")(
        text_config=transformers.MistralConfig(**{**TEXT, "sliding_window": None, "head_dim": 8, **(text or {})}),
        vision_config=transformers.PixtralVisionConfig(**{**TOWER, **(vision or {})}),
        image_token_index=IMAGE,
        **changes,
    )


def llava(**changes):
    return parts("Llava", **{"vision_feature_select_strategy": "full", "vision_feature_layer": -1, **changes})


def mistral3(**changes):
    return parts("Mistral3", **changes)


class TestLlavaOverPixtral(Parity):
    table = Table(
        model_type="llava",
        config=llava,
        config_class=transformers.LlavaConfig,
        tiny={},
        heads={
            "Model": Head("LlavaModel", "AutoModel", Given(read("last_hidden_state", "image_hidden_states"))),
            "ForConditionalGeneration": Head(
                "LlavaForConditionalGeneration", "AutoModelForImageTextToText", Given(written_on, lesson),
                everywhere=True,
            ),
        },
        variants={"plain": {}, "several layers": {"vision_feature_layer": [-1, 1]}},
        writes=("ForConditionalGeneration", Sized(llava)),
        writing=["plain"],
        scale=0.3,
        derived=frozenset({"text_config", "vision_config"}),
    )  # fmt: skip


class TestMistral3(Parity):
    table = Table(
        model_type="mistral3",
        config=mistral3,
        config_class=transformers.Mistral3Config,
        tiny={},
        heads={
            "Model": Head("Mistral3Model", "AutoModel", Given(read("last_hidden_state", "image_hidden_states"))),
            "ForConditionalGeneration": Head(
                "Mistral3ForConditionalGeneration", "AutoModelForImageTextToText", Given(written_on, lesson),
                everywhere=True,
            ),
        },
        variants={
            "plain": {},
            "no merging": {"spatial_merge_size": 1, "projector_hidden_act": "relu", "multimodal_projector_bias": True},
            "a list of one layer": {"vision_feature_layer": [-1], "tie_word_embeddings": False},
            "odd squares": {"spatial_merge_size": 2, "vision": {"patch_size": 3}, "text": {"rms_norm_eps": 1e-3}},
        },
        writes=("ForConditionalGeneration", Sized(mistral3)),
        writing=["plain"],
        scale=0.3,
        derived=frozenset({"text_config", "vision_config"}),
    )  # fmt: skip


@pytest.fixture(scope="module", params=["Llava", "Mistral3"])
def pair(request, tmp_path_factory):
    made = {"Llava": llava, "Mistral3": mistral3}[request.param]()
    folder = tmp_path_factory.mktemp(request.param)
    theirs = saved_reference(getattr(transformers, f"{request.param}ForConditionalGeneration"), made, folder, scale=0.2)
    return omniform.AutoModelForImageTextToText.from_pretrained(folder), theirs


def test_features_by_picture(pair):
    ours, theirs = pair
    given = pictures(SIZES)
    found, expected = ours.get_image_features(**given), theirs.get_image_features(**given)
    for mine, other in zip(found.pooler_output, expected.pooler_output, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)
    ready = batch(ROWS, theirs.config)
    whole = ours(**ready).logits
    ids = {name: ready[name] for name in ("input_ids", "attention_mask")}
    torch.testing.assert_close(ours(**ids, mm_encoder_outputs={"image": found}).logits, whole)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda b: b.update(image_sizes=b["image_sizes"][:2]), r"sizes of the pictures"),
        (lambda b: b.update(image_sizes=b["image_sizes"] * 2), r"sizes of the pictures"),
        (lambda b: b["image_sizes"].fill_(1), r"sizes of the pictures"),
        (lambda b: b.update(image_sizes=b["image_sizes"][0]), r"sizes of the pictures"),
        (lambda b: b["input_ids"][0].__setitem__(2, 5), r"placeholder"),
        (lambda b: b.pop("image_sizes"), r"placeholder"),
    ],
)
def test_pictures_that_do_not_fit(pair, change, says):
    given = batch(ROWS, pair[1].config)
    change(given)
    with pytest.raises(InputError, match=f"(?s){says}"):
        pair[0](**given)


def test_a_layer_and_no_more():
    with pytest.raises(ConfigError, match="vision_feature_layer"):
        omniform.Mistral3Config.from_dict(mistral3().to_dict() | {"vision_feature_layer": [-1, 1]})


def test_a_class_token_that_is_not_there(tmp_path):
    saved_reference(transformers.LlavaForConditionalGeneration, llava(), tmp_path)
    ours = omniform.AutoModelForImageTextToText.from_pretrained(tmp_path)
    with pytest.raises(InputError, match="class token"):
        ours(**batch(ROWS, llava()), vision_feature_select_strategy="default")
