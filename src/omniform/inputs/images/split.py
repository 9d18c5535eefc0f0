"""Pictures cut into squares, all of each behind its squares, row by row of a batch (Idefics3, SmolVLM)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from omniform.core.batch import Batch
from omniform.core.errors import InputError
from omniform.inputs.images import options as of
from omniform.inputs.images.processor import ImageInput, ImageProcessor, TensorKind, as_kind, load_tensors, stacked
from omniform.inputs.images.sizes import EdgeRange, Exact, LongestEdge
from omniform.inputs.images.steps import through
from omniform.inputs.media_access import MediaAccess

_LONGEST: Final = 4096
"""Pixels along an edge at most."""


def fitted(height: int, width: int, longest: int) -> tuple[int, int]:
    """A picture's size with its longer edge so long, and the other one even."""
    shape = width / height
    if width >= height:
        width, height = longest, int(longest / shape)
        height += height % 2
    else:
        height, width = longest, int(longest * shape)
        width += width % 2
    height, width = max(height, 1), max(width, 1)
    shape = width / height
    if width >= height and width > _LONGEST:
        width, height = _LONGEST, int(_LONGEST / shape)
    elif height > width and height > _LONGEST:
        height, width = _LONGEST, int(_LONGEST * shape)
    return max(height, 1), max(width, 1)


def whole_squares(height: int, width: int, edge: int) -> tuple[int, int]:
    """The size of whole squares that a picture is stretched to."""
    shape = width / height
    if width >= height:
        width = math.ceil(width / edge) * edge
        height = math.ceil(int(width / shape) / edge) * edge
    else:
        height = math.ceil(height / edge) * edge
        width = math.ceil(int(height * shape) / edge) * edge
    return height, width


class SplitImageProcessor(ImageProcessor):
    """Idefics3's and SmolVLM's."""

    model_input_names: ClassVar[Sequence[str]] = ("pixel_values", "pixel_attention_mask")

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
            images: one picture, the pictures of one row, or a list of pictures for each row.
            return_tensors: ``"pt"`` or ``"np"``; None for tensors, or for lists without ``do_pad``.
            media_access: which files and addresses may be read, and how many pixels.
            overrides: options of :class:`~omniform.inputs.images.options.SplitOptions`, for this call.

        Returns:
            ``pixel_values [rows, pictures, C, H, W]``, with black pictures where a row has fewer; with ``do_pad`` also
            ``pixel_attention_mask [rows, pictures, H, W]``, 1 for pixels of pictures; with ``return_row_col_info`` also
            ``rows`` and ``cols``, of squares of each picture (0 for one that is not cut).

        Raises:
            InputError: as for every processor; or rows differ, without ``do_pad``.
        """
        options = cast(of.SplitOptions, self._changed(return_tensors, overrides))
        counts = _counts(images)
        loaded = list(load_tensors(images, options, self.kind.backend, media_access))
        cut = [self._cut(image, options) for image in loaded]
        values = self.plan(options).valuing
        batch: list[list[Tensor]] = []
        shapes: list[list[tuple[int, int]]] = []
        at = 0
        for count in counts:
            own, at = cut[at : at + count], at + count
            batch.append([through(values, piece) for pieces, _ in own for piece in pieces])
            shapes.append([shape for _, shape in own])
        kind = options.return_tensors
        made = Batch()
        if options.do_pad:
            pixels, marks = _padded(batch)
            made["pixel_values"], made["pixel_attention_mask"] = self.given(pixels, options), self.given(marks, options)
        elif kind is not None:
            made["pixel_values"] = as_kind(stacked([stacked(row) for row in batch]), kind)
        else:
            made["pixel_values"] = batch
        if options.return_row_col_info:
            made["rows"] = [[rows for rows, _ in row] for row in shapes]
            made["cols"] = [[columns for _, columns in row] for row in shapes]
        return made

    def to_dict(self) -> dict[str, object]:
        return {name: value for name, value in super().to_dict().items() if name != "return_row_col_info"}

    def get_number_of_image_patches(
        self, height: int, width: int, images_kwargs: dict[str, object] | None = None
    ) -> tuple[int, int, int]:
        """How many pictures one of this size becomes if it is cut (0 if not), and the rows and columns of squares."""
        o = cast(of.SplitOptions, self._changed(None, images_kwargs or {}))
        if not o.do_image_splitting or not isinstance(o.size, (LongestEdge, EdgeRange)):
            return 0, 0, 0
        edge = _edge(o)
        down, across = whole_squares(*fitted(height, width, o.size.longest_edge), edge)
        if max(down, across) <= edge:
            return 0, 0, 0
        return (down // edge) * (across // edge) + 1, down // edge, across // edge

    def _cut(self, image: Tensor, o: of.SplitOptions) -> tuple[list[Tensor], tuple[int, int]]:
        """A picture's squares and all of it; and how many rows and columns of squares, 0 where it is not cut."""
        edge = _edge(o)
        if o.resample is None:
            raise InputError("resizing needs a filter", where="resample", found="None")
        resize, resample = self.kind.backend.resize, o.resample
        if o.do_resize:
            image = resize(image, *_target(image, o), resample)
        if not o.do_image_splitting:
            return [resize(image, edge, edge, resample)], (0, 0)
        image = resize(image, *whole_squares(image.shape[-2], image.shape[-1], edge), resample)
        rows, columns = image.shape[-2] // edge, image.shape[-1] // edge
        if rows * columns == 1:
            return [image], (0, 0)
        pieces = [
            image[:, y * edge : (y + 1) * edge, x * edge : (x + 1) * edge] for y in range(rows) for x in range(columns)
        ]
        return [*pieces, resize(image, edge, edge, resample)], (rows, columns)


def _edge(o: of.SplitOptions) -> int:
    if not isinstance(o.max_image_size, LongestEdge):
        raise InputError(
            "squares have an edge", where="max_image_size", expected="longest_edge", found=o.max_image_size
        )
    return o.max_image_size.longest_edge


def _target(image: Tensor, o: of.SplitOptions) -> tuple[int, int]:
    if isinstance(o.size, (LongestEdge, EdgeRange)):  # the shortest edge is not asked
        return fitted(image.shape[-2], image.shape[-1], o.size.longest_edge)
    if isinstance(o.size, Exact):
        return o.size.height, o.size.width
    raise InputError(
        "a size is a longest edge, or height and width", where="size", expected="longest_edge", found=o.size
    )


def _counts(images: object) -> list[int]:
    """How many pictures each row has."""
    if isinstance(images, (list, tuple)) and any(isinstance(row, (list, tuple)) for row in images):
        return [len(row) if isinstance(row, (list, tuple)) else 1 for row in images]
    if isinstance(images, (list, tuple)):
        return [len(images)]
    shape = tuple(getattr(images, "shape", ())) if not isinstance(images, (str, bytes)) else ()
    return [shape[0]] if len(shape) == 4 else [1]


def _padded(batch: Sequence[Sequence[Tensor]]) -> tuple[Tensor, Tensor]:
    """All pictures in one tensor, and which pixels are theirs. Shape: [rows, pictures, C, H, W], [.., H, W]."""
    every = [image for row in batch for image in row]
    most, channels = max(map(len, batch)), every[0].shape[0]
    height, width = max(image.shape[-2] for image in every), max(image.shape[-1] for image in every)
    pixels = torch.zeros(len(batch), most, channels, height, width, device=every[0].device)
    marks = torch.zeros(len(batch), most, height, width, dtype=torch.int64, device=every[0].device)
    for i, row in enumerate(batch):
        for j, image in enumerate(row):
            down, across = image.shape[-2:]
            pixels[i, j] = F.pad(image, (0, width - across, 0, height - down))
            marks[i, j, :down, :across] = 1
    return pixels, marks
