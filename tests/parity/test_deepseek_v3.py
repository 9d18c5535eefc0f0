"""DeepSeek-V3 against the reference: latent attention, groups of experts, some of them shared."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from askers import Question, Text, Words, counted
from harness import Case, Head, Parity, Table, bare, build, compiled, decoder_heads, over
from safetensors.torch import load_file, save_file
from writers import Prompts

from omniform.core.errors import ConfigError
from reference import close, omniform, ragged, transformers

TINY = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "q_lora_rank": 14, "kv_lora_rank": 12, "qk_rope_head_dim": 6, "qk_nope_head_dim": 10,
    "v_head_dim": 9, "n_routed_experts": 6, "n_group": 3, "topk_group": 2, "num_experts_per_tok": 3,
    "moe_intermediate_size": 16, "n_shared_experts": 1, "first_k_dense_replace": 1, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 1000.0}


@dataclass(frozen=True)
class Routed(Text):
    """The same questions, and how routers scored."""

    def questions(self, config: object) -> Iterator[Question]:
        yield from super().questions(config)
        if config.first_k_dense_replace < config.num_hidden_layers:  # type: ignore[attr-defined]
            ids, mask = self.batch()
            asked = {"input_ids": ids[:1], "output_router_logits": True, **self.labels.given(ids[:1], mask[:1])}
            yield Question(asked, ("loss", "router_logits", "logits"))


HEADS = decoder_heads("DeepseekV3", without=["ForQuestionAnswering"])

TABLE = Table(
    model_type="deepseek_v3",
    config=transformers.DeepseekV3Config,
    tiny=TINY,
    heads={
        **HEADS,
        "ForCausalLM": Head(
            "DeepseekV3ForCausalLM", "AutoModelForCausalLM", Routed(Words(), positions=counted), everywhere=True
        ),
    },
    variants={
        "plain": {},
        "queries of the stream, wide values": {"q_lora_rank": None, "v_head_dim": 20, "attention_bias": True},
        "biases, halves turn, tied": {"attention_bias": True, "rope_interleave": False, "tie_word_embeddings": True},
        "no groups, two shared": {
            "n_group": 1, "topk_group": 1, "n_shared_experts": 2, "norm_topk_prob": False,
            "routed_scaling_factor": 0.7,
        },
        "all sparse, all experts": {"first_k_dense_replace": 0, "topk_group": 3, "num_experts_per_tok": 6},
        "all dense, epsilon": {"first_k_dense_replace": 2, "rms_norm_eps": 1e-2, "hidden_act": "gelu"},
        "as released": {
            "rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0, "beta_fast": 32, "beta_slow": 1}
        },
        "yarn, apart": {"rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 0.4}},
        "yarn, plain": {"rope_parameters": YARN},
        "linear": {"rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 1e4, "mscale_all_dim": 0.5}},
        "dynamic": {
            "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
            "max_position_embeddings": 8,
        },
    },
    writes=("ForCausalLM", Prompts()),
    writing=["plain", "queries of the stream, wide values", "as released"],
    spellings={"bare": bare("model"), "compiled": compiled},
    scale=0.3,
    half=0.2,  # a router that chooses another expert is no mistake of rounding
)  # fmt: skip


class TestDeepseekV3(Parity):
    table = TABLE

    @over(lambda table: iter([table.case("ForCausalLM")]))
    def test_layers_that_look_further_ahead_are_left_out_and_said(
        self, case: Case, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        built = build(case)
        weights = load_file(built.folder / "model.safetensors")
        further = {"model.layers.2.eh_proj.weight": torch.zeros(2, 2), "model.layers.2.mlp.gate.weight": torch.zeros(2)}
        save_file({**weights, **further}, tmp_path / "model.safetensors", {"format": "pt"})
        (tmp_path / "config.json").write_text((built.folder / "config.json").read_text())
        with caplog.at_level(logging.INFO, "omniform"):
            found = omniform.AutoModelForCausalLM.from_pretrained(tmp_path)
        assert "model.layers.2.eh_proj.weight" in caplog.text
        ids = torch.stack(ragged(97, [5]))
        close(found(ids).logits, built.ours(ids).logits)

    @over(lambda table: iter([table.case("ForCausalLM")]))
    @torch.no_grad()
    def test_a_config_that_asks_for_routers(self, case: Case) -> None:
        """Also where every layer is dense: the caller may ask, and there is nothing."""
        built, ids = build(case), torch.stack(ragged(97, [5, 5]))
        asks = omniform.AutoConfig.from_pretrained(built.folder, output_router_logits=True)
        theirs = copy.deepcopy(built.theirs)
        theirs.config.output_router_logits = True
        for kind, other in ((omniform.AutoModel, theirs.model), (omniform.AutoModelForCausalLM, theirs)):
            ours = kind.from_pretrained(built.folder, config=asks)
            close(ours(ids).router_logits, other(ids).router_logits)
            assert ours(ids, output_router_logits=False).router_logits is None
            dense = kind.from_config(omniform.AutoConfig.from_pretrained(built.folder, first_k_dense_replace=2))
            assert dense(ids, output_router_logits=True).router_logits is None

    @over(lambda table: iter([table.case("ForCausalLM")]))
    def test_the_choice_of_experts_stays_in_float32(self, case: Case) -> None:
        built = build(case)
        ours = built.again(case, dtype=torch.bfloat16)
        assert ours.model.layers[1].mlp.choose.e_score_correction_bias.dtype is torch.float32
        assert ours.model.layers[1].mlp.gate.weight.dtype is torch.bfloat16

    @over(lambda table: iter([table.case("ForCausalLM")]))
    def test_what_it_does_not_have_is_refused(self, case: Case) -> None:
        for name, value in {
            "num_key_value_heads": 2, "scoring_func": "softmax", "topk_method": "greedy", "moe_layer_freq": 2,
            "n_group": 4, "topk_group": 4,
        }.items():  # fmt: skip
            with pytest.raises(ConfigError, match=name):
                omniform.AutoConfig.for_model("deepseek_v3", **{**TINY, name: value})
