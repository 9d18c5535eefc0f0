"""A graph's inputs and outputs as a model's: what nobody gave is filled in, tensors become an output of its class."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import fields
from typing import cast

import torch
from torch import Tensor, nn

from omniform.architectures.named import PreTrainedModel
from omniform.core.errors import InputError, OmniformError, brief
from omniform.core.outputs import ModelOutput
from omniform.export.onnx.layout import Graph
from omniform.export.onnx.sessions import Held


def filled(graph: Graph, given: Mapping[str, object], past: int) -> dict[str, Tensor]:
    """Inputs as the graph reads them: a mask of what is real, types and positions where nobody gave any."""
    told: dict[str, Tensor] = {}
    ids = given.get("input_ids")
    for port in graph.inputs:
        name = port.name
        if name.startswith("past"):
            continue
        value = given.get(name)
        if value is None and isinstance(ids, Tensor):
            if name == "attention_mask":
                value = ids.new_ones((*ids.shape[:-1], past + ids.shape[-1]))
            elif name == "token_type_ids":
                value = torch.zeros_like(ids)
            elif name == "position_ids":
                value = torch.arange(past, past + ids.shape[-1])[None].expand(ids.shape[0], -1)
        if not isinstance(value, Tensor):
            raise InputError("the graph reads an input that is not there", where=name, found=brief(value))
        if value.is_floating_point() != port.dtype.startswith("float"):
            raise InputError(
                "the graph reads numbers of another kind", where=name, expected=port.dtype,
                found=str(value.dtype).removeprefix("torch."),
            )  # fmt: skip
        if name == "position_ids" and isinstance(ids, Tensor) and value.shape != ids.shape:
            value = value.expand(ids.shape[0], -1)
        told[name] = value
    return told


def kind_of(model: type[PreTrainedModel], names: set[str]) -> type[ModelOutput]:
    """The class of a forward's output that has these entries: as the forward says, else any that fits."""
    for base in model.__mro__:
        if "forward" not in vars(base) or not issubclass(base, nn.Module) or base is nn.Module:
            continue
        try:
            hint = typing.get_type_hints(base.forward).get("return")
        except (NameError, TypeError):  # names that are imported for type checkers only
            continue
        for one in typing.get_args(hint) or (hint,):
            if isinstance(one, type) and issubclass(one, ModelOutput) and names <= _entries(one):
                return one
    from omniform.core import outputs

    kinds = [k for k in vars(outputs).values() if isinstance(k, type) and issubclass(k, ModelOutput)]
    found = next((k for k in kinds if k is not ModelOutput and names <= _entries(k)), None)
    if found is None:
        raise OmniformError(f"no output has {', '.join(sorted(names))}")
    return found


def _entries(kind: type[ModelOutput]) -> set[str]:
    return {field.name for field in fields(kind)} if kind is not ModelOutput else set()  # type: ignore[arg-type]


def together(kind: type[ModelOutput], found: Mapping[str, Held]) -> ModelOutput:
    """An output of what a graph gave; entries of several tensors are numbered there."""
    entries: dict[str, object] = {}
    for name, held in found.items():
        stem, _, number = name.partition(".")
        entries[stem] = (*cast("tuple[Tensor, ...]", entries.get(stem, ())), held.tensor()) if number else held.tensor()
    made = kind.__new__(kind)
    for field in fields(kind):  # type: ignore[arg-type] # every output is a dataclass
        setattr(made, field.name, entries.get(field.name))
    return made
