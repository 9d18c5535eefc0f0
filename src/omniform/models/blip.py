"""BLIP (https://arxiv.org/abs/2201.12086): pictures captioned, asked about, and matched with texts."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from omniform.architectures.encoder_family import STACK_KEYS, VOCABULARY_HEAD, EncoderText
from omniform.architectures.family import Builder
from omniform.architectures.picture_family import VISION_KEYS, TwiceNormedVision, of_parts
from omniform.architectures.picture_text import (
    Captioner,
    LookingText,
    LookingWriter,
    PictureAnswerer,
    PictureMatcher,
    PictureTextPair,
)
from omniform.architectures.scoring import VocabularyHead
from omniform.blocks.attention import CrossAttention
from omniform.blocks.embeddings import PositionedEmbeddings, PositionTable
from omniform.blocks.layers import CrossPostNorm
from omniform.blocks.poolers import DensePooler
from omniform.core.config import Beginning, Common, ModelConfig
from omniform.core.reader import ConfigReader
from omniform.models.registry import Part
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSide:
    """What the text computes: BERT's layers, which may look at pictures.

    Attributes:
        looks: whether it can look at pictures at all.
        memory: width of what it looks at.
        smoothing: what part of each label is spread over all tokens.
        start, end, pad: the tokens that a text begins with, that ends it, and that fills it up.
    """

    text: EncoderText
    looks: bool
    memory: int
    smoothing: float
    start: int | None
    end: int | None
    pad: int | None

    @classmethod
    def read(cls, r: ConfigReader) -> TextSide:
        """Read the text's config."""
        text = EncoderText.read(r, vocab_size=30524, token_types=0, heads=8, dropout=0.0)
        r.inert("initializer_factor", projection_dim=768)
        r.special_tokens(eos_token_id=2)
        return cls(
            text=replace(text, causal=True, cross_attention=False),
            looks=r.flag("is_decoder", True),
            memory=r.integer("encoder_hidden_size", 768),
            smoothing=r.probability("label_smoothing"),
            start=r.token("bos_token_id", 30522),
            end=r.token("sep_token_id", 102),
            pad=r.token("pad_token_id", 0),
        )

    def layer(self) -> nn.Module:
        """One layer."""
        text = self.text
        if not self.looks:
            return text.layer()
        look = CrossAttention(text.dim, text.heads, memory_dim=self.memory, dropout=text.attention_dropout)
        return CrossPostNorm.of(text.norm, **text.parts(), encoder_attn=look)

    def bare(self) -> LookingText:
        """The text without a pooler."""
        text = self.text
        embeddings = PositionedEmbeddings(
            embed_positions=PositionTable(text.max_positions, text.dim), norm=text.norm(), dropout=text.dropout
        )
        return LookingText(
            embed_tokens=nn.Embedding(text.vocab_size, text.dim),
            embeddings=embeddings,
            layers=nn.ModuleList(self.layer() for _ in range(text.layers)),
            max_positions=text.max_positions,
            memory_dim=self.memory,
        )

    def model(self) -> LookingText:
        """The text, and its first token's vector for all of it."""
        model = self.bare()
        model.pooler = DensePooler(self.text.dim, self.text.dim)
        return model

    def writer(self, _: Common | None = None, *, tie: bool = False) -> LookingWriter:
        """The text that writes; ``tie``: its matrices are one even if its own config does not say so."""
        model, text = self.bare(), self.text
        head = VocabularyHead.of_tokens(model.embed_tokens, text.act, text.eps, tie=text.tie or tie)
        return LookingWriter(model=model, lm_head=head, smoothing=self.smoothing)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What pictures and texts compute together."""

    text: TextSide
    vision: TwiceNormedVision
    projection: int
    matching: int
    logit_scale: float
    tie: bool


def read(r: ConfigReader) -> Config:
    """Read the config of both. The text looks at what the tower gives, however wide its own config takes that for."""
    r.inert("initializer_factor", label_smoothing=0.0)  # the latter of the text counts
    vision = Part.of(r, "vision_config", {"model_type": "blip_vision_model"})
    text = Part.of(r, "text_config", {"model_type": "blip_text_model"})
    tower = vision.spec(TwiceNormedVision)
    r.values["text_config"] = text.config.replace(encoder_hidden_size=tower.tower.dim)
    return Config(
        text=replace(text.spec(TextSide), memory=tower.tower.dim),
        vision=tower,
        projection=r.integer("projection_dim", 512),
        matching=r.integer("image_text_hidden_size", 256),
        logit_scale=r.number("logit_scale_init_value", 2.6592),
        tie=r.flag("tie_word_embeddings", True),
    )


def pair(c: Config) -> PictureTextPair:
    """Pictures compared with texts."""
    return PictureTextPair(
        vision_model=c.vision.model(),
        text_model=c.text.model(),
        visual_projection=c.vision.tower.into(c.projection),
        text_projection=nn.Linear(c.text.text.dim, c.projection, bias=False),
        start=c.logit_scale,
    )


def captioner(c: Config, _: Common) -> Captioner:
    """What a picture shows."""
    text = c.text
    return Captioner(
        vision_model=c.vision.model(),
        text_decoder=text.writer(tie=c.tie),
        start=text.start,
        end=text.end,
        pad=text.pad,
    )


def answerer(c: Config, _: Common) -> PictureAnswerer:
    """Answers to questions about a picture."""
    text = c.text
    return PictureAnswerer(
        vision_model=c.vision.model(),
        text_encoder=text.bare(),
        text_decoder=text.writer(tie=c.tie),
        start=text.start,
        end=text.end,
        pad=text.pad,
    )


def matcher(c: Config, _: Common) -> PictureMatcher:
    """Whether a text belongs to a picture."""
    vision, dim = c.vision.model(), c.text.text.dim
    return PictureMatcher(
        vision_model=vision,
        text_encoder=c.text.bare(),
        vision_proj=nn.Linear(vision.width, c.matching),
        text_proj=nn.Linear(dim, c.matching),
        itm_head=nn.Linear(dim, 2),
    )


def beginning(config: ModelConfig, path: str) -> Beginning | None:
    """Each part begins as its own config says."""
    texts = dict.fromkeys(("text_model.", "text_encoder.", "text_decoder."), "text_config")
    return of_parts(config, path, {"vision_model.": "vision_config", **texts})


STRAY = (r"(^|\.)embeddings\.position_ids$",)
TEXT_KEYS = KeyMap(STACK_KEYS, ignored=STRAY)
WRITER_KEYS = TEXT_KEYS.under("model", "bert") | KeyMap(VOCABULARY_HEAD)
TOWER = VISION_KEYS.under("vision_model", "vision_model")
ENCODER = TEXT_KEYS.under("text_encoder", "text_encoder")
DECODER = WRITER_KEYS.under("text_decoder", "text_decoder")

TEXT = (
    Builder("blip_text_model", TextSide.read, TEXT_KEYS, prefix="bert")
    .public(config="BlipTextConfig", tokenizer="BertTokenizer")
    .base("BlipTextModel", TextSide.model, "text-encoding")
    .head("BlipTextLMHeadModel", "causal-lm", TextSide.writer, VOCABULARY_HEAD)
    .done()
)
VISION = (
    Builder("blip_vision_model", TwiceNormedVision.read, VISION_KEYS, prefix="vision_model")
    .public(config="BlipVisionConfig", image_processor="BlipImageProcessor")
    .base("BlipVisionModel", TwiceNormedVision.model)
    .done()
)
FAMILY = (
    Builder("blip", read, TOWER | TEXT_KEYS.under("text_model", "text_model"), prefix="blip")
    .public(
        config="BlipConfig",
        tokenizer="BertTokenizer",
        image_processor="BlipImageProcessor",
        processor="BlipProcessor",
        row="captions, visual question answering, image-text retrieval, both towers",
        usual={"initializer_factor": 1.0},
    )
    .begins(beginning)
    .base("BlipModel", pair, "zero-shot-image-classification")
    .architecture("BlipForConditionalGeneration", ("image-text-to-text", "multimodal-lm"), captioner, TOWER | DECODER)
    .architecture("BlipForQuestionAnswering", ("visual-question-answering",), answerer, TOWER | ENCODER | DECODER)
    .architecture("BlipForImageTextRetrieval", ("image-text-retrieval",), matcher, TOWER | ENCODER)
    .done()
)
