"""RoBERTa's line: BERT's layers, positions counted from the padding token, and heads of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, TypedDict, TypeVar, Unpack

from torch import nn

from omniform.architectures.encoder_family import STACK_KEYS, EncoderHeads, EncoderText
from omniform.architectures.family import Builder
from omniform.architectures.heads import RowParts, SequenceClassifier, first_token
from omniform.architectures.scoring import VocabularyHead
from omniform.architectures.seq2seq_heads import SentenceClassifier
from omniform.architectures.stack import TextStack
from omniform.blocks.embeddings import CountedEmbeddings, PositionTable
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap


class Sizes(TypedDict, total=False):
    """Defaults of a family; see :meth:`EncoderText.read`."""

    vocab_size: int
    token_types: int
    dim: int
    hidden: int
    layers: int
    heads: int
    attention_dropout: float
    eps: float
    max_positions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedText:
    """What a RoBERTa and its kin compute.

    Attributes:
        padding: the token that positions are counted from.
    """

    text: EncoderText
    padding: int

    @classmethod
    def read(cls, r: ConfigReader, kind: type[EncoderText] = EncoderText, **usual: Unpack[Sizes]) -> Self:
        """The fields under their usual names.

        Args:
            kind: of the text part, which says where norms stand.
            usual: its defaults, where they are not BERT's.
        """
        r.only("position_embedding_type", "absolute", None, why="positions are a learned table")
        r.special_tokens(bos_token_id=0, eos_token_id=2)
        padding, text = r.token("pad_token_id", 1), kind.read(r, **usual)
        if padding is None or not 0 <= padding < text.max_positions - 1:
            raise r.fail("pad_token_id", f"0 to {text.max_positions - 2}: positions are counted from it", padding)
        return cls(text=text, padding=padding)

    def stack(self, pooler: nn.Module | None) -> TextStack:
        """The encoder without a head, or the decoder, if it is one."""
        text = self.text
        embeddings = CountedEmbeddings(
            embed_positions=PositionTable(text.max_positions, text.dim, padding=self.padding),
            embed_token_types=nn.Embedding(text.token_types, text.dim),
            norm=text.first(),
            dropout=text.dropout,
            padding=self.padding,
        )
        return text.stack(embeddings, pooler, nn.Embedding(text.vocab_size, text.dim, padding_idx=self._kept))

    @property
    def _kept(self) -> int | None:
        """The token whose vector stays as it is in training."""
        return self.padding if self.padding < self.text.vocab_size else None


C = TypeVar("C", bound=CountedText)


class CountedHeads(EncoderHeads[C]):
    """BERT's heads, two of them other than BERT's."""

    def vocabulary(self, c: C, model: TextStack) -> VocabularyHead:
        return VocabularyHead.of_tokens(model.embed_tokens, "gelu", c.text.eps, tie=c.text.tie)

    def sequence_classifier(self, c: C, common: Common) -> SequenceClassifier:
        head = SentenceClassifier(c.text.dim, common.num_labels, c.text.classifier_dropout)
        return SequenceClassifier(model=self.bare(c), pool=first_token, classifier=head, common=common)

    def row(self, c: C, common: Common, scores: int) -> RowParts:
        return {**super().row(c, common, scores), "dropout": c.text.dropout}


def counted_family(
    model_type: str,
    name: str,
    read: Callable[[ConfigReader], CountedText],
    *,
    prefix: str = "roberta",
    tokenizer: str = "RobertaTokenizer",
    keys: KeyMap | None = None,
    heads: type[CountedHeads[CountedText]] | None = None,
) -> Builder[CountedText]:
    """A family of this line.

    Args:
        name: what its class names begin with: ``"Roberta"``.
        prefix: what the encoder is called inside checkpoints of its heads.
        tokenizer: class name of its tokenizer.
        keys: where the encoder's weights live, if not where BERT's do.
        heads: what makes its heads, if not what makes RoBERTa's.
    """
    made = (heads or CountedHeads)(CountedText.stack, lambda c: c.text)
    row = "masked LM, causal LM, sequence and token classification, multiple choice, question answering"
    return (
        Builder(model_type, read, keys or KeyMap(STACK_KEYS), prefix=prefix)
        .public(config=f"{name}Config", tokenizer=tokenizer, row=row)
        .base(f"{name}Model", made.with_pooler, "text-encoding")
        .head(f"{name}ForCausalLM", "causal-lm", made.causal_lm)
        .head(f"{name}ForMaskedLM", "masked-lm", made.masked_lm)
        .head(f"{name}ForSequenceClassification", "sequence-classification", made.sequence_classifier)
        .head(f"{name}ForMultipleChoice", "multiple-choice", made.multiple_choice)
        .head(f"{name}ForTokenClassification", "token-classification", made.token_classifier)
        .head(f"{name}ForQuestionAnswering", "question-answering", made.question_answerer)
    )
