"""Rules of length: when a row may end, has to end or had better end, and what it begins with."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from omniform.engine.processors.base import LogitsProcessor, Tokens, banned, only, real_tokens, token_tensor, whole


class MinLengthLogitsProcessor(LogitsProcessor):
    """No end before a row has so many tokens, prompt included.

    Args:
        min_length: how many.
        eos_token_id: the tokens that end a row.
        device: where they are kept.
    """

    supports_continuous_batching = False

    def __init__(self, min_length: int, eos_token_id: Tokens, device: str | torch.device = "cpu") -> None:
        self.min_length = whole("min_length", min_length, 0)
        self.eos_token_id = token_tensor(eos_token_id, device)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See :class:`LogitsProcessor`."""
        return banned(scores, self.eos_token_id) if input_ids.shape[-1] < self.min_length else scores.clone()


class MinNewTokensLengthLogitsProcessor(LogitsProcessor):
    """No end before a row has so many tokens after its prompt.

    Args:
        prompt_length_to_skip: tokens in the prompt.
        min_new_tokens: how many.
        eos_token_id: the tokens that end a row.
        device: where they are kept.
    """

    supports_continuous_batching = False

    def __init__(
        self,
        prompt_length_to_skip: int,
        min_new_tokens: int,
        eos_token_id: Tokens,
        device: str | torch.device = "cpu",
    ) -> None:
        self.prompt_length_to_skip = whole("prompt_length_to_skip", prompt_length_to_skip, 0)
        self.min_new_tokens = whole("min_new_tokens", min_new_tokens, 0)
        self.eos_token_id = token_tensor(eos_token_id, device)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See :class:`LogitsProcessor`."""
        new = input_ids.shape[-1] - self.prompt_length_to_skip
        return banned(scores, self.eos_token_id) if new < self.min_new_tokens else scores.clone()


class ForcedBOSTokenLogitsProcessor(LogitsProcessor):
    """The second token of a row, the first after a decoder prompt of one, is this one.

    Args:
        bos_token_id: which.
    """

    def __init__(self, bos_token_id: int) -> None:
        self.bos_token_id = bos_token_id

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See :class:`LogitsProcessor`."""
        return only(scores, torch.tensor([self.bos_token_id])) if input_ids.shape[-1] == 1 else scores


class ForcedEOSTokenLogitsProcessor(LogitsProcessor):
    """The last token that fits is one of these.

    Args:
        max_length: how many tokens fit, prompt included.
        eos_token_id: which.
        device: where they are kept.
    """

    def __init__(self, max_length: int, eos_token_id: Tokens, device: str | torch.device = "cpu") -> None:
        self.max_length = max_length
        self.eos_token_id = real_tokens("eos_token_id", eos_token_id, device)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See :class:`LogitsProcessor`."""
        return only(scores, self.eos_token_id) if input_ids.shape[-1] == self.max_length - 1 else scores


class ExponentialDecayLengthPenalty(LogitsProcessor):
    """Ends become likelier by a factor per token.

    Args:
        exponential_decay_length_penalty: after how many new tokens, and the factor.
        eos_token_id: the tokens that end a row.
        input_ids_seq_length: tokens in the prompt.
    """

    def __init__(
        self,
        exponential_decay_length_penalty: tuple[int, float],
        eos_token_id: Tokens,
        input_ids_seq_length: int,
    ) -> None:
        start, self.regulation_factor = exponential_decay_length_penalty
        self.regulation_start = start + input_ids_seq_length
        self.eos_token_id = real_tokens("eos_token_id", eos_token_id)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See :class:`LogitsProcessor`."""
        over = input_ids.shape[-1] - self.regulation_start
        return hastened(scores, self.eos_token_id, self.regulation_factor**over) if over > 0 else scores


def hastened(scores: Tensor, ends: Tensor, factor: float) -> Tensor:
    """Ends made likelier; also where their scores are negative, hence the absolute value. Shape: [..., V] and [n]."""
    places = ends.to(scores.device).flatten().long()
    places = places[places < scores.shape[-1]]
    theirs = scores.index_select(-1, places)
    more = (theirs.abs() * (factor - 1)).masked_fill(~theirs.isfinite(), 0.0)
    return scores.index_copy(-1, places, theirs + more)


class SuppressTokensLogitsProcessor(LogitsProcessor):
    """Tokens that are never written.

    Args:
        suppress_tokens: which.
        device: where they are kept.
    """

    def __init__(self, suppress_tokens: Iterable[int], device: str | torch.device = "cpu") -> None:
        self.suppress_tokens = torch.tensor(list(suppress_tokens), device=device)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See :class:`LogitsProcessor`."""
        return banned(scores, self.suppress_tokens)


class SuppressTokensAtBeginLogitsProcessor(LogitsProcessor):
    """Tokens that are not written as the first one.

    Args:
        begin_suppress_tokens: which.
        begin_index: how many tokens stand before the first one.
        device: where they are kept.
    """

    def __init__(
        self, begin_suppress_tokens: Iterable[int], begin_index: int, device: str | torch.device = "cpu"
    ) -> None:
        self.begin_suppress_tokens = torch.tensor(list(begin_suppress_tokens), device=device)
        self.begin_index = begin_index

    def set_begin_index(self, begin_index: int) -> None:
        """Set how many tokens stand before the first one."""
        self.begin_index = begin_index

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See :class:`LogitsProcessor`."""
        return banned(scores, self.begin_suppress_tokens) if input_ids.shape[-1] == self.begin_index else scores


class InfNanRemoveLogitsProcessor(LogitsProcessor):
    """NaN becomes 0, and infinite scores the largest numbers."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See :class:`LogitsProcessor`."""
        return finite(scores)


def finite(scores: Tensor) -> Tensor:
    """Scores that are numbers, all of them. Shape: [..., V]."""
    most = torch.finfo(scores.dtype).max
    return scores.nan_to_num(0.0, most, -most)


class LogitNormalization(LogitsProcessor):
    """Scores become log-probabilities."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See :class:`LogitsProcessor`."""
        return scores.log_softmax(-1)
