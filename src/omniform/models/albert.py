"""ALBERT (https://arxiv.org/abs/1909.11942): layers that run again and again, narrow embeddings, sentences in order."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from omniform.architectures.encoder import SentenceOrder
from omniform.architectures.encoder_family import STACK_KEYS, EncoderHeads, EncoderText
from omniform.architectures.family import Builder
from omniform.architectures.scoring import VocabularyHead
from omniform.architectures.stack import TextEncoder, TextStack
from omniform.blocks.embeddings import PositionTable, ProjectedEmbeddings
from omniform.blocks.layers import PostNorm, run
from omniform.core.config import Common
from omniform.core.context import StepContext
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap


class Layer(PostNorm):
    """Dropout on what the attention adds, and none on what the feed-forward does."""

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        x_BTD = self.self_attn_layer_norm(self.add(x_BTD, self.self_attn(x_BTD, ctx), ctx))
        normed: Tensor = self.final_layer_norm(x_BTD + self.mlp(x_BTD))
        return normed


class SharedEncoder(TextEncoder):
    """An encoder some of whose layers run several times; ``order`` says which runs when."""

    order: tuple[int, ...]

    def decode(self, embeds_BTD: Tensor, ctx: StepContext) -> Tensor:
        return run([self.layers[i] for i in self.order], self.embeddings(embeds_BTD, ctx), ctx, self.norm)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What an ALBERT computes.

    Attributes:
        embedding_dim: width of the token vectors.
        groups: of layers; each runs several times.
        inner: how many layers a group has.
    """

    text: EncoderText
    embedding_dim: int
    groups: int
    inner: int

    @property
    def order(self) -> tuple[int, ...]:
        """Which layer runs when."""
        first = [int(i / (self.text.layers / self.groups)) * self.inner for i in range(self.text.layers)]
        return tuple(i + j for i in first for j in range(self.inner))


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    r.only("position_embedding_type", "absolute", None, why="positions are a learned table")
    r.only("is_decoder", False, None, why="an encoder")
    r.inert("down_scale_factor", "gap_size", "layers_to_keep", "net_structure_type", "num_memory_blocks")
    r.special_tokens(pad_token_id=0, bos_token_id=2, eos_token_id=3)
    text = EncoderText.read(
        r, vocab_size=30000, dim=4096, hidden=16384, heads=64, act="gelu_new", dropout=0.0, least_layers=1
    )
    return Config(
        text=replace(text, classifier_dropout=r.probability("classifier_dropout_prob", 0.1)),
        embedding_dim=r.integer("embedding_size", 128),
        groups=r.layers("num_hidden_groups", 1, least=1),
        inner=r.layers("inner_group_num", 1, least=1),
    )


def build(c: Config, pooler: nn.Module | None) -> SharedEncoder:
    """The encoder without a head."""
    t, wide = c.text, c.embedding_dim
    embeddings = ProjectedEmbeddings(
        embed_positions=PositionTable(t.max_positions, wide),
        embed_token_types=nn.Embedding(t.token_types, wide),
        norm=nn.LayerNorm(wide, t.eps),
        dropout=t.dropout,
        embed_proj=nn.Linear(wide, t.dim),
    )
    return SharedEncoder(
        embed_tokens=nn.Embedding(t.vocab_size, wide),
        embeddings=embeddings,
        layers=nn.ModuleList(Layer.of(t.norm, **t.parts()) for _ in range(c.groups * c.inner)),
        pooler=pooler,
        max_positions=t.max_positions,
        order=c.order,
    )


class Heads(EncoderHeads[Config]):
    """BERT's heads, and one for the order of sentences."""

    def vocabulary(self, c: Config, model: TextStack) -> VocabularyHead:
        return VocabularyHead.of_tokens(model.embed_tokens, c.text.act, c.text.eps, tie=c.text.tie, dim=c.text.dim)

    def sentence_order(self, c: Config, common: Common) -> SentenceOrder:
        """Masked tokens and the order of two texts."""
        model, scores = self.with_pooler(c), nn.Linear(c.text.dim, common.num_labels)
        order = nn.Sequential(nn.Dropout(c.text.classifier_dropout), scores)
        return SentenceOrder(model=model, lm_head=self.vocabulary(c, model), order=order)


def keys(c: Config) -> KeyMap:
    """Layers lie in their groups."""
    rules = {k: v for k, v in STACK_KEYS.items() if k.startswith("emb")} | {
        "embeddings.embed_proj": "encoder.embedding_hidden_mapping_in",
        "pooler.dense": "pooler",
    }
    for i in range(c.groups * c.inner):
        layer = f"encoder.albert_layer_groups.{i // c.inner}.albert_layers.{i % c.inner}"
        rules |= {f"layers.{i}.{ours}": f"{layer}.{theirs}" for ours, theirs in LAYER.items()}
    return KeyMap(rules)


LAYER = {
    "self_attn.q_proj": "attention.query", "self_attn.k_proj": "attention.key", "self_attn.v_proj": "attention.value",
    "self_attn.o_proj": "attention.dense", "self_attn_layer_norm": "attention.LayerNorm", "mlp.fc1": "ffn",
    "mlp.fc2": "ffn_output", "final_layer_norm": "full_layer_layer_norm",
}  # fmt: skip
WORDS = {"lm_head": "predictions", "lm_head.layer_norm": "predictions.LayerNorm"}
ORDER = "sop_classifier.classifier"

heads = Heads(build, lambda c: c.text)

FAMILY = (
    Builder("albert", read, keys, prefix="albert")
    .public(
        config="AlbertConfig",
        tokenizer="AlbertTokenizer",
        row="masked LM, pre-training, sequence and token classification, multiple choice, question answering",
    )
    .base("AlbertModel", heads.with_pooler, "text-encoding")
    .head(
        "AlbertForPreTraining", "pre-training", heads.sentence_order, {**WORDS, "order.1": "sop_classifier.classifier"}
    )
    .head("AlbertForMaskedLM", "masked-lm", heads.masked_lm, WORDS)
    .head("AlbertForSequenceClassification", "sequence-classification", heads.sequence_classifier)
    .head("AlbertForMultipleChoice", "multiple-choice", heads.multiple_choice)
    .head("AlbertForTokenClassification", "token-classification", heads.token_classifier)
    .head("AlbertForQuestionAnswering", "question-answering", heads.question_answerer)
    .done()
)
