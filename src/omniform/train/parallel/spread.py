"""A trainer's model and optimizer, spread over its processes by whatever engine was chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from omniform.core.errors import InputError
from omniform.train.parallel import fsdp

if TYPE_CHECKING:
    from omniform.train.trainer import Trainer


def check(trainer: Trainer) -> None:
    """Settle a trainer's engine, and refuse arguments that it cannot follow.

    Raises:
        InputError: naming both sides.
    """
    args, state = trainer.args, trainer.accelerator.state
    if trainer.is_deepspeed_enabled and args.hf_deepspeed_config is None:
        from omniform.train.parallel.deepspeed import propagate_args_to_deepspeed

        propagate_args_to_deepspeed(trainer.accelerator, args)
    engine = "deepspeed" if trainer.is_deepspeed_enabled else "fsdp" if trainer.is_fsdp_enabled else None
    if args.fsdp and engine != "fsdp":
        raise InputError(
            "a model is split over several processes, and there is one",
            where="fsdp",
            remedy="Start the script with torchrun or accelerate launch.",
        )
    if engine is not None and args.save_only_model and args.load_best_model_at_end:
        raise InputError(
            "the best model is read from a whole checkpoint, and only models are saved",
            where=f"{engine}, save_only_model and load_best_model_at_end",
            found="all of them",
        )
    if engine == "deepspeed" and args.auto_find_batch_size and state.deepspeed_plugin.hf_ds_config.is_zero3():
        raise InputError(
            "a model that lies in parts cannot be started again with smaller batches",
            where="auto_find_batch_size and deepspeed: zero_optimization.stage",
            found="True and 3",
        )
    if engine == "fsdp" and args.save_only_model and "SHARDED" in str(state.fsdp_plugin.state_dict_type):
        raise InputError(
            "a model in parts is no model alone",
            where="save_only_model and fsdp_config['state_dict_type']",
            found="True and SHARDED_STATE_DICT",
        )


def with_optimizer(trainer: Trainer, max_steps: int) -> nn.Module:
    """Make the optimizer and wrap the model; ``trainer.optimizer`` is what accelerate gives.

    Returns:
        the model as it is to be called.
    """
    if trainer.is_deepspeed_enabled:
        return _with_deepspeed(trainer, max_steps)
    accelerator = trainer.accelerator
    if trainer.is_fsdp_enabled and not accelerator.is_fsdp2:
        # FSDP 1 puts other parameters in the place of the model's.
        model = cast(nn.Module, accelerator.prepare(trainer._wrap_model(trainer.model_wrapped)))
        trainer.create_optimizer(model)
        trainer.optimizer = accelerator.prepare_optimizer(trainer.optimizer)
        return _is_the_model(trainer, model)
    trainer.create_optimizer()
    assert trainer.optimizer is not None
    model = trainer._wrap_model(trainer.model_wrapped)
    if model is not trainer.model:  # wrapped by an earlier run, or by somebody else
        trainer.optimizer = accelerator.prepare(trainer.optimizer)
    elif trainer.is_fsdp_enabled:
        model, made = fsdp.prepare(accelerator, trainer.model, trainer.optimizer)
        trainer.optimizer = cast(torch.optim.Optimizer, made)
        return _is_the_model(trainer, model)
    else:
        model, trainer.optimizer = accelerator.prepare(trainer.model, trainer.optimizer)
    return model


def for_evaluation(trainer: Trainer, model: nn.Module) -> nn.Module:
    """A model that was not trained yet, as it is to be called."""
    accelerator = trainer.accelerator
    if trainer.is_fsdp_enabled:
        whole = fsdp.prepare_model(accelerator, model) if accelerator.is_fsdp2 else accelerator.prepare(model)
        return _is_the_model(trainer, cast(nn.Module, whole))
    if trainer.is_deepspeed_enabled and accelerator.state.deepspeed_plugin.hf_ds_config.is_zero3():
        from omniform.train.parallel.deepspeed import deepspeed_init

        deepspeed_init(trainer, 0, inference=True)
        trainer.deepspeed = accelerator.prepare(model)
        return cast(nn.Module, trainer.deepspeed)
    if model is trainer.model:
        model = cast(nn.Module, accelerator.prepare_model(model, evaluation_mode=True))
    return model


def _is_the_model(trainer: Trainer, model: nn.Module) -> nn.Module:
    """Under FSDP what is called is the model itself, whose parts come together for ``generate``, too."""
    from torch.distributed.fsdp import register_fsdp_forward_method

    trainer.model = trainer.model_wrapped = model
    if trainer.accelerator.is_fsdp2 and "generate" in dir(model):
        register_fsdp_forward_method(model, "generate")
    return model


def _with_deepspeed(trainer: Trainer, max_steps: int) -> nn.Module:
    from omniform.train.parallel.deepspeed import deepspeed_init
    from omniform.weights.spread import widen_scalars

    widen_scalars(trainer.model)
    optimizer, scheduler = deepspeed_init(trainer, max_steps)
    given: list[Any] = [trainer.model, optimizer]
    if scheduler is not None:
        given.append(scheduler)
    made = trainer.accelerator.prepare(*given)
    trainer.optimizer = made[1]
    if scheduler is not None:
        trainer.lr_scheduler = made[2]
    trainer.deepspeed = made[0]
    return cast(nn.Module, made[0])
