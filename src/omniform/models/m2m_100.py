"""M2M-100 (https://arxiv.org/abs/2010.11125) and NLLB-200: translators whose sines pass over padding."""

from __future__ import annotations

from omniform.architectures.encoder_decoder import Seq2SeqLM
from omniform.architectures.family import Builder
from omniform.architectures.sided_family import SidedText
from omniform.blocks.embeddings import Embeddings
from omniform.blocks.sinusoids import CountedSinusoids
from omniform.core.config import Common
from omniform.core.reader import ConfigReader


class Text(SidedText):
    """What an M2M-100 computes."""

    __slots__ = ()

    def places(self) -> Embeddings:
        assert self.shift.pad is not None, "the config is read so"
        return CountedSinusoids(dim=self.dim, padding=self.shift.pad, dropout=self.sides.dropout)

    def seq2seq_lm(self, _: Common) -> Seq2SeqLM:
        model = self.model()
        return Seq2SeqLM(model=model, lm_head=self.projection(model.decoder, self.vocab_size), shift=self.shift)


def read(r: ConfigReader) -> Text:
    """Read a config; every key is used, declared inert or refused."""
    text = Text.read(
        r, vocab_size=128112, act="relu", attention_dropout=0.1, layerdrop=0.05, scaled=True, forced_eos=None
    )
    if text.shift.pad is None:
        raise r.fail("pad_token_id", "a token: positions are counted from it", None)
    if text.dim < 4:
        raise r.fail("d_model", "4 or more: sines need two speeds", text.dim)
    return text


FAMILY = (
    Builder("m2m_100", read, Text.keys, prefix="model")
    .public(
        config="M2M100Config",
        tokenizer="M2M100Tokenizer",
        row="seq2seq LM (translation)",
        usual={"is_encoder_decoder": True, "init_std": 0.02},
    )
    .base("M2M100Model", Text.model)
    .head("M2M100ForConditionalGeneration", "seq2seq-lm", Text.seq2seq_lm)
    .done()
)
