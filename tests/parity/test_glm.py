"""GLM and GLM-4 against the reference: half of each head turned, neighbours with one another; norms on both sides."""

from __future__ import annotations

from harness import Parity, Table, bare, decoder_heads
from writers import Prompts

from reference import transformers

TINY = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": [2, 3],
}  # fmt: skip


def rope(kind: str, **settings: object) -> dict[str, object]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 1e4, "partial_rotary_factor": 0.5, **settings}}


VARIANTS = {
    "plain": {},
    "no biases": {"attention_bias": False, "rms_norm_eps": 1e-2, "head_dim": 8, "num_key_value_heads": 1},
    "tied, whole heads": {"tie_word_embeddings": True, "partial_rotary_factor": 1.0, "hidden_act": "gelu"},
    "a quarter": rope("default", partial_rotary_factor=0.25, rope_theta=500.0),
    "linear": rope("linear", factor=2.5),
    "dynamic": {**rope("dynamic", factor=2.0), "max_position_embeddings": 8},
    "yarn": rope("yarn", factor=4.0, original_max_position_embeddings=16),
}
WRITING = ["plain", "no biases", "tied, whole heads", "yarn"]


class TestGlm(Parity):
    table = Table(
        model_type="glm",
        config=transformers.GlmConfig,
        tiny=TINY,
        heads=decoder_heads("Glm", without=["ForQuestion"]),
        variants=VARIANTS,
        writes=("ForCausalLM", Prompts()),
        writing=WRITING,
        spellings={"bare": bare("model")},
    )


class TestGlm4(Parity):
    table = Table(
        model_type="glm4",
        config=transformers.Glm4Config,
        tiny=TINY,
        heads=decoder_heads("Glm4", without=["ForQuestion"]),
        variants={name: VARIANTS[name] for name in WRITING},
        writes=("ForCausalLM", Prompts()),
        writing=WRITING,
        spellings={"bare": bare("model")},
    )
