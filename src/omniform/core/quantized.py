"""What mixers remember of every token in a few bits a number, the newest tokens as they are.

After KIVI (https://arxiv.org/abs/2402.02750): numbers are cut into groups, and each group is written as whole numbers
of a few bits between its least and its greatest one: ``x = low + step * code``. Old tokens are packed once and never
again; the newest stay whole until there are enough of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import torch
from torch import Tensor

from omniform.core.errors import InputError
from omniform.core.stores import TokenStore, joined


@dataclass(frozen=True, slots=True)
class Grouping:
    """How numbers are packed.

    Attributes:
        bits: of one number: 2, 4 or 8.
        size: numbers in a group.
        by_channel: whether a group is one channel of neighbouring tokens; else it is neighbouring channels of a token,
            and of those that follow where a token has fewer.
    """

    bits: int
    size: int
    by_channel: bool

    def unit(self, width: int) -> int:
        """The fewest tokens that fill groups, where a token has ``width`` numbers."""
        return self.size if self.by_channel else self.size // gcd(self.size, width)

    def pack(self, x_BHSD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Codes, least numbers and steps of tokens that fill groups.

        Returns:
            Shape: [B, H, G, C, size * bits / 8], and [B, H, G, C, 1] twice, where C is the channels of a group by
            channel, or 1; G grows with the tokens.
        """
        groups = self._grouped(x_BHSD)
        low = groups.amin(-1, keepdim=True)
        top = 2**self.bits - 1
        step = (groups.amax(-1, keepdim=True).float() - low.float()).div(top).clamp(min=1e-30).to(x_BHSD.dtype)
        # In float16 the least step is 0: then all of the group is its least number.
        codes = ((groups.float() - low.float()) / step.float().clamp(min=1e-30)).round().clamp(0, top).to(torch.uint8)
        per = 8 // self.bits
        places = torch.arange(per, device=codes.device, dtype=torch.uint8) * self.bits
        return (codes.reshape(*codes.shape[:-1], -1, per) << places).sum(-1, dtype=torch.uint8), low, step

    def unpack(self, codes: Tensor, low: Tensor, step: Tensor, width: int) -> Tensor:
        """The numbers again. Shape: [B, H, S, D]."""
        places = torch.arange(8 // self.bits, device=codes.device, dtype=torch.uint8) * self.bits
        each = ((codes[..., None] >> places) & (2**self.bits - 1)).flatten(-2)
        groups: Tensor = low + step * each.to(low.dtype)
        if self.by_channel:  # [B, H, G, D, size]
            groups = groups.transpose(-1, -2)
        return groups.reshape(*groups.shape[:2], -1, width)

    def _grouped(self, x_BHSD: Tensor) -> Tensor:
        if self.by_channel:
            return x_BHSD.reshape(*x_BHSD.shape[:2], -1, self.size, x_BHSD.shape[3]).transpose(-1, -2)
        return x_BHSD.reshape(*x_BHSD.shape[:2], -1, 1, self.size)


class _Kind:
    """One kind of what is kept: codes of the old tokens, and the newest as they are."""

    __slots__ = ("grouping", "newest", "packed")

    def __init__(self, grouping: Grouping) -> None:
        self.grouping = grouping
        self.packed: tuple[Tensor, ...] = ()
        self.newest: Tensor | None = None

    @property
    def unit(self) -> int:
        assert self.newest is not None
        return self.grouping.unit(self.newest.shape[3])

    @property
    def old(self) -> int:
        """How many tokens are packed."""
        if not self.packed:
            return 0
        groups = self.packed[0].shape[2]
        return groups * self.grouping.size if self.grouping.by_channel else groups * self.grouping.size // self.width

    @property
    def width(self) -> int:
        assert self.newest is not None
        return self.newest.shape[3]

    def numbers(self) -> Tensor:
        assert self.newest is not None
        if not self.packed:
            return self.newest
        return joined([self.grouping.unpack(*self._packed(), self.width), self.newest])

    def append(self, x_BHTD: Tensor) -> None:
        self.newest = x_BHTD if self.newest is None else joined([self.newest, x_BHTD])

    def settle(self) -> None:
        """Pack as many of the newest tokens as fill groups."""
        assert self.newest is not None
        count = self.newest.shape[2] // self.unit * self.unit
        if not count:
            return
        fresh = self.grouping.pack(self.newest[:, :, :count])
        both = zip(self.packed, fresh, strict=True)
        self.packed = tuple(torch.cat(pair, dim=2) for pair in both) if self.packed else fresh
        self.newest = self.newest[:, :, count:].clone()

    def crop(self, length: int) -> None:
        assert self.newest is not None
        old = self.old
        if length >= old:
            self.newest = self.newest[:, :, : length - old]
            return
        # What is left of the last groups goes back among the newest.
        whole = length // self.unit * self.unit
        self.newest = self.numbers()[:, :, whole:length].clone()
        groups = whole // self.grouping.size if self.grouping.by_channel else whole * self.width // self.grouping.size
        self.packed = tuple(x[:, :, :groups].clone() for x in self.packed)

    def select(self, rows: Tensor) -> None:
        assert self.newest is not None
        self.packed = tuple(x.index_select(0, rows.to(x.device)) for x in self.packed)
        self.newest = self.newest.index_select(0, rows.to(self.newest.device))

    def parts(self) -> tuple[Tensor, ...]:
        assert self.newest is not None
        return (*self.packed, self.newest) if self.packed else (self.newest,)

    def _packed(self) -> tuple[Tensor, Tensor, Tensor]:
        codes, low, step = self.packed
        return codes, low, step


class Quantized(TokenStore):
    """Tokens in few bits, and the newest whole.

    Args:
        groupings: of the kinds, in order; the last goes for those that follow.
        newest: how many tokens are whole before they are packed.
    """

    __slots__ = ("_groupings", "_kinds", "_most", "_waiting")

    def __init__(self, groupings: tuple[Grouping, ...], newest: int) -> None:
        self._groupings = groupings
        self._most = newest
        self._kinds: list[_Kind] = []
        self._waiting: list[Tensor] = []

    @property
    def length(self) -> int:
        if not self._kinds:
            return 0
        first = self._kinds[0]
        assert first.newest is not None
        return first.old + first.newest.shape[2]

    def append(self, *new: Tensor) -> tuple[Tensor, ...]:
        first = not self._kinds
        if first:
            self._kinds = [_Kind(self._grouping(number)) for number in range(len(new))]
        for kind, x in zip(self._kinds, new, strict=True):
            kind.append(x)
        # The first step is computed with whole numbers and packed at once, for it is the prompt.
        numbers = new if first else self.tensors()
        for kind in self._kinds:
            assert kind.newest is not None
            if first or kind.newest.shape[2] >= max(self._most, 1):
                kind.settle()
        return numbers

    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(kind.numbers() for kind in self._kinds)

    def parts(self) -> tuple[Tensor, ...]:
        return tuple(part for kind in self._kinds for part in kind.parts())

    def put(self, part: Tensor) -> None:
        # Codes come first, if there are any, then least numbers and steps; the newest tokens end a kind.
        self._waiting.append(part)
        if len(self._waiting) == 1 and isinstance(part, Tensor) and part.dtype == torch.uint8:
            return
        if len(self._waiting) in (2, 3):
            return
        kind = _Kind(self._grouping(len(self._kinds)))
        *packed, kind.newest = self._waiting
        kind.packed = tuple(packed)
        self._kinds.append(kind)
        self._waiting = []

    def select(self, rows: Tensor) -> None:
        for kind in self._kinds:
            kind.select(rows)

    def crop(self, length: int) -> None:
        for kind in self._kinds:
            kind.crop(length)

    def clear(self) -> None:
        self._kinds, self._waiting = [], []

    def _grouping(self, number: int) -> Grouping:
        return self._groupings[min(number, len(self._groupings) - 1)]


def groupings(bits: object, axes: tuple[object, object], size: object, channels: int) -> tuple[Grouping, Grouping]:
    """How keys and values are packed.

    Args:
        bits: of one number.
        axes: of keys and of values.
        size: numbers in a group.
        channels: the axis that means groups by channel; 0 or the other of 0, 1 and -1 means neighbouring numbers.

    Raises:
        InputError: what cannot be.
    """
    if bits not in (2, 4, 8) or isinstance(bits, bool):
        raise InputError("numbers have no such width here", where="nbits", expected="2, 4 or 8", found=repr(bits)[:80])
    assert isinstance(bits, int)
    if isinstance(size, bool) or not isinstance(size, int) or size < 1 or size * bits % 8:
        least = 8 // bits
        raise InputError(
            "no number of numbers in a group",
            where="q_group_size",
            expected=f"a multiple of {least}" if least > 1 else "a number from 1",
            found=repr(size)[:80],
        )
    known = sorted({0, channels} | ({1} if channels == 0 else set()))
    for name, axis in zip(("axis_key", "axis_value"), axes, strict=True):
        if axis not in known or isinstance(axis, bool):
            raise InputError(
                "no axis of groups", where=name, expected=" or ".join(map(str, known)), found=repr(axis)[:80]
            )
    keys, values = (Grouping(bits, size, axis == channels) for axis in axes)
    return keys, values
