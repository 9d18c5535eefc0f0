"""Linear layers whose matrices stay in the tensors that a quantized checkpoint holds them in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.core.errors import WeightsError
from omniform.native.library import library
from omniform.native.matrix import KINDS, Matrix
from omniform.transforms.precision import WORDS, is_watched
from omniform.transforms.samples import Samples
from omniform.weights.formats.base import Format, Held, Part, some_outputs, step_of
from omniform.weights.pages import collapse, is_mapped, own_bytes, release
from omniform.weights.version import Memory, counted

AT_ONCE = 1 << 20
"""So many numbers of a matrix are turned into floats, or packed, at a time."""


class QuantLinear(nn.Linear):
    """A linear layer whose matrix stays quantized.

    Its tensors are buffers under the names that the format gives them; what computes with them is a native matrix, made
    when it is first multiplied by, or, where there are no kernels or somebody learns from the layer's input, floats, a
    few rows at a time. ``weight`` is made anew each time somebody asks for it.

    Args:
        in_features: numbers it reads.
        out_features: numbers it gives.
        format: how its matrix is quantized.
        bias: whether it has one.
        without: parts of the format that the checkpoint does not hold.
        dtype: of the bias.

    Attributes:
        has_own_bias: whether the plain layer has the bias too; else it is the checkpoint's alone.
    """

    HOLDS_MATRIX: ClassVar[bool] = True
    has_own_bias: bool = True

    def __init__(
        self,
        in_features: int,
        out_features: int,
        format: Format,
        *,
        bias: bool,
        without: frozenset[str] = frozenset(),
        dtype: torch.dtype | None = None,
    ) -> None:
        nn.Module.__init__(self)  # it is a linear layer to those who look for such, and has no weight to learn
        self.in_features, self.out_features, self.format = in_features, out_features, format
        self.parts = {n: p for n, p in format.parts(out_features, in_features).items() if n not in without}
        for name, part in self.parts.items():
            self.register_buffer(name, torch.empty(part.shape, dtype=part.dtype))
        self.register_parameter("bias", nn.Parameter(torch.empty(out_features, dtype=dtype)) if bias else None)

    @property
    def KEPT(self) -> frozenset[str]:  # noqa: N802 # see KeepsDtypes
        return frozenset(self.parts)

    @property
    def first(self) -> str:
        """What it does to its inputs before they are multiplied; empty for nothing."""
        return f"{self.format.name} rounds its inputs" if self.format.rounds_inputs else ""

    @property
    def held(self) -> dict[str, Tensor]:
        """Its matrix's tensors, by name."""
        return {name: cast(Tensor, self._buffers[name]) for name in self.parts}

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The numbers, made anew. Shape: [out, in]; float32."""
        return self.format.numbers(self.held, self.out_features, self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: [..., in] to [..., out]."""
        made = matrix_of(self) if self._is_plain(x) else None
        if made is not None:
            flat = self.format.inputs(x, self.held, training=self.training).reshape(-1, self.in_features)
            return made.multiplied(flat).to(x.dtype).view(*x.shape[:-1], self.out_features)
        if torch.is_grad_enabled() and x.requires_grad and not is_watched():
            y = cast(Tensor, _Multiplied.apply(x, self))  # type: ignore[no-untyped-call]
            return y if self.bias is None else y + self.bias.to(y.dtype)
        y = self.multiplied(x)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def multiplied(self, x: Tensor) -> Tensor:
        """The product in floats, a few rows at a time. Shape: [..., in] to [..., out]."""
        given = self.format.inputs(x, self.held, training=self.training)
        y = torch.cat([F.linear(given, rows.to(given.dtype)) for rows in self.rows()], dim=-1)
        return y.to(x.dtype)

    def rows(self) -> Iterator[Tensor]:
        """Its numbers, some outputs at a time. Shape: [some, in] each; float32."""
        for first, stop in self.spans():
            yield self.format.numbers(some_outputs(self.held, self.parts, first, stop), stop - first, self.in_features)

    def spans(self) -> list[tuple[int, int]]:
        """Outputs that are taken at a time: the first, and one past the last."""
        return spans_of(self.parts, self.out_features, self.in_features)

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Take these tensors as its own.

        Raises:
            WeightsError: one is missing or of another shape.
        """
        for name, part in self.parts.items():
            given = tensors.get(name)
            if given is None or tuple(given.shape) != part.shape:
                found = "nothing" if given is None else list(given.shape)
                raise WeightsError(f"{name} does not fit", expected=str(list(part.shape)), found=str(found))
            self._buffers[name] = given

    def keep(self, name: str, part: Part) -> None:
        """Hold one more tensor, which a file has beside the matrix and nothing here computes with."""
        self.parts[name] = part
        self.register_buffer(name, torch.empty(part.shape, dtype=part.dtype))

    def numbers(self) -> dict[str, int]:
        """How many numbers its tensors stand for, all told with the first of them."""
        return dict.fromkeys(self.parts, 0) | {next(iter(self.parts)): self.in_features * self.out_features}

    def in_memory(self) -> dict[str, int]:
        """Bytes that its native matrix takes, once it is made, and what no file holds of its tensors."""
        made = _MADE.get(self)
        if made is None:
            return {}
        own = {name: own_bytes(tensor) for name, tensor in self.held.items()}
        first = next(iter(own))
        return own | {first: own[first] + made.matrix.nbytes}

    def drop_made(self) -> None:
        """Let go of its native matrix; it is made again when somebody multiplies."""
        _MADE.pop(self, None)

    def computed(self) -> tuple[str, str]:
        """What multiplies, and why."""
        if library() is None:
            return "floats, a few rows at a time", f"{self.format.name} is unpacked: there are no native kernels"
        return f"native, in {self.format.name}", "the checkpoint holds the matrix so, and there are kernels"

    def _is_plain(self, x: Tensor) -> bool:
        """Whether the kernels may compute: on the CPU, where nobody learns from it or watches it."""
        known = type(x) is Tensor and x.device.type == "cpu" and x.dtype in KINDS and x.numel() > 0
        learned = torch.is_grad_enabled() and (x.requires_grad or (self.bias is not None and self.bias.requires_grad))
        return known and not learned and not is_watched() and x.shape[-1] == self.in_features

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.format.name}, bias={self.bias is not None}"


class _Multiplied(torch.autograd.Function):
    """A product that keeps nothing but the quantized matrix for its backward pass."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, layer: QuantLinear) -> Tensor:
        ctx.layer = layer  # type: ignore[attr-defined]
        return layer.multiplied(x)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        layer: QuantLinear = ctx.layer  # type: ignore[attr-defined]
        parts = [grad[..., first:stop] for first, stop in layer.spans()]
        made = [part @ rows.to(grad.dtype) for part, rows in zip(parts, layer.rows(), strict=True)]
        return torch.stack(made).sum(0) if len(made) > 1 else made[0], None


@dataclass(frozen=True, slots=True)
class Made:
    """A layer's native matrix.

    Attributes:
        matrix: the matrix.
        bias: float32, or None. Shape: [outs].
        order: which input each of its columns is; None where they are in order. Shape: [ins].
        state: what it was made of: where that lies and how often it was written to.
        memory: what lies behind it.
        samples: a few numbers of the bias.
    """

    matrix: Matrix
    bias: Tensor | None
    order: Tensor | None
    state: tuple[object, ...]
    memory: Memory
    samples: Samples | None

    def multiplied(self, x: Tensor) -> Tensor:
        """Shape: [rows, ins] to [rows, outs]."""
        return self.matrix.multiply(x if self.order is None else x[:, self.order], bias=self.bias)


_MADE: WeakKeyDictionary[nn.Module, Made] = WeakKeyDictionary()
"""Beside the layers, not in them: copies and pickles go without."""


def matrix_of(layer: QuantLinear) -> Made | None:
    """A layer's native matrix, made where there is none yet; None where there are no kernels, or it lies elsewhere."""
    state = _state(layer)
    found = _MADE.get(layer)
    if found is not None and found.state == state and (found.samples is None or found.samples.are_as_they_were()):
        return found
    held, bias = layer.held, layer.bias
    if library() is None or any(x.device.type != "cpu" for x in held.values()):
        return None
    orders: list[Tensor | None] = []
    with torch.no_grad():
        parts = panels(held, layer.parts, layer.format, layer.in_features, layer.spans(), orders)
        matrix = Matrix.below_one_another(layer.out_features, parts)
        plain = None if bias is None else bias.detach().float().clone()
    collapse(matrix.c.codes, matrix.nbytes)
    memory = Memory((*held.values(), *(() if bias is None else (bias,))), WORDS)
    for tensor in held.values():
        release(tensor)
    samples = None if bias is None or is_mapped(bias) else Samples(bias)
    found = _MADE[layer] = Made(matrix, plain, orders[0], state, memory, samples)
    return found


def spans_of(parts: Mapping[str, Part], outs: int, ins: int) -> list[tuple[int, int]]:
    """Outputs that are taken at a time: the first, and one past the last; all where none lies by itself."""
    if all(part.out is None for part in parts.values()):
        return [(0, outs)]
    step = step_of(parts)
    size = max(step, AT_ONCE // ins // step * step)
    return [(first, min(first + size, outs)) for first in range(0, outs, size)]


def panels(
    held: Held,
    parts: Mapping[str, Part],
    format: Format,
    ins: int,
    spans: Sequence[tuple[int, int]],
    orders: list[Tensor | None],
) -> Iterator[Matrix]:
    """A matrix's panels, some at a time, of which the file's pages are let go.

    Args:
        spans: outputs at a time.
        orders: which input each column is, of every part; filled in.
    """
    format = format.settled(held)
    for first, stop in spans:
        part = some_outputs(held, parts, first, stop)
        made, order = format.matrix(part, stop - first, ins)
        orders.append(order)
        yield made
        for name, tensor in part.items():
            if parts[name].out is not None:
                release(tensor)


def _state(layer: QuantLinear) -> tuple[object, ...]:
    given = (*layer._buffers.values(), layer.bias)
    return tuple((id(one), counted(one)) for one in given if one is not None)


def forget_written(model: nn.Module) -> None:
    """Forget the matrices of layers to whose tensors somebody has written since, counted or not."""
    for layer in model.modules():
        made = _MADE.get(layer)
        # What has moved may be nobody's memory by now.
        if made is not None and (made.state != _state(cast(QuantLinear, layer)) or made.memory.was_written()):
            del _MADE[layer]
