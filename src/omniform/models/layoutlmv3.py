"""LayoutLMv3 (https://arxiv.org/abs/2204.08387): words of a document with their boxes, and its page."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.counted_family import CountedText
from omniform.architectures.documents import (
    BoxTables,
    OffsetBias,
    PageAnswerer,
    PageBias,
    PageReader,
    PageTokenClassifier,
)
from omniform.architectures.encoder_family import STACK_KEYS
from omniform.architectures.family import Builder
from omniform.architectures.heads import SequenceClassifier, first_token
from omniform.architectures.seq2seq_heads import SentenceClassifier
from omniform.architectures.vit_family import zeros
from omniform.blocks.attention import Attention
from omniform.blocks.embeddings import CountedEmbeddings, PositionTable
from omniform.blocks.patches import ClassToken, Learned, Patching, PatchStem
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.core.rules import Full
from omniform.weights.keymap import KeyMap
from omniform.weights.links import unsqueezed

FEW = 10
"""From so many classes of words on they are told by two projections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a LayoutLMv3 computes.

    Attributes:
        patching: of the page; None where none is read.
        coordinates: how many places along an edge of the page are told apart.
        edge: width of what an edge of a box becomes.
        extent: of what its height becomes, and its width.
        order: number of buckets and the furthest distance of tokens; None where distances do not count.
        placed: the same of distances on the page.
    """

    text: CountedText
    patching: Patching | None
    coordinates: int
    edge: int
    extent: int
    order: tuple[int, int] | None
    placed: tuple[int, int] | None


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    r.only("text_embed", True, why="pages without words are read by leaving the words out")
    # Of LayoutLMv2's detector, in files that were made from its configs.
    r.inert("second_input_size", "detectron2_config_args", "fast_qkv", "has_visual_segment_embedding", text_embed=True)
    text = CountedText.read(r, vocab_size=50265, token_types=2, eps=1e-5, max_positions=512)
    dim = text.text.dim
    edge, extent = r.integer("coordinate_size", 128), r.integer("shape_size", 128)
    if 4 * edge + 2 * extent != dim:
        expected = f"4 * coordinate_size + 2 * shape_size = {4 * edge + 2 * extent}: boxes are added to words"
        raise r.fail("hidden_size", expected, dim)
    buckets = {
        name: (r.integer(f"rel_{short}bins", count, least=4), r.integer(f"max_rel_{short.rstrip('_')}", furthest))
        for name, short, count, furthest in (("order", "pos_", 32, 128), ("placed", "2d_pos_", 64, 256))
    }
    flags = {
        "order": r.flag("has_relative_attention_bias", True), "placed": r.flag("has_spatial_attention_bias", True)
    }  # fmt: skip
    side = r.integer("input_size", 224)
    patching = Patching(
        channels=r.integer("num_channels", 3), image_size=(side, side), patch_size=r.pair("patch_size", (16, 16))
    )
    if min(patching.grid) < 1:
        raise r.fail("patch_size", f"at most {side} (input_size)", list(patching.patch_size))
    return Config(
        text=text,
        patching=patching if r.flag("visual_embed", True) else None,
        coordinates=r.integer("max_2d_position_embeddings", 1024),
        edge=edge,
        extent=extent,
        order=buckets["order"] if flags["order"] else None,
        placed=buckets["placed"] if flags["placed"] else None,
    )


def build(c: Config) -> PageReader:
    """The model without a head."""
    text, dim = c.text.text, c.text.text.dim
    head_dim = dim // text.heads

    def layer() -> nn.Module:
        attention = Attention(
            dim, text.heads, rule=Full(), bias=PageBias() if c.order else None, dropout=text.attention_dropout
        )
        return text.postnorm(attention)

    def bias(buckets: tuple[int, int] | None) -> OffsetBias | None:
        return OffsetBias(text.heads, *buckets) if buckets else None

    page = c.patching
    return PageReader(
        embed_tokens=nn.Embedding(text.vocab_size, dim),
        embeddings=CountedEmbeddings(
            embed_positions=PositionTable(text.max_positions, dim, padding=c.text.padding),
            embed_token_types=nn.Embedding(text.token_types, dim),
            norm=text.norm(),
            dropout=text.dropout,
            padding=c.text.padding,
        ),
        layers=nn.ModuleList(layer() for _ in range(text.layers)),
        max_positions=text.max_positions - c.text.padding - 1,
        boxes=BoxTables(
            x=nn.Embedding(c.coordinates, c.edge),
            y=nn.Embedding(c.coordinates, c.edge),
            h=nn.Embedding(c.coordinates, c.extent),
            w=nn.Embedding(c.coordinates, c.extent),
        ),
        patches=PatchStem(page, dim) if page else None,
        class_token=ClassToken(dim) if page else None,
        places_2d=Learned(1 + page.grid[0] * page.grid[1], dim) if page else None,
        visual_norm=nn.LayerNorm(dim, 1e-6) if page else None,
        joint_norm=text.norm() if page else None,
        joint_dropout=text.dropout,
        order_bias=bias(c.order),
        x_bias=bias(c.placed),
        y_bias=bias(c.placed),
        scale=head_dim**-0.5,
    )


def scores(c: Config, classes: int) -> SentenceClassifier:
    """Scores by two projections."""
    return SentenceClassifier(c.text.text.dim, classes, c.text.text.classifier_dropout)


def token_classifier(c: Config, common: Common) -> PageTokenClassifier:
    """One class per word."""
    classifier: nn.Module = scores(c, common.num_labels)
    if common.num_labels < FEW:
        classifier = nn.Linear(c.text.text.dim, common.num_labels)
    return PageTokenClassifier(
        model=build(c), classifier=classifier, classes=common.num_labels, dropout=c.text.text.dropout
    )


def classifier(c: Config, common: Common) -> SequenceClassifier:
    """One class per document."""
    return SequenceClassifier(model=build(c), pool=first_token, classifier=scores(c, common.num_labels), common=common)


def answerer(c: Config, common: Common) -> PageAnswerer:
    """The first and last token of an answer."""
    return PageAnswerer(model=build(c), qa_outputs=scores(c, common.num_labels))


KEYS = KeyMap(
    {
        **STACK_KEYS,
        "boxes.x": "embeddings.x_position_embeddings",
        "boxes.y": "embeddings.y_position_embeddings",
        "boxes.h": "embeddings.h_position_embeddings",
        "boxes.w": "embeddings.w_position_embeddings",
        "patches.projection": "patch_embed.proj",
        "class_token.weight": unsqueezed("cls_token", 2),
        "places_2d.weight": unsqueezed("pos_embed", 1),
        "visual_norm": "norm",
        "joint_norm": "LayerNorm",
        "order_bias": "encoder.rel_pos_bias",
        "x_bias": "encoder.rel_pos_x_bias",
        "y_bias": "encoder.rel_pos_y_bias",
    }
)

FAMILY = (
    Builder("layoutlmv3", read, KEYS, prefix="layoutlmv3")
    .public(
        config="LayoutLMv3Config",
        tokenizer="LayoutLMv3Tokenizer",
        image_processor="LayoutLMv3ImageProcessor",
        processor="LayoutLMv3Processor",
        row="documents: token and sequence classification, question answering",
    )
    .begins(zeros("class_token.weight", "places_2d.weight"))
    .base("LayoutLMv3Model", build)
    .head("LayoutLMv3ForTokenClassification", "token-classification", token_classifier)
    .head("LayoutLMv3ForQuestionAnswering", ("question-answering", "document-question-answering"), answerer)
    .head("LayoutLMv3ForSequenceClassification", "sequence-classification", classifier)
    .done()
)
