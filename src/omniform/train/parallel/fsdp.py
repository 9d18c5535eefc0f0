"""FSDP2: every process holds a part of every parameter, and brings one layer together at a time.

``fully_shard`` (torch) is called on each layer, found by structure: what lies in a list of modules and has modules of
its own. Parameters that several layers share (T5's table of relative positions, DeBERTa's), tied tables and biases
belong to the whole model, which torch demands of shared parameters and accelerate's own wrapping does not do.

    from omniform.integrations import fsdp

    model, optimizer = fsdp.prepare(accelerator, model, optimizer)

does for any loop what :class:`~omniform.Trainer` does, in the place of ``accelerator.prepare(model, optimizer)``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from omniform.architectures.surface import Surface
from omniform.core.errors import InputError, brief, nearest
from omniform.weights.spread import widen_scalars, with_scalars, without_scalars

if TYPE_CHECKING:
    from accelerate import Accelerator
    from accelerate.optimizer import AcceleratedOptimizer
    from accelerate.utils import FullyShardedDataParallelPlugin
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy

__all__ = [
    "full_state_dict",
    "get_fsdp_ckpt_kwargs",
    "is_fsdp_enabled",
    "is_fsdp_managed_module",
    "load_full_state_dict",
    "prepare",
    "shard",
    "update_fsdp_plugin_peft",
]

TRUE = ("1", "true", "yes", "on", "y", "t")


def is_fsdp_enabled() -> bool:
    """Whether processes are started for FSDP with ``cpu_ram_efficient_loading``.

    In the ecosystem only the first process then reads the weights. Ours are mapped from their files, so that the
    processes of a machine share the pages, and each of them loads as ever.
    """
    return (
        dist.is_available()
        and dist.is_initialized()
        and os.environ.get("ACCELERATE_USE_FSDP", "").lower() in TRUE
        and os.environ.get("FSDP_CPU_RAM_EFFICIENT_LOADING", "").lower() in TRUE
    )


def is_fsdp_managed_module(module: nn.Module) -> bool:
    """Whether FSDP holds this module's parameters in parts: FSDP2, or FSDP1's wrapper."""
    if not dist.is_available():
        return False
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

    return isinstance(module, (FSDPModule, FullyShardedDataParallel))


def get_fsdp_ckpt_kwargs() -> dict[str, bool]:
    """Keywords for accelerate's functions that save and load what FSDP holds: of adapters only what was trained."""
    return {"adapter_only": True}


def update_fsdp_plugin_peft(model: nn.Module, accelerator: Accelerator) -> None:
    """Have FSDP1 wrap the layers that an adapter trains by themselves; FSDP2 needs nothing."""
    from peft.utils.other import fsdp_auto_wrap_policy

    policy = cast("Callable[[nn.Module], object]", fsdp_auto_wrap_policy)
    accelerator.state.fsdp_plugin.auto_wrap_policy = policy(model)


# -- which modules are brought together by themselves -----------------------------------------------------------------


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The layers of a model, innermost first: members of its lists of modules that have modules of their own."""
    found: dict[nn.Module, None] = {}
    for module in model.modules():
        if isinstance(module, nn.ModuleList):
            for layer in module:
                if not isinstance(layer, (nn.ModuleList, nn.ModuleDict)) and any(layer.children()):
                    found[layer] = None
    return list(reversed(found))


def units_of(model: nn.Module, plugin: FullyShardedDataParallelPlugin | None = None) -> list[nn.Module]:
    """What is brought together by itself, innermost first: as the plugin asks, or the layers.

    Args:
        plugin: accelerate's; its policy may name classes of layers, or a least number of parameters.

    Raises:
        InputError: no module of the model has a class that is named.
    """
    from torch.distributed.fsdp.wrap import size_based_auto_wrap_policy

    if plugin is None:
        return layers_of(model)
    policy = cast("Callable[..., object] | str | None", plugin.auto_wrap_policy)
    if policy is size_based_auto_wrap_policy or (isinstance(policy, str) and policy.upper() == "SIZE_BASED_WRAP"):
        least = int(plugin.min_num_params or 0)
        return [m for m in _inner(model) if sum(p.numel() for p in m.parameters()) > least]
    if policy is None or (isinstance(policy, str) and policy.upper() == "NO_WRAP"):
        return []
    names = plugin.transformer_cls_names_to_wrap
    if not names:
        return layers_of(model)
    names = [names] if isinstance(names, str) else list(names)
    classes = {type(module).__name__ for module in model.modules()}
    found = [m for m in _inner(model) if type(m).__name__ in names]
    for name in names:
        if name in classes:
            continue
        if not name.endswith(("Layer", "Block")):
            raise InputError(
                "no module of the model is of this class",
                where="fsdp_config: transformer_layer_cls_to_wrap",
                found=brief(name),
                remedy=nearest(name, sorted(classes)) or "Leave it out: layers are found by structure.",
            )
        # What the ecosystem calls a family's layers (LlamaDecoderLayer), which are of our own classes.
        found += [layer for layer in layers_of(model) if layer not in found]
    return found


def _inner(model: nn.Module) -> Iterator[nn.Module]:
    every = [m for m in model.modules() if not isinstance(m, (nn.ModuleList, nn.ModuleDict))]
    return iter(reversed(every[1:]))


def shared_by(model: nn.Module, units: list[nn.Module]) -> list[list[nn.Module]]:
    """Modules that must be brought together at once: those with a parameter that several units hold, or one and the
    rest.

    Returns:
        groups of the modules that hold such a parameter themselves.
    """
    owner = {id(p): n for n, unit in enumerate([*units, model]) for p in _own(unit, units)}
    spread = {id(p) for n, unit in enumerate([*units, model]) for p in _own(unit, units) if owner[id(p)] != n}
    groups: dict[int, list[nn.Module]] = {}
    for module in model.modules():
        held = [id(p) for p in module._parameters.values() if p is not None and id(p) in spread]
        together = [groups[one] for one in held if one in groups]
        joined = [module, *(other for group in {id(g): g for g in together}.values() for other in group)]
        for one in [*held, *(key for key, group in groups.items() if any(group is g for g in together))]:
            groups[one] = joined
    return list({id(group): group for group in groups.values()}.values())


def _own(unit: nn.Module, units: list[nn.Module]) -> list[nn.Parameter]:
    """The parameters of a unit without those of the units in it."""
    others, own, ahead = set(units), [], [unit]
    while ahead:
        module = ahead.pop()
        own += [p for p in module._parameters.values() if p is not None]
        ahead.extend(child for child in module.children() if child not in others)
    return own


# -- splitting --------------------------------------------------------------------------------------------------------


def shard(
    model: nn.Module,
    *,
    plugin: FullyShardedDataParallelPlugin | None = None,
    mesh: DeviceMesh | None = None,
    reshard_after_forward: bool | int = True,
    mp_policy: MixedPrecisionPolicy | None = None,
    offload_policy: OffloadPolicy | CPUOffloadPolicy | None = None,
) -> nn.Module:
    """Split a model over all processes, in place; its class changes as ``fully_shard`` changes it.

    All processes get the first one's weights. Parameters on the meta device stay there: call ``to_empty`` and load
    afterwards.

    Args:
        plugin: accelerate's, which says which modules are units; by structure without it.
        mesh: the processes; all of them by default.
        reshard_after_forward: whether a layer's parts are given back between forward and backward.
        mp_policy: dtypes of computing and of adding gradients up.
        offload_policy: where parts lie between steps.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard

    if isinstance(model, FSDPModule):
        return model
    widen_scalars(model)
    if mesh is None:
        mesh = init_device_mesh(_device_of(model).type, (dist.get_world_size(),))
    _agree(model, mesh)
    units = units_of(model, plugin)
    given: dict[str, Any] = {
        "mesh": mesh,
        "mp_policy": mp_policy or MixedPrecisionPolicy(),
        "offload_policy": offload_policy or OffloadPolicy(),
    }
    for group in shared_by(model, units):
        fully_shard(group, reshard_after_forward=False, **given)
    for unit in units:
        if not isinstance(unit, FSDPModule):
            fully_shard(unit, reshard_after_forward=reshard_after_forward, **given)
    fully_shard(model, **given)
    return model


def _device_of(model: nn.Module) -> torch.device:
    # As fully_shard sees it: a model that lies in main memory goes to this process's accelerator, if there is one.
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator or torch.device("cpu")


@torch.no_grad()
def _agree(model: nn.Module, mesh: DeviceMesh) -> None:
    """Give all processes the first one's numbers: models made of a seed may have been made with different ones."""
    tensors = [*model.parameters(), *model.buffers()]
    group = mesh.get_group() if mesh.ndim == 1 else None
    first = 0 if group is None else dist.get_global_rank(group, 0)
    for tensor in tensors:
        if tensor.is_meta:
            continue
        sent = tensor.detach().to(mesh.device_type)
        sent = sent if sent.is_contiguous() else sent.contiguous()
        dist.broadcast(sent, src=first, group=group)
        if sent.data_ptr() != tensor.data_ptr():
            tensor.copy_(sent)


def prepare(
    accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[nn.Module, AcceleratedOptimizer]:
    """What ``accelerator.prepare(model, optimizer)`` does under FSDP2, for any structure.

    Args:
        accelerator: with an FSDP plugin of version 2.
        model: whole; changed in place.
        optimizer: over parameters of the model; it keeps its groups, and has no state yet.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    parameters = [[names[p] for p in group["params"]] for group in optimizer.param_groups]
    prepare_model(accelerator, model)
    parts = dict(model.named_parameters())
    for group, members in zip(optimizer.param_groups, parameters, strict=True):
        group["params"] = [parts[name] for name in members]
    return model, cast("AcceleratedOptimizer", accelerator.prepare_optimizer(optimizer))


def prepare_model(accelerator: Accelerator, model: nn.Module) -> nn.Module:
    """Split a model as an Accelerator's plugin says, without an optimizer: to evaluate it."""
    plugin = accelerator.state.fsdp_plugin
    if plugin.activation_checkpointing:
        _recompute(model)
    if accelerator.mixed_precision != "no":
        _in_full(model)
    mesh = accelerator.torch_device_mesh
    shard(
        model,
        plugin=plugin,
        mesh=None if mesh is None else mesh[tuple(accelerator.parallelism_config.fsdp_dim_names)],
        reshard_after_forward=plugin.reshard_after_forward,
        mp_policy=plugin.mixed_precision_policy,
        offload_policy=plugin.cpu_offload or None,
    )
    accelerator._models.append(model)
    return model


def _recompute(model: nn.Module) -> None:
    whole = model if isinstance(model, Surface) else next((m for m in model.modules() if isinstance(m, Surface)), None)
    if whole is None:
        raise InputError(
            f"a {type(model).__name__} cannot be told to compute its layers again",
            where="fsdp_config: activation_checkpointing",
            remedy="Call torch.utils.checkpoint in its forward.",
        )
    whole.gradient_checkpointing_enable()


def _in_full(model: nn.Module) -> None:
    """Keep what is trained in 32 bits; computing in 16 is the policy's matter."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.is_floating_point() and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()


# -- whole states -----------------------------------------------------------------------------------------------------


def full_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The whole model in the first process's main memory, an empty dict in the others; all must call it."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return with_scalars(model, cast("dict[str, Tensor]", get_model_state_dict(model, options=options)))


def load_full_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put a whole state, which the first process gives, into a split model; all must call it."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    whole = cast("dict[str, Any]", without_scalars(model, state))
    set_model_state_dict(model, whole, options=options)


# -- processes without accelerators -----------------------------------------------------------------------------------


def take_part(accelerator: Accelerator, plugin: FullyShardedDataParallelPlugin) -> None:
    """Have accelerate use FSDP2 between processes that compute on processors.

    It knows FSDP between accelerators only, and would quietly go on with whole copies (DDP).
    """
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    state = accelerator.state
    if state.distributed_type != DistributedType.MULTI_CPU:
        return
    state.distributed_type = DistributedType.FSDP
    state.fsdp_plugin = plugin
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    if accelerator.mixed_precision != "no":
        plugin.set_mixed_precision(accelerator.mixed_precision)
