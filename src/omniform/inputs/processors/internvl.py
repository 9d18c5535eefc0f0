"""InternVL's processor: pictures, cut into tiles, and the frames of videos, all by one token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, Self, cast

import torch
from torch import Tensor

from omniform.core.batch import Batch, Modality
from omniform.core.errors import ConfigError, InputError
from omniform.core.reader import ConfigReader
from omniform.inputs.images import ImageProcessor
from omniform.inputs.images.cropped import CroppingImageProcessor
from omniform.inputs.images.load import ImageSource
from omniform.inputs.images.processor import ImageInput
from omniform.inputs.processors.base import InputPart, PartName, Parts
from omniform.inputs.processors.options import CallOptions
from omniform.inputs.processors.placed import PlacedProcessor, Slot, Taken
from omniform.inputs.text.encoding import BatchEncoding
from omniform.inputs.text.settings import ChatTemplates
from omniform.inputs.text.tokenizer import Tokenizer
from omniform.inputs.videos.processor import VideoProcessor
from omniform.inputs.videos.shifted import InternVLVideoProcessor

_PIXELS: Final = "pixel_values"
_ROWS: Final[dict[Modality, str]] = {"image": "rows of pictures", "video": "rows of videos"}
"""Where a batch holds the tiles of each picture and the frames of each video, until it is finished."""


class InternVLProcessor(PlacedProcessor):
    """Texts with pictures and videos in them, for InternVL.

    Args:
        image_processor: of the pictures.
        tokenizer: of the texts.
        video_processor: of the videos; the usual one by default.
        image_seq_length: how many tokens stand for a tile of a picture, or for a frame.
        chat_template: the template for conversations; by default the tokenizer's.

    Raises:
        ConfigError: the tokenizer does not know the tokens for pictures, or no token stands for a tile.
        InputError: the image processor cuts no tiles.
    """

    needs: ClassVar[tuple[PartName, ...]] = ("image_processor", "tokenizer", "video_processor")
    settings: ClassVar[tuple[str, ...]] = ("image_seq_length",)

    def __init__(
        self,
        image_processor: ImageProcessor,
        tokenizer: Tokenizer,
        video_processor: VideoProcessor | None = None,
        image_seq_length: int = 256,
        chat_template: ChatTemplates = None,
    ) -> None:
        if not isinstance(image_processor, CroppingImageProcessor):
            raise InputError("this cuts no tiles", where="image_processor", found=type(image_processor).__name__)
        if image_seq_length < 1:
            raise ConfigError("tiles have tokens", where="image_seq_length", found=image_seq_length)
        self.image_token = tokenizer.named_token("context_image_token") or "<IMG_CONTEXT>"
        self.video_token = tokenizer.named_token("video_token") or "<video>"
        self.start_image_token = tokenizer.named_token("start_image_token") or "<img>"
        self.end_image_token = tokenizer.named_token("end_image_token") or "</img>"
        slots = [Slot("image", self.image_token, self.image_token), Slot("video", self.video_token, self.image_token)]
        super().__init__(tokenizer, slots, chat_template=chat_template)
        self.image_processor = image_processor
        self.video_processor = InternVLVideoProcessor() if video_processor is None else video_processor
        self.image_seq_length = image_seq_length
        self.placeholder = self.image_token
        self.image_token_id = self._ids["image"]
        self.start_image_token_id = self._id_of(Slot("image", self.start_image_token, self.start_image_token), "")
        self.end_image_token_id = self._id_of(Slot("image", self.end_image_token, self.end_image_token), "")

    @classmethod
    def from_parts(cls, parts: Parts) -> Self:
        """Build the processor of a folder."""
        assert parts.image_processor is not None
        r = ConfigReader(parts.settings, where=f"{parts.where}: processor_config.json")
        length = r.integer("image_seq_length", 256)
        return cls(parts.image_processor, parts.tokenizer, parts.video_processor, length, parts.chat_template)

    @property
    def image_token_ids(self) -> list[int]:
        """The tokens of pictures: those that take vectors, and those before and after them."""
        return [self.image_token_id, self.start_image_token_id, self.end_image_token_id]

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
            images: the pictures of all rows in reading order, or one list for each row.
            text: a text or several; ``<IMG_CONTEXT>`` stands for a picture, ``<video>`` for a video.
            videos: the videos of all rows in reading order; they may have different numbers of frames.
            options: of the tokenizer, the image processor and the video processor, flat or by part. Pictures are cut
                into tiles, whatever the image processor's file says, where a call does not say
                ``crop_to_patches=False``.

        Returns:
            ``input_ids`` and ``attention_mask [B, T]``; ``pixel_values [tiles and frames, C, H, W]`` of all pictures
            and videos, in the order in which the texts name them.

        Raises:
            InputError: there is no text, a row has more or fewer placeholders than items, truncation cuts through
                placeholders, tiles and frames differ in size, or an input cannot be used.
            RepoError: a file or an address cannot be read.
            UnknownArgumentError: there is no such option.
        """
        if text is None:
            raise InputError(
                "there is no text", where=type(self).__name__, remedy=f"text={self.image_token!r} will do."
            )
        return self._placed(text, {"image": images, "video": videos}, options)

    def _options(self, given: Mapping[str, object], own: tuple[str, ...] = ()) -> CallOptions:
        asked = super()._options(given, own)
        asked.text.setdefault("padding_side", "left")
        asked.images.setdefault("crop_to_patches", True)
        for part in (asked.images, asked.videos):
            part["return_tensors"] = None  # rows become one tensor once all of them are in their order
        return asked

    def _take(self, modality: Modality, media: Sequence[object], asked: CallOptions) -> Taken:
        if modality == "image":
            seen = self.image_processor(cast(ImageInput, media), **asked.images)  # type: ignore[arg-type]
            rest = iter(cast("Sequence[object]", seen[_PIXELS]))
            tiles = [[next(rest) for _ in range(count)] for count in cast("Sequence[int]", seen["num_patches"])]
            return Taken({_ROWS[modality]: tiles}, [self._shown(len(own)) for own in tiles])
        filmed = self.video_processor(media, **asked.videos)  # type: ignore[arg-type]
        films = [list(film) for film in cast("Sequence[Tensor]", filmed.pop("pixel_values_videos"))]
        frames = [range(1, len(film) + 1) for film in films]
        texts = ["\n".join(f"Frame{number}: {self._shown(1)}" for number in of) for of in frames]
        return Taken({_ROWS[modality]: films, **filmed}, texts)

    def _shown(self, tiles: int) -> str:
        """What stands for a picture of so many tiles."""
        return f"{self.start_image_token}{self.image_token * (self.image_seq_length * tiles)}{self.end_image_token}"

    def _finished(self, batch: BatchEncoding) -> BatchEncoding:
        rows = {kind: cast("Sequence[Sequence[object]]", batch.pop(name, ())) for kind, name in _ROWS.items()}
        named = dict.fromkeys((span.modality, span.item) for span in batch.spans)
        pixels = [row for kind, item in named for row in rows[kind][item]]
        if pixels:
            batch[_PIXELS] = _one(pixels) if rows["video"] else pixels
        return batch

    def _kinds_of(self, ids: Sequence[Sequence[int]]) -> list[list[int]]:
        own = {*self.image_token_ids}
        return [[int(token in own) for token in row] for row in ids]

    def _parts(self) -> dict[str, InputPart]:
        return {"image_processor": self.image_processor, "video_processor": self.video_processor}

    @property
    def model_input_names(self) -> list[str]:
        return [*self.tokenizer.model_input_names, *self.image_processor.model_input_names]

    def to_dict(self) -> dict[str, object]:
        return {**super().to_dict(), "image_seq_length": self.image_seq_length}


def _one(rows: Sequence[object]) -> Tensor:
    """Tiles and frames as one tensor. Shape: [C, H, W] each, to [N, C, H, W]."""
    tensors = [torch.as_tensor(row) for row in rows]
    sizes = sorted({tuple(one.shape) for one in tensors})
    if len(sizes) > 1:
        raise InputError(
            "tiles of pictures and frames of videos differ in size",
            where="pixel_values",
            expected="one size",
            found=", ".join(map(str, sizes[:4])),
            remedy="size= is for both; images_kwargs={'size': ...} and videos_kwargs={'size': ...} are for one.",
        )
    return torch.stack(tensors)
