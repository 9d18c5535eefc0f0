"""Pictures: from any source to the tensors that vision models read, and from their outputs back to pixels."""

from omniform.inputs.images.base import BaseImageProcessor, ImageProcessingMixin
from omniform.inputs.images.detr import DetrImageProcessor
from omniform.inputs.images.frames import load_frames
from omniform.inputs.images.kinds import image_processor
from omniform.inputs.images.load import load_image
from omniform.inputs.images.processor import ImageProcessor
from omniform.inputs.images.table import KINDS

__all__ = [
    "KINDS", "BaseImageProcessor", "DetrImageProcessor", "ImageProcessingMixin", "ImageProcessor", "image_processor",
    "load_frames", "load_image",
]  # fmt: skip
