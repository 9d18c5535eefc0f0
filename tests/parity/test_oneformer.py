"""OneFormer against the reference. Points of losses are drawn: models are asked for them from equal seeds."""

from __future__ import annotations

import json

import pytest
import torch
from askers import Given, Question
from harness import Head, Parity, Table
from masks import Inputs, agree, dropped_alike, gradients_agree, objects, pair, pictures
from masks import backbone as backbone_of

from omniform.core.errors import ConfigError, InputError, WeightsError
from omniform.models import registry
from reference import close, omniform, transformers

TINY = {
    "conv_dim": 64, "mask_dim": 64, "hidden_dim": 64, "encoder_feedforward_dim": 24, "encoder_layers": 1,
    "decoder_layers": 5, "num_attention_heads": 4, "dim_feedforward": 24, "num_queries": 6, "train_num_points": 40,
    "num_labels": 7, "query_dec_layers": 1, "task_seq_len": 9, "text_encoder_width": 64, "text_encoder_n_ctx": 2,
    "text_encoder_context_length": 8, "text_encoder_num_layers": 1, "text_encoder_vocab_size": 50, "dropout": 0.0,
}  # fmt: skip
NAME = "OneFormerForUniversalSegmentation"


def config(backbone: dict[str, object] | None = None, **changes: object):
    return transformers.OneFormerConfig(**{**TINY, **changes}, backbone_config=backbone_of(**(backbone or {})))


VARIANTS = {
    "plain": {},
    "norms first, a plain task": {"pre_norm": True, "use_task_norm": False, "query_dec_layers": 2},
    "on Swin": {"backbone": {"kind": "swin"}},
    "large epsilon": {"layer_norm_eps": 0.01, "task_seq_len": 9, "num_attention_heads": 2, "num_queries": 3},
    "last layer alone": {"use_auxiliary_loss": False, "decoder_layers": 2},
    "two finer maps": {"common_stride": 2, "decoder_layers": 2, "output_auxiliary_logits": False},
    "no finer map, texts that nobody reads": {"strides": [2, 4, 4, 8], "decoder_layers": 2, "text_encoder_width": 20},
}

STATES = (
    "transformer_decoder_object_queries", "transformer_decoder_contrastive_queries", "task_token",
    "transformer_decoder_mask_predictions", "transformer_decoder_class_predictions",
)  # fmt: skip


def asked(rows: int = 2, height: int = 70, width: int = 45, texts: int = 0) -> Inputs:
    """Pictures, a task for each, and texts for training."""
    generator = torch.Generator().manual_seed(3)
    task = torch.randint(0, 50, (rows, 9), generator=generator)
    told = {"text_inputs": torch.randint(0, 50, (rows, texts, 8), generator=generator)} if texts else {}
    return {**pictures(rows, height, width), "task_inputs": task, **told}


def seen(*fields: str):
    def questions(_: object) -> list[Question]:
        states = ("encoder_hidden_states", "pixel_decoder_hidden_states", "attentions")
        return [Question(asked(), (*fields, *states)), Question(asked(1, 33, 64), fields)]

    return questions


class TestOneFormer(Parity):
    table = Table(
        model_type="oneformer",
        config=config,
        config_class=transformers.OneFormerConfig,
        tiny={},
        tolerance=3e-4,  # on Swin, the reference is 1.2e-4 away from the same model in float64, and so are we
        heads={
            "Model": Head("OneFormerModel", "AutoModel", Given(seen(*STATES))),
            "ForUniversalSegmentation": Head(
                NAME, "AutoModelForUniversalSegmentation",
                Given(seen("class_queries_logits", "masks_queries_logits", *STATES),
                      lambda _: {**asked(), **objects(2, 3)}),
                everywhere=True, unused=("criterion.logit_scale",),
            ),
        },
        variants=VARIANTS,
        derived=frozenset({"backbone_config"}),
        half=0.25,  # a query's mask that flips at one place lets it look elsewhere
    )  # fmt: skip


TRAINED = {"is_training": True}

LOSSES = {
    "plain": {},
    "texts": TRAINED,
    "dropout in the pixel decoder, whether or not it trains": {**TRAINED, "dropout": 0.1},
    "no learned vectors": {
        **TRAINED, "text_encoder_n_ctx": 0, "text_encoder_width": 160, "text_encoder_proj_layers": 3,
        "text_encoder_num_layers": 2, "num_queries": 4,
    },
    "weights": {
        **TRAINED, "class_weight": 3.0, "mask_weight": 2.0, "dice_weight": 7.0, "no_object_weight": 0.4,
        "contrastive_weight": 2.0, "contrastive_temperature": 0.3, "train_num_points": 25, "oversample_ratio": 2.5,
        "importance_sample_ratio": 0.5, "use_auxiliary_loss": False,
    },
}  # fmt: skip


@pytest.mark.parametrize("variant", LOSSES)
def test_losses(tmp_path, variant):
    ours, theirs = pair(NAME, config(**LOSSES[variant]), tmp_path)
    texts = 4 if variant != "plain" else 0
    for counts in ((2, 1), (0, 3), (0, 0), (9, 1)):
        agree(ours, theirs, {**asked(texts=texts), **objects(*counts)})
    agree(ours, theirs, {**asked(texts=texts), **objects(2, 1)}, output_auxiliary_logits=False)


def test_every_output(tmp_path):
    agree(*pair("OneFormerModel", config(), tmp_path / "a"), asked(), output_hidden_states=True, output_attentions=True)
    texts = {**asked(), "text_inputs": asked(texts=4)["text_inputs"][:, 0]}
    agree(*pair("OneFormerModel", config(**TRAINED), tmp_path / "b"), texts)


def test_gradients(tmp_path):
    ours, theirs = pair(NAME, config(**TRAINED), tmp_path, scale=0.05)
    gradients_agree(ours, theirs, {**asked(texts=4), **objects(2, 1)}, tmp_path)


def test_dropout(tmp_path):
    # One picture: the reference counts queries first and so draws for several in another order.
    ours, theirs = pair(NAME, config(**TRAINED, dropout=0.3), tmp_path, scale=0.05)
    dropped_alike(ours, theirs, asked(1, texts=4), "masks_queries_logits", "class_queries_logits", "text_queries")


def test_texts_are_needed_for_their_loss(tmp_path):
    ours = omniform.OneFormerForUniversalSegmentation(registry.config_of(config(**TRAINED).to_dict()))
    assert ours(**asked()).text_queries is None
    with pytest.raises(InputError, match="text_inputs"):
        ours(**asked(), **objects(2, 1))
    with pytest.raises(InputError, match="as many as queries"):
        ours(**asked(texts=3), **objects(2, 1))


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"task_inputs": torch.zeros(2, 8).long()}, "task_inputs"),
        ({"task_inputs": None}, "task_inputs"),
        ({"text_inputs": torch.zeros(2, 4, 7).long()}, "text_inputs"),
        ({"text_inputs": torch.zeros(1, 4, 8).long()}, "text_inputs"),
        ({"text_inputs": torch.full((2, 4, 8), 50)}, "text_inputs"),
        ({"text_inputs": torch.zeros(2, 4, 8)}, "text_inputs"),
        ({"pixel_mask": torch.ones(2, 64, 45)}, "pixel_mask"),
    ],
)
def test_inputs_refused(change, where):
    ours = omniform.OneFormerModel(registry.config_of(config(**TRAINED).to_dict()))
    with pytest.raises(InputError, match=where):
        ours(**{**asked(texts=4), **change})


REFUSED = {
    "mask_dim": {"mask_dim": 32},
    "conv_dim": {"conv_dim": 48, "mask_dim": 48},
    "text_encoder_width": {**TRAINED, "text_encoder_width": 128},
    "one per 64": {**TRAINED, "text_encoder_width": 20, "text_encoder_n_ctx": 0},
}


@pytest.mark.parametrize("field", REFUSED)
def test_configs_refused(field):
    with pytest.raises(ConfigError, match=field):
        registry.config_of(config(**REFUSED[field]).to_dict())


def test_texts_in_a_checkpoint_that_nobody_trains(tmp_path):
    """As published ones are: the reader of texts is there, and read where somebody asks to train."""
    ours, theirs = pair(NAME, config(**TRAINED), tmp_path)
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "is_training": False}))
    plain = omniform.OneFormerForUniversalSegmentation.from_pretrained(tmp_path / "model")
    assert plain.model.text_mapper is None
    close(plain(**asked()).class_queries_logits, theirs(**asked(texts=4)).class_queries_logits)
    trained = omniform.OneFormerForUniversalSegmentation.from_pretrained(tmp_path / "model", is_training=True)
    close(trained(**asked(texts=4)).text_queries, ours(**asked(texts=4)).text_queries)


def test_projections_that_the_reference_never_saves(tmp_path):
    """It makes them, does not register them, and so computes with whatever lies in memory; here they are weights."""
    made = config(enforce_input_proj=True)
    transformers.OneFormerModel(made).save_pretrained(tmp_path / "theirs")
    with pytest.raises(WeightsError, match="input_projections"):
        omniform.OneFormerModel.from_pretrained(tmp_path / "theirs")
    ours = omniform.OneFormerModel(registry.config_of(made.to_dict())).eval()
    ours.save_pretrained(tmp_path / "ours")
    again = omniform.OneFormerModel.from_pretrained(tmp_path / "ours")
    field = "transformer_decoder_object_queries"
    close(again(**asked())[field], ours(**asked())[field])
