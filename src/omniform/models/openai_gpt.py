"""GPT (https://cdn.openai.com/research-covers/language-unsupervised/language_understanding_paper.pdf)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.decoder_family import DecoderHeads
from omniform.architectures.double_heads import DoubleHeads, Summary, SummaryHead, read_summary
from omniform.architectures.family import Builder
from omniform.architectures.plain_text import GPT, PlainText
from omniform.blocks.embeddings import GPTEmbeddings, PositionTable, twin
from omniform.blocks.layers import PostNorm
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.core.rules import Causal
from omniform.weights.keymap import KeyMap
from omniform.weights.links import shares, transposed

ACTS = {"relu": "relu", "silu": "silu", "swish": "silu", "gelu": "gelu_new"}
"""What this family's configs call the activations: its GELU is the approximated one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a GPT computes."""

    text: PlainText
    summary: Summary


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    text = PlainText.read(
        r, replace(GPT, hidden="", act="afn"), vocab_size=40478, dim=768, layers=12, heads=12, max_positions=512,
        dropout=0.1, attention_dropout=0.1, tie=True, bos=None, eos=None,
    )  # fmt: skip
    r.inert("n_ctx", "n_special", "predict_special_tokens")  # of the first releases
    text = replace(text, act=ACTS[r.choice("afn", ACTS, "gelu")])
    return Config(text=text, summary=read_summary(r))


def build(c: Config) -> TextDecoder:
    """The decoder without a head."""
    text = c.text
    table, positions = nn.Embedding(text.vocab_size, text.dim), PositionTable(text.max_positions, text.dim)
    return text.decoder(
        lambda _: text.layer(PostNorm, text.attention(Causal(), None, biases="qkvo")),
        embeddings=GPTEmbeddings(embed_positions=positions, embed_tokens=twin(table), dropout=text.embed_dropout),
        embed_tokens=table,
        norm=nn.Identity(),
        longest=text.max_positions,
    )


heads = DecoderHeads(build, lambda c: c.text)


def double_heads(c: Config, _: Common) -> DoubleHeads:
    """The decoder that writes and chooses."""
    model, chooses = build(c), SummaryHead(c.text.dim, c.summary)
    return DoubleHeads(model=model, lm_head=heads.lm_head(c, model), multiple_choice_head=chooses)


KEYS = KeyMap(
    {
        "embed_tokens": "tokens_embed",
        "embeddings.embed_positions": "positions_embed",
        "layers.{i}": "h.{i}",
        **shares("layers.{i}.self_attn", "h.{i}.attn.c_attn", "qkv", transposed=True),
        "layers.{i}.self_attn.o_proj": transposed("h.{i}.attn.c_proj"),
        "layers.{i}.self_attn_layer_norm": "h.{i}.ln_1",
        "layers.{i}.mlp.fc1": transposed("h.{i}.mlp.c_fc"),
        "layers.{i}.mlp.fc2": transposed("h.{i}.mlp.c_proj"),
        "layers.{i}.final_layer_norm": "h.{i}.ln_2",
    },
    # The causal mask, which early releases saved with the weights.
    ignored=(r"\.attn\.bias$",),
)
SCORE = {"classifier": "score"}

FAMILY = (
    Builder("openai-gpt", read, KEYS, prefix="transformer")
    .public(
        config="OpenAIGPTConfig",
        padding="learned",
        tokenizer="OpenAIGPTTokenizer",
        row="causal LM, double heads, sequence classification",
    )
    .base("OpenAIGPTModel", build)
    .head("OpenAIGPTLMHeadModel", "causal-lm", heads.causal_lm)
    .head("OpenAIGPTDoubleHeadsModel", "multiple-choice", double_heads)
    .head("OpenAIGPTForSequenceClassification", "sequence-classification", heads.sequence_classifier, SCORE)
    .done()
)
