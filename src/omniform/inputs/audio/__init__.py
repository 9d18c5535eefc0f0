"""Sounds: any file becomes mono samples at a model's rate, and those become its features."""

from omniform.inputs.audio.base import FeatureExtractionMixin, SequenceFeatureExtractor
from omniform.inputs.audio.extractor import FeatureExtractor
from omniform.inputs.audio.load import load_audio, open_recording
from omniform.inputs.audio.recording import Recording
from omniform.inputs.audio.registry import FEATURE_EXTRACTORS, feature_extractor
from omniform.inputs.audio.whisper import WhisperFeatureExtractor
from omniform.inputs.audio.write import save_audio

__all__ = [
    "FEATURE_EXTRACTORS", "FeatureExtractionMixin", "FeatureExtractor", "Recording", "SequenceFeatureExtractor",
    "WhisperFeatureExtractor", "feature_extractor", "load_audio", "open_recording", "save_audio",
]  # fmt: skip
