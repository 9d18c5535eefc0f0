"""How one process tells others what to compute: one message after another, each heard by all."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from datetime import timedelta
from enum import Enum
from typing import Final, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from omniform.core.packed import SlotRange
from omniform.core.ranks import Ranks
from omniform.engine.block_pool import BlockTable

PATIENCE: Final = timedelta(days=3650)
"""Whoever follows waits for the next request, however long that takes."""

Message = tuple[str, list[tuple[str, tuple[object, ...]]], tuple[object, ...]]
"""What to do, what is done to the state before, and with what."""


@dataclass(frozen=True, slots=True)
class ToldTable:
    """Where one row's indices lie, as a leader tells it.

    Attributes:
        first: the first index that is told of.
        ranges: the slots of all that follow.
    """

    first: int
    ranges: tuple[SlotRange, ...]

    def slot_ranges(self, first: int, stop: int) -> list[SlotRange]:
        """See :class:`~omniform.core.packed.Table`."""
        found, at = [], self.first
        for low, high in self.ranges:
            start, end = max(first, at), min(stop, at + high - low)
            if start < end:
                found.append((low + start - at, low + end - at))
            at += high - low
        return found


class Channel:
    """Messages from the first of some processes to the others; made by all of them at once.

    Args:
        ranks: the processes.
        state: stands for the hearer's own in a message.
        device: where tensors are computed with; they are told by way of the host.
    """

    def __init__(self, ranks: Ranks, state: object, device: torch.device) -> None:
        own = dist.get_process_group_ranks(ranks.group) if ranks.group is not None else None
        self._group = dist.new_group(own, timeout=PATIENCE, backend="gloo", use_local_synchronization=own is not None)
        self._source = 0 if own is None else own[0]
        self._ranks, self._state, self._device = ranks, state, device

    def tell(self, message: Message) -> None:
        """Say something to all others."""
        file = io.BytesIO()
        _Pickler(file, self._state).dump(message)
        data = torch.frombuffer(file.getbuffer(), dtype=torch.uint8)
        with self._ranks.spoken():
            dist.broadcast(torch.tensor([len(data)]), self._source, group=self._group)
            dist.broadcast(data, self._source, group=self._group)

    def heard(self) -> Message:
        """What is said next; waits for it."""
        size = torch.zeros(1, dtype=torch.int64)
        with self._ranks.spoken():
            dist.broadcast(size, self._source, group=self._group)
            data = torch.empty(int(size), dtype=torch.uint8)
            dist.broadcast(data, self._source, group=self._group)
        return cast(Message, _Unpickler(io.BytesIO(data.numpy().tobytes()), self._state, self._device).load())


class _Pickler(pickle.Pickler):
    """State is named, tensors are numbers, tables are where things lie."""

    def __init__(self, file: io.BytesIO, state: object) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._state = state

    def persistent_id(self, obj: object) -> object:
        if obj is self._state:
            return ("state",)
        if isinstance(obj, Tensor):
            plain = obj.detach().contiguous().cpu()
            numbers = plain.view(-1).view(torch.uint8).numpy() if plain.numel() else np.empty(0, np.uint8)
            return "tensor", numbers, obj.dtype, tuple(obj.shape), obj.device.type == "cpu"
        return None

    def reducer_override(self, obj: object) -> tuple[Callable[..., object], tuple[object, ...]]:
        if isinstance(obj, BlockTable):
            first = obj.first
            return ToldTable, (first, tuple(obj.slot_ranges(first, len(obj.blocks) * obj.size)))
        return cast(tuple[Callable[..., object], tuple[object, ...]], NotImplemented)


_PLAIN: Final = frozenset({
    *(("builtins", name) for name in ("object", "set", "frozenset", "slice", "range", "complex", "bytearray")),
    *(("collections", name) for name in ("deque", "OrderedDict")),
    *(("numpy", name) for name in ("ndarray", "dtype")),
    *((f"numpy.{core}.multiarray", name) for core in ("_core", "core") for name in ("_reconstruct", "scalar")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("_core", "core")),
    ("torch", "Size"), ("omniform.core.context", "Taps"),
})  # fmt: skip
"""What a message may hold beside our own values: by the module and the name that a pickle calls it."""


class _Unpickler(pickle.Unpickler):
    """The inverse: this process's own state, tensors on its own device.

    A message comes from the process that leads this one, over the process group that both were started in. All the same
    it can only make values: our own data classes and enumerations, and what :data:`_PLAIN` names.
    """

    def find_class(self, module: str, name: str) -> object:
        if (module, name) in _PLAIN:
            return super().find_class(module, name)
        if module == "torch" and isinstance(found := getattr(torch, name, None), torch.dtype):
            return found
        if module.startswith("omniform."):
            kind = super().find_class(module, name)
            if isinstance(kind, type) and (is_dataclass(kind) or issubclass(kind, (Enum, tuple))):
                return kind
        raise pickle.UnpicklingError(f"no value of a message: {module}.{name}")

    def __init__(self, file: io.BytesIO, state: object, device: torch.device) -> None:
        super().__init__(file)
        self._state, self._device = state, device

    def persistent_load(self, pid: tuple[object, ...]) -> object:
        if pid[0] == "state":
            return self._state
        _, numbers, dtype, shape, on_host = cast(
            tuple[str, "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]", torch.dtype, tuple[int, ...], bool], pid
        )
        if not numbers.size:
            made = torch.empty(shape, dtype=dtype)
        else:
            made = torch.from_numpy(numbers.copy()).view(dtype).view(shape)
        return made if on_host else made.to(self._device)
