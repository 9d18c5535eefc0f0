"""ModernBERT's decoder (https://arxiv.org/abs/2507.11412): the same stack, reading from left to right."""

from __future__ import annotations

from torch import nn

from omniform.architectures.decoder import CausalLM, TextDecoder
from omniform.architectures.family import Builder
from omniform.architectures.heads import LastToken, SequenceClassifier
from omniform.architectures.modern_text import FULL, SLIDING, STACK_KEYS, ModernText, modern_beginning, scored
from omniform.architectures.parts import causal
from omniform.architectures.scoring import ScoringHead
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap


def read(r: ConfigReader) -> ModernText:
    """Read a config; every key is used, declared inert or refused."""
    text = ModernText.read(r, own=0)
    r.inert(sliding_window=text.window)  # half of local_attention
    if not text.window and SLIDING in text.kinds:
        raise r.fail("local_attention", "at least 2, of which a token sees half", r.values["local_attention"])
    return text


def build(c: ModernText) -> TextDecoder:
    """The decoder without a head."""
    return c.stack(TextDecoder, {FULL: causal(None), SLIDING: causal(c.window)})


class ScoredCausalLM(CausalLM):
    """A decoder that writes, and scores tokens through a projection."""

    lm_head: ScoringHead

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head.decoder


def causal_lm(c: ModernText, _: Common) -> ScoredCausalLM:
    """The decoder that writes."""
    model = build(c)
    return ScoredCausalLM(model=model, lm_head=c.vocabulary(model))


def sequence_classifier(c: ModernText, common: Common) -> SequenceClassifier:
    """One class per row, told from its last token."""
    scores = c.scores(common.num_labels, bias=c.score_bias, dropout=c.classifier_dropout)
    return SequenceClassifier(model=build(c), pool=LastToken(common.pad_token_id), classifier=scores, common=common)


CLASSES = scored("classifier", "head", "classifier")

FAMILY = (
    Builder("modernbert-decoder", read, KeyMap(STACK_KEYS), prefix="model")
    .public(
        config="ModernBertDecoderConfig",
        tokenizer="PreTrainedTokenizerFast",
        row="causal LM, sequence classification",
    )
    .begins(modern_beginning)
    .base("ModernBertDecoderModel", build)
    .head("ModernBertDecoderForCausalLM", "causal-lm", causal_lm, scored("lm_head", "lm_head", "decoder"))
    .head("ModernBertDecoderForSequenceClassification", "sequence-classification", sequence_classifier, CLASSES)
    .done()
)
