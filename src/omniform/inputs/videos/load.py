"""One door for videos: files of every kind, arrays, lists of pictures, each as frames of one size."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, Final, TypeAlias, cast

import torch
from torch import Tensor

from omniform.core.errors import InputError, brief
from omniform.inputs.images.arrays import Layout, array_tensor, check_pixels, finite, in_bytes, is_array
from omniform.inputs.images.load import ImageSource, ReadableFile
from omniform.inputs.images.pixels import Channels, image_tensor
from omniform.inputs.media_access import (
    MediaAccess,
    checked_access,
    from_base64,
    is_web,
    local_path,
    read_file,
    too_large,
)
from omniform.inputs.videos.decode import VideoFile
from omniform.inputs.videos.metadata import VideoMetadata
from omniform.inputs.videos.sampling import Indices, Sampler, checked_indices, default_sample_indices_fn

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VideoSource: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | ReadableFile | Mapping[str, object]"
    " | NDArray[np.generic] | Tensor | Sequence[ImageSource]"
)
"""One video: a path, a URL, a data URI, the bytes of a file, an open file, a mapping with ``bytes`` or ``path``; frames
``[T, H, W, C]`` or ``[T, C, H, W]``; a list of pictures."""

MAX_VIDEO_BYTES: Final = 2 * 1024**3
"""The largest video file that is held in memory; one on the disk is read as it is decoded, whatever its size."""

_CHANNELS: Final = (1, 3, 4)


def load_video(
    video: VideoSource,
    num_frames: int | None = None,
    fps: float | None = None,
    backend: str = "pyav",
    sample_indices_fn: Callable[..., Indices] | None = None,
    *,
    media_access: MediaAccess | None = None,
    **kwargs: object,
) -> tuple[NDArray[np.uint8], VideoMetadata]:
    """Some frames of a video in RGB, and what is known of it.

    Args:
        video: see :data:`VideoSource`.
        num_frames: how many frames to take, at even distances.
        fps: how many to take of a second.
        backend: ``"pyav"``, which reads all.
        sample_indices_fn: called with ``metadata=`` (and ``kwargs``), gives the numbers of the frames to take.
        media_access: which files and addresses may be read, and how many frames and pixels.

    Returns:
        Shape: [T, H, W, 3], bytes; and its :class:`~omniform.inputs.videos.metadata.VideoMetadata`.

    Raises:
        RepoError: a file or an address cannot be read.
        InputError: it is no video, or is cut; there is no such frame; a limit is passed; two ways to take frames.
        DependencyError: PyAV is not installed.
    """
    if backend != "pyav":
        raise InputError("there is no such backend", where="backend", expected="'pyav'", found=brief(backend))
    if num_frames is not None and fps is not None and sample_indices_fn is None:
        raise InputError("num_frames and fps exclude each other", where="num_frames", remedy="Leave one out.")
    usual: Callable[..., Indices] = partial(default_sample_indices_fn, num_frames=num_frames, fps=fps)
    chosen = usual if sample_indices_fn is None else sample_indices_fn
    frames, metadata = read_frames(
        video,
        checked_access(media_access),
        "video",
        sample=lambda metadata: chosen(metadata=metadata, **kwargs),
        channels="rgb",
    )
    return cast("NDArray[np.uint8]", frames.permute(0, 2, 3, 1).contiguous().numpy()), metadata


def read_frames(
    source: object,
    access: MediaAccess,
    where: str,
    *,
    sample: Sampler | None,
    channels: Channels,
    layout: Layout | None = None,
    known: VideoMetadata | None = None,
    count: Callable[[int], None] | None = None,
) -> tuple[Tensor, VideoMetadata]:
    """The frames that are taken of a video.

    Args:
        source: see :data:`VideoSource`.
        sample: which frames are taken; None for all.
        channels: which channels they get.
        layout: where the channels of arrays are.
        known: what the caller knows of frames that are no file.
        count: told how many pixels there are, before they are decoded; it may refuse.

    Returns:
        Shape: [T, C, H, W], bytes or floats; and what is known of the video.

    Raises:
        RepoError, InputError, DependencyError: as :func:`load_video`.
    """
    counted = partial(_counted, access=access, where=where, count=count)
    if isinstance(source, Tensor) or is_array(source):
        frames = array_frames(source, layout, where, access)
        metadata = known or _plain(frames)
        if sample is not None:
            _check_told(metadata, len(frames), where)
            metadata.frames_indices = checked_indices(sample(metadata), len(frames), where)
            frames = frames[list(metadata.frames_indices)]
        counted(len(frames) * frames.shape[2] * frames.shape[3])
        return (to_rgb(frames, where) if channels == "rgb" else frames), metadata
    if isinstance(source, (list, tuple)):
        return _pictures(source, access, where, sample, channels, layout, known, counted)
    with opened(source, access, where) as (file, name):
        video = VideoFile(file, name, access)
        metadata = video.metadata
        total = metadata.total_num_frames
        indices = list(range(total)) if sample is None else checked_indices(sample(metadata), total, name)
        metadata.frames_indices = indices
        return video.frames(indices, counted).permute(0, 3, 1, 2), metadata


def _pictures(
    pictures: Sequence[object],
    access: MediaAccess,
    where: str,
    sample: Sampler | None,
    channels: Channels,
    layout: Layout | None,
    known: VideoMetadata | None,
    count: Callable[[int], None],
) -> tuple[Tensor, VideoMetadata]:
    """Frames that come one by one; those that are not taken are not read."""
    if not pictures:
        raise InputError("the video has no frames", where=where, found="an empty list")
    metadata = known or VideoMetadata(total_num_frames=len(pictures))
    _check_told(metadata, len(pictures), where)
    indices = range(len(pictures)) if sample is None else checked_indices(sample(metadata), len(pictures), where)
    metadata.frames_indices = list(indices)
    total = 0

    def add(pixels: int) -> None:
        nonlocal total
        total += pixels
        count(total)

    frames = [
        image_tensor(
            cast(ImageSource, pictures[index]), channels=channels, layout=layout, where=f"{where}[{index}]",
            access=access, count=add,
        )
        for index in indices
    ]  # fmt: skip
    shapes = sorted({(tuple(frame.shape), str(frame.dtype)) for frame in frames})
    if len(shapes) > 1:
        found = ", ".join(f"{list(shape)} of {dtype}" for shape, dtype in shapes[:4])
        raise InputError("the pictures of a video differ", where=where, expected="one size", found=found)
    stacked = torch.stack(frames)
    if known is None:
        metadata.height, metadata.width = stacked.shape[2:]
    return stacked, metadata


def array_frames(source: object, layout: Layout | None, where: str, access: MediaAccess) -> Tensor:
    """An array or tensor as frames; one of three axes is a video of one frame. Shape: [T, C, H, W].

    Raises:
        InputError: it holds no real numbers, or no clear layout, or too much.
    """
    frames = array_tensor(source, where)
    frames = frames[None] if frames.ndim == 3 else frames
    if frames.ndim != 4 or not frames.shape[0]:
        raise InputError(
            "these are no frames", where=where, expected="[T, H, W, C] or [T, C, H, W]", found=list(frames.shape)
        )
    first, last = frames.shape[1] in _CHANNELS, frames.shape[3] in _CHANNELS
    if layout is None and first == last:
        raise InputError(
            "the channels may be first or last" if first else "no dimension looks like channels",
            where=where,
            expected="1, 3 or 4 channels",
            found=list(frames.shape),
            remedy="Pass input_data_format='channels_first' or 'channels_last'.",
        )
    if layout == "channels_last" or (layout is None and last):
        frames = frames.permute(0, 3, 1, 2)
    check_pixels(frames.shape[3], frames.shape[2], where, access.max_pixels)
    return in_bytes(finite(frames, where), where)


def to_rgb(frames: Tensor, where: str) -> Tensor:
    """Three channels from one (repeated) or from four (the last is an alpha, laid on white). Shape: [T, C, H, W].

    What shines through is blended in floats, on the scale of bytes, and stays so, as the reference has it.

    Raises:
        InputError: there is another number of channels.
    """
    channels = frames.shape[1]
    if channels == 3:
        return frames
    if channels == 1:
        return frames.expand(-1, 3, -1, -1)
    if channels != 4:
        raise InputError("cannot become RGB", where=where, expected="1, 3 or 4 channels", found=channels)
    alpha = frames[:, 3:] / 255.0
    if not bool((frames[:, 3:] < 255).any()):
        return frames[:, :3]
    return (1 - alpha) * 255 + alpha * frames[:, :3]


def _plain(frames: Tensor) -> VideoMetadata:
    """What frames tell of themselves."""
    return VideoMetadata(
        total_num_frames=len(frames),
        height=frames.shape[2],
        width=frames.shape[3],
        frames_indices=list(range(len(frames))),
    )


def _check_told(metadata: VideoMetadata, frames: int, where: str) -> None:
    if metadata.total_num_frames > frames:
        raise InputError(
            "there are fewer frames than is said",
            where=where,
            expected=f"{metadata.total_num_frames} (video_metadata: total_num_frames)",
            found=frames,
        )


def _counted(pixels: int, *, access: MediaAccess, where: str, count: Callable[[int], None] | None) -> None:
    if pixels > access.max_total_pixels:
        raise InputError(
            "the frames are too large together",
            where=where,
            expected=f"at most {access.max_total_pixels:,} pixels in one call",
            found=f"{pixels:,}",
            remedy="Take fewer (num_frames=), or pass media_access=MediaAccess(max_total_pixels=...).",
        )
    if count is not None:
        count(pixels)


@contextmanager
def opened(source: object, access: MediaAccess, where: str) -> Iterator[tuple[BinaryIO, str]]:
    """The bytes of a video file, to be read from the beginning, and what to call it.

    Raises:
        RepoError: there is no such file or address, or it may not be read.
        InputError: this names no file, or one that is too large.
    """
    if isinstance(source, Mapping):
        # As ``datasets`` has undecoded media.
        given = [source.get(key) for key in ("bytes", "path", "url")]
        source = next((one for one in given if isinstance(one, (str, bytes, bytearray, os.PathLike))), source)
    if isinstance(source, str) and is_web(source):
        yield io.BytesIO(access.fetch(source)), source[:200]
    elif isinstance(source, str) and source[:5].lower() == "data:":
        data = from_base64(source.partition(",")[2], 0)
        if data is None:
            raise InputError("the data URI does not hold base64", where=where, found=repr(source[:60]))
        yield io.BytesIO(data), "data URI"
    elif isinstance(source, (str, os.PathLike)):
        path = local_path(source) if isinstance(source, str) else source
        with access.open(path, "video file") as file:
            yield file, os.fsdecode(path)[:200]
    elif isinstance(source, (bytes, bytearray, memoryview)):
        if len(source) > MAX_VIDEO_BYTES:
            raise too_large("video file", "bytes", MAX_VIDEO_BYTES, f"{len(source):,} bytes")
        yield io.BytesIO(source), "bytes"
    elif isinstance(source, ReadableFile) and not isinstance(source, type):
        yield io.BytesIO(read_file(source, "open file", MAX_VIDEO_BYTES, "video file")), "open file"
    else:
        raise InputError(
            "this is not a video",
            where=where,
            expected="a path, a URL, bytes, an open file, frames [T, H, W, C] or a list of pictures",
            found=type(source).__name__,
        )
