"""The tensors of a GGUF file under the keys of a checkpoint: what each is made of, and making it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Final

import torch
from torch import Tensor

from omniform.core.errors import WeightsError, listed
from omniform.hub.gguf.architectures import Architecture
from omniform.hub.gguf.facts import Facts
from omniform.hub.gguf.places import Place
from omniform.transforms.stacks import Arrangement, Blocks
from omniform.weights.gguf.dequantize import check_read, dequantize
from omniform.weights.gguf.reader import TensorInfo
from omniform.weights.gguf.types import BlockType
from omniform.weights.pages import release

FLOATS: Final = (torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True, slots=True)
class Part:
    """One of the file's tensors, or one of a stack of them, on its way to a key.

    Attributes:
        info: the file's word for it.
        place: where it goes.
        number: which of a stack along the first axis; None for all.
    """

    info: TensorInfo
    place: Place
    number: int | None

    def shape(self, inner: tuple[int, ...]) -> tuple[int, ...]:
        """Its shape in the checkpoint, given its own."""
        if self.place.edit is not None:
            inner = tuple(self.place.edit(torch.empty(inner, device="meta")).shape)
        return (*inner[:-2], inner[-1], inner[-2]) if self.place.turned and len(inner) > 1 else inner


@dataclass(frozen=True, slots=True)
class GgufEntry:
    """A tensor of the checkpoint, as the file's table describes it.

    Attributes:
        parts: what it is made of, in order.
        shape: its shape.
        dtype: what its numbers are as they are read: float32 for packed types.
        nbytes: what it takes in the file.
    """

    parts: tuple[Part, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    nbytes: int

    @property
    def is_plain(self) -> bool:
        """Whether it is a view of the file: numbers of torch's, as they lie there."""
        part = self.parts[0]
        moved = part.place.order is not None or part.place.edit is not None or part.place.turned
        return len(self.parts) == 1 and not moved and not part.info.kind.is_packed

    @property
    def kinds(self) -> str:
        """What the file calls its numbers; of several types, all of them."""
        return "+".join(dict.fromkeys(part.info.kind.name for part in self.parts))

    @property
    def packed(self) -> BlockType | None:
        """The type of its blocks, where it is a matrix whose rows are rows of the file's."""
        part = self.parts[0]
        kind = part.info.kind
        axes = len(part.info.shape) - (part.number is not None)
        return kind if len(self.parts) == 1 and kind.is_packed and part.place.edit is None and axes == 2 else None


class GgufWeights(Mapping[str, Tensor]):
    """A file's tensors by the checkpoint's keys, each made when it is asked for.

    Args:
        facts: the file or files.
        arch: what is known of their architecture.

    Attributes:
        entries: what there is, by key.
        dtype: what packed tensors become when they are asked for as numbers.

    Raises:
        WeightsError: the file holds tensors that have no place, or of a type that is not read; or of those that make up
            one, one is missing.
    """

    def __init__(self, facts: Facts, arch: Architecture) -> None:
        self._facts = facts
        self.dtype = torch.float32
        self.entries: dict[str, GgufEntry] = _entries(facts, arch)

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __getitem__(self, key: str) -> Tensor:
        """The numbers: a view of the file where they lie there as they are asked for, else a copy.

        Of a matrix that is kept packed, its bytes. Shape: [N, bytes of a row].
        """
        entry = self.entries[key]
        if key.endswith(PACKED):
            return self._bytes(entry)
        made = [self._numbers(part) for part in entry.parts]
        whole = _joined(made, entry.parts[0].place)
        packed = any(part.info.kind.is_packed for part in entry.parts)
        return whole.to(self.dtype if packed else entry.dtype).contiguous()

    def kind(self, key: str) -> BlockType | None:
        """The type of a matrix's blocks, where rows of the checkpoint's are rows of the file's; else None."""
        entry = self.entries.get(key)
        return None if entry is None else entry.packed

    def order(self, key: str) -> Tensor | None:
        """Which of the file's rows is each of a matrix's; None where they lie in order. Shape: [rows]; int64."""
        entry = self.entries[key]
        part = entry.parts[0]
        with torch.device("cpu"):  # where a model is built without numbers, these are some all the same
            return None if part.place.order is None else self._order(part, entry.shape[0])

    def keep(self, key: str, *, ordered: bool) -> None:
        """Have a matrix given as its bytes, under a key that ends in ``.packed`` instead of ``.weight``.

        Args:
            ordered: whether its rows are to be in the checkpoint's order, which makes a copy where they do not lie so.
        """
        entry = self.entries.pop(key, None)
        if entry is not None:
            part = entry.parts[0]
            shape = part.info.bytes_shape if part.number is None else part.info.bytes_shape[1:]
            if not ordered:
                part = replace(part, place=replace(part.place, order=None))
            kept = replace(entry, parts=(part,), shape=shape, dtype=torch.uint8)
            self.entries[key.removesuffix(".weight") + PACKED] = kept

    def stack(self, keys: Sequence[str]) -> Blocks | None:
        """How the file holds the matrices of experts that lie under some keys; None where not in blocks, as they are.

        Args:
            keys: the checkpoint's: one of a whole stack, or those of each expert's matrix, all of one kind before all
                of the next.
        """
        entries = [self.entries.get(key) for key in keys]
        parts = [part for entry in entries if entry is not None for part in entry.parts]
        infos = list({part.info.name: part.info for part in parts}.values())
        first = parts[0] if parts else None
        if first is None or None in entries or not first.info.kind.is_packed or len(infos) > 2:
            return None
        place, each = first.place, range(first.info.shape[0])
        numbers: list[tuple[str, int | None]] = [
            (info.name, number) for info in infos for number in (each if len(keys) > 1 else (None,))
        ]
        alike = all(
            part.info.kind == first.info.kind
            and len(part.info.shape) == 3
            and part.info.shape == first.info.shape
            and part.place.order is None
            and part.place.edit is None
            and (part.place.turned, part.place.join) == (place.turned, place.join)
            for part in parts
        )
        if not alike or place.join == "heads" or [(part.info.name, part.number) for part in parts] != numbers:
            return None
        arrangement: Arrangement = "pairs" if place.join == "pairs" else "rows"
        return Blocks(first.info.kind, tuple(info.name for info in infos), arrangement, place.turned)

    def keep_stack(self, keys: Sequence[str], blocks: Blocks) -> tuple[str, ...]:
        """Have the matrices of experts given as the file's own tensors of bytes, instead of under their keys.

        Returns:
            The keys of these, in the order of their names.
        """
        for key in keys:
            self.entries.pop(key, None)
        found = []
        for name in blocks.names:
            info, key = self._facts.tensors[name], name.removesuffix(".weight") + PACKED
            whole = Part(info, Place(key), None)
            self.entries[key] = GgufEntry((whole,), info.bytes_shape, torch.uint8, info.nbytes)
            found.append(key)
        return tuple(found)

    @property
    def usual(self) -> torch.dtype:
        """What the file's model computes with: the floats that most of its bytes are; float32 where they are packed."""
        sizes: dict[torch.dtype, int] = {}
        for entry in self.entries.values():
            kind = torch.float32 if any(part.info.kind.is_packed for part in entry.parts) else entry.dtype
            sizes[kind] = sizes.get(kind, 0) + entry.nbytes
        floats = {kind: size for kind, size in sizes.items() if kind in FLOATS}
        return max(floats, key=lambda kind: floats[kind], default=torch.float32)

    def is_mapped(self, key: str) -> bool:
        """Whether a tensor is a view of the file."""
        entry = self.entries[key]
        return entry.is_plain or (key.endswith(PACKED) and entry.parts[0].place.order is None)

    def _bytes(self, entry: GgufEntry) -> Tensor:
        part = entry.parts[0]
        raw = self._raw(part)
        if part.place.order is None:
            return raw
        made = raw[self._order(part, raw.shape[0])]
        release(raw)
        return made

    def _order(self, part: Part, rows: int) -> Tensor:
        assert part.place.order is not None
        try:
            return part.place.order(self._facts, rows)
        except RuntimeError as error:
            raise WeightsError(
                "a matrix's rows are no whole heads", where=f"{self._facts.where}: {part.info.name}",
                expected=f"rows of {self._facts.integer('attention.head_count')} heads", found=f"{rows} rows",
            ) from error  # fmt: skip

    def _raw(self, part: Part) -> Tensor:
        raw = self._facts.raw(part.info.name)
        return raw if part.number is None else raw[part.number]

    def _numbers(self, part: Part) -> Tensor:
        """One part as the checkpoint has it."""
        raw = self._raw(part)
        x = dequantize(raw, part.info.kind, part.info.name)
        if x.data_ptr() != raw.data_ptr():
            release(raw)
        if part.place.order is not None:
            x = x[self._order(part, x.shape[0])]
        if part.place.edit is not None:
            x = part.place.edit(x.float())
        return x.transpose(-1, -2) if part.place.turned and x.dim() > 1 else x


PACKED: Final = ".packed"
"""The end of the keys that packed matrices' bytes have, where that of their numbers is ``.weight``."""


def _joined(parts: list[Tensor], place: Place) -> Tensor:
    if place.join is None:
        return parts[0]
    if place.join == "rows":
        return torch.cat(parts, dim=-2)
    if place.join == "pairs":
        return torch.stack(parts, dim=-1).flatten(-2)
    return torch.cat(parts, dim=1).flatten(0, 1)


def _joined_shape(shapes: list[tuple[int, ...]], place: Place) -> tuple[int, ...]:
    return tuple(_joined([torch.empty(shape, device="meta") for shape in shapes], place).shape)


@cache
def _matcher(template: str) -> re.Pattern[str]:
    return re.compile(re.escape(template).replace(r"\{i\}", r"(?P<i>\d+)") + r"(?P<end>\.weight|\.bias)?")


def _placed(name: str, names: Mapping[str, str | Place]) -> tuple[Place, str, str] | None:
    """Where a tensor lies, the number of its layer, and the end of its key."""
    stem = re.sub(r"\.(weight|bias)$", "", name)
    template = re.sub(r"^blk\.\d+\.", "blk.{i}.", stem)
    found = names.get(template)
    if found is None:
        return None
    matched = _matcher(template).fullmatch(name)
    assert matched is not None
    place = found if isinstance(found, Place) else Place(found)
    return place, matched.groupdict().get("i") or "", matched["end"] or ""


def _entries(facts: Facts, arch: Architecture) -> dict[str, GgufEntry]:
    gathered: dict[str, list[Part]] = {}
    strangers = []
    names = dict(arch.names)
    for sign, others in arch.where.items():
        names.update(others if sign in facts.tensors else {})
    for name, info in facts.tensors.items():
        if name.endswith(arch.unused):
            continue
        found = _placed(name, names)
        if found is None:
            strangers.append(name)
            continue
        check_read(info.kind, f"{facts.where}: {name}")
        place, layer, end = found
        if end == ".bias" and place.turned:
            place = replace(place, turned=False)
        stacked = "{e}" in place.key
        for number in range(info.shape[0]) if stacked else (None,):
            key = _key(place, layer, number, end)
            gathered.setdefault(key, []).append(Part(info, place, number))
    if strangers:
        raise WeightsError(
            "the file holds tensors that have no place in this architecture",
            where=facts.where,
            found=listed(strangers),
            expected=f"those of {facts.architecture}",
        )
    return {key: _entry(facts, key, parts) for key, parts in gathered.items()}


def _key(place: Place, layer: str, number: int | None, end: str) -> str:
    key = place.key.replace("{i}", layer).replace("{e}", "" if number is None else str(number))
    if key.endswith("_"):  # the module has a name of its own for its bias
        return key + end.lstrip(".")
    if place.bare:
        return key if end != ".bias" else f"{key}_bias"
    return key + end


def _entry(facts: Facts, key: str, parts: list[Part]) -> GgufEntry:
    parts = sorted(parts, key=lambda part: part.place.part)
    join = parts[0].place.join
    if [part.place.part for part in parts] != list(range(2 if join is not None else 1)):
        raise WeightsError(
            f"{key} is made of several of the file's tensors, and they are not all there once",
            where=facts.where,
            found=", ".join(part.info.name for part in parts),
        )
    shapes = [part.shape(part.info.shape if part.number is None else part.info.shape[1:]) for part in parts]
    try:
        shape = _joined_shape(shapes, parts[0].place) if join is not None else shapes[0]
    except RuntimeError as error:
        raise WeightsError(
            f"{key} cannot be put together",
            where=facts.where,
            found=", ".join(f"{part.info.name} {list(part.info.shape)}" for part in parts),
        ) from error
    kinds = {part.info.kind.dtype or torch.float32 for part in parts}
    edited = any(part.place.edit is not None for part in parts)
    dtype = kinds.pop() if len(kinds) == 1 and not edited else torch.float32
    share = [part.info.nbytes // (part.info.shape[0] if part.number is not None else 1) for part in parts]
    return GgufEntry(tuple(parts), shape, dtype, sum(share))
