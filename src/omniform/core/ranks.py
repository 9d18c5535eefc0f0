"""Ranks: processes that compute one model together, and which part of everything each of them has."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import torch
import torch.distributed as dist
from torch import Tensor

from omniform.core.errors import InputError

GRAINS: Final = (128, 64, 32)
"""Widths that parts are multiples of, where there is a choice: whole numbers have scales by so many inputs."""


@dataclass(slots=True, eq=False)
class Ranks:
    """Some processes, and which of them this one is.

    Attributes:
        rank: the number of this one.
        count: how many there are.
        group: how they talk; None for the group of all processes.
        leads: whether the others compute only what this process tells them.
        speaker: the thread that tells them, while it does.
    """

    rank: int
    count: int
    group: dist.ProcessGroup | None = None
    leads: bool = False
    speaker: int | None = None

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
                where="tp_plan",
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
        if torch.is_grad_enabled() and x.requires_grad:
            raise InputError(
                "gradients are not taken across processes",
                where="tp_plan",
                remedy="Wrap the call in torch.inference_mode(), or train with FSDP, which spreads a model too.",
            )
        self._check_heard()
        x = x.contiguous()
        dist.all_reduce(x, group=self.group)
        return x

    def _check_heard(self) -> None:
        """Raise InputError where the others do not know that they are to compute, and this process would wait."""
        if self.leads and self.speaker != threading.get_ident():
            raise InputError(
                "the other processes follow this one's engine, and compute nothing else",
                where="tp_plan",
                remedy="Ask the engine, or call the model in every process alike, without engine.lead().",
            )

    def joined(self, x: Tensor, widths: list[int]) -> Tensor:
        """What all ranks bring, side by side. Shape: [..., width of this rank] to [..., sum of widths].

        Args:
            widths: of each rank's part.
        """
        self._check_heard()
        most = max(widths)
        mine = torch.nn.functional.pad(x, (0, most - x.shape[-1])).contiguous()
        found = [torch.empty_like(mine) for _ in widths]
        dist.all_gather(found, mine, group=self.group)
        return torch.cat([part[..., :width] for part, width in zip(found, widths, strict=True)], dim=-1)

    def told(self, x: Tensor) -> Tensor:
        """What the first rank brings. Any shape, the same on every rank; in place."""
        source = 0 if self.group is None else dist.get_global_rank(self.group, 0)
        dist.broadcast(x, source, group=self.group)
        return x

    def least(self, numbers: list[int]) -> list[int]:
        """The least of what each rank brings, number by number."""
        self._check_heard()
        x = torch.tensor(numbers, dtype=torch.int64, device=self.device)
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
