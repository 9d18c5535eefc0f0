"""Conditional DETR against the reference."""

from __future__ import annotations

import pytest
import torch
from askers import Given, Question
from harness import Head, Parity, Table, filled
from test_detr import DETECTIONS, LOSSES, RESNET, STATES, objects, pictures

from omniform.core.errors import ConfigError
from omniform.core.outputs import BaseModelOutput
from omniform.hub.load import table_of
from omniform.models import registry
from reference import close, compare, omniform, saved_reference, transformers

TINY = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 8, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 40, "decoder_ffn_dim": 48, "num_queries": 6, "num_labels": 7, "dropout": 0.0,
}  # fmt: skip

VARIANTS = {
    "plain": {},
    "learned positions": {"position_embedding_type": "learned", "activation_function": "gelu"},
    "losses on every layer": {"auxiliary_loss": True},
    "one layer": {"encoder_layers": 1, "decoder_layers": 1, "auxiliary_loss": True, "decoder_attention_heads": 2},
}


def config(backbone: dict[str, object] | None = None, **changes: object):
    resnet = transformers.ResNetConfig(**{**RESNET, **(backbone or {})})
    made = {**TINY, **changes}
    return transformers.ConditionalDetrConfig(use_timm_backbone=False, backbone_config=resnet, **made)


def pair(tmp_path, head: str = "ForObjectDetection", made=None, scale: float = 0.2, **changes: object):
    made = config(**changes) if made is None else made
    theirs = saved_reference(getattr(transformers, f"ConditionalDetr{head}"), made, tmp_path / "model", scale=scale)
    return getattr(omniform, f"ConditionalDetr{head}").from_pretrained(tmp_path / "model"), theirs


def seen(*fields: str):
    def questions(config: object) -> list[Question]:
        inputs = pictures((70, 90), (64, 41), (33, 90))
        asked = [Question(inputs, fields), Question({"pixel_values": inputs["pixel_values"]}, fields)]
        if "logits" in fields:
            asked.append(Question({**inputs, "labels": objects(2, 1, 0, size=(70, 90))}, ("loss",)))
        return asked

    return questions


def lesson(config: object) -> dict[str, object]:
    return {**pictures((70, 90), (64, 41)), "labels": objects(2, 3, size=(70, 90))}


def renamed(key: str) -> str:
    """As the reference's modules are called."""
    for old, new in (("sa", "self_attn"), ("ca", "encoder_attn")):
        for kind in ("qcontent", "qpos", "kcontent", "kpos"):
            key = key.replace(f".{old}_{kind}", f".{new}.{kind[0]}_{kind[1:]}")
        key = key.replace(f".{old}_v_proj", f".{new}.v_proj")
    return key.replace("backbone.conv_encoder", "backbone").replace("out_proj", "o_proj").replace(".fc", ".mlp.fc")


class TestConditionalDetr(Parity):
    table = Table(
        model_type="conditional_detr",
        config=config,
        config_class=transformers.ConditionalDetrConfig,
        tiny={},
        heads={
            "Model": Head("ConditionalDetrModel", "AutoModel", Given(seen(*STATES, "reference_points"))),
            "ForObjectDetection": Head(
                "ConditionalDetrForObjectDetection", "AutoModelForObjectDetection", Given(seen(*DETECTIONS), lesson),
                everywhere=True,
            ),
            "ForSegmentation": Head(
                "ConditionalDetrForSegmentation", "AutoModelForImageSegmentation",
                Given(seen("pred_masks", *DETECTIONS), lesson),
            ),
        },
        variants=VARIANTS,
        derived=frozenset({"backbone_config"}),
        spellings={"as in memory": renamed},
    )  # fmt: skip


COUNTS = ((2, 1), (0, 4), (0, 0), (9, 3))
WEIGHTS = {**LOSSES["weights"], "focal_alpha": 0.6, "cls_loss_coefficient": 5}


@pytest.mark.parametrize("head", ["ForObjectDetection", "ForSegmentation"])
@pytest.mark.parametrize(("changes", "counts"), [*((WEIGHTS, c) for c in COUNTS), ({}, (2, 1))])
def test_losses(tmp_path, head, changes, counts):
    changes = {k: v for k, v in changes.items() if k != "eos_coefficient"}
    ours, theirs = pair(tmp_path, head, **changes)
    inputs = {**pictures((70, 90), (64, 41)), "labels": objects(*counts, size=(70, 90))}
    expected, found = theirs(**inputs), ours(**inputs)
    close(found.loss, expected.loss, "loss")
    assert list(found.loss_dict) == list(expected.loss_dict) and filled(found) == filled(expected)
    for name, value in expected.loss_dict.items():
        close(found.loss_dict[name], value, name)
    for mine, other in zip(found.auxiliary_outputs or [], expected.auxiliary_outputs or [], strict=True):
        close(mine["logits"], other["logits"], "auxiliary logits")
        close(mine["pred_boxes"], other["pred_boxes"], "auxiliary boxes")


@pytest.mark.parametrize("deep", [False, True])
def test_gradients(tmp_path, deep):
    ours, theirs = pair(
        tmp_path, scale=0.05, auxiliary_loss=deep, attention_dropout=0.2, activation_dropout=0.1, dropout=0.1
    )
    inputs = lesson(None)
    for model in (ours, theirs):
        model.set_attn_implementation("eager")
        torch.manual_seed(3)
        model.train().requires_grad_(True)(**inputs).loss.backward()
    table, expected, keys = table_of(ours), dict(theirs.named_parameters()), ours.key_map()
    for path, parameter in ours.named_parameters():
        wanted = expected[keys.module(table.key(path))].grad
        scale = wanted.abs().max().clamp(min=1e-3)
        close(parameter.grad / scale, wanted / scale, path, 2e-3)


@pytest.mark.parametrize("backbone", [{}, {"dilation": True}, {"use_timm_backbone": False}])
def test_backbones_of_old_configs(tmp_path, backbone):
    made = (
        transformers.ConditionalDetrConfig(**{**TINY, "backbone": "resnet18", **backbone})
        if backbone.get("use_timm_backbone", True)
        else config({"out_features": ["stage4"]})
    )
    ours, theirs = pair(tmp_path, made=made, scale=0.02)
    compare(ours, theirs, pictures((65, 97), (70, 40)), ["logits", "pred_boxes"])


def test_encoder_outputs_and_queries_given(tmp_path):
    inputs, memory = pictures((70, 90), (64, 41)), torch.randn(2, 9, 32)
    ours, theirs = pair(tmp_path)
    with torch.no_grad():
        expected = theirs(**inputs, encoder_outputs=transformers.modeling_outputs.BaseModelOutput(memory))
        close(ours(**inputs, encoder_outputs=BaseModelOutput(memory)).logits, expected.logits)
    ours, theirs = pair(tmp_path / "outlines", "ForSegmentation")
    compare(ours, theirs, {**inputs, "decoder_inputs_embeds": torch.randn(2, 6, 32)}, ["logits", "pred_masks"])


@pytest.mark.parametrize(
    ("changes", "error"),
    [({"d_model": 30}, "d_model"), ({"decoder_attention_heads": 5}, "decoder_attention_heads")],
)
def test_configs_refused(changes, error):
    with pytest.raises(ConfigError, match=error):
        registry.config_of({**config().to_dict(), **changes})
