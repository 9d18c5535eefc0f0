"""Mistral (https://arxiv.org/abs/2310.06825)."""

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
from omniform.core.rules import Causal, Rule, Window
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a Mistral computes."""

    vocab_size: int
    dim: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    act: str
    eps: float
    max_positions: int
    frequencies: Frequencies
    windows: tuple[int | None, ...]
    """How many tokens a token sees in each layer, itself among them; None for all that came before."""
    attention_dropout: float
    classifier_dropout: float
    tie: bool


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    dim, heads = r.integer("hidden_size", 4096), r.integer("num_attention_heads", 32)
    kv_heads = r.integer_or_null("num_key_value_heads", 8) or heads
    if heads % kv_heads:
        raise r.fail("num_key_value_heads", f"a divisor of {heads} (num_attention_heads)", kv_heads)
    head_dim = r.maybe_integer("head_dim") or dim // heads
    if not head_dim:
        raise r.fail("num_attention_heads", f"at most {dim} (hidden_size)", heads)
    max_positions = r.integer("max_position_embeddings", 131072)
    r.special_tokens(bos_token_id=1, eos_token_id=2)
    return Config(
        vocab_size=r.integer("vocab_size", 32000),
        dim=dim,
        hidden=r.integer("intermediate_size", 14336),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        act=r.choice("hidden_act", ACTIVATIONS, "silu"),
        eps=r.number("rms_norm_eps", 1e-6),
        max_positions=max_positions,
        frequencies=read_frequencies(r, head_dim=head_dim, max_positions=max_positions),
        windows=read_windows(r),
        attention_dropout=r.probability("attention_dropout"),
        classifier_dropout=r.probability("classifier_dropout", r.probability("hidden_dropout", 0.1)),
        tie=r.flag("tie_word_embeddings", False),
    )


def read_windows(r: ConfigReader) -> tuple[int | None, ...]:
    """The window of every layer: the same for all, unless ``layer_types`` (Ministral) tells them apart."""
    layers, window = r.layers("num_hidden_layers", 32), r.integer_or_null("sliding_window", 4096)
    kinds = r.texts("layer_types", ())
    if not kinds:
        return (window,) * layers
    windows = {"full_attention": None, "sliding_attention": window}
    if len(kinds) != layers or not windows.keys() >= set(kinds):
        raise r.fail("layer_types", f"{layers} (num_hidden_layers) times one of {', '.join(windows)}", list(kinds))
    if window is None and "sliding_attention" in kinds:
        raise r.fail("sliding_window", "an integer, for the layers of the kind sliding_attention", None)
    return tuple(windows[kind] for kind in kinds)


def build(c: Config) -> Decoder:
    """The decoder without a head."""
    rotary = Rotary(c.frequencies)

    def attention(layer: int) -> Attention:
        window = c.windows[layer]
        rule: Rule = Causal() if window is None else Causal() & Window(window)
        return Attention(
            c.dim,
            c.heads,
            kv_heads=c.kv_heads,
            head_dim=c.head_dim,
            bias="",
            rule=rule,
            positions=rotary,
            dropout=c.attention_dropout,
        )

    return prenorm_decoder(
        nn.Embedding(c.vocab_size, c.dim),
        layers=len(c.windows),
        norm=lambda: RMSNorm(c.dim, c.eps),
        attention=attention,
        mlp=lambda: GatedMLP(c.dim, c.hidden, c.act),
        max_positions=c.frequencies.longest_row(c.max_positions),
    )


heads = DecoderHeads(build)

KEYS = KeyMap({})
"""Our names are the Hub's."""

FAMILY = (
    Builder("mistral", read, KEYS, prefix="model")
    .public(
        config="MistralConfig",
        tokenizer="LlamaTokenizer",
        row="causal LM, sequence and token classification, question answering",
    )
    .base("MistralModel", build)
    .head("MistralForCausalLM", "causal-lm", heads.causal_lm)
    .head(
        "MistralForSequenceClassification",
        "sequence-classification",
        heads.sequence_classifier,
        {"classifier": "score"},
    )
    .head("MistralForTokenClassification", "token-classification", heads.token_classifier, {"classifier": "score"})
    .head("MistralForQuestionAnswering", "question-answering", heads.question_answerer)
    .done()
)
