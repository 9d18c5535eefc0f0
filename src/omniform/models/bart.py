"""BART (https://arxiv.org/abs/1910.13461): an encoder and a decoder of text, post-norm, with learned positions."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.biased_seq2seq import Apart, LogitsBias, TaughtSeq2SeqLM
from omniform.architectures.decoder import TextDecoder, tied
from omniform.architectures.encoder_decoder import EncoderDecoder, MemoryCausalLM, ReadingEncoder, RightShift
from omniform.architectures.family import Builder
from omniform.architectures.parts import SIDE_KEYS, Side, Sides
from omniform.architectures.seq2seq_heads import Seq2SeqHeads
from omniform.blocks.attention import Attention, CrossAttention
from omniform.blocks.embeddings import PositionedEmbeddings, PositionTable, ScaledEmbedding, twin
from omniform.blocks.layers import CrossPostNorm
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.core.rules import Causal, Full, Rule
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a BART computes."""

    vocab_size: int
    sides: Sides
    max_positions: int
    scaled: bool
    classifier_dropout: float
    tie: bool
    shift: RightShift
    eos_token_id: int | None

    @property
    def dim(self) -> int:
        """Width of the hidden states."""
        return self.sides.dim

    def table(self) -> nn.Embedding:
        """A table of tokens."""
        dim = self.sides.dim
        return ScaledEmbedding(self.vocab_size, dim, dim**0.5) if self.scaled else nn.Embedding(self.vocab_size, dim)

    def embeddings(self) -> PositionedEmbeddings:
        """What happens to token vectors; the first two rows of the table of positions are nobody's."""
        positions = PositionTable(self.max_positions, self.sides.dim, offset=2)
        return PositionedEmbeddings(embed_positions=positions, norm=self.sides.norm(), dropout=self.sides.dropout)

    def own(self, side: Side, rule: Rule) -> Attention:
        """A self-attention of either side."""
        return Attention(self.dim, side.heads, rule=rule, dropout=self.sides.attention_dropout)


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    r.special_tokens(bos_token_id=0, forced_eos_token_id=2)
    # The reference's pre-norm cousins (mBART) have a model_type of their own.
    for name in ("normalize_before", "add_final_layer_norm", "add_bias_logits", "static_position_embeddings"):
        r.only(name, False, None, why="norms stand after branches, and positions are learned")
    r.only("normalize_embedding", True, None, why="embeddings are normed")
    r.inert("init_std", "is_decoder", "classif_dropout", "extra_pos_embeddings", "force_bos_token_to_be_generated")
    return Config(
        vocab_size=r.integer("vocab_size", 50265),
        sides=Sides.read(r),
        max_positions=r.integer("max_position_embeddings", 1024),
        scaled=r.flag("scale_embedding", False),
        classifier_dropout=r.probability("classifier_dropout"),
        tie=r.flag("tie_word_embeddings", True),
        shift=RightShift(r.token("decoder_start_token_id", 2), r.token("pad_token_id", 1)),
        eos_token_id=r.token("eos_token_id", 2),
    )


def build_decoder(c: Config, table: nn.Embedding) -> TextDecoder:
    """The decoder alone."""
    sides = c.sides

    def layer() -> CrossPostNorm:
        cross = CrossAttention(sides.dim, sides.decoder.heads, dropout=sides.attention_dropout)
        return sides.crossed(CrossPostNorm, c.own(sides.decoder, Causal()), cross)

    return TextDecoder(
        embed_tokens=table,
        embeddings=c.embeddings(),
        layers=nn.ModuleList(layer() for _ in range(sides.decoder.layers)),
        max_positions=c.max_positions,
        layerdrop=sides.decoder.layerdrop,
    )


def build(c: Config) -> EncoderDecoder:
    """Encoder and decoder without a head."""
    sides, table = c.sides, c.table()
    encoder = ReadingEncoder(
        embed_tokens=table,
        embeddings=c.embeddings(),
        layers=nn.ModuleList(sides.postnorm(c.own(sides.encoder, Full())) for _ in range(sides.encoder.layers)),
        max_positions=c.max_positions,
        layerdrop=sides.encoder.layerdrop,
    )
    if c.tie:
        return EncoderDecoder(encoder=encoder, decoder=build_decoder(c, twin(table)), reread=c.shift)
    return Apart(encoder=encoder, decoder=build_decoder(c, c.table()), reread=c.shift, shared=c.table())


def projection(c: Config, decoder: TextDecoder) -> nn.Linear:
    """Hidden states to scores of tokens."""
    return tied(nn.Linear(c.sides.dim, c.vocab_size, bias=False), decoder.embed_tokens, c.tie)


def seq2seq_lm(c: Config, _: Common) -> TaughtSeq2SeqLM:
    """The model that writes."""
    model, bias = build(c), LogitsBias(c.vocab_size)
    return TaughtSeq2SeqLM(model=model, lm_head=projection(c, model.decoder), shift=c.shift, adjust=bias)


def causal_lm(c: Config, _: Common) -> MemoryCausalLM:
    """The decoder alone."""
    decoder = build_decoder(c, c.table())
    return MemoryCausalLM(model=decoder, lm_head=projection(c, decoder))


SIDE = KeyMap(
    {**SIDE_KEYS, "embeddings.embed_positions": "embed_positions", "embeddings.norm": "layernorm_embedding"},
    ignored=(r"(en|de)coder\.version$",),
)
BOTH = SIDE.under("encoder", "encoder") | SIDE.under("decoder", "decoder")
SHARED = KeyMap({"encoder.embed_tokens": "shared"}, [(r"^encoder\.embed_tokens\.weight$", "shared.weight")])
WHOLE = [(r"^(model\.)?shared\.weight$", "model.decoder.embed_tokens.weight")]
CAUSAL_KEYS = SIDE.under("model", "model.decoder") | KeyMap({}, WHOLE)
SCORE = {"classifier": "classification_head"}


def keys(c: Config) -> KeyMap:
    """Where both sides keep their weights."""
    return BOTH | SHARED if c.tie else BOTH


heads = Seq2SeqHeads(build, lambda c: c)

FAMILY = (
    Builder("bart", read, keys, prefix="model")
    .public(
        config="BartConfig",
        tokenizer="BartTokenizer",
        row="seq2seq LM, causal LM, sequence classification, question answering",
        usual={"is_encoder_decoder": True, "init_std": 0.02},
        labels=3,
    )
    .base("BartModel", build)
    .head("BartForConditionalGeneration", "seq2seq-lm", seq2seq_lm, {"adjust.bias": "final_logits_bias"})
    .head(
        "BartForSequenceClassification",
        "sequence-classification",
        heads.classifier,
        {"classifier": "classification_head"},
    )
    .head("BartForQuestionAnswering", "question-answering", heads.question_answerer)
    .architecture("BartForCausalLM", ("causal-lm",), causal_lm, CAUSAL_KEYS)
    .done()
)
