"""Falcon (https://arxiv.org/abs/2311.16867): branches beside one another, key heads shared by groups of query heads."""

from __future__ import annotations

from dataclasses import dataclass, replace

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.decoder_family import DecoderHeads
from omniform.architectures.family import Builder
from omniform.architectures.plain_text import Names, PlainText, by_group
from omniform.blocks.frequencies import Frequencies, read_frequencies
from omniform.blocks.layers import OneNormParallel, Parallel, PreNorm
from omniform.blocks.relative import RoundedAlibi
from omniform.blocks.rotary import Rotary
from omniform.core.reader import ConfigReader
from omniform.core.rules import Causal
from omniform.weights.keymap import KeyMap

NAMES = Names(hidden="ffn_hidden_size", kv_heads="num_kv_heads", act="activation", eps="layer_norm_epsilon")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a Falcon computes.

    Attributes:
        frequencies: of its rotary positions; None where slopes stand for positions (ALiBi).
        layer: branches one after another, or beside one another, with a norm for both or one for each.
    """

    text: PlainText
    frequencies: Frequencies | None
    layer: type[PreNorm] | type[OneNormParallel]
    bias: bool


def read_layer(r: ConfigReader, grouped: bool) -> type[PreNorm] | type[OneNormParallel]:
    """How the branches stand; ``grouped``: the config is of the second architecture."""
    norms = r.maybe_integer("num_ln_in_parallel_attn")
    if r.flag("parallel_attn", True):
        r.only("num_ln_in_parallel_attn", None, 1, *((2,) if grouped else ()), why="there is a norm for each branch")
        return Parallel if grouped and norms != 1 else OneNormParallel
    if grouped:
        raise r.fail("parallel_attn", "true, with new_decoder_architecture", False)
    return PreNorm


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    names = NAMES.widened(r, "n_embed")
    text = PlainText.read(r, names, vocab_size=65024, dim=4544, layers=32, heads=71, tie=True, bos=11, eos=11)
    r.values["ffn_hidden_size"] = text.hidden
    grouped, shared = r.flag("new_decoder_architecture", False), r.flag("multi_query", True)
    sloped = r.flag("alibi", False)
    r.inert("ff_factor")  # of Falcon 2, which says ffn_hidden_size too
    r.only("apply_residual_connection_post_layernorm", False, None, why="what branches add goes to their input")
    kv = text.heads.kv if grouped else 1 if shared else text.heads.queries
    frequencies = read_frequencies(r, head_dim=text.heads.dim, max_positions=text.max_positions)
    return Config(
        # Weights are dropped out beside slopes only.
        text=replace(
            text, heads=replace(text.heads, kv=kv), attention_dropout=text.attention_dropout if sloped else 0.0
        ),
        frequencies=None if sloped else frequencies,
        layer=read_layer(r, grouped),
        bias=r.flag("bias", False),
    )


def build(c: Config) -> TextDecoder:
    """The decoder without a head."""
    text, f, biases = c.text, c.frequencies, "qkvo" if c.bias else ""
    rotary = None if f is None else Rotary(f)
    slopes = RoundedAlibi(text.heads.queries, text.heads.dim**-0.5) if f is None else None
    return text.decoder(
        lambda _: text.layer(
            c.layer, text.attention(Causal(), rotary, biases=biases, bias=slopes), text.mlp(bias=c.bias)
        ),
        longest=None if f is None else f.longest_row(text.max_positions),
    )


heads = DecoderHeads(build, lambda c: c.text)


def keys(c: Config) -> KeyMap:
    """Queries, keys and values lie group by group in one matrix; norms of either branch have names of their own."""
    norms = {"input_layernorm": "ln_attn", "post_attention_layernorm": "ln_mlp"} if c.layer is Parallel else {}
    return KeyMap(
        {
            "embed_tokens": "word_embeddings",
            "layers.{i}": "h.{i}",
            **{f"layers.{{i}}.{ours}": f"h.{{i}}.{theirs}" for ours, theirs in norms.items()},
            **by_group("h.{i}.self_attention.query_key_value", c.text.heads),
            "layers.{i}.self_attn.o_proj": "h.{i}.self_attention.dense",
            "layers.{i}.mlp.fc1": "h.{i}.mlp.dense_h_to_4h",
            "layers.{i}.mlp.fc2": "h.{i}.mlp.dense_4h_to_h",
            "norm": "ln_f",
        }
    )


SCORE = {"classifier": "score"}

FAMILY = (
    Builder("falcon", read, keys, prefix="transformer")
    .public(
        config="FalconConfig",
        padding="learned",
        tokenizer="PreTrainedTokenizerFast",
        row="causal LM, sequence and token classification, question answering",
    )
    .base("FalconModel", build)
    .head("FalconForCausalLM", "causal-lm", heads.causal_lm)
    .head("FalconForSequenceClassification", "sequence-classification", heads.sequence_classifier, SCORE)
    .head("FalconForTokenClassification", "token-classification", heads.token_classifier)
    .head("FalconForQuestionAnswering", "question-answering", heads.question_answerer)
    .done()
)
