"""Deformable DETR: queries that look at a few places of several maps (https://arxiv.org/abs/2010.04159)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Unpack, cast

import torch
from torch import Tensor, nn

from omniform.architectures.backbone import Backbone
from omniform.architectures.denoising import inverse_sigmoid
from omniform.architectures.detection import Target
from omniform.architectures.detector import Places, QueryEncoder, arrive_covered, shrunk
from omniform.architectures.model import Model
from omniform.architectures.sigmoid_sets import FocalSetLoss
from omniform.blocks.composed import Composed
from omniform.blocks.deformable import MapContext, centres, filled
from omniform.blocks.layers import passed
from omniform.core.context import Memory, StepContext, Tapped
from omniform.core.errors import InputError, check_shape
from omniform.core.outputs import BaseModelOutput, DeformableDetectionOutput, DeformableModelOutput


@dataclass(frozen=True, slots=True)
class MapView:
    """What the backbone saw, on all maps.

    Attributes:
        embeds: the places of all maps, one map after another, Shape: [B, S, D].
        places: their position vectors, Shape: [B, S, D].
        sizes: of the maps.
        real: of each map, Shape: [B, H, W], True inside the picture, False in its padding.
        ratios: which part of each map the picture fills, Shape: [B, levels, 2].
        padded: whether any place may be padding.
    """

    embeds: Tensor
    places: Tensor
    sizes: tuple[tuple[int, int], ...]
    real: tuple[Tensor, ...]
    ratios: Tensor
    padded: bool

    @property
    def padding(self) -> Tensor | None:
        """Shape: [B, S], True for real places; None where all are."""
        return torch.cat([real.flatten(1) for real in self.real], dim=1) if self.padded else None


@dataclass(frozen=True, slots=True)
class Started:
    """Queries before the decoder.

    Attributes:
        queries: Shape: [B, Q, D].
        places: what tells them apart, Shape: [B, Q, D].
        references: where they stand, Shape: [B, Q, 2 or 4].
        scores: of all places, where these propose queries, Shape: [B, S, classes].
        boxes: of all places, before the sigmoid, Shape: [B, S, 4].
    """

    queries: Tensor
    places: Tensor
    references: Tensor
    scores: Tensor | None = None
    boxes: Tensor | None = None


class PointDecoder(Composed):
    """Layers over queries that stay where they are."""

    layers: nn.ModuleList

    def forward(self, started: Started, view: MapView, ctx: StepContext) -> tuple[Tensor, Tensor]:
        """Every layer's hidden states, Shape: [B, layers, Q, D], and where queries stand after it."""
        x, at = started.queries, started.references
        hidden, moved = [], []
        for number, layer in enumerate(self.layers):
            ctx.taps.hidden(x)
            ratios = view.ratios if at.shape[-1] == 2 else view.ratios.tile(2)
            here = MapContext.on(ctx, view.sizes, at[:, :, None] * ratios[:, None], started.places)
            x = passed(layer, number, x, here)
            at = self.move(number, x, at)
            hidden.append(x)
            moved.append(at)
        ctx.taps.hidden(x)
        return torch.stack(hidden, dim=1), torch.stack(moved, dim=1)

    def move(self, number: int, x_BQD: Tensor, references: Tensor) -> Tensor:
        """Where queries stand after a layer. Shape: [B, Q, 2 or 4]."""
        return references


class RefiningPointDecoder(PointDecoder):
    """The same with queries that every layer moves; no gradient goes from one layer's boxes to those before.

    Args:
        bbox_embed: one per layer, a query's vector to how its box moves.
    """

    bbox_embed: nn.ModuleList

    def move(self, number: int, x_BQD: Tensor, references: Tensor) -> Tensor:
        return moved_boxes(self.bbox_embed[number](x_BQD), references).detach()


class ProposingDecoder(RefiningPointDecoder):
    """The same with heads for the encoder's places, the last ones.

    Args:
        class_embed: one per layer and one for proposals, a vector to the scores of the classes.
    """

    class_embed: nn.ModuleList


def moved_boxes(steps: Tensor, references: Tensor) -> Tensor:
    """Boxes from where queries stood and how they move, before the sigmoid. Shape: [..., 4] and [..., 2 or 4]."""
    at = inverse_sigmoid(references)
    if at.shape[-1] == 2:
        return torch.cat((steps[..., :2] + at, steps[..., 2:]), dim=-1).sigmoid()
    return (steps + at).sigmoid()


class LearnedStart(Composed):
    """Queries that are learned.

    Args:
        query_position_embeddings: what tells them apart, and what they start from, side by side.
        reference_points: from the former to where they stand.
    """

    query_position_embeddings: nn.Embedding
    reference_points: nn.Linear

    def forward(self, memory_BSD: Tensor, view: MapView, decoder: PointDecoder) -> Started:
        table = self.query_position_embeddings
        numbers = torch.arange(table.num_embeddings, device=memory_BSD.device)
        both: Tensor = table(numbers)[None].expand(memory_BSD.shape[0], -1, -1)
        places, queries = both.chunk(2, dim=-1)
        return Started(queries, places, self.reference_points(places).sigmoid())


class ProposedStart(Composed):
    """Queries from the best of the encoder's places (section 4.2, "two-stage").

    Args:
        enc_output, enc_output_norm: a place to what is scored.
        pos_trans, pos_trans_norm: waves of a box to what tells queries apart, and what they start from, side by side.
        proposals: how many places become queries.
    """

    enc_output: nn.Linear
    enc_output_norm: nn.Module
    pos_trans: nn.Linear
    pos_trans_norm: nn.Module
    proposals: int

    def forward(self, memory_BSD: Tensor, view: MapView, decoder: PointDecoder) -> Started:
        assert isinstance(decoder, ProposingDecoder)
        if memory_BSD.shape[1] < self.proposals:
            found = f"{memory_BSD.shape[1]} places"
            raise InputError("the pictures are too small", where="pixel_values", expected=self.proposals, found=found)
        usual, valid = anchors(view, memory_BSD.dtype)
        rated = self.enc_output_norm(self.enc_output(memory_BSD.masked_fill(~valid, 0.0)))
        scores, boxes = decoder.class_embed[-1](rated), decoder.bbox_embed[-1](rated) + usual
        best = scores[..., 0].topk(self.proposals, dim=1).indices
        chosen = boxes.gather(1, best[..., None].expand(-1, -1, 4)).detach()
        both = self.pos_trans_norm(self.pos_trans(_box_waves(chosen, memory_BSD.shape[-1] // 2)))
        places, queries = both.chunk(2, dim=-1)
        return Started(queries, places, chosen.sigmoid(), scores, boxes)


def anchors(view: MapView, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A box around every place, before the sigmoid, infinite where it is none. Shape: [B, S, 4] and [B, S, 1]."""
    boxes = []
    for level, real in enumerate(view.real):
        height, width = real.shape[1:]
        count = torch.stack((real[:, 0].sum(1), real[:, :, 0].sum(1)), dim=-1)[:, None]
        down = torch.arange(height, device=real.device).to(dtype)[:, None].expand(height, width)
        across = torch.arange(width, device=real.device).to(dtype).expand(height, width)
        centre = (torch.stack((across, down), dim=-1).flatten(0, 1)[None] + 0.5) / count
        boxes.append(torch.cat((centre, torch.full_like(centre, 0.05 * 2.0**level)), dim=-1))
    whole = torch.cat(boxes, dim=1)
    valid = ((whole > 0.01) & (whole < 0.99)).all(-1, keepdim=True)
    valid = valid & torch.cat([real.flatten(1) for real in view.real], dim=1)[..., None]
    return torch.log(whole / (1 - whole)).masked_fill(~valid, float("inf")), valid


def _box_waves(boxes_BQ4: Tensor, features: int) -> Tensor:
    """Sines and cosines of each coordinate, as parts of a full turn. Shape: [B, Q, 4] to [B, Q, 4 * features]."""
    return torch.cat(waves_of(boxes_BQ4.sigmoid().float(), features), dim=-1).to(boxes_BQ4.dtype)


def waves_of(places: Tensor, features: int) -> tuple[Tensor, ...]:
    """Sines and cosines by turns of coordinates, as parts of a full turn. Shape: [..., n] to n of [..., features]."""
    channels = torch.arange(features, dtype=torch.float32, device=places.device)
    wavelengths = 10000 ** (2 * torch.div(channels, 2, rounding_mode="floor") / features)
    angles = [one[..., None] * (2 * math.pi) / wavelengths for one in places.unbind(-1)]
    waves = (torch.stack((one[..., 0::2].sin(), one[..., 1::2].cos()), dim=-1).flatten(-2) for one in angles)
    return tuple(wave.to(places.dtype) for wave in waves)


def see_maps(
    seen: Sequence[Tensor],
    projections: nn.ModuleList,
    level_embed: nn.Embedding,
    position_embedding: Places,
    pixel_values: Tensor,
    pixel_mask: Tensor | None,
) -> MapView:
    """Lay out a backbone's maps as one row of places; see :class:`DeformableDetector` for the parts.

    Args:
        seen: from fine to coarse; the coarsest ones count, where there are more than projections.

    Raises:
        InputError: a mask of another shape than the pictures.
    """
    seen = seen[-len(projections) :]
    rows, height, width = pixel_values.shape[0], *pixel_values.shape[2:]
    padded = pixel_mask is not None
    mask = pixel_values.new_ones(rows, height, width) if pixel_mask is None else pixel_mask
    check_shape("the mask does not cover the pictures", mask.shape, (rows, height, width), where="pixel_mask")
    maps: list[Tensor] = []
    for level, project in enumerate(projections):
        source = seen[level] if level < len(seen) else seen[-1] if level == len(seen) else maps[-1]
        maps.append(project(source))
    real = tuple(shrunk(mask, map.shape[2:]) for map in maps)
    levels = level_embed(torch.arange(len(maps), device=pixel_values.device))
    places = [position_embedding(r, maps[0].dtype) + vector for r, vector in zip(real, levels, strict=True)]
    return MapView(
        embeds=torch.cat([map.flatten(2).transpose(1, 2) for map in maps], dim=1),
        places=torch.cat(places, dim=1),
        sizes=tuple((map.shape[2], map.shape[3]) for map in maps),
        real=real,
        ratios=torch.stack([filled(r) for r in real], dim=1).to(maps[0].dtype),
        padded=padded,
    )


class DeformableDetector(Model):
    """A detector without heads.

    Args:
        backbone: pictures to feature maps, from fine to coarse.
        position_embedding: position vectors of a map.
        input_proj: each map to the width of the encoder; further ones make coarser maps of the last.
        level_embed: a vector per map.
        encoder: layers over the places of all maps.
        start: what the queries are before the decoder.
        decoder: layers over queries.
    """

    main_input = "pixel_values"

    backbone: Backbone
    position_embedding: Places
    input_proj: nn.ModuleList
    level_embed: nn.Embedding
    start: LearnedStart | ProposedStart
    encoder: QueryEncoder
    decoder: PointDecoder

    def arrive(self, inputs: dict[str, object]) -> None:
        arrive_covered(inputs)

    def freeze_backbone(self) -> None:
        """Train everything but the backbone."""
        self.backbone.requires_grad_(False)

    def unfreeze_backbone(self) -> None:
        """Train the backbone too."""
        self.backbone.requires_grad_(True)

    def see(self, pixel_values: Tensor, pixel_mask: Tensor | None = None) -> MapView:
        """Run the backbone.

        Raises:
            InputError: pictures or masks of another shape.
        """
        seen = self.backbone.maps(pixel_values)
        return see_maps(seen, self.input_proj, self.level_embed, self.position_embedding, pixel_values, pixel_mask)

    def encode(self, view: MapView, given: Tapped) -> BaseModelOutput:
        """Layers over the places of all maps."""
        ctx = self.step(view.embeds, given, attention_mask=view.padding)
        at = centres(view.sizes, view.ratios)
        hidden = self.encoder(view.embeds, MapContext.on(ctx, view.sizes, at, view.places))
        return BaseModelOutput(last_hidden_state=hidden, **ctx.taps.noted())

    def forward(
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        **given: Unpack[Tapped],
    ) -> DeformableModelOutput:
        """Hidden states of the object queries, and where they stand.

        Args:
            pixel_values: Shape: [B, channels, height, width]; smaller pictures are padded at the right and bottom.
            pixel_mask: Shape: [B, height, width], 1 inside the picture, 0 in its padding.
            encoder_outputs: what the encoder gave for these pictures, to leave it out.
            given: see :class:`~omniform.core.context.Tapped`.

        Raises:
            InputError: pictures or masks of the wrong shape; fewer places than queries.
        """
        view = self.see(pixel_values, pixel_mask)
        encoded = self.encode(view, given) if encoder_outputs is None else encoder_outputs
        memory = encoded.last_hidden_state
        started: Started = self.start(memory, view, self.decoder)
        ctx = self.step(started.queries, given).with_(memory=Memory(memory, view.padding))
        hidden, moved = self.decoder(started, view, ctx)
        return DeformableModelOutput(
            init_reference_points=started.references,
            last_hidden_state=hidden[:, -1],
            intermediate_hidden_states=hidden,
            intermediate_reference_points=moved,
            decoder_hidden_states=ctx.taps.hidden_or_none,
            decoder_attentions=ctx.taps.attentions_or_none,
            cross_attentions=ctx.taps.cross_or_none,
            encoder_last_hidden_state=memory,
            encoder_hidden_states=encoded.hidden_states,
            encoder_attentions=encoded.attentions,
            enc_outputs_class=started.scores,
            enc_outputs_coord_logits=started.boxes,
        )


class DeformableObjectDetector(Model):
    """A detector with heads on every decoder layer.

    Args:
        model: the detector.
        class_embed: one per layer (or one for all), a query's vector to the scores of the classes.
        bbox_embed: likewise to how its box differs from where it stood; the decoder's own, where that moves queries.
        loss: the loss against the objects that are there.
        auxiliary: whether earlier layers have losses too.
    """

    main_input = "pixel_values"

    model: DeformableDetector
    class_embed: nn.ModuleList
    bbox_embed: nn.ModuleList
    loss: FocalSetLoss
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
    ) -> DeformableDetectionOutput:
        """Classes and boxes; see :meth:`DeformableDetector.forward` for the other inputs.

        Args:
            labels: one per picture, each with ``class_labels`` [n] and ``boxes`` [n, 4] (centre x and y, width and
                height, as parts of the picture's size); gives a loss.
            num_items_in_batch: how many objects the loss's sums are divided by, if not this batch's own.
        """
        out = cast(DeformableModelOutput, self.model(*args, **inputs))
        layers = self.predictions(out)
        loss = parts = earlier = None
        if labels is not None:
            earlier = layers[:-1] if self.auxiliary else None
            loss, parts = self.loss(layers[-1], labels, auxiliary=earlier or (), items=num_items_in_batch)
        return DeformableDetectionOutput(
            loss=loss,
            loss_dict=parts,
            logits=layers[-1]["logits"],
            pred_boxes=layers[-1]["pred_boxes"],
            auxiliary_outputs=earlier,
            **{name: getattr(out, name) for name in DeformableModelOutput.__dataclass_fields__},
        )

    def predictions(self, out: DeformableModelOutput) -> list[dict[str, Tensor]]:
        """``logits`` and ``pred_boxes`` after every decoder layer."""
        hidden, moved, first = (
            out.intermediate_hidden_states,
            out.intermediate_reference_points,
            out.init_reference_points,
        )
        assert hidden is not None and moved is not None and first is not None
        found = []
        for number, x in enumerate(hidden.unbind(1)):
            at = moved[:, number - 1] if number else first
            boxes = moved_boxes(self.bbox_embed[number](x), at)
            found.append({"logits": self.class_embed[number](x), "pred_boxes": boxes})
        return found
