"""What the chosen tokens of an answer scored, step by step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from omniform.core.errors import InputError


def transition_scores(
    sequences: Tensor, scores: Sequence[Tensor], beam_indices: Tensor | None = None, normalize_logits: bool = False
) -> Tensor:
    """The scores of the tokens that were chosen, taken from those of all tokens.

    Args:
        sequences: what ``generate`` gave back; the answers stand at the end. Shape: [B, T].
        scores: ``scores`` or ``logits`` of the output, step by step. Shape: [R, V] each.
        beam_indices: of a beam search: the row of a step's scores that each token was chosen by, -1 after the end.
            Shape: [B, new]; without it, row ``i`` of the scores belongs to answer ``i``.
        normalize_logits: log-softmax first.

    Returns:
        Shape: [B, new]; 0 after the end of a beam search's answer. Summed up and divided by the answer's length to the
        power of ``length_penalty``, those of a beam search are ``sequences_scores``.

    Raises:
        InputError: no scores, or fewer steps of them than tokens.
    """
    if not scores:
        raise InputError(
            "there are no scores", where="scores", remedy="Ask generate for output_scores or output_logits."
        )
    steps = torch.stack(list(scores)).float()
    if normalize_logits:
        steps = steps.log_softmax(-1)
    if beam_indices is None:
        beam_indices = torch.arange(steps.shape[1], device=sequences.device)[:, None].expand(-1, steps.shape[0])
    over = beam_indices < 0
    length = int((~over).sum(-1).max())
    if length > min(steps.shape[0], sequences.shape[1]):
        raise InputError("answers are longer than what was noted", where="scores", expected=length, found=len(steps))
    rows, over = beam_indices[:, :length].clamp(min=0).long(), over[:, :length]
    tokens = sequences[:, sequences.shape[1] - length :]
    at = torch.arange(length, device=rows.device).expand_as(rows)
    return steps[at, rows, tokens].masked_fill(over, 0.0)
