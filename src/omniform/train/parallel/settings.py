"""Which engine spreads a training over its processes: from arguments and environment to accelerate's objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from omniform.core.errors import InputError
from omniform.train.devices import environment, on

if TYPE_CHECKING:
    from accelerate import Accelerator

    from omniform.train.arguments import TrainingArguments


def set_deepspeed(args: TrainingArguments) -> None:
    """Read ``deepspeed=``, or what ``accelerate launch`` says of DeepSpeed, and fill it from the arguments.

    ``args.deepspeed`` stays as it was given; ``args.hf_deepspeed_config`` holds what was filled.

    Raises:
        InputError: it cannot be read; DeepSpeed and FSDP are both asked for.
        DependencyError: deepspeed or accelerate is not installed.
    """
    if args.deepspeed and args.fsdp:
        raise InputError(
            "only one engine can split a model",
            where="fsdp and deepspeed",
            found="both",
            remedy="Leave one of them out.",
        )
    if not args.deepspeed and not on("ACCELERATE_USE_DEEPSPEED"):
        return
    from omniform.train.parallel.deepspeed import HfTrainerDeepSpeedConfig, plugin

    if not args.deepspeed:
        launched = plugin()
        launched.set_mixed_precision(args.mixed_precision)
        launched.set_deepspeed_weakref()
        args.deepspeed_plugin = launched
        return
    args.hf_deepspeed_config = HfTrainerDeepSpeedConfig(args.deepspeed)
    args.hf_deepspeed_config.trainer_config_process(args)
    args.deepspeed_plugin = plugin(args.hf_deepspeed_config)


def make_accelerator(args: TrainingArguments, options: dict[str, Any]) -> Accelerator:
    """The Accelerator of a training, whatever spreads it over its processes.

    Args:
        options: its keywords.
    """
    from accelerate import Accelerator

    _ = args.device  # processes find each other when it is first asked for
    plugin = options.get("fsdp_plugin")
    if args.device.type != "cpu":
        return Accelerator(**options)
    if args.deepspeed_plugin is not None:
        # Accelerate leaves DeepSpeed out wherever it is told of processors.
        with environment(ACCELERATE_USE_CPU=None):
            return Accelerator(**options)
    accelerator = Accelerator(**options, cpu=args.world_size > 1)
    if plugin is None and on("ACCELERATE_USE_FSDP"):
        from accelerate.utils import FullyShardedDataParallelPlugin

        plugin = FullyShardedDataParallelPlugin()
    if plugin is not None:
        from omniform.train.parallel import fsdp

        fsdp.take_part(accelerator, plugin)
    return accelerator
