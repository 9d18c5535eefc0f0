"""Decoders whose tokens stand on three axes: time, rows and columns (M-RoPE, https://arxiv.org/abs/2409.12191).

Text counts on all three alike. The tokens of a picture stand where its patches do, from where the text before it ends;
the text after it goes on beyond its longer side. Where tokens stand is computed from ids and from what is known of the
items on the host, without looking at an id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Unpack, cast

import torch
from torch import Tensor

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.stack import Encoded, Stepped
from omniform.blocks.frequencies import ROPE, Frequencies
from omniform.blocks.layers import Step, run
from omniform.blocks.packed_patches import Grid
from omniform.blocks.rotary import AxesRotary
from omniform.core.context import StepContext
from omniform.core.errors import check_shape
from omniform.core.outputs import BaseModelOutput
from omniform.core.reader import ConfigReader


@dataclass(frozen=True, slots=True)
class Stretch:
    """The tokens of a picture, or of some frames of a film, that follow one another.

    Attributes:
        grid: tokens in time, down and across.
        times: where each of its frames stands in time, from where the stretch begins; 0, 1, 2... where it says nothing.
    """

    grid: Grid
    times: tuple[int, ...] = ()

    def places(self) -> Tensor:
        """Where its tokens stand, from where it begins. Shape: [3, tokens]."""
        axes = [torch.arange(n, device="cpu") for n in self.grid]
        if self.times:
            axes[0] = torch.tensor(self.times, device="cpu")
        return torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)

    def steps(self) -> Tensor:
        """How far each of its tokens moves what follows: its last one by the longer side. Shape: [tokens]."""
        time, rows, columns = self.grid
        steps = torch.zeros(time * rows * columns, dtype=torch.long, device="cpu")
        steps[-1] = max(rows, columns)
        return steps


def stand(
    input_ids: Tensor,
    stretches: Sequence[tuple[int, Sequence[Stretch]]],
    real_BT: Tensor | None = None,
    start: Tensor | int = 0,
) -> tuple[Tensor, Tensor]:
    """Where the tokens of rows stand, and how far what follows each row lies beyond its index.

    Args:
        input_ids: Shape: [B, T].
        stretches: of every kind of items, the token that stands for them and all of them in reading order.
        real_BT: False for padding, which stands at 0; None where there is none.
        start: where the first token of each row stands. Shape: [B, 1].

    Returns:
        Shape: [3, B, T] and [B, 1]; the latter is counted from the first of these tokens.
    """
    real = torch.ones_like(input_ids, dtype=torch.bool) if real_BT is None else real_BT
    steps, places = real.long(), torch.zeros(3, *input_ids.shape, dtype=torch.long, device=input_ids.device)
    for token, own in stretches:
        if not own:
            continue
        marked = input_ids == token
        nth = (marked.flatten().cumsum(0) - 1).clamp(min=0).view_as(input_ids)
        table = torch.cat([one.places() for one in own], dim=1).to(input_ids.device)
        moved = torch.cat([one.steps() for one in own]).to(input_ids.device)
        nth = nth.clamp(max=len(moved) - 1)  # more tokens than there are items for were refused, where it is known
        steps = torch.where(marked, moved[nth] * real, steps)
        places = torch.where(marked, table[:, nth], places)
    begun = steps.cumsum(1) - steps + start
    positions = torch.where(real, begun + places, 0)
    shift = positions.amax((0, 2), keepdim=True)[0] + 1 - real.sum(1, keepdim=True)
    return positions, shift


class AxesDecoder(TextDecoder):
    """A decoder whose ``position_ids`` may have three axes, or four: the first then counts the tokens of each text."""

    def counting(self, told: Tensor) -> Tensor:
        """Of a caller's positions, those by which the texts of a row are told: none by those of three axes."""
        if told.dim() == 3:
            return told[0] if len(told) == 4 else told
        return told.expand(3, *told.shape[-2:])

    def arrive(self, inputs: dict[str, object]) -> None:
        told = inputs.get("position_ids")
        if not isinstance(told, Tensor):
            super().arrive(inputs)
            return
        inputs["position_ids"] = self.counting(told)
        super().arrive(inputs)
        inputs["position_ids"] = _on_axes(told)

    def places(
        self, input_ids: Tensor | None, embeds_BTD: Tensor, given: Encoded, mask: Tensor | None, past: int = 0
    ) -> Tensor | None:
        told = given.get("position_ids")
        return super().places(input_ids, embeds_BTD, given, mask, past) if told is None else _on_axes(told)

    def texts(
        self, embeds_BTD: Tensor, given: Encoded, mask: Tensor | None, *, bare: bool = True, any_step: bool = False
    ) -> Tensor | None:
        told = given.get("position_ids")
        if told is not None:
            given = cast(Encoded, {**given, "position_ids": self.counting(told)})
        return super().texts(embeds_BTD, given, mask, bare=bare, any_step=any_step)


def _on_axes(told: Tensor) -> Tensor:
    """Positions without those that only count."""
    return told[1:] if told.dim() == 3 and len(told) == 4 else told


class Deepened(Stepped, total=False):
    """What may come with the tokens of a :class:`DeepDecoder`.

    Attributes:
        visual_pos_masks: True for the tokens of pictures. Shape: [B, T].
        deepstack_visual_embeds: what each of the first layers adds to them. Shape: [marked tokens, D] each.
    """

    visual_pos_masks: Tensor | None
    deepstack_visual_embeds: Sequence[Tensor] | None


class DeepDecoder(AxesDecoder):
    """A decoder to whose first layers pictures are told once more: DeepStack (https://arxiv.org/abs/2406.04334).

    What a layer adds to a token stands behind the token's own vector, layer after layer; vectors without it are as
    good as zeros there.
    """

    def counting(self, told: Tensor) -> Tensor:
        return told if told.dim() < 3 else super().counting(told)

    def decode(self, embeds_BTD: Tensor, ctx: StepContext) -> Tensor:
        width = self.width
        if embeds_BTD.shape[-1] == width:
            return super().decode(embeds_BTD, ctx)
        own, *deep = embeds_BTD.split(width, dim=-1)  # type: ignore[no-untyped-call]
        steps = [_told(layer, i, deep, len(self.layers)) for i, layer in enumerate(self.layers)]
        return run(steps, self.embeddings(own, ctx), ctx, self.norm)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *more: Tensor | None,
        **given: Unpack[Deepened],
    ) -> BaseModelOutput:
        """Hidden states of a padded batch; see :meth:`TextDecoder.forward`.

        Args:
            given: see :class:`Deepened`.
        """
        marked, deep = given.pop("visual_pos_masks", None), given.pop("deepstack_visual_embeds", None)
        if marked is not None and deep:
            embeds = self.vectors(input_ids, given)
            check_shape("there is not one mark per token", marked.shape, embeds.shape[:2], where="visual_pos_masks")
            given["inputs_embeds"] = deepened(embeds, marked, deep)
            input_ids = None
        return super().forward(input_ids, attention_mask, *more, **cast(Stepped, given))


def deepened(embeds_BTD: Tensor, marked_BT: Tensor, deep: Sequence[Tensor]) -> Tensor:
    """Vectors with what the first layers add behind them. Shape: [B, T, D * (1 + layers)]."""
    blank, marked = torch.zeros_like(embeds_BTD), marked_BT.bool()[..., None]
    return torch.cat((embeds_BTD, *(blank.masked_scatter(marked, one.to(blank)) for one in deep)), dim=-1)


def _told(layer: Step, number: int, deep: Sequence[Tensor], layers: int) -> Step:
    """A layer that is told first what is added after the one before it; the last one's is added at its end.

    So what is noted between layers is what each of them gave.
    """

    def step(x_BTD: Tensor, ctx: StepContext) -> Tensor:
        if 0 < number <= len(deep):
            x_BTD = x_BTD + deep[number - 1]
        out = layer(x_BTD, ctx)
        return out + ctx.like(deep[number], out) if number == layers - 1 < len(deep) else out

    return step


SECTIONS = (16, 24, 24)
"""Pairs of channels that turn by time, by rows and by columns, where a config does not say."""


def read_sections(r: ConfigReader, default: tuple[int, ...]) -> tuple[int, ...]:
    """``mrope_section`` of a config's rotary settings."""
    own = next((r.raw[name] for name in reversed(ROPE) if r.raw.get(name)), {})
    s = r.within(own if isinstance(own, Mapping) else {}, "rope_parameters")
    sections = s.integers("mrope_section", default)
    if len(sections) < 3:
        raise s.fail("mrope_section", "a number of channel pairs for time, rows and columns each", list(sections))
    return sections


def in_sections(r: ConfigReader, frequencies: Frequencies) -> AxesRotary:
    """Pairs of channels by axis, section after section (Qwen2-VL, Qwen2.5-VL)."""
    sections, pairs = read_sections(r, SECTIONS), frequencies.dim // 2
    if sum(sections) != pairs:
        raise r.fail("mrope_section", f"{pairs} channel pairs together, half the width of a head", list(sections))
    return AxesRotary(frequencies, tuple(i % 3 for i, count in enumerate(sections) for _ in range(count)))


def interleaved(r: ConfigReader, frequencies: Frequencies) -> AxesRotary:
    """Pairs of channels by axis in turn, time, row, column; what is left over turns by time (Qwen3-VL)."""
    sections = read_sections(r, (24, 20, 20))
    axes = [0] * (frequencies.dim // 2)
    for axis in (1, 2):
        for pair in range(axis, min(sections[axis] * 3, len(axes)), 3):
            axes[pair] = axis
    return AxesRotary(frequencies, tuple(axes))
