"""The Auto class for videos: it finds a checkpoint's video processor, in whichever file it is described."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from omniform.core.arrays import VIDEO_PROCESSOR_NAME
from omniform.core.config import ModelConfig
from omniform.core.errors import UnknownNameError, check_arguments, nearest
from omniform.core.file_names import PREPROCESSOR_FILE
from omniform.hub import own
from omniform.hub.auto_inputs import AutoInput, Checkpoint, Name, brought, open_inputs
from omniform.hub.code.mode import tells
from omniform.hub.options import WHERE_ARGUMENTS
from omniform.hub.own_inputs import registered_for
from omniform.inputs.processors import PROCESSOR_FILE
from omniform.inputs.videos import VIDEO_PROCESSORS, BaseVideoProcessor, VideoProcessor
from omniform.models.index import VIDEO_PROCESSORS as OF_FAMILIES


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
    nested = checkpoint.settings.get("video_processor")
    files = {PROCESSOR_FILE: nested if isinstance(nested, Mapping) else {}}
    files |= {file: checkpoint.json(file) for file in (VIDEO_PROCESSOR_NAME, PREPROCESSOR_FILE)}
    found = next((file for file in files if files[file]), None)
    if found is None:
        raise checkpoint.missing("there is no video processor", f"{VIDEO_PROCESSOR_NAME} or {PREPROCESSOR_FILE}")
    where = f"{checkpoint.where}/{found}"
    if kind is None:
        kind = _kind(checkpoint, files[found], where)
    check_arguments(f"{kind.__name__}.from_pretrained", settings, (*kind.known(), *WHERE_ARGUMENTS))
    return kind.of({**files[found], **settings}, where)


def _kind(checkpoint: Checkpoint, file: Mapping[str, object], where: str) -> type[VideoProcessor]:
    named = file.get("video_processor_type")
    if named is None:
        # The type of a file for pictures is of use where there is a kind for videos of the same name.
        named = str(file.get("image_processor_type", "")).replace("ImageProcessor", "VideoProcessor")
        if named not in VIDEO_PROCESSORS:
            named = OF_FAMILIES.get(str(checkpoint.model.get("model_type")))
    if not isinstance(named, str) or named not in VIDEO_PROCESSORS:
        told = (
            "this checkpoint's video processor is not known" if named is None else f"no video processor {named!r:.80}"
        )
        raise UnknownNameError(told, where=where, remedy=nearest(str(named), VIDEO_PROCESSORS))
    return VIDEO_PROCESSORS[named]
