"""Video processors: films in, ``pixel_values`` out, by the options of a checkpoint's file."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Final, Self, cast

import torch
from torch import Tensor

from omniform.core.arrays import VIDEO_PROCESSOR_NAME
from omniform.core.batch import Batch
from omniform.core.errors import ConfigError, InputError, brief, check_arguments, listed
from omniform.core.upstairs import upstairs
from omniform.inputs.images.arrays import Layout, is_array
from omniform.inputs.images.backends import TORCHVISION
from omniform.inputs.images.base import ImageProcessingMixin
from omniform.inputs.images.options import ImageOptions, as_json, changed, saved
from omniform.inputs.images.plans import unpadded
from omniform.inputs.images.processor import TensorKind, as_kind
from omniform.inputs.images.sizes import Exact, ShortestEdge
from omniform.inputs.images.steps import Step, through
from omniform.inputs.media_access import MediaAccess, checked_access
from omniform.inputs.videos.load import read_frames
from omniform.inputs.videos.metadata import VideoMetadata, metadata_of
from omniform.inputs.videos.sampling import Indices, Sampler, default_sample_indices_fn

logger = logging.getLogger("omniform")

# Written by this release or older ones, and of no meaning here.
_FORGOTTEN: Final = frozenset({
    "video_processor_type", "image_processor_type", "feature_extractor_type", "processor_class", "auto_map",
    "_valid_processor_keys",
})  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoOptions(ImageOptions):
    """The options of all video processors: those of pictures, and which frames are taken.

    Attributes:
        do_sample_frames: whether frames are chosen; otherwise all are taken.
        num_frames: how many.
        fps: how many of a second, if not so many in all.
        return_metadata: whether what is known of each video comes along.
    """

    do_sample_frames: bool | None = False
    num_frames: int | None = None
    fps: float | None = None
    return_metadata: bool | None = False


class BaseVideoProcessor(ImageProcessingMixin):
    """A video processor of the user's own: it defines ``preprocess``, which a call hands everything to."""

    _usual_auto_class: ClassVar[str] = "AutoVideoProcessor"
    kept_as = "video_processor"  # type: ignore[assignment]
    type_key = "video_processor_type"
    model_input_names: ClassVar[Sequence[str]] = ("pixel_values_videos",)

    def __call__(self, videos: object, *args: object, **kwargs: object) -> Batch:
        """The same as :meth:`preprocess`."""
        return self.preprocess(videos, *args, **kwargs)

    def preprocess(self, videos: object, *args: object, **kwargs: object) -> Batch:
        """Turn videos into a model's inputs."""
        raise InputError("this class does not define preprocess", where=type(self).__name__)

    def sample_frames(
        self, metadata: VideoMetadata, num_frames: int | None = None, fps: float | None = None, **kwargs: object
    ) -> Indices:
        """Which frames of a video are taken: at even distances; a subclass may choose others.

        Raises:
            InputError: both numbers are given; there are not so many frames; nobody knows how fast the video is.
        """
        if num_frames is not None and fps is not None:
            raise InputError("num_frames and fps exclude each other", where="num_frames", remedy="Leave one out.")
        return default_sample_indices_fn(metadata, num_frames, fps, **kwargs)

    def save_files(self, folder: Path) -> object:
        """Write ``video_preprocessor_config.json`` into a folder."""
        self.to_json_file(folder / VIDEO_PROCESSOR_NAME)
        return None


class VideoProcessor(BaseVideoProcessor):
    """Turns videos into the tensors that a model reads; a subclass says its kind's defaults.

    Args:
        options: those of :class:`VideoOptions` that differ from the defaults. They read as attributes.

    Raises:
        ConfigError: an option has a wrong value.
        UnknownArgumentError: there is no such option; the nearest is named.
    """

    defaults: ClassVar[VideoOptions] = VideoOptions()
    options: VideoOptions
    extra: Mapping[str, object]

    def __init__(self, **options: object) -> None:
        check_arguments(type(self).__name__, options, (*self.known(), *_FORGOTTEN))
        self._read(options, type(self).__name__)

    @classmethod
    def known(cls) -> list[str]:
        """The names of the options."""
        return [field.name for field in fields(cls.defaults)]

    @classmethod
    def of(cls, file: Mapping[str, object], where: str) -> Self:
        """The processor that a file's object describes. What it does not know is kept, and named in one warning.

        Raises:
            ConfigError: a value has a wrong type or is out of range.
        """
        made = cls.__new__(cls)
        made._read(file, where)
        if made.extra:
            logger.warning("%s: %s does not know %s", where, cls.__name__, listed(sorted(made.extra)))
        return made

    def _read(self, file: Mapping[str, object], where: str) -> None:
        given = {name: value for name, value in file.items() if name not in _FORGOTTEN}
        self.extra = {name: given.pop(name) for name in list(given) if name not in set(self.known())}
        self.options = changed(self.defaults, given, square=False, where=where, error=ConfigError)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: object) -> Self:
        """Load from a folder or a Hub id, as ``AutoVideoProcessor`` does; this is the class, whatever the file says."""
        return cast(
            Self, upstairs("hub.auto_videos:load_video_processor")(pretrained_model_name_or_path, cls, **kwargs)
        )

    @classmethod
    def from_dict(cls, settings: Mapping[str, object], **changes: object) -> Self:
        """Make it of the object in its file, some options changed."""
        check_arguments(cls.__name__, changes, cls.known())
        return cls.of({**settings, **changes}, cls.__name__)

    def __getattr__(self, name: str) -> object:
        if name in ("options", "extra", "_auto_class") or name not in set(self.known()):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return as_json(dict(_values(self.options))[name])

    def __call__(  # type: ignore[override]
        self,
        videos: object,
        *,
        return_tensors: TensorKind | None = None,
        video_metadata: object = None,
        media_access: MediaAccess | None = None,
        **overrides: object,
    ) -> Batch:
        """Preprocess videos.

        Args:
            videos: one or several: files (paths, addresses, bytes, open files), frames ``[T, H, W, C]`` or
                ``[T, C, H, W]`` (with one axis more: several), lists of pictures; paths of pictures are frames three
                lists deep, as elsewhere in the ecosystem.
            return_tensors: ``"pt"`` or ``"np"`` for one tensor; None for a list of ``[T, C, H, W]``.
            video_metadata: what is known of videos that are no files: a mapping, or one for each.
            media_access: which files and addresses may be read, and how many frames and pixels.
            overrides: options of :class:`VideoOptions`, for this call.

        Returns:
            The pixels, Shape: [N, T, C, H, W], and ``video_metadata``, if it is asked for.

        Raises:
            RepoError: a file or an address cannot be read.
            InputError: it is no video, or is cut; an option has a wrong value; videos differ in shape and are to make
                one tensor.
            DependencyError: PyAV is needed, and not installed.
        """
        options = self._changed(return_tensors, overrides)
        films = films_of(videos)
        told = metadata_of(video_metadata, len(films))
        access = checked_access(media_access)
        sample = self._sampler(options)
        tensors, metadata, total = [], [], 0
        for number, film in enumerate(films):
            where = f"videos[{number}]" if len(films) > 1 else "video"
            frames, known = read_frames(
                film,
                access,
                where,
                sample=sample,
                channels="rgb" if options.do_convert_rgb else "own",
                layout=cast("Layout | None", options.input_data_format),
                known=None if told is None else told[number],
                count=partial(_check_total, before=total, access=access, where=where),
            )
            total += len(frames) * frames.shape[2] * frames.shape[3]
            frames = frames if options.device is None else frames.to(options.device)
            tensors.append(through(self._steps(options, frames), frames))
            metadata.append(known)
        batch = self._batch(tensors, options)
        if options.return_metadata:
            batch["video_metadata"] = metadata
        return batch

    def _sampler(self, options: VideoOptions) -> Sampler | None:
        """Which frames are taken; None for all."""
        if not options.do_sample_frames:
            return None
        return partial(self.sample_frames, num_frames=options.num_frames, fps=options.fps)

    def _steps(self, options: VideoOptions, frames_TCHW: Tensor) -> tuple[Step, ...]:
        """What is done to the frames of a video."""
        plan = unpadded(options, TORCHVISION)
        return (*plan.shaping, *plan.valuing)

    def _batch(self, tensors: Sequence[Tensor], options: VideoOptions) -> Batch:
        """The model's inputs, of all videos."""
        return Batch({self.model_input_names[0]: gathered(tensors, options.return_tensors)})

    def preprocess(self, videos: object, *args: object, **kwargs: object) -> Batch:
        """The same as calling the processor."""
        return self(videos, *args, **kwargs)  # type: ignore[arg-type]

    def _changed(self, return_tensors: str | None, overrides: Mapping[str, object]) -> VideoOptions:
        check_arguments(type(self).__name__, overrides, self.known())
        given = dict(overrides) if return_tensors is None else {**overrides, "return_tensors": return_tensors}
        return changed(self.options, given, square=False, where=None, error=InputError)

    def to_dict(self) -> dict[str, object]:
        """What to save: reading it back gives this processor, in either library."""
        return {**self.extra, **saved(self.options, self.defaults), self.type_key: type(self).__name__}

    def to_json_string(self) -> str:
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VideoProcessor) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]


def _values(options: VideoOptions) -> list[tuple[str, object]]:
    return [(field.name, getattr(options, field.name)) for field in fields(options)]


def _check_total(pixels: int, *, before: int, access: MediaAccess, where: str) -> None:
    if before + pixels > access.max_total_pixels:
        raise InputError(
            "the videos are too large together",
            where=where,
            expected=f"at most {access.max_total_pixels:,} pixels in one call",
            found=f"{before + pixels:,}",
            remedy="Pass fewer at a time, or media_access=MediaAccess(max_total_pixels=...).",
        )


def gathered(tensors: Sequence[Tensor], kind: str | None) -> object:
    """Videos as one tensor of the kind asked for, or as the list they are.

    Raises:
        InputError: they differ in shape.
    """
    if kind is None:
        return list(tensors)
    shapes = sorted({tuple(one.shape) for one in tensors})
    if len(shapes) > 1:
        raise InputError(
            "videos of different shapes do not make one tensor",
            where="videos",
            found=", ".join(map(str, shapes[:4])),
            remedy="Take as many frames of each (num_frames=), crop them to one size, or leave return_tensors out.",
        )
    return as_kind(torch.stack(list(tensors)), kind)


def films_of(videos: object) -> list[object]:
    """The videos of a call, one by one: files, arrays of four axes, lists of pictures.

    Raises:
        InputError: there is none, or videos and pictures are mixed.
    """
    if isinstance(videos, Tensor) or is_array(videos):
        array = cast(Tensor, videos)
        return list(array) if array.ndim == 5 else [array]
    if not isinstance(videos, (list, tuple)):
        return [[videos] if _is_picture(videos) else videos]
    if not videos:
        raise InputError("there is no video", where="videos", expected="at least one")
    pictures = [_is_picture(one) for one in videos]
    if all(pictures):
        return [list(videos)]
    if any(pictures):
        found = brief([type(one).__name__ for one in videos])
        raise InputError("videos and pictures are mixed", where="videos", found=found)
    return [film for one in videos for film in _nested(one)]


def _nested(one: object) -> list[object]:
    if isinstance(one, (list, tuple)) and one and all(isinstance(part, (list, tuple)) for part in one):
        # Lists of paths this deep are the frames of a video each.
        paths = [all(isinstance(name, (str, os.PathLike)) for name in part) and bool(part) for part in one]
        if all(paths):
            return [list(part) for part in one]
    return films_of(one)


def _is_picture(value: object) -> bool:
    """Whether it is one picture, and no file."""
    if isinstance(value, Tensor) or is_array(value):
        return cast(Tensor, value).ndim < 4
    from PIL.Image import Image

    return isinstance(value, Image)


_CROPPED: Final = VideoOptions(
    do_convert_rgb=True,
    do_resize=True,
    size=ShortestEdge(224),
    resample=2,
    do_center_crop=True,
    crop_size=Exact(224, 224),
    do_rescale=True,
    do_normalize=True,
    image_mean=(0.485, 0.456, 0.406),
    image_std=(0.229, 0.224, 0.225),
)


class TimesformerVideoProcessor(VideoProcessor):
    """TimeSformer's."""

    defaults = _CROPPED
    model_input_names = ("pixel_values",)


class VideoMAEVideoProcessor(VideoProcessor):
    """VideoMAE's."""

    defaults = replace(_CROPPED, image_mean=(0.5, 0.5, 0.5), image_std=(0.5, 0.5, 0.5))
    model_input_names = ("pixel_values",)


class LlavaOnevisionVideoProcessor(VideoProcessor):
    """LLaVA-OneVision's."""

    defaults = replace(
        _CROPPED,
        size=Exact(384, 384),
        resample=3,
        do_center_crop=None,
        crop_size=None,
        image_mean=(0.48145466, 0.4578275, 0.40821073),
        image_std=(0.26862954, 0.26130258, 0.27577711),
    )


WHOLE: Final[tuple[type[VideoProcessor], ...]] = (
    LlavaOnevisionVideoProcessor,
    TimesformerVideoProcessor,
    VideoMAEVideoProcessor,
)
"""The classes whose frames stay whole."""
