"""ModernBERT against the reference: windows and all tokens in turn, rotary positions with a base for either."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from askers import Choices, Labels, Nothing, Rows, Text, Words
from harness import Head, Parity, Table, bare, classifiers, compiled

from omniform.core.errors import ConfigError, InputError
from reference import close, compare, omniform, padded, ragged, saved_reference, transformers

TINY = {
    "vocab_size": 97, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 4, "num_attention_heads": 3,
    "max_position_embeddings": 60, "local_attention": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "cls_token_id": 1, "sep_token_id": 2,
}  # fmt: skip
FULL, SLIDING = "full_attention", "sliding_attention"
BIASED = dict.fromkeys(("norm_bias", "attention_bias", "mlp_bias", "classifier_bias"), True)
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8, "rope_theta": 5000.0}


def head(name: str, labels: Labels, **options: object) -> Head:
    return Head(f"ModernBert{name}", f"Auto{name.replace('For', 'ModelFor')}", Text(labels), **options)


def choices(labels: Rows) -> Head:
    return Head("ModernBertForMultipleChoice", "AutoModelForMultipleChoice", Choices(labels, lengths=(8, 7, 5)))


class TestModernBert(Parity):
    table = Table(
        model_type="modernbert",
        config=transformers.ModernBertConfig,
        tiny=TINY,
        heads={
            "Model": head("Model", Nothing(), everywhere=True),
            "ForMaskedLM": head("ForMaskedLM", Words()),
            "ForMaskedLM, untied": head("ForMaskedLM", Words(config={**BIASED, "tie_word_embeddings": False})),
            "ForMaskedLM, plain": head(
                "ForMaskedLM", Words(config={"decoder_bias": False, "classifier_activation": "relu"})
            ),
            # Padding that no window sees from sees all in one implementation and nothing in the other.
            **classifiers("ModernBert", lengths=(6, 5, 3)),
            "ForSequenceClassification, mean": head(
                "ForSequenceClassification",
                Rows(torch.tensor([1, 2, 0]), {"num_labels": 3, "classifier_pooling": "mean", **BIASED}),
            ),
            "ForMultipleChoice": choices(Rows(torch.tensor([1, 0]), {})),
            "ForMultipleChoice, mean": choices(Rows(torch.tensor([1, 0]), {"classifier_pooling": "mean"})),
        },
        variants={
            "plain": {},
            "biased": {**BIASED, "hidden_activation": "silu", "norm_eps": 1e-2},
            "every second": {"global_attn_every_n_layers": 2, "global_rope_theta": 300.0, "local_rope_theta": 20.0},
            "kinds named": {"layer_types": [SLIDING, SLIDING, FULL, SLIDING], "local_attention": 3},
            "all in full": {"layer_types": [FULL] * 4},
            "all in windows": {"layer_types": [SLIDING] * 4, "local_attention": 0},
            "scaled apart": {
                "rope_parameters": {FULL: YARN, SLIDING: {"rope_type": "linear", "factor": 2.0, "rope_theta": 50.0}}
            },
            "dynamic": {
                "rope_parameters": {FULL: {"rope_type": "dynamic", "factor": 3.0}}, "max_position_embeddings": 8
            },
        },
        spellings={"bare": bare("model"), "compiled": compiled},
    )  # fmt: skip


def test_padding_in_front(tmp_path):
    """A row told from its first place, where padding stands that no window sees from."""
    config = transformers.ModernBertConfig(**TINY)
    theirs = saved_reference(transformers.ModernBertForSequenceClassification, config, tmp_path / "model")
    ours = omniform.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    ids, mask = padded(ragged(97, [20, 7, 1]), side="left")
    for backend in ("sdpa", "eager"):
        theirs.set_attn_implementation(backend)
        ours.set_attn_implementation(backend)
        compare(ours, theirs, {"input_ids": ids, "attention_mask": mask}, ["logits"])


@torch.no_grad()
def test_loss_of_several_batches_and_sparse_scores(tmp_path):
    config = transformers.ModernBertConfig(**TINY, sparse_prediction=True)
    theirs = saved_reference(transformers.ModernBertForMaskedLM, config, tmp_path / "model")
    ids, mask = padded(ragged(97, [12, 7, 3]))
    labels = ids.masked_fill(ids % 3 > 0, -100)
    for settings in ({}, {"sparse_prediction": False}):
        ours = omniform.AutoModelForMaskedLM.from_pretrained(tmp_path / "model", **settings)
        theirs.sparse_prediction = not settings
        for items in (None, 7, torch.tensor(11)):
            given = {"input_ids": ids, "attention_mask": mask, "labels": labels, "num_items_in_batch": items}
            compare(ours, theirs, given, ["loss", "logits"])
        compare(ours, theirs, {"input_ids": ids}, ["logits"])
    with pytest.raises(ConfigError, match="sparse_pred_ignore_index"):
        omniform.AutoConfig.for_model("modernbert", **TINY, sparse_prediction=True, sparse_pred_ignore_index=-5)


def test_half_a_window(tmp_path):
    """``sliding_window`` sets ``local_attention``."""
    theirs = saved_reference(
        transformers.ModernBertModel, transformers.ModernBertConfig(**TINY, sliding_window=2), tmp_path / "m"
    )
    path = tmp_path / "m" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "local_attention": 8, "sliding_window": 2}))
    ours = omniform.AutoModel.from_pretrained(tmp_path / "m")
    compare(ours, theirs, {"input_ids": torch.stack(ragged(97, [30, 30]))}, ["last_hidden_state"])


@pytest.mark.parametrize(
    "rotary",
    [
        {"rope_scaling": {"rope_type": "linear", "factor": 3.0}, "global_rope_theta": 70.0, "local_rope_theta": 20.0},
        {"rope_parameters": {SLIDING: {"rope_theta": 5.0}}, "global_rope_theta": 90.0},
        {"rope_parameters": {FULL: {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        }}},
    ],
)  # fmt: skip
def test_rotary_settings_of_every_age(tmp_path, rotary):
    """Files hold them as they were written; the reference's class writes today's form only."""
    config = transformers.ModernBertConfig(**TINY, **copy.deepcopy(rotary))
    theirs = saved_reference(transformers.ModernBertModel, config, tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    raw = {k: v for k, v in json.loads(path.read_text()).items() if k != "rope_parameters"}
    path.write_text(json.dumps({**raw, **rotary}))
    ours = omniform.AutoModel.from_pretrained(tmp_path / "m")
    assert not ours.config.unknown
    compare(ours, theirs, {"input_ids": torch.stack(ragged(97, [30, 30]))}, ["last_hidden_state"])


def test_a_published_config():
    """The keys of ``answerdotai/ModernBERT-base``."""
    config = omniform.AutoConfig.for_model(
        "modernbert", global_attn_every_n_layers=3, global_rope_theta=160000.0, gradient_checkpointing=False,
        layer_norm_eps=1e-05, local_rope_theta=10000.0, position_embedding_type="absolute", reference_compile=True,
        repad_logits_with_grad=False, sparse_pred_ignore_index=-100,
    )  # fmt: skip
    assert not config.unknown and list(config.layer_types)[:4] == [FULL, SLIDING, SLIDING, FULL]
    with pytest.raises(ConfigError, match="layer_types"):
        omniform.AutoConfig.for_model("modernbert", **TINY, layer_types=[FULL])


def computed(model, **inputs):
    """An answer, and how many places the layers computed for it."""
    seen = []
    base = model.base_model
    handle = base.layers[0].mlp.register_forward_hook(lambda _, given, out: seen.append(given[0].shape[:2].numel()))
    out = model(**inputs)
    handle.remove()
    return out, seen[0]


GROWING = {"rope_parameters": {FULL: {"rope_type": "dynamic", "factor": 3.0}}, "max_position_embeddings": 8}


@pytest.mark.parametrize("settings", [{}, {"local_attention": 3}, GROWING])
@torch.no_grad()
def test_padding_costs_nothing(tmp_path, settings):
    """Real tokens alone are computed, and come out as the reference's; padding comes out as zeros."""
    config = transformers.ModernBertConfig(**{**TINY, **copy.deepcopy(settings)})
    theirs = saved_reference(transformers.ModernBertModel, config, tmp_path / "model")
    ours = omniform.AutoModel.from_pretrained(tmp_path / "model")
    ids, mask = padded(ragged(97, [20, 7, 1]))
    expected = theirs(ids, attention_mask=mask).last_hidden_state
    for given in ({"attention_mask": mask}, {"row_lengths": [20, 7, 1]}):
        out, places = computed(ours, input_ids=ids, **given)
        assert places == 28
        close(out.last_hidden_state, expected * mask[..., None], tolerance=1e-5)
    words = torch.randn(3, 20, 24)
    out, places = computed(ours, inputs_embeds=words, attention_mask=mask)
    expected = theirs(inputs_embeds=words, attention_mask=mask).last_hidden_state
    assert places == 28
    close(out.last_hidden_state, expected * mask[..., None], tolerance=1e-5)


def test_padding_is_computed_where_it_counts(tmp_path):
    """Under gradients, in losses of tokens, in front of rows, layer by layer, and where there is little of it."""
    config = transformers.ModernBertConfig(**TINY)
    saved_reference(transformers.ModernBertForMaskedLM, config, tmp_path / "model")
    ours = omniform.AutoModelForMaskedLM.from_pretrained(tmp_path / "model")
    ids, mask = padded(ragged(97, [20, 7, 1]))
    given = {"input_ids": ids, "attention_mask": mask}
    assert computed(ours, **given)[1] == 60
    with torch.no_grad():
        assert computed(ours, **given)[1] == 28
        assert computed(ours, **given, labels=ids)[1] == 60
        assert computed(ours, **given, output_hidden_states=True)[1] == 60
        assert computed(ours, input_ids=ids, attention_mask=mask.flip(1))[1] == 60
        assert computed(ours, input_ids=ids, attention_mask=(ids > -1).int())[1] == 60
        answers = omniform.AutoModelForQuestionAnswering.from_pretrained(tmp_path / "model")
        assert computed(answers, **given)[1] == 60
    for lengths in ([20, 7], [20, 7, 0], [21, 7, 1], 5):
        with pytest.raises(InputError, match="row_lengths"):
            ours(ids, row_lengths=lengths)
