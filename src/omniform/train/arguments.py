"""The arguments of a training: ``TrainingArguments`` and ``Seq2SeqTrainingArguments``.

Names, defaults and order are the ecosystem's (https://huggingface.co/docs/transformers/main_classes/trainer). What each
does is said in :mod:`omniform.train.argument_table`; values are read and compared in
:mod:`omniform.train.argument_checks`.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import math
import os
import sys
from abc import ABCMeta
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, TypeVar, cast, get_type_hints

import torch

from omniform.core.errors import UnknownArgumentError, nearest
from omniform.core.generation import GenerationConfig
from omniform.core.logs import get_logger, get_verbosity
from omniform.train import argument_checks, devices, former
from omniform.train.accelerator_config import AcceleratorConfig
from omniform.train.argument_table import LOG_LEVELS, TABLE
from omniform.train.intervals import (
    DebugOption,
    HubStrategy,
    IntervalStrategy,
    OptimizerNames,
    ParallelMode,
    SaveStrategy,
    SchedulerType,
)
from omniform.train.sections import Sections

T = TypeVar("T")

if TYPE_CHECKING:
    from omniform.train.parallel.deepspeed import HfTrainerDeepSpeedConfig


if TYPE_CHECKING:
    Sharding = bool | str | list[str]
else:
    Sharding = str  # what follows on a command line, where the name alone means True


class ParallelismConfig(Protocol):
    """What is asked of accelerate's class of this name."""

    def to_json(self) -> object:
        """The settings as JSON holds them."""


class _Arguments(ABCMeta):
    """Takes arguments of earlier releases, and names the nearest argument where one does not exist."""

    def __call__(cls: type[T], *given: object, **named: object) -> T:
        present = frozenset(inspect.signature(cls).parameters)
        turned, kept = former.turn(named, present)
        _check_names(cls, turned)
        made = type.__call__(cls, *given, **turned)
        for name, value in kept.items():
            setattr(made, name, value)
        return cast(T, made)

    @property
    def __signature__(cls) -> inspect.Signature:
        # What is shown is the class's own, not that of the call above.
        own = inspect.signature(cls.__init__)  # type: ignore[misc] # the class's, whichever it is
        return own.replace(parameters=list(own.parameters.values())[1:])


def _check_names(cls: type, given: Mapping[str, object]) -> None:
    parameters = inspect.signature(cls).parameters
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        return
    for name in given:
        if name not in parameters:
            remedy = nearest(name, [*parameters, *former.FORMER])
            raise UnknownArgumentError(f"{cls.__name__} has no argument {name!r}", remedy=remedy)


@dataclass(repr=False)
class TrainingArguments(Sections, metaclass=_Arguments):
    """Everything that can be said about a training.

    Every argument has a default. Values are read when the object is made: texts that are numbers become numbers, and a
    value out of range, or two that contradict each other, are refused by name. The object can be changed afterwards.

    Raises:
        InputError: a value cannot be had, or contradicts another.
        UnknownArgumentError: there is no such argument.
    """

    output_dir: str | None = None
    per_device_train_batch_size: int = 8
    num_train_epochs: float = 3.0
    max_steps: int = -1
    learning_rate: float = 5e-5
    lr_scheduler_type: SchedulerType | str = "linear"
    lr_scheduler_kwargs: dict[str, object] | str | None = None
    warmup_steps: float = 0
    optim: OptimizerNames | str = "adamw_torch_fused"
    optim_args: str | None = None
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    optim_target_modules: None | str | list[str] = None  # noqa: RUF036 # parsers take the second
    gradient_accumulation_steps: int = 1
    average_tokens_across_devices: bool = True
    max_grad_norm: float = 1.0
    label_smoothing_factor: float = 0.0
    bf16: bool = False
    fp16: bool = False
    bf16_full_eval: bool = False
    fp16_full_eval: bool = False
    tf32: bool | None = None
    activation_checkpointing: bool | None = None
    activation_checkpointing_kwargs: dict[str, object] | str | None = None
    gradient_checkpointing: bool | None = None
    gradient_checkpointing_kwargs: dict[str, object] | str | None = None
    torch_compile: bool = False
    torch_compile_backend: str | None = None
    torch_compile_mode: str | None = None
    use_liger_kernel: bool = False
    liger_kernel_config: dict[str, bool] | None = None
    use_cache: bool = False
    neftune_noise_alpha: float | None = None
    torch_empty_cache_steps: int | None = None
    auto_find_batch_size: bool = False
    logging_strategy: IntervalStrategy | str = "steps"
    logging_steps: float = 500
    logging_first_step: bool = False
    log_on_each_node: bool = True
    logging_nan_inf_filter: bool = True
    include_num_input_tokens_seen: str | bool = "no"
    log_level: str = "passive"
    log_level_replica: str = "warning"
    disable_tqdm: bool | None = None
    report_to: None | str | list[str] = "none"  # noqa: RUF036
    run_name: str | None = None
    project: str = "huggingface"
    trackio_space_id: str | None = None
    trackio_bucket_id: str | None = None
    trackio_static_space_id: str | None | Literal[False] = None  # noqa: RUF036
    eval_strategy: IntervalStrategy | str = "no"
    eval_steps: float | None = None
    eval_delay: float = 0
    per_device_eval_batch_size: int = 8
    prediction_loss_only: bool = False
    eval_on_start: bool = False
    eval_do_concat_batches: bool = True
    eval_use_gather_object: bool = False
    eval_accumulation_steps: int | None = None
    include_for_metrics: list[str] = field(default_factory=list)
    batch_eval_metrics: bool = False
    save_only_model: bool = False
    save_strategy: SaveStrategy | str = "steps"
    save_steps: float = 500
    save_on_each_node: bool = False
    save_total_limit: int | None = None
    enable_jit_checkpoint: bool = False
    push_to_hub: bool = False
    hub_token: str | None = None
    hub_private_repo: bool | None = None
    hub_model_id: str | None = None
    hub_strategy: HubStrategy | str = "every_save"
    hub_always_push: bool = False
    hub_revision: str | None = None
    load_best_model_at_end: bool = False
    metric_for_best_model: str | None = None
    greater_is_better: bool | None = None
    ignore_data_skip: bool = False
    restore_callback_states_from_checkpoint: bool = False
    full_determinism: bool = False
    seed: int = 42
    data_seed: int | None = None
    use_cpu: bool = False
    accelerator_config: dict[str, object] | str | AcceleratorConfig | None = None
    parallelism_config: ParallelismConfig | None = None
    dataloader_drop_last: bool = False
    dataloader_num_workers: int = 0
    dataloader_pin_memory: bool = True
    dataloader_persistent_workers: bool = False
    dataloader_prefetch_factor: int | None = None
    dataloader_multiprocessing_context: str | None = None
    dataloader_in_order: bool = True
    remove_unused_columns: bool = True
    label_names: list[str] | None = None
    train_sampling_strategy: str = "random"
    length_column_name: str = "length"
    ddp_find_unused_parameters: bool | None = None
    ddp_bucket_cap_mb: int | None = None
    ddp_broadcast_buffers: bool | None = None
    ddp_static_graph: bool | None = None
    ddp_backend: str | None = None
    ddp_timeout: int = 1800
    fsdp: Sharding | None = None
    fsdp_config: dict[str, object] | str | None = None
    deepspeed: dict[str, object] | str | None = None
    debug: str | list[DebugOption] = ""
    skip_memory_metrics: bool = True
    do_train: bool = False
    do_eval: bool = False
    do_predict: bool = False
    resume_from_checkpoint: str | None = None
    local_rank: int = -1

    _VALID_DICT_FIELDS: ClassVar[list[str]] = list(argument_checks.DICTS)
    framework: ClassVar[str] = "pt"
    default_optim: ClassVar[str] = "adamw_torch_fused"

    def __post_init__(self) -> None:
        """Read all values; a subclass that has its own calls this one."""
        argument_checks.read(self)
        self.mixed_precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        if self.fp16 or self.bf16:
            self.mixed_precision = "fp16" if self.fp16 else "bf16"
        self._anew = True
        self._gpus: int | None = None
        self.fsdp_plugin_args: dict[str, object] | None = None
        self.deepspeed_plugin: object = None
        self.hf_deepspeed_config: HfTrainerDeepSpeedConfig | None = None
        if "accelerate" in sys.modules:
            # Its state belongs to the arguments that were made last, as scripts for the ecosystem expect. Where nobody
            # has imported it there is no state, and nothing is imported before a device is asked for.
            _ = self.device
        argument_checks.set_products(self)
        argument_checks.set_engines(self)

    # -- texts -------------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        shown = {one.name: vars(self).get(one.name) for one in fields(self)}
        hidden = {name: f"<{name.upper()}>" if name.endswith("_token") else value for name, value in shown.items()}
        lines = "".join(f"{name}={value},\n" for name, value in sorted(hidden.items()))
        return f"{type(self).__name__}(\n{lines})"

    __str__ = __repr__

    def to_dict(self) -> dict[str, object]:
        """The arguments as JSON can hold them; tokens are hidden."""
        return {
            one.name: f"<{one.name.upper()}>" if one.name.endswith("_token") else _plain(vars(self)[one.name])
            for one in fields(self)
            if one.init
        }

    def to_json_string(self) -> str:
        """The arguments as JSON; tokens are hidden."""
        return json.dumps(self.to_dict(), indent=2)

    def to_sanitized_dict(self) -> dict[str, object]:
        """The arguments as reporters take them: truth values, numbers, texts and tensors."""
        known = (bool, int, float, str, torch.Tensor)
        all_of_them = self.to_dict() | {
            "train_batch_size": self.train_batch_size,
            "eval_batch_size": self.eval_batch_size,
        }
        return {name: value if type(value) in known else str(value) for name, value in all_of_them.items()}

    # -- devices and processes ---------------------------------------------------------------------------------------

    @functools.cached_property
    def _places(self) -> devices.Places:
        return devices.find(self, anew=self._anew)

    @property
    def distributed_state(self) -> object:
        """accelerate's ``PartialState``."""
        return self._places.state

    @property
    def device(self) -> torch.device:
        """The device that this process computes on; accelerate is set up when it is first asked for."""
        return self._setup_devices

    @property
    def _setup_devices(self) -> torch.device:
        return self._places.device

    @property
    def n_gpu(self) -> int:
        """GPUs that this process uses: more than one only where one process has them all."""
        return self._n_gpu

    @property
    def _n_gpu(self) -> int:
        return self._places.gpus if self._gpus is None else self._gpus

    @_n_gpu.setter
    def _n_gpu(self, gpus: int) -> None:
        self._gpus = gpus

    @property
    def train_batch_size(self) -> int:
        """Rows of a training batch in this process."""
        return self.per_device_train_batch_size * max(1, self.n_gpu)

    @property
    def eval_batch_size(self) -> int:
        """Rows of an evaluation batch in this process."""
        return self.per_device_eval_batch_size * max(1, self.n_gpu)

    @property
    def parallel_mode(self) -> ParallelMode:
        """How many devices and processes work at the model."""
        if self._places.state.distributed_type.value != "NO":
            return ParallelMode.DISTRIBUTED
        return ParallelMode.NOT_DISTRIBUTED if self.n_gpu > 1 else ParallelMode.NOT_PARALLEL

    @property
    def world_size(self) -> int:
        """How many processes there are."""
        return int(self._places.state.num_processes)

    @property
    def process_index(self) -> int:
        """Which of them this is."""
        return int(self._places.state.process_index)

    @property
    def local_process_index(self) -> int:
        """Which of this machine's processes this is."""
        return int(self._places.state.local_process_index)

    @property
    def should_log(self) -> bool:
        """Whether this process is to write logs."""
        return (self.local_process_index if self.log_on_each_node else self.process_index) == 0

    @property
    def should_save(self) -> bool:
        """Whether this process is to write files."""
        return (self.local_process_index if self.save_on_each_node else self.process_index) == 0

    @property
    def place_model_on_device(self) -> bool | None:
        """Whether the Trainer moves the model; None: as it sees fit. For subclasses."""
        return None

    @property
    def ddp_timeout_delta(self) -> timedelta:
        """How long processes wait for each other."""
        return timedelta(seconds=self.ddp_timeout)

    @property
    def _no_sync_in_gradient_accumulation(self) -> bool:
        return not self.deepspeed

    @contextlib.contextmanager
    def main_process_first(self, local: bool = True, desc: str = "work") -> Iterator[None]:
        """Let the main process do something first, while the others wait.

        Args:
            local: the main process of each machine; False: of all machines.
            desc: what is done, for logs.
        """
        if self.world_size == 1:
            yield
            return
        main = (self.local_process_index if local else self.process_index) == 0
        if not main:
            get_logger().debug("%d waits for %s", self.process_index, desc)
            torch.distributed.barrier()
        try:
            yield
        finally:
            if main:
                torch.distributed.barrier()

    def get_process_log_level(self) -> int:
        """The level of logging of this process."""
        level = LOG_LEVELS[self.log_level if self.should_log else self.log_level_replica]
        return get_verbosity() if level == LOG_LEVELS["passive"] else level

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """Steps of warmup in a training of so many steps."""
        if self.warmup_steps >= 1:
            return int(self.warmup_steps)
        return math.ceil(num_training_steps * self.warmup_steps)

    # -- copies and older names --------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, object]:
        """The arguments without what belongs to this process; a copy finds its device where it is asked for it."""
        return {name: value for name, value in vars(self).items() if name != "_places"} | {"_anew": False}

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> object:
            older = former.FORMER.get(name)
            if older is not None and older.reads is not None:
                return getattr(self, older.reads)
            if name in former.KEPT:
                return former.KEPT[name]
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)


@dataclass(repr=False)
class Seq2SeqTrainingArguments(TrainingArguments):
    """Arguments of a training whose model writes texts when it is evaluated."""

    sortish_sampler: bool = False
    predict_with_generate: bool = False
    generation_max_length: int | None = None
    generation_num_beams: int | None = None
    generation_config: str | Path | GenerationConfig | None = None


def _plain(value: object) -> object:
    """A value as JSON can hold it."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, AcceleratorConfig | GenerationConfig):
        return value.to_dict()
    if isinstance(value, list) and value and isinstance(value[0], Enum):
        return [one.value for one in value]
    if isinstance(value, torch.dtype):
        return str(value).partition(".")[2]
    if isinstance(value, dict):
        return {key: _plain(one) if isinstance(one, dict | torch.dtype) else one for key, one in value.items()}
    if type(value).__name__ == "ParallelismConfig":
        return cast(ParallelismConfig, value).to_json()
    return value


def _describe(cls: type[TrainingArguments]) -> None:
    # What command lines show of a field is in its metadata, and parsers read types, not texts.
    hints = get_type_hints(cls)
    for one in fields(cls):
        one.type = hints[one.name]
        argument = TABLE[one.name]
        described: dict[str, object] = {"help": argument.help.replace("%", "%%")}
        if argument.choices:
            described["choices"] = argument.choices
        if argument.switch:
            described |= {"nargs": "?", "const": True}
        one.metadata = MappingProxyType({**one.metadata, **described})


_describe(Seq2SeqTrainingArguments)

__all__ = ["Seq2SeqTrainingArguments", "TrainingArguments"]
