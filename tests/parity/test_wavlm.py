"""WavLM against the reference."""

from __future__ import annotations

from askers import Waves
from harness import Head, Parity, Table, compiled
from waves import TINY, VOICES, wave_heads

from reference import transformers


class TestWavLM(Parity):
    table = Table(
        model_type="wavlm",
        config=transformers.WavLMConfig,
        tiny={**TINY, "num_buckets": 8, "max_bucket_distance": 12},
        heads={
            "Model": Head("WavLMModel", "AutoModel", Waves(), everywhere=True),
            **wave_heads("WavLM"),
            "ForXVector": Head("WavLMForXVector", "AutoModelForAudioXVector", VOICES),
        },
        variants={
            "plain": {},
            "layer norms, stable": {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
            "buckets": {"num_buckets": 6, "max_bucket_distance": 9, "num_hidden_layers": 3},
            "adapter": {"add_adapter": True, "output_hidden_size": 16, "num_adapter_layers": 1},
        },
        spellings={"compiled": compiled},
        half=5e-2,
    )
