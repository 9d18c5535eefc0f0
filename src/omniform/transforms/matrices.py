"""What programs multiply by: the packed matrices of layers, as they multiply themselves, and of stacks of experts."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import nn

from omniform.blocks.lowering import CannotLower
from omniform.blocks.operations import Multiplies
from omniform.native.matrix import KINDS, Matrix
from omniform.transforms.pack import SMALL, WORDS, Packed, drop_changed, packed_of
from omniform.transforms.pack import is_current as is_packed_as
from omniform.transforms.packed import Made, PackedLinear
from omniform.transforms.packed import forget_written as drop_held
from omniform.transforms.packed import matrix_of as held_matrix_of
from omniform.transforms.widen import slow_dtypes
from omniform.weights.pages import is_mapped, release
from omniform.weights.version import Memory, counted

_STACKED: WeakKeyDictionary[nn.Module, tuple[tuple[int, int], Memory, Sequence[Matrix]]] = WeakKeyDictionary()
"""Beside the stacks of experts, not in them: copies and pickles go without."""


Product = Packed | Made
"""What a layer multiplies by, and adds."""


def matrix_of(linear: Multiplies) -> Product:
    """What a layer multiplies by. Raises CannotLower where that is torch's matter."""
    if isinstance(linear, PackedLinear):
        held = held_matrix_of(linear)
        if held is None:
            raise CannotLower(linear, f"its matrix lies on {linear.packed.device}")
        return held
    assert isinstance(linear, nn.Linear), linear
    found = packed_of(linear)
    if found is None:
        weight = linear.weight
        raise CannotLower(linear, f"its matrix stays torch's: {weight.dtype} on {weight.device}, in memory of its own")
    return found


def is_current(linear: Multiplies, product: Product) -> bool:
    """Whether this is what a layer multiplies by still, as far as can be seen at once."""
    if isinstance(linear, PackedLinear):
        return held_matrix_of(linear) is product
    return isinstance(linear, nn.Linear) and isinstance(product, Packed) and is_packed_as(linear, product)


def stack_of(stack: nn.Module) -> Sequence[Matrix]:
    """The matrices of a stack of experts. Raises CannotLower."""
    weight = stack._parameters["weight"]
    assert weight is not None
    found = _STACKED.get(stack)
    if found is None or found[0] != counted(weight) or found[1].was_written():
        if type(weight) not in (nn.Parameter, torch.Tensor) or weight.device.type != "cpu" or weight.dtype not in KINDS:
            raise CannotLower(stack, f"no kernel for {weight.dtype} on {weight.device}")
        if weight.nbytes > SMALL and weight.dtype not in slow_dtypes() and not is_mapped(weight):
            raise CannotLower(stack, "its matrices are no view of a mapped file, and would be held twice")
        matrices = [Matrix.pack(one) for one in weight.detach()]
        found = _STACKED[stack] = counted(weight), Memory((weight,), WORDS), matrices
        release(weight)
    return found[2]


def forget_written(model: nn.Module) -> None:
    """Forget what layers multiply by where somebody has written to what it was made of, counted or not."""
    drop_changed(model)
    drop_held(model)


def forget_stacks(model: nn.Module) -> None:
    """Forget the packed matrices of experts: somebody has written to a model's weights."""
    for module in model.modules():
        _STACKED.pop(module, None)
