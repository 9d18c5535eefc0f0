"""How soon a second question about a picture is answered: what encoder and decoder made of it is kept."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from omniform_bench import SECONDS, Kind, Scenario

BEFORE, FIRST, SECOND = [1, *range(3, 30)], [*range(30, 50)], [*range(31, 46)]
"""Tokens that both questions begin with, and what follows the picture in each."""


@dataclass(frozen=True, kw_only=True)
class Again(Scenario):
    """Two questions about the same picture, to the first token of the answer, by an engine that is new each time.

    Attributes:
        patches: placeholders of a picture.
    """

    patches: int
    NEEDS: ClassVar = ("engine",)
    GIVES: ClassVar = {
        "second_question.latency": SECONDS, "first_question.latency": SECONDS, "question.ratio": Kind("x", "higher"),
    }  # fmt: skip

    def begin(self, backend: Any, job: Any) -> Callable[[], dict[str, float]]:
        """Load."""
        backend.prepare()
        backend.load("image-text-to-text")
        torch, turns = backend.torch, itertools.count()
        config = backend.model.config
        image, edge = int(config.get("image_token_index")), int(config.get("vision_config").get("image_size", 224))

        def sample() -> dict[str, float]:
            torch.manual_seed(next(turns))
            engine, picture, taken = backend.library.Engine(backend.model), torch.rand(1, 3, edge, edge), []
            for question in (FIRST, SECOND):
                ids = torch.tensor([[*BEFORE, *[image] * self.patches, *question]])
                started = job.now()
                engine.generate({"input_ids": ids, "pixel_values": picture}, max_new_tokens=1, min_new_tokens=1)
                taken.append(job.now() - started)
            hits = engine.stats().encoder_hits
            if hits != 1:
                raise RuntimeError(f"the picture was found {hits} times among those that are kept, and not once")
            first, second = taken
            return {"second_question.latency": second, "first_question.latency": first,
                    "question.ratio": first / second}  # fmt: skip

        return sample
