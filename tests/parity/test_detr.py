"""DETR against the reference, with the Hub's ResNet as its backbone and with timm's."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from askers import Given, Question
from harness import Head, Parity, Table, compiled
from PIL import Image
from safetensors.torch import load_file, save_file

from omniform.architectures.segmenter import MASK_HEAD_KEYS
from omniform.core.errors import ConfigError, DependencyError, InputError
from omniform.core.outputs import BaseModelOutput
from omniform.hub.load import table_of
from omniform.inputs.images.kinds import image_processor
from omniform.models import registry
from reference import (
    check_round_trip,
    close,
    compare,
    omniform,
    saved_reference,
    transformers,
)

TINY = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 8, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 40, "decoder_ffn_dim": 48, "num_queries": 6, "num_labels": 7,
}  # fmt: skip

RESNET = {
    "embedding_size": 8, "hidden_sizes": [16, 20, 24, 28], "depths": [1, 2, 1, 1], "layer_type": "basic",
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}  # fmt: skip

BACKBONES = {
    "basic": {},
    "bottleneck": {"layer_type": "bottleneck"},
    "stride in the first convolution": {"layer_type": "bottleneck", "downsample_in_bottleneck": True},
    "stride in the first stage": {"downsample_in_first_stage": True},
    "gelu": {"hidden_act": "gelu", "layer_type": "bottleneck"},
    "coarsest map alone": {"out_features": ["stage4"]},
    "indices": {"out_features": None, "out_indices": [0, 2, -2]},
    "two stages": {"hidden_sizes": [16, 24], "depths": [1, 1], "out_features": None},
}

VARIANTS = {
    "plain": {},
    "learned positions": {"position_embedding_type": "learned", "d_model": 30, "encoder_attention_heads": 3,
        "decoder_attention_heads": 2},
    "gelu": {"activation_function": "gelu"},
    "losses on every layer": {"auxiliary_loss": True},
    "one layer": {"encoder_layers": 1, "decoder_layers": 1, "auxiliary_loss": True},
    "wide": {"d_model": 64, "decoder_attention_heads": 2, "num_queries": 2},
}  # fmt: skip

STATES = [
    "last_hidden_state", "decoder_hidden_states", "decoder_attentions", "cross_attentions",
    "encoder_last_hidden_state", "encoder_hidden_states", "encoder_attentions",
]  # fmt: skip
DETECTIONS = ["logits", "pred_boxes", *STATES]


def config(backbone: dict[str, object] | None = None, **changes: object):
    resnet = transformers.ResNetConfig(**{**RESNET, **(backbone or {})})
    return transformers.DetrConfig(use_timm_backbone=False, backbone_config=resnet, **{**TINY, **changes})


def pair(tmp_path: Path, head: str = "ForObjectDetection", made=None, scale: float = 0.2, **changes: object):
    made = config(**changes) if made is None else made
    theirs = saved_reference(getattr(transformers, f"Detr{head}"), made, tmp_path / "model", scale=scale)
    autos = {"Model": "AutoModel", "ForSegmentation": "AutoModelForImageSegmentation"}
    auto = getattr(omniform, autos.get(head, f"AutoModel{head}"))
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


def objects(*counts: int, size: tuple[int, int] | None = None, seed: int = 1) -> list[dict[str, torch.Tensor]]:
    """Labels with so many objects per picture."""
    generator = torch.Generator().manual_seed(seed)
    labels = []
    for n in counts:
        boxes = torch.rand(n, 4, generator=generator) * 0.4 + 0.1
        label = {"class_labels": torch.randint(0, 7, (n,), generator=generator), "boxes": boxes}
        if size is not None:
            label["masks"] = torch.rand(n, *size, generator=generator) > 0.6
        labels.append(label)
    return labels


@pytest.mark.parametrize("backbone", BACKBONES)
def test_hub_backbones(tmp_path, backbone):
    ours, theirs = pair(tmp_path, backbone=BACKBONES[backbone])
    compare(ours, theirs, pictures((65, 97), (96, 40)), ["logits", "pred_boxes", "encoder_last_hidden_state"])
    compare(ours, theirs, pictures((1, 2)), ["logits"])
    check_round_trip(tmp_path / "model", ours, tmp_path / "again")


TIMM = {
    "resnet18": {"backbone": "resnet18"},
    "resnet50": {"backbone": "resnet50"},
    "dilated": {"backbone": "resnet18", "dilation": True},
    "in its own config": {
        "backbone_config": {
            "model_type": "timm_backbone", "backbone": "resnet18.a1_in1k", "out_indices": [0, 1, 3], "num_channels": 1,
        }
    },
    "coarsest map by default, dilated twice": {
        "backbone_config": {"model_type": "timm_backbone", "backbone": "resnet18", "output_stride": 8}
    },
}  # fmt: skip


@pytest.mark.parametrize("backbone", TIMM)
def test_timm_backbones(tmp_path, backbone):
    made = transformers.DetrConfig(**{**TINY, **TIMM[backbone]})
    ours, theirs = pair(tmp_path, made=made, scale=0.02)
    assert not ours.config.unknown
    inputs = pictures((65, 97), (70, 40))
    inputs["pixel_values"] = inputs["pixel_values"][:, : made.backbone_config.num_channels]
    compare(ours, theirs, inputs, ["logits", "pred_boxes", "encoder_hidden_states"])
    check_round_trip(tmp_path / "model", ours, tmp_path / "again")


LOSSES = {
    "plain": {},
    "losses on every layer": {"auxiliary_loss": True},
    "weights": {
        "class_cost": 3, "bbox_cost": 2, "giou_cost": 4, "bbox_loss_coefficient": 3, "giou_loss_coefficient": 7,
        "eos_coefficient": 0.4, "mask_loss_coefficient": 2, "dice_loss_coefficient": 3, "auxiliary_loss": True,
    },
}  # fmt: skip


@pytest.mark.parametrize("counts", [(2, 1), (0, 4), (0, 0), (9, 3)])
@pytest.mark.parametrize("variant", LOSSES)
@pytest.mark.parametrize("head", ["ForObjectDetection", "ForSegmentation"])
def test_losses(tmp_path, head, variant, counts):
    ours, theirs = pair(tmp_path, head, **LOSSES[variant])
    inputs = {**pictures((70, 90), (64, 41)), "labels": objects(*counts, size=(70, 90))}
    expected, found = theirs(**inputs), ours(**inputs)
    close(found.loss, expected.loss, "loss")
    assert list(found.loss_dict) == list(expected.loss_dict)
    for name, value in expected.loss_dict.items():
        close(found.loss_dict[name], value, name)
    assert found.keys() == list(expected.keys())
    for mine, other in zip(found.auxiliary_outputs or [], expected.auxiliary_outputs or [], strict=True):
        close(mine["logits"], other["logits"], "auxiliary logits")
        close(mine["pred_boxes"], other["pred_boxes"], "auxiliary boxes")


SEGMENTERS = {
    "plain": {},
    "gelu, learned positions": {"activation_function": "gelu", "position_embedding_type": "learned"},
    "losses on every layer": {"auxiliary_loss": True, "d_model": 64, "decoder_attention_heads": 2},
    "three maps": {"backbone": {"out_features": ["stage1", "stage2", "stage4"]}},
    "five maps": {"backbone": {"out_features": ["stem", "stage1", "stage2", "stage3", "stage4"]}},
}


@pytest.mark.parametrize("head", ["ForObjectDetection", "ForSegmentation"])
def test_gradients(tmp_path, head):
    ours, theirs = pair(tmp_path, head, scale=0.02, **LOSSES["weights"])
    theirs.requires_grad_(True)  # a model that the reference has just made has a frozen backbone; one it loaded has not
    inputs = {**pictures((70, 90), (64, 41)), "labels": objects(2, 3, size=(70, 90))}
    ours(**inputs).loss.backward()
    theirs(**inputs).loss.backward()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(parameter.grad)
    # Saved in the place of the parameters, they can be told apart by the checkpoint's names.
    theirs.save_pretrained(tmp_path / "gradients")
    expected = load_file(tmp_path / "gradients" / "model.safetensors")
    table = table_of(ours)
    for path, parameter in ours.named_parameters():
        wanted = expected[table.key(path)]
        largest = wanted.abs().max().clamp(min=1e-3)
        close(parameter.grad / largest, wanted / largest, path, 1e-3)


@pytest.mark.parametrize("head", ["ForObjectDetection", "ForSegmentation"])
def test_dropout(tmp_path, head):
    ours, theirs = pair(tmp_path, head, scale=0.05, dropout=0.3, attention_dropout=0.2, activation_dropout=0.25)
    ours.set_attn_implementation("eager")
    theirs.set_attn_implementation("eager")
    logits = []
    for model in (ours, theirs):
        torch.manual_seed(3)
        logits.append(model.train()(**pictures((70, 90), (64, 41))).logits)
    close(*logits)


def seen(*fields: str):
    """Pictures of several sizes, with their mask and without, and with objects to find."""

    def questions(config: object) -> list[Question]:
        inputs = pictures((70, 90), (64, 41), (33, 90))
        asked = [Question(inputs, fields), Question({"pixel_values": inputs["pixel_values"]}, fields)]
        if "logits" in fields:
            asked.append(Question({**inputs, "labels": objects(2, 1, 0, size=(70, 90))}, ("loss",)))
        return asked

    return questions


def lesson(config: object) -> dict[str, object]:
    return {**pictures((70, 90), (64, 41)), "labels": objects(2, 3, size=(70, 90))}


class TestDetr(Parity):
    table = Table(
        model_type="detr",
        config=lambda **changes: config(**{"dropout": 0.0, **changes}),
        config_class=transformers.DetrConfig,
        tiny={},
        heads={
            "Model": Head("DetrModel", "AutoModel", Given(seen(*STATES))),
            "ForObjectDetection": Head(
                "DetrForObjectDetection", "AutoModelForObjectDetection", Given(seen(*DETECTIONS), lesson),
                everywhere=True, but=("five maps", "three maps"),
            ),
            "ForSegmentation": Head(
                "DetrForSegmentation", "AutoModelForImageSegmentation", Given(seen("pred_masks", *DETECTIONS), lesson),
                everywhere=True, but=("learned positions", "one layer", "wide", "gelu"),
            ),
        },
        variants={**VARIANTS, **SEGMENTERS},
        derived=frozenset({"backbone_config"}),
        spellings={"compiled": compiled},
    )  # fmt: skip


INPUTS = {
    "queries hidden": {"decoder_attention_mask": torch.tensor([[1, 1, 0, 1, 1, 1], [1, 0, 0, 0, 1, 1]])},
    "queries given": {"decoder_inputs_embeds": torch.randn(2, 6, 32)},
}


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("given", INPUTS)
def test_inputs_of_the_decoder(tmp_path, given, implementation):
    for head, field in (("ForObjectDetection", "logits"), ("ForSegmentation", "pred_masks")):
        ours, theirs = pair(tmp_path / head, head)
        ours.set_attn_implementation(implementation)
        compare(ours, theirs, {**pictures((70, 90), (64, 41)), **INPUTS[given]}, [field, "last_hidden_state"])


@pytest.mark.parametrize("variant", ["plain", "learned positions"])
def test_maps_made_elsewhere(tmp_path, variant):
    ours, theirs = pair(tmp_path, "Model", **VARIANTS[variant])
    embeds = torch.randn(2, 9, theirs.config.d_model)
    compare(ours, theirs, {"inputs_embeds": embeds}, STATES)
    compare(ours, theirs, {"inputs_embeds": embeds, "pixel_mask": pictures((70, 90), (64, 41))["pixel_mask"]}, STATES)


def test_encoder_outputs_given(tmp_path):
    ours, theirs = pair(tmp_path)
    inputs = pictures((70, 90), (64, 41))
    memory = torch.randn(2, 9, 32)
    with torch.no_grad():
        expected = theirs(**inputs, encoder_outputs=transformers.modeling_outputs.BaseModelOutput(memory))
        found = ours(**inputs, encoder_outputs=BaseModelOutput(memory))
    close(found.logits, expected.logits)
    close(found.encoder_last_hidden_state, memory)


def published(made, **old: object) -> dict[str, object]:
    """A config as the first releases wrote it: a name of timm's, and keys that are gone today."""
    raw = made.to_dict()
    del raw["backbone_config"]
    return {
        **raw, "backbone": "resnet18", "use_timm_backbone": True, "use_pretrained_backbone": True,
        "max_position_embeddings": 1024, "scale_embedding": False, "classifier_dropout": 0.0,
        "num_hidden_layers": made.encoder_layers, **old,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("made", "old"),
    [
        ({}, {}),
        ({}, {"backbone_config": None, "backbone_kwargs": {"in_chans": 3, "out_indices": [1, 2, 3, 4]}}),
        ({"dilation": True}, {}),
        ({"dilation": True}, {"backbone_kwargs": {"in_chans": 3, "out_indices": [1, 2, 3, 4], "output_stride": 16}}),
    ],
)
def test_published_configs(tmp_path, made, old, caplog):
    made = transformers.DetrConfig(**TINY, backbone="resnet18", **made)
    _, theirs = pair(tmp_path, made=made, scale=0.02)
    path = tmp_path / "model" / "config.json"
    raw = published(made, **old)
    path.write_text(json.dumps(raw))
    ours = omniform.AutoModelForObjectDetection.from_pretrained(tmp_path / "model")
    assert not ours.config.unknown
    compare(ours, theirs, pictures((65, 97), (70, 40)), ["logits"])
    ours.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["backbone"] == "resnet18"
    assert (
        load_file(path.with_name("model.safetensors")).keys()
        == load_file(tmp_path / "again" / "model.safetensors").keys()
    )


def test_defaults_left_out(tmp_path):
    made = transformers.DetrConfig(use_timm_backbone=False, d_model=32, encoder_layers=1, decoder_layers=1)
    _, theirs = pair(tmp_path, made=made, scale=0.02)
    bare = {
        "model_type": "detr", "architectures": ["DetrForObjectDetection"], "hidden_size": 32, "num_hidden_layers": 1,
        "decoder_layers": 1, "use_timm_backbone": False,
    }  # fmt: skip
    (tmp_path / "model" / "config.json").write_text(json.dumps(bare))
    ours = omniform.AutoModelForObjectDetection.from_pretrained(tmp_path / "model")
    compare(ours, theirs, pictures((65, 97), (70, 40)), ["logits"])


def counted(key: str) -> list[str]:
    return [key, key.replace("running_mean", "num_batches_tracked")] if key.endswith("running_mean") else [key]


def named_as_today(key: str) -> list[str]:
    for ours, theirs in MASK_HEAD_KEYS.items():
        key = key.replace(f"{theirs}.", f"{ours}.")
    return [key.replace("backbone.conv_encoder", "backbone").replace("out_proj", "o_proj").replace(".fc", ".mlp.fc")]


def positioned_in_the_backbone(key: str) -> list[str]:
    return [key.replace("model.position_embedding", "model.backbone.position_embedding")]


@pytest.mark.parametrize("head", ["ForObjectDetection", "ForSegmentation"])
@pytest.mark.parametrize("old", [counted, named_as_today, positioned_in_the_backbone])
def test_old_keys(tmp_path, old, head):
    _, theirs = pair(tmp_path, head, position_embedding_type="learned")
    path = tmp_path / "model" / "model.safetensors"
    held = {}
    for key, tensor in load_file(path).items():
        for name in old(key):
            held[name] = torch.tensor(3) if "tracked" in name else tensor
    assert held.keys() != load_file(path).keys()
    save_file(held, path)
    auto = (
        omniform.AutoModelForObjectDetection if head == "ForObjectDetection" else omniform.AutoModelForImageSegmentation
    )
    compare(auto.from_pretrained(tmp_path / "model"), theirs, pictures((70, 90)), ["logits", "pred_boxes"])


def test_heads_load_from_one_another(tmp_path, caplog):
    _, theirs = pair(tmp_path)
    inputs = pictures((70, 90), (64, 41))
    base = omniform.AutoModel.from_pretrained(tmp_path / "model")
    compare(base, theirs, inputs, ["last_hidden_state"])
    base.save_pretrained(tmp_path / "base")
    with caplog.at_level("WARNING", logger="omniform"):
        again = omniform.AutoModelForObjectDetection.from_pretrained(tmp_path / "base")
    assert "class_labels_classifier" in caplog.text and "backbone" not in caplog.text
    compare(again, theirs, inputs, ["last_hidden_state"])
    caplog.clear()
    with caplog.at_level("WARNING", logger="omniform"):
        outliner = omniform.AutoModelForImageSegmentation.from_pretrained(tmp_path / "base")
    assert "mask_head" in caplog.text and "backbone" not in caplog.text
    compare(outliner, theirs, inputs, ["last_hidden_state"])
    outliner = omniform.AutoModelForImageSegmentation.from_pretrained(tmp_path / "model")
    compare(outliner, theirs, inputs, ["logits", "pred_boxes"])
    _, segmenter = pair(tmp_path / "outlines", "ForSegmentation")
    whole = omniform.AutoModelForObjectDetection.from_pretrained(tmp_path / "outlines" / "model")
    compare(whole, segmenter, inputs, ["logits", "pred_boxes"])
    base = omniform.AutoModel.from_pretrained(tmp_path / "outlines" / "model")
    compare(base, segmenter, inputs, ["last_hidden_state"])


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"backbone": "swin_tiny", "backbone_config": None, "use_timm_backbone": True}, "swin_tiny"),
        ({"backbone_config": {"model_type": "bert"}}, "no backbone"),
        ({"backbone_config": {**RESNET, "model_type": "resnet", "out_features": ["stage9"]}}, "out_features"),
        ({"backbone_config": {**RESNET, "model_type": "resnet", "out_indices": [3, 2]}}, "out_indices"),
        ({"backbone_config": {**RESNET, "model_type": "resnet", "depths": [1, 2]}}, "depths"),
        ({"backbone_config": {**RESNET, "model_type": "resnet", "layer_type": "wide"}}, "layer_type"),
        (
            {"backbone_config": None, "use_timm_backbone": True, "backbone_kwargs": {"output_stride": 7}},
            "output_stride",
        ),
        ({"d_model": 30}, "d_model"),
        ({"encoder_attention_heads": 5}, "encoder_attention_heads"),
        ({"position_embedding_type": "rotary"}, "position_embedding_type"),
    ],
)
def test_configs_refused(changes, error):
    raw = {**config().to_dict(), **changes}
    with pytest.raises(ConfigError, match=error):
        omniform.AutoModelForObjectDetection.from_config(registry.config_of(raw))


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"pixel_values": torch.randn(2, 1, 70, 90)}, "pixel_values"),
        ({"pixel_values": torch.zeros(2, 3, 70, 90, dtype=torch.uint8)}, "pixel_values"),
        ({"pixel_mask": torch.ones(2, 64, 90)}, "pixel_mask"),
        ({"pixel_values": None}, "pixel_values"),
        ({"inputs_embeds": torch.randn(2, 8, 32)}, "inputs_embeds"),
        ({"decoder_attention_mask": torch.ones(2, 5)}, "attention_mask"),
        ({"labels": objects(1)}, "labels"),
        ({"labels": torch.ones(2, 5)}, "labels"),
        ({"labels": [{"boxes": [[0.1, 0.1, 0.1, 0.1]], "class_labels": torch.tensor([1])}] * 2}, "boxes"),
        ({"labels": [{"boxes": torch.rand(1, 4)}] * 2}, "class_labels"),
        ({"labels": [{"boxes": torch.rand(2, 4), "class_labels": torch.tensor([1])}] * 2}, "boxes"),
        ({"labels": [{"boxes": torch.rand(1, 4), "class_labels": torch.tensor([7])}] * 2}, "0 to 6"),
        ({"labels": [{"boxes": -torch.rand(1, 4), "class_labels": torch.tensor([6])}] * 2}, "negative"),
    ],
)
def test_inputs_refused(tmp_path, change, where):
    ours, _ = pair(tmp_path)
    with pytest.raises(InputError, match=where):
        ours(**{**pictures((70, 90), (64, 41)), **change})


def test_a_picture_too_large_for_learned_positions(tmp_path):
    ours, _ = pair(
        tmp_path, position_embedding_type="learned", backbone={"hidden_sizes": [8], "depths": [1], "out_features": None}
    )
    with pytest.raises(InputError, match="50"):
        ours(torch.randn(1, 3, 8, 51 * 4))


def test_segmentation_needs_masks_and_fine_maps(tmp_path):
    ours, _ = pair(tmp_path, "ForSegmentation")
    with pytest.raises(InputError, match="masks"):
        ours(**pictures((70, 90)), labels=objects(1))
    raw = config(backbone={"out_features": ["stage4"]}).to_dict()
    with pytest.raises(ConfigError, match="finer maps"):
        omniform.AutoModelForImageSegmentation.from_config(registry.config_of(raw))
    raw = config(encoder_attention_heads=4).to_dict()
    with pytest.raises(ConfigError, match="36"):
        omniform.AutoModelForImageSegmentation.from_config(registry.config_of(raw))


def test_losses_without_scipy(tmp_path, monkeypatch):
    ours, _ = pair(tmp_path)
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(DependencyError, match="omniform\\[train\\]"):
        ours(**pictures((70, 90)), labels=objects(1))


@pytest.mark.parametrize("head", ["ForObjectDetection", "ForSegmentation"])
def test_from_pictures_to_pixels(tmp_path, head):
    ours, theirs = pair(tmp_path, head)
    options = {"size": {"shortest_edge": 50, "longest_edge": 80}, "image_processor_type": "DetrImageProcessor"}
    processor = image_processor(options, where="preprocessor_config.json")
    drawn = [Image.effect_mandelbrot((w, h), (-2, -1, 1, 1), 20).convert("RGB") for w, h in ((90, 60), (40, 70))]
    found = {"bbox": [5, 5, 20, 25], "category_id": 3, "area": 500, "iscrowd": 0}
    notes = [{"image_id": i, "annotations": [{**found, "image_id": i}] * (i + 1)} for i in range(2)]
    batch = processor(drawn, notes, return_tensors="pt")
    for label in batch["labels"]:
        label["masks"] = torch.ones(len(label["boxes"]), *batch["pixel_values"].shape[2:], dtype=torch.uint8)
    expected, out = theirs(**batch), ours(**batch)
    close(out.loss, expected.loss)
    sizes = [(60, 90), (70, 40)]
    close(
        [d["boxes"] for d in processor.post_process_object_detection(out, threshold=0.0, target_sizes=sizes)],
        [d["boxes"] for d in processor.post_process_object_detection(expected, threshold=0.0, target_sizes=sizes)],
        tolerance=1e-3,
    )
    if head == "ForSegmentation":
        segments = processor.post_process_panoptic_segmentation(out, threshold=0.0, target_sizes=sizes)
        assert [tuple(s["segmentation"].shape) for s in segments] == sizes


def test_the_backbone_has_a_config_of_its_own(tmp_path, caplog):
    raw = config().to_dict()
    raw["backbone_config"]["hiden_act"] = "gelu"
    made = registry.config_of(raw)
    assert made.backbone_config.hidden_sizes == [16, 20, 24, 28]
    assert made.unknown == ("backbone_config.hiden_act",)
    assert made.hidden_size == 32 and made.num_attention_heads == 8
