"""HuBERT against the reference."""

from __future__ import annotations

from askers import Waves
from harness import Head, Parity, Table, compiled
from waves import TINY, wave_heads

from reference import transformers


class TestHubert(Parity):
    table = Table(
        model_type="hubert",
        config=transformers.HubertConfig,
        tiny=TINY,
        heads={
            "Model": Head("HubertModel", "AutoModel", Waves(("last_hidden_state",)), everywhere=True),
            **wave_heads("Hubert", moments_too=False),
        },
        variants={
            "plain": {},
            "layer norms, stable": {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
            "frames as they are": {"feat_proj_layer_norm": False, "num_conv_pos_embeddings": 5},
            "batch norm": {"conv_pos_batch_norm": True, "feat_extract_activation": "relu"},
        },
        spellings={"compiled": compiled},
        half=5e-2,
    )
