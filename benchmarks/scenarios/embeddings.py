"""Vectors of texts of mixed length: omniform's SentenceTransformer, and sentence-transformers'."""

from __future__ import annotations

import random
from dataclasses import dataclass
from importlib import import_module
from typing import ClassVar

from omniform_bench import SECONDS, Kind, Scenario

WORDS = "where light falls on water the small birds gather and nobody counts them before winter while a boat waits"


@dataclass(frozen=True, kw_only=True)
class Embeddings(Scenario):
    """One call of ``encode``.

    Attributes:
        texts: how many; their lengths are as in a search log and its documents: the median is about 20 words, of 3 to
            250.
        batch: of how many at once.
    """

    texts: int = 200
    batch: int = 32
    NEEDS: ClassVar[tuple[str, ...]] = ("prepare",)
    GIVES: ClassVar[dict[str, Kind]] = {
        "embeddings.latency": SECONDS,
        "embeddings.throughput": Kind("texts/s", "higher"),
    }

    def begin(self, backend, job):
        backend.prepare()
        ours = backend.options["kind"] == "omniform"
        package = import_module("omniform" if ours else "sentence_transformers")
        model = package.SentenceTransformer(job.model, device="cpu")
        chance = random.Random(0)
        lengths = [min(max(int(chance.lognormvariate(3.0, 1.1)), 3), 250) for _ in range(self.texts)]
        texts = [" ".join(chance.choices(WORDS.split(), k=length)) for length in lengths]
        quiet = {} if ours else {"show_progress_bar": False}

        def sample():
            started = job.now()
            model.encode(texts, batch_size=self.batch, **quiet)
            spent = job.now() - started
            return {"embeddings.latency": spent, "embeddings.throughput": self.texts / spent}

        return sample
