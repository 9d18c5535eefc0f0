"""Encoders of sounds of any lengths, all of them end to end, whose frames look around within windows (Qwen's Omni)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.model import Model
from omniform.blocks.layers import passed
from omniform.blocks.mlp import activation
from omniform.blocks.sound_windows import AreaContext, chunks_of, gathered, laid_out, read_lengths
from omniform.core.areas import Areas
from omniform.core.context import Tapped
from omniform.core.errors import InputError, brief
from omniform.core.outputs import BaseModelOutput


def halved(frames: int, times: int) -> int:
    """What is left of so many frames after convolutions that look at every second one."""
    for _ in range(times):
        frames = (frames - 1) // 2 + 1
    return frames


def sines_of(count: int, dim: int, like: Tensor) -> Tensor:
    """Positions: sines in the first half of the channels, cosines in the second. Shape: [count, dim]."""
    half = dim // 2
    step = torch.log(torch.tensor(10000.0, dtype=torch.float64)) / max(half - 1, 1)
    speeds = torch.exp(-step * torch.arange(half, dtype=torch.float32)).float()
    angles = torch.arange(count)[:, None] * speeds
    return torch.cat((angles.sin(), angles.cos()), dim=1).to(like)


class WindowedSound(Model):
    """Log-mel spectrograms to vectors of another model's width.

    Attributes:
        bands: frequency bands of the spectrogram.
        chunk: frames of the spectrogram that the convolutions read at a time.
    """

    main_input = "input_features"

    bands: int
    chunk: int
    layers: nn.ModuleList

    def kept(self, chunk: int) -> int:
        """How many frames a chunk becomes within the layers."""
        raise NotImplementedError

    def length(self, frames: int) -> int:
        """How many vectors a sound of so many frames becomes."""
        raise NotImplementedError

    @property
    def width(self) -> int:
        """Width of the vectors."""
        raise NotImplementedError

    def arrive(self, inputs: dict[str, object]) -> None:
        features = inputs.get("input_features")
        fits = isinstance(features, Tensor) and features.dim() == 2 and features.is_floating_point()
        if not fits or not isinstance(features, Tensor) or features.shape[0] != self.bands:
            raise InputError(
                "the features do not fit the encoder",
                where="input_features",
                expected=f"shape [{self.bands}, frames of all sounds]",
                found=f"shape {list(features.shape)}" if isinstance(features, Tensor) else brief(features),
            )
        inputs["feature_lens"] = read_lengths(inputs.get("feature_lens"), features.shape[1], where="feature_lens")

    def within(self, x_1ND: Tensor, windows: Sequence[int], given: Tapped) -> tuple[Tensor, AreaContext]:
        """Frames of all sounds through the layers, each of which looks around in its window. Shape: [1, N, D]."""
        ctx = AreaContext.of(self.step(x_1ND, given), Areas.of(windows, x_1ND.device))
        for number, layer in enumerate(self.layers):
            ctx.taps.hidden(x_1ND[0])
            x_1ND = passed(layer, number, x_1ND, ctx)
        ctx.taps.hidden(x_1ND[0])
        return x_1ND, ctx


class ChunkedSound(WindowedSound):
    """Three convolutions over time and pitch within chunks, then layers over windows of some chunks (Qwen3-Omni).

    Args:
        layers: called as ``layer(hidden, ctx)``.
        ln_post: after the last of them.
        conv2d1: halves frames and bands; so do the two that follow.
        conv_out: what a frame has become to the layers' width.
        proj1: a frame after the layers.
        proj2: to the width of whoever reads it.
        act: name of the activation between these.
        bands: frequency bands of the spectrogram.
        chunk: frames that the convolutions read at a time.
        chunks: of a window.
        at_once: chunks that go through the convolutions together.
    """

    layers: nn.ModuleList
    ln_post: nn.LayerNorm
    conv2d1: nn.Conv2d
    conv2d2: nn.Conv2d
    conv2d3: nn.Conv2d
    conv_out: nn.Linear
    proj1: nn.Linear
    proj2: nn.Linear
    act: str
    bands: int
    chunk: int
    chunks: int
    at_once: int

    def get_input_embeddings(self) -> nn.Module:
        return self.conv2d1

    @property
    def width(self) -> int:
        return self.proj2.out_features

    def kept(self, chunk: int) -> int:
        return halved(chunk, 3)

    def length(self, frames: int) -> int:
        return sum(self.kept(chunk) for chunk in chunks_of([frames], self.chunk)[0])

    def forward(
        self, input_features: Tensor, feature_lens: Tensor | Sequence[int], **given: Unpack[Tapped]
    ) -> BaseModelOutput:
        """Vectors of sounds.

        Args:
            input_features: the frames of all sounds, one after another. Shape: [bands, frames].
            feature_lens: how many each sound has. Shape: [sounds].
            given: see :class:`~omniform.core.context.Tapped`.

        Returns:
            ``last_hidden_state`` and ``pooler_output``: the vectors of all sounds. Shape: [vectors, width].

        Raises:
            InputError: lengths and frames do not fit.
        """
        lengths = read_lengths(feature_lens, input_features.shape[1], where="feature_lens")
        each = chunks_of(lengths, self.chunk)
        chunks = [chunk for own in each for chunk in own]
        longest = max(chunks)
        x_NFT = laid_out(input_features.to(self.conv2d1.weight.dtype), chunks, longest)
        x_NTD = torch.cat([self._convolved(part) for part in torch.split(x_NFT, self.at_once)])
        x_NTD = x_NTD + sines_of(x_NTD.shape[1], x_NTD.shape[2], x_NTD)
        kept = [self.kept(chunk) for chunk in chunks]
        window = self.kept(longest) * self.chunks
        windows = [size for own in each for size in chunks_of([sum(map(self.kept, own))], window)[0]]
        x_1ND, ctx = self.within(gathered(x_NTD, kept)[None], windows, given)
        vectors = self.proj2(activation(self.act)(self.proj1(self.ln_post(x_1ND[0]))))
        return BaseModelOutput(last_hidden_state=vectors, pooler_output=vectors, **ctx.taps.noted())

    def _convolved(self, x_NFT: Tensor) -> Tensor:
        """Chunks of a spectrogram to frames. Shape: [chunks, bands, frames] to [chunks, T, D]."""
        x_NCFT = x_NFT[:, None]
        for conv in (self.conv2d1, self.conv2d2, self.conv2d3):
            x_NCFT = F.gelu(conv(x_NCFT))
        out: Tensor = self.conv_out(x_NCFT.permute(0, 3, 1, 2).flatten(2))
        return out


class PooledSound(WindowedSound):
    """Two convolutions over time within chunks, layers that look around in one, then pairs of frames (Qwen2.5-Omni).

    Args:
        layers: called as ``layer(hidden, ctx)``.
        ln_post: after the last of them.
        conv1: bands to the layers' width.
        conv2: halves frames.
        proj: to the width of whoever reads it.
        audio_bos_eos_token: vectors that files hold and nobody reads.
        bands: frequency bands of the spectrogram.
        chunk: frames that the convolutions read at a time.
    """

    layers: nn.ModuleList
    ln_post: nn.LayerNorm
    conv1: nn.Conv1d
    conv2: nn.Conv1d
    proj: nn.Linear
    audio_bos_eos_token: nn.Embedding
    bands: int
    chunk: int

    def get_input_embeddings(self) -> nn.Module:
        return self.conv1

    @property
    def width(self) -> int:
        return self.proj.out_features

    def kept(self, chunk: int) -> int:
        return halved(chunk, 1)

    def length(self, frames: int) -> int:
        return self.kept(frames) // 2

    def forward(
        self,
        input_features: Tensor,
        feature_lens: Tensor | Sequence[int],
        aftercnn_lens: Tensor | None = None,
        **given: Unpack[Tapped],
    ) -> BaseModelOutput:
        """Vectors of sounds.

        Args:
            input_features: the frames of all sounds, one after another. Shape: [bands, frames].
            feature_lens: how many each sound has. Shape: [sounds].
            aftercnn_lens: follows from these, and is not read.
            given: see :class:`~omniform.core.context.Tapped`.

        Returns:
            ``last_hidden_state`` and ``pooler_output``: the vectors of all sounds. Shape: [vectors, width].

        Raises:
            InputError: lengths and frames do not fit.
        """
        lengths = read_lengths(feature_lens, input_features.shape[1], where="feature_lens")
        chunks = [chunk for own in chunks_of(lengths, self.chunk) for chunk in own]
        longest = max(chunks)
        x_NFT = laid_out(input_features.to(self.conv1.weight.dtype), chunks, longest)
        x_NDT = F.gelu(self.conv1(x_NFT))
        if min(chunks) < longest:
            real = torch.arange(longest) < torch.tensor(chunks)[:, None]
            x_NDT = x_NDT * real[:, None].to(x_NDT)
        x_NTD = F.gelu(self.conv2(x_NDT)).transpose(1, 2)
        x_NTD = x_NTD + sines_of(x_NTD.shape[1], x_NTD.shape[2], x_NTD)
        kept = [self.kept(chunk) for chunk in chunks]
        x_1ND, ctx = self.within(gathered(x_NTD, kept)[None], kept, given)
        # The last frame of an odd number is left out.
        whole = [self.kept(length) for length in lengths]
        pairs = [x[: len(x) // 2 * 2].unflatten(0, (-1, 2)) for x in torch.split(x_1ND[0], whole)]  # type: ignore[no-untyped-call]
        x_ND2 = torch.cat(pairs)
        vectors = self.proj(self.ln_post((x_ND2[:, 0] + x_ND2[:, 1]) / 2))
        return BaseModelOutput(last_hidden_state=vectors, pooler_output=vectors, **ctx.taps.noted())
