"""BERT against the reference."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
import torch
from askers import Choices, Labels, Nothing, Rows, Text, Words, counted
from harness import Head, Parity, Table, bare, classifiers, compiled, gamma
from safetensors.torch import load_file, save_file
from writers import Prompts

from omniform.core.errors import ConfigError, InputError, WeightsError
from omniform.models.registry import config_of
from reference import (
    check_round_trip,
    close,
    compare,
    omniform,
    padded,
    ragged,
    saved_reference,
    transformers,
    unaccounted,
)

TINY = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 40,
}  # fmt: skip

AUTO = {
    "Model": "AutoModel",
    "ForPreTraining": "AutoModelForPreTraining",
    "LMHeadModel": "AutoModelForCausalLM",
    "ForMaskedLM": "AutoModelForMaskedLM",
    "ForNextSentencePrediction": "AutoModelForNextSentencePrediction",
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForMultipleChoice": "AutoModelForMultipleChoice",
    "ForTokenClassification": "AutoModelForTokenClassification",
    "ForQuestionAnswering": "AutoModelForQuestionAnswering",
}

VARIANTS = {
    "plain": {},
    "gelu_new": {"hidden_act": "gelu_new", "layer_norm_eps": 1e-2},
    "relu": {"hidden_act": "relu"},
    "types": {"type_vocab_size": 5},
    "untied": {"tie_word_embeddings": False},
    "decoder": {"is_decoder": True},
    "chunked": {"chunk_size_feed_forward": 2},
    "one head": {"num_attention_heads": 1, "num_hidden_layers": 1},
}


def types(ids):
    return {"token_type_ids": torch.arange(ids.numel()).view(ids.shape) % 2}


def head(name: str, labels: Labels, **options: object) -> Head:
    return Head(f"Bert{name}", AUTO[name], Text(labels, positions=counted, more=types), **options)


@dataclass(frozen=True)
class WordsAndNext(Words):
    """The two labels of pre-training."""

    fields: tuple[str, ...] = ("loss", "prediction_logits", "seq_relationship_logits")

    def given(self, ids, mask):
        return {**super().given(ids, mask), "next_sentence_label": torch.tensor([1, 0, 1])}


class TestBert(Parity):
    table = Table(
        model_type="bert",
        config=transformers.BertConfig,
        tiny=TINY,
        heads={
            "Model": head("Model", Nothing(("last_hidden_state", "pooler_output")), everywhere=True, but=("decoder",)),
            "ForMaskedLM": head("ForMaskedLM", Words(), everywhere=True),
            "ForPreTraining": head("ForPreTraining", WordsAndNext(), everywhere=True, but=("decoder",)),
            "Model, decoder": head("Model", Nothing(config={"is_decoder": True})),
            "LMHeadModel": head("LMHeadModel", Words(), everywhere=True),
            "ForNextSentencePrediction": head(
                "ForNextSentencePrediction", Rows(torch.tensor([1, 0, 0]), {"num_labels": 5})
            ),
            **classifiers("Bert", positions=counted, more=types),
            "ForMultipleChoice": Head(
                "BertForMultipleChoice", AUTO["ForMultipleChoice"], Choices(Rows(torch.tensor([1, 0]), {}), more=types)
            ),
        },
        variants=VARIANTS,
        writes=("LMHeadModel", Prompts()),
        writing=["decoder"],
        scale=0.3,
        spellings={"bare": bare("bert"), "gamma": gamma, "compiled": compiled},
    )


def pair(tmp_path, head="Model", scale=0.2, **changes):
    config = transformers.BertConfig(**{**TINY, **changes})
    theirs = saved_reference(getattr(transformers, f"Bert{head}"), config, tmp_path / "model", scale=scale)
    return getattr(omniform, AUTO[head]).from_pretrained(tmp_path / "model"), theirs


def same_entries(ours, theirs, inputs):
    """An index finds the same entry in both outputs."""
    with torch.no_grad():
        inputs = {**inputs, "output_hidden_states": True, "output_attentions": True}
        theirs.set_attn_implementation("eager")
        # The reference adds an empty tuple of cross-attentions where there are none.
        assert ours(**inputs).keys() == [k for k, v in theirs(**inputs).items() if v != ()]


def batch(types: int = 2):
    ids, mask = padded(ragged(97, [12, 7, 1]))
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.arange(36).view(3, 12) % types}


def test_generate(tmp_path):
    ours, theirs = pair(tmp_path, "LMHeadModel", is_decoder=True)
    ids, mask = padded(ragged(97, [9, 4]), side="left")
    settings = {"attention_mask": mask, "max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    expected = theirs.generate(ids, **settings).tolist()
    assert ours.generate(ids, **settings).tolist() == expected
    assert ours.generate(ids, token_type_ids=torch.zeros_like(ids), **settings).tolist() == expected
    with pytest.raises(InputError, match="token_type_ids"):
        ours.generate(ids, token_type_ids=mask, **settings)


def test_an_encoder_with_a_causal_head_scores_but_does_not_write(tmp_path):
    ours, theirs = pair(tmp_path, "LMHeadModel")
    compare(ours, theirs, batch(), ["logits"])
    with pytest.raises(InputError, match="does not write"):
        ours.generate(batch()["input_ids"])


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_a_mask_written_out_may_show_a_decoder_what_follows(tmp_path, backend):
    ours, theirs = pair(tmp_path, "LMHeadModel", is_decoder=True)
    seen = torch.rand(3, 1, 7, 7, generator=torch.Generator().manual_seed(3)) > 0.5
    seen |= torch.eye(7, dtype=torch.bool)
    ids = torch.stack(ragged(97, [7] * 3))
    theirs.set_attn_implementation("sdpa")  # its eager one adds truths to the scores
    ours.set_attn_implementation(backend)
    for mask in (seen, torch.zeros(3, 1, 7, 7).masked_fill(~seen, torch.finfo(torch.float32).min)):
        compare(ours, theirs, {"input_ids": ids, "attention_mask": mask}, ["logits"])


def test_the_next_sentence_is_one_of_two_whatever_the_labels(tmp_path):
    ours, theirs = pair(tmp_path, "ForNextSentencePrediction", num_labels=1)
    compare(ours, theirs, {**batch(), "labels": torch.tensor([1, 0, 1])[: len(batch()["input_ids"])]}, ["loss"])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("head", ["Model", "LMHeadModel", "ForMaskedLM"])
def test_cross_attention(tmp_path, head, masked):
    ours, theirs = pair(tmp_path, head, is_decoder=True, add_cross_attention=True)
    ids = torch.stack(ragged(97, [9, 9]))
    field = "last_hidden_state" if head == "Model" else "logits"
    compare(ours, theirs, {"input_ids": ids}, [field])
    inputs = {"encoder_hidden_states": torch.randn(2, 5, 32)}
    if masked:
        inputs["encoder_attention_mask"] = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    crossed = [] if head == "ForMaskedLM" else ["cross_attentions"]
    compare(ours, theirs, {"input_ids": ids, **inputs}, [field, "attentions", *crossed])
    if head == "LMHeadModel":
        with torch.no_grad():
            first = ours(ids[:, :3], **inputs)
            rest = ours(ids[:, 3:], past_key_values=first.past_key_values, **inputs)
            close(torch.cat([first.logits, rest.logits], 1), theirs(ids, **inputs).logits)
    check_round_trip(tmp_path / "model", ours, tmp_path / "again")


def published(theirs, folder, *, spelling):
    """Rewrite a folder the way ``bert-base-uncased`` is: old spellings, stray buffers, defaults left out."""
    weights = load_file(folder / "model.safetensors")
    renamed = {}
    for key, tensor in weights.items():
        if "gamma" in spelling:
            key = key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        if "bare" in spelling:
            key = key.removeprefix("bert.")
        renamed[key] = tensor
    if "strays" in spelling:
        renamed["bert.embeddings.position_ids"] = torch.arange(40)[None]
        renamed["cls.predictions.decoder.weight"] = weights["bert.embeddings.word_embeddings.weight"].clone()
        renamed["cls.predictions.decoder.bias"] = weights["cls.predictions.bias"].clone()
    save_file(renamed, folder / "model.safetensors", {"format": "pt"})
    config = {
        "architectures": ["BertForMaskedLM"], "attention_probs_dropout_prob": 0.1, "gradient_checkpointing": False,
        "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "initializer_range": 0.02, "layer_norm_eps": 1e-12,
        "model_type": "bert", "pad_token_id": 0, "position_embedding_type": "absolute", "type_vocab_size": 2,
        "transformers_version": "4.6.0.dev0", "use_cache": True, "directionality": "bidi", "pooler_fc_size": 768,
        "pooler_num_attention_heads": 12, "pooler_num_fc_layers": 3, "pooler_size_per_head": 128,
        "pooler_type": "first_token_transform", **TINY,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("spelling", ["as today", "gamma", "bare", "gamma strays", "gamma bare strays"])
def test_published_folder(tmp_path, spelling):
    """Pre-training weights under a config that names the masked head: every head loads from them."""
    _, theirs = pair(tmp_path, "ForPreTraining")
    folder = tmp_path / "model"
    published(theirs, folder, spelling=spelling)
    inputs = batch()
    masked, report = omniform.AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert "cls.seq_relationship.weight" in report.unused and not report.fresh and not masked.config.unknown
    both = omniform.AutoModelForPreTraining.from_pretrained(folder)
    base, report = omniform.AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not report.fresh
    with torch.no_grad():
        expected = theirs(**inputs)
        close(masked(**inputs).logits, expected.prediction_logits)
        close(both(**inputs).seq_relationship_logits, expected.seq_relationship_logits)
        close(base(**inputs).pooler_output, theirs.bert(**inputs).pooler_output)
    _, report = omniform.AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=3, output_loading_info=True
    )
    assert sorted(report.fresh) == ["classifier.bias", "classifier.weight"]


def test_a_new_pooler_is_announced(tmp_path, caplog):
    _, theirs = pair(tmp_path, "ForMaskedLM")
    with caplog.at_level("WARNING", logger="omniform"):
        base = omniform.AutoModel.from_pretrained(tmp_path / "model")
    assert "pooler.dense.weight" in caplog.text
    inputs = batch()
    with torch.no_grad():
        close(base(**inputs).last_hidden_state, theirs.bert(**inputs).last_hidden_state)


def test_foreign_weights_are_refused(tmp_path):
    pair(tmp_path)
    path = tmp_path / "model" / "model.safetensors"
    weights = load_file(path)
    save_file({**weights, "encoder.layer.0.attention.self.distance_embedding.weight": torch.ones(3, 4)}, path)
    with pytest.raises(WeightsError, match=r"unexpected .*distance_embedding"):
        omniform.AutoModel.from_pretrained(tmp_path / "model")


def test_tied_weights_stay_tied(tmp_path):
    ours, _ = pair(tmp_path, "ForMaskedLM")
    assert ours.lm_head.decoder.weight is ours.model.embed_tokens.weight
    assert ours.lm_head.decoder.bias is ours.lm_head.bias
    untied, _ = pair(tmp_path, "ForMaskedLM", tie_word_embeddings=False)
    assert untied.lm_head.decoder.weight is not untied.model.embed_tokens.weight


def test_an_untied_bias_is_saved_even_where_it_equals_the_other(tmp_path):
    """The reference would start a missing one at zero."""
    pair(tmp_path, "ForMaskedLM", tie_word_embeddings=False)
    path = tmp_path / "model" / "model.safetensors"
    weights = load_file(path)
    save_file({**weights, "cls.predictions.decoder.bias": weights["cls.predictions.bias"].clone()}, path)
    ours = omniform.AutoModelForMaskedLM.from_pretrained(path.parent)
    check_round_trip(path.parent, ours, tmp_path / "again")


@pytest.mark.parametrize("head", ["ForSequenceClassification", "ForTokenClassification", "ForMultipleChoice"])
@pytest.mark.parametrize("own", [None, 0.3])
def test_classifier_dropout(tmp_path, head, own):
    ours, theirs = pair(tmp_path, head, classifier_dropout=own, hidden_dropout_prob=0.2)
    assert ours.dropout == theirs.dropout.p == (own or 0.2)


def test_training_drops_out(tmp_path):
    inputs = batch()
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        ours, _ = pair(tmp_path, **off | {name: 0.5})
        ours.train()
        with torch.no_grad():
            assert not torch.equal(ours(**inputs)[0], ours(**inputs)[0]), name


def test_defaults_left_out():
    config = omniform.AutoConfig.for_model("bert")
    reference = transformers.BertConfig()
    for name in ("vocab_size", "hidden_size", "num_hidden_layers", "layer_norm_eps", "type_vocab_size", "hidden_act"):
        assert getattr(config, name) == getattr(reference, name)


@pytest.mark.parametrize(
    "change",
    [
        {"num_attention_heads": 5},
        {"position_embedding_type": "relative_key"},
        {"hidden_act": "gleu"},
        {"add_cross_attention": True},
        {"type_vocab_size": 0},
    ],
)
def test_bad_configs(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        config_of({"model_type": "bert", **change})


def test_bad_input(tmp_path):
    ours, _ = pair(tmp_path)
    ids = torch.stack(ragged(97, [9]))
    with pytest.raises(InputError, match="at most 40 tokens; found 41 tokens"):
        ours(torch.ones(1, 41, dtype=torch.long))
    with pytest.raises(InputError, match="at most 40"):
        ours(ids, position_ids=torch.full((1, 9), 40))
    with pytest.raises(InputError, match=r"token_type_ids.*found 2"):
        ours(ids, token_type_ids=torch.full((1, 9), 2))
    with pytest.raises(InputError, match="token_type_ids"):
        ours(ids, token_type_ids=torch.zeros(1, 8, dtype=torch.long))
    with pytest.raises(InputError, match="exactly one"):
        ours(attention_mask=torch.ones(1, 9))
    with pytest.raises(InputError, match="attention_mask"):
        ours(ids, attention_mask=torch.ones(1, 8))
    with pytest.raises(TypeError, match="token_type_ids"):
        ours(ids, token_types_ids=ids)
    with pytest.raises(InputError, match="exactly one"):
        pair(tmp_path / "choices", "ForMultipleChoice")[0]()


def test_every_reference_field_is_accounted_for():
    assert not unaccounted("bert", transformers.BertConfig)
