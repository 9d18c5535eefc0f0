"""UPerNet against the reference, on backbones of several families."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from harness import Head, Parity, Table
from segmented import Segments, classes_of_pixels

from omniform.core.errors import ConfigError, InputError
from reference import check_round_trip, compare, omniform, saved_reference, transformers

RESNET = {
    "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 1, 1],
    "layer_type": "basic", "out_features": ["stage1", "stage2", "stage3", "stage4"],
}  # fmt: skip
SWIN = {
    "model_type": "swin", "patch_size": 2, "embed_dim": 8, "depths": [1, 1, 1], "num_heads": [2, 2, 4],
    "window_size": 3, "out_features": ["stage1", "stage2", "stage3"],
}  # fmt: skip
TINY = {
    "backbone_config": RESNET, "hidden_size": 12, "pool_scales": [1, 2, 3], "auxiliary_channels": 6,
    "initializer_range": 0.3,
}  # fmt: skip


def config(backbone_config: object = None, **given: object):
    """The reference's; its ``use_backbone`` and the like are gone."""
    if isinstance(backbone_config, dict):
        backbone_config = transformers.AutoConfig.for_model(**backbone_config)
    return transformers.UperNetConfig(backbone_config=backbone_config, **given)


def asks(**changes: object) -> Segments:
    return Segments((45, 70), changes, ignored=changes.get("loss_ignore_index", 255), taps=("hidden_states",))


def head(unused: tuple[str, ...] = (), **changes: object) -> Head:
    name, auto = "UperNetForSemanticSegmentation", "AutoModelForSemanticSegmentation"
    return Head(name, auto, asks(**changes), unused=unused, rate=3e-3)


class TestUperNet(Parity):
    table = Table(
        model_type="upernet",
        config=config,
        config_class=transformers.UperNetConfig,
        tiny=TINY,
        heads={
            "ForSemanticSegmentation": head(),
            "one head": head(use_auxiliary_head=False, pool_scales=[2]),
            "more layers": head(
                auxiliary_num_convs=2, auxiliary_concat_input=True, auxiliary_loss_weight=0.7, loss_ignore_index=1,
                auxiliary_in_channels=16,
            ),
            "no layers": head(auxiliary_num_convs=0, auxiliary_channels=16),
            "swin": head(("backbone.model.norm",), backbone_config=SWIN),
        },
        derived=frozenset({"backbone_config"}),
    )  # fmt: skip


OTHERS = {
    "swinv2": {**SWIN, "model_type": "swinv2", "image_size": 48},
    "beit": {
        "model_type": "beit", "image_size": 16, "patch_size": 4, "hidden_size": 16, "num_hidden_layers": 4,
        "num_attention_heads": 2, "intermediate_size": 20, "out_indices": [1, 2, 3, 4], "add_fpn": True,
    },
}  # fmt: skip


def pair(folder: Path, **changes: object):
    made = config(**{**TINY, "num_labels": 5, **changes})
    theirs = saved_reference(transformers.UperNetForSemanticSegmentation, made, folder)
    return omniform.AutoModelForSemanticSegmentation.from_pretrained(folder), theirs


@pytest.mark.parametrize("backbone", OTHERS)
def test_other_backbones(tmp_path, backbone):
    ours, theirs = pair(tmp_path / "model", backbone_config=OTHERS[backbone])
    inputs = {"pixel_values": torch.randn(2, 3, 33, 47), "labels": classes_of_pixels(2, (33, 47), 5)}
    compare(ours, theirs, inputs, ["loss", "logits", "hidden_states"])
    check_round_trip(tmp_path / "model", ours, tmp_path / "again")


@pytest.mark.parametrize("size", [(1, 1), (5, 90)])
def test_odd_sizes(tmp_path, size):
    ours, theirs = pair(tmp_path)
    compare(ours, theirs, {"pixel_values": torch.randn(2, 3, *size)}, ["logits"])


def test_batch_norms_train(tmp_path):
    ours, theirs = pair(tmp_path)
    inputs = {"pixel_values": torch.randn(2, 3, 40, 50), "labels": classes_of_pixels(2, (40, 50), 5)}
    for model in (ours.train(), theirs.train()):
        model(**inputs).loss.backward()
    torch.testing.assert_close(
        ours.decode_head.classifier.weight.grad, theirs.decode_head.classifier.weight.grad, atol=1e-4, rtol=1e-4
    )
    compare(ours.eval(), theirs.eval(), {"pixel_values": inputs["pixel_values"]}, ["logits"])


def test_refused(tmp_path):
    ours, _ = pair(tmp_path)
    pixels = torch.randn(1, 3, 40, 50)
    with pytest.raises(InputError, match="0 to 4"):
        ours(pixels, labels=torch.full((1, 40, 50), 5))
    with pytest.raises(InputError, match="labels"):
        ours(pixels, labels=torch.zeros(2, 40, 50, dtype=torch.long))
    two = {**RESNET, "out_features": ["stage1", "stage2"]}
    with pytest.raises(ConfigError, match="third map"):
        omniform.UperNetForSemanticSegmentation(omniform.UperNetConfig(**{**TINY, "backbone_config": two}))
    with pytest.raises(ConfigError, match="auxiliary_channels"):
        omniform.UperNetForSemanticSegmentation(omniform.UperNetConfig(**TINY, auxiliary_num_convs=0))
