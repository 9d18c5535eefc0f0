"""ViT-MSN against the reference."""

from __future__ import annotations

from askers import PROBLEMS, Labels, Nothing, noise
from harness import Head, Parity, Table, compiled
from safetensors.torch import load_file, save_file
from test_deit import TINY, Interpolated

from reference import compare, omniform, saved_reference, transformers

SMALL = {name: value for name, value in TINY.items() if name != "encoder_stride"}


def classifier(labels: Labels) -> Head:
    return Head("ViTMSNForImageClassification", "AutoModelForImageClassification", Interpolated(labels))


class TestViTMSN(Parity):
    table = Table(
        model_type="vit_msn",
        config=transformers.ViTMSNConfig,
        tiny=SMALL,
        heads={
            "Model": Head("ViTMSNModel", "AutoModel", Interpolated(Nothing()), everywhere=True),
            "ForImageClassification": classifier(PROBLEMS["classes"]),
            "ForImageClassification, numbers": classifier(PROBLEMS["several numbers"]),
            "ForImageClassification, no classes": classifier(Nothing(("logits",), {"num_labels": 0})),
        },
        variants={
            "plain": {},
            "no biases": {"qkv_bias": False, "hidden_act": "gelu_new"},
            "wide and grey": {"num_channels": 1, "image_size": [8, 24], "layer_norm_eps": 1e-2},
        },
        spellings={"compiled": compiled},
    )


def test_layers_below_the_prefix(tmp_path):
    """As checkpoints of before this release of the reference have it; saved again, they stay as they were."""
    theirs = saved_reference(
        transformers.ViTMSNForImageClassification, transformers.ViTMSNConfig(**SMALL, num_labels=3), tmp_path
    )
    tensors = load_file(tmp_path / "model.safetensors")
    old = {f"vit.{key}" if key.startswith("encoder.") else key: tensor for key, tensor in tensors.items()}
    assert old.keys() != tensors.keys()
    save_file(old, tmp_path / "model.safetensors", {"format": "pt"})
    ours = omniform.AutoModelForImageClassification.from_pretrained(tmp_path)
    compare(ours, theirs, {"pixel_values": noise(2, 3, 16, 16)}, ["logits"])
    ours.save_pretrained(tmp_path / "again")
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == old.keys()


def test_from_scratch():
    model = omniform.ViTMSNModel(omniform.ViTMSNConfig(**SMALL))
    assert not model.class_token.weight.any() and not model.positions.weight.any()
