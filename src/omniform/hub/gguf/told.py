"""What of a config follows from a GGUF file besides the keys that are called by other names: rotary settings, which
biases and norms there are, what an architecture computes without saying so."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from omniform.core.errors import ConfigError
from omniform.hub.gguf.facts import Facts

GRANITE: Final = {
    "embedding_scale": "embedding_multiplier", "residual_scale": "residual_multiplier",
    "attention.scale": "attention_multiplier", "logit_scale": "logits_scaling",
}  # fmt: skip

Told = dict[str, object]


def nothing(facts: Facts) -> Told:
    """No more than the keys say."""
    return {}


def rotary(facts: Facts) -> Told:
    """The rotary settings: how fast channels turn, and how that is stretched."""
    theta = facts.number("rope.freq_base", 10000.0)
    kind = facts.text(facts.own("rope.scaling.type"), "none")
    if kind == "none" and facts.has("rope.scale_linear"):  # as the first files call it
        kind, factor = "linear", facts.number("rope.scale_linear")
    else:
        factor = facts.number("rope.scaling.factor", 1.0)
    if kind not in ("none", "linear", "yarn", "longrope"):
        raise facts.fail(facts.own("rope.scaling.type"), "none, linear, yarn or longrope", kind)
    made: Told = {"rope_theta": theta, "rope_type": "default"}
    if kind == "linear" and factor != 1.0:
        made |= {"rope_type": "linear", "factor": factor}
    elif kind == "yarn" and factor != 1.0:
        made |= {"rope_type": "yarn", "factor": factor, **_yarn(facts)}
    return {"rope_parameters": made}


def _yarn(facts: Facts) -> Told:
    found: Told = {}
    if facts.has("rope.scaling.original_context_length"):
        found["original_max_position_embeddings"] = facts.integer("rope.scaling.original_context_length")
    for name, key in (
        ("attn_factor", "attention_factor"), ("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow"),
    ):  # fmt: skip
        if facts.has(f"rope.scaling.{name}"):
            found[key] = facts.number(f"rope.scaling.{name}")
    return found


def headed(facts: Facts) -> Told:
    """Rotary settings, and heads whose width the file says, all of which turns.

    Raises:
        ConfigError: a part of each turns only, which these families do not have.
    """
    width = head_dim(facts)
    turning = facts.integer("rope.dimension_count", width)
    if turning != width:
        raise facts.fail(facts.own("rope.dimension_count"), f"the {width} numbers of a head", turning)
    return {**rotary(facts), "head_dim": width}


def head_dim(facts: Facts) -> int:
    """The width of a head."""
    usual = facts.integer("embedding_length") // max(1, facts.integer("attention.head_count"))
    return facts.integer("attention.key_length", usual)


def llama(facts: Facts) -> Told:
    """Llama and its kin: biases, and for some files experts (Mixtral)."""
    made = headed(facts)
    if facts.integer("expert_count", 0):
        experts, top = facts.integer("expert_count"), facts.integer("expert_used_count")
        return {
            **made, "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "sliding_window": None,
            "num_local_experts": experts, "num_experts_per_tok": top,
        }  # fmt: skip
    biases = {"attention_bias": "blk.0.attn_q.bias", "mlp_bias": "blk.0.ffn_gate.bias"}
    return {**made, **{key: name in facts.tensors for key, name in biases.items()}}


def partial(facts: Facts) -> Told:
    """Rotary settings of heads that turn in part."""
    made = rotary(facts)
    turning, width = facts.integer("rope.dimension_count", head_dim(facts)), head_dim(facts)
    settings = made["rope_parameters"]
    assert isinstance(settings, dict)
    return {"rope_parameters": {**settings, "partial_rotary_factor": turning / width}}


def shared_experts(facts: Facts) -> Told:
    """Experts, and one that every token goes through."""
    width = facts.shape("blk.0.ffn_up_shexp.weight")[0]
    made: Told = {"shared_expert_intermediate_size": width}
    if not facts.has("expert_feed_forward_length"):
        made["moe_intermediate_size"] = facts.shape("blk.0.ffn_up_exps.weight")[1]
    return {**rotary(facts), **made}


def olmoe(facts: Facts) -> Told:
    """The width of an expert is the file's only one."""
    return {**rotary(facts), "intermediate_size": facts.shape("blk.0.ffn_up_exps.weight")[1]}


def phi3(facts: Facts) -> Told:
    """Divisors of frequencies, which a file keeps as tensors (LongRoPE); they are put in by whoever reads tensors."""
    made = partial(facts)
    settings = made["rope_parameters"]
    assert isinstance(settings, dict)
    trained = facts.integer("rope.scaling.original_context_length", facts.integer("context_length"))
    made["original_max_position_embeddings"] = trained
    if "rope_factors_long.weight" in facts.tensors:
        settings["rope_type"] = "longrope"
        if facts.has("rope.scaling.attn_factor"):
            settings["attention_factor"] = facts.number("rope.scaling.attn_factor")
    return made


def _scalar(facts: Facts, layers: int) -> float:
    """What scores are divided by the root of: the head's width, but for the largest of a line."""
    if facts.integer("block_count") == layers:
        return facts.integer("embedding_length") / facts.integer("attention.head_count")
    return head_dim(facts)


def gemma2(facts: Facts) -> Told:
    """What scores are divided by is not in the file."""
    return {**headed(facts), "query_pre_attn_scalar": round(_scalar(facts, 46))}


def gemma3(facts: Facts) -> Told:
    """Layers with windows turn by a base of their own, and are not stretched."""
    made, scalar = headed(facts), round(_scalar(facts, 62))
    full = made.pop("rope_parameters")
    local = facts.number("rope.freq_base_swa", 10000.0)
    windows = {"rope_type": "default", "rope_theta": local}
    return {
        **made,
        "query_pre_attn_scalar": scalar,
        "rope_parameters": {"full_attention": full, "sliding_attention": windows},
    }


def stablelm(facts: Facts) -> Told:
    """Which biases and norms there are."""
    return {
        **partial(facts),
        "use_qkv_bias": "blk.0.attn_q.bias" in facts.tensors,
        "use_parallel_residual": "blk.0.ffn_norm.weight" not in facts.tensors,
        "qk_layernorm": "blk.0.attn_q_norm.weight" in facts.tensors,
    }


def starcoder2(facts: Facts) -> Told:
    """Whether there are biases."""
    return {**rotary(facts), "use_bias": "blk.0.attn_q.bias" in facts.tensors}


def neox(facts: Facts) -> Told:
    """Heads turn in part."""
    return {**partial(facts), "attention_bias": "blk.0.attn_qkv.bias" in facts.tensors}


def falcon(facts: Facts) -> Told:
    """Two norms tell the new way of decoding."""
    shared = facts.integer("attention.head_count_kv", 1)
    new = "blk.0.attn_norm_2.weight" in facts.tensors
    made: Told = {"multi_query": shared == 1, "parallel_attn": True, "alibi": False, "bias": False}
    return {**rotary(facts), **made, "new_decoder_architecture": new, "num_kv_heads": shared}


def cohere(facts: Facts) -> Told:
    """Whether queries and keys are normed."""
    return {**rotary(facts), "use_qk_norm": "blk.0.attn_q_norm.weight" in facts.tensors}


def deepseek2(facts: Facts) -> Told:
    """Latent attention, and which of the family's releases routes like this."""
    turning = facts.integer("rope.dimension_count")
    key = facts.integer("attention.key_length_mla", facts.integer("attention.key_length"))
    value = facts.integer("attention.value_length_mla", facts.integer("attention.value_length"))
    made: Told = {
        "qk_rope_head_dim": turning, "qk_nope_head_dim": key - turning, "v_head_dim": value, "head_dim": turning,
        "q_lora_rank": facts.integer("attention.q_lora_rank") if facts.has("attention.q_lora_rank") else None,
        "num_key_value_heads": facts.integer("attention.head_count"),
    }  # fmt: skip
    settings = rotary(facts)["rope_parameters"]
    assert isinstance(settings, dict)
    if settings["rope_type"] == "yarn":
        # Files keep a tenth of what configs call mscale_all_dim, and have no other mscale.
        scale = 10 * facts.number("rope.scaling.yarn_log_multiplier", 0.1)
        settings |= {"mscale": round(scale, 6), "mscale_all_dim": round(scale, 6)}
    made["rope_parameters"] = settings
    if facts.integer("expert_gating_func", 1) == 2:
        normed = facts.metadata.get(facts.own("expert_weights_norm"), False)
        return {
            **made, "model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"], "norm_topk_prob": normed,
        }  # fmt: skip
    return {**made, "norm_topk_prob": False}


def gpt_oss(facts: Facts) -> Told:
    """Frequencies are stretched without rounding where that begins."""
    made = headed(facts)
    settings = made["rope_parameters"]
    assert isinstance(settings, dict)
    if settings["rope_type"] == "yarn":
        settings["truncate"] = False
    return made


def llama3_divisors(factor: float, theta: float, dim: int) -> list[float]:
    """What Llama 3.1's frequencies are divided by, as its converter computes them: trained for 8192 tokens.

    Args:
        factor: by how much the slowest are stretched.
        theta: the base.
        dim: how many channels of a head turn.
    """
    trained, low, high = 8192, 1.0, 4.0
    made = []
    for channel in range(dim // 2):
        turns = trained * theta ** (-2 * channel / dim) / (2 * math.pi)
        blend = min(1.0, max(0.0, (turns - low) / (high - low)))
        made.append(1 / ((1 - blend) / factor + blend))
    return made


def stretched(facts: Facts, divisors: list[float], settings: Mapping[str, object]) -> Told:
    """The rotary settings that say what a file's tensor of divisors does.

    Args:
        divisors: one for every pair of channels.
        settings: those without it.

    Raises:
        ConfigError: there are more or fewer than channels.
    """
    theta = settings["rope_theta"]
    assert isinstance(theta, float)
    dim = facts.integer("rope.dimension_count", head_dim(facts))
    if len(divisors) != dim // 2:
        raise ConfigError(
            "rope_freqs.weight has a wrong size", where=facts.where, expected=str(dim // 2), found=str(len(divisors))
        )
    factor = round(max(divisors), 4)
    usual = llama3_divisors(factor, theta, dim)
    if all(math.isclose(one, other, rel_tol=1e-4) for one, other in zip(divisors, usual, strict=True)):
        return {
            "rope_theta": theta, "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
        }  # fmt: skip
    trained = facts.integer("context_length")
    return {
        "rope_theta": theta, "rope_type": "longrope", "short_factor": divisors, "long_factor": divisors,
        "attention_factor": 1.0, "original_max_position_embeddings": trained,
    }  # fmt: skip
