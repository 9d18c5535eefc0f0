"""How alike vectors are: by angle, product or distance, all against all or pair by pair."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from omniform.core.errors import InputError, nearest

Row = Tensor | npt.NDArray[np.generic] | Sequence[float]
Vectors = Tensor | npt.NDArray[np.generic] | Sequence[float] | Sequence[Row]
"""Vectors as a tensor, an array or a list; one of them alone stands for a list of one."""

Compare = Callable[[Tensor, Tensor], Tensor]


def as_tensor(vectors: Vectors, where: str) -> Tensor:
    """Vectors as a tensor, in float32 at least.

    Raises:
        InputError: these are no numbers of one width.
    """
    try:
        if isinstance(vectors, Tensor):
            x = vectors
        elif isinstance(vectors, Sequence) and vectors and isinstance(vectors[0], Tensor):
            x = torch.stack([torch.as_tensor(row) for row in vectors])
        elif isinstance(vectors, np.ndarray) or (vectors and isinstance(vectors[0], np.ndarray)):
            x = torch.as_tensor(np.asarray(vectors))
        else:
            x = torch.tensor(vectors)
    except (TypeError, ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError("these are no vectors", where=where, expected="rows of numbers", found=first) from None
    small = x.is_floating_point() and torch.finfo(x.dtype).bits < 32
    return x.float() if small or not x.is_floating_point() else x


def _both(a: Vectors, b: Vectors) -> tuple[Tensor, Tensor]:
    x, y = as_tensor(a, "embeddings1"), as_tensor(b, "embeddings2")
    if x.shape[-1:] != y.shape[-1:]:
        raise InputError("vectors of two widths", expected=f"{x.shape[-1:]}", found=f"{y.shape[-1:]}")
    return x.to(torch.promote_types(x.dtype, y.dtype)), y.to(torch.promote_types(x.dtype, y.dtype)).to(x.device)


def _matrices(a: Vectors, b: Vectors) -> tuple[Tensor, Tensor]:
    x, y = _both(a, b)
    return (x[None] if x.dim() == 1 else x), (y[None] if y.dim() == 1 else y)


def cos_sim(a: Vectors, b: Vectors) -> Tensor:
    """The cosine of the angle, all against all. Shape: [N, D] and [M, D] to [N, M]."""
    x, y = _matrices(a, b)
    return F.normalize(x, dim=-1) @ F.normalize(y, dim=-1).T


def dot_score(a: Vectors, b: Vectors) -> Tensor:
    """The product, all against all."""
    x, y = _matrices(a, b)
    return x @ y.T


def euclidean_sim(a: Vectors, b: Vectors) -> Tensor:
    """The distance, negative, all against all."""
    x, y = _matrices(a, b)
    return -torch.cdist(x, y, p=2.0)


def manhattan_sim(a: Vectors, b: Vectors) -> Tensor:
    """The sum of the differences, negative, all against all."""
    x, y = _matrices(a, b)
    return -torch.cdist(x, y, p=1.0)


def pairwise_cos_sim(a: Vectors, b: Vectors) -> Tensor:
    """The cosine of the angle, pair by pair. Shape: [N, D] and [N, D] to [N]."""
    x, y = _both(a, b)
    return (F.normalize(x, dim=-1) * F.normalize(y, dim=-1)).sum(-1)


def pairwise_dot_score(a: Vectors, b: Vectors) -> Tensor:
    """The product, pair by pair."""
    x, y = _both(a, b)
    return (x * y).sum(-1)


def pairwise_euclidean_sim(a: Vectors, b: Vectors) -> Tensor:
    """The distance, negative, pair by pair."""
    x, y = _both(a, b)
    distance: Tensor = torch.linalg.vector_norm(x - y, dim=-1)
    return -distance


def pairwise_manhattan_sim(a: Vectors, b: Vectors) -> Tensor:
    """The sum of the differences, negative, pair by pair."""
    x, y = _both(a, b)
    return -(x - y).abs().sum(-1)


SIMILARITIES: Final[Mapping[str, tuple[Callable[[Vectors, Vectors], Tensor], Callable[[Vectors, Vectors], Tensor]]]] = {
    "cosine": (cos_sim, pairwise_cos_sim),
    "dot": (dot_score, pairwise_dot_score),
    "euclidean": (euclidean_sim, pairwise_euclidean_sim),
    "manhattan": (manhattan_sim, pairwise_manhattan_sim),
}
"""By the names that the layout has for them: all against all, and pair by pair."""


def check_similarity(name: object, where: str) -> str:
    """The name of a similarity.

    Raises:
        InputError: there is none of this name.
    """
    if not isinstance(name, str) or name not in SIMILARITIES:
        raise InputError("no such similarity", where=where, found=repr(name), remedy=nearest(str(name), SIMILARITIES))
    return name
