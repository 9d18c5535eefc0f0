"""BERT (https://arxiv.org/abs/1810.04805)."""

from __future__ import annotations

from torch import nn

from omniform.architectures.encoder_family import STACK_KEYS, VOCABULARY_HEAD, EncoderHeads, EncoderText
from omniform.architectures.family import Builder
from omniform.architectures.stack import TextStack
from omniform.blocks.embeddings import PositionTable, TypedEmbeddings
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap


def read(r: ConfigReader) -> EncoderText:
    """Read a config; every key is used, declared inert or refused."""
    r.only("position_embedding_type", "absolute", None, why="positions are a learned table")
    # The pooler's old settings in multilingual checkpoints: never read.
    r.inert("directionality", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers")
    r.inert("pooler_size_per_head", "pooler_type")
    r.special_tokens(pad_token_id=0)
    return EncoderText.read(r)


def build(c: EncoderText, pooler: nn.Module | None) -> TextStack:
    """The encoder without a head, or the decoder, if it is one."""
    embeddings = TypedEmbeddings(
        embed_positions=PositionTable(c.max_positions, c.dim),
        embed_token_types=nn.Embedding(c.token_types, c.dim),
        norm=c.norm(),
        dropout=c.dropout,
    )
    return c.stack(embeddings, pooler)


heads = EncoderHeads(build, lambda c: c)

RELATION = "cls.seq_relationship"

FAMILY = (
    Builder("bert", read, KeyMap(STACK_KEYS), prefix="bert")
    .public(
        config="BertConfig",
        tokenizer="BertTokenizer",
        row="masked LM, pre-training, causal LM, next sentence, sequence and token classification, "
        "multiple choice, question answering",
    )
    .base("BertModel", heads.with_pooler, "text-encoding")
    .head("BertForPreTraining", "pre-training", heads.pre_training, {**VOCABULARY_HEAD, "seq_relationship": RELATION})
    .head("BertLMHeadModel", "causal-lm", heads.causal_lm, VOCABULARY_HEAD)
    .head("BertForMaskedLM", "masked-lm", heads.masked_lm, VOCABULARY_HEAD)
    .head("BertForNextSentencePrediction", "next-sentence-prediction", heads.next_sentence, {"classifier": RELATION})
    .head("BertForSequenceClassification", "sequence-classification", heads.sequence_classifier)
    .head("BertForMultipleChoice", "multiple-choice", heads.multiple_choice)
    .head("BertForTokenClassification", "token-classification", heads.token_classifier)
    .head("BertForQuestionAnswering", "question-answering", heads.question_answerer)
    .done()
)
