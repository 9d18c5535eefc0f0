"""Graphs in onnxruntime, and what they keep between steps: handed on as it lies, without a copy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self, cast

import torch
from torch import Tensor

from omniform.core.errors import InputError
from omniform.export.onnx.certificates import session as opened
from omniform.export.onnx.layout import Graph, Port

if TYPE_CHECKING:
    import onnxruntime


@dataclass(frozen=True, slots=True)
class Held:
    """A tensor in onnxruntime's memory."""

    value: onnxruntime.OrtValue

    def tensor(self) -> Tensor:
        """The same memory, as torch sees it."""
        return torch.from_numpy(self.value.numpy())

    def select(self, rows: Tensor) -> Held:
        """Other rows of it, or the same in another order: a copy."""
        return held(self.tensor().index_select(0, rows))


def held(tensor: Tensor, dtype: str = "") -> Held:
    """A tensor for onnxruntime: the same memory where its dtype is the one that is wanted."""
    import onnxruntime

    array = tensor.detach().contiguous().numpy()
    if dtype and array.dtype != dtype:
        array = array.astype(dtype)
    return Held(onnxruntime.OrtValue.ortvalue_from_numpy(array))


@dataclass(slots=True)
class OnnxCache:
    """What a decoder keeps of rows so far, by the names of the graph's inputs.

    Attributes:
        held: its tensors, in onnxruntime's memory.
        length: tokens so far.
    """

    held: dict[str, Held] = field(default_factory=dict)
    length: int = 0

    def get_seq_length(self) -> int:
        """Tokens so far."""
        return self.length

    def reorder_cache(self, beam_idx: Tensor) -> Self:
        """Rows in another order."""
        self.held = {name: one.select(beam_idx) for name, one in self.held.items()}
        return self

    def follow(self, found: Mapping[str, Held], length: int) -> OnnxCache:
        """The cache after a step; what the step did not write again stays."""
        new = {_past_name(name): one for name, one in found.items() if name.startswith("present")}
        if self.length:  # what was read of an encoder is made once
            new = {name: one for name, one in new.items() if ".encoder." not in name}
        return OnnxCache({**self.held, **new}, length)


def _past_name(present: str) -> str:
    kind = present.removeprefix("present")
    return f"past_key_values{kind}" if kind.startswith(".") else f"past{kind}"


class Session:
    """One file.

    Args:
        folder: where it is.
        graph: what it reads and gives.
    """

    def __init__(self, folder: Path, graph: Graph) -> None:
        self.graph = graph
        self._session = opened(folder / graph.file)
        there = {one.name for one in self._session.get_inputs()}
        for port in graph.inputs:
            if port.name not in there:
                raise InputError(
                    "the graph has no such input", where=str(folder / graph.file), expected=port.name,
                    found=", ".join(sorted(there)), remedy="Export the model again.",
                )  # fmt: skip
        self._outputs = [port.name for port in graph.outputs]

    def empty(self, rows: int) -> dict[str, Held]:
        """What is kept before the first step, as far as the graph reads it."""
        return {port.name: _nothing(port, rows) for port in self.graph.inputs if port.name.startswith("past")}

    def __call__(self, given: Mapping[str, object], past: Mapping[str, Held]) -> dict[str, Held]:
        """Outputs by name.

        Raises:
            InputError: onnxruntime refuses the inputs.
        """
        fed = {}
        for port in self.graph.inputs:
            if port.name.startswith("past"):
                one = past.get(port.name)
                if one is None:
                    rows = len(cast(Tensor, given["input_ids"]))
                    one = _nothing(port, rows)
            else:
                one = held(cast(Tensor, given[port.name]), port.dtype)
            fed[port.name] = one.value
        try:
            values = self._session.run_with_ort_values(self._outputs, fed)
        except Exception as error:  # its classes of errors have no common base but this
            raise InputError("onnxruntime cannot compute", where=self.graph.file, found=str(error)[:300]) from error
        return dict(zip(self._outputs, map(Held, values), strict=True))


def _nothing(port: Port, rows: int) -> Held:
    """No tokens yet, and zeros of what is kept once for a row."""
    sizes = [rows, *(dim if isinstance(dim, int) else 0 for dim in port.dims[1:])]
    return held(torch.zeros(sizes), port.dtype)
