"""StarCoder 2 (https://arxiv.org/abs/2402.19173): Mistral with layer norms and a plain feed-forward."""

from __future__ import annotations

from dataclasses import dataclass

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.decoder_family import decoder_family
from omniform.architectures.parts import causal
from omniform.architectures.plain_text import Names, PlainText
from omniform.blocks.frequencies import Frequencies, read_frequencies
from omniform.blocks.layers import PreNorm
from omniform.blocks.rotary import Rotary
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap

NAMES = Names(
    kv_heads="num_key_value_heads", eps="norm_epsilon", dropout="residual_dropout", embed_dropout="embedding_dropout"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a StarCoder 2 computes.

    Attributes:
        window: how many tokens back each layer sees; None for all.
    """

    text: PlainText
    frequencies: Frequencies
    window: int | None
    bias: bool


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    text = PlainText.read(
        r, NAMES, vocab_size=49152, dim=3072, hidden=12288, layers=30, heads=24, kv_heads=2, act="gelu_pytorch_tanh",
        max_positions=4096, tie=True, bos=50256, eos=50256,
    )  # fmt: skip
    r.number("initializer_range", 0.018042)  # of a fresh model
    # What the releases say besides: names that are not meant, and rounding.
    r.inert("activation_function", "layer_norm_epsilon")
    r.inert("attention_softmax_in_fp32", "scale_attention_softmax_in_fp32")
    r.only("mlp_type", "default", None, why="this family has plain feed-forwards")
    r.only("norm_type", "layer_norm", None, why="this family has layer norms")
    r.only("scale_attn_weights", True, None, why="scores are scaled by the heads' width")
    return Config(
        text=text,
        frequencies=read_frequencies(r, head_dim=text.heads.dim, max_positions=text.max_positions),
        window=r.maybe_integer("sliding_window"),
        bias=r.flag("use_bias", True),
    )


def build(c: Config) -> TextDecoder:
    """The decoder without a head."""
    text, rotary, rule, biases = c.text, Rotary(c.frequencies), causal(c.window), "qkvo" if c.bias else ""
    return text.decoder(
        lambda _: text.layer(PreNorm, text.attention(rule, rotary, biases=biases), text.mlp(bias=c.bias)),
        longest=c.frequencies.longest_row(text.max_positions),
    )


KEYS = KeyMap({"layers.{i}.mlp.fc1": "layers.{i}.mlp.c_fc", "layers.{i}.mlp.fc2": "layers.{i}.mlp.c_proj"})

FAMILY = decoder_family("starcoder2", "Starcoder2", read, build, KEYS, tokenizer="GPT2Tokenizer", answers=None).done()
