"""When each token was said: where the decoder looked in the sound while it wrote.

Some heads of the cross-attention follow the speech; ``generation_config.json`` names them as ``alignment_heads``. Their
weights, standardised and smoothed, are a table of tokens and frames, and the path through it that looks at most gives
each token the frame where it begins. Source: https://github.com/openai/whisper/blob/main/whisper/timing.py
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from omniform.architectures.decoder import TextDecoder
from omniform.core.context import Memory, StepContext, Taps
from omniform.core.errors import InputError, brief
from omniform.core.state import CrossKV, StatefulModule
from omniform.engine.hearing.warping import first_columns

Heads = Sequence[Sequence[int]]
"""Heads of the cross-attention, as pairs of a layer and a head in it, both from 0."""

_MOST_WEIGHTS = 2**24  # so many numbers of one layer's weights are computed at once


class Aligning(Protocol):
    """A model whose decoder looks at sound while it writes."""

    @property
    def decoder(self) -> TextDecoder: ...

    def check_shown(self, name: str) -> None: ...


@torch.inference_mode()
def token_times(
    model: Aligning,
    memory: Memory,
    tokens: Tensor,
    *,
    prompt: int,
    heads: Heads,
    frames: Sequence[int] | int | None = None,
    mask: Tensor | None = None,
    median: int = 7,
    precision: float = 0.02,
) -> Tensor:
    """When each token begins, in seconds from the beginning of its window.

    The rows are read once more, in one pass; of the attention's weights only those of the heads that align are kept. So
    nothing need be noted while tokens are written, and any way of writing them will do.

    Args:
        memory: what the encoder made of the windows; of one window as many rows may stand in ``tokens``, one after
            another, as there are rows for each.
        tokens: what the rows begin with and what was written. Shape: [B, T]. Rows that ended before others are filled
            with padding, which is read with the rest: the times are those that the reference gives such a batch.
        prompt: how many tokens rows begin with, which were not written (the reference's ``num_input_ids``).
        heads: those that align.
        frames: how many frames of log-mel each window has, two for each of the memory's; for every row, or every
            window. None: all of the memory is sound.
        mask: 1 for tokens, 0 for padding in front of shorter beginnings. Shape: [B, T].
        median: over how many frames weights are smoothed; odd.
        precision: seconds from one of the memory's frames to the next.

    Returns:
        Shape: [B, T], float32. The prompt's tokens are at 0.0; the last of a row, which nobody read, is where the one
        before it is.

    Raises:
        InputError: a head that the decoder does not have, an even ``median``, numbers of rows that do not fit.
    """
    model.check_shown("return_token_timestamps")
    rows, length = tokens.shape
    windows = memory.hidden.shape[0]
    _check(model.decoder, heads, median)
    times = torch.zeros(rows, length)
    if length - prompt < 2 or not rows:
        return times.to(tokens.device)
    memory = _repeated(memory, _shares(rows, windows, "tokens"))
    widths = _widths(frames, rows, memory.hidden.shape[1])
    tables = []
    most = max(1, _MOST_WEIGHTS // max(1, head_count(model.decoder) * length * memory.hidden.shape[1]))
    for first in range(0, rows, most):
        some = slice(first, first + most)
        padding = None if memory.padding is None else memory.padding[some]
        part = Memory(memory.hidden[some], padding)
        weights = _weights(model.decoder, part, tokens[some, :-1], None if mask is None else mask[some, :-1], heads)
        tables += [_table(row[:, prompt:, :width], median) for row, width in zip(weights, widths[some], strict=True)]
    for row, columns in zip(times, first_columns([(-table).cpu().numpy() for table in tables]), strict=True):
        begun = torch.from_numpy(columns) * precision
        row[prompt:-1] = begun
        row[-1] = begun[-1]
    return times.to(tokens.device)


class _Chosen(list[Tensor]):
    """The weights of some heads: those of all layers come, one after another, and only these are kept.

    Args:
        heads: which heads of each layer.
    """

    def __init__(self, heads: dict[int, list[int]]) -> None:
        super().__init__()
        self._heads = heads
        self._layer = 0

    def append(self, weights_BHTS: Tensor, /) -> None:
        chosen = self._heads.get(self._layer)
        if chosen is not None:
            super().append(weights_BHTS[:, chosen].float())
        self._layer += 1


def _weights(decoder: TextDecoder, memory: Memory, tokens: Tensor, mask: Tensor | None, heads: Heads) -> Tensor:
    """How much each token looked at each frame. Shape: [B, heads, T, S]."""
    layers: dict[int, list[int]] = {}
    for layer, head in sorted((layer, head) for layer, head in heads):
        layers.setdefault(layer, []).append(head)
    taps = Taps({"output_attentions": True})
    taps.attentions = _Chosen({})
    taps.cross_attentions = _Chosen(layers)
    places = None if mask is None else (mask.long().cumsum(-1) - 1).clamp(min=0)
    embeds = decoder.embed(tokens)
    ctx: StepContext = decoder.step(embeds, attention_mask=mask, position_ids=places)
    decoder.decode(embeds, ctx.with_(memory=memory, taps=taps))
    return torch.cat(list(taps.cross_attentions), dim=1)


def _table(weights_HTS: Tensor, median: int) -> Tensor:
    """How well each token fits each frame. Shape: [heads, T, S] to [T, S]."""
    spread, mean = torch.std_mean(weights_HTS, dim=-2, keepdim=True, unbiased=False)
    # A frame that all tokens look at alike tells nothing of them (the reference divides by 0 there).
    standard = torch.where(spread > 0, (weights_HTS - mean) / spread, 0.0)
    return smoothed(standard, median).mean(dim=0)


def smoothed(values: Tensor, width: int) -> Tensor:
    """The median of ``width`` values around each, the ends mirrored; as it is where there are fewer than half of them.

    Args:
        values: Shape: [A, B, S].
        width: odd.
    """
    beside = width // 2
    if beside == 0 or values.shape[-1] <= beside:
        return values
    # Sorting is several times as fast as torch's median here.
    mirrored = F.pad(values, (beside, beside), mode="reflect")
    return mirrored.unfold(-1, width, 1).sort()[0][..., beside]


def _repeated(memory: Memory, times: int) -> Memory:
    if times == 1:
        return memory
    padding = None if memory.padding is None else memory.padding.repeat_interleave(times, dim=0)
    return Memory(memory.hidden.repeat_interleave(times, dim=0), padding)


def _widths(frames: Sequence[int] | int | None, rows: int, most: int) -> list[int]:
    """How many of the memory's frames each row may look at."""
    if frames is None:
        return [most] * rows
    if isinstance(frames, int):
        return [min(most, frames // 2)] * rows
    each = _shares(rows, len(frames), "frames")
    return [min(most, int(number) // 2) for number in frames for _ in range(each)]


def _shares(rows: int, of: int, where: str) -> int:
    if not of or rows % of:
        raise InputError(
            "these do not belong to the rows", where=where, expected=f"a number that divides {rows}", found=of
        )
    return rows // of


def head_count(decoder: TextDecoder) -> int:
    """How many heads each of its cross-attentions has."""
    kept = (module.state_spec() for module in decoder.modules() if isinstance(module, StatefulModule))
    return max((spec.heads for spec in kept if isinstance(spec, CrossKV)), default=0)


def heads_of(decoder: TextDecoder, named: object) -> Heads:
    """Those that a checkpoint names, else all of the upper half, as Whisper's own code has it."""
    if isinstance(named, (list, tuple)) and named:
        return cast(Heads, named)
    layers = len(decoder.layers)
    return [(layer, head) for layer in range(layers // 2, layers) for head in range(head_count(decoder))]


def _check(decoder: TextDecoder, heads: Heads, median: int) -> None:
    layers, count = len(decoder.layers), head_count(decoder)
    if isinstance(median, bool) or not isinstance(median, int) or median < 1 or median % 2 == 0:
        raise InputError("a median is taken of an odd number", where="median_filter_width", found=brief(median))
    fits = [len(pair) == 2 and 0 <= pair[0] < layers and 0 <= pair[1] < count for pair in heads]
    if not fits or not all(fits):
        raise InputError(
            "these are no heads of the decoder",
            where="generation_config.json: alignment_heads",
            expected=f"pairs of a layer below {layers} and a head below {count}",
            found=brief(heads),
        )
