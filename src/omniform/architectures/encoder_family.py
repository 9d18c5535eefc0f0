"""Text encoders as BERT's: the fields their configs share, their layers, and the heads that stand on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Self, TypeVar

from torch import nn

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.encoder import MaskedLM, PreTraining, TextWriter
from omniform.architectures.heads import RowParts, SequenceClassifier, TextHeads, pooled
from omniform.architectures.parts import read_width
from omniform.architectures.scoring import ScoringHead, VocabularyHead
from omniform.architectures.stack import TextEncoder, TextStack
from omniform.blocks.attention import Attention, CrossAttention
from omniform.blocks.embeddings import Embeddings
from omniform.blocks.layers import CrossPostNorm, CrossPreNorm, PostNorm, PreNorm
from omniform.blocks.mlp import ACTIVATIONS, MLP
from omniform.blocks.poolers import DensePooler
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.core.rules import Causal, Full


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderText:
    """What a BERT and its kin compute: post-norm layers, learned positions; with causal layers it writes."""

    vocab_size: int
    token_types: int
    dim: int
    hidden: int
    layers: int
    heads: int
    act: str
    eps: float
    max_positions: int
    causal: bool
    cross_attention: bool
    dropout: float
    attention_dropout: float
    classifier_dropout: float
    tie: bool

    @classmethod
    def read(
        cls,
        r: ConfigReader,
        *,
        vocab_size: int = 30522,
        token_types: int = 2,
        dim: int = 768,
        hidden: int = 3072,
        layers: int = 12,
        heads: int = 12,
        act: str = "gelu",
        dropout: float = 0.1,
        attention_dropout: float | None = None,
        eps: float = 1e-12,
        max_positions: int = 512,
        least_layers: int = 0,
    ) -> Self:
        """The fields under their usual names; the arguments are their defaults, BERT's where not given."""
        dim, heads = read_width(r, "hidden_size", dim, "num_attention_heads", heads)
        causal, cross_attention = r.flag("is_decoder", False), r.flag("add_cross_attention", False)
        if cross_attention and not causal:
            raise r.fail("add_cross_attention", "false, or is_decoder true as well", True)
        if attention_dropout is None:
            attention_dropout = dropout
        dropout = r.probability("hidden_dropout_prob", dropout)
        return cls(
            vocab_size=r.integer("vocab_size", vocab_size),
            # None are allowed where none are usual.
            token_types=r.integer("type_vocab_size", token_types, least=min(token_types, 1)),
            dim=dim,
            hidden=r.integer("intermediate_size", hidden),
            layers=r.layers("num_hidden_layers", layers, least=least_layers),
            heads=heads,
            act=r.choice("hidden_act", ACTIVATIONS, act),
            eps=r.number("layer_norm_eps", eps),
            max_positions=r.integer("max_position_embeddings", max_positions),
            causal=causal,
            cross_attention=cross_attention,
            dropout=dropout,
            attention_dropout=r.probability("attention_probs_dropout_prob", attention_dropout),
            classifier_dropout=r.probability("classifier_dropout", dropout),
            tie=r.flag("tie_word_embeddings", True),
        )

    def norm(self) -> nn.Module:
        """One norm."""
        return nn.LayerNorm(self.dim, self.eps)

    def postnorm(self, self_attn: nn.Module) -> PostNorm:
        """One layer with a norm after each branch."""
        mlp = MLP(self.dim, self.hidden, self.act)
        return PostNorm.of(self.norm, self_attn=self_attn, mlp=mlp, dropout=self.dropout)

    def parts(self) -> dict[str, object]:
        """What one layer is made of beside norms; the second attention where it may look at an encoder's output."""
        rule, dropout = Causal() if self.causal else Full(), self.attention_dropout
        self_attn, mlp = (
            Attention(self.dim, self.heads, rule=rule, dropout=dropout),
            MLP(self.dim, self.hidden, self.act),
        )
        parts: dict[str, object] = {"self_attn": self_attn, "mlp": mlp, "dropout": self.dropout}
        if self.cross_attention:
            parts["encoder_attn"] = CrossAttention(self.dim, self.heads, dropout=dropout)
        return parts

    def layer(self) -> nn.Module:
        """One layer; where the config says so, one that may look at an encoder's output."""
        return (CrossPostNorm if self.cross_attention else PostNorm).of(self.norm, **self.parts())

    def first(self) -> nn.Module | None:
        """What stands before the layers."""
        return self.norm()

    def last(self) -> nn.Module | None:
        """What stands after the layers; nothing, where they end with a norm themselves."""
        return None

    def stack(
        self, embeddings: Embeddings, pooler: nn.Module | None, embed_tokens: nn.Embedding | None = None
    ) -> TextStack:
        """The encoder without a head, or the decoder, if it is one.

        Args:
            embed_tokens: the table of tokens, if it is not as wide as the layers.
        """
        return (TextDecoder if self.causal else TextEncoder)(
            embed_tokens=nn.Embedding(self.vocab_size, self.dim) if embed_tokens is None else embed_tokens,
            embeddings=embeddings,
            layers=nn.ModuleList(self.layer() for _ in range(self.layers)),
            norm=self.last(),
            pooler=pooler,
            max_positions=embeddings.positions,
        )


class PreNormText(EncoderText):
    """BERT's parts, with a norm before each branch and one after the last layer."""

    __slots__ = ()

    def layer(self) -> nn.Module:
        return (CrossPreNorm if self.cross_attention else PreNorm).of(self.norm, **self.parts())

    def last(self) -> nn.Module:
        return self.norm()


def _attention(ours: str, theirs: str) -> dict[str, str]:
    ours, theirs = f"layers.{{i}}.{ours}", f"encoder.layer.{{i}}.{theirs}"
    return {
        f"{ours}.q_proj": f"{theirs}.self.query",
        f"{ours}.k_proj": f"{theirs}.self.key",
        f"{ours}.v_proj": f"{theirs}.self.value",
        f"{ours}.o_proj": f"{theirs}.output.dense",
        f"{ours}_layer_norm": f"{theirs}.output.LayerNorm",
    }


STACK_KEYS: Mapping[str, str] = {
    "embed_tokens": "embeddings.word_embeddings",
    "embeddings.embed_positions": "embeddings.position_embeddings",
    "embeddings.embed_token_types": "embeddings.token_type_embeddings",
    "embeddings.norm": "embeddings.LayerNorm",
    **_attention("self_attn", "attention"),
    **_attention("encoder_attn", "crossattention"),
    "layers.{i}.mlp.fc1": "encoder.layer.{i}.intermediate.dense",
    "layers.{i}.mlp.fc2": "encoder.layer.{i}.output.dense",
    "layers.{i}.final_layer_norm": "encoder.layer.{i}.output.LayerNorm",
}
"""Where BERT's line keeps the weights of its stacks."""

PRENORM_KEYS: Mapping[str, str] = {
    **{ours: theirs for ours, theirs in STACK_KEYS.items() if not ours.endswith("_layer_norm")},
    "layers.{i}.input_layernorm": "encoder.layer.{i}.attention.LayerNorm",
    "layers.{i}.encoder_attn_layer_norm": "encoder.layer.{i}.crossattention.LayerNorm",
}
"""Where stacks keep them whose norms stand before the branches; the families name the other norms themselves."""

VOCABULARY_HEAD: Mapping[str, str] = {
    "lm_head": "cls.predictions",
    "lm_head.dense": "cls.predictions.transform.dense",
    "lm_head.layer_norm": "cls.predictions.transform.LayerNorm",
}
"""Where it keeps those of what scores tokens."""

C = TypeVar("C")


_TWO = {0: "LABEL_0", 1: "LABEL_1"}


class EncoderHeads(TextHeads[C, EncoderText]):
    """The heads on top of a text encoder, each a builder for :meth:`Builder.head`.

    Args:
        build: makes the encoder, with a pooler if there is one.
        of: the text part of the config.
    """

    def __init__(self, build: Callable[[C, nn.Module | None], TextStack], of: Callable[[C], EncoderText]) -> None:
        super().__init__(of)
        self._build = build

    def bare(self, c: C) -> TextStack:
        """The encoder without a pooler."""
        return self._build(c, None)

    def with_pooler(self, c: C) -> TextStack:
        """The encoder with the pooler that its first token was trained with."""
        return self._build(c, DensePooler(self._of(c).dim, self._of(c).dim))

    def vocabulary(self, c: C, model: TextStack) -> ScoringHead:
        """Scores of tokens."""
        text = self._of(c)
        return VocabularyHead.of_tokens(model.embed_tokens, text.act, text.eps, tie=text.tie)

    def pre_training(self, c: C, _: Common) -> PreTraining:
        """Masked tokens and the next sentence."""
        model, relation = self.with_pooler(c), nn.Linear(self._of(c).dim, 2)
        return PreTraining(model=model, lm_head=self.vocabulary(c, model), seq_relationship=relation)

    def causal_lm(self, c: C, _: Common) -> TextWriter:
        """The next token."""
        model = self.bare(c)
        return TextWriter(model=model, lm_head=self.vocabulary(c, model))

    def masked_lm(self, c: C, _: Common) -> MaskedLM:
        """Masked tokens."""
        model = self.bare(c)
        return MaskedLM(model=model, lm_head=self.vocabulary(c, model))

    def next_sentence(self, c: C, common: Common) -> SequenceClassifier:
        """Whether the second text follows the first."""
        two = replace(common, id2label=_TWO, problem_type="single_label_classification")
        classifier = nn.Linear(self._of(c).dim, 2)
        return SequenceClassifier(model=self.with_pooler(c), pool=pooled, classifier=classifier, common=two)

    def row(self, c: C, common: Common, scores: int) -> RowParts:
        """A row is told from what the pooler gives."""
        classifier, dropout = nn.Linear(self._of(c).dim, scores), self._of(c).classifier_dropout
        return {"model": self.with_pooler(c), "pool": pooled, "classifier": classifier, "dropout": dropout}
