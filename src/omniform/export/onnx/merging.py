"""Two steps of a decoder as one file: an input says which of them runs, and they share their weights."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from omniform.export.onnx.layout import BRANCH

if TYPE_CHECKING:
    import onnx_ir as ir


def merged(first: ir.Model, later: ir.Model) -> ir.Model:
    """One graph of two; both are used up.

    Args:
        first: the step that reads no cache.
        later: the step that does. What it does not give of the first's outputs, it hands through from its inputs
            (``present.0.encoder.key`` from ``past_key_values.0.encoder.key``).
    """
    import onnx_ir as ir

    outer: dict[str, ir.Value] = {}
    for value in (*later.graph.inputs, *first.graph.inputs):
        if value.name is not None and value.name not in outer:
            outer[value.name] = ir.Value(name=value.name, type=value.type, shape=value.shape)
    branch = ir.Value(name=BRANCH, type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([1]))
    weights: dict[str, ir.Value] = {}
    names = [value.name or "" for value in first.graph.outputs]
    kinds = {value.name: (value.type, value.shape) for value in (*later.graph.outputs, *first.graph.outputs)}
    branches = []
    for graph, prefix in ((later.graph, "later"), (first.graph, "first")):
        _share(graph, outer, weights, prefix)
        branches.append(_branch(graph, names, outer, prefix))
    outputs = [ir.Value(name=name, type=kinds[name][0], shape=kinds[name][1]) for name in names]
    choice = ir.Node(
        "",
        "If",
        [branch],
        [ir.AttrGraph("then_branch", branches[0]), ir.AttrGraph("else_branch", branches[1])],
        outputs=outputs,
        name="step",
    )
    graph = ir.Graph(
        [*outer.values(), branch],
        outputs,
        nodes=[choice],
        initializers=list(weights.values()),
        opset_imports=first.opset_imports,
        name="merged",
    )
    return ir.Model(graph, ir_version=first.ir_version, producer_name="omniform")


def _share(graph: ir.Graph, outer: dict[str, ir.Value], weights: dict[str, ir.Value], prefix: str) -> None:
    """Let a graph read the outer inputs, and each weight from where all read it."""
    import onnx_ir as ir

    for value in graph.inputs:
        value.replace_all_uses_with(outer[value.name or ""])
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        assert tensor is not None
        key = f"{tensor.dtype}{tuple(tensor.shape.numpy())}{hashlib.sha256(tensor.tobytes()).hexdigest()}"
        if key not in weights:
            name = f"{prefix}_{value.name}"
            weights[key] = ir.Value(name=name, type=value.type, shape=value.shape, const_value=tensor)
        value.replace_all_uses_with(weights[key])


def _branch(graph: ir.Graph, names: list[str], outer: dict[str, ir.Value], prefix: str) -> ir.Graph:
    """The nodes of a graph as a branch of another, with these outputs."""
    import onnx_ir as ir

    known = {value.name: value for value in graph.outputs}
    nodes = list(graph)
    for node in graph.all_nodes():
        node.name = f"{prefix}_{node.name}"
        for made in node.outputs:
            made.name = f"{prefix}_{made.name}"
    outputs: list[ir.Value] = []
    for name in names:
        value: ir.Value | None = known.get(name)
        if value is None or value.producer() is None:
            handed = outer[name.replace("present", "past_key_values", 1)] if value is None else value
            copied = ir.Value(name=f"{prefix}_{name}", type=handed.type, shape=handed.shape)
            nodes.append(ir.Node("", "Identity", [handed], outputs=[copied], name=f"{prefix}_{name}_handed"))
            value = copied
        outputs.append(value)
    graph.outputs.clear()
    graph.remove([node for node in nodes if node.graph is graph])
    return ir.Graph([], outputs, nodes=nodes, name=prefix)
