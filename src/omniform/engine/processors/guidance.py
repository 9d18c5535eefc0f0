"""Guidance without a classifier: the difference that a prompt makes, enlarged (https://arxiv.org/abs/2306.17806)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, cast

import torch
from torch import Tensor

from omniform.core.errors import InputError
from omniform.core.outputs import ModelOutput
from omniform.engine.processors.base import NEVER, LogitsProcessor, refuse, whole


class _Answers(Protocol):
    """What a causal model gives back."""

    logits: Tensor


class _Model(Protocol):
    """A causal model, called with ids, mask and a cache."""

    def __call__(self, input_ids: Tensor, **kwargs: object) -> _Answers: ...


class ClassifierFreeGuidanceLogitsProcessor(LogitsProcessor):
    """Guidance of scores with and without a prompt, which come as one batch, those with it first.

    Args:
        guidance_scale: how much the difference counts, above 1.
    """

    def __init__(self, guidance_scale: float) -> None:
        if not guidance_scale > 1:
            raise refuse("guidance_scale", "a number > 1", guidance_scale)
        self.guidance_scale = guidance_scale

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Guided scores, Shape: [B, V], of ids [B, T] and scores [2 B, V]."""
        with_prompt, without = halves(input_ids, scores)
        return guided(with_prompt, without, self.guidance_scale)


def halves(input_ids: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Scores with and without a prompt. Shape: [2 B, V] in, [B, V] each out."""
    if scores.shape[0] != 2 * input_ids.shape[0]:
        raise InputError(
            "guidance takes two rows of scores for each row of ids",
            where="scores",
            expected=f"{2 * input_ids.shape[0]} rows",
            found=scores.shape[0],
        )
    return scores[: input_ids.shape[0]], scores[input_ids.shape[0] :]


def guided(with_prompt: Tensor, without: Tensor, scale: float) -> Tensor:
    """What a prompt changes, times a scale. Shape: [B, V] each."""
    return without + (with_prompt - without) * scale


class UnbatchedClassifierFreeGuidanceLogitsProcessor(LogitsProcessor):
    """Guidance where the model is run once more for the scores without the prompt.

    Args:
        guidance_scale: how much the difference counts; 1 changes nothing.
        model: the model.
        unconditional_ids: what stands in the prompt's place; its last token, if nothing is given. Shape: [B, T].
        unconditional_attention_mask: of those.
        use_cache: what was computed before is kept.
    """

    def __init__(
        self,
        guidance_scale: float,
        model: object,
        unconditional_ids: Tensor | None = None,
        unconditional_attention_mask: Tensor | None = None,
        use_cache: bool | None = True,
    ) -> None:
        self.guidance_scale = guidance_scale
        self.model = cast("_Model", model)
        self._ids = unconditional_ids
        self._mask = unconditional_attention_mask
        self._cached = use_cache
        self._cache: object = None
        self._begun = False

    def get_unconditional_logits(self, input_ids: Tensor) -> Tensor:
        """The model's scores without the prompt, of the next step. Shape: [B, T] in, [B, t, V] out."""
        last = input_ids[:, -1:]
        if not self._begun:
            self._ids = last if self._ids is None else self._ids
            self._mask = torch.ones_like(self._ids) if self._mask is None else self._mask
            self._begun = True
            read = self._ids
        else:
            assert self._ids is not None and self._mask is not None, "set in the first step"
            self._mask = torch.cat([self._mask, torch.ones_like(last)], dim=1)
            self._ids = torch.cat([self._ids, last], dim=1)
            read = last if self._cached and self._cache is not None else self._ids
        out = self.model(read, attention_mask=self._mask, use_cache=self._cached, past_key_values=self._cache)
        if self._cached and isinstance(out, (Mapping, ModelOutput)) and "past_key_values" in out.keys():  # noqa: SIM118
            self._cache = out["past_key_values"]
        return out.logits

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See :class:`LogitsProcessor`."""
        scores = scores.log_softmax(-1)
        if self.guidance_scale == 1:
            return scores
        without = self.get_unconditional_logits(input_ids)[:, -1].log_softmax(-1)
        return self.guidance_scale * (scores - without) + without


class DiaClassifierFreeGuidanceLogitsProcessor(LogitsProcessor):
    """Guidance as Dia has it: from the scores with the prompt on, and only to choose which tokens are left.

    Args:
        guidance_scale: how much the difference counts, above 1.
        guidance_top_k: leave the so many likeliest tokens, with the scores that they have without guidance.
    """

    def __init__(self, guidance_scale: float, guidance_top_k: int | None = None) -> None:
        if not guidance_scale > 1:
            raise refuse("guidance_scale", "a number > 1", guidance_scale)
        self.guidance_scale = guidance_scale
        self.guidance_top_k = None if guidance_top_k is None else whole("guidance_top_k", guidance_top_k, 1)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Guided scores, Shape: [B, V], of ids [B, T] and scores [2 B, V]."""
        with_prompt, without = halves(input_ids, scores)
        more = with_prompt + (with_prompt - without) * self.guidance_scale
        if self.guidance_top_k is None:
            return more
        best = more.topk(self.guidance_top_k, dim=-1).indices
        return with_prompt.masked_fill(torch.ones_like(more, dtype=torch.bool).scatter(-1, best, False), NEVER)
