"""What is kept of a sound that comes in pieces."""

from __future__ import annotations

from torch import Tensor


class Heard:
    """What the convolutions of a stack keep of a sound that comes in pieces, so that these give what the whole does.

    Attributes:
        steps: by the convolution's slot, those that its next output looks at. Shape: [B, C, T] each.
    """

    def __init__(self) -> None:
        self.steps: dict[int, Tensor] = {}

    @property
    def padding_cache(self) -> list[Tensor | None]:
        """The same in the convolutions' order; None for those that have heard nothing."""
        return [self.steps.get(slot) for slot in range(max(self.steps, default=-1) + 1)]
