"""Phi-3 against the reference: fused projections, long and short rotary factors, part of a head turned."""

from __future__ import annotations

import copy

import pytest
import torch
from harness import Case, Parity, Table, bare, build, compiled, decoder_heads, over
from writers import Prompts

from omniform.models.registry import known_families
from reference import close, ragged, transformers

TINY = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "original_max_position_embeddings": 64, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
FACTORS = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 3.0, 4.0, 5.0]}


def longrope(trained: int, **more: object) -> dict[str, object]:
    """Rows of up to ``trained`` tokens have short factors, longer ones long ones."""
    settings = {"rope_type": "longrope", "rope_theta": 1e4, **FACTORS, **more}
    return {
        "rope_parameters": {**settings, "original_max_position_embeddings": trained},
        "original_max_position_embeddings": trained,
    }


PARTLY = {"short_factor": [1.0, 1.2], "long_factor": [2.0, 5.0], "partial_rotary_factor": 0.5}

TABLE = Table(
    model_type="phi3",
    config=transformers.Phi3Config,
    tiny=TINY,
    heads=decoder_heads("Phi3", without=["ForQuestionAnswering"]),
    variants={
        "plain": {},
        "one key head": {"num_key_value_heads": 1},
        "all key heads": {"num_key_value_heads": None},
        "tied": {"tie_word_embeddings": True},
        "epsilon": {"rms_norm_eps": 1e-2, "hidden_act": "gelu"},
        "window": {"sliding_window": 4},
        "window of one": {"sliding_window": 1},
        "theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
        "half of a head": {
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
        },
        "short": longrope(32),
        "short, to the token": longrope(14),
        "long": longrope(6),
        "long, half of a head": longrope(6, **PARTLY),
        "short, half of a head": longrope(32, **PARTLY),
        "as trained": {**longrope(32), "max_position_embeddings": 32},
    },
    writes=("ForCausalLM", Prompts()),
    writing=["plain", "one key head", "window", "half of a head", "short"],
    spellings={"bare": bare("model"), "compiled": compiled},
    derived=frozenset({"num_key_value_heads", "rope_parameters"}),
)


class TestPhi3(Parity):
    table = TABLE

    @over(lambda table: iter([table.case("ForCausalLM", "short, to the token"), table.case("ForCausalLM", "long")]))
    @torch.no_grad()
    def test_rows_on_both_sides_of_what_it_was_trained_on(self, case: Case) -> None:
        built = build(case)
        for length in (1, 5, 6, 7, 13, 14, 15, 16, 30):
            ids = torch.stack(ragged(97, [length, length]))
            expected = copy.deepcopy(built.theirs)(ids).logits
            close(built.ours(ids).logits, expected, f"{length} tokens")

    @pytest.mark.parametrize("trained", [10, 12, 15])
    def test_writes_across_what_it_was_trained_on(self, trained: int) -> None:
        """The reference computes a row's keys anew when it outgrows the short factors."""
        assert "phi3" in known_families()
        table = Table(
            model_type="phi3", config=transformers.Phi3Config, tiny={**TINY, **longrope(trained)}, heads=TABLE.heads,
            writes=TABLE.writes,
        )  # fmt: skip
        built = build(table.case("ForCausalLM", scale=0.4))
        for row in ragged(97, [9, 4]):
            asked = {"max_new_tokens": 14, "do_sample": False, "pad_token_id": 0}
            mask = torch.ones_like(row)[None]
            expected = copy.deepcopy(built.theirs).generate(row[None], attention_mask=mask, **asked)
            assert built.ours.generate(row[None], **asked).tolist() == expected.tolist()
