"""How an engine writes down what is kept of every token: as floats, or in few bits with scales of its own.

A vector (a key, a value, a latent) is coded by itself, when it is kept: what stands for it depends on its own numbers
only, not on its neighbours, nor on when it was written. So a row's numbers stay equal in every company.

========  ====================================================  =======================
name      what a vector of ``D`` numbers becomes                bytes
========  ====================================================  =======================
int8      whole numbers from -127 to 127, one float32 scale     ``D + 4``
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
"""``torch.empty`` or ``torch.zeros``."""


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


BITS: dict[str, Coding] = {"int8": Bytes()}
"""Codings of few bits, by name."""

FLOATS: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Floats that state is kept as, by name."""


def coding_of(asked: object) -> Coding | None:
    """How an engine is asked to keep tokens; None for the model's own dtype.

    Args:
        asked: None or ``"auto"``; a float's dtype, or its name; ``"int8"`` (or ``torch.int8``).

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
