"""Vision encoder-decoders (https://arxiv.org/abs/2109.10282): any encoder of pictures, any decoder that reads it."""

from __future__ import annotations

from omniform.architectures.family import Builder
from omniform.architectures.paired import PictureWriter
from omniform.core.reader import ConfigReader
from omniform.models.speech_encoder_decoder import Config, compose, from_encoder_decoder_configs, keys, read_pair


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    return read_pair(r, "vit")


def build(c: Config) -> PictureWriter:
    """Both models, and what brings one's hidden states to the other's width."""
    return compose(c, PictureWriter)


FAMILY = (
    Builder("vision-encoder-decoder", read, keys, prefix="")
    .public(
        config="VisionEncoderDecoderConfig",
        image_processor="ViTImageProcessor",
        row="image to text, of any encoder and any decoder",
        usual={"is_encoder_decoder": True},
    )
    .base("VisionEncoderDecoderModel", build, "image-text-to-text", "multimodal-lm")
    .done()
)

type.__setattr__(FAMILY.config_class, from_encoder_decoder_configs.__name__, classmethod(from_encoder_decoder_configs))
