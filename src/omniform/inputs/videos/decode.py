"""Video files, decoded by PyAV: which frames there are, and the pixels of some of them.

Files come from strangers. They are opened as streams of bytes, never by name, with a short list of container formats
(a playlist could name other files, or addresses), and what goes over the limits is refused before it is decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol, cast

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


class _Opens(Protocol):
    def __call__(self, file: BinaryIO, mode: str, options: Mapping[str, str], metadata_errors: str) -> object: ...


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
        """The frames of these numbers, in this order, in RGB. No frame behind the last of them is decoded.

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
        pixels = torch.empty(len(indices), height, width, 3, dtype=torch.uint8)
        last = max(wanted)
        for number, frame in enumerate(self._decoded()):
            if number in wanted:
                pixels[wanted.pop(number)] = self._rgb(frame, width, height)
            if number == last:
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
        return torch.from_numpy(np.ascontiguousarray(frame.to_ndarray(format="rgb24")))

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
