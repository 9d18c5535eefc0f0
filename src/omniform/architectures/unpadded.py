"""Padding that is left out: the real tokens of all rows are one packed step, and padding costs nothing.

Some encoders do it wherever nobody would see a difference (:class:`Unpadded`), every stack that can where the caller
wants the loss only (:func:`leave_out_padding`).

How many tokens of a row are real must be known before the forward begins, which reads no tensor's values: a mask in the
host's own memory is looked at when it arrives, and for one elsewhere the caller may say ``row_lengths``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from torch import Tensor

from omniform.architectures.labels import IGNORED
from omniform.architectures.model import Model
from omniform.architectures.packing import TOLD
from omniform.architectures.stack import TextEncoder
from omniform.core.host import is_readable

WORTH_IT = 7 / 8
"""Share of real tokens below which the step is packed: a kernel call for each row costs more than a little padding."""


SHOWN = ("output_hidden_states", "output_attentions", "output_router_logits", "use_cache")
"""What a caller may ask to see of all places."""

OTHERWISE = (*TOLD, "position_ids", "past_key_values", "encoder_hidden_states", "row_lengths")
"""Inputs beside which padding is computed: rows that hold more than a text, or look at something else."""


class Unpadded(Model):
    """Base of models that measure their rows when a call arrives: encoders, and heads whose loss may count padding.

    While something is learned or graded, or shown layer by layer, padding is computed.
    """

    def arrive(self, inputs: dict[str, object]) -> None:
        super().arrive(inputs)
        if "row_lengths" not in inputs:
            plain = not (self.training or torch.is_grad_enabled()) and self.attn_backend != "eager"
            asked = (*self.targets(), *TOLD, "output_hidden_states", "output_attentions")
            plain = plain and not any(inputs.get(name) is not None for name in asked)
            inputs["row_lengths"] = lengths_of(inputs.get("attention_mask")) if plain else None


class UnpaddedEncoder(Unpadded, TextEncoder):
    """An encoder whose rows are packed where enough of them is padding at the end."""


def leave_out_padding(model: Model, inputs: dict[str, object]) -> None:
    """Say how long the rows of a call are (``row_lengths``), where padding can be left out and its loss reads none.

    Args:
        model: the head.
        inputs: of the call, by name; changed in place.
    """
    mask = inputs.get("attention_mask")
    lengths = lengths_of(mask)
    if lengths is None or not model.base_model.unpads():
        return
    if all(inputs.get(name) is None for name in model.targets()):  # somebody makes a loss of the scores
        return
    if any(inputs.get(name) is not None for name in OTHERWISE) or any(inputs.get(name) for name in SHOWN):
        return
    if not scores_padding(model.targets(), inputs, cast(Tensor, mask)):
        inputs["row_lengths"] = lengths


def scores_padding(names: Mapping[str, object], inputs: Mapping[str, object], mask: Tensor) -> bool:
    """Whether a label of a masked token counts in the loss, or nobody can know.

    Args:
        names: of labels.
        inputs: of the call, by name.
        mask: Shape: [B, T], 1 for real tokens.
    """
    told = [x for x in map(inputs.get, names) if isinstance(x, Tensor) and x.shape == mask.shape]
    return not all(is_readable(x) and bool(((x == IGNORED) | (mask != 0)).all()) for x in told)


def lengths_of(mask: object) -> tuple[int, ...] | None:
    """How long the rows are that a mask tells of; None where nobody can know, or it does not pay.

    Args:
        mask: Shape: [B, T], 1 for real tokens; only padding at the end is left out.
    """
    if not isinstance(mask, Tensor) or mask.dim() != 2 or not is_readable(mask) or mask.dtype is torch.bfloat16:
        return None
    real = mask.detach().numpy() != 0
    counts = real.sum(1)
    ends = (real == (np.arange(real.shape[1]) < counts[:, None])).all()
    if not ends or not counts.min(initial=1) or counts.sum() > WORTH_IT * real.size:
        return None
    return tuple(counts.tolist())
