"""The cache of an encoder-decoder: what its decoder has read, and what its cross-attention reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Self, cast

from torch import Tensor

from omniform.core.cache_layers import placed
from omniform.core.caches import Cache, DynamicCache, Given, Pair, QuantizedCache, StaticCache
from omniform.core.dense import DenseKV
from omniform.core.errors import InputError, brief
from omniform.core.layouts import Layout
from omniform.core.stores import TokenStore

_KINDS = {kind.__name__: kind for kind in (DynamicCache, StaticCache, QuantizedCache)}


class EncoderDecoderCache(Cache):
    """Two caches in one: keys and values of the decoder's own tokens, and of an encoder's output.

    Args:
        caches: the one of self-attention and the one of cross-attention; or layers of four entries (or of six, a
            window behind each pair): own keys and values and those of the encoder's output, Shape: [B, H, S, D] each;
            or nothing, for two new ones.

    Attributes:
        self_attention_cache: what the decoder has read.
        cross_attention_cache: what its cross-attention reads.

    Raises:
        InputError: something else.
    """

    def __init__(self, *caches: object) -> None:
        own, cross = _two(caches)
        length, self.self_attention_cache, self.cross_attention_cache = own.length, own, cross
        super().__init__()
        # Both see the same tables, so that nothing is kept twice and edits of either are edits of the whole.
        self._kv, self._latent, self._fixed, self._cross = own._kv, own._latent, own._fixed, cross._kv
        self._length = length

    @property
    def _length(self) -> int:
        return self.self_attention_cache._length

    @_length.setter
    def _length(self, length: int) -> None:
        self.self_attention_cache._length = length

    @property
    def is_updated(self) -> dict[int, bool]:
        """Of each layer, whether the encoder's output was read."""
        return {number: layer.is_initialized for number, layer in enumerate(self.cross_attention_cache.layers)}

    def __getitem__(self, layer: int) -> tuple[Tensor, ...]:  # type: ignore[override] # the ecosystem's is twice as long
        """A layer's keys and values, and those of the encoder's output. Shape: [B, H, S, D] each."""
        return (*self.self_attention_cache[layer], *self.cross_attention_cache[layer])

    def __iter__(self) -> Iterator[tuple[Tensor | None, ...]]:  # type: ignore[override]
        """Keys, values and window of every layer, and the same of the encoder's output."""
        for own, cross in zip(self.self_attention_cache, self.cross_attention_cache, strict=False):
            yield (*own, *cross)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.self_attention_cache!r}, {self.cross_attention_cache!r})"

    def to_legacy_cache(self) -> tuple[tuple[Tensor, ...], ...]:  # type: ignore[override]
        """Four tensors of every layer; see :meth:`__getitem__`."""
        return tuple(self[number] for number in range(len(self)))

    @classmethod
    def from_legacy_cache(cls, past_key_values: Iterable[Given] | None = None) -> Self:
        """From a tuple of four tensors per layer."""
        return cls(past_key_values or ())

    def get_max_length(self, layer_idx: int | None = None) -> int:
        return self.self_attention_cache.get_max_length(layer_idx)

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **told: object) -> Pair:
        return self.self_attention_cache.update(key_states, value_states, layer_idx)

    def note_missing(self, gone: Mapping[int, int], ends: Sequence[int]) -> None:
        super().note_missing(gone, ends)
        self.self_attention_cache.note_missing(gone, ends)

    def reset(self) -> None:
        super().reset()
        self.cross_attention_cache.reset()

    # -- behind the names ----------------------------------------------------------------------------------------------

    def store(self) -> TokenStore:
        return self.self_attention_cache.store()

    def set_cross(self, slot: int, k_BHSD: Tensor, v_BHSD: Tensor) -> None:
        cross = self.cross_attention_cache
        view = self._cross[slot] = DenseKV(cross.store())
        view.extend(k_BHSD, v_BHSD)
        cross._length = k_BHSD.shape[2]

    def admit(self, layout: Layout, rows: int, tokens: int) -> None:
        super().admit(layout, rows, tokens)
        self.self_attention_cache.admit(layout, rows, tokens)

    def settle(self, layout: Layout) -> None:
        own, cross = self.self_attention_cache, self.cross_attention_cache
        if cross._unplaced:
            found = placed(cross._kv, layout, "memory")
            cross._kv.clear()
            cross._kv.update(found)
            cross._unplaced = False
        self._unplaced, own._unplaced = own._unplaced, False
        super().settle(layout)
        own.layout = layout

    @classmethod
    def _blank(cls) -> Self:
        state = cls.__new__(cls)
        EncoderDecoderCache.__init__(state)
        return state

    def _options(self) -> dict[str, int | str]:
        both = {"own": self.self_attention_cache, "cross": self.cross_attention_cache}
        if all(type(cache) is DynamicCache and not cache._options() for cache in both.values()):
            return {}
        return {name: json.dumps([type(cache).__name__, cache._options()]) for name, cache in both.items()}

    def _set(self, **options: int | str) -> None:
        made: list[Cache] = []
        for name in ("own", "cross"):
            kind, how = cast("tuple[str, dict[str, int | str]]", json.loads(str(options[name])))
            cache = _KINDS.get(kind, DynamicCache)._blank()
            cache._set(**how)
            made.append(cache)
        EncoderDecoderCache.__init__(self, *made)


def _two(caches: tuple[object, ...]) -> tuple[Cache, Cache]:
    if not caches:
        return DynamicCache(), DynamicCache()
    if len(caches) == 2:
        own, cross = caches
        if isinstance(own, Cache) and isinstance(cross, Cache):
            return own, cross
    elif len(caches) == 1 and isinstance(caches[0], Iterable):
        layers = [tuple(layer) for layer in caches[0]]
        if all(len(layer) in (4, 6) for layer in layers):
            halves = [(layer[: len(layer) // 2], layer[len(layer) // 2 :]) for layer in layers]
            return DynamicCache([own for own, _ in halves]), DynamicCache([cross for _, cross in halves])
    raise InputError(
        "this is no cache of an encoder-decoder",
        where="EncoderDecoderCache",
        expected="two caches, or layers of four tensors each",
        found=", ".join(brief(cache) for cache in caches)[:200],
    )
