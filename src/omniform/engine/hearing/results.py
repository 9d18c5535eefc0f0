"""What ``generate`` gives of windows, taken apart by rows and put together again, as the ecosystem shows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from omniform.engine.generate_output import GenerateOutput

_BY_STEP = ("scores", "logits", "encoder_attentions", "encoder_hidden_states")
_BY_LAYER = ("decoder_attentions", "cross_attentions", "decoder_hidden_states")
_WHOLE = ("sequences", "beam_indices", "sequences_scores", "token_timestamps")
_BY_ROW = ("logprobs", "prompt_logprobs")

Part = dict[str, object]
"""One row of an output, by the names of its entries."""


def parts_of(output: GenerateOutput, row: int, *, long: bool) -> Part:
    """One row of an output.

    Args:
        row: which.
        long: whether it is one window of several, whose state nobody wants.
    """
    found: Part = {}
    beams = cast("Tensor | None", output.get("beam_indices"))
    for name, value in output.items():
        if name == "scores" and beams is not None:
            steps = cast("Sequence[Tensor]", value)
            chosen = beams[row][: len(steps)].tolist()
            found[name] = [step[beam].cpu() for step, beam in zip(steps, chosen, strict=False)]
        elif name in _BY_STEP:
            found[name] = [step[row].cpu() for step in cast("Sequence[Tensor]", value)]
        elif name in _BY_LAYER:
            steps_of = cast("Sequence[Sequence[Tensor]]", value)
            found[name] = tuple(tuple(layer[row : row + 1].cpu() for layer in step) for step in steps_of)
        elif name in _WHOLE:
            found[name] = cast(Tensor, value)[row].cpu()
        elif name in _BY_ROW:
            found[name] = cast("Sequence[object]", value)[row]
        else:
            found[name] = value
    if long:
        found["past_key_values"] = None
    return found


def together(parts: Sequence[Part], kind: type[GenerateOutput], *, each: int, pad: int) -> GenerateOutput | Part:
    """Rows as one output; a mapping where they say when tokens were said.

    Args:
        kind: of the output.
        each: rows of every sound, which share what the encoder gave.
        pad: fills tokens of shorter rows.
    """
    entries: dict[str, object] = {}
    for name in parts[0]:
        values = [part[name] for part in parts]
        if name in _WHOLE:
            entries[name] = _stacked(cast("list[Tensor]", values), pad if name == "sequences" else None)
        elif name in _BY_STEP:
            rows = values[::each] if name.startswith("encoder") else values
            count = min(len(cast("list[Tensor]", row)) for row in rows)
            entries[name] = tuple(torch.stack([cast("list[Tensor]", row)[i] for row in rows]) for i in range(count))
        elif name in _BY_LAYER:
            steps = zip(*cast("list[Sequence[Sequence[Tensor]]]", values), strict=False)
            entries[name] = tuple(tuple(torch.cat(layer) for layer in zip(*step, strict=True)) for step in steps)
        else:
            entries[name] = tuple(values) if name in _BY_ROW else values[0]
    return entries if "token_timestamps" in entries else kind(**entries)  # type: ignore[arg-type]


def _stacked(rows: list[Tensor], pad: int | None) -> Tensor:
    """Rows of any lengths; without a padding, each is filled with its last number. Shape: [n] each, to [B, n]."""
    if rows[0].dim() == 0:
        return torch.stack(rows)
    longest = max(len(row) for row in rows)
    return torch.stack([filled(row, longest, pad) for row in rows])


def filled(row: Tensor, length: int, pad: int | None = None) -> Tensor:
    """A row filled on the right: with a padding, or with its own last number. Shape: [n] to [length]."""
    if len(row) >= length:
        return row
    value = float(row[-1]) if pad is None and len(row) else float(pad or 0)
    return F.pad(row, (0, length - len(row)), value=value)


def beside(rows: Sequence[Sequence[Tensor]], pad: int | None, like: Tensor) -> Tensor:
    """What was said of several sounds, shorter ones filled on the right. Shape: [B, T].

    Args:
        rows: of each sound, its segments one after another.
        pad: fills them; None for each row's last number.
        like: gives the kind of numbers, where a sound has no segments.
    """
    whole = [torch.cat([like.new_empty(0), *row]) for row in rows]
    longest = max(map(len, whole))
    return torch.stack([filled(row, longest, pad) for row in whole])
