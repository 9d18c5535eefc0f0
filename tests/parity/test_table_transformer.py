"""Table Transformer against the reference."""

from __future__ import annotations

import pytest
import torch
from askers import Given, Question
from harness import Head, Parity, Table, filled
from test_detr import DETECTIONS, LOSSES, RESNET, STATES, objects, pictures

from omniform.core.outputs import BaseModelOutput
from omniform.hub.load import table_of
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
    return transformers.TableTransformerConfig(use_timm_backbone=False, backbone_config=resnet, **made)


def pair(tmp_path, head: str = "ForObjectDetection", made=None, scale: float = 0.2, **changes: object):
    made = config(**changes) if made is None else made
    theirs = saved_reference(getattr(transformers, f"TableTransformer{head}"), made, tmp_path / "model", scale=scale)
    return getattr(omniform, f"TableTransformer{head}").from_pretrained(tmp_path / "model"), theirs


def seen(*fields: str):
    def questions(config: object) -> list[Question]:
        inputs = pictures((70, 90), (64, 41), (33, 90))
        asked = [Question(inputs, fields), Question({"pixel_values": inputs["pixel_values"]}, fields)]
        if "logits" in fields:
            asked.append(Question({**inputs, "labels": objects(2, 1, 0)}, ("loss",)))
        return asked

    return questions


def lesson(config: object) -> dict[str, object]:
    return {**pictures((70, 90), (64, 41)), "labels": objects(2, 3)}


class TestTableTransformer(Parity):
    table = Table(
        model_type="table-transformer",
        config=config,
        config_class=transformers.TableTransformerConfig,
        tiny={},
        heads={
            "Model": Head("TableTransformerModel", "AutoModel", Given(seen(*STATES))),
            "ForObjectDetection": Head(
                "TableTransformerForObjectDetection", "AutoModelForObjectDetection", Given(seen(*DETECTIONS), lesson),
                everywhere=True,
            ),
        },
        variants=VARIANTS,
        derived=frozenset({"backbone_config"}),
        half=5e-2,
    )  # fmt: skip


@pytest.mark.parametrize("counts", [(2, 1), (0, 0), (9, 3)])
def test_losses(tmp_path, counts):
    ours, theirs = pair(tmp_path, **LOSSES["weights"])
    inputs = {**pictures((70, 90), (64, 41)), "labels": objects(*counts)}
    expected, found = theirs(**inputs), ours(**inputs)
    close(found.loss, expected.loss, "loss")
    assert list(found.loss_dict) == list(expected.loss_dict) and filled(found) == filled(expected)
    for name, value in expected.loss_dict.items():
        close(found.loss_dict[name], value, name)


@pytest.mark.parametrize(
    "changes", [{}, {"auxiliary_loss": True}, {"encoder_layerdrop": 0.5, "decoder_layerdrop": 0.4}]
)
def test_gradients(tmp_path, changes):
    """With the same random numbers; layers are left out where the config says so."""
    ours, theirs = pair(tmp_path, **changes)
    ours.set_attn_implementation("eager")
    inputs = lesson(None)
    for model in (ours, theirs):
        torch.manual_seed(5)
        model.train().requires_grad_(True)(**inputs).loss.backward()
    table, expected, keys = table_of(ours), dict(theirs.named_parameters()), ours.key_map()
    for path, parameter in ours.named_parameters():
        wanted = expected[keys.module(table.key(path))].grad
        if wanted is None:
            assert parameter.grad is None, path
            continue
        scale = wanted.abs().max().clamp(min=1e-3)
        close(parameter.grad / scale, wanted / scale, path, 2e-3)


def test_backbones_of_old_configs(tmp_path):
    made = transformers.TableTransformerConfig(**TINY, backbone="resnet18")
    ours, theirs = pair(tmp_path, made=made, scale=0.02)
    compare(ours, theirs, pictures((65, 97), (70, 40)), ["logits", "pred_boxes"])


def test_encoder_outputs_given(tmp_path):
    inputs, memory = pictures((70, 90), (64, 41)), torch.randn(2, 9, 32)
    ours, theirs = pair(tmp_path)
    with torch.no_grad():
        expected = theirs(**inputs, encoder_outputs=transformers.modeling_outputs.BaseModelOutput(memory))
        close(ours(**inputs, encoder_outputs=BaseModelOutput(memory)).logits, expected.logits)
