"""ViLT (https://arxiv.org/abs/2102.03334): words and patches of a picture in one row."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.family import Builder
from omniform.architectures.one_stream import (
    OneStream,
    OneStreamMaskedLM,
    OneStreamTokenClassifier,
    PictureAnswerer,
    PictureComparer,
    PictureRanker,
)
from omniform.architectures.scoring import ScoringHead
from omniform.architectures.tower import Tower
from omniform.architectures.vit_family import LAYER_KEYS, zeros
from omniform.blocks.embeddings import PositionTable, TypedEmbeddings
from omniform.blocks.patches import ClassToken, Learned, Patching, PatchStem, read_patching
from omniform.blocks.poolers import DensePooler
from omniform.core.config import Common
from omniform.core.errors import ConfigError
from omniform.core.reader import ConfigReader
from omniform.core.rules import Full
from omniform.weights.keymap import KeyMap, Rule
from omniform.weights.links import unsqueezed


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a ViLT computes.

    Attributes:
        kinds: how many kinds of parts are told apart: words, the picture, a second one...
        most_patches: how many are read of a picture at most; None for all.
        pictures: how many are compared by the head that does; None where nobody says.
    """

    tower: Tower
    patching: Patching
    biases: str
    dropout: float
    vocab_size: int
    token_types: int
    max_positions: int
    kinds: int
    most_patches: int | None
    pictures: int | None


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    r.inert(tie_word_embeddings=True)  # the reference ties whatever a file says
    most, pictures = (r.integer(name, -1, least=-(2**31)) for name in ("max_image_length", "num_images"))
    if most == 0:
        raise r.fail("max_image_length", "a number of patches, or -1 for all", most)
    return Config(
        tower=Tower.read(
            r, dim=768, hidden=3072, heads=12, act="gelu", eps=1e-12, dropout_key="attention_probs_dropout_prob"
        ),
        patching=read_patching(r, patch_size=32, image_size=(384, 384)),
        biases="qkvo" if r.flag("qkv_bias", True) else "o",
        dropout=r.probability("hidden_dropout_prob"),
        vocab_size=r.integer("vocab_size", 30522),
        token_types=r.integer("type_vocab_size", 2),
        max_positions=r.integer("max_position_embeddings", 40),
        kinds=r.integer("modality_type_vocab_size", 2),
        most_patches=most if most > 0 else None,
        pictures=pictures if pictures > 0 else None,
    )


def build(c: Config, *, pooled: bool = True) -> OneStream:
    """The model without a head; ``pooled``: whether it makes one vector per row."""
    dim, grid = c.tower.dim, c.patching.grid
    return OneStream(
        embed_tokens=nn.Embedding(c.vocab_size, dim),
        embeddings=TypedEmbeddings(
            embed_positions=PositionTable(c.max_positions, dim),
            embed_token_types=nn.Embedding(c.token_types, dim),
            norm=c.tower.norm(),
            dropout=c.dropout,
        ),
        layers=c.tower.stack(Full(), biases=c.biases, dropout=c.dropout),
        norm=c.tower.norm(),
        max_positions=c.max_positions,
        pooler=DensePooler(dim, dim) if pooled else None,
        patches=PatchStem(c.patching, dim),
        class_token=ClassToken(dim),
        places_2d=Learned(1 + grid[0] * grid[1], dim),
        grid=grid,
        modalities=nn.Embedding(c.kinds, dim),
        most_patches=c.most_patches,
        image_dropout=c.dropout,
    )


def scores(width: int, inner: int, classes: int) -> nn.Sequential:
    """One vector per row to scores."""
    return nn.Sequential(nn.Linear(width, inner), nn.LayerNorm(inner), nn.GELU(), nn.Linear(inner, classes))


def masked_lm(c: Config, _: Common) -> OneStreamMaskedLM:
    """Masked words."""
    model = build(c)
    head = ScoringHead.of_tokens(model.embed_tokens, c.tower.act, c.tower.eps, tie=True)
    return OneStreamMaskedLM(model=model, lm_head=head)


def answerer(c: Config, common: Common) -> PictureAnswerer:
    """Which answers fit."""
    return PictureAnswerer(model=build(c), classifier=scores(c.tower.dim, 2 * c.tower.dim, common.num_labels))


def ranker(c: Config, _: Common) -> PictureRanker:
    """How well text and picture fit."""
    return PictureRanker(model=build(c), rank_output=nn.Linear(c.tower.dim, 1))


def comparer(c: Config, common: Common) -> PictureComparer:
    """One class for a text and several pictures."""
    if c.pictures is None or c.pictures >= c.kinds:
        raise ConfigError(
            "every picture that is compared has a mark of its own",
            where="num_images",
            expected=f"1 to {c.kinds - 1} (modality_type_vocab_size - 1)",
            found=c.pictures,
        )
    wide = c.tower.dim * c.pictures
    return PictureComparer(model=build(c), classifier=scores(wide, wide, common.num_labels), pictures=c.pictures)


def token_classifier(c: Config, common: Common) -> OneStreamTokenClassifier:
    """One class per word."""
    classifier = nn.Linear(c.tower.dim, common.num_labels)
    return OneStreamTokenClassifier(model=build(c, pooled=False), classifier=classifier, dropout=c.dropout)


WORDS = "embeddings.text_embeddings"
KEYS = KeyMap(
    {
        "embed_tokens": f"{WORDS}.word_embeddings",
        "embeddings.embed_positions": f"{WORDS}.position_embeddings",
        "embeddings.embed_token_types": f"{WORDS}.token_type_embeddings",
        "embeddings.norm": f"{WORDS}.LayerNorm",
        "class_token.weight": unsqueezed("embeddings.cls_token", 2),
        "patches": "embeddings.patch_embeddings",
        "places_2d.weight": unsqueezed("embeddings.position_embeddings", 1),
        "modalities": "embeddings.token_type_embeddings",
        **LAYER_KEYS,
        "norm": "layernorm",
    }
)
SCORES: dict[str, Rule] = {
    "lm_head.dense": "mlm_score.transform.dense",
    "lm_head.layer_norm": "mlm_score.transform.LayerNorm",
    "lm_head.decoder": "mlm_score.decoder",
}
OLD = KeyMap(SCORES, aliases=((r"^mlm_score\.bias$", "mlm_score.decoder.bias"),))

FAMILY = (
    Builder("vilt", read, KEYS, prefix="vilt")
    .public(
        config="ViltConfig",
        tokenizer="BertTokenizer",
        image_processor="ViltImageProcessor",
        processor="ViltProcessor",
        row="masked LM, visual question answering, retrieval, comparing pictures, token classification",
    )
    .begins(zeros("class_token.weight", "places_2d.weight"))
    .base("ViltModel", build)
    .head("ViltForMaskedLM", "masked-lm", masked_lm, OLD)
    .head("ViltForQuestionAnswering", "visual-question-answering", answerer)
    .head("ViltForImageAndTextRetrieval", "image-text-retrieval", ranker)
    .head("ViltForImagesAndTextClassification", (), comparer)
    .head("ViltForTokenClassification", "token-classification", token_classifier)
    .done()
)
