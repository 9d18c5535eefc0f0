"""Tiny checkpoints whose blocks are divided among processes in every way there is, and processes that compute them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import omniform
from reference import saved_reference, transformers
from train_proc_fork import all_of, each

__all__ = ["MAKERS", "Made", "all_of", "answers", "differences", "each", "loaded", "made"]

SIZES = {
    "vocab_size": 67, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GROUPED = {**SIZES, "num_key_value_heads": 2, "head_dim": 8}
PICTURES = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 8,
    "patch_size": 4,
}  # fmt: skip
T5 = {
    "vocab_size": 67, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "pad_token_id": 0,
    "eos_token_id": 2, "decoder_start_token_id": 0,
}  # fmt: skip
BART = {
    "vocab_size": 67, "d_model": 32, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "encoder_layers": 2,
    "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": None,
}  # fmt: skip
DEEPSEEK = {
    **SIZES, "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
    "kv_lora_rank": 16, "q_lora_rank": 12, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8,
    "first_k_dense_replace": 1, "n_group": 2, "topk_group": 1, "num_key_value_heads": 4, "head_dim": 4,
}  # fmt: skip


@dataclass(frozen=True)
class Made:
    """A checkpoint, what loads it, and what is read beside the text; ``"none"`` for what does not write."""

    folder: Path
    auto: str
    kind: str


Maker = Callable[[], tuple[str, object, str, str]]


def _causal(name: str, kind: str = "", **given: object) -> Maker:
    def make() -> tuple[str, object, str, str]:
        config = getattr(transformers, f"{name}Config")(**given)
        return kind or f"{name}ForCausalLM", config, "AutoModelForCausalLM", "text"

    return make


def _llava() -> tuple[str, object, str, str]:
    config = transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**GROUPED), vision_config=transformers.CLIPVisionConfig(**PICTURES),
        image_token_index=3,
    )  # fmt: skip
    return "LlavaForConditionalGeneration", config, "AutoModelForImageTextToText", "picture"


def _seq2seq(name: str, **given: object) -> Maker:
    def make() -> tuple[str, object, str, str]:
        config = getattr(transformers, f"{name}Config")(**given)
        return f"{name}ForConditionalGeneration", config, "AutoModelForSeq2SeqLM", "encoded"

    return make


def _bert() -> tuple[str, object, str, str]:
    return "BertForMaskedLM", transformers.BertConfig(**SIZES), "AutoModelForMaskedLM", "none"


MAKERS: Mapping[str, Maker] = {
    "llama": _causal("Llama", **GROUPED, attention_bias=True, mlp_bias=True),
    "llama tied": _causal("Llama", **GROUPED, tie_word_embeddings=True),
    "qwen2": _causal("Qwen2", **SIZES, num_key_value_heads=2),
    "qwen3": _causal("Qwen3", **GROUPED),
    "gemma3": _causal("Gemma3Text", "Gemma3ForCausalLM", **GROUPED, sliding_window=8, query_pre_attn_scalar=8),
    "phi3": _causal("Phi3", **SIZES, num_key_value_heads=2),
    "gpt2": _causal(
        "GPT2", "GPT2LMHeadModel", vocab_size=67, n_embd=32, n_layer=2, n_head=4, n_positions=64, eos_token_id=2
    ),
    "bloom": _causal("Bloom", vocab_size=67, hidden_size=32, n_layer=2, n_head=4, eos_token_id=2),
    "gpt_neox": _causal("GPTNeoX", **SIZES),
    "olmo2": _causal("Olmo2", **SIZES, num_key_value_heads=4),
    "mixtral": _causal("Mixtral", **GROUPED, num_local_experts=5, num_experts_per_tok=2),
    "qwen2_moe": _causal(
        "Qwen2Moe", **SIZES, num_key_value_heads=2, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=24,
        shared_expert_intermediate_size=40, decoder_sparse_step=1,
    ),
    "qwen3_moe": _causal(
        "Qwen3Moe", **GROUPED, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=24, decoder_sparse_step=1
    ),
    "deepseek_v3": _causal("DeepseekV3", **DEEPSEEK),
    "gpt_oss": _causal(
        "GptOss", **GROUPED, num_local_experts=4, num_experts_per_tok=2, sliding_window=8,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "t5": _seq2seq("T5", **T5, feed_forward_proj="gated-gelu"),
    "bart": _seq2seq("Bart", **BART),
    "llava": _llava,
    "bert": _bert,
}  # fmt: skip
DEEP: Mapping[str, Maker] = {
    "llama deep": _causal("Llama", **{**GROUPED, "num_hidden_layers": 5}, tie_word_embeddings=True),
    "gemma3 deep": _causal(
        "Gemma3Text", "Gemma3ForCausalLM", **{**GROUPED, "num_hidden_layers": 6}, sliding_window=8,
        query_pre_attn_scalar=8,
    ),
    "qwen3_moe deep": _causal(
        "Qwen3Moe", **{**GROUPED, "num_hidden_layers": 4}, num_experts=6, num_experts_per_tok=2,
        moe_intermediate_size=24, decoder_sparse_step=1,
    ),
}  # fmt: skip
"""Those with layers for four processes."""
SCALES = {"t5": 0.6}


def made(name: str, folder: Path) -> Made:
    """A checkpoint with random weights, made when first asked for."""
    home = folder / name.replace(" ", "_")
    kind, config, auto, beside = {**MAKERS, **DEEP}[name]()
    if not home.exists():
        saved_reference(getattr(transformers, kind), config, home, scale=SCALES.get(name, 0.2))
    return Made(home, auto, beside)


PROMPTS = [[5, 9, 17, 30, 4, 22, 41], [8, 61, 12], [33, 7, 21, 50, 11, 9, 14, 60, 25, 36, 19, 28]]


def loaded(one: Made, **given: object) -> omniform.Model:
    return getattr(omniform, one.auto).from_pretrained(str(one.folder), **given)


def answers(one: Made, model: omniform.Model) -> dict[str, object]:
    """Scores of a plain forward, and what is written: greedily, by seeded draws, and by an engine."""
    ids = torch.tensor(PROMPTS[:1])
    inputs: dict[str, Tensor] = {"input_ids": ids}
    if one.kind == "picture":
        inputs["input_ids"] = torch.tensor([[5, 3, 3, 3, 3, *PROMPTS[0]]])
        inputs["pixel_values"] = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    if one.kind == "encoded":
        inputs["decoder_input_ids"] = torch.tensor([[0, 8, 61, 12]])
    with torch.inference_mode():
        found: dict[str, object] = {"logits": model(**inputs).logits}
    if one.kind == "none":
        return found
    found["greedy"] = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    found["beams"] = model.generate(**inputs, max_new_tokens=4, num_beams=2, do_sample=False)
    found["drawn"] = model.generate(**inputs, max_new_tokens=6, do_sample=True, seed=7, temperature=1.3)
    if one.kind == "text":
        engine = omniform.Engine(model, max_tokens_per_step=8)
        found["engine"] = [c.tokens for c in engine.generate_batch(PROMPTS, max_new_tokens=4, do_sample=False)]
        found["unseeded"] = [c.tokens for c in engine.generate_batch(PROMPTS, max_new_tokens=4, do_sample=True)]
    return found


def differences(checkpoints: Path, run: Path, world: int, names: list[str], given: Mapping[str, object]) -> list[str]:
    """What several processes find otherwise than one does; nothing, as it should be.

    Args:
        given: keywords that divide the model.
    """
    alone = {}
    for name in names:
        one = made(name, checkpoints)
        torch.manual_seed(0)
        model = loaded(one)
        alone[name] = answers(one, copy.deepcopy(model))
        alone[name]["numbers"] = sum(p.numel() for p in model.parameters())
    wrong = []
    for rank, theirs in enumerate(all_of(_together, world, run, checkpoints, names, given)):
        for name in names:
            mine, found = alone[name], theirs[name]
            off = (found["logits"] - mine["logits"]).abs().max().item() / max(1, mine["logits"].abs().max().item())
            if not off < 1e-5:
                wrong.append(f"{name}, rank {rank}: scores are off by {off:.2g}")
            for what in mine.keys() - {"logits", "numbers"}:
                same = mine[what].equal(found[what]) if isinstance(mine[what], Tensor) else mine[what] == found[what]
                if not same:
                    wrong.append(f"{name}, rank {rank}: {what}: {mine[what]} alone, {found[what]} together")
            if not found["numbers"] < mine["numbers"]:
                wrong.append(f"{name}, rank {rank}: holds all {found['numbers']} numbers")
    return wrong


def _together(
    rank: int, world: int, checkpoints: Path, names: list[str], given: Mapping[str, object]
) -> dict[str, dict[str, object]]:
    """What one of several processes finds."""
    found = {}
    for name in names:
        torch.manual_seed(rank)  # what is drawn without a seed is what the first process draws
        one = made(name, checkpoints)
        model = loaded(one, **given)
        found[name] = answers(one, model)
        found[name]["numbers"] = sum(p.numel() for p in model.parameters())
    return found
