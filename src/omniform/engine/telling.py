"""What an engine is, in a few lines: ``print(engine)``."""

from __future__ import annotations

from collections import Counter

from torch import nn

from omniform.architectures.model import Model
from omniform.blocks.lowering import HoldsMatrix
from omniform.blocks.moe import Stacked
from omniform.native.library import library, why_not
from omniform.transforms.lower import LoweredLayers, computed_by
from omniform.transforms.pack import NativeLinear
from omniform.transforms.packed import PackedLinear
from omniform.transforms.precision import Integers
from omniform.transforms.quantize.layers import QuantLinear
from omniform.transforms.stacks import BlockStack, HeldStack, NativeStacked


def told(model: Model, blocks: int, block_size: int) -> str:
    """The model, what computes each stack of its layers and why, how its layers multiply, and the room for rows."""
    by = library()
    lines = [f"Engine of {type(model).__name__}, {model.num_parameters():,} parameters on {model.device}"]
    lines.append(f"room: {blocks * block_size:,} tokens in blocks of {block_size}")
    lines.append(f"native kernels: {why_not() if by is None else by.variant}")
    for path, stack in model.named_modules():
        if isinstance(stack, LoweredLayers):
            by_torch = "torch, layer by layer (it is in training mode)"
            lines.append(f"{path}: {by_torch if stack.training else computed_by(stack)}")
    kinds = Counter(_how(layer) for layer in model.modules() if isinstance(layer, nn.Linear | HoldsMatrix | Stacked))
    lines.append("layers that multiply: " + ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())))
    return "\n".join(lines)


def _how(layer: nn.Module) -> str:
    """What a layer multiplies by."""
    whose = "stacks of experts " if isinstance(layer, Stacked) else ""
    if isinstance(layer, QuantLinear):
        return f"in {layer.format.name}"
    if isinstance(layer, PackedLinear | BlockStack):
        return f"{whose}in {layer.kind.name} blocks"
    if isinstance(layer, HeldStack):
        return f"{whose}in {layer.told}"
    if not isinstance(layer, NativeLinear | NativeStacked):
        return f"{whose}torch's own"
    kind = layer.precision
    return f"{whose}native int{kind.bits}" if isinstance(kind, Integers) else f"{whose}native"
