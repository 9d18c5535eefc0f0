"""Matrices in the layout that the CPU's matmul reads fastest.

oneDNN multiplies by a matrix in blocks, and a plain row-major matrix is brought into them again at every call, or is
read by a slower kernel. :func:`pack` does it once. On a CPU with bfloat16 instructions that makes one row's
matmuls about 1.7 times as fast, and those of 24 rows likewise; the results are the same to the last bit
(``docs/benchmarks.md``).

The parameters stay where they are and what they are, so that training, saving and moving a model are as before. A
matrix that is a view of a mapped file costs no memory twice: its pages are let go, and read again by whoever touches
them.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.weights.pages import is_mapped, release

LEAST = 64
"""Matrices of fewer rows or columns are left alone: there is nothing to win."""


class PackedLinear(nn.Linear):
    """A linear layer that keeps a packed copy of its matrix for inference.

    The copy is used while gradients are off, and only as long as the parameter is the one that was packed and nobody
    has changed it in place. (A change through ``.data`` cannot be seen; call :func:`pack` again after one.)

    Args:
        linear: the layer to take the parameters of.
    """

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.train(linear.training)
        self.pack()

    def pack(self) -> None:
        """Pack the matrix as it is now."""
        with torch.no_grad():
            self._packed: Tensor | None = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach(), None)
        self._version, self._address = self.weight._version, self.weight.data_ptr()
        release(self.weight)

    @property
    def is_current(self) -> bool:
        """Whether the packed copy still says what the parameter says."""
        weight = self.weight
        return self._packed is not None and weight._version == self._version and weight.data_ptr() == self._address

    def __getstate__(self) -> dict[str, object]:
        # Copies and pickles go without: what is packed is opaque, and only of use where it was made.
        return {**self.__dict__, "_packed": None}

    def forward(self, x: Tensor) -> Tensor:
        """Shape: [..., in] to [..., out]."""
        if torch.is_grad_enabled() or not self.is_current or x.dtype != self.weight.dtype:
            return F.linear(x, self.weight, self.bias)
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise.default(x, self._packed, self.bias, "none", [], ""))


def can_pack(linear: nn.Linear) -> bool:
    """Whether packing this layer makes it faster here: a bfloat16 matrix on a CPU that multiplies such."""
    weight = linear.weight
    return (
        type(linear) is nn.Linear
        and weight.device.type == "cpu"
        and weight.dtype == torch.bfloat16
        and min(weight.shape) >= LEAST
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


def pack(model: nn.Module, *, mapped_only: bool = False) -> int:
    """Pack every linear layer of a model that profits; changes the model in place.

    Layers that were packed before and changed since are packed anew.

    Args:
        mapped_only: leave matrices alone that are no views of a mapped file, so that no memory is taken twice.

    Returns:
        How many layers are packed.
    """
    count = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, PackedLinear):
                if not child.is_current:
                    child.pack()
            elif isinstance(child, nn.Linear) and can_pack(child) and (not mapped_only or is_mapped(child.weight)):
                setattr(parent, name, PackedLinear(child))
            else:
                continue
            count += 1
    return count
