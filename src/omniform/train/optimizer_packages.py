"""Optimizers that lie in packages of their own, imported when they are named; a missing one is named in the error."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, cast

import torch
from torch import Tensor, nn

from omniform.core.errors import DependencyError, InputError, brief
from omniform.train.intervals import OptimizerNames
from omniform.train.layerwise import LayerWiseDummyOptimizer
from omniform.train.optimizer_context import Made, Maker, OptimizerContext

if TYPE_CHECKING:
    from omniform.train.arguments import TrainingArguments


def _package(name: str, install: str, optimizer: object) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        if error.name and error.name.partition(".")[0] != name.partition(".")[0]:
            raise
        raise DependencyError(f"the optimizer {optimizer} is in the package {name}", remedy=install) from error


def _absent(package: str, why: str) -> Maker:
    def make(context: OptimizerContext) -> Made:
        raise DependencyError(f"the optimizer {context.args.optim} is in the package {package}", remedy=why)

    return make


def _anyprecision(context: OptimizerContext) -> Made:
    home = _package("torchdistx.optimizers", "See https://github.com/pytorch/torchdistx.", "adamw_anyprecision")
    options = context.optim_args
    types = {
        name: getattr(torch, options.text(name, default))
        for name, default in (
            ("momentum_dtype", "float32"),
            ("variance_dtype", "float32"),
            ("compensation_buffer_dtype", "bfloat16"),
        )
    }
    extra = {"use_kahan_summation": options.flag("use_kahan_summation", False), **types}
    return home.AnyPrecisionAdamW, context.optimizer_kwargs | context.adam_kwargs | extra


def _bitsandbytes(context: OptimizerContext) -> Made:
    args, options, name = context.args, context.optim_args, str(context.args.optim)
    home = _package("bitsandbytes.optim", "pip install bitsandbytes", name)
    extra: dict[str, Any] = {"optim_bits": 8 if "8bit" in name else 32}
    if "rmsprop" in name:
        taken = options.given(alpha=float, eps=float, momentum=float, weight_decay=float, centered=bool)
        return home.RMSprop, context.optimizer_kwargs | taken | extra
    extra["is_paged"] = "paged" in name
    if "lion" in name:
        return home.Lion, context.optimizer_kwargs | {"betas": (args.adam_beta1, args.adam_beta2)} | extra
    if "ademamix" not in name:
        return home.AdamW, context.optimizer_kwargs | context.adam_kwargs | extra
    extra |= {
        "betas": (
            options.number("beta1", args.adam_beta1),
            options.number("beta2", args.adam_beta2),
            options.number("beta3", 0.9999),
        ),
        "alpha": options.number("alpha", 5.0),
        "eps": options.number("eps", args.adam_epsilon),
        **options.given(t_alpha=int, t_beta3=int),
    }
    return home.AdEMAMix, context.optimizer_kwargs | extra


def _galore(context: OptimizerContext) -> Made:
    name = str(context.args.optim)
    home = _package("galore_torch", "pip install galore-torch", name)
    options = context.optim_args
    projected = {
        "rank": options.whole("rank", 128),
        "update_proj_gap": options.whole("update_proj_gap", 200),
        "scale": options.number("scale", 0.25),
        "proj_type": options.text("proj_type", "std"),
    }
    given = dict(context.optimizer_kwargs)
    if "adafactor" in name:
        given |= {"scale_parameter": False, "relative_step": False}
        return _projected(context, home.GaLoreAdafactor, projected, given)
    maker = home.GaLoreAdamW8bit if "8bit" in name else home.GaLoreAdamW
    return _projected(context, maker, projected, given)


def _apollo(context: OptimizerContext) -> Made:
    home = _package("apollo_torch", "pip install apollo-torch", context.args.optim)
    options = context.optim_args
    projected = {
        "rank": options.whole("rank", 128),
        "proj": options.text("proj", "random"),
        "scale_type": options.text("scale_type", "channel"),
        "update_proj_gap": options.whole("update_proj_gap", 200),
        "scale": options.number("scale", 1.0),
        "proj_type": options.text("proj_type", "std"),
    }
    return _projected(context, home.APOLLOAdamW, projected | context.adam_kwargs, dict(context.optimizer_kwargs))


def _projected(context: OptimizerContext, maker: Any, projected: Mapping[str, Any], given: dict[str, Any]) -> Made:
    """GaLore and APOLLO: matrices of chosen linear layers are a group with arguments of its own."""
    model, args = context.model, context.args
    chosen = target_parameters(model, args)
    others = [one for name, one in cast(nn.Module, model).named_parameters() if name not in chosen]
    targets = list(chosen.values())
    groups = [{"params": others}, {"params": targets, **projected}]
    if not str(args.optim).endswith("layerwise"):
        return maker, given | {"params": groups}
    if args.gradient_accumulation_steps != 1:
        raise InputError(
            "contradict each other: a layer is stepped with each gradient",
            where=f"optim='{args.optim}' and gradient_accumulation_steps={args.gradient_accumulation_steps}",
        )
    if args.world_size > 1:
        raise InputError(
            "steps each layer before gradients are exchanged", where=f"optim='{args.optim}'", found="several processes"
        )
    steppers: dict[Tensor, Any] = {one: maker([{"params": [one]}], **given) for one in others}
    steppers |= {one: maker([{"params": [one], **projected}], **given) for one in targets}

    def step(parameter: Tensor) -> None:
        if parameter.grad is not None:
            steppers[parameter].step()
            steppers[parameter].zero_grad()

    for parameter in cast(nn.Module, model).parameters():
        if parameter.requires_grad:
            cast(Any, parameter).register_post_accumulate_grad_hook(step)
    return LayerWiseDummyOptimizer, given | {"params": groups, "optimizer_dict": steppers}


def target_parameters(model: nn.Module | None, args: TrainingArguments) -> dict[str, Tensor]:
    """Weights of the linear layers that ``optim_target_modules`` names.

    Raises:
        InputError: there are none, or it names what is no linear layer.
    """
    wanted, where = args.optim_target_modules, f"optim='{args.optim}'"
    if wanted is None:
        raise InputError("needs optim_target_modules", where=where, remedy="Name linear layers, or say 'all-linear'.")
    if not isinstance(wanted, list | str):
        raise InputError("cannot be this", where="optim_target_modules", expected="names", found=brief(wanted))
    if model is None:
        raise InputError("needs the model", where=where)
    everything = isinstance(wanted, str) and wanted.replace("_", "-") == "all-linear"
    found = {
        f"{name}.weight": module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and (everything or check_target_module_exists(wanted, name))
    }
    if not found:
        raise InputError("names no linear layer", where="optim_target_modules", found=brief(wanted))
    return found


def check_target_module_exists(
    optim_target_modules: str | list[str], key: str, return_is_regex: bool = False
) -> bool | tuple[bool, bool]:
    """Whether a module is among the named ones.

    Args:
        optim_target_modules: a pattern for the whole name; or a list of names, parts of names and patterns.
        key: the module's name.
        return_is_regex: also tell whether a pattern found it.
    """
    if isinstance(optim_target_modules, str):
        found, pattern = bool(re.fullmatch(optim_target_modules, key)), optim_target_modules != key
    else:
        found, pattern = any(one in key for one in optim_target_modules), False
        if not found:
            found = pattern = any(re.fullmatch(one, key) for one in optim_target_modules)
    return (found, pattern) if return_is_regex else found


def _lomo(context: OptimizerContext) -> Made:
    home = _package("lomo_optim", "pip install lomo-optim", context.args.optim)
    if context.model is None:
        raise InputError("needs the model", where=f"optim='{context.args.optim}'")
    maker = home.AdaLomo if context.args.optim == OptimizerNames.ADALOMO else home.Lomo
    return maker, context.optimizer_kwargs | {"model": context.model}


def _grokadamw(context: OptimizerContext) -> Made:
    home = _package("grokadamw", "pip install grokadamw", "grokadamw")
    options = context.optim_args
    return home.GrokAdamW, context.optimizer_kwargs | {
        "alpha_init": options.number("alpha_init", 0.98),
        "lamb": options.number("lamb", 2.0),
        "gamma": options.number("gamma", 0.1),
        "grokking_signal_decay_rate": options.number("grokking_signal_decay_rate", 0.1),
        "gradient_clipping": options.number("gradient_clipping", 1.0),
    }


def _torchao(context: OptimizerContext) -> Made:
    home = _package("torchao.optim", "pip install 'torchao>=0.11'", context.args.optim)
    options = context.optim_args
    maker = home.AdamW4bit if context.args.optim == OptimizerNames.ADAMW_TORCH_4BIT else home.AdamW8bit
    extra = {
        "block_size": options.whole("block_size", 256),
        "bf16_stochastic_round": options.flag("bf16_stochastic_round", False),
    }
    return maker, context.optimizer_kwargs | context.adam_kwargs | extra


def _schedule_free(context: OptimizerContext) -> Made:
    args, options = context.args, context.optim_args
    home = _package("schedulefree", "pip install 'schedulefree>=1.4'", args.optim)
    extra: dict[str, Any] = {"weight_decay": args.weight_decay}
    if args.optim == OptimizerNames.SCHEDULE_FREE_RADAM:
        maker, extra = home.RAdamScheduleFree, extra | context.adam_kwargs
    else:
        if 0 < args.warmup_steps < 1:
            raise InputError(
                "needs a number of steps", where=f"optim='{args.optim}'", found=f"warmup_steps={args.warmup_steps}"
            )
        extra["warmup_steps"] = args.warmup_steps
        maker = home.SGDScheduleFree
        if args.optim == OptimizerNames.SCHEDULE_FREE_ADAMW:
            maker, extra = home.AdamWScheduleFree, extra | context.adam_kwargs
    extra |= {"weight_lr_power": options.number("weight_lr_power", 2.0), "r": options.number("r", 0.0)}
    return maker, context.optimizer_kwargs | extra


def _stable_adamw(context: OptimizerContext) -> Made:
    home = _package("optimi", "pip install torch-optimi", "stable_adamw")
    options = context.optim_args
    extra = {"max_lr": None, "kahan_sum": None} | options.given(max_lr=float, kahan_sum=bool)
    extra |= {"decouple_lr": options.flag("decouple_lr", False), "weight_decay": context.args.weight_decay}
    return home.StableAdamW, context.optimizer_kwargs | context.adam_kwargs | extra


_N = OptimizerNames
PACKAGED: Final[dict[OptimizerNames, Maker]] = {
    _N.ADAMW_TORCH_XLA: _absent("torch_xla", "omniform trains on CPU and CUDA: say adamw_torch_fused."),
    _N.ADAMW_TORCH_NPU_FUSED: _absent("torch_npu", "omniform trains on CPU and CUDA: say adamw_torch_fused."),
    _N.ADAMW_ANYPRECISION: _anyprecision,
    _N.GROKADAMW: _grokadamw,
    _N.STABLE_ADAMW: _stable_adamw,
    **dict.fromkeys((_N.LOMO, _N.ADALOMO), _lomo),
    **dict.fromkeys((_N.ADAMW_TORCH_4BIT, _N.ADAMW_TORCH_8BIT), _torchao),
    **dict.fromkeys((_N.SCHEDULE_FREE_RADAM, _N.SCHEDULE_FREE_ADAMW, _N.SCHEDULE_FREE_SGD), _schedule_free),
    **dict.fromkeys((_N.APOLLO_ADAMW, _N.APOLLO_ADAMW_LAYERWISE), _apollo),
    **dict.fromkeys((_N.GALORE_ADAMW, _N.GALORE_ADAMW_8BIT, _N.GALORE_ADAFACTOR), _galore),
    **dict.fromkeys(
        (_N.GALORE_ADAMW_LAYERWISE, _N.GALORE_ADAMW_8BIT_LAYERWISE, _N.GALORE_ADAFACTOR_LAYERWISE), _galore
    ),
    **dict.fromkeys((_N.ADAMW_BNB, _N.ADAMW_8BIT, _N.PAGED_ADAMW, _N.PAGED_ADAMW_8BIT), _bitsandbytes),
    **dict.fromkeys((_N.ADEMAMIX, _N.ADEMAMIX_8BIT, _N.PAGED_ADEMAMIX, _N.PAGED_ADEMAMIX_8BIT), _bitsandbytes),
    **dict.fromkeys((_N.LION, _N.LION_8BIT, _N.PAGED_LION, _N.PAGED_LION_8BIT), _bitsandbytes),
    **dict.fromkeys((_N.RMSPROP_BNB, _N.RMSPROP_8BIT, _N.RMSPROP_32BIT), _bitsandbytes),
}
"""Who makes which optimizer of a package."""
