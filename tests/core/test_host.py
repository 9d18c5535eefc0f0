"""Constants that are kept, and not those of a trace."""

from __future__ import annotations

import torch
from torch import Tensor

from omniform.core.host import kept_unless_traced


def test_constants_are_kept_but_those_of_a_trace_are_its_own():
    made: list[Tensor] = []

    @kept_unless_traced(2)
    def ramp(length: int) -> Tensor:
        made.append(torch.arange(length))
        return made[-1]

    assert ramp(3) is ramp(3) and len(made) == 1
    torch.jit.trace(lambda x: x + ramp(3), torch.ones(3), check_trace=False)
    assert len(made) == 2 and ramp(3) is made[0]
    ramp(4), ramp(5)
    assert ramp(3) is made[-1] and len(made) == 5  # the least used has gone
    compiled = torch.compile(lambda x: x + ramp(3), backend="eager", fullgraph=True)
    assert torch.equal(compiled(torch.ones(3)), torch.arange(3) + 1.0)
