"""A part of a model to a program of ``torch.export``: tensors by keyword in, a dictionary of tensors out.

A keyword is the name of ONNX's input with ``_`` for every dot (``past_key_values_0_key``), since a keyword of Python
has none; so are the keys of what comes out.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from omniform.export.onnx.graphs import TRACED, quiet, untranslatable
from omniform.export.onnx.inputs import Input
from omniform.export.onnx.layout import Graph, Port, Role
from omniform.export.onnx.parts import Flat, Part

DTYPES: Final = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def keyword(name: str) -> str:
    """What a program calls an input or an output."""
    return name.replace(".", "_")


def any_size() -> AbstractContextManager[object]:
    """While sizes are thought of as any number from 0, not from 2 as torch does by itself: steps are of one token."""
    from torch.fx.experimental import _config

    made: AbstractContextManager[object] = _config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
    return made


class Called(nn.Module):
    """A part that takes keywords, for a trace.

    Args:
        part: what is traced.
        dtype: of the numbers inside; what goes in and out is float32.
    """

    def __init__(self, part: Part, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        module = cast(Flat, part.module)
        if dtype != torch.float32:
            module = copy.deepcopy(module).to(dtype)
        self.model = module.model  # the weights' names begin with this, as in no wrapper at all
        keywords = {keyword(own.name): own.name for own in part.inputs}

        def forward(**given: Tensor) -> dict[str, Tensor]:
            inside = {
                keywords[name]: value.to(dtype) if value.is_floating_point() else value for name, value in given.items()
            }
            found = module.run(inside)
            return {
                keyword(name): value.float() if value.is_floating_point() else value
                for name, value in zip(part.outputs, found, strict=True)
            }

        # torch.export asks the signature which keyword has which sizes, and a function of ** tells it of none.
        places = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in keywords]
        vars(forward)["__signature__"] = inspect.Signature(places)
        self.forward = forward


def program_of(part: Part, dtype: torch.dtype, where: str) -> ExportedProgram:
    """The program of a part.

    Args:
        part: of a model.
        dtype: of the numbers inside.
        where: what is exported, for messages.

    Raises:
        InputError: the part cannot be traced, or a size is fixed that must not be.
    """
    examples = {keyword(own.name): own.example(TRACED) for own in part.inputs}
    shapes = {keyword(own.name): _axes(own) for own in part.inputs}
    try:
        with torch.no_grad(), quiet(), any_size():
            module = Called(part, dtype).eval()
            program = torch.export.export(module, (), examples, dynamic_shapes=shapes, strict=False)
    except Exception as error:
        raise untranslatable(error, where) from error
    program._guards_code = [told for told in program._guards_code if not _of_one(told)]
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of the machine that made it
    return program


def _axes(own: Input) -> dict[int, object]:
    """The axes of any size, as torch.export takes them."""
    return {
        axis: Dim.AUTO if dim in own.maybe else Dim.DYNAMIC for axis, dim in enumerate(own.dims) if isinstance(dim, str)
    }


_SINGLE: Final = re.compile(r".*[^<>=!] (!= [01]|> [01]|>= [12])|([01] !=|[01] <|[12] <=) [^<>=!]+")


def _of_one(told: str) -> bool:
    """Whether a condition refuses a single row or token only because the trace saw several.

    Modules take a shorter way for one, which gives the same; the comparison with torch is made of such steps too.
    """
    return _SINGLE.fullmatch(told) is not None


def described(program: ExportedProgram, part: Part, role: Role, file: str) -> Graph:
    """What a program reads and gives."""
    nodes = {node.name: node.meta["val"] for node in program.graph.nodes if "val" in node.meta}
    names: dict[str, str] = {}
    inputs = []
    for own, name in zip(part.inputs, program.graph_signature.user_inputs, strict=True):
        value = cast(Tensor, nodes[str(name)])
        dims: list[int | str] = []
        for size, dim in zip(value.shape, own.dims, strict=True):
            fixed = isinstance(size, int) or str(size).isdecimal()
            if not fixed and isinstance(dim, str) and "+" not in dim:
                names.setdefault(str(size), dim)
            dims.append(int(size) if fixed else dim)
        inputs.append(Port(own.name, _kind(value), tuple(dims)))
    outputs = [
        Port(name, _kind(cast(Tensor, nodes[str(node)])), _dims(cast(Tensor, nodes[str(node)]), names))
        for name, node in zip(part.outputs, program.graph_signature.user_outputs, strict=True)
    ]
    return Graph(role, file, tuple(inputs), tuple(outputs))


def _kind(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _dims(value: Tensor, names: Mapping[str, str]) -> tuple[int | str, ...]:
    return tuple(
        int(size)
        if isinstance(size, int)
        else re.sub(r"\b[su]\d+\b", lambda found: names.get(found.group(0), found.group(0)), str(size))
        for size in value.shape
    )


def in_order(names: Sequence[str], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by keyword, in the order of a program."""
    return {keyword(name): given[name] for name in names}
