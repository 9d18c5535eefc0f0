"""Operations that torch's exporter translates by random luck or not at all: looking for numbers among others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from omniform.export.onnx.graphs import graph_of
from omniform.export.onnx.inputs import Input
from omniform.export.onnx.states import BATCH

BOUNDS = torch.tensor([-1.0, 0.0, 0.0, 0.5, 2.0])


class Looks(nn.Module):
    def __init__(self, look) -> None:
        super().__init__()
        self.look = look

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        return (self.look(*values),)


def numbers(own: Input, sizes, generator: torch.Generator) -> Tensor:
    return torch.randint(-4, 5, own.shape(sizes), generator=generator) / 2


WAYS = {
    "isin": lambda x: torch.isin(x, BOUNDS),
    "isin of many": lambda x: torch.isin(x, torch.arange(-30.0, 30.0)),
    "isin, inverted": lambda x: torch.isin(x, BOUNDS, invert=True),
    "searchsorted": lambda x: torch.searchsorted(BOUNDS, x),
    "searchsorted, right": lambda x: torch.searchsorted(BOUNDS, x, right=True),
    "searchsorted, side": lambda x: torch.searchsorted(BOUNDS, x, side="right"),
    "searchsorted in rows": lambda x: torch.searchsorted(x.sort(-1).values, x, right=True),
    "bucketize": lambda x: torch.bucketize(x, BOUNDS),
    "bucketize, right": lambda x: torch.bucketize(x, BOUNDS, right=True),
}


@pytest.mark.parametrize("name", WAYS)
def test_numbers_among_others(name: str, tmp_path: Path) -> None:
    own = Input("values", (BATCH, 6), numbers)
    model = graph_of(Looks(WAYS[name]), [own], ["found"], 20, name)
    onnx_ir.save(model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for rows in (1, 3, 7):
        values = own.example({BATCH: rows}, seed=rows)
        (found,) = session.run(["found"], {"values": values.numpy()})
        assert np.array_equal(found, WAYS[name](values).numpy())
