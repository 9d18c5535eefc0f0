"""A module's tensors by path: which of them are one, and putting others in their places."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn


def tensors_and_ties(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A model's parameters and persistent buffers by path, and the paths that are second names of one of them."""
    first: dict[int, str] = {}
    tensors: dict[str, Tensor] = {}
    ties: dict[str, str] = {}
    for path, tensor in named_tensors(model):
        owner = first.setdefault(id(tensor), path)
        if owner == path:
            tensors[path] = tensor
        else:
            ties[path] = owner
    return tensors, ties


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """In the order of a state dict, by the modules' own paths: a state dict may be spelled otherwise."""
    for path, module in modules_of(model):
        passing = module._non_persistent_buffers_set
        held = [*module._parameters.items(), *((n, b) for n, b in module._buffers.items() if n not in passing)]
        for name, tensor in held:
            if tensor is not None:
                yield f"{path}.{name}" if path else name, tensor


def passing_bytes(model: nn.Module) -> dict[str, int]:
    """Bytes of the buffers that a state dict leaves out, by the paths of the modules that have any."""
    found: dict[str, int] = {}
    for path, module in modules_of(model):
        for name in module._non_persistent_buffers_set:
            buffer = module._buffers.get(name)
            if buffer is not None:
                found[path] = found.get(path, 0) + buffer.nbytes
    return found


def modules_of(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """All modules by their own paths, a shared one under each: ``named_modules`` of a model knows other names besides,
    and takes four times as long."""
    yield path, module
    for name, child in module._modules.items():
        if child is not None:
            yield from modules_of(child, f"{path}.{name}" if path else name)


def allocate(model: nn.Module, dtype: torch.dtype, device: torch.device | None = None) -> set[str]:
    """Give what of a model was built on the meta device memory; what is in it is undefined.

    Returns:
        The paths of the tensors that got some.
    """
    tensors, ties = tensors_and_ties(model)
    built = {path: tensor for path, tensor in tensors.items() if tensor.is_meta}
    for path, tensor in built.items():
        kind = dtype if tensor.is_floating_point() else tensor.dtype
        assign(model, path, torch.empty(tensor.shape, dtype=kind, device=device or torch.device("cpu")))
    for path, owner in ties.items():
        if owner in built:
            tie(model, path, owner)
    return set(built)


def assign(model: nn.Module, path: str, tensor: Tensor) -> None:
    """Put a tensor into its place in a model."""
    owner, name = owner_of(model, path)
    if name in owner._parameters:
        old = owner._parameters[name]
        trains = tensor.is_floating_point() and (old is None or old.requires_grad)
        fits = isinstance(tensor, nn.Parameter)
        made = tensor if fits else nn.Parameter(tensor, requires_grad=trains)
        owner._parameters[name] = made  # type: ignore[assignment]
        if isinstance(owner, nn.RNNBase):
            setattr(owner, name, made)  # torch's recurrent modules keep a list of their own
    else:
        owner._buffers[name] = tensor


def tie(model: nn.Module, path: str, owner: str) -> None:
    """Make the parameter or the buffer at ``path`` the one at ``owner``."""
    module, name = owner_of(model, owner)
    source = {**module._buffers, **module._parameters}[name]
    assert source is not None
    assign(model, path, source)


def owner_of(model: nn.Module, path: str) -> tuple[nn.Module, str]:
    """The module that holds a tensor, and the tensor's name in it."""
    parent, _, name = path.rpartition(".")
    return model.get_submodule(parent), name


def home() -> torch.device:
    """Where a new module's parameters come to lie here and now.

    The default device, or what a context of torch's or of another library's (accelerate's ``init_empty_weights``) says.
    """
    return nn.Linear(1, 1, bias=False).weight.device
