"""Encoders that read videos: frames in, hidden states out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.heads import Hidden, SequenceClassifier
from omniform.architectures.model import Model
from omniform.blocks.layers import run
from omniform.blocks.patches import ClassToken, GridPositions, PatchStem
from omniform.blocks.videos import TimePositions, TubeletStem, check_videos, waved
from omniform.core.context import StepContext, Tapped
from omniform.core.errors import InputError, check_shape
from omniform.core.host import is_traced
from omniform.core.outputs import BaseModelOutput


class VideoEncoder(Model):
    """A transformer over the patches of a video.

    Args:
        layers: called as ``layer(hidden, ctx)``.
        norm: applied after the last layer.
        dropout: on the embeddings, in training.
    """

    main_input = "pixel_values"

    layers: nn.ModuleList
    norm: nn.Module | None = None
    dropout: float = 0.0

    @property
    @abstractmethod
    def width(self) -> int:
        """Width of the hidden states."""

    def encode(self, embeds_BTD: Tensor, ctx: StepContext) -> BaseModelOutput:
        """Vectors to hidden states. Shape: [B, T, D]."""
        hidden = run(self.layers, embeds_BTD, ctx)
        hidden = hidden if self.norm is None else self.norm(hidden)
        return BaseModelOutput(last_hidden_state=hidden, **ctx.taps.noted())


def given(pixel_values: Tensor | None) -> Tensor:
    """Videos that are there.

    Raises:
        InputError: there are none.
    """
    if pixel_values is None:
        raise InputError("there are no videos", where="pixel_values", expected="a tensor", found="None")
    return pixel_values


class TubeletEncoder(VideoEncoder):
    """An encoder of patches that last some frames, some of which it may not see (VideoMAE).

    Args:
        patches: pixels to patch vectors.
    """

    patches: TubeletStem

    @property
    def width(self) -> int:
        return self.patches.projection.out_channels

    def get_input_embeddings(self) -> nn.Module:
        return self.patches

    def forward(
        self,
        pixel_values: Tensor | None = None,
        *,
        bool_masked_pos: Tensor | None = None,
        **asked: Unpack[Tapped],
    ) -> BaseModelOutput:
        """Hidden states of the patches that are seen.

        Args:
            pixel_values: Shape: [B, frames, channels, height, width], of the model's own size.
            bool_masked_pos: true for patches to leave out, as many in every video. Shape: [B, patches].
            asked: see :class:`~omniform.core.context.Tapped`.

        Raises:
            InputError: no videos, or videos of the wrong shape; marks that do not fit them.
        """
        embeds = waved(self.patches(given(pixel_values)))
        if bool_masked_pos is not None:
            embeds = marked(embeds, ~checked(bool_masked_pos, embeds))
        return self.encode(embeds, self.step(embeds, asked))


def checked(bool_masked_pos: Tensor, patches_BND: Tensor) -> Tensor:
    """Marks of hidden patches, as many in each video: some, and not all.

    What is told of their values decides how large the result is, so that they are read here, but in a trace.

    Raises:
        InputError: they do not fit the patches, or are of another kind.
    """
    problem = "the marks of hidden patches do not cover the patches"
    check_shape(problem, bool_masked_pos.shape, patches_BND.shape[:2], where="bool_masked_pos")
    marks = bool_masked_pos.to(patches_BND.device).bool()
    if is_traced():
        return marks
    counts = marks.sum(1).tolist()
    if min(counts) != max(counts) or not 0 < counts[0] < patches_BND.shape[1]:
        raise InputError(
            "as many patches of every video must be hidden, and not all of them",
            where="bool_masked_pos",
            expected=f"the same number in every row, from 1 to {patches_BND.shape[1] - 1}",
            found=", ".join(map(str, counts[:8])),
        )
    return marks


def marked(x_BND: Tensor, marks_BN: Tensor) -> Tensor:
    """The vectors that are marked, as many in each row. Shape: [B, N, ...] to [B, M, ...]."""
    return x_BND[marks_BN].view(x_BND.shape[0], -1, *x_BND.shape[2:])


class FrameEncoder(VideoEncoder):
    """An encoder of the patches of frames (TimeSformer).

    Args:
        patches: pixels of a frame to patch vectors.
        class_token: in front of them.
        positions: of the patches of a frame.
        times: of the frames; None reads every frame by itself, as a row of its own.
        run_length: how many frames the layers look at together; a video's patches must be whole runs of them.
    """

    patches: PatchStem
    class_token: ClassToken
    positions: GridPositions
    times: TimePositions | None = None
    run_length: int = 1

    @property
    def width(self) -> int:
        return self.patches.projection.out_channels

    def get_input_embeddings(self) -> nn.Module:
        return self.patches

    def embed(self, pixel_values: Tensor) -> Tensor:
        """Videos to the vectors that the layers start from.

        Args:
            pixel_values: Shape: [B, T, C, H, W]; of any size.

        Returns:
            A class token and all patches, each in all frames. Shape: [B, 1 + N * T, D]; [B * T, 1 + N, D], where
            every frame is read by itself.

        Raises:
            InputError: videos of the wrong shape.
        """
        check_videos(pixel_values, self.patches.patching.channels)
        rows, frames = pixel_values.shape[:2]
        grid = self.patches.patching.grid_of(pixel_values.shape[3], pixel_values.shape[4])
        if grid[0] * grid[1] * frames % self.run_length:
            raise InputError(
                "the layers read patches in runs of frames, and those of this video do not divide into such",
                where="pixel_values",
                expected=f"a multiple of {self.run_length} (num_frames)",
                found=f"{grid[0]} x {grid[1]} patches in {frames} frames",
            )
        x: Tensor = self.class_token(self.patches(pixel_values.flatten(0, 1), any_size=True)) + self.positions(grid)
        x = F.dropout(x, self.dropout, self.training)
        if self.times is None:
            return x
        apart_BTND = x[:, 1:].reshape(rows, frames, -1, x.shape[2])
        # Numbers are dropped in the order in which they lie.
        timed_BNTD = apart_BTND.transpose(1, 2).contiguous() + self.times(frames)
        patches_BND = F.dropout(timed_BNTD, self.dropout, self.training).flatten(1, 2)
        return torch.cat((x[:rows, :1], patches_BND), dim=1)

    def forward(self, pixel_values: Tensor | None = None, **asked: Unpack[Tapped]) -> BaseModelOutput:
        """Hidden states of videos.

        Args:
            pixel_values: Shape: [B, frames, channels, height, width].
            asked: see :class:`~omniform.core.context.Tapped`.

        Raises:
            InputError: no videos, or videos of the wrong shape.
        """
        embeds = self.embed(given(pixel_values))
        return self.encode(embeds, self.step(embeds, asked))


def mean_of_all(out: Hidden, _: Tensor | None) -> Tensor:
    """The mean of all tokens."""
    return out.last_hidden_state.mean(dim=1)


class VideoClassifier(SequenceClassifier):
    """One class, several classes or one number per video.

    Args:
        fc_norm: applied to the vector that stands for a video.
    """

    fc_norm: nn.Module | None = None

    def vector(self, out: Hidden, args: tuple[Tensor | None, ...], inputs: Mapping[str, object]) -> Tensor:
        pooled = super().vector(out, args, inputs)
        return pooled if self.fc_norm is None else self.fc_norm(pooled)
