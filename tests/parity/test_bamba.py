"""Bamba and Falcon-H1 against the reference: state spaces among, or beside, attentions."""

from __future__ import annotations

from harness import Parity, Table, bare, compiled, decoder_heads
from writers import Prompts

from reference import transformers

TINY = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "mamba_n_heads": 8, "mamba_d_state": 6,
    "mamba_n_groups": 2, "mamba_chunk_size": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
CLASSIFIERS = ["ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"]


class TestBamba(Parity):
    table = Table(
        model_type="bamba",
        config=transformers.BambaConfig,
        tiny={**TINY, "attn_layer_indices": [1]},
        heads=decoder_heads("Bamba", without=CLASSIFIERS),
        variants={
            "plain": {},
            "biases, tied": {
                "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "mamba_conv_bias": False,
                "z_loss_coefficient": 0.3, "attn_layer_indices": [0],
            },
            "wide heads, epsilon": {
                "mamba_expand": 3, "mamba_d_head": 24, "mamba_n_heads": 4, "mamba_n_groups": 1, "rms_norm_eps": 1e-2,
                "mamba_d_conv": 2, "num_key_value_heads": None,
            },
        },
        writes=("ForCausalLM", Prompts()),
        spellings={"bare": bare("model"), "compiled": compiled},
        scale=0.3,
    )  # fmt: skip


class TestFalconH1(Parity):
    table = Table(
        model_type="falcon_h1",
        config=transformers.FalconH1Config,
        tiny={**TINY, "mamba_d_ssm": 48},
        heads=decoder_heads("FalconH1", without=CLASSIFIERS, taps=("hidden_states",)),
        variants={
            "plain": {},
            "factors": {
                "embedding_multiplier": 1.7, "lm_head_multiplier": 0.6, "key_multiplier": 0.8, "ssm_in_multiplier": 1.2,
                "ssm_out_multiplier": 0.7, "attention_in_multiplier": 1.3, "attention_out_multiplier": 0.9,
                "mlp_multipliers": [0.8, 1.4], "ssm_multipliers": [0.7, 1.2, 0.8, 1.1, 0.9],
            },
            "norm before the gate, biases": {
                "mamba_rms_norm": True, "attention_bias": True, "mlp_bias": True, "projectors_bias": True,
                "mamba_conv_bias": False,
            },
            "norm behind the gate, tied": {
                "mamba_rms_norm": True, "mamba_norm_before_gate": False, "tie_word_embeddings": True,
                "mamba_d_ssm": None, "rms_norm_eps": 1e-2,
            },
        },
        writes=("ForCausalLM", Prompts()),
        spellings={"bare": bare("model"), "compiled": compiled},
        scale=0.3,
    )  # fmt: skip
