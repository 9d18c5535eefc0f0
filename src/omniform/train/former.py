"""Arguments of earlier releases that scripts still pass: taken with one word, or refused with their heir.

An argument with an exact heir is turned into it; one that never did anything to training is kept where scripts read
it; any other is refused, and the message says what takes its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from omniform.core.errors import InputError, brief
from omniform.core.logs import get_logger

Given = dict[str, object]


@dataclass(frozen=True, slots=True)
class Former:
    """One such argument.

    Args:
        turn: what it makes of the arguments that are given, which it may change; False: it cannot be had.
        heir: what takes its place, in words.
        reads: the argument that tells its value now, if there is one.
        switch: it is a truth value.
    """

    turn: Callable[[Given, object], bool]
    heir: str
    reads: str | None = None
    switch: bool = False


def _renamed(heir: str, *, switch: bool = False) -> Former:
    def turn(given: Given, value: object) -> bool:
        if given.get(heir, value) != value:
            found = f"{brief(given[heir])}, and {brief(value)} by an older name"
            raise InputError("two names of one argument say different things", where=heir, found=found)
        given[heir] = value
        return True

    return Former(turn, f"{heir} is its name", heir, switch)


def _when(wanted: object, heir: str, value: object) -> Former:
    """``name=wanted`` is ``heir=value``; anything false is nothing."""

    def turn(given: Given, found: object) -> bool:
        if found == wanted:
            given.setdefault(heir, value)
        return found == wanted or not found

    return Former(turn, f"{heir}={value!r} says it", switch=wanted is True)


def _idle(*values: object, heir: str) -> Former:
    """It may have these values, which mean nothing."""

    def turn(given: Given, found: object) -> bool:
        return found is None or found in values

    return Former(turn, heir, switch=False in values)


def _inside(config: str, key: str) -> Former:
    def turn(given: Given, found: object) -> bool:
        if found is None:
            return True
        held = given.get(config)
        if held is not None and not isinstance(held, Mapping):
            return False
        given[config] = {**(held or {}), key: found}
        return True

    return Former(turn, f"{config}={{{key!r}: ...}} says it")


def _ratio(given: Given, found: object) -> bool:
    # Steps went before a share of steps.
    if not given.get("warmup_steps") and found:
        given["warmup_steps"] = found
    try:
        return found is None or 0 <= float(str(found)) < 1
    except ValueError:
        return False


def _metrics(given: Given, found: object) -> bool:
    if found:
        held = given.get("include_for_metrics")
        names = list(held) if isinstance(held, list | tuple) else []
        given["include_for_metrics"] = names if "inputs" in names else [*names, "inputs"]
    return True


def _kept(given: Given, found: object) -> bool:
    return True


KEPT: Final = {"logging_dir": None, "overwrite_output_dir": False}
"""Arguments that stay readable as attributes, and their defaults."""

FORMER: Final[dict[str, Former]] = {
    "evaluation_strategy": _renamed("eval_strategy"),
    "no_cuda": _renamed("use_cpu", switch=True),
    "per_gpu_train_batch_size": _renamed("per_device_train_batch_size"),
    "per_gpu_eval_batch_size": _renamed("per_device_eval_batch_size"),
    "push_to_hub_token": _renamed("hub_token"),
    "push_to_hub_model_id": _renamed("hub_model_id"),
    "push_to_hub_organization": _idle(heir="hub_model_id='organization/name' says it"),
    "torchdynamo": _renamed("torch_compile_backend"),
    "xpu_backend": _renamed("ddp_backend"),
    "warmup_ratio": Former(_ratio, "warmup_steps below 1 is a share of all steps"),
    "group_by_length": _when(True, "train_sampling_strategy", "group_by_length"),
    "include_tokens_per_second": _when(True, "include_num_input_tokens_seen", "all"),
    "adafactor": _when(True, "optim", "adafactor"),
    "evaluate_during_training": _when(True, "eval_strategy", "steps"),
    "include_inputs_for_metrics": Former(_metrics, "include_for_metrics=['inputs'] says it", switch=True),
    "fsdp_min_num_params": _inside("fsdp_config", "min_num_params"),
    "fsdp_transformer_layer_cls_to_wrap": _inside("fsdp_config", "transformer_layer_cls_to_wrap"),
    "split_batches": _inside("accelerator_config", "split_batches"),
    "dispatch_batches": _inside("accelerator_config", "dispatch_batches"),
    "fp16_backend": _idle("auto", "amp", "cuda_amp", "cpu_amp", heir="torch's autocast is used"),
    "half_precision_backend": _idle("auto", "amp", "cuda_amp", "cpu_amp", heir="torch's autocast is used"),
    "fp16_opt_level": _idle("O1", heir="torch's autocast is used, which has no levels"),
    "use_mps_device": _idle(False, True, heir="the device is found by itself"),
    "use_ipex": _idle(False, heir="torch_compile=True is the way to faster CPUs"),
    "jit_mode_eval": _idle(False, heir="torch_compile=True compiles the model"),
    "use_legacy_prediction_loop": _idle(False, heir="there is one evaluation loop"),
    "save_safetensors": _idle(True, heir="models are always saved as safetensors"),
    "past_index": _idle(-1, heir="a model keeps its states itself"),
    "mp_parameters": _idle("", heir="accelerate, FSDP and DeepSpeed spread a model; SageMaker's library does not"),
    "tpu_num_cores": _idle(0, heir="omniform does not train on TPUs"),
    "tpu_metrics_debug": _idle(False, heir="omniform does not train on TPUs"),
    "ray_scope": _idle("last", heir="hyperparameter_search(scope=...) says it"),
    "sharded_ddp": _idle("", False, heir="fsdp=True shards the model"),
    "logging_dir": Former(_kept, "it is where TensorBoard's files go; the environment's TENSORBOARD_LOGGING_DIR too"),
    "overwrite_output_dir": Former(
        _kept, "training never empties output_dir; resume_from_checkpoint goes on from what is there", switch=True
    ),
}
"""Arguments of earlier releases, by name."""


def turn(given: Mapping[str, object], present: frozenset[str]) -> tuple[Given, Given]:
    """Arguments with those of earlier releases turned into their heirs.

    Args:
        given: arguments by name.
        present: names that the class has as arguments of its own.

    Returns:
        the arguments, and the values of :data:`KEPT` ones.

    Raises:
        InputError: one cannot be had; the remedy names what takes its place.
    """
    turned = {name: value for name, value in given.items() if name in present or name not in FORMER}
    kept: Given = {}
    for name, value in given.items():
        if name in turned:
            continue
        former = FORMER[name]
        if not former.turn(turned, value):
            raise InputError("is an argument no more", where=name, found=brief(value), remedy=f"{former.heir}.")
        if name in KEPT:
            kept[name] = value
        get_logger().warning_once(f"the argument {name} is of an earlier release: {former.heir}")
    return turned, kept
