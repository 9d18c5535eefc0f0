"""RoBERTa with norms before its branches (https://arxiv.org/abs/2202.08005)."""

from __future__ import annotations

from omniform.architectures.counted_family import CountedText, counted_family
from omniform.architectures.encoder_family import PRENORM_KEYS, PreNormText
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap


def read(r: ConfigReader) -> CountedText:
    """Read a config; every key is used, declared inert or refused."""
    return CountedText.read(r, PreNormText, vocab_size=50265)


KEYS = KeyMap(
    {
        **PRENORM_KEYS,
        "layers.{i}.post_attention_layernorm": "encoder.layer.{i}.intermediate.LayerNorm",
        "norm": "LayerNorm",
    }
)

FAMILY = counted_family(
    "roberta-prelayernorm", "RobertaPreLayerNorm", read, prefix="roberta_prelayernorm", keys=KEYS
).done()
