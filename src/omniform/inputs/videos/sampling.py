"""Which frames of a video are taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from omniform.core.errors import InputError, brief
from omniform.inputs.videos.metadata import VideoMetadata

Indices: TypeAlias = "Sequence[int] | npt.NDArray[np.integer]"
Sampler: TypeAlias = Callable[[VideoMetadata], Indices]
"""The numbers of the frames to take of a video, in their order."""


def default_sample_indices_fn(
    metadata: VideoMetadata, num_frames: int | None = None, fps: float | None = None, **_: object
) -> npt.NDArray[np.int64]:
    """Frames at even distances, the first among them; all, where neither number is given.

    Args:
        num_frames: how many to take.
        fps: how many to take of a second; at least one in all.

    Raises:
        InputError: there are not so many, or nobody knows how fast the video is.
    """
    total = metadata.total_num_frames
    if num_frames is None and fps is not None:
        if not metadata.fps:
            raise InputError(
                "nobody knows how fast the video is, so that so many frames of a second could be taken",
                where="fps",
                expected="video_metadata with fps, or num_frames instead",
                found=f"fps={fps:g}",
            )
        num_frames = max(1, int(total / metadata.fps * fps))
    if num_frames is None:
        return np.arange(total, dtype=np.int64)
    if num_frames > total:
        raise InputError(
            "the video has fewer frames than are to be taken",
            where="num_frames",
            expected=f"at most {total}",
            found=num_frames,
        )
    return np.arange(num_frames, dtype=np.int64) * total // num_frames


def even(num_frames: int, rate: int) -> Sampler:
    """So many frames from the beginning on, about every ``rate``-th of them, the last of the stretch among them."""

    def sample(_: VideoMetadata) -> npt.NDArray[np.int64]:
        return np.linspace(0, num_frames * rate - 1, num=num_frames, dtype=np.int64)

    return sample


def checked_indices(indices: Indices, total: int, where: str) -> list[int]:
    """The numbers of frames as they were chosen, frames counted from the end included.

    Raises:
        InputError: there is none, or one that is no frame's.
    """
    array = np.asarray(indices)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InputError("these are no numbers of frames", where=where, found=brief(indices))
    found = [int(one) for one in array]
    outside = next((one for one in found if not -total <= one < total), None)
    if outside is not None:
        raise InputError("the video has no such frame", where=where, expected=f"0 to {total - 1}", found=outside)
    if not found:
        raise InputError("no frame is taken of the video", where=where, expected="at least one")
    return [one % total for one in found]
