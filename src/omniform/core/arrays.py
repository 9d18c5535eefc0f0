"""Small tools of the ecosystem's ``utils`` for arrays of torch or NumPy, for mappings, signatures and files."""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import os
import tempfile
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from omniform.core.errors import InputError, brief

R = TypeVar("R")

Array = object
"""A tensor of torch's or an array of NumPy's."""

IMAGENET_DEFAULT_MEAN: Final = [0.485, 0.456, 0.406]
IMAGENET_DEFAULT_STD: Final = [0.229, 0.224, 0.225]
IMAGENET_STANDARD_MEAN: Final = [0.5, 0.5, 0.5]
IMAGENET_STANDARD_STD: Final = [0.5, 0.5, 0.5]
OPENAI_CLIP_MEAN: Final = [0.48145466, 0.4578275, 0.40821073]
OPENAI_CLIP_STD: Final = [0.26862954, 0.26130258, 0.27577711]
ADAPTER_CONFIG_NAME: Final = "adapter_config.json"
ADAPTER_WEIGHTS_NAME: Final = "adapter_model.bin"
ADAPTER_SAFE_WEIGHTS_NAME: Final = "adapter_model.safetensors"
CHAT_TEMPLATE_FILE: Final = "chat_template.jinja"
CHAT_TEMPLATE_DIR: Final = "additional_chat_templates"
LEGACY_PROCESSOR_CHAT_TEMPLATE_FILE: Final = "chat_template.json"
VIDEO_PROCESSOR_NAME: Final = "video_preprocessor_config.json"
AUDIO_TOKENIZER_NAME: Final = "audio_tokenizer_config.json"
MODEL_CARD_NAME: Final = "modelcard.json"
SPIECE_UNDERLINE: Final = "▁"
SENTENCEPIECE_UNDERLINE: Final = SPIECE_UNDERLINE
DUMMY_MASK: Final = [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 0, 1, 1]]
MULTIPLE_CHOICE_DUMMY_INPUTS: Final = [[[0, 1, 0, 1], [1, 0, 0, 1]]] * 2
"""Token ids to try a model of multiple choice with."""


# -- arrays ----------------------------------------------------------------------------------------------------------


def _neither(array: Array, where: str) -> InputError:
    return InputError("not an array", where=where, expected="one of torch's or NumPy's", found=brief(array))


def transpose(array: Array, axes: Sequence[int] | None = None) -> Array:
    """The axes in another order; the other way round by default."""
    if isinstance(array, Tensor):
        return array.permute(*(reversed(range(array.ndim)) if axes is None else axes))
    if isinstance(array, np.ndarray):
        return np.transpose(array, axes)
    raise _neither(array, "transpose")


def reshape(array: Array, newshape: Sequence[int]) -> Array:
    """The same numbers in another shape."""
    if isinstance(array, Tensor):
        return array.reshape(*newshape)
    if isinstance(array, np.ndarray):
        return array.reshape(newshape)
    raise _neither(array, "reshape")


def squeeze(array: Array, axis: int | None = None) -> Array:
    """Without an axis of size 1; without all of them by default."""
    if isinstance(array, Tensor):
        return array.squeeze() if axis is None else array.squeeze(dim=axis)
    if isinstance(array, np.ndarray):
        return np.squeeze(array, axis=axis)
    raise _neither(array, "squeeze")


def expand_dims(array: Array, axis: int) -> Array:
    """With one more axis of size 1."""
    if isinstance(array, Tensor):
        return array.unsqueeze(dim=axis)
    if isinstance(array, np.ndarray):
        return np.expand_dims(array, axis)
    raise _neither(array, "expand_dims")


def tensor_size(array: Array) -> int:
    """How many numbers it has."""
    if isinstance(array, Tensor):
        return array.numel()
    if isinstance(array, np.ndarray):
        return array.size
    raise _neither(array, "tensor_size")


def torch_float(x: object) -> object:
    """A fraction; a tensor as float32."""
    return x.to(torch.float32) if isinstance(x, Tensor) else float(cast(float, x))


def is_torch_device(x: object) -> bool:
    """Whether it is a device of torch's."""
    return isinstance(x, torch.device)


def is_torch_dtype(x: object) -> bool:
    """Whether it is a dtype of torch's, or its name."""
    return isinstance(vars(torch).get(x) if isinstance(x, str) else x, torch.dtype)


# -- mappings, functions, files --------------------------------------------------------------------------------------


def flatten_dict(d: Mapping[str, object], parent_key: str = "", delimiter: str = ".") -> dict[str, object]:
    """Mappings within mappings as one, with keys that are joined by a delimiter."""
    flat: dict[str, object] = {}
    for key, value in d.items():
        name = f"{parent_key}{delimiter}{key}" if parent_key else key
        flat |= flatten_dict(value, name, delimiter) if isinstance(value, Mapping) and value else {name: value}
    return flat


def copy_func(f: Callable[..., R]) -> Callable[..., R]:
    """A function of its own that does the same."""
    function = cast(types.FunctionType, f)
    made = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    made.__kwdefaults__ = function.__kwdefaults__
    return cast("Callable[..., R]", functools.update_wrapper(made, function))


def filter_out_non_signature_kwargs(
    extra: list[str] | None = None,
) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Let a function be called with keywords that it does not take, and leave those out.

    Args:
        extra: more keywords that are handed on.
    """

    def change(func: Callable[..., R]) -> Callable[..., R]:
        known = {*inspect.signature(func).parameters, *(extra or ())}

        @functools.wraps(func)
        def call(*args: object, **kwargs: object) -> R:
            return func(*args, **{name: value for name, value in kwargs.items() if name in known})

        return call

    return change


@contextlib.contextmanager
def working_or_temp_dir(working_dir: str | os.PathLike[str], use_temp_dir: bool = False) -> Iterator[str]:
    """A folder to work in: the given one, or one that is gone afterwards."""
    if not use_temp_dir:
        yield str(working_dir)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield folder


def safe_load_json_file(json_file: str | os.PathLike[str]) -> object:
    """What a file of JSON holds.

    Raises:
        OSError: there is no such file, or it holds no JSON.
    """
    try:
        with open(json_file, encoding="utf-8") as file:
            return json.load(file)
    except ValueError as error:
        raise OSError(f"{json_file} holds no JSON: {error}") from error


def convert_file_size_to_int(size: int | str) -> int:
    """Bytes of a size such as ``"5GB"`` or ``"500MiB"``; ``"500Mb"`` counts in bits.

    Raises:
        InputError: this is no size.
    """
    if isinstance(size, int):
        return size
    power = {"K": 1, "M": 2, "G": 3, "T": 4}
    for unit, base in (("iB", 1024), ("IB", 1024), ("B", 1000), ("b", 1000)):
        number = size.removesuffix(unit)
        if number != size and number[-1:].upper() in power and number[:-1].isdigit():
            found = int(number[:-1]) * int(base ** power[number[-1].upper()])
            return found // 8 if unit == "b" else found
    raise InputError("not a size", where="size", expected="a number of bytes, or '5GB', '500MiB'", found=repr(size))


__all__ = [
    "ADAPTER_CONFIG_NAME", "ADAPTER_SAFE_WEIGHTS_NAME", "ADAPTER_WEIGHTS_NAME", "AUDIO_TOKENIZER_NAME",
    "CHAT_TEMPLATE_DIR", "CHAT_TEMPLATE_FILE", "DUMMY_MASK", "IMAGENET_DEFAULT_MEAN", "IMAGENET_DEFAULT_STD",
    "IMAGENET_STANDARD_MEAN", "IMAGENET_STANDARD_STD", "LEGACY_PROCESSOR_CHAT_TEMPLATE_FILE", "MODEL_CARD_NAME",
    "MULTIPLE_CHOICE_DUMMY_INPUTS", "OPENAI_CLIP_MEAN", "OPENAI_CLIP_STD", "SENTENCEPIECE_UNDERLINE",
    "SPIECE_UNDERLINE", "VIDEO_PROCESSOR_NAME", "convert_file_size_to_int", "copy_func", "expand_dims",
    "filter_out_non_signature_kwargs", "flatten_dict", "is_torch_device", "is_torch_dtype", "reshape",
    "safe_load_json_file", "squeeze", "tensor_size", "torch_float", "transpose", "working_or_temp_dir",
]  # fmt: skip
