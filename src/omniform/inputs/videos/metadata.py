"""What is known of a video beside its pixels, under the ecosystem's names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import cast

import numpy as np

from omniform.core.errors import InputError, brief


@dataclass
class VideoMetadata(Mapping[str, object]):
    """A video: how long it is, and which of its frames were taken. Its entries are attributes and keys.

    Attributes:
        total_num_frames: how many frames there are.
        fps: frames per second; None where nobody knows.
        width, height: of a frame, in pixels.
        duration: in seconds.
        video_backend: what read it.
        frames_indices: which frames were taken, in order.
    """

    total_num_frames: int
    fps: float | None = None
    width: int | None = None
    height: int | None = None
    duration: float | None = None
    video_backend: str | None = None
    frames_indices: Sequence[int] | None = None

    def __iter__(self) -> Iterator[str]:
        return (field.name for field in fields(self))

    def __len__(self) -> int:
        return len(fields(self))

    def __getitem__(self, key: str) -> object:
        if key not in set(self):
            raise KeyError(key)
        return vars(self)[key]

    def __setitem__(self, key: str, value: object) -> None:
        setattr(self, key, value)

    def update(self, values: Mapping[str, object]) -> None:
        """Change those of the entries that there are."""
        for key in set(self) & set(values):
            setattr(self, key, values[key])

    @property
    def timestamps(self) -> list[float]:
        """When the frames that were taken are shown, in seconds.

        Raises:
            InputError: nobody knows.
        """
        if not self.fps or self.frames_indices is None:
            raise InputError(
                "nobody knows when the frames are shown", where="video_metadata", expected="fps and frames_indices"
            )
        return [index / self.fps for index in self.frames_indices]

    @property
    def sampled_fps(self) -> float:
        """Frames per second of those that were taken; 24 where nobody knows."""
        if self.frames_indices is None or self.fps is None or not self.total_num_frames:
            return self.fps or 24
        return len(self.frames_indices) / self.total_num_frames * self.fps


def metadata_of(given: object, videos: int) -> list[VideoMetadata] | None:
    """A call's ``video_metadata``: one entry for each video; None where nothing was said.

    Args:
        given: an entry (a mapping), a list of them, or of such lists.
        videos: how many videos there are.

    Raises:
        InputError: it is of another form, or there is not one for each video.
    """
    if given is None:
        return None
    listed = given if isinstance(given, (list, tuple)) else [given]
    flat = [one for part in listed for one in (part if isinstance(part, (list, tuple)) else [part])]
    if len(flat) != videos:
        raise InputError(
            "there is not one entry for each video", where="video_metadata", expected=videos, found=len(flat)
        )
    return [_entry(one, f"video_metadata[{number}]") for number, one in enumerate(flat)]


def _entry(value: object, where: str) -> VideoMetadata:
    known = {field.name for field in fields(VideoMetadata)}
    if not isinstance(value, Mapping) or not set(value) <= known or value.get("total_num_frames") is None:
        expected = f"an object with total_num_frames and any of {', '.join(sorted(known))}"
        raise InputError("this describes no video", where=where, expected=expected, found=brief(value))
    total, fps = value["total_num_frames"], value.get("fps")
    if isinstance(total, bool) or not isinstance(total, (int, np.integer)) or total < 1:
        raise InputError("no number of frames", where=f"{where}: total_num_frames", found=brief(total))
    if fps is not None and (isinstance(fps, bool) or not isinstance(fps, (int, float)) or not fps > 0):
        raise InputError("no number of frames per second", where=f"{where}: fps", found=brief(fps))
    return value if isinstance(value, VideoMetadata) else _made(value)


def _made(value: Mapping[str, object]) -> VideoMetadata:
    made = VideoMetadata(total_num_frames=cast(int, value["total_num_frames"]))
    made.update(value)
    return made
