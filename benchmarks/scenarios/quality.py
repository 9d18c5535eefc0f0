"""What fewer bits cost: how well a model still foretells texts, and how far it is from what it was."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from omniform_bench import SECONDS, Kind, Scenario, at_least, tokens

LETTERS = 2400
"""Of a text."""


def texts() -> list[str]:
    """English that Python brings along: pieces of its language reference."""
    from pydoc_data.topics import topics

    long = [text for _, text in sorted(topics.items()) if len(text) > LETTERS + 100]
    return [text[at : at + LETTERS] for text in long for at in range(0, len(text) - LETTERS, LETTERS)]


@dataclass(frozen=True, kw_only=True)
class Quality(Scenario):
    """Perplexity of a model in fewer bits, and how far its next tokens are from the checkpoint's own.

    A contender's ``quantize`` is a target of ``omniform quantize``; without, it is the checkpoint itself. With the
    option ``nearest: BITS`` the matrices of its blocks are rounded to the nearest of GPTQ's own codes, and ``to:
    "gguf:TYPE"`` is a target too (as ``quantize`` it would make the checkpoint a GGUF file before it is compared with
    itself); other options are settings of the method.

    Attributes:
        learn: texts, for methods that learn from some.
        judge: texts that are foretold, of others.
        group_size: inputs that share a scale, of methods that learn.
        random: whether texts are random tokens, for a checkpoint without a tokenizer.
    """

    learn: int = 64
    judge: int = 10
    group_size: int = 128
    random: bool = False
    NEEDS: ClassVar = ("quantize",)
    GIVES: ClassVar = {
        "quality.perplexity": Kind("x"), "quality.divergence": Kind("nats"), "quality.agreement": Kind("%", "higher"),
        "weights.size": Kind("B"), "making.latency": SECONDS,
    }  # fmt: skip
    FRESH: ClassVar = True

    def check(self) -> None:
        """There are texts."""
        at_least(1, learn=self.learn, judge=self.judge, group_size=self.group_size)

    def begin(self, backend: Any, job: Any) -> Callable[[], dict[str, float]]:
        """Import, and read the texts."""
        backend.prepare()
        from omniform.export.quality import quality, scores_of, windows
        from omniform.hub.checkpoint import load_as_saved

        before = load_as_saved(job.model, dtype=job.backend["dtype"])
        learnt, judged = self.rows(backend, before)

        def sample() -> dict[str, float]:
            with tempfile.TemporaryDirectory() as folder:
                started = job.now()
                after, size = self.made(backend, job, learnt, Path(folder))
                spent = job.now() - started
                told = quality([*windows(judged)], scores_of(after), scores_of(before))
            return {
                "quality.perplexity": told.perplexity, "quality.divergence": max(told.divergence or 0.0, 0.0),
                "quality.agreement": 100 * (told.agreement or 0.0), "weights.size": float(size),
                "making.latency": spent,
            }  # fmt: skip

        return sample

    def rows(self, backend: Any, before: Any) -> tuple[list[list[int]], list[list[int]]]:
        """Tokens to learn from, and to judge by."""
        if self.random:
            vocabulary = int(before.config.get("vocab_size"))
            made = [tokens(f"text {place}", 32, vocabulary) for place in range(self.learn + self.judge)]
            return made[self.judge :], made[: self.judge]
        reader = backend.library.AutoTokenizer.from_pretrained(backend.job.model)
        pieces = texts()
        both = pieces[1::3][: self.learn], pieces[0::3][: self.judge]
        learnt, judged = ([[*map(int, reader(text)["input_ids"])] for text in some] for some in both)
        return learnt, judged

    def made(self, backend: Any, job: Any, learnt: Sequence[Sequence[int]], folder: Path) -> tuple[Any, int]:
        """The model that a contender is, as a user reads it again, and the bytes of its files."""
        from omniform.export.quantizing import settings_for
        from omniform.hub.checkpoint import load_as_saved

        options = dict(job.backend["options"])
        to, bits = options.pop("to", job.backend["quantize"]), int(options.pop("nearest", 0))
        if not to:
            model = load_as_saved(job.model, dtype=job.backend["dtype"])
            if bits:
                to_nearest(model, bits, self.group_size)
            return model, model.get_memory_footprint()
        place = folder / "made"
        if str(to).startswith("gguf:"):
            place = place.with_suffix(".gguf")
            load_as_saved(job.model, dtype=job.backend["dtype"]).save_gguf(place, type=str(to)[5:])
            return load_as_saved(place), place.stat().st_size
        learns = str(to).startswith("gptq")
        settings = settings_for(str(to), [], self.group_size if learns else None)
        if learns:
            settings.update(dataset=[list(row) for row in learnt])
        settings.update(**options)
        load_as_saved(job.model, dtype=job.backend["dtype"], quantization_config=settings).save_pretrained(place)
        return load_as_saved(place), sum(file.stat().st_size for file in place.glob("*.safetensors"))


def to_nearest(model: Any, bits: int, group: int) -> None:
    """Round every matrix of the blocks, on GPTQ's symmetric grid."""
    import torch

    from omniform.weights.formats.gptq import Gptq

    form = Gptq(bits, group)
    with torch.no_grad():
        for path, layer in model.named_modules():
            if isinstance(layer, torch.nn.Linear) and ".layers." in f".{path}":
                layer.weight.copy_(form.numbers(form.encoded(layer.weight), *layer.weight.shape))


@dataclass(frozen=True, kw_only=True)
class CacheQuality(Scenario):
    """What an engine's keys and values in few bits cost: a contender's ``engine: {cache_dtype: int8}`` says how they
    are kept, in the model's own dtype without it.

    Attributes:
        judge: stretches of text that are foretold.
        stretch: tokens of each.
        random: whether they are random tokens, for a checkpoint without a tokenizer.
    """

    judge: int = 8
    stretch: int = 512
    random: bool = False
    NEEDS: ClassVar = ("engine",)
    GIVES: ClassVar = {
        "quality.perplexity": Kind("x"), "quality.divergence": Kind("nats"), "quality.agreement": Kind("%", "higher"),
    }  # fmt: skip
    FRESH: ClassVar = True

    def check(self) -> None:
        """There is something to foretell."""
        at_least(2, stretch=self.stretch)
        at_least(1, judge=self.judge)

    def begin(self, backend: Any, job: Any) -> Callable[[], dict[str, float]]:
        """Load."""
        backend.prepare()
        backend.load("text-generation")
        rows = self.rows(backend)

        def sample() -> dict[str, float]:
            torch = backend.torch
            kept = backend.library.Engine(backend.model, memory="256MB")
            few = backend.library.Engine(backend.model, memory="256MB", **job.backend["engine"])
            lost, apart, same = [], [], []
            for row in rows:
                own, found = (scores(engine, row).log_softmax(-1) for engine in (kept, few))
                lost.append(-found.gather(1, torch.tensor(row[1:])[:, None])[:, 0])
                apart.append((own.exp() * (own - found)).sum(-1))
                same.append((own.argmax(-1) == found.argmax(-1)).float())
            loss, divergence, agreement = (float(torch.cat(some).mean()) for some in (lost, apart, same))
            return {"quality.perplexity": float(torch.tensor(loss).exp()), "quality.divergence": max(divergence, 0.0),
                    "quality.agreement": 100 * agreement}  # fmt: skip

        return sample

    def rows(self, backend: Any) -> list[list[int]]:
        """Stretches of tokens, one after another."""
        if self.random:
            return [tokens(f"text {place}", self.stretch, backend.vocabulary()) for place in range(self.judge)]
        reader = backend.library.AutoTokenizer.from_pretrained(backend.job.model)
        read = [token for text in texts() for token in map(int, reader(text)["input_ids"])]
        return [read[at : at + self.stretch] for at in range(0, self.judge * self.stretch, self.stretch)]


def scores(engine: Any, row: list[int]) -> Any:
    """What an engine says of what follows every token but the last. Shape: [len(row) - 1, V]."""
    import torch

    from omniform.engine.runner import Runner

    found: list[Any] = []
    run = Runner.run

    def watched(self: Any, *plan: Any, **how: Any) -> Any:
        made = run(self, *plan, **how)
        found.extend(output.project(output.hidden).float() for output in made[0])
        return made

    Runner.run = watched  # type: ignore[method-assign]
    try:
        with torch.inference_mode():
            engine.score([(row[:1], row[1:])])
    finally:
        Runner.run = run  # type: ignore[method-assign]
    return torch.cat(found)[: len(row) - 1]


@dataclass(frozen=True, kw_only=True)
class CacheSteps(Scenario):
    """Steps of an engine behind a prompt that is known already, keys and values kept as ``cache_dtype`` says.

    Attributes:
        prompt_tokens: that are known.
        new_tokens: a step each.
        memory: of the engine.
    """

    prompt_tokens: int = 200
    new_tokens: int = 24
    memory: str = "1GB"
    NEEDS: ClassVar = ("engine",)
    GIVES: ClassVar = {"per_token.latency": SECONDS}

    def check(self) -> None:
        """There are steps."""
        at_least(1, prompt_tokens=self.prompt_tokens)
        at_least(4, new_tokens=self.new_tokens)

    def begin(self, backend: Any, job: Any) -> Callable[[], dict[str, list[float]]]:
        """Load, and read the prompt."""
        backend.prepare()
        backend.load("text-generation")
        engine = backend.library.Engine(backend.model, memory=self.memory, **job.backend["engine"])
        prompt = tokens("prompt", self.prompt_tokens, backend.vocabulary())
        engine.generate(prompt, max_new_tokens=1)

        def sample() -> dict[str, list[float]]:
            marks = []
            for piece in engine.submit(prompt, max_new_tokens=self.new_tokens, do_sample=False):
                if piece.token is not None:
                    marks.append(job.now())
            # The first two steps read what the cache of prompts does not have.
            return {"per_token.latency": [b - a for a, b in itertools.pairwise(marks[2:])]}

        return sample
