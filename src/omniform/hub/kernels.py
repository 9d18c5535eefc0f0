"""Which kernels a model's attentions and its layers run, and why: asked of what decides it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from omniform.architectures.model import Model
from omniform.blocks.layers import Layer
from omniform.blocks.lowering import CannotLower
from omniform.blocks.moe import Stacked
from omniform.core.context import Computed
from omniform.core.state import StatefulModule
from omniform.hub.devices import Place
from omniform.hub.place import Placement, Stored
from omniform.native.library import library, why_not
from omniform.transforms.cut import cut, told
from omniform.transforms.pack import Quantize, can_be_native
from omniform.transforms.packed import PackedLinear
from omniform.transforms.precision import LEAST, SMALL, Integers
from omniform.transforms.program import lowered
from omniform.transforms.quantize.layers import QuantLinear
from omniform.transforms.stacks import HeldStack
from omniform.transforms.widen import ROWS, WIDENED, slow_dtypes
from omniform.weights.tensors import tensors_and_ties

NAMES = {torch.bfloat16: "bf16", torch.float16: "f16", torch.float32: "f32", torch.float64: "f64"}
"""Dtypes, as those say who write kernels."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """How some of a model's attentions are computed.

    Attributes:
        attentions: their module paths.
        prompt: the kernel over a whole prompt (or a whole input, in an encoder).
        decoding: the kernel of one new token; None where there is no decoding.
        why: what decides it.
    """

    attentions: tuple[str, ...]
    prompt: str
    decoding: str | None
    why: str


def kernels_of(model: Model) -> tuple[Kernel, ...]:
    """The kernels of all attentions of a model, alike ones together."""
    groups: dict[Computed, list[str]] = {}
    backends = {path: m.attn_backend for path, m in model.named_modules() if isinstance(m, Model)}
    for path, module in model.named_modules():
        home = next(outer for outer in _outwards(path) if outer in backends)
        how = module.computed(backends[home]) if isinstance(module, StatefulModule) else None
        if how is not None:
            groups.setdefault(how, []).append(path)
    return tuple(Kernel(tuple(paths), how.prompt, how.decoding, how.why) for how, paths in groups.items())


def _outwards(path: str) -> Iterator[str]:
    """A module's path, and those of the modules that it lies in, the whole model's last."""
    while path:
        yield path
        path = path.rpartition(".")[0]
    yield ""


@dataclass(frozen=True, slots=True)
class Matmul:
    """How some of a model's layers multiply.

    Attributes:
        layers: their module paths.
        kernel: what computes them.
        why: what decides it.
    """

    layers: tuple[str, ...]
    kernel: str
    why: str


def matmuls_of(model: Model, stored: Mapping[str, Stored], placement: Placement) -> tuple[Matmul, ...]:
    """How the layers of a model multiply that hold a matrix, and its stacks of experts; alike ones together.

    Args:
        stored: its tensors as they are held.
        placement: where they lie, and what computes them.
    """
    prepacks = model.can_generate() and "disk" not in placement.places.values()
    runs_on = {path: placement.runs_on(part) for part in placement.parts for path in part.tensors}
    _, ties = tensors_and_ties(model)
    integers = {
        layer: kind for t in model.transforms if isinstance(t, Quantize) for layer, kind in t.chosen(model).items()
    }
    groups: dict[tuple[str, str], list[str]] = {}
    for path, module in model.named_modules():
        weight = f"{path}.weight"
        if isinstance(module, PackedLinear | HeldStack | QuantLinear):
            groups.setdefault(module.computed(), []).append(path)
        if (type(module) in WIDENED or type(module) is Stacked) and weight in runs_on:
            held = stored[ties.get(weight, weight)]
            prepackable = prepacks and type(module) is nn.Linear and min(module.weight.shape) >= LEAST
            whole = integers.get(module) if isinstance(module, nn.Linear | Stacked) else None
            found = _matmul(module, held, runs_on[weight], prepackable, whole)
            groups.setdefault(found, []).append(path)
    return tuple(Matmul(tuple(paths), *found) for found, paths in groups.items())


def _matmul(
    module: nn.Module, held: Stored, place: Place, prepackable: bool, integers: Integers | None
) -> tuple[str, str]:
    dtype = held.dtype
    name = NAMES.get(dtype, str(dtype).removeprefix("torch."))
    if place != "cpu":
        return f"{name}, the device's own", f"computed by {place}"
    native = _native(module, held, name, integers)
    if native is not None:
        return native
    if dtype not in (torch.bfloat16, torch.float16):
        return f"{name}, torch's own", f"the weights are {name}"
    if type(module) is Stacked:
        return f"{name}, torch's own", "matrices of experts that are no view of a mapped file would be held twice"
    if dtype in slow_dtypes():
        why = f"no {name} instructions"
        if type(module) is not nn.Linear:
            return f"{name} convolution in f32", why
        return (
            f"{name} in f32 tiles",
            f"{why}; {ROWS} rows and more go through a widened tile, fewer as they are",
        )
    if dtype == torch.bfloat16 and prepackable and held.mapped:
        return f"oneDNN prepacked {name}", "mapped from the file: an engine prepacks them after its first step"
    return f"oneDNN {name}", f"the CPU has {name} instructions"


def _native(module: nn.Module, held: Stored, name: str, integers: Integers | None) -> tuple[str, str] | None:
    """How a layer multiplies by its packed matrix; None where it does not."""
    found = library()
    if found is None or not can_be_native(module):
        return None
    if integers is not None:
        why = f"made of {name} at first use, a scale for {integers.group} inputs"
        return f"native int{integers.bits} ({found.variant})", why
    half = held.dtype in (torch.bfloat16, torch.float16)
    if not half and held.dtype is not torch.float32:
        return None
    small = held.mapped or module.weight.numel() * held.dtype.itemsize <= SMALL
    if not small and held.dtype not in slow_dtypes():
        return None
    why = "packed at first use" if half else "packed by an engine after its first step, torch's own elsewhere"
    return f"native {name} ({found.variant})", why


@dataclass(frozen=True, slots=True)
class StackKernel:
    """How a stack of layers computes a step that nobody watches or learns from.

    Attributes:
        layers: the stack's module path.
        kernel: what computes it.
        why: what decides it.
    """

    layers: str
    kernel: str
    why: str


@runtime_checkable
class _Wide(Protocol):
    """What holds a stack of layers and knows the width of what goes through it."""

    @property
    def width(self) -> int: ...


def stacks_of(model: Model) -> tuple[StackKernel, ...]:
    """How the stacks of a model compute their steps, on the CPU."""
    found: list[StackKernel] = []
    for path, stack in model.named_modules():
        holder = model.get_submodule(path.rpartition(".")[0])
        if (
            isinstance(stack, nn.ModuleList)
            and len(stack)
            and isinstance(stack[0], Layer)
            and isinstance(holder, _Wide)
        ):
            found.append(StackKernel(path, *_stack(stack, holder.width)))
    return tuple(found)


def _stack(stack: nn.ModuleList, width: int) -> tuple[str, str]:
    by = library()
    if by is None:
        return "torch, layer by layer", why_not()
    memory = any(layer.READS_MEMORY for layer in stack if isinstance(layer, Layer))
    try:
        steps = lowered(stack, width, None, memory=memory)
    except CannotLower as error:
        runs = cut([*stack], width, memory=memory)
        if all(run.why for run in runs):
            return "torch, layer by layer", str(error)
        return f"native programs of some layers ({by.variant})", told(runs)
    return (
        f"one native program of {len(steps.operations)} operations ({by.variant})",
        "every block knows how it is lowered",
    )
