"""One layer of a cache, as the ecosystem looks at it; and which model a cache is of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from omniform.core.dense import DenseFixed, DenseKV, DenseTokens
from omniform.core.errors import InputError
from omniform.core.layouts import Layout
from omniform.core.state import Conv, StateSpec

if TYPE_CHECKING:
    from omniform.core.caches import Cache


class CacheLayer:
    """What one layer keeps.

    Args:
        cache: which it is a part of.
        slots: of the layer's mixers.
    """

    __slots__ = ("_cache", "_slots")

    def __init__(self, cache: Cache, slots: tuple[int, ...]) -> None:
        self._cache = cache
        self._slots = slots

    def __repr__(self) -> str:
        return f"{type(self).__name__}(tokens={self.get_seq_length()}, slots={list(self._slots)})"

    @property
    def slot(self) -> int:
        """Of the mixer that keeps tokens; the first where none does."""
        held = self._cache._kv.keys() | self._cache._latent.keys()
        if self._cache.layout is not None:
            held = held | {slot for slot in self._slots if self._cache.layout.specs[slot].kept == "token"}
        return next((slot for slot in self._slots if slot in held), self._slots[0] if self._slots else -1)

    def _tokens(self) -> DenseTokens | None:
        view = self._cache._kv.get(self.slot)
        return self._cache._latent.get(self.slot) if view is None else view

    def fixed_views(self) -> list[DenseFixed]:
        """Its states of fixed size."""
        return [self._cache._fixed[slot] for slot in self._slots if slot in self._cache._fixed]

    # -- keys and values -----------------------------------------------------------------------------------------------

    def pair(self) -> tuple[Tensor | None, Tensor | None]:
        """Keys and values so far, Shape: [B, H, S, D] each; a latent attention's are latents, and no values."""
        view = self._tokens()
        return _as_pair(() if view is None else view.store.tensors())

    def whole(self) -> tuple[Tensor, Tensor]:
        """The same with the room that is part of them."""
        view = self._tokens()
        k, v = _as_pair(() if view is None else view.store.whole())
        assert k is not None and v is not None, "asked after an update"
        return k, v

    @property
    def keys(self) -> Tensor | None:
        """Shape: [B, H, S, D]; None before the first step."""
        view = self._tokens()
        return _as_pair(() if view is None else view.store.whole())[0]

    @keys.setter
    def keys(self, keys: Tensor) -> None:
        self._replace(0, keys)

    @property
    def values(self) -> Tensor | None:
        """Shape: [B, H, S, D]; None before the first step."""
        view = self._tokens()
        return _as_pair(() if view is None else view.store.whole())[1]

    @values.setter
    def values(self, values: Tensor) -> None:
        self._replace(1, values)

    def _replace(self, kind: int, new: Tensor) -> None:
        """Put other keys or values in the place of these; their number may change if both are replaced."""
        view = self._tokens()
        if view is None:
            raise InputError("this layer has no keys yet", where="past_key_values")
        parts = list(view.store.tensors())
        if kind >= len(parts):
            return
        parts[kind] = new
        length = min(part.shape[2] for part in parts)
        kept = self._cache.store()
        kept.append(*(part[:, :, :length] for part in parts))
        view.store = kept
        self._cache._recount()

    def update(self, key_states: Tensor, value_states: Tensor, *args: object, **told: object) -> tuple[Tensor, Tensor]:
        """Append keys and values of new tokens; returns all so far. Shape: [B, H, T, D] each."""
        out = self._cache.kv(self.slot).extend(key_states, value_states)
        self._cache._recount()
        return out

    # -- what it is ----------------------------------------------------------------------------------------------------

    @property
    def length(self) -> int | None:
        """How many tokens it has; None where it keeps none."""
        view = self._tokens()
        return None if view is None else view.store.length

    def get_seq_length(self) -> int:
        """How many tokens it has read."""
        return self._cache.length if self.length is None else self.length

    def get_max_length(self) -> int:
        """How many tokens there is room for; -1 for no bound."""
        return self._cache.get_max_length()

    def get_max_cache_shape(self) -> int | None:
        """How many tokens there is room for; None for no bound."""
        return self._cache.get_max_cache_shape()

    @property
    def is_initialized(self) -> bool:
        """Whether it keeps anything yet."""
        return self._tokens() is not None or bool(self.fixed_views())

    @property
    def sliding_window(self) -> int | None:
        """How many of the last tokens it looks at; None for all."""
        layout = self._cache.layout
        return None if layout is None or self.slot not in layout.specs else layout.specs[self.slot].reach

    @property
    def is_sliding(self) -> bool:
        """Whether it looks at the last few tokens only."""
        return self.sliding_window is not None

    @property
    def device(self) -> torch.device | None:
        """Where it lies."""
        return None if self.keys is None else self.keys.device

    @property
    def dtype(self) -> torch.dtype | None:
        """Of its keys."""
        return None if self.keys is None else self.keys.dtype

    @property
    def conv_states(self) -> dict[int, Tensor]:
        """Last inputs of its convolutions. Shape: [B, width - 1, channels] each."""
        return self._fixed_of(convolutions=True)

    @property
    def recurrent_states(self) -> dict[int, Tensor]:
        """Its recurrent states. Shape: [B, ...] each."""
        return self._fixed_of(convolutions=False)

    @property
    def has_previous_state(self) -> bool:
        """Whether its states of fixed size have read anything."""
        return any(view.tensors() for view in self.fixed_views())

    def _fixed_of(self, *, convolutions: bool) -> dict[int, Tensor]:
        layout, found = self._cache.layout, list[Tensor]()
        for slot in self._slots:
            spec = None if layout is None else layout.specs.get(slot)
            if slot in self._cache._fixed and isinstance(spec, Conv) is convolutions:
                found += self._cache._fixed[slot].tensors()
        return dict(enumerate(found))


def _as_pair(tensors: tuple[Tensor, ...]) -> tuple[Tensor | None, Tensor | None]:
    if not tensors:
        return None, None
    return (tensors[0], tensors[1]) if len(tensors) > 1 else (tensors[0], tensors[0][..., :0])


def planned_layers(config: object) -> int:
    """How many layers a model of this config has; 0 if nobody says."""
    from omniform.core.config import ModelConfig

    if not isinstance(config, ModelConfig):
        return 0
    text = config.get_text_config(decoder=True)
    for name in ("num_hidden_layers", "num_layers", "n_layer", "decoder_layers"):
        count = text.raw.get(name)
        if isinstance(count, int):
            return count
    return 0


def placed(held: Mapping[int, DenseKV], layout: Layout, kept: str = "token") -> dict[int, DenseKV]:
    """Keys and values by layer, by the slots of a decoder.

    Args:
        kept: what they are of: tokens, or an encoder's output.

    Raises:
        InputError: there are keys for a layer that has none.
    """
    slots = [next((slot for slot in own if layout.specs[slot].kept == kept), None) for own in layout.layers]
    found: dict[int, DenseKV] = {}
    for number, view in held.items():
        slot = slots[number] if number < len(slots) else None
        if slot is None:
            raise another_model(f"keys for layer {number}", _described(layout.specs))
        found[slot] = view
    return found


def check_fits(
    tokens: Mapping[int, DenseTokens],
    fixed: Mapping[int, DenseFixed],
    cross: Mapping[int, DenseKV],
    layout: Layout,
) -> None:
    """Raise :class:`InputError` for state that is not what a decoder keeps."""
    if not tokens and not fixed:
        return
    shapes: dict[int, list[tuple[int, ...]]] = {}
    for views, skipped in ((tokens, 2), (cross, 2), (fixed, 0)):
        for slot, view in views.items():
            held = view.tensors()
            if all(isinstance(x, Tensor) for x in held):
                shapes[slot] = [(x.shape[1], *x.shape[3:]) if skipped else tuple(x.shape[1:]) for x in held]
    known = {slot: list(spec.shapes) for slot, spec in layout.specs.items()}
    missing = {slot for slot, spec in layout.specs.items() if spec.kept != "memory"} - shapes.keys()
    if missing or any(known.get(slot) != own for slot, own in shapes.items()):
        raise another_model(_told(shapes[slot] for slot in sorted(shapes)), _described(layout.specs))


def another_model(found: str, expected: str) -> InputError:
    """The error of a cache that does not go with a model."""
    return InputError(
        "the cache is another model's",
        where="past_key_values",
        expected=expected,
        found=found,
        remedy="Give the cache that this model has filled, or a new one.",
    )


def _described(specs: Mapping[int, StateSpec]) -> str:
    return _told(list(specs[slot].shapes) for slot in sorted(specs))


def _told(shapes: Iterable[list[tuple[int, ...]]]) -> str:
    """Shapes of layers in words, runs of the same ones together."""
    runs: list[tuple[str, int]] = []
    for own in shapes:
        text = " and ".join("x".join(map(str, shape)) for shape in own)
        if runs and runs[-1][0] == text:
            runs[-1] = (text, runs[-1][1] + 1)
        else:
            runs.append((text, 1))
    told = ", ".join(f"{count} of {text}" for text, count in runs[:6])
    return f"states {told}{', ...' if len(runs) > 6 else ''}"
