"""Optimizers by name: their classes and arguments, and the optimizer of a training.

Each name has one maker in :data:`MAKERS`, which gives a class and its arguments. Numbers are the ecosystem's.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Final, cast

import torch
from torch import nn
from torch.optim import Optimizer

from omniform.train.adafactor import Adafactor
from omniform.train.decay import get_decay_parameter_names, parameter_groups
from omniform.train.intervals import OptimizerNames
from omniform.train.optimizer_context import Made, Maker, OptimizerContext, Options
from omniform.train.optimizer_packages import PACKAGED, check_target_module_exists

if TYPE_CHECKING:
    from omniform.train.arguments import TrainingArguments


def get_optimizer_cls_and_kwargs(args: TrainingArguments, model: nn.Module | None = None) -> Made:
    """The class of the optimizer that arguments name, and its arguments.

    Args:
        args: the training's arguments.
        model: the model, which some optimizers need.

    Raises:
        InputError: there is no such optimizer, or it needs what is not given.
        UnknownArgumentError: the optimizer has no argument that ``optim_args`` names.
        DependencyError: its package is not installed.
    """
    name = OptimizerNames(args.optim)
    context = OptimizerContext(
        args,
        model,
        {"lr": args.learning_rate},
        {"betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon},
        Options.read(args.optim_args),
    )
    made = MAKERS[name](context)
    context.optim_args.check(name.value)
    return made


def is_optimizer_factory(optimizer_cls_or_factory: object) -> bool:
    """Whether this is not an optimizer's class, but something that makes an optimizer of a model."""
    return not (isinstance(optimizer_cls_or_factory, type) and issubclass(optimizer_cls_or_factory, Optimizer))


def make_optimizer(
    model: nn.Module, args: TrainingArguments, *, decayed: Iterable[str] | None = None, made: Made | None = None
) -> Optimizer:
    """The optimizer of a training.

    Args:
        model: the model.
        args: the training's arguments.
        decayed: names of the parameters that decay; by default :func:`get_decay_parameter_names`.
        made: a class and its arguments; by default those that ``args`` name.
    """
    maker, given = made or get_optimizer_cls_and_kwargs(args, model)
    given = dict(given)
    if made is not None and is_optimizer_factory(maker):
        return cast(Optimizer, maker()(model, **given))
    first: object = None
    for name in ("params", "model", "optimizer_dict"):  # what stands in the place of the groups
        if name in given:
            first = given.pop(name)
    if first is None:
        first = parameter_groups(model, args.weight_decay, decayed)
    optimizer = cast(Optimizer, maker(first, **given))
    if maker.__module__.startswith("bitsandbytes") and given.get("optim_bits") == 8:
        _keep_embeddings_wide(model)
    return optimizer


def _keep_embeddings_wide(model: nn.Module) -> None:
    # Embeddings do not train well with moments of eight bits (arXiv:2110.02861).
    manager = import_module("bitsandbytes.optim").GlobalOptimManager.get_instance()
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            manager.register_module_override(module, "weight", {"optim_bits": 32})


# -- torch's own and ours ---------------------------------------------------------------------------------------------


def _adamw(context: OptimizerContext) -> Made:
    extra = context.optim_args.given(amsgrad=bool, foreach=bool, maximize=bool, capturable=bool)
    if context.args.optim == OptimizerNames.ADAMW_TORCH_FUSED:
        extra["fused"] = True
    return torch.optim.AdamW, context.optimizer_kwargs | context.adam_kwargs | extra


def _adafactor(context: OptimizerContext) -> Made:
    extra = context.optim_args.given(clip_threshold=float, decay_rate=float, beta1=float)
    return Adafactor, context.optimizer_kwargs | {"scale_parameter": False, "relative_step": False} | extra


def _sgd(context: OptimizerContext) -> Made:
    extra = context.optim_args.given(momentum=float, dampening=float, weight_decay=float, nesterov=bool)
    return torch.optim.SGD, context.optimizer_kwargs | extra


def _adagrad(context: OptimizerContext) -> Made:
    return torch.optim.Adagrad, context.optimizer_kwargs | context.optim_args.given(
        lr_decay=float, weight_decay=float, eps=float
    )


def _rmsprop(context: OptimizerContext) -> Made:
    return torch.optim.RMSprop, context.optimizer_kwargs | context.optim_args.given(
        momentum=float, alpha=float, eps=float, weight_decay=float, centered=bool
    )


MAKERS: Final[dict[OptimizerNames, Maker]] = {
    OptimizerNames.ADAMW_TORCH: _adamw,
    OptimizerNames.ADAMW_TORCH_FUSED: _adamw,
    OptimizerNames.ADAFACTOR: _adafactor,
    OptimizerNames.SGD: _sgd,
    OptimizerNames.ADAGRAD: _adagrad,
    OptimizerNames.RMSPROP: _rmsprop,
    **PACKAGED,
}
"""Who makes which optimizer."""

__all__ = [
    "OptimizerContext",
    "check_target_module_exists",
    "get_decay_parameter_names",
    "get_optimizer_cls_and_kwargs",
    "is_optimizer_factory",
    "make_optimizer",
    "parameter_groups",
]
