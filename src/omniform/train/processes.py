"""The :class:`accelerate.Accelerator` of a Trainer: devices, processes, precision, compilation."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from omniform.core.errors import DependencyError, InputError
from omniform.core.logs import get_logger
from omniform.train.accelerator_config import AcceleratorConfig
from omniform.train.parallel import spread
from omniform.train.parallel.settings import make_accelerator

if TYPE_CHECKING:
    from accelerate import Accelerator

    from omniform.train.trainer import Trainer

logger = get_logger(__name__)

LOADING = ("split_batches", "dispatch_batches", "even_batches", "use_seedable_sampler", "non_blocking")


def check_accelerate() -> None:
    """Raise :class:`DependencyError` where accelerate is not installed."""
    if importlib.util.find_spec("accelerate") is None:
        raise DependencyError(
            "training needs accelerate", where="Trainer", remedy="pip install 'omniform[train]' installs it."
        )


def create_accelerator(trainer: Trainer) -> None:
    """``Trainer.create_accelerator_and_postprocess``: set ``trainer.accelerator``, and what follows from it.

    Raises:
        InputError: arguments that contradict how the processes were started.
    """
    check_accelerate()
    from accelerate.utils import DataLoaderConfiguration, FullyShardedDataParallelPlugin, GradientAccumulationPlugin

    args = trainer.args
    logger.info("Training on %s", args.device)  # which sets accelerate up, and may not come later
    config = cast(AcceleratorConfig, args.accelerator_config)
    loading = DataLoaderConfiguration(**{name: vars(config)[name] for name in LOADING}, data_seed=args.data_seed)
    if config.non_blocking and not args.dataloader_pin_memory:
        logger.warning("non_blocking copies wait nevertheless unless dataloader_pin_memory is on")
    plugin_args = args.fsdp_plugin_args
    with _noted_environment():
        trainer.accelerator = make_accelerator(
            args,
            trainer._build_accelerator_args(
                dataloader_config=loading,
                fsdp_plugin=None if plugin_args is None else FullyShardedDataParallelPlugin(**plugin_args),
                gradient_accumulation_plugin=GradientAccumulationPlugin(**_accumulation(trainer)),
            ),
        )
    trainer.gather_function = functools.partial(
        trainer.accelerator.gather_for_metrics, use_gather_object=args.eval_use_gather_object
    )
    state = trainer.accelerator.state
    trainer.is_deepspeed_enabled = state.deepspeed_plugin is not None
    trainer.is_fsdp_enabled = vars(state).get("fsdp_plugin") is not None
    _scale_on_host(trainer.accelerator)
    spread.check(trainer)


_LEFT: dict[str, str | None] = {}
"""What the Accelerator before this one wrote into the environment, and what stood there before."""


@contextlib.contextmanager
def _noted_environment() -> Iterator[None]:
    """Take back what the Accelerator before this one wrote into the environment, and note what this one writes.

    accelerate tells itself there that FSDP or DeepSpeed is used: the next Trainer of the process would be spread too.
    """
    for name, value in _LEFT.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    _LEFT.clear()
    before = dict(os.environ)
    yield
    changed = {name for name, value in os.environ.items() if before.get(name) != value}
    _LEFT.update({name: before.get(name) for name in changed if name.startswith(("ACCELERATE_", "FSDP_"))})


def _scale_on_host(accelerator: Accelerator) -> None:
    """Compute in float16 on the CPU too, where accelerate computes in float32 and says nothing."""
    from accelerate.utils import DistributedType

    plain = accelerator.distributed_type in (DistributedType.NO, DistributedType.MULTI_CPU)
    if accelerator.mixed_precision != "fp16" or accelerator.device.type != "cpu" or not plain:
        return
    asked = accelerator.scaler_handler
    accelerator.native_amp = True
    accelerator.scaler = torch.amp.GradScaler("cpu", **({} if asked is None else asked.to_kwargs()))


def _accumulation(trainer: Trainer) -> dict[str, object]:
    """Accelerate is told that there is no accumulation: the Trainer does it, and divides once."""
    config = cast(AcceleratorConfig, trainer.args.accelerator_config)
    asked = dict(config.gradient_accumulation_kwargs or {})
    steps = asked.get("num_steps")
    if isinstance(steps, int):
        if trainer.args.gradient_accumulation_steps > 1:
            raise InputError(
                "accumulation is asked for twice",
                where="accelerator_config.gradient_accumulation_kwargs.num_steps and gradient_accumulation_steps",
                found=f"{steps} and {trainer.args.gradient_accumulation_steps}",
                remedy="Leave num_steps out.",
            )
        trainer.args.gradient_accumulation_steps = steps
    return {**asked, "num_steps": 1}


def accelerator_options(trainer: Trainer, **kwargs: object) -> dict[str, object]:
    """``Trainer._build_accelerator_args``: the keywords of the Accelerator."""
    from accelerate.utils import DistributedDataParallelKwargs, TorchDynamoPlugin

    args = trainer.args
    asked = {
        "find_unused_parameters": args.ddp_find_unused_parameters,
        "bucket_cap_mb": args.ddp_bucket_cap_mb,
        "broadcast_buffers": args.ddp_broadcast_buffers,
        "static_graph": args.ddp_static_graph,
    }
    options = {name: value for name, value in asked.items() if value is not None}
    # Layers that are computed again for their gradients must not be looked for twice.
    options.setdefault("find_unused_parameters", not args.activation_checkpointing)
    made: dict[str, object] = {
        "mixed_precision": args.mixed_precision,
        "deepspeed_plugin": args.deepspeed_plugin,
        **kwargs,
        "kwargs_handlers": [DistributedDataParallelKwargs(**options)],
        "dynamo_plugin": TorchDynamoPlugin(backend=args.torch_compile_backend, mode=args.torch_compile_mode),
    }
    if args.parallelism_config is not None:
        made["parallelism_config"] = args.parallelism_config
    return made


def _size(accelerator: Accelerator, kind: str) -> int:
    config = accelerator.parallelism_config
    return 1 if config is None else int({"tp": config.tp_size, "cp": config.cp_size, "sp": config.sp_size}[kind])


def tp_size(trainer: Trainer) -> int:
    """Over how many processes tensors are split."""
    return _size(trainer.accelerator, "tp")


def cp_size(trainer: Trainer) -> int:
    """Over how many processes a context is split."""
    return _size(trainer.accelerator, "cp")


def sp_size(trainer: Trainer) -> int:
    """Over how many processes sequences are split."""
    return _size(trainer.accelerator, "sp")


def wrap(trainer: Trainer, model: nn.Module, training: bool = True, dataloader: object = None) -> nn.Module:
    """``Trainer._wrap_model``: put around a model what accelerate does not; nothing, by default."""
    return model


def for_evaluation(trainer: Trainer) -> nn.Module:
    """``Trainer.prepared_for_evaluation``: the model as it is called; prepared now, if no training has done that."""
    model = trainer._wrap_model(trainer.model, training=False)
    if trainer.accelerator._models:
        return trainer.model_wrapped
    begun = time.time()
    model = spread.for_evaluation(trainer, model)
    trainer.model_preparation_time = round(time.time() - begun, 4)
    trainer.model_wrapped = model
    return model


@contextlib.contextmanager
def whole_parameters(trainer: Trainer) -> Iterator[None]:
    """Within it every process has all weights, for methods that are called past the wrapped model's ``forward``."""
    yield
