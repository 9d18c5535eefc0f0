"""Phi, StarCoder 2, StableLM and GPT-BigCode against the reference."""

from __future__ import annotations

from dataclasses import replace

from harness import Parity, Table, bare, decoder_heads
from writers import Prompts

from reference import transformers

TINY = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GPT = {
    "vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 48, "bos_token_id": 1,
    "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


def rope(kind: str, **settings: object) -> dict[str, object]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 1e4, **settings}}


class TestPhi(Parity):
    table = Table(
        model_type="phi",
        config=transformers.PhiConfig,
        tiny=TINY,
        heads=decoder_heads("Phi", without=["ForQuestion"]),
        variants={
            "plain": {},
            "normed heads": {"qk_layernorm": True, "num_key_value_heads": None, "layer_norm_eps": 1e-2},
            "whole heads, tied": {"partial_rotary_factor": 1.0, "tie_word_embeddings": True, "hidden_act": "relu"},
            "linear": rope("linear", factor=2.5, partial_rotary_factor=0.5),
            "dynamic": {**rope("dynamic", factor=2.0, partial_rotary_factor=0.5), "max_position_embeddings": 8},
        },
        writes=("ForCausalLM", Prompts()),
        writing=["plain", "normed heads", "whole heads, tied"],
        spellings={"bare": bare("model")},
    )


class TestStarcoder2(Parity):
    table = Table(
        model_type="starcoder2",
        config=transformers.Starcoder2Config,
        tiny=TINY,
        heads=decoder_heads("Starcoder2", without=["ForQuestion"]),
        variants={
            "plain": {},
            "window, no biases": {"sliding_window": 4, "use_bias": False, "norm_epsilon": 1e-2},
            "untied": {"tie_word_embeddings": False, "num_key_value_heads": 1, "hidden_act": "silu"},
            "yarn": rope("yarn", factor=4.0, original_max_position_embeddings=16),
        },
        writes=("ForCausalLM", Prompts()),
        spellings={"bare": bare("model")},
    )


class TestStableLm(Parity):
    table = Table(
        model_type="stablelm",
        config=transformers.StableLmConfig,
        tiny={**TINY, "partial_rotary_factor": 0.5},
        heads=decoder_heads("StableLm", without=["ForQuestion"]),
        variants={
            "plain": {},
            "parallel": {"use_parallel_residual": True, "use_qkv_bias": True, "tie_word_embeddings": True},
            "normed heads": {"qk_layernorm": True, "num_key_value_heads": 4, "layer_norm_eps": 1e-2},
            "parallel, normed": {"use_parallel_residual": True, "qk_layernorm": True, "hidden_act": "gelu"},
            "linear": rope("linear", factor=2.5, partial_rotary_factor=0.25),
        },
        writes=("ForCausalLM", Prompts()),
        writing=["plain", "parallel", "parallel, normed"],
        spellings={"bare": bare("model")},
    )


BIGCODE = decoder_heads("GPTBigCode", without=["ForQuestion"], more=lambda ids: {"token_type_ids": ids.flip(1)})


class TestGPTBigCode(Parity):
    table = Table(
        model_type="gpt_bigcode",
        config=transformers.GPTBigCodeConfig,
        tiny=GPT,
        heads={name: replace(head, rate=2e-3) for name, head in BIGCODE.items()},
        variants={
            "plain": {},
            "a key for each": {"multi_query": False, "n_inner": 40, "layer_norm_epsilon": 1e-2},
            "unscaled, untied": {"scale_attn_weights": False, "tie_word_embeddings": False},
        },
        writes=("ForCausalLM", Prompts()),
        scale=0.8,
        spellings={"bare": bare("transformer")},
    )
