"""SEW-D against the reference."""

from __future__ import annotations

from dataclasses import replace

from askers import Waves
from harness import Head, Parity, Table, compiled
from waves import TINY, wave_heads

from reference import transformers

HEADS = wave_heads("SEWD", moments_too=False)


class TestSEWD(Parity):
    table = Table(
        model_type="sew-d",
        config=transformers.SEWDConfig,
        tiny={**TINY, "position_buckets": 4, "max_position_embeddings": 64},
        heads={
            "Model": Head("SEWDModel", "AutoModel", Waves(("last_hidden_state",)), everywhere=True),
            **HEADS,
            # What makes as many frames again lies behind all hidden states.
            "ForSequenceClassification, mixed": replace(
                HEADS["ForSequenceClassification, mixed"], unused=("model.encoder.upsample",)
            ),
        },
        variants={
            "plain": {},
            "keys of their own": {"share_att_key": False, "norm_rel_ebd": "none", "squeeze_factor": 3},
            "contents alone": {"relative_attention": False, "feat_extract_norm": "layer", "hidden_act": "relu"},
            "every distance": {"position_buckets": -1, "pos_att_type": ["c2p"], "layer_norm_eps": 1e-2},
        },
        spellings={"compiled": compiled},
        half=5e-2,
    )
