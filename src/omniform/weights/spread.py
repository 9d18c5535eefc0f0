"""Parameters that lie in parts over many processes, and what the libraries that split them ask of them.

FSDP2 splits along the first axis and DeepSpeed sends bytes of rows: neither can handle a parameter without an axis
(CLIP's ``logit_scale``). Such a parameter becomes one of shape [1], which multiplies and adds just the same; what is
saved has its own shape again.
"""

from __future__ import annotations

from collections.abc import Mapping
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

_widened: WeakKeyDictionary[nn.Module, frozenset[str]] = WeakKeyDictionary()


def widen_scalars(model: nn.Module) -> None:
    """Give every parameter without an axis one of length 1; once per model."""
    changed: dict[nn.Parameter, nn.Parameter] = {}
    names = []
    for path, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.dim() == 0:
                wide = nn.Parameter(parameter.detach().reshape(1), requires_grad=parameter.requires_grad)
                module._parameters[name] = changed.setdefault(parameter, wide)
                names.append(f"{path}.{name}" if path else name)
    if names:
        _widened[model] = _widened.get(model, frozenset()) | frozenset(names)


def with_scalars(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A whole state of a model, with what was widened in its own shape."""
    names = _widened.get(model, frozenset())
    return {name: t.reshape(()) if name in names and t.numel() == 1 else t for name, t in state.items()}


def without_scalars(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A whole state, as the widened model takes it."""
    names = _widened.get(model, frozenset())
    return {name: t.reshape(1) if name in names and t.dim() == 0 else t for name, t in state.items()}


def whole_shape(model: nn.Module, name: str, tensor: Tensor) -> torch.Size:
    """A tensor's shape in a checkpoint, if only a part of it lies here, or it was widened."""
    if name in _widened.get(model, frozenset()):
        return torch.Size(())
    told: object = vars(tensor).get("ds_shape")  # DeepSpeed's word
    return told if isinstance(told, torch.Size) else tensor.shape


def is_part(tensor: Tensor) -> bool:
    """Whether only a part of a tensor lies in this process."""
    if "ds_shape" in vars(tensor):
        return bool(tensor.shape != vars(tensor)["ds_shape"])
    return "torch.distributed.tensor" in type(tensor).__module__
