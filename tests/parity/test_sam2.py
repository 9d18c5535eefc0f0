"""SAM 2 of pictures, its encoder of pictures and its Hiera against the reference."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from askers import Given, Inputs, Question, noise
from harness import Head, Parity, Table
from torch import Tensor

from omniform.core.errors import ConfigError, InputError
from reference import close, compare, omniform, saved_reference, transformers

HIERA = {
    "hidden_size": 8, "patch_kernel_size": [3, 3], "patch_stride": [2, 2], "patch_padding": [1, 1],
    "blocks_per_stage": [1, 2, 1, 1], "embed_dim_per_stage": [8, 12, 16, 24], "global_attention_blocks": [2],
    "num_attention_heads_per_stage": [1, 2, 2, 3], "window_size_per_stage": [4, 2, 4, 2],
    "window_positional_embedding_background_size": [3, 3], "model_type": "sam2_hiera_det_model",
}  # fmt: skip
VISION = {
    "backbone_channel_list": [24, 16, 12, 8], "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
    "fpn_hidden_size": 16,
}  # fmt: skip
PROMPTS = {"hidden_size": 16, "image_size": 32, "patch_size": 8, "mask_input_channels": 8}
MASKS = {
    "hidden_size": 16, "mlp_dim": 20, "num_hidden_layers": 2, "num_attention_heads": 2, "iou_head_hidden_dim": 12,
}  # fmt: skip

FIELDS = ("iou_scores", "pred_masks", "object_score_logits")
TAPS = ("image_embeddings", "vision_hidden_states", "vision_attentions", "mask_decoder_attentions")
LABELS = torch.tensor([[[1, 0, -10], [1, -1, 0], [0, 1, 1]], [[1, 1, 1], [-10, -10, -10], [2, 0, 3]]])


def points(batch: int = 2, prompts: int = 3, count: int = 3) -> Tensor:
    return torch.rand(batch, prompts, count, 2, generator=torch.Generator().manual_seed(3)) * 32


def boxes(batch: int = 2, prompts: int = 3) -> Tensor:
    return points(batch, prompts, 2).flatten(2).sort(-1).values


def seeing(hiera: dict | None = None, **changes: object):
    return transformers.Sam2VisionConfig(**{**VISION, **changes}, backbone_config={**HIERA, **(hiera or {})})


def both(
    hiera: dict | None = None,
    vision: dict | None = None,
    prompts: dict | None = None,
    masks: dict | None = None,
):
    return transformers.Sam2Config(
        vision_config={**VISION, **(vision or {}), "backbone_config": {**HIERA, **(hiera or {})}},
        prompt_encoder_config={**PROMPTS, **(prompts or {})},
        mask_decoder_config={**MASKS, **(masks or {})},
    )


def prompted(config: object) -> list[Question]:
    pixels = {"pixel_values": noise(2, 3, 32, 32)}
    told = {"input_points": points(), "input_labels": LABELS}
    prompts: list[Inputs] = [
        {**told, "input_boxes": boxes(), "input_masks": noise(2, 1, 16, 16), "multimask_output": False},
        {},
    ]
    return [
        Question({**pixels, **told, "input_boxes": boxes()}, (*FIELDS, *TAPS)),
        *[Question({**pixels, **one}, FIELDS) for one in prompts],
    ]


def pictures(*fields: str, sizes: tuple = ((32, 32),), channels: int = 3):
    asked = (*fields, "hidden_states", "attentions")
    return Given(lambda config: [Question({"pixel_values": noise(2, channels, *size)}, asked) for size in sizes])


class TestHiera(Parity):
    table = Table(
        model_type="sam2_hiera_det_model",
        config=transformers.Sam2HieraDetConfig,
        tiny=HIERA,
        heads={
            "Model": Head(
                "Sam2HieraDetModel",
                "AutoModel",
                pictures("last_hidden_state", "intermediate_hidden_states", sizes=((32, 32), (24, 48))),
                everywhere=True,
            )
        },
        variants={
            "plain": {},
            "relu": {"hidden_act": "relu", "layer_norm_eps": 1e-2, "mlp_ratio": 1.7},
            "fewer pools": {"num_query_pool_stages": 1, "global_attention_blocks": [0, 4]},
            "no pools": {"num_query_pool_stages": 0, "global_attention_blocks": []},
            "one width": {"num_query_pool_stages": 0, "embed_dim_per_stage": [8, 8, 8, 8],
                "num_attention_heads_per_stage": [2, 4, 1, 8]},
            "other patches": {"patch_kernel_size": [4, 2], "patch_stride": [4, 2], "patch_padding": [0, 0],
                "window_positional_embedding_background_size": [2, 5]},
            "filled": {"window_size_per_stage": [4, 6, 4, 3]},
            "two stages": {"blocks_per_stage": [1, 2], "global_attention_blocks": [], "embed_dim_per_stage": [8, 16],
                "num_attention_heads_per_stage": [1, 2], "window_size_per_stage": [2, 0]},
            "larger pools": {"query_stride": [4, 4], "num_query_pool_stages": 1},
        },
    )  # fmt: skip


class TestSam2Vision(Parity):
    table = Table(
        model_type="sam2_vision_model",
        config=seeing,
        config_class=transformers.Sam2VisionConfig,
        tiny={},
        heads={
            "Model": Head(
                "Sam2VisionModel",
                "AutoModel",
                pictures("last_hidden_state", "fpn_hidden_states", "fpn_position_encoding"),
                everywhere=True,
            )
        },
        variants={
            "plain": {},
            "all levels": {"num_feature_levels": 4, "fpn_top_down_levels": [0, 1, 2]},
            "two levels": {"num_feature_levels": 2, "fpn_top_down_levels": []},
            "wide kernels": {"fpn_kernel_size": 3, "fpn_padding": 1, "fpn_hidden_size": 8},
            "strides": {"fpn_stride": 2, "fpn_kernel_size": 2, "fpn_top_down_levels": [1, 2, 3]},
            "another Hiera": {"hiera": {"hidden_act": "relu"}},
        },
        derived=frozenset({"backbone_config"}),
    )


class TestSam2(Parity):
    table = Table(
        model_type="sam2",
        config=both,
        config_class=transformers.Sam2Config,
        tiny={},
        heads={"Model": Head("Sam2Model", "AutoModelForMaskGeneration", Given(prompted), everywhere=True)},
        variants={
            "plain": {},
            "no choice": {"masks": {"dynamic_multimask_via_stability": False, "hidden_act": "relu"}},
            "always its own": {"masks": {"dynamic_multimask_stability_thresh": 0.0}},
            "always the best": {"masks": {"dynamic_multimask_stability_delta": 3.0}},
            "other masks": {"masks": {"num_multimask_outputs": 1, "iou_head_depth": 5}},
            "shallow": {"masks": {"iou_head_depth": 1, "num_hidden_layers": 1, "attention_downsample_rate": 4}},
            "three turns": {"masks": {"num_hidden_layers": 3, "attention_downsample_rate": 1}},
            "other prompts": {"prompts": {"hidden_act": "relu", "layer_norm_eps": 1e-2, "num_point_embeddings": 6}},
            "other pixels": {"prompts": {"image_size": 16, "patch_size": 4, "mask_input_channels": 4, "scale": 3}},
            "another pyramid": {"vision": {"fpn_top_down_levels": [0, 1]}},
        },
        derived=frozenset({"vision_config", "prompt_encoder_config", "mask_decoder_config"}),
    )


def pair(folder: Path, **changes: object):
    theirs = saved_reference(transformers.Sam2Model, both(**changes), folder, scale=0.3)
    return omniform.Sam2Model.from_pretrained(folder), theirs


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return pair(tmp_path_factory.mktemp("sam2") / "model")


@pytest.mark.parametrize(
    "prompt",
    [
        {"input_points": points(prompts=1), "multimask_output": False},
        {"input_points": points(), "input_labels": LABELS, "multimask_output": False},
        {"input_boxes": boxes()},
        {"input_masks": noise(2, 1, 30, 27)},
    ],
    ids=lambda prompt: ", ".join(prompt),
)
def test_prompts_alone(models, prompt):
    compare(*models, {"pixel_values": noise(2, 3, 32, 32), **prompt}, FIELDS)


@torch.no_grad()
def test_maps_instead_of_pictures(models):
    ours, theirs = models
    pixels = noise(2, 3, 32, 32)
    maps, mine = theirs.get_image_embeddings(pixels), ours.get_image_embeddings(pixels)
    assert isinstance(mine, list) and len(mine) == len(maps) == 3
    for one, other in zip(mine, maps, strict=True):
        close(one, other)
    compare(ours, theirs, {"image_embeddings": maps, "input_points": points(), "input_labels": LABELS}, FIELDS)
    found, expected = ours.get_image_features(pixels), theirs.get_image_features(pixels)
    for name in ("fpn_hidden_states", "fpn_position_encoding"):
        for one, other in zip(found[name], expected[name], strict=True):
            close(one, other)


def test_what_models_tell_of_prompts(models):
    ours, theirs = models
    close(ours.get_image_wide_positional_embeddings(), theirs.get_image_wide_positional_embeddings())
    told = {"input_points": points(), "input_labels": LABELS, "input_boxes": boxes()}
    for one in (told, {"input_boxes": boxes()}, {"input_masks": noise(2, 1, 16, 16)}):
        for mine, other in zip(ours.get_prompt_embeddings(**one), theirs.get_prompt_embeddings(**one), strict=True):
            assert (mine is None) == (other is None)
            if other is not None:
                close(mine, other)


def test_both_choices_are_made(tmp_path):
    """Some prompts get the mask of a clear one, others the best of a vague one's."""
    stability = {"dynamic_multimask_stability_delta": 1e-2, "dynamic_multimask_stability_thresh": 0.94}
    ours, theirs = pair(tmp_path, masks=stability)
    inputs = {"pixel_values": noise(2, 3, 32, 32), "input_points": points(prompts=9), "multimask_output": False}
    with torch.no_grad():
        several = ours(**{**inputs, "multimask_output": True}).iou_scores
        own = ours.train()(**inputs).iou_scores
        chosen = ours.eval()(**inputs).iou_scores
    stable = chosen == own
    assert 0 < stable.sum() < stable.numel()
    close(chosen[~stable], several.amax(-1, keepdim=True)[~stable])
    compare(ours, theirs, inputs, FIELDS)


def test_a_known_object(models):
    ours, theirs = models
    inputs = {"pixel_values": noise(2, 3, 32, 32), "input_points": points(), "input_labels": LABELS}
    compare(ours, theirs, {**inputs, "attention_similarity": noise(6, 1, 1, 16)}, FIELDS)
    compare(ours, theirs, {**inputs, "target_embedding": noise(1, 1, 1, 16)}, FIELDS)


def test_memory_in_the_file_is_left_alone(tmp_path):
    """Checkpoints that follow objects through videos hold more."""
    from safetensors.torch import load_file, save_file

    _, theirs = pair(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    more = {"memory_attention.layers.0.x": torch.ones(1), "occlusion_spatial_embedding_parameter": torch.ones(1, 2)}
    save_file({**tensors, **more}, tmp_path / "model.safetensors", {"format": "pt"})
    ours, report = omniform.Sam2Model.from_pretrained(tmp_path, output_loading_info=True)
    assert not report.fresh and not report.unexpected
    compare(ours, theirs, {"pixel_values": noise(1, 3, 32, 32), "input_points": points(1)}, FIELDS)


def test_models_of_videos(tmp_path, caplog, monkeypatch):
    """Their part for single pictures is loaded, and it is said what waits."""
    parts = both()
    config = transformers.Sam2VideoConfig(
        vision_config=parts.vision_config,
        prompt_encoder_config=parts.prompt_encoder_config,
        mask_decoder_config=parts.mask_decoder_config,
        memory_attention_hidden_size=16,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=8,
        memory_encoder_hidden_size=16,
        memory_encoder_output_channels=8,
        memory_fuser_num_layers=1,
    )
    saved_reference(transformers.Sam2VideoModel, config, tmp_path, scale=0.3)
    monkeypatch.setattr(logging.getLogger("omniform"), "propagate", True)
    with caplog.at_level("WARNING", logger="omniform"):
        assert omniform.AutoConfig.from_pretrained(tmp_path).model_type == "sam2"
    assert "video memory waits" in caplog.text and "does not know" not in caplog.text
    ours, report = omniform.Sam2Model.from_pretrained(tmp_path, output_loading_info=True)
    assert not report.fresh and not report.unexpected
    assert type(omniform.AutoModelForMaskGeneration.from_pretrained(tmp_path)) is omniform.Sam2Model
    theirs = transformers.Sam2Model.from_pretrained(tmp_path)
    compare(ours, theirs, {"pixel_values": noise(1, 3, 32, 32), "input_points": points(1)}, FIELDS)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"pixel_values": None}, "neither"),
        ({"image_embeddings": [torch.zeros(1)]}, "both"),
        ({"pixel_values": torch.zeros(2, 3, 64, 32)}, "16 x 16, 8 x 8, 4 x 4"),
        ({"pixel_values": torch.zeros(2, 3, 30, 32)}, "multiples of 4"),
        ({"pixel_values": None, "image_embeddings": torch.zeros(2, 16, 4, 4)}, "a list of 3"),
        ({"pixel_values": None, "image_embeddings": [torch.zeros(2, 16, 4, 4)] * 3}, r"image_embeddings\[0\]"),
        ({"input_points": torch.zeros(2, 3, 2)}, "input_points"),
        ({"input_labels": torch.zeros(2, 3, 2)}, r"\[2, 3, 3\]"),
        ({"input_boxes": torch.zeros(2, 2, 4)}, "3 boxes"),
    ],
)
def test_bad_inputs(models, inputs, words):
    given = {"pixel_values": noise(2, 3, 32, 32), "input_points": points(), "input_labels": LABELS}
    with pytest.raises(InputError, match=words):
        models[0](**{**given, **inputs})


@pytest.mark.parametrize(
    "change",
    [
        {"num_attention_heads_per_stage": [3, 2, 2, 2]},
        {"embed_dim_per_stage": [8, 12]},
        {"hidden_size": 12},
        {"blocks_per_stage": []},
        {"window_size_per_stage": [0, 2, 2, 2]},
    ],
    ids=str,
)
def test_bad_configs(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        omniform.AutoConfig.for_model(**{**HIERA, **change})


def test_bad_configs_of_all():
    whole = {"vision_config": {**VISION, "backbone_config": HIERA}, "prompt_encoder_config": PROMPTS,
        "mask_decoder_config": MASKS}  # fmt: skip
    changes = {
        "vision_config": {"num_feature_levels": 2}, "prompt_encoder_config": {"patch_size": 4},
        "mask_decoder_config": {"hidden_size": 24},
    }  # fmt: skip
    for name, change in changes.items():
        with pytest.raises(ConfigError):
            omniform.AutoConfig.for_model("sam2", **{**whole, name: {**whole[name], **change}})
    assert omniform.Sam2Config().vision_config.backbone_config.blocks_per_stage == [1, 2, 7, 2]


def test_from_scratch():
    model = omniform.Sam2HieraDetModel.from_config(omniform.AutoConfig.for_model(**HIERA))
    assert model.positions.background.weight.abs().sum() == 0 == model.positions.square.weight.abs().sum()
