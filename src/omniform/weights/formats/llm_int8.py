"""LLM.int8() as bitsandbytes keeps it: rows of whole numbers, each with its largest magnitude.

From "LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale" (Dettmers et al., 2022, arXiv:2208.07339).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from omniform.core.errors import WeightsError
from omniform.native.matrix import Matrix
from omniform.weights.formats.base import Format, Held, Part
from omniform.weights.formats.codes import Codes

UNIT = 7.874015718698502e-3
"""1 / 127 as the package writes it."""


@dataclass(frozen=True, slots=True)
class LlmInt8(Format):
    """Rows of eight bits; inputs are rounded to eight bits too, but for the columns that hold an outlier.

    Attributes:
        threshold: magnitude from which on an input is an outlier, whose column all rows multiply as it is; 0 for none.
        marked: whether a file says of each matrix how it lies, which is in rows.
    """

    threshold: float = 6.0
    marked: bool = True

    @property
    def name(self) -> str:
        return "LLM.int8()"

    @property
    def rounds_inputs(self) -> bool:
        return True

    def parts(self, outs: int, ins: int) -> Mapping[str, Part]:
        codes = Part((outs, ins), torch.int8, (0, 1), (1, 1), key="weight")
        found = {"codes": codes, "SCB": Part((outs,), torch.float32, (0, 1))}
        return {**found, "weight_format": Part((), torch.uint8)} if self.marked else found

    def numbers(self, held: Held, outs: int, ins: int) -> Tensor:
        return held["codes"] * held["SCB"].float()[:, None] * UNIT

    def matrix(self, held: Held, outs: int, ins: int) -> tuple[Matrix, Tensor | None]:
        scales = held["SCB"].float()[:, None] * UNIT
        return Codes(held["codes"], scales, None, None, -(-ins // 8) * 8, 8).matrix(), None

    def inputs(self, x: Tensor, held: Held, *, training: bool) -> Tensor:
        """What codes of the inputs stand for, float32; in training, where the package rounds none, the inputs."""
        return x if training else rounded_inputs(x, self.threshold)

    def encoded(self, weight: Tensor) -> dict[str, Tensor]:
        """Numbers as float16, the largest magnitude of a row 127.

        Raises:
            WeightsError: a number is none, or beyond float16.
        """
        codes, absmax = rows_in_bytes(weight.detach().half())
        if not bool(torch.isfinite(absmax).all()):
            raise WeightsError(
                "a weight is infinite, no number, or too large for float16, which LLM.int8() rounds to first",
                expected="at most 65504",
            )
        return {"codes": codes, "SCB": absmax, "weight_format": torch.tensor(0, dtype=torch.uint8)}


@dataclass(frozen=True, slots=True)
class KeptWhole(LlmInt8):
    """The same of weights that stay as they are (``llm_int8_has_fp16_weight``), and are rounded to be multiplied.

    Attributes:
        dtype: of the weights.
    """

    dtype: torch.dtype = torch.float16

    @property
    def name(self) -> str:
        return f"LLM.int8() of {str(self.dtype).removeprefix('torch.')} weights"

    def parts(self, outs: int, ins: int) -> Mapping[str, Part]:
        return {"codes": Part((outs, ins), self.dtype, (0, 1), (1, 1), key="weight")}

    def numbers(self, held: Held, outs: int, ins: int) -> Tensor:
        return held["codes"].float()

    def matrix(self, held: Held, outs: int, ins: int) -> tuple[Matrix, Tensor | None]:
        codes, absmax = rows_in_bytes(held["codes"].half())
        return Codes(codes, absmax[:, None] * UNIT, None, None, -(-ins // 8) * 8, 8).matrix(), None

    def encoded(self, weight: Tensor) -> dict[str, Tensor]:
        return {"codes": weight.detach().to(self.dtype).clone()}


def rows_in_bytes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows with their largest magnitudes. Shape: [rows, width], float16, to the same, int8, and [rows], float32."""
    absmax = x.abs().amax(-1).float()
    codes = torch.round(x * (127.0 / absmax)[:, None])
    return torch.where(absmax[:, None] == 0, 0.0, codes).to(torch.int8), absmax


def rounded_inputs(x: Tensor, threshold: float) -> Tensor:
    """Inputs as eight bits stand for them, a scale for each row; columns with an outlier as they are.

    One product with them is that of the eight bits and that of the outliers together. Shape: [..., ins]; float32.
    """
    flat = x.reshape(-1, x.shape[-1])
    halves = flat.half()
    columns: Tensor | None = None
    if threshold > 0:
        outliers = halves.abs() >= threshold
        columns = outliers.any(0)
        halves = halves.masked_fill(outliers, 0)
    absmax = halves.abs().amax(-1, keepdim=True).float()
    codes = torch.round(halves * (127.0 / absmax))
    made = torch.where(absmax == 0, 0.0, codes) * absmax * UNIT
    if columns is not None:
        made = torch.where(columns, flat.float(), made)
    return made.view(x.shape)
