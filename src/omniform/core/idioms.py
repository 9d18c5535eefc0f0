"""Small tools of the ecosystem's ``utils`` that users' model files import: decorators, names of files, what is there.

Documentation decorators change nothing but the docstring; they are here so that a file which carries them imports.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from enum import StrEnum
from types import TracebackType
from typing import TYPE_CHECKING, Concatenate, Final, ParamSpec, Protocol, TypedDict, TypeVar, Unpack, cast

import numpy as np
import torch
from torch import Tensor

from omniform.core.errors import listed
from omniform.core.outputs import ModelOutput

if TYPE_CHECKING:
    from numpy.typing import NDArray

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., object])
K = TypeVar("K", bound=type)

CONFIG_NAME: Final = "config.json"
GENERATION_CONFIG_NAME: Final = "generation_config.json"
WEIGHTS_NAME: Final = "pytorch_model.bin"
WEIGHTS_INDEX_NAME: Final = "pytorch_model.bin.index.json"
SAFE_WEIGHTS_NAME: Final = "model.safetensors"
SAFE_WEIGHTS_INDEX_NAME: Final = "model.safetensors.index.json"
FEATURE_EXTRACTOR_NAME: Final = "preprocessor_config.json"
IMAGE_PROCESSOR_NAME: Final = "preprocessor_config.json"
PROCESSOR_NAME: Final = "processor_config.json"
DUMMY_INPUTS: Final = [[7, 6, 0, 0, 1], [1, 2, 3, 0, 0], [0, 0, 0, 4, 5]]
"""Token ids to try a model with."""


# -- decorators ------------------------------------------------------------------------------------------------------


def add_start_docstrings(*docstr: str) -> Callable[[F], F]:
    """Put texts in front of a function's or a class's docstring."""

    def change(decorated: F) -> F:
        decorated.__doc__ = "".join(docstr) + (decorated.__doc__ or "")
        return decorated

    return change


add_start_docstrings_to_model_forward = add_start_docstrings


def add_end_docstrings(*docstr: str) -> Callable[[F], F]:
    """Put texts behind a function's or a class's docstring."""

    def change(decorated: F) -> F:
        decorated.__doc__ = (decorated.__doc__ or "") + "".join(docstr)
        return decorated

    return change


def replace_return_docstrings(output_type: object = None, config_class: object = None) -> Callable[[F], F]:
    """Nothing: the docstring stays as it was written."""
    return lambda decorated: decorated


def add_code_sample_docstrings(*docstr: str, **facts: object) -> Callable[[F], F]:
    """Put texts in front of a docstring; samples are not written."""
    return add_start_docstrings(*docstr)


def auto_docstring(obj: F | None = None, **facts: object) -> F | Callable[[F], F]:
    """Nothing, with or without arguments: the docstring stays as it was written."""
    return (lambda decorated: decorated) if obj is None else obj


class Configured(Protocol):
    """A model, as far as its config says whether it returns tuples."""

    config: object


def can_return_tuple(func: Callable[Concatenate[Configured, P], R]) -> Callable[..., R | tuple[object, ...]]:
    """Make a forward give a tuple when a call or the config says ``return_dict=False``."""

    @functools.wraps(func)
    def forward(self: Configured, *args: P.args, **kwargs: P.kwargs) -> R | tuple[object, ...]:
        asked = kwargs.pop("return_dict", None)
        if asked is None:
            asked = vars(type(self.config)).get("return_dict", vars(self.config).get("return_dict", True))
        output = func(self, *args, **kwargs)
        return output.to_tuple() if asked is False and isinstance(output, ModelOutput) else output

    return forward


def deprecate_kwarg(
    old_name: str, version: str | None = None, new_name: str | None = None, **more: object
) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Hand an argument on under its new name."""

    def change(func: Callable[..., R]) -> Callable[..., R]:
        @functools.wraps(func)
        def call(*args: object, **kwargs: object) -> R:
            if old_name in kwargs and new_name is not None:
                value = kwargs.pop(old_name)
                kwargs.setdefault(new_name, value)
            return func(*args, **kwargs)

        return call

    return change


class TransformersKwargs(TypedDict, total=False):
    """Keywords that a forward hands on to its layers."""

    num_items_in_batch: Tensor | None
    output_hidden_states: bool | None
    output_attentions: bool | None
    output_router_logits: bool | None
    cu_seq_lens_q: Tensor | None
    cu_seq_lens_k: Tensor | None
    max_length_q: int | None
    max_length_k: int | None


# -- values ----------------------------------------------------------------------------------------------------------


class ExplicitEnum(StrEnum):
    """Words to choose from; another one is refused with the list of them."""

    @classmethod
    def _missing_(cls, value: object) -> ExplicitEnum | None:
        raise ValueError(f"{value!r} is not one of {listed([str(one.value) for one in cls])}")


class ContextManagers:
    """Several contexts as one."""

    def __init__(self, context_managers: Sequence[contextlib.AbstractContextManager[object]]) -> None:
        self.context_managers = context_managers
        self.stack = contextlib.ExitStack()

    def __enter__(self) -> None:
        for one in self.context_managers:
            self.stack.enter_context(one)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self.stack.__exit__(kind, error, trace)


def is_torch_tensor(x: object) -> bool:
    """Whether it is torch's."""
    return isinstance(x, Tensor)


is_tensor = is_torch_tensor


def is_numpy_array(x: object) -> bool:
    """Whether it is numpy's."""
    return isinstance(x, np.ndarray)


def to_numpy(obj: object) -> object:
    """Tensors and lists as arrays, in the mapping that they come in."""
    if isinstance(obj, Tensor):
        return cast("NDArray[np.generic]", obj.detach().cpu().numpy())
    if isinstance(obj, dict):
        return {name: to_numpy(value) for name, value in obj.items()}
    return np.array(obj) if isinstance(obj, (list, tuple)) else obj


def to_py_obj(obj: object) -> object:
    """Tensors and arrays as lists, in the mapping or the list that they come in."""
    if isinstance(obj, Tensor):
        return cast(object, obj.tolist())
    if isinstance(obj, (np.ndarray, np.generic)):
        return cast(object, obj.tolist())
    if isinstance(obj, dict):
        return {name: to_py_obj(value) for name, value in obj.items()}
    return [to_py_obj(value) for value in obj] if isinstance(obj, (list, tuple)) else obj


def torch_int(x: object) -> object:
    """An integer; a tensor as integers."""
    return x.to(torch.int64) if isinstance(x, Tensor) else int(cast(int, x))


def strtobool(val: str) -> int:
    """1 or 0 for a word that says yes or no.

    Raises:
        ValueError: it says neither.
    """
    word = val.lower()
    if word in ("y", "yes", "t", "true", "on", "1"):
        return 1
    if word in ("n", "no", "f", "false", "off", "0"):
        return 0
    raise ValueError(f"neither yes nor no: {val!r}")


__all__ = [
    "CONFIG_NAME",
    "DUMMY_INPUTS",
    "FEATURE_EXTRACTOR_NAME",
    "GENERATION_CONFIG_NAME",
    "IMAGE_PROCESSOR_NAME",
    "PROCESSOR_NAME",
    "SAFE_WEIGHTS_INDEX_NAME",
    "SAFE_WEIGHTS_NAME",
    "WEIGHTS_INDEX_NAME",
    "WEIGHTS_NAME",
    "ContextManagers",
    "ExplicitEnum",
    "TransformersKwargs",
    "Unpack",
    "add_code_sample_docstrings",
    "add_end_docstrings",
    "add_start_docstrings",
    "add_start_docstrings_to_model_forward",
    "auto_docstring",
    "can_return_tuple",
    "deprecate_kwarg",
    "is_numpy_array",
    "is_tensor",
    "is_torch_tensor",
    "replace_return_docstrings",
    "strtobool",
    "to_numpy",
    "to_py_obj",
    "torch_int",
]
