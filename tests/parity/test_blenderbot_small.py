"""BlenderbotSmall against the reference."""

from __future__ import annotations

from harness import Parity, Table, compiled
from sided import TINY, UNEVEN, alone, both
from writers import Sources

from reference import transformers


class TestBlenderbotSmall(Parity):
    table = Table(
        model_type="blenderbot-small",
        config=transformers.BlenderbotSmallConfig,
        tiny=TINY,
        heads={**both("BlenderbotSmall"), **alone("BlenderbotSmall")},
        variants={
            "plain": {},
            "scaled": {"scale_embedding": True, "activation_function": "relu"},
            "untied": {"tie_word_embeddings": False, "scale_embedding": True},
            "uneven": UNEVEN,
        },
        writes=("Writer", Sources()),
        writing=["plain", "scaled"],
        scale=0.5,
        spellings={"compiled": compiled},
    )
