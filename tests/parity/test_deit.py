"""DeiT against the reference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from askers import PROBLEMS, Labels, Nothing, Pictures, Question, noise
from harness import Head, Parity, Table, compiled

from reference import compare, omniform, saved_reference, transformers

TINY = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 16,
    "patch_size": 4, "encoder_stride": 4,
}  # fmt: skip
SIZES = ((16, 16), (32, 32), (8, 32), (17, 19), (4, 4))


@dataclass(frozen=True)
class Interpolated(Pictures):
    """Pictures of the model's size, and of others where that is asked for."""

    sizes: tuple[tuple[int, int], ...] = SIZES

    def questions(self, config: object) -> Iterator[Question]:
        yield from super().questions(config)
        size, channels = config.image_size, config.num_channels
        outputs = tuple(f for f in self.labels.fields if f != "loss")
        for height, width in self.sizes if isinstance(size, int) and isinstance(config.patch_size, int) else ():
            pixels = noise(2, channels, height, width)
            yield Question({"pixel_values": pixels, "interpolate_pos_encoding": True}, outputs)


def hidden_patches(config: object) -> torch.Tensor:
    patches = (config.image_size // config.patch_size) ** 2
    return torch.rand(3, patches, generator=torch.Generator().manual_seed(0)) < 0.4


@dataclass(frozen=True)
class Hidden(Interpolated):
    """Pictures of which some patches are hidden."""

    def questions(self, config: object) -> Iterator[Question]:
        yield from super().questions(config)
        yield Question(self.lesson(config), ("loss", "reconstruction", *self.taps))

    def lesson(self, config: object) -> dict[str, object]:
        return {"pixel_values": self.pixels(config), "bool_masked_pos": hidden_patches(config)}


def classifier(labels: Labels) -> Head:
    return Head("DeiTForImageClassification", "AutoModelForImageClassification", Interpolated(labels))


class TestDeiT(Parity):
    table = Table(
        model_type="deit",
        config=transformers.DeiTConfig,
        tiny=TINY,
        heads={
            "Model": Head(
                "DeiTModel", "AutoModel", Interpolated(Nothing(("last_hidden_state", "pooler_output"))), everywhere=True
            ),
            **{f"ForImageClassification, {name}": classifier(labels) for name, labels in PROBLEMS.items()},
            "ForImageClassification, no classes": classifier(Nothing(("logits",), {"num_labels": 0})),
            "WithTeacher": Head(
                "DeiTForImageClassificationWithTeacher", "",
                Interpolated(Nothing(("logits", "cls_logits", "distillation_logits"), {"num_labels": 5})),
            ),
            "ForMaskedImageModeling": Head(
                "DeiTForMaskedImageModeling", "AutoModelForMaskedImageModeling",
                Hidden(Nothing(("reconstruction",)), sizes=((16, 16), (32, 32), (4, 4))), rate=1e-3,
            ),
        },
        variants={
            "plain": {},
            "no biases": {"qkv_bias": False},
            "relu": {"hidden_act": "relu", "layer_norm_eps": 1e-2},
            "pooler": {"pooler_output_size": 20, "pooler_act": "relu"},
            "no width of the pooler": {"pooler_output_size": 0},
            "grey": {"num_channels": 1},
            "wide": {"image_size": [8, 24]},
            "tall patches": {"image_size": [24, 12], "patch_size": [8, 3]},
        },
        spellings={"compiled": compiled},
    )  # fmt: skip


@pytest.mark.parametrize("head", ["Model", "ForImageClassificationWithTeacher"])
def test_from_scratch(head):
    """Tokens and positions begin as the reference's: as zeros."""
    model = getattr(omniform, f"DeiT{head}")(omniform.DeiTConfig(**TINY))
    encoder = model.base_model
    for tensor in (*encoder.class_token.parameters(), *encoder.positions.parameters()):
        assert not tensor.any()


def test_both_heads_from_one_checkpoint(tmp_path):
    """A checkpoint that learnt from a teacher is loaded by its name, and by the Auto class."""
    theirs = saved_reference(
        transformers.DeiTForImageClassificationWithTeacher, transformers.DeiTConfig(**TINY, num_labels=4), tmp_path
    )
    ours = omniform.AutoModelForImageClassification.from_pretrained(tmp_path)
    assert type(ours).__name__ == type(transformers.AutoModelForImageClassification.from_pretrained(tmp_path)).__name__
    named = omniform.DeiTForImageClassificationWithTeacher.from_pretrained(tmp_path)
    compare(named, theirs, {"pixel_values": noise(2, 3, 16, 16)}, ["logits", "cls_logits", "distillation_logits"])
