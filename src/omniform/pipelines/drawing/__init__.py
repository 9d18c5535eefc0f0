"""Answers drawn on pictures: boxes, masks, scores, depth, attention. Each function gives a new picture in RGB.

Sizes follow the picture, which is enlarged where it is too small to write on. Every text stands on a ground of its own,
so pictures may be light or dark. Pillow alone draws.
"""

from __future__ import annotations

from omniform.pipelines.drawing.boxes import draw_boxes as draw_boxes
from omniform.pipelines.drawing.colours import colour_of as colour_of
from omniform.pipelines.drawing.maps import draw_attention as draw_attention
from omniform.pipelines.drawing.maps import draw_depth as draw_depth
from omniform.pipelines.drawing.maps import looked_at as looked_at
from omniform.pipelines.drawing.masks import draw_masks as draw_masks
from omniform.pipelines.drawing.scores import draw_scores as draw_scores
from omniform.pipelines.drawing.sheet import Print as Print
from omniform.pipelines.drawing.sheet import draw_sheet as draw_sheet
