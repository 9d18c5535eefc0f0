"""BLOOM and Falcon against the reference: slopes for positions, or rotary ones; branches in every order."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from harness import Parity, Table, bare, decoder_heads
from writers import Prompts

from omniform.core.errors import ConfigError
from reference import close, omniform, padded, ragged, saved_reference, transformers

BLOOM = {
    "vocab_size": 97, "hidden_size": 32, "n_layer": 2, "n_head": 4, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
FALCON = {
    "vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 64,
}  # fmt: skip
GROUPED = {"new_decoder_architecture": True, "num_kv_heads": 2}


PADDED = {
    "bloom": ("Bloom", BLOOM),
    "falcon": ("Falcon", {**FALCON, "alibi": True, "num_attention_heads": 8}),
    "opt": ("OPT", {"vocab_size": 97, "hidden_size": 32, "ffn_dim": 40, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 64, "pad_token_id": 0}),
}  # fmt: skip
"""Families that count what is no padding by the mask."""


@pytest.mark.parametrize("family", PADDED)
def test_padding_in_front_is_not_counted_step_by_step(tmp_path: Path, family: str) -> None:
    name, config = PADDED[family]
    made = getattr(transformers, f"{name}Config")(**config)
    theirs = saved_reference(getattr(transformers, f"{name}ForCausalLM"), made, tmp_path / "model")
    ours = omniform.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    ids, mask = padded(ragged(97, [9, 4]), side="left")
    with torch.no_grad():
        first = ours(ids[:, :6], attention_mask=mask[:, :6])
        rest = ours(ids[:, 6:], attention_mask=mask, past_key_values=first.past_key_values)
        found = torch.cat([first.logits, rest.logits], 1)
        close(found[mask.bool()], theirs(ids, attention_mask=mask).logits[mask.bool()])
        alone = theirs(ids[1:, 5:]).logits
    close(found[1:, 5:], alone)


class TestBloom(Parity):
    table = Table(
        model_type="bloom",
        config=transformers.BloomConfig,
        tiny=BLOOM,
        heads=decoder_heads("Bloom", positions=lambda mask: {}),
        variants={
            "plain": {},
            "normed stream": {"apply_residual_connection_post_layernorm": True, "layer_norm_epsilon": 1e-2},
            "six heads, untied": {"hidden_size": 24, "n_head": 6, "tie_word_embeddings": False},
        },
        writes=("ForCausalLM", Prompts()),
        spellings={"bare": bare("transformer")},
    )


def falcon(**fields: object) -> object:
    """A model of the reference cannot change its way to attend later, and the other shows wrong attentions."""
    return transformers.FalconConfig(**fields, attn_implementation="eager")


class TestFalcon(Parity):
    table = Table(
        model_type="falcon",
        config=falcon,
        config_class=transformers.FalconConfig,
        tiny=FALCON,
        heads=decoder_heads("Falcon"),
        variants={
            "plain": {},
            "grouped": {**GROUPED, "bias": True, "layer_norm_epsilon": 1e-2},
            "grouped, one norm": {**GROUPED, "num_ln_in_parallel_attn": 1, "ffn_hidden_size": 40, "activation": "relu"},
            "in order": {"parallel_attn": False, "multi_query": False, "bias": True, "tie_word_embeddings": False},
            "linear": {"rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 1e4}},
            "dynamic": {
                "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
                "max_position_embeddings": 8,
            },
        },
        writes=("ForCausalLM", Prompts()),
        writing=["plain", "grouped", "grouped, one norm", "in order"],
        spellings={"bare": bare("transformer")},
    )

    @pytest.mark.parametrize("change", [{"num_ln_in_parallel_attn": 2}, {**GROUPED, "parallel_attn": False}])
    def test_what_cannot_be_meant_is_refused(self, change: dict[str, object]) -> None:
        with pytest.raises(ConfigError, match="parallel_attn"):
            omniform.AutoConfig.for_model("falcon", **{**FALCON, **change})


class TestFalconSloped(Parity):
    """The reference adds its slopes twice where it shows attentions, so it is not asked for them."""

    table = Table(
        model_type="falcon",
        config=transformers.FalconConfig,
        tiny={**FALCON, "alibi": True},
        heads=decoder_heads("Falcon", without=["ForSequence", "ForToken", "ForQuestion"], taps=("hidden_states",)),
        variants={
            "plain": {},
            "in order": {"parallel_attn": False, "multi_query": False, "bias": True},
            "six heads": {"num_attention_heads": 6, "hidden_size": 24, "tie_word_embeddings": False},
            "grouped": GROUPED,
        },
        writes=("ForCausalLM", Prompts()),
    )
