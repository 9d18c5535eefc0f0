"""Keys that configs of every family may hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

# Keys that any config may hold and that no model computes with. The second group are settings of generation that old
# releases kept here; the engine reads them when a folder has no generation_config.json.
BOOKKEEPING = (
    "_name_or_path", "name_or_path", "_commit_hash", "transformers_version", "transformers.js_config", "auto_map",
    "return_dict", "use_return_dict", "attn_implementation",
    "_attn_implementation", "_attn_implementation_internal", "_attn_implementation_autoset", "torchscript",
    "use_bfloat16", "chunk_size_feed_forward", "pruned_heads", "finetuning_task", "task_specific_params",
    "tf_legacy_loss", "tokenizer_class", "gradient_checkpointing", "initializer_range", "is_encoder_decoder",
    "cross_attention_hidden_size", "tie_encoder_decoder", "keys_to_ignore_at_inference", "prefix", "unsloth_version",
    "unsloth_fixed", "custom_pipelines",
    "experts_implementation", "_experts_implementation", "model_type", "tie_last_hidden_states",
    "torch_dtype", "dtype", "architectures", "id2label", "label2id", "num_labels", "problem_type", "use_cache",
    "output_past", "unk_token_id",
)  # fmt: skip
GENERATION_KEYS = (
    "max_length", "max_new_tokens", "min_length", "min_new_tokens", "do_sample", "early_stopping", "num_beams",
    "num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff",
    "eta_cutoff", "repetition_penalty", "encoder_repetition_penalty", "length_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "output_scores",
    "return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values",
    "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens", "penalty_alpha", "max_time",
    "renormalize_logits", "constraints", "force_words_ids", "guidance_scale", "low_memory", "sequence_bias",
    "forced_decoder_ids", "max_initial_timestamp_index", "stop_strings", "token_healing", "watermarking_config",
    "cache_implementation", "prompt_lookup_num_tokens", "pad_token_id", "bos_token_id", "eos_token_id",
    "sep_token_id", "cls_token_id", "mask_token_id", "decoder_start_token_id",
)  # fmt: skip

ATTRIBUTES: Mapping[str, object] = {
    "architectures": None, "is_encoder_decoder": False, "output_hidden_states": False, "output_attentions": False,
    "return_dict": True, "chunk_size_feed_forward": 0, "problem_type": None, "use_cache": True, "dtype": None,
    "torch_dtype": None, "tie_word_embeddings": True, "pruned_heads": {}, "attribute_map": {}, "sub_configs": {},
    "is_decoder": False, "add_cross_attention": False, "keys_to_ignore_at_inference": ("past_key_values",),
    "has_no_defaults_at_init": False, "transformers_version": None, "_attn_implementation": "sdpa",
    "is_composition": False, "base_config_key": "", "task_specific_params": None, "tokenizer_class": None,
}  # fmt: skip
"""Attributes that every config of the ecosystem has, with their values where neither file nor family says otherwise."""


@runtime_checkable
class CountsLayers(Protocol):
    """A config that says how many layers there are."""

    num_hidden_layers: int


class PerLayer:
    """The config of each layer, which the ecosystem's caches ask for: here each layer's is the whole one."""

    def __get__(self, config: object, kind: type) -> list[object]:
        if not isinstance(config, CountsLayers):
            raise AttributeError("per_layer_config")
        return [config] * config.num_hidden_layers
