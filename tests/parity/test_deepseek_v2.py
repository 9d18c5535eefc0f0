"""DeepSeek-V2 against the reference: what differs from DeepSeek-V3 is how experts are chosen."""

from __future__ import annotations

import pytest
from askers import Words, counted
from harness import Head, Parity, Table, bare, compiled, decoder_heads
from test_deepseek_v3 import TINY as V3
from test_deepseek_v3 import YARN, Routed
from writers import Prompts

from omniform.core.errors import ConfigError
from reference import omniform, transformers

TINY = {**V3, "n_group": None, "topk_group": None, "n_shared_experts": 2}
GROUPS = {"topk_method": "group_limited_greedy", "n_group": 3, "topk_group": 2}


class TestDeepseekV2(Parity):
    table = Table(
        model_type="deepseek_v2",
        config=transformers.DeepseekV2Config,
        tiny=TINY,
        heads={
            **decoder_heads("DeepseekV2", without=["ForQuestionAnswering", "ForTokenClassification"]),
            "ForCausalLM": Head(
                "DeepseekV2ForCausalLM", "AutoModelForCausalLM", Routed(Words(), positions=counted), everywhere=True
            ),
        },
        variants={
            "plain": {},
            "queries of the stream, biases": {"q_lora_rank": None, "attention_bias": True, "mlp_bias": True},
            "groups, scaled, tied": {**GROUPS, "routed_scaling_factor": 1.7, "tie_word_embeddings": True},
            "one group of three": {**GROUPS, "topk_group": 1, "num_experts_per_tok": 2, "norm_topk_prob": True},
            "all sparse, epsilon": {"first_k_dense_replace": 0, "rms_norm_eps": 1e-2},
            "as released": {"rope_parameters": {**YARN, "mscale": 0.707, "mscale_all_dim": 0.707}},
        },
        writes=("ForCausalLM", Prompts()),
        writing=["plain", "groups, scaled, tied", "as released"],
        spellings={"bare": bare("model"), "compiled": compiled},
        scale=0.3,
        half=0.2,  # a router that chooses another expert is no mistake of rounding
    )

    def test_what_it_does_not_have_is_refused(self) -> None:
        for wrong in (
            {"topk_method": "noaux_tc"}, {**GROUPS, "n_group": 4}, {**GROUPS, "topk_group": 4},
            {**GROUPS, "n_group": None},
        ):  # fmt: skip
            with pytest.raises(ConfigError, match=r"n_group|topk"):
                omniform.AutoConfig.for_model("deepseek_v2", **{**TINY, **wrong})
