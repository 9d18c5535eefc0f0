"""Programs in a folder, as ``torch.export`` saves them or compiled by AOTInductor, and what runs them."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, cast

import torch
from torch import Tensor

from omniform.core.errors import InputError, MissingToolError, brief
from omniform.export.exporting import Runtime
from omniform.export.formats import Options
from omniform.export.onnx.graphs import quiet
from omniform.export.onnx.layout import FILES, Graph, Port, Role
from omniform.export.onnx.parts import Part
from omniform.export.packages.programs import DTYPES, any_size, described, in_order, keyword, program_of

Program = Callable[..., dict[str, Tensor]]
"""Tensors by keyword to tensors by name."""


def file_of(role: Role) -> str:
    """Where a program goes."""
    return f"{Path(FILES[role]).stem}.pt2"


def _written(folder: Path, parts: Sequence[Part], options: Options, where: str, compiled: bool) -> dict[Role, Graph]:
    """Write every part, one after another, and tell what it reads and gives."""
    found: dict[Role, Graph] = {}
    for part in parts:
        program = program_of(part, DTYPES[options.dtype], f"{where}, {part.role}")
        file = file_of(part.role)
        found[part.role] = described(program, part, part.role, file)
        with _quietly():
            if compiled:
                _compile(program, folder / file, f"{where}, {part.role}")
            else:
                torch.export.save(program, folder / file)
    return found


def _compile(program: torch.export.ExportedProgram, path: Path, where: str) -> None:
    """Have AOTInductor make a library of a program, packed as one file.

    Raises:
        InputError: it cannot.
    """
    try:
        with torch.no_grad(), any_size():
            torch._inductor.aoti_compile_and_package(program, package_path=str(path))
    except Exception as error:  # of torch's many kinds
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        raise InputError(
            "AOTInductor cannot compile this", where=where, found=f"{type(error).__name__}: {first[:300]}"
        ) from error


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def compiler() -> str:
    """The C++ compiler that torch will call: what ``CXX`` names, else g++ (clang++ on a Mac).

    Raises:
        MissingToolError: it is not there.
    """
    usual = "clang++" if platform.system() == "Darwin" else "g++"
    name = os.environ.get("CXX") or usual
    found = shutil.which(name.split()[0])
    if found is None:
        raise MissingToolError(
            "compiling ahead of time needs a C++ compiler", where="aot",
            expected=f"{name}{' (named by CXX)' if os.environ.get('CXX') else ''}", found="no such program",
            remedy=f"Install {usual}, or name another with CXX; the format torch needs none.",
        )  # fmt: skip
    return found


def machine() -> str:
    """What compiled code is made for: processor and instructions."""
    return f"{platform.system()} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def suits(certificate: Mapping[str, object]) -> None:
    """Refuse what was compiled for another machine: its instructions would end the process.

    Raises:
        InputError: it was.
    """
    made = certificate.get("machine")
    if made != machine():
        raise InputError(
            "this was compiled for another machine", where="machine", expected=machine(), found=brief(made),
            remedy="Export it here; or export the format torch, which runs anywhere.",
        )  # fmt: skip


class ProgramRunner:
    """A program, with its inputs by the names of the folder.

    Args:
        program: loaded.
        graph: what it reads and gives.
    """

    def __init__(self, program: Program, graph: Graph) -> None:
        self._program = program
        self.inputs: Mapping[str, Port] = {port.name: port for port in graph.inputs}
        self._outputs = [port.name for port in graph.outputs]

    def __call__(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name. Inputs that the program does not read are left out."""
        fed = {name: value.contiguous() for name, value in given.items() if name in self.inputs}
        with torch.no_grad():
            found = self._program(**in_order([*self.inputs], fed))
        return {name: found[keyword(name)] for name in self._outputs}


def open_program(folder: Path, graph: Graph) -> ProgramRunner:
    """A program of ``torch.export``.

    Raises:
        InputError: torch cannot load it.
    """
    return _opened(folder / graph.file, graph, "torch.export", lambda path: torch.export.load(path).module())


def open_compiled(folder: Path, graph: Graph) -> ProgramRunner:
    """A program that was compiled.

    Raises:
        InputError: torch cannot load it.
    """
    return _opened(folder / graph.file, graph, "AOTInductor", lambda path: torch._inductor.aoti_load_package(path))


def _opened(path: Path, graph: Graph, tool: str, load: Callable[[str], object]) -> ProgramRunner:
    try:
        with _quietly():
            return ProgramRunner(cast(Program, load(str(path))), graph)
    except Exception as error:  # of torch's many kinds
        raise InputError(f"{tool} cannot load the file", where=str(path), found=str(error)[:300]) from error


def _compiled(folder: Path, parts: Sequence[Part], options: Options, where: str) -> Mapping[Role, Graph]:
    return _written(folder, parts, options, where, compiled=True)


def _saved(folder: Path, parts: Sequence[Part], options: Options, where: str) -> Mapping[Role, Graph]:
    return _written(folder, parts, options, where, compiled=False)


def _compiler_there(options: Options) -> None:
    compiler()


RUNTIMES: Final = {
    "torch": Runtime("torch.export's program", lambda options: None, _saved, open_program, lambda options: {}),
    "aot": Runtime(
        "AOTInductor's program",
        _compiler_there,
        _compiled,
        open_compiled,
        lambda options: {"machine": machine(), "compiler": compiler()},
        suits,
    ),
}
"""How :mod:`omniform.export.exporting` has programs written and run."""
