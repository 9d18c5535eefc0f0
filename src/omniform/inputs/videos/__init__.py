"""Videos: from any source to the tensors that models read."""

from omniform.inputs.videos.kinds import VIDEO_PROCESSORS
from omniform.inputs.videos.load import load_video
from omniform.inputs.videos.metadata import VideoMetadata
from omniform.inputs.videos.processor import BaseVideoProcessor, VideoProcessor
from omniform.inputs.videos.sampling import default_sample_indices_fn

__all__ = [
    "VIDEO_PROCESSORS", "BaseVideoProcessor", "VideoMetadata", "VideoProcessor", "default_sample_indices_fn",
    "load_video",
]  # fmt: skip
