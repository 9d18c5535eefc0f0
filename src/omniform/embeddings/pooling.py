"""From the vectors of a text's tokens to one vector."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Self

import torch
from torch import Tensor

from omniform.core.errors import InputError, nearest
from omniform.core.reader import ConfigReader
from omniform.embeddings.features import MASK, PROMPT, SENTENCE, TOKENS, Features, tensor_of
from omniform.embeddings.parts import Part, PartFiles


def first(x_BTD: Tensor, seen_BT: Tensor, all_BT: Tensor) -> Tensor:
    """The first token (``cls``)."""
    return x_BTD[torch.arange(len(x_BTD), device=x_BTD.device), seen_BT.int().argmax(1)]


def last(x_BTD: Tensor, seen_BT: Tensor, all_BT: Tensor) -> Tensor:
    """The last token; nothing but zeros where there is none."""
    place = seen_BT.shape[1] - 1 - seen_BT.flip(1).int().argmax(1)
    rows = torch.arange(len(x_BTD), device=x_BTD.device)
    return x_BTD[rows, place] * seen_BT[rows, place, None].to(x_BTD.dtype)


def largest(x_BTD: Tensor, seen_BT: Tensor, all_BT: Tensor) -> Tensor:
    """The largest value of each number over the tokens."""
    return x_BTD.masked_fill(seen_BT[..., None] == 0, -torch.inf).amax(1)


def mean(x_BTD: Tensor, seen_BT: Tensor, all_BT: Tensor) -> Tensor:
    """The mean over the tokens."""
    weights = _weights(seen_BT, x_BTD)
    return _sum(x_BTD, weights, weights.sum(1, keepdim=True))


def mean_sqrt_len(x_BTD: Tensor, seen_BT: Tensor, all_BT: Tensor) -> Tensor:
    """The sum over the tokens by the square root of how many they are."""
    weights = _weights(seen_BT, x_BTD)
    return _sum(x_BTD, weights, weights.sum(1, keepdim=True).clamp(min=LEAST).sqrt())


def weighted_mean(x_BTD: Tensor, seen_BT: Tensor, all_BT: Tensor) -> Tensor:
    """The mean in which the n-th token of the text, prompt included, counts n times (https://arxiv.org/abs/2202.08904)."""
    places = all_BT.int().cumsum(1)
    weights = _weights(seen_BT, x_BTD) * places
    return _sum(x_BTD, weights, weights.sum(1, keepdim=True))


LEAST: Final = 1e-9
"""Divisors are no smaller: a text without a token becomes zeros."""


def _weights(seen_BT: Tensor, x_BTD: Tensor) -> Tensor:
    # Sums over many tokens need more digits than halves have.
    return seen_BT.to(torch.float32 if x_BTD.dtype in (torch.float16, torch.bfloat16) else x_BTD.dtype)


def _sum(x_BTD: Tensor, weights_BT: Tensor, by_B1: Tensor) -> Tensor:
    total = torch.bmm(weights_BT[:, None], x_BTD.to(weights_BT.dtype))[:, 0]
    return (total / by_B1.clamp(min=LEAST)).to(x_BTD.dtype)


Pool = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Makes ``[B, D]`` of vectors ``[B, T, D]``, of which tokens count and of which there are (``[B, T]`` each)."""

MODES: Final[Mapping[str, Pool]] = {
    "cls": first,
    "max": largest,
    "mean": mean,
    "mean_sqrt_len_tokens": mean_sqrt_len,
    "weightedmean": weighted_mean,
    "lasttoken": last,
}
"""Kinds of pooling, in the order in which several of them are put side by side by older files."""

FLAGS: Final[Mapping[str, str]] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Older files have a switch for each kind."""


class Pooling(Part):
    """One vector of the vectors of all tokens, or several kinds of such side by side.

    Args:
        embedding_dimension: of a token's vector.
        pooling_mode: one of :data:`MODES`, or several; ``"mean"`` by default.
        include_prompt: whether the tokens of the prompt count.

    Raises:
        InputError: there is no such kind.
    """

    name = "Pooling"

    def __init__(
        self, embedding_dimension: int, pooling_mode: str | Sequence[str] = "mean", include_prompt: bool = True
    ) -> None:
        super().__init__()
        modes = (pooling_mode,) if isinstance(pooling_mode, str) else tuple(pooling_mode)
        for mode in modes:
            if mode not in MODES:
                raise InputError(
                    "no kind of pooling", where="pooling_mode", found=repr(mode), remedy=nearest(mode, MODES)
                )
        self.embedding_dimension, self.modes = embedding_dimension, modes or ("mean",)
        self.include_prompt = include_prompt

    @classmethod
    def load(cls, files: PartFiles) -> Self:
        """As ``config.json`` says, in today's spelling or with the switches of older releases."""
        r = files.config()
        width = r.integer("embedding_dimension", also=("word_embedding_dimension",))
        modes = tuple(mode for key, mode in FLAGS.items() if r.flag(key, False))
        if r.raw.get("pooling_mode") is not None:
            modes = _modes(r)
        part = cls(width, modes, r.flag("include_prompt", True))
        return files.told(r, part)

    def settings(self) -> dict[str, object]:
        usual = tuple(mode for mode in MODES if mode in self.modes)
        kept: dict[str, object] = {}
        if usual == self.modes:  # every release reads switches
            kept = {"word_embedding_dimension": self.embedding_dimension}
            kept |= {key: mode in self.modes for key, mode in FLAGS.items()}
        else:
            kept = {"embedding_dimension": self.embedding_dimension, "pooling_mode": list(self.modes)}
        return {**kept, "include_prompt": self.include_prompt}

    def changed(self) -> dict[str, object]:
        same = self.written.get("include_prompt", True) == self.include_prompt
        return {} if same else {"include_prompt": self.include_prompt}

    def dimension(self, incoming: int | None) -> int | None:
        return self.embedding_dimension * len(self.modes)

    def forward(self, features: Features) -> Features:
        x_BTD = tensor_of(features, TOKENS, "Pooling")
        all_BT = tensor_of(features, MASK, "Pooling")
        seen_BT = all_BT
        prompt = features.get(PROMPT, 0)
        if not self.include_prompt and not (isinstance(prompt, int) and prompt == 0):
            seen_BT = all_BT * (all_BT.int().cumsum(1) > prompt)
        pooled = [MODES[mode](x_BTD, seen_BT, all_BT) for mode in self.modes]
        return {**features, SENTENCE: torch.cat(pooled, -1)}

    def extra_repr(self) -> str:
        return f"{self.embedding_dimension}, {', '.join(self.modes)}"


def _modes(r: ConfigReader) -> tuple[str, ...]:
    named = r.raw["pooling_mode"]
    modes = (r.text("pooling_mode"),) if isinstance(named, str) else r.texts("pooling_mode")
    for mode in modes:
        if mode not in MODES:
            raise r.fail("pooling_mode", f"one or more of {', '.join(MODES)}", repr(mode), nearest(mode, MODES))
    return modes
