"""From the pixels of videos to tokens: patches that last some frames, frames one by one, and when each was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.blocks.drop_path import DroppedBranches
from omniform.blocks.embeddings import waves
from omniform.blocks.layers import Norm
from omniform.blocks.patches import GridPositions, Learned, Patching, Size
from omniform.core.context import StepContext, Taps
from omniform.core.errors import InputError
from omniform.core.host import kept_unless_traced


@dataclass(frozen=True, slots=True, kw_only=True)
class Tubelets(Patching):
    """How videos are cut into patches that last some frames.

    Attributes:
        frames: frames of the videos that the model was made for.
        tubelet_size: frames of a patch.
    """

    frames: int
    tubelet_size: int

    @property
    def count(self) -> int:
        """Patches of a video of the model's own size."""
        rows, columns = self.grid
        return self.steps(self.frames) * rows * columns

    def steps(self, frames: int) -> int:
        """How many patches follow one another in so many frames; what is left over at the end is cut off."""
        return frames // self.tubelet_size

    def cut(self, videos: Tensor) -> Tensor:
        """Videos as the pixels of their patches; what is left over at the edges is cut off.

        Args:
            videos: Shape: [B, T, C, H, W].

        Returns:
            Shape: [B, N, tubelet size * patch height * patch width, C].
        """
        frames, height, width = videos.shape[1], videos.shape[3], videos.shape[4]
        steps, (rows, columns), (high, wide) = self.steps(frames), self.grid_of(height, width), self.patch_size
        whole = videos[:, : steps * self.tubelet_size, :, : rows * high, : columns * wide]
        apart = whole.reshape(videos.shape[0], steps, self.tubelet_size, self.channels, rows, high, columns, wide)
        return apart.permute(0, 1, 4, 6, 2, 5, 7, 3).flatten(4, 6).flatten(1, 3)


def check_videos(
    pixel_values: Tensor, channels: int, *, size: Size | None = None, lengths: Sequence[int] | None = None
) -> None:
    """Raise :class:`InputError` unless these are videos of so many channels and, if they are given, sizes and lengths.

    Args:
        pixel_values: Shape: [B, T, C, H, W].
        size: height and width of every frame; any, if None.
        lengths: how many frames there may be; any number, if None.
    """
    if not isinstance(pixel_values, Tensor):
        raise InputError(
            "videos must be a tensor",
            where="pixel_values",
            found=type(pixel_values).__name__,
            remedy='Process them with return_tensors="pt".',
        )
    shape = list(pixel_values.shape)
    fits = len(shape) == 5 and 0 not in shape and shape[2] == channels and pixel_values.is_floating_point()
    fits = fits and (size is None or tuple(shape[3:]) == tuple(size)) and (lengths is None or shape[1] in lengths)
    if not fits:
        height, width = size or ("height", "width")
        frames = "frames" if lengths is None else " or ".join(map(str, lengths))
        raise InputError(
            "the videos do not fit the model",
            where="pixel_values",
            expected=f"floating-point numbers of shape [batch, {frames}, {channels}, {height}, {width}]",
            found=f"{pixel_values.dtype} of shape {shape}",
        )


class TubeletStem(nn.Module):
    """Cuts videos into patches that last some frames and projects each to a vector (https://arxiv.org/abs/2203.12602).

    Args:
        tubelets: the sizes.
        dim: width of a vector.
    """

    def __init__(self, tubelets: Tubelets, dim: int) -> None:
        super().__init__()
        size = (tubelets.tubelet_size, *tubelets.patch_size)
        self.projection = nn.Conv3d(tubelets.channels, dim, kernel_size=size, stride=size)
        self.tubelets = tubelets

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Patch vectors, step by step and row by row. Shape: [B, T, C, H, W] to [B, N, D].

        Raises:
            InputError: the videos are not of the model's own size.
        """
        self.check(pixel_values)
        vectors: Tensor = self.projection(pixel_values.to(self.projection.weight.dtype).transpose(1, 2))
        return vectors.flatten(2).transpose(1, 2)

    def check(self, pixel_values: Tensor) -> None:
        """Raise :class:`InputError` unless videos fit the model; see :meth:`forward`."""
        own = self.tubelets
        first = own.steps(own.frames) * own.tubelet_size
        # Frames beyond the last whole patch are not read, whether they are there or not.
        check_videos(pixel_values, own.channels, size=own.image_size, lengths=range(first, first + own.tubelet_size))


@kept_unless_traced(8)
def line_of_waves(count: int, dim: int, like: tuple[object, object]) -> Tensor:
    """:func:`waves` in the dtype and on the device of ``like``, rounded to float32 on the way."""
    return waves(count, dim).float().to(*like)  # type: ignore[call-overload,no-any-return]


def waved(x_BND: Tensor) -> Tensor:
    """Vectors, and where they stand in their line added as sines. Shape: [B, N, D] in and out."""
    return x_BND + line_of_waves(x_BND.shape[1], x_BND.shape[2], (x_BND.device, x_BND.dtype))


class NearestGridPositions(GridPositions):
    """Learned positions of a grid of patches; those of one with another number of patches are the nearest learned ones.

    Only the number of patches tells (TimeSformer): another grid of as many reads them one after another.
    """

    def forward(self, grid: Size) -> Tensor:
        same = grid[0] * grid[1] == self.grid[0] * self.grid[1]
        return super().forward(self.grid if same else grid)


def nearest(learned: Tensor, size: Size) -> Tensor:
    """The nearest learned positions. Shape: [B, D, rows, columns] to [B, D, *size]."""
    return F.interpolate(learned, size=size, mode="nearest")


class TimePositions(Learned):
    """Learned positions of frames; those of another number of frames are the nearest learned ones.

    Args:
        frames: how many were learned.
        dim: width of a vector.
    """

    def reset(self, std: float) -> None:
        """Start from zeros."""
        nn.init.zeros_(self.weight)

    def forward(self, frames: int) -> Tensor:
        """Positions of so many frames. Shape: [T, D]."""
        if frames == self.weight.shape[0]:
            return self.weight
        return F.interpolate(self.weight.t()[None], size=frames, mode="nearest")[0].t()


class DividedSpaceTime(DroppedBranches):
    """A layer whose patches look at themselves in other frames, then at the others in theirs (TimeSformer).

    Tokens come patch by patch, each in all frames, behind a class token, which is in every frame.

    Args:
        temporal_attn: along the frames.
        temporal_dense: behind it.
        frames: how many frames look at one another. Where a video has more or fewer, it is read in runs of so many.
    """

    temporal_layernorm: Norm
    temporal_attn: nn.Module
    temporal_dense: nn.Linear
    frames: int

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        first_B1D, x_BND = x_BTD[:, :1], x_BTD[:, 1:]
        x_BND = x_BND + self.along(x_BND, ctx)
        rows, _, dim = x_BND.shape
        runs_BNFD = x_BND.view(rows, -1, self.frames, dim)
        firsts = first_B1D[:, None].expand(-1, self.frames, -1, -1)
        seen = torch.cat((firsts, runs_BNFD.transpose(1, 2)), dim=2)
        read = self.input_layernorm(seen.flatten(0, 1))
        branch_BFTD = self.dropped(self.self_attn(read, ctx)).view(rows, self.frames, -1, dim)
        added = branch_BFTD[:, :, 1:].transpose(1, 2).flatten(1, 2)
        x_BTD = torch.cat((first_B1D + branch_BFTD[:, :, 0].mean(1, keepdim=True), x_BND + added), dim=1)
        return self.add(x_BTD, self.mlp(self.post_attention_layernorm(x_BTD)), ctx)

    def along(self, x_BND: Tensor, ctx: StepContext) -> Tensor:
        """What patches see of themselves in other frames; nobody is told of these weights. Shape: [B, N * F, D]."""
        runs = x_BND.reshape(-1, self.frames, x_BND.shape[2])
        seen = self.dropped(self.temporal_attn(self.temporal_layernorm(runs), ctx.with_(taps=Taps())))
        out: Tensor = self.temporal_dense(seen.view_as(x_BND))
        return out
