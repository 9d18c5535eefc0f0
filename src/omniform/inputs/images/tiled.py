"""Processors of pictures of any size: the whole of one, made small, and tiles of it (LLaVA-NeXT, LLaVA-OneVision)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from omniform.core.batch import Batch
from omniform.core.errors import InputError
from omniform.core.tiles import Size, best_resolution, fitted
from omniform.inputs.images.ahead import ahead
from omniform.inputs.images.options import TiledOptions
from omniform.inputs.images.plans import square_of_mean
from omniform.inputs.images.processor import ImageInput, ImageProcessor, TensorKind, as_kind, load_tensors, stacked
from omniform.inputs.images.sizes import EdgeRange, Exact, LongestEdge, ShortestEdge
from omniform.inputs.images.steps import through
from omniform.inputs.media_access import MediaAccess


class TiledImageProcessor(ImageProcessor):
    """LLaVA-NeXT's: each picture becomes itself, made small, and the tiles of the resolution that suits it best."""

    model_input_names: ClassVar[Sequence[str]] = ("pixel_values", "image_sizes")

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
            images: one picture or several, of any sizes; lists of lists are flattened, in reading order.
            return_tensors: ``"pt"`` or ``"np"`` for tensors; None for lists.
            media_access: which files and addresses may be read, and how many pixels.
            overrides: options of :class:`~omniform.inputs.images.options.TiledOptions`, for this call.

        Returns:
            ``pixel_values [N, most tiles, C, H, W]``, with zeros in the places of tiles that a picture has not (with
            ``do_pad``), and ``image_sizes [N, 2]``, heights and widths before anything was done.

        Raises:
            InputError: as for every processor; or the numbers of tiles differ, without ``do_pad``.
        """
        options = cast(TiledOptions, self._changed(return_tensors, overrides))
        counts = self._counts(images)
        loaded = list(load_tensors(images, options, self.kind.backend, media_access))
        alone = [True] * len(loaded) if counts is None else [count == 1 for count in counts for _ in range(count)]
        plan = self.plan(options)
        steps = (*plan.shaping, *plan.valuing)

        def finished(pair: tuple[Tensor, bool]) -> Tensor:
            image, tiled = pair
            parts = self._tiles(image, options) if tiled else [square_of_mean(options)(image)]
            return stacked([through(steps, part) for part in parts])

        pictures = ahead(finished, zip(loaded, alone, strict=True))
        if options.do_pad:
            most = max(map(len, pictures))
            pictures = [F.pad(one, (0, 0, 0, 0, 0, 0, 0, most - len(one))) for one in pictures]
        sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in loaded]
        data: dict[str, object] = {"pixel_values": self._stacked(pictures, options), "image_sizes": sizes}
        if counts is not None:
            data["batch_num_images"] = counts
        if options.return_tensors is not None:
            for name in data.keys() - {"pixel_values"}:
                data[name] = as_kind(torch.tensor(data[name]), options.return_tensors)
        return Batch(data)

    def preprocess(  # type: ignore[override]
        self,
        images: ImageInput,
        *,
        return_tensors: TensorKind | None = None,
        media_access: MediaAccess | None = None,
        **overrides: object,
    ) -> Batch:
        """The same as calling the processor."""
        return self(images, return_tensors=return_tensors, media_access=media_access, **overrides)

    @property
    def image_grid_pinpoints(self) -> list[list[int]]:
        """The resolutions that pictures are fitted into, heights and widths."""
        return [list(size) for size in cast(TiledOptions, self.options).image_grid_pinpoints or ()]

    def resolutions(self, asked: object = None) -> tuple[Size, ...]:
        """Those that pictures are fitted into; ``asked``: what a call gives instead."""
        changes = {} if asked is None else {"image_grid_pinpoints": asked}
        return cast(TiledOptions, self._changed(None, changes)).image_grid_pinpoints or ()

    def _counts(self, images: ImageInput) -> list[int] | None:
        """How many pictures each sample has; None where all are tiled and nobody asks."""
        return None

    def _stacked(self, pictures: list[Tensor], options: TiledOptions) -> object:
        if options.return_tensors is None:
            return [self.kind.backend.loose(picture) for picture in pictures]
        lengths = sorted({len(picture) for picture in pictures})
        if len(lengths) > 1:
            raise InputError(
                "pictures of different numbers of tiles do not make one tensor",
                where="images",
                found=", ".join(map(str, lengths)),
                remedy="do_pad=True adds empty ones.",
            )
        return as_kind(stacked(pictures), options.return_tensors)

    def _tiles(self, image: Tensor, options: TiledOptions) -> list[Tensor]:
        """The picture in the size of a tile, and then the tiles, row by row. Shape: [C, H, W] each."""
        resolutions, resample, backend = options.image_grid_pinpoints, options.resample, self.kind.backend
        if not resolutions or resample is None:
            name = "resample" if resolutions else "image_grid_pinpoints"
            raise InputError("tiles need a setting that is not set", where=name)
        whole, edge = _sizes(options)
        size = (int(image.shape[-2]), int(image.shape[-1]))
        resolution = best_resolution(size, resolutions)
        height, width = fitted(size, resolution)
        large = backend.resize(image, height, width, resample)
        top, left = (resolution[0] - height) // 2, (resolution[1] - width) // 2
        border = (left, resolution[1] - width - left, top, resolution[0] - height - top)
        padded = F.pad(large, border) if any(border) else large
        tiles = [
            padded[..., row : row + edge, column : column + edge]
            for row in range(0, resolution[0], edge)
            for column in range(0, resolution[1], edge)
        ]
        return [backend.resize(image, *whole, resample), *tiles]


class SampledTiles(TiledImageProcessor):
    """LLaVA-OneVision's: a picture that is alone in its sample becomes tiles, others a square of the mean colour."""

    model_input_names: ClassVar[Sequence[str]] = ("pixel_values", "image_sizes", "batch_num_images")

    def _counts(self, images: ImageInput) -> list[int]:
        if isinstance(images, (list, tuple)):
            if any(isinstance(row, (list, tuple)) for row in images):
                return [len(row) if isinstance(row, (list, tuple)) else 1 for row in images if not _is_empty(row)]
            return [count for one in images for count in _each(one)]
        return _each(images)


def _is_empty(row: object) -> bool:
    return isinstance(row, (list, tuple)) and not row


def _each(image: object) -> list[int]:
    """One sample for each picture of an array."""
    from omniform.inputs.images.processor import flattened

    return [1] * len(flattened(cast(ImageInput, image)))


def _sizes(options: TiledOptions) -> tuple[Size, int]:
    """The size of the whole picture, and the edge of a tile."""
    size, crop = options.size, options.crop_size
    match size:
        case Exact():
            whole, edge = (size.height, size.width), size.height
        case ShortestEdge() | EdgeRange():
            whole, edge = (size.shortest_edge, size.shortest_edge), size.shortest_edge
        case LongestEdge() | None | _:
            raise InputError(
                "tiles have a height and a width", where="size", expected="height and width, or shortest_edge"
            )
    return whole, crop.height if isinstance(crop, Exact) else edge
