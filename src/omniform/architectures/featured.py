"""Encoders of sounds that read their features, made beforehand, and no samples (w2v-BERT 2.0)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.waves import SoundEncoder, through_layers
from omniform.blocks.composed import Composed
from omniform.blocks.waves import Count, FeatureProjection, steps_for_one
from omniform.core.context import StepContext, Tapped
from omniform.core.errors import InputError, brief
from omniform.core.sound_outputs import WaveOutput

Stepping = Callable[[Tensor, Tensor | None], StepContext]
"""Makes the context of frames and their mask. Shape: [B, T, D] and [B, T]."""


class FrameLayers(Composed):
    """Layers that read frames, with no norm before or behind them.

    Args:
        layers: called as ``layer(hidden, ctx)``.
        dropout: on what enters them, in training.
        layerdrop: probability of leaving out a layer in training.
    """

    layers: nn.ModuleList
    dropout: float
    layerdrop: float

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        """Shape: [B, T, D] in and out."""
        if ctx.padding is not None:
            x_BTD = x_BTD.masked_fill(~ctx.padding[..., None], 0)
        x_BTD = F.dropout(x_BTD, self.dropout, self.training)
        return through_layers(self.layers, x_BTD, ctx, self.layerdrop if self.training else 0.0)


class ShorteningLayer(Composed):
    """A layer that makes fewer frames: attention reads a convolution that gates itself, and adds to another.

    Args:
        attention_dropout: on what attention gives, in training.
        dropout: on what the feed-forward gives.
    """

    residual_layer_norm: nn.LayerNorm
    residual_conv: nn.Conv1d
    self_attn_layer_norm: nn.LayerNorm
    self_attn_conv: nn.Conv1d
    self_attn: nn.Module
    ffn_layer_norm: nn.LayerNorm
    ffn: nn.Module
    attention_dropout: float
    dropout: float

    def forward(self, x_BTD: Tensor, lengths_B: Tensor | None, step: Stepping) -> Tensor:
        """Fewer frames.

        Args:
            x_BTD: Shape: [B, T, D].
            lengths_B: how many are left of each row that are of sound; None where all are. Shape: [B].
            step: makes a context.

        Returns:
            Shape: [B, T', D].
        """
        kept = _shorter(self.residual_conv, self.residual_layer_norm(x_BTD))
        read = _shorter(self.self_attn_conv, self.self_attn_layer_norm(x_BTD))
        real = None
        if lengths_B is not None:
            real = torch.arange(read.shape[1], device=read.device) < lengths_B[:, None]
        seen = F.dropout(self.self_attn(read, step(read, real)), self.attention_dropout, self.training)
        x_BTD = seen + kept
        return F.dropout(self.ffn(self.ffn_layer_norm(x_BTD)), self.dropout, self.training) + x_BTD


def _shorter(conv: nn.Conv1d, x_BTD: Tensor) -> Tensor:
    return F.glu(conv(x_BTD.transpose(1, 2)), dim=1).transpose(1, 2)


class Shortening(Composed):
    """Fewer frames, of another width if need be, behind the layers.

    Args:
        proj: to that width; None where it is the same.
        proj_layer_norm: applied to that.
        layers: each makes fewer frames.
        layerdrop: probability of leaving out one of them in training.
        kernel: of their convolutions.
        stride: likewise.
    """

    proj: nn.Linear | None
    proj_layer_norm: nn.LayerNorm | None
    layers: nn.ModuleList
    layerdrop: float
    kernel: int
    stride: int

    def frames_of(self, frames: Count) -> Count:
        """How many frames are left of so many, as the reference counts them."""
        for _ in self.layers:
            frames = self._after_one(frames)
        return frames

    @property
    def least(self) -> int:
        """How many frames one is made of."""
        return steps_for_one([layer.residual_conv for layer in self.layers if isinstance(layer, ShorteningLayer)])

    def _after_one(self, frames: Count) -> Count:
        left: Count = (frames + 2 * (self.kernel // 2) - self.kernel) // self.stride + 1
        return left

    def forward(self, x_BTD: Tensor, lengths_B: Tensor | None, step: Stepping) -> Tensor:
        """Shape: [B, T, D] to [B, T', D']; see :class:`ShorteningLayer`."""
        if self.proj is not None and self.proj_layer_norm is not None:
            x_BTD = self.proj_layer_norm(self.proj(x_BTD))
        for layer in self.layers:
            lengths_B = None if lengths_B is None else self._after_one(lengths_B)
            if not (self.training and self.layerdrop > 0 and torch.rand(()).item() <= self.layerdrop):
                x_BTD = layer(x_BTD, lengths_B, step)
        return x_BTD


class FeatureEncoder(SoundEncoder):
    """An encoder of features of sounds.

    Args:
        features: width of what is read.
        feature_projection: features to the layers' width.
        encoder: the layers.
        intermediate_ffn: half of what it gives is added behind them; None for nothing.
        adapter: fewer frames behind that; None for as many.
    """

    main_input = "input_features"

    features: int
    feature_projection: FeatureProjection
    encoder: FrameLayers
    intermediate_ffn: nn.Module | None = None
    adapter: Shortening | None = None

    def frames_of(self, samples: Count, *, adapted: bool = True) -> Count:
        return self.adapter.frames_of(samples) if adapted and self.adapter is not None else samples

    def get_input_embeddings(self) -> nn.Module:
        return self.feature_projection

    def arrive(self, inputs: dict[str, object]) -> None:
        width = self.features
        given = inputs.get("input_features")
        fits = isinstance(given, Tensor) and given.dim() == 3 and given.shape[2] == width and given.is_floating_point()
        if not isinstance(given, Tensor) or not fits or not given.shape[1]:
            raise InputError(
                "these are no features of sounds",
                where="input_features",
                expected=f"floating-point numbers of shape [batch, frames, {width}]",
                found=f"{given.dtype} of shape {list(given.shape)}" if isinstance(given, Tensor) else brief(given),
                remedy="The checkpoint's feature extractor makes them.",
            )
        self.check_marks(inputs, given)
        if self.adapter is not None and given.shape[1] < self.adapter.least:
            raise InputError(
                "the sound is too short for one frame behind the adapter",
                where="input_features",
                expected=f"{self.adapter.least} frames or more",
                found=given.shape[1],
            )

    def forward(
        self,
        input_features: Tensor,
        attention_mask: Tensor | None = None,
        mask_time_indices: Tensor | None = None,
        **given: Unpack[Tapped],
    ) -> WaveOutput:
        """Hidden states of sounds.

        Args:
            input_features: Shape: [B, T, F].
            attention_mask: 1 for frames of sound. Shape: [B, T].
            mask_time_indices: True for frames to hide. Shape: [B, T].
            given: see :class:`~omniform.core.context.Tapped`.

        Raises:
            InputError: no features, or a mask of another shape.
        """
        x_BTD, normed_BTF = self.feature_projection(input_features.to(self.dtype))
        if self.masking is not None:
            x_BTD = self.masking(x_BTD, attention_mask, mask_time_indices)
        ctx = self.step(x_BTD, given, attention_mask=attention_mask)
        hidden = self.encoder(x_BTD, ctx)
        if self.intermediate_ffn is not None:
            thought = F.dropout(self.intermediate_ffn(hidden), self.encoder.dropout, self.training)
            hidden = hidden + 0.5 * thought
        if self.adapter is not None:
            lengths = None if attention_mask is None else attention_mask.long().sum(-1)
            hidden = self.adapter(hidden, lengths, lambda x, mask: self.step(x, attention_mask=mask))
        return WaveOutput(last_hidden_state=hidden, extract_features=normed_BTF, **ctx.taps.noted())
