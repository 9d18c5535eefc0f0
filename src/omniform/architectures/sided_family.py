"""Encoder-decoders of text whose configs share fields, layers and keys: BART's line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from torch import nn

from omniform.architectures.biased_seq2seq import Apart, ApartOfThree, LogitsBias, TaughtSeq2SeqLM
from omniform.architectures.decoder import TextDecoder, tied
from omniform.architectures.encoder_decoder import EncoderDecoder, MemoryCausalLM, ReadingEncoder, RightShift, Seq2SeqLM
from omniform.architectures.family import Builder, Task
from omniform.architectures.parts import SIDE_KEYS, Sides
from omniform.architectures.seq2seq_heads import Seq2SeqHeads
from omniform.blocks.embeddings import (
    Embeddings,
    PositionedEmbeddings,
    PositionTable,
    ScaledEmbedding,
    ScaledPositionedEmbeddings,
    SinusoidTable,
)
from omniform.blocks.layers import CrossPostNorm, CrossPreNorm, Layer, PostNorm, PreNorm
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class SidedText:
    """What a BART and its kin compute; a family says where norms stand and what is added to token vectors.

    Attributes:
        shares: whether both sides have one vocabulary, and one table of it, where ``tie`` says so.
        scale: factor on token vectors.
        ENCODER_LAYER: of which kind the encoder's layers are.
        DECODER_LAYER: of which kind the decoder's layers are.
        SHIFT: makes the decoder's inputs of labels.
    """

    vocab_size: int
    decoder_vocab_size: int
    shares: bool
    sides: Sides
    max_positions: int
    scale: float
    classifier_dropout: float
    tie: bool
    shift: RightShift
    eos_token_id: int | None

    ENCODER_LAYER: ClassVar[type[Layer]] = PreNorm
    DECODER_LAYER: ClassVar[type[Layer]] = CrossPreNorm
    SHIFT: ClassVar[type[RightShift]] = RightShift

    @classmethod
    def read(
        cls,
        r: ConfigReader,
        *,
        vocab_size: int = 50265,
        dim: int = 1024,
        encoder_layers: int = 12,
        decoder_layers: int = 12,
        heads: int = 16,
        hidden: int = 4096,
        act: str = "gelu",
        attention_dropout: float = 0.0,
        layerdrop: float = 0.0,
        max_positions: int = 1024,
        scaled: bool = False,
        start: int | None = 2,
        pad: int = 1,
        bos: int | None = 0,
        eos: int = 2,
        forced_eos: int | None = 2,
    ) -> Self:
        """The fields under their usual names; the arguments are their defaults, BART's where not given."""
        r.special_tokens(bos_token_id=bos, forced_eos_token_id=forced_eos)
        r.inert("init_std", "is_decoder", "add_cross_attention", "classif_dropout", "extra_pos_embeddings")
        r.inert("force_bos_token_to_be_generated")
        # What old files say of norms and positions, the model's type says.
        r.inert("normalize_before", "add_final_layer_norm", "normalize_embedding", "static_position_embeddings")
        r.inert("add_bias_logits", "layernorm_variant", "variant", "do_blenderbot_90_layernorm")
        r.inert("extra_layer_norm", "unk_token_id")
        # How a file was made of a larger one.
        r.inert("replacing_rate", "student_decoder_layers", "student_encoder_layers", "save_step")
        sides = Sides.read(
            r,
            dim=dim,
            layers=encoder_layers,
            decoder_layers=decoder_layers,
            heads=heads,
            hidden=hidden,
            act=act,
            attention_dropout=attention_dropout,
            layerdrop=layerdrop,
        )
        vocabulary = r.integer("vocab_size", vocab_size)
        return cls(
            vocab_size=vocabulary,
            decoder_vocab_size=vocabulary,
            shares=True,
            sides=sides,
            max_positions=r.integer("max_position_embeddings", max_positions),
            scale=sides.dim**0.5 if r.flag("scale_embedding", scaled) else 1.0,
            classifier_dropout=r.probability("classifier_dropout"),
            tie=r.flag("tie_word_embeddings", True),
            shift=cls.SHIFT(r.token("decoder_start_token_id", start), r.token("pad_token_id", pad)),
            eos_token_id=r.token("eos_token_id", eos),
        )

    @property
    def dim(self) -> int:
        """Width of the hidden states."""
        return self.sides.dim

    # -- parts ---------------------------------------------------------------------------------------------------------

    def places(self) -> Embeddings:
        """What happens to token vectors before the encoder's first layer."""
        raise NotImplementedError

    def decoder_places(self) -> Embeddings:
        """The same before the decoder's."""
        return self.places()

    def table(self) -> nn.Embedding:
        """The encoder's table of tokens."""
        return scaled_table(self.vocab_size, self.dim, self.scale)

    def decoder_table(self) -> nn.Embedding:
        """The decoder's."""
        return scaled_table(self.decoder_vocab_size, self.dim, self.scale)

    def last(self) -> nn.Module | None:
        """What stands after a stack of layers: a norm, where none stands after each branch."""
        return self.sides.norm() if self.ENCODER_LAYER is PreNorm else None

    def encoder(self) -> ReadingEncoder:
        """The encoder alone."""
        places = self.places()
        return ReadingEncoder(
            embed_tokens=self.table(),
            embeddings=places,
            layers=self.sides.encoder_layers(self.ENCODER_LAYER),
            norm=self.last(),
            max_positions=places.positions,
            layerdrop=self.sides.encoder.layerdrop,
        )

    def decoder(self) -> TextDecoder:
        """The decoder alone."""
        places = self.decoder_places()
        return TextDecoder(
            embed_tokens=self.decoder_table(),
            embeddings=places,
            layers=self.sides.decoder_layers(self.DECODER_LAYER),
            norm=self.last(),
            max_positions=places.positions,
            layerdrop=self.sides.decoder.layerdrop,
        )

    def reread(self) -> RightShift | None:
        """How the decoder reads the encoder's text again where it is given nothing; None where that is an error."""
        return None

    def model(self) -> EncoderDecoder:
        """Encoder and decoder without a head."""
        encoder, decoder, reread = self.encoder(), self.decoder(), self.reread()
        if not self.shares:
            return Apart(encoder=encoder, decoder=decoder, reread=reread)
        if not self.tie:
            return ApartOfThree(encoder=encoder, decoder=decoder, reread=reread, shared=self.table())
        decoder.embed_tokens.weight = encoder.embed_tokens.weight
        return EncoderDecoder(encoder=encoder, decoder=decoder, reread=reread)

    def projection(self, decoder: TextDecoder, tokens: int) -> nn.Linear:
        """Hidden states to scores of ``tokens``, or of those of the table, if it is the table."""
        return tied(nn.Linear(self.dim, tokens, bias=False), decoder.embed_tokens, self.tie)

    # -- heads, each a builder for Builder.head ------------------------------------------------------------------------

    def seq2seq_lm(self, _: Common) -> Seq2SeqLM:
        """The model that writes."""
        model, tokens = self.model(), self.decoder_vocab_size
        head = self.projection(model.decoder, tokens)
        return TaughtSeq2SeqLM(model=model, lm_head=head, shift=self.shift, adjust=LogitsBias(tokens))

    def causal_lm(self, _: Common) -> MemoryCausalLM:
        """The decoder alone; its scores are as many as the encoder's tokens, if they are not those of the table."""
        decoder = self.decoder()
        tokens = self.decoder_vocab_size if self.tie else self.vocab_size
        return MemoryCausalLM(model=decoder, lm_head=self.projection(decoder, tokens))

    def keys(self) -> KeyMap:
        """Where both sides keep their weights."""
        return _BOTH | _SHARED if self.tie and self.shares else _BOTH


class LearnedText(SidedText):
    """BART's and mBART's: learned positions, normed; the decoder may read the encoder's text again."""

    __slots__ = ()

    def places(self) -> Embeddings:
        # The first two rows of the table of positions are nobody's.
        positions = PositionTable(self.max_positions, self.dim, offset=2)
        return PositionedEmbeddings(embed_positions=positions, norm=self.sides.norm(), dropout=self.sides.dropout)

    def reread(self) -> RightShift | None:
        return self.shift


class SinusoidText(SidedText):
    """Marian's and Pegasus': sines as positions; the decoder scales vectors that it is given too."""

    __slots__ = ()

    def places(self) -> Embeddings:
        positions = SinusoidTable(self.max_positions, self.dim)
        return PositionedEmbeddings(embed_positions=positions, dropout=self.sides.dropout)

    def decoder_places(self) -> Embeddings:
        positions, dropout = SinusoidTable(self.max_positions, self.dim), self.sides.dropout
        return ScaledPositionedEmbeddings(embed_positions=positions, scale=self.scale, dropout=dropout)

    def decoder_table(self) -> nn.Embedding:
        return nn.Embedding(self.decoder_vocab_size, self.dim)


class PostNormed(SidedText):
    """Norms after branches instead of before them."""

    __slots__ = ()
    ENCODER_LAYER: ClassVar[type[Layer]] = PostNorm
    DECODER_LAYER: ClassVar[type[Layer]] = CrossPostNorm


def scaled_table(tokens: int, dim: int, scale: float) -> nn.Embedding:
    """A table of tokens whose vectors are multiplied, if by anything but one."""
    return nn.Embedding(tokens, dim) if scale == 1.0 else ScaledEmbedding(tokens, dim, scale)


def sided_family(
    model_type: str,
    name: str,
    read: Callable[[ConfigReader], SidedText],
    *,
    tokenizer: str,
    row: str,
    writer: str = "ForConditionalGeneration",
    tasks: tuple[Task, ...] = ("seq2seq-lm",),
    usual: Mapping[str, object] | None = None,
    labels: int = 2,
) -> Builder[SidedText]:
    """The architectures that the line's families have in common: the base, the one that writes, the decoder alone.

    Args:
        name: what class names begin with.
        writer: what the writer's class name ends with.
        tasks: what the writer does.
        usual: attributes of configs that tools read and maths has no use for.
    """
    usual = {"is_encoder_decoder": True, "init_std": 0.02, **(usual or {})}
    return (
        Builder(model_type, read, SidedText.keys, prefix="model")
        .public(config=f"{name}Config", tokenizer=tokenizer, row=row, usual=usual, labels=labels)
        .base(f"{name}Model", SidedText.model)
        .head(f"{name}{writer}", tasks, SidedText.seq2seq_lm, {"adjust.bias": "final_logits_bias"})
        .architecture(f"{name}ForCausalLM", ("causal-lm",), SidedText.causal_lm, _ALONE)
    )


SIDED_HEADS = Seq2SeqHeads(SidedText.model, lambda c: c)
"""Heads on the decoder's reading of the encoder's text."""

SCORE = {"classifier": "classification_head"}
"""Where a row classifier's own weights live."""

_SIDE = KeyMap(SIDE_KEYS, ignored=(r"(en|de)coder\.version$", r"embed_positions\.(weights|_float_tensor)$"))
_BOTH = _SIDE.under("encoder", "encoder") | _SIDE.under("decoder", "decoder")
_SHARED = KeyMap({"encoder.embed_tokens": "shared"}, [(r"^encoder\.embed_tokens\.weight$", "shared.weight")])
_ALONE = _SIDE.under("model", "model.decoder") | KeyMap(
    {}, [(r"^(model\.)?shared\.weight$", "model.decoder.embed_tokens.weight")]
)
