"""Pictures of any size: the whole of one, and tiles of it, whose features stand in rows with a mark at each end.

What LLaVA-NeXT and LLaVA-OneVision share (https://llava-vl.github.io/blog/2024-01-30-llava-next/). The processor makes
tiles of a picture; here their features become one map, what the picture was padded with is cut off again, a map that is
too large is made smaller (``anyres_max``), and after each of its rows comes the vector ``image_newline``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Unpack, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.fusion import NOTHING, Medium
from omniform.architectures.fusion_pictures import LayerFeatures, VisionLanguage
from omniform.core.batch import Facts, Item
from omniform.core.context import Tapped
from omniform.core.errors import InputError
from omniform.core.outputs import MediaFeatures
from omniform.core.tiles import Size, at_most, best_resolution, tiled, unpadded


class Tiling(NamedTuple):
    """How a picture's vectors come about; all numbers are of features, but for the tiles.

    Attributes:
        base: features of the whole picture, and of each tile.
        rows, columns: of tiles; 0 where there is only the whole picture.
        height, width: of the map that the tiles' features make, without what was padded.
        to_height, to_width: of the map that is read.
    """

    base: int
    rows: int
    columns: int
    height: int
    width: int
    to_height: int
    to_width: int

    @property
    def tiles(self) -> int:
        """Pictures that the tower reads: the whole one, and its tiles."""
        return 1 + self.rows * self.columns

    @property
    def length(self) -> int:
        """Vectors that the decoder reads: a row's end is one, and so is the end of a picture without tiles."""
        return self.base + (self.to_height * (self.to_width + 1) if self.rows else 1)


class AskedTiles(Tapped, total=False):
    """What may be asked of the features of tiled pictures; see :class:`~omniform.architectures.fusion.Among`."""

    vision_feature_layer: int | Sequence[int] | None
    vision_feature_select_strategy: str | None
    vision_aspect_ratio: str | None
    batch_num_images: Tensor | None


@dataclass(frozen=True, kw_only=True)
class TiledPictures(Medium):
    """Pictures as tiles, each picture as many as its size asks for.

    Attributes:
        model: whose tower, projector and mark of a row's end.
        select: which of the tower's features.
        resolutions: those that pictures are fitted into, in pixels.
        most: how many tiles' worth of features a picture's map may have; None for no limit.
    """

    model: TiledVisionLanguage
    select: LayerFeatures
    resolutions: tuple[Size, ...]
    most: int | None

    def facts(self, inputs: Mapping[str, Tensor]) -> list[Facts]:
        pixels, sizes = inputs["pixel_values"], inputs.get("image_sizes")
        if sizes is None or sizes.dim() != 2 or sizes.shape[1] != 2:
            found = None if sizes is None else f"shape {list(sizes.shape)}"
            raise InputError(
                "tiles need the sizes of the pictures that they are of",
                where="image_sizes",
                expected="shape [pictures, 2], heights and widths",
                found=found,
                remedy="Let the checkpoint's own processor prepare the pictures.",
            )
        pictures = [(int(height), int(width)) for height, width in sizes.tolist()]
        alone = self._alone(inputs.get("batch_num_images"), len(pictures))
        base = self.select.length(self.model.vision_tower, pixels.flatten(0, 1) if pixels.dim() == 5 else pixels)
        tilings = [self.tiling(size, base) if one else whole(base) for size, one in zip(pictures, alone, strict=True)]
        self._check(pixels, tilings)
        return [*tilings]

    def lengths(self, facts: Sequence[Facts]) -> list[int]:
        return [Tiling(*fact).length for fact in facts]

    def tiling(self, size: Size, base: int) -> Tiling:
        """How a picture of this size is tiled; ``base``: features of a tile."""
        patching = self.model.vision_tower.patches.patching
        tile, side = patching.image_size, patching.grid
        if base != side[0] * side[1]:
            raise InputError(
                "features that are no patches do not make a map",
                where="vision_feature_select_strategy",
                expected=f"{side[0] * side[1]} features of a tile, {side[0]} rows of {side[1]}",
                found=base,
                remedy='"default" leaves the class token out; a tower without one is read as "full".',
            )
        resolution = best_resolution(size, self.resolutions)
        rows, columns = tiled(resolution, tile)
        if (rows * tile[0], columns * tile[1]) != resolution:
            raise InputError(
                "a resolution is no whole number of the tower's pictures",
                where="config.json: image_grid_pinpoints",
                expected=f"multiples of {tile[0]} and {tile[1]} (image_size)",
                found=list(resolution),
            )
        shown = unpadded(size, (rows * side[0], columns * side[1]))
        read = shown if self.most is None else at_most(shown, self.most, side[0])
        return Tiling(base, rows, columns, *shown, *read)

    def cut(self, inputs: Mapping[str, Tensor]) -> list[Item]:
        facts = self.facts(inputs)
        tiles = _parts(inputs["pixel_values"], facts)
        sizes = torch.split(inputs["image_sizes"], 1)
        return [
            Item(self.modality, {"pixel_values": own, "image_sizes": size}, fact)
            for own, size, fact in zip(tiles, sizes, facts, strict=True)
        ]

    def encode(self, inputs: Mapping[str, Tensor], facts: Sequence[Facts] | None) -> Tensor:
        known = self.known(inputs, facts)
        tiles = torch.cat(_parts(inputs["pixel_values"], known))
        features = self.model.project_features(self.select(self.model.vision_tower, tiles))
        return torch.cat(self.packed(features, known))

    def packed(self, features: Tensor, facts: Sequence[Facts]) -> list[Tensor]:
        """The vectors of each picture. Shape: [tiles of all pictures, features, D] to [length, D] each."""
        tilings = [Tiling(*fact) for fact in facts]
        newline = self.model.image_newline.to(features)
        side = self.model.vision_tower.patches.patching.grid
        parts = torch.split(features, [tiling.tiles for tiling in tilings])
        return [_packed(part, tiling, side, newline) for part, tiling in zip(parts, tilings, strict=True)]

    def _alone(self, counts: Tensor | None, pictures: int) -> list[bool]:
        """Which pictures are the only one of their sample: others are not tiled."""
        if counts is None:
            return [True] * pictures
        samples = [int(count) for count in counts.tolist()]
        if sum(samples) != pictures:
            raise InputError(
                "samples do not have these many pictures",
                where="batch_num_images",
                expected=f"{pictures} together (image_sizes)",
                found=samples,
            )
        return [count == 1 for count in samples for _ in range(count)]

    def _check(self, pixels: Tensor, tilings: Sequence[Tiling]) -> None:
        wanted = [tiling.tiles for tiling in tilings]
        if pixels.dim() == 5:
            fits = pixels.shape[0] == len(wanted) and pixels.shape[1] >= max(wanted)
        else:
            fits = pixels.shape[0] == sum(wanted)
        if not fits:
            raise InputError(
                "the tiles are not those that pictures of these sizes have",
                where="pixel_values",
                expected=f"{len(wanted)} picture(s) of {wanted} tiles",
                found=f"shape {list(pixels.shape)}",
                remedy="The image processor must have the image_grid_pinpoints of the model's config.",
            )


class TiledVisionLanguage(VisionLanguage):
    """A vision-language model that reads tiles; ``image_newline`` is what stands at the end of a row of features.

    Args:
        resolutions: those that pictures are fitted into, in pixels: heights and widths.
        most: how many tiles' worth of features a picture may have; None for no limit.
    """

    resolutions: tuple[Size, ...]
    most: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.image_newline = nn.Parameter(torch.empty(self.language_model.width))

    def reset(self, std: float) -> None:
        """Start the mark of a row's end as long as other vectors are."""
        nn.init.normal_(self.image_newline, std=self.image_newline.shape[0] ** -0.5)

    def media(self, options: Mapping[str, object] = NOTHING) -> tuple[Medium, ...]:
        return (self.tiles(options),)

    def tiles(self, options: Mapping[str, object] = NOTHING) -> TiledPictures:
        """How it reads pictures."""
        return TiledPictures(
            modality="image",
            token_id=self.image_token_id,
            inputs=("pixel_values", "image_sizes"),
            model=self,
            select=self.select.asked(options),
            resolutions=self.resolutions,
            most=self.most,
        )

    def get_image_features(  # type: ignore[override]
        self, pixel_values: Tensor, image_sizes: Tensor, **given: Unpack[AskedTiles]
    ) -> MediaFeatures:
        """The tower's output on all tiles, and each picture's vectors as the decoder reads them, in ``pooler_output``.

        Args:
            pixel_values: Shape: [N, most tiles, channels, height, width], or [tiles, channels, height, width].
            image_sizes: heights and widths of the pictures. Shape: [N, 2].
            given: see :class:`AskedTiles`.
        """
        medium, names = self.tiles(given), {"pixel_values": pixel_values, "image_sizes": image_sizes}
        counts = given.get("batch_num_images")
        facts = medium.facts(names if counts is None else {**names, "batch_num_images": counts})
        asked = cast(Tapped, {name: value for name, value in given.items() if name in Tapped.__annotations__})
        out, vectors = self.seen(torch.cat(_parts(pixel_values, facts)), medium.select, asked)
        out.pooler_output = tuple(medium.packed(vectors, facts))
        return out


def whole(base: int) -> Tiling:
    """A picture without tiles."""
    return Tiling(base, 0, 0, 0, 0, 0, 0)


def _parts(pixels: Tensor, facts: Sequence[Facts]) -> list[Tensor]:
    """Each picture's tiles. Shape: [N, most, C, H, W], or [all tiles, C, H, W], to [tiles, C, H, W] each."""
    counts = [Tiling(*fact).tiles for fact in facts]
    if pixels.dim() == 5:
        return [one[:count] for one, count in zip(pixels, counts, strict=True)]
    return list(torch.split(pixels, counts))


def _packed(features_PLD: Tensor, tiling: Tiling, side: Size, newline: Tensor) -> Tensor:
    """The vectors of one picture; ``side``: rows and columns of a tile's features. Shape: [length, D]."""
    base = features_PLD[0]
    if not tiling.rows:
        return torch.cat((base, newline[None]))
    # Tiles side by side: rows of tiles, each with its rows of features.
    tiles = features_PLD[1:].view(tiling.rows, tiling.columns, *side, -1)
    map_HWD = tiles.transpose(1, 2).flatten(2, 3).flatten(0, 1)
    top, left = (map_HWD.shape[0] - tiling.height) // 2, (map_HWD.shape[1] - tiling.width) // 2
    map_HWD = map_HWD[top : top + tiling.height, left : left + tiling.width]
    if (tiling.to_height, tiling.to_width) != (tiling.height, tiling.width):
        size = (tiling.to_height, tiling.to_width)
        map_HWD = F.interpolate(map_HWD.permute(2, 0, 1)[None], size, mode="bilinear")[0].permute(1, 2, 0)
    ends = newline.expand(map_HWD.shape[0], 1, -1)
    return torch.cat((base, torch.cat((map_HWD, ends), dim=1).flatten(0, 1)))
