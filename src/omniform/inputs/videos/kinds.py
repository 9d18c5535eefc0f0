"""The classes of video processors, by their names in files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from omniform.inputs.videos.packed import Qwen2VLVideoProcessor, Qwen3VLVideoProcessor
from omniform.inputs.videos.processor import WHOLE, VideoProcessor
from omniform.inputs.videos.shifted import InternVLVideoProcessor
from omniform.inputs.videos.split import SmolVLMVideoProcessor

VIDEO_PROCESSORS: Final[Mapping[str, type[VideoProcessor]]] = {
    kind.__name__: kind
    for kind in (
        *WHOLE,
        InternVLVideoProcessor,
        Qwen2VLVideoProcessor,
        Qwen3VLVideoProcessor,
        SmolVLMVideoProcessor,
    )
}
