"""What callbacks want, agreed on by all processes: what one wants is done by all, or they would wait for ever."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from omniform.train.just_in_time import JITCheckpointCallback

if TYPE_CHECKING:
    from omniform.train.trainer import Trainer


def has_to_agree(trainer: Trainer) -> bool:
    """Whether processes may come to want different things: some process has a callback that is not the Trainer's own.

    The Trainer's own look at what is the same everywhere; but for the one that waits for a signal.
    """
    if trainer.args.world_size <= 1:
        return False
    others = [
        one
        for one in trainer.callback_handler.callbacks
        if isinstance(one, JITCheckpointCallback) or not type(one).__module__.startswith("omniform.")
    ]
    return bool(_of_all(trainer, [bool(others)])[0])


def agree(trainer: Trainer) -> None:
    """Let every process want what any of them wants."""
    names = [one.name for one in dataclasses.fields(trainer.control)]
    wanted = _of_all(trainer, [bool(vars(trainer.control)[name]) for name in names])
    for name, value in zip(names, wanted, strict=True):
        setattr(trainer.control, name, value)


def _of_all(trainer: Trainer, wishes: list[bool]) -> list[bool]:
    here = torch.tensor(wishes, dtype=torch.int32, device=trainer.args.device)
    return [bool(one) for one in cast(Tensor, trainer.accelerator.reduce(here, reduction="sum")).tolist()]
