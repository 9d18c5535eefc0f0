"""DINOv2, with registers and without, against the reference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from askers import PROBLEMS, Labels, Nothing, Pictures, Question, noise
from harness import Head, Parity, Table, compiled

from omniform.core.errors import ConfigError, InputError
from reference import close, compare, omniform, saved_reference, transformers

TINY = {
    "hidden_size": 32, "mlp_ratio": 2, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 16,
    "patch_size": 4,
}  # fmt: skip

VARIANTS = {
    "plain": {},
    "no biases": {"qkv_bias": False},
    "gated": {"use_swiglu_ffn": True, "mlp_ratio": 3},
    "relu": {"hidden_act": "relu", "layer_norm_eps": 1e-2},
    "dropped": {"hidden_dropout_prob": 0.4, "attention_probs_dropout_prob": 0.4, "drop_path_rate": 0.5},
    "scaled": {"layerscale_value": 1e-3},
    "grey": {"num_channels": 1},
    "tall patches": {"image_size": [24, 24], "patch_size": [8, 3]},
    "a square in a wide picture": {"image_size": [8, 32]},
    "cut off": {"image_size": 18},
    "wide heads": {"head_dim": 16},
}
SIZES = ((16, 16), (32, 32), (8, 32), (17, 19), (4, 4), (24, 12))


@dataclass(frozen=True)
class AnySize(Pictures):
    """Pictures of the model's size and of others; some patches are hidden."""

    def questions(self, config: object) -> Iterator[Question]:
        yield from super().questions(config)
        pixels = self.pixels(config)
        outputs = tuple(f for f in self.labels.fields if f != "loss")
        patch = config.patch_size if isinstance(config.patch_size, list) else (config.patch_size,) * 2
        for height, width in SIZES:
            if height >= patch[0] and width >= patch[1]:
                yield Question({"pixel_values": noise(2, pixels.shape[1], height, width)}, outputs)
        patches = (pixels.shape[2] // patch[0]) * (pixels.shape[3] // patch[1])
        hidden = torch.rand(3, patches, generator=torch.Generator().manual_seed(0)) < 0.4
        yield Question({"pixel_values": pixels, "bool_masked_pos": hidden}, outputs)


def classifier(prefix: str, labels: Labels) -> Head:
    unused = ("model.mask_token",)
    return Head(f"{prefix}ForImageClassification", "AutoModelForImageClassification", AnySize(labels), unused=unused)


def backbone(prefix: str, **config: object) -> Head:
    return Head(f"{prefix}Backbone", "AutoBackbone", Maps(Nothing(("feature_maps",), config)))


@dataclass(frozen=True)
class Maps(AnySize):
    """The same for a backbone, which hides nothing."""

    def questions(self, config: object) -> Iterator[Question]:
        yield from [q for q in super().questions(config) if "bool_masked_pos" not in q.inputs]


def heads(prefix: str) -> dict[str, Head]:
    base = AnySize(Nothing(("last_hidden_state", "pooler_output")))
    several, last = {"out_features": ["stem", "stage1", "stage2"]}, {"out_indices": [-2]}
    return {
        "Model": Head(f"{prefix}Model", "AutoModel", base, everywhere=True),
        **{
            f"ForImageClassification, {name}": classifier(prefix, PROBLEMS[name]) for name in ("classes", "many labels")
        },
        "ForImageClassification, no classes": classifier(prefix, Nothing(("logits",), {"num_labels": 0})),
        "Backbone": backbone(prefix),
        "Backbone, several": backbone(prefix, **several),
        "Backbone, not normed": backbone(prefix, **several, apply_layernorm=False),
        "Backbone, tokens": backbone(prefix, **last, reshape_hidden_states=False),
    }


class TestDinov2(Parity):
    table = Table(
        model_type="dinov2", config=transformers.Dinov2Config, tiny=TINY,
        heads={
            **heads("Dinov2"),
            "Model, no mask token": Head("Dinov2Model", "AutoModel", Maps(Nothing(config={"use_mask_token": False}))),
        },
        variants=VARIANTS, spellings={"compiled": compiled},
    )  # fmt: skip


class TestDinov2WithRegisters(Parity):
    table = Table(
        model_type="dinov2_with_registers", config=transformers.Dinov2WithRegistersConfig,
        tiny={**TINY, "num_register_tokens": 3}, heads=heads("Dinov2WithRegisters"),
        variants={
            **{name: VARIANTS[name] for name in ("plain", "gated", "a square in a wide picture")},
            "no registers": {"num_register_tokens": 0},
            "fine": {"image_size": 32},
        },
    )  # fmt: skip


def pair(folder, head="Model", **changes):
    config = transformers.Dinov2Config(**{**TINY, **changes})
    theirs = saved_reference(getattr(transformers, f"Dinov2{head}"), config, folder)
    return getattr(omniform, f"Dinov2{head}").from_pretrained(folder), theirs


@pytest.mark.parametrize(
    "changes",
    [{"drop_path_rate": 0.5}, {"hidden_dropout_prob": 0.3}, {"attention_probs_dropout_prob": 0.3}],
)
def test_what_is_left_out_in_training_is_the_same(tmp_path, changes):
    ours, theirs = pair(tmp_path, **changes)
    found = []
    for model in (ours, theirs):
        model.set_attn_implementation("eager")
        model.train()
        torch.manual_seed(3)
        with torch.no_grad():
            found.append(model(noise(4, 3, 16, 16)).last_hidden_state)
    close(*found)
    with torch.no_grad():
        assert not torch.equal(found[0], ours.eval()(noise(4, 3, 16, 16)).last_hidden_state)


@pytest.mark.parametrize("head", ["Model", "Backbone"])
def test_attention_mask(tmp_path, head):
    ours, theirs = pair(tmp_path, head)
    mask = torch.ones(2, 17, dtype=torch.long)
    mask[0, 9:] = 0
    field = {"Model": "last_hidden_state", "Backbone": "feature_maps"}[head]
    compare(ours, theirs, {"pixel_values": noise(2, 3, 16, 16), "attention_mask": mask}, [field])


def test_a_backbone_computes_no_layer_that_nobody_asked_for(tmp_path):
    ours, theirs = pair(tmp_path, "Backbone", num_hidden_layers=3)
    seen = []
    for number, layer in enumerate(ours.network.layers):
        layer.register_forward_hook(lambda *_, number=number: seen.append(number))
    for model in (ours, theirs):
        model.out_features = ["stem", "stage1"]
    compare(ours, theirs, {"pixel_values": noise(2, 3, 16, 16)}, ["feature_maps"])
    assert seen == [0] and ours.out_indices == theirs.out_indices == [0, 1]
    assert (ours.channels, ours.strides) == ([32, 32], [4, 4])
    assert (ours.stage_names, ours.out_features) == (theirs.stage_names, theirs.out_features)


def test_a_backbone_from_the_model_s_checkpoint(tmp_path):
    _, theirs = pair(tmp_path)
    ours = omniform.AutoBackbone.from_pretrained(tmp_path, out_features=["stage1", "stage2"])
    other = transformers.Dinov2Backbone.from_pretrained(tmp_path, out_features=["stage1", "stage2"]).eval()
    compare(ours, other, {"pixel_values": noise(2, 3, 21, 33)}, ["feature_maps"])
    back = omniform.AutoModel.from_pretrained(tmp_path)
    compare(back, theirs, {"pixel_values": noise(2, 3, 21, 33)}, ["last_hidden_state"])


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"pixel_values": torch.zeros(1, 1, 16, 16)}, "batch, 3"),
        ({"pixel_values": torch.zeros(2, 3, 3, 16)}, "smaller than a patch"),
        ({"bool_masked_pos": torch.ones(2, 15, dtype=torch.bool)}, "bool_masked_pos"),
        ({"bool_masked_pos": torch.ones(2, 16, dtype=torch.bool)}, "no mask token"),
    ],
)
def test_bad_inputs(tmp_path, inputs, words):
    ours, _ = pair(tmp_path, use_mask_token="no mask" not in words)
    with pytest.raises(InputError, match=words):
        ours(**{"pixel_values": noise(2, 3, 16, 16), **inputs})


@pytest.mark.parametrize(
    "change", [{"out_features": ["stage9"]}, {"out_indices": [2, 1]}, {"drop_path_rate": 2.0}, {"mlp_ratio": "wide"}]
)
def test_bad_configs(change):
    with pytest.raises(ConfigError):
        omniform.AutoConfig.for_model("dinov2", **{**TINY, **change})


def test_from_scratch():
    model = omniform.Dinov2Model(omniform.Dinov2Config(**TINY, layerscale_value=0.25))
    assert (model.layers[0].layer_scale1.lambda1 == 0.25).all() and not model.mask_token.weight.any()
