"""Grounding DINO: objects that a text names, found by queries over maps and words that read one another.

Source: Liu et al. 2023 (https://arxiv.org/abs/2303.05499). The encoder's layers let pictures and words look at one
another; a query's classes are the words themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Unpack, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.backbone import Backbone
from omniform.architectures.deformable_detector import MapView, anchors, see_maps, waves_of
from omniform.architectures.detection import Target
from omniform.architectures.detector import Places, arrive_covered
from omniform.architectures.grounded_loss import PhraseLoss, phrases_of
from omniform.architectures.hybrid_detector import Perceptron
from omniform.architectures.model import Model
from omniform.architectures.stack import TextEncoder
from omniform.blocks.attention import CrossAttention
from omniform.blocks.composed import Composed
from omniform.blocks.deformable import MapContext, XavierLinear, centres
from omniform.blocks.drop_path import DropPath
from omniform.blocks.embeddings import check_ids, table_rows
from omniform.blocks.layers import Layer, Norm, PostNorm
from omniform.blocks.positioned import PlacedContext, placed
from omniform.core.context import Memory, StepContext, Tapped
from omniform.core.errors import InputError
from omniform.core.outputs import Layers, ModelOutput

ENDS = (101, 102, 1012, 1029)
"""What parts a text into phrases: BERT's ``[CLS]``, ``[SEP]``, ``.`` and ``?``."""


@dataclass(slots=True)
class GroundedModelOutput(ModelOutput):
    """Hidden states of queries, maps and words.

    Attributes:
        last_hidden_state: Shape: [B, Q, D].
        init_reference_points: where queries stand before the decoder. Shape: [B, Q, 4].
        intermediate_hidden_states: after every decoder layer. Shape: [B, layers, Q, D].
        intermediate_reference_points: likewise. Shape: [B, layers, Q, 4].
        decoder_attentions: weights among queries, from queries to words, and to maps.
        encoder_last_hidden_state_vision: Shape: [B, S, D].
        encoder_last_hidden_state_text: Shape: [B, T, D].
        encoder_attentions: weights from maps to words, from words to maps, among words, and among maps.
        enc_outputs_class: how much each place is like each word. Shape: [B, S, longest text].
        enc_outputs_coord_logits: each place's box, before the sigmoid. Shape: [B, S, 4].
        encoder_logits: the same as the first, of the queries. Shape: [B, Q, longest text].
        encoder_pred_boxes: their boxes. Shape: [B, Q, 4].
    """

    last_hidden_state: Tensor | None = None
    init_reference_points: Tensor | None = None
    intermediate_hidden_states: Tensor | None = None
    intermediate_reference_points: Tensor | None = None
    decoder_hidden_states: Layers | None = None
    decoder_attentions: tuple[Layers, ...] | None = None
    encoder_last_hidden_state_vision: Tensor | None = None
    encoder_last_hidden_state_text: Tensor | None = None
    encoder_vision_hidden_states: Layers | None = None
    encoder_text_hidden_states: Layers | None = None
    encoder_attentions: tuple[Layers, ...] | None = None
    enc_outputs_class: Tensor | None = None
    enc_outputs_coord_logits: Tensor | None = None
    encoder_logits: Tensor | None = None
    encoder_pred_boxes: Tensor | None = None


@dataclass(slots=True)
class GroundedDetectionOutput(ModelOutput):
    """Objects found by words; ``logits``: Shape: [B, Q, longest text]; see :class:`GroundedModelOutput`."""

    loss: Tensor | None = None
    loss_dict: dict[str, Tensor] | None = None
    logits: Tensor | None = None
    pred_boxes: Tensor | None = None
    auxiliary_outputs: list[dict[str, object]] | None = None
    last_hidden_state: Tensor | None = None
    init_reference_points: Tensor | None = None
    intermediate_hidden_states: Tensor | None = None
    intermediate_reference_points: Tensor | None = None
    decoder_hidden_states: Layers | None = None
    decoder_attentions: tuple[Layers, ...] | None = None
    encoder_last_hidden_state_vision: Tensor | None = None
    encoder_last_hidden_state_text: Tensor | None = None
    encoder_vision_hidden_states: Layers | None = None
    encoder_text_hidden_states: Layers | None = None
    encoder_attentions: tuple[Layers, ...] | None = None
    enc_outputs_class: Tensor | None = None
    enc_outputs_coord_logits: Tensor | None = None
    encoder_logits: Tensor | None = None
    encoder_pred_boxes: Tensor | None = None
    input_ids: Tensor | None = None


def phrase_marks(input_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Which words see one another, those of one phrase, Shape: [B, T, T]; and where in it each stands, Shape: [B, T].

    A phrase reaches from behind one end to the next, which is its own; what stands before the text's first token or
    behind its last end sees itself alone.
    """
    ends = torch.isin(input_ids, torch.tensor(ENDS, device=input_ids.device))
    length = input_ids.shape[1]
    here = torch.arange(length, device=input_ids.device).expand_as(input_ids)
    before = F.pad(here.masked_fill(~ends, -1).cummax(1).values[:, :-1], (1, 0), value=-1)
    after = here.masked_fill(~ends, length).flip(1).cummin(1).values.flip(1)
    whole = (after != 0) & (after != length - 1) & (after != length)
    alike = (after[:, :, None] == after[:, None]) & whole[:, None]
    itself = torch.eye(length, dtype=torch.bool, device=input_ids.device)
    return alike | itself, ((here - before - 1) * whole).clamp(min=0)


def contrast(x_BQD: Tensor, words_BTD: Tensor, real_BT: Tensor, longest: int) -> Tensor:
    """How much vectors are like each word; nothing is like padding. Shape: [B, Q, longest], float32."""
    alike = (x_BQD @ words_BTD.transpose(1, 2)).masked_fill(~real_BT[:, None], float("-inf"))
    return F.pad(alike, (0, longest - words_BTD.shape[1]), value=float("-inf")).float()


def moved(steps_BQ4: Tensor, at_BQ4: Tensor) -> Tensor:
    """Boxes from where queries stood and how they move, before the sigmoid. Shape: [B, Q, 4]."""
    at: Tensor = torch.special.logit(at_BQ4, eps=1e-5)
    return (steps_BQ4 + at).sigmoid()


class Fusion(nn.Module):
    """Pictures look at words, and words at pictures, by the same scores.

    Args:
        dim: width of both.
        inner: width of all heads together.
        heads: number of heads.
        dropout: probability of dropping a weight in training.
    """

    def __init__(self, dim: int, inner: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.scale, self.dropout = heads, (inner // heads) ** -0.5, dropout
        self.vision_proj, self.text_proj = XavierLinear(dim, inner), XavierLinear(dim, inner)
        self.values_vision_proj, self.values_text_proj = XavierLinear(dim, inner), XavierLinear(dim, inner)
        self.out_vision_proj, self.out_text_proj = XavierLinear(inner, dim), XavierLinear(inner, dim)

    def forward(
        self, maps_BSD: Tensor, words_BTD: Tensor, real_BS: Tensor | None, real_BT: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """What maps see of words, and words of maps, each with its weights, Shape: [B * H, S, T] and [B * H, T, S].

        Args:
            real_BS, real_BT: True for what is no padding.
        """
        q, k = self._heads(self.vision_proj(maps_BSD) * self.scale), self._heads(self.text_proj(words_BTD))
        scores = q @ k.transpose(2, 3)
        scores = (scores - scores.max()).clamp(-50000, 50000)
        back = scores.transpose(2, 3)
        back = (back - back.amax(-1, keepdim=True)).clamp(-50000, 50000)
        if real_BS is not None:
            back = back.masked_fill(~real_BS[:, None, None], float("-inf"))
        to_words = scores.masked_fill(~real_BT[:, None, None], float("-inf")).softmax(-1)
        to_maps = back.softmax(-1)
        seen = F.dropout(to_words, self.dropout, self.training) @ self._heads(self.values_text_proj(words_BTD))
        read = F.dropout(to_maps, self.dropout, self.training) @ self._heads(self.values_vision_proj(maps_BSD))
        one, other = (x.transpose(1, 2).flatten(2) for x in (seen, read))
        return (self.out_vision_proj(one), to_words.flatten(0, 1)), (self.out_text_proj(other), to_maps.flatten(0, 1))

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class FusionLayer(nn.Module):
    """Norms, the fusion, and how much of it is added.

    Args:
        attn: the fusion.
        dim: width of both sides; ``eps``: of the norms.
        drop_path: left out by chance in training.
    """

    def __init__(self, attn: Fusion, dim: int, eps: float, drop_path: float) -> None:
        super().__init__()
        self.layer_norm_vision, self.layer_norm_text = nn.LayerNorm(dim, eps), nn.LayerNorm(dim, eps)
        self.attn = attn
        self.drop_path = DropPath(drop_path)
        self.vision_param = nn.Parameter(torch.empty(dim))
        self.text_param = nn.Parameter(torch.empty(dim))

    def reset(self, std: float) -> None:
        """Begin with next to nothing added."""
        nn.init.constant_(self.vision_param, 1e-4)
        nn.init.constant_(self.text_param, 1e-4)

    def forward(
        self, maps_BSD: Tensor, words_BTD: Tensor, real_BS: Tensor | None, real_BT: Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Both sides, and the weights of both ways. Shape: [B, S, D] and [B, T, D]."""
        maps, words = self.layer_norm_vision(maps_BSD), self.layer_norm_text(words_BTD)
        (seen, to_words), (read, to_maps) = self.attn(maps, words, real_BS, real_BT)
        maps = maps + self.drop_path(self.vision_param * seen)
        words = words + self.drop_path(self.text_param * read)
        return maps, words, (to_words, to_maps)


class GroundedEncoderLayer(Composed):
    """Fusion, then words look at their phrase and places at a few places."""

    fusion_layer: FusionLayer
    text_enhancer_layer: PostNorm
    deformable_layer: PostNorm


class GroundedEncoder(Composed):
    """Layers over maps and words."""

    layers: nn.ModuleList

    def forward(
        self, maps: tuple[Tensor, MapContext], words: tuple[Tensor, PlacedContext], real_BT: Tensor
    ) -> tuple[Tensor, Tensor, tuple[Layers, Layers]]:
        """Both sides, and the weights of the fusions.

        Args:
            maps, words: what is read, each with its own step.
            real_BT: which words are no padding.
        """
        (x, seen), (text, read) = maps, words
        fused: tuple[list[Tensor], list[Tensor]] = ([], [])
        for layer in self.layers:
            assert isinstance(layer, GroundedEncoderLayer)
            seen.taps.hidden(x)
            read.taps.hidden(text)
            x, text, weights = layer.fusion_layer(x, text, seen.padding, real_BT)
            for kept, one in zip(fused, weights, strict=True):
                kept.append(one)
            text = layer.text_enhancer_layer(text, read)
            x = layer.deformable_layer(x, seen)
        seen.taps.hidden(x)
        read.taps.hidden(text)
        return x, text, (tuple(fused[0]), tuple(fused[1]))


class WordAttention(CrossAttention):
    """Queries with places look at words."""

    def asking(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        assert isinstance(ctx, PlacedContext)
        return placed(x_BTD, ctx.places)


class GroundedDecoderLayer(Layer):
    """Queries look at one another, at words, and at a few places of the maps."""

    self_attn: nn.Module
    self_attn_layer_norm: Norm
    encoder_attn_text: WordAttention
    encoder_attn_text_layer_norm: Norm
    encoder_attn: nn.Module
    encoder_attn_layer_norm: Norm
    mlp: nn.Module
    final_layer_norm: Norm

    def forward(self, x_BQD: Tensor, ctx: StepContext, words: Memory) -> Tensor:
        """Shape: [B, Q, D] in and out; ``ctx``: its memory are the maps."""
        x_BQD = self.self_attn_layer_norm(self.add(x_BQD, self.self_attn(x_BQD, ctx), ctx))
        read = self.encoder_attn_text(x_BQD, ctx.with_(memory=words))
        x_BQD = self.encoder_attn_text_layer_norm(self.add(x_BQD, read, ctx))
        x_BQD = self.encoder_attn_layer_norm(self.add(x_BQD, self.encoder_attn(x_BQD, ctx), ctx))
        out: Tensor = self.final_layer_norm(self.add(x_BQD, self.mlp(x_BQD), ctx))
        return out


class GroundedDecoder(Composed):
    """Layers over queries, whose places are told by where they stand.

    Args:
        layers: see :class:`GroundedDecoderLayer`.
        layer_norm: of what each layer gives out.
        reference_points_head: waves of a box to a query's places.
        bbox_embed: how each layer moves queries; None: they stay.
    """

    layers: nn.ModuleList
    layer_norm: nn.LayerNorm
    reference_points_head: Perceptron
    bbox_embed: nn.ModuleList | None = None

    def forward(
        self, x_BQD: Tensor, at_BQ4: Tensor, view: MapView, ctx: StepContext, words: Memory
    ) -> tuple[Tensor, Tensor]:
        """Every layer's hidden states, Shape: [B, layers, Q, D], and where queries stand after it."""
        hidden, stood = [], []
        ratios = view.ratios.tile(2)[:, None]
        for number, layer in enumerate(self.layers):
            on = at_BQ4[:, :, None] * ratios
            # Each coordinate's waves have half the width; rows come before columns.
            waves = waves_of(on[:, :, 0], x_BQD.shape[-1] // 2)
            places = self.reference_points_head(torch.cat((waves[1], waves[0], *waves[2:]), dim=-1))
            ctx.taps.hidden(self.layer_norm(x_BQD))
            x_BQD = layer(x_BQD, MapContext.on(ctx, view.sizes, on, places), words)
            if self.bbox_embed is not None:
                at_BQ4 = moved(self.bbox_embed[number](x_BQD), at_BQ4).detach()
            hidden.append(self.layer_norm(x_BQD))
            stood.append(at_BQ4)
        ctx.taps.hidden(hidden[-1])
        return torch.stack(hidden, dim=1), torch.stack(stood, dim=1)


@dataclass(frozen=True, slots=True)
class Proposed:
    """Queries before the decoder; see :class:`GroundedModelOutput`.

    Attributes:
        queries: Shape: [B, Q, D].
        references: Shape: [B, Q, 4].
    """

    queries: Tensor
    references: Tensor
    place_scores: Tensor | None = None
    place_boxes: Tensor | None = None
    scores: Tensor | None = None
    boxes: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """Words.

    Attributes:
        first: as they enter the encoder. Shape: [B, T, D].
        last: as they leave it.
        real: which are no padding. Shape: [B, T].
    """

    first: Tensor
    last: Tensor
    real: Tensor


class FixedStart(Composed):
    """Queries that are learned, and stand where they have learned to."""

    query_position_embeddings: nn.Embedding
    reference_points: nn.Embedding

    def forward(self, memory_BSD: Tensor, view: MapView, words: Read, longest: int) -> Proposed:
        rows = memory_BSD.shape[0]
        queries, at = self.query_position_embeddings.weight, self.reference_points.weight.sigmoid()
        return Proposed(queries.expand(rows, -1, -1), at.expand(rows, -1, -1))


class BestPlaces(Composed):
    """Learned queries that stand where the maps are most like any word.

    Args:
        enc_output, enc_output_norm: a place to what is compared.
        encoder_output_bbox_embed: how its box differs from the usual one.
    """

    query_position_embeddings: nn.Embedding
    enc_output: nn.Linear
    enc_output_norm: nn.LayerNorm
    encoder_output_bbox_embed: Perceptron

    def forward(self, memory_BSD: Tensor, view: MapView, words: Read, longest: int) -> Proposed:
        count = self.query_position_embeddings.num_embeddings
        if memory_BSD.shape[1] < count:
            found = f"{memory_BSD.shape[1]} places"
            raise InputError("the pictures are too small", where="pixel_values", expected=count, found=found)
        usual, valid = anchors(view, memory_BSD.dtype)
        rated = self.enc_output_norm(self.enc_output(memory_BSD.masked_fill(~valid, 0.0)))
        scores = contrast(rated, words.last, words.real, longest)
        boxes = self.encoder_output_bbox_embed(rated) + usual
        best = scores.amax(-1).topk(count, dim=1).indices
        at = boxes.gather(1, best[..., None].expand(-1, -1, 4)).detach().sigmoid()
        queries = self.query_position_embeddings.weight.expand(memory_BSD.shape[0], -1, -1)
        own = contrast(queries, words.first, words.real, longest)
        return Proposed(queries, at, scores, boxes, own, at)


class GroundedDetector(Model):
    """A detector of what words name, without heads.

    Args:
        backbone: pictures to feature maps, from fine to coarse.
        position_embedding: position vectors of a map.
        input_proj: each map to the width of the encoder; further ones make coarser maps of the last.
        level_embed: a vector per map.
        text_backbone: reads words.
        text_projection: their vectors to the width of the encoder.
        encoder: layers over maps and words.
        start: what the queries are before the decoder.
        decoder: layers over queries.
        longest: as many words as are read.
    """

    main_input = "pixel_values"

    backbone: Backbone
    position_embedding: Places
    input_proj: nn.ModuleList
    level_embed: nn.Embedding
    text_backbone: TextEncoder
    text_projection: nn.Linear
    encoder: GroundedEncoder
    start: FixedStart | BestPlaces
    decoder: GroundedDecoder
    longest: int

    def get_input_embeddings(self) -> nn.Module:
        return self.text_backbone.get_input_embeddings()

    def arrive(self, inputs: dict[str, object]) -> None:
        ids = inputs.get("input_ids")
        if not isinstance(ids, Tensor):
            raise InputError("there are no words", where="input_ids", expected="a tensor", found=type(ids).__name__)
        check_ids(ids, table_rows(self.text_backbone.embed_tokens))
        arrive_covered(inputs)

    def freeze_backbone(self) -> None:
        """Train everything but the backbone."""
        self.backbone.requires_grad_(False)

    def unfreeze_backbone(self) -> None:
        """Train the backbone too."""
        self.backbone.requires_grad_(True)

    def read(self, input_ids: Tensor, token_type_ids: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Words' vectors, Shape: [B, T, D], which of them see one another, and where in their phrase they stand."""
        seen, at = (x[:, : self.longest] for x in phrase_marks(input_ids))
        seen = seen[:, :, : self.longest]
        types = None if token_type_ids is None else token_type_ids[:, : self.longest]
        out = self.text_backbone.forward(
            input_ids[:, : self.longest], seen[:, None], token_type_ids=types, position_ids=at
        )
        return self.text_projection(out.last_hidden_state), seen, at

    def forward(
        self,
        pixel_values: Tensor,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_mask: Tensor | None = None,
        **given: Unpack[Tapped],
    ) -> GroundedModelOutput:
        """Hidden states of the object queries, and where they stand.

        Args:
            pixel_values: Shape: [B, channels, height, width]; smaller pictures are padded at the right and bottom.
            input_ids: phrases, each with an end behind it. Shape: [B, T].
            token_type_ids: Shape: [B, T].
            attention_mask: Shape: [B, T], 1 for real words.
            pixel_mask: Shape: [B, height, width], 1 inside the picture, 0 in its padding.
            given: see :class:`~omniform.core.context.Tapped`.

        Raises:
            InputError: pictures, words or masks of the wrong shape; fewer places than queries.
        """
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        real = real[:, : self.longest].bool()
        first, seen, at = self.read(input_ids, token_type_ids)
        view = see_maps(
            self.backbone.maps(pixel_values), self.input_proj, self.level_embed, self.position_embedding,
            pixel_values, pixel_mask,
        )  # fmt: skip
        ctx = self.step(view.embeds, given, attention_mask=view.padding)
        maps = MapContext.on(ctx, view.sizes, centres(view.sizes, view.ratios), view.places)
        (word_places,) = waves_of(at[..., None].to(first.dtype), first.shape[-1])
        words = PlacedContext.of(self.step(first, given, attention_mask=seen[:, None]), word_places)
        memory, last, fused = self.encoder((view.embeds, maps), (first, words), real)
        begun: Proposed = self.start(memory, view, Read(first, last, real), self.longest)
        steps = self.step(begun.queries, given).with_(memory=Memory(memory, view.padding))
        hidden, stood = self.decoder(begun.queries, begun.references, view, steps, Memory(last, real))
        crossed, asked = steps.taps.cross_attentions, steps.taps.wants_attentions
        return GroundedModelOutput(
            last_hidden_state=hidden[:, -1],
            init_reference_points=begun.references,
            intermediate_hidden_states=hidden,
            intermediate_reference_points=stood,
            decoder_hidden_states=steps.taps.hidden_or_none,
            decoder_attentions=(tuple(steps.taps.attentions), tuple(crossed[::2]), tuple(crossed[1::2]))
            if asked
            else None,
            encoder_last_hidden_state_vision=memory,
            encoder_last_hidden_state_text=last,
            encoder_vision_hidden_states=maps.taps.hidden_or_none,
            encoder_text_hidden_states=words.taps.hidden_or_none,
            encoder_attentions=(*fused, tuple(words.taps.attentions), tuple(maps.taps.attentions)) if asked else None,
            enc_outputs_class=begun.place_scores,
            enc_outputs_coord_logits=begun.place_boxes,
            encoder_logits=begun.scores,
            encoder_pred_boxes=begun.boxes,
        )


class GroundedObjectDetector(Model):
    """A detector with heads on every decoder layer: boxes, and how much queries are like words.

    Args:
        model: the detector.
        bbox_embed: one per layer, a query's vector to how its box differs from where it stood.
        loss: the loss against the objects that are there.
        auxiliary: whether earlier layers have losses too.
    """

    main_input = "pixel_values"

    model: GroundedDetector
    bbox_embed: nn.ModuleList
    loss: PhraseLoss
    auxiliary: bool

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        labels = inputs.get("labels")
        if not isinstance(labels, Sequence) or not labels:
            return None
        return sum(len(target["class_labels"]) for target in labels)

    def forward(
        self,
        pixel_values: Tensor,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_mask: Tensor | None = None,
        labels: Sequence[Target] | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **given: Unpack[Tapped],
    ) -> GroundedDetectionOutput:
        """Boxes, and the words that they are like; see :meth:`GroundedDetector.forward` for the other inputs.

        Args:
            labels: one per picture, each with ``class_labels`` [n], the numbers of phrases, and ``boxes`` [n, 4]
                (centre x and y, width and height, as parts of the picture's size); gives a loss.
            num_items_in_batch: how many objects the loss's sums are divided by, if not this batch's own.
        """
        masks = {"token_type_ids": token_type_ids, "attention_mask": attention_mask, "pixel_mask": pixel_mask}
        out = cast(GroundedModelOutput, self.model(pixel_values, input_ids, **masks, **given))
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        longest = self.model.longest
        real = real[:, :longest].bool()
        layers = self.predictions(out, real)
        loss = parts = earlier = None
        if labels is not None:
            phrases = phrases_of(input_ids[:, :longest], longest, (*ENDS, 0))
            read = F.pad(real, (0, longest - real.shape[1]))
            earlier = layers[:-1] if self.auxiliary else None
            own = None
            if out.encoder_logits is not None and out.encoder_pred_boxes is not None:
                own = {"logits": out.encoder_logits, "pred_boxes": out.encoder_pred_boxes}
            loss, parts = self.loss(
                layers[-1], labels, phrases, read, auxiliary=earlier or (), proposed=own, items=num_items_in_batch
            )
        told = {"label_maps": phrases, "text_mask": read[:, None].expand(layers[-1]["logits"].shape)} if earlier else {}
        return GroundedDetectionOutput(
            loss=loss,
            loss_dict=parts,
            logits=layers[-1]["logits"],
            pred_boxes=layers[-1]["pred_boxes"],
            auxiliary_outputs=None if earlier is None else [{**one, **told} for one in earlier],
            **{name: getattr(out, name) for name in GroundedModelOutput.__dataclass_fields__},
            input_ids=input_ids,
        )

    def predictions(self, out: GroundedModelOutput, real_BT: Tensor) -> list[dict[str, Tensor]]:
        """``logits`` and ``pred_boxes`` after every decoder layer."""
        hidden, stood, first, words = (
            out.intermediate_hidden_states,
            out.intermediate_reference_points,
            out.init_reference_points,
            out.encoder_last_hidden_state_text,
        )
        assert hidden is not None and stood is not None and first is not None and words is not None
        found = []
        for number, x in enumerate(hidden.unbind(1)):
            at = stood[:, number - 1] if number else first
            logits = contrast(x, words, real_BT, self.model.longest)
            found.append({"logits": logits, "pred_boxes": moved(self.bbox_embed[number](x), at)})
        return found
