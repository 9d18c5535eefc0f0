"""Decoders on three axes as the vision-language models of Qwen's line have them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from torch import nn

from omniform.architectures.axes import AxesDecoder, DeepDecoder, in_sections, interleaved
from omniform.architectures.parts import GatedText, read_upper_windows
from omniform.blocks.norms import RMSNorm
from omniform.blocks.rotary import AxesRotary
from omniform.core.reader import ConfigReader
from omniform.core.rules import Causal, Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionedText:
    """A Qwen2 on three axes, whose channels turn by time, rows and columns section after section."""

    text: GatedText
    rotary: AxesRotary
    rules: tuple[Rule, ...]

    @classmethod
    def read(cls, r: ConfigReader) -> Self:
        """Read its config; every key is used, declared inert or refused."""
        text = GatedText.read(
            r, vocab_size=152064, dim=8192, hidden=29568, layers=80, heads=64, kv_heads=8, eps=1e-5,
            max_positions=32768, theta=1000000.0, bos=151643, eos=151645,
        )  # fmt: skip
        rotary = in_sections(r, text.frequencies)
        return cls(text=text, rotary=rotary, rules=read_upper_windows(r, text.layers, above=80))

    def build(self) -> AxesDecoder:
        """The decoder."""
        t = self.text
        return t.decoder(lambda i: t.prenorm(t.attention(self.rules[i], self.rotary, biases="qkv")), kind=AxesDecoder)


@dataclass(frozen=True, slots=True, kw_only=True)
class InterleavedText:
    """A Qwen3 on three axes, whose channels turn by time, rows and columns in turn; its first layers are told more."""

    text: GatedText
    rotary: AxesRotary
    attention_bias: bool

    @classmethod
    def read(cls, r: ConfigReader) -> Self:
        """Read its config; every key is used, declared inert or refused."""
        text = GatedText.read(
            r, vocab_size=151936, hidden=22016, kv_heads=32, head_dim=128, max_positions=128000, theta=500000.0,
            bos=None, eos=None,
        )  # fmt: skip
        return cls.of(r, text)

    @classmethod
    def of(cls, r: ConfigReader, text: GatedText, **more: object) -> Self:
        """The rest of the config; ``more``: fields of a subclass."""
        kinds: dict[str, object] = {"text": text, "rotary": interleaved(r, text.frequencies), **more}
        return cls(**kinds, attention_bias=r.flag("attention_bias", False))  # type: ignore[arg-type]

    def attention(self) -> nn.Module:
        """One self-attention."""
        t, biases = self.text, "qkvo" if self.attention_bias else ""
        q_norm, k_norm = RMSNorm(t.heads.dim, t.eps), RMSNorm(t.heads.dim, t.eps)
        return t.attention(Causal(), self.rotary, biases=biases, q_norm=q_norm, k_norm=k_norm)

    def build(self) -> DeepDecoder:
        """The decoder."""
        return self.text.decoder(lambda _: self.text.prenorm(self.attention()), kind=DeepDecoder)
