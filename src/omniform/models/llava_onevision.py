"""LLaVA-OneVision (https://arxiv.org/abs/2408.03326): one picture as tiles, several as they are, and videos."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from torch import Tensor

from omniform.architectures.family import Builder
from omniform.architectures.fusion import parted_beginning
from omniform.architectures.fusion_frames import FramesVisionLanguage
from omniform.architectures.fusion_pictures import VisionLanguageLM
from omniform.core.config import Common
from omniform.core.outputs import MediaFeatures
from omniform.core.reader import ConfigReader
from omniform.core.tiles import Size, read_most
from omniform.models import llava
from omniform.models.llava import NEW_LAYOUT, Usual, parts, read_parts, writing_head
from omniform.models.llava_next import read_resolutions
from omniform.weights.keymap import KeyMap

# What a config means that says nothing of its tower: SigLIP so400m at 384 pixels, without its last layer.
SIGLIP_384 = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "patch_size": 14,
    "image_size": 384,
    "num_hidden_layers": 26,
    "num_attention_heads": 16,
    "vision_use_head": False,
}

# What one means that says nothing of its resolutions: up to six by six tiles.
RESOLUTIONS = tuple((height, width) for height, width in product(range(384, 2305, 384), repeat=2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a LLaVA-OneVision computes.

    Attributes:
        seeing: what it has in common with LLaVA.
        resolutions: those that pictures are fitted into, heights and widths in pixels.
        most: how many tiles' worth of vectors a picture may have.
        video_token_id: the placeholder of videos.
    """

    seeing: llava.Config
    resolutions: tuple[Size, ...]
    most: int
    video_token_id: int


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    r.inert("image_seq_length", "use_image_newline_parameter")
    usual = Usual(vision=SIGLIP_384, text="qwen2", image_token_id=151646, layers=(-1,), strategy="full")
    ratio = r.text("vision_aspect_ratio", "anyres_max_9")
    most = read_most(ratio)
    if most is None:
        raise r.fail("vision_aspect_ratio", "anyres_max_ and a number", ratio)
    return Config(
        seeing=read_parts(r, usual),
        resolutions=read_resolutions(r, RESOLUTIONS),
        most=most,
        video_token_id=r.integer("video_token_index", 151647, also=("video_token_id",), least=0),
    )


class VisionLanguageFilmLM(VisionLanguageLM):
    """A model of pictures and videos that writes."""

    model: FramesVisionLanguage

    def get_video_features(self, pixel_values_videos: Tensor, **given: object) -> MediaFeatures:
        """See :meth:`~omniform.architectures.fusion_frames.FramesVisionLanguage.get_video_features`."""
        return self.model.get_video_features(pixel_values_videos, **given)  # type: ignore[arg-type]


def build(c: Config) -> FramesVisionLanguage:
    """Tower, projector and decoder without a head."""
    return FramesVisionLanguage(
        **parts(c.seeing), resolutions=c.resolutions, most=c.most, video_token_id=c.video_token_id
    )


def causal_lm(c: Config, _: Common) -> VisionLanguageFilmLM:
    """The model that writes."""
    model = build(c)
    return VisionLanguageFilmLM(model=model, lm_head=writing_head(model.language_model, c.seeing.tie))


def keys(c: Config) -> KeyMap:
    """Each part's own map, at its place."""
    return llava.keys(c.seeing)


FAMILY = (
    Builder("llava_onevision", read, keys, prefix="")
    .public(
        config="LlavaOnevisionConfig",
        tokenizer="Qwen2Tokenizer",
        image_processor="LlavaOnevisionImageProcessor",
        video_processor="LlavaOnevisionVideoProcessor",
        processor="LlavaOnevisionProcessor",
        row="image, video and text to text",
    )
    .begins(parted_beginning)
    .base("LlavaOnevisionModel", build)
    .architecture(
        "LlavaOnevisionForConditionalGeneration",
        ("image-text-to-text",),
        causal_lm,
        lambda c: keys(c).under("model", "") | NEW_LAYOUT,
    )
    .done()
)
