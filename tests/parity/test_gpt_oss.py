"""gpt-oss against the reference: sinks, alternating windows, bounded experts, biases everywhere."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from harness import Parity, Table, bare, compiled, routed_heads
from writers import Prompts

from reference import omniform, saved_reference, transformers

YARN = {
    "rope_type": "yarn", "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
    "original_max_position_embeddings": 16, "rope_theta": 150000.0,
}  # fmt: skip
TINY = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64, "num_local_experts": 4,
    "num_experts_per_tok": 2, "sliding_window": 4, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "rope_parameters": YARN,
}  # fmt: skip
PLAIN = {"rope_type": "default", "rope_theta": 1e4}

TABLE = Table(
    model_type="gpt_oss",
    config=transformers.GptOssConfig,
    tiny=TINY,
    heads=routed_heads("GptOss", without=["ForQuestionAnswering"]),
    variants={
        "plain": {},
        "yarn unsaid": {"rope_parameters": None},
        "rounded yarn, tied": {"rope_parameters": {**YARN, "truncate": True}, "tie_word_embeddings": True},
        "bounds that bite": {"swiglu_limit": 0.3, "swiglu_alpha": 3.0, "rope_parameters": PLAIN},
        "no biases, full first": {
            "attention_bias": False, "layer_types": ["full_attention", "sliding_attention"], "rms_norm_eps": 1e-2
        },
        "odd sizes": {"intermediate_size": 13, "num_local_experts": 3, "num_experts_per_tok": 1, "head_dim": 6},
        "router's loss": {"output_router_logits": True, "router_aux_loss_coef": 0.5, "num_experts_per_tok": 4},
    },
    writes=("ForCausalLM", Prompts()),
    writing=["plain", "odd sizes"],
    spellings={"bare": bare("model"), "compiled": compiled},
    half=0.2,  # a router that chooses another expert is no mistake of rounding
)  # fmt: skip


class TestGptOss(Parity):
    table = TABLE


def test_plain_weights_that_are_said_to_be_packed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What the files hold counts; that the config says other than they do is said."""
    theirs = saved_reference(transformers.GptOssForCausalLM, transformers.GptOssConfig(**TINY), tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    packed = {"modules_to_not_convert": ["model.layers.*.self_attn"], "quant_method": "mxfp4"}
    old = {"initial_context_length": 4096, "experts_per_token": 2, "quantization_config": packed}
    path.write_text(json.dumps({**json.loads(path.read_text()), **old}))
    assert not omniform.AutoConfig.from_pretrained(path.parent).unknown
    with caplog.at_level(logging.WARNING, logger="omniform"):
        ours = omniform.AutoModelForCausalLM.from_pretrained(path.parent)
    assert any("(mxfp4)" in r.getMessage() for r in caplog.records)
    ids = torch.tensor([[3, 4, 5, 6, 7, 8]])
    with torch.no_grad():
        assert torch.allclose(ours(ids).logits, theirs(ids).logits, atol=1e-4)
