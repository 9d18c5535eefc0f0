"""Processors of models that read a picture and a text at once, and take them side by side as CLIP's does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from omniform.inputs.processors.clip import CLIPProcessor


class ViltProcessor(CLIPProcessor):
    """ViLT's."""


class BridgeTowerProcessor(CLIPProcessor):
    """BridgeTower's: pictures are cropped and normalised unless a call says otherwise."""

    PICTURES: ClassVar[Mapping[str, object]] = {"do_normalize": True, "do_center_crop": True}
