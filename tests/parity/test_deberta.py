"""DeBERTa, the first, against the reference."""

from __future__ import annotations

import pytest
from askers import Nothing, Text, Words
from harness import Head, Parity, Table, bare, classifiers, compiled, gamma

from omniform.core.errors import ConfigError
from reference import omniform, transformers

TINY = {
    "vocab_size": 97, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 3,
    "max_position_embeddings": 40, "relative_attention": True, "pos_att_type": ["c2p", "p2c"],
    "position_biased_input": False,
}  # fmt: skip


class TestDeberta(Parity):
    table = Table(
        model_type="deberta",
        config=transformers.DebertaConfig,
        tiny=TINY,
        heads={
            "Model": Head("DebertaModel", "AutoModel", Text(Nothing()), everywhere=True),
            "ForMaskedLM": Head("DebertaForMaskedLM", "AutoModelForMaskedLM", Text(Words()), everywhere=True),
            **classifiers("Deberta"),
        },
        variants={
            "plain": {},
            "from content, near": {"pos_att_type": "c2p", "max_relative_positions": 5},
            "to content, types, narrow": {"pos_att_type": ["p2c"], "type_vocab_size": 2, "position_biased_input": True},
            "absolute": {"relative_attention": False, "pos_att_type": None, "position_biased_input": True},
            "new head": {"legacy": False, "hidden_act": "relu", "layer_norm_eps": 1e-2},
            "untied": {"tie_word_embeddings": False},
        },
        spellings={"bare": bare("deberta"), "gamma": gamma, "compiled": compiled},
    )


def test_refused():
    for key, value in {"talking_head": True, "pos_att_type": ["c2p", "p2p"], "is_decoder": True}.items():
        with pytest.raises(ConfigError, match=key):
            omniform.AutoConfig.for_model("deberta", **{**TINY, key: value})
