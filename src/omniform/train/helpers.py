"""Functions that scripts of the ecosystem call beside a Trainer, and its methods as functions."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, cast, overload

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, RandomSampler, Sampler

from omniform.architectures.surface import Surface
from omniform.core.bars import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled
from omniform.core.errors import InputError
from omniform.core.idioms import SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_INDEX_NAME, strtobool
from omniform.core.logs import get_logger, log_levels
from omniform.train.arguments import TrainingArguments
from omniform.train.model_files import check_same, read_shards
from omniform.train.safe_files import PLAIN
from omniform.train.state import TrainerState
from omniform.train.wrapped import without_adapters

if TYPE_CHECKING:
    from omniform.train.trainer import Trainer

logger = get_logger(__name__)

trainer_log_levels: dict[str, int] = {**log_levels, "passive": -1}
"""Words of ``log_level`` and ``log_level_replica``."""


# -- a Trainer's methods, as functions -------------------------------------------------------------------------------


def log_metrics(self: Trainer, split: str, metrics: Mapping[str, object]) -> None:
    """See :meth:`Trainer.log_metrics`."""
    self.log_metrics(split, metrics)


def save_metrics(self: Trainer, split: str, metrics: Mapping[str, object], combined: bool = True) -> None:
    """See :meth:`Trainer.save_metrics`."""
    self.save_metrics(split, metrics, combined)


def save_state(self: Trainer) -> None:
    """See :meth:`Trainer.save_state`."""
    self.save_state()


def get_num_trainable_parameters(self: Trainer) -> int:
    """See :meth:`Trainer.get_num_trainable_parameters`."""
    return self.get_num_trainable_parameters()


def get_learning_rates(self: Trainer) -> list[float]:
    """See :meth:`Trainer.get_learning_rates`."""
    return self.get_learning_rates()


def get_optimizer_group(self: Trainer, param: str | nn.Parameter | None = None) -> object:
    """See :meth:`Trainer.get_optimizer_group`."""
    return self.get_optimizer_group(param)


# -- models ----------------------------------------------------------------------------------------------------------


def get_model_param_count(model: nn.Module, trainable_only: bool = False) -> int:
    """How many numbers a model has, or learns; with ZeRO-3, over all processes."""
    chosen = (p for p in model.parameters() if p.requires_grad or not trainable_only)
    return sum(int(vars(p).get("ds_numel", p.numel())) for p in chosen)


def get_module_class_from_name(module: nn.Module, name: str) -> type[nn.Module] | None:
    """The class of that name of a module or of one within it; None where there is none."""
    return next((type(one) for one in module.modules() if type(one).__name__ == name), None)


def unwrap_peft_model(model: nn.Module) -> nn.Module:
    """The model that PEFT stands around; the model itself, where it does not."""
    return without_adapters(model)


def unwrap_model(model: nn.Module, recursive: bool = False) -> nn.Module:
    """The model without what processes put around it; ``recursive``: around the modules in it too."""
    from accelerate.utils import extract_model_from_parallel

    return cast(nn.Module, extract_model_from_parallel(model, recursive=recursive))


def validate_quantization_for_training(model: nn.Module) -> None:
    """Refuse to train integers.

    Raises:
        InputError: a quantized model has no adapters, or is compiled.
    """
    compiled = vars(model)["_modules"].get("_orig_mod")
    inner = model if compiled is None else cast(nn.Module, compiled)
    if not isinstance(inner, Surface) or not inner.is_quantized or inner._hf_peft_config_loaded:
        return
    raise InputError(
        f"the model is quantized{'' if compiled is None else ' and compiled'}, and nothing on it learns",
        where="model",
        expected="a quantized model with adapters",
        found=f"{type(inner).__name__} quantized by {inner.quantization_method}",
        remedy="Put adapters on it: PEFT's get_peft_model, or add_adapter.",
    )


class Incompatible(NamedTuple):
    """What ``load_state_dict`` tells."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def load_sharded_checkpoint(
    model: nn.Module, folder: str | os.PathLike[str], strict: bool = True, prefer_safe: bool = True
) -> Incompatible:
    """Read weights of several files with an index into a model.

    Args:
        strict: whether names that are missing or strange are refused.
        prefer_safe: safetensors first, where there are pickled files too; otherwise the pickled ones.

    Raises:
        InputError: there is no index.
        WeightsError: with ``strict``, they are another model's; they are damaged.
    """
    home = Path(folder)
    indices = [name for name in (SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_INDEX_NAME) if (home / name).is_file()]
    if not indices:
        raise InputError("there is no index of weights", where=str(home), expected=SAFE_WEIGHTS_INDEX_NAME)
    tensors = read_shards(home / indices[0 if prefer_safe else -1])
    own = model.state_dict()
    if strict:
        check_same(tensors, own, own, str(home))
    model.load_state_dict(tensors, strict=False)
    return Incompatible([name for name in own if name not in tensors], [name for name in tensors if name not in own])


# -- arguments and checkpoints ---------------------------------------------------------------------------------------


def compare_trainer_and_checkpoint_args(training_args: TrainingArguments, trainer_state: TrainerState) -> None:
    """Warn of steps between reports, evaluations and checkpoints, and of batch sizes, that differ from a state's."""
    pairs: dict[str, tuple[object, object]] = {
        "logging_steps": (training_args.logging_steps, trainer_state.logging_steps),
        "eval_steps": (training_args.eval_steps, trainer_state.eval_steps),
        "save_steps": (training_args.save_steps, trainer_state.save_steps),
        "per_device_train_batch_size": (
            training_args.per_device_train_batch_size,
            None if trainer_state.train_batch_size is None
            else trainer_state.train_batch_size // max(1, training_args.n_gpu),
        ),
    }  # fmt: skip
    differ = [
        f"{name} is {now}, and was {then}"
        for name, (now, then) in pairs.items()
        if None not in (now, then) and now != then
    ]
    if differ:
        logger.warning_once(f"The arguments are not those that the checkpoint was made with: {'; '.join(differ)}")


def remove_dummy_checkpoint(
    is_main_process: bool, output_dir: str | os.PathLike[str], filenames: Iterable[str]
) -> None:
    """Remove files that stand for weights which are saved elsewhere, in the main process."""
    if is_main_process:
        for name in filenames:
            (Path(output_dir) / name).unlink(missing_ok=True)


class SetsStates(Protocol):
    """A device's generators, as ``torch.cuda.random`` has them."""

    def set_rng_state(self, state: Tensor) -> None: ...

    def set_rng_state_all(self, states: list[Tensor]) -> None: ...


class HasGenerators(Protocol):
    """``torch.cuda`` and its like."""

    random: SetsStates


def set_rng_state_for_device(
    device_name: str, device_module: HasGenerators, checkpoint_rng_state: Mapping[str, object], is_distributed: bool
) -> None:
    """Set a kind of device's generators back; what does not fit is logged as an error."""
    try:
        state = checkpoint_rng_state[device_name.lower()]
        if is_distributed:
            device_module.random.set_rng_state_all(cast("list[Tensor]", state))
        else:
            device_module.random.set_rng_state(cast(Tensor, state))
    except (KeyError, RuntimeError, TypeError, AttributeError) as error:
        logger.error("The generators of %s are not as they were, so that results differ: %s", device_name, error)


def safe_globals() -> AbstractContextManager[None]:
    """Let ``torch.load(..., weights_only=True)`` read states of NumPy's generators."""
    return cast("AbstractContextManager[None]", torch.serialization.safe_globals(list(PLAIN)))


# -- names and words -------------------------------------------------------------------------------------------------


@overload
def check_target_module_exists(
    optim_target_modules: str | Sequence[str], key: str, return_is_regex: Literal[False] = False
) -> bool: ...


@overload
def check_target_module_exists(
    optim_target_modules: str | Sequence[str], key: str, return_is_regex: Literal[True]
) -> tuple[bool, bool]: ...


def check_target_module_exists(
    optim_target_modules: str | Sequence[str], key: str, return_is_regex: bool = False
) -> bool | tuple[bool, bool]:
    """Whether a module's path is meant by ``optim_target_modules``: a pattern, or names, parts of names and patterns.

    Args:
        return_is_regex: tell too whether it was met as a pattern.
    """
    if isinstance(optim_target_modules, str):
        found = re.fullmatch(optim_target_modules, key) is not None
        pattern = optim_target_modules != key
    else:
        named = any(target in key for target in optim_target_modules)
        pattern = not named and any(re.fullmatch(target, key) for target in optim_target_modules)
        found = named or pattern
    return (found, pattern) if return_is_regex else found


def str_to_bool(value: str, to_bool: bool = True) -> int | bool:
    """A word that says yes or no, as a boolean or as 1 or 0.

    Raises:
        ValueError: it says neither.
    """
    said = strtobool(value)
    return bool(said) if to_bool else said


@contextlib.contextmanager
def suppress_progress_bars() -> Iterator[None]:
    """Draw no bars for a while, of saving and downloads neither."""
    drawn = is_progress_bar_enabled()
    disable_progress_bar()
    try:
        yield
    finally:
        if drawn:
            enable_progress_bar()


def has_mixed_dtensor(tensors: Iterable[Tensor]) -> bool:
    """Whether tensors lie on more than one mesh of devices, so that no kernel takes them all at once."""
    from torch.distributed.tensor import DTensor

    return len({one.device_mesh if isinstance(one, DTensor) else None for one in tensors}) > 1


def get_tpu_sampler(dataset: Dataset[object], batch_size: int) -> Sampler[int]:
    """A random order: omniform does not run on TPUs, where every process would get a part of it."""
    return RandomSampler(cast("Sized", dataset))


__all__ = [
    "SAFE_WEIGHTS_INDEX_NAME",
    "WEIGHTS_INDEX_NAME",
    "check_target_module_exists",
    "compare_trainer_and_checkpoint_args",
    "get_learning_rates",
    "get_model_param_count",
    "get_module_class_from_name",
    "get_num_trainable_parameters",
    "get_optimizer_group",
    "get_tpu_sampler",
    "has_mixed_dtensor",
    "load_sharded_checkpoint",
    "log_levels",
    "log_metrics",
    "remove_dummy_checkpoint",
    "safe_globals",
    "save_metrics",
    "save_state",
    "set_rng_state_for_device",
    "str_to_bool",
    "suppress_progress_bars",
    "trainer_log_levels",
    "unwrap_model",
    "unwrap_peft_model",
    "validate_quantization_for_training",
]
