"""SmolLM3 (https://huggingface.co/blog/smollm3): a Llama in which every fourth layer knows no positions."""

from __future__ import annotations

from dataclasses import dataclass

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.decoder_family import decoder_family
from omniform.architectures.parts import GatedText, read_windows
from omniform.blocks.frequencies import FULL, SLIDING
from omniform.blocks.rotary import Rotary
from omniform.core.reader import ConfigReader
from omniform.core.rules import Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a SmolLM3 computes.

    Attributes:
        placed: which layers know positions.
    """

    text: GatedText
    attention_bias: bool
    mlp_bias: bool
    placed: tuple[bool, ...]
    rules: tuple[Rule, ...]


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    text = GatedText.read(
        r, vocab_size=128256, dim=2048, layers=36, heads=16, kv_heads=4, max_positions=32768, theta=2e6, tie=True,
        bos=128000, eos=128001, pad=128004,
    )  # fmt: skip
    r.inert("pretraining_tp", "max_window_layers")
    every = r.integer("no_rope_layer_interval", 4)
    told = r.integers("no_rope_layers", tuple(int((i + 1) % every != 0) for i in range(text.layers)))
    if len(told) < text.layers:
        raise r.fail("no_rope_layers", f"at least {text.layers} numbers (num_hidden_layers)", len(told))
    placed = tuple(number != 0 for number in told[: text.layers])
    window, used = r.maybe_integer("sliding_window"), r.flag("use_sliding_window", False)
    kinds = tuple(FULL if window is None or not used or here else SLIDING for here in placed)
    return Config(
        text=text,
        attention_bias=r.flag("attention_bias", False),
        mlp_bias=r.flag("mlp_bias", False),
        placed=placed,
        rules=read_windows(r, text.layers, window, kinds),
    )


def build(c: Config) -> TextDecoder:
    """The decoder without a head."""
    text, rotary, biases = c.text, Rotary(c.text.frequencies), "qkvo" if c.attention_bias else ""
    return text.decoder(
        lambda i: text.prenorm(
            text.attention(c.rules[i], rotary if c.placed[i] else None, biases=biases), text.mlp(bias=c.mlp_bias)
        )
    )


FAMILY = decoder_family(
    "smollm3", "SmolLM3", read, build, tokenizer="PreTrainedTokenizerFast", answers="transformer"
).done()
