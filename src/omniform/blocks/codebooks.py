"""Frames as entries of codebooks, each of what the ones before left over (residual vector quantization).

https://arxiv.org/abs/2107.03312, section III-C.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.blocks.composed import Composed


class Entries(nn.Module, ABC):
    """A table of vectors, of which a frame is the nearest one."""

    @abstractmethod
    def encode(self, x_BTD: Tensor) -> Tensor:
        """The nearest entry of each frame. Shape: [B, T, D] to [B, T]."""

    @abstractmethod
    def decode(self, codes_BT: Tensor) -> Tensor:
        """The vectors of entries. Shape: [B, T] to [B, T, D]."""


class Codebook(Entries):
    """EnCodec's table.

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
        frames = x_BTD.reshape(-1, x_BTD.shape[-1])
        table_DN = self.embed.t()
        far = frames.pow(2).sum(1, keepdim=True) - 2 * frames @ table_DN + table_DN.pow(2).sum(0, keepdim=True)
        return far.argmin(dim=-1).view(x_BTD.shape[:-1])

    def decode(self, codes_BT: Tensor) -> Tensor:
        return F.embedding(codes_BT, self.embed)


class SummedCodebook(Entries):
    """A table that is kept as sums: an entry is the mean of the frames that it has stood for (Mimi).

    Args:
        size: how many vectors.
        dim: their width.
    """

    LEAST = 1e-5

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("initialized", torch.empty(1))
        self.register_buffer("cluster_usage", torch.empty(size))
        self.register_buffer("embed_sum", torch.empty(size, dim))

    initialized: Tensor
    cluster_usage: Tensor
    embed_sum: Tensor

    def reset(self, std: float) -> None:
        """Empty, and said to be filled, as the ecosystem's."""
        self.initialized.fill_(1.0)
        self.cluster_usage.fill_(1.0)
        self.embed_sum.zero_()

    @property
    def embed(self) -> Tensor:
        """The table. Shape: [size, D]."""
        return self.embed_sum / self.cluster_usage.clamp(min=self.LEAST)[:, None]

    def encode(self, x_BTD: Tensor) -> Tensor:
        frames = x_BTD.reshape(-1, x_BTD.shape[-1])
        return torch.cdist(frames[None].float(), self.embed[None].float())[0].argmin(dim=-1).view(x_BTD.shape[:-1])

    def decode(self, codes_BT: Tensor) -> Tensor:
        return F.embedding(codes_BT, self.embed_sum) / self.cluster_usage.clamp(min=self.LEAST)[codes_BT][..., None]


class Quantized(Composed):
    """One stage: frames in channels to a codebook's entries.

    Args:
        codebook: of the stage.
    """

    codebook: Entries

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
    def of(cls, stages: int, size: int, dim: int, kind: Callable[[int, int], Entries] = Codebook) -> Residuals:
        """So many stages with codebooks of their own; ``kind``: makes one."""
        return cls(layers=nn.ModuleList(Quantized(codebook=kind(size, dim)) for _ in range(stages)))

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


class ProjectedResiduals(Residuals):
    """Residuals of narrower frames.

    Args:
        input_proj: to their width; None where frames have it.
        output_proj: and back.
    """

    input_proj: nn.Module | None
    output_proj: nn.Module | None

    def encode(self, x_BDT: Tensor, stages: int) -> Tensor:
        return super().encode(x_BDT if self.input_proj is None else self.input_proj(x_BDT), stages)

    def decode(self, codes_KBT: Tensor) -> Tensor:
        whole = super().decode(codes_KBT)
        return whole if self.output_proj is None else self.output_proj(whole)


class SplitResiduals(Composed):
    """Residuals of two kinds, both of which read the frames: what is said, and how it sounds (Mimi).

    Args:
        semantic_residual_vector_quantizer: comes first, and is always there.
        acoustic_residual_vector_quantizer: of the codes after that.
    """

    semantic_residual_vector_quantizer: Residuals
    acoustic_residual_vector_quantizer: Residuals

    @property
    def fewest(self) -> int:
        """How many codes a frame has at least."""
        return len(self.semantic_residual_vector_quantizer.layers)

    @property
    def most(self) -> int:
        """And at most."""
        return self.fewest + len(self.acoustic_residual_vector_quantizer.layers)

    def encode(self, x_BDT: Tensor, stages: int) -> Tensor:
        """The entries of the first so many stages. Shape: [B, D, T] to [stages, B, T]."""
        codes = self.semantic_residual_vector_quantizer.encode(x_BDT, self.fewest)
        if stages == self.fewest:
            return codes
        return torch.cat((codes, self.acoustic_residual_vector_quantizer.encode(x_BDT, stages - self.fewest)))

    def decode(self, codes_KBT: Tensor) -> Tensor:
        """Their sum. Shape: [K, B, T] to [B, D, T]."""
        whole = self.semantic_residual_vector_quantizer.decode(codes_KBT[: self.fewest])
        if len(codes_KBT) > self.fewest:
            whole = whole + self.acoustic_residual_vector_quantizer.decode(codes_KBT[self.fewest :])
        return whole
