"""The ecosystem's names for what a model remembers between calls: :class:`DynamicCache`, :class:`StaticCache`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Self

import torch
from torch import Tensor

from omniform.core.errors import InputError
from omniform.core.state import DenseState

Pair = tuple[Tensor, Tensor]


class DynamicCache(DenseState):
    """Keys and values that grow with use; what a forward gives as ``past_key_values``, and takes.

    Args:
        pairs: keys and values of every layer to begin with, Shape: [B, H, S, D] each.
        config: accepted as the ecosystem does; layers are made as they come.
    """

    def __init__(self, pairs: Iterable[Pair] | None = None, config: object = None, **inert: object) -> None:
        super().__init__()
        for slot, (k, v) in enumerate(pairs or ()):
            self.kv(slot).extend(k, v)
            self._length = k.shape[2]

    @classmethod
    def from_legacy_cache(cls, past_key_values: Iterable[Pair] | None = None) -> Self:
        """From a tuple of keys and values per layer."""
        return cls(past_key_values)

    def to_legacy_cache(self) -> tuple[Pair, ...]:
        """A tuple of keys and values per layer, Shape: [B, H, S, D] each."""
        return tuple(self)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """How many tokens every row has."""
        return self.length

    def get_max_cache_shape(self) -> int | None:
        """How many tokens there is room for; None for no bound."""
        return None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Put other rows in the places of these, by index. Shape: [B]."""
        self.select(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows, by index."""
        self.select(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Have every row so many times, one after another."""
        first = next((t for view in self._views() for t in view.tensors()), None)
        if first is not None:
            self.select(torch.arange(first.shape[0], device=first.device).repeat_interleave(repeats))

    def crop(self, max_length: int) -> None:
        """Forget all tokens but the first so many; a negative number forgets so many of the last.

        Raises:
            InputError: the model also remembers what cannot be taken back (a recurrent state).
        """
        length = max_length if max_length >= 0 else max(0, self.length + max_length)
        if length >= self.length:
            return
        if self._fixed:
            raise InputError("a recurrent state cannot be taken back", where="crop", found=max_length)
        for view in (*self._kv.values(), *self._latent.values()):
            view.crop(length)
        self._length = length

    def reset(self) -> None:
        """Forget everything."""
        for table in (self._kv, self._latent, self._fixed, self._cross):
            table.clear()
        self._length, self.shift = 0, None

    def __len__(self) -> int:
        return len(self._kv)

    def __bool__(self) -> bool:
        return True  # an empty cache is one

    def __getitem__(self, layer: int) -> Pair:
        slot = sorted(self._kv)[layer]
        k, v = self._kv[slot].tensors()
        return k, v

    def __iter__(self) -> Iterator[Pair]:
        return (self[layer] for layer in range(len(self)))


Cache = DynamicCache
"""Any cache."""


class StaticCache(DynamicCache):
    """A cache with room for a number of tokens from the beginning.

    Args:
        config: accepted as the ecosystem does.
        max_cache_len: how many tokens there is room for.
    """

    def __init__(self, config: object = None, max_cache_len: int = 0, **inert: object) -> None:
        super().__init__()
        if isinstance(max_cache_len, bool) or not isinstance(max_cache_len, int) or max_cache_len < 0:
            raise InputError("no number of tokens", where="max_cache_len", found=repr(max_cache_len)[:80])
        self._room = max_cache_len

    def get_max_cache_shape(self) -> int | None:
        return self._room or None
