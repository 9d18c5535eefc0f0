"""The one place where queries meet keys.

Everything above this function acts on ``[..., D]``; only here does it matter how rows are laid out and which kernel
runs. ``eager`` writes the softmax out and can show its weights; ``sdpa`` is torch's fused kernel.
"""

from __future__ import annotations

from torch import Tensor

from omniform.blocks.packed import attend_packed
from omniform.blocks.padded import attend_padded
from omniform.blocks.scores import Scores
from omniform.core.context import Backend, Bias, Mask
from omniform.core.packed import PackedMask


def attend(
    q_BTHD: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Mask | PackedMask,
    *,
    scores: Scores,
    backend: Backend,
    bias: Bias | None = None,
    sinks: Tensor | None = None,
    dropout: float = 0.0,
    weights: list[Tensor] | None = None,
) -> Tensor:
    """Scaled dot-product attention (https://arxiv.org/abs/1706.03762), grouped heads included.

    Args:
        q_BTHD: Shape: [B, T, H, D]; in a packed step [1, N, H, D].
        k: Shape: [B, G, S, D] where G divides H: each group of H/G query heads shares one key head. In a packed step,
            the keys of every slot of the state, Shape: [1, G, S, D].
        v: the values likewise, of width Dv.
        mask: what may be seen.
        scores: how queries and keys are compared.
        backend: how to compute it; attention weights can only be had from ``eager``.
        bias: added to the scores. Shape: [B or 1, H, T, S]; in a packed step one tensor per row.
        sinks: for each head, the score of a key without a value that every query sees. Shape: [H].
        dropout: probability of dropping an attention weight (training).
        weights: where to append the attention weights, Shape: [B, H, T, S]; None if nobody wants them.

    Returns:
        Shape: [B, T, H * Dv].
    """
    if isinstance(mask, PackedMask):
        assert weights is None, "attention weights are shown by padded steps only"
        packed = attend_packed(q_BTHD[0], k, v, mask, scores=scores, backend=backend, bias=bias, sinks=sinks)
        return packed[None].flatten(2)
    assert not isinstance(bias, tuple)
    return attend_padded(
        q_BTHD,
        k,
        v,
        mask,
        scores=scores,
        backend=backend,
        bias=bias,
        sinks=sinks,
        dropout=dropout,
        weights=weights,
    ).flatten(2)
