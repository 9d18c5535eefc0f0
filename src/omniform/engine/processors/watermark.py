"""Watermarks: scores changed in a way that whoever has the key can find in the text again."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from omniform.core.errors import InputError
from omniform.engine.processors.base import LogitsProcessor, refuse

log = logging.getLogger("omniform")

SCHEMES = ("selfhash", "lefthash")
_TABLE = 1_000_003
_TRIED = 40
"""So many likeliest tokens are looked at with ``selfhash``, as in the paper's own code."""


class WatermarkLogitsProcessor(LogitsProcessor):
    """Makes a part of the vocabulary likelier, another one after each token (https://arxiv.org/abs/2306.04634).

    Args:
        vocab_size: tokens in the vocabulary.
        device: where the draws are made.
        greenlist_ratio: how large the part is.
        bias: what is added to its scores.
        hashing_key: the key.
        seeding_scheme: the part depends on the token before ("lefthash"), or on itself as well ("selfhash").
        context_width: of how many tokens before.
    """

    def __init__(
        self,
        vocab_size: int,
        device: str | torch.device,
        greenlist_ratio: float = 0.25,
        bias: float = 2.0,
        hashing_key: int = 15485863,
        seeding_scheme: str = "lefthash",
        context_width: int = 1,
    ) -> None:
        if seeding_scheme not in SCHEMES:
            raise refuse("seeding_scheme", " or ".join(SCHEMES), seeding_scheme)
        if not 0.0 < greenlist_ratio < 1.0:
            raise refuse("greenlist_ratio", "a number between 0 and 1", greenlist_ratio)
        self.vocab_size = vocab_size
        self.greenlist_size = int(vocab_size * greenlist_ratio)
        self.bias = bias
        self.seeding_scheme = seeding_scheme
        self.hash_key = hashing_key
        self.context_width = context_width
        self.rng = torch.Generator(device=device).manual_seed(hashing_key)
        self.table_size = _TABLE
        self.fixed_table = torch.randperm(_TABLE, generator=self.rng, device=device)

    def set_seed(self, input_seq: Tensor) -> None:
        """Let the next draw depend on the end of a row. Shape: [T]."""
        before = input_seq[-self.context_width :]
        if self.seeding_scheme == "selfhash":
            ranks = self.fixed_table[before % self.table_size] + 1
            last = self.fixed_table[before[-1] % self.table_size] + 1
            seed = int((self.hash_key * ranks * last).min())
        else:
            seed = self.hash_key * int(before[-1])
        self.rng.manual_seed(seed % (2**64 - 1))

    def greenlist(self, input_seq: Tensor) -> Tensor:
        """The tokens that are made likelier after a row. Shape: [T] in, [n] out."""
        self.set_seed(input_seq)
        return torch.randperm(self.vocab_size, device=input_seq.device, generator=self.rng)[: self.greenlist_size]

    _get_greenlist_ids = greenlist

    def _green(self, input_seq: Tensor, scores_V: Tensor) -> Tensor:
        if self.seeding_scheme == "lefthash":
            return self.greenlist(input_seq)
        likely = scores_V.sort(dim=-1, descending=True).indices[:_TRIED]
        return likely[[self.is_green(torch.cat([input_seq, likely[i : i + 1]]), likely[i]) for i in range(len(likely))]]

    def is_green(self, input_seq: Tensor, token: Tensor | int) -> bool:
        """Whether a token is made likelier after a row. Shape: [T]."""
        return bool((self.greenlist(input_seq) == token).any())

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See :class:`LogitsProcessor`; rows shorter than the context stay as they are."""
        if input_ids.shape[-1] < self.context_width:
            log.warning(
                "no watermark yet: rows have %d tokens, and %d are looked at", input_ids.shape[-1], self.context_width
            )
            return scores
        changed = scores.clone()
        for row, tokens in enumerate(input_ids):
            green = self._green(tokens, scores[row])
            changed[row, green] = changed[row, green] + self.bias
        return changed


class SynthIDTextWatermarkState:
    """What rows remember from step to step.

    Args:
        batch_size: rows.
        ngram_len: tokens that a hash is made of.
        context_history_size: how many contexts are remembered.
        device: where.
    """

    def __init__(self, batch_size: int, ngram_len: int, context_history_size: int, device: str | torch.device) -> None:
        self.context = torch.zeros((batch_size, ngram_len - 1), dtype=torch.int64, device=device)
        self.context_history = torch.zeros((batch_size, context_history_size), dtype=torch.int64, device=device)
        self.num_calls = 0

    def seen(self, context_B: Tensor) -> Tensor:
        """Whether each row has had a context before, which is noted. Shape: [B] in, [B, 1] out."""
        repeated = (self.context_history == context_B[:, None]).any(1, keepdim=True)
        self.context_history = torch.cat((context_B[:, None], self.context_history), dim=1)[:, :-1]
        return repeated


class SynthIDTextWatermarkLogitsProcessor(LogitsProcessor):
    """Tournament sampling with pseudorandom values of runs of tokens (https://doi.org/10.1038/s41586-024-08025-4).

    Args:
        ngram_len: tokens that a value depends on.
        keys: one for each layer of the tournament.
        sampling_table_size, sampling_table_seed: of the table that values are looked up in.
        context_history_size: how many contexts are remembered; none is used twice.
        device: where.
        skip_first_ngram_calls: no watermark in the first ``ngram_len - 1`` steps.
        debug_mode: all scores are 1 before.
    """

    def __init__(
        self,
        ngram_len: int,
        keys: Sequence[int],
        sampling_table_size: int,
        sampling_table_seed: int,
        context_history_size: int,
        device: str | torch.device,
        skip_first_ngram_calls: bool = False,
        debug_mode: bool = False,
    ) -> None:
        self.ngram_len = ngram_len
        self.keys = torch.tensor(keys, device=device)
        generator = torch.Generator(device=device).manual_seed(sampling_table_seed)
        self.sampling_table = torch.randint(0, 2, (sampling_table_size,), generator=generator, device=device)
        self.context_history_size = context_history_size
        self.device = device
        self.state: SynthIDTextWatermarkState | None = None
        self.skip_first_ngram_calls = skip_first_ngram_calls
        self.debug_mode = debug_mode

    def _new_state(self, rows: int) -> SynthIDTextWatermarkState:
        return SynthIDTextWatermarkState(rows, self.ngram_len, self.context_history_size, self.device)

    def _init_state(self, batch_size: int) -> None:
        self.state = self._new_state(batch_size)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See :class:`LogitsProcessor`; to be called once in every step, with the same rows."""
        self._check_input_ids_shape(input_ids)
        rows, vocabulary = scores.shape
        if self.debug_mode:
            scores = torch.ones_like(scores)
        if self.state is None:
            self._init_state(rows)
            assert self.state is not None, "just made"
        else:
            self.state.context = torch.cat((self.state.context, input_ids[:, -1:]), dim=1)[:, 1:]
        self.state.num_calls += 1
        if self.skip_first_ngram_calls and self.state.num_calls < self.ngram_len:
            return scores
        everything = torch.arange(vocabulary, device=self.device).expand(rows, -1)
        keys, context_B = self._keys_after(self.state.context, everything)
        changed = self.update_scores(scores, self.sample_g_values(keys))
        return torch.where(self.state.seen(context_B), scores, changed)

    def update_scores(self, scores: Tensor, g_values: Tensor) -> Tensor:
        """The tournament's log-probabilities.

        Args:
            scores: Shape: [B, V].
            g_values: Shape: [B, V, depth].
        """
        odds = scores.softmax(1)
        for layer in range(g_values.shape[-1]):
            values = g_values[:, :, layer]
            odds = odds * (1 + values - (values * odds).sum(1, keepdim=True))
        logs = odds.log()
        return torch.where(logs.isfinite(), logs, torch.finfo(logs.dtype).min)

    def accumulate_hash(
        self, current_hash: Tensor, data: Tensor, multiplier: int = 6364136223846793005, increment: int = 1
    ) -> Tensor:
        """A linear congruential hash of the numbers in the last axis, on top of another hash.

        Args:
            current_hash: Shape: [...].
            data: Shape: [..., n].
            multiplier, increment: of the generator; arithmetic is modulo 2 ** 64.
        """
        for column in data.unbind(-1):
            current_hash = (current_hash + column) * multiplier + increment
        return current_hash

    def compute_ngram_keys(self, ngrams: Tensor) -> Tensor:
        """A hash of every run of tokens with every key. Shape: [B, n, ngram_len] in, [B, n, depth] out."""
        if ngrams.dim() != 3 or ngrams.shape[2] != self.ngram_len:
            raise InputError(
                "these are no runs of tokens",
                where="ngrams",
                expected=f"shape [rows, runs, {self.ngram_len}]",
                found=f"shape {[*ngrams.shape]}",
            )
        start = torch.ones(ngrams.shape[:2], device=self.device, dtype=torch.long)
        return self._with_keys(self.accumulate_hash(start, ngrams))

    def _with_keys(self, hashes: Tensor) -> Tensor:
        return self.accumulate_hash(hashes[..., None], self.keys[:, None])

    def _keys_after(self, context: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Hashes of a context followed by each of some tokens, and of the context alone.

        Args:
            context: Shape: [B, ngram_len - 1].
            indices: Shape: [B, n].

        Returns:
            Shape: [B, n, depth] and [B].
        """
        start = torch.ones(context.shape[0], device=self.device, dtype=torch.long)
        alone = self.accumulate_hash(start, context)
        return self._with_keys(self.accumulate_hash(alone[:, None], indices[..., None])), alone

    _compute_keys = _keys_after

    def sample_g_values(self, ngram_keys: Tensor) -> Tensor:
        """The values that hashes stand for, 0 or 1. Any shape, the same out."""
        return self.sampling_table[ngram_keys % self.sampling_table.shape[0]]

    def _check_input_ids_shape(self, input_ids: Tensor) -> None:
        if input_ids.dim() != 2:
            raise InputError(
                "these are no rows of tokens",
                where="input_ids",
                expected="shape [rows, tokens]",
                found=f"shape {[*input_ids.shape]}",
            )

    def compute_g_values(self, input_ids: Tensor) -> Tensor:
        """The values of a text. Shape: [B, T] in, [B, T - (ngram_len - 1), depth] out."""
        self._check_input_ids_shape(input_ids)
        return self.sample_g_values(self.compute_ngram_keys(input_ids.unfold(1, self.ngram_len, 1)))

    def compute_context_repetition_mask(self, input_ids: Tensor) -> Tensor:
        """Where a context came for the first time. Shape: [B, T] in, [B, T - (ngram_len - 1)] out, bool."""
        self._check_input_ids_shape(input_ids)
        state = self._new_state(input_ids.shape[0])
        contexts = input_ids[:, :-1].unfold(1, self.ngram_len - 1, 1)
        start = torch.ones(contexts.shape[:2], device=self.device, dtype=torch.long)
        hashes = self.accumulate_hash(start, contexts)
        return ~torch.cat([state.seen(column) for column in hashes.unbind(1)], dim=1)

    def compute_eos_token_mask(self, input_ids: Tensor, eos_token_id: int) -> Tensor:
        """Where no end has come yet. Shape: [B, T] in and out, bool."""
        self._check_input_ids_shape(input_ids)
        return (input_ids == eos_token_id).cumsum(1) == 0

    def expected_mean_g_value(self, vocab_size: int, coinflip_prob: float = 0.5) -> float:
        """The mean of the values of a watermarked text, if all tokens are alike.

        Args:
            vocab_size: tokens in the vocabulary.
            coinflip_prob: of a value of 1.
        """
        return coinflip_prob + coinflip_prob * (1 - coinflip_prob) * (1 - (1 / vocab_size))
