"""``flex_attention``: torch's own kernel, for which masks and changes of scores are functions of indices.

On an accelerator it is compiled, once, by torch. On a CPU it is not, since no compiler is started there: torch then
writes all scores out, so that it is for comparing numbers only (https://arxiv.org/abs/2412.05496).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from omniform.blocks.kernels import Extras
from omniform.blocks.scores import Scores
from omniform.core.context import Mask
from omniform.core.end_to_end import EndToEnd
from omniform.core.packed import PackedMask
from omniform.core.rules import Rule

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

Seeing = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Whether a query sees a key, told row, head, query and key."""

Changing = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""A score, changed; told the score and the same."""


class FlexAttention:
    """Does everything but dropout; on a CPU no gradients either."""

    def lacks(self, rule: Rule | None, scores: Scores, *, biased: bool, sinks: bool) -> str | None:
        return None

    def refuses(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask | PackedMask, extras: Extras) -> str | None:
        if extras.dropout:
            return "it drops no attention weights"
        learned = any(x is not None and x.requires_grad for x in (q, k, v, extras.bias, extras.sinks))
        if q.device.type != "cuda" and torch.is_grad_enabled() and learned:
            return "it has gradients on CUDA devices only"
        return None

    def named(self, prompt: bool) -> str:
        return "flex_attention"

    def padded(self, q_BHTD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, mask: Mask, extras: Extras) -> Tensor:
        seen = _seen(mask, q_BHTD.shape[2], k_BGSD.shape[2], q_BHTD.device)
        return _flex(q_BHTD, k_BGSD, v_BGSD, seen, extras)

    def packed(self, q_NHD: Tensor, k_1GSD: Tensor, v_1GSD: Tensor, mask: PackedMask, extras: Extras) -> Tensor:
        whole = EndToEnd.of(mask)
        if "flex" not in mask.made:
            mask.made["flex"] = _blocks(
                _of_rows(whole, mask.rule), None, None, len(q_NHD), len(whole.keys.row), q_NHD.device
            )
        seen = cast("BlockMask", mask.made["flex"])
        q_1HND = q_NHD.transpose(0, 1)[None]
        return _flex(q_1HND, whole.taken(k_1GSD), whole.taken(v_1GSD), seen, extras)[0].transpose(0, 1)


def _flex(q_BHTD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, seen: BlockMask | None, extras: Extras) -> Tensor:
    heads, groups = q_BHTD.shape[1], k_BGSD.shape[1]
    each = heads // groups
    if each & (each - 1):  # compiled, it shares keys among powers of two
        k_BGSD, v_BGSD = (x.repeat_interleave(each, dim=1) for x in (k_BGSD, v_BGSD))
        each = 1
    out, total = _kernel(q_BHTD.device.type)(
        q_BHTD, k_BGSD, v_BGSD, _changing(extras.scores, extras.bias), seen, extras.scores.scale, each > 1
    )
    if extras.sinks is None:
        return out
    # One more key in the denominator, whose logarithm is there.
    share = torch.sigmoid(total - extras.sinks.float()[:, None])
    return (out * share[..., None]).to(out.dtype)


def _changing(scores: Scores, bias: Tensor | None) -> Changing | None:
    """What happens to a scaled score: a bound, then what is added."""
    cap = scores.cap
    if bias is None:
        return None if cap is None else lambda score, b, h, q, k: torch.tanh(score / cap) * cap
    one_row, one_head = bias.shape[0] == 1, bias.shape[1] == 1

    def changed(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        bounded = score if cap is None else torch.tanh(score / cap) * cap
        return bounded + bias[0 if one_row else b, 0 if one_head else h, q, k]

    return changed


def _seen(mask: Mask, queries: int, keys: int, device: torch.device) -> BlockMask | None:
    """What a padded step's mask allows; None for everything."""
    if mask.causal:
        return mask.once(("flex", queries, keys), lambda: _blocks(_before, None, None, queries, keys, device))
    if mask.seen is not None:
        rule, past, padding = mask.seen.rule, mask.seen.past, mask.seen.padding
        rows = None if padding is None or padding.shape[0] == 1 else padding.shape[0]

        def by_rule(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            allowed = rule.allows(q + past, k)
            return allowed if padding is None else allowed & padding[0 if rows is None else b, k]

        return mask.once(("flex", queries, keys), lambda: _blocks(by_rule, rows, None, queries, keys, device))
    allowed = mask.allowed
    if allowed is None:
        return None
    rows, heads = (n if n > 1 else None for n in allowed.shape[:2])
    whole = allowed.expand(-1, -1, queries, keys)

    def given(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return whole[0 if rows is None else b, 0 if heads is None else h, q, k]

    return mask.once(("flex", queries, keys), lambda: _blocks(given, rows, heads, queries, keys, device))


def _before(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
    return k <= q


def _of_rows(whole: EndToEnd, rule: Rule) -> Seeing:
    """A query sees keys of its own row, as the rule says of their places there."""
    queries, keys = whole.queries, whole.keys

    def seen(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        same = queries.row[q] == keys.row[k]
        at, to = queries.place[q], keys.place[k]
        if queries.span is None or keys.span is None:
            return same & rule.allows(at, to)
        joined = (queries.span[q] == keys.span[k]) & (queries.span[q] > 0)
        return same & rule.widened(at, to, joined)

    return seen


def _blocks(
    seeing: Seeing, rows: int | None, heads: int | None, queries: int, keys: int, device: torch.device
) -> BlockMask:
    from torch.nn.attention.flex_attention import create_block_mask

    compiled = device.type != "cpu" and not torch.compiler.is_compiling()
    return create_block_mask(seeing, rows, heads, queries, keys, device=device, _compile=compiled)


Kernel = Callable[[Tensor, Tensor, Tensor, Changing | None, "BlockMask | None", float, bool], tuple[Tensor, Tensor]]


@cache
def _kernel(device: str) -> Kernel:
    """Torch's function, compiled where that pays, giving the logarithms of the softmax denominators too.

    Shape of these: [B, H, T], float32.
    """
    from torch.nn.attention import flex_attention as flex

    # Since torch 2.9 they are asked for by an object, before by a flag.
    asked = {"return_aux": flex.AuxRequest(lse=True)} if "AuxRequest" in vars(flex) else {"return_lse": True}
    compiled = flex.flex_attention if device == "cpu" else torch.compile(flex.flex_attention)

    def call(
        q: Tensor, k: Tensor, v: Tensor, changing: Changing | None, seen: BlockMask | None, scale: float, grouped: bool
    ) -> tuple[Tensor, Tensor]:
        run = flex.flex_attention if torch.compiler.is_compiling() else compiled
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
            out, told = run(q, k, v, score_mod=changing, block_mask=seen, scale=scale, enable_gqa=grouped, **asked)
        return out, told if isinstance(told, Tensor) else told.lse

    return call
