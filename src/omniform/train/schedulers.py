"""Schedules of the learning rate: how much of it there is at each step.

A schedule is torch's ``LambdaLR`` over a function from the step to a factor of the optimizer's rate. The functions here
are partial ones of functions with a name, so that a scheduler pickles, and what a resumed training says counts, not
what the interrupted one said (torch saves the state of objects, and none of functions).

Names, arguments and values are the ecosystem's (https://huggingface.co/docs/transformers/main_classes/optimizer_schedules).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, cast

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from omniform.core.errors import InputError, brief, check_arguments
from omniform.core.logs import get_logger
from omniform.train.greedy import GreedyLR
from omniform.train.intervals import SchedulerType
from omniform.train.layerwise import LayerWiseDummyOptimizer, LayerWiseDummyScheduler

Scheduler = LRScheduler | GreedyLR
Factor = Callable[[int], float]

WAYS: Final[dict[str, Callable[[float], float]]] = {
    "linear": lambda left: left,
    "cosine": lambda left: 0.5 * (1.0 - math.cos(math.pi * left)),
    "1-sqrt": lambda left: 1.0 - math.sqrt(1.0 - left),
}
"""Ways from 0 to 1; a decay goes the same way back."""


# -- factors ---------------------------------------------------------------------------------------------------------


def _rise(step: int, warmup: float) -> float:
    """The factor while the rate rises: a straight line from 0 towards 1."""
    return float(step) / float(max(1, warmup))


def _done(step: int, warmup: float, total: float) -> float:
    """The share of the steps after the warmup that is done."""
    return float(step - warmup) / float(max(1, total - warmup))


def _constant(step: int, *, warmup: float) -> float:
    return _rise(step, warmup) if step < warmup else 1.0


def _linear(step: int, *, warmup: float, total: float) -> float:
    if step < warmup:
        return _rise(step, warmup)
    return max(0.0, float(total - step) / float(max(1, total - warmup)))


def _wave(done: float, cycles: float, floor: float = 0.0) -> float:
    height = 0.5 * (1.0 + math.cos(math.pi * float(cycles) * 2.0 * done))
    return max(0.0, height * (1 - floor) + floor)


def _cosine(step: int, *, warmup: float, total: float, cycles: float, floor: float = 0.0) -> float:
    return _rise(step, warmup) if step < warmup else _wave(_done(step, warmup, total), cycles, floor)


def _restarts(step: int, *, warmup: float, total: float, cycles: float) -> float:
    if step < warmup:
        return _rise(step, warmup)
    done = _done(step, warmup, total)
    if done >= 1.0:
        return 0.0
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * ((float(cycles) * done) % 1.0))))


def _polynomial(step: int, *, warmup: float, total: float, end: float, power: float, start: float) -> float:
    if step < warmup:
        return _rise(step, warmup)
    if step > total or total == warmup:
        return end / start
    left = 1 - (step - warmup) / (total - warmup)
    return float(((start - end) * left**power + end) / start)


def _inverse_root(step: int, *, warmup: float, timescale: float) -> float:
    if step < warmup:
        return _rise(step, warmup)
    return 1.0 / math.sqrt((step + timescale - warmup) / timescale)


def _cosine_from(
    step: int, *, warmup: float, total: float, cycles: float, floor: float, beginning: float | None
) -> float:
    # This one counts steps from 1, and rises from ``beginning`` instead of from nothing.
    if step < warmup:
        if beginning is None:
            return (step + 1.0) / max(1.0, warmup)
        return beginning + (1.0 - beginning) * step / max(1, warmup - 1)
    return _wave((step - warmup + 1.0) / max(1.0, total - warmup), cycles, floor)


def _stable(
    step: int, *, warmup: float, stable: float, decay: float, rising: str, falling: str, floor: float, cycles: float
) -> float:
    if step < warmup:
        height = WAYS[rising](_rise(step, warmup))
    elif step < warmup + stable:
        return 1.0
    elif step < warmup + stable + decay:
        done = float(step - warmup - stable) / float(max(1, decay))
        if falling == "cosine":
            height = 0.5 * (1.0 + math.cos(math.pi * float(cycles) * 2.0 * done))
        else:
            height = 1.0 - (math.sqrt(done) if falling == "1-sqrt" else done)
    else:
        return floor
    return max(0.0, height * (1.0 - floor) + floor)


# -- schedules -------------------------------------------------------------------------------------------------------


def get_constant_schedule(optimizer: Optimizer, last_epoch: int = -1) -> LambdaLR:
    """The optimizer's rate at every step.

    Args:
        optimizer: whose rate is set.
        last_epoch: the last step, where training goes on.
    """
    return LambdaLR(optimizer, partial(_constant, warmup=0), last_epoch=last_epoch)


def get_constant_schedule_with_warmup(optimizer: Optimizer, num_warmup_steps: int, last_epoch: int = -1) -> LambdaLR:
    """The rate rises from 0 over so many steps, and stays."""
    return LambdaLR(optimizer, partial(_constant, warmup=num_warmup_steps), last_epoch=last_epoch)


def get_linear_schedule_with_warmup(
    optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int, last_epoch: int = -1
) -> LambdaLR:
    """The rate rises from 0 over the warmup, and falls to 0 in a straight line until the last step."""
    factor = partial(_linear, warmup=num_warmup_steps, total=num_training_steps)
    return LambdaLR(optimizer, factor, last_epoch)


def get_cosine_schedule_with_warmup(
    optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int, num_cycles: float = 0.5, last_epoch: int = -1
) -> LambdaLR:
    """The rate rises from 0 over the warmup, and follows a cosine.

    Args:
        optimizer: whose rate is set.
        num_warmup_steps: steps of the warmup.
        num_training_steps: all steps.
        num_cycles: waves of the cosine; half a wave falls to 0 once.
        last_epoch: the last step, where training goes on.
    """
    factor = partial(_cosine, warmup=num_warmup_steps, total=num_training_steps, cycles=num_cycles)
    return LambdaLR(optimizer, factor, last_epoch)


def get_cosine_with_hard_restarts_schedule_with_warmup(
    optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int, num_cycles: int = 1, last_epoch: int = -1
) -> LambdaLR:
    """The rate rises from 0 over the warmup, and falls to 0 along a cosine ``num_cycles`` times."""
    factor = partial(_restarts, warmup=num_warmup_steps, total=num_training_steps, cycles=num_cycles)
    return LambdaLR(optimizer, factor, last_epoch)


def get_polynomial_decay_schedule_with_warmup(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    lr_end: float = 1e-7,
    power: float = 1.0,
    last_epoch: int = -1,
) -> LambdaLR:
    """The rate rises from 0 over the warmup, and falls to ``lr_end`` along a power of the steps that are left.

    Raises:
        InputError: ``lr_end`` is not below the optimizer's rate.
    """
    start = optimizer.defaults["lr"]
    if not start > lr_end:
        raise InputError("the rate would rise", where="lr_end", expected=f"less than the rate {start}", found=lr_end)
    shape = {"warmup": num_warmup_steps, "total": num_training_steps, "end": lr_end, "power": power, "start": start}
    return LambdaLR(optimizer, partial(_polynomial, **shape), last_epoch)


def get_inverse_sqrt_schedule(
    optimizer: Optimizer, num_warmup_steps: int, timescale: int | None = None, last_epoch: int = -1
) -> LambdaLR:
    """The rate rises from 0 over the warmup, and falls with the square root of the steps.

    Args:
        optimizer: whose rate is set.
        num_warmup_steps: steps of the warmup.
        timescale: how slowly it falls; by default as many steps as the warmup has, or 10,000.
        last_epoch: the last step, where training goes on.
    """
    scale = timescale if timescale is not None else num_warmup_steps or 10_000
    return LambdaLR(optimizer, partial(_inverse_root, warmup=num_warmup_steps, timescale=scale), last_epoch=last_epoch)


def get_cosine_with_min_lr_schedule_with_warmup(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
) -> LambdaLR:
    """A cosine that falls to ``min_lr``, or to ``min_lr_rate`` of the rate.

    Raises:
        InputError: neither is given, or both.
    """
    floor = _floor(optimizer, min_lr, min_lr_rate)
    factor = partial(_cosine, warmup=num_warmup_steps, total=num_training_steps, cycles=num_cycles, floor=floor)
    return LambdaLR(optimizer, factor, last_epoch)


def get_cosine_with_min_lr_schedule_with_warmup_lr_rate(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
    warmup_lr_rate: float | None = None,
) -> LambdaLR:
    """A cosine that falls to ``min_lr``, after a warmup that begins with ``warmup_lr_rate`` of the rate.

    Raises:
        InputError: neither ``min_lr`` nor ``min_lr_rate`` is given, or both.
    """
    factor = partial(
        _cosine_from,
        warmup=float(num_warmup_steps),
        total=float(num_training_steps),
        cycles=num_cycles,
        floor=_floor(optimizer, min_lr, min_lr_rate),
        beginning=None if warmup_lr_rate is None else float(warmup_lr_rate),
    )
    return LambdaLR(optimizer, factor, last_epoch)


def _floor(optimizer: Optimizer, least: float | None, share: float | None) -> float:
    if (least is None) == (share is None):
        raise InputError(
            "the lowest rate is said twice" if share is not None else "the lowest rate is not said",
            where="lr_scheduler_kwargs",
            expected="either min_lr or min_lr_rate",
        )
    return float(share if share is not None else (least or 0.0) / optimizer.defaults["lr"])


def get_wsd_schedule(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_decay_steps: int,
    num_training_steps: int | None = None,
    num_stable_steps: int | None = None,
    warmup_type: str = "linear",
    decay_type: str = "cosine",
    min_lr_ratio: float = 0,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
) -> LambdaLR:
    """The rate rises, stays, and falls (https://arxiv.org/abs/2404.06395).

    Args:
        optimizer: whose rate is set.
        num_warmup_steps: steps in which it rises.
        num_decay_steps: steps in which it falls.
        num_training_steps: all steps; says how long it stays, unless ``num_stable_steps`` does.
        num_stable_steps: steps in which it stays.
        warmup_type: how it rises: ``linear``, ``cosine`` or ``1-sqrt``.
        decay_type: how it falls.
        min_lr_ratio: the lowest share of the rate.
        num_cycles: waves of a cosine.
        last_epoch: the last step, where training goes on.

    Raises:
        InputError: a way is unknown, or nothing says how long it stays.
    """
    for name, way in (("warmup_type", warmup_type), ("decay_type", decay_type)):
        if way not in WAYS:
            raise InputError("cannot be this", where=name, expected=f"one of {', '.join(WAYS)}", found=brief(way))
    if num_stable_steps is None:
        if num_training_steps is None:
            raise InputError("nothing says how long the rate stays", expected="num_training_steps or num_stable_steps")
        num_stable_steps = num_training_steps - num_warmup_steps - num_decay_steps
    elif num_training_steps is not None:
        get_logger().warning_once("num_stable_steps and num_training_steps are both given: the former counts")
    factor = partial(
        _stable,
        warmup=num_warmup_steps,
        stable=num_stable_steps,
        decay=num_decay_steps,
        rising=warmup_type,
        falling=decay_type,
        floor=min_lr_ratio,
        cycles=num_cycles,
    )
    return LambdaLR(optimizer, factor, last_epoch)


def get_reduce_on_plateau_schedule(optimizer: Optimizer, **kwargs: Any) -> ReduceLROnPlateau:
    """The rate falls when a metric stops to improve: torch's ``ReduceLROnPlateau``, with its arguments."""
    return ReduceLROnPlateau(optimizer, **kwargs)


def get_greedy_schedule(optimizer: Optimizer, **kwargs: Any) -> GreedyLR:
    """The rate rises while a metric improves and falls while it does not: :class:`GreedyLR`, with its arguments."""
    return GreedyLR(optimizer, **kwargs)


TYPE_TO_SCHEDULER_FUNCTION: Final[dict[SchedulerType, Callable[..., Scheduler]]] = {
    SchedulerType.LINEAR: get_linear_schedule_with_warmup,
    SchedulerType.COSINE: get_cosine_schedule_with_warmup,
    SchedulerType.COSINE_WITH_RESTARTS: get_cosine_with_hard_restarts_schedule_with_warmup,
    SchedulerType.POLYNOMIAL: get_polynomial_decay_schedule_with_warmup,
    SchedulerType.CONSTANT: get_constant_schedule,
    SchedulerType.CONSTANT_WITH_WARMUP: get_constant_schedule_with_warmup,
    SchedulerType.INVERSE_SQRT: get_inverse_sqrt_schedule,
    SchedulerType.REDUCE_ON_PLATEAU: get_reduce_on_plateau_schedule,
    SchedulerType.COSINE_WITH_MIN_LR: get_cosine_with_min_lr_schedule_with_warmup,
    SchedulerType.COSINE_WARMUP_WITH_MIN_LR: get_cosine_with_min_lr_schedule_with_warmup_lr_rate,
    SchedulerType.WARMUP_STABLE_DECAY: get_wsd_schedule,
    SchedulerType.GREEDY: get_greedy_schedule,
}
"""Schedules by name."""

_BY_METRIC: Final = {SchedulerType.REDUCE_ON_PLATEAU: ReduceLROnPlateau, SchedulerType.GREEDY: GreedyLR}


def get_scheduler(
    name: str | SchedulerType,
    optimizer: Optimizer,
    num_warmup_steps: int | None = None,
    num_training_steps: int | None = None,
    scheduler_specific_kwargs: Mapping[str, object] | None = None,
) -> Scheduler:
    """A schedule by its name.

    Args:
        name: one of :class:`SchedulerType`.
        optimizer: whose rate is set.
        num_warmup_steps: steps of the warmup, for schedules that have one.
        num_training_steps: all steps, for schedules that ask for them.
        scheduler_specific_kwargs: further arguments of the schedule.

    Raises:
        InputError: there is no such schedule, or it needs a number that is not given.
        UnknownArgumentError: the schedule has no such argument.
    """
    kind = SchedulerType(name)
    extra = dict(scheduler_specific_kwargs or {})
    if isinstance(optimizer, LayerWiseDummyOptimizer):
        return _layerwise(kind, optimizer, num_warmup_steps, num_training_steps, extra)
    make = TYPE_TO_SCHEDULER_FUNCTION[kind]
    known = [*inspect.signature(_BY_METRIC.get(kind, make)).parameters]
    check_arguments(f"lr_scheduler_type {kind.value!r}", extra, known)
    steps: dict[str, object] = {}
    for argument, value in (("num_warmup_steps", num_warmup_steps), ("num_training_steps", num_training_steps)):
        if argument not in known or argument in extra:
            continue
        if value is None and kind != SchedulerType.WARMUP_STABLE_DECAY:
            raise InputError(f"the schedule {kind.value!r} needs a number of steps", where=argument)
        steps[argument] = value
    return make(optimizer, **steps, **extra)


def _layerwise(
    kind: SchedulerType,
    optimizer: LayerWiseDummyOptimizer,
    warmup: int | None,
    total: int | None,
    extra: dict[str, object],
) -> LRScheduler:
    """One schedule for each parameter's own optimizer, which steps as soon as its gradient is there."""
    schedules = {
        parameter: get_scheduler(kind, inner, warmup, total, extra)
        for parameter, inner in optimizer.optimizer_dict.items()
    }

    def follow(parameter: Tensor) -> None:
        schedule = schedules[parameter]
        if isinstance(schedule, LRScheduler):
            schedule.step()

    for parameter in schedules:
        if parameter.requires_grad:
            cast(Any, parameter).register_post_accumulate_grad_hook(follow)
    return LayerWiseDummyScheduler(optimizer_dict=optimizer.optimizer_dict, lr=optimizer.defaults["lr"])


__all__ = [
    "TYPE_TO_SCHEDULER_FUNCTION",
    "get_constant_schedule",
    "get_constant_schedule_with_warmup",
    "get_cosine_schedule_with_warmup",
    "get_cosine_with_hard_restarts_schedule_with_warmup",
    "get_cosine_with_min_lr_schedule_with_warmup",
    "get_cosine_with_min_lr_schedule_with_warmup_lr_rate",
    "get_greedy_schedule",
    "get_inverse_sqrt_schedule",
    "get_linear_schedule_with_warmup",
    "get_polynomial_decay_schedule_with_warmup",
    "get_reduce_on_plateau_schedule",
    "get_scheduler",
    "get_wsd_schedule",
]
