"""YOLOS against the reference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from askers import Nothing, Pictures, Question, noise
from harness import Head, Parity, Table, compiled
from safetensors.torch import load_file, save_file

from omniform.core.errors import ConfigError, InputError
from reference import compare, omniform, saved_reference, transformers

TINY = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "image_size": [16, 24], "patch_size": 4, "num_detection_tokens": 6,
}  # fmt: skip
SIZES = ((16, 24), (24, 16), (32, 32), (17, 19), (4, 4))


@dataclass(frozen=True)
class AnySize(Pictures):
    """Pictures of the model's size and of others."""

    def questions(self, config: object) -> Iterator[Question]:
        yield from super().questions(config)
        outputs = tuple(f for f in self.labels.fields if f != "loss")
        for size in SIZES:
            yield Question({"pixel_values": noise(2, config.num_channels, *size)}, outputs)


def targets() -> list[dict[str, torch.Tensor]]:
    boxes = 0.2 + 0.3 * torch.rand(5, 4, generator=torch.Generator().manual_seed(3))
    classes = torch.tensor([1, 0, 2, 2, 1])
    return [{"class_labels": classes[a:b], "boxes": boxes[a:b]} for a, b in ((0, 2), (2, 2), (2, 5))]


@dataclass(frozen=True)
class Objects(AnySize):
    """Pictures with two objects, none, and three."""

    def questions(self, config: object) -> Iterator[Question]:
        yield from super().questions(config)
        yield Question(self.lesson(config), ("loss", "logits", "pred_boxes"))

    def lesson(self, config: object) -> dict[str, object]:
        return {"pixel_values": self.pixels(config), "labels": targets()}


def detector(**config: object) -> Head:
    fields = ("logits", "pred_boxes", "last_hidden_state")
    asks = Objects(Nothing(fields, {"num_labels": 3, **config}))
    return Head("YolosForObjectDetection", "AutoModelForObjectDetection", asks, rate=1e-3)


class TestYolos(Parity):
    table = Table(
        model_type="yolos",
        config=transformers.YolosConfig,
        tiny=TINY,
        heads={
            "Model": Head(
                "YolosModel", "AutoModel", AnySize(Nothing(("last_hidden_state", "pooler_output"))), everywhere=True
            ),
            "ForObjectDetection": detector(),
            "ForObjectDetection, other costs": detector(
                class_cost=2, bbox_cost=1, giou_cost=4, bbox_loss_coefficient=3, giou_loss_coefficient=1,
                eos_coefficient=0.4,
            ),
        },
        variants={
            "plain": {},
            "no positions between": {"use_mid_position_embeddings": False, "qkv_bias": False},
            "relu": {"hidden_act": "relu", "layer_norm_eps": 1e-2, "num_channels": 1},
        },
        spellings={"compiled": compiled},
    )  # fmt: skip


def pair(folder, head="ForObjectDetection", **changes):
    config = transformers.YolosConfig(**{**TINY, "num_labels": 3, **changes})
    theirs = saved_reference(getattr(transformers, f"Yolos{head}"), config, folder)
    return getattr(omniform, f"Yolos{head}").from_pretrained(folder), theirs


def test_losses_by_name(tmp_path):
    ours, theirs = pair(tmp_path)
    pixels = noise(3, 3, 16, 24)
    with torch.no_grad():
        found, expected = (m(pixel_values=pixels, labels=targets()).loss_dict for m in (ours, theirs))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)


def test_positions_by_their_name_in_memory(tmp_path):
    _, theirs = pair(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    renamed = {key.replace("encoder.mid", "encoder.interpolation.mid"): tensor for key, tensor in tensors.items()}
    assert renamed.keys() != tensors.keys()
    save_file(renamed, tmp_path / "model.safetensors", {"format": "pt"})
    ours = omniform.AutoModelForObjectDetection.from_pretrained(tmp_path)
    compare(ours, theirs, {"pixel_values": noise(2, 3, 24, 20)}, ["logits", "pred_boxes"])


def test_one_layer(tmp_path):
    """Its checkpoint holds positions for the layers behind the first: none."""
    ours, theirs = pair(tmp_path, num_hidden_layers=1)
    compare(ours, theirs, {"pixel_values": noise(2, 3, 24, 20)}, ["logits", "pred_boxes"])


def test_losses_on_earlier_layers_are_refused_only_where_one_is_asked_for(tmp_path):
    ours, theirs = pair(tmp_path, auxiliary_loss=True)
    inputs = {"pixel_values": noise(3, 3, 16, 24)}
    compare(ours, theirs, inputs, ["logits", "pred_boxes"])
    with pytest.raises(ConfigError, match="auxiliary_loss"):
        ours(**inputs, labels=targets())
    with pytest.raises(TypeError):
        theirs(**inputs, labels=targets(), output_hidden_states=True)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"pixel_values": torch.zeros(3, 1, 16, 24)}, "batch, 3"),
        ({"pixel_values": torch.zeros(3, 3, 3, 24)}, "smaller than a patch"),
        ({"labels": targets()[:2]}, "one label per picture"),
        ({"labels": [{"class_labels": torch.tensor([3]), "boxes": torch.rand(1, 4)}] * 3}, "does not exist"),
    ],
)
def test_bad_inputs(tmp_path, inputs, words):
    ours, _ = pair(tmp_path)
    with pytest.raises(InputError, match=words):
        ours(**{"pixel_values": noise(3, 3, 16, 24), **inputs})
