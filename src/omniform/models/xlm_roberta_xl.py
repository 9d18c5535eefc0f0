"""XLM-RoBERTa XL and XXL (https://arxiv.org/abs/2105.00572): norms before branches, and none at the embeddings."""

from __future__ import annotations

from omniform.architectures.counted_family import CountedText, Sizes, counted_family
from omniform.architectures.encoder_family import PRENORM_KEYS, PreNormText
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap

SIZES: Sizes = {
    "vocab_size": 250880,
    "token_types": 1,
    "dim": 2560,
    "hidden": 10240,
    "layers": 36,
    "heads": 32,
    "eps": 1e-5,
    "max_positions": 514,
}


class UnnormedText(PreNormText):
    """One whose layers read the sums of vectors as they are."""

    __slots__ = ()

    def first(self) -> None:
        return None


def read(r: ConfigReader) -> CountedText:
    """Read a config; every key is used, declared inert or refused."""
    return CountedText.read(r, UnnormedText, **SIZES)


KEYS = KeyMap(
    {
        **PRENORM_KEYS,
        "layers.{i}.input_layernorm": "encoder.layer.{i}.attention.self_attn_layer_norm",
        "layers.{i}.encoder_attn_layer_norm": "encoder.layer.{i}.crossattention.self_attn_layer_norm",
        "layers.{i}.post_attention_layernorm": "encoder.layer.{i}.LayerNorm",
        "norm": "encoder.LayerNorm",
    }
)

FAMILY = counted_family("xlm-roberta-xl", "XLMRobertaXL", read, tokenizer="PreTrainedTokenizerFast", keys=KEYS).done()
