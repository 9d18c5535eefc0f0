"""UniSpeech against the reference."""

from __future__ import annotations

from askers import Waves
from harness import Head, Parity, Table, compiled
from waves import TINY, wave_heads

from reference import transformers


class TestUniSpeech(Parity):
    table = Table(
        model_type="unispeech",
        config=transformers.UniSpeechConfig,
        tiny=TINY,
        heads={
            "Model": Head("UniSpeechModel", "AutoModel", Waves(), everywhere=True),
            **wave_heads("UniSpeech", moments_too=False),
            "ForPreTraining": Head(
                "UniSpeechForPreTraining",
                "AutoModelForPreTraining",
                Waves(
                    ("projected_states", "projected_quantized_states", "codevector_perplexity"),
                    config={"num_codevectors_per_group": 5, "codevector_dim": 8, "proj_codevector_dim": 12},
                ),
            ),
        },
        variants={
            "plain": {},
            "layer norms, stable": {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
        },
        spellings={"compiled": compiled},
        half=5e-2,
    )
