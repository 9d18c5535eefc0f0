"""Deformable DETR against the reference."""

from __future__ import annotations

import re

import pytest
import torch
from askers import Given, Question
from harness import Case, Head, Parity, Table, build, filled, over
from safetensors.torch import load_file, save_file

from omniform.core.errors import ConfigError, InputError
from omniform.core.outputs import BaseModelOutput
from omniform.hub.load import table_of
from omniform.models import registry
from reference import close, compare, omniform, saved_reference, transformers

RESNET = {
    "embedding_size": 8, "hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 1, 1], "layer_type": "basic",
    "out_features": ["stage2", "stage3", "stage4"],
}  # fmt: skip

TINY = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 20, "decoder_ffn_dim": 24, "num_queries": 5, "num_labels": 7, "encoder_n_points": 2,
    "decoder_n_points": 3, "dropout": 0.0,
}  # fmt: skip

REFINED = {"with_box_refine": True}
TWO_STAGE = {**REFINED, "two_stage": True, "two_stage_num_proposals": 4}

VARIANTS = {
    "plain": {},
    "learned positions": {"position_embedding_type": "learned", "activation_function": "gelu"},
    "refined": {**REFINED, "auxiliary_loss": True, "decoder_layers": 3},
    "two stages": {**TWO_STAGE, "auxiliary_loss": True, "focal_alpha": 0.6},
    "heads apart": {"tie_word_embeddings": False},
    "refined, heads apart": {**REFINED, "tie_word_embeddings": False},
    "two stages, heads apart": {**TWO_STAGE, "tie_word_embeddings": False},
    "three levels": {"num_feature_levels": 3},
    "five levels": {"num_feature_levels": 5},
    "one level": {"num_feature_levels": 1},
}

STATES = [
    "last_hidden_state", "intermediate_hidden_states", "intermediate_reference_points", "decoder_hidden_states",
    "decoder_attentions", "cross_attentions", "encoder_last_hidden_state", "encoder_hidden_states",
    "encoder_attentions", "init_reference_points",
]  # fmt: skip
DETECTIONS = ["logits", "pred_boxes", *STATES]


def config(backbone: dict[str, object] | None = None, **changes: object):
    features = {"out_features": ["stage4"]} if changes.get("num_feature_levels") == 1 else {}
    resnet = transformers.ResNetConfig(**{**RESNET, **features, **(backbone or {})})
    made = {**TINY, **changes}
    return transformers.DeformableDetrConfig(use_timm_backbone=False, backbone_config=resnet, **made)


def pair(tmp_path, head: str = "ForObjectDetection", scale: float = 0.2, made=None, **changes: object):
    made = config(**changes) if made is None else made
    theirs = saved_reference(getattr(transformers, f"DeformableDetr{head}"), made, tmp_path / "model", scale=scale)
    auto = omniform.AutoModel if head == "Model" else omniform.AutoModelForObjectDetection
    return auto.from_pretrained(tmp_path / "model"), theirs


def pictures(*sizes: tuple[int, int], seed: int = 0) -> dict[str, torch.Tensor]:
    """Pictures of several sizes, padded at the right and the bottom, with their mask."""
    generator = torch.Generator().manual_seed(seed)
    height, width = max(s[0] for s in sizes), max(s[1] for s in sizes)
    values, mask = torch.zeros(len(sizes), 3, height, width), torch.zeros(len(sizes), height, width, dtype=torch.long)
    for i, (h, w) in enumerate(sizes):
        values[i, :, :h, :w] = torch.randn(3, h, w, generator=generator)
        mask[i, :h, :w] = 1
    return {"pixel_values": values, "pixel_mask": mask}


def objects(*counts: int, seed: int = 1) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "class_labels": torch.randint(0, 7, (n,), generator=generator),
            "boxes": torch.rand(n, 4, generator=generator) * 0.4 + 0.1,
        }
        for n in counts
    ]


def seen(*fields: str):
    def questions(config: object) -> list[Question]:
        names = (*fields, "enc_outputs_class") if config.two_stage and "logits" in fields else fields
        inputs = pictures((70, 90), (64, 41))
        asked = [Question(inputs, names), Question({"pixel_values": inputs["pixel_values"]}, names)]
        if "logits" in fields:
            asked.append(Question({**inputs, "labels": objects(2, 1)}, ("loss",)))
        return asked

    return questions


def lesson(config: object) -> dict[str, object]:
    return {**pictures((70, 90), (64, 41)), "labels": objects(2, 3)}


class TestDeformableDetr(Parity):
    table = Table(
        model_type="deformable_detr",
        config=config,
        config_class=transformers.DeformableDetrConfig,
        tiny={},
        heads={
            "Model": Head("DeformableDetrModel", "AutoModel", Given(seen(*STATES))),
            "ForObjectDetection": Head(
                "DeformableDetrForObjectDetection", "AutoModelForObjectDetection", Given(seen(*DETECTIONS), lesson),
                everywhere=True,
            ),
        },
        variants=VARIANTS,
        derived=frozenset({"backbone_config"}),
        spellings={"as in memory": lambda key: renamed(key)},
    )  # fmt: skip

    @over(Table.beyond_base)
    def test_base_and_head_load_one_another(self, case: Case, tmp_path) -> None:
        """A head's base moves no boxes once it is alone."""
        first = self.table.case("Model")
        base, head = build(first), build(case)
        _, report = case.architecture.load(base.folder, output_loading_info=True)
        assert not report.unexpected and all("_embed." in name for name in report.fresh), report
        alone, report = first.architecture.load(head.folder, output_loading_info=True)
        assert not report.unexpected and not report.fresh
        theirs = transformers.DeformableDetrModel.from_pretrained(head.folder).eval()
        compare(alone, theirs, pictures((70, 90), (64, 41)), ["last_hidden_state", "intermediate_reference_points"])


def renamed(key: str) -> str:
    key = key.replace("backbone.conv_encoder", "backbone").replace("out_proj", "o_proj")
    return key.replace(".fc", ".mlp.fc")


@pytest.mark.parametrize("variant", ["plain", "refined", "two stages"])
def test_heads_written_for_every_layer(tmp_path, variant):
    """As files of earlier releases hold them: under both names, once for every layer."""
    _, theirs = pair(tmp_path, **VARIANTS[variant])
    path = tmp_path / "model" / "model.safetensors"
    held = load_file(path)
    for name, tensor in theirs.state_dict().items():
        if re.search(r"(^|decoder\.)(class|bbox)_embed\.", name):
            held[name] = tensor.clone()
    save_file(held, path)
    again, report = omniform.AutoModelForObjectDetection.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not report.unexpected and not report.fresh
    compare(again, theirs, pictures((70, 90), (64, 41)), ["logits", "pred_boxes"])


COUNTS = ((2, 1), (0, 4), (0, 0), (9, 3))
WEIGHTS = {
    "class_cost": 3, "bbox_cost": 2, "giou_cost": 4, "bbox_loss_coefficient": 3, "giou_loss_coefficient": 7,
    "eos_coefficient": 0.4, "focal_alpha": -1.0, "auxiliary_loss": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "counts"),
    [*(({"auxiliary_loss": True, **REFINED}, c) for c in COUNTS), (WEIGHTS, (2, 1)), ({}, (2, 1))],
)
def test_losses(tmp_path, changes, counts):
    ours, theirs = pair(tmp_path, **changes)
    inputs = {**pictures((70, 90), (64, 41)), "labels": objects(*counts)}
    expected, found = theirs(**inputs), ours(**inputs)
    close(found.loss, expected.loss, "loss")
    assert list(found.loss_dict) == list(expected.loss_dict)
    for name, value in expected.loss_dict.items():
        close(found.loss_dict[name], value, name)
    assert filled(found) == filled(expected)
    for mine, other in zip(found.auxiliary_outputs or [], expected.auxiliary_outputs or [], strict=True):
        close(mine["logits"], other["logits"], "auxiliary logits")
        close(mine["pred_boxes"], other["pred_boxes"], "auxiliary boxes")
    count = ours.loss_items(inputs)
    assert count == sum(counts)
    close(ours(**inputs, num_items_in_batch=2 * max(1, count)).loss, found.loss / 2)


@pytest.mark.parametrize("changes", [WEIGHTS, {**TWO_STAGE, "auxiliary_loss": True}])
def test_gradients(tmp_path, changes):
    ours, theirs = pair(tmp_path, scale=0.05, **{**changes, "dropout": 0.2, "activation_dropout": 0.1})
    inputs = {**pictures((70, 90), (64, 41)), "labels": objects(2, 3)}
    for model in (ours, theirs):
        model.set_attn_implementation("eager")
        torch.manual_seed(3)
        model.train().requires_grad_(True)(**inputs).loss.backward()
    table, expected = table_of(ours), dict(theirs.named_parameters(remove_duplicate=False))
    keys = ours.key_map()
    for path, parameter in ours.named_parameters():
        wanted = expected[keys.module(table.key(path))].grad
        if wanted is None:  # what proposes is not matched
            assert parameter.grad is None
            continue
        scale = wanted.abs().max().clamp(min=1e-3)
        close(parameter.grad / scale, wanted / scale, path, 2e-3)


TIMM = {
    "usual": {},
    "one level": {"num_feature_levels": 1},
    "dilated": {"dilation": True},
    "of the hub": {"use_timm_backbone": False, "num_feature_levels": 1},
}


@pytest.mark.parametrize("variant", TIMM)
def test_backbones_of_old_configs(tmp_path, variant):
    changes = {"use_timm_backbone": True, "backbone": "resnet18", **TIMM[variant]}
    if variant == "of the hub":
        changes["backbone_config"] = transformers.ResNetConfig(**{**RESNET, "out_features": ["stage4"]})
    ours, theirs = pair(tmp_path, made=transformers.DeformableDetrConfig(**{**TINY, **changes}), scale=0.02)
    compare(ours, theirs, pictures((65, 97), (70, 40)), ["logits", "pred_boxes"])


def test_encoder_outputs_given(tmp_path):
    ours, theirs = pair(tmp_path)
    inputs = pictures((70, 90), (64, 41))
    with torch.no_grad():
        memory = torch.randn_like(theirs(**inputs).encoder_last_hidden_state)
        expected = theirs(**inputs, encoder_outputs=transformers.modeling_outputs.BaseModelOutput(memory))
        found = ours(**inputs, encoder_outputs=BaseModelOutput(memory))
    close(found.logits, expected.logits)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"d_model": 40}, "d_model"),
        ({"two_stage": True}, "with_box_refine"),
        ({"encoder_attention_heads": 5}, "encoder_attention_heads"),
        ({"position_embedding_type": "rotary"}, "position_embedding_type"),
    ],
)
def test_configs_refused(changes, error):
    with pytest.raises(ConfigError, match=error):
        registry.config_of({**config().to_dict(), **changes})


def test_models_refused():
    with pytest.raises(ConfigError, match="two_stage"):
        omniform.AutoModel.from_config(registry.config_of(config(**TWO_STAGE).to_dict()))
    with pytest.raises(ConfigError, match="num_feature_levels"):
        omniform.AutoModel.from_config(registry.config_of(config(num_feature_levels=2).to_dict()))


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"pixel_values": torch.randn(2, 1, 70, 90)}, "pixel_values"),
        ({"pixel_values": torch.randn(2, 3, 5, 5), "pixel_mask": None}, "too small"),
        ({"pixel_mask": torch.ones(2, 64, 90)}, "pixel_mask"),
        ({"labels": objects(1)}, "labels"),
        ({"labels": [{"boxes": torch.rand(1, 4), "class_labels": torch.tensor([7])}] * 2}, "0 to 6"),
    ],
)
def test_inputs_refused(tmp_path, change, where):
    ours, _ = pair(tmp_path, **{**TWO_STAGE, "two_stage_num_proposals": 6})
    with pytest.raises(InputError, match=where):
        ours(**{**pictures((70, 90), (64, 41)), **change})
