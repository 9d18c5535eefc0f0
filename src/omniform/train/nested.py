"""Tensors in lists, tuples and mappings: joined, cut, moved to the host; what an evaluation collects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from omniform.core.errors import InputError, brief

__all__ = [
    "EvalLoopContainer",
    "atleast_1d",
    "expand_like",
    "find_batch_size",
    "nested_concat",
    "nested_detach",
    "nested_new_like",
    "nested_numpify",
    "nested_truncate",
    "numpy_pad_and_concatenate",
    "torch_pad_and_concatenate",
]

Array = Tensor | np.ndarray
N = TypeVar("N")


def nested_map(change: Callable[[object], object], value: N) -> N:
    """The same nest of lists, tuples and mappings, each leaf changed; named tuples stay what they are."""
    if isinstance(value, (list, tuple)):
        return cast(N, _like(value, [nested_map(change, item) for item in value]))
    if isinstance(value, Mapping):
        made = cast("Callable[[dict[object, object]], N]", type(value))
        return made({name: nested_map(change, item) for name, item in value.items()})
    return cast(N, change(value))


def _like(value: Sequence[object], items: list[object]) -> object:
    if isinstance(value, tuple) and type(value) is not tuple:
        return cast("Callable[..., object]", type(value))(*items)  # a named tuple takes its fields one by one
    return cast("Callable[[list[object]], object]", type(value))(items)


def atleast_1d(tensor_or_array: Array) -> Array:
    """A single number as a row of one."""
    if isinstance(tensor_or_array, Tensor):
        made: Tensor = torch.atleast_1d(tensor_or_array)  # type: ignore[no-untyped-call]
        return made
    return np.atleast_1d(tensor_or_array)


def torch_pad_and_concatenate(tensor1: Tensor, tensor2: Tensor, padding_index: int = -100) -> Tensor:
    """Two batches one after the other; where their second axes differ, the shorter is padded at its end.

    Shape: [A, S, ...] and [B, T, ...] to [A + B, max(S, T), ...].
    """
    first, second = cast(Tensor, atleast_1d(tensor1)), cast(Tensor, atleast_1d(tensor2))
    if first.dim() == 1 or first.shape[1] == second.shape[1]:
        return torch.cat((first, second), dim=0)
    joined = first.new_full(_joined_shape(first.shape, second.shape), padding_index)
    joined[: len(first), : first.shape[1]] = first
    joined[len(first) :, : second.shape[1]] = second
    return joined


def numpy_pad_and_concatenate(array1: np.ndarray, array2: np.ndarray, padding_index: int = -100) -> np.ndarray:
    """:func:`torch_pad_and_concatenate` of arrays."""
    first, second = cast(np.ndarray, atleast_1d(array1)), cast(np.ndarray, atleast_1d(array2))
    if first.ndim == 1 or first.shape[1] == second.shape[1]:
        return np.concatenate((first, second), axis=0)
    joined: np.ndarray = np.full_like(first, padding_index, shape=_joined_shape(first.shape, second.shape))
    joined[: len(first), : first.shape[1]] = first
    joined[len(first) :, : second.shape[1]] = second
    return joined


def _joined_shape(first: Sequence[int], second: Sequence[int]) -> tuple[int, ...]:
    return (first[0] + second[0], max(first[1], second[1]), *first[2:])


def nested_concat(tensors: N, new_tensors: N, padding_index: int = -100) -> N:
    """Two nests of one form, leaf by leaf one after the other, padded on the second axis where that differs.

    Raises:
        InputError: the nests differ in form, or a leaf is no tensor.
    """
    if isinstance(tensors, Tensor) and isinstance(new_tensors, Tensor):
        return cast(N, torch_pad_and_concatenate(tensors, new_tensors, padding_index))
    if type(tensors) is not type(new_tensors):
        raise UnlikeNestsError(
            "two batches gave outputs of different kinds",
            where="nested_concat",
            expected=type(tensors).__name__,
            found=type(new_tensors).__name__,
        )
    if isinstance(tensors, np.ndarray) and isinstance(new_tensors, np.ndarray):
        return cast(N, numpy_pad_and_concatenate(tensors, new_tensors, padding_index))
    if isinstance(tensors, (list, tuple)):
        pairs = zip(tensors, cast("Sequence[object]", new_tensors), strict=False)
        return cast(N, _like(tensors, [nested_concat(old, new, padding_index) for old, new in pairs]))
    if isinstance(tensors, Mapping):
        made = cast("Callable[[dict[object, object]], N]", type(tensors))
        others = cast("Mapping[object, object]", new_tensors)
        return made({name: nested_concat(value, others[name], padding_index) for name, value in tensors.items()})
    raise LeafError("only tensors and arrays are joined", where="nested_concat", found=brief(tensors))


class UnlikeNestsError(InputError, AssertionError):
    """Two nests of tensors do not have the same form."""


class LeafError(InputError, TypeError):
    """A nest holds something else than tensors and arrays."""


def find_batch_size(tensors: object) -> int | None:
    """The length of the first axis of the first tensor in a nest; None where there is none."""
    if isinstance(tensors, (Tensor, np.ndarray)):
        return tensors.shape[0] if tensors.ndim else None
    items = tensors.values() if isinstance(tensors, Mapping) else tensors
    if isinstance(tensors, (list, tuple, Mapping)):
        for item in cast("Sequence[object]", items):
            found = find_batch_size(item)
            if found is not None:
                return found
    return None


def nested_numpify(tensors: object) -> object:
    """A nest of tensors as numpy arrays in the host's memory; bfloat16, which numpy has not, becomes float32."""
    return nested_map(_numpified, tensors)


def _numpified(value: object) -> object:
    if not isinstance(value, Tensor):
        raise LeafError("only tensors become arrays", where="nested_numpify", found=brief(value))
    host = value.detach().cpu()
    return (host.float() if host.dtype == torch.bfloat16 else host).numpy()


def nested_detach(tensors: N) -> N:
    """A nest of tensors without their gradients' history; what is no tensor stays."""
    return nested_map(lambda value: value.detach() if isinstance(value, Tensor) else value, tensors)


def nested_truncate(tensors: N, limit: int) -> N:
    """The first ``limit`` rows of each tensor of a nest."""
    return nested_map(lambda value: cast(Array, value)[:limit], tensors)


def nested_new_like(arrays: N, num_samples: int, padding_index: int = -100) -> N:
    """A nest of arrays as given, but of so many rows, filled with padding."""

    def made(value: object) -> object:
        array = cast(np.ndarray, value)
        filled: np.ndarray = np.full_like(array, padding_index, shape=(num_samples, *array.shape[1:]))
        return filled

    return nested_map(made, arrays)


def expand_like(arrays: np.ndarray, new_seq_length: int, padding_index: int = -100) -> np.ndarray:
    """An array whose second axis is padded at its end. Shape: [B, S, ...] to [B, new_seq_length, ...]."""
    shape = (arrays.shape[0], new_seq_length, *arrays.shape[2:])
    grown: np.ndarray = np.full_like(arrays, padding_index, shape=shape)
    grown[:, : arrays.shape[1]] = arrays
    return grown


# ---- evaluation


class EvalLoopContainer:
    """What an evaluation collects, batch after batch.

    Args:
        do_nested_concat: join batches at once; otherwise keep a list of them.
        padding_index: what rows of different lengths are padded with.
    """

    def __init__(self, do_nested_concat: bool = True, padding_index: int = -100) -> None:
        self.do_nested_concat = do_nested_concat
        self.padding_index = padding_index
        self.tensors: object = None
        self.arrays: object = None

    def add(self, tensors: object) -> None:
        """Take one batch's nest of tensors."""
        if self.tensors is None:
            self.tensors = tensors if self.do_nested_concat else [tensors]
        elif self.do_nested_concat:
            self.tensors = nested_concat(self.tensors, tensors, padding_index=self.padding_index)
        else:
            cast("list[object]", self.tensors).append(tensors)

    def to_cpu_and_numpy(self) -> None:
        """Move what was taken since the last time to the host's memory."""
        if self.tensors is None:
            return
        new = nested_numpify(self.tensors)
        if self.arrays is None:
            self.arrays = new
        elif self.do_nested_concat:
            self.arrays = nested_concat(self.arrays, new, padding_index=self.padding_index)
        else:
            cast("list[object]", self.arrays).extend(cast("list[object]", new))
        self.tensors = None

    def get_arrays(self) -> object:
        """All that was taken, as numpy arrays; None where nothing was."""
        self.to_cpu_and_numpy()
        return self.arrays
