"""Models that cut out what a user points at (SAM, https://arxiv.org/abs/2304.02643)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, Unpack, cast

import torch
from torch import Tensor, nn

from omniform.architectures.mask_decoder import MaskDecoder, Masks
from omniform.architectures.model import Model
from omniform.architectures.prompts import FourierPlaces, Prompt, PromptEncoder
from omniform.blocks.composed import Composed
from omniform.blocks.convnext import MapNorm
from omniform.blocks.layers import run
from omniform.blocks.patches import Learned, PatchStem
from omniform.core.context import StepContext, Tapped
from omniform.core.errors import InputError, brief
from omniform.core.outputs import BaseModelOutput, Layers, ModelOutput

V = TypeVar("V", bound=Model)


@dataclass(slots=True, kw_only=True)
class PromptedOutput(ModelOutput):
    """Masks of what prompts point at.

    Attributes:
        iou_scores: how much each mask is expected to overlap with the right one. Shape: [B, prompts, masks].
        pred_masks: scores of every pixel, above 0 inside. Shape: [B, prompts, masks, height, width].
        vision_hidden_states: maps of the encoder of pictures, Shape: [B, H, W, D] each, when asked for.
        vision_attentions: its layers' weights, when asked for.
        mask_decoder_attentions: what each layer of the mask decoder adds to the map, when attentions are asked for.
            Shape: [B * prompts, 1, H * W, D] each.
    """

    iou_scores: Tensor
    pred_masks: Tensor
    vision_hidden_states: Layers | None = None
    vision_attentions: Layers | None = None
    mask_decoder_attentions: Layers | None = None


class MapNeck(Composed):
    """A map to one of another width, by convolutions and norms."""

    conv1: nn.Conv2d
    layer_norm1: MapNorm
    conv2: nn.Conv2d
    layer_norm2: MapNorm

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Shape: [B, H, W, C] to [B, D, H, W]."""
        narrow = self.layer_norm1(self.conv1(x_BHWC.permute(0, 3, 1, 2)))
        out: Tensor = self.layer_norm2(self.conv2(narrow))
        return out


class MapEncoder(Model):
    """A transformer over the patches of a picture, which lie on a map all the way (ViTDet).

    Args:
        patches: pixels to patch vectors.
        positions: added to them, Shape: [H, W, D]; None for none.
        layers: called as ``layer(map, ctx)``.
        neck: after the last of them.
    """

    main_input = "pixel_values"

    patches: PatchStem
    positions: Learned | None
    layers: nn.ModuleList
    neck: MapNeck

    def get_input_embeddings(self) -> nn.Module:
        return self.patches

    def forward(self, pixel_values: Tensor | None = None, **given: Unpack[Tapped]) -> BaseModelOutput:
        """The map of a picture.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            given: see :class:`~omniform.core.context.Tapped`.

        Returns:
            ``last_hidden_state``, Shape: [B, D, H, W]; hidden states of Shape: [B, H, W, C], attentions of Shape:
            [B * squares * heads, T, T].

        Raises:
            InputError: no pictures, or of another size than the model's.
        """
        if pixel_values is None:
            raise InputError("there are no pictures", where="pixel_values", expected="a tensor", found="None")
        x_BTC = self.patches(pixel_values)
        ctx = self.step(x_BTC, given)
        x_BHWC = x_BTC.reshape(x_BTC.shape[0], *self.patches.patching.grid, -1)
        if self.positions is not None:
            x_BHWC = x_BHWC + self.positions.weight
        x_BHWC = run(self.layers, x_BHWC, ctx)
        weights = ctx.taps.attentions_or_none
        return BaseModelOutput(
            last_hidden_state=self.neck(x_BHWC),
            hidden_states=ctx.taps.hidden_or_none,
            attentions=None if weights is None else tuple(one.flatten(0, 1) for one in weights),
        )


@dataclass(frozen=True, slots=True)
class Seen:
    """What a picture looks like to a mask decoder.

    Attributes:
        maps: the one that it looks at last, finer ones before it. Shape: [B, D, H, W] each.
        hidden_states: of the encoder, if asked for.
        attentions: likewise.
    """

    maps: Sequence[Tensor]
    hidden_states: Layers | None = None
    attentions: Layers | None = None


class Segmenter(Model, Generic[V]):
    """An encoder of pictures, one of prompts, and what makes masks of both.

    A subclass says how pictures are seen, and what its output holds.

    Args:
        shared_image_embedding: places on the map as vectors.
        vision_encoder: pictures to maps.
        prompt_encoder: prompts to vectors.
        mask_decoder: both to masks.
    """

    main_input = "pixel_values"

    shared_image_embedding: FourierPlaces
    vision_encoder: V
    prompt_encoder: PromptEncoder
    mask_decoder: MaskDecoder

    def get_input_embeddings(self) -> nn.Module:
        return self.vision_encoder.get_input_embeddings()

    def get_image_wide_positional_embeddings(self) -> Tensor:
        """The places of the map that masks are made of, as vectors. Shape: [1, D, H, W]."""
        return self.shared_image_embedding.grid(self.prompt_encoder.map_size)

    @torch.no_grad()
    def get_prompt_embeddings(
        self,
        input_points: Tensor | None = None,
        input_labels: Tensor | None = None,
        input_boxes: Tensor | None = None,
        input_masks: Tensor | None = None,
    ) -> tuple[Tensor | None, Tensor]:
        """Prompts as vectors; see :meth:`PromptedSegmenter.forward` for the arguments.

        Returns:
            Of points and boxes, Shape: [B, prompts, points, D], or None; and of the mask, Shape: [B or 1, D, H, W].

        Raises:
            InputError: points without labels, or prompts that do not fit.
        """
        if input_points is not None and input_labels is None:
            raise InputError("points need labels", where="input_labels", expected="a tensor", found="None")
        check_prompts(input_points, input_labels, input_boxes)
        prompt: Prompt = self.prompt_encoder(input_points, input_labels, input_boxes, input_masks)
        return prompt.sparse, prompt.dense

    def decided(
        self,
        seen: Seen,
        prompt: Prompt,
        ctx: StepContext,
        several: bool,
        similarity: Tensor | None,
        target: Tensor | None,
    ) -> Masks:
        """Masks of a prompt in a picture."""
        masks: Masks = self.mask_decoder(
            seen.maps,
            self.get_image_wide_positional_embeddings(),
            prompt,
            ctx,
            several=several,
            similarity=similarity,
            target=target,
        )
        return masks


class PromptedSegmenter(Segmenter[MapEncoder]):
    """SAM."""

    @torch.no_grad()
    def get_image_embeddings(self, pixel_values: Tensor, **given: Unpack[Tapped]) -> Tensor:
        """The map of a picture, which :meth:`forward` takes in its place. Shape: [B, D, H, W]."""
        return cast(Tensor, self.vision_encoder(pixel_values, **given)["last_hidden_state"])

    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_points: Tensor | None = None,
        input_labels: Tensor | None = None,
        input_boxes: Tensor | None = None,
        input_masks: Tensor | None = None,
        image_embeddings: Tensor | None = None,
        multimask_output: bool = True,
        attention_similarity: Tensor | None = None,
        target_embedding: Tensor | None = None,
        **given: Unpack[Tapped],
    ) -> PromptedOutput:
        """Masks of what prompts point at.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            input_points: x and y in pixels of these pictures; several points may make one prompt, and a picture have
                several prompts. Shape: [B, prompts, points, 2].
            input_labels: 1 for points of the object, 0 for points outside, -1 for no point, -10 for padding. Shape:
                [B, prompts, points]; all of the object by default.
            input_boxes: left, top, right, bottom, one for each prompt. Shape: [B, prompts, 4].
            input_masks: scores, as ``pred_masks``. Shape: [B, 1, 4 H, 4 W], of a map of H rows and W columns.
            image_embeddings: what :meth:`get_image_embeddings` gave, instead of pictures.
            multimask_output: the masks of a vague prompt; otherwise the one of a clear prompt.
            attention_similarity: added to the scores with which prompts look at the map (PerSAM,
                https://arxiv.org/abs/2305.03048). Shape: broadcasts to [B * prompts, heads, T, H * W].
            target_embedding: added to the prompts' vectors (PerSAM). Shape: broadcasts to [B, prompts, T, D].
            given: see :class:`~omniform.core.context.Tapped`.

        Raises:
            InputError: no pictures, or both these and their maps; prompts that do not fit them.
        """
        check_one(pixel_values, image_embeddings)
        seen = self.seen(pixel_values, image_embeddings, given)
        check_prompts(input_points, input_labels, input_boxes, rows=seen.maps[-1].shape[0])
        prompt: Prompt = self.prompt_encoder(input_points, inside(input_points, input_labels), input_boxes, input_masks)
        ctx = self.step(seen.maps[-1], given)
        masks = self.decided(seen, prompt, ctx, multimask_output, attention_similarity, target_embedding)
        return PromptedOutput(
            iou_scores=masks.quality,
            pred_masks=masks.scores,
            vision_hidden_states=seen.hidden_states,
            vision_attentions=seen.attentions,
            mask_decoder_attentions=ctx.taps.cross_or_none,
        )

    def seen(self, pixel_values: Tensor | None, embeddings: Tensor | None, given: Tapped) -> Seen:
        """What a picture looks like, or what it was told to look like."""
        if embeddings is not None:
            check_map(embeddings, self.mask_decoder.iou_token.embedding_dim, self.prompt_encoder.map_size)
            return Seen((embeddings,))
        out = cast(BaseModelOutput, self.vision_encoder(pixel_values, **given))
        return Seen((out.last_hidden_state,), out.hidden_states, out.attentions)


def inside(points: Tensor | None, labels: Tensor | None) -> Tensor | None:
    """The labels of points; where nobody gave some, all are of the object. Shape: [B, prompts, points]."""
    if points is None or labels is not None:
        return labels
    return torch.ones(points.shape[:3], dtype=torch.int32, device=points.device)


def check_one(pixel_values: object, image_embeddings: object) -> None:
    """Raise :class:`InputError` unless there is either of the two."""
    if (pixel_values is None) == (image_embeddings is None):
        raise InputError(
            "either pictures or their maps are needed",
            where="pixel_values, image_embeddings",
            expected="one of them",
            found="neither" if pixel_values is None else "both",
        )


def check_map(x: object, dim: int, size: tuple[int, int], where: str = "image_embeddings") -> None:
    """Raise :class:`InputError` unless this is a map of so many channels, rows and columns."""
    if not isinstance(x, Tensor) or x.dim() != 4 or x.shape[1:] != (dim, *size):
        raise InputError(
            "this is no map of a picture",
            where=where,
            expected=f"shape [batch, {dim}, {size[0]}, {size[1]}]",
            found=f"shape {list(x.shape)}" if isinstance(x, Tensor) else brief(x),
        )


def check_prompts(points: object, labels: object, boxes: object, rows: int | None = None) -> None:
    """Raise :class:`InputError` unless prompts fit one another, and pictures.

    Args:
        rows: how many pictures there are; None where nobody knows.
    """
    kinds = (("input_points", points, 4, 2), ("input_labels", labels, 3, None), ("input_boxes", boxes, 3, 4))
    axes = {4: "prompts, points, 2", 3: "prompts, 4"}
    for name, given, dims, last in kinds:
        if given is None:
            continue
        told = "prompts, points" if last is None else axes[dims]
        fits = isinstance(given, Tensor) and given.dim() == dims and last in (None, given.shape[-1])
        if not fits or (rows is not None and cast(Tensor, given).shape[0] != rows):
            raise InputError(
                "these prompts do not fit",
                where=name,
                expected=f"shape [{'batch' if rows is None else rows}, {told}]",
                found=f"shape {list(given.shape)}" if isinstance(given, Tensor) else brief(given),
            )
    if isinstance(points, Tensor) and isinstance(labels, Tensor) and labels.shape != points.shape[:3]:
        raise InputError(
            "every point has one label",
            where="input_labels",
            expected=f"shape {list(points.shape[:3])}",
            found=f"shape {list(labels.shape)}",
        )
    if isinstance(points, Tensor) and isinstance(boxes, Tensor) and points.shape[1] != boxes.shape[1]:
        raise InputError(
            "a prompt of points and a box has one of each",
            where="input_boxes",
            expected=f"{points.shape[1]} boxes",
            found=boxes.shape[1],
        )
