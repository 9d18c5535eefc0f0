"""Processors of pictures and sounds by the names of their classes."""

from __future__ import annotations

import pickle

import pytest
import torch
from PIL import Image

from omniform.inputs.images import DetrImageProcessor
from reference import omniform, transformers


def test_processors_by_their_names(tmp_path):
    """``ViTImageProcessor(size=...)``: the kind with options changed, as a class of its own."""
    made = omniform.ViTImageProcessor(size={"height": 12, "width": 16}, image_std=[0.3, 0.3, 0.3])
    theirs = transformers.ViTImageProcessor(size={"height": 12, "width": 16}, image_std=[0.3, 0.3, 0.3])
    picture = Image.new("RGB", (12, 12), (200, 10, 90))
    ours = made(picture, return_tensors="pt")["pixel_values"]
    assert torch.allclose(ours, theirs(picture, return_tensors="pt")["pixel_values"], atol=1 / 255)
    assert omniform.ViTImageProcessorFast is omniform.ViTFeatureExtractor is omniform.ViTImageProcessor
    made.save_pretrained(tmp_path)
    for load in (omniform.AutoImageProcessor, omniform.ViTImageProcessor):
        loaded = load.from_pretrained(tmp_path)
        assert type(loaded) is omniform.ViTImageProcessor and loaded.to_dict() == made.to_dict()
    assert type(pickle.loads(pickle.dumps(made))) is omniform.ViTImageProcessor
    other = omniform.CLIPImageProcessor.from_pretrained(tmp_path)
    assert type(other) is omniform.CLIPImageProcessor and other.options.do_center_crop
    assert isinstance(omniform.DetrImageProcessor(), DetrImageProcessor)
    assert type(pickle.loads(pickle.dumps(omniform.DetrImageProcessor()))) is omniform.DetrImageProcessor
    with pytest.raises(TypeError, match="image_std"):
        omniform.ViTImageProcessor(image_sdt=[1, 1, 1])
    sounds = omniform.WhisperFeatureExtractor(feature_size=20, chunk_length=2)
    assert sounds(torch.zeros(100).numpy(), sampling_rate=16000)["input_features"][0].shape == (20, 200)
    with pytest.raises(AttributeError):
        omniform.NobodysImageProcessor  # noqa: B018
