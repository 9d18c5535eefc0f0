"""What a decoder keeps, layer by layer: by this a cache tells whose it is, and what its layers are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable
from weakref import WeakKeyDictionary

from torch import nn

from omniform.core.state import HasModules, StateSpec, mixers


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """What a decoder keeps, layer by layer.

    Attributes:
        layers: the slots of each layer's mixers.
        specs: what each keeps, by slot.
    """

    layers: tuple[tuple[int, ...], ...]
    specs: Mapping[int, StateSpec]


@runtime_checkable
class HasLayers(HasModules, Protocol):
    """A decoder."""

    @property
    def layers(self) -> nn.ModuleList: ...


@runtime_checkable
class HasOutput(Protocol):
    """A model that knows its projection onto the vocabulary."""

    def get_output_embeddings(self) -> nn.Module | None: ...


_LAYOUTS: WeakKeyDictionary[HasLayers, tuple[tuple[nn.Module, ...], Layout]] = WeakKeyDictionary()


def layout_of(decoder: HasLayers) -> Layout:
    """What a decoder keeps, layer by layer; the same object as long as its layers are the same."""
    layers = tuple(decoder.layers)
    known = _LAYOUTS.get(decoder)
    if known is None or known[0] != layers:
        own = [mixers(layer) for layer in layers]
        specs = {mixer.slot: mixer.state_spec() for layer in own for mixer in layer}
        known = layers, Layout(tuple(tuple(mixer.slot for mixer in layer) for layer in own), specs)
        _LAYOUTS[decoder] = known
    return known[1]
