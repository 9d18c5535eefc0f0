"""OPT (https://arxiv.org/abs/2205.01068): learned positions that count real tokens; the 350M model norms afterwards."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.decoder_family import DecoderHeads
from omniform.architectures.family import Builder
from omniform.architectures.plain_text import Names, PlainText
from omniform.blocks.composed import Composed
from omniform.blocks.embeddings import PositionedEmbeddings, PositionTable
from omniform.blocks.layers import PostNorm, PreNorm
from omniform.core.context import StepContext
from omniform.core.reader import ConfigReader
from omniform.core.rules import Causal
from omniform.weights.keymap import KeyMap

NAMES = Names(hidden="ffn_dim", act="activation_function", eps="", dropout="dropout")


class OPTEmbeddings(PositionedEmbeddings):
    """Token vectors, widened where they are narrower than the layers, and positions that leave padding out."""

    project_in: nn.Linear | None

    def count_real(self, mask_BS: Tensor, past: int) -> Tensor:
        real = mask_BS.long()
        return (real.cumsum(1) * real - 1)[:, past:]  # padding gets the row before position 0

    def forward(self, embeds_BTD: Tensor, ctx: StepContext) -> Tensor:
        return super().forward(embeds_BTD if self.project_in is None else self.project_in(embeds_BTD), ctx)


class Ending(Composed):
    """What follows the last layer: a norm, and a way back to the width of token vectors, where there are any."""

    final_layer_norm: nn.Module | None
    project_out: nn.Linear | None

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Shape: [..., D] to [..., width of token vectors]."""
        x_BTD = x_BTD if self.final_layer_norm is None else self.final_layer_norm(x_BTD)
        return x_BTD if self.project_out is None else self.project_out(x_BTD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Text(PlainText):
    """GPT's parts, with norms that may have nothing to learn."""

    affine: bool = True

    def norm(self) -> nn.Module:
        return nn.LayerNorm(self.dim, self.eps, elementwise_affine=self.affine)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What an OPT computes.

    Attributes:
        narrow: width of token vectors.
        last_norm: whether there is a norm after the last layer.
    """

    text: Text
    narrow: int
    layer: type[PreNorm] | type[PostNorm]
    last_norm: bool
    bias: bool
    layerdrop: float


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    text = Text.read(
        r, NAMES, vocab_size=50272, dim=768, hidden=3072, layers=12, heads=12, act="relu", dropout=0.1, tie=True,
        bos=2, eos=2, pad=1,
    )  # fmt: skip
    r.inert("init_std", "activation_dropout")  # the latter of the first releases, and not meant
    before = r.flag("do_layer_norm_before", True)
    narrow = r.values["word_embed_proj_dim"] = r.maybe_integer("word_embed_proj_dim") or text.dim
    return Config(
        text=replace(text, affine=r.flag("layer_norm_elementwise_affine", True)),
        narrow=narrow,
        layer=PreNorm if before else PostNorm,
        last_norm=before and not r.flag("_remove_final_layer_norm", False),
        bias=r.flag("enable_bias", True),
        layerdrop=r.probability("layerdrop"),
    )


def build(c: Config) -> TextDecoder:
    """The decoder without a head."""
    text, biases, same = c.text, "qkvo" if c.bias else "", c.narrow == c.text.dim
    decoder = text.decoder(
        lambda _: text.layer(c.layer, text.attention(Causal(), None, biases=biases), text.mlp(bias=c.bias)),
        embeddings=OPTEmbeddings(
            embed_positions=PositionTable(text.max_positions, text.dim, offset=2),
            project_in=None if same else nn.Linear(c.narrow, text.dim, bias=False),
        ),
        longest=text.max_positions,
        embed_tokens=nn.Embedding(text.vocab_size, c.narrow),
        norm=Ending(
            final_layer_norm=text.norm() if c.last_norm else None,
            project_out=None if same else nn.Linear(text.dim, c.narrow, bias=False),
        ),
    )
    decoder.layerdrop = c.layerdrop
    return decoder


heads = DecoderHeads(build, lambda c: replace(c.text, dim=c.narrow))

KEYS = KeyMap(
    {
        "embed_tokens": "decoder.embed_tokens",
        "embeddings": "decoder",
        "layers.{i}": "decoder.layers.{i}",
        "layers.{i}.self_attn.o_proj": "decoder.layers.{i}.self_attn.out_proj",
        "layers.{i}.input_layernorm": "decoder.layers.{i}.self_attn_layer_norm",
        "layers.{i}.post_attention_layernorm": "decoder.layers.{i}.final_layer_norm",
        "layers.{i}.mlp": "decoder.layers.{i}",
        "norm": "decoder",
    },
)
SCORE = {"classifier": "score"}

FAMILY = (
    Builder("opt", read, KEYS, prefix="model")
    .public(
        config="OPTConfig",
        tokenizer="GPT2Tokenizer",
        row="causal LM, sequence classification, question answering",
        usual={"init_std": 0.02},
    )
    .base("OPTModel", build)
    .head("OPTForCausalLM", "causal-lm", heads.causal_lm)
    .head("OPTForSequenceClassification", "sequence-classification", heads.sequence_classifier, SCORE)
    .head("OPTForQuestionAnswering", "question-answering", heads.question_answerer)
    .done()
)
