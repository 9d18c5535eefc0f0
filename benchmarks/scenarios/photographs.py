"""Photographs of mixed sizes through a library's image processors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from omniform_bench import SECONDS, Kind, Scenario, at_least

GRAIN = 48
"""Rows and columns of noise that a picture is enlarged from: no photograph, but as smooth as one."""


@dataclass(frozen=True, kw_only=True)
class Photographs(Scenario):
    """Decoded pictures of mixed sizes become what a model is given, all of them in one call.

    Attributes:
        processor: the family's name in the classes: ``ViT`` of ``ViTImageProcessor``. What a contender's option
            ``ending`` says comes behind that: ``Pil``.
        count: pictures.
        edges: least and most of rows and columns.
        large: how many of them come from a camera, with edges between those of ``large_edges``.
    """

    processor: str
    count: int = 64
    edges: tuple[int, ...] = (300, 1000)
    large: int = 4
    large_edges: tuple[int, ...] = (2000, 3500)
    NEEDS: ClassVar = ("preprocess",)
    GIVES: ClassVar = {"preprocessing.latency": SECONDS, "preprocessing.throughput": Kind("pictures/s", "higher")}

    def check(self) -> None:
        """There are pictures, and no more large ones than that."""
        at_least(1, count=self.count)
        at_least(0, large=self.large)
        if self.large > self.count:
            raise ValueError(f"large is {self.large}, of {self.count} pictures")

    def begin(self, backend: Any, job: Any) -> Callable[[], dict[str, float]]:
        """Make the pictures and the processor, with its own defaults."""
        backend.prepare()
        name = f"{self.processor}ImageProcessor{job.backend['options'].get('ending', '')}"
        processor = getattr(backend.library, name)()
        pictures = self.pictures()

        def sample() -> dict[str, float]:
            started = job.now()
            processor(pictures, return_tensors="pt")
            spent = max(job.now() - started, 1e-9)
            return {"preprocessing.latency": spent, "preprocessing.throughput": self.count / spent}

        return sample

    def pictures(self) -> Sequence[Any]:
        """The same for everyone."""
        import numpy as np
        from PIL import Image

        chance, made = np.random.default_rng(0), []
        for number in range(self.count):
            camera = number * self.large // self.count != (number + 1) * self.large // self.count
            width, height = chance.integers(*(self.large_edges if camera else self.edges), 2).tolist()
            grain = Image.fromarray(chance.integers(0, 256, (GRAIN, GRAIN, 3), dtype=np.uint8))
            made.append(grain.resize((width, height), Image.Resampling.BILINEAR))
        return made
