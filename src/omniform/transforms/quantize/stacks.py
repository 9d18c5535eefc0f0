"""Stacks of experts whose matrices stay in the tensors that a quantized checkpoint holds them in."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from omniform.blocks.moe import Stacked
from omniform.core.errors import ConfigError, WeightsError
from omniform.native.library import library
from omniform.native.matrix import LANES, Matrix
from omniform.transforms.quantize.layers import panels, spans_of
from omniform.transforms.quantize.placing import Chooses, Chosen, key_of, named, spellings
from omniform.transforms.stacks import HeldStack, packed_bytes
from omniform.weights.formats.base import Format, Part
from omniform.weights.keymap import KeyMap, Rule
from omniform.weights.links import Index, Link, Share, TransposedEach
from omniform.weights.pages import own_bytes, release


@dataclass(frozen=True, slots=True)
class Piece:
    """One of the matrices that a stack is made of: an expert's, or a share of an expert's outputs.

    Attributes:
        expert: whose.
        share: which of the shares.
        format: how it is quantized.
        key: what stands before the names of its tensors in the checkpoint.
        index: which entry of the checkpoint's tensors it is; None where these are its alone.
    """

    expert: int
    share: int
    format: Format
    key: str
    index: int | None


@dataclass(frozen=True, slots=True)
class ChosenStack:
    """A stack of experts that is to be quantized.

    Attributes:
        path: where it is in the model.
        stack: the plain stack.
        shares: of how many matrices each expert's is made.
        pieces: these, expert by expert.
        written: what stands before the names of each one's tensors where they are saved, in the order of the pieces.
        absent: tensors of the format that the checkpoint does not hold.
    """

    path: str
    stack: Stacked
    shares: int
    pieces: tuple[Piece, ...]
    written: tuple[str, ...]
    absent: frozenset[str]

    @property
    def outs(self) -> int:
        """Outputs of a piece."""
        return self.stack.weight.shape[1] // self.shares

    def plain(self, piece: Piece) -> Chosen:
        """A piece as a plain layer, its weight a view of the stack."""
        first = piece.share * self.outs
        weight = self.stack.weight.detach()[piece.expert, first : first + self.outs]
        layer = _layer(weight)
        name = piece.key.removesuffix(".")
        return Chosen(self.path, layer, piece.format, Link(f"{name}.weight"), name)


def _layer(weight: Tensor) -> nn.Linear:
    outs, ins = weight.shape
    layer = nn.Linear(ins, outs, bias=False, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return layer


class QuantStack(HeldStack):
    """A stack of projections whose matrices stay quantized.

    Each tensor of each piece is a buffer of its own, a view of the file's where that holds experts one by one; tensors
    that the file holds for all experts together are one buffer.

    Args:
        chosen: the plain stack, and how it is quantized.
    """

    def __init__(self, chosen: ChosenStack) -> None:
        super().__init__(chosen.stack)
        self.shares, self.outs = chosen.shares, chosen.outs
        self.formats = [piece.format for piece in chosen.pieces]
        self.joined = chosen.pieces[0].index is not None
        parts: dict[Format, dict[str, Part]] = {}
        for format in self.formats:
            if format not in parts:
                known = format.parts(self.outs, self.shape[2])
                parts[format] = {n: p for n, p in known.items() if n not in chosen.absent}
        self.parts = [parts[format] for format in self.formats]
        for number, of in enumerate(self.parts):
            for name, part in of.items():
                held = self._name(number, name)
                if held not in self._buffers:
                    lead = self.shape[:1] if self.joined else ()
                    self.register_buffer(held, torch.empty((*lead, *part.shape), dtype=part.dtype))

    def _name(self, number: int, part: str) -> str:
        return part if self.joined else f"{part}_{number // self.shares}_{number % self.shares}"

    @property
    def KEPT(self) -> frozenset[str]:  # noqa: N802 # see KeepsDtypes
        return frozenset(self._buffers)

    @property
    def told(self) -> str:
        return self.formats[0].name

    def held(self, number: int) -> dict[str, Tensor]:
        """The tensors of a piece, by the format's names."""
        found = {name: cast(Tensor, self._buffers[self._name(number, name)]) for name in self.parts[number]}
        return {name: tensor[number] for name, tensor in found.items()} if self.joined else found

    def fill(self, number: int, tensors: Mapping[str, Tensor]) -> None:
        """Take these tensors as a piece's.

        Raises:
            WeightsError: one is missing or of another shape.
        """
        for name, part in self.parts[number].items():
            given = tensors.get(name)
            if given is None or tuple(given.shape) != part.shape:
                found = "nothing" if given is None else list(given.shape)
                raise WeightsError(f"{name} does not fit", expected=str(list(part.shape)), found=str(found))
            held = self._name(number, name)
            if not self.joined:
                self._buffers[held] = given
                continue
            whole = cast(Tensor, self._buffers[held])
            if whole.is_meta:
                whole = self._buffers[held] = torch.empty(whole.shape, dtype=whole.dtype, device=given.device)
            whole[number] = given

    def numbers_of(self, expert: int) -> Tensor:
        made = [
            self.formats[n].numbers(self.held(n), self.outs, self.shape[2])
            for n in range(expert * self.shares, (expert + 1) * self.shares)
        ]
        return torch.cat(made) if len(made) > 1 else made[0]

    def plain(self, dtype: torch.dtype) -> Stacked:
        """A plain stack of the same numbers, made an expert at a time."""
        experts, outs, ins = self.shape
        with torch.device("meta"):
            made = Stacked(experts, ins, outs)
        device = next(iter(self.held(0).values())).device
        weight = torch.empty(experts, outs, ins, dtype=dtype, device=device)
        for n in range(experts):
            weight[n] = self.numbers_of(n)
        made.weight, made.bias = nn.Parameter(weight), self.bias
        return made

    def packed_each(self) -> list[Matrix] | None:
        on_cpu = all(x is None or x.device.type == "cpu" for x in self._buffers.values())
        if library() is None or not on_cpu:
            return None
        found = [self._packed(expert) for expert in range(self.shape[0])]
        orders = [order for _, order in found]
        self._orders = orders if any(order is not None for order in orders) else []
        return [matrix for matrix, _ in found]

    _orders: Sequence[Tensor | None] = ()

    def orders(self) -> Sequence[Tensor | None]:
        return self._orders

    def _packed(self, expert: int) -> tuple[Matrix, Tensor | None]:
        numbers = range(expert * self.shares, (expert + 1) * self.shares)
        orders: list[Tensor | None] = []
        settled = {self.formats[n].settled(self.held(n)) for n in numbers}
        alike = len(settled) == 1 and (self.shares == 1 or self.outs % LANES == 0)
        if alike:
            matrix = Matrix.below_one_another(self.shape[1], self._panels(numbers, orders))
            alike = all(_is_same(order, orders[0]) for order in orders)
        if not alike:  # pieces that do not go below one another: their numbers do
            matrix, orders = Matrix.pack(self.numbers_of(expert)), [None]
        for n in numbers:
            for tensor in self.held(n).values():
                release(tensor)
        return matrix, orders[0]

    def _panels(self, numbers: Sequence[int], orders: list[Tensor | None]) -> Iterator[Matrix]:
        for n in numbers:
            spans = spans_of(self.parts[n], self.outs, self.shape[2])
            yield from panels(self.held(n), self.parts[n], self.formats[n], self.shape[2], spans, orders)

    def numbers(self) -> dict[str, int]:
        """How many numbers its buffers stand for, those of a piece told with the first of its tensors."""
        found = dict.fromkeys(self._buffers, 0)
        for number, parts in enumerate(self.parts):
            found[self._name(number, next(iter(parts)))] += self.outs * self.shape[2]
        return found

    def in_memory(self) -> dict[str, int]:
        """Bytes that its matrices take, once they are packed, and what no file holds of its tensors."""
        packed = packed_bytes(self)
        if not packed:
            return {}
        own = {name: own_bytes(tensor) for name, tensor in self._buffers.items() if tensor is not None}
        first = next(iter(own))
        return own | {first: own[first] + packed}


def _is_same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other or (one is not None and other is not None and torch.equal(one, other))


def chosen_stacks(
    model: nn.Module, keys: KeyMap, choose: Chooses, holds: Container[str] | None = None, prefixes: Sequence[str] = ()
) -> list[ChosenStack]:
    """The stacks of experts of a model that are quantized; arguments as for :func:`placing.chosen`.

    Raises:
        ConfigError: only some of a stack's matrices are quantized.
    """
    found: list[ChosenStack] = []
    for path, stack in model.named_modules():
        if isinstance(stack, Stacked) and not isinstance(stack, HeldStack):
            one = _chosen(path, stack, keys.places(f"{path}.weight"), choose, holds, prefixes)
            if one is not None:
                found.append(one)
    return found


def _chosen(
    path: str,
    stack: Stacked,
    links: Sequence[Link],
    choose: Chooses,
    holds: Container[str] | None,
    prefixes: Sequence[str],
) -> ChosenStack | None:
    experts, out, ins = stack.weight.shape
    joined = len(links) == 1
    shares = _shares(links, experts)
    if shares is None:
        return None
    layer = nn.Linear(ins, out // shares, bias=False, device="meta", dtype=stack.weight.dtype)
    pieces: list[Piece] = []
    written: list[str] = []
    absent: frozenset[str] = frozenset()
    for expert in range(experts):
        for share in range(shares):
            stem = stem_of(links[0 if joined else share * experts + expert].key)
            with named(stem.removesuffix(".")):
                format = choose(stem.removesuffix(".").removesuffix("_"), layer)
                known = {} if format is None else format.parts(layer.out_features, ins)
            spelled: str | None = stem
            if format is not None and holds is not None:
                spelled, lacks = _held(stem, known, holds, prefixes)
                absent = lacks if not pieces else absent
            elif format is not None:
                absent = frozenset(n for n, p in known.items() if p.optional)
            if format is not None and spelled is not None:
                pieces.append(Piece(expert, share, format, spelled, expert if joined else None))
                written.append(stem)
    if not pieces:
        return None
    if len(pieces) < experts * shares:
        raise ConfigError(
            "only some of the experts of a layer are quantized",
            where=path,
            expected=f"all {experts * shares} matrices",
            found=f"{len(pieces)}, the first {pieces[0].key.removesuffix('.')}",
            remedy="Name all experts of the layer, or none, in the list of modules that are not quantized.",
        )
    return ChosenStack(path, stack, shares, tuple(pieces), tuple(written), absent)


def _shares(links: Sequence[Link], experts: int) -> int | None:
    """Of how many matrices an expert's is made; None where a checkpoint holds the stack in some other way."""
    if len(links) == 1:
        return 1 if links[0].whole and all(isinstance(view, TransposedEach) for view in links[0].theirs) else None
    shares = len(links) // experts
    wanted = [
        (Index(n), *((Share(part, shares),) if shares > 1 else ())) for part in range(shares) for n in range(experts)
    ]
    return shares if [link.ours for link in links] == wanted and not any(link.theirs for link in links) else None


def stem_of(key: str) -> str:
    """What stands before the names of a quantized matrix's tensors, given the plain one's key.

    Stacks that are parameters themselves (``experts.gate_up_proj``) have tensors beside them
    (``experts.gate_up_proj_scales``), others within their module.
    """
    return key.removesuffix("weight") if key.endswith(".weight") else f"{key}_"


def full_key(stem: str, name: str, part: Part) -> str:
    """What a file calls a tensor; a stack's that is called as the plain one is (``weight``) has that one's own key."""
    own = key_of(name, part)
    if stem.endswith("_"):
        return stem + own.removeprefix("weight_") if own != "weight" else stem[:-1]
    return stem + own


def _held(
    stem: str, parts: Mapping[str, Part], holds: Container[str], prefixes: Sequence[str]
) -> tuple[str | None, frozenset[str]]:
    """How a checkpoint spells a stem, and which tensors it lacks; None where it holds nothing there."""
    first = next(name for name, part in parts.items() if not part.optional)
    for one in spellings(stem, prefixes):
        if full_key(one, first, parts[first]) in holds:
            return one, frozenset(n for n, p in parts.items() if p.optional and full_key(one, n, p) not in holds)
    return None, frozenset()


def placed_stacks(model: nn.Module, stacks: Sequence[ChosenStack]) -> KeyMap:
    """Put quantized stacks in the places of plain ones, on the device that is torch's default now.

    Returns:
        Where their tensors live.
    """
    rules: dict[str, Rule] = {}
    for one in stacks:
        new = QuantStack(one)
        parent, _, own = one.path.rpartition(".")
        setattr(model.get_submodule(parent), own, new.train(one.stack.training))
        for number, parts in enumerate(new.parts):
            for name, part in parts.items():
                rules[f"{one.path}.{new._name(number, name)}"] = full_key(one.written[number], name, part)
    return KeyMap(rules)
