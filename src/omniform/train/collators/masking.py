"""Drawing which tokens are masked, and what stands in their places: BERT's way (Devlin et al. 2018, section 3.1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from omniform.core.errors import InputError, brief


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """How tokens of a batch are masked.

    Attributes:
        fixed: tokens that are not drawn. Shape: [B, T].
        spread: from the tokens that were drawn to all that are masked with them (the other tokens of a word).
        probability: of a token to be drawn.
        masked: how many of these become the mask token.
        random: how many become a random token.
        mask_token: the mask token.
        tokens: how many tokens there are to draw from.
    """

    fixed: np.ndarray
    spread: Callable[[np.ndarray], np.ndarray]
    probability: float
    masked: float
    random: float
    mask_token: int
    tokens: int


def check_probability(value: object, name: str) -> float:
    """A probability as a float.

    Raises:
        InputError: it is none.
    """
    if isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and 0 <= float(value) <= 1:
        return float(value)
    raise InputError("this is no probability", where=name, expected="a number from 0 to 1", found=brief(value))


def choose_torch(ids: Tensor, how: Chosen, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Mask tokens in place; the draws are the ecosystem's, one after another. Shape: [B, T] in and out."""
    labels = ids.clone()

    def drawn(chances: Tensor) -> Tensor:
        return torch.bernoulli(chances, generator=generator).bool()

    chances = torch.full(ids.shape, how.probability).masked_fill_(torch.from_numpy(how.fixed), 0.0)
    masked = torch.from_numpy(how.spread(drawn(chances).numpy()))
    labels[~masked] = -100
    replaced = drawn(torch.full(ids.shape, how.masked)) & masked
    ids[replaced] = how.mask_token
    if how.masked == 1 or how.random == 0:
        return ids, labels
    # Of those that are left, so many are random that all in all it is as many as was asked for.
    others = drawn(torch.full(ids.shape, how.random / (1 - how.masked))) & masked & ~replaced
    words = torch.randint(how.tokens, ids.shape, dtype=torch.long, generator=generator)
    ids[others] = words[others]
    return ids, labels


def choose_numpy(ids: np.ndarray, how: Chosen, generator: np.random.Generator | None) -> tuple[np.ndarray, np.ndarray]:
    """:func:`choose_torch` with numpy's draws."""
    labels = np.copy(ids)

    def drawn(chances: np.ndarray | float) -> np.ndarray:
        made = np.random.binomial if generator is None else generator.binomial
        return np.asarray(made(1, chances, size=ids.shape)).astype(bool)

    masked = how.spread(drawn(np.where(how.fixed, 0.0, how.probability)))
    labels[~masked] = -100
    replaced = drawn(how.masked) & masked
    ids[replaced] = how.mask_token
    if how.masked == 1 or how.random == 0:
        return ids, labels
    others = drawn(how.random / (1 - how.masked)) & masked & ~replaced
    count = int(np.count_nonzero(others))
    if generator is None:
        ids[others] = np.random.randint(low=0, high=how.tokens, size=count, dtype=np.int64)
    else:
        ids[others] = generator.integers(low=0, high=how.tokens, size=count, dtype=np.int64)
    return ids, labels
