"""Checkpoints of the reference, converted to GGUF, give the reference's own scores."""

from __future__ import annotations

import pytest
import torch

import omniform
from omniform.blocks.moe import Stacked
from omniform.native.library import library
from omniform.transforms import packed, stacks
from omniform.transforms.lower import LoweredLayers, lowered_reason
from omniform.transforms.packed import Packed, PackedLinear
from omniform.transforms.stacks import BlockStack
from omniform.weights.origin import origin_of
from reference import TOLERANCE, randomise, transformers

pytest.importorskip("gguf")
import gguf_written

T = transformers
SIZE = 288
TEXT = {
    "vocab_size": SIZE, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 128, "pad_token_id": None, "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
SHARED = {**TEXT, "num_key_value_heads": 2}
THETA = {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}}
SIZES = {
    ".context_length": 128, ".embedding_length": 64, ".feed_forward_length": 96, ".block_count": 2,
    ".attention.head_count": 4, ".attention.head_count_kv": 2,
}  # fmt: skip
RMS = {**SIZES, ".attention.layer_norm_rms_epsilon": 1e-6, ".rope.freq_base": 5000.0}
LAYER = {**SIZES, ".attention.layer_norm_epsilon": 1e-5, ".rope.freq_base": 5000.0}
EXPERTS = {".expert_count": 4, ".expert_used_count": 2}
ROUTED = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
EPS = {"rms_norm_eps": 1e-6}
DEEPSEEK = {
    **TEXT, **EPS, **THETA, "kv_lora_rank": 32, "q_lora_rank": 48, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8,
    "v_head_dim": 16, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 2,
    "moe_intermediate_size": 32, "first_k_dense_replace": 1, "routed_scaling_factor": 1.5,
}  # fmt: skip
DEEPSEEK_TOLD = {
    **RMS, **EXPERTS, ".attention.head_count_kv": 4, ".attention.key_length": 24, ".attention.value_length": 16,
    ".rope.dimension_count": 8, ".attention.q_lora_rank": 48, ".attention.kv_lora_rank": 32, ".expert_shared_count": 2,
    ".expert_feed_forward_length": 32, ".expert_weights_scale": 1.5, ".leading_dense_block_count": 1,
}  # fmt: skip

# By name: the architecture, the reference's class and settings, and what the converter writes of them.
CASES = {
    "llama": ("llama", T.LlamaForCausalLM, {**SHARED, **EPS, **THETA}, {**RMS, ".rope.dimension_count": 16}),
    "llama with biases": (
        "llama", T.LlamaForCausalLM, {**SHARED, **EPS, **THETA, "attention_bias": True, "mlp_bias": True}, RMS,
    ),
    "llama of wide heads": (
        "llama", T.LlamaForCausalLM, {**SHARED, **EPS, **THETA, "head_dim": 32},
        {**RMS, ".attention.key_length": 32, ".attention.value_length": 32, ".rope.dimension_count": 32},
    ),
    "tied llama": ("llama", T.LlamaForCausalLM, {**SHARED, **EPS, **THETA, "tie_word_embeddings": True}, RMS),
    "linear llama": (
        "llama", T.LlamaForCausalLM,
        {**SHARED, **EPS, "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0}},
        {**RMS, ".rope.scaling.type": "linear", ".rope.scaling.factor": 4.0},
    ),
    "yarn": (
        "qwen2", T.Qwen2ForCausalLM,
        {**SHARED, **EPS, "rope_parameters": {
            "rope_type": "yarn", "factor": 4.0, "rope_theta": 5000.0, "original_max_position_embeddings": 32}},
        {**RMS, ".rope.scaling.type": "yarn", ".rope.scaling.factor": 4.0,
         ".rope.scaling.original_context_length": 32},
    ),
    "mistral": ("llama", T.MistralForCausalLM, {**SHARED, **EPS, **THETA, "sliding_window": None}, RMS),
    "mixtral": (
        "llama", T.MixtralForCausalLM,
        {**SHARED, **EPS, **THETA, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
        {**RMS, **EXPERTS},
    ),
    "smollm3": ("smollm3", T.SmolLM3ForCausalLM, {**SHARED, **EPS, **THETA, "num_hidden_layers": 4},
                {**RMS, ".block_count": 4}),
    "qwen2": ("qwen2", T.Qwen2ForCausalLM, {**SHARED, **EPS, **THETA}, RMS),
    "qwen3": (
        "qwen3", T.Qwen3ForCausalLM, {**SHARED, **EPS, **THETA, "head_dim": 32},
        {**RMS, ".attention.key_length": 32, ".attention.value_length": 32},
    ),
    "qwen2moe": (
        "qwen2moe", T.Qwen2MoeForCausalLM, {**SHARED, **EPS, **THETA, **ROUTED, "shared_expert_intermediate_size": 64},
        {**RMS, **EXPERTS, ".expert_feed_forward_length": 32, ".expert_shared_feed_forward_length": 64},
    ),
    "qwen3moe": (
        "qwen3moe", T.Qwen3MoeForCausalLM, {**SHARED, **EPS, **THETA, **ROUTED, "head_dim": 32, "norm_topk_prob": True},
        {**RMS, **EXPERTS, ".expert_feed_forward_length": 32, ".attention.key_length": 32},
    ),
    "olmoe": (
        "olmoe", T.OlmoeForCausalLM, {**SHARED, **EPS, **THETA, "num_experts": 4, "num_experts_per_tok": 2},
        {**RMS, **EXPERTS},
    ),
    "phi3": ("phi3", T.Phi3ForCausalLM, {**SHARED, **EPS, **THETA}, {**RMS, ".rope.dimension_count": 16}),
    "phi3 turning in part": (
        "phi3", T.Phi3ForCausalLM,
        {**SHARED, **EPS, "rope_parameters": {**THETA["rope_parameters"], "partial_rotary_factor": 0.5}},
        {**RMS, ".rope.dimension_count": 8},
    ),
    "phi2": (
        "phi2", T.PhiForCausalLM,
        {**SHARED, "rope_parameters": {**THETA["rope_parameters"], "partial_rotary_factor": 0.5}},
        {**LAYER, ".rope.dimension_count": 8},
    ),
    "gemma": (
        "gemma", T.GemmaForCausalLM, {**SHARED, **EPS, **THETA, "head_dim": 32},
        {**RMS, ".attention.key_length": 32, ".attention.value_length": 32},
    ),
    "gemma2": (
        "gemma2", T.Gemma2ForCausalLM,
        {**SHARED, **EPS, **THETA, "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 8,
         "attn_logit_softcapping": 30.0, "final_logit_softcapping": 20.0},
        {**RMS, ".attention.key_length": 32, ".attention.value_length": 32, ".attention.sliding_window": 8,
         ".attn_logit_softcapping": 30.0, ".final_logit_softcapping": 20.0},
    ),
    "gemma3": (
        "gemma3", T.Gemma3ForCausalLM,
        {**SHARED, **EPS, "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 8, "num_hidden_layers": 7,
         "rope_parameters": {
             "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5000.0},
             "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}},
        {**RMS, ".block_count": 7, ".attention.key_length": 32, ".attention.value_length": 32,
         ".attention.sliding_window": 8, ".rope.scaling.type": "linear", ".rope.scaling.factor": 8.0},
    ),
    "stablelm": (
        "stablelm", T.StableLmForCausalLM,
        {**SHARED, "rope_parameters": {**THETA["rope_parameters"], "partial_rotary_factor": 0.25},
         "use_qkv_bias": True},
        {**LAYER, ".rope.dimension_count": 4},
    ),
    "parallel stablelm with norms": (
        "stablelm", T.StableLmForCausalLM,
        {**SHARED, "rope_parameters": {**THETA["rope_parameters"], "partial_rotary_factor": 0.25},
         "qk_layernorm": True, "use_parallel_residual": True},
        {**LAYER, ".rope.dimension_count": 4},
    ),
    "starcoder2": ("starcoder2", T.Starcoder2ForCausalLM, {**SHARED, **THETA, "norm_epsilon": 1e-5}, LAYER),
    "gpt2": (
        "gpt2", T.GPT2LMHeadModel,
        {"vocab_size": SIZE, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128, "n_inner": 96,
         "bos_token_id": 0, "eos_token_id": 1},
        {key: value for key, value in LAYER.items() if "kv" not in key and "rope" not in key},
    ),
    "gptneox": (
        "gptneox", T.GPTNeoXForCausalLM,
        {**TEXT, "rope_parameters": {**THETA["rope_parameters"], "partial_rotary_factor": 0.25},
         "use_parallel_residual": False},
        {**{key: value for key, value in LAYER.items() if "kv" not in key}, ".rope.dimension_count": 4,
         ".use_parallel_residual": False},
    ),
    "falcon": (
        "falcon", T.FalconForCausalLM, {**TEXT, **THETA, "new_decoder_architecture": False, "multi_query": True},
        {**LAYER, ".attention.head_count_kv": 1, ".feed_forward_length": 256},
    ),
    "new falcon": (
        "falcon", T.FalconForCausalLM,
        {**TEXT, **THETA, "new_decoder_architecture": True, "num_kv_heads": 2, "multi_query": False},
        {**LAYER, ".feed_forward_length": 256},
    ),
    "bloom": (
        "bloom", T.BloomForCausalLM,
        {"vocab_size": SIZE, "hidden_size": 64, "n_layer": 2, "n_head": 4, "bos_token_id": 0, "eos_token_id": 1},
        {key: value for key, value in {**LAYER, ".feed_forward_length": 256, ".attention.head_count_kv": 4}.items()
         if "rope" not in key},
    ),
    "granite": (
        "granite", T.GraniteForCausalLM,
        {**SHARED, **EPS, **THETA, "embedding_multiplier": 6.0, "residual_multiplier": 0.25,
         "attention_multiplier": 0.1, "logits_scaling": 4.0},
        {**RMS, ".embedding_scale": 6.0, ".residual_scale": 0.25, ".attention.scale": 0.1, ".logit_scale": 4.0},
    ),
    "granitemoe": (
        "granitemoe", T.GraniteMoeForCausalLM,
        {**SHARED, **EPS, **THETA, "num_local_experts": 4, "num_experts_per_tok": 2, "embedding_multiplier": 6.0,
         "residual_multiplier": 0.25, "attention_multiplier": 0.1, "logits_scaling": 4.0},
        {**RMS, **EXPERTS, ".embedding_scale": 6.0, ".residual_scale": 0.25, ".attention.scale": 0.1,
         ".logit_scale": 4.0},
    ),
    "olmo": (
        "olmo", T.OlmoForCausalLM, {**SHARED, **THETA, "clip_qkv": 2.5},
        {**LAYER, ".attention.clamp_kqv": 2.5},
    ),
    "olmo2": ("olmo2", T.Olmo2ForCausalLM, {**SHARED, **EPS, **THETA}, RMS),
    "command-r": (
        "command-r", T.CohereForCausalLM, {**SHARED, **THETA, "logit_scale": 0.25, "use_qk_norm": True},
        {**LAYER, ".logit_scale": 0.25},
    ),
    "cohere2": (
        "cohere2", T.Cohere2ForCausalLM,
        {**SHARED, **THETA, "logit_scale": 0.25, "sliding_window": 8, "num_hidden_layers": 4, "head_dim": 16},
        {**LAYER, ".block_count": 4, ".logit_scale": 0.25, ".attention.sliding_window": 8, ".rope.dimension_count": 16},
    ),
    "deepseek2": ("deepseek2", T.DeepseekV2ForCausalLM, DEEPSEEK, DEEPSEEK_TOLD),
    "deepseek3": (
        "deepseek2", T.DeepseekV3ForCausalLM,
        {**DEEPSEEK, "n_group": 2, "topk_group": 1, "norm_topk_prob": True, "num_key_value_heads": 4},
        {**DEEPSEEK_TOLD, ".expert_gating_func": 2, ".expert_weights_norm": True, ".expert_group_count": 2,
         ".expert_group_used_count": 1},
    ),
    "gpt-oss": (
        "gpt-oss", T.GptOssForCausalLM,
        {**SHARED, **EPS, "head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8,
         "rope_parameters": {
             "rope_type": "yarn", "factor": 4.0, "rope_theta": 5000.0, "original_max_position_embeddings": 32,
             "truncate": False}},
        {**RMS, **EXPERTS, ".expert_feed_forward_length": 96, ".attention.key_length": 16,
         ".attention.sliding_window": 8, ".rope.scaling.type": "yarn", ".rope.scaling.factor": 4.0,
         ".rope.scaling.original_context_length": 32},
    ),
}  # fmt: skip


def made(folder, name, kinds=None):
    """The reference's model, and the file that the converter makes of it."""
    arch, kind, settings, told = CASES[name]
    model = randomise(kind(kind.config_class(**settings)).eval(), seed=1, scale=0.1)
    model.save_pretrained(folder / "plain")
    tensors = gguf_written.converted(arch, folder / "plain")
    metadata = {**told, **gguf_written.vocabulary(SIZE)}
    return model, gguf_written.written(folder / "model.gguf", arch, metadata, tensors, kinds)


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_scores_are_the_references(name, tmp_path):
    model, path = made(tmp_path, name)
    ours = omniform.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name)
    assert type(ours).__name__ == type(model).__name__ or name == "mistral"
    ids = torch.randint(5, SIZE, (2, 24), generator=torch.Generator().manual_seed(0))
    expected, found = model(ids).logits, ours(ids).logits
    assert float(expected.std()) > 0.01
    assert float((found - expected).abs().max() / expected.abs().max()) < TOLERANCE / 10


ROUTED_CASES = ("mixtral", "qwen2moe", "qwen3moe", "olmoe", "granitemoe", "deepseek2", "deepseek3", "gpt-oss")
"""Those with experts."""


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_packed_is_the_same(name, tmp_path, monkeypatch):
    """Every linear layer stays in its blocks, however the checkpoint fuses or turns it, and computes what it did."""
    for module in (packed, stacks):
        monkeypatch.setattr(module, "library", lambda: None)  # kernels round what they read
    types = gguf_written.TYPES
    _, path = made(tmp_path, name, {"norm.weight": types.F32, "ffn_down.weight": types.Q5_0, "weight": types.Q8_0})
    ours = omniform.AutoModelForCausalLM.from_pretrained(path)
    plain = omniform.AutoModelForCausalLM.from_pretrained(path, dequantize=True)
    ids = torch.randint(5, SIZE, (2, 24), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(ids).logits, plain(ids).logits, rtol=1e-4, atol=1e-4)
    left = [path for path, module in ours.named_modules() if type(module) is torch.nn.Linear]
    kept = [path for path, module in ours.named_modules() if isinstance(module, PackedLinear)]
    allowed = ("gate", "q_b_proj", "kv_b_proj") if name in ROUTED_CASES else ()
    assert not [path for path in left if not path.endswith(allowed)] if allowed else not left
    assert len(kept) >= 6
    assert not [path for path, module in ours.named_modules() if type(module) is Stacked]
    assert (name in ROUTED_CASES) is any(isinstance(module, BlockStack) for module in ours.modules())
    for path, module in ours.named_modules():
        if isinstance(module, Packed | BlockStack):
            assert torch.equal(module.weight, plain.get_submodule(path).weight), path


@pytest.mark.skipif(library() is None, reason="no native kernels here")
@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0", "Q5_1"])
@pytest.mark.parametrize("name", ROUTED_CASES)
@torch.no_grad()
def test_experts_stay_in_their_blocks(name, kind, tmp_path):
    """Programs, and stacks called one by one, compute in the file's codes; bytes are views of the file."""
    types = gguf_written.TYPES
    _, path = made(tmp_path, name, {"norm.weight": types.F32, "exps.weight": types[kind]})
    ours = omniform.AutoModelForCausalLM.from_pretrained(path)
    plain = omniform.AutoModelForCausalLM.from_pretrained(path, dequantize=True)
    ids = torch.randint(5, SIZE, (2, 24), generator=torch.Generator().manual_seed(0))
    expected = plain(ids).logits
    held = [module for module in ours.modules() if isinstance(module, BlockStack)]
    assert held and all(origin_of(part) for module in held for part in module.buffers()), "views of the file"
    one_by_one = ours(ids).logits
    assert all(stacks.packed_bytes(module) for module in held)
    assert 0 < float((one_by_one - expected).norm() / expected.norm()) < 0.01
    engine = omniform.Engine(ours, memory="64MB")
    rows = [[5, 9, 11], [7, 8, 40, 41, 42, 43, 44, 45, 46], [100]]
    told = [{"max_new_tokens": 6}] * len(rows)
    together = [done.tokens for done in engine.generate_batch(rows, told)]
    assert together == [engine.generate_batch([row], told[:1])[0].tokens for row in rows]
    reasons = {lowered_reason(m) for m in ours.modules() if isinstance(m, LoweredLayers)}
    assert reasons == {""} or all("Latent" in reason for reason in reasons)
    ours.save_pretrained(tmp_path / "again")
    again = omniform.AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    assert torch.equal(again(ids).logits, expected)
