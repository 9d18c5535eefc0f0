"""How an engine writes down what is kept of every token: as floats, or in few bits with scales of its own.

A vector (a key, a value, a latent) is coded by itself, when it is kept: what stands for it depends on its own numbers
only, not on its neighbours, nor on when it was written. So a row's numbers stay equal in every company.

========  ====================================================  =======================
name      what a vector of ``D`` numbers becomes                bytes
========  ====================================================  =======================
int8      whole numbers from -127 to 127, one float32 scale     ``D + 4``
int4      of every 32 numbers the least one and a step in       ``20 * ceil(D / 32)``
          bfloat16, and how many steps each is above it
========  ====================================================  =======================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from omniform.core.errors import InputError, brief, nearest

Make = Callable[..., Tensor]
"""As ``torch.empty`` or ``torch.zeros`` make a tensor."""


class Coding(Protocol):
    """A way to keep vectors."""

    @property
    def name(self) -> str:
        """What it is asked for by."""
        ...

    def nbytes(self, width: int) -> int:
        """Bytes of a vector of so many numbers."""
        ...

    def room(self, shape: tuple[int, ...], width: int, device: torch.device, make: Make) -> tuple[Tensor, ...]:
        """Room for vectors. Shape: ``shape`` and a last axis each."""
        ...

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        """What stands for vectors. Shape: [..., D] to [..., bytes or so] each."""
        ...

    def decode(self, parts: Sequence[Tensor], width: int, dtype: torch.dtype) -> Tensor:
        """The vectors again. Shape: [..., D]."""
        ...

    def as_it_is(self, dtype: torch.dtype) -> bool:
        """Whether what is kept are numbers that a model of this dtype computes with as they are."""
        ...


@dataclass(frozen=True, slots=True)
class Floats:
    """As floats.

    Attributes:
        dtype: of which.
    """

    dtype: torch.dtype

    @property
    def name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def nbytes(self, width: int) -> int:
        return width * self.dtype.itemsize

    def room(self, shape: tuple[int, ...], width: int, device: torch.device, make: Make) -> tuple[Tensor, ...]:
        return (make(*shape, width, dtype=self.dtype, device=device),)

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x.to(self.dtype),)

    def decode(self, parts: Sequence[Tensor], width: int, dtype: torch.dtype) -> Tensor:
        return parts[0].to(dtype)

    def as_it_is(self, dtype: torch.dtype) -> bool:
        return dtype == self.dtype


@dataclass(frozen=True, slots=True)
class Bytes:
    """As whole numbers from -127 to 127, times a scale: the greatest magnitude, divided by 127.

    A vector with what is no finite number in it has a scale that is none, so that it is read as none.
    """

    name: ClassVar[str] = "int8"

    def nbytes(self, width: int) -> int:
        return width + 4

    def room(self, shape: tuple[int, ...], width: int, device: torch.device, make: Make) -> tuple[Tensor, ...]:
        codes = make(*shape, width, dtype=torch.int8, device=device)
        return codes, make(*shape, 1, dtype=torch.float32, device=device)

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        x = x.float()
        most = x.abs().amax(-1, keepdim=True)
        factor = torch.where(most > 0, 127.0 / most, 0.0)
        scale = torch.where(most.isfinite(), most / 127.0, torch.nan)
        return (x * factor).nan_to_num(0.0).round().clamp(-127, 127).to(torch.int8), scale

    def decode(self, parts: Sequence[Tensor], width: int, dtype: torch.dtype) -> Tensor:
        return (parts[0].float() * parts[1]).to(dtype)

    def as_it_is(self, dtype: torch.dtype) -> bool:
        return False


GROUP = 32
"""Numbers of :class:`Nibbles` that share a step."""


@dataclass(frozen=True, slots=True)
class Nibbles:
    """In groups of 32 numbers: the least one, and how many steps, from 0 to 15, each is above it.

    A group is 20 bytes: the step and the least number in bfloat16, which knows no range that keys could leave; then
    number ``j`` in the lower half of byte ``j``, number ``16 + j`` in its upper half. What a vector lacks to a whole
    group is as its least number. A group with what is no finite number in it is read as none.
    """

    name: ClassVar[str] = "int4"

    def nbytes(self, width: int) -> int:
        return -(-width // GROUP) * (4 + GROUP // 2)

    def room(self, shape: tuple[int, ...], width: int, device: torch.device, make: Make) -> tuple[Tensor, ...]:
        return (make(*shape, self.nbytes(width), dtype=torch.uint8, device=device),)

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        x, lacks = x.float(), -x.shape[-1] % GROUP
        if lacks:
            whole = x.shape[-1] // GROUP * GROUP
            x = torch.cat((x, x[..., whole:].amin(-1, keepdim=True).expand(*x.shape[:-1], lacks)), -1)
        groups = x.reshape(*x.shape[:-1], -1, GROUP)
        least, most = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
        step = (most - least) / 15
        finite = step.isfinite()
        step, least = (torch.where(finite, y, torch.nan).bfloat16() for y in (step, least))
        factor = torch.where(step > 0, 1 / step.float(), 0.0)
        codes = ((groups - least.float()) * factor).nan_to_num(0.0).round().clamp(0, 15).to(torch.uint8)
        packed = codes[..., : GROUP // 2] | codes[..., GROUP // 2 :] << 4
        return (torch.cat((step.view(torch.uint8), least.view(torch.uint8), packed), -1).flatten(-2),)

    def decode(self, parts: Sequence[Tensor], width: int, dtype: torch.dtype) -> Tensor:
        groups = parts[0].reshape(*parts[0].shape[:-1], -1, 4 + GROUP // 2)
        step, least = (groups[..., at : at + 2].contiguous().view(torch.bfloat16).float() for at in (0, 2))
        packed = groups[..., 4:]
        codes = torch.cat((packed & 15, packed >> 4), -1).float()
        return torch.addcmul(least, step, codes).flatten(-2)[..., :width].to(dtype)

    def as_it_is(self, dtype: torch.dtype) -> bool:
        return False


BITS: dict[str, Coding] = {"int8": Bytes(), "int4": Nibbles()}
"""Codings of few bits, by name."""

FLOATS: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Floats that state is kept as, by name."""


def coding_of(asked: object) -> Coding | None:
    """How an engine is asked to keep tokens; None for the model's own dtype.

    Args:
        asked: None or ``"auto"``; a float's dtype, or its name; ``"int8"`` (or ``torch.int8``) or ``"int4"``.

    Raises:
        InputError: nothing of that kind, with the nearest name.
    """
    if asked is None or asked == "auto":
        return None
    name = str(asked).removeprefix("torch.") if isinstance(asked, str | torch.dtype) else ""
    if name in BITS:
        return BITS[name]
    if name in FLOATS:
        return Floats(FLOATS[name])
    eight = name.startswith(("float8", "fp8"))
    raise InputError(
        "state of tokens is not kept in floats of eight bits" if eight else "state of tokens is not kept so",
        where="cache_dtype",
        expected=", ".join(("auto", *FLOATS, *BITS)),
        found=brief(asked),
        remedy="'int8' is as small, and nearer to the numbers: each vector has a scale of its own."
        if eight
        else nearest(name, ("auto", *FLOATS, *BITS)),
    )
