"""Ranks: processes that compute one model together, and which part of everything each of them has."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import torch
import torch.distributed as dist
from torch import Tensor

from omniform.core.errors import InputError, WorkerError

GRAINS: Final = (128, 64, 32)
"""Widths that parts are multiples of, where there is a choice: whole numbers have scales by so many inputs."""


SENT: Final = (
    torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.int32, torch.uint8, torch.bool,
)  # fmt: skip
"""Dtypes of what one process hands another, by their numbers in a message."""

MOST_AXES: Final = 6
"""Axes of what one process hands another, at the most."""


@dataclass(slots=True, eq=False)
class Lead:
    """Who says what is computed.

    Attributes:
        leads: whether the others compute only what this process tells them.
        speaker: the thread that tells them, while it does.
    """

    leads: bool = False
    speaker: int | None = None


@dataclass(slots=True, eq=False)
class Ranks:
    """Some processes, and which of them this one is.

    Attributes:
        rank: the number of this one.
        count: how many there are.
        group: how they talk; None for the group of all processes.
        where: what they were asked for with, for errors.
        lead: who says what is computed; the same for all groups that this process is in with one model.
    """

    rank: int
    count: int
    group: dist.ProcessGroup | None = None
    where: str = "tp_plan"
    lead: Lead = field(default_factory=Lead)

    def of(self, total: int, what: str, *, grains: bool = False) -> range:
        """This rank's part of so many things in a row; parts differ by one thing at most, or by one grain.

        Args:
            what: what there are so many of, for the error.
            grains: whether parts should be multiples of a grain.

        Raises:
            InputError: there are not enough of them.
        """
        if total < self.count:
            raise InputError(
                f"there are not enough {what} for so many processes",
                where=self.where,
                expected=f"at least {self.count} {what}, one for each process",
                found=total,
                remedy=f"Start {total} processes or fewer (torchrun --nproc-per-node={total}).",
            )
        grain = next((g for g in GRAINS if grains and total % g == 0 and total // g >= self.count), 1)
        return self.parts(total // grain, grain)[self.rank]

    def parts(self, total: int, grain: int = 1) -> list[range]:
        """Every rank's part of ``total`` grains."""
        edges = [total * rank // self.count * grain for rank in range(self.count + 1)]
        return [range(first, stop) for first, stop in pairwise(edges)]

    def total(self, x: Tensor) -> Tensor:
        """The sum of what all ranks bring, the same bits on all of them. Any shape, the same on every rank; in place
        where that may be."""
        self.check_grad(x)
        self.check_heard()
        x = x.contiguous()
        with self.spoken():
            dist.all_reduce(x, group=self.group)
        return x

    def check_grad(self, x: Tensor) -> None:
        """Raise InputError where somebody wants gradients of what processes compute together."""
        if torch.is_grad_enabled() and x.requires_grad:
            raise InputError(
                "gradients are not taken across processes",
                where=self.where,
                remedy="Wrap the call in torch.inference_mode(), or train with FSDP, which spreads a model too.",
            )

    @contextmanager
    def spoken(self) -> Iterator[None]:
        """What torch says where one of the processes has ended, as an error of ours."""
        try:
            yield
        except RuntimeError as error:
            raise WorkerError(
                f"one of the {self.count} processes that hold the model is gone, or failed",
                where=self.where,
                found=str(error).split("\n")[0][:200],
                remedy="Its own output says why; start all of them again.",
            ) from error

    def check_heard(self) -> None:
        """Raise InputError where the others do not know that they are to compute, and this process would wait."""
        if self.lead.leads and self.lead.speaker != threading.get_ident():
            raise InputError(
                "the other processes follow this one's engine, and compute nothing else",
                where=self.where,
                remedy="Ask the engine, or call the model in every process alike, without engine.lead().",
            )

    def joined(self, x: Tensor, widths: list[int]) -> Tensor:
        """What all ranks bring, side by side. Shape: [..., width of this rank] to [..., sum of widths].

        Args:
            widths: of each rank's part.
        """
        self.check_heard()
        most = max(widths)
        mine = torch.nn.functional.pad(x, (0, most - x.shape[-1])).contiguous()
        found = [torch.empty_like(mine) for _ in widths]
        with self.spoken():
            dist.all_gather(found, mine, group=self.group)
        return torch.cat([part[..., :width] for part, width in zip(found, widths, strict=True)], dim=-1)

    def told(self, x: Tensor) -> Tensor:
        """What the first rank brings. Any shape, the same on every rank; in place."""
        with self.spoken():
            dist.broadcast(x, self._named(0), group=self.group)
        return x

    def _named(self, rank: int) -> int:
        """What one of them is called among all processes."""
        return rank if self.group is None else dist.get_global_rank(self.group, rank)

    def give(self, x: Tensor, to: int) -> None:
        """Hand something to one of the others, which takes it. Any shape."""
        self.check_grad(x)
        self.check_heard()
        with self.spoken():
            dist.send(_header(x), self._named(to), group=self.group)
            if x.numel():
                dist.send(_bytes(x.contiguous()), self._named(to), group=self.group)

    def take(self, source: int, device: torch.device) -> Tensor:
        """What one of the others gives, on this process's ``device``."""
        self.check_heard()
        header = _no_header(device)
        with self.spoken():
            dist.recv(header, self._named(source), group=self.group)
            x = _blank(header)
            if x.numel():
                dist.recv(_bytes(x), self._named(source), group=self.group)
        return x

    def shown(self, x: Tensor | None, source: int, device: torch.device) -> Tensor:
        """What one of them shows all others. Any shape.

        Args:
            x: what this process shows; None in all but the one that does.
            source: its rank.
            device: where this process wants it.
        """
        self.check_heard()
        if x is not None:
            self.check_grad(x)
            x = x.contiguous()
        header = _no_header(device) if x is None else _header(x)
        with self.spoken():
            dist.broadcast(header, self._named(source), group=self.group)
            found = _blank(header) if x is None else x
            if found.numel():
                dist.broadcast(_bytes(found), self._named(source), group=self.group)
        return found

    def least(self, numbers: list[int]) -> list[int]:
        """The least of what each rank brings, number by number."""
        self.check_heard()
        x = torch.tensor(numbers, dtype=torch.int64, device=self.device)
        with self.spoken():
            dist.all_reduce(x, dist.ReduceOp.MIN, group=self.group)
        found: list[int] = x.tolist()
        return found

    def draw_alike(self) -> None:
        """Have torch's global generators go on from where the first rank's are."""
        torch.set_rng_state(self.told(torch.get_rng_state().to(self.device)).cpu())
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(self.told(torch.cuda.get_rng_state().to(self.device)).cpu())

    @property
    def device(self) -> torch.device:
        """Where what is told has to lie."""
        return torch.device("cuda" if dist.get_backend(self.group) == "nccl" else "cpu")


def _bytes(x: Tensor) -> Tensor:
    """The bytes of numbers that lie together; every backend hands them on, whatever they stand for."""
    return x.view(-1).view(torch.uint8)


def _header(x: Tensor) -> Tensor:
    numbers = [SENT.index(x.dtype), x.dim(), *x.shape]
    return torch.tensor(numbers + [0] * (MOST_AXES + 2 - len(numbers)), dtype=torch.int64, device=x.device)


def _no_header(device: torch.device) -> Tensor:
    return torch.empty(MOST_AXES + 2, dtype=torch.int64, device=device)


def _blank(header: Tensor) -> Tensor:
    kind, axes, *shape = header.tolist()
    return torch.empty(shape[:axes], dtype=SENT[kind], device=header.device)
