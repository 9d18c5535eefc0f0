"""Mask2Former against the reference. Points of losses are drawn: models are asked for them from equal seeds."""

from __future__ import annotations

import pytest
import torch
from askers import Given, Question
from harness import Head, Parity, Table
from masks import agree, dropped_alike, gradients_agree, objects, pair, pictures
from masks import backbone as backbone_of

from omniform.core.errors import ConfigError
from omniform.models import registry
from reference import close, omniform, transformers

TINY = {
    "feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 24, "encoder_layers": 1,
    "decoder_layers": 5, "num_attention_heads": 4, "dim_feedforward": 24, "num_queries": 5, "train_num_points": 40,
    "num_labels": 7,
}  # fmt: skip
NAME = "Mask2FormerForUniversalSegmentation"


def config(backbone: dict[str, object] | None = None, **changes: object):
    return transformers.Mask2FormerConfig(**{**TINY, **changes}, backbone_config=backbone_of(**(backbone or {})))


VARIANTS = {
    "plain": {},
    "norms first, gelu": {"pre_norm": True, "activation_function": "gelu", "encoder_layers": 2},
    "on Swin": {"backbone": {"kind": "swin"}},
    "projected": {"enforce_input_projection": True, "num_attention_heads": 2, "num_queries": 3},
    "three widths": {"feature_size": 64, "hidden_dim": 16, "mask_feature_size": 24, "num_attention_heads": 4},
    "two finer maps": {"feature_strides": [4, 8, 16, 32], "common_stride": 2, "decoder_layers": 1},
    "no finer map": {"common_stride": 8, "decoder_layers": 2},
    "a step back": {"common_stride": 16, "decoder_layers": 2},
    "three maps": {"backbone": {"out_features": ["stage2", "stage3", "stage4"]}, "common_stride": 8},
}

STATES = (
    "encoder_last_hidden_state", "pixel_decoder_last_hidden_state", "transformer_decoder_last_hidden_state",
)  # fmt: skip
SEEN = ("encoder_hidden_states", "pixel_decoder_hidden_states", "transformer_decoder_hidden_states", "attentions")


def seen(*fields: str):
    def questions(_: object) -> list[Question]:
        return [Question(pictures(), (*fields, *SEEN)), Question(pictures(1, 33, 64), fields)]

    return questions


class TestMask2Former(Parity):
    table = Table(
        model_type="mask2former",
        config=config,
        config_class=transformers.Mask2FormerConfig,
        tiny={},
        heads={
            "Model": Head(
                "Mask2FormerModel", "AutoModel",
                Given(seen(*STATES, "masks_queries_logits")),
            ),
            "ForUniversalSegmentation": Head(
                NAME, "AutoModelForUniversalSegmentation",
                Given(seen("class_queries_logits", "masks_queries_logits", *STATES),
                      lambda _: {**pictures(), **objects(2, 3)}),
                everywhere=True,
            ),
        },
        variants=VARIANTS,
        derived=frozenset({"backbone_config"}),
        half=0.25,  # a query's mask that flips at one place lets it look elsewhere
    )  # fmt: skip


def test_states_of_the_base_model(tmp_path):
    agree(*pair("Mask2FormerModel", config(), tmp_path), pictures(), output_hidden_states=True)


LOSSES = {
    "plain": {},
    "norms first": {"pre_norm": True, "output_auxiliary_logits": True},
    "weights": {
        "class_weight": 3.0, "mask_weight": 2.0, "dice_weight": 7.0, "no_object_weight": 0.4, "train_num_points": 25,
        "oversample_ratio": 2.5, "importance_sample_ratio": 0.5,
    },
    "sure points": {"importance_sample_ratio": 0.0, "oversample_ratio": 1.0},
    "unsure points": {"importance_sample_ratio": 1.0, "oversample_ratio": 2.0},
}  # fmt: skip


@pytest.mark.parametrize("variant", LOSSES)
def test_losses(tmp_path, variant):
    ours, theirs = pair(NAME, config(**LOSSES[variant]), tmp_path)
    for counts in ((2, 1), (0, 3), (0, 0), (9, 1)):
        agree(ours, theirs, {**pictures(), **objects(*counts)})
    mixed = {**pictures(), **objects(2, 3)}
    mixed["mask_labels"][1] = mixed["mask_labels"][1][:, :40, :30]
    agree(ours, theirs, mixed, output_auxiliary_logits=True, output_hidden_states=True)


def test_one_loss_for_every_layer_whatever_the_config_says(tmp_path):
    ours, theirs = pair(NAME, config(use_auxiliary_loss=False), tmp_path)
    inputs = {**pictures(), **objects(2, 1)}
    agree(ours, theirs, inputs, output_hidden_states=True)
    torch.manual_seed(7)
    found = ours(**inputs)  # where the reference fails
    torch.manual_seed(7)
    close(found.loss, theirs(**inputs, output_hidden_states=True).loss)


def test_gradients(tmp_path):
    ours, theirs = pair(NAME, config(), tmp_path, scale=0.05)
    gradients_agree(ours, theirs, {**pictures(), **objects(2, 1)}, tmp_path)


def test_dropout(tmp_path):
    # One layer, or the reference may leave one out and then look at a map with another's mask; one picture, since it
    # counts queries first and so draws for several in another order.
    ours, theirs = pair(NAME, config(dropout=0.3, decoder_layers=2), tmp_path, scale=0.05)
    dropped_alike(ours, theirs, pictures(1), "masks_queries_logits", "class_queries_logits")


def test_layers_left_out(tmp_path):
    ours, _ = pair(NAME, config(dropout=0.5), tmp_path)
    ours.train()
    for seed in range(4):
        torch.manual_seed(seed)
        out = ours(**pictures(), **objects(2, 1), output_auxiliary_logits=True, output_hidden_states=True)
        out.loss.backward()
        assert len(out.auxiliary_logits) <= 4 and len(out.transformer_decoder_hidden_states) == 5


def test_losses_of_pieces_have_one_measure(tmp_path):
    ours, _ = pair(NAME, config(), tmp_path)
    ours.criterion.reset(0.0)
    inputs = {**pictures(), **objects(2, 1)}
    losses = []
    for items in (None, ours.loss_items(inputs), 2 * ours.loss_items(inputs)):
        torch.manual_seed(7)
        losses.append(ours(**inputs, num_items_in_batch=items).loss)
    close(losses[1], losses[0])
    close(losses[2], losses[0] / 2)


REFUSED = {
    "feature_size": {"feature_size": 40},
    "num_attention_heads": {"hidden_dim": 36, "num_attention_heads": 8},
    "hidden_dim": {"hidden_dim": 34, "num_attention_heads": 2},
    "oversample_ratio": {"oversample_ratio": 0.5},
    "importance_sample_ratio": {"importance_sample_ratio": 1.5},
}


@pytest.mark.parametrize("field", REFUSED)
def test_configs_refused(field):
    with pytest.raises(ConfigError, match=field):
        registry.config_of(config(**REFUSED[field]).to_dict())


def test_three_maps_are_needed():
    made = registry.config_of(config(backbone={"out_features": ["stage3", "stage4"]}).to_dict())
    with pytest.raises(ConfigError, match="three maps"):
        omniform.Mask2FormerModel(made)
