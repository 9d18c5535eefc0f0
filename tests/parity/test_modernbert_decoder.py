"""ModernBERT's decoder against the reference."""

from __future__ import annotations

import pytest
import torch
from harness import Parity, Table, bare, compiled, decoder_heads
from test_modernbert import BIASED, FULL, SLIDING, TINY, YARN
from writers import Prompts

from omniform.core.errors import ConfigError
from reference import omniform, transformers


class TestModernBertDecoder(Parity):
    table = Table(
        model_type="modernbert-decoder",
        config=transformers.ModernBertDecoderConfig,
        tiny={**TINY, "num_hidden_layers": 3},
        heads=decoder_heads("ModernBertDecoder", without=["ForTokenClassification", "ForQuestionAnswering"]),
        variants={
            "plain": {},
            "biased": {**BIASED, "hidden_activation": "silu", "norm_eps": 1e-2, "decoder_bias": False},
            "untied, every second": {
                "tie_word_embeddings": False, "global_attn_every_n_layers": 2, "local_attention": 4,
                "global_rope_theta": 300.0, "local_rope_theta": 20.0, "classifier_activation": "relu",
            },
            "scaled apart": {
                "rope_parameters": {FULL: YARN, SLIDING: {"rope_type": "linear", "factor": 2.0, "rope_theta": 50.0}},
                "layer_types": [SLIDING, FULL, SLIDING],
            },
        },
        writes=("ForCausalLM", Prompts()),
        spellings={"bare": bare("model"), "compiled": compiled},
    )  # fmt: skip


def test_a_window_holds_a_token():
    for window in (None, 0, 1):
        with pytest.raises(ConfigError, match="local_attention"):
            omniform.AutoConfig.for_model("modernbert-decoder", **{**TINY, "local_attention": window})


def test_scores_grow_with_the_vocabulary():
    model = omniform.AutoModelForCausalLM.from_config(omniform.AutoConfig.for_model("modernbert-decoder", **TINY))
    model.resize_token_embeddings(101)
    assert model(torch.ones(1, 3, dtype=torch.long)).logits.shape == (1, 3, 101)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
