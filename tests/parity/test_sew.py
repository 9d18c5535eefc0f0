"""SEW against the reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from askers import Waves, noise
from harness import Head, Parity, Table, compiled
from waves import TINY, wave_heads

from omniform.core.errors import InputError
from reference import close, omniform, saved_reference, transformers

TINY = {**TINY, "layerdrop": 0.0}
HEADS = wave_heads("SEW", moments_too=False)
# What makes as many frames again lies behind all hidden states.
MIXED = replace(HEADS["ForSequenceClassification, mixed"], unused=("model.encoder.upsample",))


class TestSEW(Parity):
    table = Table(
        model_type="sew",
        config=transformers.SEWConfig,
        tiny=TINY,
        heads={
            "Model": Head("SEWModel", "AutoModel", Waves(("last_hidden_state",)), everywhere=True),
            **HEADS,
            "ForSequenceClassification, mixed": MIXED,
        },
        variants={
            "plain": {},
            "threes, layer norms": {"squeeze_factor": 3, "feat_extract_norm": "layer", "conv_bias": True},
            "as wide as frames": {"conv_dim": [12, 16, 24], "num_conv_pos_embeddings": 5, "hidden_act": "relu"},
            "all frames": {"squeeze_factor": 1, "feat_extract_activation": "silu", "mask_time_prob": 0.0},
        },
        spellings={"compiled": compiled},
        half=5e-2,
    )


@pytest.mark.parametrize("factor", [2, 3])
def test_any_number_of_frames(tmp_path, factor):
    theirs = saved_reference(transformers.SEWModel, transformers.SEWConfig(**TINY, squeeze_factor=factor), tmp_path)
    ours = omniform.AutoModel.from_pretrained(tmp_path)
    with torch.no_grad():
        for samples in range(100, 300, 21):
            wave = noise(2, samples)
            close(ours(wave).last_hidden_state, theirs(wave).last_hidden_state)


def test_training_draws_the_reference_s_luck(tmp_path):
    changes = {"layerdrop": 0.4, "mask_time_prob": 0.5, "mask_feature_prob": 0.2, "mask_feature_length": 2,
        "feat_proj_dropout": 0.1, "attention_dropout": 0.0}  # fmt: skip
    theirs = saved_reference(transformers.SEWModel, transformers.SEWConfig(**{**TINY, **changes}), tmp_path).train()
    ours = omniform.AutoModel.from_pretrained(tmp_path).train()
    mask = (torch.arange(413) < torch.tensor([[413], [300]])).long()
    for seed in range(3):
        found = []
        for model in (ours, theirs):
            torch.manual_seed(seed)
            np.random.seed(seed)
            found.append(model(noise(2, 413), attention_mask=mask).last_hidden_state.detach())
        close(*found)


def test_rows_without_a_frame(tmp_path):
    """They have none, where wav2vec 2.0 lets them have all; a sound of fewer frames than the layers need is refused."""
    theirs = saved_reference(transformers.SEWModel, transformers.SEWConfig(**TINY, squeeze_factor=4), tmp_path)
    ours = omniform.AutoModel.from_pretrained(tmp_path)
    mask = (torch.arange(413) < torch.tensor([[413], [9], [0]])).long()
    for model in (ours, theirs):
        model.set_attn_implementation("eager")
    with torch.no_grad():
        close(*(model(noise(3, 413), attention_mask=mask).last_hidden_state for model in (ours, theirs)))
    with pytest.raises(InputError, match="too short for the layers"):
        ours(noise(1, 70))
