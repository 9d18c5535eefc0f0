"""The Trainer's optimizer and its schedule of learning rates."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from omniform.core.errors import InputError
from omniform.train.greedy import GreedyLR
from omniform.train.optimizers import make_optimizer
from omniform.train.schedulers import Scheduler, get_scheduler

if TYPE_CHECKING:
    from omniform.train.trainer import Trainer


def create_optimizer(trainer: Trainer, model: nn.Module) -> Optimizer:
    """``Trainer.create_optimizer``: made of the arguments, unless the user gave one."""
    if trainer.optimizer is None:
        names = trainer.get_decay_parameter_names(model)
        made = trainer.optimizer_cls_and_kwargs or trainer.get_optimizer_cls_and_kwargs(trainer.args, model)
        trainer.optimizer = make_optimizer(model, trainer.args, decayed=names, made=made)
    return trainer.optimizer


def create_scheduler(trainer: Trainer, steps: int, optimizer: Optimizer | None) -> Scheduler:
    """``Trainer.create_scheduler``: made of the arguments, unless the user gave one."""
    if trainer.lr_scheduler is None:
        chosen = trainer.optimizer if optimizer is None else optimizer
        assert chosen is not None
        args = trainer.args
        extra = args.lr_scheduler_kwargs
        trainer.lr_scheduler = get_scheduler(
            args.lr_scheduler_type,
            chosen,
            args.get_warmup_steps(steps),
            steps,
            extra if isinstance(extra, dict) else None,
        )
        trainer._created_lr_scheduler = True
    return trainer.lr_scheduler


def waits_for_metrics(scheduler: object) -> bool:
    """Whether it is stepped with what an evaluation found, instead of once a step."""
    return isinstance(scheduler, ReduceLROnPlateau | GreedyLR)


def learning_rate(trainer: Trainer) -> float:
    """The learning rate of the first group of parameters."""
    assert trainer.optimizer is not None and trainer.lr_scheduler is not None
    if waits_for_metrics(trainer.lr_scheduler):
        rate: float | Tensor = trainer.optimizer.param_groups[0]["lr"]
    else:
        rate = trainer.lr_scheduler.get_last_lr()[0]
    return float(rate)


def _groups(trainer: Trainer) -> list[dict[str, object]]:
    if trainer.optimizer is None:
        raise InputError(
            "there is no optimizer yet", where="Trainer.optimizer", remedy="Call create_optimizer() first."
        )
    return trainer.optimizer.param_groups


def learning_rates(trainer: Trainer) -> list[float]:
    """``Trainer.get_learning_rates``: of every group of parameters."""
    return [cast(float, group["lr"]) for group in _groups(trainer)]


def group_of(trainer: Trainer, param: str | nn.Parameter | None = None) -> object:
    """``Trainer.get_optimizer_group``: the group that a parameter is in; the parameters of every group by default."""
    groups = _groups(trainer)
    if param is None:
        return [group["params"] for group in groups]
    wanted = dict(trainer.model.named_parameters()).get(param) if isinstance(param, str) else param
    return next((group for group in groups if any(p is wanted for p in cast("list[Tensor]", group["params"]))), None)
