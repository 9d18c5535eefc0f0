"""MPNet (https://arxiv.org/abs/2004.09297): RoBERTa's line with a bias for the distance of tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from omniform.architectures.counted_family import CountedHeads, CountedText
from omniform.architectures.encoder_family import STACK_KEYS, EncoderText
from omniform.architectures.family import Builder
from omniform.architectures.stack import TextStack
from omniform.blocks.attention import Attention
from omniform.blocks.embeddings import CountedPositions, PositionTable
from omniform.blocks.relative import BucketedBias
from omniform.core.reader import ConfigReader
from omniform.core.rules import Full
from omniform.weights.keymap import KeyMap

PADDING, BUCKETS = 1, 32
"""The token that positions are counted from, and how many buckets are in use, whatever a config says."""


class DistanceBias(BucketedBias):
    """The first :data:`BUCKETS` of a table."""

    SHARDS = BucketedBias.SHARDS

    @property
    def count(self) -> int:
        return BUCKETS


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(CountedText):
    """What an MPNet computes; ``buckets``: of distances, in the table."""

    buckets: int

    def stack(self, pooler: nn.Module | None) -> TextStack:
        """The encoder without a head."""
        t = self.text
        positions = PositionTable(t.max_positions, t.dim, padding=self.padding)
        embeddings = CountedPositions(embed_positions=positions, norm=t.norm(), dropout=t.dropout, padding=self.padding)
        stack, bias = t.stack(embeddings, pooler), DistanceBias(self.buckets, t.heads, max_distance=128, two_sided=True)
        for layer in stack.layers:
            layer.self_attn = Attention(t.dim, t.heads, rule=Full(), bias=bias.twin(), dropout=t.attention_dropout)
        return stack


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    r.only("is_decoder", False, None, why="an encoder")
    r.special_tokens(bos_token_id=0, pad_token_id=PADDING, eos_token_id=2)
    text = EncoderText.read(r, vocab_size=30527, token_types=0)  # no release tells types apart
    buckets = r.integer("relative_attention_num_buckets", BUCKETS)
    if buckets < BUCKETS:
        raise r.fail("relative_attention_num_buckets", f"at least {BUCKETS}: so many are always told apart", buckets)
    if text.max_positions < PADDING + 2:
        raise r.fail("max_position_embeddings", f"more than {PADDING + 1}: they begin there", text.max_positions)
    return Config(text=replace(text, classifier_dropout=text.dropout), padding=PADDING, buckets=buckets)


heads = CountedHeads(Config.stack, lambda c: c.text)

ATTENTION = "encoder.layer.{i}.attention"
KEYS = KeyMap(
    {
        **STACK_KEYS,
        **{f"layers.{{i}}.self_attn.{x}_proj": f"{ATTENTION}.attn.{x}" for x in "qkvo"},
        "layers.{i}.self_attn_layer_norm": f"{ATTENTION}.LayerNorm",
        "layers.{i}.self_attn.bias": "encoder.relative_attention_bias",
    }
)

FAMILY = (
    Builder("mpnet", read, KEYS, prefix="mpnet")
    .public(
        config="MPNetConfig",
        tokenizer="MPNetTokenizer",
        row="masked LM, sequence and token classification, multiple choice, question answering",
    )
    .base("MPNetModel", heads.with_pooler)
    .head("MPNetForMaskedLM", "masked-lm", heads.masked_lm)
    .head("MPNetForSequenceClassification", "sequence-classification", heads.sequence_classifier)
    .head("MPNetForMultipleChoice", "multiple-choice", heads.multiple_choice)
    .head("MPNetForTokenClassification", "token-classification", heads.token_classifier)
    .head("MPNetForQuestionAnswering", "question-answering", heads.question_answerer)
    .done()
)
