"""Base classes of what users hang into generation: changes of scores, and rules to stop."""

from __future__ import annotations

from torch import Tensor


class LogitsProcessor:
    """Changes the scores of the next token. Subclasses define ``__call__``."""

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        """The scores, changed.

        Args:
            input_ids: the tokens so far. Shape: [B, T].
            scores: Shape: [B, V].
        """
        raise NotImplementedError(f"{type(self).__name__} does not define __call__")


class LogitsProcessorList(list[LogitsProcessor]):
    """Several, one after another."""

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        """See :class:`LogitsProcessor`."""
        for processor in self:
            scores = processor(input_ids, scores, **kwargs)
        return scores


class StoppingCriteria:
    """Tells which rows have come to their end. Subclasses define ``__call__``."""

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        """Which rows are done. Shape: [B], bool; see :class:`LogitsProcessor` for the arguments."""
        raise NotImplementedError(f"{type(self).__name__} does not define __call__")


class StoppingCriteriaList(list[StoppingCriteria]):
    """Several: a row is done as soon as one of them says so."""

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        """See :class:`StoppingCriteria`."""
        done = input_ids.new_zeros(input_ids.shape[0]).bool()
        for rule in self:
            done = done | rule(input_ids, scores, **kwargs)
        return done
