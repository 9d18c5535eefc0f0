"""``image-text-to-text``: pictures and text, or chats with pictures, that a model writes on from or answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

from omniform.hub.auto import AutoModelForImageTextToText
from omniform.pipelines.registry import Task
from omniform.pipelines.seen_and_heard import SeeingAndHearing


class ImageTextToTextPipeline(SeeingAndHearing):
    """Writes on from a text with pictures in it, or answers a chat; see
    :class:`~omniform.pipelines.seen_and_heard.SeeingAndHearing`."""

    media: ClassVar[Mapping[str, tuple[str, ...]]] = {"images": ("images", "image")}

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.check_model_type(AutoModelForImageTextToText)

    def __call__(self, images: object = None, text: object = None, **kwargs: object) -> object:  # type: ignore[override]
        """Answer about pictures.

        Args:
            images: a picture, several, or a list for each text; a chat, a mapping ``{"images": ..., "text": ...}``, or
                several of them.
            text: a text (with the model's placeholder for a picture where it wants one), several, a chat, or several.
            kwargs: parameters.

        Returns:
            A list of :class:`~omniform.pipelines.seen_and_heard.Told`; a list of such lists for several inputs.
        """
        return self.asked(text, {"images": kwargs.pop("image", images)}, kwargs)


TASKS: Final = (
    Task(
        name="image-text-to-text",
        pipeline=ImageTextToTextPipeline,
        models=(AutoModelForImageTextToText,),
        kind="multimodal",
        inferred=("image-text-to-text",),
    ),
)

__all__ = ["TASKS", "ImageTextToTextPipeline"]
