"""Video files, decoded by PyAV: which frames there are, and the pixels of some of them.

Files come from strangers. They are opened as streams of bytes, never by name, with a short list of container formats
(a playlist could name other files, or addresses), and what goes over the limits is refused before it is decoded.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final, cast

import numpy as np
import torch
from torch import Tensor

from omniform.core.errors import DependencyError, InputError
from omniform.inputs.images.arrays import check_pixels
from omniform.inputs.media_access import MediaAccess
from omniform.inputs.videos.metadata import VideoMetadata

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

FORMATS: Final = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,flv,asf,ogg,gif,apng,ivf,dv,mxf,nut,"
    "yuv4mpegpipe,webp_pipe"
)
"""Containers that are read, by FFmpeg's names."""


FAR: Final = 12
"""Frames this far apart are worth a look at where keyframes are, so that those between them need not be decoded."""


class _LostError(Exception):
    """A seek has not led where it should."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Where a video's frames are, as its packets tell.

    Attributes:
        times: when each frame is shown, in order, in the stream's units.
        numbers: the frames' numbers by these times.
        keys: the numbers of those that need no other to be decoded, in order.
    """

    times: Sequence[int]
    numbers: Mapping[int, int]
    keys: Sequence[int]

    def before(self, number: int) -> int:
        """The last keyframe that is no later than a frame."""
        return self.keys[max(bisect_right(self.keys, number) - 1, 0)]


class VideoFile:
    """A video file that is open.

    Args:
        file: its bytes, from the beginning.
        where: what to call it in messages.
        access: how many frames and pixels are decoded.

    Raises:
        InputError: it is no video, or its frames are too large.
        DependencyError: PyAV is not installed.
    """

    def __init__(self, file: BinaryIO, where: str, access: MediaAccess) -> None:
        self.file, self.where, self.access = file, where, access
        with self._opened() as (_, stream):
            check_pixels(stream.width, stream.height, where, access.max_pixels)
            rate = stream.average_rate or stream.base_rate
            size, told = (stream.width, stream.height), stream.frames
        total = told or self._counted()
        if not total:
            raise InputError("the video has no frames", where=where, found="0 frames")
        fps = float(rate) if rate else None
        self.metadata = VideoMetadata(
            total_num_frames=total,
            fps=fps,
            width=size[0],
            height=size[1],
            duration=total / fps if fps else 0.0,
            video_backend="pyav",
        )

    def frames(self, indices: Sequence[int], count: Callable[[int], None] | None = None) -> Tensor:
        """The frames of these numbers, in this order, upright and in RGB. No frame behind the last of them is decoded.

        Args:
            count: told how many pixels there are, before they are decoded; it may refuse.

        Returns:
            Bytes. Shape: [T, H, W, 3].

        Raises:
            InputError: the file is cut or damaged, or it is too much.
        """
        width, height = cast(int, self.metadata.width), cast(int, self.metadata.height)
        if len(indices) > self.access.max_frames:
            raise InputError(
                "so many frames are not read",
                where=self.where,
                expected=f"at most {self.access.max_frames:,}",
                found=f"{len(indices):,}",
                remedy="Take fewer (num_frames=), or pass media_access=MediaAccess(max_frames=...).",
            )
        if count is not None:
            count(len(indices) * width * height)
        wanted: dict[int, list[int]] = {}
        for place, index in enumerate(indices):
            wanted.setdefault(index, []).append(place)
        pixels: Tensor | None = None
        for number, frame in self._numbered(sorted(wanted)):
            if number in wanted:
                picture = self._rgb(frame, width, height)
                if pixels is None:
                    pixels = picture.new_empty(len(indices), *picture.shape)
                    self.metadata.height, self.metadata.width = picture.shape[:2]
                elif picture.shape != pixels.shape[1:]:
                    raise InputError("the video turns on the way", where=self.where, found=f"frame {number}")
                pixels[wanted.pop(number)] = picture
            if pixels is not None and not wanted:
                return pixels
        raise InputError(
            "the video is cut",
            where=self.where,
            expected=f"{self.metadata.total_num_frames} frames",
            found=f"none of number {min(wanted)}",
        )

    def _rgb(self, frame: VideoFrame, width: int, height: int) -> Tensor:
        if frame.is_corrupt:
            raise InputError("the video is damaged", where=self.where, found="a frame that is marked as corrupt")
        if (frame.width, frame.height) != (width, height):
            raise InputError(
                "the frames of the video differ in size",
                where=self.where,
                expected=f"{width} x {height}",
                found=f"{frame.width} x {frame.height}",
            )
        # Telephones write how they were held.
        turned = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
        return torch.from_numpy(np.ascontiguousarray(turned))

    def _numbered(self, wanted: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
        """Frames with their numbers, those that are wanted among them; never one behind the last of these."""
        far = max(after - before for before, after in zip((0, *wanted), wanted, strict=False)) >= FAR
        keys = self._keys() if far else None
        left = list(wanted)
        if keys is not None:
            with suppress(_LostError):
                for number, frame in self._jumping(wanted, keys):
                    left.remove(number)
                    yield number, frame
        if not left:
            return
        for number, frame in enumerate(self._decoded()):
            yield number, frame
            if number == left[-1]:
                return

    def _jumping(self, wanted: Sequence[int], keys: Keys) -> Iterator[tuple[int, VideoFrame]]:
        """Only the frames that are wanted; decoding goes on, or begins anew at a keyframe that is nearer."""
        with self._opened() as (container, stream):
            stream.thread_type = "AUTO"
            decoded, place = container.decode(stream), 0
            for number in wanted:
                key = keys.before(number)
                if key > place:
                    container.seek(keys.times[key], stream=stream)
                    decoded = container.decode(stream)
                for frame in decoded:
                    found = -1 if frame.pts is None else keys.numbers.get(frame.pts, -1)
                    if not 0 <= found <= number:
                        raise _LostError
                    place = found + 1
                    if found == number:
                        yield number, frame
                        break
                else:
                    raise _LostError

    def _keys(self) -> Keys | None:
        """Where the frames are; None where packets do not tell, or tell of others than the header does."""
        times, keys = [], set()
        with self._opened() as (container, stream):
            for packet in container.demux(stream):
                if not packet.size:
                    continue
                if packet.pts is None or packet.is_discard:
                    return None
                times.append(packet.pts)
                if packet.is_keyframe:
                    keys.add(packet.pts)
        times.sort()
        numbers = {time: number for number, time in enumerate(times)}
        if len(numbers) != self.metadata.total_num_frames or not keys or times[0] not in keys:
            return None
        return Keys(times, numbers, sorted(numbers[time] for time in keys))

    def _decoded(self) -> Iterator[VideoFrame]:
        with self._opened() as (container, stream):
            stream.thread_type = "AUTO"
            yield from container.decode(stream)

    def _counted(self) -> int:
        """How many frames there are, where the header does not say: as many as packets that hold something."""
        with self._opened() as (container, stream):
            return sum(1 for packet in container.demux(stream) if packet.size)

    @contextmanager
    def _opened(self) -> Iterator[tuple[InputContainer, VideoStream]]:
        try:
            import av
        except ImportError as error:
            raise DependencyError(
                "PyAV is needed to read video files", found=str(error), remedy="pip install 'omniform[video]'."
            ) from error
        try:
            self.file.seek(0)
            options = {"format_whitelist": FORMATS}
            with av.open(self.file, mode="r", options=options, metadata_errors="ignore") as container:
                if not container.streams.video:
                    raise InputError("there are no pictures in this file", where=self.where, expected="a video stream")
                yield container, container.streams.video[0]
        except (av.FFmpegError, OSError, ValueError, MemoryError, UnicodeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                "this is no video that can be read, or it is cut",
                where=self.where,
                expected="MP4, MOV, MKV, WebM, AVI, GIF or another format of FFmpeg's",
                found=f"{type(error).__name__}: {str(error)[:200]}",
            ) from None
