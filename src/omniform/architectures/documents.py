"""Documents: words where they stand on a page, and the page itself as patches, in one row (LayoutLMv3)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, Unpack, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.heads import Head, QuestionAnswerer
from omniform.architectures.labels import Classes, Targets
from omniform.architectures.losses import scored, span_items, token_loss
from omniform.architectures.one_stream import words_of
from omniform.architectures.stack import TextStack
from omniform.blocks.composed import Composed
from omniform.blocks.layers import run
from omniform.blocks.patches import ClassToken, Learned, PatchStem
from omniform.core.context import Bias, StepContext, Tapped
from omniform.core.errors import InputError
from omniform.core.host import bounds_of
from omniform.core.outputs import BaseModelOutput, ClassifierOutput

FURTHEST = 1023
"""The longest edge of a box that is told apart from longer ones, on pages of 1000 by 1000."""


_FIELDS = tuple(f.name for f in fields(StepContext) if f.name != "_memo")


@dataclass(frozen=True, slots=True)
class PageContext(StepContext):
    """A step over what stands on a page.

    Attributes:
        bias: what all layers add to their scores. Shape: [B or 1, H, T, T]; None for nothing.
    """

    bias: Tensor | None = None

    @classmethod
    def of(cls, ctx: StepContext, bias: Tensor | None) -> PageContext:
        """``ctx`` with a bias."""
        return cls(**{name: getattr(ctx, name) for name in _FIELDS}, bias=bias)


@dataclass(frozen=True, slots=True)
class PageBias:
    """The bias of a :class:`PageContext`, which is computed once for all layers."""

    def __call__(self, q_BTHD: Tensor, k: Tensor, ctx: StepContext) -> Bias | None:
        """See :class:`~omniform.blocks.scores.ScoreBias`."""
        assert isinstance(ctx, PageContext)
        return ctx.bias


class OffsetBias(nn.Module):
    """A number for each head and each distance, far ones sorted into buckets that grow; training leaves it as it is.

    Args:
        heads: of the attention.
        count: how many buckets there are, half of them for either direction.
        furthest: the distance from which all are in one.
    """

    def __init__(self, heads: int, count: int, furthest: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(heads, count))
        self.furthest = furthest

    def reset(self, std: float) -> None:
        """Start from small random numbers."""
        nn.init.normal_(self.weight, std=std)

    def forward(self, places_BT: Tensor) -> Tensor:
        """The bias of every two places. Shape: [B, T], integers, to [B, H, T, T]."""
        offset = places_BT[:, None, :] - places_BT[:, :, None]
        half = self.weight.shape[1] // 2
        exact = half // 2
        distance = offset.abs()
        # In float32 and in this order: another rounding would move a distance on the edge to the next bucket.
        growth = torch.log(distance.clamp(min=1).float() / exact) / math.log(self.furthest / exact)
        far = (exact + (growth * (half - exact)).long()).clamp(max=half - 1)
        bucket = torch.where(offset > 0, half, 0) + torch.where(distance < exact, distance, far)
        return F.embedding(bucket, self.weight.detach().t()).permute(0, 3, 1, 2)

    def extra_repr(self) -> str:
        return f"heads={self.weight.shape[0]}, count={self.weight.shape[1]}, furthest={self.furthest}"


class BoxTables(Composed):
    """What a box is: its edges, its height and its width, each a learned vector, side by side.

    Args:
        x: of the left and the right edge.
        y: of the upper and the lower.
        h: of the height.
        w: of the width.
    """

    x: nn.Embedding
    y: nn.Embedding
    h: nn.Embedding
    w: nn.Embedding

    def forward(self, boxes_BT4: Tensor) -> Tensor:
        """Left, upper, right and lower edge to a vector. Shape: [B, T, 4] to [B, T, D]."""
        left, upper, right, lower = boxes_BT4.unbind(-1)
        tall, wide = ((b - a).clamp(0, FURTHEST) for a, b in ((upper, lower), (left, right)))
        edges = (self.x(left), self.y(upper), self.x(right), self.y(lower))
        return torch.cat((*edges, self.h(tall), self.w(wide)), dim=-1)

    def check(self, boxes: object, rows: int, words: int) -> None:
        """Raise :class:`InputError` unless these are boxes of so many rows and words, on a page of 1000 by 1000."""
        most = min(self.x.num_embeddings, self.y.num_embeddings) - 1
        fits = isinstance(boxes, Tensor) and list(boxes.shape) == [rows, words, 4]
        if not fits or cast(Tensor, boxes).is_floating_point():
            found = f"{boxes.dtype} of shape {list(boxes.shape)}" if isinstance(boxes, Tensor) else type(boxes).__name__
            expected = f"whole numbers of shape [{rows}, {words}, 4]"
            raise InputError("there is not one box for each word", where="bbox", expected=expected, found=found)
        low, high = bounds_of(cast(Tensor, boxes))
        if low < 0 or high > most:
            raise InputError(
                "a box lies outside the page",
                where="bbox",
                expected=f"0 to {most}",
                found=low if low < 0 else high,
                remedy="Boxes are fractions of the page, times 1000.",
            )


class PageReader(TextStack):
    """LayoutLMv3 (https://arxiv.org/abs/2204.08387): words with their boxes, and the page's patches, in one row.

    Args:
        boxes: what is added to words for their boxes.
        patches: the page to patch vectors; None for a model of words alone.
        class_token: a vector in front of the patches.
        places_2d: of the class token, then of the patches.
        visual_norm: on the patches.
        joint_norm: on words and patches together, where there is a page.
        joint_dropout: after it, in training.
        order_bias: what attentions add for how far two tokens are apart.
        x_bias: for how far their left edges are.
        y_bias: for how far their lower edges are.
        scale: on these.
    """

    UNPADS: ClassVar[bool] = False
    boxes: BoxTables
    patches: PatchStem | None = None
    class_token: ClassToken | None = None
    places_2d: Learned | None = None
    visual_norm: nn.Module | None = None
    joint_norm: nn.Module | None = None
    joint_dropout: float = 0.0
    order_bias: OffsetBias | None = None
    x_bias: OffsetBias | None = None
    y_bias: OffsetBias | None = None
    scale: float

    def arrive(self, inputs: dict[str, object]) -> None:
        pixels = inputs.get("pixel_values")
        if pixels is not None and self.patches is None:
            raise InputError("this model reads no pages (visual_embed)", where="pixel_values", found="a tensor")
        tokens = inputs.get("input_ids") if inputs.get("inputs_embeds") is None else inputs["inputs_embeds"]
        if pixels is None or tokens is not None:
            text = {k: v for k, v in inputs.items() if k in OF_TEXT}
            super().arrive(text)
            inputs.update(text)
        if isinstance(tokens, Tensor):
            if inputs.get("bbox") is not None:
                self.boxes.check(inputs["bbox"], tokens.shape[0], tokens.shape[1])
            mask = inputs.get("attention_mask")
            if isinstance(mask, Tensor) and mask.dim() != 2:
                found = f"shape {list(mask.shape)}"
                raise InputError("words are masked one by one", where="attention_mask", expected="[B, T]", found=found)
        if pixels is not None:
            assert self.patches is not None
            self.patches.check(cast(Tensor, pixels), any_size=True)
            grid = self.patches.patching.grid_of(*cast(Tensor, pixels).shape[2:])
            if grid != self.patches.patching.grid:  # places on the page are learned, and not resampled
                self.patches.check(cast(Tensor, pixels))
            if isinstance(tokens, Tensor) and tokens.shape[0] != cast(Tensor, pixels).shape[0]:
                pages = f"{cast(Tensor, pixels).shape[0]} pages"
                expected = f"{tokens.shape[0]}, one for each row of words"
                raise InputError("pages do not match the words", where="pixel_values", expected=expected, found=pages)

    def see(self, pixel_values: Tensor) -> Tensor:
        """Pages to vectors, a class token first. Shape: [B, channels, height, width] to [B, 1 + N, D]."""
        assert self.patches is not None and self.class_token is not None and self.places_2d is not None
        assert self.visual_norm is not None
        hidden: Tensor = self.visual_norm(
            self.class_token(self.patches(pixel_values, any_size=True)) + self.places_2d.weight
        )
        return hidden

    def page_boxes(self, device: torch.device) -> Tensor:
        """Where the class token and the patches are on the page. Shape: [1, 1 + N, 4]."""
        assert self.patches is not None
        rows, columns = self.patches.patching.grid
        x, y = (torch.arange(n + 1, device=device) * 1000 // n for n in (columns, rows))
        edges = (x[:-1].expand(rows, -1), y[:-1, None].expand(-1, columns), x[1:].expand(rows, -1),
            y[1:, None].expand(-1, columns))  # fmt: skip
        page = torch.tensor([[1, 1, 999, 999]], device=device)
        return torch.cat((page, torch.stack(edges, dim=-1).view(-1, 4)))[None]

    def bias(self, words: int, boxes_BT4: Tensor | None, patches: int, device: torch.device) -> Tensor | None:
        """What all layers add to their scores.

        Args:
            words: how many there are in each row.
            boxes_BT4: theirs, Shape: [B, T, 4]; None where there are no words.
            patches: how many there are, the class token among them.
        """
        if self.order_bias is None:  # without it the reference does not add the others either
            return None
        order = torch.cat([torch.arange(n, device=device) for n in (words, patches)])[None]
        total: Tensor = self.order_bias(order)
        if self.x_bias is not None and self.y_bias is not None:
            page = [self.page_boxes(device)] if patches else []
            if boxes_BT4 is not None:
                page = [boxes_BT4, *(one.expand(boxes_BT4.shape[0], -1, -1) for one in page)]
            placed = torch.cat(page, dim=1)
            total = total + self.x_bias(placed[..., 0]) + self.y_bias(placed[..., 3])
        return (total * self.scale).contiguous()  # read by every layer

    def forward(
        self,
        input_ids: Tensor | None = None,
        bbox: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        pixel_values: Tensor | None = None,
        **given: Unpack[Tapped],
    ) -> BaseModelOutput:
        """Hidden states of the words, and behind them of the page.

        Args:
            input_ids: Shape: [B, T]; may be left out where there is a page.
            bbox: left, upper, right and lower edge of each word, on a page of 1000 by 1000. Shape: [B, T, 4]; zeros by
                default.
            attention_mask: Shape: [B, T], 1 for real tokens.
            token_type_ids: Shape: [B, T]; 0 by default.
            position_ids: Shape: [B, T]; counts what is no padding by default.
            inputs_embeds: Shape: [B, T, D], instead of ``input_ids``.
            pixel_values: the pages, Shape: [B, channels, height, width].
            given: see :class:`~omniform.core.context.Tapped`.

        Returns:
            ``last_hidden_state``, Shape: [B, T + 1 + N, D].

        Raises:
            InputError: neither words nor a page; ids, boxes or pages that do not fit.
        """
        parts, masks = [], []
        words = 0
        if input_ids is not None or inputs_embeds is not None:
            embeds = self.vectors(input_ids, {"inputs_embeds": inputs_embeds, "token_type_ids": token_type_ids})
            words = embeds.shape[1]
            if bbox is None:
                bbox = torch.zeros((*embeds.shape[:2], 4), dtype=torch.long, device=embeds.device)
            places = self.places(input_ids, embeds, {"position_ids": position_ids}, None)
            ctx = self.step(embeds, position_ids=places)
            parts.append(self.embeddings(embeds + self.boxes(bbox), ctx))
            masks.append(attention_mask)
        else:
            bbox = None
        if pixel_values is not None:
            parts.append(self.see(pixel_values))
            masks.append(None)
        x = torch.cat(parts, dim=1)
        if pixel_values is not None:
            assert self.joint_norm is not None
            x = F.dropout(self.joint_norm(x), self.joint_dropout, self.training)
        known = None
        if attention_mask is not None:
            known = F.pad(attention_mask.bool(), (0, x.shape[1] - words), value=True)
        bias = self.bias(words, bbox, x.shape[1] - words, x.device)
        page = PageContext.of(self.step(x, given, attention_mask=known), None if bias is None else bias.to(x.dtype))
        hidden = run(self.layers, x, page)
        return BaseModelOutput(last_hidden_state=hidden, **page.taps.noted())


OF_TEXT = ("input_ids", "inputs_embeds", "attention_mask", "token_type_ids", "position_ids")
"""What of a call is of the words alone, and of any text."""


class PageTokenClassifier(Head):
    """One class per word of a page.

    Args:
        classifier: from words' hidden states to scores.
        classes: how many there are.
    """

    classifier: nn.Module
    classes: int

    def targets(self) -> Mapping[str, Targets]:
        return {"labels": Classes(self.classes)}

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        return scored(inputs.get("labels"))

    def forward(
        self,
        *args: Tensor | None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **inputs: object,
    ) -> ClassifierOutput:
        """Class scores of every word; see :meth:`PageReader.forward` for the inputs.

        Args:
            labels: Shape: [B, T], ``-100`` to leave out; gives a loss.
            num_items_in_batch: what the loss's sum is divided by, if not this batch's own labels.
        """
        out = cast(BaseModelOutput, self.model(*args, **inputs))
        hidden = self.dropped(out.last_hidden_state[:, : words_of(args, inputs)])
        logits = self.classifier(hidden)
        loss = None if labels is None else token_loss(logits, labels, num_items_in_batch)
        return ClassifierOutput(loss=loss, logits=logits, **out.noted())


class PageAnswerer(QuestionAnswerer):
    """The first and the last token of an answer on a page; places in the page itself are scored too."""

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        patches = cast(PageReader, self.model).patches
        behind = 0
        if patches is not None and inputs.get("pixel_values") is not None:
            rows, columns = patches.patching.grid
            behind = 1 + rows * columns
        tokens = words_of((), inputs) + behind
        return span_items(inputs.get("start_positions"), inputs.get("end_positions"), tokens)
