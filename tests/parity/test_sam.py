"""SAM and its encoder of pictures against the reference."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from askers import Given, Inputs, Nothing, Pictures, Question, noise
from harness import Head, Parity, Table
from torch import Tensor

from omniform.core.errors import ConfigError, InputError
from reference import close, compare, omniform, saved_reference, transformers

VISION = {
    "hidden_size": 12, "output_channels": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 2, "window_size": 3, "global_attn_indexes": [1], "num_pos_feats": 8, "mlp_dim": 20,
}  # fmt: skip
PROMPTS = {"hidden_size": 16, "image_size": 16, "patch_size": 2, "mask_input_channels": 8}
MASKS = {
    "hidden_size": 16, "mlp_dim": 20, "num_hidden_layers": 2, "num_attention_heads": 2, "iou_head_hidden_dim": 12,
}  # fmt: skip

FIELDS = ("iou_scores", "pred_masks")
TAPS = ("vision_hidden_states",)  # for its attentions the reference has to be built anew
LABELS = torch.tensor([[[1, 0, -10], [1, -1, 0], [0, 1, 1]], [[1, 1, 1], [-10, -10, -10], [2, 0, 7]]])


def points(batch: int = 2, prompts: int = 3, count: int = 3) -> Tensor:
    return torch.rand(batch, prompts, count, 2, generator=torch.Generator().manual_seed(3)) * 16


def boxes(batch: int = 2, prompts: int = 3) -> Tensor:
    return points(batch, prompts, 2).flatten(2).sort(-1).values


def both(vision: dict | None = None, prompts: dict | None = None, masks: dict | None = None, **changes: object):
    return transformers.SamConfig(
        vision_config={**VISION, **(vision or {})},
        prompt_encoder_config={**PROMPTS, **(prompts or {})},
        mask_decoder_config={**MASKS, **(masks or {})},
        **changes,
    )


def prompted(config: object) -> list[Question]:
    made = config.vision_config
    pixels = {"pixel_values": noise(2, made.num_channels, made.image_size, made.image_size)}
    fine = noise(2, 1, 4 * made.image_size // made.patch_size, 4 * made.image_size // made.patch_size)
    told = {"input_points": points(), "input_labels": LABELS}
    prompts: list[Inputs] = [
        {**told, "input_boxes": boxes(), "input_masks": fine, "multimask_output": False},
        {},
    ]
    return [
        Question({**pixels, **told, "input_boxes": boxes()}, (*FIELDS, *TAPS)),
        *[Question({**pixels, **one}, FIELDS) for one in prompts],
    ]


class TestSamVision(Parity):
    table = Table(
        model_type="sam_vision_model",
        config=transformers.SamVisionConfig,
        tiny=VISION,
        heads={"Model": Head("SamVisionModel", "AutoModel", Pictures(Nothing(), ("hidden_states",)), everywhere=True)},
        variants={
            "plain": {},
            "squares fill the map": {"window_size": 4, "qkv_bias": False},
            "squares as large as maps, and larger": {"window_size": 9, "hidden_act": "relu", "layer_norm_eps": 1e-2},
            "all of the map": {"window_size": 0, "attention_dropout": 0.3},
            "nothing told of places": {"use_abs_pos": False, "use_rel_pos": False},
            "distances only": {"use_abs_pos": False, "global_attn_indexes": []},
            "grey, cut off": {"num_channels": 1, "image_size": 17, "mlp_dim": None, "mlp_ratio": 1.7},
            "narrow": {"output_channels": 3, "global_attn_indexes": [0, 7]},
        },
    )


class TestSam(Parity):
    table = Table(
        model_type="sam",
        config=lambda **changes: both(**changes),
        config_class=transformers.SamConfig,
        tiny={},
        heads={"Model": Head("SamModel", "AutoModelForMaskGeneration", Given(prompted), everywhere=True)},
        variants={
            "plain": {},
            "untied": {"tie_word_embeddings": False},
            "other masks": {"masks": {"num_multimask_outputs": 1, "iou_head_depth": 5, "hidden_act": "gelu"}},
            "shallow": {"masks": {"iou_head_depth": 1, "num_hidden_layers": 1, "attention_downsample_rate": 4}},
            "no turns": {"masks": {"num_hidden_layers": 0}},
            "three turns": {"masks": {"num_hidden_layers": 3, "layer_norm_eps": 1e-2, "attention_downsample_rate": 1}},
            "other prompts": {"prompts": {"hidden_act": "relu", "layer_norm_eps": 1e-2, "num_point_embeddings": 6}},
            "other pixels": {"prompts": {"image_size": 32, "patch_size": 4, "mask_input_channels": 4}},
            "other pictures": {"vision": {"num_channels": 1, "window_size": 0, "use_rel_pos": False}},
        },
        derived=frozenset({"vision_config", "prompt_encoder_config", "mask_decoder_config"}),
    )


def pair(folder: Path, **changes: object):
    theirs = saved_reference(transformers.SamModel, both(**changes), folder, scale=0.3)
    return omniform.SamModel.from_pretrained(folder), theirs


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return pair(tmp_path_factory.mktemp("sam") / "model")


@pytest.mark.parametrize(
    "prompt",
    [
        {"input_points": points(prompts=1)},
        {"input_points": points(), "input_labels": LABELS},
        {"input_boxes": boxes()},
        {"input_masks": noise(2, 1, 32, 32)},
    ],
    ids=lambda prompt: ", ".join(prompt),
)
def test_prompts_alone(models, prompt):
    compare(*models, {"pixel_values": noise(2, 3, 16, 16), **prompt}, FIELDS)


def test_maps_instead_of_pictures(models):
    ours, theirs = models
    pixels = noise(2, 3, 16, 16)
    maps = theirs.get_image_embeddings(pixels)
    close(ours.get_image_embeddings(pixels), maps)
    compare(ours, theirs, {"image_embeddings": maps, "input_points": points(), "input_labels": LABELS}, FIELDS)
    assert ours(image_embeddings=maps, output_hidden_states=True).vision_hidden_states is None


def test_what_models_tell_of_prompts(models):
    ours, theirs = models
    close(ours.get_image_wide_positional_embeddings(), theirs.get_image_wide_positional_embeddings())
    told = {"input_points": points(), "input_labels": LABELS, "input_boxes": boxes()}
    for one in (told, {"input_boxes": boxes()}, {"input_masks": noise(2, 1, 32, 32)}, {}):
        for mine, other in zip(ours.get_prompt_embeddings(**one), theirs.get_prompt_embeddings(**one), strict=True):
            assert (mine is None) == (other is None)
            if other is not None:
                close(mine, other)


@torch.no_grad()
def test_attentions(tmp_path):
    """Of squares that the map does not fill, and what the mask decoder adds to the map."""
    ours, _ = pair(tmp_path)
    theirs = transformers.SamModel.from_pretrained(tmp_path, attn_implementation="eager")
    ours.set_attn_implementation("eager")
    inputs = {"pixel_values": noise(2, 3, 16, 16), "input_points": points(), "output_attentions": True}
    found, expected = ours(**inputs), theirs(**inputs)
    for name in ("vision_attentions", "mask_decoder_attentions"):
        assert len(found[name]) == len(expected[name]) == 2
        for mine, other in zip(found[name], expected[name], strict=True):
            close(mine, other)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int32])
def test_pixels_of_other_types(models, dtype):
    ours, theirs = models
    inputs = {"pixel_values": noise(2, 3, 16, 16), "input_points": points().to(dtype), "input_labels": LABELS.int()}
    compare(ours, theirs, inputs, FIELDS)


@pytest.mark.parametrize("shape", [(1, 1, 1, 64), (6, 2, 9, 64), (6, 1, 1, 64)])
def test_a_known_object(models, shape):
    """Target-guided attention and prompting of PerSAM."""
    ours, theirs = models
    inputs = {"pixel_values": noise(2, 3, 16, 16), "input_points": points(), "input_labels": LABELS}
    compare(ours, theirs, {**inputs, "attention_similarity": noise(*shape)}, FIELDS)
    for target in (noise(1, 1, 1, 16), noise(2, 3, 9, 16)):
        theirs.set_attn_implementation("eager")
        compare(ours, theirs, {**inputs, "target_embedding": target}, FIELDS)


def test_gradients(models):
    ours, theirs = models
    inputs = {"pixel_values": noise(2, 3, 16, 16), "input_points": points(), "input_labels": LABELS}
    for model in models:
        model.zero_grad()
        out = model(**inputs)
        (out.pred_masks.square().mean() + out.iou_scores.sum()).backward()
    close(
        ours.shared_image_embedding.positional_embedding.grad, theirs.shared_image_embedding.positional_embedding.grad
    )
    close(ours.vision_encoder.positions.weight.grad, theirs.vision_encoder.pos_embed.grad[0])


def test_an_encoder_out_of_a_whole_model(tmp_path):
    _, theirs = pair(tmp_path)
    ours, report = omniform.SamVisionModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report.fresh and not report.unexpected
    close(ours(noise(1, 3, 16, 16)).last_hidden_state, theirs.get_image_embeddings(noise(1, 3, 16, 16)))


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"pixel_values": None}, "neither"),
        ({"image_embeddings": torch.zeros(2, 16, 8, 8)}, "both"),
        ({"pixel_values": torch.zeros(2, 3, 16, 15)}, r"\[batch, 3, 16, 16\]"),
        ({"pixel_values": None, "image_embeddings": torch.zeros(2, 16, 8, 7)}, r"\[batch, 16, 8, 8\]"),
        ({"input_points": torch.zeros(2, 3, 2)}, "input_points"),
        ({"input_points": torch.zeros(1, 3, 3, 2)}, r"\[2, prompts, points, 2\]"),
        ({"input_points": torch.zeros(2, 3, 3, 3)}, "input_points"),
        ({"input_labels": torch.zeros(2, 3, 2)}, r"\[2, 3, 3\]"),
        ({"input_boxes": torch.zeros(2, 2, 4)}, "3 boxes"),
        ({"input_boxes": [[[0, 0, 1, 1]]]}, "input_boxes"),
    ],
)
def test_bad_inputs(models, inputs, words):
    given = {"pixel_values": noise(2, 3, 16, 16), "input_points": points(), "input_labels": LABELS}
    with pytest.raises(InputError, match=words):
        models[0](**{**given, **inputs})


@pytest.mark.parametrize(
    "change",
    [
        {"vision_config": {"num_attention_heads": 5}},
        {"vision_config": {"patch_size": 20}},
        {"vision_config": {"output_channels": 8}},
        {"vision_config": {"num_pos_feats": 4}},
        {"prompt_encoder_config": {"patch_size": 4}},
        {"prompt_encoder_config": {"mask_input_channels": 6}},
        {"mask_decoder_config": {"num_attention_heads": 3}},
        {"mask_decoder_config": {"attention_downsample_rate": 16}},
    ],
    ids=str,
)
def test_bad_configs(change):
    parts = {"vision_config": VISION, "prompt_encoder_config": PROMPTS, "mask_decoder_config": MASKS}
    whole = {name: {**part, **change.get(name, {})} for name, part in parts.items()}
    with pytest.raises(ConfigError):
        omniform.AutoConfig.for_model("sam", **whole)


def test_configs_of_parts():
    config = omniform.SamConfig()
    assert config.mask_decoder_config.mlp_dim == 2048 and config.prompt_encoder_config.image_embedding_size == 64
    assert omniform.SamPromptEncoderConfig(image_size=512).image_embedding_size == 32


def test_from_scratch():
    parts = {"vision_config": VISION, "prompt_encoder_config": PROMPTS, "mask_decoder_config": MASKS}
    model = omniform.SamModel.from_config(omniform.AutoConfig.for_model("sam", **parts))
    assert model.vision_encoder.positions.weight.abs().sum() == 0
    assert model.vision_encoder.layers[0].self_attn.bias.rows.weight.abs().sum() == 0
    assert 3 < model.shared_image_embedding.positional_embedding.std() < 9  # half the width
    places = model.shared_image_embedding.positional_embedding
    assert model.prompt_encoder.shared_embedding.positional_embedding is places
