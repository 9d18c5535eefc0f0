"""Matrices in the layout that the CPU's matmul reads fastest.

oneDNN multiplies by a matrix in blocks, and a plain row-major matrix is brought into them again at every call, or is
read by a slower kernel. :func:`prepack` does it once, and joins the matrices that read the same input into one. On a
CPU with bfloat16 instructions that makes the matmuls of one row, or of a few dozen, up to twice as fast
(``docs/benchmarks.md``).

The parameters stay where they are and what they are, so that training, saving and moving a model are as before. A
matrix that is a view of a mapped file costs no memory twice: its pages are let go, and read again by whoever touches
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.blocks.joint import Joins, JointLinear
from omniform.transforms.precision import LEAST, WORDS
from omniform.transforms.samples import Samples
from omniform.weights.pages import collapse, is_mapped, release
from omniform.weights.transform import Transform
from omniform.weights.version import Memory, counted, were_written


class Prepacked:
    """The prepacked matrices of layers that read the same input, one below the other.

    They are used while gradients are off, and only as long as the parameters are those that were prepacked and nobody
    has changed them in place. A change through ``.data`` leaves no trace in torch, so a few places are looked at: one
    of a whole matrix is seen at once, as of an adapter that is merged into it; smaller ones are when somebody asks
    whether ``memory.was_written()``, as engines and the model's own ``forward`` do.

    Args:
        layers: one layer, or several without biases.
        scratch: where to join them.

    Attributes:
        widths: outputs of each layer.
        memory: what lies behind the parameters.
    """

    def __init__(self, layers: Sequence[nn.Linear], scratch: Scratch) -> None:
        self._weights = [layer.weight for layer in layers]
        self._bias = layers[0].bias
        self.widths = [layer.out_features for layer in layers]
        with torch.no_grad():
            whole = self._weights[0].detach()
            if len(layers) > 1:
                whole = scratch.joined(self._weights)
                self._release()  # before the next copy is made, so that never more than two are held at once
            self._matrix = cast(Tensor, torch.ops.mkldnn._reorder_linear_weight(whole, None))
            collapse(torch.ops.mkldnn.data_ptr(self._matrix), torch.ops.mkldnn._nbytes(self._matrix))
        self._state = self._now()
        # To look at the numbers of a mapped matrix would bring its pages back.
        self._samples = [Samples(weight) for weight in self._weights if not is_mapped(weight)]
        self.memory = Memory(self._weights, WORDS)
        self._release()

    def _release(self) -> None:
        for weight in self._weights:
            release(weight)

    def _now(self) -> list[tuple[int, int]]:
        return [counted(weight) for weight in self._weights]

    def fits(self, layers: Sequence[nn.Module]) -> bool:
        """Whether these are the matrices of some layers, and still say what the parameters say."""
        if len(layers) != len(self._weights):
            return False
        for layer, weight in zip(layers, self._weights, strict=True):
            if layer._parameters.get("weight") is not weight:
                return False
        return not self.has_moved() and all(samples.are_as_they_were() for samples in self._samples)

    def has_moved(self) -> bool:
        """Whether the parameters lie elsewhere by now, or torch has counted a write to them."""
        return self._now() != self._state

    def __call__(self, x: Tensor) -> Tensor:
        """Shape: [..., in] to [..., out], the layers' outputs side by side."""
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise.default(x, self._matrix, self._bias, "none", [], ""))


class Scratch:
    """Memory that matrices are joined in, one group after the other: memory of their own would leave holes behind."""

    def __init__(self) -> None:
        self.memory = torch.empty(0, dtype=torch.bfloat16, device="cpu")

    def joined(self, weights: Sequence[Tensor]) -> Tensor:
        """Matrices one below the other, until the next are joined. Shape: [sum of N, K]."""
        rows, width = sum(map(len, weights)), weights[0].shape[1]
        if self.memory.numel() < rows * width:
            self.memory = torch.empty(rows * width, dtype=torch.bfloat16, device="cpu")
        return torch.cat(list(weights), out=self.memory[: rows * width].view(rows, width))


class PrepackedLinear(JointLinear):
    """A linear layer with a prepacked copy of its matrix, alone or with those beside it.

    Args:
        linear: the layer to take the parameters of.
    """

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.prepacked: Prepacked | None = None
        self.train(linear.training)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: [..., in] to [..., out]."""
        prepacked = self.prepacked
        if prepacked is None or torch.is_grad_enabled() or x.dtype != torch.bfloat16 or len(prepacked.widths) > 1:
            return F.linear(x, self.weight, self.bias)
        return prepacked(x) if prepacked.fits((self,)) else F.linear(x, self.weight, self.bias)

    def together(self, x: Tensor, layers: tuple[nn.Module, ...]) -> tuple[Tensor, ...] | None:
        prepacked = self.prepacked
        if (
            prepacked is None
            or torch.is_grad_enabled()
            or x.dtype != torch.bfloat16
            or len(prepacked.widths) != len(layers)
        ):
            return None
        return torch.split(prepacked(x), prepacked.widths, dim=-1) if prepacked.fits(layers) else None

    def __getstate__(self) -> dict[str, object]:
        # Copies and pickles go without: what is prepacked is opaque, and only of use where it was made.
        return {**self.__dict__, "prepacked": None}


def prepack(model: nn.Module, *, mapped_only: bool = False) -> int:
    """Prepack every linear layer of a model that profits; changes the model in place.

    Layers that were prepacked before and changed since are prepacked anew.

    Args:
        mapped_only: leave matrices alone that are no views of a mapped file, so that no memory is taken twice.

    Returns:
        How many layers are prepacked.
    """
    count, scratch = 0, Scratch()
    for parent in list(model.modules()):
        for names in _groups(parent):
            layers = [layer for name in names if isinstance(layer := parent._modules[name], nn.Linear)]
            first = layers[0]
            if isinstance(first, PrepackedLinear) and (prepacked := first.prepacked) is not None:
                if prepacked.fits(layers) and not prepacked.memory.was_written():
                    count += len(layers)
                    continue
                first.prepacked = None
            linears = [layer for layer in layers if _can_prepack(layer, mapped_only)]
            if len(linears) < len(names):
                continue
            count += len(linears)
            for name, linear in zip(names, linears, strict=True):
                if not isinstance(linear, PrepackedLinear):
                    setattr(parent, name, PrepackedLinear(linear))
            leader = parent._modules[names[0]]
            assert isinstance(leader, PrepackedLinear)
            leader.prepacked = Prepacked(linears, scratch)
    if count and _look_first not in model._forward_pre_hooks.values():
        model.register_forward_pre_hook(_look_first)  # for those who call the model and use no engine
    return count


class Prepack(Transform):
    """Matrices in the CPU's own layout: see :func:`prepack`."""

    def __init__(self, *, mapped_only: bool = False) -> None:
        self._mapped_only = mapped_only

    def finish(self, model: nn.Module) -> None:
        prepack(model, mapped_only=self._mapped_only)


def drop_changed(model: nn.Module) -> None:
    """Forget the prepacked copies of matrices that somebody has written to since: the plain ones are used."""
    layers = [layer for layer in model.modules() if isinstance(layer, PrepackedLinear)]
    found = [(layer, layer.prepacked) for layer in layers if layer.prepacked is not None]
    moved = any(prepacked.has_moved() for _, prepacked in found)
    if moved or were_written(prepacked.memory for _, prepacked in found):
        for layer, prepacked in found:
            if prepacked.has_moved() or prepacked.memory.was_written():
                layer.prepacked = None


def _look_first(model: nn.Module, inputs: object) -> None:
    drop_changed(model)


def _groups(parent: nn.Module) -> list[tuple[str, ...]]:
    """The names of a module's linear layers, those together that can be one matmul."""
    names = [name for name, child in parent.named_children() if _has_matrix(child)]
    joined = [
        joint
        for joint in (parent.JOINT if isinstance(parent, Joins) else ())
        if all(name in names and parent.get_submodule(name).bias is None for name in joint)
    ]
    alone = set(names).difference(*joined)
    return [*joined, *((name,) for name in names if name in alone)]


def _has_matrix(child: nn.Module) -> bool:
    return isinstance(child, nn.Linear) and "weight" in child._parameters


def _can_prepack(linear: nn.Linear, mapped_only: bool) -> bool:
    weight = linear.weight
    return (
        type(linear) in (nn.Linear, PrepackedLinear)
        and weight.device.type == "cpu"
        and weight.dtype == torch.bfloat16
        and min(weight.shape) >= LEAST
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
        and (not mapped_only or is_mapped(weight))
    )
