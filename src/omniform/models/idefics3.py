"""Idefics3 (https://arxiv.org/abs/2408.12637): SigLIP's tower in native shapes, shuffled patches, a decoder."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.decoder import TextDecoder, tied
from omniform.architectures.family import Builder
from omniform.architectures.native_vision import NATIVE_KEYS, NativeSide, NativeVisionEncoder
from omniform.architectures.shuffled_pictures import Shuffle, Shuffled, ShuffledLM, Widening
from omniform.core.config import Beginning, Common, ModelConfig
from omniform.core.reader import ConfigReader
from omniform.models.registry import Part
from omniform.weights.keymap import KeyMap


def read_vision(r: ConfigReader) -> NativeSide:
    """Read the tower's config."""
    return NativeSide.read(r, hidden=3072, layers=12, image_size=224, patch_size=32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What an Idefics3 computes.

    Attributes:
        factor: patches along the edge of what becomes one vector.
    """

    vision: Part
    text: Part
    image_token_id: int
    factor: int
    tie: bool


def read_parts(r: ConfigReader, tower: str) -> Config:
    """Read a config whose tower is of this type where it does not say."""
    r.inert("pad_token_id")
    vision = Part.of(r, "vision_config", {"model_type": tower})
    return Config(
        vision=vision,
        text=Part.of(r, "text_config", {"model_type": "llama", "rms_norm_eps": 1e-5}),
        image_token_id=r.integer("image_token_id", 128257, least=0),
        factor=r.integer("scale_factor", 2),
        tie=r.flag("tie_word_embeddings", False),
    )


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    return read_parts(r, "idefics3_vision")


def build(c: Config) -> Shuffled:
    """Tower, connector and decoder without a head."""
    tower, decoder = c.vision.build_as(NativeVisionEncoder), c.text.build_as(TextDecoder)
    projection = Widening(proj=nn.Linear(tower.width * c.factor**2, decoder.width, bias=False))
    return Shuffled(
        vision_model=tower,
        connector=Shuffle(modality_projection=projection, factor=c.factor),
        language_model=decoder,
        image_token_id=c.image_token_id,
    )


def causal_lm(c: Config, _: Common) -> ShuffledLM:
    """The model that writes."""
    model = build(c)
    table = model.language_model.embed_tokens
    head = nn.Linear(table.embedding_dim, table.num_embeddings, bias=False)
    return ShuffledLM(model=model, lm_head=tied(head, table, c.tie))


def keys(c: Config) -> KeyMap:
    """Each part's own map, at its place."""
    return c.vision.keys.under("vision_model", "vision_model") | c.text.keys.under("language_model", "text_model")


def beginning(config: ModelConfig, path: str) -> Beginning | None:
    """The parts begin as their own families' models do, and what stands between them as the decoder."""
    if "initializer_range" in config.raw or path.removeprefix("model.").startswith(
        ("vision_model.", "language_model.")
    ):
        return None
    text = config.get("text_config")
    assert isinstance(text, ModelConfig)
    return text.common.initializer_range


VISION = (
    Builder("idefics3_vision", read_vision, NATIVE_KEYS, prefix="")
    .public(config="Idefics3VisionConfig")
    .base("Idefics3VisionTransformer", NativeSide.model)
    .done()
)
FAMILY = (
    Builder("idefics3", read, keys, prefix="model")
    .public(
        config="Idefics3Config",
        tokenizer="LlamaTokenizer",
        image_processor="Idefics3ImageProcessor",
        processor="Idefics3Processor",
        row="image and text to text",
    )
    .begins(beginning)
    .base("Idefics3Model", build)
    .head("Idefics3ForConditionalGeneration", ("image-text-to-text", "pre-training"), causal_lm)
    .done()
)
