"""What records a step of a GPU and plays it, and how the host learns of the tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from omniform.core.host import recording
from omniform.transforms.precision import is_watched

if TYPE_CHECKING:
    from torch.cuda import _POOL_HANDLE


class Likeliest:
    """The likeliest token of each row of a step, on its way to the host.

    Args:
        tokens: on the device, -1 where scores are no numbers. Shape: [R].
        count: how many of them are rows.
    """

    def __init__(self, tokens: Tensor, count: int) -> None:
        self._count = count
        self._found: list[int] | None = None
        self._ready: torch.cuda.Event | None = None
        if tokens.device.type == "cuda":
            self._host = torch.empty(len(tokens), dtype=tokens.dtype, device="cpu", pin_memory=True)
            self._host.copy_(tokens, non_blocking=True)
            self._ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._ready.record()
        else:
            self._host = tokens.clone()

    def tokens(self) -> list[int]:
        """Wait for them: the one place where a step of recorded rows is read on the host."""
        if self._found is None:
            if self._ready is not None:
                self._ready.synchronize()
            self._found = self._host[: self._count].tolist()
        return self._found


@dataclass(frozen=True, slots=True)
class Made:
    """What a step gives, in memory of the record's.

    Attributes:
        hidden: Shape: [R, D].
        logits: Shape: [R, V].
        tokens: the likeliest; -1 where scores are no numbers. Shape: [R].
    """

    hidden: Tensor
    logits: Tensor
    tokens: Tensor


class Recorder(Protocol):
    """Records work on a device."""

    def why_not(self) -> str | None:
        """What speaks against a record now; None if nothing does."""
        ...

    def record(self, work: Callable[[], Made]) -> tuple[Callable[[], object], Made]:
        """What plays the work again, and where it leaves what it makes."""
        ...


class Graphs:
    """Records by CUDA graphs, which share their memory.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        self._memory: _POOL_HANDLE | None = None

    def why_not(self) -> str | None:
        if is_watched() or torch.is_autocast_enabled("cuda"):
            return "operations are watched or transformed"
        return None

    def record(self, work: Callable[[], Made]) -> tuple[Callable[[], object], Made]:
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream), recording():
            work()  # kernels are loaded, and constants made, by a first time that nobody records
        graph = torch.cuda.CUDAGraph()
        # Other threads may go on asking the GPU for memory meanwhile.
        with torch.cuda.graph(graph, self._memory, self._stream, capture_error_mode="thread_local"), recording():
            made = work()
        self._memory = graph.pool()
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        return graph.replay, made


def recorder_of(device: torch.device) -> Recorder | None:
    """What records on a device; None where nothing does."""
    return Graphs(device) if device.type == "cuda" else None
