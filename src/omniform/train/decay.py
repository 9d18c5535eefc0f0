"""Which parameters of a model decay, and the groups that an optimizer steps."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final, cast

from torch import Tensor, nn

from omniform.blocks.norms import is_norm
from omniform.blocks.pytorch_utils import ALL_LAYERNORM_LAYERS

__all__ = ["get_parameter_names"]

NOT_DECAYED: Final = tuple(
    re.compile(pattern) for pattern in (r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)")
)
"""Names of parameters that do not decay, whatever their module is."""


def get_parameter_names(
    model: nn.Module,
    forbidden_layer_types: Iterable[type[nn.Module]],
    forbidden_layer_names: Iterable[str] | None = None,
) -> list[str]:
    """Names of a model's parameters that do not lie in certain modules.

    Args:
        model: the model.
        forbidden_layer_types: classes of the modules that are left out.
        forbidden_layer_names: patterns of the (lower-case) names that are left out.
    """
    kinds = tuple(forbidden_layer_types)
    patterns = [re.compile(pattern) for pattern in forbidden_layer_names or ()]
    return _names(model, lambda module: isinstance(module, kinds), patterns)


def _names(model: nn.Module, left_out: Callable[[nn.Module], bool], patterns: Iterable[re.Pattern[str]]) -> list[str]:
    out = [name for name, module in model.named_modules(remove_duplicate=False) if name and left_out(module)]
    prefixes = tuple(f"{name}." for name in out)
    return [
        name
        for name, _ in model.named_parameters(remove_duplicate=False)
        if not name.startswith(prefixes) and not any(pattern.search(name.lower()) for pattern in patterns)
    ]


def get_decay_parameter_names(model: nn.Module) -> list[str]:
    """Names of the parameters that decay: all but biases and those of norms.

    Norms are modules that are one (omniform's and torch's), and what is named like one.
    """
    kinds = tuple(ALL_LAYERNORM_LAYERS)
    return _names(model, lambda module: is_norm(module) or isinstance(module, kinds), NOT_DECAYED)


def parameter_groups(
    model: nn.Module, weight_decay: float, decayed: Iterable[str] | None = None
) -> list[dict[str, Any]]:
    """Two groups of a model's parameters that are trained: with and without decay.

    Args:
        model: the model.
        weight_decay: of the first group.
        decayed: names of its parameters; by default :func:`get_decay_parameter_names`.
    """
    names = set(get_decay_parameter_names(model) if decayed is None else decayed)
    trained = [(name, one) for name, one in model.named_parameters() if one.requires_grad]
    groups = [
        {"params": [one for name, one in trained if name in names], "weight_decay": weight_decay},
        {"params": [one for name, one in trained if name not in names], "weight_decay": 0.0},
    ]
    meshes = list(dict.fromkeys(_mesh(one) for _, one in trained))
    if len(meshes) < 2:
        return groups
    # One kernel cannot step parameters of several device meshes.
    split = []
    for group in groups:
        for mesh in meshes:
            of_it = [one for one in cast("list[Tensor]", group["params"]) if _mesh(one) == mesh]
            if of_it:
                split.append({**group, "params": of_it})
    return split


def _mesh(parameter: Tensor) -> object:
    # A sharded tensor says where its parts are; a plain one has no such attribute.
    return vars(type(parameter)).get("device_mesh") and parameter.device_mesh  # type: ignore[attr-defined]
