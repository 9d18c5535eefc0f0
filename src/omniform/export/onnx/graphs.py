"""A module to a graph of ONNX: traced by ``torch.export``, translated by torch's own exporter."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn
from torch._dynamo import config as dynamo
from torch.export import Dim, ExportedProgram

from omniform.core.errors import InputError
from omniform.export.onnx.decomposing import Program, quickly, translated
from omniform.export.onnx.inputs import Input, Sizes
from omniform.export.onnx.layout import missing

if TYPE_CHECKING:
    import onnx_ir as ir

OPSETS: Final = range(18, 24)
"""Versions of ONNX's operations that torch translates to."""

USUAL: Final = 20

TRACED: Final[Sizes] = {
    "batch_size": 2,
    "sequence_length": 5,
    "past_sequence_length": 3,
    "encoder_sequence_length": 7,
    "num_choices": 4,
    "num_images": 2,
    "text_batch_size": 2,
    "image_batch_size": 3,
    "decoder_sequence_length": 6,
}
"""Sizes of the examples that are traced: none of them 0 or 1, which torch takes for themselves, nor the same."""


def check_opset(opset: int) -> None:
    """Refuse a version of ONNX's operations that there is no way to.

    Raises:
        InputError: it is too old, or too new.
        DependencyError: onnx is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise missing(str(error.name)) from error
    if opset not in OPSETS:
        age = "old" if opset < OPSETS.start else "new"
        raise InputError(
            f"this opset is too {age}", where="opset", expected=f"{OPSETS.start} to {OPSETS.stop - 1}", found=opset
        )


def graph_of(module: nn.Module, inputs: Sequence[Input], outputs: Sequence[str], opset: int, where: str) -> ir.Model:
    """A module's graph, its weights not copied.

    Args:
        module: takes tensors by position and returns a tuple of them.
        inputs: what it takes.
        outputs: names of what it returns.
        opset: version of ONNX's operations.
        where: what is exported, for messages.

    Raises:
        InputError: the module cannot be traced, an operation has no translation, or a size is fixed that must not be.
    """
    own_table = further()
    known = translated(opset) | own_table.keys()
    examples = tuple(own.example(TRACED) for own in inputs)
    program = traced(module, inputs, examples, where)
    noted = io.StringIO()
    try:
        with quiet(), contextlib.redirect_stdout(noted), quickly():
            made = torch.onnx.export(
                Program(program, known),
                dynamo=True,
                input_names=[own.name for own in inputs],
                output_names=list(outputs),
                opset_version=opset,
                custom_translation_table=own_table,
                verbose=False,
                optimize=False,
            )
            assert made is not None
            simplify(made.model)
    except Exception as error:
        raise untranslatable(error, where) from error
    widened(made.model)
    name_axes(made.model, inputs)
    return made.model


def simplify(model: ir.Model) -> None:
    """Compute what is known beforehand, and leave out what nobody reads or what is there twice.

    What onnxscript does beside that (looking for patterns, rule by rule) takes as long as all else, and onnxruntime
    does it when it opens a file.
    """
    import onnx_ir.passes.common as passes
    from onnx_ir.passes import Sequential
    from onnxscript.optimizer import fold_constants

    passes.InlinePass()(model)
    fold_constants(model)
    Sequential(
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedFunctionsPass(),
        passes.RemoveUnusedOpsetsPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.LiftSubgraphInitializersToMainGraphPass(),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.OutputFixPass(),
        passes.NameFixPass(),
    )(model)


def further() -> dict[Callable[..., object], Callable[..., object]]:
    """Operations that torch's exporter has no translation of, and ours: of sorting, which routers of experts do, and of
    looking for numbers among others, by comparing all with all; and what would be taken apart in each layer."""
    from onnxscript import opset18 as op

    whole, truth = 7, 9  # int64 and bool of TensorProto.DataType

    def sort(self: object, stable: bool | None = None, dim: int = -1, descending: bool = False) -> object:
        count = op.Gather(op.Shape(self), op.Constant(value_ints=[dim]), axis=0)
        return op.TopK(self, count, axis=dim, largest=int(descending), sorted=1)

    def last(held: object) -> object:
        return op.Unsqueeze(held, op.Constant(value_ints=[-1]))

    def isin(elements: object, test_elements: object, assume_unique: bool = False, invert: bool = False) -> object:
        same = op.Cast(op.Equal(last(elements), op.Reshape(test_elements, op.Constant(value_ints=[-1]))), to=whole)
        found = op.Cast(op.ReduceMax(same, op.Constant(value_ints=[-1]), keepdims=0), to=truth)
        return op.Not(found) if invert else found

    def before(bounds: object, values: object, right: bool) -> object:
        """How many of the bounds lie before each value."""
        bounds = op.Unsqueeze(bounds, op.Constant(value_ints=[-2]))
        passed = op.LessOrEqual(bounds, last(values)) if right else op.Less(bounds, last(values))
        return op.ReduceSum(op.Cast(passed, to=whole), op.Constant(value_ints=[-1]), keepdims=0)

    def searchsorted(
        sorted_sequence: object, self: object, out_int32: bool = False, right: bool = False, side: str | None = None,
        sorter: object = None,
    ) -> object:  # fmt: skip
        return before(sorted_sequence, self, right or side == "right")

    def bucketize(self: object, boundaries: object, out_int32: bool = False, right: bool = False) -> object:
        return before(boundaries, self, right)

    def rms_norm(self: object, normalized_shape: list[int], weight: object = None, eps: float | None = None) -> object:
        axes = op.Constant(value_ints=list(range(-len(normalized_shape), 0)))
        square = op.ReduceMean(op.Mul(self, self), axes)
        small = torch.finfo(torch.float32).eps if eps is None else eps
        small_like = op.CastLike(op.Constant(value_float=small), square)
        found = op.Mul(self, op.Reciprocal(op.Sqrt(op.Add(square, small_like))))
        return found if weight is None else op.Mul(found, weight)

    own = torch.ops.aten
    return {
        own.rms_norm.default: rms_norm,
        own.sort.stable: sort, own.isin.Tensor_Tensor: isin, own.searchsorted.Tensor: searchsorted,
        own.bucketize.Tensor: bucketize,
    }  # fmt: skip


def traced(module: nn.Module, inputs: Sequence[Input], examples: tuple[Tensor, ...], where: str) -> ExportedProgram:
    """What ``torch.export`` makes of a module. Raises as :func:`graph_of`."""
    shapes = tuple(
        {
            axis: Dim.AUTO if dim in own.maybe else Dim.DYNAMIC
            for axis, dim in enumerate(own.dims)
            if isinstance(dim, str)
        }
        for own in inputs
    )
    try:
        # What was computed of shapes before is looked up at a higher price than it is computed.
        with torch.no_grad(), quiet(), dynamo.patch(fake_tensor_cache_enabled=False):
            return torch.export.export(module, examples, dynamic_shapes=(shapes,), strict=False)
    except Exception as error:
        raise untranslatable(error, where) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what torch's exporter says on the way; what matters comes as an error."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [one.level for one in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for one in loggers:
            one.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for one, level in zip(loggers, levels, strict=True):
                one.setLevel(level)


_OPERATION = re.compile(r"\b((?:torch\.ops\.)?(?:aten|prims|torchvision|torchaudio)(?:\.|::)[\w.]+)")


def untranslatable(error: Exception, where: str) -> InputError:
    """Why something cannot be exported, in one sentence that names the operation."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__
    texts = [str(one) for one in chain]
    found = next((m.group(1) for text in reversed(texts) if (m := _OPERATION.search(text))), None)
    first = next((line.strip() for text in reversed(texts) for line in text.splitlines() if line.strip()), "")
    kind = type(chain[-1]).__name__
    return InputError(
        "this cannot be exported",
        where=where,
        found=f"{found}: {kind}: {first[:240]}" if found else f"{kind}: {first[:300]}",
    )


def name_axes(model: ir.Model, inputs: Sequence[Input]) -> None:
    """Call axes of any size as the inputs do, in the whole graph; sums keep their form."""
    import onnx_ir as ir

    names: dict[str, str] = {}
    for value, own in zip(model.graph.inputs, inputs, strict=True):
        assert value.shape is not None
        for axis, (dim, name) in enumerate(zip(value.shape, own.dims, strict=True)):
            if isinstance(dim, ir.SymbolicDim) and isinstance(name, str):
                if dim.value is not None and dim.value.isidentifier() and "+" not in name:
                    names.setdefault(dim.value, name)
                value.shape[axis] = ir.SymbolicDim(name)
    pattern = re.compile(r"\bs\d+\b")
    for shape in _shapes(model):
        for axis, dim in enumerate(shape):
            if isinstance(dim, ir.SymbolicDim) and dim.value is not None:
                told = pattern.sub(lambda m: names.get(m.group(0), m.group(0)), dim.value)
                if told != dim.value:
                    shape[axis] = ir.SymbolicDim(_ordered(told))


def _ordered(told: str) -> str:
    """Sums begin with what came before, as loaders write them."""
    return "past_sequence_length + sequence_length" if told == "sequence_length + past_sequence_length" else told


def _shapes(model: ir.Model) -> Iterable[ir.Shape]:
    values = [*model.graph.outputs, *(value for node in model.graph.all_nodes() for value in node.outputs)]
    return (value.shape for value in values if value.shape is not None and not value.shape.frozen)


def widened(model: ir.Model) -> None:
    """Compute numbers of bfloat16 in float32, and round each as it was: onnxruntime has no other way on a processor.

    Some models compute a little in bfloat16 whatever their weights are (Falcon's slopes).
    """
    import onnx_ir as ir

    graph, narrow, wide = model.graph, ir.DataType.BFLOAT16, ir.DataType.FLOAT

    def cast(value: ir.Value, to: ir.DataType, name: str) -> ir.Node:
        made = ir.Value(name=name, type=ir.TensorType(to), shape=value.shape)
        return ir.Node("", "Cast", [value], [ir.AttrInt64("to", int(to))], outputs=[made])

    for number, node in enumerate(list(graph)):
        read = [value for value in node.inputs if value is not None and value.dtype == narrow]
        if node.domain or node.op_type == "Cast" or not read:
            continue
        for place, value in enumerate(node.inputs):
            if value is not None and value.dtype == narrow:
                before = cast(value, wide, f"{value.name}_wide_{number}_{place}")
                graph.insert_before(node, before)
                node.replace_input_with(place, before.outputs[0])
        for value in node.outputs:
            if value.dtype == narrow:
                after = cast(value, narrow, f"{value.name}_rounded")
                value.replace_all_uses_with(after.outputs[0])
                after.replace_input_with(0, value)
                value.dtype = wide
                graph.insert_after(node, after)


def settled(model: ir.Model) -> None:
    """Lay down matrices as they are multiplied with, where a graph turns them over in every run."""
    import onnx_ir as ir

    graph = model.graph
    for node in list(graph):
        if node.op_type != "Transpose" or node.domain:
            continue
        value = node.inputs[0]
        held = None if value is None else value.const_value
        if value is None or held is None or value.name not in graph.initializers or len(value.uses()) != 1:
            continue
        if len(held.shape) != 2:
            continue
        name, shape = f"{value.name}_turned", ir.Shape([held.shape[1], held.shape[0]])
        laid = ir.LazyTensor(partial(_turned, held), dtype=held.dtype, shape=shape, name=name)
        turned = ir.Value(name=name, type=value.type, shape=shape, const_value=laid)
        graph.register_initializer(turned)
        node.outputs[0].replace_all_uses_with(turned)
        graph.remove(node, safe=True)
        graph.initializers.pop(value.name)


def _turned(held: ir.TensorProtocol) -> ir.TensorProtocol:
    """A matrix, rows as columns; made when it is written, and let go then."""
    import onnx_ir as ir

    return ir.tensor(held.numpy().T.copy())
