"""SmolVLM's processor: pictures as Idefics3's, videos as frames with their times."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import ClassVar, Final, Self, cast

from torch import Tensor

from omniform.core.batch import Batch, Modality
from omniform.core.errors import InputError
from omniform.core.reader import ConfigReader
from omniform.inputs.images import ImageProcessor
from omniform.inputs.processors.base import InputPart, PartName, Parts
from omniform.inputs.processors.idefics3 import IMAGE, Idefics3Processor
from omniform.inputs.processors.options import CallOptions
from omniform.inputs.processors.placed import Slot, Taken
from omniform.inputs.text.chat import Tool
from omniform.inputs.text.settings import ChatTemplates
from omniform.inputs.text.tokenizer import Tokenizer
from omniform.inputs.videos.metadata import VideoMetadata
from omniform.inputs.videos.processor import VideoProcessor
from omniform.inputs.videos.split import SmolVLMVideoProcessor

_USUAL_RATE: Final = 24.0
"""Frames of a second, where nobody says."""

_SMALL: Final = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS: Final = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def in_words(number: int) -> str:
    """A number below a million in English words: ``"one hundred and four"``."""
    if number < 20:
        return _SMALL[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return _TENS[tens] + (f"-{_SMALL[ones]}" if ones else "")
    if number < 1000:
        hundreds, rest = divmod(number, 100)
        return f"{_SMALL[hundreds]} hundred" + (f" and {in_words(rest)}" if rest else "")
    thousands, rest = divmod(number, 1000)
    between = " and " if rest < 100 else ", "
    return f"{in_words(thousands)} thousand" + (between + in_words(rest) if rest else "")


class SmolVLMProcessor(Idefics3Processor):
    """Texts with pictures or videos in them, for SmolVLM.

    Args:
        image_processor: of the pictures.
        tokenizer: of the texts.
        video_processor: of the videos; the usual one by default.
        image_seq_len: how many tokens stand for a square.
        chat_template: the template for conversations; by default the tokenizer's.
    """

    needs: ClassVar[tuple[PartName, ...]] = ("image_processor", "tokenizer", "video_processor")

    def __init__(
        self,
        image_processor: ImageProcessor,
        tokenizer: Tokenizer,
        video_processor: VideoProcessor | None = None,
        image_seq_len: int = 169,
        chat_template: ChatTemplates = None,
    ) -> None:
        super().__init__(image_processor, tokenizer, image_seq_len, chat_template)
        self.video_processor = SmolVLMVideoProcessor() if video_processor is None else video_processor
        self.video_token = tokenizer.named_token("video_token") or "<video>"
        video = Slot("video", self.video_token, IMAGE)
        self.slots = (*self.slots, video)
        self._ids["video"] = self._id_of(video, "")

    @classmethod
    def from_parts(cls, parts: Parts) -> Self:
        assert parts.image_processor is not None
        r = ConfigReader(parts.settings, where=f"{parts.where}: processor_config.json")
        squares = r.integer("image_seq_len", 169)
        return cls(parts.image_processor, parts.tokenizer, parts.video_processor, squares, parts.chat_template)

    def __call__(  # type: ignore[override]
        self,
        images: object = None,
        text: str | Sequence[str] | None = None,
        videos: object = None,
        **options: object,
    ) -> Batch:
        """Turn texts and the pictures, or the videos, in them into the model's inputs.

        Args:
            images: the pictures of all rows in reading order, or one list for each row.
            text: a text or several; ``<image>`` stands for a picture, ``<video>`` for a video.
            videos: the videos of all rows in reading order.
            options: of the tokenizer, the image processor and the video processor, flat or by part.

        Raises:
            InputError: as for Idefics3's; or there are pictures and videos in one call.
        """
        if images is not None and videos is not None:
            raise InputError("pictures and videos are read in calls of their own", where="videos")
        return self._read(images, text, {"image": images, "video": videos}, options)

    def _take(self, modality: Modality, media: Sequence[object], asked: CallOptions) -> Taken:
        if modality == "image":
            return super()._take(modality, media, asked)
        made = self.video_processor(list(media), **{**asked.videos, "return_metadata": True})  # type: ignore[arg-type]
        known = cast("list[VideoMetadata]", made.pop("video_metadata"))
        frames = cast("Sequence[Tensor]", made["pixel_values"])
        squares = cast(int, asked.own["image_seq_len"])
        return Taken(made, [self._told(one, len(film), squares) for one, film in zip(known, frames, strict=True)])

    def _told(self, known: VideoMetadata, frames: int, squares: int) -> str:
        """What stands for a video: how long it is, then each frame with its time."""
        if known.fps is None:
            known.fps = _USUAL_RATE
        times = known.timestamps
        seconds = int(times[-1] if known.duration is None else known.duration)
        intro = (
            f"You are provided the following series of {in_words(frames)} frames from a {timedelta(seconds=seconds)} "
            "[H:MM:SS] video.\n"
        )
        picture = self._expansion(0, 0, squares)
        shown = [f"\nFrame from {int(t // 60):02d}:{int(t % 60):02d}:{picture}" for t in times]
        return f"{intro}{''.join(shown)}\n\n"

    def apply_chat_template(  # type: ignore[override]
        self, conversation: Sequence[object], chat_template: str | None = None, *args: Sequence[Tool], **options: object
    ) -> object:
        """As for all processors; conversations with videos have a template of their own, if none is said."""
        if chat_template is None and "'video'" in repr(conversation):
            chat_template = _WITH_VIDEOS
        return super().apply_chat_template(conversation, chat_template, *args, **options)  # type: ignore[arg-type]

    def _parts(self) -> dict[str, InputPart]:  # type: ignore[override]
        return {**super()._parts(), "video_processor": self.video_processor}


_WITH_VIDEOS: Final = (
    "<|im_start|>{% for message in messages %}{{ message.role | capitalize }}"
    "{{ ':' if message.content[0].type == 'image' else ': ' }}"
    "{% for part in message.content %}{% if part.type == 'text' %}{{ part.text }}"
    "{% elif part.type in ('image', 'video') %}{{ '<' ~ part.type ~ '>' }}{% endif %}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{{ 'Assistant:' if add_generation_prompt else '' }}"
)
