"""Frames as entries of codebooks, each of what the ones before left over (residual vector quantization).

https://arxiv.org/abs/2107.03312, section III-C.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.blocks.composed import Composed


class Codebook(nn.Module):
    """A table of vectors, of which a frame is the nearest one.

    The table is no parameter: while codecs learn, it is the running mean of the frames that each entry stands for.

    Args:
        size: how many vectors.
        dim: their width.
    """

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("inited", torch.empty(1))
        self.register_buffer("cluster_size", torch.empty(size))
        self.register_buffer("embed", torch.empty(size, dim))
        self.register_buffer("embed_avg", torch.empty(size, dim))

    embed: Tensor
    inited: Tensor
    cluster_size: Tensor
    embed_avg: Tensor

    def reset(self, std: float) -> None:
        """Empty, and said to be filled, as the ecosystem's."""
        self.inited.fill_(1.0)
        for table in (self.cluster_size, self.embed, self.embed_avg):
            table.zero_()

    def encode(self, x_BTD: Tensor) -> Tensor:
        """The nearest entry of each frame. Shape: [B, T, D] to [B, T]."""
        frames = x_BTD.reshape(-1, x_BTD.shape[-1])
        table_DN = self.embed.t()
        far = frames.pow(2).sum(1, keepdim=True) - 2 * frames @ table_DN + table_DN.pow(2).sum(0, keepdim=True)
        return far.argmin(dim=-1).view(x_BTD.shape[:-1])

    def decode(self, codes_BT: Tensor) -> Tensor:
        """The vectors of entries. Shape: [B, T] to [B, T, D]."""
        return F.embedding(codes_BT, self.embed)


class Quantized(Composed):
    """One stage: frames in channels to a codebook's entries.

    Args:
        codebook: of the stage.
    """

    codebook: Codebook

    def encode(self, x_BDT: Tensor) -> Tensor:
        """Shape: [B, D, T] to [B, T]."""
        return self.codebook.encode(x_BDT.transpose(1, 2))

    def decode(self, codes_BT: Tensor) -> Tensor:
        """Shape: [B, T] to [B, D, T]."""
        return self.codebook.decode(codes_BT).transpose(1, 2)


class Residuals(Composed):
    """Stages, each of which reads what those before left over.

    Args:
        layers: the stages.
    """

    layers: nn.ModuleList

    @classmethod
    def of(cls, stages: int, size: int, dim: int) -> Residuals:
        """So many stages with codebooks of their own."""
        return cls(layers=nn.ModuleList(Quantized(codebook=Codebook(size, dim)) for _ in range(stages)))

    def encode(self, x_BDT: Tensor, stages: int) -> Tensor:
        """The entries of the first so many stages. Shape: [B, D, T] to [stages, B, T]."""
        left, codes = x_BDT, []
        for stage in self._first(stages):
            codes.append(stage.encode(left))
            left = left - stage.decode(codes[-1])
        return torch.stack(codes)

    def decode(self, codes_KBT: Tensor) -> Tensor:
        """Their sum. Shape: [K, B, T] to [B, D, T]."""
        pairs = zip(self._first(codes_KBT.shape[0]), codes_KBT, strict=True)
        vectors = [stage.decode(codes) for stage, codes in pairs]
        whole = vectors[0]
        for more in vectors[1:]:
            whole = whole + more
        return whole

    def _first(self, stages: int) -> list[Quantized]:
        return cast("list[Quantized]", list(self.layers)[:stages])
