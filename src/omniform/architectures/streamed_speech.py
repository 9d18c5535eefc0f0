"""An encoder of speech whose frames see chunks of the sound: a conformer as streaming recognisers have it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.model import Model
from omniform.architectures.parts import read_width
from omniform.blocks.attention import Attention
from omniform.blocks.layers import run
from omniform.blocks.mlp import ACTIVATIONS
from omniform.blocks.streamed_conformer import (
    BiasedContext,
    DistanceBias,
    FrameNorm,
    GatedMLP,
    HalvingConvs,
    StepBias,
    StreamedConformerLayer,
    StreamedConv,
)
from omniform.core.context import StepContext
from omniform.core.errors import InputError, brief, check_shape
from omniform.core.host import is_all_true, is_traced
from omniform.core.reader import ConfigReader
from omniform.core.rules import Full

LONGEST: Final = 500
"""Frames that see one another at most: what is longer is cut into stretches of so many."""


@dataclass(frozen=True, slots=True)
class Chunks:
    """How far frames see: the chunk that they are in, whole, and some before it.

    Attributes:
        size: frames of a chunk; below 0, all frames are one.
        left: how many chunks before its own a frame sees.
    """

    size: int
    left: int

    def visible(self, frames: int, training: bool) -> Tensor | None:
        """Which frames each may see. Shape: [T, T]; None: all.

        In training half of the steps begin with the chunk that is not whole, instead of ending with it; whether is
        drawn from numpy's global generator.
        """
        late = training and not is_traced() and np.random.rand() > 0.5
        if self.size < 0:
            return None
        begins = list(range(0, frames, self.size))
        if late:
            begins = [0, *range((frames - 1) % self.size + 1, frames, self.size)]
        ends = torch.tensor([*begins[1:], frames])
        at = torch.bucketize(torch.arange(frames), ends, right=True)
        first = torch.tensor(begins)[(at - self.left).clamp(min=0)]
        key = torch.arange(frames)[None]
        return (key >= first[:, None]) & (key < ends[at][:, None])


class StreamedSpeechEncoder(Model):
    """Frames of a spectrogram to vectors, each of several frames.

    Padding and chunks are no walls: what a frame may see counts one more in its scores than what it may not, as the
    models were trained.

    Args:
        encoder_embedding: norms the frames.
        embed: makes fewer of them.
        relative_attention_bias_layer: a number for each distance.
        encoders: the layers.
        chunks: how far frames see.
        reduction: how many frames become one.
        bands: numbers of a frame.
    """

    main_input = "hidden_states"

    encoder_embedding: FrameNorm
    embed: HalvingConvs
    relative_attention_bias_layer: DistanceBias
    encoders: nn.ModuleList
    chunks: Chunks
    reduction: int
    bands: int

    @property
    def width(self) -> int:
        """Width of the vectors."""
        return self.embed.out.out_features

    def get_input_embeddings(self) -> nn.Module:
        return self.embed.out

    def frames(self, given: int) -> int:
        """How many vectors so many frames become."""
        return -(-given // self.reduction)

    def check(self, frames: object, marks: object, *, where: str, marks_where: str) -> None:
        """Raise :class:`InputError` unless these are frames, and marks that cover them (or None).

        Args:
            where, marks_where: what the caller calls them.
        """
        fits = isinstance(frames, Tensor) and frames.dim() == 3 and frames.shape[2] == self.bands
        if not isinstance(frames, Tensor) or not fits or not frames.numel() or not frames.is_floating_point():
            raise InputError(
                "these are no frames of sounds",
                where=where,
                expected=f"floating-point numbers of shape [batch, frames, {self.bands}]",
                found=f"{frames.dtype} of shape {list(frames.shape)}" if isinstance(frames, Tensor) else brief(frames),
                remedy="The checkpoint's feature extractor makes them.",
            )
        if isinstance(marks, Tensor) and marks.dim() != 2:
            raise InputError("these are no marks of frames", where=marks_where, expected="shape [batch, frames]")
        if isinstance(marks, Tensor):
            # How many are true counts, whatever follows them: marks need not be as wide as the frames.
            check_shape("there is not one row of marks per sound", marks.shape[:1], frames.shape[:1], where=marks_where)

    def tells_nothing(self, frames: Tensor, marks: Tensor) -> bool:
        """Whether these marks change nothing: all sounds fill their frames, and are not cut into stretches."""
        same = marks.shape[1] == frames.shape[1] and self.frames(frames.shape[1]) <= LONGEST
        return same and is_all_true(marks)

    def arrive(self, inputs: dict[str, object]) -> None:
        frames, marks = inputs.get("hidden_states"), inputs.get("mask")
        self.check(frames, marks, where="hidden_states", marks_where="mask")
        if isinstance(marks, Tensor) and isinstance(frames, Tensor) and self.tells_nothing(frames, marks):
            inputs["mask"] = None

    def forward(self, hidden_states: Tensor, mask: Tensor | None = None) -> Tensor:
        """Vectors of sounds.

        Args:
            hidden_states: frames of a spectrogram. Shape: [B, T, bands].
            mask: true for frames of the sound, which come first. Shape: [B, T]; None where all are.

        Returns:
            Shape: [B, ceil(T / reduction), D].

        Raises:
            InputError: other frames than those, or marks that do not cover them.
        """
        x_BTD = self.embed(self.encoder_embedding(hidden_states.to(self.embed.out.weight.dtype)))
        rows, frames, dim = x_BTD.shape
        real = None if mask is None else self._real(mask, frames)
        visible = self.chunks.visible(frames, self.training)
        if frames <= LONGEST:
            return self._encoded(x_BTD, visible, real)
        missing = -frames % LONGEST
        pieces = F.pad(x_BTD, (0, 0, 0, missing)).reshape(-1, LONGEST, dim)
        real = None if real is None else F.pad(real, (0, missing)).reshape(-1, LONGEST)
        whole = self._encoded(pieces, self.chunks.visible(LONGEST, self.training), real)
        return whole.reshape(rows, -1, dim)[:, :frames]

    def _real(self, mask_BT: Tensor, frames: int) -> Tensor:
        """Which vectors are of the sound. Shape: [B, frames]."""
        lengths = -(-mask_BT.long().sum(1, keepdim=True) // self.reduction)
        return torch.arange(frames, device=mask_BT.device) < lengths

    def _encoded(self, x_BTD: Tensor, visible_TT: Tensor | None, real_BT: Tensor | None) -> Tensor:
        added = self.relative_attention_bias_layer(x_BTD.shape[1])
        seen = None if visible_TT is None else visible_TT.to(x_BTD.device)[None, None]
        if real_BT is not None:
            real = real_BT[:, None, None, :]
            seen = real.expand(-1, -1, x_BTD.shape[1], -1) if seen is None else seen & real
        if seen is not None:
            added = added + seen.to(added.dtype)
        ctx: StepContext = BiasedContext.of(self.step(x_BTD), added)
        return run(self.encoders, x_BTD, ctx)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamedSpeech:
    """What such an encoder computes."""

    dim: int
    hidden: int
    layers: int
    heads: int
    act: str
    chunks: Chunks
    dropout: float
    times: int
    kernel: int
    conv_act: str
    gate: str
    bands: int
    reduction: int
    most: int
    symmetric: bool
    stem_act: str
    stem_channels: int

    @classmethod
    def read(cls, r: ConfigReader) -> Self:
        """The fields under their usual names, with the defaults of Phi-4's."""
        dim, heads = read_width(r, "hidden_size", 1024, "num_attention_heads", 16)
        for name in ("ext_pw_out_channel", "depthwise_separable_out_channel"):
            if r.integer(name, 1024) != dim:
                raise r.fail(name, f"{dim} (hidden_size)", r.values[name])
        reduction = r.integer("time_reduction", 8, least=2)
        if reduction & (reduction - 1):
            raise r.fail("time_reduction", "a power of 2: each convolution halves", reduction)
        return cls(
            dim=dim,
            hidden=r.integer("intermediate_size", 1536),
            layers=r.layers("num_blocks", 24),
            heads=heads,
            act=r.choice("activation", ACTIVATIONS, "swish"),
            chunks=_read_chunks(r),
            dropout=r.probability("dropout_rate"),
            times=r.integer("depthwise_multiplier", 1),
            kernel=r.integer("kernel_size", 3),
            conv_act=r.choice("conv_activation", ACTIVATIONS, "swish"),
            gate=r.choice("conv_glu_type", ACTIVATIONS, "swish"),
            bands=r.integer("input_size", 80),
            reduction=reduction,
            most=r.integer("bias_max_distance", 1000),
            symmetric=r.flag("bias_symmetric", False),
            stem_act=r.choice("nemo_activation", ACTIVATIONS, "relu"),
            stem_channels=r.integer("nemo_conv_channels", 1024),
        )

    @property
    def bands_left(self) -> int:
        """Bands that the first convolutions leave."""
        return -(-self.bands // self.reduction)

    def model(self) -> StreamedSpeechEncoder:
        """The encoder."""
        halvings = int(math.log2(self.reduction))
        return StreamedSpeechEncoder(
            encoder_embedding=FrameNorm(self.bands),
            embed=HalvingConvs(halvings, self.bands, self.stem_channels, self.dim, self.stem_act),
            relative_attention_bias_layer=DistanceBias(self.most, self.heads, symmetric=self.symmetric),
            encoders=nn.ModuleList(self._layer() for _ in range(self.layers)),
            chunks=self.chunks,
            reduction=self.reduction,
            bands=self.bands,
        )

    def _layer(self) -> StreamedConformerLayer:
        attention = Attention(self.dim, self.heads, rule=Full(), bias=StepBias(), dropout=self.dropout)
        conv = StreamedConv(
            self.dim, times=self.times, kernel=self.kernel, gate=self.gate, act=self.conv_act, dropout=self.dropout
        )
        return StreamedConformerLayer.of(
            lambda: nn.LayerNorm(self.dim),
            self_attn=attention,
            conv=conv,
            feed_forward_in=GatedMLP(self.dim, self.hidden, self.act, self.dropout),
            feed_forward_out=GatedMLP(self.dim, self.hidden, self.act, self.dropout),
        )


def _read_chunks(r: ConfigReader) -> Chunks:
    size = r.integer("chunk_size", -1, least=-(2**31))
    if size == 0:
        raise r.fail("chunk_size", "frames of a chunk, or -1 for one chunk", size)
    return Chunks(size, r.integer("left_chunk", 18, least=0))
