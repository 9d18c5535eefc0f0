"""Conditional DETR: queries stand at points, which tell where to look (https://arxiv.org/abs/2108.06152)."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor, nn

from omniform.architectures.deformable_detector import moved_boxes
from omniform.architectures.detector import ObjectDetector, QueryDecoder, QueryDetector, Searched, View
from omniform.blocks.conditional import WavedContext, point_waves
from omniform.blocks.layers import passed, surviving
from omniform.blocks.positioned import PlacedContext
from omniform.core.context import StepContext
from omniform.core.outputs import DetectorModelOutput


class ConditionalDecoder(QueryDecoder):
    """Layers over queries that stand at points.

    Args:
        query_scale: hidden states to what the waves of their points are multiplied by.
        ref_point_head: what tells a query apart to where it stands, before the sigmoid.
    """

    query_scale: nn.Module
    ref_point_head: nn.Module

    def points(self, places: Tensor) -> Tensor:
        """Where queries stand, x and y as parts of the picture's size. Shape: [B, Q, D] to [B, Q, 2]."""
        before: Tensor = self.ref_point_head(places)
        return before.sigmoid()

    def forward(self, queries_BQD: Tensor, ctx: StepContext) -> tuple[Tensor, Tensor | None]:
        """See :meth:`~omniform.architectures.detector.QueryDecoder.forward`."""
        assert isinstance(ctx, PlacedContext) and ctx.places is not None
        points = point_waves(self.points(ctx.places), queries_BQD.shape[-1])
        x_BQD = on = queries_BQD
        kept: list[Tensor] = []
        first = self.layers[0]
        for number, layer in enumerate(surviving(self.layers, self.layerdrop)):
            ctx.taps.hidden(x_BQD)
            waves = points if layer is first else points * self.query_scale(on)
            x_BQD = passed(layer, number, on, WavedContext.at(ctx, waves))
            on = self.passed_on(x_BQD, kept)
        last: Tensor = self.layernorm(on)
        ctx.taps.hidden(last)
        return last, torch.stack(kept) if kept else None

    def passed_on(self, x_BQD: Tensor, kept: list[Tensor]) -> Tensor:
        """What the next layer reads of a layer's output; what has a loss is kept."""
        return x_BQD


class DeepConditionalDecoder(ConditionalDecoder):
    """The same trained with losses on every layer: each ends in the norm, and its output is kept."""

    def passed_on(self, x_BQD: Tensor, kept: list[Tensor]) -> Tensor:
        kept.append(self.layernorm(x_BQD))
        return kept[-1]


class ConditionalDetector(QueryDetector):
    """A detector without heads; it also tells where its queries stand."""

    decoder: ConditionalDecoder

    def search(self, view: View, **given: Unpack[Searched]) -> DetectorModelOutput:
        out = QueryDetector.search(self, view, **given)
        table = self.query_position_embeddings
        points = self.decoder.points(table(torch.arange(table.num_embeddings, device=view.embeds.device)))
        out.reference_points = points[:, None].expand(-1, view.embeds.shape[0], -1)
        return out


class ConditionalObjectDetector(ObjectDetector):
    """A detector with its heads: a box is how it differs from where its query stands."""

    def predict(self, hidden: Tensor, out: DetectorModelOutput) -> dict[str, Tensor]:
        assert out.reference_points is not None
        boxes = moved_boxes(self.bbox_predictor(hidden), out.reference_points.transpose(0, 1))
        return {"logits": self.class_labels_classifier(hidden), "pred_boxes": boxes}
