"""Conformer wav2vec 2.0 against the reference."""

from __future__ import annotations

from dataclasses import replace

from askers import Waves
from harness import Head, Parity, Table, compiled
from waves import CONTRASTS, TINY, VOICES, wave_heads

from reference import transformers

UNREAD = ("model.encoder.pos_conv_embed",)
"""A convolution that checkpoints hold and nobody reads."""

HEADS = wave_heads("Wav2Vec2Conformer")


class TestWav2Vec2Conformer(Parity):
    table = Table(
        model_type="wav2vec2-conformer",
        config=transformers.Wav2Vec2ConformerConfig,
        tiny={**TINY, "conv_depthwise_kernel_size": 5, "layerdrop": 0.0, "conformer_conv_dropout": 0.0},
        heads={
            "Model": Head("Wav2Vec2ConformerModel", "AutoModel", Waves(), everywhere=True),
            **{name: replace(head, unused=UNREAD) for name, head in HEADS.items()},
            "ForSequenceClassification, mixed": replace(
                HEADS["ForSequenceClassification, mixed"], unused=(*UNREAD, "model.encoder.layer_norm")
            ),
            "ForXVector": Head(
                "Wav2Vec2ConformerForXVector", "AutoModelForAudioXVector", VOICES, unused=UNREAD, rate=3e-3
            ),
            "ForPreTraining": Head(
                "Wav2Vec2ConformerForPreTraining", "AutoModelForPreTraining", CONTRASTS, unused=UNREAD, rate=3e-3
            ),
        },
        variants={
            "plain": {},
            "turned": {"position_embeddings_type": "rotary", "rotary_embedding_base": 100, "hidden_act": "swish"},
            "nowhere": {"position_embeddings_type": None, "feat_extract_norm": "layer", "conv_bias": True},
            "adapted": {"add_adapter": True, "num_adapter_layers": 1, "output_hidden_size": 16, "mask_time_prob": 0.0},
        },
        spellings={"compiled": compiled},
        half=5e-2,
    )
