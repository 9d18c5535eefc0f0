"""RoBERTa (https://arxiv.org/abs/1907.11692)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from omniform.architectures.encoder import VocabularyHead
from omniform.architectures.encoder_family import STACK_KEYS, EncoderHeads, EncoderText
from omniform.architectures.family import Builder
from omniform.architectures.heads import RowParts, SequenceClassifier, first_token
from omniform.architectures.seq2seq_heads import SentenceClassifier
from omniform.architectures.stack import TextStack
from omniform.blocks.embeddings import PositionTable, TypedEmbeddings
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap


class CountedEmbeddings(TypedEmbeddings):
    """Positions count the tokens that are no padding, beyond the padding token's own number, which padding gets."""

    padding: int

    @property
    def positions(self) -> int:
        return self.embed_positions.positions - self.padding - 1

    @property
    def position_ids(self) -> int:
        return self.embed_positions.positions

    def count(self, input_ids: Tensor | None, tokens: Tensor, past: int) -> Tensor:
        if input_ids is None:
            return torch.arange(past, past + tokens.shape[1], device=tokens.device)[None] + self.padding + 1
        real = (input_ids != self.padding).long()
        return (real.cumsum(1) + past) * real + self.padding


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a RoBERTa computes."""

    text: EncoderText
    padding: int


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    r.only("position_embedding_type", "absolute", None, why="positions are a learned table")
    r.special_tokens(bos_token_id=0, eos_token_id=2)
    padding, text = r.token("pad_token_id", 1), EncoderText.read(r, vocab_size=50265)
    if padding is None or not 0 <= padding < text.max_positions - 1:
        raise r.fail("pad_token_id", f"0 to {text.max_positions - 2}: positions are counted from it", padding)
    return Config(text=text, padding=padding)


def build(c: Config, pooler: nn.Module | None) -> TextStack:
    """The encoder without a head, or the decoder, if it is one."""
    text = c.text
    embeddings = CountedEmbeddings(
        embed_positions=PositionTable(text.max_positions, text.dim),
        embed_token_types=nn.Embedding(text.token_types, text.dim),
        norm=text.norm(),
        dropout=text.dropout,
        padding=c.padding,
    )
    return text.stack(embeddings, pooler)


class Heads(EncoderHeads[Config]):
    """BERT's heads, two of them other than BERT's."""

    def vocabulary(self, c: Config, model: TextStack) -> VocabularyHead:
        return VocabularyHead(model.embed_tokens, "gelu", c.text.eps, tie=c.text.tie)

    def sequence_classifier(self, c: Config, common: Common) -> SequenceClassifier:
        head = SentenceClassifier(c.text.dim, common.num_labels, c.text.classifier_dropout)
        return SequenceClassifier(model=self.bare(c), pool=first_token, classifier=head, common=common)

    def row(self, c: Config, common: Common, scores: int) -> RowParts:
        return {**super().row(c, common, scores), "dropout": c.text.dropout}


heads = Heads(build, lambda c: c.text)

FAMILY = (
    Builder("roberta", read, KeyMap(STACK_KEYS), prefix="roberta")
    .public(
        config="RobertaConfig",
        tokenizer="RobertaTokenizer",
        row="masked LM, causal LM, sequence and token classification, multiple choice, question answering",
    )
    .base("RobertaModel", heads.with_pooler, "text-encoding")
    .head("RobertaForCausalLM", "causal-lm", heads.causal_lm)
    .head("RobertaForMaskedLM", "masked-lm", heads.masked_lm)
    .head("RobertaForSequenceClassification", "sequence-classification", heads.sequence_classifier)
    .head("RobertaForMultipleChoice", "multiple-choice", heads.multiple_choice)
    .head("RobertaForTokenClassification", "token-classification", heads.token_classifier)
    .head("RobertaForQuestionAnswering", "question-answering", heads.question_answerer)
    .done()
)
