"""Graphs: operations that torch's exporter does not translate, and nodes that are taken apart alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

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
    "in bfloat16": lambda x: (x.bfloat16() * BOUNDS[:1].bfloat16() * 0.5 + x.bfloat16().sum(-1, keepdim=True)).float(),
}


@pytest.mark.parametrize("name", WAYS)
def test_numbers_among_others_and_rounded(name: str, tmp_path: Path) -> None:
    own = Input("values", (BATCH, 6), numbers)
    model = graph_of(Looks(WAYS[name]), [own], ["found"], 20, name)
    onnx_ir.save(model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for rows in (1, 3, 7):
        values = own.example({BATCH: rows}, seed=rows)
        (found,) = session.run(["found"], {"values": values.numpy()})
        assert np.array_equal(found, WAYS[name](values).numpy())


def shifted(x: Tensor) -> Tensor:
    y = x + 1
    return y.mul_(2).add_(x)


def seen_by_its_base(x: Tensor) -> Tensor:
    """What is written through a view is read through its base."""
    y = x * 3
    y[:, 1:3].add_(5)
    return y


def seen_by_its_view(x: Tensor) -> Tensor:
    y = x * 3
    part = y[:, 2:]
    y.relu_()
    return part + 1


def same_or_not(x: Tensor) -> Tensor:
    """A conversion to what it is already is no copy: both names see the writing."""
    y = x * 3
    y.to(torch.float32).mul_(2)
    return y


def joined(x: Tensor) -> Tensor:
    return torch.cat((x, (x > 0).to(torch.int32), torch.arange(6).expand_as(x)), 1)


WRITING = {
    "fresh": (shifted, True), "through a view": (seen_by_its_base, False), "under a view": (seen_by_its_view, False),
    "through a conversion": (same_or_not, True), "joined dtypes": (joined, True),
    "norm": (lambda x: torch.nn.functional.rms_norm(x, (6,), torch.arange(6.0), 1e-3), True),
    "norm of two axes": (lambda x: torch.nn.functional.rms_norm(x.view(-1, 2, 3), (2, 3)), True),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITING)
def test_what_writes_in_place_makes_anew(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Node by node where nobody else sees it, by torch's own way where somebody does; the same numbers in both."""
    look, alone = WRITING[name]
    asked = []
    usual = ExportedProgram.run_decompositions
    monkeypatch.setattr(
        ExportedProgram, "run_decompositions", lambda self, *given, **named: asked.append(1) or usual(self, *given)
    )
    own = Input("values", (BATCH, 6), numbers)
    onnx_ir.save(graph_of(Looks(look), [own], ["found"], 20, name), tmp_path / "model.onnx")
    assert bool(asked) is not alone
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for rows in (1, 3):
        values = own.example({BATCH: rows}, seed=rows)
        (found,) = session.run(["found"], {"values": values.numpy()})
        expected = look(values.clone())
        assert found.shape == tuple(expected.shape)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
