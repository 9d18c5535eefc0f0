"""What the engines of several processes agree on, so that each plans the same steps for the same requests.

Engines are deterministic but for three things: how much memory they find, what torch's global generator gives, and the
time. Of these the first rank's count.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import torch
from torch import nn

from omniform.core.ranks import Ranks
from omniform.engine.paged_state import Pool
from omniform.engine.request import Request
from omniform.transforms.shard import ranks_of


class Agreement:
    """The engines of one model that lies in several processes; where it lies in one, nothing is to be agreed on.

    Args:
        model: the model.
    """

    def __init__(self, model: nn.Module) -> None:
        self.ranks: Ranks | None = ranks_of(model)
        self._until: dict[int, float] = {}  # when requests are late, by the clock of this process

    def blocks(self, found: dict[Pool, int]) -> dict[Pool, int]:
        """How many blocks of each pool all of them have."""
        if self.ranks is None:
            return found
        return dict(zip(found, self.ranks.least(list(found.values())), strict=True))

    def begin(self, arrived: Iterable[Request], there: Iterable[Request]) -> None:
        """Before a step is planned: draw alike, and say who is late.

        Args:
            arrived: requests that came since the last step.
            there: all others.
        """
        if self.ranks is None:
            return
        new = list(arrived)
        if any(request.settings.do_sample and request.seed is None for request in new):
            self.ranks.draw_alike()
        timed = [request for request in (*new, *there) if request.deadline is not None]
        if timed:
            self._until = {r.arrival: self._until.get(r.arrival, r.deadline or 0.0) for r in timed}
            late = [time.monotonic() > until for until in self._until.values()]
            told = self.ranks.told(torch.tensor(late, dtype=torch.uint8, device=self.ranks.device))
            for request, over in zip(timed, told.tolist(), strict=True):
                request.deadline = 0.0 if over else float("inf")
