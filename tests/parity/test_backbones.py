"""The Backbone seam: which maps a backbone gives, and backbones inside other models' configs."""

from __future__ import annotations

import pytest
import torch

from omniform.core.errors import ConfigError
from omniform.core.reader import ConfigReader
from omniform.models.backbones import read_backbone, read_detr_backbone
from reference import compare, omniform, saved_reference, transformers

TINY = {"embedding_size": 8, "hidden_sizes": [12, 16, 20], "depths": [1, 2, 1], "layer_type": "basic"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backbone")
    config = transformers.ResNetConfig(**TINY, num_labels=3, out_features=["stage1", "stage3"])
    saved_reference(transformers.ResNetForImageClassification, config, folder)
    return folder


@pytest.mark.parametrize(
    ("asked", "indices", "features"),
    [
        ({}, [1, 3], ["stage1", "stage3"]),
        ({"out_features": ["stem", "stage2"]}, [0, 2], ["stem", "stage2"]),
        ({"out_indices": [1, 2]}, [1, 2], ["stage1", "stage2"]),
        ({"out_indices": (1, -1)}, [1, -1], ["stage1", "stage3"]),
        ({"out_features": ["stage2"], "out_indices": [2]}, [2], ["stage2"]),
    ],
)
def test_maps_by_keyword(folder, asked, indices, features):
    ours = omniform.AutoBackbone.from_pretrained(folder, **asked)
    theirs = transformers.ResNetBackbone.from_pretrained(folder, **asked)
    compare(ours, theirs, {"pixel_values": torch.randn(2, 3, 33, 47)}, ["feature_maps", "hidden_states"])
    assert ours.config.out_features == ours.out_features == theirs.out_features == features
    assert ours.config.out_indices == theirs.config.out_indices == indices
    assert ours.channels == theirs.channels and ours.stage_names == theirs.stage_names
    assert ours.out_feature_channels == theirs.out_feature_channels and [*ours.num_features] == theirs.num_features
    assert [f.shape[-2:] for f in ours(torch.randn(1, 3, 32, 64)).feature_maps] == [
        (32 // s, 64 // s) for s in ours.strides
    ]


def test_maps_chosen_later(folder):
    ours, theirs = (kind.from_pretrained(folder) for kind in (omniform.ResNetBackbone, transformers.ResNetBackbone))
    for name, value in (("out_indices", [0, 2]), ("out_features", ["stage3"]), ("out_indices", (1,))):
        for model in (ours, theirs):
            setattr(model, name, value)
        assert ours.out_features == theirs.out_features and ours.channels == theirs.channels
        compare(ours, theirs, {"pixel_values": torch.randn(1, 3, 20, 20)}, ["feature_maps"])
    for name, value in (("out_indices", [7]), ("out_features", ["stage9"]), ("out_indices", [2, 1])):
        with pytest.raises(ConfigError, match=name):
            setattr(ours, name, value)


def test_one_key_gives_way_to_the_other(folder):
    config = omniform.AutoConfig.from_pretrained(folder)
    config.out_features = ["stage2"]
    assert config.out_indices == [2] and "out_indices" not in config.raw
    config.out_indices = [0, 1]
    assert config.out_features == ["stem", "stage1"]
    with pytest.raises(ConfigError, match="out_indices"):
        config.update({"out_indices": [0], "out_features": ["stage2"]})


OLD = {
    "a config": ({"backbone_config": {"model_type": "resnet", **TINY, "out_indices": [1, 3]}}, (12, 20), (4, 16)),
    "a config without a type": ({"backbone_config": {**TINY, "out_indices": [1, 3]}}, (12, 20), (4, 16)),
    "nothing": ({}, (256, 512, 1024, 2048), (4, 8, 16, 32)),
    "a name": ({"backbone": "resnet18", "use_pretrained_backbone": True}, (64, 128, 256, 512), (4, 8, 16, 32)),
    "dilated": ({"backbone": "resnet18", "dilation": True}, (64, 128, 256, 512), (4, 8, 16, 16)),
    "keywords": ({"backbone": "resnet18", "backbone_kwargs": {"out_indices": [0, 2]}}, (64, 128), (2, 8)),
    "not timm": ({"use_timm_backbone": False}, (2048,), (32,)),
    "a repository": ({"use_timm_backbone": False, "backbone": "microsoft/resnet-50"}, (2048,), (32,)),
}


@pytest.mark.parametrize("spelling", OLD)
def test_spellings_of_a_nested_backbone(spelling):
    raw, channels, strides = OLD[spelling]
    r = ConfigReader(raw)
    found = read_detr_backbone(r)
    assert (found.channels, found.strides) == (channels, strides)
    assert r.values["backbone_config"] is found.config and not r.unknown()


def test_nested_backbones_refused():
    with pytest.raises(ConfigError, match="'org/model'"):
        read_backbone(ConfigReader({"backbone": "org/model"}))
    with pytest.raises(ConfigError, match="no backbone"):
        read_backbone(ConfigReader({"backbone_config": {"model_type": "bert"}}))
