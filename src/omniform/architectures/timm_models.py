"""Networks of timm (https://github.com/huggingface/pytorch-image-models), built by timm where it is installed.

What a checkpoint says of them is data: a name out of timm's own registry and plain numbers and words as arguments.
Nothing is fetched and no file is read while a network is built.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import cast

import torch
from torch import Tensor, nn

from omniform.core.config import Beginning
from omniform.core.errors import ConfigError, DependencyError, brief
from omniform.weights.tensors import named_tensors, owner_of

BARRED = re.compile(r"pretrained.*|checkpoint_path|cache_dir|num_classes|in_chans")
"""Arguments that a checkpoint has no say in: they fetch or read files, or are said elsewhere."""


def timm() -> ModuleType:
    """The package.

    Raises:
        DependencyError: it is not installed, or cannot be imported.
    """
    return _imported(lambda: import_module("timm"))


def timm_data() -> ModuleType:
    """Its part that knows pictures and the classes of ImageNet; see :func:`timm`."""
    return _imported(lambda: import_module("timm.data"))


def timm_tools() -> ModuleType:
    """Its part that changes networks; see :func:`timm`."""
    return _imported(lambda: import_module("timm.utils.model"))


def _imported(found: Callable[[], ModuleType]) -> ModuleType:
    try:
        return found()
    except Exception as error:  # its own dependencies may fail in any way
        raise DependencyError(
            "this network is one of timm's, which cannot be imported",
            where="timm",
            found=f"{type(error).__name__}: {str(error)[:200]}",
            remedy="pip install timm",
        ) from error


def timm_arguments(given: Mapping[str, object], where: str) -> dict[str, object]:
    """Arguments for a network, as a checkpoint names them.

    Raises:
        ConfigError: one that would fetch or read files, or that is no plain number, word or list of them.
    """
    for name, value in given.items():
        if BARRED.fullmatch(name):
            raise ConfigError(f"{name} is not a checkpoint's to say", where=where, found=brief(value))
        if not _is_plain(value):
            raise ConfigError(f"{name} is no plain value", where=where, found=brief(value))
    return dict(given)


def _is_plain(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(one) for one in value)
    if isinstance(value, Mapping):
        return all(_is_plain(one) for one in value.values())
    return value is None or isinstance(value, (bool, int, float, str))


def timm_network(name: str, **arguments: object) -> nn.Module:
    """A network on the meta device; what is in no checkpoint (tables of indices) is computed.

    Args:
        name: in timm's registry; what follows a dot names a set of pretrained weights, which are not loaded.
        arguments: plain ones, of :func:`timm_arguments`.

    Raises:
        DependencyError: timm is not installed.
        ConfigError: timm knows no such network, or not with these arguments.
    """
    network = fresh_timm_network(name, **arguments)
    for path, tensor in list(named_tensors(network)):
        owner, own = owner_of(network, path)
        if own in owner._parameters:
            owner._parameters[own] = nn.Parameter(tensor.to("meta"), requires_grad=tensor.requires_grad)
        else:
            owner._buffers[own] = tensor.to("meta")
    return network


def fresh_timm_network(name: str, **arguments: object) -> nn.Module:
    """The same in memory, with the weights that timm begins with; see :func:`timm_network`."""
    library = timm()
    if not library.is_model(name):
        raise ConfigError("timm has no such network", where="config.json", found=repr(name)[:100])
    try:
        with torch.device("cpu"):
            return cast(nn.Module, library.create_model(name, pretrained=False, **arguments))
    except Exception as error:  # assertions, type errors and others, for arguments that do not fit
        raise ConfigError(
            f"timm does not make {name} so", where="config.json", found=f"{type(error).__name__}: {str(error)[:300]}"
        ) from error


_LATEST: dict[str, dict[str, Tensor]] = {}
"""The tensors that the latest network began with: asked for one by one."""


def timm_beginning(name: str, arguments: Mapping[str, object], path: str) -> Beginning | None:
    """How a tensor of a network begins: as timm has it, whatever the general rule.

    Args:
        path: what timm calls it.
    """

    def fill(tensor: Tensor) -> None:
        key = f"{name} {arguments!r}"
        left = _LATEST.get(key)
        if left is None or path not in left:
            _LATEST.clear()
            left = _LATEST[key] = dict(named_tensors(fresh_timm_network(name, **arguments)))
        tensor.copy_(left.pop(path))
        if not left:
            _LATEST.clear()

    return fill
