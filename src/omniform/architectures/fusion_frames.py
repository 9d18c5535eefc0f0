"""Videos as frames, each with half as many features along every edge, and a mark at a video's end (LLaVA-OneVision)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Unpack, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from omniform.architectures.fusion import NOTHING, Medium
from omniform.architectures.fusion_pictures import LayerFeatures
from omniform.architectures.fusion_tiles import AskedTiles, TiledPictures, TiledVisionLanguage
from omniform.core.batch import Facts, Item
from omniform.core.context import Tapped
from omniform.core.errors import InputError, brief
from omniform.core.outputs import MediaFeatures
from omniform.core.tiles import read_most


@dataclass(frozen=True, kw_only=True)
class PooledVideos(Medium):
    """Videos of any numbers of frames; facts: the frames of each, and the vectors of a frame.

    Attributes:
        model: whose tower, projector and mark of an end.
        select: which of the tower's features.
    """

    model: FramesVisionLanguage
    select: LayerFeatures

    def facts(self, inputs: Mapping[str, Tensor]) -> list[Facts]:
        pixels = inputs["pixel_values_videos"]
        if pixels.dim() != 5:
            raise InputError(
                "videos are frames of pictures",
                where="pixel_values_videos",
                expected="shape [videos, frames, channels, height, width]",
                found=f"shape {list(pixels.shape)}",
            )
        rows, columns = self.model.vision_tower.patches.patching.grid
        base = self.select.length(self.model.vision_tower, pixels[0])
        if base != rows * columns:
            raise InputError(
                "features that are no patches do not make a map",
                where="vision_feature_select_strategy",
                expected=f"{rows * columns} features of a frame",
                found=base,
            )
        return [(pixels.shape[1], -(-rows // 2) * -(-columns // 2))] * pixels.shape[0]

    def lengths(self, facts: Sequence[Facts]) -> list[int]:
        return [frames * each + 1 for frames, each in facts]

    def join(self, items: Sequence[Item]) -> dict[str, Tensor]:
        return {"pixel_values_videos": torch.cat([item.inputs["pixel_values_videos"][0] for item in items])}

    def encode(self, inputs: Mapping[str, Tensor], facts: Sequence[Facts] | None) -> Tensor:
        pixels = inputs["pixel_values_videos"]
        frames = pixels.flatten(0, 1) if pixels.dim() == 5 else pixels
        pooled = self.pooled(self.model.project_features(self.select(self.model.vision_tower, frames)))
        if pixels.dim() == 5:
            return self.ended(pooled, pixels.shape[0]).flatten(0, 1)
        parts = torch.split(pooled, [frames for frames, _ in facts or ()])
        return torch.cat([self.ended(part, 1)[0] for part in parts])

    def pooled(self, features_NLD: Tensor) -> Tensor:
        """Fewer features of every frame. Shape: [frames, length, D] to [frames, fewer, D]."""
        rows, columns = self.model.vision_tower.patches.patching.grid
        maps = features_NLD.view(features_NLD.shape[0], rows, columns, -1).permute(0, 3, 1, 2)
        smaller = F.interpolate(maps, (-(-rows // 2), -(-columns // 2)), mode="bilinear")
        return smaller.flatten(2).transpose(1, 2)

    def ended(self, pooled_NLD: Tensor, videos: int) -> Tensor:
        """Frames as videos of equally many, with the mark at the end of each. Shape: [videos, length, D]."""
        whole = pooled_NLD.reshape(videos, -1, pooled_NLD.shape[-1])
        return torch.cat((whole, self.model.image_newline.to(whole).expand(videos, 1, -1)), dim=1)


class FramesVisionLanguage(TiledVisionLanguage):
    """A vision-language model that reads tiled pictures and videos.

    Args:
        video_token_id: the placeholder of videos.
    """

    video_token_id: int

    OPTIONS: ClassVar[frozenset[str]] = TiledVisionLanguage.OPTIONS | {"vision_aspect_ratio"}

    def media(self, options: Mapping[str, object] = NOTHING) -> tuple[Medium, ...]:
        return (self.tiles(options), self.videos(options))

    def accepts(self) -> frozenset[str]:
        return super().accepts() | {"image_sizes_videos"}

    def tiles(self, options: Mapping[str, object] = NOTHING) -> TiledPictures:
        asked = options.get("vision_aspect_ratio")
        most = self.most if asked is None else read_most(asked)
        if most is None:
            raise InputError(
                "an aspect ratio is anyres_max_ and a number", where="vision_aspect_ratio", found=brief(asked)
            )
        return TiledPictures(
            modality="image",
            token_id=self.image_token_id,
            inputs=("pixel_values", "image_sizes", "batch_num_images"),
            model=self,
            select=self.select.asked(options),
            resolutions=self.resolutions,
            most=most,
        )

    def videos(self, options: Mapping[str, object] = NOTHING) -> PooledVideos:
        """How it reads videos."""
        return PooledVideos(
            modality="video",
            token_id=self.video_token_id,
            inputs=("pixel_values_videos",),
            model=self,
            select=self.select.asked(options),
        )

    def get_video_features(self, pixel_values_videos: Tensor, **given: Unpack[AskedTiles]) -> MediaFeatures:
        """The tower's output on all frames, and each video's vectors in ``pooler_output``. Shape: [N, length, D].

        Args:
            pixel_values_videos: Shape: [N, frames, channels, height, width].
            given: see :class:`~omniform.architectures.fusion_tiles.AskedTiles`.
        """
        medium = self.videos(given)
        asked = cast(Tapped, {name: value for name, value in given.items() if name in Tapped.__annotations__})
        medium.facts({"pixel_values_videos": pixel_values_videos})
        out, vectors = self.seen(pixel_values_videos.flatten(0, 1), medium.select, asked)
        out.pooler_output = medium.ended(medium.pooled(vectors), pixel_values_videos.shape[0])
        return out
