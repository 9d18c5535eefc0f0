"""How a padded batch keeps what a mixer remembers of every token: growing, of a fixed size, elsewhere, or in few bits.

A :class:`TokenStore` knows nothing of keys, values or latents: it is given one tensor of each kind per step, Shape:
[B, H, T, D], and gives back all so far. Which store a mixer's state lies in is the cache's matter
(:mod:`omniform.core.caches`), not the model's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from omniform.core.errors import InputError


class TokenStore(ABC):
    """What one mixer keeps of every token."""

    __slots__ = ()

    @property
    @abstractmethod
    def length(self) -> int:
        """How many tokens there are."""

    @abstractmethod
    def append(self, *new: Tensor) -> tuple[Tensor, ...]:
        """Keep this step's, one tensor of each kind; returns all so far. Shape: [B, H, T, D] to [B, H, S, D]."""

    @abstractmethod
    def tensors(self) -> tuple[Tensor, ...]:
        """All so far, as numbers to compute with, Shape: [B, H, S, D] each; nothing before the first step."""

    @abstractmethod
    def parts(self) -> tuple[Tensor, ...]:
        """The tensors that are really held."""

    @abstractmethod
    def put(self, part: Tensor) -> None:
        """Take over one more of what another store of this kind gave as :meth:`parts`, in the same order."""

    @abstractmethod
    def select(self, rows: Tensor) -> None:
        """Keep, repeat or reorder rows of the batch, by index."""

    @abstractmethod
    def crop(self, length: int) -> None:
        """Keep the first so many tokens."""

    @abstractmethod
    def clear(self) -> None:
        """Forget all tokens."""

    def renew(self, *whole: Tensor) -> None:
        """Keep these instead of all so far. Shape: [B, H, S, D] each."""
        self.clear()
        self.append(*whole)

    def whole(self) -> tuple[Tensor, ...]:
        """What the ecosystem shows as a layer's keys and values: all so far, and room where it is part of them."""
        return self.tensors()


class Grown(TokenStore):
    """One tensor of each kind, grown by doubling: a step appends in place.

    Args:
        room: how many tokens to allocate at once; 0 grows with use.
    """

    __slots__ = ("_length", "_room", "_whole")

    def __init__(self, room: int = 0) -> None:
        self._whole: tuple[Tensor, ...] = ()
        self._length = 0
        self._room = room

    @property
    def length(self) -> int:
        return self._length

    def append(self, *new: Tensor) -> tuple[Tensor, ...]:
        count = new[0].shape[2]
        end = self._length + count
        if not self._whole:
            if self._room <= count:
                # A single forward: keep what was computed, copy nothing.
                self._whole, self._length = new, end
                return new
            self._whole = tuple(_grown(x, 0, self._room) for x in new)
        elif end > self._whole[0].shape[2]:
            room = max(end, self._room, 2 * self._length)
            self._whole = tuple(_grown(x, self._length, room) for x in self._whole)
        for whole, x in zip(self._whole, new, strict=True):
            whole[:, :, self._length : end] = x
        self._length = end
        return self.tensors()

    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(x[:, :, : self._length] for x in self._whole)

    def parts(self) -> tuple[Tensor, ...]:
        return self.tensors()

    def put(self, part: Tensor) -> None:
        self._whole = (*self._whole, part)
        # Who takes trees apart may put other things than tensors in their places.
        self._length = part.shape[2] if isinstance(part, Tensor) else 0

    def select(self, rows: Tensor) -> None:
        self._whole = tuple(x.index_select(0, rows.to(x.device)) for x in self._whole)

    def crop(self, length: int) -> None:
        # What follows is written elsewhere, so that nobody's view of it changes.
        self._whole = tuple(x[:, :, :length] for x in self._whole)
        self._length = min(self._length, length)

    def clear(self) -> None:
        self._whole, self._length = (), 0


def _grown(x_BHSD: Tensor, length: int, room: int) -> Tensor:
    bigger = x_BHSD.new_empty((*x_BHSD.shape[:2], room, x_BHSD.shape[3]))
    bigger[:, :, :length] = x_BHSD[:, :, :length]
    return bigger


class Bounded(Grown):
    """Tensors of a size that never changes, zeros where nothing was written yet.

    Args:
        room: how many tokens there is room for.
    """

    __slots__ = ()

    def append(self, *new: Tensor) -> tuple[Tensor, ...]:
        end = self._length + new[0].shape[2]
        if end > self._room:
            raise too_short(self._room, end)
        if not self._whole:
            self._whole = tuple(x.new_zeros((*x.shape[:2], self._room, x.shape[3])) for x in new)
        for whole, x in zip(self._whole, new, strict=True):
            whole[:, :, self._length : end] = x
        self._length = end
        return self.tensors()

    def renew(self, *whole: Tensor) -> None:
        if self._whole and self._whole[0].shape[0] == whole[0].shape[0]:
            self.crop(0)  # nothing moves that has its place
            self.append(*whole)
        else:
            super().renew(*whole)

    def whole(self) -> tuple[Tensor, ...]:
        return self._whole

    def put(self, part: Tensor) -> None:
        if not isinstance(part, Tensor):
            super().put(part)
            return
        room = part.new_zeros((*part.shape[:2], self._room, part.shape[3]))
        room[:, :, : part.shape[2]] = part
        self._whole, self._length = (*self._whole, room), part.shape[2]

    def crop(self, length: int) -> None:
        self._length = min(self._length, length)
        for x in self._whole:
            x[:, :, self._length :] = 0


def too_short(room: int, tokens: int) -> InputError:
    """The error of a cache without room for so many tokens."""
    return InputError(
        "the cache is full",
        where="past_key_values",
        expected=f"at most {room} tokens (max_cache_len)",
        found=f"{tokens} tokens",
        remedy="Make it with a larger max_cache_len, or use a DynamicCache.",
    )


class Elsewhere(TokenStore):
    """Tensors that lie in the host's memory while they are not looked at.

    Args:
        inner: keeps them there.
    """

    __slots__ = ("_device", "_inner")

    def __init__(self, inner: TokenStore) -> None:
        self._inner = inner
        self._device: torch.device | None = None

    @property
    def length(self) -> int:
        return self._inner.length

    def append(self, *new: Tensor) -> tuple[Tensor, ...]:
        device = new[0].device
        kept = self._inner.append(*(x.to("cpu", non_blocking=True) for x in new))
        return tuple(x.to(device, non_blocking=True) for x in kept)

    def tensors(self) -> tuple[Tensor, ...]:
        return self._inner.tensors()

    def whole(self) -> tuple[Tensor, ...]:
        return self._inner.whole()

    def parts(self) -> tuple[Tensor, ...]:
        return self._inner.parts()

    def put(self, part: Tensor) -> None:
        self._inner.put(part)

    def select(self, rows: Tensor) -> None:
        self._inner.select(rows)

    def crop(self, length: int) -> None:
        self._inner.crop(length)

    def renew(self, *whole: Tensor) -> None:
        self._inner.renew(*(x.to("cpu") for x in whole))

    def clear(self) -> None:
        self._inner.clear()


class Float8(TokenStore):
    """Numbers of eight bits with one scale for each kind, which the first step settles.

    They are held as bytes, which torch can pickle and index everywhere.
    """

    __slots__ = ("_kept", "_scales")

    def __init__(self) -> None:
        self._kept: tuple[Tensor, ...] = ()
        self._scales: tuple[Tensor, ...] = ()

    @property
    def length(self) -> int:
        return self._kept[0].shape[2] if self._kept else 0

    def append(self, *new: Tensor) -> tuple[Tensor, ...]:
        top, tiny = torch.finfo(torch.float8_e4m3fn).max, torch.finfo(torch.float32).tiny
        first = not self._kept
        if first:
            self._scales = tuple((x.abs().amax().float() / top).clamp(min=tiny).to(x.dtype) for x in new)
        # What is larger than all of the first step goes to the end of the range; beyond it there is no number.
        few = [
            (x.float() / scale.float()).clamp(-top, top).to(torch.float8_e4m3fn).view(torch.uint8)
            for x, scale in zip(new, self._scales, strict=True)
        ]
        self._kept = tuple(few) if first else tuple(torch.cat(pair, 2) for pair in zip(self._kept, few, strict=True))
        return new if first else self.tensors()

    def tensors(self) -> tuple[Tensor, ...]:
        pairs = zip(self._kept, self._scales, strict=True)
        return tuple((x.view(torch.float8_e4m3fn).float() * scale.float()).to(scale.dtype) for x, scale in pairs)

    def parts(self) -> tuple[Tensor, ...]:
        return tuple(x for pair in zip(self._kept, self._scales, strict=True) for x in pair)

    def put(self, part: Tensor) -> None:
        if len(self._kept) == len(self._scales):
            self._kept = (*self._kept, part)
        else:
            self._scales = (*self._scales, part)

    def select(self, rows: Tensor) -> None:
        self._kept = tuple(x.index_select(0, rows.to(x.device)) for x in self._kept)

    def crop(self, length: int) -> None:
        self._kept = tuple(x[:, :, :length] for x in self._kept)

    def clear(self) -> None:
        self._kept = self._scales = ()


def joined(parts: list[Tensor]) -> Tensor:
    """Tensors one after another along the tokens; one alone as it is."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
