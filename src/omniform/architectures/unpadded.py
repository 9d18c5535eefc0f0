"""Encoders that leave padding out: the real tokens of all rows are one packed step, and padding costs nothing.

How many tokens of a row are real must be known before the forward begins, which reads no tensor's values: a mask in the
host's own memory is looked at when it arrives, and for one elsewhere the caller may say ``row_lengths``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Unpack, cast

import numpy as np
import torch
from torch import Tensor

from omniform.architectures.model import Model
from omniform.architectures.packing import TOLD
from omniform.architectures.stack import EncodedOnce, TextEncoder
from omniform.core.context import Taps
from omniform.core.errors import InputError, brief
from omniform.core.host import is_readable
from omniform.core.outputs import BaseModelOutput
from omniform.core.packed import PackedContext, Table, whole_rows

WORTH_IT = 7 / 8
"""Share of real tokens below which the step is packed: a kernel call for each row costs more than a little padding."""


class Measured(EncodedOnce, total=False):
    """What may come with token ids and their mask.

    Attributes:
        row_lengths: how many tokens each row begins with that are real; the others are not computed, and come out as
            zeros. None: all are computed.
    """

    row_lengths: Sequence[int] | None


class Unpadded(Model):
    """Base of models that measure their rows when a call arrives: encoders, and heads whose loss may count padding.

    While something is learned or graded, or shown layer by layer, padding is computed.
    """

    def arrive(self, inputs: dict[str, object]) -> None:
        super().arrive(inputs)
        if "row_lengths" not in inputs:
            plain = not (self.training or torch.is_grad_enabled()) and self.attn_backend == "sdpa"
            asked = (*self.targets(), "output_hidden_states", "output_attentions")
            plain = plain and not any(inputs.get(name) is not None for name in asked)
            inputs["row_lengths"] = lengths_of(inputs.get("attention_mask")) if plain else None


class UnpaddedEncoder(Unpadded, TextEncoder):
    """An encoder whose rows are packed where enough of them is padding at the end."""

    def arrive(self, inputs: dict[str, object]) -> None:
        super().arrive(inputs)
        lengths = inputs["row_lengths"]
        if lengths is not None:
            ids = inputs.get("input_ids")
            rows, longest = cast(Tensor, inputs.get("inputs_embeds") if ids is None else ids).shape[:2]
            fits = isinstance(lengths, Sequence) and len(lengths) == rows
            if not fits or not all(isinstance(n, int) and 0 < n <= longest for n in cast(Sequence[object], lengths)):
                wanted = f"{rows} numbers from 1 to {longest}"
                raise InputError("rows are as long as this", where="row_lengths", expected=wanted, found=brief(lengths))

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *more: Tensor | None,
        **given: Unpack[Measured],
    ) -> BaseModelOutput:
        """Hidden states of a padded batch; see :meth:`TextEncoder.forward`, and :class:`Measured`."""
        lengths = given.pop("row_lengths", None)
        plain = cast(EncodedOnce, given)
        if lengths is None or any(given.get(name) is not None for name in TOLD):
            return super().forward(input_ids, attention_mask, *more, **plain)
        self.named(more, plain)
        embeds = self.vectors(input_ids, plain)
        rows, longest = embeds.shape[:2]
        real = torch.cat([torch.arange(i * longest, i * longest + n) for i, n in enumerate(lengths)]).to(embeds.device)
        places = self.places(input_ids, embeds, plain, attention_mask)
        if places is None:
            places = torch.arange(longest, device=embeds.device)[None]
        segments, tables = whole_rows(lengths)
        ctx = PackedContext(
            positions=places.expand(rows, longest).reshape(-1)[real][None],
            lengths=places.max() + 1,
            segments=segments,
            tables=defaultdict[int | None, Sequence[Table]](lambda: tables),  # whatever a rule's reach is
            backend=self.attn_backend,
            taps=Taps(plain),
        )
        hidden = self.decode(embeds.flatten(0, 1)[real][None], ctx)[0]
        whole = hidden.new_zeros(rows * longest, hidden.shape[-1]).index_copy(0, real, hidden)
        whole = whole.view(rows, longest, -1)
        return BaseModelOutput(last_hidden_state=whole[:, :1] if given.get("first_only") else whole)


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
