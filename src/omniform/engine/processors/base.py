"""What changes the scores of the next token: the base class, the list, and what their constructors check."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from omniform.core.errors import InputError, UnknownArgumentError, brief

NEVER = float("-inf")

Tokens = int | Sequence[int] | Tensor
"""One token or several."""


class LogitsProcessor:
    """Changes the scores of the next token. Subclasses define ``__call__``.

    Attributes:
        supports_continuous_batching: the ecosystem's note; every processor works in the engine here.
    """

    supports_continuous_batching: bool | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The scores, changed.

        Args:
            input_ids: the tokens so far, short rows filled on the left. Shape: [B, T].
            scores: Shape: [B, V].
        """
        raise NotImplementedError(f"{type(self).__name__} does not define __call__")


class LogitsProcessorList(list[LogitsProcessor]):
    """Several, one after another."""

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        """The scores after all of them.

        Args:
            input_ids: Shape: [B, T].
            scores: Shape: [B, V].
            kwargs: what processors with more than two arguments need besides.

        Raises:
            UnknownArgumentError: a processor needs something that was not given; also a ``ValueError``.
        """
        for processor in self:
            wanted = further_arguments(processor)
            missing = [name for name, needed in wanted.items() if needed and name not in kwargs]
            if missing:
                raise MissingArgumentError(
                    "a processor needs more than ids and scores",
                    where=type(processor).__name__,
                    expected=", ".join(wanted),
                    found=", ".join(kwargs) or "nothing",
                    remedy=f"Call the list with {missing[0]}=...",
                )
            call: Callable[..., Tensor] = processor
            scores = call(input_ids, scores, **kwargs) if wanted else call(input_ids, scores)
        return scores


class MissingArgumentError(UnknownArgumentError, ValueError):
    """A processor was called without something that it needs."""


def further_arguments(processor: Callable[..., object]) -> dict[str, bool]:
    """What a processor takes by name besides ids and scores, and whether it has to be given."""
    open_ended = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    parameters = list(inspect.signature(processor).parameters.values())[2:]
    return {p.name: p.default is p.empty for p in parameters if p.kind not in open_ended}


# -- what constructors check ---------------------------------------------------------------------------------------


def refuse(name: str, expected: str, found: object) -> InputError:
    """The error for an argument that cannot be."""
    return InputError("this value cannot be", where=name, expected=expected, found=brief(found))


def whole(name: str, value: object, least: int) -> int:
    """An argument that is a whole number from ``least`` on."""
    if not isinstance(value, int) or value < least:
        raise refuse(name, f"a whole number from {least}", value)
    return value


def above_zero(name: str, value: object, remedy: str | None = None) -> float:
    """An argument that is a float above 0; whole numbers are not taken, as in the ecosystem."""
    if not isinstance(value, float) or not value > 0:
        raise InputError("this value cannot be", where=name, expected="a float > 0", found=brief(value), remedy=remedy)
    return value


def between(name: str, value: object, low: float, high: float, *, open_ends: bool = False) -> float:
    """An argument that is a number from ``low`` to ``high``, without these two where ``open_ends``."""
    number = float(value) if isinstance(value, (int, float, str, Tensor)) else float("nan")
    if not (low < number < high if open_ends else low <= number <= high):
        expected = f"a number between {low:g} and {high:g}" if open_ends else f"a number from {low:g} to {high:g}"
        raise refuse(name, expected, value)
    return number


def token_tensor(tokens: Tokens, device: str | torch.device = "cpu") -> Tensor:
    """Tokens as one tensor. Shape: [n]."""
    if isinstance(tokens, Tensor):
        return tokens
    return torch.tensor([tokens] if isinstance(tokens, int) else list(tokens), device=device)


def real_tokens(name: str, tokens: Tokens, device: str | torch.device = "cpu") -> Tensor:
    """Tokens as one tensor, whole numbers from 0. Shape: [n]."""
    found = token_tensor(tokens, device)
    if found.is_floating_point() or bool((found < 0).any()):
        raise refuse(name, "token ids, whole numbers from 0", tokens)
    return found


# -- what several rules do -----------------------------------------------------------------------------------------


def banned(scores: Tensor, tokens: Tensor) -> Tensor:
    """Scores with some tokens at minus infinity; tokens that there are no scores of do no harm.

    Args:
        scores: Shape: [..., V].
        tokens: Shape: [n].
    """
    tokens = tokens.to(scores.device).flatten().long()
    inside = tokens[(tokens >= 0) & (tokens < scores.shape[-1])]
    return scores.index_fill(-1, inside, NEVER)


def only(scores: Tensor, tokens: Tensor) -> Tensor:
    """Scores that leave some tokens, all at 0. Shape: [..., V] and [n]."""
    return torch.full_like(scores, NEVER).index_fill(-1, tokens.to(scores.device).flatten().long(), 0.0)
