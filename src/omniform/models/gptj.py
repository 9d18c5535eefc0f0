"""GPT-J (https://github.com/kingoflolz/mesh-transformer-jax): one norm for both branches."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.decoder_family import BiasedDecoderHeads
from omniform.architectures.family import Builder
from omniform.architectures.plain_text import GPT, PlainText
from omniform.blocks.embeddings import TokenTypedEmbeddings, twin
from omniform.blocks.frequencies import Frequencies
from omniform.blocks.layers import OneNormParallel
from omniform.blocks.rotary import InterleavedRotary
from omniform.core.reader import ConfigReader
from omniform.core.rules import Causal
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a GPT-J computes."""

    text: PlainText
    frequencies: Frequencies


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    text = PlainText.read(
        r, GPT, vocab_size=50400, dim=4096, layers=28, heads=16, act="gelu_new", bos=50256, eos=50256,
    )  # fmt: skip
    # What the releases say of how they were trained, and of a head that is not there.
    r.inert("n_ctx", "rotary", "scale_attn_weights", "gradient_checkpointing", "summary_type", "summary_use_proj")
    r.inert("summary_activation", "summary_proj_to_labels", "summary_first_dropout")
    turned = r.maybe_integer("rotary_dim", 64) or text.heads.dim
    if turned > text.heads.dim or turned % 2:
        raise r.fail("rotary_dim", f"an even number, at most {text.heads.dim} (n_embd / n_head)", turned)
    return Config(text=text, frequencies=Frequencies(dim=turned, theta=10000.0))


def build(c: Config) -> TextDecoder:
    """The decoder without a head."""
    text, rotary, table = c.text, InterleavedRotary(c.frequencies), nn.Embedding(c.text.vocab_size, c.text.dim)
    return text.decoder(
        lambda _: text.layer(OneNormParallel, text.attention(Causal(), rotary)),
        embeddings=TokenTypedEmbeddings(embed_tokens=twin(table), dropout=text.embed_dropout),
        embed_tokens=table,
        longest=text.max_positions,
    )


heads = BiasedDecoderHeads(build, lambda c: c.text)

KEYS = KeyMap(
    {
        "embed_tokens": "wte",
        "layers.{i}": "h.{i}",
        "layers.{i}.input_layernorm": "h.{i}.ln_1",
        "layers.{i}.self_attn": "h.{i}.attn",
        "layers.{i}.self_attn.o_proj": "h.{i}.attn.out_proj",
        "layers.{i}.mlp.fc1": "h.{i}.mlp.fc_in",
        "layers.{i}.mlp.fc2": "h.{i}.mlp.fc_out",
        "norm": "ln_f",
    },
    # Masks and sines, which early releases saved with the weights.
    ignored=(r"\.attn\.((masked_)?bias|causal_mask|embed_positions)$",),
)
SCORE = {"classifier": "score"}

FAMILY = (
    Builder("gptj", read, KEYS, prefix="transformer")
    .public(
        config="GPTJConfig",
        padding="learned",
        tokenizer="GPT2Tokenizer",
        row="causal LM, sequence classification, question answering",
    )
    .base("GPTJModel", build)
    .head("GPTJForCausalLM", "causal-lm", heads.causal_lm)
    .head("GPTJForSequenceClassification", "sequence-classification", heads.sequence_classifier, SCORE)
    .head("GPTJForQuestionAnswering", "question-answering", heads.question_answerer)
    .done()
)
