"""The device that a training runs on and the processes it is one of: accelerate knows, and is asked late."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch

from omniform.core.errors import DependencyError, InputError
from omniform.train.accelerator_config import AcceleratorConfig
from omniform.train.argument_kinds import TRUE

if TYPE_CHECKING:
    from accelerate.state import PartialState

    from omniform.train.arguments import TrainingArguments


@dataclass(frozen=True)
class Places:
    """Where a process of a training is.

    Args:
        device: what it computes on.
        gpus: how many GPUs this process uses.
        state: accelerate's account of all processes.
    """

    device: torch.device
    gpus: int
    state: PartialState


def on(name: str) -> bool:
    """Whether the environment says yes."""
    return os.environ.get(name, "false").lower() in TRUE


def find(args: TrainingArguments, *, anew: bool) -> Places:
    """Where this process is.

    Args:
        anew: forget what accelerate was set up with before, as a new set of arguments does.

    Raises:
        DependencyError: accelerate is not installed.
    """
    try:
        from accelerate.state import AcceleratorState, PartialState
        from accelerate.utils import DistributedType
    except ImportError as error:
        raise DependencyError(
            "training goes through accelerate", remedy="pip install 'omniform[train]', or accelerate alone."
        ) from error
    config = args.accelerator_config
    settled = isinstance(config, AcceleratorConfig) and bool(config.pop("use_configured_state", False))
    if settled:
        if not PartialState._shared_state:
            raise InputError(
                "nothing is configured yet",
                where="accelerator_config={'use_configured_state': True}",
                remedy="Make accelerate's PartialState or Accelerator before TrainingArguments.",
            )
    elif anew:
        AcceleratorState._reset_state(reset_partial_state=True)
    cpu = bool(args.use_cpu) or on("ACCELERATE_USE_CPU") or not _has_accelerator()
    state = PartialState(cpu=bool(args.use_cpu)) if settled else _state(args, cpu, PartialState)
    if state.distributed_type != DistributedType.NO:
        return Places(state.device, 0 if cpu else 1, state)
    if not args.use_cpu and not on("ACCELERATE_USE_CPU"):
        if torch.cuda.is_available():
            device = torch.device("cuda:0")
            torch.cuda.set_device(device)
            return Places(device, torch.cuda.device_count(), state)
        if torch.backends.mps.is_available():
            return Places(torch.device("mps"), 1, state)
        return Places(torch.device(os.environ.get("ACCELERATE_TORCH_DEVICE", "cpu")), 0, state)
    return Places(torch.device("cpu"), 0, state)


def _has_accelerator() -> bool:
    """Whether processes have something to compute on beside processors."""
    return torch.accelerator.is_available() and torch.accelerator.current_accelerator(check_available=True) is not None


def _state(args: TrainingArguments, cpu: bool, maker: type[PartialState]) -> PartialState:
    given: dict[str, Any] = {"backend": args.ddp_backend, "timeout": timedelta(seconds=args.ddp_timeout)}
    engine = bool(args.deepspeed) or on("ACCELERATE_USE_DEEPSPEED")
    if cpu and not (engine and _many()):
        # Without saying so, accelerate sees processes on a machine without accelerators as so many trainings.
        return maker(cpu=True, **(given if _many() else {"backend": args.ddp_backend}))
    if not args.deepspeed:
        return maker(**(given | {"backend": "gloo"} if cpu else given))
    if cpu:
        given["backend"] = "gloo"
    else:
        del given["backend"]
    with environment(ACCELERATE_USE_DEEPSPEED="true"):  # accelerate looks there
        return maker(**given)


def _many() -> bool:
    return int(os.environ.get("LOCAL_RANK", "-1")) != -1


@contextmanager
def environment(**values: str | None) -> Iterator[None]:
    """Environment variables as they are to be inside a block; None for absent ones."""
    before = {name: os.environ.get(name) for name in values}
    _put(values)
    try:
        yield
    finally:
        _put(before)


def _put(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
