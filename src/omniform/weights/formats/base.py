"""Formats of quantized matrices: how one lies in a file, what its numbers are, and how one is made of numbers.

A format is one value. It knows nothing of families, devices or files: :class:`~omniform.transforms.quantize.layers.\
QuantLinear` holds the tensors that it names, and the key table says where they live.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Self

import torch
from torch import Tensor

from omniform.core.errors import ConfigError
from omniform.native.matrix import LANES, Matrix
from omniform.weights.formats.codes import Codes

Held = Mapping[str, Tensor]
"""The tensors of one matrix, by their names in the file (``"qweight"``, ``"scales"``)."""


@dataclass(frozen=True, slots=True)
class Part:
    """One of the tensors that a matrix is kept in.

    Attributes:
        shape: its shape.
        dtype: its dtype, which loading leaves as it is.
        out: the axis that runs along the matrix's outputs, and how many outputs a step along it stands for (of codes of
            three bits in words of 32, ten and two thirds); None where all outputs share it.
        into: likewise of its inputs.
        optional: whether a file may lack it.
        key: what a file calls it, within its module, where that is no name that a module's own tensor can have, or is
            ``weight``; empty for its own name.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    out: tuple[int, int | Fraction] | None = None
    into: tuple[int, int | Fraction] | None = None
    optional: bool = False
    key: str = ""


class Format(ABC):
    """How matrices are quantized; a frozen dataclass of what a config says of them."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What people call it: ``"GPTQ, 4 bits, groups of 128"``."""

    @abstractmethod
    def parts(self, outs: int, ins: int) -> Mapping[str, Part]:
        """The tensors of a matrix.

        Raises:
            ConfigError: a matrix of this size cannot be kept so.
        """

    @abstractmethod
    def numbers(self, held: Held, outs: int, ins: int) -> Tensor:
        """What tensors stand for. Shape: [outs, ins]; float32.

        Raises:
            WeightsError: they are not of this format.
        """

    @abstractmethod
    def matrix(self, held: Held, outs: int, ins: int) -> tuple[Matrix, Tensor | None]:
        """The same as the kernels take it, and which input each column is (see :class:`Codes`).

        Raises:
            WeightsError: they are not of this format.
            NativeError: there is no library.
        """

    @property
    def rounds_inputs(self) -> bool:
        """Whether what is multiplied is not the input itself, but what :meth:`inputs` makes of it."""
        return False

    def inputs(self, x: Tensor, held: Held, *, training: bool) -> Tensor:
        """What is multiplied instead of an input. Shape: [..., ins] to the same.

        Args:
            held: the layer's tensors.
            training: whether the layer is in training.
        """
        return x

    def fitted(self, held: Held) -> Format:
        """The same for a matrix just made, with tensors of a size that only their content tells."""
        return self

    def settled(self, held: Held) -> Self:
        """The format, with what only a look at a whole matrix tells, before the kernels are given parts of it."""
        return self

    def encoded(self, weight: Tensor) -> dict[str, Tensor]:
        """A matrix of floats as tensors of this format. Shape: [outs, ins].

        Raises:
            ConfigError: the format is only read.
        """
        raise ConfigError("this format is read, not written", where="quantization_config", found=self.name)


class CodedFormat(Format):
    """A format whose matrices are whole numbers with scales."""

    @abstractmethod
    def codes(self, held: Held, outs: int, ins: int) -> Codes:
        """What tensors mean.

        Raises:
            WeightsError: they are not of this format.
        """

    def numbers(self, held: Held, outs: int, ins: int) -> Tensor:
        return self.codes(held, outs, ins).dequantized()

    def matrix(self, held: Held, outs: int, ins: int) -> tuple[Matrix, Tensor | None]:
        made = self.codes(held, outs, ins)
        return made.matrix(), made.order


def some_outputs(held: Held, parts: Mapping[str, Part], first: int, stop: int) -> dict[str, Tensor]:
    """The tensors of some of a matrix's outputs, as views; ``first`` is a multiple of :func:`step_of`."""
    found: dict[str, Tensor] = {}
    for name, tensor in held.items():
        along = parts[name].out
        if along is not None:
            axis, each = along
            tensor = tensor.narrow(axis, int(first // each), int(-(-stop // each) - first // each))
        found[name] = tensor
    return found


def step_of(parts: Mapping[str, Part]) -> int:
    """The fewest outputs that can be taken by themselves: whole panels, and whole elements of every tensor."""
    return math.lcm(LANES, *(Fraction(part.out[1]).numerator for part in parts.values() if part.out is not None))
