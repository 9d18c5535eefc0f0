"""wav2vec 2.0 against the reference."""

from __future__ import annotations

from askers import Waves
from harness import Head, Parity, Table, compiled
from waves import CONTRASTS, TINY, VARIANTS, VOICES, wave_heads

from reference import transformers


class TestWav2Vec2(Parity):
    table = Table(
        model_type="wav2vec2",
        config=transformers.Wav2Vec2Config,
        tiny=TINY,
        heads={
            "Model": Head("Wav2Vec2Model", "AutoModel", Waves(), everywhere=True),
            **wave_heads("Wav2Vec2"),
            "ForXVector": Head("Wav2Vec2ForXVector", "AutoModelForAudioXVector", VOICES),
            "ForPreTraining": Head("Wav2Vec2ForPreTraining", "AutoModelForPreTraining", CONTRASTS, rate=3e-3),
        },
        variants=VARIANTS,
        spellings={"compiled": compiled},
        half=5e-2,
    )
