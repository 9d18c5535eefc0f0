"""Native matrices of mixtures of experts: each expert's is packed by itself, and a step multiplies by the chosen ones'.

Programs (:mod:`omniform.transforms.lower`) and single stacks, where torch calls them one by one, have the same
matrices. A stack that a file holds in blocks (GGUF) stays in them, as :mod:`omniform.transforms.packed` keeps layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, cast
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.blocks.lowering import CannotLower
from omniform.blocks.moe import Stacked
from omniform.core.host import is_traced
from omniform.native.cache import packed
from omniform.native.library import library
from omniform.native.matrix import KINDS, BlockLayout, Matrix
from omniform.transforms.precision import LEAST, WORDS, AsLoaded, Precision, can_pack, held_bytes, is_watched
from omniform.transforms.samples import Samples
from omniform.weights.gguf.codes import codes_of_zeros
from omniform.weights.gguf.dequantize import dequantize
from omniform.weights.gguf.types import TYPES, BlockType
from omniform.weights.origin import origin_of
from omniform.weights.pages import is_mapped, own_bytes, release
from omniform.weights.version import Memory, counted

Arrangement = Literal["rows", "pairs"]
"""How an expert's rows lie in several stacks: those of the first before those of the second, or a row of each in turn.
"""


class Matrices:
    """The matrices of a stack, and what they were made of.

    Args:
        stack: the stack.
        made: a matrix for each expert.
        orders: which input each column of an expert's matrix is; none where all are in order. Shape of each: [in].

    Attributes:
        each: a matrix for each expert.
        orders: see above.
        bias: float32, or None. Shape: [E, out].
        memory: what lies behind the stack's tensors.
    """

    def __init__(self, stack: Stacked, made: Sequence[Matrix], orders: Sequence[Tensor | None] = ()) -> None:
        self.each, self.orders, self._sources = made, orders, _sources(stack)
        self.bias = None if stack.bias is None else stack.bias.detach().float().clone()
        self._state = self._now()
        # To look at the numbers of mapped matrices would bring their pages back.
        self._samples = [Samples(given) for given in self._sources if not is_mapped(given)]
        self.memory = Memory(self._sources, WORDS)
        for source in self._sources:
            release(source)

    def _now(self) -> list[tuple[int, int]]:
        return [counted(source) for source in self._sources]

    def has_moved(self) -> bool:
        """Whether the tensors lie elsewhere by now, or torch has counted a write to them."""
        return self._now() != self._state

    def fits(self, stack: nn.Module) -> bool:
        """Whether these are a stack's matrices still, as far as can be seen at once."""
        now = _sources(stack)
        return (
            len(now) == len(self._sources)
            and all(one is other for one, other in zip(now, self._sources, strict=True))
            and not self.has_moved()
            and all(samples.are_as_they_were() for samples in self._samples)
        )

    def multiplied(self, x_ND: Tensor, sent: Sequence[tuple[int, int]]) -> Tensor:
        """Tokens through the projections of their experts; see :meth:`Stacked.each`."""
        out = torch.empty(len(x_ND), self.each[0].outs, dtype=x_ND.dtype, device="cpu")
        begin = 0
        for number, count in sent:
            own = slice(begin, begin + count)
            bias = None if self.bias is None else self.bias[number]
            order = self.orders[number] if self.orders else None
            x = x_ND[own] if order is None else x_ND[own][:, order]
            self.each[number].multiply(x, bias=bias, out=out[own])
            begin += count
        return out

    @property
    def nbytes(self) -> int:
        """Bytes that they take."""
        return sum(matrix.nbytes for matrix in self.each)


_MATRICES: WeakKeyDictionary[nn.Module, Matrices] = WeakKeyDictionary()
"""Beside the stacks, not in them: copies and pickles go without."""


def _sources(stack: nn.Module) -> list[Tensor]:
    """The tensors that a stack is made of."""
    held = (*stack._parameters.values(), *stack._buffers.values())
    return [one for one in held if one is not None]


def matrices_of(stack: Stacked) -> Matrices | None:
    """A stack's matrices, made where there are none yet; None where the stack is to be torch's.

    It is torch's where layers are: see :func:`omniform.transforms.pack.packed_of`.
    """
    found = _MATRICES.get(stack)
    if found is not None:
        if found.fits(stack):
            return found
        del _MATRICES[stack]
    with torch.no_grad():
        made = stack.packed_each() if isinstance(stack, HeldStack) else _packed_each(stack)
        orders = stack.orders() if isinstance(stack, HeldStack) else ()
        found = None if made is None else Matrices(stack, made, orders)
    if found is not None:
        _MATRICES[stack] = found
    return found


def _packed_each(stack: Stacked) -> list[Matrix] | None:
    weight = stack._parameters.get("weight")
    precision = stack.precision if isinstance(stack, NativeStacked) else AsLoaded()
    if weight is None or not can_pack(weight, precision):
        return None
    made = []
    for one in weight.detach():
        made.append(_packed(one, precision))
        release(one)
    return made


def _packed(weight: Tensor, precision: Precision) -> Matrix:
    return packed(lambda: origin_of(weight), repr(precision), lambda: precision.packed(weight))


def stack_of(stack: nn.Module) -> Sequence[Matrix]:
    """The matrices of a stack of experts. Raises CannotLower."""
    found = matrices_of(stack) if isinstance(stack, Stacked) else None
    if found is None:
        weight = stack._parameters.get("weight")
        where = "" if weight is None else f": {weight.dtype} on {weight.device}, in memory of their own"
        raise CannotLower(stack, f"its matrices stay torch's{where}")
    if found.orders:
        raise CannotLower(stack, "its inputs are in another order (act-order)")
    return found.each


def forget_stacks(model: nn.Module) -> None:
    """Forget the packed matrices of experts: somebody has written to a model's weights."""
    for module in model.modules():
        _MATRICES.pop(module, None)


def drop_changed(model: nn.Module) -> None:
    """Forget the matrices of stacks to whose tensors somebody has written since, counted or not."""
    for module in model.modules():
        found = _MATRICES.get(module)
        # What has moved may be nobody's memory by now.
        if found is not None and (not found.fits(module) or found.memory.was_written()):
            del _MATRICES[module]


def packed_bytes(stack: nn.Module) -> int:
    """Bytes that the packed matrices of a stack take now."""
    found = _MATRICES.get(stack)
    return 0 if found is None else found.nbytes


class NativeStacked(Stacked):
    """A stack of projections that multiplies by packed matrices wherever nobody learns from it or watches it.

    Attributes:
        precision: as what numbers they are packed.
    """

    precision: Precision = AsLoaded()

    def each(self, x_ND: Tensor, sent: Sequence[tuple[int, int]]) -> Tensor:
        """Tokens through the projections of their experts."""
        plain = x_ND.dtype is self.weight.dtype and _is_plain(self, x_ND)
        found = matrices_of(self) if plain else None
        return super().each(x_ND, sent) if found is None else found.multiplied(x_ND, sent)

    def in_memory(self) -> dict[str, int]:
        """Bytes that its matrices take."""
        weight = self._parameters.get("weight")
        return {} if weight is None else {"weight": held_bytes(weight, self.precision, packed_bytes(self))}


def addresses(raw: Tensor) -> Tensor:
    """Where the rows of a matrix of bytes lie. Shape: [N, bytes of a row] to [N]; int64."""
    assert raw.stride(1) == 1, "rows lie side by side"
    return torch.arange(len(raw), dtype=torch.int64, device="cpu") * raw.stride(0) + raw.data_ptr()


@cache
def layout_of(kind: BlockType) -> BlockLayout:
    """What the kernels make of a type's blocks."""
    number = next(number for number, known in TYPES.items() if known == kind)
    codes = codes_of_zeros(kind)
    return BlockLayout(number, codes.bits, codes.group, codes.scales.dtype, codes.minima is not None, codes.codebook)


def as_native(stack: Stacked, precision: Precision) -> None:
    """Make a stack one that multiplies by packed matrices, in place."""
    stack.__class__ = NativeStacked
    cast(NativeStacked, stack).precision = precision


def can_be_native(module: nn.Module) -> bool:
    """Whether a module is a stack whose matrices are big enough."""
    return type(module) is Stacked and min(module.weight.shape[1:]) >= LEAST


def _is_plain(stack: Stacked, x: Tensor) -> bool:
    """Whether the kernels may compute: on the CPU, where nobody learns from it or watches it."""
    known = type(x) is Tensor and x.device.type == "cpu" and x.dtype in KINDS and x.numel() > 0
    learned = torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in stack.parameters()))
    return known and not learned and not is_watched()


@dataclass(frozen=True, slots=True)
class Blocks:
    """How a file holds a stack.

    Attributes:
        kind: the type of its blocks.
        names: the file's tensors that it is made of. Shape of each: [E, rows, dim].
        arrangement: how an expert's rows lie in them.
        turned: whether the checkpoint has every matrix the other way round.
    """

    kind: BlockType
    names: tuple[str, ...]
    arrangement: Arrangement
    turned: bool


class HeldStack(Stacked):
    """Base of stacks of projections whose matrices stay in the tensors that a file holds them in.

    Args:
        like: the plain stack, whose bias it takes.

    Attributes:
        shape: of the numbers: experts, outputs, inputs.
    """

    def __init__(self, like: Stacked) -> None:
        nn.Module.__init__(self)
        experts, out, dim = like.weight.shape
        self.shape = experts, out, dim
        self.bias = like.bias

    @property
    def weight(self) -> Tensor:  # type: ignore[override] # what is made anew cannot be set
        """The numbers, made anew. Shape: [E, out, in]; float32."""
        return torch.stack([self.numbers_of(n) for n in range(self.shape[0])])

    @property
    def told(self) -> str:
        """What its matrices are in: ``"Q4_K blocks"``."""
        raise NotImplementedError

    def numbers_of(self, expert: int) -> Tensor:
        """An expert's numbers, made anew. Shape: [out, in]; float32."""
        raise NotImplementedError

    def packed_each(self) -> list[Matrix] | None:
        """A matrix for each expert; None where there are no kernels, or it lies elsewhere."""
        raise NotImplementedError

    def orders(self) -> Sequence[Tensor | None]:
        """Which input each column of the matrices is; none where all are in order."""
        return ()

    def drop_made(self) -> None:
        """Let go of its packed matrices; they are made again when somebody multiplies."""
        _MATRICES.pop(self, None)

    def each(self, x_ND: Tensor, sent: Sequence[tuple[int, int]]) -> Tensor:
        """Tokens through the projections of their experts."""
        found = matrices_of(self) if _is_plain(self, x_ND) else None
        if found is not None:
            return found.multiplied(x_ND, sent)
        parts = torch.split(x_ND, [count for _, count in sent])
        made = [self._multiplied(x, n) for x, (n, _) in zip(parts, sent, strict=True)]
        if self.bias is not None:
            made = [y + self.bias[n].to(y.dtype) for y, (n, _) in zip(made, sent, strict=True)]
        return torch.cat(made)

    def _multiplied(self, x: Tensor, expert: int) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad and not is_watched():
            return cast(Tensor, _Multiplied.apply(x, self, expert))  # type: ignore[no-untyped-call]
        return F.linear(x, self.numbers_of(expert).to(x.dtype))

    def unread(self, x_ND: Tensor, expert_N: Tensor, ends_E: Tensor) -> Tensor:
        """Each token through the projection of its expert; the host reads which that is, if it may.

        To make the numbers of all experts takes longer than to wait for the device, and memory that is not there.
        """
        if not is_traced():
            counts = ends_E.diff(prepend=ends_E.new_zeros(1)).tolist()
            return self.each(x_ND, [(n, count) for n, count in enumerate(counts) if count])
        y = (self.weight.to(x_ND.dtype)[expert_N] @ x_ND[..., None])[..., 0]
        return y if self.bias is None else y + self.bias[expert_N]

    def computed(self) -> tuple[str, str]:
        """What multiplies, and why."""
        if library() is None:
            return "floats, an expert at a time", f"{self.told} are unpacked: there are no native kernels"
        return f"native, in {self.told}", "the checkpoint holds the matrices so, and there are kernels"

    def extra_repr(self) -> str:
        experts, out, dim = self.shape
        return f"experts={experts}, {dim}, {out}, {self.told}, bias={self.bias is not None}"


class _Multiplied(torch.autograd.Function):
    """A product with an expert's matrix that keeps nothing of it for its backward pass."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, stack: HeldStack, expert: int) -> Tensor:
        ctx.stack, ctx.expert = stack, expert  # type: ignore[attr-defined]
        return F.linear(x, stack.numbers_of(expert).to(x.dtype))

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        stack: HeldStack = ctx.stack  # type: ignore[attr-defined]
        return grad @ stack.numbers_of(ctx.expert).to(grad.dtype), None, None  # type: ignore[attr-defined]


class BlockStack(HeldStack):
    """A stack of projections whose matrices stay in the blocks that a file holds them in.

    Args:
        like: the plain stack.
        blocks: how the file holds it.

    Attributes:
        kind: the type of the blocks.
        packed: the bytes of the file's tensor, or of the first of two; uint8. Shape: [E, rows, bytes of a row].
        packed_1: those of the second, if there are two.
    """

    def __init__(self, like: Stacked, blocks: Blocks) -> None:
        super().__init__(like)
        experts, out, dim = self.shape
        self.kind, self.arrangement = blocks.kind, blocks.arrangement
        self._names = NAMES[: len(blocks.names)]
        width = dim // blocks.kind.numbers * blocks.kind.nbytes
        for name in self._names:
            self.register_buffer(name, torch.empty(experts, out // len(self._names), width, dtype=torch.uint8))

    @property
    def told(self) -> str:
        return f"the file's {self.kind.name} blocks"

    def rows(self, expert: int) -> Tensor:
        """The bytes of an expert's rows, in its order. Shape: [out, bytes of a row]."""
        parts = [cast(Tensor, self._buffers[name])[expert] for name in self._names]
        return torch.stack(parts, 1).flatten(0, 1) if self.arrangement == "pairs" else torch.cat(parts)

    def rows_of_all(self) -> Tensor:
        """The bytes of all experts' rows. Shape: [E, out, bytes of a row]."""
        parts = [cast(Tensor, self._buffers[name]) for name in self._names]
        return torch.stack(parts, 2).flatten(1, 2) if self.arrangement == "pairs" else torch.cat(parts, 1)

    def _addresses(self, expert: int) -> Tensor:
        """Where its rows lie, in its order. Shape: [out]; int64."""
        parts = [addresses(cast(Tensor, self._buffers[name])[expert]) for name in self._names]
        return torch.stack(parts, 1).flatten() if self.arrangement == "pairs" else torch.cat(parts)

    def numbers_of(self, expert: int) -> Tensor:
        return dequantize(self.rows(expert), self.kind)

    def numbers(self) -> dict[str, int]:
        """How many numbers its buffers stand for."""
        experts, out, dim = self.shape
        return dict.fromkeys(self._names, experts * out * dim // len(self._names))

    def in_memory(self) -> dict[str, int]:
        """Bytes that its matrices take, once they are packed, and its blocks where no file holds them."""
        packed = packed_bytes(self)
        if not packed:
            return {}
        each = packed // len(self._names)
        return {name: each + own_bytes(cast(Tensor, self._buffers[name])) for name in self._names}

    def packed_each(self) -> list[Matrix] | None:
        sources = [cast(Tensor, self._buffers[name]) for name in self._names]
        if library() is None or any(source.device.type != "cpu" for source in sources):
            return None
        made = []
        for expert in range(self.shape[0]):
            made.append(Matrix.of_blocks(self._addresses(expert), self.shape[2], layout_of(self.kind)))
            for source in sources:
                release(source[expert])
        return made


NAMES = ("packed", "packed_1")
"""The buffers of a stack in blocks."""
