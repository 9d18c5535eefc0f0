"""Qwen2.5-VL (https://arxiv.org/abs/2502.13923): a Qwen2-VL most of whose layers look at windows of a picture."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.axes import AxesDecoder
from omniform.architectures.family import Builder
from omniform.architectures.fusion import parted_beginning
from omniform.architectures.packed_family import SectionedText
from omniform.architectures.packed_fusion import PackedVisionLanguage, SeesLM
from omniform.architectures.packed_vision import PackedVision, PatchTower, block_keys
from omniform.blocks.mlp import GatedMLP
from omniform.blocks.norms import RMSNorm
from omniform.blocks.packed_patches import FRAME, WINDOW
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.models.seeing import (
    MERGER_KEYS,
    SeeingConfig,
    base_keys_before_2025,
    head_keys_before_2025,
)
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionSide:
    """What the encoder of pictures computes.

    Attributes:
        window: rows and columns of tokens in a window.
        whole: the layers whose patches see their whole frame.
        pace: how many positions in time a second of film has.
    """

    tower: PatchTower
    window: int
    whole: tuple[int, ...]
    pace: int

    def norm(self) -> nn.Module:
        """One norm."""
        return RMSNorm(self.tower.dim, 1e-6)

    def layers(self) -> nn.ModuleList:
        """All layers."""
        t = self.tower
        return nn.ModuleList(
            t.layer(self.norm, GatedMLP(t.dim, t.hidden, t.act, bias=True), FRAME if i in self.whole else WINDOW)
            for i in range(t.layers)
        )


def read_vision(r: ConfigReader) -> VisionSide:
    """Read its config; every key is used, declared inert or refused."""
    tower = PatchTower.read(r, dim=3584, hidden=3420, layers=32, act="silu", patch=14)
    pixels, token = r.integer("window_size", 112), tower.merge * tower.patch
    if pixels < token:
        raise r.fail("window_size", f"at least {token}, the pixels of a token", pixels)
    return VisionSide(
        tower=tower,
        window=pixels // tower.merge // tower.patch,
        whole=r.integers("fullatt_block_indexes", (7, 15, 23, 31)),
        pace=r.integer("tokens_per_second", 4, least=0),
    )


def build_vision(c: VisionSide) -> PackedVision:
    """The encoder of pictures."""
    t = c.tower
    return PackedVision(
        patch_embed=t.patches(bias=False),
        layers=c.layers(),
        merger=t.merger(c.norm()),
        merge=t.merge,
        window=c.window,
    )


def build_text(c: SectionedText) -> AxesDecoder:
    """The decoder."""
    return c.build()


def read(r: ConfigReader) -> SeeingConfig:
    """Read a config; the oldest hold the decoder's keys among their own."""
    return SeeingConfig.read(r, "qwen2_5_vl", flat=True)


def build(c: SeeingConfig) -> PackedVisionLanguage:
    """Encoder and decoder without a head; the frames of films stand in time as they were taken."""
    return c.build(pace=c.vision.spec(VisionSide).pace)


def causal_lm(c: SeeingConfig, _: Common) -> SeesLM:
    """The model that writes."""
    return c.writing(build(c))


VISION_KEYS = KeyMap({**block_keys({}), **MERGER_KEYS})

VISION = (
    Builder("qwen2_5_vl_vision", read_vision, VISION_KEYS, prefix="visual")
    .public(config="Qwen2_5_VLVisionConfig")
    .base("Qwen2_5_VisionTransformerPretrainedModel", build_vision)
    .done()
)
TEXT = (
    Builder("qwen2_5_vl_text", SectionedText.read, KeyMap({}), prefix="language_model")
    .public(config="Qwen2_5_VLTextConfig", tokenizer="Qwen2Tokenizer")
    .base("Qwen2_5_VLTextModel", build_text)
    .done()
)
FAMILY = (
    Builder("qwen2_5_vl", read, base_keys_before_2025, prefix="")
    .public(
        config="Qwen2_5_VLConfig",
        tokenizer="Qwen2Tokenizer",
        image_processor="Qwen2VLImageProcessor",
        video_processor="Qwen2VLVideoProcessor",
        processor="Qwen2_5_VLProcessor",
        row="image, video and text to text",
    )
    .begins(parted_beginning)
    .base("Qwen2_5_VLModel", build)
    .architecture("Qwen2_5_VLForConditionalGeneration", ("image-text-to-text",), causal_lm, head_keys_before_2025)
    .done()
)
