"""What models of waves are asked, whichever family they are of."""

from __future__ import annotations

import torch
from askers import Inputs, Waves
from heads import Head

TINY = {
    "vocab_size": 20, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 28,
    "conv_dim": [12, 16, 16], "conv_stride": [5, 2, 2], "conv_kernel": [10, 3, 3], "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2, "mask_time_length": 3, "classifier_proj_size": 12, "num_labels": 4,
}  # fmt: skip

VARIANTS = {
    "plain": {},
    "layer norms, stable": {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
    "activations": {"hidden_act": "relu", "feat_extract_activation": "silu", "layer_norm_eps": 1e-2},
    "odd kernel, nothing hides": {"num_conv_pos_embeddings": 5, "mask_time_prob": 0.0, "apply_spec_augment": False},
    "stable, with adapters": {
        "do_stable_layer_norm": True, "adapter_attn_dim": 6, "add_adapter": True, "output_hidden_size": 16,
        "num_adapter_layers": 2,
    },
    "adapter of the same width": {"add_adapter": True, "adapter_kernel_size": 3, "adapter_stride": 1},
    "group norm, biases, stable": {"conv_bias": True, "do_stable_layer_norm": True},
}  # fmt: skip


def letters(config: object, frames: int) -> Inputs:
    return {"labels": torch.tensor([[3, 3, 7, 1], [5, -100, -100, -100], [0, 4, 0, -100]])}


def rows(config: object, frames: int) -> Inputs:
    return {"labels": torch.tensor([1, 3, 0])}


def moments(config: object, frames: int) -> Inputs:
    classes = torch.arange(3 * frames).view(3, frames) % 4
    return {"labels": torch.nn.functional.one_hot(classes, 4).float()}


def hidden(config: object, frames: int) -> Inputs:
    return {"mask_time_indices": (torch.arange(3 * frames).view(3, frames) % 5) < 2}


def others(config: object, frames: int) -> Inputs:
    places = torch.randint(0, 3 * frames, (3, frames, 6), generator=torch.Generator().manual_seed(5))
    return {"sampled_negative_indices": places}


VOICES = Waves(
    ("loss", "logits", "embeddings"),
    rows,
    {"tdnn_dim": [10, 12], "tdnn_kernel": [3, 2], "tdnn_dilation": [2, 1], "xvector_output_dim": 14},
)
CONTRASTS = Waves(
    ("loss", "projected_states", "projected_quantized_states", "codevector_perplexity", "contrastive_loss",
        "diversity_loss"),
    others,
    {"num_codevectors_per_group": 5, "codevector_dim": 8, "proj_codevector_dim": 12, "diversity_loss_weight": 0.7,
        "attention_dropout": 0.0, "hidden_dropout": 0.0, "activation_dropout": 0.0, "layerdrop": 0.0},
    more=hidden,
)  # fmt: skip


def wave_heads(prefix: str, *, moments_too: bool = True) -> dict[str, Head]:
    """Letters, classes of sounds, classes of moments."""
    classes = f"{prefix}ForSequenceClassification", "AutoModelForAudioClassification"
    heads = {
        "ForCTC": Head(f"{prefix}ForCTC", "AutoModelForCTC", Waves(("loss", "logits"), letters)),
        "ForSequenceClassification": Head(*classes, Waves(("loss", "logits"), rows)),
        "ForSequenceClassification, mixed": Head(
            *classes, Waves(("loss", "logits"), rows, {"use_weighted_layer_sum": True})
        ),
    }
    if moments_too:
        frames = f"{prefix}ForAudioFrameClassification", "AutoModelForAudioFrameClassification"
        heads["ForAudioFrameClassification"] = Head(*frames, Waves(("loss", "logits"), moments))
    return heads
