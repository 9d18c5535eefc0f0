"""Checkpoints of models that lie in parts: written and read by all processes, in the ecosystem's files.

FSDP writes ``pytorch_model_fsdp.bin`` and ``optimizer.bin`` (whole), or the folders ``pytorch_model_fsdp_0`` and
``optimizer_0`` (in parts, which any number of processes reads). DeepSpeed writes ``global_stepN``, for as many
processes as wrote it. Where the whole model can be had, it is written as ``model.safetensors``, too.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from omniform.core.errors import InputError
from omniform.core.logs import get_logger
from omniform.train.parallel import fsdp
from omniform.weights.spread import with_scalars

if TYPE_CHECKING:
    from omniform.train.trainer import Trainer

logger = get_logger(__name__)

OPTIMIZER = ("optimizer.bin", "optimizer_0")


def is_in_parts(trainer: Trainer) -> bool:
    """Whether the weights lie in parts, or an engine of its own writes the checkpoints."""
    return trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled


def whole_model(trainer: Trainer) -> dict[str, Tensor] | None:
    """The whole model, in the first process (an empty dict in others); all must call it.

    Returns:
        None where the settings keep it in parts.
    """
    accelerator = trainer.accelerator
    if trainer.is_deepspeed_enabled:
        from omniform.train.parallel import deepspeed

        engine = trainer.deepspeed
        return dict(trainer.model.state_dict()) if engine is None else deepspeed.full_state_dict(engine)
    if "FULL" not in str(accelerator.state.fsdp_plugin.state_dict_type):
        return None
    if accelerator.is_fsdp2:
        return fsdp.full_state_dict(trainer.model)
    return with_scalars(trainer.model, accelerator.get_state_dict(trainer.model))


def save_states(trainer: Trainer, folder: str) -> None:
    """The engine's own files: weights, optimizer, and what it schedules; all must call it."""
    accelerator = trainer.accelerator
    if trainer.is_deepspeed_enabled:
        engine: Any = trainer.deepspeed
        engine.save_checkpoint(folder)
        return
    from accelerate.utils import save_fsdp_model, save_fsdp_optimizer

    plugin = accelerator.state.fsdp_plugin
    save_fsdp_model(plugin, accelerator, trainer.model, folder, **fsdp.get_fsdp_ckpt_kwargs())
    save_fsdp_optimizer(plugin, accelerator, trainer.optimizer, trainer.model, folder)


def load_model(trainer: Trainer, folder: str) -> None:
    """The weights; all must call it.

    Raises:
        InputError: the folder was not written by this engine, or by another number of processes where that matters.
    """
    if trainer.is_deepspeed_enabled:
        _check_parts(trainer, folder)
        from omniform.train.parallel.deepspeed import deepspeed_load_checkpoint

        deepspeed_load_checkpoint(trainer.deepspeed, folder)
        return
    from accelerate.utils import load_fsdp_model

    if not any(Path(folder).glob("pytorch_model_fsdp*")):
        raise InputError(
            "this checkpoint was not written by FSDP",
            where=folder,
            expected="pytorch_model_fsdp.bin or pytorch_model_fsdp_0",
            remedy="Go on without fsdp, as then.",
        )
    accelerator = trainer.accelerator
    plugin = accelerator.state.fsdp_plugin
    load_fsdp_model(plugin, accelerator, trainer.model, folder, **fsdp.get_fsdp_ckpt_kwargs())


def load_optimizer(trainer: Trainer, folder: str) -> None:
    """The optimizer's state under FSDP; DeepSpeed has read it with the weights."""
    if trainer.is_deepspeed_enabled or not any((Path(folder) / name).exists() for name in OPTIMIZER):
        return
    from accelerate.utils import load_fsdp_optimizer

    accelerator = trainer.accelerator
    plugin = accelerator.state.fsdp_plugin
    kept = fsdp.get_fsdp_ckpt_kwargs()
    load_fsdp_optimizer(plugin, accelerator, trainer.optimizer, trainer.model, folder, **kept)


def schedules_itself(trainer: Trainer) -> bool:
    """Whether the engine holds the schedule of learning rates, and writes it."""
    if not trainer.is_deepspeed_enabled:
        return False
    from accelerate.utils import DeepSpeedSchedulerWrapper

    return isinstance(trainer.lr_scheduler, DeepSpeedSchedulerWrapper)


def _check_parts(trainer: Trainer, folder: str) -> None:
    """DeepSpeed reads the parts of as many processes as wrote them."""
    written = {
        path.name.split("zero_pp_rank_")[1].split("_")[0] for path in Path(folder).glob("global_step*/*zero_pp*")
    }
    if written and len(written) != trainer.args.world_size:
        raise InputError(
            "this checkpoint was written by another number of processes",
            where=folder,
            expected=f"{len(written)} processes",
            found=f"{trainer.args.world_size}",
            remedy="Start as many, or begin from the weights (from_pretrained).",
        )


__all__ = ["is_in_parts", "load_model", "load_optimizer", "save_states", "schedules_itself", "whole_model"]
