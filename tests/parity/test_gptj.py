"""GPT-J, CodeGen and GPT-Neo against the reference; and what published folders of GPT's line say besides."""

from __future__ import annotations

import pytest
from harness import Parity, Table, bare, decoder_heads
from writers import Prompts

from omniform.core.errors import ConfigError
from reference import omniform, transformers

TINY = {
    "vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "rotary_dim": 4, "bos_token_id": 1,
    "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
NEO = {
    "vocab_size": 97, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_position_embeddings": 64,
    "attention_types": [[["global", "local"], 1]], "window_size": 4, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0,
}  # fmt: skip
VARIANTS = {
    "plain": {},
    "whole heads": {"rotary_dim": 8, "n_inner": 40, "layer_norm_epsilon": 1e-2, "activation_function": "relu"},
    "tied": {"tie_word_embeddings": True, "rotary_dim": 2},
}


def types(ids):
    """Token types are tokens too."""
    return {"token_type_ids": ids.flip(1)}


class TestGPTJ(Parity):
    table = Table(
        model_type="gptj",
        config=transformers.GPTJConfig,
        tiny=TINY,
        heads=decoder_heads("GPTJ", without=["ForToken"], more=types),
        variants=VARIANTS,
        writes=("ForCausalLM", Prompts()),
        spellings={"bare": bare("transformer")},
    )


class TestCodeGen(Parity):
    table = Table(
        model_type="codegen",
        config=transformers.CodeGenConfig,
        tiny=TINY,
        heads=decoder_heads("CodeGen", without=["ForSequence", "ForToken", "ForQuestion"], more=types),
        variants={**VARIANTS, "eight heads": {"n_head": 8}},
        writes=("ForCausalLM", Prompts()),
        spellings={"bare": bare("transformer")},
    )


class TestGPTNeo(Parity):
    table = Table(
        model_type="gpt_neo",
        config=transformers.GPTNeoConfig,
        tiny=NEO,
        heads=decoder_heads("GPTNeo", more=types),
        variants={
            "plain": {},
            "untied": {"tie_word_embeddings": False, "intermediate_size": 40, "activation_function": "relu"},
            "local": {"attention_types": [[["local"], 1], [["global", "local"], 1]], "num_layers": 3},
        },
        writes=("ForCausalLM", Prompts()),
        spellings={"bare": bare("transformer")},
    )


PUBLISHED = {
    "opt": {
        "_remove_final_layer_norm": False, "activation_dropout": 0.0, "do_layer_norm_before": True, "init_std": 0.02,
        "layerdrop": 0.0, "prefix": "</s>", "word_embed_proj_dim": 768, "torch_dtype": "float16",
    },
    "openai-gpt": {"afn": "gelu", "n_ctx": 512, "n_special": 0, "predict_special_tokens": True},
    "gptj": {
        "rotary": True, "scale_attn_weights": True, "summary_type": "cls_index", "summary_use_proj": True,
        "gradient_checkpointing": False, "tokenizer_class": "GPT2Tokenizer",
    },
    "gpt_neo": {
        "attention_layers": ["global", "local"] * 12, "attention_types": [[["global", "local"], 12]],
        "summary_first_dropout": 0.1, "num_layers": 24,
    },
    "gpt_bigcode": {
        "inference_runner": 0, "max_batch_size": None, "max_sequence_length": None, "pad_key_length": True,
        "pre_allocate_kv_cache": False, "validate_runner_input": True, "summary_type": "cls_index",
    },
    "starcoder2": {
        "activation_function": "gelu", "layer_norm_epsilon": 1e-5, "mlp_type": "default", "norm_type": "layer_norm",
        "scale_attn_weights": True, "attention_softmax_in_fp32": True, "rope_theta": 999999.4420358813,
    },
    "bloom": {
        "n_embed": 1024, "n_layer": 24, "num_attention_heads": 16, "offset_alibi": 100, "seq_length": 2048,
        "skip_bias_add": True, "skip_bias_add_qkv": False, "n_inner": None, "bias_dropout_fusion": True,
        "masked_softmax_fusion": True, "attention_softmax_in_fp32": True, "unk_token_id": 0,
    },
    "falcon": {"apply_residual_connection_post_layernorm": False, "alibi": True, "bias": True, "num_kv_heads": 71},
    "cohere2": {
        "cache_implementation": "hybrid", "layer_switch": 4, "order_of_interleaved_layers": "local_attn_first",
        "position_embedding_type": "rope_gptj", "rotary_pct": 1.0, "sliding_window_pattern": 4,
        "use_embedding_sharing": True, "use_gated_activation": True, "use_parallel_block": True,
        "use_parallel_embedding": False, "rope_scaling": None, "rope_theta": 50000,
    },
}  # fmt: skip
"""What ``config.json`` of published models has that the reference's classes do not know, or know by another name."""


@pytest.mark.parametrize("family", PUBLISHED)
def test_published_configs_are_known(family: str) -> None:
    assert not omniform.AutoConfig.for_model(family, **PUBLISHED[family]).unknown


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("gptj", {"rotary_dim": 512}),
        ("gptj", {"rotary_dim": 3}),
        ("codegen", {"n_head": 6, "n_embd": 24, "rotary_dim": 4}),
        ("gpt_neo", {"attention_types": [[["global", "sideways"], 12]]}),
        ("gpt_neo", {"attention_types": [[["global"], 10**12]]}),
        ("gpt_neo", {"attention_types": [3]}),
        ("gpt_bigcode", {"add_cross_attention": True}),
        ("starcoder2", {"norm_type": "rms_norm"}),
        ("bloom", {"n_inner": 7}),
        ("cohere", {"rotary_pct": 0.5}),
    ],
)
def test_what_cannot_be_meant_is_refused(family: str, change: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        omniform.AutoConfig.for_model(family, **change)
