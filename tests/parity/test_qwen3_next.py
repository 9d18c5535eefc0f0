"""Qwen3-Next against the reference: recurrent layers among layers of attention, experts, one of them shared."""

from __future__ import annotations

import torch
from askers import Places, Routed, Text, Words, counted
from harness import PIECES, Case, Head, Parity, Table, bare, build, compiled, decoder_heads, over
from writers import Prompts, in_pieces

from reference import close, ragged, transformers

TINY = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64, "linear_key_head_dim": 12,
    "linear_value_head_dim": 6, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "num_experts": 5,
    "num_experts_per_tok": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 20, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
# Keys of 12 dimensions: with 8 a query is now and then at a right angle to its key, and the norm behind magnifies what
# rounding left there (the reference is then off by 2.0e-4 from itself in float64, 2.6e-4 from itself token by token).
LINEAR, FULL = "linear_attention", "full_attention"


HEADS = decoder_heads("Qwen3Next")

TABLE = Table(
    model_type="qwen3_next",
    config=transformers.Qwen3NextConfig,
    tiny=TINY,
    heads={
        **HEADS,
        "ForCausalLM": Head(
            "Qwen3NextForCausalLM", "AutoModelForCausalLM", Routed(Words(), positions=counted), everywhere=True
        ),
        "ForQuestionAnswering": Head(
            "Qwen3NextForQuestionAnswering", "AutoModelForQuestionAnswering", Text(Places(), positions=counted)
        ),
        "ForCausalLM, recurrent only": Head(
            "Qwen3NextForCausalLM",
            "AutoModelForCausalLM",
            # The reference's cache asks for a layer of attention.
            Text(
                Words(config={"layer_types": [LINEAR] * 4}), positions=counted, more=lambda ids: {"use_cache": False},
                taps=("hidden_states",), embeds=None,
            ),
        ),
    },
    variants={
        "plain": {},
        "tied": {"tie_word_embeddings": True},
        "biases": {"attention_bias": True},
        "attention only": {"layer_types": [FULL] * 4},
        "attention first": {"layer_types": [FULL, LINEAR, LINEAR, FULL]},
        "every other": {"layer_types": [LINEAR, FULL, LINEAR, FULL]},
        "short convolution": {"linear_conv_kernel_dim": 2},
        "as many values as keys": {"linear_num_value_heads": 2},
        "every other sparse": {"decoder_sparse_step": 2},
        "some dense": {"mlp_only_layers": [0, 3]},
        "all dense": {"mlp_only_layers": [0, 1, 2, 3]},
        "one expert": {"num_experts_per_tok": 1},
        "all experts": {"num_experts_per_tok": 5},
        "weights as they are": {"norm_topk_prob": False},
        "epsilon": {"rms_norm_eps": 1e-2, "hidden_act": "gelu"},
        "all of a head": {
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0}
        },
        "half of a head": {
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.5}
        },
        "router's loss": {"output_router_logits": True, "router_aux_loss_coef": 0.5},
    },
    writes=("ForCausalLM", Prompts()),
    writing=[
        "plain", "attention only", "attention first", "every other sparse", "all dense", "biases",
    ],
    feeding=["plain", "attention only", "attention first", "every other", "short convolution"],
    spellings={"bare": bare("model"), "compiled": compiled},
    scale=0.3,
    half=0.2,  # a router that chooses another expert is no mistake of rounding
)  # fmt: skip


class TestQwen3Next(Parity):
    table = TABLE

    @over(lambda table: iter([table.case("ForCausalLM, recurrent only", scale=0.4)]))
    @torch.no_grad()
    def test_writes_without_any_keys(self, case: Case) -> None:
        built = build(case)
        feed = case.writer.feed(built.theirs.config)
        expected = built.theirs(**feed.whole(), use_cache=False).logits
        for pieces in PIECES:
            close(in_pieces(built.ours, feed, pieces), expected, f"in pieces of {pieces}")
        rows = ragged(97, [9, 4, 1])
        expected = []
        for row in rows:
            ids = row[None]
            for _ in range(8):
                ids = torch.cat((ids, built.theirs(ids, use_cache=False).logits[:, -1:].argmax(-1)), 1)
            expected.append(ids[0, len(row) :].tolist())
        settings = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
        found = built.ours.generate_batch([row.tolist() for row in rows], **settings)
        assert [list(answer.generated_tokens) for answer in found.values()] == expected
