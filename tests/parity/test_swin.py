"""Swin against the reference."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from askers import PROBLEMS, Labels, Nothing, Pictures, Question
from harness import Head, Parity, Table

from omniform.core.errors import ConfigError, InputError
from reference import close, compare, omniform, saved_reference, transformers

TINY = {
    "image_size": 24, "patch_size": 2, "embed_dim": 8, "depths": [2, 1], "num_heads": [2, 4], "window_size": 3,
    "encoder_stride": 4, "mlp_ratio": 2.0,
}  # fmt: skip
VARIANTS = {
    "plain": {},
    "no biases": {"qkv_bias": False},
    "relu": {"hidden_act": "relu", "layer_norm_eps": 1e-2, "mlp_ratio": 2.6},
    "absolute": {"use_absolute_embeddings": True, "drop_path_rate": 0.5, "hidden_dropout_prob": 0.3},
    "grey": {"num_channels": 1, "attention_probs_dropout_prob": 0.4},
    "wide": {"image_size": [14, 26]},
    "tall patches": {"image_size": [24, 12], "patch_size": [4, 2], "window_size": 2},
    "filled": {"image_size": 23, "window_size": 4},
    "odd maps": {"image_size": 22, "depths": [2, 2, 1], "num_heads": [1, 2, 4]},
    "windows as large as maps": {"window_size": 6, "depths": [2, 2]},
    "squares of one": {"window_size": 1},
}
STAGES = ("hidden_states", "attentions", "reshaped_hidden_states")


def pair(folder: Path, head: str = "Model", scale: float = 0.3, **changes: object):
    config = transformers.SwinConfig(**{**TINY, **changes})
    theirs = saved_reference(getattr(transformers, f"Swin{head}"), config, folder, scale=scale)
    theirs.set_attn_implementation("eager")
    return getattr(omniform, f"Swin{head}").from_pretrained(folder), theirs


def pictures(n: int = 2, channels: int = 3, size: tuple[int, int] = (24, 24)) -> torch.Tensor:
    return torch.randn(n, channels, *size, generator=torch.Generator().manual_seed(1))


def hidden_patches(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.4


@dataclass(frozen=True)
class Hidden(Pictures):
    """Pictures of which some patches are hidden: some, none, or nothing said."""

    def questions(self, config):
        pixels, hidden = {"pixel_values": self.pixels(config)}, hidden_patches(3, 144)
        yield Question({**pixels, "bool_masked_pos": hidden}, ("loss", "reconstruction", *self.taps))
        yield Question(pixels, ("reconstruction",))
        yield Question({**pixels, "bool_masked_pos": torch.zeros_like(hidden)}, ("loss",))

    def lesson(self, config):
        return {"pixel_values": self.pixels(config), "bool_masked_pos": hidden_patches(3, 144)}


def classifier(labels: Labels) -> Head:
    return Head("SwinForImageClassification", "AutoModelForImageClassification", Pictures(labels, STAGES))


MAPS = Pictures(Nothing(("feature_maps",)))
SEVERAL = Pictures(Nothing(("feature_maps",), {"out_features": ["stem", "stage2"], "image_size": [23, 38]}))
BASE = Pictures(Nothing(("last_hidden_state", "pooler_output")), STAGES)


class TestSwin(Parity):
    table = Table(
        model_type="swin",
        config=transformers.SwinConfig,
        tiny=TINY,
        heads={
            "Model": Head("SwinModel", "AutoModel", BASE, everywhere=True),
            **{f"ForImageClassification, {name}": classifier(labels) for name, labels in PROBLEMS.items()},
            "ForImageClassification, no classes": classifier(Nothing(("logits",), {"num_labels": 0})),
            "ForMaskedImageModeling": Head(
                "SwinForMaskedImageModeling", "AutoModelForMaskedImageModeling", Hidden(Nothing(), STAGES), rate=1e-3
            ),
            "Backbone": Head("SwinBackbone", "AutoBackbone", MAPS),
            "Backbone, of several stages": Head("SwinBackbone", "AutoBackbone", SEVERAL),
        },
        variants=VARIANTS,
    )


@pytest.mark.parametrize("size", [(24, 24), (12, 40), (25, 13), (3, 3), (1, 50)])
@pytest.mark.parametrize("asked", [{}, {"always_partition": True, "output_hidden_states_before_downsampling": True}])
def test_other_sizes(tmp_path, size, asked):
    ours, theirs = pair(tmp_path)
    inputs = {"pixel_values": pictures(size=size), **asked}
    if not asked and min(size) < 5:
        # Where squares shrink, the reference adds tables of another size.
        assert ours(**inputs).last_hidden_state.isfinite().all()
        return
    compare(ours, theirs, inputs, ["last_hidden_state", "pooler_output", "hidden_states", "reshaped_hidden_states"])


def test_smaller_squares_know_their_distances(tmp_path):
    """Squares of two on a map of two by four see what larger ones do, cut to their size."""
    ours, _ = pair(tmp_path, depths=[1], num_heads=[2])
    small, _ = pair(tmp_path / "small", depths=[1], num_heads=[2], window_size=2)
    for a, b in zip(small.parameters(), ours.parameters(), strict=True):
        if a.shape == b.shape:
            a.data.copy_(b.data)
    large = ours.stages[0].blocks[0].self_attn.distance_bias.weight
    small.stages[0].blocks[0].self_attn.distance_bias.weight.data.copy_(
        large.data.view(5, 5, 2)[1:4, 1:4].reshape(9, 2)
    )
    with torch.no_grad():
        close(ours(pictures(size=(4, 8))).last_hidden_state, small(pictures(size=(4, 8))).last_hidden_state)


@pytest.mark.parametrize("size", [(24, 24), (32, 20), (12, 40)])
def test_positions_of_other_sizes(tmp_path, size):
    ours, theirs = pair(tmp_path, use_absolute_embeddings=True, window_size=2)
    inputs = {"pixel_values": pictures(size=size), "interpolate_pos_encoding": True}
    compare(ours, theirs, inputs, ["last_hidden_state"])
    if size != (24, 24):
        with pytest.raises(InputError, match="interpolate_pos_encoding=True"):
            ours(pictures(size=size))


CHANCES = [
    {"hidden_dropout_prob": 0.3}, {"attention_probs_dropout_prob": 0.3}, {"drop_path_rate": 0.6},
    {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2, "drop_path_rate": 0.4},
]  # fmt: skip


@pytest.mark.parametrize("changes", CHANCES, ids=str)
def test_chance_falls_on_the_same_places(tmp_path, changes):
    ours, theirs = pair(tmp_path, **{"drop_path_rate": 0.0, **changes})
    found = []
    for model in (ours, theirs):
        model.set_attn_implementation("eager")
        torch.manual_seed(3)
        with torch.no_grad():
            found.append(model.train()(pictures(4)).last_hidden_state)
    close(*found)
    with torch.no_grad():
        assert not torch.equal(found[0], ours.eval()(pictures(4)).last_hidden_state)


def test_pictures_that_are_not_square_are_filled_in(tmp_path):
    """The reference takes the last map for a square."""
    ours, _ = pair(tmp_path, "ForMaskedImageModeling")
    out = ours(pictures(size=(16, 32)), bool_masked_pos=hidden_patches(2, 128))
    assert out.reconstruction.shape == (2, 3, 16, 32) and out.loss.isfinite()


def test_another_stride(tmp_path):
    ours, theirs = pair(tmp_path, "ForMaskedImageModeling", encoder_stride=3)
    compare(ours, theirs, {"pixel_values": pictures()}, ["reconstruction"])
    with pytest.raises(InputError, match="pixel_values"):
        ours(pictures(), bool_masked_pos=hidden_patches(2, 144))


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"pixel_values": torch.zeros(1, 1, 24, 24)}, "batch, 3"),
        ({"pixel_values": torch.zeros(24, 24)}, "shape"),
        ({"pixel_values": torch.zeros(1, 3, 0, 24)}, "shape"),
        ({"pixel_values": torch.zeros(1, 3, 24, 24, dtype=torch.long)}, "floating-point"),
        ({"bool_masked_pos": torch.ones(2, 15, dtype=torch.bool)}, "bool_masked_pos"),
    ],
)
def test_bad_inputs(tmp_path, inputs, words):
    ours, _ = pair(tmp_path, "ForMaskedImageModeling")
    with pytest.raises(InputError, match=words):
        ours(**{"pixel_values": pictures(), **inputs})


def test_hidden_patches_need_a_mask_token(tmp_path):
    ours, _ = pair(tmp_path)
    with pytest.raises(InputError, match="no mask token"):
        ours(pictures(), bool_masked_pos=hidden_patches(2, 144))


@pytest.mark.parametrize(
    "change",
    [
        {"num_heads": [3, 4]},
        {"num_heads": [2]},
        {"depths": []},
        {"depths": [2, 0]},
        {"depths": [10**6, 1]},
        {"window_size": 0},
        {"mlp_ratio": 0.01},
        {"patch_size": 400},
        {"hidden_act": "swoosh"},
    ],
    ids=str,
)
def test_bad_configs(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        omniform.AutoConfig.for_model("swin", **{**TINY, **change})


def test_from_scratch():
    config = omniform.AutoConfig.for_model("swin", **TINY, use_absolute_embeddings=True)
    model = omniform.AutoModelForMaskedImageModeling.from_config(config)
    assert model.model.mask_token.weight.abs().sum() == 0 and model.model.positions.weight.abs().sum() == 0
    assert model.model.stages[0].blocks[0].self_attn.distance_bias.weight.abs().sum() == 0
    assert 0.01 < model.model.stages[0].blocks[0].self_attn.q_proj.weight.std() < 0.03


def test_a_backbone_out_of_other_checkpoints(tmp_path):
    """Its norms are made anew; the maps before them are the reference's."""
    _, theirs = pair(tmp_path, "ForImageClassification")
    expected = theirs.swin(
        pictures(), output_hidden_states=True, always_partition=True, output_hidden_states_before_downsampling=True
    ).reshaped_hidden_states
    for told in ({"out_features": ["stage1", "stage2"]}, {"out_indices": [1, 2]}):
        ours, report = omniform.AutoBackbone.from_pretrained(tmp_path, output_loading_info=True, **told)
        assert all("norms" in name for name in report.fresh) and len(report.fresh) == 4
        assert ours.channels == [8, 16] and ours.strides == [2, 4]
        with torch.no_grad():
            found = ours(pictures()).feature_maps
        for mine, other in zip(found, expected[1:], strict=True):
            close(mine, torch.nn.functional.layer_norm(other.permute(0, 2, 3, 1), other.shape[1:2]).permute(0, 3, 1, 2))


def test_no_stage_is_computed_in_vain(tmp_path):
    ours, _ = pair(tmp_path, "Backbone", out_features=["stage1"])
    ours.model.stages[1].forward = None
    assert len(ours(pictures()).feature_maps) == 1
