"""An exported program in operations that ONNX has a translation of, made node by node.

torch's own way there (:meth:`torch.export.ExportedProgram.run_decompositions`, and then a pass for dtypes) computes
the whole program anew twice, with sizes as symbols, and takes three times as long as the first trace. But nearly all
nodes stay what they are: here the few others are taken apart, each alone, and what writes in place becomes what makes
anew. Where it is not plain that nobody sees the writing under another name, torch's way is gone.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Final, cast

import torch
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher
from torch._ops import HigherOrderOperator, OpOverload
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import ExportedProgram
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

if TYPE_CHECKING:
    from torch.onnx._internal.exporter._registration import ONNXRegistry

Table = dict[OpOverload, Callable[..., object]]

aten = torch.ops.aten

FRESH: Final = (
    "linear", "matmul", "rms_norm", "layer_norm", "group_norm", "batch_norm", "softmax", "log_softmax", "conv1d",
    "conv2d", "conv3d", "embedding", "conv_transpose1d", "conv_transpose2d", "repeat_interleave", "square", "argsort",
    "einsum", "pad", "scaled_dot_product_attention", "max", "min", "avg_pool1d", "max_pool1d", "max_pool2d", "one_hot",
    "index_copy", "where", "outer", "cdist",
)  # fmt: skip
"""Operations made of others whose results are never views of what they read."""

CONVERSIONS: Final = (aten.to.dtype, aten.to.dtype_layout, aten.to.device, aten.to.other, aten.type_as.default)
SAME: Final = (aten.detach_.default, aten.detach.default, aten.alias.default)
CHECKS: Final = (
    aten._assert_tensor_metadata.default, aten._assert_scalar.default, aten._assert_async.msg,
    aten.sym_constrain_range_for_size.default,
)  # fmt: skip


class UnclearError(Exception):
    """What is left to torch's own way."""


class Program(ExportedProgram):
    """A program that is taken apart node by node, where that can be done.

    Args:
        whole: what ``torch.export`` made, in evaluation; it is used up.
        translated: operations that ONNX has a translation of.
    """

    def __init__(self, whole: ExportedProgram, translated: frozenset[object]) -> None:
        self.__dict__.update(vars(whole))
        self.translated = translated

    def run_decompositions(
        self, decomp_table: dict[torch._ops.OperatorBase, Callable[..., object]] | None = None,
        decompose_custom_triton_ops: bool = False,
    ) -> ExportedProgram:  # fmt: skip
        """See :meth:`torch.export.ExportedProgram.run_decompositions`; this changes the program itself."""
        if not plain(self.graph):
            return cast(ExportedProgram, super().run_decompositions(decomp_table))
        # What writes in place is not taken apart: it becomes what makes anew.
        table = {
            op: apart for op, apart in (decomp_table or {}).items()
            if isinstance(op, OpOverload) and not op._schema.is_mutable
        }  # fmt: skip
        spare = copy.deepcopy(self.graph)
        try:
            for node in list(self.graph.nodes):
                if node.op == "call_function" and isinstance(node.target, OpOverload):
                    _simpler(node, table, self.translated)
        except UnclearError:
            self.graph_module.graph = spare
            return cast(ExportedProgram, super().run_decompositions(decomp_table))
        self.graph.eliminate_dead_code()
        (output,) = self.graph.find_nodes(op="output")
        for spec, node in zip(self.graph_signature.output_specs, output.args[0], strict=True):
            if isinstance(node, fx.Node):
                spec.arg.name = node.name
        self.graph_module.recompile()
        return self


def plain(graph: fx.Graph) -> bool:
    """Whether nothing that is written to is read under another name later, and no node has graphs of its own."""
    place = {node: number for number, node in enumerate(graph.nodes)}
    base: dict[fx.Node, fx.Node] = {}
    family: dict[fx.Node, list[fx.Node]] = {}
    for node in graph.nodes:
        base[node] = node
        if node.op == "get_attr" or isinstance(node.target, HigherOrderOperator):
            return False
        if node.op == "call_function" and isinstance(node.target, OpOverload):
            if node.target._schema.is_mutable and not _own(node, base, family, place):
                return False
            for shared in _shared(node):
                base[node] = base[shared]
        family.setdefault(base[node], []).append(node)
    return True


def _own(
    node: fx.Node, base: dict[fx.Node, fx.Node], family: dict[fx.Node, list[fx.Node]], place: dict[fx.Node, int]
) -> bool:
    """Whether a node's writing is seen by those alone who read what it wrote to by its own names."""
    if node.target is aten.detach_.default:
        return True
    written = node.args[0] if node.args else None
    if not isinstance(written, fx.Node) or base[written].op != "call_function" or _anew(node) is None:
        return False
    names = {written}
    while isinstance(written.target, OpOverload) and written.target._schema.is_mutable:
        written = cast(fx.Node, written.args[0])
        names.add(written)
    others = (other for other in family[base[written]] if other not in names)
    return not any(place[user] > place[node] for other in others for user in other.users)


def _shared(node: fx.Node) -> list[fx.Node]:
    """Those inputs of a node whose numbers its result may share: the first of a view."""
    target = cast(OpOverload, node.target)
    sharing = any(one.alias_info is not None for one in target._schema.arguments)
    composed = _composed(target) and target._schema.name.removeprefix("aten::") not in FRESH
    return node.all_input_nodes[:1] if sharing or composed else []


def _composed(target: OpOverload) -> bool:
    """Whether an operation is made of others, so that its result may be a view though its schema does not say so."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(target.name(), "CompositeImplicitAutograd")  # type: ignore[no-untyped-call] # torch's


def _anew(node: fx.Node) -> OpOverload | None:
    """The operation that makes anew what this one writes in place."""
    target = cast(OpOverload, node.target)
    space, _, name = target._schema.name.partition("::")
    if space != "aten" or not name.endswith("_") or name[:-1] not in IN_PLACE:
        return None
    packet = aten.__getattr__(name[:-1])
    known = packet.overloads()  # type: ignore[no-untyped-call] # torch's
    return packet.__getattr__(target._overloadname) if target._overloadname in known else None


IN_PLACE: Final = (
    "add", "sub", "mul", "div", "relu", "masked_fill", "clamp", "clamp_min", "clamp_max", "index_fill",
    "index_copy", "index_put", "scatter", "exp", "neg", "sigmoid", "tanh", "silu", "gelu", "sqrt", "rsqrt", "pow",
    "square", "logical_not", "bitwise_not", "bitwise_and", "bitwise_or", "hardtanh", "leaky_relu", "elu", "index_add",
)  # fmt: skip
"""Operations that write in place under their name and ``_``."""


def _simpler(node: fx.Node, table: Table, translated: frozenset[object]) -> None:
    """Replace a node by what ONNX has a translation of."""
    graph, target = node.graph, cast(OpOverload, node.target)
    if target in CHECKS:
        graph.erase_node(node)
        return
    if target in SAME or (target is aten.dropout.default and not node.args[2]):
        _becomes(node, cast(fx.Node, node.args[0]))
        return
    if target._schema.is_mutable:
        written = cast(fx.Node, node.args[0])
        node.target = target = cast(OpOverload, _anew(node))
        for user in list(written.users):
            if user is not node and node < user:
                user.replace_input_with(written, node)
    if target in CONVERSIONS:
        _converted(node)
    elif target is aten.cat.default:
        _of_one_dtype(node)
    elif target not in translated and (target in table or _composed(target)):
        _taken_apart(node, table, translated)


def _becomes(node: fx.Node, other: fx.Node) -> None:
    node.replace_all_uses_with(other)
    node.graph.erase_node(node)


def _converted(node: fx.Node) -> None:
    """A conversion to what it is already is none."""
    source = cast(fx.Node, node.args[0])
    before, after = cast(Tensor, source.meta["val"]).dtype, cast(Tensor, node.meta["val"]).dtype
    if before == after:
        _becomes(node, source)
    else:
        node.target, node.args, node.kwargs = aten._to_copy.default, (source,), {"dtype": after}


def _of_one_dtype(node: fx.Node) -> None:
    """ONNX joins tensors of one dtype alone; torch makes them so by itself."""
    wanted = cast(Tensor, node.meta["val"]).dtype
    joined = []
    for one in cast("list[fx.Node]", node.args[0]):
        value = cast(Tensor, one.meta["val"])
        if value.dtype != wanted:
            with node.graph.inserting_before(node):
                same = node.graph.call_function(aten._to_copy.default, (one,), {"dtype": wanted})
            same.meta["val"] = value.to(wanted)
            joined.append(same)
        else:
            joined.append(one)
    node.args = (joined, *node.args[1:])


def _taken_apart(node: fx.Node, table: Table, translated: frozenset[object]) -> None:
    """Put the operations that a node is made of in its place."""
    leaves, tree = pytree.tree_flatten((node.args, node.kwargs))
    nodes = list(dict.fromkeys(one for one in leaves if isinstance(one, fx.Node)))
    values = [one.meta["val"] for one in nodes]

    def alone(*given: object) -> object:
        known = dict(zip(nodes, given, strict=True))
        args, kwargs = pytree.tree_unflatten([known[x] if isinstance(x, fx.Node) else x for x in leaves], tree)
        return cast(OpOverload, node.target)(*args, **kwargs)

    mode = next((value.fake_mode for value in values if isinstance(value, FakeTensor)), None)
    if mode is None:
        raise UnclearError(f"{node.target} reads no tensor")
    # Without the dispatcher of Python, some sizes that are symbols would become numbers.
    with mode, torch.no_grad(), enable_python_dispatcher():
        made = make_fx(alone, decomposition_table=table, tracing_mode="real")(*values)
    if not plain(made.graph):
        raise UnclearError(f"{node.target} writes to what it reads")
    known = dict(zip(made.graph.find_nodes(op="placeholder"), nodes, strict=True))
    with node.graph.inserting_before(node):
        for inner in made.graph.nodes:
            if inner.op == "call_function":
                known[inner] = node.graph.node_copy(inner, known.__getitem__)
    copies = [one for inner, one in known.items() if inner.op == "call_function"]
    (output,) = made.graph.find_nodes(op="output")
    _handed(node, output.args[0], known)
    for one in copies:
        if isinstance(one.target, OpOverload):
            _simpler(one, table, translated)


def _handed(node: fx.Node, results: object, known: dict[fx.Node, fx.Node]) -> None:
    """Let those who read a node read these instead."""
    if isinstance(results, fx.Node):
        _becomes(node, known[results])
        return
    assert isinstance(results, (list, tuple))
    for user in list(node.users):
        _becomes(user, known[results[cast(int, user.args[1])]])
    node.graph.erase_node(node)


@contextlib.contextmanager
def quickly() -> Iterator[None]:
    """Within, two things of torch's exporter cost less.

    The pass that makes changes of dtypes explicit looks at what nodes are known to give, and computes those alone that
    it changes. And the table of translations, for which the sources of a thousand functions are read, is made once.
    """
    from torch.onnx._internal.exporter import _fx_passes
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    usual = _fx_passes.insert_type_promotion_nodes, vars(ONNXRegistry)["from_torchlib"]

    def known(kind: type[ONNXRegistry], opset_version: int) -> ONNXRegistry:
        return copied(opset_version)

    _fx_passes.insert_type_promotion_nodes = _promote  # type: ignore[assignment] # its parameter has another name
    ONNXRegistry.from_torchlib = classmethod(known)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        _fx_passes.insert_type_promotion_nodes, ONNXRegistry.from_torchlib = usual  # type: ignore[method-assign]


def _promote(module: fx.GraphModule) -> None:
    from torch.onnx._internal.fx.passes import type_promotion as own

    class Known(own._TypePromotionInterpreter):
        def run_node(self, n: fx.Node) -> object:
            with self._set_current_node(n):
                rule = own.get_type_promotion_rule(n, self.type_promotion_table)
                if rule:
                    self._maybe_promote_node(n, rule)
            return n.meta.get("val")

    done = own.InsertTypePromotion(module)
    done.interpreter = Known(module, own.TypePromotionTable())
    done.run()


@lru_cache(maxsize=2)
def _registry(opset: int) -> ONNXRegistry:
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    return ONNXRegistry.from_torchlib(opset_version=opset)


def copied(opset: int) -> ONNXRegistry:
    """The table of translations, to be changed by whoever asked."""
    whole = _registry(opset)
    own = copy.copy(whole)
    own.functions = {target: list(several) for target, several in whole.functions.items()}
    return own


def translated(opset: int) -> frozenset[object]:
    """Operations that torch's exporter has a translation of."""
    return frozenset(one.fx_target for several in _registry(opset).functions.values() for one in several)
