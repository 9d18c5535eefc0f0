"""MaskFormer against the reference."""

from __future__ import annotations

import pytest
import torch
from askers import Given, Question
from harness import Head, Parity, Table
from masks import agree, dropped_alike, gradients_agree, objects, pair, pictures
from masks import backbone as backbone_of

from omniform.core.errors import ConfigError, InputError
from omniform.models import registry
from reference import close, omniform, transformers

DECODER = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 8, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 20, "decoder_ffn_dim": 24, "num_queries": 5, "dropout": 0.0, "use_timm_backbone": False,
}  # fmt: skip
NAME = "MaskFormerForInstanceSegmentation"


def config(decoder: dict[str, object] | None = None, backbone: dict[str, object] | None = None, **changes: object):
    inner = transformers.DetrConfig(
        **{**DECODER, **(decoder or {})}, backbone_config=backbone_of(out_features=["stage4"])
    )
    tiny = {"fpn_feature_size": 32, "mask_feature_size": 16, "num_labels": 7}
    made = backbone_of(**(backbone or {}))
    return transformers.MaskFormerConfig(**{**tiny, **changes}, backbone_config=made, decoder_config=inner)


VARIANTS = {
    "plain": {},
    "on Swin": {"backbone": {"kind": "swin"}},
    "projected, on timm's network": {"backbone": {"kind": "timm"}},
    "two maps, gelu": {"backbone": {"out_features": ["stage2", "stage4"]}, "decoder": {"activation_function": "gelu"}},
    "a width that the encoder, which is not there, could not have": {"decoder": {"d_model": 36, "decoder_layers": 1}},
    "normed after every layer": {"decoder": {"auxiliary_loss": True, "decoder_layers": 3, "num_queries": 2}},
}

STATES = (
    "encoder_last_hidden_state", "pixel_decoder_last_hidden_state", "transformer_decoder_last_hidden_state",
)  # fmt: skip
SEEN = (
    "encoder_hidden_states", "pixel_decoder_hidden_states", "transformer_decoder_hidden_states", "hidden_states",
    "attentions",
)  # fmt: skip


def seen(*fields: str):
    def questions(made: object) -> list[Question]:
        # The reference cannot tell the hidden states of a decoder that norms every layer.
        told = () if made.decoder_config.auxiliary_loss else SEEN
        asked = [Question(pictures(), (*fields, *told)), Question(pictures(1, 33, 64), fields)]
        if "class_queries_logits" in fields:
            asked.append(Question({**pictures(), **objects(2, 1)}, ("loss",)))
        return asked

    return questions


class TestMaskFormer(Parity):
    table = Table(
        model_type="maskformer",
        config=config,
        config_class=transformers.MaskFormerConfig,
        tiny={},
        heads={
            "Model": Head("MaskFormerModel", "AutoModel", Given(seen(*STATES))),
            "ForInstanceSegmentation": Head(
                NAME, "AutoModelForInstanceSegmentation",
                Given(seen("class_queries_logits", "masks_queries_logits", *STATES),
                      lambda _: {**pictures(), **objects(2, 3)}),
                everywhere=True,
            ),
        },
        variants=VARIANTS,
        derived=frozenset({"backbone_config", "decoder_config"}),
    )  # fmt: skip


LOSSES = {
    "plain": {},
    "every layer": {"use_auxiliary_loss": True},
    "weights": {
        "use_auxiliary_loss": True, "output_auxiliary_logits": True, "dice_weight": 3.0, "cross_entropy_weight": 2.0,
        "mask_weight": 7.0, "no_object_weight": 0.4,
    },
}  # fmt: skip


@pytest.mark.parametrize("variant", LOSSES)
def test_losses(tmp_path, variant):
    ours, theirs = pair(NAME, config(**LOSSES[variant]), tmp_path)
    # Without them the reference cannot tell what every layer predicts.
    told = {"output_hidden_states": True} if variant != "plain" else {}
    for counts in ((2, 1), (0, 3), (0, 0), (9, 1)):
        agree(ours, theirs, {**pictures(), **objects(*counts)}, **told)
    whole = {**pictures(), **objects(2, 2)}
    stacked = {name: torch.stack(whole[name]) for name in ("mask_labels", "class_labels")}
    close(ours(**{**whole, **stacked}).loss, ours(**whole).loss)
    mixed = {**pictures(), **objects(2, 3)}
    mixed["mask_labels"][1] = mixed["mask_labels"][1][:, :40, :30]
    agree(ours, theirs, mixed, output_auxiliary_logits=True, **told)
    bits = {**mixed, "mask_labels": [mask.bool() for mask in mixed["mask_labels"]]}
    close(ours(**bits).loss, ours(**mixed).loss)


def test_every_layer_predicts_unasked(tmp_path):
    """Where the reference fails: what every layer predicts, without the hidden states."""
    ours, theirs = pair(NAME, config(use_auxiliary_loss=True), tmp_path)
    inputs = {**pictures(), **objects(2, 1)}
    out = ours(**inputs, output_auxiliary_logits=True)
    expected = theirs(**inputs, output_hidden_states=True, output_auxiliary_logits=True)
    close(out.loss, expected.loss)
    assert out.hidden_states is None and out.encoder_hidden_states is None
    assert len(out.auxiliary_logits) == len(expected.auxiliary_logits) == 2


def test_gradients(tmp_path):
    ours, theirs = pair(NAME, config(), tmp_path, scale=0.05)
    gradients_agree(ours, theirs, {**pictures(), **objects(2, 1)}, tmp_path)


def test_dropout(tmp_path):
    drops = {"dropout": 0.3, "attention_dropout": 0.2, "activation_dropout": 0.25}
    ours, theirs = pair(NAME, config(decoder=drops), tmp_path, scale=0.05)
    dropped_alike(ours, theirs, pictures(), "class_queries_logits", "masks_queries_logits")


def test_losses_of_pieces_add_up(tmp_path):
    ours, _ = pair(NAME, config(no_object_weight=1.0), tmp_path)
    ours.criterion.reset(0.0)
    whole = {**pictures(), **objects(2, 1)}
    items = ours.loss_items(whole)
    pieces = [{name: value[i : i + 1] for name, value in whole.items()} for i in range(2)]
    close(sum(ours(**piece, num_items_in_batch=items).loss for piece in pieces), ours(**whole).loss)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"pixel_values": torch.randn(3, 70, 45)}, "pixel_values"),
        ({"pixel_mask": torch.ones(2, 64, 45)}, "pixel_mask"),
        ({"mask_labels": objects(2)["mask_labels"]}, "mask_labels"),
        ({"class_labels": [torch.tensor([1, 7]), torch.tensor([0])]}, r"class_labels\[0\]"),
        ({"class_labels": [torch.tensor([1, -100]), torch.tensor([0])]}, r"class_labels\[0\]"),
        ({"class_labels": [torch.tensor([1.0, 2.0]), torch.tensor([0])]}, r"class_labels\[0\]"),
        ({"class_labels": [torch.tensor([1, 2]), torch.tensor([0, 1])]}, r"mask_labels\[1\]"),
        ({"class_labels": [[1, 2], [0]]}, r"class_labels\[0\]"),
        ({"class_labels": 3}, "class_labels"),
    ],
)
def test_inputs_refused(tmp_path_factory, change, where):
    ours = omniform.MaskFormerForInstanceSegmentation(registry.config_of(config().to_dict()))
    with pytest.raises(InputError, match=where):
        ours(**{**pictures(), **objects(2, 1), **change})


@pytest.mark.parametrize(
    ("change", "where"),
    [({"fpn_feature_size": 40}, "fpn_feature_size"), ({"decoder": {"d_model": 30, "decoder_attention_heads": 2,
      "encoder_attention_heads": 2}}, "d_model")],
)  # fmt: skip
def test_configs_refused(change, where):
    with pytest.raises(ConfigError, match=where):
        registry.config_of(config(**change).to_dict())
