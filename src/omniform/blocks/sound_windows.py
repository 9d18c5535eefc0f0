"""Windows of a spectrogram: sounds of any lengths are cut into chunks, and what these become is seen by windows.

What follows from lengths alone is made on the host, from numbers that are known before anything is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from omniform.core.areas import Areas
from omniform.core.context import StepContext
from omniform.core.errors import InputError, brief
from omniform.core.rules import Rule


@dataclass(frozen=True, slots=True)
class AreaContext(StepContext):
    """A step over sounds end to end, as one row, in which a token sees its own window.

    Attributes:
        areas: the windows; None: it sees all.
    """

    areas: Areas | None = None

    @classmethod
    def of(cls, ctx: StepContext, areas: Areas) -> AreaContext:
        """``ctx`` with windows."""
        return cls(**{f.name: getattr(ctx, f.name) for f in fields(StepContext) if f.name != "_memo"}, areas=areas)

    def mask(self, rule: Rule, queries: int, device: torch.device) -> Areas:  # type: ignore[override]
        """What frames see."""
        assert self.areas is not None
        return self.areas


def read_lengths(value: object, frames: int, *, where: str) -> tuple[int, ...]:
    """How many frames each sound has, on the host: a tensor, or numbers.

    Args:
        frames: of all sounds together.
        where: the input's name.

    Raises:
        InputError: they are no such numbers.
    """
    given = value.flatten().tolist() if isinstance(value, Tensor) else value
    told = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else []
    found = [n for n in told if isinstance(n, int) and n > 0]
    if len(found) < len(told) or sum(found) != frames:
        raise InputError(
            "these are not the lengths of the sounds",
            where=where,
            expected=f"numbers above 0 that add up to {frames} frames",
            found=brief(given),
            remedy="Let the checkpoint's own processor prepare sounds.",
        )
    return tuple(found)


def chunks_of(lengths: Sequence[int], size: int) -> list[list[int]]:
    """The chunks of each sound: as many of ``size`` as there are, then what is left."""
    return [[size] * (length // size) + ([length % size] if length % size else []) for length in lengths]


def laid_out(features_FT: Tensor, chunks: Sequence[int], longest: int) -> Tensor:
    """Chunks side by side, filled with zeros behind. Shape: [bands, frames] to [chunks, bands, longest]."""
    if all(chunk == longest for chunk in chunks):
        return features_FT.unflatten(1, (len(chunks), longest)).transpose(0, 1)  # type: ignore[no-untyped-call, no-any-return]
    parts = torch.split(features_FT.T, list(chunks))
    return torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True, padding_value=0.0).transpose(1, 2)


def gathered(x_NTD: Tensor, kept: Sequence[int]) -> Tensor:
    """The first so many steps of each chunk, end to end. Shape: [chunks, T, D] to [sum of kept, D]."""
    longest = x_NTD.shape[1]
    if all(count == longest for count in kept):
        return x_NTD.flatten(0, 1)
    places = [torch.arange(at * longest, at * longest + count) for at, count in enumerate(kept)]
    return x_NTD.flatten(0, 1)[torch.cat(places).to(x_NTD.device)]
