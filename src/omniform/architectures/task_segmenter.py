"""OneFormer's skeleton (https://arxiv.org/abs/2211.06220): Mask2Former's, whose queries are made of a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Unpack, cast

import torch
from torch import Tensor, nn

from omniform.architectures.detector import QueryDecoder
from omniform.architectures.losses import Items
from omniform.architectures.mask_losses import MaskPrediction, PerPicture
from omniform.architectures.mask_outputs import Looks, OneFormerForUniversalSegmentationOutput, OneFormerModelOutput
from omniform.architectures.mask_segmenter import MaskSegmenter, PictureModel, PixelLevel
from omniform.architectures.pixel_decoder import whole_places
from omniform.architectures.query_decoder import MapMemories, MaskedDecoder, ReluStack, rows_of
from omniform.architectures.task_texts import TextMapper, TextMaskLoss
from omniform.blocks.composed import Composed
from omniform.blocks.positioned import PlacedContext, SinePlaces
from omniform.core.context import Memory, Tapped, Taps
from omniform.core.errors import InputError, check_shape
from omniform.core.host import bounds_of


class QueryModule(Composed):
    """Queries made of a task, and what they come to.

    Args:
        queries_embedder: what tells them apart; the last one's is the task's.
        query_input_projection: of the map that masks are read from, as it is looked at first.
        query_transformer: makes queries of the task.
        decoder: lets them look at maps, each where its own mask is.
        class_embed: a query's vector to its class.
    """

    position_embedding: SinePlaces
    queries_embedder: nn.Embedding
    query_input_projection: nn.Conv2d
    query_transformer: QueryDecoder
    memories: MapMemories
    decoder: MaskedDecoder
    class_embed: nn.Linear


class OneFormerCore(PictureModel):
    """OneFormer without a loss.

    Args:
        task_encoder: the tokens of a task, as numbers, to a vector.
        text_mapper: reads the texts of training; None where it is not there to be trained.
        deep: whether what earlier layers predict is kept.
    """

    pixel_level_module: PixelLevel
    transformer_module: QueryModule
    task_encoder: ReluStack
    text_mapper: TextMapper | None
    deep: bool

    def arrive(self, inputs: dict[str, object]) -> None:
        super().arrive(inputs)
        pixels, task, texts = (inputs.get(name) for name in ("pixel_values", "task_inputs", "text_inputs"))
        assert isinstance(pixels, Tensor)
        if not isinstance(task, Tensor):
            raise InputError("there is no task", where="task_inputs", expected="token ids", found=type(task).__name__)
        wanted: tuple[int, ...] = (len(pixels), self.task_encoder.widths[0])
        check_shape("a task has another length", task.shape, wanted, where="task_inputs")
        if self.text_mapper is None or texts is None:
            return
        length, known = self.text_mapper.text_encoder.length, self.text_mapper.text_encoder.vocabulary
        if not isinstance(texts, Tensor) or texts.dim() not in (2, 3) or texts.is_floating_point():
            found = f"shape {list(texts.shape)}" if isinstance(texts, Tensor) else type(texts).__name__
            raise InputError("texts are token ids", where="text_inputs", expected="shape [B, N, T]", found=found)
        wanted = (len(pixels), *texts.shape[1:-1], length)
        check_shape("texts have another length", texts.shape, wanted, where="text_inputs")
        low, high = bounds_of(texts)
        if not 0 <= low <= high < known:
            raise InputError(
                "no such token", where="text_inputs", expected=f"0 to {known - 1}", found=f"{low} to {high}"
            )

    def made_queries(self, pixels_BCHW: Tensor, task_BD: Tensor) -> Tensor:
        """Queries made of a task, and the task behind them. Shape: [B, Q, D]."""
        raise NotImplementedError

    def forward(
        self,
        pixel_values: Tensor,
        task_inputs: Tensor,
        text_inputs: Tensor | None = None,
        pixel_mask: Tensor | None = None,
        **given: Unpack[Tapped],
    ) -> OneFormerModelOutput:
        """Vectors of queries, classes and masks.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            task_inputs: token ids of what is to be done, Shape: [B, task length].
            text_inputs: token ids of the texts that the queries are to say, Shape: [B, N, text length]; read in
                training only.
            pixel_mask: Shape: [B, height, width]; changes nothing.
            given: see :class:`~omniform.core.context.Tapped`.

        Raises:
            InputError: pictures, masks, tasks or texts of the wrong shape.
        """
        maps = self.pixel_level_module.encoder.maps(pixel_values)
        pixels, read = self.pixel_level_module.decoder(maps, self.step(maps[-1]))
        task = self.task_encoder(task_inputs.to(pixels.dtype))
        texts = None
        if self.text_mapper is not None and text_inputs is not None:
            texts = self.text_mapper(text_inputs, self.step(text_inputs.flatten(0, -2)))
        queries, module = self.made_queries(pixels, task), self.transformer_module
        ctx = self.step(queries, given)
        places = rows_of(module.queries_embedder, pixels.device)
        found = module.decoder(queries, places, module.memories(read), pixels, ctx)
        predictions: list[MaskPrediction] = [
            {"class_queries_logits": module.class_embed(x), "masks_queries_logits": mask}
            for x, mask in zip(found.normed, found.masks, strict=True)
        ]
        *first, last = predictions
        earlier = tuple(first) if self.deep else None
        seen = ctx.taps.wants_hidden
        return OneFormerModelOutput(
            encoder_hidden_states=maps if seen else None,
            pixel_decoder_hidden_states=(pixels, *read) if seen else None,
            transformer_decoder_hidden_states=earlier if seen else None,
            transformer_decoder_object_queries=found.hidden,
            transformer_decoder_contrastive_queries=queries,
            transformer_decoder_mask_predictions=last["masks_queries_logits"],
            transformer_decoder_class_predictions=last["class_queries_logits"],
            transformer_decoder_auxiliary_predictions=earlier,
            text_queries=texts,
            task_token=task,
            attentions=looks(ctx.taps, len(module.decoder.layers)),
        )

    def transformed(self, pixels_BCHW: Tensor, start_BQD: Tensor) -> Tensor:
        """Queries that have looked at places, by what is there. Shape: [B, Q, D] in and out."""
        module = self.transformer_module
        memory = whole_places(module.position_embedding, pixels_BCHW).expand(pixels_BCHW.shape[0], -1, -1)
        there = module.query_input_projection(pixels_BCHW).flatten(2).transpose(1, 2)
        places = rows_of(module.queries_embedder, pixels_BCHW.device)[:, :-1]
        ctx = self.step(start_BQD).with_(memory=Memory(memory))
        hidden: Tensor = module.query_transformer(start_BQD, PlacedContext.of(ctx, places, there))[0]
        return hidden


class NormedTask(OneFormerCore):
    """The task is normed, and queries begin as it (``use_task_norm``)."""

    def made_queries(self, pixels_BCHW: Tensor, task_BD: Tensor) -> Tensor:
        module = self.transformer_module
        task = module.decoder.layernorm(task_BD)[:, None]
        start = task.expand(-1, module.queries_embedder.num_embeddings - 1, -1)
        return torch.cat((self.transformed(pixels_BCHW, start), task), dim=1)


class PlainTask(OneFormerCore):
    """The task stays as it is, and queries begin as zeros."""

    def made_queries(self, pixels_BCHW: Tensor, task_BD: Tensor) -> Tensor:
        task = task_BD[:, None]
        start = torch.zeros_like(task).expand(-1, self.transformer_module.queries_embedder.num_embeddings - 1, -1)
        return torch.cat((self.transformed(pixels_BCHW, start), task), dim=1)


def looks(taps: Taps, layers: int) -> Looks:
    """What queries looked at in each layer."""
    if not taps.wants_attentions:
        return ((),) * layers
    return tuple((own, over.mean(1)) for own, over in zip(taps.attentions, taps.cross_attentions, strict=True))


class OneFormer(MaskSegmenter):
    """OneFormer with its loss."""

    criterion: TextMaskLoss

    def queries(self) -> int:
        return cast(OneFormerCore, self.model).transformer_module.queries_embedder.num_embeddings

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        # Pictures that are compared with one another cannot be divided.
        compares = cast(OneFormerCore, self.model).text_mapper is not None and self.criterion.temperature is not None
        return None if compares else super().loss_items(inputs)

    def forward(
        self,
        pixel_values: Tensor,
        task_inputs: Tensor,
        text_inputs: Tensor | None = None,
        mask_labels: PerPicture | None = None,
        class_labels: PerPicture | None = None,
        pixel_mask: Tensor | None = None,
        output_auxiliary_logits: bool | None = None,
        num_items_in_batch: Items = None,
        **given: Unpack[Tapped],
    ) -> OneFormerForUniversalSegmentationOutput:
        """Classes and masks; see :meth:`OneFormerCore.forward` for the other inputs.

        Args:
            mask_labels: of each picture's objects, Shape: [n, height, width] each; gives a loss with ``class_labels``.
            class_labels: of the same objects, Shape: [n] each.
            output_auxiliary_logits: whether to return what earlier layers predict, where they do.
            num_items_in_batch: what the loss's sums are divided by, if not this batch's own; see :meth:`loss_items`.

        Raises:
            InputError: pictures, masks, tasks, texts or labels of the wrong shape; texts are missing where they have a
                loss.
        """
        core = cast(OneFormerCore, self.model)
        told = {**given, "output_hidden_states": bool(given.get("output_hidden_states")) or core.deep}
        out = cast(
            OneFormerModelOutput,
            self.model(pixel_values, task_inputs, text_inputs, pixel_mask, **told),
        )
        queries, earlier = out.transformer_decoder_contrastive_queries, out.transformer_decoder_auxiliary_predictions
        scores, masks = out.transformer_decoder_class_predictions, out.transformer_decoder_mask_predictions
        assert queries is not None and scores is not None and masks is not None
        loss = None
        if mask_labels is not None and class_labels is not None:
            if core.text_mapper is not None and self.criterion.temperature is not None and out.text_queries is None:
                raise InputError("the loss compares queries with texts", where="text_inputs", expected="token ids")
            last: MaskPrediction = {"class_queries_logits": scores, "masks_queries_logits": masks}
            loss = self.criterion.beside_texts(
                [last, *(earlier or ())], mask_labels, class_labels, queries, out.text_queries, num_items_in_batch
            )
        return OneFormerForUniversalSegmentationOutput(
            loss=loss,
            class_queries_logits=scores,
            masks_queries_logits=masks,
            auxiliary_predictions=earlier if self.shows(output_auxiliary_logits) else None,
            encoder_hidden_states=out.encoder_hidden_states,
            pixel_decoder_hidden_states=out.pixel_decoder_hidden_states,
            transformer_decoder_hidden_states=out.transformer_decoder_hidden_states,
            transformer_decoder_object_queries=out.transformer_decoder_object_queries,
            transformer_decoder_contrastive_queries=queries,
            transformer_decoder_mask_predictions=masks,
            transformer_decoder_class_predictions=scores,
            transformer_decoder_auxiliary_predictions=earlier,
            text_queries=out.text_queries,
            task_token=out.task_token,
            attentions=out.attentions,
        )
