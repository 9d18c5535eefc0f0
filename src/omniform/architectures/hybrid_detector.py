"""RT-DETR: queries are the encoder's best places, and every decoder layer moves their boxes.

Source: Zhao et al. 2023, "DETRs Beat YOLOs on Real-time Object Detection" (https://arxiv.org/abs/2304.08069).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Unpack, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.backbone import Backbone
from omniform.architectures.denoising import Copies, Denoising, copied_pairs, inverse_sigmoid
from omniform.architectures.detection import Prediction, Target, check_targets
from omniform.architectures.hybrid import HybridEncoder
from omniform.architectures.model import Model
from omniform.architectures.sigmoid_sets import PARTS, Noisy, VarifocalSetLoss
from omniform.blocks.composed import Composed
from omniform.blocks.deformable import MapContext, Sizes
from omniform.blocks.layers import passed
from omniform.core.context import Memory, StepContext, Tapped
from omniform.core.errors import InputError, check_shape
from omniform.core.outputs import BaseModelOutput, HybridDetectionOutput, HybridModelOutput


class Perceptron(nn.Module):
    """Projections with ReLU between them.

    Args:
        widths: of what comes in, of what is between, and of what goes out.
    """

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """Shape: [..., first width] to [..., last width]."""
        *others, last = self.layers
        for layer in others:
            x = F.relu(layer(x))
        out: Tensor = last(x)
        return out


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a decoder makes of queries.

    Attributes:
        hidden: of every layer, Shape: [B, layers, Q, D].
        boxes: after every layer, Shape: [B, layers, Q, 4].
        logits: after every layer, Shape: [B, layers, Q, classes]; None of a decoder without heads.
    """

    hidden: Tensor
    boxes: Tensor
    logits: Tensor | None


class BoxDecoder(Composed):
    """Layers over queries that have boxes; without heads these stay where they are.

    Args:
        query_pos_head: a box to what tells a query apart.
    """

    layers: nn.ModuleList
    query_pos_head: nn.Module

    def forward(self, queries_BQD: Tensor, boxes_BQ4: Tensor, sizes: Sizes, ctx: StepContext) -> Decoded:
        """Let queries look at the maps.

        Args:
            queries_BQD: Shape: [B, Q, D].
            boxes_BQ4: before their sigmoid, Shape: [B, Q, 4].
            sizes: of the maps in ``ctx.memory``.
        """
        x, boxes = queries_BQD, boxes_BQ4.sigmoid()
        hidden, moved, scores = [], [], []
        for number, layer in enumerate(self.layers):
            ctx.taps.hidden(x)
            here = MapContext.on(ctx, sizes, boxes[:, :, None], self.query_pos_head(boxes))
            x = passed(layer, number, x, here)
            found = self.move(number, x, boxes)
            hidden.append(x)
            moved.append(found)
            scores += self.score(number, x)
            # No gradient from one layer's boxes to those of the layers before.
            boxes = found.detach()
        ctx.taps.hidden(x)
        logits = torch.stack(scores, dim=1) if scores else None
        return Decoded(torch.stack(hidden, dim=1), torch.stack(moved, dim=1), logits)

    def move(self, number: int, x_BQD: Tensor, boxes: Tensor) -> Tensor:
        """The boxes after a layer. Shape: [B, Q, 4]."""
        return boxes

    def score(self, number: int, x_BQD: Tensor) -> list[Tensor]:
        """The scores after a layer, if there are any. Shape: [B, Q, classes]."""
        return []


class RefiningDecoder(BoxDecoder):
    """The same with heads on every layer.

    Args:
        class_embed: one per layer, a query's vector to the scores of the classes.
        bbox_embed: one per layer, a query's vector to how its box moves.
    """

    class_embed: nn.ModuleList
    bbox_embed: nn.ModuleList

    def move(self, number: int, x_BQD: Tensor, boxes: Tensor) -> Tensor:
        step: Tensor = self.bbox_embed[number](x_BQD)
        return (step + inverse_sigmoid(boxes)).sigmoid()

    def score(self, number: int, x_BQD: Tensor) -> list[Tensor]:
        return [self.class_embed[number](x_BQD)]


@dataclass(frozen=True)
class Anchors:
    """A box around every place of every map, before its sigmoid; larger on coarser maps.

    Attributes:
        grid: side of the boxes on the finest map, as part of the picture.
    """

    grid: float = 0.05

    def __call__(self, sizes: Sizes, like: Tensor, *, training: bool) -> tuple[Tensor, Tensor]:
        """The boxes, Shape: [1, S, 4], and which of them lie within the picture, Shape: [1, S, 1].

        Others are as large as numbers go, as the reference has it.
        """
        boxes = []
        for level, (height, width) in enumerate(self.sizes(sizes, training=training)):
            rows = ((torch.arange(height, device=like.device).to(like.dtype) + 0.5) / height)[:, None]
            columns = (torch.arange(width, device=like.device).to(like.dtype) + 0.5) / width
            side = torch.full_like(columns, self.grid * 2.0**level).expand(height, width)
            box = (columns.expand(height, width), rows.expand(height, width), side, side)
            boxes.append(torch.stack(box, dim=-1).flatten(0, 1))
        whole = torch.cat(boxes)[None]
        valid = ((whole > 0.01) & (whole < 0.99)).all(-1, keepdim=True)
        return torch.where(valid, torch.log(whole / (1 - whole)), torch.finfo(like.dtype).max), valid

    def sizes(self, sizes: Sizes, *, training: bool) -> Sizes:
        """The maps that there are boxes for."""
        return sizes


@dataclass(frozen=True, kw_only=True)
class FixedAnchors(Anchors):
    """Boxes for pictures of one size, except in training (``anchor_image_size``).

    Attributes:
        maps: the sizes of such a picture's maps.
    """

    maps: tuple[tuple[int, int], ...]

    def sizes(self, sizes: Sizes, *, training: bool) -> Sizes:
        if not training and sum(h * w for h, w in sizes) != sum(h * w for h, w in self.maps):
            raise InputError(
                "the model's anchors are for pictures of another size",
                where="pixel_values",
                expected=f"maps of {[*self.maps]} (anchor_image_size)",
                found=f"maps of {[*sizes]}",
                remedy="Resize the pictures, or set anchor_image_size to null.",
            )
        return sizes if training else self.maps


class Seen(Tapped, total=False):
    """What may come with pictures.

    Attributes:
        pixel_mask: Shape: [B, height, width]; these models see padding as they see the rest.
        encoder_outputs: what the encoder gave for these pictures, to leave it out.
        inputs_embeds: projected maps in place of the backbone's, from fine to coarse.
    """

    pixel_mask: Tensor | None
    encoder_outputs: BaseModelOutput | None
    inputs_embeds: Sequence[Tensor] | None


class HybridDetector(Model):
    """A detector without heads on its decoder.

    Args:
        backbone: pictures to feature maps, from fine to coarse.
        encoder_input_proj: each of them to the width of the encoder.
        encoder: the maps to better maps.
        decoder_input_proj: each of these to the width of the decoder; further ones make coarser maps of the last.
        denoising_class_embed: classes to what noisy copies start from; None where there are no copies.
        weight_embedding: what queries start from; None for what their places hold.
        enc_output: a place to what is scored.
        enc_score_head: to the scores of the classes.
        enc_bbox_head: to how its anchor moves.
        queries: how many places become queries.
        anchors: boxes around all places.
        denoising: how objects are copied in training; None where they are not.
    """

    main_input = "pixel_values"

    backbone: Backbone
    encoder_input_proj: nn.ModuleList
    encoder: HybridEncoder
    denoising_class_embed: nn.Embedding | None
    weight_embedding: nn.Embedding | None
    enc_output: nn.Sequential
    enc_score_head: nn.Linear
    enc_bbox_head: Perceptron
    decoder_input_proj: nn.ModuleList
    decoder: BoxDecoder
    queries: int
    anchors: Anchors
    denoising: Denoising | None

    def freeze_backbone(self) -> None:
        """Train everything but the backbone."""
        self.backbone.requires_grad_(False)

    def unfreeze_backbone(self) -> None:
        """Train the backbone too."""
        self.backbone.requires_grad_(True)

    def encode(self, pixel_values: Tensor | None, **given: Unpack[Seen]) -> BaseModelOutput:
        """The encoder's maps, a list from fine to coarse, Shape: [B, C, H, W] each.

        Raises:
            InputError: no pictures, or pictures or masks of another shape.
        """
        encoded, maps, mask = given.get("encoder_outputs"), given.get("inputs_embeds"), given.get("pixel_mask")
        if encoded is not None:
            return encoded
        if maps is None:
            if pixel_values is None:
                raise InputError("there are no pictures", expected="pixel_values or inputs_embeds")
            if mask is not None:
                size = (pixel_values.shape[0], *pixel_values.shape[2:])
                check_shape("the mask does not cover the pictures", mask.shape, size, where="pixel_mask")
            seen = self.backbone.maps(pixel_values)
            maps = [project(map) for project, map in zip(self.encoder_input_proj, seen, strict=True)]
        ctx = self.step(maps[-1].flatten(2).transpose(1, 2), cast(Tapped, given))
        out = self.encoder(maps, ctx)
        return BaseModelOutput(last_hidden_state=cast(Tensor, out), **ctx.taps.noted())

    def levels(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The encoder's maps in the width of the decoder, and coarser ones. Shape: [B, D, H, W] each."""
        return [project(maps[min(i, len(maps) - 1)]) for i, project in enumerate(self.decoder_input_proj)]

    def copies(self, labels: Sequence[Target] | None, like: Tensor) -> Copies | None:
        """Noisy copies of the objects, in training."""
        if not self.training or self.denoising is None or labels is None:
            return None
        check_targets(labels, PARTS, like.shape[0], self.denoising.classes)
        return self.denoising(labels, like.device, self.queries)

    def decode(
        self, encoded: BaseModelOutput, labels: Sequence[Target] | None = None, **given: Unpack[Tapped]
    ) -> HybridModelOutput:
        """Choose queries among the encoder's places and let them look at the maps.

        Args:
            labels: one per picture, for noisy copies.
            given: see :class:`~omniform.core.context.Tapped`.

        Raises:
            InputError: fewer places than queries; pictures of another size than the anchors are for.
        """
        maps = self.levels(maps_of(encoded))
        sizes = [(map.shape[2], map.shape[3]) for map in maps]
        memory = torch.cat([map.flatten(2).transpose(1, 2) for map in maps], dim=1)
        if memory.shape[1] < self.queries:
            found = f"{memory.shape[1]} places of maps of {sizes}"
            raise InputError("the pictures are too small", where="pixel_values", expected=self.queries, found=found)
        anchors, valid = self.anchors(sizes, memory, training=self.training)
        places = self.enc_output(valid.to(memory.dtype) * memory)
        logits, boxes = self.enc_score_head(places), self.enc_bbox_head(places) + anchors
        best = logits.amax(-1).topk(self.queries, dim=1).indices[..., None]
        chosen, scores = _rows(boxes, best), _rows(logits, best)
        start = _rows(places, best).detach() if self.weight_embedding is None else self._learned(memory.shape[0])
        first, mask, copies = chosen, None, self.copies(labels, memory)
        if copies is not None:
            assert self.denoising_class_embed is not None
            start = torch.cat((self.denoising_class_embed(copies.classes), start), dim=1)
            first, mask = torch.cat((copies.boxes.to(chosen.dtype), chosen), dim=1), copies.allowed.long()
        first = first.detach()
        ctx = self.step(start, given, attention_mask=mask).with_(memory=Memory(memory))
        decoded: Decoded = self.decoder(start, first, sizes, ctx)
        return HybridModelOutput(
            last_hidden_state=decoded.hidden[:, -1],
            intermediate_hidden_states=decoded.hidden,
            intermediate_logits=() if decoded.logits is None else decoded.logits,
            intermediate_reference_points=decoded.boxes,
            decoder_hidden_states=ctx.taps.hidden_or_none,
            decoder_attentions=ctx.taps.attentions_or_none,
            cross_attentions=ctx.taps.cross_or_none,
            encoder_last_hidden_state=maps_of(encoded),
            encoder_hidden_states=encoded.hidden_states,
            encoder_attentions=encoded.attentions,
            init_reference_points=first,
            enc_topk_logits=scores,
            enc_topk_bboxes=chosen.sigmoid(),
            enc_outputs_class=logits,
            enc_outputs_coord_logits=boxes,
            denoising_meta_values=None if copies is None else copies.told(),
        )

    def _learned(self, rows: int) -> Tensor:
        assert self.weight_embedding is not None
        numbers = torch.arange(self.queries, device=self.weight_embedding.weight.device)
        start: Tensor = self.weight_embedding(numbers)
        return start.expand(rows, -1, -1)

    def forward(
        self,
        pixel_values: Tensor | None = None,
        pixel_mask: Tensor | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        inputs_embeds: Sequence[Tensor] | None = None,
        labels: Sequence[Target] | None = None,
        **given: Unpack[Tapped],
    ) -> HybridModelOutput:
        """Hidden states and boxes of the queries.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            pixel_mask: see :class:`Seen`, as for the others.
            labels: one per picture, with ``class_labels`` [n] and ``boxes`` [n, 4]; copied as further queries in
                training.

        Raises:
            InputError: pictures, masks or labels of the wrong shape.
        """
        encoded = self.encode(
            pixel_values, pixel_mask=pixel_mask, encoder_outputs=encoder_outputs, inputs_embeds=inputs_embeds, **given
        )
        return self.decode(encoded, labels, **given)


class HybridObjectDetector(Model):
    """A detector with its heads.

    Args:
        model: the detector, its decoder a :class:`RefiningDecoder`.
        loss: the loss against the objects that are there.
        auxiliary: whether earlier layers, the encoder's choice and noisy copies have losses too.
    """

    main_input = "pixel_values"

    model: HybridDetector
    loss: VarifocalSetLoss
    auxiliary: bool

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        labels = inputs.get("labels")
        if not isinstance(labels, Sequence) or not labels:
            return None
        return sum(len(target["class_labels"]) for target in labels)

    def forward(
        self,
        *args: Tensor,
        labels: Sequence[Target] | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **inputs: object,
    ) -> HybridDetectionOutput:
        """Classes and boxes; see :meth:`HybridDetector.forward` for the other inputs.

        Args:
            labels: one per picture, each with ``class_labels`` [n] and ``boxes`` [n, 4] (centre x and y, width and
                height, as parts of the picture's size); gives a loss.
            num_items_in_batch: how many objects the loss's sums are divided by, if not this batch's own.
        """
        out = cast(HybridModelOutput, self.model(*args, labels=labels, **inputs))
        logits, boxes = out.intermediate_logits, out.intermediate_reference_points
        assert isinstance(logits, Tensor) and boxes is not None
        loss = parts = earlier = None
        if labels is not None:
            loss, parts, earlier = self._losses(out, labels, num_items_in_batch)
        return HybridDetectionOutput(
            loss=loss,
            loss_dict=parts,
            logits=logits[:, -1],
            pred_boxes=boxes[:, -1],
            auxiliary_outputs=earlier,
            **{name: getattr(out, name) for name in HybridModelOutput.__dataclass_fields__},
        )

    def _losses(
        self, out: HybridModelOutput, labels: Sequence[Target], items: Tensor | int | None
    ) -> tuple[Tensor, dict[str, Tensor], list[dict[str, Tensor]] | None]:
        logits, boxes = out.intermediate_logits, out.intermediate_reference_points
        assert isinstance(logits, Tensor) and boxes is not None
        copied = logits.shape[2] - self.model.queries
        last = {"logits": logits[:, -1, copied:], "pred_boxes": boxes[:, -1, copied:]}
        if not self.auxiliary:
            return *self.loss(last, labels, items=items), None
        earlier = _by_layer(logits[:, :-1, copied:], boxes[:, :-1, copied:])
        assert out.enc_topk_logits is not None and out.enc_topk_bboxes is not None
        earlier.append({"logits": out.enc_topk_logits, "pred_boxes": out.enc_topk_bboxes})
        noisy = None
        if out.denoising_meta_values is not None:
            pairs, groups = copied_pairs(out.denoising_meta_values, labels)
            layers: Sequence[Prediction] = _by_layer(logits[:, :, :copied], boxes[:, :, :copied])
            noisy = Noisy(layers=layers, pairs=pairs, groups=groups)
        return *self.loss(last, labels, auxiliary=earlier, noisy=noisy, items=items), earlier


def maps_of(encoded: BaseModelOutput) -> list[Tensor]:
    """The maps that an encoder gives in the place of hidden states."""
    return list(cast(Sequence[Tensor], encoded.last_hidden_state))


def _by_layer(logits_BLQC: Tensor, boxes_BLQ4: Tensor) -> list[dict[str, Tensor]]:
    layers = zip(logits_BLQC.unbind(1), boxes_BLQ4.unbind(1), strict=True)
    return [{"logits": logits, "pred_boxes": boxes} for logits, boxes in layers]


def _rows(x_BSD: Tensor, places_BQ1: Tensor) -> Tensor:
    return x_BSD.gather(1, places_BQ1.expand(-1, -1, x_BSD.shape[-1]))
