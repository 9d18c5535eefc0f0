"""GLM-4-0414 (https://huggingface.co/zai-org/GLM-4-9B-0414): GLM with norms on both sides of each branch."""

from __future__ import annotations

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.decoder_family import decoder_family
from omniform.blocks.layers import Sandwich
from omniform.models import glm
from omniform.weights.keymap import KeyMap


def build(c: glm.Config) -> TextDecoder:
    """The decoder without a head."""
    return c.text.decoder(lambda _: Sandwich.of(c.text.norm, self_attn=c.attention(), mlp=c.text.mlp()))


KEYS = glm.KEYS | KeyMap(
    {
        "layers.{i}.post_attention_layernorm": "layers.{i}.post_self_attn_layernorm",
        "layers.{i}.pre_feedforward_layernorm": "layers.{i}.post_attention_layernorm",
        "layers.{i}.post_feedforward_layernorm": "layers.{i}.post_mlp_layernorm",
    }
)

FAMILY = decoder_family("glm4", "Glm4", glm.read, build, KEYS, tokenizer="PreTrainedTokenizerFast", answers=None).done()
