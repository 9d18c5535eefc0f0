"""T5 and its 1.1 version, FLAN-T5 included (https://arxiv.org/abs/1910.10683, https://arxiv.org/abs/2002.05202)."""

from __future__ import annotations

from omniform.architectures.family import Builder
from omniform.architectures.seq2seq_family import ENCODER_KEYS, KEYS, BiasedText
from omniform.architectures.seq2seq_heads import Seq2SeqHeads
from omniform.core.reader import ConfigReader


def read(r: ConfigReader) -> BiasedText:
    """Read a config; every key is used, declared inert or refused."""
    return BiasedText.read(r)


heads = Seq2SeqHeads(BiasedText.model, lambda c: c)

BASE = "transformer"
SCORE = {"classifier": "classification_head"}
TOKENS = ENCODER_KEYS.under("model", BASE)

FAMILY = (
    Builder("t5", read, KEYS, prefix=BASE)
    .public(
        config="T5Config",
        tokenizer="T5Tokenizer",
        row="seq2seq LM, encoder, sequence and token classification, question answering",
        usual={"is_encoder_decoder": True, "initializer_factor": 1.0},
    )
    .base("T5Model", BiasedText.model)
    .head("T5ForConditionalGeneration", "seq2seq-lm", BiasedText.seq2seq_lm, prefix="")
    .head("T5ForQuestionAnswering", "question-answering", heads.question_answerer, prefix="")
    .head("T5ForSequenceClassification", "sequence-classification", heads.classifier, SCORE)
    .architecture("T5EncoderModel", ("text-encoding",), lambda c, _: c.encoder(), ENCODER_KEYS)
    .architecture(
        "T5ForTokenClassification", ("token-classification",), BiasedText.token_classifier, TOKENS, prefix=BASE
    )
    .done()
)
