"""BART (https://arxiv.org/abs/1910.13461): an encoder and a decoder of text, post-norm, with learned positions."""

from __future__ import annotations

from omniform.architectures.sided_family import SCORE, SIDED_HEADS, LearnedText, PostNormed, sided_family
from omniform.core.reader import ConfigReader


class Text(PostNormed, LearnedText):
    """What a BART computes."""

    __slots__ = ()


def read(r: ConfigReader) -> Text:
    """Read a config; every key is used, declared inert or refused."""
    # The reference's pre-norm cousins (mBART) have a model_type of their own.
    for name in ("normalize_before", "add_final_layer_norm", "add_bias_logits", "static_position_embeddings"):
        r.only(name, False, None, why="norms stand after branches, and positions are learned")
    r.only("normalize_embedding", True, None, why="embeddings are normed")
    return Text.read(r)


FAMILY = (
    sided_family(
        "bart",
        "Bart",
        read,
        tokenizer="BartTokenizer",
        row="seq2seq LM, causal LM, sequence classification, question answering",
        tasks=("seq2seq-lm", "masked-lm"),
        labels=3,
    )
    .head("BartForSequenceClassification", "sequence-classification", SIDED_HEADS.classifier, SCORE)
    .head("BartForQuestionAnswering", "question-answering", SIDED_HEADS.question_answerer)
    .done()
)
