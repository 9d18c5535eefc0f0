"""UniSpeech-SAT against the reference."""

from __future__ import annotations

from askers import Waves
from harness import Head, Parity, Table, compiled
from waves import TINY, VOICES, wave_heads

from reference import transformers


class TestUniSpeechSat(Parity):
    table = Table(
        model_type="unispeech-sat",
        config=transformers.UniSpeechSatConfig,
        tiny=TINY,
        heads={
            "Model": Head("UniSpeechSatModel", "AutoModel", Waves(), everywhere=True),
            **wave_heads("UniSpeechSat"),
            "ForXVector": Head("UniSpeechSatForXVector", "AutoModelForAudioXVector", VOICES),
            "ForPreTraining": Head(
                "UniSpeechSatForPreTraining",
                "AutoModelForPreTraining",
                Waves(
                    ("logits", "projected_states"),
                    config={
                        "num_codevectors_per_group": 5,
                        "codevector_dim": 8,
                        "proj_codevector_dim": 12,
                        "num_clusters": 7,
                    },
                ),
            ),
        },
        variants={
            "plain": {},
            "layer norms, stable": {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
            "nothing hides": {"mask_time_prob": 0.0},
        },
        spellings={"compiled": compiled},
        half=5e-2,
    )
