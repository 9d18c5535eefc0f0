"""Small tools of the ecosystem's model files (``omniform.pytorch_utils``), for models that users write."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from typing import Final

import torch
from torch import Tensor, nn

from omniform.core.errors import InputError

ALL_LAYERNORM_LAYERS: Final[list[type[nn.Module]]] = [nn.LayerNorm]


class Conv1D(nn.Module):
    """A projection whose matrix is kept transposed, as GPT-2's are.

    Args:
        nf: features out.
        nx: features in.
    """

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = nn.Parameter(torch.empty(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))
        nn.init.normal_(self.weight, std=0.02)

    def reset_parameters(self) -> None:
        """As new."""
        nn.init.normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: [..., in] to [..., out]."""
        flat = torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight)
        return flat.view(*x.shape[:-1], self.nf)

    def extra_repr(self) -> str:
        return f"nf={self.nf}, nx={self.nx}"


def apply_chunking_to_forward(
    forward_fn: Callable[..., Tensor], chunk_size: int, chunk_dim: int, *input_tensors: Tensor
) -> Tensor:
    """Call a function on parts of its inputs, one after another, and join what it gives.

    Args:
        forward_fn: takes as many tensors as are given.
        chunk_size: length of a part; 0 to call it once.
        chunk_dim: the dimension that is cut.

    Raises:
        InputError: no inputs, of unequal lengths, that cannot be cut so; a function of other arguments.
    """
    where = "apply_chunking_to_forward"
    if not input_tensors:
        raise InputError("no tensors to cut", where=where)
    taken = len(inspect.signature(forward_fn).parameters)
    if taken != len(input_tensors):
        raise InputError("the function takes another number of tensors", where=where, expected=taken,
                         found=len(input_tensors))  # fmt: skip
    if chunk_size <= 0:
        return forward_fn(*input_tensors)
    length = input_tensors[0].shape[chunk_dim]
    if any(one.shape[chunk_dim] != length for one in input_tensors) or length % chunk_size:
        found = [one.shape[chunk_dim] for one in input_tensors]
        raise InputError("lengths that cannot be cut so", where=where, expected=f"multiples of {chunk_size}",
                         found=found)  # fmt: skip
    parts = zip(*(torch.split(one, chunk_size, chunk_dim) for one in input_tensors), strict=True)
    return torch.cat([forward_fn(*part) for part in parts], dim=chunk_dim)


def find_pruneable_heads_and_indices(
    heads: Collection[int], n_heads: int, head_size: int, already_pruned_heads: set[int]
) -> tuple[set[int], Tensor]:
    """The heads that are still to be pruned, and the features that stay.

    Args:
        heads: numbers of heads, counted with those that were pruned before.
        n_heads: how many there are now.
    """
    new = set(heads) - already_pruned_heads
    gone = {head - sum(before < head for before in already_pruned_heads) for head in new}
    keep = torch.ones(n_heads, head_size, dtype=torch.bool)
    keep[sorted(gone)] = False
    return new, keep.view(-1).nonzero()[:, 0]


@torch.no_grad()
def prune_linear_layer(layer: nn.Linear, index: Tensor, dim: int = 0) -> nn.Linear:
    """A projection that keeps some rows (``dim=0``: features out) or columns (1: features in) of another one."""
    weight = layer.weight.index_select(dim, index.to(layer.weight.device)).contiguous()
    made = nn.Linear(weight.shape[1], weight.shape[0], layer.bias is not None, weight.device, weight.dtype)
    made.weight.copy_(weight)
    if layer.bias is not None:
        made.bias.copy_(layer.bias if dim == 1 else layer.bias[index.to(layer.bias.device)])
    return made


def meshgrid(*tensors: Tensor | list[Tensor], indexing: str | None = None) -> tuple[Tensor, ...]:
    """``torch.meshgrid``."""
    return tuple(torch.meshgrid(*tensors, indexing=indexing or "ij"))


def isin_mps_friendly(elements: Tensor, test_elements: Tensor | int) -> Tensor:
    """``torch.isin``."""
    return torch.isin(elements, test_elements)


def id_tensor_storage(tensor: Tensor) -> tuple[torch.device, int, int]:
    """What tells a tensor's memory from that of others."""
    storage = tensor.untyped_storage()
    return tensor.device, storage.data_ptr(), storage.nbytes()


is_torch_greater_or_equal_than_1_13 = is_torch_greater_or_equal_than_2_0 = True
is_torch_greater_or_equal_than_2_1 = is_torch_greater_or_equal_than_2_2 = True
is_torch_greater_or_equal_than_2_3 = is_torch_greater_or_equal_than_2_4 = True

__all__ = [
    "ALL_LAYERNORM_LAYERS",
    "Conv1D",
    "apply_chunking_to_forward",
    "find_pruneable_heads_and_indices",
    "id_tensor_storage",
    "is_torch_greater_or_equal_than_1_13",
    "is_torch_greater_or_equal_than_2_0",
    "is_torch_greater_or_equal_than_2_1",
    "is_torch_greater_or_equal_than_2_2",
    "is_torch_greater_or_equal_than_2_3",
    "is_torch_greater_or_equal_than_2_4",
    "isin_mps_friendly",
    "meshgrid",
    "prune_linear_layer",
]
