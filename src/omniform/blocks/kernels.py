"""Attention kernels by name: which there are, and what each cannot do.

``eager`` and ``sdpa`` do everything (:mod:`omniform.blocks.padded`, :mod:`omniform.blocks.packed`). The others each do
what they can, and say in words what they cannot; that is then computed as ``sdpa`` computes it, and the words stand in
:func:`omniform.plan`, ``omniform inspect`` and, where only a call shows it, in one warning. Numbers are the same
whoever computes them, up to rounding.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from typing import Final, Protocol, get_args

from torch import Tensor

from omniform.blocks.scores import Scores
from omniform.core.context import Backend, Mask
from omniform.core.errors import InputError, brief, nearest
from omniform.core.packed import PackedMask
from omniform.core.rules import Rule

log = logging.getLogger("omniform")

BACKENDS: Final[tuple[Backend, ...]] = get_args(Backend)

PAGED: Final = "paged|"
"""What the ecosystem puts before the names of kernels that read paged state; all of ours do."""


@dataclass(frozen=True, slots=True)
class Extras:
    """What one attention asks for besides comparing queries with keys.

    Attributes:
        scores: how they are compared.
        bias: added to the scores. Shape: [B or 1, H, T, S].
        sinks: for each head, the score of a key without a value. Shape: [H].
        dropout: probability of dropping an attention weight.
    """

    scores: Scores
    bias: Tensor | None = None
    sinks: Tensor | None = None
    dropout: float = 0.0


class AttentionKernel(Protocol):
    """One kernel, of padded and of packed rows."""

    def lacks(self, rule: Rule | None, scores: Scores, *, biased: bool, sinks: bool) -> str | None:
        """Why it cannot compute an attention, whatever the inputs; None if it can.

        Args:
            rule: what its queries see; None where that differs from call to call.
        """
        ...

    def refuses(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask | PackedMask, extras: Extras) -> str | None:
        """Why it cannot compute this call, where :meth:`lacks` found nothing; None if it can. Reads no numbers."""
        ...

    def padded(self, q_BHTD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, mask: Mask, extras: Extras) -> Tensor:
        """See :func:`omniform.blocks.padded.attend_padded`. Shape: [B, H, T, Dv]."""
        ...

    def packed(self, q_NHD: Tensor, k_1GSD: Tensor, v_1GSD: Tensor, mask: PackedMask, extras: Extras) -> Tensor:
        """See :func:`omniform.blocks.packed.attend_packed`; without a bias. Shape: [N, H, Dv]."""
        ...

    def named(self, prompt: bool) -> str:
        """What it is called in plans: over a whole prompt, or over one new token."""
        ...


class Native:
    """The seam of the CPU's own attention kernels; until they are there, it says so."""

    def lacks(self, rule: Rule | None, scores: Scores, *, biased: bool, sinks: bool) -> str | None:
        return "there is no native attention kernel in this build"

    def refuses(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask | PackedMask, extras: Extras) -> str | None:
        return self.lacks(None, extras.scores, biased=extras.bias is not None, sinks=extras.sinks is not None)

    def padded(self, q_BHTD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, mask: Mask, extras: Extras) -> Tensor:
        raise NotImplementedError

    def packed(self, q_NHD: Tensor, k_1GSD: Tensor, v_1GSD: Tensor, mask: PackedMask, extras: Extras) -> Tensor:
        raise NotImplementedError

    def named(self, prompt: bool) -> str:
        return "native"


@cache
def kernel_of(backend: Backend) -> AttentionKernel | None:
    """The kernel of a name; None for ``eager`` and ``sdpa``.

    Raises:
        DependencyError: its package is not installed; the remedy says which.
    """
    if backend == "native":
        return Native()
    if backend == "flex_attention":
        from omniform.blocks.flexible import FlexAttention

        return FlexAttention()
    if backend in ("flash_attention_2", "flash_attention_3"):
        from omniform.blocks.flash import flash_attention

        return flash_attention(backend)
    return None


def able(
    backend: Backend, rule: Rule | None, q: Tensor, k: Tensor, v: Tensor, mask: Mask | PackedMask, extras: Extras
) -> AttentionKernel | None:
    """The kernel of a name, if it can compute this call; None where ``sdpa`` is to. A refusal is told, once each.

    Args:
        rule: what the mask says; None where the call brings a mask of its own.
    """
    if backend == "sdpa" or backend == "eager":
        return None
    kernel = kernel_of(backend)
    if kernel is None:
        return None
    if kernel.lacks(rule, extras.scores, biased=extras.bias is not None, sinks=extras.sinks is not None) is not None:
        return None  # as plans say
    why = kernel.refuses(q, k, v, mask, extras)
    if why is not None:
        _tell(backend, why)
        return None
    return kernel


@cache
def _tell(backend: Backend, why: str) -> None:
    log.warning("%s: %s; computed as by sdpa", backend, why)


def backend_named(name: object) -> Backend:
    """The kernel that somebody asks for, usable here.

    Args:
        name: one of :data:`BACKENDS`, also with ``paged|`` before it; None for the usual one.

    Raises:
        InputError: there is no such kernel, or no device that it runs on.
        DependencyError: its package is not installed.
    """
    if name is None:
        return "sdpa"
    plain = name.removeprefix(PAGED) if isinstance(name, str) else name
    if not isinstance(plain, str) or plain not in BACKENDS:
        remedy = nearest(plain, BACKENDS) if isinstance(plain, str) else None
        if isinstance(plain, str) and "/" in plain:
            remedy = "Kernels are not fetched from the Hub; install a package and use its name."
        raise InputError(
            "no such attention implementation",
            where="attn_implementation",
            expected=f"one of {', '.join(BACKENDS)}",
            found=brief(name),
            remedy=remedy,
        )
    backend: Backend = plain
    if backend.startswith("flash"):
        from omniform.blocks.flash import check_device

        kernel_of(backend)
        check_device(backend)
    return backend
