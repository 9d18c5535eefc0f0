"""What a graph keeps between steps, read off the names of its inputs: :mod:`.states` the other way round."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import torch

from omniform.core.errors import InputError
from omniform.core.state import KV, CrossKV, Kept, Latent, Recurrent, StateSpec
from omniform.export.onnx.layout import BRANCH, Graph, Port
from omniform.export.onnx.sessions import past_name

IDS: Final = "ids so far"
"""What stands for all that is kept, where a graph keeps nothing: it reads every row from its beginning."""

READ: Final = "encoder_hidden_states"
"""What stands for what cross-attention reads, where a graph keeps nothing of it."""

KNOWN: Final = frozenset({
    "input_ids", "inputs_embeds", "attention_mask", "position_ids", "token_type_ids", "cache_position",
    "decoder_attention_mask", "encoder_attention_mask", "num_logits_to_keep", READ, BRANCH,
})  # fmt: skip
"""What a step can be told beside what is kept."""

_NAME: Final = re.compile(r"past_key_values\.(\d+)\.(?:(decoder|encoder)\.)?(key|value)(\.\d+)?")
_OTHER: Final = re.compile(r"past_(\w+?)\.(\d+)(\.\d+)?")


@dataclass(frozen=True, slots=True)
class Whole(StateSpec):
    """An encoder's output as it is."""

    kept: ClassVar[Kept] = "memory"
    width: int

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return ((1, self.width),)

    def stored_as(self, dtype: torch.dtype) -> torch.dtype:
        return torch.float32


@dataclass(frozen=True, slots=True)
class Piece:
    """One tensor that is kept.

    Attributes:
        name: as an input.
        present: as an output; None where it is no output.
        slot: whose it is.
        part: which of its tensors.
        dtype: that the graph reads.
    """

    name: str
    present: str | None
    slot: int
    part: int
    dtype: str


@dataclass(frozen=True, slots=True)
class Pieces:
    """All that a graph keeps.

    Attributes:
        tokens: of every token.
        memory: of an encoder's output.
        rows: of a row as a whole.
        specs: by slot.
        layers: the slots of each layer.
    """

    tokens: tuple[Piece, ...]
    memory: tuple[Piece, ...]
    rows: tuple[Piece, ...]
    specs: Mapping[int, StateSpec]
    layers: tuple[tuple[int, ...], ...]

    def of(self, slot: int) -> list[Piece]:
        """The tensors of a slot, in order."""
        return sorted(
            (p for p in (*self.tokens, *self.memory, *self.rows) if p.slot == slot), key=lambda piece: piece.part
        )


def pieces_of(first: Graph, later: Graph) -> Pieces:
    """What is kept between the steps of a decoder.

    Args:
        first: the graph that reads an encoder's output; the same as ``later`` without an encoder.
        later: the graph that goes on.

    Raises:
        InputError: a graph reads something that nobody can give, or keeps something in a form that is not known.
    """
    outputs = {past_name(port.name): port.name for graph in (first, later) for port in graph.outputs}
    groups: dict[tuple[int, str], list[Port]] = {}
    for graph in (first, later):
        for port in graph.inputs:
            if not port.name.startswith("past") and port.name not in KNOWN:
                raise InputError(
                    "the graph reads an input that nobody can give", where=f"{graph.file}: {port.name}",
                    expected=", ".join(sorted(KNOWN)),
                )  # fmt: skip
    for port in later.inputs:
        if port.name.startswith("past"):
            groups.setdefault(_group(port, later), []).append(port)
    specs: dict[int, StateSpec] = {}
    layers: dict[int, list[int]] = {}
    found: dict[Kept, list[Piece]] = {"token": [], "memory": [], "row": []}
    for slot, ((layer, kind), ports) in enumerate(sorted(groups.items(), key=lambda one: one[0])):
        spec = specs[slot] = _spec(kind, ports, later)
        layers.setdefault(layer, []).append(slot)
        for part, port in enumerate(sorted(ports, key=lambda port: port.name)):
            found[spec.kept].append(Piece(port.name, outputs.get(port.name), slot, part, port.dtype))
    read = next((port for port in later.inputs if port.name == READ), None)
    if not specs:
        specs[0] = Latent(1)
        layers[0] = [0]
        found["token"].append(Piece(IDS, None, 0, 0, "float32"))
        if read is not None and isinstance(read.dims[-1], int):
            specs[1] = Whole(read.dims[-1])
            layers[0].append(1)
            found["memory"].append(Piece(READ, None, 1, 0, read.dtype))
    _check(found, later)
    tokens, memory, rows = (tuple(found[kept]) for kept in ("token", "memory", "row"))
    return Pieces(tokens, memory, rows, specs, tuple(map(tuple, layers.values())))


def _group(port: Port, graph: Graph) -> tuple[int, str]:
    """The layer of what is kept, and what tells its mixers apart."""
    match = _NAME.fullmatch(port.name)
    if match is not None:
        return int(match[1]), f"{match[2] or ''}{match[4] or ''}"
    match = _OTHER.fullmatch(port.name)
    if match is None:
        raise _unknown(port, graph)
    return int(match[2]), f"{match[1]}{match[3] or ''}:"


def _spec(kind: str, ports: Sequence[Port], graph: Graph) -> StateSpec:
    dims = ports[0].dims
    if kind.endswith(":"):
        if len(dims) == 4 and isinstance(dims[2], str) and isinstance(dims[3], int):
            return Latent(dims[3])
        return Recurrent(_numbers(dims[1:], ports[0], graph))
    if len(ports) != 2 or len(dims) != 4:
        raise _unknown(ports[0], graph)
    heads, width, other = _numbers((dims[1], dims[3], ports[1].dims[3]), ports[0], graph)
    made = CrossKV if kind.startswith("encoder") else KV
    return made(heads, width, other)


def _numbers(dims: Sequence[int | str], port: Port, graph: Graph) -> tuple[int, ...]:
    found = tuple(dim for dim in dims if isinstance(dim, int))
    if len(found) != len(dims):
        raise _unknown(port, graph)
    return found


def _check(found: Mapping[Kept, Sequence[Piece]], graph: Graph) -> None:
    for piece in (*found["token"], *found["row"]):
        if piece.present is None and piece.name != IDS:
            raise InputError(
                "the graph reads what it does not give", where=f"{graph.file}: {piece.name}",
                expected=piece.name.replace("past_key_values", "present").replace("past_", "present_"),
            )  # fmt: skip


def _unknown(port: Port, graph: Graph) -> InputError:
    return InputError(
        "what the graph keeps has a form that is not known", where=f"{graph.file}: {port.name}",
        expected="past_key_values.N.key and .value, [batch, heads, tokens, width]; past_conv.N and its like",
        found=f"shape {list(port.dims)}",
    )  # fmt: skip
