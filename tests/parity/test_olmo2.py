"""OLMo 2 against the reference: norms after branches, one norm over the queries of all heads and one over the keys."""

from __future__ import annotations

from harness import Parity, Table, bare, compiled, decoder_heads
from test_llama import LLAMA3, TINY, YARN
from writers import Prompts

from reference import transformers


class TestOlmo2(Parity):
    table = Table(
        model_type="olmo2",
        config=transformers.Olmo2Config,
        tiny=TINY,
        heads=decoder_heads("Olmo2", without=["ForQuestionAnswering", "ForTokenClassification"]),
        variants={
            "plain": {},
            "grouped": {"num_key_value_heads": 2},
            "one key head": {"num_key_value_heads": 1},
            "wide heads": {"head_dim": 12, "num_key_value_heads": 2},
            "biases": {"attention_bias": True, "num_key_value_heads": 2},
            "tied": {"tie_word_embeddings": True},
            "gelu": {"hidden_act": "gelu", "rms_norm_eps": 1e-2},
            "theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}},
            "linear": {"rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 10000.0}},
            "dynamic": {
                "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
                "max_position_embeddings": 8,
            },
            "llama3": {"rope_parameters": LLAMA3},
            "yarn": {"rope_parameters": YARN},
        },
        writes=("ForCausalLM", Prompts()),
        writing=["plain", "grouped", "wide heads", "biases", "linear", "yarn"],
        spellings={"bare": bare("model"), "compiled": compiled},
    )
