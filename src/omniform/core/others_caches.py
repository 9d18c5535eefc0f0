"""Caches of another library: what PEFT's prefix tuning hands over, and what they hold in a cache of ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from omniform.core.caches import DynamicCache
from omniform.core.paired_cache import EncoderDecoderCache
from omniform.core.state import DenseState


@runtime_checkable
class KeysAndValues(Protocol):
    """What a cache keeps of one layer. Shape: [B, H, S, D] each."""

    keys: Tensor
    values: Tensor


@runtime_checkable
class OthersCache(Protocol):
    """Another library's cache."""

    layers: Sequence[KeysAndValues]


@runtime_checkable
class OthersPair(Protocol):
    """Another library's cache of an encoder-decoder."""

    self_attention_cache: OthersCache


def taken_over(cache: object) -> object:
    """What another library's cache holds, in one of ours; anything else as it is.

    An empty one is refused by whoever takes states: its owner would wait for it to be filled in place.
    """
    if isinstance(cache, DenseState):
        return cache
    if isinstance(cache, OthersPair):
        own = _read(cache.self_attention_cache)
        return cache if own is None else EncoderDecoderCache(own, DynamicCache())
    if isinstance(cache, OthersCache):
        return _read(cache) or cache
    return cache


def _read(cache: OthersCache) -> DynamicCache | None:
    layers = list(cache.layers)
    if not layers or not all(isinstance(x, KeysAndValues) and isinstance(x.keys, Tensor) for x in layers):
        return None
    return DynamicCache.from_legacy_cache([(layer.keys, layer.values) for layer in layers])
