"""DPT against the reference: on its own encoder, on a network of convolutions, on other backbones."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from askers import Inputs, Nothing, Pictures, Question, noise
from harness import Head, Parity, Table
from segmented import Segments

from omniform.core.errors import ConfigError, InputError
from reference import check_round_trip, close, compare, omniform, saved_reference, transformers

TINY = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 4, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [8, 12, 10, 14],
    "fusion_hidden_size": 8,
}  # fmt: skip
SWIN = {
    "model_type": "swinv2", "image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [1, 1, 1],
    "num_heads": [2, 2, 4], "window_size": 2, "out_features": ["stage1", "stage2", "stage3"],
}  # fmt: skip
DINO = {
    "model_type": "dinov2", "hidden_size": 12, "mlp_ratio": 2, "num_hidden_layers": 3, "num_attention_heads": 2,
    "image_size": 16, "patch_size": 4, "out_indices": [1, 2, 3], "reshape_hidden_states": False,
}  # fmt: skip
BEIT = {
    "model_type": "beit", "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 3, "num_attention_heads": 2,
    "image_size": 16, "patch_size": 4, "out_indices": [1, 2, 3], "reshape_hidden_states": False,
    "use_relative_position_bias": True,
}  # fmt: skip
HYBRID = {
    "is_hybrid": True, "image_size": 32, "patch_size": 16, "neck_hidden_sizes": [8, 16, 10, 14],
    "reassemble_factors": [1, 1, 1, 0.5], "backbone_featmap_shape": [1, 24, 2, 2], "backbone_config": {
        "model_type": "bit", "embedding_size": 8, "hidden_sizes": [8, 16, 24], "depths": [1, 1, 1], "num_groups": 2,
        "layer_type": "bottleneck", "global_padding": "same", "embedding_dynamic_padding": True,
        "out_features": ["stage1", "stage2", "stage3"]},
}  # fmt: skip
THREE = {"neck_hidden_sizes": [8, 12, 10], "reassemble_factors": [2, 1, 0.5]}


def config(backbone_config: object = None, **given: object):
    """The reference's."""
    if isinstance(backbone_config, dict):
        backbone_config = transformers.AutoConfig.for_model(**backbone_config)
    return transformers.DPTConfig(backbone_config=backbone_config, **given)


@dataclass(frozen=True)
class Sizes:
    """Pictures of several sizes.

    Attributes:
        sizes: the first is asked for all that there is to see on the way.
    """

    fields: tuple[str, ...] = ("predicted_depth",)
    sizes: tuple[tuple[int, int], ...] = ((16, 16), (32, 32), (35, 33))
    config: Mapping[str, object] = field(default_factory=dict)
    taps: tuple[str, ...] = ("hidden_states", "attentions")

    def questions(self, made: object) -> Iterator[Question]:
        channels = vars(made).get("num_channels", 3)
        for number, size in enumerate(self.sizes):
            yield Question({"pixel_values": noise(2, channels, *size)}, self.fields + (() if number else self.taps))

    def lesson(self, made: object) -> Inputs | None:
        return None


def depth(**changes: object) -> Head:
    return Head("DPTForDepthEstimation", "AutoModelForDepthEstimation", Sizes(config=changes), everywhere=not changes)


def segments(**changes: object) -> Head:
    asks = Segments((16, 16), changes, ignored=changes.get("semantic_loss_ignore_index", 255))
    unused = ("model.norm", "neck.fusion_stage.0.residual_layer1")
    return Head("DPTForSemanticSegmentation", "AutoModelForSemanticSegmentation", asks, unused=unused, rate=3e-3)


class TestDPT(Parity):
    table = Table(
        model_type="dpt",
        config=config,
        config_class=transformers.DPTConfig,
        tiny=TINY,
        heads={
            "Model": Head("DPTModel", "AutoModel", Pictures(Nothing(("last_hidden_state", "pooler_output")))),
            "ForDepthEstimation": depth(),
            "ForSemanticSegmentation": segments(),
            "ForSemanticSegmentation, one head": Head(
                "DPTForSemanticSegmentation", "AutoModelForSemanticSegmentation",
                Sizes(("logits",), config={"use_auxiliary_head": False, "num_labels": 3}),
            ),
            "ForSemanticSegmentation, weighted": segments(
                auxiliary_loss_weight=0.7, semantic_loss_ignore_index=1, head_in_index=1,
                semantic_classifier_dropout=0.0,
            ),
            "Model, hybrid": Head("DPTModel", "AutoModel", Sizes(
                ("last_hidden_state", "pooler_output", "intermediate_activations"), ((32, 32),), HYBRID)),
            "ForDepthEstimation, hybrid": Head("DPTForDepthEstimation", "AutoModelForDepthEstimation", Sizes(
                sizes=((32, 32),), config=HYBRID)),
            "ForSemanticSegmentation, hybrid": Head(
                "DPTForSemanticSegmentation", "AutoModelForSemanticSegmentation",
                Sizes(("logits",), ((32, 32),), {**HYBRID, "num_labels": 3})),
            "swinv2": Head("DPTForDepthEstimation", "AutoModelForDepthEstimation", Sizes(
                sizes=((32, 32), (36, 20)), config={"backbone_config": SWIN, "neck_hidden_sizes": [8, 16, 32]})),
            "dinov2": depth(backbone_config=DINO, **THREE),
            "beit": Head("DPTForDepthEstimation", "AutoModelForDepthEstimation", Sizes(
                sizes=((16, 16), (24, 36)), config={"backbone_config": BEIT, **THREE, "readout_type": "add"})),
        },
        variants={
            "plain": {},
            "ignored": {"readout_type": "ignore", "head_in_index": 2, "hidden_act": "relu"},
            "added": {"readout_type": "add", "qkv_bias": False, "layer_norm_eps": 1e-2, "num_channels": 1},
            "batch norms": {"use_batch_norm_in_fusion_residual": True},
            "batch norms and biases": {
                "use_batch_norm_in_fusion_residual": True, "use_bias_in_fusion_residual": True},
            "neither": {"use_bias_in_fusion_residual": False},
            "other factors": {"reassemble_factors": [2, 4, 0.25, 1]},
            "fewer layers": {
                "backbone_out_indices": [3, 1], "neck_hidden_sizes": [6, 8], "reassemble_factors": [2, 1],
                "pooler_output_size": 5, "pooler_act": "relu"},
        },
    )  # fmt: skip


def pair(folder: Path, head: str = "ForDepthEstimation", *, scale: float = 0.2, **changes: object):
    made = config(**{**TINY, **changes})
    theirs = saved_reference(getattr(transformers, f"DPT{head}"), made, folder, scale=scale)
    return getattr(omniform, f"DPT{head}").from_pretrained(folder), theirs


def test_one_more_convolution(tmp_path):
    """It has 256 channels, so that the weights have to be small."""
    changes = {"add_projection": True, "fusion_hidden_size": 256, "neck_hidden_sizes": [2, 2, 2, 2]}
    ours, theirs = pair(tmp_path / "model", scale=0.03, **changes)
    compare(ours, theirs, {"pixel_values": noise(2, 3, 16, 16)}, ["predicted_depth"])
    check_round_trip(tmp_path / "model", ours, tmp_path / "again")


def test_pictures_that_are_no_squares(tmp_path):
    """The reference takes the patches for those of a square, and fails; on other backbones it does not."""
    ours, _ = pair(tmp_path)
    assert ours(noise(1, 3, 20, 36)).predicted_depth.shape == (1, 96, 160)


def test_trains_as_the_reference(tmp_path):
    """Losses, gradients and the statistics of batch norms."""
    ours, theirs = pair(
        tmp_path, "ForSemanticSegmentation", num_labels=4, use_batch_norm_in_fusion_residual=True,
        semantic_classifier_dropout=0.0,
    )  # fmt: skip
    labels = torch.randint(0, 4, (2, 16, 16), generator=torch.Generator().manual_seed(0))
    theirs.auxiliary_head.head[3].p = ours.auxiliary_head.dropout = 0.0
    for model in (ours, theirs):
        model.train()
        model(noise(2, 3, 16, 16), labels=labels).loss.backward()
    close(ours.model.patches.projection.weight.grad, theirs.dpt.embeddings.patch_embeddings.projection.weight.grad)
    close(ours.head.batch_norm.running_var, theirs.head.head[1].running_var)
    norms = ours.neck.fusion_stage[1].residual_layer1, theirs.neck.fusion_stage.layers[1].residual_layer1
    close(norms[0].batch_norm2.running_mean, norms[1].batch_norm2.running_mean)


def test_old_ways_to_name_a_backbone(tmp_path):
    """Files of old hold null for what the encoder would be."""
    nulls = {"num_hidden_layers": None, "num_attention_heads": None, "intermediate_size": None, "layer_norm_eps": None}
    _, theirs = pair(tmp_path, backbone_config=DINO, backbone_out_indices=None, **THREE)
    folder = tmp_path / "config.json"
    folder.write_text(json.dumps({**json.loads(folder.read_text()), **nulls}))
    ours = omniform.AutoModelForDepthEstimation.from_pretrained(tmp_path)
    compare(ours, theirs, {"pixel_values": noise(1, 3, 21, 30)}, ["predicted_depth"])


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"pixel_values": torch.zeros(1, 1, 16, 16)}, "batch, 3"),
        ({"pixel_values": torch.zeros(1, 3, 3, 16)}, "smaller than a patch"),
        ({"labels": torch.zeros(2, 16, 16)}, "no loss"),
    ],
)
def test_bad_inputs(tmp_path, inputs, words):
    ours, _ = pair(tmp_path)
    with pytest.raises(InputError, match=words):
        ours(**{"pixel_values": noise(2, 3, 16, 16), **inputs})


def test_bad_hybrids(tmp_path):
    ours, _ = pair(tmp_path, **HYBRID)
    with pytest.raises(InputError, match=r"batch, 3, 32, 32"):
        ours(noise(1, 3, 32, 48))
    with pytest.raises(ConfigError, match="three maps"):
        omniform.DPTModel(omniform.DPTConfig(**{**TINY, **HYBRID, "backbone_featmap_shape": [1, 20, 2, 2]}))


def test_a_backbone_that_gives_maps_is_refused(tmp_path):
    made = omniform.DPTConfig(**{**TINY, **THREE, "backbone_config": {**DINO, "reshape_hidden_states": True}})
    with pytest.raises(InputError, match="reshape_hidden_states=False"):
        omniform.DPTForDepthEstimation(made)(noise(1, 3, 16, 16))
    with pytest.raises(InputError, match="at least 4 pixels"):
        omniform.DPTForDepthEstimation(made)(noise(1, 3, 3, 16))


@pytest.mark.parametrize(
    "change",
    [
        {"readout_type": "sum"},
        {"reassemble_factors": [4, 2]},
        {"reassemble_factors": [4, 2, 1, 1.5]},
        {"reassemble_factors": [4, 2, 1, 0]},
        {"neck_hidden_sizes": []},
        {"head_in_index": 4},
        {"is_hybrid": True, "readout_type": "add"},
        {"is_hybrid": True, "neck_ignore_stages": [0]},
        {"is_hybrid": True, "backbone_featmap_shape": [1]},
        {"backbone_config": {"model_type": "bert"}},
    ],
)
def test_bad_configs(change):
    with pytest.raises(ConfigError):
        omniform.AutoConfig.for_model("dpt", **{**TINY, **change})


def test_stages_that_do_not_fit():
    with pytest.raises(ConfigError, match="neck_hidden_sizes"):
        omniform.DPTForDepthEstimation(omniform.DPTConfig(**{**TINY, "backbone_out_indices": [0, 1]}))


def test_from_scratch():
    model = omniform.DPTModel(omniform.DPTConfig(**TINY))
    assert not model.class_token.weight.any() and not model.positions.weight.any() and model.norm.weight.all()
