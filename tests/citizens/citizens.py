"""Tiny models of every family, made by omniform alone, and inputs for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

import torch
from citizens_covering import COVERING
from torch import Tensor

import omniform
from omniform.architectures.model import Model
from omniform.architectures.named import PreTrainedModel
from omniform.models import registry
from omniform.models.registry import known_families

Inputs = dict[str, object]
Axes = Mapping[str, Mapping[int, str]]

BATCH, LENGTH = "batch", "length"

TEXT = {
    "vocab_size": 61, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 48, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.4,
}  # fmt: skip
DISTIL = {
    "vocab_size": 61, "dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 48,
    "initializer_range": 0.4, "sinusoidal_pos_embds": True,
}  # fmt: skip
GROUPED = {**TEXT, "num_key_value_heads": 2}
CONVNEXT = {"num_stages": 2, "hidden_sizes": [8, 12], "depths": [1, 1], "initializer_range": 0.4}
VISION = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 8,
    "patch_size": 4, "initializer_range": 0.4,
}  # fmt: skip
SHAPED = {**{key: value for key, value in VISION.items() if key != "image_size"}, "num_patches": 9}
BLIP = {
    "text_config": {**TEXT, "sep_token_id": 2}, "vision_config": VISION, "projection_dim": 8,
    "image_text_hidden_size": 8,
}  # fmt: skip
TROCR = {
    "vocab_size": 61, "d_model": 16, "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 20,
    "max_position_embeddings": 40, "cross_attention_hidden_size": 16, "initializer_range": 0.4,
}  # fmt: skip
QFORMER = {
    "vocab_size": 61, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 24, "encoder_hidden_size": 16, "initializer_range": 0.4,
}  # fmt: skip
BLIP2 = {
    "vision_config": VISION, "qformer_config": {**QFORMER, "use_qformer_text_input": True}, "num_query_tokens": 2,
    "image_token_index": 60, "image_text_hidden_size": 8, "initializer_range": 0.4,
    "text_config": {
        "model_type": "opt", "vocab_size": 61, "hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 48, "word_embed_proj_dim": 16, "initializer_range": 0.4,
    },
}  # fmt: skip
BLIP2_T5 = {
    "model_type": "t5", "vocab_size": 61, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 1, "num_heads": 2,
    "decoder_start_token_id": 0,
}  # fmt: skip
INSTRUCT = {**BLIP2, "qformer_config": QFORMER, "text_config": {**GROUPED, "model_type": "llama"}}
AST = {key: value for key, value in VISION.items() if key != "image_size"}
SEGFORMER = {
    "num_encoder_blocks": 2, "depths": [1, 1], "hidden_sizes": [8, 12], "num_attention_heads": [1, 2],
    "sr_ratios": [2, 1], "patch_sizes": [7, 3], "strides": [4, 2], "mlp_ratios": [2, 2], "decoder_hidden_size": 8,
    "initializer_range": 0.4,
}  # fmt: skip
BEIT = {
    **VISION, "num_hidden_layers": 4, "out_indices": [1, 2, 3, 4], "use_relative_position_bias": True,
    "use_shared_relative_position_bias": True, "auxiliary_channels": 4,
}  # fmt: skip
SECTIONS = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 0]}}
SEEING = {"image_token_id": 4, "video_token_id": 5}
PATCHES = {
    "depth": 1, "hidden_size": 16, "out_hidden_size": 16, "intermediate_size": 20, "num_heads": 2, "patch_size": 2,
    "initializer_range": 0.4,
}  # fmt: skip
DEEP_PATCHES = {**PATCHES, "num_position_embeddings": 9, "deepstack_visual_indexes": [0]}
SWIN = {
    "image_size": 8, "patch_size": 2, "embed_dim": 8, "depths": [2, 1], "num_heads": [2, 2], "window_size": 2,
    "initializer_range": 0.4,
}  # fmt: skip
CLAP = {
    "spec_size": 16, "num_mel_bins": 8, "patch_size": 2, "patch_stride": 2, "patch_embeds_hidden_size": 8,
    "depths": [2, 1], "num_attention_heads": [2, 2], "window_size": 2, "hidden_size": 16, "enable_fusion": True,
    "initializer_factor": 3.0,
}  # fmt: skip
DINO = {key: value for key, value in VISION.items() if key != "intermediate_size"} | {"mlp_ratio": 2}
SAM = {
    "hidden_size": 8, "output_channels": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 8,
    "patch_size": 2, "window_size": 3, "global_attn_indexes": [1], "num_pos_feats": 4, "mlp_dim": 12,
    "initializer_range": 0.4,
}  # fmt: skip
HIERA = {
    "hidden_size": 8, "patch_kernel_size": [3, 3], "patch_stride": [1, 1], "patch_padding": [1, 1],
    "blocks_per_stage": [1, 1, 1], "embed_dim_per_stage": [8, 12, 16], "num_attention_heads_per_stage": [1, 2, 2],
    "window_size_per_stage": [2, 2, 2], "global_attention_blocks": [], "initializer_range": 0.4,
    "window_positional_embedding_background_size": [3, 3],
}  # fmt: skip
PYRAMID = {
    "backbone_config": {**HIERA, "model_type": "sam2_hiera_det_model"}, "backbone_channel_list": [16, 12, 8],
    "backbone_feature_sizes": [[8, 8], [4, 4], [2, 2]], "fpn_hidden_size": 8, "initializer_range": 0.4,
}  # fmt: skip
POINTED = {
    "prompt_encoder_config": {"hidden_size": 8, "image_size": 8, "patch_size": 2, "mask_input_channels": 4},
    "mask_decoder_config": {
        "hidden_size": 8, "mlp_dim": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "iou_head_hidden_dim": 8,
    },
    "initializer_range": 0.4,
}  # fmt: skip
T5 = {
    "vocab_size": 61, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4, "pad_token_id": 0,
    "eos_token_id": 1, "decoder_start_token_id": 0,
}  # fmt: skip
WHISPER = {
    "vocab_size": 61, "d_model": 16, "num_mel_bins": 6, "encoder_layers": 1, "decoder_layers": 2,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 20, "decoder_ffn_dim": 20,
    "max_source_positions": 10, "max_target_positions": 30, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "decoder_start_token_id": 3, "init_std": 0.3,
}  # fmt: skip
MOONSHINE = {
    "vocab_size": 61, "hidden_size": 16, "intermediate_size": 24, "encoder_num_hidden_layers": 1,
    "decoder_num_hidden_layers": 2, "encoder_num_attention_heads": 2, "decoder_num_attention_heads": 2,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "initializer_range": 0.4,
}  # fmt: skip
W2V_BERT = {
    "vocab_size": 61, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "feature_projection_input_dim": 6, "left_max_position_embeddings": 3, "right_max_position_embeddings": 2,
    "conv_depthwise_kernel_size": 3, "initializer_range": 0.4, "layerdrop": 0.0, "apply_spec_augment": False,
}  # fmt: skip
WAVES = {
    "vocab_size": 61, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20,
    "conv_dim": [8, 12], "conv_stride": [5, 2], "conv_kernel": [10, 3], "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2, "apply_spec_augment": False, "initializer_range": 0.4,
}  # fmt: skip
BART = {
    "vocab_size": 61, "d_model": 16, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 20, "decoder_ffn_dim": 20, "max_position_embeddings": 40,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2, "initializer_range": 0.4,
}  # fmt: skip
M2M100 = {**BART, "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0}
RESNET = {
    "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1], "layer_type": "basic",
    "out_features": ["stage1", "stage2"],
}  # fmt: skip
UPERNET = {
    "backbone_config": {**SWIN, "model_type": "swin", "depths": [1, 1, 1], "num_heads": [2, 2, 2],
        "out_features": ["stage1", "stage2", "stage3"], "initializer_range": 0.3},
    "hidden_size": 8, "auxiliary_channels": 4, "pool_scales": [1, 2],
}  # fmt: skip
DPT = {
    **VISION, "backbone_out_indices": [0, 1], "neck_hidden_sizes": [6, 8], "reassemble_factors": [2, 1],
    "fusion_hidden_size": 8,
}  # fmt: skip
DEPTH_ANYTHING = {
    "backbone_config": {**DINO, "model_type": "dinov2", "out_indices": [1, 2], "reshape_hidden_states": False,
        "initializer_range": 0.02},
    "patch_size": 4, "reassemble_hidden_size": 16, "neck_hidden_sizes": [6, 8], "reassemble_factors": [2, 1],
    "fusion_hidden_size": 8, "initializer_range": 0.4,
}  # fmt: skip
ZOE = {
    "backbone_config": {**VISION, "model_type": "beit", "out_indices": [1, 2], "reshape_hidden_states": False,
        "initializer_range": 0.02},
    "neck_hidden_sizes": [6, 8], "reassemble_factors": [2, 1], "fusion_hidden_size": 8, "bottleneck_features": 8,
    "num_relative_features": 5, "num_attractors": [2, 1, 1, 1], "bin_embedding_dim": 6,
    "initializer_range": 0.4,
}  # fmt: skip
DAVIT = {
    "depths": [1, 1], "patch_size": [3, 3], "patch_stride": [2, 2], "patch_padding": [1, 1],
    "patch_prenorm": [False, True], "embed_dim": [8, 12], "num_heads": [2, 2], "num_groups": [2, 3], "window_size": 3,
    "projection_dim": 16, "max_position_embeddings": 4, "max_temporal_embeddings": 3, "initializer_range": 0.4,
}  # fmt: skip
DETR = {
    "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 20, "decoder_ffn_dim": 20, "num_queries": 4, "use_timm_backbone": False,
    "backbone_config": RESNET,
}  # fmt: skip
RT_DETR = {
    "encoder_hidden_dim": 16, "encoder_in_channels": [8, 12], "encode_proj_layers": [1], "encoder_ffn_dim": 20,
    "encoder_attention_heads": 2, "d_model": 16, "num_queries": 4, "decoder_in_channels": [16, 16],
    "num_feature_levels": 2, "decoder_ffn_dim": 20, "decoder_layers": 1, "decoder_attention_heads": 2,
    "num_denoising": 4, "backbone_config": {**RESNET, "model_type": "rt_detr_resnet"}, "initializer_range": 0.4,
}  # fmt: skip
SPEECHT5 = {
    "vocab_size": 61, "hidden_size": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 24,
    "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 24, "conv_dim": [8, 8],
    "conv_stride": [3, 2], "conv_kernel": [5, 3], "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
    "num_mel_bins": 6, "speech_decoder_prenet_units": 10, "speaker_embedding_dim": 7,
    "speech_decoder_postnet_layers": 2, "speech_decoder_postnet_units": 9, "speech_decoder_postnet_kernel": 3,
    "speech_decoder_prenet_dropout": 0.0, "initializer_range": 0.4, "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0,
    "reduction_factor": 1,
}  # fmt: skip
CODEC = {
    "hidden_size": 8, "num_filters": 4, "upsampling_ratios": [3, 2], "codebook_size": 16, "sampling_rate": 600,
}  # fmt: skip
ENCODEC = {**CODEC, "target_bandwidths": [0.8, 2.0], "num_lstm_layers": 1}
MIMI = {
    **CODEC, "codebook_dim": 6, "vector_quantization_hidden_dimension": 6, "num_quantizers": 3, "num_hidden_layers": 2,
    "intermediate_size": 10, "num_attention_heads": 2, "num_key_value_heads": 1, "upsample_groups": 8,
    "sliding_window": 4, "initializer_range": 0.4,
}  # fmt: skip
VITS = {
    "vocab_size": 61, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 24,
    "flow_size": 8, "spectrogram_bins": 9, "upsample_initial_channel": 8, "upsample_rates": [2],
    "upsample_kernel_sizes": [4], "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 3]],
    "posterior_encoder_num_wavenet_layers": 1, "prior_encoder_num_flows": 2, "prior_encoder_num_wavenet_layers": 1,
    "duration_predictor_num_flows": 2, "depth_separable_num_layers": 1, "noise_scale": 0.0,
    "noise_scale_duration": 0.0,
}  # fmt: skip
MAPS = {
    **RESNET, "hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 1, 1],
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}  # fmt: skip
MASKFORMER = {
    "backbone_config": {
        "model_type": "swin", "image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [1, 1, 1, 1],
        "num_heads": [1, 2, 2, 2], "window_size": 2,
    },
    "decoder_config": {**DETR, "num_queries": 5}, "fpn_feature_size": 32, "mask_feature_size": 8,
}  # fmt: skip
MASK2FORMER = {
    "backbone_config": MAPS, "feature_size": 32, "mask_feature_size": 8, "hidden_dim": 16, "num_attention_heads": 2,
    "encoder_layers": 1, "decoder_layers": 3, "encoder_feedforward_dim": 20, "dim_feedforward": 20, "num_queries": 4,
    "train_num_points": 16,
}  # fmt: skip
ONEFORMER = {
    "backbone_config": MAPS, "conv_dim": 32, "mask_dim": 32, "hidden_dim": 32, "num_attention_heads": 2,
    "encoder_layers": 1, "decoder_layers": 3, "query_dec_layers": 1, "encoder_feedforward_dim": 20,
    "dim_feedforward": 20, "num_queries": 5, "train_num_points": 16, "task_seq_len": 5, "dropout": 0.0,
}  # fmt: skip
DEFORMABLE = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 20, "decoder_ffn_dim": 20, "num_queries": 4, "num_feature_levels": 3, "use_timm_backbone": False,
    "backbone_config": RESNET, "with_box_refine": True, "tie_word_embeddings": False, "num_labels": 4,
}  # fmt: skip
GROUNDING = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24, "decoder_ffn_dim": 20, "num_queries": 4, "num_feature_levels": 3, "max_text_len": 16,
    "backbone_config": {**SWIN, "model_type": "swin", "out_features": ["stage1", "stage2"]},
    "text_config": {**TEXT, "model_type": "bert", "num_hidden_layers": 1},
}  # fmt: skip
GPTJ = {
    "vocab_size": 61, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 48, "rotary_dim": 2, "pad_token_id": 0,
    "initializer_range": 0.4,
}  # fmt: skip
OPT = {
    "vocab_size": 61, "hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 48, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.4,
}  # fmt: skip
ESM = {**TEXT, "mask_token_id": 5, "token_dropout": True, "emb_layer_norm_before": True}
ROTARY = {"position_embedding_type": "rotary"}
NEXT = {
    **TEXT, "num_key_value_heads": 2, "head_dim": 8, "linear_key_head_dim": 4, "linear_value_head_dim": 4,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "num_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 12, "shared_expert_intermediate_size": 12,
    "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip

GEMMA3 = {
    **GROUPED, "head_dim": 8, "sliding_window": 3, "query_pre_attn_scalar": 8,
    "layer_types": ["sliding_attention", "full_attention"],
}  # fmt: skip


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def ids(rows: int, length: int, low: int = 4) -> Tensor:
    return torch.randint(low, 60, (rows, length), generator=torch.Generator().manual_seed(2))


@dataclass(frozen=True)
class Text:
    """Rows of tokens.

    Attributes:
        labels: what is learned: ``"words"``, ``"rows"`` or nothing.
    """

    labels: str = "words"
    main: str = "input_ids"

    def inputs(self, rows: int = 2, length: int = 6) -> Inputs:
        return {"input_ids": ids(rows, length)}

    def mask(self, inputs: Inputs) -> Inputs:
        """The same with a mask that hides something."""
        mask = torch.ones_like(inputs[self.main])
        mask[0, -1] = 0
        return {**inputs, "attention_mask": mask}

    def taught(self, inputs: Inputs) -> Inputs:
        if not self.labels:
            return inputs
        rows = inputs[self.main].shape[0]
        labels = {"words": inputs[self.main], "rows": torch.arange(rows) % 2}
        return {**inputs, "labels": labels[self.labels]}

    def later(self, inputs: Inputs) -> Inputs:
        """What comes after it in another step."""
        mask = {k: torch.cat((v, v[:, :1]), 1) for k, v in inputs.items() if k == "attention_mask"}
        return {"input_ids": inputs["input_ids"][:, :1], **mask}

    @property
    def axes(self) -> Axes:
        """Which axes are of any size."""
        return {"input_ids": {0: BATCH, 1: LENGTH}, "attention_mask": {0: BATCH, 1: LENGTH}}


@dataclass(frozen=True)
class Ended(Text):
    """Rows that end with an end token, which an encoder and a decoder read."""

    def inputs(self, rows: int = 2, length: int = 6) -> Inputs:
        tokens = ids(rows, length)
        tokens[:, -1] = 1
        return {"input_ids": tokens}

    def mask(self, inputs: Inputs) -> Inputs:
        mask = torch.ones_like(inputs["input_ids"])
        mask[0, 0] = 0
        return {**inputs, "attention_mask": mask}

    def later(self, inputs: Inputs) -> Inputs:
        return {**inputs, "decoder_input_ids": inputs["input_ids"]}


@dataclass(frozen=True)
class Choices(Text):
    """Rows in pairs."""

    labels: str = "rows"

    def inputs(self, rows: int = 2, length: int = 6) -> Inputs:
        return {"input_ids": torch.stack((ids(rows, length), ids(rows, length).flip(1)), 1)}

    @property
    def axes(self) -> Axes:
        return {"input_ids": {0: BATCH, 2: LENGTH}, "attention_mask": {0: BATCH, 2: LENGTH}}


@dataclass(frozen=True)
class TextToText(Text):
    """Rows for an encoder and a decoder."""

    def inputs(self, rows: int = 2, length: int = 6) -> Inputs:
        return {"input_ids": ids(rows, length), "decoder_input_ids": ids(rows, length + 1)}

    def taught(self, inputs: Inputs) -> Inputs:
        return {"input_ids": inputs["input_ids"], "labels": inputs["decoder_input_ids"]}

    def later(self, inputs: Inputs) -> Inputs:
        return {**inputs, "decoder_input_ids": inputs["decoder_input_ids"][:, :1]}

    @property
    def axes(self) -> Axes:
        return {**Text().axes, "decoder_input_ids": {0: BATCH, 1: "answer"}}


@dataclass(frozen=True)
class Sound(Text):
    """Sounds and rows for a decoder."""

    main: str = "decoder_input_ids"

    def inputs(self, rows: int = 2, length: int = 6) -> Inputs:
        return {"input_features": noise(rows, 6, 20), "decoder_input_ids": ids(rows, length)}

    def mask(self, inputs: Inputs) -> Inputs:
        mask = torch.ones_like(inputs["decoder_input_ids"])
        mask[0, -1] = 0
        return {**inputs, "decoder_attention_mask": mask}

    def taught(self, inputs: Inputs) -> Inputs:
        return {"input_features": inputs["input_features"], "labels": inputs["decoder_input_ids"]}

    def later(self, inputs: Inputs) -> Inputs:
        mask = {k: torch.cat((v, v[:, :1]), 1) for k, v in inputs.items() if k == "decoder_attention_mask"}
        return {**inputs, "decoder_input_ids": inputs["decoder_input_ids"][:, :1], **mask}

    @property
    def axes(self) -> Axes:
        lengths = {0: BATCH, 1: LENGTH}
        return {"input_features": {0: BATCH}, "decoder_input_ids": lengths, "decoder_attention_mask": lengths}


@dataclass(frozen=True)
class Waves(Sound):
    """Waves and rows for a decoder."""

    samples: int = 1400

    def inputs(self, rows: int = 2, length: int = 6) -> Inputs:
        return {"input_values": noise(rows, self.samples), "decoder_input_ids": ids(rows, length)}

    def taught(self, inputs: Inputs) -> Inputs:
        return {"input_values": inputs["input_values"], "labels": inputs["decoder_input_ids"]}

    @property
    def axes(self) -> Axes:
        lengths = {0: BATCH, 1: LENGTH}
        return {"input_values": {0: BATCH}, "decoder_input_ids": lengths, "decoder_attention_mask": lengths}


@dataclass(frozen=True)
class Written(Sound):
    """Pictures and rows for a decoder."""

    def inputs(self, rows: int = 2, length: int = 6) -> Inputs:
        return {"pixel_values": noise(rows, 3, 8, 8), "decoder_input_ids": ids(rows, length)}

    def taught(self, inputs: Inputs) -> Inputs:
        return {"pixel_values": inputs["pixel_values"], "labels": inputs["decoder_input_ids"]}

    @property
    def axes(self) -> Axes:
        lengths = {0: BATCH, 1: LENGTH}
        return {"pixel_values": {0: BATCH}, "decoder_input_ids": lengths, "decoder_attention_mask": lengths}


@dataclass(frozen=True)
class Letters(Text):
    """Sounds, and the letters that are said in them; or a class for each."""

    main: str = "input_values"

    def inputs(self, rows: int = 2, length: int = 6) -> Inputs:
        return {"input_values": noise(rows, 25 * length)}

    def mask(self, inputs: Inputs) -> Inputs:
        mask = torch.ones_like(inputs["input_values"], dtype=torch.long)
        mask[0, -30:] = 0
        return {**inputs, "attention_mask": mask}

    def taught(self, inputs: Inputs) -> Inputs:
        rows = inputs["input_values"].shape[0]
        labels = {"words": ids(rows, 3), "rows": torch.arange(rows) % 2}
        return {**inputs, "labels": labels[self.labels]}

    @property
    def axes(self) -> Axes:
        return {"input_values": {0: BATCH, 1: LENGTH}, "attention_mask": {0: BATCH, 1: LENGTH}}


@dataclass(frozen=True)
class Speeches(Text):
    """Texts, and frames of speech."""

    labels: str = "frames"

    def inputs(self, rows: int = 2, length: int = 6) -> Inputs:
        return {"input_ids": ids(rows, length), "decoder_input_values": noise(rows, 5, 6)}

    def taught(self, inputs: Inputs) -> Inputs:
        rest = {k: v for k, v in inputs.items() if k != "decoder_input_values"}
        return {**rest, "labels": inputs["decoder_input_values"]}

    def later(self, inputs: Inputs) -> Inputs:
        return {**inputs, "decoder_input_values": inputs["decoder_input_values"][:, :1]}

    @property
    def axes(self) -> Axes:
        return {**super().axes, "decoder_input_values": {0: BATCH, 1: "frames"}}


@dataclass(frozen=True)
class EvenLetters(Letters):
    """Sounds of one length: torch solves no equations of frames that are cut to a multiple."""

    def inputs(self, rows: int = 2, length: int = 6) -> Inputs:
        return super().inputs(rows)

    @property
    def axes(self) -> Axes:
        return {"input_values": {0: BATCH}, "attention_mask": {0: BATCH}}


@dataclass(frozen=True)
class Pictures(Text):
    """Pictures of one size, or of several with a mask."""

    labels: str = "rows"
    size: int = 8
    masked: bool = False
    main: str = "pixel_values"

    def inputs(self, rows: int = 2, length: int = 6) -> Inputs:
        return {self.main: noise(rows, 3, self.size, self.size)}

    def mask(self, inputs: Inputs) -> Inputs:
        mask = torch.ones(inputs[self.main].shape[0], self.size, self.size, dtype=torch.long)
        mask[0, :, self.size // 2 :] = 0
        return {**inputs, "pixel_mask": mask} if self.masked else inputs

    @property
    def axes(self) -> Axes:
        return {self.main: {0: BATCH}, "pixel_mask": {0: BATCH}}


@dataclass(frozen=True)
class Films(Pictures):
    """Videos of four frames."""

    def inputs(self, rows: int = 2, length: int = 6) -> Inputs:
        return {"pixel_values": noise(rows, 4, 3, self.size, self.size)}


@dataclass(frozen=True)
class Spectrograms(Text):
    """Spectrograms of one length."""

    labels: str = "rows"
    main: str = "input_values"

    def inputs(self, rows: int = 2, length: int = 6) -> Inputs:
        return {"input_values": noise(rows, 9, 7)}

    def mask(self, inputs: Inputs) -> Inputs:
        return inputs

    @property
    def axes(self) -> Axes:
        return {"input_values": {0: BATCH}}


@dataclass(frozen=True)
class Frames(Text):
    """Features of sounds."""

    labels: str = "letters"
    main: str = "input_features"

    def inputs(self, rows: int = 2, length: int = 6) -> Inputs:
        return {"input_features": noise(rows, 12, 6)}

    def mask(self, inputs: Inputs) -> Inputs:
        mask = torch.ones(inputs["input_features"].shape[:2], dtype=torch.long)
        mask[0, 8:] = 0
        return {**inputs, "attention_mask": mask}

    def taught(self, inputs: Inputs) -> Inputs:
        return {**inputs, "labels": ids(inputs["input_features"].shape[0], 3)}

    @property
    def axes(self) -> Axes:
        return {"input_features": {0: BATCH}, "attention_mask": {0: BATCH}}


@dataclass(frozen=True)
class Heard(Sound):
    """Features of sounds, and rows for a decoder."""

    def inputs(self, rows: int = 2, length: int = 6) -> Inputs:
        return {"input_features": noise(rows, 12, 6), "decoder_input_ids": ids(rows, length)}


@dataclass(frozen=True)
class Hidden(Pictures):
    """Pictures some of whose patches are hidden, the same every time."""

    labels: str = ""

    def inputs(self, rows: int = 2, length: int = 6) -> Inputs:
        return {**super().inputs(rows), "noise": torch.arange(4.0).flip(0).expand(rows, 4).contiguous()}

    @property
    def axes(self) -> Axes:
        return {**super().axes, "noise": {0: BATCH}}


@dataclass(frozen=True)
class Pointed(Pictures):
    """Pictures and points in them."""

    labels: str = ""

    def inputs(self, rows: int = 2, length: int = 6) -> Inputs:
        points = (noise(rows, 1, 2, 2).abs() * 4).clamp(max=self.size)
        return {**super().inputs(rows), "input_points": points}

    @property
    def axes(self) -> Axes:
        return {**super().axes, "input_points": {0: BATCH}}


@dataclass(frozen=True)
class Tasked(Pictures):
    """Pictures and what is to be done with them."""

    def inputs(self, rows: int = 2, length: int = 6) -> Inputs:
        return {**super().inputs(rows), "task_inputs": ids(rows, 5)}

    @property
    def axes(self) -> Axes:
        return {**super().axes, "task_inputs": {0: BATCH}}


@dataclass(frozen=True)
class Both(Text):
    """Texts and as many pictures."""

    def inputs(self, rows: int = 2, length: int = 6) -> Inputs:
        return {"input_ids": ids(rows, length), "pixel_values": noise(rows, 3, 8, 8)}

    def taught(self, inputs: Inputs) -> Inputs:
        return {**inputs, "return_loss": True}

    @property
    def axes(self) -> Axes:
        return {**Text().axes, "pixel_values": {0: BATCH}}


SHAPED_AXES: Axes = {name: {0: BATCH} for name in ("pixel_values", "pixel_attention_mask", "spatial_shapes")}


def shaped(rows: int) -> Inputs:
    """Rows of patches of pictures of two shapes."""
    shapes = torch.tensor([[2, 3], [1, 4]] * rows)[:rows]
    mask = (torch.arange(6) < shapes.prod(1, keepdim=True)).int()
    return {"pixel_values": noise(rows, 6, 48), "pixel_attention_mask": mask, "spatial_shapes": shapes}


@dataclass(frozen=True)
class Shaped(Both):
    """Texts and as many pictures of two shapes, as rows of patches."""

    def inputs(self, rows: int = 2, length: int = 6) -> Inputs:
        return {"input_ids": ids(rows, length), **shaped(rows)}

    @property
    def axes(self) -> Axes:
        return {**Text().axes, **SHAPED_AXES}


@dataclass(frozen=True)
class ShapedPictures(Text):
    """Pictures of two shapes, as rows of patches."""

    main: str = "pixel_values"

    def inputs(self, rows: int = 2, length: int = 6) -> Inputs:
        return shaped(rows)

    def mask(self, inputs: Inputs) -> Inputs:
        return inputs

    @property
    def axes(self) -> Axes:
        return SHAPED_AXES


@dataclass(frozen=True)
class Seen(Text):
    """Texts, each with the picture that it is read with."""

    def inputs(self, rows: int = 2, length: int = 6) -> Inputs:
        return {"input_ids": ids(rows, length), "pixel_values": noise(rows, 3, 8, 8)}

    @property
    def axes(self) -> Axes:
        return {**Text().axes, "pixel_values": {0: BATCH}}


@dataclass(frozen=True)
class Found(Text):
    """Texts, each with regions of a picture."""

    labels: str = "rows"

    def inputs(self, rows: int = 2, length: int = 6) -> Inputs:
        regions = {"visual_feats": noise(rows, 5, 7), "visual_pos": noise(rows, 5, 4)}
        return {"input_ids": ids(rows, length), **regions}

    @property
    def axes(self) -> Axes:
        return {**Text().axes, "visual_feats": {0: BATCH}, "visual_pos": {0: BATCH}}


@dataclass(frozen=True)
class Captioned(Both):
    """Pictures and what is said of them."""

    labels: str = "words"

    def taught(self, inputs: Inputs) -> Inputs:
        return {**inputs, "labels": inputs["input_ids"]} if self.labels else inputs

    def later(self, inputs: Inputs) -> Inputs:
        return {**super().later(inputs), "pixel_values": inputs["pixel_values"]}


@dataclass(frozen=True)
class Led(Captioned):
    """Texts that begin with the places of their pictures."""

    def taught(self, inputs: Inputs) -> Inputs:
        if self.labels != "answers":
            return super().taught(inputs)
        return {**{k: v for k, v in inputs.items() if "decoder" not in k}, "labels": inputs["decoder_input_ids"]}

    def inputs(self, rows: int = 2, length: int = 6) -> Inputs:
        given = super().inputs(rows, length)
        given["input_ids"] = torch.cat((torch.full((rows, 2), 60), given["input_ids"].clamp(max=59)), dim=1)
        if self.labels == "answers":
            given["decoder_input_ids"] = ids(rows, length)
        return given

    @property
    def axes(self) -> Axes:
        return {**super().axes, "decoder_input_ids": {0: BATCH, 1: "answer"}}


@dataclass(frozen=True)
class Instructed(Led):
    """The same with what the queries have in mind."""

    def inputs(self, rows: int = 2, length: int = 6) -> Inputs:
        return {**super().inputs(rows, length), "qformer_input_ids": ids(rows, 4)}

    @property
    def axes(self) -> Axes:
        return {**super().axes, "qformer_input_ids": {0: BATCH}}


@dataclass(frozen=True)
class Looking(Text):
    """Queries, what they look at, and a text behind them."""

    labels: str = ""
    main: str = "query_embeds"

    def inputs(self, rows: int = 2, length: int = 6) -> Inputs:
        seen = {"query_embeds": noise(rows, 2, 16), "encoder_hidden_states": noise(rows, 4, 16)}
        return {"input_ids": ids(rows, length), **seen} if self.main == "text" else seen

    def mask(self, inputs: Inputs) -> Inputs:
        count = sum(inputs[name].shape[1] for name in ("input_ids", "query_embeds") if name in inputs)
        mask = torch.ones(inputs["query_embeds"].shape[0], count, dtype=torch.long)
        mask[0, -1] = 0
        return {**inputs, "attention_mask": mask}

    @property
    def axes(self) -> Axes:
        rows = {0: BATCH}
        return {"query_embeds": rows, "encoder_hidden_states": rows, "input_ids": rows, "attention_mask": rows}


@dataclass(frozen=True)
class Asked(Captioned):
    """Pictures, what is asked about them, and what is answered."""

    labels: str = "answers"

    def inputs(self, rows: int = 2, length: int = 6) -> Inputs:
        return {**super().inputs(rows, length), "decoder_input_ids": ids(rows, length)}

    @property
    def axes(self) -> Axes:
        return {**super().axes, "decoder_input_ids": {0: BATCH, 1: "answer"}}


@dataclass(frozen=True)
class Patched(Seen):
    """The same with patches in an order that is not left to chance."""

    def inputs(self, rows: int = 2, length: int = 6) -> Inputs:
        return {**super().inputs(rows, length), "patch_index": torch.arange(4).flip(0).repeat(rows, 1)}

    @property
    def axes(self) -> Axes:
        return {**super().axes, "patch_index": {0: BATCH}}


@dataclass(frozen=True)
class Sought(Seen):
    """Texts, each with a picture in which what it names is to be found."""

    def inputs(self, rows: int = 2, length: int = 6) -> Inputs:
        return {"input_ids": ids(rows, length), "pixel_values": noise(rows, 3, 16, 16)}


@dataclass(frozen=True)
class Paged(Seen):
    """Words with boxes, and the page that they stand on."""

    def inputs(self, rows: int = 2, length: int = 6) -> Inputs:
        return {**super().inputs(rows, length), "bbox": ids(rows, 4 * length).view(rows, length, 4) * 16}

    @property
    def axes(self) -> Axes:
        return {**super().axes, "bbox": {0: BATCH, 1: LENGTH}}


class Outlined(Seen):
    """Texts, each with a picture and which of its pixels the text names."""

    main: str = "pixel_values"

    def mask(self, inputs: Inputs) -> Inputs:
        return inputs

    def taught(self, inputs: Inputs) -> Inputs:
        return {**inputs, "labels": noise(inputs["input_ids"].shape[0], 8, 8).sigmoid()}


@dataclass(frozen=True)
class Views(Text):
    """Views of sounds, of which some are longer than the model hears."""

    labels: str = ""
    main: str = "input_features"

    def inputs(self, rows: int = 2, length: int = 6) -> Inputs:
        return {"input_features": noise(rows, 4, 30, 8), "is_longer": torch.arange(rows)[:, None] % 2 == 0}

    def mask(self, inputs: Inputs) -> Inputs:
        return inputs

    @property
    def axes(self) -> Axes:
        return {"input_features": {0: BATCH}, "is_longer": {0: BATCH}}


@dataclass(frozen=True)
class Named(Text):
    """Texts and as many sounds."""

    def inputs(self, rows: int = 2, length: int = 6) -> Inputs:
        return {"input_ids": ids(rows, length), **Views().inputs(rows)}

    def taught(self, inputs: Inputs) -> Inputs:
        return {**inputs, "return_loss": True}

    @property
    def axes(self) -> Axes:
        return {**Text().axes, **Views().axes}


@dataclass(frozen=True)
class Illustrated(Text):
    """Rows with a picture of four placeholders each."""

    def inputs(self, rows: int = 2, length: int = 6) -> Inputs:
        tokens = ids(rows, length + 4, low=5)
        tokens[:, 1:5] = 4
        return {"input_ids": tokens.masked_fill(tokens == 60, 59), "pixel_values": noise(rows, 3, 8, 8)}

    @property
    def axes(self) -> Axes:
        return {**Text().axes, "pixel_values": {0: BATCH}}


@dataclass(frozen=True)
class Typed(Illustrated):
    """Rows with a picture of four placeholders each, and types of tokens.

    Attributes:
        both: the type of what is read in both directions, the first five tokens.
    """

    both: int = 0

    def inputs(self, rows: int = 2, length: int = 6) -> Inputs:
        given = super().inputs(rows, length)
        types = torch.full_like(given["input_ids"], 1 - self.both)
        types[:, 1 if self.both else 0 : 5] = self.both
        return {**given, "token_type_ids": types}

    @property
    def axes(self) -> Axes:
        return {**super().axes, "token_type_ids": Text().axes["input_ids"]}


@dataclass(frozen=True)
class IllustratedSources(TextToText):
    """Texts with a picture of five placeholders in front, and answers."""

    def inputs(self, rows: int = 2, length: int = 6) -> Inputs:
        tokens = ids(rows, length + 5, low=5)
        tokens[:, :5] = 4
        pictures = {"pixel_values": noise(rows, 3, 8, 8)}
        return {"input_ids": tokens, **pictures, "decoder_input_ids": ids(rows, length + 1, low=5)}

    def taught(self, inputs: Inputs) -> Inputs:
        return {**super().taught(inputs), "pixel_values": inputs["pixel_values"]}

    @property
    def axes(self) -> Axes:
        return {**super().axes, "pixel_values": {0: BATCH}}


@dataclass(frozen=True)
class Sized(Text):
    """Rows with a picture of four placeholders each, whose size is told."""

    def inputs(self, rows: int = 2, length: int = 6) -> Inputs:
        return {**Illustrated().inputs(rows, length), "image_sizes": torch.full((rows, 2), 8)}

    @property
    def axes(self) -> Axes:
        return {**Illustrated().axes, "image_sizes": {0: BATCH}}


GRID = (1, 4, 4)


@dataclass(frozen=True)
class Packed(Text):
    """Rows with a picture of four by four patches, of four placeholders."""

    def inputs(self, rows: int = 2, length: int = 6) -> Inputs:
        tokens = ids(rows, length + 4, low=6)
        tokens[:, 1:5] = 4
        grids = torch.tensor([GRID] * rows)
        return {"input_ids": tokens, "pixel_values": noise(rows * 16, 24), "image_grid_thw": grids}


@dataclass(frozen=True)
class TiledPictures(Text):
    """Rows with a picture of two tiles each, of fourteen placeholders."""

    def inputs(self, rows: int = 2, length: int = 6) -> Inputs:
        tokens = ids(rows, length + 14, low=5)
        tokens[:, 1:15] = 4
        sizes = torch.tensor([[8, 16]] * rows)
        return {
            "input_ids": tokens.masked_fill(tokens == 60, 59), "pixel_values": noise(rows, 3, 3, 8, 8),
            "image_sizes": sizes,
        }  # fmt: skip

    @property
    def axes(self) -> Axes:
        return {**Text().axes, "pixel_values": {0: BATCH}, "image_sizes": {0: BATCH}}


@dataclass(frozen=True)
class Tiled(Text):
    """Rows with a picture of one tile (five placeholders), and a sound of one vector."""

    def inputs(self, rows: int = 2, length: int = 6) -> Inputs:
        tokens = ids(rows, length + 6, low=6)
        tokens[:, 1:6], tokens[:, 7] = 4, 5
        return {
            "input_ids": tokens.masked_fill(tokens == 60, 59),
            "image_pixel_values": noise(rows, 2, 3, 8, 8),
            "image_sizes": torch.full((rows, 2), 8),
            "image_attention_mask": torch.ones(rows, 2, 2, 2),
            "audio_input_features": noise(rows, 8, 6),
            "audio_embed_sizes": torch.ones(rows, dtype=torch.long),
        }

    @property
    def axes(self) -> Axes:
        named = ("image_pixel_values", "image_sizes", "image_attention_mask", "audio_input_features")
        return {**Text().axes, **{name: {0: BATCH} for name in (*named, "audio_embed_sizes")}}


@dataclass(frozen=True)
class Sounding(Text):
    """Rows with a sound of two placeholders."""

    frames: int = 16

    def inputs(self, rows: int = 2, length: int = 6) -> Inputs:
        tokens = ids(rows, length + 2, low=6)
        tokens[:, 1:3] = 4
        return {"input_ids": tokens, "input_features": noise(rows, 6, self.frames)}

    @property
    def axes(self) -> Axes:
        return {**Text().axes, "input_features": {0: BATCH}}


@dataclass(frozen=True)
class Rowed(Text):
    """Rows with a picture of one placeholder each."""

    def inputs(self, rows: int = 2, length: int = 6) -> Inputs:
        tokens = ids(rows, length + 1, low=5)
        tokens[:, 1] = 4
        return {"input_ids": tokens.masked_fill(tokens == 60, 59), "pixel_values": noise(rows, 1, 3, 8, 8)}

    @property
    def axes(self) -> Axes:
        return {**Text().axes, "pixel_values": {0: BATCH}}


@dataclass(frozen=True)
class Coded(Text):
    """Sounds of one length, which a codec hears."""

    labels: str = ""
    main: str = "input_values"

    def inputs(self, rows: int = 2, length: int = 6) -> Inputs:
        return {"input_values": noise(rows, 1, 48)}

    def mask(self, inputs: Inputs) -> Inputs:
        mask = torch.ones(inputs["input_values"].shape[0], 48, dtype=torch.long)
        mask[0, -8:] = 0
        return {**inputs, "padding_mask": mask}

    @property
    def axes(self) -> Axes:
        return {"input_values": {0: BATCH}, "padding_mask": {0: BATCH}}


@dataclass(frozen=True)
class Citizen:
    """A tiny model.

    Attributes:
        architecture: the ecosystem's class name.
        asks: what it reads.
    """

    model_type: str
    architecture: str
    config: Mapping[str, object]
    asks: Text = field(default_factory=Text)

    def build(self) -> Model:
        """The model, fresh, in evaluation mode; the same weights each time."""
        return _built(self).eval()

    @property
    def config_of(self) -> object:
        return registry.config_of({"model_type": self.model_type, **self.config, "architectures": [self.architecture]})


def _built(citizen: Citizen) -> Model:
    torch.manual_seed(0)
    return getattr(omniform, citizen.architecture).from_config(citizen.config_of)


LATENT = {
    **TEXT, "q_lora_rank": 6, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 4,
    "num_key_value_heads": None, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8,
    "first_k_dense_replace": 1,
}  # fmt: skip
CITIZENS: dict[str, Citizen] = {
    "llama": Citizen("llama", "LlamaForCausalLM", GROUPED),
    "llama, dynamic": Citizen(
        "llama", "LlamaForCausalLM",
        {**GROUPED, "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
    ),
    "llama, rows": Citizen("llama", "LlamaForSequenceClassification", GROUPED, Text("rows")),
    "mistral": Citizen("mistral", "MistralForCausalLM", {**GROUPED, "sliding_window": 3}),
    "gpt2": Citizen(
        "gpt2", "GPT2LMHeadModel",
        {"vocab_size": 61, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 48, "pad_token_id": 0,
            "bos_token_id": 1, "eos_token_id": 2},
    ),
    "gpt2, two heads": Citizen(
        "gpt2", "GPT2DoubleHeadsModel",
        {"vocab_size": 61, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 48, "pad_token_id": 0},
    ),
    "bert": Citizen("bert", "BertForMaskedLM", TEXT),
    "bert, decoder": Citizen("bert", "BertLMHeadModel", {**TEXT, "is_decoder": True}),
    "bert, rows": Citizen("bert", "BertForSequenceClassification", TEXT, Text("rows")),
    "bert, choices": Citizen("bert", "BertForMultipleChoice", TEXT, Choices()),
    "t5": Citizen("t5", "T5ForConditionalGeneration", T5, TextToText()),
    "mt5": Citizen("mt5", "MT5ForConditionalGeneration", T5, TextToText()),
    "umt5": Citizen("umt5", "UMT5ForConditionalGeneration", T5, TextToText()),
    "umt5, rows": Citizen("umt5", "UMT5ForSequenceClassification", T5, Ended("rows")),
    "t5, rows": Citizen("t5", "T5ForSequenceClassification", T5, Ended("rows")),
    "whisper": Citizen("whisper", "WhisperForConditionalGeneration", WHISPER, Sound()),
    "moonshine": Citizen("moonshine", "MoonshineForConditionalGeneration", MOONSHINE, Waves()),
    "speecht5": Citizen("speecht5", "SpeechT5ForTextToSpeech", SPEECHT5, Speeches()),
    "encodec": Citizen("encodec", "EncodecModel", ENCODEC, Coded()),
    "mimi": Citizen("mimi", "MimiModel", MIMI, Coded()),
    "vits": Citizen("vits", "VitsModel", VITS, Text("")),
    "wav2vec2": Citizen("wav2vec2", "Wav2Vec2ForCTC", {**WAVES, "do_stable_layer_norm": True}, Letters()),
    "wav2vec2, rows": Citizen(
        "wav2vec2", "Wav2Vec2ForSequenceClassification", {**WAVES, "use_weighted_layer_sum": True}, Letters("rows")
    ),
    "hubert": Citizen("hubert", "HubertForCTC", {**WAVES, "conv_pos_batch_norm": True}, Letters()),
    "wavlm": Citizen("wavlm", "WavLMForCTC", {**WAVES, "num_buckets": 8, "max_bucket_distance": 12}, Letters()),
    "data2vec-audio": Citizen("data2vec-audio", "Data2VecAudioForSequenceClassification",
        {**WAVES, "num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 5}, Letters("rows")),
    "unispeech": Citizen("unispeech", "UniSpeechForCTC", WAVES, Letters()),
    "unispeech-sat": Citizen("unispeech-sat", "UniSpeechSatForXVector",
        {**WAVES, "tdnn_dim": [8, 10], "tdnn_kernel": [3, 1], "tdnn_dilation": [1, 1], "xvector_output_dim": 9},
        Letters("rows")),
    "vit": Citizen("vit", "ViTForImageClassification", VISION, Pictures()),
    "swin": Citizen("swin", "SwinForImageClassification", SWIN, Pictures()),
    "donut-swin": Citizen("donut-swin", "DonutSwinForImageClassification", SWIN, Pictures()),
    "deit": Citizen("deit", "DeiTForImageClassification", VISION, Pictures()),
    "audio-spectrogram-transformer": Citizen("audio-spectrogram-transformer", "ASTForAudioClassification",
        {**AST, "max_length": 9, "num_mel_bins": 7, "frequency_stride": 3, "time_stride": 2}, Spectrograms()),
    "wav2vec2-bert": Citizen("wav2vec2-bert", "Wav2Vec2BertForCTC", W2V_BERT, Frames()),
    "speech-encoder-decoder": Citizen("speech-encoder-decoder", "SpeechEncoderDecoderModel", {
        "encoder": {**W2V_BERT, "model_type": "wav2vec2-bert"},
        "decoder": {**TEXT, "model_type": "bert", "is_decoder": True, "add_cross_attention": True},
        "pad_token_id": 0, "decoder_start_token_id": 3}, Heard()),
    "sew-d": Citizen("sew-d", "SEWDForCTC", {**WAVES, "position_buckets": 4, "max_position_embeddings": 64},
        EvenLetters()),
    "sew": Citizen("sew", "SEWForCTC", WAVES, EvenLetters()),
    "wav2vec2-conformer": Citizen(
        "wav2vec2-conformer", "Wav2Vec2ConformerForCTC",
        {**WAVES, "conv_depthwise_kernel_size": 3, "conformer_conv_dropout": 0.0, "attention_dropout": 0.0}, Letters()),
    "vit_msn": Citizen("vit_msn", "ViTMSNForImageClassification", VISION, Pictures()),
    "vit_mae": Citizen("vit_mae", "ViTMAEForPreTraining", {**VISION, "decoder_hidden_size": 16,
        "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2, "decoder_intermediate_size": 20}, Hidden()),
    "bridgetower": Citizen("bridgetower", "BridgeTowerForContrastiveLearning",
        {"text_config": {**TEXT, "hidden_size": 64}, "vision_config": {**VISION, "hidden_size": 64},
            "hidden_size": 64, "num_hidden_layers": 2, "contrastive_hidden_size": 8,
            "logit_scale_init_value": 2.6592}, Both()),
    "bridgetower, words": Citizen("bridgetower", "BridgeTowerForMaskedLM",
        {"text_config": {**TEXT, "hidden_size": 64}, "vision_config": {**VISION, "hidden_size": 64},
            "hidden_size": 64, "num_hidden_layers": 2, "tie_word_embeddings": True}, Seen("words")),
    "lxmert": Citizen("lxmert", "LxmertForQuestionAnswering",
        {"vocab_size": 61, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4, "l_layers": 2,
            "r_layers": 1, "x_layers": 2, "max_position_embeddings": 48, "visual_feat_dim": 7, "num_qa_labels": 5,
            "initializer_range": 0.4}, Found()),
    "vilt": Citizen("vilt", "ViltForMaskedLM", {**VISION, "vocab_size": 61, "max_position_embeddings": 48}, Patched()),
    "vilt, rows": Citizen("vilt", "ViltForImagesAndTextClassification",
        {**VISION, "vocab_size": 61, "max_position_embeddings": 48, "num_images": 1}, Patched("rows")),
    "layoutlmv3": Citizen("layoutlmv3", "LayoutLMv3ForSequenceClassification",
        {**TEXT, "coordinate_size": 2, "shape_size": 4, "input_size": 8, "patch_size": 4}, Paged("rows")),
    "videomae": Citizen("videomae", "VideoMAEForVideoClassification", {**VISION, "num_frames": 4}, Films()),
    "timesformer": Citizen("timesformer", "TimesformerForVideoClassification", {**VISION, "num_frames": 4}, Films()),
    "yolos": Citizen("yolos", "YolosForObjectDetection",
        {**VISION, "image_size": [8, 8], "num_detection_tokens": 3}, Pictures("")),
    "dinov2": Citizen("dinov2", "Dinov2ForImageClassification", DINO, Pictures()),
    "dinov2_with_registers": Citizen("dinov2_with_registers", "Dinov2WithRegistersForImageClassification",
        {**DINO, "num_register_tokens": 2}, Pictures()),
    "dinov3_vit": Citizen("dinov3_vit", "DINOv3ViTModel",
        {**VISION, "num_register_tokens": 2, "use_gated_mlp": True}, Pictures("")),
    "beit": Citizen("beit", "BeitForImageClassification", BEIT, Pictures()),
    "beit, segments": Citizen("beit", "BeitForSemanticSegmentation", BEIT, Pictures("")),
    "data2vec-vision": Citizen("data2vec-vision", "Data2VecVisionForImageClassification", BEIT, Pictures()),
    "upernet": Citizen("upernet", "UperNetForSemanticSegmentation", UPERNET, Pictures("", size=16)),
    "swinv2": Citizen("swinv2", "Swinv2ForImageClassification", SWIN, Pictures()),
    "maskformer-swin": Citizen("maskformer-swin", "MaskFormerSwinModel", SWIN, Pictures("")),
    "clip": Citizen("clip", "CLIPModel", {"text_config": TEXT, "vision_config": VISION, "projection_dim": 8}, Both()),
    "owlvit": Citizen("owlvit", "OwlViTModel",
        {"text_config": TEXT, "vision_config": VISION, "projection_dim": 16}, Both()),
    "owlvit, text": Citizen("owlvit_text_model", "OwlViTTextModel", TEXT, Text("")),
    "owlvit, pictures": Citizen("owlvit_vision_model", "OwlViTVisionModel", VISION, Pictures("")),
    "owlvit, detector": Citizen("owlvit", "OwlViTForObjectDetection",
        {"text_config": TEXT, "vision_config": VISION, "projection_dim": 16}, Seen("")),
    "owlv2": Citizen("owlv2", "Owlv2ForObjectDetection",
        {"text_config": TEXT, "vision_config": VISION, "projection_dim": 16}, Seen("")),
    "owlv2, text": Citizen("owlv2_text_model", "Owlv2TextModel", TEXT, Text("")),
    "owlv2, pictures": Citizen("owlv2_vision_model", "Owlv2VisionModel", VISION, Pictures("")),
    "clipseg": Citizen("clipseg", "CLIPSegForImageSegmentation",
        {"text_config": TEXT, "vision_config": VISION, "projection_dim": 8, "reduce_dim": 8, "extract_layers": [0, 1],
            "decoder_num_attention_heads": 2, "decoder_intermediate_size": 12}, Outlined()),
    "clipseg, text": Citizen("clipseg_text_model", "CLIPSegTextModel", TEXT, Text("")),
    "clipseg, pictures": Citizen("clipseg_vision_model", "CLIPSegVisionModel", VISION, Pictures("")),
    "clip, text": Citizen("clip_text_model", "CLIPTextModel", TEXT, Text("")),
    "clip, pictures": Citizen("clip_vision_model", "CLIPVisionModel", VISION, Pictures("")),
    "siglip": Citizen("siglip", "SiglipModel", {"text_config": TEXT, "vision_config": VISION}, Both()),
    "siglip, text": Citizen("siglip_text_model", "SiglipTextModel", TEXT, Text("")),
    "siglip, pictures": Citizen("siglip_vision_model", "SiglipVisionModel", VISION, Pictures("")),
    "altclip": Citizen(
        "altclip", "AltCLIPModel", {"text_config": {**TEXT, "project_dim": 12}, "vision_config": VISION}, Both()
    ),
    "altclip, text": Citizen("altclip_text_model", "AltCLIPTextModel", {**TEXT, "project_dim": 12}, Text("")),
    "altclip, pictures": Citizen("altclip_vision_model", "AltCLIPVisionModel", VISION, Pictures("")),
    "chinese_clip": Citizen(
        "chinese_clip", "ChineseCLIPModel", {"text_config": TEXT, "vision_config": VISION}, Both()
    ),
    "chinese_clip, text": Citizen("chinese_clip_text_model", "ChineseCLIPTextModel", TEXT, Text("")),
    "chinese_clip, pictures": Citizen("chinese_clip_vision_model", "ChineseCLIPVisionModel", VISION, Pictures("")),
    "siglip2": Citizen("siglip2", "Siglip2Model", {"text_config": TEXT, "vision_config": SHAPED}, Shaped()),
    "siglip2, text": Citizen("siglip2_text_model", "Siglip2TextModel", TEXT, Text("")),
    "siglip2, pictures": Citizen("siglip2_vision_model", "Siglip2VisionModel", SHAPED, ShapedPictures("")),
    "blip": Citizen("blip", "BlipForConditionalGeneration", BLIP, Captioned()),
    "blip, answers": Citizen("blip", "BlipForQuestionAnswering", BLIP, Asked()),
    "blip, pairs": Citizen("blip", "BlipModel", BLIP, Both()),
    "blip, matches": Citizen("blip", "BlipForImageTextRetrieval", BLIP, Captioned("")),
    "blip, text": Citizen("blip_text_model", "BlipTextLMHeadModel", {**TEXT, "encoder_hidden_size": 16}),
    "trocr": Citizen("trocr", "TrOCRForCausalLM", TROCR),
    "vision-encoder-decoder": Citizen(
        "vision-encoder-decoder", "VisionEncoderDecoderModel",
        {"encoder": {**VISION, "model_type": "vit"}, "decoder": {**TROCR, "model_type": "trocr"}, "pad_token_id": 1,
            "decoder_start_token_id": 2},
        Written(),
    ),
    "blip-2": Citizen("blip-2", "Blip2ForConditionalGeneration", BLIP2, Led()),
    "blip-2, T5": Citizen(
        "blip-2", "Blip2ForConditionalGeneration", {**BLIP2, "text_config": BLIP2_T5}, Led("answers")
    ),
    "blip-2, scores": Citizen("blip-2", "Blip2Model", BLIP2, Led()),
    "blip-2, matches": Citizen("blip-2", "Blip2ForImageTextRetrieval", BLIP2, Led("")),
    "blip-2, texts": Citizen("blip-2", "Blip2TextModelWithProjection", BLIP2, Text("")),
    "blip-2, findings": Citizen("blip-2", "Blip2VisionModelWithProjection", BLIP2, Pictures("")),
    "blip-2, pictures": Citizen("blip_2_vision_model", "Blip2VisionModel", VISION, Pictures("")),
    "blip-2, queries": Citizen("blip_2_qformer", "Blip2QFormerModel", QFORMER, Looking()),
    "instructblip": Citizen("instructblip", "InstructBlipForConditionalGeneration", INSTRUCT, Instructed()),
    "instructblip, states": Citizen("instructblip", "InstructBlipModel", INSTRUCT, Instructed("")),
    "instructblip, pictures": Citizen("instructblip_vision_model", "InstructBlipVisionModel", VISION, Pictures("")),
    "instructblip, queries": Citizen("instructblip_qformer", "InstructBlipQFormerModel", QFORMER, Looking("", "text")),
    "blip, pictures": Citizen("blip_vision_model", "BlipVisionModel", VISION, Pictures("")),
    "clap": Citizen("clap", "ClapModel", {"text_config": TEXT, "audio_config": CLAP, "projection_dim": 8}, Named()),
    "clap, text": Citizen("clap_text_model", "ClapTextModel", TEXT, Text("")),
    "clap, sounds": Citizen("clap_audio_model", "ClapAudioModelWithProjection", CLAP, Views()),
    "detr": Citizen("detr", "DetrForObjectDetection", DETR, Pictures("", size=16, masked=True)),
    "conditional_detr": Citizen(
        "conditional_detr", "ConditionalDetrForObjectDetection", DETR, Pictures("", size=16, masked=True)
    ),
    "table-transformer": Citizen(
        "table-transformer", "TableTransformerForObjectDetection", DETR, Pictures("", size=16, masked=True)
    ),
    "deformable_detr": Citizen(
        "deformable_detr", "DeformableDetrForObjectDetection", DEFORMABLE, Pictures("", size=16, masked=True)
    ),
    "grounding-dino": Citizen("grounding-dino", "GroundingDinoForObjectDetection", GROUNDING, Sought("")),
    "rt_detr": Citizen("rt_detr", "RTDetrForObjectDetection", RT_DETR, Pictures("", size=16)),
    "rt_detr_v2": Citizen(
        # Or PEFT asks the reference's model for the table of tokens that its heads be tied to.
        "rt_detr_v2", "RTDetrV2ForObjectDetection",
        {**RT_DETR, "decoder_n_levels": 2, "decoder_layers": 2, "tie_word_embeddings": False}, Pictures("", size=16),
    ),
    "detr, outlines": Citizen("detr", "DetrForSegmentation", {**DETR, "d_model": 32, "encoder_attention_heads": 8,
        "decoder_attention_heads": 8, "backbone_config": {**RESNET, "hidden_sizes": [8, 12, 16, 20],
        "depths": [1, 1, 1, 1], "out_features": ["stage1", "stage2", "stage3", "stage4"]}},
        Pictures("", size=64, masked=True)),
    "maskformer": Citizen(
        "maskformer", "MaskFormerForInstanceSegmentation", MASKFORMER, Pictures("", size=32, masked=True)
    ),
    "mask2former": Citizen(
        "mask2former", "Mask2FormerForUniversalSegmentation", MASK2FORMER, Pictures("", size=32, masked=True)
    ),
    "oneformer": Citizen(
        "oneformer", "OneFormerForUniversalSegmentation", ONEFORMER, Tasked("", size=32, masked=True)
    ),
    "sam": Citizen("sam", "SamModel", {**POINTED, "vision_config": SAM}, Pointed()),
    "sam, pictures": Citizen("sam_vision_model", "SamVisionModel", SAM, Pictures("")),
    "sam2": Citizen("sam2", "Sam2Model", {
        **POINTED, "vision_config": PYRAMID,
        "prompt_encoder_config": {**POINTED["prompt_encoder_config"], "patch_size": 4}}, Pointed()),
    "sam2, pictures": Citizen("sam2_vision_model", "Sam2VisionModel", PYRAMID, Pictures("")),
    "sam2, Hiera": Citizen("sam2_hiera_det_model", "Sam2HieraDetModel", HIERA, Pictures("")),
    "segformer": Citizen("segformer", "SegformerForSemanticSegmentation", SEGFORMER, Pictures("", size=32)),
    "segformer, rows": Citizen("segformer", "SegformerForImageClassification", SEGFORMER, Pictures(size=32)),
    "dpt": Citizen("dpt", "DPTForDepthEstimation", DPT, Pictures("")),
    "dpt, segments": Citizen("dpt", "DPTForSemanticSegmentation", DPT, Pictures("")),
    "depth_anything": Citizen("depth_anything", "DepthAnythingForDepthEstimation", DEPTH_ANYTHING, Pictures("")),
    "zoedepth": Citizen("zoedepth", "ZoeDepthForDepthEstimation", ZOE, Pictures("")),
    "zoedepth, domains": Citizen("zoedepth", "ZoeDepthForDepthEstimation",
        {**ZOE, "num_patch_transformer_layers": 4, "patch_transformer_hidden_size": 128,
            "patch_transformer_intermediate_size": 16, "patch_transformer_num_attention_heads": 2,
            "bin_configurations": [{"name": "near", "n_bins": 4, "min_depth": 0.1, "max_depth": 9.0},
                {"name": "far", "n_bins": 5, "min_depth": 0.1, "max_depth": 90.0}]}, Pictures("")),
    "bit": Citizen("bit", "BitForImageClassification",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "num_groups": 2}, Pictures()),
    "resnet": Citizen("resnet", "ResNetForImageClassification", RESNET, Pictures()),
    "resnet, maps": Citizen("resnet", "ResNetBackbone", RESNET, Pictures("")),
    "convnext": Citizen("convnext", "ConvNextForImageClassification", CONVNEXT, Pictures()),
    "convnextv2": Citizen("convnextv2", "ConvNextV2ForImageClassification", CONVNEXT, Pictures()),
    "dinov3_convnext": Citizen(
        "dinov3_convnext", "DINOv3ConvNextModel", {"hidden_sizes": [8, 12], "depths": [1, 1]}, Pictures("")
    ),
    "mobilenet_v2": Citizen("mobilenet_v2", "MobileNetV2ForImageClassification",
        {"depth_multiplier": 0.25, "expand_ratio": 2.0, "finegrained_output": False}, Pictures()),
    "timm_backbone": Citizen("timm_backbone", "TimmBackbone", {"backbone": "resnet18", "out_indices": [1]},
        Pictures("", size=32)),
    "llava": Citizen(
        "llava", "LlavaForConditionalGeneration",
        {"text_config": {**GROUPED, "model_type": "llama"}, "image_token_index": 4,
            "vision_config": {**VISION, "model_type": "clip_vision_model"}},
        Illustrated(),
    ),
    "paligemma": Citizen(
        "paligemma", "PaliGemmaForConditionalGeneration",
        {"text_config": {**GROUPED, "head_dim": 8, "model_type": "gemma"}, "image_token_index": 4, "projection_dim": 16,
            "vision_config": {**VISION, "model_type": "siglip_vision_model", "vision_use_head": False}},
        Typed(),
    ),
    "gemma3, seeing": Citizen(
        "gemma3", "Gemma3ForConditionalGeneration",
        {"text_config": GEMMA3, "image_token_index": 4, "mm_tokens_per_image": 4, "initializer_range": 0.4,
            "vision_config": {**VISION, "model_type": "siglip_vision_model", "vision_use_head": False}},
        Typed(both=1),
    ),
    "llava_next": Citizen(
        "llava_next", "LlavaNextForConditionalGeneration",
        {"text_config": {**GROUPED, "model_type": "llama"}, "image_token_index": 4,
            "image_grid_pinpoints": [[8, 16], [16, 8]],
            "vision_config": {**VISION, "model_type": "clip_vision_model"}},
        TiledPictures(),
    ),
    "llava_onevision": Citizen(
        "llava_onevision", "LlavaOnevisionForConditionalGeneration",
        {"text_config": {**GROUPED, "model_type": "qwen2"}, "image_token_index": 4, "video_token_index": 3,
            "image_grid_pinpoints": [[8, 16], [16, 8]], "vision_feature_select_strategy": "default",
            "vision_config": {**VISION, "model_type": "clip_vision_model"}},
        TiledPictures(),
    ),
    "vipllava": Citizen(
        "vipllava", "VipLlavaForConditionalGeneration",
        {"text_config": {**GROUPED, "model_type": "llama"}, "image_token_index": 4, "vision_feature_layer": [1, -1],
            "vision_config": {**VISION, "model_type": "clip_vision_model"}},
        Illustrated(),
    ),
    "mistral3": Citizen(
        "mistral3", "Mistral3ForConditionalGeneration",
        {"text_config": {**GROUPED, "model_type": "mistral"}, "image_token_index": 4, "spatial_merge_size": 1,
            "vision_config": {**VISION, "model_type": "pixtral"}},
        Sized(),
    ),
    "internvl": Citizen(
        "internvl", "InternVLForConditionalGeneration",
        {"text_config": {**GROUPED, "model_type": "qwen2"}, "image_token_id": 4, "downsample_ratio": 1.0,
            "vision_config": VISION},
        Illustrated(),
    ),
    "idefics3": Citizen(
        "idefics3", "Idefics3ForConditionalGeneration",
        {"text_config": {**GROUPED, "model_type": "llama"}, "vision_config": VISION, "image_token_id": 4},
        Rowed(),
    ),
    "smolvlm": Citizen(
        "smolvlm", "SmolVLMForConditionalGeneration",
        {"text_config": {**GROUPED, "model_type": "llama"}, "vision_config": VISION, "image_token_id": 4},
        Rowed(),
    ),
    "phi4_multimodal": Citizen(
        "phi4_multimodal", "Phi4MultimodalForCausalLM",
        {**GROUPED, "vision_config": {**VISION, "crop_size": 8, "image_token_id": 4}, "audio_config": {
            "hidden_size": 16, "intermediate_size": 24, "num_blocks": 2, "num_attention_heads": 2, "input_size": 6,
            "ext_pw_out_channel": 16, "depthwise_separable_out_channel": 16, "nemo_conv_channels": 4,
            "bias_max_distance": 4, "audio_token_id": 5, "initializer_range": 0.4}},
        Tiled(),
    ),
    "voxtral": Citizen(
        "voxtral", "VoxtralForConditionalGeneration",
        {"text_config": {**GROUPED, "head_dim": 8, "model_type": "llama"}, "audio_token_id": 4, "audio_config": {
            "hidden_size": 8, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_mel_bins": 6, "max_source_positions": 8, "initializer_range": 0.4}},
        Sounding(),
    ),
    "qwen2_audio": Citizen(
        "qwen2_audio", "Qwen2AudioForConditionalGeneration",
        {"text_config": {**GROUPED, "model_type": "qwen2"}, "audio_token_index": 4, "audio_config": {
            "d_model": 8, "encoder_ffn_dim": 12, "encoder_layers": 2, "encoder_attention_heads": 2,
            "num_mel_bins": 6, "max_source_positions": 4, "initializer_range": 0.4}},
        Sounding(frames=8),
    ),
    "qwen3_omni_moe_thinker": Citizen("qwen3_omni_moe_thinker", "Qwen3OmniMoeThinkerForConditionalGeneration",
        {"text_config": {**GROUPED, "moe_intermediate_size": 12, "num_experts": 4, "num_experts_per_tok": 2},
         "vision_config": {"depth": 1, "hidden_size": 8, "num_heads": 2, "intermediate_size": 12, "patch_size": 2,
            "out_hidden_size": 16, "num_position_embeddings": 4, "deepstack_visual_indexes": [0]},
         "audio_config": {"num_mel_bins": 8, "encoder_layers": 1, "encoder_attention_heads": 2, "d_model": 8,
            "encoder_ffn_dim": 12, "output_dim": 16, "downsample_hidden_size": 3}}),
    "qwen2_5_omni_thinker": Citizen("qwen2_5_omni_thinker", "Qwen2_5OmniThinkerForConditionalGeneration",
        {"text_config": {**GROUPED, **SECTIONS},
         "vision_config": {"depth": 1, "hidden_size": 8, "num_heads": 2, "intermediate_size": 12, "patch_size": 2,
            "out_hidden_size": 16, "window_size": 8, "fullatt_block_indexes": [0]},
         "audio_config": {"num_mel_bins": 8, "encoder_layers": 1, "encoder_attention_heads": 2, "d_model": 8,
            "encoder_ffn_dim": 12, "output_dim": 16, "n_window": 10}}),
    "qwen2_vl": Citizen("qwen2_vl", "Qwen2VLForConditionalGeneration",
        {"text_config": {**GROUPED, **SECTIONS}, **SEEING, "vision_config": {**PATCHES, "embed_dim": 16}}, Packed()),
    "qwen2_5_vl": Citizen("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration",
        {"text_config": {**GROUPED, **SECTIONS}, **SEEING, "vision_config": {**PATCHES, "window_size": 4}}, Packed()),
    "qwen3_vl": Citizen("qwen3_vl", "Qwen3VLForConditionalGeneration",
        {"text_config": {**GROUPED, **SECTIONS, "head_dim": 4}, **SEEING, "vision_config": DEEP_PATCHES}, Packed()),
    "qwen3_vl_moe": Citizen("qwen3_vl_moe", "Qwen3VLMoeForConditionalGeneration",
        {"text_config": {**GROUPED, **SECTIONS, "head_dim": 4, "num_experts": 4, "num_experts_per_tok": 2,
            "moe_intermediate_size": 8}, **SEEING, "vision_config": DEEP_PATCHES}, Packed()),
    "qwen3": Citizen("qwen3", "Qwen3ForCausalLM", {**GROUPED, "head_dim": 8}),
    "gemma2": Citizen("gemma2", "Gemma2ForCausalLM",
        {**GROUPED, "head_dim": 8, "sliding_window": 3, "query_pre_attn_scalar": 8}),
    "deberta-v2": Citizen("deberta-v2", "DebertaV2ForMaskedLM",
        {**TEXT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 4,
            "norm_rel_ebd": "layer_norm", "share_att_key": True, "position_biased_input": False}),
    "deberta-v2, rows": Citizen("deberta-v2", "DebertaV2ForSequenceClassification", TEXT, Text("rows")),
    "phi3": Citizen("phi3", "Phi3ForCausalLM", {**GROUPED, "sliding_window": 4}),
    "roberta": Citizen("roberta", "RobertaForMaskedLM", TEXT),
    "roberta, rows": Citizen("roberta", "RobertaForSequenceClassification", TEXT, Text("rows")),
    "roberta, decoder": Citizen("roberta", "RobertaForCausalLM", {**TEXT, "is_decoder": True}),
    "electra": Citizen("electra", "ElectraForMaskedLM", {**TEXT, "embedding_size": 12}),
    "electra, rows": Citizen("electra", "ElectraForSequenceClassification", TEXT, Text("rows")),
    "electra, decoder": Citizen("electra", "ElectraForCausalLM", {**TEXT, "embedding_size": 12, "is_decoder": True}),
    "esm": Citizen("esm", "EsmForMaskedLM", ESM),
    "esm, rows": Citizen("esm", "EsmForSequenceClassification", {**ESM, **ROTARY}, Text("rows")),
    "xlm-roberta-xl": Citizen("xlm-roberta-xl", "XLMRobertaXLForMaskedLM", TEXT),
    "xlm-roberta": Citizen("xlm-roberta", "XLMRobertaForMaskedLM", TEXT),
    "camembert": Citizen("camembert", "CamembertForSequenceClassification", TEXT, Text("rows")),
    "data2vec-text": Citizen("data2vec-text", "Data2VecTextModel", TEXT, Text("")),
    "roberta-prelayernorm": Citizen("roberta-prelayernorm", "RobertaPreLayerNormForMaskedLM", TEXT),
    "opt": Citizen("opt", "OPTForCausalLM", OPT),
    "opt, rows": Citizen("opt", "OPTForSequenceClassification",
        {**OPT, "do_layer_norm_before": False, "word_embed_proj_dim": 12}, Text("rows")),
    "openai-gpt": Citizen("openai-gpt", "OpenAIGPTLMHeadModel", {"vocab_size": 61, "n_embd": 16, "n_layer": 2,
        "n_head": 4, "n_positions": 48, "pad_token_id": 0, "initializer_range": 0.4}),
    "phi": Citizen("phi", "PhiForCausalLM", {**GROUPED, "qk_layernorm": True, "partial_rotary_factor": 0.5}),
    "starcoder2": Citizen("starcoder2", "Starcoder2ForCausalLM", {**GROUPED, "sliding_window": 3}),
    "stablelm": Citizen("stablelm", "StableLmForCausalLM",
        {**GROUPED, "qk_layernorm": True, "use_parallel_residual": True, "partial_rotary_factor": 0.5}),
    "gpt_bigcode": Citizen("gpt_bigcode", "GPTBigCodeForCausalLM", {"vocab_size": 61, "n_embd": 16, "n_layer": 2,
        "n_head": 4, "n_positions": 48, "pad_token_id": 0, "initializer_range": 0.4}),
    "bloom": Citizen("bloom", "BloomForCausalLM", {"vocab_size": 61, "hidden_size": 16, "n_layer": 2, "n_head": 4,
        "pad_token_id": 0, "initializer_range": 0.4}),
    "falcon": Citizen("falcon", "FalconForCausalLM", {"vocab_size": 61, "hidden_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 4, "pad_token_id": 0, "initializer_range": 0.4}),
    "falcon, slopes": Citizen("falcon", "FalconForCausalLM", {"vocab_size": 61, "hidden_size": 16,
        "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": True, "pad_token_id": 0, "initializer_range": 0.4}),
    "gptj": Citizen("gptj", "GPTJForCausalLM", GPTJ),
    "codegen": Citizen("codegen", "CodeGenForCausalLM", GPTJ),
    "gpt_neo": Citizen("gpt_neo", "GPTNeoForCausalLM", {"vocab_size": 61, "hidden_size": 16, "num_layers": 2,
        "num_heads": 4, "max_position_embeddings": 48, "attention_types": [[["global", "local"], 1]],
        "window_size": 3, "pad_token_id": 0, "initializer_range": 0.4}),
    "cohere": Citizen("cohere", "CohereForCausalLM", {**GROUPED, "use_qk_norm": True}),
    "cohere2": Citizen("cohere2", "Cohere2ForCausalLM",
        {**GROUPED, "sliding_window": 3, "sliding_window_pattern": 2}),
    "glm": Citizen("glm", "GlmForCausalLM", {**GROUPED, "head_dim": 8}),
    "glm4": Citizen("glm4", "Glm4ForCausalLM", {**GROUPED, "head_dim": 8}),
    "gpt_neox": Citizen("gpt_neox", "GPTNeoXForCausalLM", {**TEXT, "hidden_size": 32}),
    "olmo2": Citizen("olmo2", "Olmo2ForCausalLM", GROUPED),
    "bart": Citizen("bart", "BartForConditionalGeneration", BART, TextToText()),
    "florence2": Citizen("florence2", "Florence2ForConditionalGeneration",
        {"text_config": {**BART, "model_type": "bart"}, "image_token_id": 4,
            # Smaller weights than the tower's alone: a picture says enough, and float32's last digits say less.
            "vision_config": {**DAVIT, "model_type": "florence_vision", "initializer_range": 0.1}},
        IllustratedSources()),
    "florence2, tower": Citizen("florence_vision", "Florence2VisionBackbone", DAVIT,
        Pictures("", main="hidden_states")),
    "bart, decoder": Citizen("bart", "BartForCausalLM", BART),
    "bart, rows": Citizen("bart", "BartForSequenceClassification", {**BART, "eos_token_id": 1}, Ended("rows")),
    "distilbert": Citizen("distilbert", "DistilBertForMaskedLM", DISTIL),
    "distilbert, rows": Citizen("distilbert", "DistilBertForSequenceClassification", DISTIL, Text("rows")),
    "mpnet": Citizen("mpnet", "MPNetForMaskedLM", {**TEXT, "pad_token_id": 1}),
    "mpnet, rows": Citizen("mpnet", "MPNetForSequenceClassification", {**TEXT, "pad_token_id": 1}, Text("rows")),
    "albert": Citizen("albert", "AlbertForMaskedLM", {**TEXT, "embedding_size": 8, "inner_group_num": 2}),
    "albert, rows": Citizen("albert", "AlbertForSequenceClassification", {**TEXT, "embedding_size": 8}, Text("rows")),
    "modernbert-decoder": Citizen("modernbert-decoder", "ModernBertDecoderForCausalLM", {**TEXT, "local_attention": 6}),
    "deberta": Citizen("deberta", "DebertaForMaskedLM", {
        **TEXT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False}),
    "modernbert": Citizen("modernbert", "ModernBertForMaskedLM", {**TEXT, "local_attention": 4}),
    "modernbert, rows": Citizen("modernbert", "ModernBertForSequenceClassification",
        {**TEXT, "classifier_pooling": "mean"}, Text("rows")),
    "modernbert, choices": Citizen("modernbert", "ModernBertForMultipleChoice", TEXT, Choices()),
    "mixtral": Citizen("mixtral", "MixtralForCausalLM",
        {**GROUPED, "num_local_experts": 4, "sliding_window": 4}),
    "qwen2_moe": Citizen("qwen2_moe", "Qwen2MoeForCausalLM",
        {**GROUPED, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 12, "mlp_only_layers": [0]}),
    "qwen3_moe": Citizen("qwen3_moe", "Qwen3MoeForCausalLM",
        {**GROUPED, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}),
    "deepseek_v2": Citizen("deepseek_v2", "DeepseekV2ForCausalLM", LATENT),
    "deepseek_v3": Citizen("deepseek_v3", "DeepseekV3ForCausalLM", {**LATENT, "n_group": 2, "topk_group": 1}),
    "gpt_oss": Citizen("gpt_oss", "GptOssForCausalLM",
        {**GROUPED, "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 4,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}),
    "qwen2": Citizen("qwen2", "Qwen2ForCausalLM", GROUPED),
    "gemma": Citizen("gemma", "GemmaForCausalLM", {**GROUPED, "head_dim": 8}),
    "gemma3": Citizen("gemma3_text", "Gemma3ForCausalLM", GEMMA3),
    "gemma3, both ways": Citizen(
        "gemma3_text", "Gemma3TextForSequenceClassification", {**GEMMA3, "use_bidirectional_attention": True},
        Text("rows"),
    ),
    "smollm3": Citizen("smollm3", "SmolLM3ForCausalLM", {**GROUPED, "no_rope_layer_interval": 2}),
    "olmo": Citizen("olmo", "OlmoForCausalLM", {**GROUPED, "clip_qkv": 0.5}),
    "olmo3": Citizen("olmo3", "Olmo3ForCausalLM",
        {**GROUPED, "sliding_window": 3, "layer_types": ["sliding_attention", "full_attention"]}),
    "granite": Citizen("granite", "GraniteForCausalLM", {**GROUPED, "residual_multiplier": 0.5}),
    "mbart": Citizen("mbart", "MBartForConditionalGeneration", BART, TextToText()),
    "marian": Citizen("marian", "MarianMTModel", BART, TextToText()),
    "marian, decoder": Citizen("marian", "MarianForCausalLM", BART),
    "pegasus": Citizen("pegasus", "PegasusForConditionalGeneration", BART, TextToText()),
    "m2m_100": Citizen("m2m_100", "M2M100ForConditionalGeneration", M2M100, TextToText()),
    "blenderbot-small": Citizen(
        "blenderbot-small", "BlenderbotSmallForConditionalGeneration", BART, TextToText()
    ),
    "olmoe": Citizen("olmoe", "OlmoeForCausalLM", {**GROUPED, "num_experts": 4, "num_experts_per_tok": 2}),
    "granitemoe": Citizen("granitemoe", "GraniteMoeForCausalLM", {**GROUPED, "num_local_experts": 4}),
    "granitemoeshared": Citizen("granitemoeshared", "GraniteMoeSharedForCausalLM",
        {**GROUPED, "num_local_experts": 4, "shared_intermediate_size": 12}),
    "bamba": Citizen("bamba", "BambaForCausalLM",
        {**GROUPED, "attn_layer_indices": [1], "mamba_n_heads": 4, "mamba_d_state": 4}),
    "falcon_h1": Citizen("falcon_h1", "FalconH1ForCausalLM",
        {**GROUPED, "mamba_d_ssm": 16, "mamba_n_heads": 4, "mamba_d_state": 4, "mamba_rms_norm": True}),
    "mamba": Citizen("mamba", "MambaForCausalLM",
        {"vocab_size": 61, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}),
    "mamba2": Citizen("mamba2", "Mamba2ForCausalLM",
        {"vocab_size": 61, "hidden_size": 16, "num_hidden_layers": 2, "num_heads": 4, "head_dim": 8, "state_size": 4,
            "n_groups": 2}),
    "phimoe": Citizen("phimoe", "PhimoeForCausalLM", {**GROUPED, "num_local_experts": 4, "lm_head_bias": True}),
    "qwen3_next": Citizen("qwen3_next", "Qwen3NextForCausalLM", NEXT),
}  # fmt: skip


def registered() -> dict[str, Citizen]:
    """Those whose families can be loaded."""
    return {name: citizen for name, citizen in CITIZENS.items() if citizen.model_type in known_families()}


@cache
def shared(name: str) -> Model:
    """A model that a test looks at and does not change."""
    return CITIZENS[name].build()


def covering() -> tuple[str, ...]:
    """Few models that hold every class of module: what takes a second each is tried on these.

    `make exhaustive` tries all.
    """
    known = registered()
    return tuple(name for name in COVERING if name in known)


def chosen() -> tuple[str, ...]:
    """As few models as hold every class of module: what stands in ``COVERING``. It builds all."""
    held = {name: classes(name) for name in registered()}
    left, found = set().union(*held.values()), []
    while left:
        name = max(held, key=lambda name: len(held[name] & left))
        found.append(name)
        left -= held[name]
    return tuple(found)


def classes(name: str) -> set[type]:
    """Our classes of module in a model. Those that carry a family's public names count as the skeleton they are."""
    found = {_written(type(m)) for m in shared(name).modules()}
    return {kind for kind in found if kind.__module__.startswith("omniform.")}


def _written(kind: type) -> type:
    return kind.place.architecture.skeleton if issubclass(kind, PreTrainedModel) else kind
