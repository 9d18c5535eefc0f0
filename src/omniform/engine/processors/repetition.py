"""Rules about what was written or read already: penalties, runs of tokens that occur once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from omniform.core.errors import InputError, brief
from omniform.core.numbers import is_finite
from omniform.engine.processors.base import NEVER, LogitsProcessor, above_zero, refuse, whole


class RepetitionPenaltyLogitsProcessor(LogitsProcessor):
    """Tokens that came before become less likely (CTRL, https://arxiv.org/abs/1909.05858, section 4.1).

    Args:
        penalty: positive scores are divided by it, negative ones multiplied.
        prompt_ignore_length: how many of the first tokens do not count: one number, or one per row, Shape: [B].

    Attributes:
        logits_indices: of packed scores [1, T, V], where each row's last one is.
        cu_seq_lens_q: of packed ids [T], where each row begins, and the end of the last. Shape: [B + 1].
    """

    supports_continuous_batching = False

    def __init__(self, penalty: float, prompt_ignore_length: int | Tensor | None = None) -> None:
        self.penalty = above_zero("penalty", penalty)
        if isinstance(prompt_ignore_length, Tensor):
            if prompt_ignore_length.dim() != 1:
                raise refuse("prompt_ignore_length", "one number per row", prompt_ignore_length)
        elif prompt_ignore_length is not None:
            whole("prompt_ignore_length", prompt_ignore_length, 0)
        self.prompt_ignore_length = prompt_ignore_length
        self.logits_indices: Tensor | None = None
        self.cu_seq_lens_q: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See :class:`LogitsProcessor`; of scores of every position, Shape: [B, T, V], the last ones are changed."""
        if scores.dim() == 3:
            return self._of_all_positions(input_ids, scores)
        ids = input_ids.unsqueeze(1) if input_ids.dim() == 1 else input_ids
        return penalised(scores, *self._counted(ids), self.penalty)

    def _counted(self, ids_BT: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens that count, and whose they are. Shape: [n] each."""
        skipped = self.prompt_ignore_length
        if isinstance(skipped, Tensor):
            if skipped.shape[0] != ids_BT.shape[0]:
                raise InputError(
                    "one number per row",
                    where="prompt_ignore_length",
                    expected=ids_BT.shape[0],
                    found=skipped.shape[0],
                )
            self.prompt_ignore_length = skipped = skipped.to(ids_BT.device)
            places = torch.arange(ids_BT.shape[1], device=ids_BT.device)
            rows, places = (places >= skipped[:, None]).nonzero(as_tuple=True)
            return rows, ids_BT[rows, places]
        ids_BT = ids_BT[:, skipped or 0 :]
        rows = torch.arange(ids_BT.shape[0], device=ids_BT.device)[:, None].expand_as(ids_BT)
        return rows.flatten(), ids_BT.flatten()

    def _of_all_positions(self, input_ids: Tensor, scores_BTV: Tensor) -> Tensor:
        if self.logits_indices is None or self.cu_seq_lens_q is None:
            ids = torch.unique(input_ids)[None].expand(scores_BTV.shape[0], -1) if input_ids.dim() == 1 else input_ids
            scores_BTV[:, -1] = penalised(scores_BTV[:, -1], *self._counted(ids), self.penalty)
            return scores_BTV
        starts = self.cu_seq_lens_q
        lengths = starts[1:] - starts[:-1]
        rows = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
        last = scores_BTV[0, self.logits_indices]
        scores_BTV[0, self.logits_indices] = penalised(last, rows, input_ids.flatten(), self.penalty)
        return scores_BTV


def penalised(scores: Tensor, rows: Tensor, tokens: Tensor, penalty: float) -> Tensor:
    """Scores with those of some tokens divided (negative ones: multiplied) by a penalty, once for each token.

    Args:
        scores: Shape: [B, V].
        rows: whose tokens. Shape: [n].
        tokens: which, each as often as it likes; those that there are no scores of do no harm. Shape: [n].
        penalty: above 1 makes them less likely.
    """
    rows, tokens = rows.to(scores.device), tokens.to(scores.device)
    inside = tokens < scores.shape[-1]
    where = (rows[inside], tokens[inside])
    old = scores[where]
    return scores.index_put(where, torch.where(old < 0, old * penalty, old / penalty))


class EncoderRepetitionPenaltyLogitsProcessor(LogitsProcessor):
    """Tokens that were read become likelier: the same rule, the other way round.

    Args:
        penalty: above 1 asks for more of the same.
        encoder_input_ids: what each row read; the rows of a prompt's beams follow one another. Shape: [B, S].
    """

    supports_continuous_batching = False

    def __init__(self, penalty: float, encoder_input_ids: Tensor) -> None:
        self.penalty = 1 / above_zero("penalty", penalty)
        self.encoder_input_ids = encoder_input_ids

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See :class:`LogitsProcessor`."""
        ids = self.encoder_input_ids
        if scores.shape[0] > ids.shape[0]:
            ids = ids.repeat_interleave(scores.shape[0] // ids.shape[0], dim=0)
        rows = torch.arange(ids.shape[0], device=ids.device)[:, None].expand_as(ids)
        return penalised(scores, rows.flatten(), ids.flatten(), self.penalty)


class PresencePenaltyLogitsProcessor(LogitsProcessor):
    """Tokens that an answer has become less likely, all by the same.

    Source: https://platform.openai.com/docs/api-reference/chat/create, ``presence_penalty``.

    Args:
        penalty: what is taken from their scores; below 0 makes them likelier.
        prompt_length: how many of the first tokens are the prompt, which does not count.
    """

    supports_continuous_batching = False

    def __init__(self, penalty: float, prompt_length: int = 0) -> None:
        self.penalty = _finite("penalty", penalty)
        self.prompt_length = whole("prompt_length", prompt_length, 0)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See :class:`LogitsProcessor`."""
        return lessened(scores, *_counted(input_ids, self.prompt_length), self.penalty, 0.0)


class FrequencyPenaltyLogitsProcessor(LogitsProcessor):
    """Tokens that an answer has become less likely, the more the more often it has them.

    Source: https://platform.openai.com/docs/api-reference/chat/create, ``frequency_penalty``.

    Args:
        penalty: what is taken from their scores each time; below 0 makes them likelier.
        prompt_length: how many of the first tokens are the prompt, which does not count.
    """

    supports_continuous_batching = False

    def __init__(self, penalty: float, prompt_length: int = 0) -> None:
        self.penalty = _finite("penalty", penalty)
        self.prompt_length = whole("prompt_length", prompt_length, 0)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See :class:`LogitsProcessor`."""
        return lessened(scores, *_counted(input_ids, self.prompt_length), 0.0, self.penalty)


def _finite(name: str, value: object) -> float:
    if not is_finite(value):
        raise refuse(name, "a finite number", value)
    return float(value)


def _counted(ids_BT: Tensor, prompt: int) -> tuple[Tensor, Tensor, Tensor]:
    """Whose tokens, which, and how often each row has them after its prompt. Shape: [n] each."""
    written = ids_BT[:, prompt:]
    rows = torch.arange(written.shape[0], device=written.device)[:, None].expand_as(written)
    pairs, counts = torch.unique(torch.stack((rows.flatten(), written.flatten())), dim=1, return_counts=True)
    return pairs[0], pairs[1], counts


def lessened(scores: Tensor, rows: Tensor, tokens: Tensor, counts: Tensor, presence: float, frequency: float) -> Tensor:
    """Scores less ``presence + frequency * count`` for some tokens, each of them named once for a row.

    Args:
        scores: Shape: [B, V].
        rows: whose tokens. Shape: [n].
        tokens: which; those that there are no scores of do no harm. Shape: [n].
        counts: how often the row has them, at least once. Shape: [n].
    """
    rows, tokens, counts = (each.to(scores.device) for each in (rows, tokens, counts))
    inside = tokens < scores.shape[-1]
    where = (rows[inside], tokens[inside])
    return scores.index_put(where, scores[where] - (presence + frequency * counts[inside].to(scores.dtype)))


class NoRepeatNGramLogitsProcessor(LogitsProcessor):
    """No run of so many tokens occurs twice in a row.

    Args:
        ngram_size: how many.
    """

    def __init__(self, ngram_size: int) -> None:
        self.ngram_size = whole("ngram_size", ngram_size, 1)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See :class:`LogitsProcessor`."""
        if input_ids.shape[-1] < self.ngram_size:
            return scores
        return banned_pairs(scores, *completing(input_ids, input_ids, self.ngram_size))


class EncoderNoRepeatNGramLogitsProcessor(LogitsProcessor):
    """No run of so many tokens is written that was read.

    Args:
        encoder_ngram_size: how many.
        encoder_input_ids: what each row read; the rows of a prompt's beams follow one another. Shape: [B, S] or [S].
    """

    def __init__(self, encoder_ngram_size: int, encoder_input_ids: Tensor) -> None:
        self.ngram_size = whole("encoder_ngram_size", encoder_ngram_size, 1)
        self._read = encoder_input_ids if encoder_input_ids.dim() > 1 else encoder_input_ids[None]
        self.batch_size = self._read.shape[0]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See :class:`LogitsProcessor`."""
        held = self._read.to(input_ids.device)
        if scores.shape[0] > self.batch_size:
            held = held.repeat_interleave(scores.shape[0] // self.batch_size, dim=0)
        if min(input_ids.shape[-1] + 1, held.shape[-1]) < self.ngram_size:
            return scores.clone()
        return banned_pairs(scores, *completing(input_ids, held, self.ngram_size))


def completing(ids_BT: Tensor, held_BS: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The tokens that would complete, at the end of a row, a run of ``size`` tokens that ``held`` has.

    Args:
        ids_BT: the rows, at least ``size - 1`` tokens long.
        held_BS: what each of them is not to repeat, at least ``size`` tokens long.
        size: at least 1.

    Returns:
        Whose they are, and the tokens. Shape: [n] each.
    """
    runs = held_BS.unfold(1, size, 1)
    tail = ids_BT[:, ids_BT.shape[1] - size + 1 :]
    rows, places = (runs[..., :-1] == tail[:, None]).all(-1).nonzero(as_tuple=True)
    return rows, runs[rows, places, -1]


def banned_pairs(scores: Tensor, rows: Tensor, tokens: Tensor) -> Tensor:
    """Scores with some tokens of some rows at minus infinity. Shape: [B, V], [n], [n]."""
    rows, tokens = rows.to(scores.device), tokens.to(scores.device)
    inside = tokens < scores.shape[-1]
    return scores.index_put((rows[inside], tokens[inside]), scores.new_tensor(NEVER))


class HammingDiversityLogitsProcessor(LogitsProcessor):
    """Groups of beams keep away from the tokens of the groups before them (https://arxiv.org/abs/1610.02424).

    Args:
        diversity_penalty: what each beam of an earlier group takes from the score of the token that it chose.
        num_beams: beams of a prompt in all.
        num_beam_groups: in so many groups.
    """

    def __init__(self, diversity_penalty: float, num_beams: int, num_beam_groups: int) -> None:
        self._diversity_penalty = above_zero("diversity_penalty", diversity_penalty)
        whole("num_beams", num_beams, 2)
        whole("num_beam_groups", num_beam_groups, 2)
        if num_beam_groups > num_beams:
            raise refuse("num_beam_groups", f"at most num_beams, {num_beams}", num_beam_groups)
        self._num_beams = num_beams
        self._num_sub_beams = num_beams // num_beam_groups

    def __call__(  # type: ignore[override]
        self, input_ids: Tensor, scores: Tensor, current_tokens: Tensor, beam_group_idx: int
    ) -> Tensor:
        """The scores of one group, changed.

        Args:
            input_ids: Shape: [prompts * beams of the group, T].
            scores: Shape: [prompts * beams of the group, V].
            current_tokens: what the groups before it chose in this step, at their beams' places.
                Shape: [prompts * num_beams].
            beam_group_idx: which group it is.
        """
        start = beam_group_idx * self._num_sub_beams
        mine = min(start + self._num_sub_beams, self._num_beams) - start
        if start == 0:
            return scores
        earlier = current_tokens.to(scores.device).view(-1, self._num_beams)[:, :start]
        counts = scores.new_zeros((earlier.shape[0], scores.shape[-1]))
        counts.scatter_add_(1, earlier, torch.ones_like(earlier, dtype=scores.dtype))
        return scores - self._diversity_penalty * counts.repeat_interleave(mine, dim=0)


class PrefixConstrainedLogitsProcessor(LogitsProcessor):
    """What may follow is asked for, row by row (https://arxiv.org/abs/2010.00904).

    Args:
        prefix_allowed_tokens_fn: given a prompt's number and a row's tokens [T], the tokens that may come next.
        num_beams: rows per prompt.
    """

    def __init__(self, prefix_allowed_tokens_fn: Callable[[int, Tensor], Sequence[int]], num_beams: int) -> None:
        self._prefix_allowed_tokens_fn = prefix_allowed_tokens_fn
        self._num_beams = num_beams

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See :class:`LogitsProcessor`."""
        mask = torch.full_like(scores, NEVER)
        for number in range(input_ids.shape[0] // self._num_beams * self._num_beams):
            prompt = number // self._num_beams
            allowed = self._prefix_allowed_tokens_fn(prompt, input_ids[number])
            if len(allowed) == 0:
                raise InputError(
                    "no token may follow",
                    where=f"prefix_allowed_tokens_fn, prompt {prompt}",
                    expected="at least one token",
                    found=brief(allowed),
                )
            mask[number, allowed] = 0
        kept = scores + mask
        # Where every beam's allowed tokens are ruled out already, the constraint holds all the same.
        stuck = kept.amax(-1).isneginf().view(-1, self._num_beams).all(-1, keepdim=True)
        return torch.where(stuck.repeat_interleave(self._num_beams, dim=0), mask, kept)
