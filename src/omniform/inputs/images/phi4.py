"""Phi-4-multimodal's pictures: cut into square tiles of their own resolution, and one of all of it in front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from omniform.core.batch import Batch
from omniform.core.errors import InputError
from omniform.inputs.images import options as of
from omniform.inputs.images.processor import ImageInput, ImageProcessor, TensorKind, as_kind, load_tensors
from omniform.inputs.images.sizes import exact
from omniform.inputs.images.steps import through
from omniform.inputs.media_access import MediaAccess

_BILINEAR: Final = 2
_FILTERS: Final = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}
_WHITE: Final = 255
_LEAST_EDGE: Final = 10
_WHOLE: Final = 256 + 16
"""Tokens of the tile of all of the picture: 16 rows of 16, and an end of each row."""


@lru_cache(maxsize=8)
def _shapes(most: int) -> tuple[tuple[int, int], ...]:
    """Columns and rows of at most so many tiles, few tiles first.

    In the order of a set, as the reference has them: it decides between shapes that are as far off.
    """
    found: set[tuple[int, int]] = set()
    for n in range(1, most + 1):
        found.update((i, n) for i in range(1, min(n - 1, most // n) + 1))
        found.update((n, j) for j in range(1, min(n, most // n) + 1))
    return tuple(sorted(found, key=lambda shape: shape[0] * shape[1]))


def shape_of(height: int, width: int, tile: int, most: int) -> tuple[int, int]:
    """Columns and rows of tiles that a picture is cut into.

    As many as it fills, or where that are more than ``most``, those whose shape is nearest to its own; of two that are
    as near, the larger, if the picture has more than half of its pixels.
    """
    columns, rows = math.ceil(width / tile), math.ceil(height / tile)
    if columns * rows <= most:
        return columns, rows
    best, least = (1, 1), math.inf
    for shape in _shapes(most):
        off = abs(width / height - shape[0] / shape[1])
        if off < least or (off == least and width * height > 0.5 * tile * tile * shape[0] * shape[1]):
            best, least = shape, off
    return best


@dataclass(frozen=True, slots=True)
class _Tiled:
    """One picture, cut up.

    Attributes:
        tiles: all of it, then the tiles row by row. Shape: [1 + tiles, 3, size, size].
        marks: 1 for patches of the picture. Shape: [1 + tiles, rows, columns].
        size: height and width of what was cut.
        tokens: how many stand for it.
    """

    tiles: Tensor
    marks: Tensor
    size: tuple[int, int]
    tokens: int


class Phi4ImageProcessor(ImageProcessor):
    """Phi-4-multimodal's."""

    model_input_names: ClassVar[Sequence[str]] = ("image_pixel_values", "image_sizes", "image_attention_mask")

    def __call__(  # type: ignore[override]
        self,
        images: ImageInput,
        *,
        return_tensors: TensorKind | None = None,
        media_access: MediaAccess | None = None,
        **overrides: object,
    ) -> Batch:
        """Preprocess pictures.

        Args:
            images: one picture or several, of any sizes.
            return_tensors: ``"pt"`` or ``"np"``; None for tensors, and a list of how many tokens each takes.
            media_access: which files and addresses may be read, and how many pixels.
            overrides: options of :class:`~omniform.inputs.images.options.TileOptions`, for this call.

        Returns:
            ``image_pixel_values [N, tiles, 3, size, size]``, float32, padded with black tiles; ``image_sizes [N, 2]``,
            of what was cut, in pixels; ``image_attention_mask [N, tiles, rows, columns]``, 1 for patches of the
            picture; ``num_img_tokens [N]``.

        Raises:
            InputError: as for every processor; or a picture is much longer than wide.
        """
        options = cast(of.TileOptions, self._changed(return_tensors, overrides))
        cut = [self._cut(image, options) for image in load_tensors(images, options, self.kind.backend, media_access)]
        most = max(len(one.tiles) for one in cut)
        missing = [most - len(one.tiles) for one in cut]
        data: dict[str, Tensor] = {
            "image_pixel_values": torch.stack(
                [F.pad(one.tiles, (0, 0) * 3 + (0, n)) for one, n in zip(cut, missing, strict=True)]
            ),
            "image_sizes": torch.tensor([one.size for one in cut]),
            "image_attention_mask": torch.stack(
                [F.pad(one.marks, (0, 0) * 2 + (0, n), value=1) for one, n in zip(cut, missing, strict=True)]
            ),
        }
        kind = options.return_tensors
        tokens = [one.tokens for one in cut]
        told: object = tokens if kind is None else as_kind(torch.tensor(tokens), kind)
        return Batch({**{name: as_kind(tensor, kind) for name, tensor in data.items()}, "num_img_tokens": told})

    def _cut(self, image: Tensor, o: of.TileOptions) -> _Tiled:
        if o.size is None or o.patch_size is None or o.dynamic_hd is None or o.resample is None:
            raise InputError("tiles need a size", where="size, patch_size, dynamic_hd, resample", found="None")
        size = exact(o.size, "size")
        if size.height != size.width:
            raise InputError("tiles are square", where="size", found=f"{size.height} x {size.width}")
        tile, per_tile = size.height, size.height // o.patch_size
        columns, rows = shape_of(image.shape[-2], image.shape[-1], tile, o.dynamic_hd)
        fitted, marks = self._fitted(image, rows * tile, columns * tile, o.patch_size)
        fitted = through(self.plan(o).valuing, fitted)
        whole = _squeezed(fitted, tile, o.resample)
        tiles = _pieces(fitted, rows, columns)
        marks_of = torch.cat((torch.ones(1, per_tile, per_tile), _pieces(marks[None], rows, columns)[:, 0]))
        # One token of two rows and two columns of patches, an end of each row, one between tiles and whole.
        real = _laid(marks_of[1:, ::2, ::2], rows, columns)
        tokens = _WHOLE + 1 + int(real.sum()) + int(real[:, 0].sum())
        return _Tiled(torch.cat((whole[None], tiles)), marks_of, (rows * tile, columns * tile), tokens)

    def _fitted(self, image: Tensor, height: int, width: int, patch: int) -> tuple[Tensor, Tensor]:
        """The picture in its shape within a size, white below or to the right; and 1 for patches that it reaches."""
        across, down = width / image.shape[-1], height / image.shape[-2]
        if across < down:
            new = (int(image.shape[-2] * across), width)
        else:
            new = (height, int(image.shape[-1] * down))
        if min(new) < _LEAST_EDGE:
            raise InputError(
                "the picture is much longer than wide",
                where="images",
                expected=f"at least {_LEAST_EDGE} pixels along the shorter edge, once it fits",
                found=f"{image.shape[-1]} x {image.shape[-2]}, which becomes {new[1]} x {new[0]}",
            )
        below, right = height - new[0], width - new[1]
        marks = torch.ones(height // patch, width // patch)
        if right >= patch:
            marks[:, -(right // patch) :] = 0
        if below >= patch:
            marks[-(below // patch) :] = 0
        resized = self.kind.backend.resize(image, *new, _BILINEAR)
        return F.pad(resized, (0, right, 0, below), value=_WHITE), marks


def _squeezed(image: Tensor, tile: int, resample: int) -> Tensor:
    """All of a picture in one tile, by a filter that looks at no more than it must."""
    mode = _FILTERS.get(resample)
    if mode is None:
        raise InputError("unsupported resampling filter", where="resample", expected=sorted(_FILTERS), found=resample)
    corners = None if resample == 0 else False
    small = F.interpolate(image[None].float(), size=(tile, tile), mode=mode, align_corners=corners)[0]
    return small if image.is_floating_point() else small.clamp(0, 255).round().to(image.dtype)


def _pieces(image: Tensor, rows: int, columns: int) -> Tensor:
    """A picture in rows and columns of pieces. Shape: [C, H, W] to [rows * columns, C, H / rows, W / columns]."""
    channels, height, width = image.shape
    cut = image.reshape(channels, rows, height // rows, columns, width // columns)
    return cut.permute(1, 3, 0, 2, 4).reshape(-1, channels, height // rows, width // columns)


def _laid(pieces: Tensor, rows: int, columns: int) -> Tensor:
    """Pieces in their places. Shape: [rows * columns, h, w] to [rows * h, columns * w]."""
    _, height, width = pieces.shape
    return pieces.reshape(rows, columns, height, width).transpose(1, 2).reshape(rows * height, columns * width)
