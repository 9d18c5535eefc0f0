"""DeepSpeed by the ecosystem's names: its configuration filled from training arguments, its engine made and resumed.

A value ``"auto"`` in the configuration means what the training arguments or the model's config say; a value that
contradicts them is refused, all such values at once. The engine itself comes with the package deepspeed, through
accelerate.
"""

from __future__ import annotations

import copy
import glob
import importlib.util
import logging
import os
from collections.abc import Callable, Mapping
from functools import partialmethod
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from omniform.core.errors import DependencyError, InputError, brief, listed
from omniform.hub.partitioned import (
    deepspeed_config,
    is_deepspeed_available,
    is_deepspeed_zero3_enabled,
    set_hf_deepspeed_config,
    unset_hf_deepspeed_config,
)
from omniform.weights.spread import with_scalars

if TYPE_CHECKING:
    from accelerate import Accelerator

    from omniform.train.arguments import TrainingArguments
    from omniform.train.trainer import Trainer

log = logging.getLogger("omniform")

__all__ = [
    "HfDeepSpeedConfig",
    "HfTrainerDeepSpeedConfig",
    "deepspeed_config",
    "deepspeed_init",
    "deepspeed_load_checkpoint",
    "deepspeed_optim_sched",
    "is_deepspeed_available",
    "is_deepspeed_zero3_enabled",
    "propagate_args_to_deepspeed",
    "set_hf_deepspeed_config",
    "unset_hf_deepspeed_config",
]

if TYPE_CHECKING or importlib.util.find_spec("accelerate") is not None:
    from accelerate.utils.deepspeed import HfDeepSpeedConfig as _Settings
else:
    _Settings = object  # nobody can make one

_BY_WIDTH = (
    "zero_optimization.reduce_bucket_size",
    "zero_optimization.stage3_prefetch_bucket_size",
    "zero_optimization.stage3_param_persistence_threshold",
)
"""Settings that may be ``"auto"`` and follow from the model's width."""


def need_packages() -> None:
    """Raise :class:`DependencyError` unless accelerate and deepspeed are installed."""
    for package in ("accelerate", "deepspeed"):
        if importlib.util.find_spec(package) is None:
            raise DependencyError(f"{package} is not installed", remedy=f"pip install {package} installs it.")


class HfDeepSpeedConfig(_Settings):  # type: ignore[misc]
    """DeepSpeed's settings; while this object lives, ``from_pretrained`` splits models if they say ZeRO-3.

    Args:
        config_file_or_dict: a mapping (which is copied), a path to a JSON file, or JSON, plain or in base64.

    Raises:
        InputError: it can be read as none of these.
        DependencyError: deepspeed is not installed.
    """

    config: dict[str, object]

    def __init__(self, config_file_or_dict: Mapping[str, object] | str | os.PathLike[str]) -> None:
        need_packages()
        try:
            if isinstance(config_file_or_dict, Mapping):
                super().__init__(dict(config_file_or_dict))
            else:
                super().__init__(os.fspath(config_file_or_dict))  # a number is no path, though a file may have one
        except (ValueError, TypeError, OSError, AttributeError) as error:
            raise InputError(
                "no configuration of DeepSpeed",
                where="deepspeed",
                expected="a dict, a path to a JSON file, or JSON",
                found=brief(config_file_or_dict),
            ) from error
        set_hf_deepspeed_config(self)


class HfTrainerDeepSpeedConfig(HfDeepSpeedConfig):
    """The settings of a training: those that are ``"auto"`` are filled from its arguments and its model.

    Attributes:
        mismatches: values that contradict the arguments, in words.
    """

    def __init__(self, config_file_or_dict: Mapping[str, object] | str | os.PathLike[str]) -> None:
        super().__init__(config_file_or_dict)
        self._dtype: torch.dtype | None = None
        self.mismatches: list[str] = []

    def dtype(self) -> torch.dtype:
        """What is computed in.

        Raises:
            InputError: the arguments were not looked at yet.
        """
        if self._dtype is None:
            raise InputError("the dtype is not known yet", where="dtype", remedy="Call trainer_config_process first.")
        return self._dtype

    def is_auto(self, ds_key_long: str) -> bool:
        """Whether a setting is to be filled in."""
        return bool(self.get_value(ds_key_long) == "auto")

    def fill_match(self, ds_key_long: str, hf_val: object, hf_key: str | None = None, must_match: bool = True) -> None:
        """Fill a setting that is ``"auto"``; note one that says something else.

        Args:
            ds_key_long: the setting, as ``"optimizer.params.lr"``; where its section is absent, nothing happens.
            hf_val: what the arguments say.
            hf_key: what they call it.
            must_match: whether another value is a mistake.
        """
        section, key = self.find_config_node(ds_key_long)
        if section is None:
            return
        found = section.get(key)
        if found == "auto":
            section[key] = hf_val
        elif must_match and found is not None and found != hf_val:
            self.mismatches.append(f"- ds {ds_key_long}={found} vs hf {hf_key}={hf_val}")

    fill_only = partialmethod(fill_match, must_match=False)

    def trainer_config_process(self, args: TrainingArguments, auto_find_batch_size: bool = False) -> None:
        """Fill in what the arguments tell.

        Args:
            auto_find_batch_size: the size of batches was found by trying: settings that say another are no mistake.
        """
        rows, pieces = args.per_device_train_batch_size, args.gradient_accumulation_steps
        strict = not auto_find_batch_size
        warmest = args.learning_rate
        self.fill_match("train_micro_batch_size_per_gpu", rows, "per_device_train_batch_size", strict)
        self.fill_match("gradient_accumulation_steps", pieces, "gradient_accumulation_steps")
        self.fill_match("train_batch_size", args.world_size * rows * pieces, "train_batch_size (calculated)", strict)
        self.fill_match("gradient_clipping", args.max_grad_norm, "max_grad_norm")
        self.fill_match("optimizer.params.lr", warmest, "learning_rate")
        self.fill_match("optimizer.params.betas", [args.adam_beta1, args.adam_beta2], "adam_beta1+adam_beta2")
        self.fill_match("optimizer.params.eps", args.adam_epsilon, "adam_epsilon")
        self.fill_match("optimizer.params.weight_decay", args.weight_decay, "weight_decay")
        self.fill_only("scheduler.params.warmup_min_lr", 0)
        self.fill_match("scheduler.params.warmup_max_lr", warmest, "learning_rate")
        if args.save_on_each_node:
            self.config["checkpoint"] = {
                **cast("dict[str, object]", self.config.get("checkpoint") or {}),
                "use_node_local_storage": args.save_on_each_node,
            }
        self.fill_match("fp16.enabled", args.fp16 or args.fp16_full_eval, "fp16|fp16_full_eval")
        self.fill_match("bf16.enabled", args.bf16 or args.bf16_full_eval, "bf16|bf16_full_eval")
        half = torch.bfloat16 if self.is_true("bf16.enabled") else torch.float16
        self._dtype = half if self.is_true("bf16.enabled") or self.is_true("fp16.enabled") else torch.float32

    def trainer_config_finalize(self, args: TrainingArguments, model: nn.Module, num_training_steps: int) -> None:
        """Fill in what the model and the number of steps tell.

        Raises:
            InputError: settings contradict the arguments (all are listed); the model's width is wanted and not known.
        """
        wanted = [name for name in _BY_WIDTH if self.is_auto(name)]
        if wanted:
            width = _width(model)
            if width is None:
                raise InputError(
                    "the model's config has no hidden_size to fill these in by",
                    where="deepspeed",
                    found=listed(wanted),
                    remedy="Give numbers instead of 'auto'.",
                )
            self.fill_only(_BY_WIDTH[0], width * width)
            if self.is_zero3():
                self.fill_only(_BY_WIDTH[1], int(0.9 * width * width))
                self.fill_only(_BY_WIDTH[2], 10 * width)
        self.fill_match("scheduler.params.total_num_steps", num_training_steps, "num_training_steps (calculated)")
        # DeepSpeed wants at least one step of warming up.
        warm = max(1, args.get_warmup_steps(num_training_steps))
        self.fill_match("scheduler.params.warmup_num_steps", warm, "warmup_steps")
        if self.mismatches:
            raise InputError(
                "the DeepSpeed settings contradict the training arguments:\n" + "\n".join(self.mismatches) + "\n",
                where="deepspeed",
                remedy="Set these DeepSpeed values to 'auto'.",
            )


def _width(model: nn.Module) -> int | None:
    config: object = vars(model).get("config") or vars(type(model)).get("config")
    from omniform.architectures.model import Model

    if isinstance(model, Model):
        config = model.config
    for owner in (config, _said(config, "text_config")):
        width, widths = _said(owner, "hidden_size"), _said(owner, "hidden_sizes")
        if isinstance(width, int):
            return width
        if isinstance(widths, (list, tuple)) and widths:
            return max(int(one) for one in widths)
    return None


def _said(owner: object, name: str) -> object:
    if isinstance(owner, Mapping):
        return owner.get(name)
    try:
        return cast(object, getattr(owner, name))  # a config of whatever class
    except AttributeError:
        return None


# -- engines ----------------------------------------------------------------------------------------------------------


def propagate_args_to_deepspeed(
    accelerator: Accelerator, args: TrainingArguments, auto_find_batch_size: bool = False
) -> None:
    """Fill the settings that ``accelerate launch`` brought from the arguments of a training."""
    plugin = accelerator.state.deepspeed_plugin
    plugin.hf_ds_config = HfTrainerDeepSpeedConfig(plugin.hf_ds_config.config)
    plugin.deepspeed_config = plugin.hf_ds_config.config
    plugin.hf_ds_config.trainer_config_process(args, auto_find_batch_size)


def deepspeed_optim_sched(
    trainer: Trainer,
    hf_deepspeed_config: HfTrainerDeepSpeedConfig,
    args: TrainingArguments,
    num_training_steps: int,
    model_parameters: list[nn.Parameter],
) -> tuple[object, object]:
    """The optimizer and the scheduler to hand to accelerate: DeepSpeed's own where its settings name them.

    Returns:
        the optimizer and the scheduler; stand-ins for DeepSpeed's, None for a scheduler that the trainer makes later.
    """
    from accelerate.utils import DummyOptim, DummyScheduler

    settings = hf_deepspeed_config.config
    theirs = "optimizer" in settings
    optimizer: Any
    if theirs:
        optimizer = DummyOptim(params=model_parameters)
    else:
        optimizer = trainer.create_optimizer()
        settings["zero_allow_untested_optimizer"] = True
    if "scheduler" in settings:
        return optimizer, DummyScheduler(optimizer)
    if not theirs:
        return optimizer, None

    def scheduled(made: torch.optim.Optimizer) -> object:
        # Its own trainer keeps the stand-in.
        other = copy.copy(trainer)
        other.lr_scheduler = None
        return other.create_scheduler(num_training_steps=num_training_steps, optimizer=made)

    return optimizer, DummyScheduler(optimizer, lr_scheduler_callable=cast("Callable[..., object]", scheduled))


def deepspeed_init(trainer: Trainer, num_training_steps: int, inference: bool = False) -> tuple[object, object]:
    """Complete the settings of a trainer's DeepSpeed and make what ``accelerator.prepare`` takes.

    Args:
        num_training_steps: of one process.
        inference: without optimizer and scheduler; of use with ZeRO-3 only.

    Returns:
        the optimizer and the scheduler, or stand-ins; (None, None) for inference.

    Raises:
        InputError: settings contradict the arguments; inference without ZeRO-3.
    """
    from deepspeed.utils import logger as their_log

    settings = trainer.accelerator.state.deepspeed_plugin.hf_ds_config
    settings.trainer_config_finalize(trainer.args, trainer.model, num_training_steps)
    their_log.setLevel(trainer.args.get_process_log_level())
    if inference:
        if not settings.is_zero3():
            raise InputError(
                "without training only ZeRO-3 has something to do",
                where="deepspeed: zero_optimization.stage",
                expected=3,
                found=settings.get_value("zero_optimization.stage"),
                remedy="Evaluate without deepspeed.",
            )
        settings.del_config_sub_tree("optimizer")
        settings.del_config_sub_tree("lr_scheduler")
        return None, None
    trainer.optimizer = None  # it may be the second training of this trainer
    parameters = [p for p in trainer.model.parameters() if p.requires_grad]
    return deepspeed_optim_sched(trainer, settings, trainer.args, num_training_steps, parameters)


def deepspeed_load_checkpoint(deepspeed_engine: Any, checkpoint_path: str, load_module_strict: bool = True) -> None:
    """Have an engine go on from a checkpoint of DeepSpeed's: weights, optimizer and scheduler.

    Raises:
        InputError: the folder holds none, or DeepSpeed does not read it.
    """
    if not glob.glob(f"{glob.escape(str(checkpoint_path))}/global_step*"):
        raise InputError(
            "there is no checkpoint of DeepSpeed in this folder",
            where=str(checkpoint_path),
            expected="a folder global_stepN",
        )
    found, _ = deepspeed_engine.load_checkpoint(
        str(checkpoint_path),
        load_module_strict=load_module_strict,
        load_optimizer_states=True,
        load_lr_scheduler_states=True,
    )
    if found is None:
        raise InputError("DeepSpeed could not go on from this checkpoint", where=str(checkpoint_path))


def plugin(settings: HfTrainerDeepSpeedConfig | None = None) -> Any:
    """Accelerate's plugin with these settings, or with those of ``accelerate launch``.

    Accelerate's own notes its settings with the reference library, which need not be installed.
    """
    from accelerate.utils import DeepSpeedPlugin

    class Plugin(DeepSpeedPlugin):  # type: ignore[misc]
        def set_deepspeed_weakref(self) -> None:
            self.dschf = settings or HfDeepSpeedConfig(self.deepspeed_config)

    Plugin.__name__ = Plugin.__qualname__ = "DeepSpeedPlugin"
    return Plugin() if settings is None else Plugin(hf_ds_config=settings)


def full_state_dict(engine: Any) -> dict[str, torch.Tensor] | None:
    """The whole model, in the first process's main memory; all must call it.

    Returns:
        None where ZeRO-3's settings forbid to bring it together (``stage3_gather_16bit_weights_on_model_save``).
    """
    if engine.zero_optimization_stage() < 3:
        return with_scalars(engine.module, {n: t.detach().cpu() for n, t in engine.module.state_dict().items()})
    if not engine.zero_gather_16bit_weights_on_model_save():
        return None
    return with_scalars(engine.module, engine._zero3_consolidated_16bit_state_dict() or {})
