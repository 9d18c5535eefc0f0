"""What programs multiply by: the packed matrices of layers, as they multiply themselves, and of stacks of experts."""

from __future__ import annotations

from torch import nn

from omniform.blocks.lowering import CannotLower
from omniform.blocks.operations import Multiplies
from omniform.transforms.pack import Packed, drop_changed, packed_of
from omniform.transforms.pack import is_current as is_packed_as
from omniform.transforms.packed import Made, PackedLinear
from omniform.transforms.packed import forget_written as drop_held
from omniform.transforms.packed import matrix_of as held_matrix_of
from omniform.transforms.quantize.layers import Made as QuantMade
from omniform.transforms.quantize.layers import QuantLinear
from omniform.transforms.quantize.layers import forget_written as drop_quantized
from omniform.transforms.quantize.layers import matrix_of as quantized_matrix_of

Product = Packed | Made | QuantMade
"""What a layer multiplies by, and adds."""


def matrix_of(linear: Multiplies) -> Product:
    """What a layer multiplies by. Raises CannotLower where that is torch's matter."""
    if isinstance(linear, QuantLinear):
        if linear.first:
            raise CannotLower(linear, linear.first)
        made = quantized_matrix_of(linear)
        if made is None:
            raise CannotLower(linear, "its matrix lies elsewhere")
        if made.order is not None:
            raise CannotLower(linear, "its inputs are in another order (act-order)")
        return made
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
    if isinstance(linear, QuantLinear):
        return quantized_matrix_of(linear) is product
    if isinstance(linear, PackedLinear):
        return held_matrix_of(linear) is product
    return isinstance(linear, nn.Linear) and isinstance(product, Packed) and is_packed_as(linear, product)


def forget_written(model: nn.Module) -> None:
    """Forget what layers multiply by where somebody has written to what it was made of, counted or not."""
    drop_changed(model)
    drop_held(model)
    drop_quantized(model)
