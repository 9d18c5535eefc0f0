"""The architectures of GGUF files: which family each is, what its metadata is called in a config, and where its tensors
lie in a checkpoint. The names are llama.cpp's (https://github.com/ggml-org/llama.cpp/tree/master/gguf-py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from omniform.hub.gguf import told
from omniform.hub.gguf.facts import Facts
from omniform.hub.gguf.places import (
    Place,
    grouped_heads,
    halves,
    interleaved_heads,
    minus_one,
    row,
    turned_each,
)

Names = Mapping[str, str | Place]
"""A tensor's name in a file, without ``.weight`` or ``.bias``, to its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """One architecture.

    Attributes:
        model_type: its family.
        writer: the class of its models that write.
        keys: names of the metadata, without the architecture's, to those of the config. Those a file lacks are left to
            the family's defaults.
        needs: of them, those that must be there.
        fixed: what every file of it means without saying so.
        told: what else of the config follows from a file.
        names: where tensors lie.
        where: what lies elsewhere in files that have a tensor of this name.
        unused: tensors that are read as a part of the config, or by nobody, by the ends of their names.
    """

    model_type: str
    writer: str
    keys: Mapping[str, str]
    needs: tuple[str, ...] = ("block_count", "embedding_length", "attention.head_count")
    fixed: Mapping[str, object] = field(default_factory=dict)
    told: Callable[[Facts], Mapping[str, object]] = told.nothing
    names: Names
    where: Mapping[str, Names] = field(default_factory=dict)
    unused: tuple[str, ...] = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


SIZES: Final = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
}
RMS: Final = {**SIZES, "attention.layer_norm_rms_epsilon": "rms_norm_eps"}
EXPERTS: Final = {"expert_count": "num_experts", "expert_used_count": "num_experts_per_tok"}

L: Final = "model.layers.{i}"
ENDS: Final[Names] = {
    "token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head",
}  # fmt: skip
ATTENTION: Final[Names] = {
    f"blk.{{i}}.attn_{name}": f"{L}.self_attn.{theirs}_proj"
    for name, theirs in (("q", "q"), ("k", "k"), ("v", "v"), ("output", "o"))
}
QK_NORMS: Final[Names] = {
    "blk.{i}.attn_q_norm": f"{L}.self_attn.q_norm", "blk.{i}.attn_k_norm": f"{L}.self_attn.k_norm",
}  # fmt: skip
TURNING_PAIRS: Final[Names] = {
    "blk.{i}.attn_q": Place(f"{L}.self_attn.q_proj", halves("attention.head_count")),
    "blk.{i}.attn_k": Place(f"{L}.self_attn.k_proj", halves("attention.head_count_kv")),
}
GATED: Final[Names] = {f"blk.{{i}}.ffn_{name}": f"{L}.mlp.{name}_proj" for name in ("gate", "up", "down")}
NORMS: Final[Names] = {
    "blk.{i}.attn_norm": f"{L}.input_layernorm", "blk.{i}.ffn_norm": f"{L}.post_attention_layernorm",
}  # fmt: skip
DECODER: Final[Names] = {**ENDS, **ATTENTION, **GATED, **NORMS}
LLAMA: Final[Names] = {**DECODER, **TURNING_PAIRS}
ROUTED: Final[Names] = {
    "blk.{i}.ffn_gate_inp": f"{L}.mlp.gate",
    **{f"blk.{{i}}.ffn_{name}_exps": f"{L}.mlp.experts.{{e}}.{name}_proj" for name in ("gate", "up", "down")},
}
MIXTRAL: Final[Names] = {
    "blk.{i}.ffn_gate_inp": f"{L}.block_sparse_moe.gate",
    **{
        f"blk.{{i}}.ffn_{name}_exps": f"{L}.block_sparse_moe.experts.{{e}}.{theirs}"
        for name, theirs in (("gate", "w1"), ("down", "w2"), ("up", "w3"))
    },
}
GEMMA: Final[Names] = {
    **DECODER,
    "output_norm": Place("model.norm", edit=minus_one),
    "blk.{i}.attn_norm": Place(f"{L}.input_layernorm", edit=minus_one),
    "blk.{i}.ffn_norm": Place(f"{L}.post_attention_layernorm", edit=minus_one),
}
SANDWICH: Final[Names] = {
    **GEMMA,
    "blk.{i}.post_attention_norm": Place(f"{L}.post_attention_layernorm", edit=minus_one),
    "blk.{i}.ffn_norm": Place(f"{L}.pre_feedforward_layernorm", edit=minus_one),
    "blk.{i}.post_ffw_norm": Place(f"{L}.post_feedforward_layernorm", edit=minus_one),
    **{f"blk.{{i}}.attn_{n}_norm": Place(f"{L}.self_attn.{n}_norm", edit=minus_one) for n in ("q", "k")},
}
AFTER: Final[Names] = {
    "blk.{i}.post_attention_norm": f"{L}.post_attention_layernorm",
    "blk.{i}.post_ffw_norm": f"{L}.post_feedforward_layernorm",
}
G: Final = "transformer.h.{i}"
GPT2: Final[Names] = {
    "token_embd": "transformer.wte", "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f", "output": "lm_head",
    "blk.{i}.attn_norm": f"{G}.ln_1", "blk.{i}.ffn_norm": f"{G}.ln_2",
    "blk.{i}.attn_qkv": Place(f"{G}.attn.c_attn", turned=True),
    "blk.{i}.attn_output": Place(f"{G}.attn.c_proj", turned=True),
    "blk.{i}.ffn_up": Place(f"{G}.mlp.c_fc", turned=True),
    "blk.{i}.ffn_down": Place(f"{G}.mlp.c_proj", turned=True),
}  # fmt: skip
FOURFOLD: Final[Names] = {
    "token_embd": "transformer.word_embeddings", "output_norm": "transformer.ln_f", "output": "lm_head",
    "blk.{i}.attn_norm": f"{G}.input_layernorm", "blk.{i}.ffn_norm": f"{G}.post_attention_layernorm",
    "blk.{i}.attn_output": f"{G}.self_attention.dense",
    "blk.{i}.ffn_up": f"{G}.mlp.dense_h_to_4h", "blk.{i}.ffn_down": f"{G}.mlp.dense_4h_to_h",
}  # fmt: skip
X: Final = "gpt_neox.layers.{i}"
NEOX: Final[Names] = {
    "token_embd": "gpt_neox.embed_in", "output_norm": "gpt_neox.final_layer_norm", "output": "embed_out",
    "blk.{i}.attn_norm": f"{X}.input_layernorm", "blk.{i}.ffn_norm": f"{X}.post_attention_layernorm",
    "blk.{i}.attn_qkv": Place(f"{X}.attention.query_key_value", interleaved_heads),
    "blk.{i}.attn_output": f"{X}.attention.dense",
    "blk.{i}.ffn_up": f"{X}.mlp.dense_h_to_4h", "blk.{i}.ffn_down": f"{X}.mlp.dense_4h_to_h",
}  # fmt: skip
DEEPSEEK: Final[Names] = {
    **DECODER, **ROUTED,
    **{
        f"blk.{{i}}.attn_{name}": f"{L}.self_attn.{theirs}"
        for name, theirs in (
            ("q_a", "q_a_proj"), ("q_a_norm", "q_a_layernorm"), ("q_b", "q_b_proj"),
            ("kv_a_mqa", "kv_a_proj_with_mqa"), ("kv_a_norm", "kv_a_layernorm"), ("kv_b", "kv_b_proj"),
        )
    },
    "blk.{i}.attn_k_b": Place(f"{L}.self_attn.kv_b_proj", edit=turned_each, join="heads", part=0),
    "blk.{i}.attn_v_b": Place(f"{L}.self_attn.kv_b_proj", join="heads", part=1),
    "blk.{i}.exp_probs_b": f"{L}.mlp.gate.e_score_correction_",
    **{f"blk.{{i}}.ffn_{name}_shexp": f"{L}.mlp.shared_experts.{name}_proj" for name in ("gate", "up", "down")},
}  # fmt: skip
OSS: Final[Names] = {
    **ENDS, **ATTENTION,
    "blk.{i}.attn_norm": f"{L}.input_layernorm",
    "blk.{i}.post_attention_norm": f"{L}.post_attention_layernorm",
    "blk.{i}.attn_sinks": Place(f"{L}.self_attn.sinks", bare=True),
    "blk.{i}.ffn_gate_inp": f"{L}.mlp.router",
    "blk.{i}.ffn_gate_exps": Place(f"{L}.mlp.experts.gate_up_proj", join="pairs", part=0, turned=True, bare=True),
    "blk.{i}.ffn_up_exps": Place(f"{L}.mlp.experts.gate_up_proj", join="pairs", part=1, turned=True, bare=True),
    "blk.{i}.ffn_down_exps": Place(f"{L}.mlp.experts.down_proj", turned=True, bare=True),
}  # fmt: skip

ARCHITECTURES: Final[Mapping[str, Architecture]] = {
    "llama": Architecture(
        model_type="llama", writer="LlamaForCausalLM", keys=RMS, told=told.llama, names={**LLAMA, **MIXTRAL}
    ),
    "smollm3": Architecture(
        model_type="smollm3", writer="SmolLM3ForCausalLM", keys=RMS, told=told.rotary, names=LLAMA
    ),
    "qwen2": Architecture(
        model_type="qwen2", writer="Qwen2ForCausalLM", keys=RMS, fixed={"use_sliding_window": False},
        told=told.rotary, names=DECODER,
    ),
    "qwen3": Architecture(
        model_type="qwen3", writer="Qwen3ForCausalLM", keys=RMS, told=told.headed, names={**DECODER, **QK_NORMS},
        fixed={"use_sliding_window": False, "attention_bias": False},
    ),
    "qwen2moe": Architecture(
        model_type="qwen2_moe", writer="Qwen2MoeForCausalLM", told=told.shared_experts,
        keys={**RMS, **EXPERTS, "expert_feed_forward_length": "moe_intermediate_size"},
        fixed={"norm_topk_prob": False, "use_sliding_window": False, "decoder_sparse_step": 1, "mlp_only_layers": []},
        names={
            **DECODER, **ROUTED, "blk.{i}.ffn_gate_inp_shexp": Place(f"{L}.mlp.shared_expert_gate", edit=row),
            **{f"blk.{{i}}.ffn_{name}_shexp": f"{L}.mlp.shared_expert.{name}_proj" for name in ("gate", "up", "down")},
        },
    ),
    "qwen3moe": Architecture(
        model_type="qwen3_moe", writer="Qwen3MoeForCausalLM", told=told.headed,
        keys={**RMS, **EXPERTS, "expert_feed_forward_length": "moe_intermediate_size"},
        fixed={"norm_topk_prob": True, "use_sliding_window": False, "decoder_sparse_step": 1, "mlp_only_layers": []},
        names={**DECODER, **QK_NORMS, **ROUTED},
    ),
    "olmoe": Architecture(
        model_type="olmoe", writer="OlmoeForCausalLM", keys={**RMS, **EXPERTS}, told=told.olmoe,
        fixed={"norm_topk_prob": False}, names={**DECODER, **QK_NORMS, **ROUTED},
    ),
    "phi3": Architecture(
        model_type="phi3", writer="Phi3ForCausalLM", keys={**RMS, "attention.sliding_window": "sliding_window"},
        fixed={"sliding_window": None}, told=told.phi3,
        names={
            **ENDS, **NORMS,
            "blk.{i}.attn_qkv": f"{L}.self_attn.qkv_proj", "blk.{i}.attn_output": f"{L}.self_attn.o_proj",
            "blk.{i}.ffn_up": f"{L}.mlp.gate_up_proj", "blk.{i}.ffn_down": f"{L}.mlp.down_proj",
        },
    ),
    "phi2": Architecture(
        model_type="phi", writer="PhiForCausalLM", keys={**SIZES, "attention.layer_norm_epsilon": "layer_norm_eps"},
        told=told.partial,
        names={
            **DECODER, "output_norm": "model.final_layernorm", "blk.{i}.attn_output": f"{L}.self_attn.dense",
            "blk.{i}.ffn_up": f"{L}.mlp.fc1", "blk.{i}.ffn_down": f"{L}.mlp.fc2",
        },
    ),
    "gemma": Architecture(
        model_type="gemma", writer="GemmaForCausalLM", keys=RMS, told=told.headed, names=GEMMA
    ),
    "gemma2": Architecture(
        model_type="gemma2", writer="Gemma2ForCausalLM", told=told.gemma2, names=SANDWICH,
        keys={
            **RMS, "attention.sliding_window": "sliding_window", "attn_logit_softcapping": "attn_logit_softcapping",
            "final_logit_softcapping": "final_logit_softcapping",
        },
    ),
    "gemma3": Architecture(
        model_type="gemma3_text", writer="Gemma3ForCausalLM", told=told.gemma3, names=SANDWICH,
        keys={**RMS, "attention.sliding_window": "sliding_window"},
    ),
    "stablelm": Architecture(
        model_type="stablelm", writer="StableLmForCausalLM", told=told.stablelm,
        keys={**SIZES, "attention.layer_norm_epsilon": "layer_norm_eps"},
        names={
            **DECODER,
            **{f"blk.{{i}}.attn_{n}_norm": f"{L}.self_attn.{n}_layernorm.norms.{{e}}" for n in ("q", "k")},
        },
    ),
    "starcoder2": Architecture(
        model_type="starcoder2", writer="Starcoder2ForCausalLM", told=told.starcoder2,
        keys={**SIZES, "attention.layer_norm_epsilon": "norm_epsilon"}, fixed={"sliding_window": None},
        names={**DECODER, "blk.{i}.ffn_up": f"{L}.mlp.c_fc", "blk.{i}.ffn_down": f"{L}.mlp.c_proj"},
    ),
    "gpt2": Architecture(
        model_type="gpt2", writer="GPT2LMHeadModel", names=GPT2,
        keys={
            "context_length": "n_positions", "embedding_length": "n_embd", "block_count": "n_layer",
            "attention.head_count": "n_head", "feed_forward_length": "n_inner",
            "attention.layer_norm_epsilon": "layer_norm_epsilon",
        },
    ),
    "gptneox": Architecture(
        model_type="gpt_neox", writer="GPTNeoXForCausalLM", names=NEOX, told=told.neox,
        keys={
            **{name: key for name, key in SIZES.items() if "kv" not in name},
            "attention.layer_norm_epsilon": "layer_norm_eps", "use_parallel_residual": "use_parallel_residual",
        },
    ),
    "falcon": Architecture(
        model_type="falcon", writer="FalconForCausalLM", told=told.falcon,
        keys={
            "context_length": "max_position_embeddings", "embedding_length": "hidden_size",
            "block_count": "num_hidden_layers", "attention.head_count": "num_attention_heads",
            "attention.layer_norm_epsilon": "layer_norm_epsilon", "feed_forward_length": "ffn_hidden_size",
        },
        names={
            **FOURFOLD, "blk.{i}.attn_qkv": Place(f"{G}.self_attention.query_key_value", grouped_heads),
            "blk.{i}.attn_norm_2": f"{G}.ln_attn",
        },
        where={"blk.0.attn_norm_2.weight": {"blk.{i}.attn_norm": f"{G}.ln_mlp"}},
    ),
    "bloom": Architecture(
        model_type="bloom", writer="BloomForCausalLM",
        keys={
            "embedding_length": "hidden_size", "block_count": "n_layer", "attention.head_count": "n_head",
            "attention.layer_norm_epsilon": "layer_norm_epsilon",
        },
        names={
            **FOURFOLD, "token_embd_norm": "transformer.word_embeddings_layernorm",
            "blk.{i}.attn_qkv": Place(f"{G}.self_attention.query_key_value", interleaved_heads),
        },
    ),
    "granite": Architecture(
        model_type="granite", writer="GraniteForCausalLM", keys={**RMS, **told.GRANITE}, told=told.llama, names=LLAMA
    ),
    "granitemoe": Architecture(
        model_type="granitemoe", writer="GraniteMoeForCausalLM", told=told.rotary,
        keys={
            **RMS, **told.GRANITE, "expert_count": "num_local_experts", "expert_used_count": "num_experts_per_tok",
        },
        names={
            **LLAMA, "blk.{i}.ffn_gate_inp": f"{L}.block_sparse_moe.router.layer",
            "blk.{i}.ffn_gate_exps": Place(f"{L}.block_sparse_moe.input_linear", join="rows", part=0),
            "blk.{i}.ffn_up_exps": Place(f"{L}.block_sparse_moe.input_linear", join="rows", part=1),
            "blk.{i}.ffn_down_exps": f"{L}.block_sparse_moe.output_linear",
        },
    ),
    "olmo": Architecture(
        model_type="olmo", writer="OlmoForCausalLM", keys={**SIZES, "attention.clamp_kqv": "clip_qkv"},
        told=told.rotary, names=LLAMA,
    ),
    "olmo2": Architecture(
        model_type="olmo2", writer="Olmo2ForCausalLM", keys=RMS, told=told.rotary,
        names={**ENDS, **ATTENTION, **GATED, **QK_NORMS, **AFTER},
    ),
    "command-r": Architecture(
        model_type="cohere", writer="CohereForCausalLM", told=told.cohere,
        keys={**SIZES, "attention.layer_norm_epsilon": "layer_norm_eps", "logit_scale": "logit_scale"},
        names={**DECODER, **QK_NORMS},
    ),
    "cohere2": Architecture(
        model_type="cohere2", writer="Cohere2ForCausalLM", told=told.headed, names=DECODER,
        keys={
            **SIZES, "attention.layer_norm_epsilon": "layer_norm_eps", "logit_scale": "logit_scale",
            "attention.sliding_window": "sliding_window",
        },
    ),
    "deepseek2": Architecture(
        model_type="deepseek_v2", writer="DeepseekV2ForCausalLM", told=told.deepseek2, names=DEEPSEEK,
        keys={
            **{name: key for name, key in RMS.items() if "kv" not in name}, "expert_count": "n_routed_experts",
            "expert_used_count": "num_experts_per_tok", "expert_shared_count": "n_shared_experts",
            "expert_feed_forward_length": "moe_intermediate_size", "expert_weights_scale": "routed_scaling_factor",
            "leading_dense_block_count": "first_k_dense_replace", "attention.kv_lora_rank": "kv_lora_rank",
            "expert_group_count": "n_group", "expert_group_used_count": "topk_group",
        },
    ),
    "gpt-oss": Architecture(
        model_type="gpt_oss", writer="GptOssForCausalLM", told=told.gpt_oss, names=OSS,
        keys={
            **{name: key for name, key in RMS.items() if "feed" not in name}, "expert_count": "num_local_experts",
            "expert_used_count": "num_experts_per_tok", "expert_feed_forward_length": "intermediate_size",
            "attention.sliding_window": "sliding_window",
        },
    ),
}  # fmt: skip
"""The architectures that are read, by the names that files give them."""
