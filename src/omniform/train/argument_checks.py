"""What arguments say together: defaults that follow from others, and pairs that contradict each other."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import fields
from typing import TYPE_CHECKING, Final

import torch

from omniform.core.errors import InputError, brief
from omniform.core.logs import WARNING, get_logger
from omniform.train.accelerator_config import AcceleratorConfig
from omniform.train.argument_kinds import FALSE, TRUE
from omniform.train.argument_table import TABLE
from omniform.train.fsdp_arguments import plugin_arguments
from omniform.train.intervals import DebugOption, IntervalStrategy, SaveStrategy, SchedulerType
from omniform.train.parallel.settings import set_deepspeed

if TYPE_CHECKING:
    from omniform.train.arguments import TrainingArguments

DICTS: Final = (
    "accelerator_config",
    "fsdp_config",
    "deepspeed",
    "activation_checkpointing_kwargs",
    "gradient_checkpointing_kwargs",
    "lr_scheduler_kwargs",
    "liger_kernel_config",
)
"""Arguments that are mappings, and on a command line JSON."""


def read(args: TrainingArguments) -> None:
    """Read every value as its kind, then fill in what follows, then look for contradictions."""
    _read_mappings(args)
    for one in fields(args):
        if one.name in TABLE:
            value = vars(args)[one.name]
            if value is None and one.default is None:
                continue  # a subclass may let an argument say nothing
            setattr(args, one.name, TABLE[one.name].read(one.name, value, one.default))
    _fill(args)
    _check(args)


# -- reading ---------------------------------------------------------------------------------------------------------


def _read_mappings(args: TrainingArguments) -> None:
    for name in args._VALID_DICT_FIELDS:
        value = vars(args)[name]
        if isinstance(value, str) and value.lstrip().startswith("{"):
            try:
                setattr(args, name, _typed(json.loads(value)))
            except ValueError as error:
                raise InputError("is no JSON", where=name, found=brief(value), remedy=str(error)) from error


def _typed(value: object) -> object:
    # Shells make texts of everything.
    if isinstance(value, dict):
        return {key: _typed(one) for key, one in value.items()}
    if isinstance(value, str):
        if value.lower() in ("true", "false"):
            return value.lower() == "true"
        if value.isdigit():
            return int(value)
        if value.replace(".", "", 1).isdigit():
            return float(value)
    return value


def accelerator_settings(value: object) -> AcceleratorConfig:
    """Settings of accelerate, from whatever says them."""
    if value is None:
        return AcceleratorConfig()
    if isinstance(value, AcceleratorConfig):
        return value
    if isinstance(value, type):
        raise InputError(
            "is a class",
            where="accelerator_config",
            found=value.__name__,
            remedy="Make an object of it: AcceleratorConfig().",
        )
    if isinstance(value, str | os.PathLike):
        return AcceleratorConfig.from_json_file(value)
    return AcceleratorConfig.read(value)


def reporters(value: str | Iterable[str] | None) -> list[str]:
    """Names of tools to report to; a Kubeflow TrainJob, which says so in the environment, is always one.

    Raises:
        InputError: a name that no tool has.
    """
    from omniform.train.reporting.table import also_told, named_tools

    return also_told(named_tools(value))


def tokens_seen(value: object) -> str:
    """Which tokens are counted."""
    if isinstance(value, str) and value.lower() in (*TRUE, *FALSE, "all", "non_padding"):
        word = value.lower()
        return "all" if word in TRUE else "no" if word in FALSE else word
    if isinstance(value, bool):
        return "all" if value else "no"
    raise InputError(
        "cannot be this",
        where="include_num_input_tokens_seen",
        expected="'all', 'non_padding' or 'no'",
        found=brief(value),
    )


def debug_options(value: object) -> list[DebugOption]:
    """What is watched."""
    if not value:
        return []
    words = value.split() if isinstance(value, str) else value
    if not isinstance(words, list | tuple):
        raise InputError("cannot be this", where="debug", expected="words", found=brief(value))
    options = [DebugOption(word) for word in words]
    for option in options:
        remedy = "There are no TPUs here."
        if option == DebugOption.UNDERFLOW_OVERFLOW:
            remedy = "torch.autograd.set_detect_anomaly(True) finds the operation that gives no number."
        raise InputError("cannot be set", where="debug", found=str(option), remedy=remedy)
    return options


# -- what follows ----------------------------------------------------------------------------------------------------


def _fill(args: TrainingArguments) -> None:
    args.output_dir = os.path.expanduser("trainer_output" if args.output_dir is None else args.output_dir)
    for old, new in (
        ("gradient_checkpointing", "activation_checkpointing"),
        ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"),
    ):
        if vars(args)[new] is None:
            setattr(args, new, vars(args)[old])
        setattr(args, old, vars(args)[new])
    if args.activation_checkpointing is None:
        args.activation_checkpointing = args.gradient_checkpointing = False
    if args.disable_tqdm is None:
        args.disable_tqdm = get_logger().getEffectiveLevel() > WARNING
    args.include_num_input_tokens_seen = tokens_seen(args.include_num_input_tokens_seen)
    args.debug = list(debug_options(args.debug))
    args.report_to = reporters(args.report_to)
    args.accelerator_config = accelerator_settings(args.accelerator_config)
    if args.include_for_metrics is None:
        args.include_for_metrics = []
    _fill_evaluation(args)
    if args.torch_compile_mode is not None or args.torch_compile_backend is not None:
        args.torch_compile = True
    if args.torch_compile and args.torch_compile_backend is None:
        args.torch_compile_backend = "inductor"
    if args.use_cpu:
        args.dataloader_pin_memory = False


def _fill_evaluation(args: TrainingArguments) -> None:
    if args.eval_strategy != IntervalStrategy.NO:
        args.do_eval = True
    if args.eval_strategy == IntervalStrategy.STEPS and not args.eval_steps:
        if not args.logging_steps:
            raise InputError(
                "evaluates never",
                where="eval_strategy='steps'",
                found=f"eval_steps={args.eval_steps} and logging_steps={args.logging_steps}",
                remedy="Set eval_steps.",
            )
        args.eval_steps = args.logging_steps
    by_metric = args.lr_scheduler_type in (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY)
    if (args.load_best_model_at_end or by_metric) and args.metric_for_best_model is None:
        args.metric_for_best_model = "loss"
    if args.greater_is_better is None and args.metric_for_best_model is not None:
        args.greater_is_better = not args.metric_for_best_model.endswith("loss")


# -- contradictions --------------------------------------------------------------------------------------------------


def _against(one: str, other: str, why: str, remedy: str | None = None) -> InputError:
    return InputError(f"{one} and {other} contradict each other: {why}", where="TrainingArguments", remedy=remedy)


def _check(args: TrainingArguments) -> None:
    _check_steps(args)
    _check_best(args)
    _check_precision(args)
    if args.max_steps <= 0 and args.num_train_epochs < 0:
        raise _against(
            f"num_train_epochs={args.num_train_epochs:g}",
            f"max_steps={args.max_steps}",
            "neither says how long to train",
        )
    follows = args.lr_scheduler_type in (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY)
    if follows and args.eval_strategy == IntervalStrategy.NO:
        raise _against(
            f"lr_scheduler_type={str(args.lr_scheduler_type)!r}",
            "eval_strategy='no'",
            "the schedule follows a metric of evaluations",
            "Set eval_strategy to 'steps' or 'epoch'.",
        )
    if args.warmup_steps > 1 and args.warmup_steps != int(args.warmup_steps):
        raise InputError(
            "cannot be this",
            where="warmup_steps",
            expected="a whole number of steps, or a share of them below 1",
            found=args.warmup_steps,
        )
    _check_loading(args)


def _check_loading(args: TrainingArguments) -> None:
    if args.dataloader_num_workers == 0:
        if args.dataloader_prefetch_factor is not None:
            raise _against(
                f"dataloader_prefetch_factor={args.dataloader_prefetch_factor}",
                "dataloader_num_workers=0",
                "without workers nothing is loaded ahead",
            )
        if args.dataloader_persistent_workers:
            # torch refuses it when the loader is made, long after.
            raise _against(
                "dataloader_persistent_workers=True", "dataloader_num_workers=0", "there are no workers to keep"
            )


def _check_steps(args: TrainingArguments) -> None:
    stated = (
        ("logging_steps", args.logging_strategy == IntervalStrategy.STEPS),
        ("eval_steps", args.eval_strategy == IntervalStrategy.STEPS),
        ("save_steps", args.save_strategy == SaveStrategy.STEPS),
    )
    for name, counts in stated:
        steps = vars(args)[name]
        if not counts or steps is None:
            continue
        if steps == 0 and name != "save_steps":
            kind = name.replace("steps", "strategy")
            raise _against(f"{kind}='steps'", f"{name}=0", "it would never happen", f"Set {name}, or {kind}='no'.")
        if steps > 1 and steps != int(steps):
            raise InputError(
                "cannot be this",
                where=name,
                expected="a whole number of steps, or a share of them below 1",
                found=steps,
            )
        if steps > 1:
            setattr(args, name, int(steps))


def _check_best(args: TrainingArguments) -> None:
    if not args.load_best_model_at_end or args.save_strategy == SaveStrategy.BEST:
        return
    if str(args.eval_strategy) != str(args.save_strategy):
        raise _against(
            f"eval_strategy={str(args.eval_strategy)!r}",
            f"save_strategy={str(args.save_strategy)!r}",
            "load_best_model_at_end=True needs a checkpoint where the model was evaluated",
            "Set both to the same, or save_strategy='best'.",
        )
    every, saved = args.eval_steps, args.save_steps
    if args.eval_strategy != IntervalStrategy.STEPS or every is None:
        return
    why = "load_best_model_at_end=True needs a checkpoint where the model was evaluated"
    if (every < 1) != (saved < 1):
        raise _against(f"save_steps={saved}", f"eval_steps={every}", f"{why}; one is a share, the other a number")
    ratio = saved / every
    if not math.isclose(ratio, round(ratio), rel_tol=1e-6) or round(ratio) < 1:
        raise _against(f"save_steps={saved}", f"eval_steps={every}", why, "Make save_steps a multiple of eval_steps.")


def _check_precision(args: TrainingArguments) -> None:
    if args.fp16 and args.bf16:
        raise _against("fp16=True", "bf16=True", "one of them is computed in")
    if args.fp16_full_eval and args.bf16_full_eval:
        raise _against("fp16_full_eval=True", "bf16_full_eval=True", "one of them is computed in")
    on_gpu = not args.use_cpu and torch.cuda.is_available()
    if (args.bf16 or args.bf16_full_eval) and on_gpu and not torch.cuda.is_bf16_supported():
        raise _against("bf16=True", "use_cpu=False", "this GPU does not compute in bfloat16", "Set fp16 or use_cpu.")
    if args.tf32 and not tf32_available():
        raise InputError("cannot be set", where="tf32", found=True, remedy="It needs CUDA and an Ampere GPU or newer.")


def tf32_available() -> bool:
    """Whether the present GPU computes in TensorFloat-32."""
    return (
        torch.cuda.is_available()
        and torch.version.cuda is not None
        and torch.cuda.get_device_properties(torch.cuda.current_device()).major >= 8
    )


def set_products(args: TrainingArguments) -> None:
    """Let float32 products use TensorFloat-32, or not, as the arguments say; nothing where they say nothing."""
    wanted = args.tf32
    if wanted is None and args.torch_compile and tf32_available() and not args.fp16:
        wanted = True
    if wanted is not None and tf32_available():
        torch.backends.cuda.matmul.fp32_precision = "tf32" if wanted else "ieee"
        torch.backends.cudnn.fp32_precision = "tf32" if wanted else "ieee"


def set_engines(args: TrainingArguments) -> None:
    """What accelerate's plugins for FSDP and DeepSpeed are made of."""
    args.fsdp_plugin_args = plugin_arguments(args)
    set_deepspeed(args)
