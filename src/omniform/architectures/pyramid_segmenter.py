"""MaskFormer (https://arxiv.org/abs/2107.06278) as a skeleton: queries look at one map and are drawn on another."""

from __future__ import annotations

from typing import Unpack, cast

import torch
from torch import Tensor, nn

from omniform.architectures.detector import QueryDecoder
from omniform.architectures.losses import Items
from omniform.architectures.mask_losses import PerPicture
from omniform.architectures.mask_outputs import MaskFormerForInstanceSegmentationOutput, MaskFormerModelOutput
from omniform.architectures.mask_segmenter import MaskSegmenter, PictureModel, PixelLevel, predicted
from omniform.architectures.pixel_decoder import whole_places
from omniform.architectures.query_decoder import ReluStack, drawn, rows_of
from omniform.blocks.composed import Composed
from omniform.blocks.positioned import PlacedContext, SinePlaces
from omniform.core.context import Memory, Tapped
from omniform.core.outputs import Layers


class QueryModule(Composed):
    """Queries that look at the backbone's coarsest map."""

    input_projection: nn.Module
    position_embedding: SinePlaces
    queries_embedder: nn.Embedding
    decoder: QueryDecoder


class MaskFormerCore(PictureModel):
    """MaskFormer without heads."""

    pixel_level_module: PixelLevel
    transformer_module: QueryModule

    def forward(
        self, pixel_values: Tensor, pixel_mask: Tensor | None = None, **given: Unpack[Tapped]
    ) -> MaskFormerModelOutput:
        """Vectors of queries and of pixels.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            pixel_mask: Shape: [B, height, width]; changes nothing.
            given: see :class:`~omniform.core.context.Tapped`.

        Raises:
            InputError: pictures or masks of the wrong shape.
        """
        maps = self.pixel_level_module.encoder.maps(pixel_values)
        pixels, fine = self.pixel_level_module.decoder(maps)
        module = self.transformer_module
        x = module.input_projection(maps[-1])
        table = rows_of(module.queries_embedder, x.device).expand(x.shape[0], -1, -1)
        queries = torch.zeros_like(table)
        ctx = self.step(queries, given).with_(memory=Memory(x.flatten(2).transpose(1, 2)))
        places = whole_places(module.position_embedding, x)
        hidden, _ = module.decoder(queries, PlacedContext.of(ctx, table, places))
        seen = ctx.taps.hidden_or_none
        return MaskFormerModelOutput(
            encoder_last_hidden_state=maps[-1],
            pixel_decoder_last_hidden_state=pixels,
            transformer_decoder_last_hidden_state=hidden,
            encoder_hidden_states=None if seen is None else maps,
            pixel_decoder_hidden_states=None if seen is None else fine,
            transformer_decoder_hidden_states=seen,
            hidden_states=None if seen is None else (*maps, *fine, *seen),
            attentions=ctx.taps.attentions_or_none,
        )


class MaskFormer(MaskSegmenter):
    """MaskFormer with its heads: a class (or none) and a mask per query."""

    class_predictor: nn.Linear
    mask_embedder: ReluStack

    def queries(self) -> int:
        return cast(MaskFormerCore, self.model).transformer_module.queries_embedder.num_embeddings

    def run(self, pixels: Tensor, mask: Tensor | None, given: Tapped) -> tuple[MaskFormerModelOutput, Layers]:
        """The model's output, and the queries' vectors that predict."""
        out = cast(MaskFormerModelOutput, self.model(pixels, mask, **given))
        assert out.transformer_decoder_last_hidden_state is not None
        return out, (out.transformer_decoder_last_hidden_state,)

    def forward(
        self,
        pixel_values: Tensor,
        mask_labels: PerPicture | None = None,
        class_labels: PerPicture | None = None,
        pixel_mask: Tensor | None = None,
        output_auxiliary_logits: bool | None = None,
        num_items_in_batch: Items = None,
        **given: Unpack[Tapped],
    ) -> MaskFormerForInstanceSegmentationOutput:
        """Classes and masks.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            mask_labels: of each picture's objects, Shape: [n, height, width] each; gives a loss with ``class_labels``.
            class_labels: of the same objects, Shape: [n] each.
            pixel_mask: Shape: [B, height, width]; changes nothing.
            output_auxiliary_logits: whether to return what earlier layers predict, where they do.
            num_items_in_batch: what the loss's sums are divided by, if not this batch's own; see :meth:`loss_items`.
            given: see :class:`~omniform.core.context.Tapped`.

        Raises:
            InputError: pictures, masks or labels of the wrong shape.
        """
        out, states = self.run(pixel_values, pixel_mask, given)
        pixels = out.pixel_decoder_last_hidden_state
        assert pixels is not None
        *first, last = predicted(
            [self.class_predictor(x) for x in states], [drawn(self.mask_embedder(x), pixels) for x in states]
        )
        loss = None
        if mask_labels is not None and class_labels is not None:
            loss = self.criterion([last, *first], mask_labels, class_labels, num_items_in_batch)
        return MaskFormerForInstanceSegmentationOutput(
            loss=loss,
            class_queries_logits=last["class_queries_logits"],
            masks_queries_logits=last["masks_queries_logits"],
            auxiliary_logits=first if self.shows(output_auxiliary_logits) else None,
            encoder_last_hidden_state=out.encoder_last_hidden_state,
            pixel_decoder_last_hidden_state=pixels,
            transformer_decoder_last_hidden_state=out.transformer_decoder_last_hidden_state,
            encoder_hidden_states=out.encoder_hidden_states,
            pixel_decoder_hidden_states=out.pixel_decoder_hidden_states,
            transformer_decoder_hidden_states=out.transformer_decoder_hidden_states,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
        )


class DeepMaskFormer(MaskFormer):
    """The same where every layer predicts, and what the queries begin as."""

    def run(self, pixels: Tensor, mask: Tensor | None, given: Tapped) -> tuple[MaskFormerModelOutput, Layers]:
        out = cast(MaskFormerModelOutput, self.model(pixels, mask, **{**given, "output_hidden_states": True}))
        states = out.transformer_decoder_hidden_states
        assert states is not None
        if not given.get("output_hidden_states"):
            out.encoder_hidden_states = out.pixel_decoder_hidden_states = None
            out.transformer_decoder_hidden_states = out.hidden_states = None
        return out, states
