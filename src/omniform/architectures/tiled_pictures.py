"""Pictures in tiles of their own resolution: one token of four patches, an end of each row, and all of it behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.fusion import Medium
from omniform.architectures.native_vision import NativeVisionEncoder
from omniform.blocks.composed import Composed
from omniform.core.batch import Facts, Item
from omniform.core.errors import InputError
from omniform.core.host import is_fetchable

PIXELS, SIZES, MARKS = NAMES = ("image_pixel_values", "image_sizes", "image_attention_mask")
_POOLED: Final = 2


class TileReader(Composed):
    """Tiles to vectors of the decoder's width.

    Args:
        img_processor: encodes a tile.
        img_projection_up, img_projection_down: its features to the decoder's width.
        layer: the hidden state that is read.
        crop: pixels along the edge of a tile.
        uneven: whether a tile has an odd number of rows of patches, of which the last is then mirrored.

    Attributes:
        global_img_feature_extensor: stands between the tiles and all of the picture. Shape: [1, 1, E].
        sub_img_feature_extensor: ends a row. Shape: [1, 1, 1, E].
    """

    img_processor: NativeVisionEncoder
    img_projection_up: nn.Linear
    img_projection_down: nn.Linear
    layer: int
    crop: int
    uneven: bool

    def __post_init__(self) -> None:
        width = self.img_processor.width
        self.global_img_feature_extensor = nn.Parameter(torch.zeros(1, 1, width))
        self.sub_img_feature_extensor = nn.Parameter(torch.zeros(1, 1, 1, width))

    def reset(self, std: float) -> None:
        """Start from zeros."""
        nn.init.zeros_(self.global_img_feature_extensor)
        nn.init.zeros_(self.sub_img_feature_extensor)

    def side(self, pixels: Tensor) -> int:
        """Rows, and columns, of tokens in a tile. Shape: [..., height, width]."""
        return (self.img_processor.grid_of(pixels)[0] + int(self.uneven)) // _POOLED

    def features(self, tiles: Tensor, marks: Tensor | None) -> Tensor:
        """Tiles to features. Shape: [N, channels, height, width] to [N, side, side, E]."""
        hidden = self.img_processor.hidden_at(tiles, marks, self.layer)
        map_NEHW = hidden.transpose(1, 2).unflatten(2, self.img_processor.grid_of(tiles))  # type: ignore[no-untyped-call]
        if self.uneven:
            map_NEHW = F.pad(map_NEHW, (0, 1, 0, 1), mode="reflect")
        return F.avg_pool2d(map_NEHW, _POOLED).permute(0, 2, 3, 1)

    def laid(self, features: Tensor, rows: int, columns: int, real: tuple[int, int]) -> Tensor:
        """The features of pictures that are cut alike, as they are read.

        Args:
            features: of all of each, then of its tiles. Shape: [N, 1 + rows * columns, side, side, E].
            real: rows and columns of tokens that the pictures reach.

        Returns:
            Shape: [N, length, E].
        """
        whole, tiles = features[:, 0], features[:, 1:]
        count, _, side, _, width = tiles.shape
        grid = tiles.view(count, rows, columns, side, side, width).transpose(2, 3)
        parts = grid.reshape(count, rows * side, columns * side, width)[:, : real[0], : real[1]]
        between = self.global_img_feature_extensor.to(features).expand(count, 1, -1)
        return torch.cat((self._ended(parts), between, self._ended(whole)), dim=1)

    def _ended(self, map_NHWE: Tensor) -> Tensor:
        """The rows of a map one after another, each with its end. Shape: [N, H, W, E] to [N, H * (W + 1), E]."""
        end = self.sub_img_feature_extensor.to(map_NHWE).expand(*map_NHWE.shape[:2], 1, -1)
        return torch.cat((map_NHWE, end), dim=2).flatten(1, 2)

    def projected(self, features: Tensor) -> Tensor:
        """Features to vectors of the decoder's width. Shape: [..., E] to [..., D]."""
        vectors: Tensor = self.img_projection_down(F.gelu(self.img_projection_up(features)))
        return vectors


@dataclass(frozen=True, kw_only=True)
class TiledPictures(Medium):
    """Pictures that were cut into tiles.

    Of each is known: rows and columns of tiles, rows and columns of tokens that it reaches, tokens along a tile, and
    whether it fills its tiles.

    Attributes:
        reader: makes vectors of them.
    """

    reader: TileReader

    def facts(self, inputs: Mapping[str, Tensor]) -> list[Facts]:
        pixels, sizes, marks = self._checked(inputs)
        side, crop = self.reader.side(pixels), self.reader.crop
        if not is_fetchable(sizes):
            return [self._guessed(pixels)] * pixels.shape[0]
        found: list[Facts] = []
        seen = None if marks is None else (marks != 0).cpu().numpy()
        for number, (height, width) in enumerate(sizes.reshape(-1, 2).cpu().numpy().tolist()):
            rows, columns = height // crop, width // crop
            tiles = rows * columns
            if not 0 < tiles < pixels.shape[1]:
                raise InputError(
                    "a picture has other tiles than its size tells",
                    where=f"{SIZES}[{number}]",
                    expected=f"1 to {pixels.shape[1] - 1} tiles of {crop} pixels, as there are in {PIXELS}",
                    found=f"{height} x {width}, which is {tiles}",
                )
            real, whole = (rows * side, columns * side), 1
            if seen is not None:
                own = seen[number, : 1 + tiles]
                # The first column and the first row of tokens tell how far the picture reaches.
                grid = own[1:, ::_POOLED, ::_POOLED].reshape(rows, columns, side, side)
                real, whole = (int(grid[:, 0, :, 0].sum()), int(grid[0, :, 0].sum())), int(own.all())
            found.append((rows, columns, *real, side, whole))
        return found

    def lengths(self, facts: Sequence[Facts]) -> list[int]:
        return [down * (across + 1) + 1 + side * (side + 1) for _, _, down, across, side, _ in facts]

    def encode(self, inputs: Mapping[str, Tensor], facts: Sequence[Facts] | None) -> Tensor:
        pixels, marks = inputs[PIXELS], inputs.get(MARKS)
        if facts is None and not is_fetchable(inputs[SIZES]):
            told: Sequence[Facts] = [self._guessed(pixels)]
            counts = [pixels.shape[1]]
        else:
            told = self.known(inputs, facts)
            counts = [1 + rows * columns for rows, columns, *_ in told]
        alike = len(set(told)) == 1  # also of any number of pictures, in a trace
        if pixels.dim() == 5:
            pixels = pixels[:, : counts[0]].flatten(0, 1) if alike else self._real(pixels, counts)
            if marks is not None:
                marks = marks[:, : counts[0]].flatten(0, 1) if alike else self._real(marks, counts)
        if all(whole for *_, whole in told):
            marks = None
        features = self.reader.features(pixels, None if marks is None else marks.bool())
        parts = [features] if alike else list(torch.split(features, counts))
        laid: list[Tensor] = []
        for own, count, (rows, columns, down, across, _, _) in zip(parts, counts, told, strict=False):
            each = own.reshape(-1, count, *own.shape[1:])
            laid.append(self.reader.laid(each, rows, columns, (down, across)).flatten(0, 1))
        return self.reader.projected(torch.cat(laid))

    def _guessed(self, pixels: Tensor) -> Facts:
        """What is known of pictures that nobody can look at: as if each were one column of tiles that it fills."""
        tiles, side = pixels.shape[1] - 1, self.reader.side(pixels)
        return tiles, 1, tiles * side, side, side, 1

    def cut(self, inputs: Mapping[str, Tensor]) -> list[Item]:
        # Without the tiles that bring all pictures of a batch to one number.
        items = super().cut(inputs)
        return [Item(i.modality, self._trimmed(i.inputs, 1 + i.facts[0] * i.facts[1]), i.facts) for i in items]

    def join(self, items: Sequence[Item]) -> dict[str, Tensor]:
        return {
            name: torch.cat([i.inputs[name] if name == SIZES else i.inputs[name].flatten(0, 1) for i in items])
            for name in items[0].inputs
        }

    @staticmethod
    def _trimmed(inputs: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
        return {name: x if name == SIZES else x[:, :count] for name, x in inputs.items()}

    @staticmethod
    def _real(tiles: Tensor, counts: Sequence[int]) -> Tensor:
        """The tiles of each picture one after another. Shape: [pictures, tiles, ...] to [sum of counts, ...]."""
        return torch.cat([own[:count] for own, count in zip(tiles, counts, strict=True)])

    def _checked(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
        pixels, sizes, marks = inputs[PIXELS], inputs.get(SIZES), inputs.get(MARKS)
        if pixels.dim() != 5:
            expected = "shape [pictures, tiles, channels, height, width]"
            raise InputError(
                "these are no tiles of pictures", where=PIXELS, expected=expected, found=list(pixels.shape)
            )
        self.reader.img_processor.patches.check(pixels.flatten(0, 1), True)
        grid = self.reader.img_processor.grid_of(pixels)
        for name, table, shape in (
            (SIZES, sizes, (pixels.shape[0], 2)),
            (MARKS, marks, (*pixels.shape[:2], *grid)),
        ):
            told = None if table is None else table.reshape(-1, 2).shape if name == SIZES else table.shape
            if (told is None and name == SIZES) or (told is not None and tuple(told) != shape):
                raise InputError(
                    "this does not go with the pictures", where=name, expected=f"shape {list(shape)}",
                    found="none" if told is None else f"shape {list(told)}",
                )  # fmt: skip
        assert sizes is not None
        return pixels, sizes, marks
