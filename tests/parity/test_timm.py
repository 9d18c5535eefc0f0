"""Networks of timm against the reference's wrappers, computed by timm and by our own ResNet."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from askers import PROBLEMS, Given, Question
from convs import asked
from harness import Head, Parity, Table
from safetensors.torch import load_file

from omniform.core.errors import ConfigError, DependencyError, InputError
from reference import close, compare, omniform, randomise, saved_reference, transformers


def maps(config: object) -> list[Question]:
    pixels = torch.randn(2, config.num_channels, 65, 40, generator=torch.Generator().manual_seed(0))
    return [Question({"pixel_values": pixels}, ("feature_maps", "hidden_states"))]


class TestTimmBackbone(Parity):
    table = Table(
        model_type="timm_backbone",
        config=transformers.TimmBackboneConfig,
        tiny={"backbone": "resnet18", "out_indices": [0, 1]},
        heads={"Backbone": Head("TimmBackbone", "AutoBackbone", Given(maps), everywhere=True)},
        variants={
            "plain": {},
            "frozen, grey": {"freeze_batch_norm_2d": True, "num_channels": 1},
            "timm's": {"backbone": "test_resnet.r160_in1k", "out_indices": [1, -1]},
            "timm's, frozen, dilated": {
                "backbone": "test_efficientnet", "freeze_batch_norm_2d": True, "output_stride": 8, "num_channels": 1,
            },
        },
        given={"backbone": "resnet18"},
    )  # fmt: skip


def wrapped(config: object) -> list[Question]:
    pixels = torch.randn(2, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    fields = ("last_hidden_state", "pooler_output")
    return [
        Question({"pixel_values": pixels}, (*fields, "hidden_states")),
        Question({"pixel_values": pixels, "do_pooling": False}, fields[:1]),
    ]


class TestTimmWrapper(Parity):
    table = Table(
        model_type="timm_wrapper",
        config=transformers.TimmWrapperConfig,
        tiny={"architecture": "test_convnext"},
        heads={
            "Model": Head("TimmWrapperModel", "AutoModel", Given(wrapped), everywhere=True),
            **{
                f"ForImageClassification, {kind}": Head(
                    "TimmWrapperForImageClassification", "AutoModelForImageClassification", asked(labels, (48, 64))
                )
                for kind, labels in PROBLEMS.items() if kind in ("classes", "many labels")
            },
        },
        variants={
            "plain": {},
            "other arguments": {"architecture": "test_vit", "model_args": {"depth": 2, "img_size": [48, 64]}},
        },
        scale=0.1,
    )  # fmt: skip


def test_hidden_states_of_some_blocks_and_maps_alone(tmp_path):
    pixels = torch.randn(1, 3, 64, 64)
    config = transformers.TimmWrapperConfig(architecture="test_convnext")
    theirs = saved_reference(transformers.TimmWrapperModel, config, tmp_path / "one")
    ours = omniform.TimmWrapperModel.from_pretrained(tmp_path / "one")
    with torch.no_grad():
        close(ours(pixels, output_hidden_states=[0, 2]).hidden_states,
            tuple(theirs(pixels, output_hidden_states=[0, 2]).hidden_states))  # fmt: skip
    config = transformers.TimmWrapperConfig(architecture="test_resnet", model_args={"features_only": True})
    theirs = saved_reference(transformers.TimmWrapperModel, config, tmp_path / "two")
    ours = omniform.AutoModel.from_pretrained(tmp_path / "two")
    compare(ours, theirs, {"pixel_values": pixels}, ["last_hidden_state"])
    with pytest.raises(InputError, match="output_attentions"):
        ours(pixels, output_attentions=True)


@pytest.mark.parametrize("names", [None, ["cat", "dog", "cat"], ["cat", "dog", "owl"]])
def test_a_config_of_timms_own(tmp_path, names):
    """No type, classes by timm's words, keys without a prefix; saved again it is the same file."""
    import timm

    network = randomise(timm.create_model("test_convnext", num_classes=3)).eval()
    raw = {
        "architecture": "test_convnext", "num_classes": 3, "num_features": 64, "global_pool": "avg",
        "pretrained_cfg": {"tag": "r160_in1k", "num_classes": 3, "input_size": [3, 160, 160]},
    }  # fmt: skip
    if names:
        raw["label_names"] = names
    (tmp_path / "config.json").write_text(json.dumps(raw))
    from safetensors.torch import save_file

    save_file(network.state_dict(), tmp_path / "model.safetensors")
    ours = omniform.AutoModelForImageClassification.from_pretrained(tmp_path)
    theirs = transformers.AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    assert not ours.config.unknown
    assert ours.config.id2label == theirs.config.id2label and ours.config.num_labels == 3
    pixels = torch.randn(2, 3, 48, 48)
    compare(ours, theirs, {"pixel_values": pixels}, ["logits"])
    with torch.no_grad():
        close(ours(pixels).logits, network(pixels))
    ours.save_pretrained(tmp_path / "again")
    assert raw.items() <= json.loads((tmp_path / "again" / "config.json").read_text()).items()
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert again.keys() == network.state_dict().keys()
    assert all(torch.equal(again[key], value) for key, value in network.state_dict().items())
    base = omniform.AutoModel.from_pretrained(tmp_path)
    other = transformers.AutoModel.from_pretrained(tmp_path).eval()
    compare(base, other, {"pixel_values": pixels}, ["pooler_output", "last_hidden_state"])
    assert omniform.AutoModelForImageClassification.from_pretrained(tmp_path, num_labels=5,
        ignore_mismatched_sizes=True).config.num_labels == 5  # fmt: skip


def test_names_of_imagenets_classes():
    ours = omniform.AutoConfig.for_model("timm_wrapper", num_classes=1000, pretrained_cfg={"tag": "in1k"})
    raw = {"num_classes": 1000, "pretrained_cfg": {"tag": "in1k"}}
    assert ours.id2label == transformers.TimmWrapperConfig.from_dict(raw).id2label
    assert ours.id2label[0].startswith("tench")


HARMFUL = [
    {"pretrained": True},
    {"pretrained_cfg": {"url": "http://127.0.0.1/x.pth"}},
    {"pretrained_cfg_overlay": {"file": "x.pth"}},
    {"checkpoint_path": "x.pth"},
    {"cache_dir": "/tmp"},
    {"num_classes": 3},
]


@pytest.mark.parametrize("arguments", HARMFUL)
def test_arguments_that_are_not_a_checkpoints_to_say(arguments):
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        omniform.AutoConfig.for_model("timm_wrapper", architecture="test_vit", model_args=arguments)


@pytest.mark.parametrize("name", ["hf-hub:timm/resnet18", "local-dir:/tmp", "../resnet18", "no_such_net", ""])
def test_names_out_of_timms_registry_alone(name):
    for made in (
        omniform.AutoConfig.for_model("timm_wrapper", architecture=name),
        omniform.AutoConfig.for_model("timm_backbone", backbone=name),
    ):
        with pytest.raises(ConfigError, match="no such network"):
            (omniform.AutoModel if made.model_type == "timm_wrapper" else omniform.AutoBackbone).from_config(made)


@pytest.mark.parametrize("changes", [{"out_indices": [9]}, {"output_stride": 5}, {"out_features": ["act1"]}])
def test_arguments_that_timm_refuses(changes):
    made = omniform.AutoConfig.for_model("timm_backbone", backbone="test_resnet", **changes)
    with pytest.raises(ConfigError, match=r"timm|out_features"):
        omniform.AutoBackbone.from_config(made)


def test_without_timm(monkeypatch):
    """Our own networks work; the others say what is missing."""
    monkeypatch.setitem(sys.modules, "timm", None)
    omniform.TimmBackbone(omniform.TimmBackboneConfig(backbone="resnet18"))
    for made in (omniform.TimmBackboneConfig(backbone="test_resnet"), omniform.TimmWrapperConfig()):
        with pytest.raises(DependencyError, match="pip install timm"):
            omniform.AutoModel.from_config(made)


def test_fresh_weights_are_timms(tmp_path):
    made = omniform.TimmWrapperForImageClassification(omniform.TimmWrapperConfig(architecture="test_convnext"))
    made.save_pretrained(tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    assert (held["stages.0.blocks.0.gamma"] - 1e-6).abs().max() < 1e-9 and held["stem.0.weight"].std() > 0.01


def test_fresh_weights_in_a_detector_are_timms(tmp_path):
    """A backbone begins as its own family says, wherever it stands: the last norm of each branch with zeros."""
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
    nested = {
        "model_type": "timm_backbone",
        "backbone": "resnet10t",
        "out_indices": [4],
        "use_pretrained_backbone": False,
    }
    config = omniform.DetrConfig(**sizes, decoder_attention_heads=2, backbone_config=nested)
    made = omniform.DetrForObjectDetection(config)
    made.save_pretrained(tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    body = "model.backbone.conv_encoder.model.layer1.0"
    assert held[f"{body}.bn2.weight"].abs().max() == 0 and held[f"{body}.bn1.weight"].min() == 1
    assert held[f"{body}.conv1.weight"].std() > 0.04 and 0.015 < held["model.encoder.layers.0.fc1.weight"].std() < 0.1


def test_a_backbone_has_its_own_deviation(tmp_path):
    swin = omniform.SwinConfig(embed_dim=8, depths=[1], num_heads=[1], initializer_range=0.3, out_features=["stage1"])
    made = omniform.UperNetForSemanticSegmentation(
        omniform.UperNetConfig(backbone_config=swin, hidden_size=8, use_auxiliary_head=False, initializer_range=0.01)
    )
    stds = {name: p.std() for name, p in made.backbone.named_parameters() if name.endswith("q_proj.weight")}
    assert stds and all(std > 0.2 for std in stds.values())
