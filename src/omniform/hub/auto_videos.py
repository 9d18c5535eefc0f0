"""The Auto class for videos: it finds a checkpoint's video processor, in whichever file it is described."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from omniform.core.config import ModelConfig
from omniform.hub import own
from omniform.hub.auto_inputs import AutoInput, Name, brought, open_inputs
from omniform.hub.code.mode import tells
from omniform.hub.own_inputs import registered_for
from omniform.inputs.videos import BaseVideoProcessor, VideoProcessor


class AutoVideoProcessor(AutoInput):
    """Loads a checkpoint's video processor."""

    @classmethod
    @tells("AutoVideoProcessor")
    def from_pretrained(cls, pretrained_model_name_or_path: Name, **kwargs: object) -> VideoProcessor:
        """The video processor of a folder or a Hub id, with some options changed by keyword.

        Args:
            kwargs: as for :meth:`~omniform.hub.auto_inputs.AutoTokenizer.from_pretrained`; the settings are the options
                of :class:`~omniform.inputs.videos.processor.VideoOptions`.

        Raises:
            RepoError, ConfigError, UnknownArgumentError: as there.
            UnknownNameError: the file names an unknown type.
        """
        named = brought("AutoVideoProcessor", pretrained_model_name_or_path, kwargs)
        if named is None:
            named = registered_for("AutoVideoProcessor", pretrained_model_name_or_path, kwargs)
        if named is not None:
            return cast(VideoProcessor, named)
        return load_video_processor(pretrained_model_name_or_path, None, **kwargs)

    @classmethod
    def register(
        cls,
        config_class: type[ModelConfig] | None,
        video_processor_class: type | None = None,
        video_processor_classes: Mapping[str, type] | None = None,
        exist_ok: bool = False,
    ) -> None:
        """Load checkpoints whose configs are of a class, or whose file names this one, as a class of the user's own.

        Raises:
            InputError: these are no such classes.
            ConfigError: there is one, and ``exist_ok`` is False.
        """
        kinds = (video_processor_class, *(video_processor_classes or {}).values())
        own.register("AutoVideoProcessor", config_class, kinds, BaseVideoProcessor, exist_ok=exist_ok)


def load_video_processor(name: Name, kind: type[VideoProcessor] | None, /, **kwargs: object) -> VideoProcessor:
    """Load a video processor, of one class or of that which the files name.

    A file for pictures is read where there is none for videos, as checkpoints of before video processors have it.

    Raises:
        RepoError, ConfigError, UnknownArgumentError, UnknownNameError: as :meth:`AutoVideoProcessor.from_pretrained`.
    """
    checkpoint, settings = open_inputs(name, kwargs)
    return checkpoint.video_processor(settings, kind)
