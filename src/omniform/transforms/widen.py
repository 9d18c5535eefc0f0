"""Halves on CPUs that have no instructions for them: matrices widened tile by tile, convolutions in float32.

Where oneDNN has no bfloat16 or float16 matmul, torch multiplies with a loop of its own, several times slower than in
float32. To hold the weights in float32 would take twice the memory. So a matmul of :data:`ROWS` rows or more (a prompt,
a batch, an encoder) widens a few rows of the matrix at a time into one scratch that stays in the core's cache, and
multiplies from there; sums are float32 as ever, and rounded once. Of fewer rows torch's loop is the faster.

Layers stay what they are to everybody else: the same parameters, the same names, still ``nn.Linear``; what is compiled,
traced, exported or differentiated goes torch's own way.
"""

from __future__ import annotations

import threading
from functools import cache
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.weights.transform import Transform

ROWS = 8
"""A matmul of fewer rows reads each number of the matrix too few times to widen it first."""

SCRATCH = 2**18
"""Numbers that are widened at once for each thread that multiplies: a megabyte, which stays in its core's cache."""


@cache
def slow_dtypes() -> frozenset[torch.dtype]:
    """The halves that this CPU has no instructions for, as oneDNN says."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return frozenset({torch.bfloat16, torch.float16})
    ops = torch.ops.mkldnn
    fast = {torch.bfloat16: ops._is_mkldnn_bf16_supported(), torch.float16: ops._is_mkldnn_fp16_supported()}
    return frozenset(dtype for dtype, has in fast.items() if not has)


class _Scratch(threading.local):
    """The tile of each thread that calls."""

    def __init__(self) -> None:
        with torch.inference_mode(False):  # or nobody else could write to it
            self.memory = torch.empty(SCRATCH * torch.get_num_threads(), dtype=torch.float32, device="cpu")


_SCRATCH = _Scratch()


def multiplied(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A linear layer in float32 tiles. Shape: [..., K], [N, K] and [N] to [..., N], in the dtype of ``x``."""
    width = weight.shape[1]
    rows = x.reshape(-1, width).float()
    whole = None if bias is None else bias.float()
    out = torch.empty(len(rows), len(weight), dtype=x.dtype, device="cpu")
    memory = _SCRATCH.memory if width <= len(_SCRATCH.memory) else torch.empty(width, dtype=torch.float32, device="cpu")
    most = memory.numel() // width
    for start in range(0, len(weight), most):
        some = weight[start : start + most]
        tile = memory[: some.numel()].view(some.shape)
        tile.copy_(some)
        made = rows @ tile.t() if whole is None else torch.addmm(whole[start : start + most], rows, tile.t())
        out[:, start : start + most] = made
    return out.view(*x.shape[:-1], len(weight))


def _is_recorded() -> bool:
    """Whether operations are recorded now, for a graph."""
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None


def _is_plain(x: Tensor, weight: Tensor) -> bool:
    """Whether two tensors are halves that are slow here, and nobody looks at how they are computed with."""
    return (
        type(x) is Tensor
        and x.dtype == weight.dtype
        and x.device.type == weight.device.type == "cpu"
        and weight.dtype in slow_dtypes()
        and not torch.is_autocast_enabled("cpu")
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
    )


class WidenedLinear(nn.Linear):
    """A linear layer that multiplies slow halves in float32 tiles."""

    IS_MATRIX: ClassVar[bool] = True

    def forward(self, x: Tensor) -> Tensor:
        """Shape: [..., in] to [..., out]."""
        if _is_recorded() or x.numel() < ROWS * self.in_features or not _is_plain(x, self.weight):
            return F.linear(x, self.weight, self.bias)
        if torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in self.parameters())):
            return F.linear(x, self.weight, self.bias)
        return multiplied(x, self.weight, self.bias)


class _Widened(nn.modules.conv._ConvNd):
    """A convolution that computes slow halves in float32."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape: as the convolution's own."""
        if _is_recorded() or not _is_plain(x, self.weight):
            return self._conv_forward(x, self.weight, self.bias)
        bias = None if self.bias is None else self.bias.float()
        wide: Tensor = self._conv_forward(x.float(), self.weight.float(), bias)
        return wide.to(x.dtype)


class WidenedConv1d(_Widened, nn.Conv1d):
    """:class:`torch.nn.Conv1d`, slow halves in float32."""


class WidenedConv2d(_Widened, nn.Conv2d):
    """:class:`torch.nn.Conv2d`, slow halves in float32."""


class WidenedConv3d(_Widened, nn.Conv3d):
    """:class:`torch.nn.Conv3d`, slow halves in float32."""


WIDENED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: WidenedLinear,
    nn.Conv1d: WidenedConv1d,
    nn.Conv2d: WidenedConv2d,
    nn.Conv3d: WidenedConv3d,
}
"""What is computed otherwise, and the class that does."""


def widen(model: nn.Module) -> int:
    """Have every layer whose weights are slow halves computed in float32 tiles; changes the model in place.

    Returns:
        How many layers are.
    """
    slow, count = slow_dtypes(), 0
    for module in model.modules() if slow else ():
        kind = WIDENED.get(type(module))
        weight = module._parameters.get("weight")
        if kind is not None and weight is not None and weight.dtype in slow and weight.device.type == "cpu":
            module.__class__ = kind
            count += 1
    return count


class Widen(Transform):
    """Slow halves in float32 tiles."""

    def finish(self, model: nn.Module) -> None:
        widen(model)
