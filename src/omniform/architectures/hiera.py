"""Pictures as SAM 2 sees them (https://arxiv.org/abs/2408.00714): Hiera's maps, joined from coarse to fine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.mask_decoder import DeepMLP, MaskDecoder, Masks
from omniform.architectures.model import Model
from omniform.architectures.prompted import Seen, Segmenter, check_map, check_one, check_prompts, inside
from omniform.architectures.prompts import NOWHERE, Prompt
from omniform.blocks.composed import Composed
from omniform.blocks.hiera import TiledPositions
from omniform.blocks.layers import passed
from omniform.blocks.patches import Learned, Size, check_pictures
from omniform.blocks.positioned import SinePlaces
from omniform.core.context import Tapped
from omniform.core.errors import InputError
from omniform.core.outputs import BaseModelOutput, Layers, ModelOutput


@dataclass(slots=True, kw_only=True)
class HieraOutput(ModelOutput):
    """Maps of a Hiera.

    Attributes:
        last_hidden_state: the coarsest. Shape: [B, H, W, C].
        intermediate_hidden_states: the last of each stage, from fine to coarse.
        hidden_states: what enters the first layer and what each gives, when asked for.
        attentions: what each layer's attention gives, square by square, when asked for. Shape: [B * squares, h, w, C].
    """

    last_hidden_state: Tensor
    intermediate_hidden_states: Layers = ()
    hidden_states: Layers | None = None
    attentions: Layers | None = None


@dataclass(slots=True, kw_only=True)
class PyramidOutput(BaseModelOutput):
    """Maps of a Hiera, and those that they are joined to.

    Attributes:
        fpn_hidden_states: from fine to coarse, Shape: [B, D, H, W] each.
        fpn_position_encoding: their places, Shape: [B, D, H, W] each.
    """

    fpn_hidden_states: Layers | None = None
    fpn_position_encoding: Layers | None = None


@dataclass(slots=True, kw_only=True)
class FoundOutput(ModelOutput):
    """Masks of what prompts point at, and whether it is there.

    Attributes:
        iou_scores: how much each mask is expected to overlap with the right one. Shape: [B, prompts, masks].
        pred_masks: scores of every pixel, above 0 inside. Shape: [B, prompts, masks, height, width].
        object_score_logits: above 0 where the object is in the picture. Shape: [B, prompts, 1].
        image_embeddings: the picture's maps, which a next call takes instead of it. Shape: [B, D, H, W] each.
        vision_hidden_states: maps of the encoder of pictures, when asked for.
        vision_attentions: what its attentions give, when asked for.
        mask_decoder_attentions: what each layer of the mask decoder adds to the map, when attentions are asked for.
    """

    iou_scores: Tensor
    pred_masks: Tensor
    object_score_logits: Tensor | None = None
    image_embeddings: list[Tensor] | None = None
    vision_hidden_states: Layers | None = None
    vision_attentions: Layers | None = None
    mask_decoder_attentions: Layers | None = None


class Hiera(Model):
    """A transformer over a picture's patches, whose maps grow coarser.

    Args:
        projection: pixels to patch vectors.
        positions: added to them.
        layers: called as ``layer(map, ctx)``.
        ends: the numbers of the stages' last layers.
    """

    main_input = "pixel_values"

    projection: nn.Conv2d
    positions: TiledPositions
    layers: nn.ModuleList
    ends: tuple[int, ...]

    def get_input_embeddings(self) -> nn.Module:
        return self.projection

    def forward(self, pixel_values: Tensor | None = None, **given: Unpack[Tapped]) -> HieraOutput:
        """Maps of pictures of any size that the squares of the first stage fill.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            given: see :class:`~omniform.core.context.Tapped`.

        Raises:
            InputError: no pictures, or of a size that does not fit.
        """
        if pixel_values is None:
            raise InputError("there are no pictures", where="pixel_values", expected="a tensor", found="None")
        check_pictures(pixel_values, self.projection.in_channels)
        x_BHWC = self.projection(pixel_values.to(self.projection.weight.dtype)).permute(0, 2, 3, 1)
        ctx = self.step(x_BHWC.flatten(1, 2), given)
        x_BHWC = x_BHWC + self.positions((x_BHWC.shape[1], x_BHWC.shape[2]))
        ctx.taps.hidden(x_BHWC)
        maps = []
        for number, layer in enumerate(self.layers):
            x_BHWC = passed(layer, number, x_BHWC, ctx)
            ctx.taps.hidden(x_BHWC)
            # A stage without layers of its own ends where the one before it did.
            maps += [x_BHWC] if number in self.ends else []
        return HieraOutput(last_hidden_state=x_BHWC, intermediate_hidden_states=tuple(maps), **ctx.taps.noted())


class PyramidNeck(Composed):
    """Maps to one width; some are joined with what is coarser (https://arxiv.org/abs/1612.03144).

    Args:
        convs: of each map, from coarse to fine.
        joined: the numbers of the maps that the next coarser one is added to, counted from fine to coarse.
        places: of the maps' places.
    """

    convs: nn.ModuleList
    joined: tuple[int, ...]
    places: SinePlaces

    def forward(self, maps: Sequence[Tensor], levels: int) -> list[Tensor]:
        """The finest of them.

        Args:
            maps: from fine to coarse, Shape: [B, H, W, C] each.
            levels: how many are wanted.

        Returns:
            From fine to coarse, Shape: [B, D, H, W] each.
        """
        found: list[Tensor] = []
        for number, (conv, x_BHWC) in enumerate(zip(self.convs, reversed(maps), strict=True)):
            x = conv(x_BHWC.permute(0, 3, 1, 2))
            if found and len(maps) - 1 - number in self.joined:
                x = x + F.interpolate(found[0].float(), scale_factor=2.0, mode="nearest").to(x.dtype)
            found.insert(0, x)
        return found[:levels]

    def placed(self, x_BDHW: Tensor) -> Tensor:
        """The places of a map. Shape: [B, D, H, W] in and out."""
        size = x_BDHW.shape[-2:]
        real = torch.ones(1, *size, dtype=torch.bool, device=x_BDHW.device)
        places: Tensor = self.places(real, x_BDHW.dtype)
        return places.transpose(1, 2).reshape(1, -1, *size).expand(x_BDHW.shape[0], -1, -1, -1)


class PyramidEncoder(Model):
    """A Hiera, and its maps joined.

    Args:
        backbone: pictures to maps.
        neck: joins them.
        levels: how many of them are given, the finest ones.
    """

    main_input = "pixel_values"

    backbone: Hiera
    neck: PyramidNeck
    levels: int

    def get_input_embeddings(self) -> nn.Module:
        return self.backbone.get_input_embeddings()

    def forward(self, pixel_values: Tensor | None = None, **given: Unpack[Tapped]) -> PyramidOutput:
        """Maps of pictures; see :meth:`Hiera.forward`."""
        out = cast(HieraOutput, self.backbone(pixel_values, **given))
        maps = self.neck(out.intermediate_hidden_states, self.levels)
        return PyramidOutput(
            last_hidden_state=out.last_hidden_state,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
            fpn_hidden_states=tuple(maps),
            fpn_position_encoding=tuple(map(self.neck.placed, maps)),
        )


class StabilityChoice(Composed):
    """Which mask a clear prompt gets: its own where that is stable, else the best of a vague prompt's.

    Args:
        delta: how far scores are moved to see what stays inside.
        threshold: which part has to stay.
    """

    delta: float
    threshold: float

    def forward(self, scores: Tensor, quality: Tensor) -> Masks:
        """Shape: [B, prompts, 1 and several, H, W] and [B, prompts, 1 and several]."""
        best = quality[:, :, 1:].argmax(dim=-1, keepdim=True)
        where = best[..., None, None].expand(-1, -1, -1, *scores.shape[-2:])
        own = scores[:, :, :1].flatten(-2)
        least, most = ((own > at).sum(-1).float() for at in (self.delta, -self.delta))
        stable = torch.where(most > 0, least / most, 1.0) >= self.threshold
        return Masks(
            scores=torch.where(stable[..., None, None], scores[:, :, :1], scores[:, :, 1:].gather(2, where)),
            quality=torch.where(stable, quality[:, :, :1], quality[:, :, 1:].gather(2, best)),
        )


class FineMaskDecoder(MaskDecoder):
    """One that sees finer maps too, and tells whether the object is there (SAM 2).

    Args:
        conv_s0: the finest map to the width of the masks' pixels.
        conv_s1: the next one.
        obj_score_token: stands for whether the object is there.
        pred_obj_score_head: tells it.
        choice: of one mask, while nobody trains; None for that of a clear prompt.
    """

    conv_s0: nn.Conv2d
    conv_s1: nn.Conv2d
    obj_score_token: nn.Embedding
    pred_obj_score_head: DeepMLP
    choice: StabilityChoice | None

    def tokens(self) -> Tensor:
        return torch.cat((self.obj_score_token.weight, super().tokens()))

    def quality(self, tokens: Tensor) -> Tensor:
        told: Tensor = self.iou_prediction_head(tokens[:, :, 1])
        return told.sigmoid()

    def finer(self, image_BDHW: Tensor, finer: Sequence[Tensor], prompts: int) -> Tensor:
        finest, middle = (x.repeat_interleave(prompts, 0) for x in finer)
        double = F.gelu(self.upscale_layer_norm(self.upscale_conv1(image_BDHW) + middle))
        return F.gelu(self.upscale_conv2(double) + finest)

    def chosen(self, scores: Tensor, quality: Tensor, *, several: bool, tokens: Tensor) -> Masks:
        masks = super().chosen(scores, quality, several=several, tokens=tokens)
        presence = self.pred_obj_score_head(tokens[:, :, 0])
        return Masks(scores=masks.scores, quality=masks.quality, presence=presence)

    def single(self, scores: Tensor, quality: Tensor) -> Masks:
        if self.choice is None or self.training:
            return super().single(scores, quality)
        masks: Masks = self.choice(scores, quality)
        return masks


class PyramidSegmenter(Segmenter[PyramidEncoder]):
    """SAM 2, of pictures.

    Args:
        no_memory: added to the coarsest map, where nothing is remembered of earlier pictures.
        sizes: rows and columns of the maps, from fine to coarse.
        mask_size: rows and columns of the masks that the encoder of prompts reads.
    """

    no_memory: Learned
    sizes: tuple[Size, ...]
    mask_size: Size

    @torch.no_grad()
    def get_image_embeddings(self, pixel_values: Tensor, **given: Unpack[Tapped]) -> list[Tensor]:
        """The maps of a picture, from fine to coarse, which :meth:`forward` takes in its place."""
        return [*self.seen(pixel_values, None, given).maps]

    def get_image_features(self, pixel_values: Tensor, **given: Unpack[Tapped]) -> PyramidOutput:
        """The maps of a picture as rows of places, and what the encoder makes of it besides.

        Returns:
            ``fpn_hidden_states`` and ``fpn_position_encoding`` of Shape: [H * W, B, D] each; the two finest maps of as
            many channels as masks are drawn with.
        """
        out, maps = self._encoded(pixel_values, given)
        out.fpn_hidden_states = cast(Layers, [_places_first(x) for x in maps])
        out.fpn_position_encoding = cast(Layers, [_places_first(x) for x in out.fpn_position_encoding or ()])
        return out

    def _encoded(self, pixel_values: Tensor, given: Tapped) -> tuple[PyramidOutput, list[Tensor]]:
        out = cast(PyramidOutput, self.vision_encoder(pixel_values, **given))
        assert out.fpn_hidden_states is not None and isinstance(self.mask_decoder, FineMaskDecoder)
        finest, middle, *rest = out.fpn_hidden_states
        return out, [self.mask_decoder.conv_s0(finest), self.mask_decoder.conv_s1(middle), *rest]

    def seen(self, pixel_values: Tensor | None, embeddings: Sequence[Tensor] | None, given: Tapped) -> Seen:
        """What a picture looks like, or what it was told to look like."""
        dim = self.mask_decoder.iou_token.embedding_dim
        if embeddings is not None:
            if not isinstance(embeddings, (list, tuple)) or len(embeddings) != len(self.sizes):
                raise InputError(
                    "a picture has several maps",
                    where="image_embeddings",
                    expected=f"a list of {len(self.sizes)}, as get_image_embeddings gives it",
                    found=type(embeddings).__name__,
                )
            for number, (x, channels, size) in enumerate(
                zip(embeddings, (dim // 8, dim // 4, dim), self.sizes, strict=True)
            ):
                check_map(x, channels, size, f"image_embeddings[{number}]")
            return Seen(embeddings)
        assert pixel_values is not None
        out, maps = self._encoded(pixel_values, given)
        found = [(x.shape[2], x.shape[3]) for x in maps]
        if found != [*self.sizes]:
            raise InputError(
                "the maps of these pictures are of other sizes than the model's",
                where="pixel_values",
                expected=f"maps of {', '.join(f'{h} x {w}' for h, w in self.sizes)}",
                found=", ".join(f"{h} x {w}" for h, w in found),
                remedy="Resize the pictures.",
            )
        maps[-1] = maps[-1] + self.no_memory.weight[:, None, None]
        return Seen(maps, out.hidden_states, out.attentions)

    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_points: Tensor | None = None,
        input_labels: Tensor | None = None,
        input_boxes: Tensor | None = None,
        input_masks: Tensor | None = None,
        image_embeddings: Sequence[Tensor] | None = None,
        multimask_output: bool = True,
        attention_similarity: Tensor | None = None,
        target_embedding: Tensor | None = None,
        **given: Unpack[Tapped],
    ) -> FoundOutput:
        """Masks of what prompts point at.

        See :meth:`~omniform.architectures.prompted.PromptedSegmenter.forward` for the arguments; ``image_embeddings``
        are a list, masks of another size are resampled, and without points and boxes there is one prompt of nothing.

        Raises:
            InputError: no pictures, or both these and their maps; prompts that do not fit them.
        """
        check_one(pixel_values, image_embeddings)
        seen = self.seen(pixel_values, image_embeddings, given)
        coarse = seen.maps[-1]
        rows = coarse.shape[0]
        check_prompts(input_points, input_labels, input_boxes, rows=rows)
        if input_points is None and input_boxes is None:
            input_points = torch.zeros(rows, 1, 1, 2, dtype=coarse.dtype, device=coarse.device)
            input_labels = torch.full((rows, 1, 1), NOWHERE, dtype=torch.int32, device=coarse.device)
        labels = inside(input_points, input_labels)
        masked = None if input_masks is None else self.resampled(input_masks)
        prompt: Prompt = self.prompt_encoder(input_points, labels, input_boxes, masked)
        ctx = self.step(coarse, given)
        masks = self.decided(seen, prompt, ctx, multimask_output, attention_similarity, target_embedding)
        return FoundOutput(
            iou_scores=masks.quality,
            pred_masks=masks.scores,
            object_score_logits=masks.presence,
            image_embeddings=[*seen.maps],
            vision_hidden_states=seen.hidden_states,
            vision_attentions=seen.attentions,
            mask_decoder_attentions=ctx.taps.cross_or_none,
        )

    def resampled(self, masks: Tensor) -> Tensor:
        """Masks of the size that the encoder of prompts reads. Shape: [B, 1, H, W]."""
        size = self.mask_size
        if masks.shape[-2:] == size:
            return masks
        smooth = F.interpolate(masks.float(), size=size, mode="bilinear", align_corners=False, antialias=True)
        return smooth.to(masks.dtype)


def _places_first(x_BDHW: Tensor) -> Tensor:
    """Shape: [B, D, H, W] to [H * W, B, D]."""
    return x_BDHW.flatten(2).permute(2, 0, 1)
