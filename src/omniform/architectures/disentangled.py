"""Parts of encoders with disentangled attention (DeBERTa and its kin): places, heads, padding that sees nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar

from torch import Tensor, nn

from omniform.architectures.encoder import MaskedLM
from omniform.architectures.encoder_family import VOCABULARY_HEAD, EncoderHeads, EncoderText
from omniform.architectures.heads import GradedClassifier, RowParts
from omniform.architectures.scoring import VocabularyHead
from omniform.architectures.stack import TextEncoder, TextStack
from omniform.blocks.attention import Attention
from omniform.blocks.disentangled import (
    DisentangledBias,
    Exact,
    Logarithmic,
    MaskedEmbeddings,
    RelativePositions,
    Shared,
    UnusedNorm,
    twin_norm,
)
from omniform.blocks.embeddings import PositionTable
from omniform.blocks.mlp import ACTIVATIONS
from omniform.blocks.poolers import ContextPooler
from omniform.blocks.scores import Scores
from omniform.core.config import Common
from omniform.core.context import StepContext
from omniform.core.errors import ConfigError
from omniform.core.reader import ConfigReader
from omniform.core.rules import Full
from omniform.weights.keymap import KeyMap

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
    biases: ClassVar[str] = "qkvo"

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
        made = Attention(
            text.dim, text.heads, rule=Full(), biases=self.biases, scores=scores, dropout=text.attention_dropout
        )
        made.bias = bias(made)
        return made

    def _bias(self, text: EncoderText, attention: Attention, positions: RelativePositions) -> DisentangledBias:
        tokens = {"c2p": Shared(attention, "k_proj"), "p2c": Shared(attention, "q_proj")}
        project = {kind: tokens[kind] if self.shared else self.projection(kind, text.dim) for kind in self.compared}
        return DisentangledBias(
            positions=positions,
            head_dim=attention.head_dim,
            scale=self._scale(text),
            c2p=project.get("c2p"),
            p2c=project.get("p2c"),
            dropout=text.dropout,
        )

    def projection(self, kind: str, dim: int) -> nn.Linear:
        """What makes keys of places (``"c2p"``), or queries (``"p2c"``)."""
        return nn.Linear(dim, dim)

    def _scale(self, text: EncoderText) -> float:
        # The sum of one to three scores; they count even where nothing is relative.
        return float((text.dim // text.heads * (1 + len(self.compared))) ** -0.5)


def read_compared(r: ConfigReader, usual: tuple[str, ...] = ()) -> tuple[str, ...]:
    """What is compared beside contents, from ``["p2c", "c2p"]`` or ``"p2c|c2p"``; ``p2p`` of version 1 is left out.

    Args:
        usual: what is, where a config does not say.
    """
    if isinstance(r.raw.get("pos_att_type"), str):
        kinds = tuple(kind.strip() for kind in r.text("pos_att_type").lower().split("|"))
    else:
        kinds = r.texts("pos_att_type", usual)
    if not {"c2p", "p2c", "p2p", "none", ""} >= set(kinds):
        raise r.fail("pos_att_type", "c2p, p2c, both or none", list(kinds))
    r.values["pos_att_type"] = list(kinds) or None
    return tuple(kind for kind in ("c2p", "p2c") if kind in kinds)


class PairedEncoder(TextEncoder):
    """Padding looks at nothing. It then gets the mean of all values, which a classifier of its place would show."""

    UNPADS = False

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


@dataclass(frozen=True, slots=True, kw_only=True)
class DisentangledText:
    """What a DeBERTa of any version computes.

    Attributes:
        embedding_dim: width of the token vectors.
        absolute: whether positions are added to them.
        legacy_head: whether tokens are scored as BERT scores them, and not by their table alone.
    """

    text: EncoderText
    places: Places
    pooling: Pooling
    embedding_dim: int
    absolute: bool
    legacy_head: bool

    @classmethod
    def read(cls, r: ConfigReader, text: EncoderText, places: Places) -> DisentangledText:
        """The fields beside those of the parts that are given."""
        return cls(
            text=replace(text, classifier_dropout=text.dropout),  # the token classifier's; it has no key of its own
            places=places,
            pooling=Pooling.read(r, text),
            embedding_dim=r.integer("embedding_size", text.dim),
            absolute=r.flag("position_biased_input", True),
            legacy_head=r.flag("legacy", True),
        )

    def encoder(self, layers: Iterable[nn.Module], pooler: nn.Module | None) -> PairedEncoder:
        """The encoder without a head."""
        t, wide = self.text, self.embedding_dim
        embeddings = MaskedEmbeddings(
            embed_positions=PositionTable(t.max_positions, wide) if self.absolute else None,
            embed_token_types=nn.Embedding(t.token_types, wide) if t.token_types else None,
            embed_proj=nn.Linear(wide, t.dim, bias=False) if wide != t.dim else None,
            norm=t.norm(),
            dropout=t.dropout,
        )
        return PairedEncoder(
            embed_tokens=nn.Embedding(t.vocab_size, wide),
            embeddings=embeddings,
            layers=nn.ModuleList(layers),
            pooler=pooler,
            max_positions=embeddings.positions,
        )

    def head_keys(self, base: KeyMap) -> KeyMap:
        """Where a model that fills in tokens keeps its weights; the two heads lie in different places."""
        return base.under("model", "deberta") | KeyMap(VOCABULARY_HEAD if self.legacy_head else HEAD)


HEAD = {"lm_head": "lm_predictions.lm_head", "lm_head.layer_norm": "lm_predictions.lm_head.LayerNorm"}
POOLER = {"pool": "pooler"}


class PoolingHeads(EncoderHeads[C]):
    """The heads of encoders whose pooler is a part of the head; see :class:`EncoderHeads`.

    Args:
        of: the part of the config.
    """

    def __init__(self, build: Callable[[C, nn.Module | None], TextStack], of: Callable[[C], DisentangledText]) -> None:
        super().__init__(build, lambda c: of(c).text)
        self._whole = of

    def masked_lm(self, c: C, _: Common) -> MaskedLM:
        """Masked tokens; the new head has no matrix of its own."""
        whole, model, t = self._whole(c), self.bare(c), self._of(c)
        if not whole.legacy_head and whole.embedding_dim != t.dim:
            told = {"where": "config.json: embedding_size", "expected": str(t.dim), "found": str(whole.embedding_dim)}
            raise ConfigError("the new head needs embeddings as wide as the layers", **told)
        tie = t.tie or not whole.legacy_head
        return MaskedLM(
            model=model, lm_head=VocabularyHead.of_tokens(model.embed_tokens, t.act, t.eps, tie=tie, dim=t.dim)
        )

    def row(self, c: C, common: Common, scores: int) -> RowParts:
        """A row is told from its first token, through the head's own pooler."""
        how, dim = self._whole(c).pooling, self._of(c).dim
        pool, classifier = ContextPooler(dim, how.act, how.dropout), nn.Linear(dim, scores)
        return {"model": self.bare(c), "pool": pool, "classifier": classifier, "dropout": how.row_dropout}

    def sequence_classifier(self, c: C, common: Common) -> GradedClassifier:
        return GradedClassifier(**self.row(c, common, common.num_labels), common=common)
