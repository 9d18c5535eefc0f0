"""data2vec for sound against the reference."""

from __future__ import annotations

from askers import Waves
from harness import Head, Parity, Table, compiled
from waves import TINY, VOICES, wave_heads

from reference import transformers


class TestData2VecAudio(Parity):
    table = Table(
        model_type="data2vec-audio",
        config=transformers.Data2VecAudioConfig,
        tiny={**TINY, "num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 5},
        heads={
            "Model": Head("Data2VecAudioModel", "AutoModel", Waves(), everywhere=True),
            **wave_heads("Data2VecAudio"),
            "ForXVector": Head("Data2VecAudioForXVector", "AutoModelForAudioXVector", VOICES),
        },
        variants={
            "plain": {},
            "even kernels": {"conv_pos_kernel_size": 4, "num_conv_pos_embeddings": 3, "conv_bias": True},
            "adapter": {"add_adapter": True, "output_hidden_size": 16, "num_adapter_layers": 1, "hidden_act": "relu"},
        },
        spellings={"compiled": compiled},
        half=5e-2,
    )
