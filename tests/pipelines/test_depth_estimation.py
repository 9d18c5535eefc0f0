"""Depth of pictures end to end, against the reference's pipeline: processor, model, depth in pixels of the picture."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from seen import picture

from reference import close, omniform, saved_reference, transformers

sys.path.insert(0, str(Path(__file__).parent.parent / "parity"))

import test_depth_anything
import test_dpt
import test_zoedepth

MODELS = {
    "DPT": (
        test_dpt.config(**test_dpt.TINY),
        transformers.DPTImageProcessor(size={"height": 16, "width": 16}),
    ),
    "DepthAnything": (
        test_depth_anything.config(**test_depth_anything.TINY),
        transformers.DPTImageProcessor(
            size={"height": 24, "width": 24}, keep_aspect_ratio=True, ensure_multiple_of=4, resample=3
        ),
    ),
    "ZoeDepth": (
        test_zoedepth.config(**{**test_zoedepth.TINY, **test_zoedepth.DOMAINS}),
        transformers.ZoeDepthImageProcessor(size={"height": 24, "width": 32}, ensure_multiple_of=4),
    ),
}


@pytest.mark.parametrize("kind", MODELS)
def test_as_the_reference(tmp_path: Path, kind: str) -> None:
    config, processor = MODELS[kind]
    saved_reference(getattr(transformers, f"{kind}ForDepthEstimation"), config, tmp_path, scale=0.1)
    processor.save_pretrained(tmp_path)
    ours = omniform.pipeline("depth-estimation", model=str(tmp_path))
    theirs = transformers.pipeline("depth-estimation", model=str(tmp_path))
    for one in (picture(90, 60, 1), picture(41, 77, 2)):
        found, expected = ours(one), theirs(one)
        spread = expected["predicted_depth"].abs().max().clamp(min=1e-6)
        close(found["predicted_depth"] / spread, expected["predicted_depth"] / spread, tolerance=2e-2)
        assert found["depth"].size == expected["depth"].size == one.size
        pixels = [np.asarray(answer["depth"], dtype=float) for answer in (found, expected)]
        assert np.abs(pixels[0] - pixels[1]).mean() < 8
