"""Gemma 3 (https://arxiv.org/abs/2503.19786): five windows to each layer that sees all, each kind with its rope."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.decoder_family import SAME, DecoderHeads
from omniform.architectures.family import Builder
from omniform.architectures.parts import ZeroCentredText, around, causal, read_windows
from omniform.blocks.embeddings import RoundedScaledEmbedding
from omniform.blocks.frequencies import FULL, SLIDING, Frequencies
from omniform.blocks.layers import Sandwich
from omniform.blocks.norms import ZeroCentredRMSNorm
from omniform.blocks.rotary import Rotary
from omniform.blocks.scores import Scores, SoftCap
from omniform.core.reader import ConfigReader
from omniform.core.rules import Rule
from omniform.models.gemma2 import read_cap


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a Gemma 3 computes.

    Attributes:
        rules: what each layer sees; what follows a token too, in models that embed texts.
        turning: how fast each layer's queries and keys turn.
        scale: factor on dot products, not by a head's width.
        logits_cap: bound of the scores of tokens; None for none.
    """

    text: ZeroCentredText
    attention_bias: bool
    rules: tuple[Rule, ...]
    turning: tuple[Frequencies, ...]
    scale: float
    logits_cap: float | None


BASES = {FULL: ("rope_theta", 1e6), SLIDING: ("rope_local_base_freq", 1e4)}


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    text = ZeroCentredText.read(
        r, vocab_size=262208, dim=2304, hidden=9216, layers=26, heads=8, kv_heads=4, head_dim=256, max_positions=131072,
        act="gelu_pytorch_tanh", act_key="hidden_activation", bases=BASES, tie=True, bos=2, eos=1, pad=0,
    )  # fmt: skip
    # No release bounds its scores, and the reference would not.
    r.inert("attn_logit_softcapping")
    both = r.flag("use_bidirectional_attention", False)
    window = r.integer_or_null("sliding_window", 4096, least=0 if both else 1)
    if both and window is not None:
        window = window // 2 + 1  # the file counts those on both sides
    every = r.integer("sliding_window_pattern", 6)
    kinds = r.texts("layer_types", tuple(SLIDING if (i + 1) % every else FULL for i in range(text.layers)))
    return Config(
        text=text,
        attention_bias=r.flag("attention_bias", False),
        rules=read_windows(r, text.layers, window, kinds, around if both else causal),
        turning=tuple(text.turning[kind] for kind in kinds),
        scale=r.integer("query_pre_attn_scalar", 256) ** -0.5,
        logits_cap=read_cap(r, "final_logit_softcapping", None),
    )


def build(c: Config) -> TextDecoder:
    """The decoder without a head."""
    text, scores, biases = c.text, Scores(c.scale), "qkvo" if c.attention_bias else ""

    def norm() -> nn.Module:
        return ZeroCentredRMSNorm(text.heads.dim, text.eps)

    def layer(i: int) -> nn.Module:
        attention = text.attention(
            c.rules[i], Rotary(c.turning[i]), biases=biases, scores=scores, q_norm=norm(), k_norm=norm()
        )
        return Sandwich.of(text.norm, self_attn=attention, mlp=text.mlp())

    return text.decoder(layer, embed_tokens=RoundedScaledEmbedding(text.vocab_size, text.dim, text.dim**0.5))


heads = DecoderHeads(build, lambda c: c.text, lambda c: None if c.logits_cap is None else SoftCap(c.logits_cap))


FAMILY = (
    Builder("gemma3_text", read, SAME, prefix="model")
    .public(
        config="Gemma3TextConfig",
        tokenizer="GemmaTokenizer",
        usual={"attn_logit_softcapping": None},
        row="causal LM, sequence classification, text embeddings",
    )
    .base("Gemma3TextModel", build)
    .head("Gemma3ForCausalLM", "causal-lm", heads.causal_lm)
    .head(
        "Gemma3TextForSequenceClassification",
        "sequence-classification",
        heads.sequence_classifier,
        {"classifier": "score"},
    )
    .done()
)
