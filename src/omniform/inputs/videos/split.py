"""SmolVLM's videos: frames squeezed to squares, and as many frames in each video of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from omniform.core.batch import Batch
from omniform.core.errors import InputError
from omniform.inputs.images.backends import TORCHVISION
from omniform.inputs.images.plans import valued
from omniform.inputs.images.sizes import Exact, LongestEdge, Size
from omniform.inputs.images.split import fitted
from omniform.inputs.images.steps import Resize, Step
from omniform.inputs.videos.metadata import VideoMetadata
from omniform.inputs.videos.processor import VideoOptions, VideoProcessor, gathered
from omniform.inputs.videos.sampling import Indices

_LONGEST: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitVideoOptions(VideoOptions):
    """The options of SmolVLM's video processor.

    Attributes:
        max_image_size: the edge of a frame.
    """

    max_image_size: Size | None = None


@dataclass(frozen=True, slots=True)
class _Longest:
    """A size with its longer edge so long, and the other one even."""

    edge: int

    def target(self, height: int, width: int) -> tuple[int, int]:
        return fitted(height, width, min(self.edge, _LONGEST))


class SmolVLMVideoProcessor(VideoProcessor):
    """SmolVLM's. Files of the first release say ``video_sampling``."""

    model_input_names: ClassVar[Sequence[str]] = ("pixel_values", "pixel_attention_mask")
    defaults: ClassVar[VideoOptions] = SplitVideoOptions(
        do_convert_rgb=True,
        do_resize=True,
        size=LongestEdge(4 * 364),
        max_image_size=LongestEdge(364),
        resample=1,
        do_rescale=True,
        do_normalize=True,
        image_mean=(0.5, 0.5, 0.5),
        image_std=(0.5, 0.5, 0.5),
        do_pad=True,
        do_sample_frames=False,
    )

    def _read(self, file: Mapping[str, object], where: str) -> None:
        told = file.get("video_sampling")
        if isinstance(told, Mapping):
            size = file.get("size", told.get("video_size"))
            file = {**file, "num_frames": told.get("max_frames"), "fps": told.get("fps"), "size": size}
        super()._read(file, where)

    def sample_frames(  # type: ignore[override] # one option more
        self,
        metadata: VideoMetadata,
        num_frames: int | None = None,
        fps: float | None = None,
        skip_secs: float = 1,
        **kwargs: object,
    ) -> Indices:
        """Which frames of a video are taken: ``fps`` a second, ``num_frames`` at most, at even distances.

        Args:
            skip_secs: seconds at either end that are left out of long videos.

        Raises:
            InputError: nobody knows how fast the video is, or how many frames are wanted.
        """
        o = self.options
        count = o.num_frames if num_frames is None else num_frames
        rate = o.fps if fps is None else fps
        if metadata.fps is None or metadata.duration is None or count is None or rate is None:
            raise InputError(
                "frames are chosen by the video's speed and length",
                where="video_metadata, num_frames, fps",
                remedy="Pass video_metadata= and both numbers, or do_sample_frames=False.",
            )
        total, seconds = metadata.total_num_frames, metadata.duration
        wanted = max(1, min(round(rate * seconds), count))
        first, last = 0, total - 1
        if skip_secs > 0 and seconds - 2 * skip_secs > count * rate:
            first = max(0, int(skip_secs * metadata.fps))
            last = min(int(total - skip_secs * metadata.fps), total - 1)
        if first >= last:
            first, last = 0, total - 1
        return np.unique(np.linspace(first, last, wanted, dtype=int))

    def _steps(self, options: VideoOptions, frames_TCHW: Tensor) -> tuple[Step, ...]:
        o = cast(SplitVideoOptions, options)
        shaping: tuple[Step, ...] = ()
        if o.do_resize:
            if not isinstance(o.max_image_size, LongestEdge) or o.resample is None:
                raise InputError("frames have an edge", where="max_image_size", found=o.max_image_size)
            if not isinstance(o.size, (LongestEdge, Exact)):
                raise InputError("a size is a longest edge, or height and width", where="size", found=o.size)
            edge = o.max_image_size.longest_edge
            size = _Longest(o.size.longest_edge) if isinstance(o.size, LongestEdge) else o.size
            square = Exact(edge, edge)
            shaping = (Resize(size, o.resample, TORCHVISION), Resize(square, o.resample, TORCHVISION))
        return (*shaping, *valued(o, TORCHVISION).valuing)

    def _batch(self, tensors: Sequence[Tensor], options: VideoOptions) -> Batch:
        if not options.do_pad:
            return super()._batch(tensors, options)
        frames, height, width = (max(one.shape[axis] for one in tensors) for axis in (0, 2, 3))
        padded, marks = [], []
        for one in tensors:
            down, across = one.shape[2:]
            padded.append(F.pad(one, (0, width - across, 0, height - down, 0, 0, 0, frames - len(one))))
            marks.append(
                F.pad(torch.ones(frames, down, across, dtype=torch.int64), (0, width - across, 0, height - down))
            )
        kind = options.return_tensors
        return Batch({"pixel_values": gathered(padded, kind), "pixel_attention_mask": gathered(marks, kind)})
