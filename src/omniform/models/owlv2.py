"""OWLv2 (https://arxiv.org/abs/2306.09683): an OWL-ViT that also tells how likely a patch shows an object at all."""

from __future__ import annotations

from omniform.architectures.open_detector import ObjectDetector, PatchHead
from omniform.core.config import Common
from omniform.models import owlvit


def detector(c: owlvit.Config, common: Common) -> ObjectDetector:
    """The model that finds."""
    parts = owlvit.detector(c, common)
    return ObjectDetector(
        model=parts.model,
        class_head=parts.class_head,
        box_head=parts.box_head,
        layer_norm=parts.layer_norm,
        objectness_head=PatchHead(c.vision.tower.dim, 1),
    )


_text, _vision, _both = owlvit.towers("owlv2", "Owlv2", 16)
TEXT, VISION = _text.done(), _vision.done()
FAMILY = _both.head("Owlv2ForObjectDetection", "zero-shot-object-detection", detector).done()
