"""From pixels to tokens: patches, the tokens that are no patch, and where each patch stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.core.errors import InputError, check_shape
from omniform.core.reader import ConfigReader

Size = tuple[int, int]
"""Height and width."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patching:
    """How pictures are cut into patches.

    Attributes:
        channels: colour channels of a picture.
        image_size: pixels of the pictures that the model was made for.
        patch_size: pixels of a patch.
    """

    channels: int
    image_size: Size
    patch_size: Size

    @property
    def grid(self) -> Size:
        """Rows and columns of patches in a picture of the model's own size."""
        return self.grid_of(*self.image_size)

    def grid_of(self, height: int, width: int) -> Size:
        """Rows and columns of patches in a picture of any size; what is left over at the edges is cut off."""
        return height // self.patch_size[0], width // self.patch_size[1]


def read_patching(r: ConfigReader, *, patch_size: int, image_size: Size = (224, 224)) -> Patching:
    """Read ``num_channels``, ``image_size`` and ``patch_size``; the arguments are defaults.

    Raises:
        ConfigError: no patch fits into a picture.
    """
    patching = Patching(
        channels=r.integer("num_channels", 3),
        image_size=r.pair("image_size", image_size),
        patch_size=r.pair("patch_size", (patch_size, patch_size)),
    )
    if min(patching.grid) < 1:
        raise r.fail("patch_size", f"at most {list(patching.image_size)} (image_size)", list(patching.patch_size))
    return patching


def check_pictures(pixel_values: Tensor, channels: int, size: Size | None = None) -> None:
    """Raise :class:`InputError` unless these are pictures of so many channels and, if one is given, of a size."""
    if not isinstance(pixel_values, Tensor):
        raise InputError(
            "pictures must be a tensor",
            where="pixel_values",
            found=type(pixel_values).__name__,
            remedy='Process them with return_tensors="pt".',
        )
    shape = list(pixel_values.shape)
    fits = len(shape) == 4 and 0 not in shape and shape[1] == channels and pixel_values.is_floating_point()
    if not fits or size not in (None, tuple(shape[2:])):
        height, width = size or ("height", "width")
        raise InputError(
            "the pictures do not fit the model",
            where="pixel_values",
            expected=f"floating-point numbers of shape [batch, {channels}, {height}, {width}]",
            found=f"{pixel_values.dtype} of shape {shape}",
            remedy="For another size pass interpolate_pos_encoding=True." if fits else None,
        )


class PatchStem(nn.Module):
    """Cuts pictures into patches that do not overlap and projects each to a vector.

    Args:
        patching: the sizes.
        dim: width of a vector.
        bias: whether the projection has a bias.
    """

    def __init__(self, patching: Patching, dim: int, *, bias: bool = True) -> None:
        super().__init__()
        size = patching.patch_size
        self.projection = nn.Conv2d(patching.channels, dim, kernel_size=size, stride=size, bias=bias)
        self.patching = patching

    def forward(self, pixel_values: Tensor, *, any_size: bool = False) -> Tensor:
        """Patch vectors, row by row.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            any_size: take pictures of another size than the model's own.

        Returns:
            Shape: [B, patches, D].

        Raises:
            InputError: the pictures do not have this shape.
        """
        self.check(pixel_values, any_size)
        vectors: Tensor = self.projection(pixel_values.to(self.projection.weight.dtype))
        return vectors.flatten(2).transpose(1, 2)

    def check(self, pixel_values: Tensor, any_size: bool = False) -> None:
        """Raise :class:`InputError` unless pictures fit the model; see :meth:`forward`."""
        own = self.patching
        check_pictures(pixel_values, own.channels, None if any_size else own.image_size)
        if min(own.grid_of(*pixel_values.shape[2:])) < 1:
            raise InputError(
                "the pictures are smaller than a patch",
                where="pixel_values",
                expected=f"at least {list(own.patch_size)} pixels",
                found=f"shape {list(pixel_values.shape)}",
            )


class Learned(nn.Module):
    """Base of what is learned and depends on no picture: one tensor of a given shape."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(shape))

    def reset(self, std: float) -> None:
        """Start from small random numbers."""
        nn.init.normal_(self.weight, std=std)


class ClassToken(Learned):
    """A learned vector in front of the patches.

    Attributes:
        before: how many tokens stand before the patches.
        after: how many stand behind them.
    """

    before: int = 1
    after: int = 0

    def forward(self, patches_BND: Tensor) -> Tensor:
        """Shape: [B, N, D] to [B, before + N + after, D]."""
        return torch.cat((self.weight.expand(patches_BND.shape[0], 1, -1), patches_BND), dim=1)


class DistilledTokens(ClassToken):
    """A class token, and behind it one that learns from a teacher (DeiT, https://arxiv.org/abs/2012.12877).

    Args:
        dim: width of a vector.
    """

    before = 2

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.distillation = Learned(dim)

    def forward(self, patches_BND: Tensor) -> Tensor:
        taught = self.distillation.weight.expand(patches_BND.shape[0], 1, -1)
        return super().forward(torch.cat((taught, patches_BND), dim=1))


class DetectionTokens(ClassToken):
    """A class token, and behind the patches tokens that look for an object each (YOLOS).

    Args:
        dim: width of a vector.
        count: how many objects can be found.
    """

    def __init__(self, dim: int, count: int) -> None:
        super().__init__(dim)
        self.after = count
        self.detection = Learned(count, dim)

    def forward(self, patches_BND: Tensor) -> Tensor:
        seeking = self.detection.weight.expand(patches_BND.shape[0], -1, -1)
        return super().forward(torch.cat((patches_BND, seeking), dim=1))


class RegisterTokens(Learned):
    """Learned vectors without positions, behind the class token (https://arxiv.org/abs/2309.16588).

    Args:
        count: how many; none are allowed.
        dim: width of a vector.
    """

    @property
    def count(self) -> int:
        """How many there are."""
        return self.weight.shape[0]

    def forward(self, tokens_BTD: Tensor) -> Tensor:
        """Shape: [B, T, D] to [B, T + count, D]."""
        registers = self.weight.expand(tokens_BTD.shape[0], -1, -1)
        return torch.cat((tokens_BTD[:, :1], registers, tokens_BTD[:, 1:]), dim=1)


class MaskToken(Learned):
    """A learned vector in the place of patches that are hidden from the model."""

    def reset(self, std: float) -> None:
        """Start from zeros."""
        nn.init.zeros_(self.weight)

    def forward(self, patches_BND: Tensor, masked_BN: Tensor) -> Tensor:
        """Shape: [B, N, D] in and out; ``masked_BN`` is true for hidden patches.

        Raises:
            InputError: there is not one mark per patch.
        """
        problem = "the marks of hidden patches do not cover the patches"
        check_shape(problem, masked_BN.shape, patches_BND.shape[:2], where="bool_masked_pos")
        return torch.where(masked_BN.bool()[..., None], self.weight, patches_BND)


Resampling = Callable[[Tensor, Size], Tensor]
"""Learned positions of one grid to those of another. Shape: [B, D, rows, columns] to [B, D, *size]."""


def bicubic(learned: Tensor, size: Size) -> Tensor:
    """Bicubic, in the dtype of the weights."""
    return F.interpolate(learned, size=size, mode="bicubic", align_corners=False)


def wide_bicubic(learned: Tensor, size: Size) -> Tensor:
    """Bicubic, computed in float32: half precision shifts what it resamples (DINOv2)."""
    return bicubic(learned.float(), size).to(learned.dtype)


def smooth_bicubic(learned: Tensor, size: Size) -> Tensor:
    """Bicubic in float32, which looks at all that a coarser grid leaves out (DINOv2 with registers)."""
    resampled = F.interpolate(learned.float(), size=size, mode="bicubic", align_corners=False, antialias=True)
    return resampled.to(learned.dtype)


class GridPositions(nn.Module):
    """Learned positions of a grid of patches, and of the tokens around it.

    Args:
        grid: rows and columns of the grid that is read as it was learned.
        dim: width of a vector.
        before: how many tokens come before the patches and have positions too (class tokens).
        after: how many come behind them and have positions.
        resample: how the positions of another grid are made of these.
        learned: rows and columns that these are taken for then; ``grid`` by default.
    """

    def __init__(
        self,
        grid: Size,
        dim: int,
        *,
        before: int,
        after: int = 0,
        resample: Resampling = bicubic,
        learned: Size | None = None,
    ) -> None:
        super().__init__()
        self.hold(torch.zeros(before + grid[0] * grid[1] + after, dim))
        self.grid = grid
        self.learned = learned or grid
        self.before = before
        self.after = after
        self.resample = resample

    def hold(self, weight: Tensor) -> None:
        """Keep the positions: as what is learned. Shape: [before + rows * columns + after, D]."""
        self.weight = nn.Parameter(weight)

    def reset(self, std: float) -> None:
        """Start from small random numbers."""
        nn.init.normal_(self.weight, std=std)

    def forward(self, grid: Size) -> Tensor:
        """The positions of a grid: the learned ones, resampled where it is another than was learned.

        Returns:
            Shape: [before + rows * columns + after, D].
        """
        if grid == self.grid:
            return self.weight
        patches = self.weight.shape[0] - self.before - self.after
        before, learned, after = torch.split(self.weight, [self.before, patches, self.after])
        resampled = self.resample(learned.view(1, *self.learned, -1).permute(0, 3, 1, 2), grid)[0]
        return torch.cat((before, resampled.flatten(1).t(), after))

    def extra_repr(self) -> str:
        return f"grid={self.grid}, before={self.before}, after={self.after}"


class SineGridPositions(GridPositions):
    """Positions that are not learned: sines and cosines of columns, then of rows (ViTMAE).

    A checkpoint holds them, and what it holds counts.
    """

    weight: Tensor  # type: ignore[assignment]

    def hold(self, weight: Tensor) -> None:
        """Keep them as what is not learned."""
        self.register_buffer("weight", weight)

    def reset(self, std: float) -> None:
        """Sines; zeros for the tokens before the patches."""
        self.weight.zero_()
        quarter = self.weight.shape[1] // 4
        waves = 1.0 / 10000.0 ** (torch.arange(quarter, dtype=torch.float64) / quarter)
        rows, columns = (torch.arange(n, dtype=torch.float64).outer(waves) for n in self.grid)
        along = torch.cat((columns.sin(), columns.cos()), dim=1).expand(self.grid[0], -1, -1)
        down = torch.cat((rows.sin(), rows.cos()), dim=1)[:, None].expand(-1, self.grid[1], -1)
        self.weight[self.before :] = torch.cat((along, down), dim=2).flatten(0, 1)


class SineLinePositions(SineGridPositions):
    """The same; those of another grid are resampled along the patches one after another (the decoder of ViTMAE)."""

    def forward(self, grid: Size) -> Tensor:
        before, learned = self.weight[: self.before], self.weight[self.before :]
        count = grid[0] * grid[1]
        if count == len(learned):
            return self.weight
        resampled = self.resample(learned.t()[None, :, None], (1, count))[0, :, 0].t()
        return torch.cat((before, resampled))
