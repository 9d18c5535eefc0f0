"""TrOCR's decoder (https://arxiv.org/abs/2109.10282): BART's, which looks at a picture's patches of any width."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.decoder import TextDecoder, tied
from omniform.architectures.encoder_decoder import MemoryCausalLM
from omniform.architectures.family import Builder
from omniform.architectures.parts import SIDE_KEYS, Side, Sides
from omniform.architectures.sided_family import scaled_table
from omniform.blocks.attention import Attention, CrossAttention
from omniform.blocks.embeddings import Embeddings, PositionedEmbeddings, PositionTable
from omniform.blocks.layers import CrossPostNorm
from omniform.blocks.mlp import ACTIVATIONS
from omniform.blocks.sinusoids import NormedCountedSinusoids
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.core.rules import Causal
from omniform.weights.keymap import KeyMap


class LookingDecoder(TextDecoder):
    """A decoder that looks at what is not as wide as itself.

    Args:
        memory_dim: how wide that is.
    """

    memory_dim: int

    @property
    def memory_width(self) -> int:
        return self.memory_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a TrOCR decoder computes.

    Attributes:
        memory: width of what it looks at.
        learned: whether positions are; else they are sines, which pass over padding.
        normed: whether there is a norm before the layers.
    """

    sides: Sides
    vocab_size: int
    max_positions: int
    scale: float
    memory: int
    learned: bool
    normed: bool
    pad: int
    tie: bool


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    r.special_tokens(bos_token_id=0, eos_token_id=2, decoder_start_token_id=2)
    r.inert(
        "is_decoder",
        "init_std",
        "classifier_dropout",
        "add_cross_attention",
        "num_attention_heads",
        "num_hidden_layers",
    )
    dim = r.integer("d_model", 1024, also=("hidden_size",))
    heads = r.integer("decoder_attention_heads", 16, also=("num_attention_heads",))
    if dim % heads:
        raise r.fail("decoder_attention_heads", f"a divisor of {dim} (d_model)", heads)
    side = Side(
        layers=r.layers("decoder_layers", 12, also=("num_hidden_layers",)),
        heads=heads,
        hidden=r.integer("decoder_ffn_dim", 4096),
        layerdrop=r.probability("decoder_layerdrop"),
    )
    pad = r.token("pad_token_id", 1)
    return Config(
        sides=Sides(
            dim=dim,
            encoder=side,
            decoder=side,
            act=r.choice("activation_function", ACTIVATIONS, "gelu"),
            dropout=r.probability("dropout", 0.1),
            attention_dropout=r.probability("attention_dropout"),
            activation_dropout=r.probability("activation_dropout"),
        ),
        vocab_size=r.integer("vocab_size", 50265),
        max_positions=r.integer("max_position_embeddings", 512),
        scale=dim**0.5 if r.flag("scale_embedding", False) else 1.0,
        memory=r.maybe_integer("cross_attention_hidden_size") or dim,
        learned=r.flag("use_learned_position_embeddings", True),
        normed=r.flag("layernorm_embedding", True),
        pad=1 if pad is None else pad,
        tie=r.flag("tie_word_embeddings", True),
    )


def places(c: Config) -> Embeddings:
    """What happens to token vectors before the first layer."""
    norm = c.sides.norm() if c.normed else None
    if not c.learned:
        return NormedCountedSinusoids(dim=c.sides.dim, padding=c.pad, dropout=c.sides.dropout, norm=norm)
    positions = PositionTable(c.max_positions, c.sides.dim, offset=2)
    return PositionedEmbeddings(embed_positions=positions, norm=norm, dropout=c.sides.dropout)


def layer(c: Config) -> nn.Module:
    """One layer."""
    sides, heads, dropout = c.sides, c.sides.decoder.heads, c.sides.attention_dropout
    own = Attention(sides.dim, heads, rule=Causal(), dropout=dropout)
    return sides.crossed(CrossPostNorm, own, CrossAttention(sides.dim, heads, memory_dim=c.memory, dropout=dropout))


def causal_lm(c: Config, _: Common) -> MemoryCausalLM:
    """The decoder that writes."""
    embeddings, table = places(c), scaled_table(c.vocab_size, c.sides.dim, c.scale)
    decoder = LookingDecoder(
        embed_tokens=table,
        embeddings=embeddings,
        layers=nn.ModuleList(layer(c) for _ in range(c.sides.decoder.layers)),
        max_positions=embeddings.positions,
        layerdrop=c.sides.decoder.layerdrop,
        memory_dim=c.memory,
    )
    return MemoryCausalLM(model=decoder, lm_head=tied(nn.Linear(c.sides.dim, c.vocab_size, bias=False), table, c.tie))


KEYS = KeyMap(SIDE_KEYS, ignored=(r"embed_positions\.(weights|_float_tensor)$",)).under("model", "model.decoder")

FAMILY = (
    Builder("trocr", read, KEYS, prefix="model")
    .public(
        config="TrOCRConfig",
        tokenizer="RobertaTokenizer",
        image_processor="ViTImageProcessor",
        processor="TrOCRProcessor",
        row="the decoder of pictures of text to text",
        usual={"init_std": 0.02},
    )
    .architecture("TrOCRForCausalLM", ("causal-lm",), causal_lm, KEYS | KeyMap({"lm_head": "output_projection"}))
    .done()
)
