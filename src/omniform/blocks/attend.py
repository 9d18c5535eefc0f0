"""The one place where queries meet keys.

Everything above this function acts on ``[..., D]``; only here does it matter how rows are laid out and which kernel
runs. ``eager`` writes the softmax out and can show its weights; ``sdpa`` is torch's fused kernel; the others stand in
:mod:`omniform.blocks.kernels`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from omniform.blocks.areas import attend_areas
from omniform.blocks.kernels import kernel_of
from omniform.blocks.packed import attend_packed
from omniform.blocks.padded import attend_padded, is_written_out
from omniform.blocks.scores import Scores
from omniform.core.areas import Areas
from omniform.core.context import Backend, Bias, Computed, Mask, StepContext
from omniform.core.packed import PackedMask
from omniform.core.rules import Full, Rule


def attend(
    q_BTHD: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Mask | PackedMask | Areas,
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
        backend: how to compute it; attention weights are computed by ``eager`` whatever this says.
        bias: added to the scores. Shape: [B or 1, H, T, S]; in a packed step one tensor per row.
        sinks: for each head, the score of a key without a value that every query sees. Shape: [H].
        dropout: probability of dropping an attention weight (training).
        weights: where to append the attention weights, Shape: [B, H, T, S]; None if nobody wants them.

    Returns:
        Shape: [B, T, H * Dv].
    """
    if isinstance(mask, PackedMask):
        assert weights is None, "attention weights are shown by padded steps only"
        packed = attend_packed(
            q_BTHD[0], k, v, mask, scores=scores, backend=backend, bias=bias, sinks=sinks, dropout=dropout
        )
        return packed[None].flatten(2)
    if isinstance(mask, Areas):
        assert bias is None and sinks is None, "patches of packed pictures are compared as they are"
        within = attend_areas(
            q_BTHD[0], k[0], v[0], mask, scores=scores, backend=backend, dropout=dropout, weights=weights
        )
        return within[None].flatten(2)
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


WRITTEN_OUT = "eager: scores, softmax and sum, written out"


def computed_under(rule: Rule, backend: Backend, scores: Scores, *, biased: bool, sinks: bool) -> Computed:
    """How self-attention under a rule is computed, and why.

    Args:
        biased: something is added to the scores.
        sinks: there are scores of a key without a value.
    """
    # What sees tokens after its own is an encoder's, which decodes nothing.
    sees_ahead = bool(rule.allows(*torch.tensor([[[0]], [[1]]], device="cpu")).all())
    if is_written_out(backend, scores, sinks=sinks):
        usual = Computed(WRITTEN_OUT, None if sees_ahead else WRITTEN_OUT, _why_written_out(backend, scores))
        return _by_name(backend, rule, scores, usual, biased=biased, sinks=sinks)
    prompt = _named(_mask(rule, backend, past=0, queries=3), biased)
    decoding = None if sees_ahead else _named(_mask(rule, backend, past=3, queries=1), biased)
    if sees_ahead:
        why = f"{rule} sees the whole input; a mask joins where rows are padded"
    elif biased:
        why = "a learned bias is added to the scores, which the causal flag cannot be joined with"
    elif "flag" in prompt:
        why = f"{rule} is the kernel's own flag, and packed rows need no mask"
    else:
        why = f"{rule} is no flag of the kernel; the mask is made once per step"
    return _by_name(backend, rule, scores, Computed(prompt, decoding, why), biased=biased, sinks=sinks)


def computed_across(backend: Backend, scores: Scores) -> Computed:
    """How cross-attention is computed, and why."""
    why = "it sees all of the encoder's output, a mask only for padding; keys and values are kept"
    usual = Computed("sdpa, no mask", "sdpa, no mask", why)
    if is_written_out(backend, scores, sinks=False):
        usual = Computed(WRITTEN_OUT, WRITTEN_OUT, _why_written_out(backend, scores))
    return _by_name(backend, Full(), scores, usual, biased=False, sinks=False)


def computed_whole(backend: Backend, scores: Scores, why: str, *, biased: bool) -> Computed:
    """How attention is computed among tokens that all see one another, which decodes nothing.

    Args:
        why: what decides it.
        biased: something is added to the scores.
    """
    usual = Computed(f"sdpa, {'additive' if biased else 'no'} mask", None, why)
    if is_written_out(backend, scores, sinks=False):
        usual = Computed(WRITTEN_OUT, None, why)
    return _by_name(backend, Full(), scores, usual, biased=biased, sinks=False)


def _by_name(backend: Backend, rule: Rule, scores: Scores, usual: Computed, *, biased: bool, sinks: bool) -> Computed:
    """By the kernel that is asked for; as usual where none is, or it cannot, which is said."""
    kernel = kernel_of(backend)
    if kernel is None:
        return usual
    why = kernel.lacks(rule, scores, biased=biased, sinks=sinks)
    if why is not None:
        return replace(usual, why=f"{backend}: {why}; {usual.why}")
    decoding = None if usual.decoding is None else kernel.named(prompt=False)
    return Computed(kernel.named(prompt=True), decoding, f'attn_implementation="{backend}"')


def _why_written_out(backend: Backend, scores: Scores) -> str:
    if backend == "eager":
        return 'attn_implementation="eager"'
    return "no fused kernel knows of sinks" if scores.cap is None else "no fused kernel bounds scores"


def _mask(rule: Rule, backend: Backend, *, past: int, queries: int) -> Mask:
    cpu = torch.device("cpu")
    positions = torch.arange(past, past + queries, device=cpu)[None]
    return StepContext(positions=positions, past=past, backend=backend).mask(rule, queries, cpu)


def _named(mask: Mask, biased: bool) -> str:
    if biased:
        return "sdpa, additive mask"
    if mask.causal:
        return "sdpa, causal flag"
    return "sdpa, no mask" if mask.allowed is None else "sdpa, boolean mask"
