"""The ecosystem's names for what a model remembers between calls: :class:`DynamicCache` and its kin.

A cache is a :class:`~omniform.core.state.DenseState` with the ecosystem's methods. Kinds of cache differ in how a token
is kept (:mod:`omniform.core.stores`), never in what a model keeps: each goes with keys and values, latents, memories,
convolutions and recurrent states alike. Where state is of another form than the ecosystem's (latents, convolutions),
layers show ours.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Self

import torch
from torch import Tensor

from omniform.core.cache_layers import CacheLayer, check_fits, placed, planned_layers
from omniform.core.dense import DenseTokens
from omniform.core.errors import InputError
from omniform.core.layouts import Layout
from omniform.core.quantized import Quantized, groupings
from omniform.core.state import DenseState
from omniform.core.stores import Bounded, Elsewhere, Float8, Grown, TokenStore, too_short

Pair = tuple[Tensor, Tensor]
Given = Sequence[Tensor | None]
"""Keys and values of a layer, and what else the ecosystem puts behind them."""


class Cache(DenseState):
    """Any cache: state of a padded batch, with the ecosystem's methods.

    Args:
        offloading: whether state lies in the host's memory while it is not looked at.
        config: of the model that it is for: how many layers there are to be.
    """

    is_compileable = False

    def __init__(self, *, config: object = None, offloading: bool = False) -> None:
        super().__init__()
        self.layout: Layout | None = None
        self._unplaced = False
        self._offloading = bool(offloading)
        self._gone: Mapping[int, int] = {}
        self._ends: Tensor | None = None
        self._planned = planned_layers(config)

    # -- its layers ----------------------------------------------------------------------------------------------------

    @property
    def layers(self) -> list[CacheLayer]:
        """One for each layer of the model that has used it, or that its config tells of."""
        if self.layout is not None:
            return [CacheLayer(self, own) for own in self.layout.layers]
        slots = sorted({*self._kv, *self._latent, *self._fixed})
        slots += range(len(slots), self._planned)
        return [CacheLayer(self, (slot,)) for slot in slots]

    def __len__(self) -> int:
        return len(self.layers)

    def __bool__(self) -> bool:
        return True  # an empty cache is one

    def __getitem__(self, layer: int) -> Pair:
        """A layer's keys and values. Shape: [B, H, S, D] each."""
        k, v = self.layers[layer].pair()
        if k is None or v is None:
            raise InputError("this layer has no keys yet", where="past_key_values", found=f"layer {layer}")
        return k, v

    def __iter__(self) -> Iterator[tuple[Tensor | None, Tensor | None, Tensor | None]]:
        """Keys, values and window of every layer, as the ecosystem gathers them from several devices."""
        for layer in self.layers:
            window = layer.sliding_window
            yield layer.keys, layer.values, None if window is None else torch.tensor(window)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(layers={len(self)}, tokens={self.length}, rows={self.rows or 0})"

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **told: object) -> Pair:
        """Append keys and values of new tokens to a layer's; returns all so far. Shape: [B, H, T, D] each."""
        slot = layer_idx
        if self.layout is not None:
            slot = self.layers[layer_idx].slot
        else:
            self._unplaced = True
        k, v = self.kv(slot).extend(key_states, value_states)
        self._recount()
        return k, v

    def _recount(self) -> None:
        stores = [view.store.length for view in (*self._kv.values(), *self._latent.values())]
        self._length = stores[0] if stores else self._length

    # -- how long ------------------------------------------------------------------------------------------------------

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """How many tokens every row has, padding included."""
        layers = self.layers
        own = layers[layer_idx].length if 0 < layer_idx < len(layers) else None
        return self.length if own is None else own

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """How many tokens there is room for; -1 for no bound."""
        return -1

    def get_max_cache_shape(self, layer_idx: int | None = None) -> int | None:
        """How many tokens there is room for; None for no bound."""
        most = self.get_max_length(layer_idx)
        return None if most < 0 else most

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """How many keys a step of so many tokens looks at, and which index the first of them has."""
        return self.get_seq_length(layer_idx) + query_length, 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """The index of the next token."""
        return self.get_seq_length(layer_idx)

    def has_previous_state(self, layer_idx: int | None = None, state_idx: int | None = None) -> bool:
        """Whether layers of fixed state have read anything."""
        views = self._fixed.values() if layer_idx is None else self.layers[layer_idx].fixed_views()
        return any(view.tensors() for view in views)

    @property
    def batch_size(self) -> int:
        """How many rows there are; -1 before the first step."""
        return -1 if self.rows is None else self.rows

    @property
    def is_initialized(self) -> bool:
        """Whether anything was kept."""
        return self.rows is not None

    @property
    def is_croppable(self) -> bool:
        """Whether tokens can be taken back."""
        return not any(view.tensors() for view in self._fixed.values())

    @property
    def is_sliding(self) -> list[bool]:
        """Of each layer, whether it looks at its last few tokens only."""
        return [layer.is_sliding for layer in self.layers]

    # -- edits ---------------------------------------------------------------------------------------------------------

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Put other rows in the places of these, by index. Shape: [B]."""
        self.select(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows, by index."""
        self.select(torch.as_tensor(indices))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Have every row so many times, one after another."""
        first = next((t for view in self._views() for t in view.parts()), None)
        if first is not None:
            self.select(torch.arange(first.shape[0], device=first.device).repeat_interleave(repeats))

    def crop(self, max_length: int) -> None:
        """Take tokens back: a negative number so many of the last, a positive one all but the first so many.

        Raises:
            InputError: the model also remembers what cannot be taken back (a recurrent state), or what a window would
                then look at is no longer there.
        """
        length = max_length if max_length > 0 else max(0, self.length + max_length)
        if length >= self.length:
            return
        if not self.is_croppable:
            raise InputError("a recurrent state cannot be taken back", where="crop", found=max_length)
        for slot, gone in self._gone.items():
            reach = None if self.layout is None else self.layout.specs[slot].reach
            if reach is not None and gone > max(0, length - reach + 1):
                raise InputError(
                    "what a window would look at is no longer there",
                    where="crop",
                    expected=f"{min(self.length, gone + reach - 1)} tokens or more",
                    found=length,
                    remedy="Keep a copy.deepcopy of the cache from before.",
                )
        for view in (*self._kv.values(), *self._latent.values()):
            view.store.crop(length)
        self._length = length

    def select(self, rows: Tensor) -> None:
        super().select(rows)
        if self._ends is not None:
            self._ends = self._ends[rows.to(self._ends.device)]

    def note_missing(self, gone: Mapping[int, int], ends: Sequence[int]) -> None:
        self._gone = gone
        self._ends = None if all(end >= self.length for end in ends) else torch.tensor(ends)

    def first_missing(self, row: int) -> int:
        return self.length if self._ends is None else min(self.length, int(self._ends[row]))

    def activate_past_recording(self) -> None:
        """Everything is kept anyway, so that it can be taken back."""

    def reset(self) -> None:
        """Forget everything."""
        for table in (self._kv, self._latent, self._fixed, self._cross):
            table.clear()
        self._length, self.shift, self._gone, self._ends = 0, None, {}, None

    def to_legacy_cache(self) -> tuple[Pair, ...]:
        """Keys and values of every layer, Shape: [B, H, S, D] each."""
        return tuple(self[number] for number in range(len(self)))

    # -- behind the names ----------------------------------------------------------------------------------------------

    def store(self) -> TokenStore:
        return Elsewhere(self._kept()) if self._offloading else self._kept()

    def _kept(self) -> TokenStore:
        return Grown()

    def admit(self, layout: Layout, rows: int, tokens: int) -> None:
        super().admit(layout, rows, tokens)
        self.settle(layout)

    def settle(self, layout: Layout) -> None:
        """Find out which layer's each piece of state is.

        Raises:
            InputError: the state is another model's.
        """
        if self.layout is layout:
            return
        if self._unplaced:
            found = placed(self._kv, layout)
            self._kv.clear()
            self._kv.update(found)
            self._unplaced = False
        held: dict[int, DenseTokens] = {**self._kv, **self._latent}
        check_fits(held, self._fixed, self._cross, layout)
        self.layout = layout

    def _fill(self, layers: Iterable[Given]) -> None:
        """Begin with keys and values of every layer."""
        for number, (k, v, *_) in enumerate(layers):
            if k is not None and v is not None:
                self.update(k, v, number)

    @classmethod
    def _blank(cls) -> Self:
        state = cls.__new__(cls)
        Cache.__init__(state)
        return state

    def _made_as(self) -> str:
        return json.dumps(self._options()) if self._options() else ""

    def _make_as(self, told: str) -> None:
        self._set(**json.loads(told))

    def _options(self) -> dict[str, int | str]:
        """How it was made, if not as all are."""
        return {"offloading": 1} if self._offloading else {}

    def _set(self, **options: int | str) -> None:
        self._offloading = bool(options.get("offloading"))


class DynamicCache(Cache):
    """State that grows with use; what a forward gives as ``past_key_values``, and takes.

    Args:
        ddp_cache_data: keys and values of every layer to begin with, Shape: [B, H, S, D] each; a third entry of a
            layer (its window) is not needed.
        config: of the model that it is for.
        offloading: whether state lies in the host's memory while it is not looked at.
        offload_only_non_sliding: accepted; what is offloaded is all.
    """

    def __init__(
        self,
        ddp_cache_data: Iterable[Given] | None = None,
        config: object = None,
        offloading: bool = False,
        offload_only_non_sliding: bool = False,
        **inert: object,
    ) -> None:
        super().__init__(config=config, offloading=offloading)
        self._fill(ddp_cache_data or ())

    @classmethod
    def from_legacy_cache(cls, past_key_values: Iterable[Given] | None = None) -> Self:
        """From a tuple of keys and values per layer."""
        return cls(past_key_values)


class StaticCache(Cache):
    """A cache with room for a number of tokens, which never moves.

    Args:
        config: of the model that it is for.
        max_cache_len: how many tokens there is room for.
        offloading: whether state lies in the host's memory while it is not looked at.
        offload_only_non_sliding: accepted; what is offloaded is all.
        inert: older arguments of the ecosystem (``max_batch_size``, ``device``, ``dtype``): the first step tells.
    """

    is_compileable = True

    def __init__(
        self,
        config: object = None,
        max_cache_len: int | None = None,
        offloading: bool = False,
        offload_only_non_sliding: bool = True,
        **inert: object,
    ) -> None:
        super().__init__(config=config, offloading=offloading)
        if isinstance(max_cache_len, bool) or not isinstance(max_cache_len, int) or max_cache_len < 1:
            raise InputError(
                "no number of tokens",
                where="max_cache_len",
                expected="a number from 1",
                found=repr(max_cache_len)[:80],
            )
        self.max_cache_len = max_cache_len

    def get_max_length(self, layer_idx: int | None = None) -> int:
        return self.max_cache_len

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **told: object) -> Pair:
        super().update(key_states, value_states, layer_idx)
        k, v = self.layers[layer_idx].whole()
        return k, v

    def admit(self, layout: Layout, rows: int, tokens: int) -> None:
        super().admit(layout, rows, tokens)
        if self.length + tokens > self.max_cache_len:
            raise too_short(self.max_cache_len, self.length + tokens)

    def _kept(self) -> TokenStore:
        return Bounded(self.max_cache_len)

    def _options(self) -> dict[str, int | str]:
        return {**super()._options(), "room": self.max_cache_len}

    def _set(self, **options: int | str) -> None:
        super()._set(**options)
        self.max_cache_len = int(options["room"])


SlidingWindowCache = StaticCache
"""The ecosystem's older name: which layers have windows, the model knows."""


class QuantizedCache(Cache):
    """State in few bits per number, after KIVI (https://arxiv.org/abs/2402.02750); see :mod:`omniform.core.quantized`.

    The packing is omniform's own: names of backends say what their axes mean, and need no other package.

    Args:
        backend: ``"quanto"``, ``"hqq"``, or ``"fp8"`` (one scale for all numbers of a layer, no groups).
        config: of the model that it is for.
        nbits: of one number, 2, 4 or 8; 4 by default.
        axis_key, axis_value: 0 for groups of neighbouring numbers, -1 for groups by channel (``"hqq"``: 1 and 0); 0 by
            default.
        q_group_size: numbers in a group; 64 by default.
        residual_length: how many of the newest tokens are whole before they are packed; 128 by default.

    Raises:
        InputError: what cannot be.
    """

    def __init__(
        self,
        backend: str = "quanto",
        config: object = None,
        nbits: int | None = None,
        axis_key: int | None = None,
        axis_value: int | None = None,
        q_group_size: int | None = None,
        residual_length: int | None = None,
    ) -> None:
        super().__init__(config=config)
        given = {
            "nbits": nbits,
            "axis_key": axis_key,
            "axis_value": axis_value,
            "q_group_size": q_group_size,
            "residual_length": residual_length,
        }
        self._how: dict[str, int | str] = {name: v for name, v in given.items() if v is not None}
        self._how["backend"] = backend.lower() if isinstance(backend, str) else backend
        self._kept()  # what cannot be is refused here

    def _kept(self) -> TokenStore:
        how, backend = self._how, self._how["backend"]
        if backend == "fp8":
            others = sorted(how.keys() - {"backend"})
            if others:
                raise InputError("this backend has no groups", where=", ".join(others), expected="nothing", found="fp8")
            return Float8()
        if backend not in ("quanto", "hqq"):
            raise InputError(
                "no such backend", where="backend", expected="'quanto', 'hqq' or 'fp8'", found=repr(backend)[:80]
            )
        newest = how.get("residual_length", 128)
        if isinstance(newest, bool) or not isinstance(newest, int) or newest < 0:
            raise InputError(
                "no number of tokens", where="residual_length", expected="a number from 0", found=repr(newest)[:80]
            )
        axes = how.get("axis_key", 0), how.get("axis_value", 0)
        packed = groupings(how.get("nbits", 4), axes, how.get("q_group_size", 64), 0 if backend == "hqq" else -1)
        return Quantized(packed, newest)

    def _options(self) -> dict[str, int | str]:
        return self._how

    def _set(self, **options: int | str) -> None:
        self._how = dict(options)
