"""DistilBERT (https://arxiv.org/abs/1910.01108): half of BERT's layers, no token types, no pooler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from omniform.architectures.encoder_family import EncoderHeads, EncoderText
from omniform.architectures.family import Builder
from omniform.architectures.heads import QuestionAnswerer, RowParts, first_token
from omniform.architectures.parts import read_width
from omniform.architectures.scoring import ScoringHead
from omniform.architectures.stack import TextStack
from omniform.blocks.embeddings import PositionedEmbeddings, PositionTable, Sinusoids
from omniform.blocks.layers import PostNorm
from omniform.blocks.mlp import ACTIVATIONS
from omniform.core.config import Common
from omniform.core.context import StepContext
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap


class UntypedEmbeddings(PositionedEmbeddings):
    """Token types, which BERT's tokenizer hands over, are read by nothing."""

    INPUTS: ClassVar[frozenset[str]] = frozenset({"token_type_ids"})


class Layer(PostNorm):
    """Dropout on what the feed-forward adds, and none on what the attention does."""

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        seen = self.self_attn(x_BTD, ctx)
        x_BTD = self.self_attn_layer_norm(ctx.like(x_BTD, seen) + seen)
        normed: Tensor = self.final_layer_norm(self.add(x_BTD, self.mlp(x_BTD), ctx))
        return normed


class Text(EncoderText):
    """BERT's parts under this family's names."""

    __slots__ = ()

    def layer(self) -> Layer:
        return Layer.of(self.norm, **self.parts())


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a DistilBERT computes.

    Attributes:
        positions: the kind of its table.
        answer_dropout: before the scores of answers' places.
        row_dropout: before those of rows.
    """

    text: Text
    positions: type[PositionTable]
    answer_dropout: float
    row_dropout: float


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    dim, heads = read_width(r, "dim", 768, "n_heads", 12, also=("hidden_size",), heads_also=("num_attention_heads",))
    dropout = r.probability("dropout", 0.1)
    r.only("is_decoder", False, None, why="an encoder")
    r.inert("tie_weights_")
    r.special_tokens(pad_token_id=0, bos_token_id=None, eos_token_id=None)
    text = Text(
        vocab_size=r.integer("vocab_size", 30522),
        token_types=0,
        dim=dim,
        hidden=r.integer("hidden_dim", 3072),
        layers=r.layers("n_layers", 6, also=("num_hidden_layers",)),
        heads=heads,
        act=r.choice("activation", ACTIVATIONS, "gelu"),
        eps=1e-12,
        max_positions=r.integer("max_position_embeddings", 512),
        causal=False,
        cross_attention=False,
        dropout=dropout,
        attention_dropout=r.probability("attention_dropout", 0.1),
        classifier_dropout=dropout,
        tie=r.flag("tie_word_embeddings", True),
    )
    return Config(
        text=text,
        positions=Sinusoids if r.flag("sinusoidal_pos_embds", False) else PositionTable,
        answer_dropout=r.probability("qa_dropout", 0.1),
        row_dropout=r.probability("seq_classif_dropout", 0.2),
    )


def build(c: Config, pooler: nn.Module | None) -> TextStack:
    """The encoder without a head."""
    positions, t = c.positions(c.text.max_positions, c.text.dim), c.text
    embeddings = UntypedEmbeddings(embed_positions=positions, norm=t.norm(), dropout=t.dropout)
    return t.stack(embeddings, pooler)


class Heads(EncoderHeads[Config]):
    """BERT's heads; rows are told from the first token, through a projection of the head's own."""

    def vocabulary(self, c: Config, model: TextStack) -> ScoringHead:
        return ScoringHead.of_tokens(model.embed_tokens, c.text.act, c.text.eps, tie=c.text.tie)

    def row(self, c: Config, common: Common, scores: int) -> RowParts:
        dim = c.text.dim
        dense, decoder = nn.Linear(dim, dim), nn.Linear(dim, scores)
        classifier = ScoringHead(dense=dense, act="relu", dropout=c.row_dropout, decoder=decoder)
        return {"model": self.bare(c), "pool": first_token, "classifier": classifier, "dropout": 0.0}

    def question_answerer(self, c: Config, _: Common) -> QuestionAnswerer:
        return QuestionAnswerer(model=self.bare(c), qa_outputs=nn.Linear(c.text.dim, 2), dropout=c.answer_dropout)


heads = Heads(build, lambda c: c.text)

KEYS = {
    "embed_tokens": "embeddings.word_embeddings",
    "embeddings.embed_positions": "embeddings.position_embeddings",
    "embeddings.norm": "embeddings.LayerNorm",
    **{f"layers.{{i}}.self_attn.{x}_proj": f"transformer.layer.{{i}}.attention.{x}_lin" for x in "qkv"},
    "layers.{i}.self_attn.o_proj": "transformer.layer.{i}.attention.out_lin",
    "layers.{i}.self_attn_layer_norm": "transformer.layer.{i}.sa_layer_norm",
    "layers.{i}.mlp.fc1": "transformer.layer.{i}.ffn.lin1",
    "layers.{i}.mlp.fc2": "transformer.layer.{i}.ffn.lin2",
    "layers.{i}.final_layer_norm": "transformer.layer.{i}.output_layer_norm",
}
WORDS = {
    "lm_head.dense": "vocab_transform", "lm_head.layer_norm": "vocab_layer_norm", "lm_head.decoder": "vocab_projector",
}  # fmt: skip
CLASSES = {"classifier.dense": "pre_classifier", "classifier.decoder": "classifier"}

FAMILY = (
    Builder("distilbert", read, KeyMap(KEYS), prefix="distilbert")
    .public(
        config="DistilBertConfig",
        tokenizer="BertTokenizer",
        row="masked LM, sequence and token classification, multiple choice, question answering",
    )
    .base("DistilBertModel", heads.bare, "text-encoding")
    .head("DistilBertForMaskedLM", "masked-lm", heads.masked_lm, WORDS)
    .head("DistilBertForSequenceClassification", "sequence-classification", heads.sequence_classifier, CLASSES)
    .head("DistilBertForMultipleChoice", "multiple-choice", heads.multiple_choice, CLASSES)
    .head("DistilBertForTokenClassification", "token-classification", heads.token_classifier)
    .head("DistilBertForQuestionAnswering", "question-answering", heads.question_answerer)
    .done()
)
