"""Parts of encoders with disentangled attention (DeBERTa and its kin): places, heads, padding that sees nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor, nn

from omniform.architectures.encoder_family import EncoderHeads, EncoderText
from omniform.architectures.heads import GradedClassifier, RowParts
from omniform.architectures.stack import TextEncoder, TextStack
from omniform.blocks.attention import Attention
from omniform.blocks.disentangled import (
    DisentangledBias,
    Exact,
    Logarithmic,
    RelativePositions,
    Shared,
    UnusedNorm,
    twin_norm,
)
from omniform.blocks.mlp import ACTIVATIONS
from omniform.blocks.poolers import ContextPooler
from omniform.blocks.scores import Scores
from omniform.core.config import Common
from omniform.core.context import StepContext
from omniform.core.reader import ConfigReader
from omniform.core.rules import Full

C = TypeVar("C")


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """How an attention compares places.

    Attributes:
        relative: whether it does at all.
        compared: what beside contents with contents: ``"c2p"``, ``"p2c"``.
        buckets: of distances on either side; 0 where each has its own.
        farthest: the distance from which on all are alike.
        normed: whether the places' vectors go through a norm.
        shared: whether the tokens' projections make the places' queries and keys.
    """

    relative: bool
    compared: tuple[str, ...]
    buckets: int
    farthest: int
    normed: bool
    shared: bool

    @classmethod
    def read(cls, r: ConfigReader, max_positions: int) -> Places:
        """``relative_attention``, ``pos_att_type`` and what belongs to them."""
        buckets = r.integer("position_buckets", -1, least=-1)
        farthest = r.integer("max_relative_positions", -1, least=-1)
        if buckets == 1:
            raise r.fail("position_buckets", "at least 2, or -1 for none", buckets)
        norms = {name.strip() for name in r.text("norm_rel_ebd", "none").lower().split("|")}
        if not {"none", "layer_norm", ""} >= norms:
            raise r.fail("norm_rel_ebd", "none or layer_norm", sorted(norms))
        return cls(
            relative=r.flag("relative_attention", False),
            compared=read_compared(r),
            buckets=max(buckets, 0),
            farthest=farthest if farthest > 0 else max_positions,
            normed="layer_norm" in norms,
            shared=r.flag("share_att_key", False),
        )

    def attentions(self, text: EncoderText) -> Callable[[], Attention]:
        """Makes the attention of each layer; all share the places' vectors."""
        norm = nn.LayerNorm(text.dim, text.eps) if self.normed else None
        bucket = Logarithmic(self.buckets, self.farthest) if self.buckets else Exact()
        if not self.relative:
            return lambda: self._attention(text, lambda _: UnusedNorm(norm=twin_norm(norm)))
        positions = RelativePositions(self.buckets or self.farthest, text.dim, bucket, norm)
        return lambda: self._attention(text, lambda made: self._bias(text, made, positions.twin()))

    def _attention(self, text: EncoderText, bias: Callable[[Attention], UnusedNorm | DisentangledBias]) -> Attention:
        scores = Scores(self._scale(text))
        made = Attention(text.dim, text.heads, rule=Full(), scores=scores, dropout=text.attention_dropout)
        made.bias = bias(made)
        return made

    def _bias(self, text: EncoderText, attention: Attention, positions: RelativePositions) -> DisentangledBias:
        tokens = {"c2p": Shared(attention, "k_proj"), "p2c": Shared(attention, "q_proj")}
        project = {kind: tokens[kind] if self.shared else nn.Linear(text.dim, text.dim) for kind in self.compared}
        return DisentangledBias(
            positions=positions,
            head_dim=attention.head_dim,
            scale=self._scale(text),
            c2p=project.get("c2p"),
            p2c=project.get("p2c"),
            dropout=text.dropout,
        )

    def _scale(self, text: EncoderText) -> float:
        # The sum of one to three scores; they count even where nothing is relative.
        return float((text.dim // text.heads * (1 + len(self.compared))) ** -0.5)


def read_compared(r: ConfigReader) -> tuple[str, ...]:
    """What is compared beside contents, from ``["p2c", "c2p"]`` or ``"p2c|c2p"``; ``p2p`` of version 1 is left out."""
    if isinstance(r.raw.get("pos_att_type"), str):
        kinds = tuple(kind.strip() for kind in r.text("pos_att_type").lower().split("|"))
    else:
        kinds = r.texts("pos_att_type", ())
    if not {"c2p", "p2c", "p2p", "none", ""} >= set(kinds):
        raise r.fail("pos_att_type", "c2p, p2c, both or none", list(kinds))
    r.values["pos_att_type"] = list(kinds) or None
    return tuple(kind for kind in ("c2p", "p2c") if kind in kinds)


class PairedEncoder(TextEncoder):
    """Padding looks at nothing. It then gets the mean of all values, which a classifier of its place would show."""

    def decode(self, embeds_BTD: Tensor, ctx: StepContext) -> Tensor:
        if ctx.padding is not None:
            real = ctx.padding[:, None, :, None]
            ctx = ctx.with_(allowed=real if ctx.allowed is None else real & ctx.allowed)
        return super().decode(embeds_BTD, ctx)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooling:
    """How a head makes one vector of a row."""

    act: str
    dropout: float
    row_dropout: float

    @classmethod
    def read(cls, r: ConfigReader, text: EncoderText) -> Pooling:
        """``pooler_hidden_act`` and its like."""
        if r.integer("pooler_hidden_size", text.dim) != text.dim:
            raise r.fail("pooler_hidden_size", f"{text.dim} (hidden_size)", r.values["pooler_hidden_size"])
        return cls(
            act=r.choice("pooler_hidden_act", ACTIVATIONS, "gelu"),
            dropout=r.probability("pooler_dropout"),
            row_dropout=r.probability("cls_dropout", text.dropout),
        )


class PoolingHeads(EncoderHeads[C]):
    """The heads of encoders whose pooler is a part of the head; see :class:`EncoderHeads`.

    Args:
        pooling: that part of the config.
    """

    def __init__(
        self,
        build: Callable[[C, nn.Module | None], TextStack],
        of: Callable[[C], EncoderText],
        pooling: Callable[[C], Pooling],
    ) -> None:
        super().__init__(build, of)
        self._pooling = pooling

    def row(self, c: C, common: Common, scores: int) -> RowParts:
        """A row is told from its first token, through the head's own pooler."""
        how, dim = self._pooling(c), self._of(c).dim
        pool, classifier = ContextPooler(dim, how.act, how.dropout), nn.Linear(dim, scores)
        return {"model": self.bare(c), "pool": pool, "classifier": classifier, "dropout": how.row_dropout}

    def sequence_classifier(self, c: C, common: Common) -> GradedClassifier:
        return GradedClassifier(**self.row(c, common, common.num_labels), common=common)
