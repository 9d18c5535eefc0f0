"""What accelerate's plugin for FSDP is made of, from ``fsdp`` and ``fsdp_config``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from omniform.core.errors import InputError, brief, nearest
from omniform.core.logs import get_logger
from omniform.train.argument_kinds import Flag, Whole
from omniform.train.intervals import FSDPOption

if TYPE_CHECKING:
    from omniform.train.arguments import TrainingArguments

POLICIES: Final = ("TRANSFORMER_BASED_WRAP", "SIZE_BASED_WRAP", "NO_WRAP")
BOTH: Final = {
    "version", "min_num_params", "transformer_layer_cls_to_wrap", "cpu_offload", "auto_wrap_policy",
    "cpu_ram_efficient_loading", "state_dict_type", "activation_checkpointing", "reshard_after_forward",
}  # fmt: skip
FIRST: Final = {"forward_prefetch", "backward_prefetch", "use_orig_params", "sync_module_states", "limit_all_gathers"}
TPU: Final = {"xla", "xla_fsdp_v2", "xla_fsdp_grad_ckpt", "xla_fsdp_settings"}


def plugin_arguments(args: TrainingArguments) -> dict[str, object] | None:
    """Arguments for accelerate's ``FullyShardedDataParallelPlugin``; None where the model is not sharded.

    ``args.fsdp`` becomes True and ``args.fsdp_config`` the whole of the settings, as scripts read them.

    Raises:
        InputError: a setting is unknown, or cannot be had.
    """
    if not args.fsdp:
        return None
    config = _read(args.fsdp_config)
    version = Whole(1, most=2).read("fsdp_config['version']", config.get("version", 2))
    if not isinstance(args.fsdp, bool) and args.fsdp not in ("true", "True"):
        _earlier(args.fsdp, config, first=version == 1)
    args.fsdp, args.fsdp_config = True, config
    config.setdefault("min_num_params", 0)
    layers = config.get("transformer_layer_cls_to_wrap")
    if isinstance(layers, str):
        layers = config["transformer_layer_cls_to_wrap"] = [layers]
    for name in TPU - {"xla_fsdp_settings"}:
        if Flag().read(f"fsdp_config[{name!r}]", config.setdefault(name, False)):
            raise InputError("cannot be set", where=f"fsdp_config[{name!r}]", remedy="There are no TPUs here.")
    policy = config.get("auto_wrap_policy", POLICIES[0])
    if policy not in POLICIES:
        raise InputError(
            "cannot be this",
            where="fsdp_config['auto_wrap_policy']",
            expected=f"one of {', '.join(POLICIES)}",
            found=brief(policy),
        )
    made: dict[str, object] = {"fsdp_version": version, "auto_wrap_policy": policy}
    if _flag(config, "cpu_offload", False):
        made["cpu_offload"] = True
    if policy == POLICIES[1] and Whole(0).read("fsdp_config['min_num_params']", config["min_num_params"]):
        made["min_num_params"] = config["min_num_params"]
    if policy == POLICIES[0] and isinstance(layers, list | tuple):
        made["transformer_cls_names_to_wrap"] = ",".join(str(one) for one in layers)
    made["cpu_ram_efficient_loading"] = _flag(config, "cpu_ram_efficient_loading", False)
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = str(made["cpu_ram_efficient_loading"]).lower()
    made["state_dict_type"] = config.get("state_dict_type", "FULL_STATE_DICT")
    if "activation_checkpointing" in config:
        made["activation_checkpointing"] = _flag(config, "activation_checkpointing", False)
    return made | (_first(config) if version == 1 else _second(config))


def _second(config: Mapping[str, object]) -> dict[str, object]:
    given = sorted(FIRST & config.keys())
    if given:
        get_logger().warning_once(f"fsdp_config: {', '.join(given)} are of FSDP 1 and change nothing in FSDP 2")
    return {"reshard_after_forward": _flag(config, "reshard_after_forward", True)}


def _first(config: Mapping[str, object]) -> dict[str, object]:
    made: dict[str, object] = {
        "reshard_after_forward": str(config.get("reshard_after_forward", "full_shard")).lower(),
        "forward_prefetch": _flag(config, "forward_prefetch", False),
        "backward_prefetch": str(config.get("backward_prefetch", "NO_PREFETCH")).upper(),
        "use_orig_params": _flag(config, "use_orig_params", True),
        "sync_module_states": _flag(config, "sync_module_states", True),
    }
    if "limit_all_gathers" in config:
        made["limit_all_gathers"] = _flag(config, "limit_all_gathers", True)
    return made


def _flag(config: Mapping[str, object], name: str, default: bool) -> bool:
    return bool(Flag().read(f"fsdp_config[{name!r}]", config.get(name, default)))


def _read(given: object) -> dict[str, object]:
    if isinstance(given, str | os.PathLike):
        try:
            given = json.loads(Path(given).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError("cannot be read", where="fsdp_config", found=str(error)) from error
    if given is None:
        given = {}
    if not isinstance(given, Mapping):
        raise InputError("cannot be this", where="fsdp_config", expected="a mapping", found=brief(given))
    config = {str(key).removeprefix("fsdp_"): value for key, value in given.items()}
    known = BOTH | FIRST | TPU
    for key in config:
        if key not in known:
            raise InputError(f"no setting {key!r}", where="fsdp_config", remedy=nearest(key, known))
    return config


def _earlier(given: object, config: dict[str, object], *, first: bool) -> None:
    """``fsdp="full_shard auto_wrap"`` and the like, turned into settings."""
    words = given.split() if isinstance(given, str) else given
    if not isinstance(words, list | tuple):
        raise InputError("cannot be this", where="fsdp", expected="True or False", found=brief(given))
    get_logger().warning_once(f"fsdp={brief(given)} is of an earlier release: fsdp=True and fsdp_config say it")
    for word in words:
        option = FSDPOption(str(word).lower())
        if option == FSDPOption.OFFLOAD:
            config.setdefault("cpu_offload", True)
        elif option != FSDPOption.AUTO_WRAP and first:
            config.setdefault("reshard_after_forward", str(option))
        elif option in (FSDPOption.FULL_SHARD, FSDPOption.SHARD_GRAD_OP):
            config.setdefault("reshard_after_forward", option == FSDPOption.FULL_SHARD)
        elif option != FSDPOption.AUTO_WRAP:
            raise InputError(
                "FSDP 2 has no such way to shard",
                where="fsdp",
                found=str(option),
                remedy="Say full_shard or shard_grad_op, or fsdp_config={'version': 1}.",
            )
