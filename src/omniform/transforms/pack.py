"""Native matrices: what a linear layer multiplies by, in the layout that the kernels read.

A matrix is packed when it is first multiplied by, and let go when its parameter is no longer what was packed. The
parameter stays what and where it is, so that training, saving and moving a model are as before: what is saved is what
was loaded. A parameter that is a view of a mapped file costs no memory twice, since its pages are let go.

Layers stay ``nn.Linear`` to everybody else. What is compiled, traced, exported or differentiated goes torch's own way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeGuard, cast
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.blocks.joint import JointLinear
from omniform.blocks.moe import Routes, Stacked
from omniform.core.errors import InputError
from omniform.core.layouts import HasOutput
from omniform.native.cache import packed
from omniform.native.library import library, why_not
from omniform.native.matrix import KINDS
from omniform.transforms import stacks
from omniform.transforms.precision import (
    INTEGERS,
    LEAST,
    WORDS,
    AsLoaded,
    Integers,
    Precision,
    can_pack,
    held_bytes,
    is_watched,
)
from omniform.transforms.samples import Samples
from omniform.transforms.widen import ROWS, multiplied, slow_dtypes
from omniform.weights.origin import origin_of
from omniform.weights.pages import collapse, is_mapped, release
from omniform.weights.transform import Transform
from omniform.weights.version import Memory, counted, were_written


class Packed:
    """A layer's matrix, and what it was packed from.

    Args:
        linear: the layer.
        precision: as what numbers.

    Attributes:
        matrix: the matrix.
        bias: float32, or None. Shape: [outs].
        memory: what lies behind the parameters.
    """

    def __init__(self, linear: nn.Linear, precision: Precision) -> None:
        self._weight, self._bias = linear.weight, linear.bias
        with torch.no_grad():
            weight = linear.weight
            self.matrix = packed(lambda: origin_of(weight), repr(precision), lambda: precision.packed(weight))
            self.bias = None if linear.bias is None else linear.bias.detach().float().clone()
        collapse(self.matrix.c.codes, self.matrix.nbytes)
        self._state = self._now()
        # To look at the numbers of a mapped matrix would bring its pages back.
        own = [self._weight] if self._bias is None else [self._weight, self._bias]
        self._samples = [Samples(given) for given in own if not is_mapped(given)]
        self.memory = Memory(own, WORDS)
        release(self._weight)

    def _now(self) -> tuple[object, ...]:
        return counted(self._weight), None if self._bias is None else counted(self._bias)

    def has_moved(self) -> bool:
        """Whether the parameters lie elsewhere by now, or torch has counted a write to them."""
        return self._now() != self._state

    def fits(self, linear: nn.Module) -> bool:
        """Whether this is a layer's matrix still, as far as can be seen at once."""
        held = linear._parameters
        return (
            held.get("weight") is self._weight
            and held.get("bias") is self._bias
            and not self.has_moved()
            and all(samples.are_as_they_were() for samples in self._samples)
        )


_PACKED: WeakKeyDictionary[nn.Module, Packed] = WeakKeyDictionary()
"""Beside the layers, not in them: copies and pickles go without."""


def packed_of(linear: nn.Linear) -> Packed | None:
    """A layer's packed matrix, made where there is none yet; None where the layer is to be torch's.

    It is torch's where there are no kernels, on another device, in another dtype than they know, and where a second
    copy in memory would win too little: a big matrix that is no view of a mapped file, in a dtype that the CPU has
    instructions for.
    """
    found = _PACKED.get(linear)
    if found is not None:
        if found.fits(linear):
            return found
        del _PACKED[linear]
    precision = linear.precision if isinstance(linear, NativeLinear) else AsLoaded()
    if not can_pack(linear.weight, precision):
        return None
    found = _PACKED[linear] = Packed(linear, precision)
    return found


class NativeLinear(JointLinear):
    """A linear layer that multiplies by its packed matrix wherever nobody learns from it or watches it.

    Attributes:
        precision: as what numbers the matrix is packed.
    """

    precision: Precision = AsLoaded()

    def forward(self, x: Tensor) -> Tensor:
        """Shape: [..., in] to [..., out]."""
        packed = self._packed_for(x)
        return self._by_torch(x) if packed is None else _product(x, packed)

    def together(self, x: Tensor, layers: tuple[nn.Module, ...]) -> tuple[Tensor, ...] | None:
        if not all(isinstance(layer, NativeLinear) for layer in layers) or any(map(_is_hooked, layers)):
            return None
        found = [layer._packed_for(x) for layer in cast(tuple[NativeLinear, ...], layers)]
        if any(packed is None for packed in found):
            return None
        return tuple(_product(x, packed) for packed in found if packed is not None)

    def in_memory(self) -> dict[str, int]:
        """Bytes that its matrix takes."""
        weight = self._parameters.get("weight")
        return {} if weight is None else {"weight": held_bytes(weight, self.precision, packed_bytes([self]))}

    def _packed_for(self, x: Tensor) -> Packed | None:
        weight = self.weight
        if type(x) is not Tensor or x.dtype is not weight.dtype or x.device.type != "cpu" or not x.numel():
            return None
        if torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in self.parameters())):
            return None
        return None if is_watched() or x.shape[-1] != self.in_features else packed_of(self)

    def _by_torch(self, x: Tensor) -> Tensor:
        """torch's own product; of slow halves in float32 tiles, where that may be."""
        learned = torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in self.parameters()))
        few = x.numel() < ROWS * self.in_features
        if few or learned or is_watched() or x.dtype is not self.weight.dtype or x.dtype not in slow_dtypes():
            return F.linear(x, self.weight, self.bias)
        return multiplied(x, self.weight, self.bias)


def _is_hooked(layer: nn.Module) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks)


def _product(x: Tensor, packed: Packed) -> Tensor:
    rows = x.reshape(-1, x.shape[-1])
    return packed.matrix.multiply(rows, bias=packed.bias).view(*x.shape[:-1], packed.matrix.outs)


Multiplying = nn.Linear | Stacked
"""What multiplies: a layer, or a stack of experts."""


def can_be_native(module: nn.Module) -> TypeGuard[Multiplying]:
    """Whether a module is torch's own layer, or a plain stack of experts, with matrices that are big enough."""
    return stacks.can_be_native(module) or (type(module) is nn.Linear and min(module.weight.shape) >= LEAST)


def as_native(module: Multiplying, precision: Precision) -> None:
    """Make a layer, or a stack of experts, one that multiplies by packed matrices, in place."""
    if isinstance(module, Stacked):
        stacks.as_native(module, precision)
        return
    module.__class__ = NativeLinear
    cast(NativeLinear, module).precision = precision


def _is_for_kernels(weight: Tensor, halves_only: bool) -> bool:
    known = weight.device.type == "cpu" and weight.dtype in KINDS
    return known and not (halves_only and weight.dtype is torch.float32)


def pack(model: nn.Module, *, halves_only: bool = False) -> int:
    """Have every linear layer that profits multiply by a packed matrix; changes the model in place.

    Args:
        halves_only: leave float32 alone, which torch multiplies well where there are many rows.

    Returns:
        How many layers that were torch's are not any more.
    """
    if library() is None:
        return 0
    count = 0
    for module in model.modules():
        if can_be_native(module) and _is_for_kernels(module.weight, halves_only):
            as_native(module, AsLoaded())
            count += 1
    if count and _look_first not in model._forward_pre_hooks.values():
        model.register_forward_pre_hook(_look_first)  # for those who call the model and use no engine
    return count


class Pack(Transform):
    """Native matrices for the layers of a model whose weights are halves: see :func:`pack`."""

    def finish(self, model: nn.Module) -> None:
        pack(model, halves_only=True)


class Quantize(Transform):
    """Native matrices of whole numbers; the projection onto the vocabulary keeps eight bits. Routers stay as they are.

    Args:
        integers: of which kind.
    """

    def __init__(self, integers: Integers) -> None:
        self._integers = integers

    def finish(self, model: nn.Module) -> None:
        for module, integers in self.chosen(model).items():
            as_native(module, integers)
        model.requires_grad_(False)  # nobody would see what a step of an optimizer did to the numbers beside them

    def takes(self, model: nn.Module) -> dict[str, int]:
        """Bytes of the matrices that become whole numbers, once they are, by the paths of their parameters."""
        chosen = self.chosen(model)
        return {
            f"{path}.weight": held_bytes(module.weight.to("meta"), chosen[module], 0)
            for path, module in model.named_modules()
            if can_be_native(module) and module in chosen
        }

    def chosen(self, model: nn.Module) -> dict[Multiplying, Integers]:
        """The layers and stacks of experts whose matrices become whole numbers, and of which kind."""
        routing = [part for part in model.modules() if isinstance(part, Routes)]
        routers = {part._modules.get(name) for part in routing for name in part.ROUTERS}
        head = model.get_output_embeddings() if isinstance(model, HasOutput) else None
        return {
            module: replace(self._integers, bits=8) if module is head else self._integers
            for module in model.modules()
            if can_be_native(module) and module not in routers
        }


def integers_of(dtype: object) -> Integers | None:
    """What whole numbers a ``dtype=`` asks for; None where it names a dtype of torch's.

    Raises:
        InputError: there are no native kernels to compute with them.
    """
    found = INTEGERS.get(dtype) if isinstance(dtype, str) else None
    if found is not None and library() is None:
        raise InputError(
            "whole numbers are computed by the native kernels, which are not there",
            where="dtype",
            expected="bfloat16, float16 or float32",
            found=repr(dtype),
            remedy=f"{why_not()}. Install omniform where there is a C++ compiler, or leave dtype out.",
        )
    return found


def is_current(linear: nn.Linear, packed: Packed) -> bool:
    """Whether this is what a layer multiplies by still, as far as can be seen at once."""
    return _PACKED.get(linear) is packed and packed.fits(linear)


def drop_changed(model: nn.Module) -> None:
    """Forget the packed copies of matrices that somebody has written to since."""
    stacks.drop_changed(model)
    found = [(layer, packed) for layer in model.modules() if (packed := _PACKED.get(layer)) is not None]
    moved = any(packed.has_moved() for _, packed in found)
    if moved or were_written(packed.memory for _, packed in found):
        for layer, packed in found:
            if packed.has_moved() or packed.memory.was_written():
                _PACKED.pop(layer, None)


def packed_bytes(layers: Sequence[nn.Module]) -> int:
    """Bytes that the packed matrices of some layers and stacks take now."""
    of_layers = sum(packed.matrix.nbytes for layer in layers if (packed := _PACKED.get(layer)) is not None)
    return of_layers + sum(map(stacks.packed_bytes, layers))


def _look_first(model: nn.Module, inputs: object) -> None:
    drop_changed(model)
