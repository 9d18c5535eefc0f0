"""ViT against the reference."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from askers import PROBLEMS, Labels, Nothing, Pictures, Question, Rows
from harness import Head, Parity, Table, compiled, gamma
from safetensors.torch import load_file, save_file

from omniform.core.errors import ConfigError, InputError, WeightsError
from reference import close, compare, omniform, saved_reference, transformers

TINY = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 16,
    "patch_size": 4, "encoder_stride": 4,
}  # fmt: skip

VARIANTS = {
    "plain": {},
    "no biases": {"qkv_bias": False},
    "relu": {"hidden_act": "relu", "layer_norm_eps": 1e-2},
    "quick gelu": {"hidden_act": "quick_gelu", "hidden_dropout_prob": 0.4, "attention_probs_dropout_prob": 0.4},
    "pooler": {"pooler_output_size": 20, "pooler_act": "relu"},
    "grey": {"num_channels": 1},
    "wide": {"image_size": [8, 24]},
    "tall patches": {"image_size": [24, 12], "patch_size": [8, 3]},
    "cut off": {"image_size": 18},
    "one layer": {"num_hidden_layers": 1},
    "wide heads": {"head_dim": 16},
}
HEADS = {
    "Model": omniform.AutoModel,
    "ForImageClassification": omniform.AutoModelForImageClassification,
    "ForMaskedImageModeling": omniform.AutoModelForMaskedImageModeling,
}


def pair(folder: Path, head: str = "Model", scale: float = 0.2, **changes: object):
    config = transformers.ViTConfig(**{**TINY, **changes})
    theirs = saved_reference(getattr(transformers, f"ViT{head}"), config, folder, scale=scale)
    return HEADS[head].from_pretrained(folder), theirs


def pictures(n: int = 2, channels: int = 3, size: object = 16) -> torch.Tensor:
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return torch.randn(n, channels, height, width, generator=torch.Generator().manual_seed(1))


def hidden_patches(config: object) -> torch.Tensor:
    height, width = config.image_size if isinstance(config.image_size, list) else (config.image_size,) * 2
    patches = (height // 4) * (width // 4)
    return torch.rand(3, patches, generator=torch.Generator().manual_seed(0)) < 0.4


@dataclass(frozen=True)
class Hidden(Pictures):
    """Pictures of which some patches are hidden: some, none, or nothing said."""

    def questions(self, config):
        pixels, hidden = {"pixel_values": self.pixels(config)}, hidden_patches(config)
        yield Question(pixels, ("reconstruction",))
        yield Question({**pixels, "bool_masked_pos": hidden}, ("loss", "reconstruction", *self.taps))
        yield Question({**pixels, "bool_masked_pos": torch.zeros_like(hidden)}, ("loss",))

    def lesson(self, config):
        return {"pixel_values": self.pixels(config), "bool_masked_pos": hidden_patches(config)}


def masked(**config: object) -> Head:
    asks = Hidden(Nothing(config=config))
    return Head("ViTForMaskedImageModeling", "AutoModelForMaskedImageModeling", asks, rate=1e-3)


def classifier(labels: Labels) -> Head:
    return Head("ViTForImageClassification", "AutoModelForImageClassification", Pictures(labels))


class TestViT(Parity):
    table = Table(
        model_type="vit",
        config=transformers.ViTConfig,
        tiny=TINY,
        heads={
            "Model": Head(
                "ViTModel", "AutoModel", Pictures(Nothing(("last_hidden_state", "pooler_output"))), everywhere=True
            ),
            **{f"ForImageClassification, {name}": classifier(labels) for name, labels in PROBLEMS.items()},
            "ForImageClassification, no classes": classifier(Nothing(("logits",), {"num_labels": 0})),
            "ForImageClassification, wide and grey": classifier(
                Rows(torch.tensor([1, 2, 3]),
                    {"num_labels": 4, "qkv_bias": False, "num_channels": 1, "image_size": [8, 20]})
            ),
            "ForMaskedImageModeling": masked(),
            "ForMaskedImageModeling, grey": masked(num_channels=1),
            "ForMaskedImageModeling, small": masked(image_size=8, hidden_act="gelu_new"),
        },
        variants=VARIANTS,
        spellings={"compiled": compiled, "gamma": gamma},
    )  # fmt: skip


@pytest.mark.parametrize("size", [(16, 16), (32, 32), (8, 32), (17, 19), (4, 4)])
def test_other_sizes(tmp_path, size):
    ours, theirs = pair(tmp_path)
    inputs = {"pixel_values": pictures(2, 3, size), "interpolate_pos_encoding": True}
    compare(ours, theirs, inputs, ["last_hidden_state", "pooler_output"])


def test_positions_of_a_wide_grid_keep_their_shape(tmp_path):
    """The reference takes every learned grid for a square; ours knows its own."""
    ours, theirs = pair(tmp_path, image_size=[8, 24])
    inputs = {"pixel_values": pictures(2, 3, (8, 24))}
    with torch.no_grad():
        close(ours(**inputs, interpolate_pos_encoding=True).last_hidden_state, theirs(**inputs).last_hidden_state)
        rows = ours.positions((4, 12))[1:].view(4, 12, -1)
        learned = ours.positions.weight[1:].view(2, 6, -1)
    # Resampled corners stay nearest to the corners that were learned.
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        distances = (learned - rows[corner]).norm(dim=-1)
        assert distances[corner] == distances.min()


@pytest.mark.parametrize("changes", [{"hidden_dropout_prob": 0.3}, {"attention_probs_dropout_prob": 0.3}])
def test_dropout_falls_on_the_same_places(tmp_path, changes):
    ours, theirs = pair(tmp_path, **changes)
    found, expected = [], []
    for model, outputs in ((ours, found), (theirs, expected)):
        model.set_attn_implementation("eager")
        model.train()
        torch.manual_seed(3)
        with torch.no_grad():
            outputs.append(model(pictures()).last_hidden_state)
    close(found, expected)
    with torch.no_grad():
        assert not torch.equal(found[0], ours.eval()(pictures()).last_hidden_state)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attention_mask(tmp_path, implementation):
    ours, theirs = pair(tmp_path)
    ours.set_attn_implementation(implementation)
    mask = torch.ones(2, 17, dtype=torch.long)
    mask[0, 9:] = 0
    compare(ours, theirs, {"pixel_values": pictures(), "attention_mask": mask}, ["pooler_output", "last_hidden_state"])


def test_another_stride_than_the_patches(tmp_path):
    ours, theirs = pair(tmp_path, "ForMaskedImageModeling", encoder_stride=2)
    compare(ours, theirs, {"pixel_values": pictures()}, ["reconstruction"])
    with pytest.raises(InputError, match="encoder_stride"):
        ours(pictures(), bool_masked_pos=torch.ones(2, 16, dtype=torch.bool))


def test_base_and_heads_from_one_another(tmp_path):
    base, _ = pair(tmp_path / "base")
    head, report = omniform.AutoModelForImageClassification.from_pretrained(
        tmp_path / "base", num_labels=3, output_loading_info=True
    )
    assert sorted(report.fresh) == ["classifier.bias", "classifier.weight"]
    assert sorted(report.unused) == ["pooler.dense.bias", "pooler.dense.weight"]
    with torch.no_grad():
        close(head.model(pictures()).last_hidden_state, base(pictures()).last_hidden_state)
        assert head(pictures()).logits.shape == (2, 3)

    _, theirs = pair(tmp_path / "head", "ForImageClassification")
    base, report = omniform.AutoModel.from_pretrained(tmp_path / "head", output_loading_info=True)
    assert sorted(report.fresh) == ["pooler.dense.bias", "pooler.dense.weight"]
    compare(base, theirs.vit, {"pixel_values": pictures()}, ["last_hidden_state"])

    masked, report = omniform.AutoModelForMaskedImageModeling.from_pretrained(
        tmp_path / "base", output_loading_info=True
    )
    assert sorted(report.fresh) == ["decoder.0.bias", "decoder.0.weight", "model.mask_token.weight"]
    assert masked.model.mask_token.weight.abs().sum() == 0


def test_old_spellings_and_defaults_left_out(tmp_path):
    _, theirs = pair(tmp_path, "ForImageClassification", patch_size=16, encoder_stride=16, num_labels=2)
    tensors = load_file(tmp_path / "model.safetensors")
    old = {k.replace("vit.layernorm.weight", "vit.layernorm.gamma"): v for k, v in tensors.items()}
    old = {k.replace("vit.layernorm.bias", "vit.layernorm.beta"): v for k, v in old.items()}
    save_file({**old, "vit.embeddings.position_ids": torch.arange(2)[None]}, tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    defaults = transformers.ViTConfig().to_dict()
    config = {k: v for k, v in config.items() if k in ("model_type", "architectures") or v != defaults.get(k)}
    assert "hidden_act" not in config and "patch_size" not in config
    (tmp_path / "config.json").write_text(json.dumps(config))
    ours = omniform.AutoModelForImageClassification.from_pretrained(tmp_path)
    compare(ours, theirs, {"pixel_values": pictures()}, ["logits"])


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"pixel_values": torch.zeros(1, 3, 16, 20)}, "interpolate_pos_encoding=True"),
        ({"pixel_values": torch.zeros(1, 1, 16, 16)}, "batch, 3, 16, 16"),
        ({"pixel_values": torch.zeros(16, 16)}, "shape"),
        ({"pixel_values": torch.zeros(1, 3, 16, 16, dtype=torch.long)}, "floating-point"),
        ({"bool_masked_pos": torch.ones(2, 15, dtype=torch.bool)}, "bool_masked_pos"),
        ({"attention_mask": torch.ones(2, 16)}, "attention_mask"),
    ],
)
def test_bad_inputs(tmp_path, inputs, words):
    ours, _ = pair(tmp_path, "ForMaskedImageModeling")
    with pytest.raises(InputError, match=words):
        ours(**{"pixel_values": pictures(), **inputs})


def test_hidden_patches_need_a_mask_token(tmp_path):
    ours, _ = pair(tmp_path)
    with pytest.raises(InputError, match="no mask token"):
        ours(pictures(), bool_masked_pos=torch.ones(2, 16, dtype=torch.bool))


@pytest.mark.parametrize(
    "change",
    [
        {"num_attention_heads": 5},
        {"patch_size": 400},
        {"image_size": [8, 8, 8]},
        {"image_size": 0},
        {"hidden_act": "swoosh"},
        {"layer_norm_eps": "small"},
        {"qkv_bias": 1},
    ],
)
def test_bad_configs(change):
    with pytest.raises(ConfigError):
        omniform.AutoConfig.for_model("vit", **change)


def test_weights_of_another_shape(tmp_path):
    pair(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["embeddings.cls_token"] = tensors["embeddings.cls_token"][0]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"cls_token has the wrong shape: expected \[1, 1, 32\], found \[1, 32\]"):
        omniform.AutoModel.from_pretrained(tmp_path)


def test_from_scratch():
    config = omniform.AutoConfig.for_model("vit", **TINY)
    model = omniform.AutoModelForMaskedImageModeling.from_config(config)
    assert model.model.mask_token.weight.abs().sum() == 0
    assert 0.01 < model.model.positions.weight.std() < 0.03
    assert torch.isfinite(model(pictures()).reconstruction).all()
