"""The parts of a model as graphs of ONNX: what :mod:`omniform.export.exporting` writes for onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from omniform.core.errors import InputError
from omniform.export.exporting import Runtime
from omniform.export.formats import LARGEST, Options
from omniform.export.onnx.certificates import Runner
from omniform.export.onnx.graphs import check_opset, graph_of, settled
from omniform.export.onnx.layout import FILES, FOLDER, Graph, Role, described
from omniform.export.onnx.merging import merged
from omniform.export.onnx.parts import Part
from omniform.export.onnx.smaller import check_bits, halve
from omniform.export.onnx.smaller import quantize as quantized

if TYPE_CHECKING:
    import onnx_ir as ir


def file_of(role: Role, options: Options) -> str:
    """Where a graph goes; transformers.js finds other bits by the end of the name."""
    if options.layout == "optimum":
        return FILES[role]
    ends = {"fp32": "", "fp16": "_fp16", "int8": "_quantized"}[options.bits]
    return f"{FOLDER}/{FILES[role].removesuffix('.onnx')}{ends}.onnx"


def check(options: Options) -> None:
    """Refuse what there is no way to.

    Raises:
        InputError: of the options.
        DependencyError: onnx is not installed.
    """
    check_opset(options.opset)
    check_bits(options.dtype, options.quantize)
    if not 0 <= options.largest_file <= LARGEST:
        raise InputError(
            "no such size", where="largest_file", expected=f"0 to {LARGEST} bytes", found=options.largest_file
        )


def roles_of(parts: Sequence[Part]) -> list[Role]:
    """What the files of some parts do: a merged decoder stands beside the two that it is made of."""
    found = [part.role for part in parts]
    return [*found, "decoder_merged"] if "decoder_with_past" in found else found


def write(folder: Path, parts: Sequence[Part], options: Options, where: str) -> Mapping[Role, Graph]:
    """Write every graph, and tell what it reads and gives."""
    write_graphs(folder, parts, options, where)
    return {role: described(folder, role, file_of(role, options)) for role in roles_of(parts)}


def write_graphs(folder: Path, parts: Sequence[Part], options: Options, where: str) -> None:
    """Write every graph, one after another, so that no more than one is held."""
    import onnx_ir as ir

    for part in parts:
        graph = graph_of(part.module, part.inputs, part.outputs, options.opset, f"{where}, {part.role}")
        _save(graph, folder / file_of(part.role, options), options)
        del graph
        path = folder / file_of(part.role, options)
        if options.quantize is not None:
            quantized(path)
        elif options.dtype == "fp16":
            halve(path)
    if "decoder_with_past" in {part.role for part in parts}:
        first, later = (ir.load(folder / file_of(role, options)) for role in ("decoder", "decoder_with_past"))
        _save(merged(first, later), folder / file_of("decoder_merged", options), options)


def _save(graph: ir.Model, path: Path, options: Options) -> None:
    import onnx_ir as ir

    path.parent.mkdir(parents=True, exist_ok=True)
    settled(graph)
    size = sum(value.const_value.nbytes for value in graph.graph.initializers.values() if value.const_value is not None)
    ir.save(graph, path, external_data=f"{path.name}_data" if size > options.largest_file else None)


ONNX: Final = Runtime("onnxruntime", check, write, Runner, lambda options: {"opset": options.opset})
"""How :mod:`omniform.export.exporting` has graphs written and run."""
