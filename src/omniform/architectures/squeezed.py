"""Encoders of waves whose layers read fewer frames than come out (SEW, https://arxiv.org/abs/2109.06870)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.wave_family import WAVE_KEYS, Shape, Waves
from omniform.architectures.waves import PlainWaveEncoder, WaveLayers
from omniform.blocks.composed import Composed
from omniform.blocks.mlp import activation
from omniform.blocks.waves import ConvPositions, FeatureProjection, PlaceConv1d, SpecMask, check_wave
from omniform.core.config import Beginning, ModelConfig
from omniform.core.context import StepContext
from omniform.core.errors import InputError
from omniform.weights.keymap import KeyMap

STEM: Shape = (
    (64, 128, 128, 128, 128, 256, 256, 256, 256, 512, 512, 512, 512),
    (10, 3, 1, 3, 1, 3, 1, 3, 1, 2, 1, 2, 1),
    (5, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1),
)
"""The convolutions of the line."""


class Upsampling(Composed):
    """Each frame becomes several again.

    Args:
        projection: to so many frames side by side.
        act: name of the activation.
        factor: how many.
    """

    projection: nn.Linear
    act: str
    factor: int

    def __post_init__(self) -> None:
        self._act = activation(self.act)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Shape: [B, T, D] to [B, factor * T, D]."""
        several = self._act(self.projection(x_BTD))
        return several.reshape(x_BTD.shape[0], -1, several.shape[-1] // self.factor)

    def extra_repr(self) -> str:
        return f"act={self.act}, factor={self.factor}"


class SqueezedLayers(WaveLayers):
    """Layers that read the means of several frames each, told where they stand by a convolution of as large steps.

    Args:
        upsample: as many frames again as there were; what is left over at the end is silent.
    """

    upsample: Upsampling

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        frames, factor = x_BTD.shape[1], self.upsample.factor
        if ctx.padding is not None:
            x_BTD = x_BTD.masked_fill(~ctx.padding[..., None], 0)
        means_BTD = F.avg_pool1d(x_BTD.transpose(1, 2), factor, factor).transpose(1, 2)
        places_BTD = self.pos_conv_embed(x_BTD)[:, : means_BTD.shape[1]]
        hidden = self.upsample(self.read(means_BTD + places_BTD, self.squeezed(ctx, means_BTD)))
        return F.pad(hidden, (0, 0, 0, factor))[:, :frames]

    def read(self, placed_BTD: Tensor, ctx: StepContext) -> Tensor:
        """What the layers make of frames that know where they stand. Shape: [B, T, D] in and out."""
        return self.encode(placed_BTD, ctx)

    def squeezed(self, ctx: StepContext, means_BTD: Tensor) -> StepContext:
        """The context of fewer frames: one is of sound if one of those that it is the mean of is."""
        positions, padding = torch.arange(means_BTD.shape[1], device=means_BTD.device)[None], None
        if ctx.padding is not None:
            factor = self.upsample.factor
            padding = F.max_pool1d(ctx.padding[:, None].float(), factor, factor)[:, 0] > 0
        return ctx.with_(positions=positions, padding=padding)


class SqueezedEncoder(PlainWaveEncoder):
    """An encoder whose layers read fewer frames. A row that is too short for a frame has none."""

    encoder: SqueezedLayers

    def arrive(self, inputs: dict[str, object]) -> None:
        wave, factor = check_wave(inputs.get("input_values"), self.feature_extractor), self.encoder.upsample.factor
        if self.frames_of(wave.shape[1]) < factor:
            raise InputError(
                "the sound is too short for the layers",
                where="input_values",
                expected=f"{self.feature_extractor.samples_of(factor)} samples or more (squeeze_factor {factor})",
                found=wave.shape[1],
            )
        super().arrive(inputs)

    def real_frames(self, attention_mask: Tensor, frames: int, *, adapted: bool = False) -> Tensor:
        real = self.frames_of(attention_mask.long().sum(-1), adapted=adapted)
        return torch.arange(frames, device=real.device) < real[:, None]


def upsampling(waves: Waves, factor: int) -> Upsampling:
    """What makes as many frames again."""
    return Upsampling(projection=nn.Linear(waves.dim, waves.dim * factor), act=waves.stem.act, factor=factor)


def places(waves: Waves, factor: int) -> ConvPositions:
    """What tells where means of so many frames stand."""
    conv = PlaceConv1d(
        waves.dim, waves.dim, waves.kernel, stride=factor, padding=waves.kernel // 2, groups=waves.groups, along=2
    )
    return ConvPositions(conv=conv, act=waves.stem.act)


def squeezed_encoder(waves: Waves, layers: SqueezedLayers) -> SqueezedEncoder:
    """The encoder around such layers; frames that are as wide as these are not projected."""
    frame, dim = waves.stem.channels[-1], waves.dim
    return SqueezedEncoder(
        feature_extractor=waves.stem.build(),
        feature_projection=FeatureProjection(
            layer_norm=nn.LayerNorm(frame, waves.eps),
            projection=nn.Identity() if frame == dim else nn.Linear(frame, dim),
            dropout=waves.projection_dropout,
        ),
        masking=SpecMask(dim, waves.augment, whole=True) if waves.hides else None,
        encoder=layers,
    )


def squeezed_beginning(config: ModelConfig, path: str) -> Beginning | None:
    """Convolutions begin without biases."""
    return nn.init.zeros_ if path.endswith("conv.bias") else None


SQUEEZED_KEYS = WAVE_KEYS | KeyMap(
    {"feature_projection.layer_norm": "layer_norm", "feature_projection.projection": "feature_projection"}
)
"""Where the line keeps its weights."""
