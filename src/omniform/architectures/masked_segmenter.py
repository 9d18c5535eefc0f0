"""Mask2Former (https://arxiv.org/abs/2112.01527) as a skeleton: queries look at three maps, where their masks are."""

from __future__ import annotations

from typing import Unpack, cast

from torch import Tensor, nn

from omniform.architectures.losses import Items
from omniform.architectures.mask_losses import PerPicture
from omniform.architectures.mask_outputs import Mask2FormerForUniversalSegmentationOutput, Mask2FormerModelOutput
from omniform.architectures.mask_segmenter import MaskSegmenter, PictureModel, PixelLevel, predicted
from omniform.architectures.query_decoder import MapMemories, MaskedDecoder, rows_of
from omniform.blocks.composed import Composed
from omniform.core.context import Tapped


class QueryModule(Composed):
    """Queries that look at maps, each where its own mask is."""

    queries_embedder: nn.Embedding
    queries_features: nn.Embedding
    memories: MapMemories
    decoder: MaskedDecoder


class Mask2FormerCore(PictureModel):
    """Mask2Former without a head for classes."""

    pixel_level_module: PixelLevel
    transformer_module: QueryModule

    def forward(
        self, pixel_values: Tensor, pixel_mask: Tensor | None = None, **given: Unpack[Tapped]
    ) -> Mask2FormerModelOutput:
        """Vectors of queries and of pixels, and masks.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            pixel_mask: Shape: [B, height, width]; changes nothing.
            given: see :class:`~omniform.core.context.Tapped`.

        Raises:
            InputError: pictures or masks of the wrong shape.
        """
        maps = self.pixel_level_module.encoder.maps(pixel_values)
        pixels, read = self.pixel_level_module.decoder(maps, self.step(maps[-1]))
        module = self.transformer_module
        queries = rows_of(module.queries_features, pixels.device).expand(pixels.shape[0], -1, -1)
        places = rows_of(module.queries_embedder, pixels.device)
        ctx = self.step(queries, given)
        found = module.decoder(queries, places, module.memories(read), pixels, ctx)
        seen = ctx.taps.hidden_or_none
        return Mask2FormerModelOutput(
            encoder_last_hidden_state=maps[-1],
            pixel_decoder_last_hidden_state=pixels,
            transformer_decoder_last_hidden_state=found.hidden,
            encoder_hidden_states=None if seen is None else maps,
            pixel_decoder_hidden_states=None if seen is None else read,
            transformer_decoder_hidden_states=None if seen is None else tuple(x.transpose(0, 1) for x in seen),
            transformer_decoder_intermediate_states=(
                None if seen is None else tuple(x.transpose(0, 1) for x in found.normed)
            ),
            masks_queries_logits=found.masks,
            attentions=ctx.taps.attentions_or_none,
        )


class Mask2Former(MaskSegmenter):
    """Mask2Former with its head: a class (or none) per query, beside its mask."""

    class_predictor: nn.Linear

    def queries(self) -> int:
        return cast(Mask2FormerCore, self.model).transformer_module.queries_embedder.num_embeddings

    def forward(
        self,
        pixel_values: Tensor,
        mask_labels: PerPicture | None = None,
        class_labels: PerPicture | None = None,
        pixel_mask: Tensor | None = None,
        output_auxiliary_logits: bool | None = None,
        num_items_in_batch: Items = None,
        **given: Unpack[Tapped],
    ) -> Mask2FormerForUniversalSegmentationOutput:
        """Classes and masks.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            mask_labels: of each picture's objects, Shape: [n, height, width] each; gives a loss with ``class_labels``.
            class_labels: of the same objects, Shape: [n] each.
            pixel_mask: Shape: [B, height, width]; changes nothing.
            output_auxiliary_logits: whether to return what earlier layers predict.
            num_items_in_batch: what the loss's sums are divided by, if not this batch's own; see :meth:`loss_items`.
            given: see :class:`~omniform.core.context.Tapped`.

        Raises:
            InputError: pictures, masks or labels of the wrong shape.
        """
        # The vectors that classes are told from are among the hidden states.
        told = {**given, "output_hidden_states": True}
        out = cast(Mask2FormerModelOutput, self.model(pixel_values, pixel_mask, **told))
        states, masks = out.transformer_decoder_intermediate_states, out.masks_queries_logits
        assert states is not None and masks is not None
        learns = mask_labels is not None and class_labels is not None
        shows = self.shows(output_auxiliary_logits)
        wanted = slice(None) if learns or shows else slice(-1, None)
        classes = [self.class_predictor(x.transpose(0, 1)) for x in states[wanted]]
        *first, last = predicted(classes, masks[wanted])
        loss = None
        if mask_labels is not None and class_labels is not None:
            loss = self.criterion([last, *first], mask_labels, class_labels, num_items_in_batch)
        seen = bool(given.get("output_hidden_states"))
        return Mask2FormerForUniversalSegmentationOutput(
            loss=loss,
            class_queries_logits=last["class_queries_logits"],
            masks_queries_logits=last["masks_queries_logits"],
            auxiliary_logits=first if shows else None,
            encoder_last_hidden_state=out.encoder_last_hidden_state,
            pixel_decoder_last_hidden_state=out.pixel_decoder_last_hidden_state,
            transformer_decoder_last_hidden_state=out.transformer_decoder_last_hidden_state,
            encoder_hidden_states=out.encoder_hidden_states if seen else None,
            pixel_decoder_hidden_states=out.pixel_decoder_hidden_states if seen else None,
            transformer_decoder_hidden_states=out.transformer_decoder_hidden_states if seen else None,
            attentions=out.attentions,
        )
