"""Detectors that also outline what they found: where each query looks, refined from map to map (DETR, section 5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.detection import Target
from omniform.architectures.detector import ObjectDetector, Searched, View
from omniform.architectures.model import Model
from omniform.blocks.mlp import activation
from omniform.core.errors import ConfigError
from omniform.core.outputs import DetectorModelOutput, ObjectDetectionOutput


class AttentionMap(nn.Module):
    """Where a query looks: attention weights over a map, one layer per head, and no values.

    The weights of all heads together sum to one.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.heads = heads

    def forward(self, queries_BQD: Tensor, memory_BSD: Tensor, real_BHW: Tensor) -> Tensor:
        """Weights of every place of the map.

        Args:
            queries_BQD: Shape: [B, Q, D].
            memory_BSD: Shape: [B, H * W, D].
            real_BHW: Shape: [B, H, W], True inside the picture.

        Returns:
            Shape: [B, Q, heads, H, W].
        """
        q_BQHD = self.q_proj(queries_BQD).view(*queries_BQD.shape[:2], self.heads, -1)
        k_BSHD = self.k_proj(memory_BSD).view(*memory_BSD.shape[:2], self.heads, -1)
        scores = torch.einsum("bqhd,bshd->bqhs", q_BQHD * q_BQHD.shape[-1] ** -0.5, k_BSHD)
        scores = scores.masked_fill(~real_BHW.flatten(1)[:, None, None], torch.finfo(scores.dtype).min)
        weights = scores.flatten(2).softmax(-1)
        return weights.view(*scores.shape[:3], *real_BHW.shape[1:])

    def extra_repr(self) -> str:
        return f"heads={self.heads}"


class ConvBlock(nn.Module):
    """A convolution of 3x3 pixels, a group norm and an activation."""

    def __init__(self, inner: int, outer: int, act: str) -> None:
        super().__init__()
        groups = min(8, outer)
        if not outer or outer % groups:
            raise ConfigError("a mask head's channels cannot be grouped", expected="a multiple of 8", found=outer)
        self.conv = nn.Conv2d(inner, outer, 3, padding=1)
        self.norm = nn.GroupNorm(groups, outer)
        self._act = activation(act)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shape: [B, C, H, W] to [B, C', H, W]."""
        return self._act(self.norm(self.conv(x_BCHW)))


class FusionStage(nn.Module):
    """Enlarges the queries' maps to a finer map of the backbone's and adds it."""

    def __init__(self, fine: int, inner: int, outer: int, act: str) -> None:
        super().__init__()
        self.fpn_adapter = nn.Conv2d(fine, inner, 1)
        self.refine = ConvBlock(inner, outer, act)

    def forward(self, x_NCHW: Tensor, fine_BCHW: Tensor) -> Tensor:
        """Shape: [B * Q, C, h, w] and [B, F, H, W] to [B * Q, C', H, W]."""
        # What all queries of a picture share is computed once.
        fine = self.fpn_adapter(fine_BCHW)
        enlarged = F.interpolate(x_NCHW, size=fine.shape[-2:], mode="nearest")
        fused = enlarged.view(fine.shape[0], -1, *fine.shape[1:]) + fine[:, None]
        out: Tensor = self.refine(fused.flatten(0, 1))
        return out


class MaskHead(nn.Module):
    """From where a query looks to its object's outline, through ever finer maps with ever fewer channels.

    Args:
        dim: width of the encoder.
        heads: of the attention maps.
        fine: channels of the backbone's three maps before its coarsest, from coarse to fine.
        act: name of the activation.
    """

    def __init__(self, dim: int, heads: int, fine: Sequence[int], act: str) -> None:
        super().__init__()
        self.conv1 = ConvBlock(dim + heads, dim + heads, act)
        self.conv2 = ConvBlock(dim + heads, dim // 2, act)
        self.fpn_stages = nn.ModuleList(
            FusionStage(channels, dim // 2 ** (i + 1), dim // 2 ** (i + 2), act) for i, channels in enumerate(fine)
        )
        self.output_conv = nn.Conv2d(dim // 2 ** (len(fine) + 1), 1, 3, padding=1)

    def forward(self, projected_BDHW: Tensor, looks_BQNHW: Tensor, fine: Sequence[Tensor]) -> Tensor:
        """Scores of every place as part of every query's object.

        Args:
            projected_BDHW: the coarsest map, projected, Shape: [B, D, H, W].
            looks_BQNHW: where each query looks, Shape: [B, Q, heads, H, W].
            fine: the finer maps, from coarse to fine, Shape: [B, C, H', W'] each.

        Returns:
            Shape: [B, Q, H', W'] of the finest map.
        """
        queries = looks_BQNHW.shape[1]
        shared = projected_BDHW[:, None].expand(-1, queries, -1, -1, -1)
        x = torch.cat((shared, looks_BQNHW), dim=2).flatten(0, 1)
        x = self.conv2(self.conv1(x))
        for stage, finer in zip(self.fpn_stages, fine, strict=True):
            x = stage(x, finer)
        scores: Tensor = self.output_conv(x)
        return scores.view(-1, queries, *scores.shape[2:])


def _mask_head_keys(stages: int) -> Iterator[tuple[str, str]]:
    """The published names: layers and norms are numbered from 1, all through the head."""
    blocks = ["conv1", "conv2", *(f"fpn_stages.{i}.refine" for i in range(stages))]
    for number, block in enumerate(blocks, start=1):
        yield f"mask_head.{block}.conv", f"mask_head.lay{number}"
        yield f"mask_head.{block}.norm", f"mask_head.gn{number}"
    for i in range(stages):
        yield f"mask_head.fpn_stages.{i}.fpn_adapter", f"mask_head.adapter{i + 1}"
    yield "mask_head.output_conv", "mask_head.out_lay"


MASK_HEAD_KEYS = {
    "bbox_attention.q_proj": "bbox_attention.q_linear",
    "bbox_attention.k_proj": "bbox_attention.k_linear",
    **dict(_mask_head_keys(3)),
}
"""Where checkpoints keep what outlines."""


class Segmenter(Model):
    """A detector with outlines.

    Args:
        model: the detector.
        bbox_attention: where its queries look.
        mask_head: from there to outlines.
    """

    main_input = "pixel_values"

    model: ObjectDetector
    bbox_attention: AttentionMap
    mask_head: MaskHead

    def arrive(self, inputs: dict[str, object]) -> None:
        self.model.model.arrive(inputs)

    def outline(self, out: DetectorModelOutput, view: View) -> Tensor:
        """Scores of every place as part of every query's object. Shape: [B, Q, height / 4, width / 4]."""
        assert out.encoder_last_hidden_state is not None
        rows, height, width = view.real.shape
        projected = view.embeds.transpose(1, 2).reshape(rows, -1, height, width)
        looks = self.bbox_attention(out.last_hidden_state, out.encoder_last_hidden_state, view.real)
        scores: Tensor = self.mask_head(projected, looks, view.maps[2::-1])
        return scores

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        return self.model.loss_items(inputs)

    def forward(
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor | None = None,
        *,
        labels: Sequence[Target] | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **given: Unpack[Searched],
    ) -> ObjectDetectionOutput:
        """Classes, boxes and outlines; see :meth:`~omniform.architectures.detector.QueryDetector.forward`.

        Args:
            labels: one per picture, each with ``class_labels`` [n], ``boxes`` [n, 4] and ``masks`` [n, height, width];
                gives a loss.
            num_items_in_batch: see :meth:`~omniform.architectures.detector.ObjectDetector.forward`.
            given: see :class:`~omniform.architectures.detector.Searched`.
        """
        detector = self.model.model
        view = detector.see(pixel_values, pixel_mask)
        out = detector.search(view, **given)
        return self.model.answer(out, labels, self.outline(out, view), num_items_in_batch)
