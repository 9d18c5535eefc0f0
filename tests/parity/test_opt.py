"""OPT against the reference: positions that count real tokens, norms before or after, narrow token vectors."""

from __future__ import annotations

from harness import Parity, Table, bare, decoder_heads
from writers import Prompts

from reference import transformers

TINY = {
    "vocab_size": 97, "hidden_size": 32, "ffn_dim": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 2,
}  # fmt: skip


class TestOPT(Parity):
    table = Table(
        model_type="opt",
        config=transformers.OPTConfig,
        tiny=TINY,
        # No positions are passed: they are counted from the mask.
        heads=decoder_heads(
            "OPT",
            without=["ForToken"],
            positions=lambda mask: {},
            embeds=lambda config: config.word_embed_proj_dim,
        ),
        variants={
            "plain": {},
            "norms afterwards, narrow": {"do_layer_norm_before": False, "word_embed_proj_dim": 20},
            "narrow, untied": {"word_embed_proj_dim": 48, "tie_word_embeddings": False},
            "no last norm": {"_remove_final_layer_norm": True, "activation_function": "gelu"},
            "nothing learned": {"enable_bias": False, "layer_norm_elementwise_affine": False},
        },
        writes=("ForCausalLM", Prompts()),
        spellings={"bare": bare("model")},
    )
