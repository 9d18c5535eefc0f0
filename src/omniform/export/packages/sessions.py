"""Programs of torch behind the protocol of :class:`omniform.export.onnx.sessions.Session`, so that all that runs graphs
(forward, ``generate``, pipelines, the server) runs them too."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from omniform.core.errors import InputError
from omniform.export.exporting import form_of, runtime_of
from omniform.export.onnx.layout import Graph, Layout
from omniform.export.onnx.sessions import Held, Session


class ProgramSession(Session):
    """One program.

    Args:
        layout: of its folder.
        graph: what it reads and gives.

    Raises:
        InputError: torch cannot load it, or it was compiled for another machine.
    """

    def __init__(self, layout: Layout, graph: Graph) -> None:
        runtime = runtime_of(form_of(layout.certificate))
        runtime.suits(layout.certificate)
        self.graph = graph
        self._program = runtime.opened(layout.folder, graph)

    def run(self, given: Mapping[str, Tensor | Held]) -> dict[str, Held]:
        """See :meth:`omniform.export.onnx.sessions.Runs.run`."""
        fed = {}
        for port in self.graph.inputs:
            one = given[port.name]
            fed[port.name] = (one.tensor() if isinstance(one, Held) else one).to(vars(torch)[port.dtype])
        try:
            return {name: Held(tensor) for name, tensor in self._program(fed).items()}
        except (RuntimeError, AssertionError) as error:  # sizes that do not fit together
            first = next(iter(str(error).splitlines()), "")
            raise InputError("the program cannot compute", where=self.graph.file, found=first[:300]) from error
