"""PEGASUS against the reference."""

from __future__ import annotations

from harness import Parity, Table, compiled
from sided import TINY, UNEVEN, alone, both
from writers import Sources

from reference import transformers


class TestPegasus(Parity):
    table = Table(
        model_type="pegasus",
        config=transformers.PegasusConfig,
        tiny=TINY,
        heads={**both("Pegasus"), **alone("Pegasus")},
        variants={
            "plain": {},
            "scaled": {"scale_embedding": True, "activation_function": "relu"},
            "untied": {"tie_word_embeddings": False, "scale_embedding": True},
            "uneven": UNEVEN,
            "another start": {"decoder_start_token_id": 5, "pad_token_id": 3, "forced_bos_token_id": 7},
        },
        writes=("Writer", Sources()),
        writing=["plain", "scaled", "untied", "another start"],
        scale=0.5,
        spellings={"compiled": compiled},
    )
