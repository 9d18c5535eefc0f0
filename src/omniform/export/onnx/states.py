"""A model's state as inputs and outputs of a graph.

Modules keep nothing; a decoder's mixers say what they must remember (:mod:`omniform.core.state`). Here that becomes one
tensor each way per piece, under the names that the ecosystem's loaders look for, and a state whose stores join what was
handed in with what a step adds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from omniform.core.errors import InputError
from omniform.core.layouts import HasLayers, Layout, layout_of
from omniform.core.state import KV, Conv, CrossKV, DenseState, Latent, Recurrent, StateSpec
from omniform.core.stores import TokenStore

BATCH, PAST, READ = "batch_size", "past_sequence_length", "encoder_sequence_length"
"""Axes of what is kept: rows, tokens so far, what an encoder read."""


class Joined(TokenStore):
    """Tensors that are joined with each step's: nothing is written in place, so that a trace is a pure function."""

    __slots__ = ("_whole",)

    def __init__(self) -> None:
        self._whole: tuple[Tensor, ...] = ()

    @property
    def length(self) -> int:
        return self._whole[0].shape[2] if self._whole else 0

    def append(self, *new: Tensor) -> tuple[Tensor, ...]:
        pairs = zip(self._whole, new, strict=True)
        self._whole = tuple(torch.cat(pair, 2) for pair in pairs) if self._whole else new
        return self._whole

    def tensors(self) -> tuple[Tensor, ...]:
        return self._whole

    def parts(self) -> tuple[Tensor, ...]:
        return self._whole

    def put(self, part: Tensor) -> None:
        self._whole = (*self._whole, part)

    def select(self, rows: Tensor) -> None:
        self._whole = tuple(x.index_select(0, rows) for x in self._whole)

    def crop(self, length: int) -> None:
        self._whole = tuple(x[:, :, :length] for x in self._whole)

    def clear(self) -> None:
        self._whole = ()


class Handed(DenseState):
    """A state that was handed in, for one step."""

    def store(self) -> TokenStore:
        return Joined()

    def admit(self, layout: Layout, rows: int, tokens: int) -> None:
        """Nothing is refused: a trace's sizes are any."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One tensor of a state.

    Attributes:
        slot: of the mixer.
        spec: what that keeps.
        part: which of its tensors.
        stem: its name without "past" and "present".
        kind: what those words are followed by: ``_key_values``, ``_conv`` ...
    """

    slot: int
    spec: StateSpec
    part: int
    kind: str
    stem: str

    @property
    def past(self) -> str:
        """As an input."""
        return f"past{self.kind}.{self.stem}"

    @property
    def present(self) -> str:
        """As an output; keys and values have no kind in their name there."""
        return f"present{'' if self.kind == '_key_values' else self.kind}.{self.stem}"

    @property
    def dims(self) -> tuple[int | str, ...]:
        """Its axes, as an input."""
        shape = self.spec.shapes[self.part]
        if self.spec.kept == "row":
            return BATCH, *shape
        heads, width = shape
        return BATCH, heads, PAST if self.spec.kept == "token" else READ, width


def pieces_of(decoder: HasLayers, *, reads_memory: bool) -> tuple[Piece, ...]:
    """All that a decoder keeps, layer by layer.

    Args:
        reads_memory: whether it looks at an encoder's output; then own and read keys are told apart by name.

    Raises:
        InputError: a mixer keeps something that there is no name for.
    """
    layout = layout_of(decoder)
    found = []
    for layer, slots in enumerate(layout.layers):
        seen: dict[str, int] = {}
        for slot in slots:
            for piece in _pieces(slot, layout.specs[slot], layer, reads_memory):
                # A layer with two mixers of one kind names the second by its number.
                count = seen[piece.kind + piece.stem] = seen.get(piece.kind + piece.stem, 0) + 1
                found.append(piece if count == 1 else _again(piece, count - 1))
    return tuple(found)


def _again(piece: Piece, number: int) -> Piece:
    return Piece(piece.slot, piece.spec, piece.part, piece.kind, f"{piece.stem}.{number}")


def _pieces(slot: int, spec: StateSpec, layer: int, reads_memory: bool) -> list[Piece]:
    if isinstance(spec, (KV, CrossKV)):
        whose = "" if not reads_memory else "encoder." if isinstance(spec, CrossKV) else "decoder."
        names = ("key", "value")
        return [Piece(slot, spec, i, "_key_values", f"{layer}.{whose}{name}") for i, name in enumerate(names)]
    for kind, name in ((Latent, "_latent"), (Conv, "_conv"), (Recurrent, "_recurrent")):
        if isinstance(spec, kind):
            return [Piece(slot, spec, 0, name, str(layer))]
    raise InputError("what a layer keeps has no form in ONNX", where=f"layer {layer}", found=type(spec).__name__)


def handed(pieces: Sequence[Piece], given: Mapping[str, Tensor]) -> Handed:
    """The state of these tensors, by the names of the inputs; what is not given is not there yet."""
    state = Handed()
    tokens: dict[int, list[Tensor]] = {}
    fixed: dict[int, Tensor] = {}
    cross: dict[int, list[Tensor]] = {}
    for piece in pieces:
        tensor = given.get(piece.past)
        if tensor is None:
            continue
        if piece.spec.kept == "row":
            fixed[piece.slot] = tensor
        else:
            (tokens if piece.spec.kept == "token" else cross).setdefault(piece.slot, []).append(tensor)
    length = next((parts[0].shape[2] for parts in tokens.values()), 0)
    both = [{slot: tuple(parts) for slot, parts in table.items()} for table in (tokens, cross)]
    state.refill(both[0], fixed, both[1], length)
    return state


def kept(pieces: Sequence[Piece], state: DenseState) -> list[Tensor]:
    """What a state holds after a step, piece by piece."""
    found = []
    for piece in pieces:
        parts = state.cross(piece.slot) if piece.spec.kept == "memory" else state.tensors(piece.slot)
        assert parts, f"the step has left nothing in {piece.past}"
        found.append(parts[piece.part])
    return found
