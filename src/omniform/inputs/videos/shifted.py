"""InternVL's videos: whole frames, taken out of the middle of equal stretches of a video."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, cast

import torch

from omniform.core.errors import InputError
from omniform.inputs.images.options import Parser
from omniform.inputs.images.sizes import Exact
from omniform.inputs.videos.metadata import VideoMetadata
from omniform.inputs.videos.processor import VideoOptions, VideoProcessor
from omniform.inputs.videos.sampling import Indices, Sampler


def _shift(value: object) -> bool | float:
    if not isinstance(value, (bool, int, float)) or not 0 <= value < float("inf"):
        raise ValueError(value)
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class ShiftedVideoOptions(VideoOptions):
    """The options of InternVL's video processor.

    Attributes:
        initial_shift: where in the video the first frame is taken, in frames; True for half a stretch.
    """

    PARSERS: ClassVar[Mapping[str, Parser]] = {"initial_shift": (_shift, "true, false, or a number of frames")}

    initial_shift: bool | float | None = True


class InternVLVideoProcessor(VideoProcessor):
    """InternVL's."""

    defaults: ClassVar[VideoOptions] = ShiftedVideoOptions(
        do_convert_rgb=True,
        do_resize=True,
        size=Exact(384, 384),
        resample=3,
        do_rescale=True,
        do_normalize=True,
        image_mean=(0.48145466, 0.4578275, 0.40821073),
        image_std=(0.26862954, 0.26130258, 0.27577711),
    )

    def _sampler(self, options: VideoOptions) -> Sampler | None:
        if not options.do_sample_frames:
            return None
        shift = cast(ShiftedVideoOptions, options).initial_shift
        return partial(self.sample_frames, num_frames=options.num_frames, fps=options.fps, initial_shift=shift)

    def sample_frames(  # type: ignore[override] # one option more
        self,
        metadata: VideoMetadata,
        num_frames: int | None = None,
        fps: float | None = None,
        initial_shift: bool | float | None = None,
        **kwargs: object,
    ) -> Indices:
        """Which frames of a video are taken: one of each of so many equal stretches, at the same place in each.

        Args:
            num_frames: how many; it goes before ``fps``.
            fps: how many of a second; at least one in all.
            initial_shift: where in the video the first is taken, in frames; True for half a stretch.

        Raises:
            InputError: neither number is given, there are not so many frames, or nobody knows how fast the video is.
        """
        o, total = cast(ShiftedVideoOptions, self.options), metadata.total_num_frames
        count = o.num_frames if num_frames is None else num_frames
        if count is None and fps is not None and metadata.fps:
            count = max(1, int(total / metadata.fps * fps))
        if count is None:
            raise InputError(
                "frames are chosen by how many there are to be",
                where="num_frames, fps",
                remedy="Pass num_frames=; or fps= and, where files do not say the video's own, video_metadata=.",
            )
        if not 0 < count <= total:
            raise InputError(
                "the video has not so many frames", where="num_frames", expected=f"1 to {total}", found=count
            )
        shift = o.initial_shift if initial_shift is None else initial_shift
        first = total / count / 2 if shift is True else float(shift or 0)
        # Steps are added up in double precision and rounded to single before they are cut to whole numbers.
        indices = torch.arange(first, total, total / count) if first < total else torch.zeros(0)
        return indices.int().numpy()
