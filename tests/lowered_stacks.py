"""Stacks of layers that compute each step twice: as their modules do, and by their lowered program, slowly."""

from __future__ import annotations

import copy
from collections import Counter

import torch
from torch import Tensor, nn

from omniform.blocks.grid_rotary import GridContext
from omniform.blocks.layers import run
from omniform.blocks.lowering import CannotLower, Stack
from omniform.blocks.packed_patches import PatchContext
from omniform.core.context import FirstContext, StepContext
from omniform.core.packed import PackedContext
from omniform.native.library import library
from omniform.transforms.compiled import Compiled
from omniform.transforms.matrices import matrix_of
from omniform.transforms.program import lowered
from omniform.transforms.runnable import Runnable
from omniform.transforms.stacks import stack_of
from omniform.transforms.step_inputs import NoRanges
from programs import told

KNOWN_STEPS = (StepContext, PackedContext, FirstContext, GridContext, PatchContext)
TOLERANCE = 1e-4

seen: Counter[str] = Counter()
"""How many steps were compared, and why others were not."""


def natively(layers: nn.ModuleList, x: Tensor, ctx: StepContext, norm: nn.Module | None) -> Tensor:
    """What a stack of layers gives for a step by the library. Raises CannotLower, NoRanges."""
    by = library()
    assert by is not None
    steps = lowered(layers, x.shape[-1], norm, memory=ctx.memory is not None)
    return Runnable(Compiled(steps, matrix_of, stack_of)).run(by, x, ctx)


compute = told
"""What gives what is compared with the modules: the oracle, or :func:`natively`."""


class Twice(Stack):
    """A stack that fails where its program gives another thing than its modules."""

    def through(
        self, x_BTD: Tensor, ctx: StepContext, norm: nn.Module | None, part: slice = slice(None)
    ) -> Tensor | None:
        if type(ctx) not in KNOWN_STEPS or self.training or torch.is_grad_enabled() or not x_BTD.numel():
            seen[f"step: {type(ctx).__name__}"] += 1
            return None
        before = copy.deepcopy(ctx.state)
        expected = _plain(self, x_BTD, ctx, norm, part)
        try:
            found = compute(self[part], x_BTD, ctx.with_(state=before), norm)
        except (CannotLower, NoRanges) as error:
            seen[f"{type(error).__name__} {error}"] += 1
            return expected
        found = found.view(expected.shape)
        if ctx.padding is not None and found.shape[1] == ctx.positions.shape[-1]:
            real = ctx.padding[:, -found.shape[1] :]
            found, wanted = found[real], expected[real]
        else:
            wanted = expected
        off = ((found - wanted).abs() / wanted.abs().clamp(min=1)).max().item()
        assert off <= TOLERANCE, f"off by {off}"
        seen["compared"] += 1
        return expected


def _plain(layers: nn.ModuleList, x: Tensor, ctx: StepContext, norm: nn.Module | None, part: slice) -> Tensor:
    kind = layers.__class__
    layers.__class__ = nn.ModuleList
    try:
        return run(layers[part], x, ctx, norm)
    finally:
        layers.__class__ = kind


def watch(model: nn.Module) -> int:
    """Have the stacks of a model compute twice; how many there are."""
    stacks = [m for m in model.modules() if type(m) is nn.ModuleList and len(m)]
    for stack in stacks:
        stack.__class__ = Twice
    return len(stacks)
