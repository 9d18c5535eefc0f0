"""ModernBERT (https://arxiv.org/abs/2412.13663): windows, all tokens in between, a rotary base for either."""

from __future__ import annotations

from dataclasses import dataclass

from omniform.architectures.encoder import MaskedLM, SparseMaskedLM
from omniform.architectures.family import Builder
from omniform.architectures.heads import (
    MaskedRowHead,
    MultipleChoice,
    QuestionAnswerer,
    SequenceClassifier,
    TokenClassifier,
    first_real,
    first_token,
    mean_of_real,
)
from omniform.architectures.modern_text import FULL, SLIDING, STACK_KEYS, ModernText, modern_beginning, scored
from omniform.architectures.scoring import ScoringHead
from omniform.architectures.stack import TextEncoder
from omniform.architectures.unpadded import Unpadded, UnpaddedEncoder
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.core.rules import Full, Rule, Window
from omniform.weights.keymap import KeyMap
from omniform.weights.links import shares


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a ModernBERT computes.

    Attributes:
        pooling: what stands for a row, ``"cls"`` or ``"mean"``.
        sparse: whether only tokens with a label get scores, where there are labels.
    """

    text: ModernText
    pooling: str
    sparse: bool

    def classes(self, count: int) -> ScoringHead:
        """What scores classes."""
        return self.text.scores(count, dropout=self.text.classifier_dropout)


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    sparse = r.flag("sparse_prediction", False)
    if sparse:
        r.only("sparse_pred_ignore_index", -100, why="labels of -100 are those that are left out")
    r.inert("repad_logits_with_grad", sparse_pred_ignore_index=-100, deterministic_flash_attn=False)
    pooling = r.choice("classifier_pooling", ("cls", "mean"), "cls")
    text = ModernText.read(r, own=1, half=r.maybe_integer("sliding_window", least=0))
    return Config(text=text, pooling=pooling, sparse=sparse)


def build(c: Config, kind: type[TextEncoder] = UnpaddedEncoder) -> TextEncoder:
    """The encoder without a head.

    Args:
        kind: what becomes of padding.
    """
    rules: dict[str, Rule] = {FULL: Full(), SLIDING: Full() if c.text.window is None else Window(c.text.window)}
    return c.text.stack(kind, rules)


class Words(Unpadded, MaskedLM):
    """Masked tokens, padding left out."""


class SparseWords(Unpadded, SparseMaskedLM):
    """The same with scores of tokens that have a label."""


class Tokens(Unpadded, TokenClassifier):
    """Classes of tokens, padding left out."""


def masked_lm(c: Config, _: Common) -> MaskedLM:
    """Masked tokens."""
    model = build(c)
    return (SparseWords if c.sparse else Words)(model=model, lm_head=c.text.vocabulary(model))


class MeanRows(MaskedRowHead, SequenceClassifier):
    """Classes of a row, told from the mean of its tokens."""


class Choice(MaskedRowHead, MultipleChoice):
    """Which continuation fits, told from its first token, wherever that is, or from the mean of all."""


def sequence_classifier(c: Config, common: Common) -> SequenceClassifier:
    """One class per row."""
    head, pool = (SequenceClassifier, first_token) if c.pooling == "cls" else (MeanRows, mean_of_real)
    return head(model=build(c), pool=pool, classifier=c.classes(common.num_labels), common=common)


def token_classifier(c: Config, common: Common) -> TokenClassifier:
    """One class per token."""
    return Tokens(model=build(c), classifier=c.classes(common.num_labels))


def question_answerer(c: Config, _: Common) -> QuestionAnswerer:
    """The first and last token of an answer; padding could be either."""
    return QuestionAnswerer(model=build(c, TextEncoder), qa_outputs=c.classes(2))


def multiple_choice(c: Config, _: Common) -> Choice:
    """Which continuation fits."""
    return Choice(model=build(c), pool=first_real if c.pooling == "cls" else mean_of_real, classifier=c.classes(1))


KEYS = KeyMap({**STACK_KEYS, **shares("layers.{i}.self_attn", "layers.{i}.attn.Wqkv", "qkv")})
WORDS = scored("lm_head", "head", "decoder")
CLASSES = scored("classifier", "head", "classifier")
ANSWERS = scored("qa_outputs", "head", "classifier")

FAMILY = (
    Builder("modernbert", read, KEYS, prefix="model")
    .public(
        config="ModernBertConfig",
        tokenizer="PreTrainedTokenizerFast",
        row="masked LM, sequence and token classification, multiple choice, question answering",
    )
    .begins(modern_beginning)
    .base("ModernBertModel", build)
    .head("ModernBertForMaskedLM", "masked-lm", masked_lm, WORDS)
    .head("ModernBertForSequenceClassification", "sequence-classification", sequence_classifier, CLASSES)
    .head("ModernBertForTokenClassification", "token-classification", token_classifier, CLASSES)
    .head("ModernBertForQuestionAnswering", "question-answering", question_answerer, ANSWERS)
    .head("ModernBertForMultipleChoice", "multiple-choice", multiple_choice, CLASSES)
    .done()
)
