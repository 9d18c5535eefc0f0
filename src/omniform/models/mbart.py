"""mBART (https://arxiv.org/abs/2001.08210) and mBART-50: a pre-norm BART that begins with the language's code."""

from __future__ import annotations

from typing import ClassVar

from omniform.architectures.biased_seq2seq import LastToFront
from omniform.architectures.encoder_decoder import RightShift
from omniform.architectures.sided_family import SCORE, SIDED_HEADS, LearnedText, sided_family
from omniform.core.reader import ConfigReader


class Text(LearnedText):
    """What an mBART computes."""

    __slots__ = ()
    SHIFT: ClassVar[type[RightShift]] = LastToFront


def read(r: ConfigReader) -> Text:
    """Read a config; every key is used, declared inert or refused."""
    return Text.read(r, start=None)


FAMILY = (
    sided_family(
        "mbart",
        "MBart",
        read,
        tokenizer="MBartTokenizer",
        row="seq2seq LM, causal LM, sequence classification, question answering",
        tasks=("seq2seq-lm", "masked-lm"),
    )
    .head("MBartForSequenceClassification", "sequence-classification", SIDED_HEADS.classifier, SCORE)
    .head("MBartForQuestionAnswering", "question-answering", SIDED_HEADS.question_answerer)
    .done()
)
