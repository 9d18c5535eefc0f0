"""Blocks of GGUF files packed by the kernels: exactly what the codes say that torch makes of them."""

from __future__ import annotations

import pytest
import torch

from omniform.native.library import library
from omniform.native.matrix import Matrix
from omniform.transforms.stacks import addresses, layout_of
from omniform.weights.gguf.codes import BY_NAME, codes_of
from omniform.weights.gguf.types import TYPES, BlockType

pytestmark = pytest.mark.skipif(library() is None, reason="no native kernels")

KINDS = [kind for kind in TYPES.values() if kind.name in BY_NAME]


def drawn(kind: BlockType, rows: int, blocks: int) -> torch.Tensor:
    """Any bytes: scales that are infinite, no number, subnormal or negative are among them."""
    return torch.randint(0, 256, (rows, blocks * kind.nbytes), dtype=torch.uint8)


def same_bytes(one: Matrix, other: Matrix) -> bool:
    shapes = [(m.outs, m.ins, m.kind, m.c.group, m.c.scale_kind, len(m.kept)) for m in (one, other)]
    pairs = zip(one.kept, other.kept, strict=True)
    return shapes[0] == shapes[1] and all(torch.equal(x.view(torch.uint8), y.view(torch.uint8)) for x, y in pairs)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize(("rows", "blocks"), [(1, 1), (16, 4), (37, 9)])
def test_kernels_read_blocks_as_torch_does(kind: BlockType, rows: int, blocks: int) -> None:
    torch.manual_seed(rows)
    raw, order = drawn(kind, rows, blocks), torch.randperm(rows)
    codes = codes_of(raw[order], kind)
    by_torch = Matrix.quantized(codes.codes, codes.scales, group=codes.group, minima=codes.minima, table=codes.codebook)
    read: list[tuple[int, int]] = []
    layout = layout_of(kind)
    made = Matrix.of_blocks(addresses(raw)[order], blocks * kind.numbers, layout, lambda *some: read.append(some))
    assert same_bytes(made, by_torch)
    assert read == [(0, rows)]


def test_rows_may_lie_in_several_tensors_and_are_packed_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = next(kind for kind in KINDS if kind.name == "Q4_K")
    torch.manual_seed(0)
    first, second = drawn(kind, 40, 2), drawn(kind, 40, 2)
    rows = torch.stack((addresses(first), addresses(second)), 1).flatten()
    whole = Matrix.of_blocks(rows, 512, layout_of(kind))
    monkeypatch.setattr("omniform.native.matrix.AT_ONCE", 512 * 32)
    read: list[tuple[int, int]] = []
    in_parts = Matrix.of_blocks(rows, 512, layout_of(kind), lambda *some: read.append(some))
    copied = torch.stack((first, second), 1).flatten(0, 1)
    assert read == [(0, 32), (32, 64), (64, 80)]
    assert same_bytes(in_parts, whole) and same_bytes(
        in_parts, Matrix.of_blocks(addresses(copied), 512, layout_of(kind))
    )
