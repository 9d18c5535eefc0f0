"""Graphs in onnxruntime, and what they keep between steps: handed on as it lies, without a copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, Self, cast

import torch
from torch import Tensor

from omniform.core.errors import InputError, check_arguments, nearest
from omniform.export.onnx.layout import Graph, Port, Role, missing

if TYPE_CHECKING:
    import onnxruntime

KINDS: Final = {
    "tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(float)": "float32", "tensor(float16)": "float16",
    "tensor(bool)": "bool", "tensor(double)": "float64", "tensor(uint8)": "uint8", "tensor(int8)": "int8",
}  # fmt: skip
"""What onnxruntime calls the kinds of tensors, and what numpy calls them."""


@dataclass(frozen=True, slots=True)
class Held:
    """A tensor that goes in or came out: in onnxruntime's memory, or in torch's."""

    value: onnxruntime.OrtValue | Tensor

    def tensor(self) -> Tensor:
        """The same memory, as torch sees it."""
        return self.value if isinstance(self.value, Tensor) else torch.from_numpy(self.value.numpy())

    def select(self, rows: Tensor) -> Held:
        """Other rows of it, or the same in another order: a copy."""
        return held(self.tensor().index_select(0, rows))


def held(tensor: Tensor, dtype: str = "") -> Held:
    """A tensor for a graph: the same memory where its dtype is the one that is wanted."""
    kind = vars(torch)[dtype] if dtype else tensor.dtype
    return Held(tensor.detach().contiguous().to(kind))


def _fed(one: Tensor | Held, port: Port) -> onnxruntime.OrtValue:
    """A tensor as onnxruntime takes it: the same memory where its dtype is the one that is wanted."""
    import onnxruntime

    value = (one if isinstance(one, Held) else held(one, port.dtype)).value
    return onnxruntime.OrtValue.ortvalue_from_numpy(value.numpy()) if isinstance(value, Tensor) else value


class Runs(Protocol):
    """What a graph is to those who compute with it, whatever runs it.

    Attributes:
        graph: what it reads and gives.
    """

    graph: Graph

    def run(self, given: Mapping[str, Tensor | Held]) -> dict[str, Held]:
        """Outputs by name; every input that the graph has is there.

        Raises:
            InputError: the inputs are refused.
        """
        ...


@dataclass(frozen=True, slots=True)
class Runtime:
    """How onnxruntime is to compute.

    Attributes:
        providers: by whom, the first that can; the processor by default. A name, or a name and its options.
        intra_op_num_threads: threads of one operation; as many as torch has by default.
        inter_op_num_threads: operations at once.
        session_options: onnxruntime's own, instead of the numbers of threads.
    """

    providers: Sequence[str | tuple[str, Mapping[str, object]]] = ()
    intra_op_num_threads: int | None = None
    inter_op_num_threads: int | None = None
    session_options: object | None = None

    @classmethod
    def read(cls, given: Mapping[str, object]) -> Runtime:
        """From keywords, optimum's ``provider`` and ``provider_options`` among them.

        Raises:
            UnknownArgumentError: an unknown one, with the nearest name.
            InputError: a number of threads that is none; a provider that this onnxruntime does not have.
        """
        known = ("providers", "provider", "provider_options", *list(cls.__dataclass_fields__)[1:])
        check_arguments("OnnxModel.from_pretrained", given, known)
        said = {name: value for name, value in given.items() if value is not None}
        threads: dict[str, int | None] = dict.fromkeys(("intra_op_num_threads", "inter_op_num_threads"))
        for name in threads:
            value = said.get(name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise InputError("no number of threads", where=name, expected="an integer >= 1", found=repr(value)[:80])
            threads[name] = value
        one, how = said.get("provider"), said.get("provider_options")
        several = [] if one is None else [one if how is None else (one, how)]
        providers = said.get("providers", several)
        if isinstance(providers, str) or not isinstance(providers, Sequence):
            raise InputError("no list of providers", where="providers", expected="a list", found=repr(providers)[:80])
        _check_providers(cast("Sequence[object]", providers))
        return cls(tuple(providers), **threads, session_options=said.get("session_options"))

    def session(self, path: Path) -> onnxruntime.InferenceSession:
        """A file in onnxruntime.

        Raises:
            InputError: onnxruntime refuses it.
            DependencyError: onnxruntime is not installed.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise missing("onnxruntime") from error
        options = self.session_options
        if options is None:
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 4
            options.intra_op_num_threads = self.intra_op_num_threads or torch.get_num_threads()
            options.inter_op_num_threads = self.inter_op_num_threads or 1
        providers = [*(self.providers or ("CPUExecutionProvider",))]
        try:
            return onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # its classes of errors have no common base but this
            raise InputError("onnxruntime cannot load the file", where=str(path), found=str(error)[:300]) from error


def _check_providers(providers: Sequence[object]) -> None:
    if not providers:
        return
    import onnxruntime

    there = onnxruntime.get_available_providers()
    for one in providers:
        name = one[0] if isinstance(one, (tuple, list)) and one else one
        if name not in there:
            raise InputError(
                "this onnxruntime has no such provider", where="providers", expected=", ".join(there),
                found=repr(name)[:80], remedy=nearest(str(name), there),
            )  # fmt: skip


class Session:
    """One file.

    Args:
        folder: where it is.
        graph: what it reads and gives, as the folder says.
        runtime: how it is computed.

    Attributes:
        session: onnxruntime's own.
    """

    def __init__(self, folder: Path, graph: Graph, runtime: Runtime | None = None) -> None:
        self.graph = graph
        self.session = (runtime or Runtime()).session(folder / graph.file)
        there = {one.name for one in self.session.get_inputs()}
        for port in graph.inputs:
            if port.name not in there:
                raise InputError(
                    "the graph has no such input", where=str(folder / graph.file), expected=port.name,
                    found=", ".join(sorted(there)), remedy="Export the model again.",
                )  # fmt: skip
        self._outputs = [port.name for port in graph.outputs]

    @classmethod
    def described(cls, folder: Path, role: Role, file: str, runtime: Runtime) -> Session:
        """A file of which nothing is known but what onnxruntime says of it.

        Raises:
            InputError: onnxruntime cannot load it, or it reads something that is no tensor.
        """
        session = runtime.session(folder / file)
        ports = []
        for side in (session.get_inputs(), session.get_outputs()):
            for one in side:
                if one.type not in KINDS:
                    raise InputError("this is no tensor that can be made here", where=f"{file}: {one.name}",
                                     expected=", ".join(KINDS), found=one.type)  # fmt: skip
            ports.append(tuple(
                Port(one.name, KINDS[one.type], tuple(d if isinstance(d, int) else str(d) for d in one.shape))
                for one in side
            ))  # fmt: skip
        made = cls.__new__(cls)
        made.graph = Graph(role, file, *ports)
        made.session, made._outputs = session, [port.name for port in ports[1]]
        return made

    def empty(self, rows: int) -> dict[str, Held]:
        """What is kept before the first step, as far as the graph reads it."""
        return {port.name: nothing(port, rows) for port in self.graph.inputs if port.name.startswith("past")}

    def run(self, given: Mapping[str, Tensor | Held]) -> dict[str, Held]:
        """See :meth:`Runs.run`."""
        fed = {port.name: _fed(given[port.name], port) for port in self.graph.inputs}
        try:
            values = self.session.run_with_ort_values(self._outputs, fed)
        except Exception as error:  # its classes of errors have no common base but this
            raise InputError("onnxruntime cannot compute", where=self.graph.file, found=str(error)[:300]) from error
        return dict(zip(self._outputs, map(Held, values), strict=True))


def nothing(port: Port, rows: int) -> Held:
    """No tokens yet, and zeros of what is kept once for a row."""
    sizes = [rows, *(dim if isinstance(dim, int) else 0 for dim in port.dims[1:])]
    return held(torch.zeros(sizes), port.dtype)


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
        new = {past_name(name): one for name, one in found.items() if name.startswith("present")}
        if self.length:  # what was read of an encoder is made once
            new = {name: one for name, one in new.items() if ".encoder." not in name}
        return OnnxCache({**self.held, **new}, length)


def past_name(present: str) -> str:
    """What an output that is kept is called as an input of the next step."""
    kind = present.removeprefix("present").removeprefix("_key_values")
    return f"past_key_values{kind}" if kind.startswith(".") else f"past{kind}"
