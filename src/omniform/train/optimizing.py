"""The Trainer's optimizer and its schedule of learning rates."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, cast

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from omniform.blocks import norms
from omniform.core.errors import InputError

if TYPE_CHECKING:
    from omniform.train.trainer import Trainer

NORMS: Final[tuple[type[nn.Module], ...]] = (
    nn.LayerNorm,
    *(kind for kind in vars(norms).values() if isinstance(kind, type) and issubclass(kind, nn.Module)),
)
UNDECAYED: Final = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.|_)norm(?:$|\.)")
"""Paths of parameters, in small letters, that weight decay leaves alone: biases, and norms by their names."""


def decayed(model: nn.Module) -> list[str]:
    """Names of the parameters that weight decay makes smaller: all but those of norms, and biases."""
    return [
        f"{path}.{name}" if path else name
        for path, module in model.named_modules(remove_duplicate=False)
        if not isinstance(module, NORMS)
        for name in module._parameters
        if not UNDECAYED.search(f"{path}.{name}".lower())
    ]


def grouped(trainer: Trainer, model: nn.Module) -> list[dict[str, object]]:
    """The parameters that learn, those that decay first."""
    names = set(trainer.get_decay_parameter_names(model))
    learning = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return [
        {"params": [p for name, p in learning if name in names], "weight_decay": trainer.args.weight_decay},
        {"params": [p for name, p in learning if name not in names], "weight_decay": 0.0},
    ]


def create_optimizer(trainer: Trainer, model: nn.Module) -> Optimizer:
    """``Trainer.create_optimizer``: made of the arguments, unless the user gave one."""
    if trainer.optimizer is None:
        groups: object = grouped(trainer, model)
        kind, options = trainer.optimizer_cls_and_kwargs or trainer.get_optimizer_cls_and_kwargs(trainer.args, model)
        options = dict(options)
        for name in ("params", "model", "optimizer_dict"):  # optimizers that choose their parameters themselves
            groups = options.pop(name, groups)
        trainer.optimizer = kind(groups, **options)
    return trainer.optimizer


def create_scheduler(trainer: Trainer, steps: int, optimizer: Optimizer | None) -> LRScheduler:
    """``Trainer.create_scheduler``: made of the arguments, unless the user gave one."""
    if trainer.lr_scheduler is None:
        warm = trainer.args.get_warmup_steps(steps)  # schedulers.py takes its place
        chosen = trainer.optimizer if optimizer is None else optimizer
        assert chosen is not None
        trainer.lr_scheduler = LambdaLR(
            chosen, lambda step: step / warm if step < warm else max(0, steps - step) / max(1, steps - warm)
        )
        trainer._created_lr_scheduler = True
    return trainer.lr_scheduler


def waits_for_metrics(scheduler: object) -> bool:
    """Whether it is stepped with what an evaluation found, instead of once a step."""
    return isinstance(scheduler, ReduceLROnPlateau)


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


def group_of(trainer: Trainer, param: str | nn.Parameter | None) -> object:
    """``Trainer.get_optimizer_group``: the group that a parameter is in; the parameters of every group by default."""
    groups = _groups(trainer)
    if param is None:
        return [group["params"] for group in groups]
    wanted = dict(trainer.model.named_parameters()).get(param) if isinstance(param, str) else param
    return next((group for group in groups if any(p is wanted for p in cast("list[Tensor]", group["params"]))), None)
