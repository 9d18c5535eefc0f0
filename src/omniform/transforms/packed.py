"""Linear layers and tables of vectors whose matrices stay in the blocks that a file holds them in.

A GGUF file's matrix of four bits takes an eighth of what it takes in float32. Where there are native kernels, its codes
are packed for them when it is first multiplied by, and the file's pages are let go. Else it stays as it lies in the
mapped file, which costs no memory of its own, and what a step needs of it is turned into floats a few rows at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, cast
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.blocks.embeddings import RoundedScaledEmbedding, ScaledEmbedding
from omniform.blocks.moe import Stacked
from omniform.native.library import library
from omniform.native.matrix import KINDS, Matrix
from omniform.transforms.precision import WORDS, is_watched
from omniform.transforms.samples import Samples
from omniform.transforms.stacks import NAMES, Blocks, BlockStack, addresses, layout_of
from omniform.weights.gguf.dequantize import dequantize
from omniform.weights.gguf.types import BlockType
from omniform.weights.keymap import KeyMap, Rule
from omniform.weights.links import Groups, Index, Link, Rows, Share, Transposed, TransposedEach, View
from omniform.weights.pages import collapse, is_mapped, own_bytes, release
from omniform.weights.transform import Transform
from omniform.weights.version import Memory, counted

PACKABLE = (nn.Linear, nn.Embedding, ScaledEmbedding, RoundedScaledEmbedding)
"""Layers that have a packed form; one of another class has a forward of its own."""

AT_ONCE = 1 << 17
"""So many numbers are turned into floats at a time: they stay in a core's own cache until they are multiplied."""


class Held(Protocol):
    """A checkpoint that holds matrices in blocks."""

    def kind(self, key: str) -> BlockType | None:
        """The type that it holds the matrix of a key in; None where it has none, or not in rows of blocks."""
        ...

    def order(self, key: str) -> Tensor | None:
        """Which of the file's rows is each of a matrix's; None where they lie in order. Shape: [rows]; int64."""
        ...

    def keep(self, key: str, *, ordered: bool) -> None:
        """Have a matrix given as its bytes, a copy where they are to be in order and do not lie so."""
        ...

    def stack(self, keys: Sequence[str]) -> Blocks | None:
        """How it holds the matrices of experts; None where not in blocks, as they are."""
        ...

    def keep_stack(self, keys: Sequence[str], blocks: Blocks) -> tuple[str, ...]:
        """Have these given as bytes; the keys under which."""
        ...


class Packed(nn.Module):
    """A matrix in blocks.

    Args:
        rows: how many it has.
        width: numbers of a row.
        kind: the type of its blocks.

    Attributes:
        packed: its bytes, rows as the file has them. Shape: [rows, bytes of a row]; uint8.
        kind: the type of its blocks.
        order: which of the file's rows is each of the matrix's; None where they lie in order. Shape: [rows]; int64.
    """

    packed: Tensor
    order: Tensor | None

    def __init__(self, rows: int, width: int, kind: BlockType, order: Tensor | None = None) -> None:
        nn.Module.__init__(self)
        self.kind = kind
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("packed", torch.empty(rows, width // kind.numbers * kind.nbytes, dtype=torch.uint8))

    @property
    def weight(self) -> Tensor:
        """The numbers, made anew. Shape: [rows, width]; float32."""
        return self.in_order(dequantize(self.packed, self.kind), 0)

    def in_order(self, x: Tensor, axis: int) -> Tensor:
        """What runs along the file's rows, along the matrix's."""
        return x if self.order is None else x.index_select(axis, self.order.to(x.device))

    def let_go(self, first: int, last: int) -> None:
        """Let go of the file's pages of some rows of the matrix."""
        if self.order is None:  # else they lie here and there
            release(self.packed[first:last])

    def numbers(self) -> dict[str, int]:
        """How many numbers the bytes stand for."""
        return {"packed": self.packed.numel() // self.kind.nbytes * self.kind.numbers}

    def in_memory(self) -> dict[str, int]:
        """Bytes that a layer's native matrix takes, once it is made, and its blocks where no file holds them."""
        made = _MADE.get(self)
        return {} if made is None else {"packed": made.matrix.nbytes + own_bytes(self.packed)}

    def drop_made(self) -> None:
        """Let go of its native matrix; it is made again when somebody multiplies."""
        _MADE.pop(self, None)


@dataclass(frozen=True, slots=True)
class Made:
    """A layer's native matrix.

    Attributes:
        matrix: the matrix.
        bias: float32, or None. Shape: [outs].
        state: what it was made of: the bytes and the bias, where they lie and how often each was written to.
        memory: what lies behind them.
        samples: a few numbers of the bias.
    """

    matrix: Matrix
    bias: Tensor | None
    state: tuple[object, ...]
    memory: Memory
    samples: Samples | None


_MADE: WeakKeyDictionary[nn.Module, Made] = WeakKeyDictionary()
"""Beside the layers, not in them: copies and pickles go without."""


def matrix_of(layer: PackedLinear) -> Made | None:
    """A layer's native matrix, made where there is none yet; None where there are no kernels, or it lies elsewhere."""
    packed, bias = layer.packed, layer.bias
    state = _state(layer)
    found = _MADE.get(layer)
    if found is not None and found.state == state and (found.samples is None or found.samples.are_as_they_were()):
        return found
    if library() is None or packed.device.type != "cpu":
        return None
    with torch.no_grad():
        at_rows = addresses(packed) if layer.order is None else addresses(packed)[layer.order]
        matrix = Matrix.of_blocks(at_rows, layer.in_features, layout_of(layer.kind), layer.let_go)
        plain = None if bias is None else bias.detach().float().clone()
    collapse(matrix.c.codes, matrix.nbytes)
    memory = Memory((packed,) if bias is None else (packed, bias), WORDS)
    release(packed)
    samples = None if bias is None or is_mapped(bias) else Samples(bias)
    found = _MADE[layer] = Made(matrix, plain, state, memory, samples)
    return found


def _state(layer: PackedLinear) -> tuple[object, ...]:
    return tuple((id(given), counted(given)) for given in (layer.packed, layer.bias) if given is not None)


def forget_written(model: nn.Module) -> None:
    """Forget the matrices of layers to whose bytes or bias somebody has written since, counted or not."""
    for layer in model.modules():
        made = _MADE.get(layer)
        # What has moved may be nobody's memory by now.
        if made is not None and (made.state != _state(cast(PackedLinear, layer)) or made.memory.was_written()):
            del _MADE[layer]


class PackedLinear(Packed, nn.Linear):  # type: ignore[override] # what is made anew cannot be set
    """A linear layer whose matrix stays in blocks.

    Args:
        in_features: numbers it reads.
        out_features: numbers it gives.
        kind: the type of the matrix's blocks.
        bias: whether it has one.
        order: see :class:`Packed`.
    """

    HOLDS_MATRIX: ClassVar[bool] = True

    def __init__(
        self, in_features: int, out_features: int, kind: BlockType, *, bias: bool, order: Tensor | None = None
    ) -> None:
        Packed.__init__(self, out_features, in_features, kind, order)
        self.in_features, self.out_features = in_features, out_features
        self.register_parameter("bias", nn.Parameter(torch.empty(out_features)) if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: [..., in] to [..., out]."""
        made = matrix_of(self) if self._is_plain(x) else None
        if made is not None:
            flat = x.reshape(-1, self.in_features)
            return made.matrix.multiply(flat, bias=made.bias).view(*x.shape[:-1], self.out_features)
        if torch.is_grad_enabled() and x.requires_grad and not is_watched():
            y = cast(Tensor, _Multiplied.apply(x, self))  # type: ignore[no-untyped-call]
        else:
            y = self.multiplied(x)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def multiplied(self, x: Tensor) -> Tensor:
        """The product in floats, a few rows of the file at a time. Shape: [..., in] to [..., out]."""
        parts = torch.split(self.packed, max(1, AT_ONCE // self.in_features))
        made = [F.linear(x, dequantize(part, self.kind).to(x.dtype)) for part in parts]
        return self.in_order(torch.cat(made, dim=-1) if len(made) > 1 else made[0], -1)

    def computed(self) -> tuple[str, str]:
        """What multiplies, and why."""
        if library() is None:
            return "floats, a few rows at a time", f"the file's {self.kind.name} blocks are unpacked: no native kernels"
        return f"native, in the file's {self.kind.name} codes", "the file holds the matrix so, and there are kernels"

    def _is_plain(self, x: Tensor) -> bool:
        """Whether the kernels may compute: on the CPU, where nobody learns from it or watches it."""
        known = type(x) is Tensor and x.device.type == "cpu" and x.dtype in KINDS and x.numel() > 0
        learned = torch.is_grad_enabled() and (x.requires_grad or (self.bias is not None and self.bias.requires_grad))
        return known and not learned and not is_watched() and x.shape[-1] == self.in_features

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.kind.name}, bias={self.bias is not None}"


class _Multiplied(torch.autograd.Function):
    """A product that keeps nothing but the blocks for its backward pass."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, layer: PackedLinear) -> Tensor:
        ctx.layer = layer  # type: ignore[attr-defined]
        return layer.multiplied(x)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        layer: PackedLinear = ctx.layer  # type: ignore[attr-defined]
        made: Tensor | None = None
        step = max(1, AT_ONCE // layer.in_features)
        for first in range(0, layer.out_features, step):
            own = slice(first, first + step)
            raw = layer.packed[own] if layer.order is None else layer.packed[layer.order[own].to(layer.packed.device)]
            part = grad[..., own] @ dequantize(raw, layer.kind).to(grad.dtype)
            made = part if made is None else made + part
        assert made is not None, "a layer has outputs"
        return made, None


class PackedEmbedding(Packed, nn.Embedding):  # type: ignore[override] # what is made anew cannot be set
    """A table of vectors that stays in blocks.

    Args:
        num_embeddings: how many vectors there are.
        embedding_dim: numbers of each.
        kind: the type of the table's blocks.
        dtype: of the vectors that it gives.
        padding_idx: which of them is no vector to train.
        scale: what they are multiplied by.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        kind: BlockType,
        dtype: torch.dtype,
        padding_idx: int | None,
        scale: float = 1.0,
    ) -> None:
        Packed.__init__(self, num_embeddings, embedding_dim, kind)
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx, self.scale = padding_idx, scale
        self.register_buffer("_like", torch.empty(0, dtype=dtype, device="cpu"), persistent=False)

    _like: Tensor

    def forward(self, ids: Tensor) -> Tensor:
        """Shape: [...] to [..., D]."""
        rows = F.embedding(ids, self.packed)
        vectors = dequantize(rows, self.kind).to(self._like.dtype)
        return vectors if self.scale == 1.0 else vectors * self.scale

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, {self.kind.name}"


class KeepPacked(Transform):
    """Layers whose matrices a checkpoint holds in blocks keep them so.

    Args:
        held: the checkpoint.
        prefixes: what the checkpoint's keys may lack at their beginning, or have too many of.
        dtype: what the model computes with.
    """

    def __init__(self, held: Held, prefixes: Iterable[str], dtype: torch.dtype | None) -> None:
        self._checkpoint, self._prefixes = held, tuple(prefixes)
        self._dtype = dtype or torch.float32

    def prepare(self, model: nn.Module, keys: KeyMap) -> KeyMap:
        """Replace linear layers and tables of vectors; those that share a matrix go on doing so."""
        plain = {path: m for path, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Embedding))}
        # One that cannot be packed needs the numbers, and then there is nothing to win for those that share them.
        needed = {id(module.weight) for module in plain.values() if type(module) not in PACKABLE}
        owners: dict[int, str] = {}
        for path, module in plain.items():
            owners.setdefault(id(module.weight), path)
        made: dict[int, Tensor] = {}
        kept: dict[str, bool] = {}
        for path, module in plain.items():
            if id(module.weight) in needed:
                continue
            key, kind, whole = self._held(keys, owners[id(module.weight)])
            if kind is None:
                continue
            # Rows in the file's order cannot be split, nor be looked up as they lie.
            order = self._checkpoint.order(key) if whole and isinstance(module, nn.Linear) else None
            new = self._packed(module, kind, order)
            new._buffers["packed"] = made.setdefault(id(module.weight), new.packed)
            kept[key] = kept.get(key, False) or order is None
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, new.train(module.training))
        for key, ordered in kept.items():
            self._checkpoint.keep(key, ordered=ordered)
        rules: dict[str, Rule] = {}
        for path, module in list(model.named_modules()):
            if type(module) is Stacked:
                rules |= self._keep_stack(model, path, module, keys)
        return keys | KeyMap(rules) if rules else keys

    def _keep_stack(self, model: nn.Module, path: str, stack: Stacked, keys: KeyMap) -> dict[str, Rule]:
        """Replace a stack of experts whose matrices a file holds so; where the new one's bytes live."""
        links = keys.places(f"{path}.weight")
        turned = links[0].theirs == (TransposedEach(),)
        if any(link.theirs and not turned for link in links) or not _in_order(links, stack.weight.shape):
            return {}
        for spell in self._spellings():
            spelled = [spell(link.key) for link in links]
            blocks = self._checkpoint.stack(spelled)
            if blocks is not None and blocks.turned == turned:
                new = BlockStack(stack, blocks)
                parent, _, name = path.rpartition(".")
                setattr(model.get_submodule(parent), name, new.train(stack.training))
                given = self._checkpoint.keep_stack(spelled, blocks)
                return {f"{path}.{one}": key for one, key in zip(NAMES, given, strict=False)}
        return {}

    def _spellings(self) -> Iterator[Callable[[str], str]]:
        """How the checkpoint may spell a key."""
        yield lambda key: key
        for prefix in self._prefixes:
            yield lambda key, prefix=prefix: f"{prefix}.{key}"  # type: ignore[misc]
            yield lambda key, prefix=prefix: key.removeprefix(f"{prefix}.")  # type: ignore[misc]

    def _held(self, keys: KeyMap, path: str) -> tuple[str, BlockType | None, bool]:
        """Under which key a matrix is held, in what type, and whether nobody else has a part of it."""
        links = keys.places(f"{path}.weight")
        if len(links) > 1 or not _keeps_rows(links[0]):
            return "", None, False
        spelled = [spell(links[0].key) for spell in self._spellings()]
        found = next(((one, kind) for one in spelled if (kind := self._checkpoint.kind(one)) is not None), None)
        return ("", None, False) if found is None else (*found, links[0].renames)

    def _packed(self, module: nn.Linear | nn.Embedding, kind: BlockType, order: Tensor | None) -> Packed:
        if isinstance(module, nn.Linear):
            bias = module.bias is not None
            return PackedLinear(module.in_features, module.out_features, kind, bias=bias, order=order)
        scale = module.scale if isinstance(module, ScaledEmbedding) else 1.0
        if isinstance(module, RoundedScaledEmbedding):
            scale = float(torch.tensor(scale, dtype=self._dtype, device="cpu"))
        return PackedEmbedding(
            module.num_embeddings, module.embedding_dim, kind, self._dtype, module.padding_idx, scale
        )


def _keeps_rows(link: Link) -> bool:
    """Whether a view takes whole rows of the checkpoint's matrix, so that blocks stay whole."""
    rows = all(isinstance(view, (Transposed, Rows, Share, Groups)) for view in (*link.theirs, *link.ours))
    return rows and not link.splits_inputs


def _in_order(links: Sequence[Link], shape: Sequence[int]) -> bool:
    """Whether views make up a stack of matrices one after another, each as often as there are experts."""
    if len(links) == 1:
        return links[0].whole
    experts = shape[0]
    kinds = len(links) // experts
    wanted: list[tuple[View, ...]] = [
        (Index(n), *((Share(part, kinds),) if kinds > 1 else ())) for part in range(kinds) for n in range(experts)
    ]
    return [link.ours for link in links] == wanted


def unpacked(model: nn.Module, held: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """A model's tensors, with numbers in the places of blocks; what shares blocks shares the numbers.

    Args:
        held: all of them by path, as ``state_dict(keep_vars=True)`` gives them.
        dtype: of the numbers.
    """
    matrices = {path: module for path, module in model.named_modules() if isinstance(module, Packed)}
    stacks = {path: module for path, module in model.named_modules() if isinstance(module, BlockStack)}
    made: dict[int, Tensor] = {}
    found: dict[str, Tensor] = {}
    for path, tensor in held.items():
        parent, _, name = path.rpartition(".")
        if parent in stacks and name in NAMES:
            if name == NAMES[0]:
                found[f"{parent}.weight"] = stacks[parent].weight.to(dtype)
            continue
        if name != "packed" or parent not in matrices:
            found[path] = tensor
            continue
        if id(tensor) not in made:
            matrix = matrices[parent]
            made[id(tensor)] = matrix.in_order(dequantize(tensor, matrix.kind), 0).to(dtype)
        found[f"{parent}.weight"] = made[id(tensor)]
    return found
