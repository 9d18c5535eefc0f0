"""Films of any size as patches end to end in one long row, as Qwen's vision-language models read them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from omniform.core.batch import Batch
from omniform.core.errors import ConfigError, InputError
from omniform.inputs.images.backends import TORCHVISION
from omniform.inputs.images.packed import (
    PIXELS,
    Budget,
    as_edges,
    check_shape_of,
    cut,
    number_of,
    pixel_range,
    step_of,
)
from omniform.inputs.images.plans import resizing, valuing
from omniform.inputs.images.processor import as_kind
from omniform.inputs.images.sizes import PixelRange, Size
from omniform.inputs.images.steps import Step
from omniform.inputs.images.targets import Target, unusable
from omniform.inputs.videos.metadata import VideoMetadata
from omniform.inputs.videos.processor import VideoOptions, VideoProcessor
from omniform.inputs.videos.sampling import Indices, Sampler

LEAST_SHARE = 1.05
"""How much more than the least pixels a capped frame may have in any case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmOptions(VideoOptions):
    """The options of processors that cut films into patches.

    Attributes:
        patch_size, temporal_patch_size, merge_size: as pictures' (:class:`~.images.packed.PatchOptions`).
        min_frames: the fewest frames that are taken, if there are as many.
        max_frames: the most.
        cap_pixels_per_frame: whether frames share a budget of pixels.
        max_video_tokens: that budget, in tokens.
    """

    patch_size: int | None = 14
    temporal_patch_size: int | None = 2
    merge_size: int | None = 2
    min_frames: int | None = 4
    max_frames: int | None = 768
    cap_pixels_per_frame: bool | None = None
    max_video_tokens: int | None = None


class PackedVideoProcessor(VideoProcessor):
    """Base of those that cut films into patches; a subclass says how frames are chosen, and how large they become."""

    model_input_names: ClassVar[Sequence[str]] = ("pixel_values_videos", "video_grid_thw")

    @classmethod
    def known(cls) -> list[str]:
        return [*super().known(), *PIXELS]

    def __init__(self, **options: object) -> None:
        pixel_range(options, self._usual(), type(self).__name__, ConfigError)
        super().__init__(**options)

    def _read(self, file: Mapping[str, object], where: str) -> None:
        given = dict(file)
        pixel_range(given, self._usual(), where, ConfigError)
        super()._read(given, where)

    @classmethod
    def _usual(cls) -> PixelRange:
        assert isinstance(cls.defaults.size, PixelRange)
        return cls.defaults.size

    def _changed(self, return_tensors: str | None, overrides: Mapping[str, object]) -> VideoOptions:
        given, usual = dict(overrides), self.options.size
        pixel_range(given, usual if isinstance(usual, PixelRange) else self._usual(), None, InputError)
        if given.get("num_frames") is not None and given.get("fps") is not None:
            raise InputError("num_frames and fps exclude each other", where="num_frames", remedy="Leave one out.")
        for one, other in (("num_frames", "fps"), ("fps", "num_frames")):
            if given.get(one) is not None:
                given[other] = None  # what a call says counts, and not the other number of the file
        return super()._changed(return_tensors, given)

    def _sampler(self, options: VideoOptions) -> Sampler | None:
        if not options.do_sample_frames:
            return None
        film = _film(options)
        return lambda metadata: self.sample_frames(
            metadata,
            num_frames=film.num_frames,
            fps=film.fps,
            temporal_patch_size=film.temporal_patch_size,
            min_frames=film.min_frames,
            max_frames=film.max_frames,
        )

    def _steps(self, options: VideoOptions, frames_TCHW: Tensor) -> tuple[Step, ...]:
        film, count = _film(options), len(frames_TCHW)

        def rule(size: Size) -> Target:
            if not isinstance(size, PixelRange):
                raise unusable(size, "shortest_edge and longest_edge")
            return self.target(film, size, count)

        return (*resizing(options, TORCHVISION, rule), *valuing(options, TORCHVISION))

    def target(self, options: FilmOptions, size: PixelRange, frames: int) -> Target:
        """How large the frames of a film become, of which so many were taken."""
        raise NotImplementedError

    def _batch(self, tensors: Sequence[Tensor], options: VideoOptions) -> Batch:
        patches, grids = zip(*(cut(frames, _film(options)) for frames in tensors), strict=True)
        whole = patches[0] if len(patches) == 1 else torch.cat(patches)
        names, kind = self.model_input_names, options.return_tensors
        return Batch({names[0]: as_kind(whole, kind), names[1]: as_kind(torch.tensor(grids), kind)})

    def get_num_of_video_patches(
        self, num_frames: int, height: int, width: int, videos_kwargs: Mapping[str, object] | None = None
    ) -> int:
        """How many patches a film of a size has, with these options of a call."""
        known = set(self.known())
        options = _film(self._changed(None, {k: v for k, v in (videos_kwargs or {}).items() if k in known}))
        assert isinstance(options.size, PixelRange)
        tall, wide = self.target(options, options.size, num_frames).target(height, width)
        size, time = number_of(options, "patch_size"), number_of(options, "temporal_patch_size")
        return -(-num_frames // time) * (tall // size) * (wide // size)

    def __getattr__(self, name: str) -> object:
        if name in PIXELS:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}; size says it")
        found = super().__getattr__(name)
        return as_edges(self.options.size) if name == "size" else found

    def to_dict(self) -> dict[str, object]:
        return {**super().to_dict(), "size": as_edges(self.options.size)}


def _film(options: VideoOptions) -> FilmOptions:
    assert isinstance(options, FilmOptions)
    return options


def _set(number: int | None, name: str) -> int:
    if number is None:
        raise InputError("frames cannot be shared out without it", where=name, found="null")
    return number


_PATCHED = FilmOptions(
    do_convert_rgb=True, do_resize=True, resample=3, do_rescale=True, do_normalize=True, default_to_square=None,
    size=PixelRange(128 * 28 * 28, 28 * 28 * 768), max_video_tokens=128000,
    image_mean=(0.48145466, 0.4578275, 0.40821073), image_std=(0.26862954, 0.26130258, 0.27577711),
)  # fmt: skip


class Qwen2VLVideoProcessor(PackedVideoProcessor):
    """Qwen2-VL's and Qwen2.5-VL's: every frame has its own budget of pixels."""

    defaults = _PATCHED

    def sample_frames(  # type: ignore[override] # others may be given too, and are not read
        self,
        metadata: VideoMetadata,
        num_frames: int | None = None,
        fps: float | None = None,
        temporal_patch_size: int | None = None,
        min_frames: int | None = None,
        max_frames: int | None = None,
        **_: object,
    ) -> Indices:
        """Frames at even distances, as many as fill patches in time; see :meth:`BaseVideoProcessor.sample_frames`."""
        own, total = _film(self.options), metadata.total_num_frames
        count, rate = num_frames or own.num_frames, fps or own.fps
        time = temporal_patch_size or number_of(own, "temporal_patch_size")
        if count is not None:
            count = round(count / time) * time
        elif rate is not None:
            if metadata.fps is None:
                raise InputError(
                    "nobody knows how fast the video is, so that so many frames of a second could be taken",
                    where="fps",
                    expected="video_metadata with fps, or num_frames instead",
                    found=f"fps={rate:g}",
                )
            least, bound = _set(min_frames or own.min_frames, "min_frames"), max_frames or own.max_frames
            most = math.floor(min(_set(bound, "max_frames"), total) / time) * time
            count = math.floor(min(max(total / metadata.fps * rate, least), most, total) / time) * time
        if count is None:
            return np.arange(total)
        if not 0 < count <= total:
            raise InputError(
                "so many frames cannot be taken",
                where="num_frames" if num_frames else "fps",
                expected=f"{time} to {total}",
                found=count,
            )
        return cast(Indices, torch.arange(0, total, total / count).int().numpy())

    def target(self, options: FilmOptions, size: PixelRange, frames: int) -> Target:
        most, step = size.max_pixels, step_of(options)
        if options.cap_pixels_per_frame:
            whole = int(_set(_film(self.options).max_video_tokens, "max_video_tokens") * step * step * 0.9)
            share = whole * number_of(options, "temporal_patch_size") // frames
            most = max(min(most, share), int(size.min_pixels * LEAST_SHARE))
        return Budget(step, size.min_pixels, most)


@dataclass(frozen=True, slots=True)
class FilmBudget:
    """As many pixels in all frames as between two numbers, edges multiples of a third, the shape nearly kept.

    Attributes:
        frames: how many there are.
        time: frames of a patch.
        step: what both edges are multiples of.
        least: pixels of all frames.
        most: pixels of all frames.
    """

    frames: int
    time: int
    step: int
    least: int
    most: int

    def target(self, height: int, width: int) -> tuple[int, int]:
        """The new ``(height, width)`` of frames of this height and width.

        Raises:
            InputError: there are too few frames, or one edge is too many times longer than the other.
        """
        if self.frames < self.time:
            raise InputError(
                "the video has fewer frames than a patch", where="videos", expected=self.time, found=self.frames
            )
        step, frames = self.step, self.frames
        if height < step or width < step:
            scale = max(step / height, step / width)
            height, width = int(height * scale), int(width * scale)
        check_shape_of(height, width)
        tall, wide = round(height / step) * step, round(width / step) * step
        volume = round(frames / self.time) * self.time * tall * wide
        if volume > self.most:
            scale = math.sqrt((frames * height * width) / self.most)
            return tuple(max(step, math.floor(edge / scale / step) * step) for edge in (height, width))  # type: ignore[return-value]
        if volume < self.least:
            scale = math.sqrt(self.least / (frames * height * width))
            return tuple(math.ceil(edge * scale / step) * step for edge in (height, width))  # type: ignore[return-value]
        return tall, wide


class Qwen3VLVideoProcessor(PackedVideoProcessor):
    """Qwen3-VL's: all frames of a film share a budget of pixels."""

    defaults = replace(
        _PATCHED, size=PixelRange(128 * 32 * 32, 32 * 32 * 768), patch_size=16, do_sample_frames=True, fps=2,
        max_video_tokens=768, image_mean=(0.5, 0.5, 0.5), image_std=(0.5, 0.5, 0.5),
    )  # fmt: skip

    def sample_frames(
        self, metadata: VideoMetadata, num_frames: int | None = None, fps: float | None = None, **_: object
    ) -> Indices:
        """Frames at even distances, the first and the last among them; 24 a second where nobody knows."""
        own, total = _film(self.options), metadata.total_num_frames
        least, most = _set(own.min_frames, "min_frames"), _set(own.max_frames, "max_frames")
        rate = fps or own.fps
        if num_frames is None and rate is not None:
            metadata.fps = metadata.fps or 24
            num_frames = min(max(int(total / metadata.fps * rate), least), most, total)
        if num_frames is None:
            num_frames = min(max(total, least), most)
        return cast(Indices, np.linspace(0, total - 1, num_frames).round().astype(int))

    def target(self, options: FilmOptions, size: PixelRange, frames: int) -> Target:
        most, step = size.max_pixels, step_of(options)
        if options.cap_pixels_per_frame:
            cap = _set(_film(self.options).max_video_tokens, "max_video_tokens") * step * step
            most = max(min(cap, most // frames), int(size.min_pixels * LEAST_SHARE)) * frames
        return FilmBudget(frames, number_of(options, "temporal_patch_size"), step, size.min_pixels, most)
