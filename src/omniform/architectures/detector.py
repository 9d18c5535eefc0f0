"""Detectors that look for objects with queries: a backbone, an encoder of its map, a decoder of queries, two heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Unpack, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.backbone import Backbone
from omniform.architectures.detection import SetLoss, Target
from omniform.architectures.losses import Items
from omniform.architectures.model import Model
from omniform.blocks.composed import Composed
from omniform.blocks.layers import passed, run, surviving
from omniform.blocks.positioned import PlacedContext
from omniform.core.context import Memory, StepContext, Tapped
from omniform.core.errors import InputError, check_shape
from omniform.core.host import is_all_true
from omniform.core.outputs import BaseModelOutput, DetectorModelOutput, ObjectDetectionOutput


class Places(Protocol):
    """Position vectors of a map: Shape: [B, H, W] (True inside the picture) to [B, H * W, D]."""

    def __call__(self, real_BHW: Tensor, dtype: torch.dtype) -> Tensor: ...


class Searched(Tapped, total=False):
    """What may come with what the backbone sees.

    Attributes:
        decoder_attention_mask: Shape: [B, Q], 1 for queries that may be looked at.
        encoder_outputs: what the encoder gave for these pictures, to leave it out.
        decoder_inputs_embeds: Shape: [B, Q, D], what the queries start from in place of zeros.
    """

    decoder_attention_mask: Tensor | None
    encoder_outputs: BaseModelOutput | None
    decoder_inputs_embeds: Tensor | None


@dataclass(frozen=True, slots=True)
class View:
    """What the backbone saw.

    Attributes:
        maps: feature maps from fine to coarse, Shape: [B, C, H, W] each; none where it was bypassed.
        embeds: the coarsest map, projected, row by row, Shape: [B, S, D].
        places: Shape: [B, S, D].
        real: Shape: [B, H, W], True inside the picture, False in its padding; of the coarsest map.
        padded: whether any place may be padding.
    """

    maps: tuple[Tensor, ...]
    embeds: Tensor
    places: Tensor
    real: Tensor
    padded: bool

    @property
    def padding(self) -> Tensor | None:
        """Shape: [B, S], True for real places; None where all are."""
        return self.real.flatten(1) if self.padded else None


class QueryEncoder(Composed):
    """Layers over the places of a feature map."""

    layers: nn.ModuleList
    dropout: float = 0.0

    def forward(self, embeds_BSD: Tensor, ctx: StepContext) -> Tensor:
        """Shape: [B, S, D] in and out."""
        return run(self.layers, F.dropout(embeds_BSD, self.dropout, self.training), ctx)


class NormedQueryEncoder(QueryEncoder):
    """The same with a norm behind what is told of it.

    Args:
        layerdrop: how likely a layer is left out in training.
    """

    layernorm: nn.Module
    layerdrop: float = 0.0

    def forward(self, embeds_BSD: Tensor, ctx: StepContext) -> Tensor:
        x_BSD = F.dropout(embeds_BSD, self.dropout, self.training)
        normed: Tensor = self.layernorm(run(surviving(self.layers, self.layerdrop), x_BSD, ctx))
        return normed


class QueryDecoder(Composed):
    """Layers over object queries.

    Args:
        layerdrop: how likely a layer is left out in training.
    """

    layers: nn.ModuleList
    layernorm: nn.Module
    layerdrop: float = 0.0

    def forward(self, queries_BQD: Tensor, ctx: StepContext) -> tuple[Tensor, Tensor | None]:
        """The last hidden states, Shape: [B, Q, D], and those of each layer, Shape: [layers, B, Q, D], if kept."""
        return run(surviving(self.layers, self.layerdrop), queries_BQD, ctx, self.layernorm), None


class DeepQueryDecoder(QueryDecoder):
    """A decoder trained with losses on every layer: each ends in the norm, and its output is kept."""

    def forward(self, queries_BQD: Tensor, ctx: StepContext) -> tuple[Tensor, Tensor | None]:
        """The last hidden states, Shape: [B, Q, D], and those of each layer, Shape: [layers, B, Q, D]."""
        kept: list[Tensor] = []
        x_BQD = queries_BQD
        for number, layer in enumerate(surviving(self.layers, self.layerdrop)):
            ctx.taps.hidden(self.noted(x_BQD, kept))
            x_BQD = passed(layer, number, kept[-1] if kept else x_BQD, ctx)
            kept.append(self.layernorm(x_BQD))
        last: Tensor = self.layernorm(kept[-1])
        ctx.taps.hidden(last)
        return last, torch.stack(kept)

    def noted(self, x_BQD: Tensor, kept: Sequence[Tensor]) -> Tensor:
        """What is told of hidden states between layers: as they were before the norm that they are passed on after."""
        return x_BQD


class NormNotingQueryDecoder(DeepQueryDecoder):
    """The same that tells of hidden states as they are passed on, after the norm (Table Transformer)."""

    def noted(self, x_BQD: Tensor, kept: Sequence[Tensor]) -> Tensor:
        return kept[-1] if kept else x_BQD


class QueryDetector(Model):
    """A detector without heads: pictures in, one vector per object query out.

    Args:
        backbone: pictures to feature maps, from fine to coarse.
        input_projection: the coarsest map to the width of the encoder.
        position_embedding: position vectors of that map.
        query_position_embeddings: what tells the queries apart.
    """

    main_input = "pixel_values"

    backbone: Backbone
    input_projection: nn.Conv2d
    position_embedding: Places
    encoder: QueryEncoder
    query_position_embeddings: nn.Embedding
    decoder: QueryDecoder

    def arrive(self, inputs: dict[str, object]) -> None:
        arrive_covered(inputs)

    def freeze_backbone(self) -> None:
        """Train everything but the backbone."""
        self.backbone.requires_grad_(False)

    def unfreeze_backbone(self) -> None:
        """Train the backbone too."""
        self.backbone.requires_grad_(True)

    def see(self, pixel_values: Tensor, pixel_mask: Tensor | None = None) -> View:
        """Run the backbone.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            pixel_mask: Shape: [B, height, width], 1 inside the picture, 0 in its padding.

        Raises:
            InputError: pictures or masks of another shape.
        """
        maps = self.backbone.maps(pixel_values)
        rows, height, width = pixel_values.shape[0], *pixel_values.shape[2:]
        padded = pixel_mask is not None
        if pixel_mask is None:
            pixel_mask = pixel_values.new_ones(rows, height, width)
        check_shape("the mask does not cover the pictures", pixel_mask.shape, (rows, height, width), where="pixel_mask")
        real = shrunk(pixel_mask, maps[-1].shape[-2:])
        embeds = self.input_projection(maps[-1]).flatten(2).transpose(1, 2)
        return View(maps, embeds, self.position_embedding(real, embeds.dtype), real, padded)

    def imagine(self, embeds: Tensor, pixel_mask: Tensor | None = None) -> View:
        """Take a square map that was made elsewhere for what the backbone saw.

        Args:
            embeds: Shape: [B, side * side, D].
            pixel_mask: Shape: [B, height, width].

        Raises:
            InputError: the map is not square or not as wide as the model.
        """
        side = int(embeds.shape[1] ** 0.5)
        width = self.query_position_embeddings.embedding_dim
        if embeds.dim() != 3 or side * side != embeds.shape[1] or embeds.shape[2] != width:
            raise InputError(
                "the embeddings are no square map",
                where="inputs_embeds",
                expected=f"shape [batch, side * side, {width}]",
                found=f"shape {list(embeds.shape)}",
            )
        whole = torch.ones(embeds.shape[0], side, side, dtype=torch.bool, device=embeds.device)
        real = whole if pixel_mask is None else shrunk(pixel_mask, whole.shape[1:])
        return View((), embeds, self.position_embedding(whole, embeds.dtype), real, pixel_mask is not None)

    def search(self, view: View, **given: Unpack[Searched]) -> DetectorModelOutput:
        """Encode what was seen and let the queries look at it; see :class:`Searched`."""
        encoded = given.get("encoder_outputs")
        if encoded is None:
            ctx = self.step(view.embeds, given, attention_mask=view.padding)
            hidden = self.encoder(view.embeds, PlacedContext.of(ctx, view.places))
            encoded = BaseModelOutput(last_hidden_state=hidden, **ctx.taps.noted())
        table = self.query_position_embeddings
        numbers = torch.arange(table.num_embeddings, device=view.embeds.device)
        places: Tensor = table(numbers)[None].expand(view.embeds.shape[0], -1, -1)
        embeds = given.get("decoder_inputs_embeds")
        queries = torch.zeros_like(places) if embeds is None else embeds
        ctx = self.step(queries, given, attention_mask=given.get("decoder_attention_mask"))
        ctx = ctx.with_(memory=Memory(encoded.last_hidden_state, view.padding))
        hidden, intermediate = self.decoder(queries, PlacedContext.of(ctx, places, view.places))
        return DetectorModelOutput(
            last_hidden_state=hidden,
            decoder_hidden_states=ctx.taps.hidden_or_none,
            decoder_attentions=ctx.taps.attentions_or_none,
            cross_attentions=ctx.taps.cross_or_none,
            encoder_last_hidden_state=encoded.last_hidden_state,
            encoder_hidden_states=encoded.hidden_states,
            encoder_attentions=encoded.attentions,
            intermediate_hidden_states=intermediate,
        )

    def forward(
        self,
        pixel_values: Tensor | None = None,
        pixel_mask: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        **given: Unpack[Tapped],
    ) -> DetectorModelOutput:
        """Hidden states of the object queries.

        Args:
            pixel_values: Shape: [B, channels, height, width]; smaller pictures are padded at the right and bottom.
            pixel_mask: Shape: [B, height, width], 1 inside the picture, 0 in its padding.
            inputs_embeds: Shape: [B, side * side, D], a projected map in place of ``pixel_values``.
            given: see :class:`Searched`, as for the others.

        Raises:
            InputError: pictures, masks or embeddings of the wrong shape.
        """
        if inputs_embeds is not None:
            view = self.imagine(inputs_embeds, pixel_mask)
        elif pixel_values is not None:
            view = self.see(pixel_values, pixel_mask)
        else:
            raise InputError("there are no pictures", expected="pixel_values or inputs_embeds")
        return self.search(
            view,
            decoder_attention_mask=decoder_attention_mask,
            encoder_outputs=encoder_outputs,
            decoder_inputs_embeds=decoder_inputs_embeds,
            **given,
        )


class BoxHead(nn.Module):
    """Three projections with ReLU between them, from a query's vector to its box."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(dim, outer) for outer in (dim, dim, 4))

    def forward(self, x: Tensor) -> Tensor:
        """Shape: [..., D] to [..., 4], each between 0 and 1."""
        first, second, third = self.layers
        box: Tensor = third(F.relu(second(F.relu(first(x))))).sigmoid()
        return box


class ObjectDetector(Model):
    """A detector with its heads: a class (or none) and a box per query.

    Args:
        model: the detector without heads.
        class_labels_classifier: a query's vector to the scores of the classes and of "no object".
        bbox_predictor: a query's vector to its box.
        loss: the loss against the objects that are there.
    """

    main_input = "pixel_values"

    model: QueryDetector
    class_labels_classifier: nn.Linear
    bbox_predictor: nn.Module
    loss: SetLoss

    def predict(self, hidden: Tensor, out: DetectorModelOutput) -> dict[str, Tensor]:
        """``logits`` and ``pred_boxes`` of queries' hidden states. Shape: [..., Q, D]."""
        return {"logits": self.class_labels_classifier(hidden), "pred_boxes": self.bbox_predictor(hidden)}

    def answer(
        self,
        out: DetectorModelOutput,
        labels: Sequence[Target] | None,
        pred_masks: Tensor | None = None,
        items: Items = None,
    ) -> ObjectDetectionOutput:
        """What was found and, against labels, how far it is from what is there.

        Args:
            labels: see :meth:`forward`.
            pred_masks: the objects' outlines, of a model that draws them.
            items: see :meth:`loss_items`.
        """
        predicted = self.predict(out.last_hidden_state, out)
        loss = parts = earlier = None
        if labels is not None:
            if out.intermediate_hidden_states is not None:
                earlier = [self.predict(hidden, out) for hidden in out.intermediate_hidden_states[:-1]]
            loss, parts = self.loss(predicted, labels, pred_masks=pred_masks, auxiliary=earlier or (), items=items)
        return ObjectDetectionOutput(
            loss=loss,
            loss_dict=parts,
            logits=predicted["logits"],
            pred_boxes=predicted["pred_boxes"],
            pred_masks=pred_masks,
            auxiliary_outputs=earlier,
            last_hidden_state=out.last_hidden_state,
            **out.noted(),
        )

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        labels = inputs.get("labels")
        if not isinstance(labels, Sequence) or not labels:
            return None
        return torch.tensor(
            self.loss.counts(labels, self.model.query_position_embeddings.num_embeddings), dtype=torch.float32
        )

    def forward(
        self,
        *args: Tensor,
        labels: Sequence[Target] | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **inputs: object,
    ) -> ObjectDetectionOutput:
        """Classes and boxes; see :meth:`QueryDetector.forward` for the other inputs.

        Args:
            labels: one per picture, each with ``class_labels`` [n] and ``boxes`` [n, 4] (centre x and y, width and
                height, as parts of the picture's size); gives a loss.
            num_items_in_batch: what the loss's sums are divided by, if not this batch's own; see :meth:`loss_items`.
        """
        return self.answer(cast(DetectorModelOutput, self.model(*args, **inputs)), labels, items=num_items_in_batch)


def arrive_covered(inputs: dict[str, object]) -> None:
    """Leave out a mask that masks nothing of the pictures that it fits."""
    pixels, mask = inputs.get("pixel_values"), inputs.get("pixel_mask")
    if not isinstance(pixels, Tensor) or not isinstance(mask, Tensor) or pixels.dim() != 4:
        return
    if mask.shape == (pixels.shape[0], *pixels.shape[2:]) and is_all_true(mask):
        inputs["pixel_mask"] = None


def shrunk(mask_BHW: Tensor, size: Sequence[int]) -> Tensor:
    """A mask of pictures as one of a map, by nearest neighbours. Shape: [B, H, W] to [B, *size]."""
    # The batch stands in for channels.
    return F.interpolate(mask_BHW[None].float(), size=list(size)).bool()[0]
