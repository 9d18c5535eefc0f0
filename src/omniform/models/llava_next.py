"""LLaVA-NeXT (https://llava-vl.github.io/blog/2024-01-30-llava-next/): LLaVA with tiles of large pictures."""

from __future__ import annotations

from dataclasses import dataclass

from omniform.architectures.family import Builder
from omniform.architectures.fusion import parted_beginning
from omniform.architectures.fusion_pictures import VisionLanguageLM
from omniform.architectures.fusion_tiles import TiledVisionLanguage
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.core.tiles import Size
from omniform.models import llava
from omniform.models.llava import NEW_LAYOUT, Usual, parts, read_parts, writing_head
from omniform.weights.keymap import KeyMap

# What a config means that says nothing of its resolutions: heights and widths of up to three tiles.
RESOLUTIONS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a LLaVA-NeXT computes.

    Attributes:
        seeing: what it has in common with LLaVA.
        resolutions: those that pictures are fitted into, heights and widths in pixels.
    """

    seeing: llava.Config
    resolutions: tuple[Size, ...]


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    r.inert("image_seq_length", "use_image_newline_parameter")
    return Config(seeing=read_parts(r, Usual(text_ties=False)), resolutions=read_resolutions(r, RESOLUTIONS))


def read_resolutions(r: ConfigReader, usual: tuple[Size, ...]) -> tuple[Size, ...]:
    """The resolutions that pictures are fitted into.

    Raises:
        ConfigError: one is no height and width, or there is none.
    """
    if r.raw.get("image_grid_pinpoints") is None:
        r.inert(image_grid_pinpoints=[list(size) for size in usual])
        return usual
    sizes = r.integer_lists("image_grid_pinpoints", least=1)
    pairs = tuple((size[0], size[1]) for size in sizes if len(size) == 2)
    if not pairs or len(pairs) < len(sizes):
        raise r.fail("image_grid_pinpoints", "heights and widths", [list(size) for size in sizes])
    return pairs


def build(c: Config) -> TiledVisionLanguage:
    """Tower, projector and decoder without a head."""
    return TiledVisionLanguage(**parts(c.seeing), resolutions=c.resolutions)


def causal_lm(c: Config, _: Common) -> VisionLanguageLM:
    """The model that writes."""
    model = build(c)
    return VisionLanguageLM(model=model, lm_head=writing_head(model.language_model, c.seeing.tie))


def keys(c: Config) -> KeyMap:
    """Each part's own map, at its place."""
    return llava.keys(c.seeing)


FAMILY = (
    Builder("llava_next", read, keys, prefix="")
    .public(
        config="LlavaNextConfig",
        tokenizer="LlamaTokenizer",
        image_processor="LlavaNextImageProcessor",
        processor="LlavaNextProcessor",
        row="image and text to text",
        usual={"image_seq_length": 576},
    )
    .begins(parted_beginning)
    .base("LlavaNextModel", build)
    .architecture(
        "LlavaNextForConditionalGeneration",
        ("image-text-to-text",),
        causal_lm,
        lambda c: keys(c).under("model", "") | NEW_LAYOUT,
    )
    .done()
)
