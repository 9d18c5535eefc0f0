"""The processors of LLaVA-NeXT and LLaVA-OneVision: as many placeholders as tiles and videos have vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import ClassVar, Self, cast

from torch import Tensor

from omniform.core.batch import Batch, Modality
from omniform.core.errors import ConfigError, InputError
from omniform.core.reader import ConfigReader
from omniform.core.tiles import Size, at_most, best_resolution, read_most, unpadded
from omniform.inputs.images import ImageProcessor
from omniform.inputs.images.load import ImageSource
from omniform.inputs.images.processor import ImageInput
from omniform.inputs.images.tiled import TiledImageProcessor
from omniform.inputs.processors.base import InputPart, PartName, Parts
from omniform.inputs.processors.llava import STRATEGIES, LlavaProcessor
from omniform.inputs.processors.media import image_rows
from omniform.inputs.processors.options import CallOptions
from omniform.inputs.processors.placed import PlacedProcessor, Slot, Taken
from omniform.inputs.text.settings import ChatTemplates
from omniform.inputs.text.tokenizer import Tokenizer
from omniform.inputs.videos.processor import LlavaOnevisionVideoProcessor, VideoProcessor

_BY_ROW = "images_by_row"


def tiled_length(size: Size, tile: Size, side: Size, resolutions: Sequence[Size], most: int | None) -> int:
    """How many vectors stand for the tiles of a picture, with one at the end of each row of them.

    Args:
        size: of the picture, in pixels.
        tile: of a tile.
        side: rows and columns of a tile's features.
        resolutions: those that pictures are fitted into.
        most: how many tiles' worth of features there may be; None for no limit.
    """
    height, width = best_resolution(size, resolutions)
    shown = unpadded(size, (side[0] * (height // tile[0]), side[1] * (width // tile[1])))
    rows, columns = shown if most is None else at_most(shown, most, side[0])
    return rows * (columns + 1)


def tiled_pixels(processor: ImageProcessor, images: object, asked: CallOptions) -> tuple[Batch, tuple[Size, ...]]:
    """The pictures' tiles, and the resolutions that they were fitted into."""
    if not isinstance(processor, TiledImageProcessor):
        raise InputError(
            "this processor's pictures are cut into tiles",
            where="image_processor",
            expected="LlavaNextImageProcessor or LlavaOnevisionImageProcessor",
            found=type(processor).__name__,
        )
    pixels = processor(cast(ImageInput, images), **asked.images)  # type: ignore[arg-type]
    return pixels, processor.resolutions(asked.images.get("image_grid_pinpoints"))


class LlavaNextProcessor(LlavaProcessor):
    """Texts with pictures of any size in them, for LLaVA-NeXT; see :class:`LlavaProcessor` for what it is made of."""

    def _take(self, modality: Modality, media: Sequence[object], asked: CallOptions) -> Taken:
        asked.images.setdefault("do_pad", True)
        pixels, resolutions = tiled_pixels(self.image_processor, media, asked)
        base = self._tokens_of(cast("Sequence[Sequence[Tensor]]", pixels["pixel_values"])[0][0])
        height, width = cast("Sequence[Sequence[Tensor]]", pixels["pixel_values"])[0][0].shape[-2:]
        patch = cast(int, self.patch_size)
        side = (height // patch, width // patch)
        lengths = [
            base + tiled_length(size, (height, width), side, resolutions, None)
            for size in _pairs(pixels["image_sizes"])
        ]
        return Taken(pixels, [self.image_token * length for length in lengths])


class LlavaOnevisionProcessor(PlacedProcessor):
    """Texts with pictures and videos in them, for LLaVA-OneVision.

    Args:
        image_processor: of the pictures.
        tokenizer: of the texts; it must know both tokens.
        video_processor: of the videos; the family's usual one by default.
        num_image_tokens: features that the vision tower gives of a picture.
        vision_feature_select_strategy: ``"default"`` leaves the first of them (the class token) out, ``"full"`` not.
        chat_template: the template for conversations; by default the tokenizer's.
        image_token: what stands for a picture in a text; a token of that name in the tokenizer wins.
        video_token: what stands for a video, likewise.
        vision_aspect_ratio: how many tiles' worth of vectors a picture may have, ``"anyres_max_9"``.

    Raises:
        ConfigError: the tokenizer does not know a token, or a setting has a wrong value.
    """

    needs: ClassVar[tuple[PartName, ...]] = ("image_processor", "tokenizer", "video_processor")
    settings: ClassVar[tuple[str, ...]] = (
        "num_image_tokens", "vision_feature_select_strategy", "image_token", "video_token", "vision_aspect_ratio",
    )  # fmt: skip

    def __init__(
        self,
        image_processor: ImageProcessor,
        tokenizer: Tokenizer,
        video_processor: VideoProcessor | None = None,
        num_image_tokens: int | None = None,
        vision_feature_select_strategy: str | None = None,
        chat_template: ChatTemplates = None,
        image_token: str = "<image>",
        video_token: str = "<video>",
        vision_aspect_ratio: str = "anyres_max_9",
    ) -> None:
        self.image_token = tokenizer.named_token("image_token") or image_token
        self.video_token = tokenizer.named_token("video_token") or video_token
        slots = [Slot("image", self.image_token, self.image_token), Slot("video", self.video_token, self.video_token)]
        super().__init__(tokenizer, slots, chat_template=chat_template)
        most = read_most(vision_aspect_ratio)
        if most is None:
            raise ConfigError(
                "an aspect ratio is anyres_max_ and a number",
                where="processor_config.json: vision_aspect_ratio",
                found=repr(vision_aspect_ratio),
            )
        self._most = most
        self.image_processor = image_processor
        self.video_processor = LlavaOnevisionVideoProcessor() if video_processor is None else video_processor
        self.num_image_tokens = num_image_tokens
        self.vision_feature_select_strategy = vision_feature_select_strategy
        self.vision_aspect_ratio = vision_aspect_ratio
        self.placeholder = self.image_token
        self.image_token_id, self.video_token_id = self._ids["image"], self._ids["video"]

    @classmethod
    def from_parts(cls, parts: Parts) -> Self:
        """Build the processor of a folder; what its files do not state, the model's config does."""
        assert parts.image_processor is not None and parts.video_processor is not None
        settings = {name: value for name, value in parts.settings.items() if value is not None}
        r = ConfigReader({**_from_model(parts.model), **settings}, where=f"{parts.where}: processor_config.json")
        strategy = r.choice("vision_feature_select_strategy", (*STRATEGIES, ""), "")
        return cls(
            parts.image_processor,
            parts.tokenizer,
            parts.video_processor,
            num_image_tokens=r.maybe_integer("num_image_tokens"),
            vision_feature_select_strategy=strategy or None,
            chat_template=parts.chat_template,
            image_token=r.text("image_token", "<image>"),
            video_token=r.text("video_token", "<video>"),
            vision_aspect_ratio=r.text("vision_aspect_ratio", "anyres_max_9"),
        )

    # The base takes any keyword in its signature.
    def __call__(  # type: ignore[override]
        self,
        images: ImageInput | Sequence[Sequence[ImageSource]] | None = None,
        text: str | Sequence[str] | None = None,
        videos: object = None,
        **options: object,
    ) -> Batch:
        """Turn texts and the pictures and videos in them into the model's inputs.

        Args:
            images: the pictures of all rows, each of which is cut into tiles; or one list for each row, of which only
                pictures that are alone in theirs are.
            text: a text or several; ``<image>`` stands for a picture, ``<video>`` for a video.
            videos: the videos of all rows in reading order.
            options: of the tokenizer, the image processor and the video processor, flat or by part;
                ``return_mm_token_type_ids`` for ``mm_token_type_ids``.

        Returns:
            ``input_ids`` and ``attention_mask [B, T]`` if there is text; ``pixel_values [N, tiles, C, H, W]``,
            ``image_sizes [N, 2]`` and ``batch_num_images [samples]`` if there are pictures; ``pixel_values_videos
            [N, T, C, H, W]`` if there are videos.

        Raises:
            InputError: a row has more or fewer placeholders than items, truncation cuts through placeholders, or an
                input cannot be used.
            RepoError: a file or an address cannot be read.
            UnknownArgumentError: there is no such option.
        """
        counts = image_rows(images)[1]
        asked = options if counts is None else {**options, _BY_ROW: counts}
        return self._placed(text, {"image": images, "video": videos}, asked, (_BY_ROW,))

    def _take(self, modality: Modality, media: Sequence[object], asked: CallOptions) -> Taken:
        features = self._features()
        side = math.isqrt(features)
        if modality == "video":
            films = self.video_processor(list(media), **asked.videos)  # type: ignore[arg-type]
            frames = [len(film) for film in cast("Sequence[Sequence[object]]", films["pixel_values_videos"])]
            pooled = math.ceil(side / 2) ** 2
            return Taken(films, [self.video_token * (count * pooled + 1) for count in frames])
        counts = cast("list[int] | None", asked.own.pop(_BY_ROW, None))
        rest = iter(media)
        rows = media if counts is None else [list(islice(rest, count)) for count in counts]
        pixels, resolutions = tiled_pixels(self.image_processor, rows, asked)
        height, width = cast("Sequence[Sequence[Tensor]]", pixels["pixel_values"])[0][0].shape[-2:]
        samples = _numbers(pixels["batch_num_images"]) if "batch_num_images" in pixels else [1] * len(media)
        alone = [count == 1 for count in samples for _ in range(count)]
        base = features - (self.vision_feature_select_strategy == "default")
        lengths = [
            base + (tiled_length(size, (height, width), (side, side), resolutions, self._most) if tiled else 1)
            for size, tiled in zip(_pairs(pixels["image_sizes"]), alone, strict=True)
        ]
        return Taken(pixels, [self.image_token * length for length in lengths])

    def _features(self) -> int:
        if self.num_image_tokens is None:
            raise ConfigError(
                "the processor's file does not state how many features a picture has",
                where=f"{self.tokenizer.name_or_path}: num_image_tokens",
                remedy="AutoProcessor.from_pretrained(..., num_image_tokens=729) sets it.",
            )
        return self.num_image_tokens

    def _parts(self) -> dict[str, InputPart]:
        return {"image_processor": self.image_processor, "video_processor": self.video_processor}

    def to_dict(self) -> dict[str, object]:
        own = {
            "num_image_tokens": self.num_image_tokens,
            "vision_feature_select_strategy": self.vision_feature_select_strategy,
            "image_token": self.image_token,
            "video_token": self.video_token,
            "vision_aspect_ratio": self.vision_aspect_ratio,
        }
        return {**super().to_dict(), **own}


def _pairs(sizes: object) -> list[Size]:
    return [(int(height), int(width)) for height, width in cast("Sequence[tuple[int, int]]", sizes)]


def _numbers(counts: object) -> list[int]:
    return [int(count) for count in cast("Sequence[int]", counts)]


def _from_model(config: Mapping[str, object]) -> dict[str, object]:
    """What a model's config tells about the features of a picture."""
    vision = config.get("vision_config")
    tower = vision if isinstance(vision, Mapping) else {}
    size, patch = tower.get("image_size"), tower.get("patch_size")
    found: dict[str, object] = {
        name: config[name] for name in ("vision_feature_select_strategy", "vision_aspect_ratio") if config.get(name)
    }
    if isinstance(size, int) and isinstance(patch, int) and patch > 0:
        classed = "clip" in str(tower.get("model_type", ""))
        found["num_image_tokens"] = (size // patch) ** 2 + int(classed)
    return found
