"""DETR against the reference, with the Hub's ResNet as its backbone and with timm's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from omniform.hub.load import table_of
from reference import (
    check_round_trip,
    close,
    compare,
    omniform,
    saved_reference,
    trains,
    transformers,
    unaccounted,
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
    "learned positions": {"position_embedding_type": "learned"},
    "gelu": {"activation_function": "gelu"},
    "losses on every layer": {"auxiliary_loss": True},
    "one layer": {"encoder_layers": 1, "decoder_layers": 1, "auxiliary_loss": True},
    "wide": {"d_model": 64, "decoder_attention_heads": 2, "num_queries": 2},
}

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


@pytest.mark.parametrize("scale", [0.2, 0.02])
@pytest.mark.parametrize("variant", VARIANTS)
def test_detection(tmp_path, variant, scale):
    ours, theirs = pair(tmp_path, scale=scale, **VARIANTS[variant])
    inputs = pictures((70, 90), (64, 41), (33, 90))
    compare(ours, theirs, inputs, DETECTIONS)
    compare(ours, theirs, {"pixel_values": inputs["pixel_values"]}, DETECTIONS)
    check_round_trip(tmp_path / "model", ours, tmp_path / "again")


@pytest.mark.parametrize("backbone", BACKBONES)
def test_hub_backbones(tmp_path, backbone):
    ours, theirs = pair(tmp_path, backbone=BACKBONES[backbone])
    compare(ours, theirs, pictures((65, 97), (96, 40)), ["logits", "pred_boxes", "encoder_last_hidden_state"])
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
    inputs = pictures((65, 97), (70, 40))
    inputs["pixel_values"] = inputs["pixel_values"][:, : made.backbone_config.num_channels]
    compare(ours, theirs, inputs, ["logits", "pred_boxes", "encoder_hidden_states"])
    check_round_trip(tmp_path / "model", ours, tmp_path / "again")


@pytest.mark.parametrize("variant", ["plain", "losses on every layer"])
def test_base_model(tmp_path, variant):
    ours, theirs = pair(tmp_path, "Model", **VARIANTS[variant])
    fields = [*STATES, "intermediate_hidden_states"] if variant != "plain" else STATES
    inputs = pictures((70, 90), (64, 41))
    compare(ours, theirs, inputs, fields)
    assert ours(**inputs).keys() == list(theirs(**inputs).keys())
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
def test_detection_losses(tmp_path, variant, counts):
    ours, theirs = pair(tmp_path, **LOSSES[variant])
    inputs = {**pictures((70, 90), (64, 41)), "labels": objects(*counts)}
    check_losses(ours, theirs, inputs)


def check_losses(ours, theirs, inputs):
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


@pytest.mark.parametrize("scale", [0.2, 0.02])
@pytest.mark.parametrize("variant", SEGMENTERS)
def test_segmentation(tmp_path, variant, scale):
    ours, theirs = pair(tmp_path, "ForSegmentation", scale=scale, **SEGMENTERS[variant])
    inputs = pictures((70, 90), (64, 41), (33, 90))
    compare(ours, theirs, inputs, ["pred_masks", *DETECTIONS])
    compare(ours, theirs, {"pixel_values": inputs["pixel_values"]}, ["pred_masks"])
    check_round_trip(tmp_path / "model", ours, tmp_path / "again")


@pytest.mark.parametrize("counts", [(2, 1), (0, 3), (0, 0)])
@pytest.mark.parametrize("variant", LOSSES)
def test_segmentation_losses(tmp_path, variant, counts):
    ours, theirs = pair(tmp_path, "ForSegmentation", **LOSSES[variant])
    check_losses(ours, theirs, {**pictures((70, 90), (64, 41)), "labels": objects(*counts, size=(70, 90))})


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
    pieces = table_of(ours).pieces
    for path, parameter in ours.named_parameters():
        wanted = expected[pieces[path].key]
        largest = wanted.abs().max().clamp(min=1e-3)
        close(parameter.grad / largest, wanted / largest, path, 1e-3)


def test_training_lowers_the_loss(tmp_path):
    for head in ("ForObjectDetection", "ForSegmentation"):
        ours, _ = pair(tmp_path / head, head, scale=0.02, dropout=0.0)
        trains(ours, {**pictures((70, 90), (64, 41)), "labels": objects(2, 3, size=(70, 90))})


def test_every_reference_field_is_accounted_for():
    assert not unaccounted("detr", transformers.DetrConfig)
    assert not unaccounted("detr", transformers.DetrConfig, use_timm_backbone=True, backbone="resnet50")
