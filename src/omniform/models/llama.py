"""Llama (https://arxiv.org/abs/2302.13971, https://arxiv.org/abs/2407.21783)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.decoder import Decoder
from omniform.architectures.decoder_family import DecoderHeads, prenorm_decoder
from omniform.architectures.family import Builder
from omniform.blocks.attention import Attention
from omniform.blocks.mlp import ACTIVATIONS, GatedMLP
from omniform.blocks.norms import RMSNorm
from omniform.blocks.rotary import Frequencies, Rotary, read_frequencies
from omniform.core.reader import ConfigReader
from omniform.core.rules import Causal
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a Llama computes."""

    vocab_size: int
    dim: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    act: str
    eps: float
    max_positions: int
    frequencies: Frequencies
    attention_bias: bool
    mlp_bias: bool
    attention_dropout: float
    classifier_dropout: float
    tie: bool


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    dim, heads = r.integer("hidden_size", 4096), r.integer("num_attention_heads", 32)
    kv_heads = r.maybe_integer("num_key_value_heads") or heads
    if heads % kv_heads:
        raise r.fail("num_key_value_heads", f"a divisor of {heads} (num_attention_heads)", kv_heads)
    if dim % heads:
        raise r.fail("num_attention_heads", f"a divisor of {dim} (hidden_size)", heads)
    head_dim = r.maybe_integer("head_dim") or dim // heads
    max_positions = r.integer("max_position_embeddings", 2048)
    r.inert("pretraining_tp")
    r.special_tokens(bos_token_id=1, eos_token_id=2)
    return Config(
        vocab_size=r.integer("vocab_size", 32000),
        dim=dim,
        hidden=r.integer("intermediate_size", 11008),
        layers=r.layers("num_hidden_layers", 32),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        act=r.choice("hidden_act", ACTIVATIONS, "silu"),
        eps=r.number("rms_norm_eps", 1e-6),
        max_positions=max_positions,
        frequencies=read_frequencies(r, head_dim=head_dim, max_positions=max_positions),
        attention_bias=r.flag("attention_bias", False),
        mlp_bias=r.flag("mlp_bias", False),
        attention_dropout=r.probability("attention_dropout"),
        classifier_dropout=r.probability("classifier_dropout", r.probability("hidden_dropout", 0.1)),
        tie=r.flag("tie_word_embeddings", False),
    )


def build(c: Config) -> Decoder:
    """The decoder without a head."""
    rotary = Rotary(c.frequencies)

    def attention(_: int) -> Attention:
        return Attention(
            c.dim,
            c.heads,
            kv_heads=c.kv_heads,
            head_dim=c.head_dim,
            bias="qkvo" if c.attention_bias else "",
            rule=Causal(),
            positions=rotary,
            dropout=c.attention_dropout,
        )

    return prenorm_decoder(
        nn.Embedding(c.vocab_size, c.dim),
        layers=c.layers,
        norm=lambda: RMSNorm(c.dim, c.eps),
        attention=attention,
        mlp=lambda: GatedMLP(c.dim, c.hidden, c.act, bias=c.mlp_bias),
        max_positions=c.frequencies.longest_row(c.max_positions),
    )


heads = DecoderHeads(build)

KEYS = KeyMap({})
"""Our names are the Hub's."""

FAMILY = (
    Builder("llama", read, KEYS, prefix="model")
    .public(
        config="LlamaConfig",
        tokenizer="LlamaTokenizer",
        row="causal LM, sequence and token classification, question answering",
        usual={"pretraining_tp": 1},
    )
    .base("LlamaModel", build)
    .head("LlamaForCausalLM", "causal-lm", heads.causal_lm)
    .head(
        "LlamaForSequenceClassification", "sequence-classification", heads.sequence_classifier, {"classifier": "score"}
    )
    .head("LlamaForTokenClassification", "token-classification", heads.token_classifier, {"classifier": "score"})
    .head("LlamaForQuestionAnswering", "question-answering", heads.question_answerer, prefix="transformer")
    .done()
)
