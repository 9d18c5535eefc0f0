"""The processors of Qwen2-VL, Qwen2.5-VL and Qwen3-VL: pictures and films of any sizes among the words of a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Self, cast

from torch import Tensor

from omniform.core.batch import Batch, Modality
from omniform.core.errors import InputError
from omniform.inputs.images import ImageProcessor
from omniform.inputs.images.load import ImageSource
from omniform.inputs.images.packed import PackedImageProcessor
from omniform.inputs.images.processor import ImageInput
from omniform.inputs.processors.base import InputPart, PartName, Parts
from omniform.inputs.processors.options import CallOptions
from omniform.inputs.processors.placed import PlacedProcessor, Slot, Taken
from omniform.inputs.text.settings import ChatTemplates
from omniform.inputs.text.tokenizer import Tokenizer
from omniform.inputs.videos.metadata import VideoMetadata
from omniform.inputs.videos.packed import PackedVideoProcessor
from omniform.inputs.videos.processor import VideoProcessor

USUAL_RATE = 24
"""Frames per second of a film, where nobody knows."""


class Qwen2VLProcessor(PlacedProcessor):
    """Texts with pictures and films in them, for Qwen2-VL.

    Args:
        image_processor: of the pictures.
        tokenizer: of the texts; it must know the tokens that stand for pictures and films.
        video_processor: of the films.
        chat_template: the template for conversations; by default the tokenizer's.

    Raises:
        ConfigError: the tokenizer does not know one of these tokens.
        InputError: a part is of another kind.
    """

    needs: ClassVar[tuple[PartName, ...]] = ("image_processor", "tokenizer", "video_processor")
    marks_media: ClassVar[bool] = True

    def __init__(
        self,
        image_processor: ImageProcessor,
        tokenizer: Tokenizer,
        video_processor: VideoProcessor,
        chat_template: ChatTemplates = None,
    ) -> None:
        if not isinstance(image_processor, PackedImageProcessor):
            raise InputError("this cuts no patches", where="image_processor", found=type(image_processor).__name__)
        if not isinstance(video_processor, PackedVideoProcessor):
            raise InputError("this cuts no patches", where="video_processor", found=type(video_processor).__name__)
        self.image_token = tokenizer.named_token("image_token") or "<|image_pad|>"
        self.video_token = tokenizer.named_token("video_token") or "<|video_pad|>"
        slots = [
            Slot("image", self.image_token, self.image_token),
            Slot("video", self.video_token, self.video_token),
        ]
        super().__init__(tokenizer, slots, chat_template=chat_template)
        self.image_processor = image_processor
        self.video_processor = video_processor
        self.placeholder = self.image_token
        self.image_token_id, self.video_token_id = self._ids["image"], self._ids["video"]

    @classmethod
    def from_parts(cls, parts: Parts) -> Self:
        """Build the processor of a folder."""
        assert parts.image_processor is not None and parts.video_processor is not None
        return cls(parts.image_processor, parts.tokenizer, parts.video_processor, parts.chat_template)

    # The base takes any keyword in its signature.
    def __call__(  # type: ignore[override]
        self,
        images: ImageInput | Sequence[Sequence[ImageSource]] | None = None,
        text: str | Sequence[str] | None = None,
        videos: object = None,
        **options: object,
    ) -> Batch:
        """Turn texts and the pictures and films in them into the model's inputs.

        Args:
            images: the pictures of all rows in reading order, or one list for each row.
            text: a text or several; ``<|image_pad|>`` stands for a picture, ``<|video_pad|>`` for a film.
            videos: the films of all rows in reading order; see
                :meth:`~omniform.inputs.videos.processor.VideoProcessor.__call__`.
            options: of the tokenizer, of the image and of the video processor, flat or as ``text_kwargs``,
                ``images_kwargs`` and ``videos_kwargs``.

        Returns:
            ``input_ids``, ``attention_mask`` and ``mm_token_type_ids`` (1 for pictures, 2 for films), Shape: [B, T];
            ``pixel_values`` and ``image_grid_thw``, ``pixel_values_videos`` and ``video_grid_thw`` of what there is.

        Raises:
            InputError: a row has more or fewer placeholders than items, truncation cuts through placeholders, or an
                input cannot be used.
            RepoError: a file or an address cannot be read.
            UnknownArgumentError: there is no such option.
        """
        return self._placed(text, {"image": images, "video": videos}, options)

    def _take(self, modality: Modality, media: Sequence[object], asked: CallOptions) -> Taken:
        if modality == "image":
            seen = self.image_processor(cast(ImageInput, media), **asked.images)  # type: ignore[arg-type]
            unit = (self.image_processor.merge_size or 1) ** 2
            counts = [time * rows * columns // unit for time, rows, columns in _grids(seen["image_grid_thw"])]
            return Taken(seen, [self.image_token * count for count in counts])
        options = dict(asked.videos)
        shown = bool(options.pop("return_metadata", False))
        filmed = self.video_processor(media, **options, return_metadata=True)  # type: ignore[arg-type]
        known = cast("list[VideoMetadata]", filmed["video_metadata"])
        if not shown:
            del filmed["video_metadata"]
        grids = _grids(filmed["video_grid_thw"])
        expansions = [self._film(grid, one) for grid, one in zip(grids, known, strict=True)]
        return Taken({**filmed, **self._known_of(known)}, expansions)

    def _film(self, grid: tuple[int, int, int], known: VideoMetadata) -> str:
        """What the marker of a film becomes."""
        return self.video_token * (grid[0] * self._tokens_of_frame(grid))

    def _known_of(self, films: Sequence[VideoMetadata]) -> Mapping[str, object]:
        """What the model is told of films beside their pixels."""
        return {}

    def _tokens_of_frame(self, grid: tuple[int, int, int]) -> int:
        merge = cast("int | None", self.video_processor.merge_size) or 1
        return grid[1] * grid[2] // merge**2

    def _time(self) -> int:
        """Frames of a patch."""
        return cast("int | None", self.video_processor.temporal_patch_size) or 1

    def _parts(self) -> dict[str, InputPart]:
        return {"image_processor": self.image_processor, "video_processor": self.video_processor}

    @property
    def model_input_names(self) -> list[str]:
        films = self.video_processor.model_input_names
        return [*self.image_processor.model_input_names, *self.tokenizer.model_input_names, *films, *self._told()]

    def _told(self) -> tuple[str, ...]:
        """The names of the inputs that tell of pictures and films beside their pixels."""
        return ("mm_token_type_ids",)


class Qwen2_5_VLProcessor(Qwen2VLProcessor):  # noqa: N801
    """The same for Qwen2.5-VL, whose model is told how many seconds of a film a patch takes."""

    def _known_of(self, films: Sequence[VideoMetadata]) -> Mapping[str, object]:
        return {"second_per_grid_ts": [self._time() / film.sampled_fps for film in films]}

    def _told(self) -> tuple[str, ...]:
        return ("second_per_grid_ts", "mm_token_type_ids")


class Qwen3VLProcessor(Qwen2VLProcessor):
    """The same for Qwen3-VL, whose texts say between the frames of a film when they are shown.

    Args:
        image_processor, tokenizer, video_processor, chat_template: as :class:`Qwen2VLProcessor` takes them.
    """

    def __init__(
        self,
        image_processor: ImageProcessor,
        tokenizer: Tokenizer,
        video_processor: VideoProcessor,
        chat_template: ChatTemplates = None,
    ) -> None:
        super().__init__(image_processor, tokenizer, video_processor, chat_template)
        self.vision_start_token = tokenizer.named_token("vision_start_token") or "<|vision_start|>"
        self.vision_end_token = tokenizer.named_token("vision_end_token") or "<|vision_end|>"

    def _film(self, grid: tuple[int, int, int], known: VideoMetadata) -> str:
        rate = known.fps or USUAL_RATE
        frames = list(range(known.total_num_frames) if known.frames_indices is None else known.frames_indices)
        time, whole = self._time(), self.video_token * self._tokens_of_frame(grid)
        frames += [frames[-1]] * (-len(frames) % time)
        # A patch is shown in the middle of its first and its last frame.
        stamps = [(frames[i] / rate + frames[i + time - 1] / rate) / 2 for i in range(0, len(frames), time)]
        return "".join(
            f"<{stamp:.1f} seconds>{self.vision_start_token}{whole}{self.vision_end_token}" for stamp in stamps
        )


def _grids(value: object) -> list[tuple[int, int, int]]:
    rows = value.tolist() if isinstance(value, Tensor) else cast("Sequence[Sequence[int]]", value)
    return [(int(time), int(down), int(across)) for time, down, across in rows]
