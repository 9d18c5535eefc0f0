"""Llama against the reference."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from reference import (
    check_round_trip,
    close,
    compare,
    omniform,
    padded,
    ragged,
    saved_reference,
    trains,
    transformers,
    unaccounted,
    wrong_defaults,
)

TINY = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip

LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32, "rope_theta": 10000.0,
}  # fmt: skip
LONGROPE = {
    "rope_type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 3.0, 4.0, 5.0],
    "original_max_position_embeddings": 32, "factor": 2.0, "rope_theta": 10000.0,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 1000.0}

VARIANTS = {
    "plain": {},
    "grouped": {"num_key_value_heads": 2},
    "one key head": {"num_key_value_heads": 1, "head_dim": 16},
    "biases": {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 2},
    "tied": {"tie_word_embeddings": True},
    "gelu": {"hidden_act": "gelu_pytorch_tanh", "rms_norm_eps": 1e-2},
    "theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}},
    "linear": {"rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 10000.0}},
    "dynamic": {
        "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
        "max_position_embeddings": 8,
    },
    "llama3": {"rope_parameters": LLAMA3},
    "yarn": {"rope_parameters": YARN},
    "yarn untruncated": {"rope_parameters": {**YARN, "truncate": False, "beta_fast": 16.0, "beta_slow": 2.0}},
    "yarn mscale": {"rope_parameters": {**YARN, "mscale": 0.8, "mscale_all_dim": 0.4}},
    "longrope short": {"rope_parameters": LONGROPE},
    "longrope long": {"rope_parameters": {**LONGROPE, "original_max_position_embeddings": 8}},
}  # fmt: skip


def pair(tmp_path: Path, head: str = "ForCausalLM", scale: float = 0.2, **changes: object):
    config = transformers.LlamaConfig(**{**TINY, **changes})
    theirs = saved_reference(getattr(transformers, f"Llama{head}"), config, tmp_path / "model", scale=scale)
    auto = omniform.AutoModel if head == "Model" else getattr(omniform, f"AutoModel{head}")
    return auto.from_pretrained(tmp_path / "model"), theirs


@pytest.mark.parametrize("scale", [0.2, 0.02])
@pytest.mark.parametrize("variant", VARIANTS)
def test_forward(tmp_path, variant, scale):
    ours, theirs = pair(tmp_path, scale=scale, **VARIANTS[variant])
    ids, mask = padded(ragged(97, [12, 7, 1]))
    compare(ours, theirs, {"input_ids": ids}, ["logits", "hidden_states", "attentions"])
    real = mask.bool()
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(~real, -100))
        found = ours(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(~real, -100))
    close(found.logits[real], expected.logits[real])
    close(found.loss, expected.loss)
    check_round_trip(tmp_path / "model", ours, tmp_path / "again")


@pytest.mark.parametrize("variant", ["plain", "grouped", "llama3", "biases"])
def test_cached_equals_uncached(tmp_path, variant):
    ours, theirs = pair(tmp_path, **VARIANTS[variant])
    ids = torch.stack(ragged(97, [14, 14]))
    with torch.no_grad():
        whole = ours(ids).logits
        first = ours(ids[:, :9])
        second = ours(ids[:, 9:12], past_key_values=first.past_key_values)
        third = ours(ids[:, 12:13], past_key_values=second.past_key_values)
        last = ours(ids[:, 13:], past_key_values=third.past_key_values)
        close(torch.cat([first.logits, second.logits, third.logits, last.logits], 1), whole)
        close(whole, theirs(ids).logits)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_left_padding_and_positions(tmp_path, implementation):
    ours, theirs = pair(tmp_path, num_key_value_heads=2)
    ours.set_attn_implementation(implementation)
    ids, mask = padded(ragged(97, [9, 4]), side="left")
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        expected = theirs(ids, attention_mask=mask, position_ids=positions).logits
        found = ours(ids, attention_mask=mask, position_ids=positions).logits
    close(found[mask.bool()], expected[mask.bool()])


@pytest.mark.parametrize(
    ("head", "extra", "labels"),
    [
        ("Model", {}, None),
        ("ForSequenceClassification", {"num_labels": 5}, torch.tensor([1, 4, 0])),
        ("ForSequenceClassification", {"num_labels": 1}, torch.tensor([0.3, -1.0, 2.0])),
        (
            "ForSequenceClassification",
            {"num_labels": 3, "problem_type": "multi_label_classification"},
            torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
        ),
        ("ForTokenClassification", {"num_labels": 4}, torch.randint(0, 4, (3, 11))),
        ("ForQuestionAnswering", {}, None),
    ],
)
def test_heads(tmp_path, head, extra, labels):
    ours, theirs = pair(tmp_path, head, **extra)
    ids, mask = padded(ragged(97, [11, 6, 3]))
    inputs = {"input_ids": ids, "attention_mask": mask}
    fields = ["last_hidden_state"] if head == "Model" else ["loss", "logits"]
    if head == "ForQuestionAnswering":
        inputs |= {"start_positions": torch.tensor([1, 2, 0]), "end_positions": torch.tensor([3, 5, 90])}
        fields = ["loss", "start_logits", "end_logits"]
    elif labels is not None:
        inputs["labels"] = labels
    compare(ours, theirs, inputs, fields)
    check_round_trip(tmp_path / "model", ours, tmp_path / "again")
    if head != "Model":
        trains(ours, inputs)


def test_every_reference_field_is_accounted_for():
    assert not unaccounted("llama", transformers.LlamaConfig)


def test_defaults_are_the_references():
    derived = {"num_key_value_heads", "head_dim", "rope_parameters"}
    assert wrong_defaults("llama", transformers.LlamaConfig).keys() == derived
