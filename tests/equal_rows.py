"""Random requests, answered alone and in every company: greedy tokens must be equal, and the bits they come from."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from engines import roomy
from omniform.core.errors import InputError
from omniform.engine.engine import Engine
from omniform.engine.runner import Runner
from omniform.transforms import pack, stacks
from omniform.transforms.lower import LoweredLayers, lowered_reason
from reference import omniform

FORMATS = ("float32", "bfloat16", "float16", "int8", "int4")
LONGEST = 30
LOOKUP = {"prompt_lookup_num_tokens": 4}


@dataclass
class Found:
    """What was found.

    Attributes:
        tokens: of every request, by way.
        unequal: the ways in which some request was answered otherwise than alone, each with how many were.
        bits: how many tokens had more than one vector.
        reasons: why stacks were computed by torch; empty where they were not.
    """

    tokens: dict[str, list[list[int]]] = field(default_factory=dict)
    unequal: dict[str, int] = field(default_factory=dict)
    bits: int = 0
    reasons: frozenset[str] = frozenset()


def requests(count: int, seed: int, vocabulary: int) -> list[list[int]]:
    """Rows of text that often begin alike, and sometimes repeat themselves."""
    luck = random.Random(seed)

    def some(size: int) -> list[int]:
        return [luck.randrange(3, vocabulary - 1) for _ in range(size)]

    beginnings = [some(luck.choice((5, 16, 25))) for _ in range(1 + count // 12)]
    rows = []
    for _ in range(count):
        row = luck.choice(beginnings)[: luck.randrange(1, 26)] + some(luck.randrange(0, 9))
        rows.append((row * 2 if luck.random() < 0.25 else row)[:LONGEST])
    return rows


@contextmanager
def narrow_matrices_too():
    """Kernels and whole numbers for the matrices of tiny models as well."""
    held = pack.LEAST, stacks.LEAST
    pack.LEAST = stacks.LEAST = 8
    try:
        yield
    finally:
        pack.LEAST, stacks.LEAST = held


@contextmanager
def vectors_watched():
    """What the steps of engines give for every token that is wanted, by all tokens up to it."""
    seen: dict[tuple[object, ...], set[bytes]] = {}
    run = Runner.run

    def watched(self, plan, *more, **options):
        made = run(self, plan, *more, **options)
        for output in made[0]:
            row, item = output.chunk.row, repr(output.chunk.request.memory)
            for place, vector in enumerate(output.hidden, output.first):
                seen.setdefault((item, *row.tokens[: place + 1]), set()).add(vector.float().numpy().tobytes())
        return made

    Runner.run = watched
    try:
        yield seen
    finally:
        Runner.run = run


def giving_way(
    model: omniform.Model, prompts: Sequence[object], settings: Sequence[dict[str, object]]
) -> Engine | None:
    """A small engine in which somebody has to give way; None where none was found."""
    memory = 2048
    while memory < 2**26:
        try:
            engine = Engine(model, memory=memory, block_size=4)
            engine.generate_batch(list(prompts), list(settings))
        except InputError as error:
            assert error.where == "memory", error
        else:
            return engine if engine.stats().preemptions else None
        memory = int(memory * 1.15)
    return None


def answered(model: omniform.Model, prompts: Sequence[object], seed: int = 0) -> Found:
    """Every request alone, and then in company, in pieces, after giving way, with known beginnings, with guesses."""
    luck = random.Random(seed)
    found = Found()
    settings: list[dict[str, object]] = [{"max_new_tokens": luck.randrange(1, 8)} for _ in prompts]

    def note(way: str, engine: Engine, more: dict[str, object] | None = None) -> None:
        own = [{**one, **(more or {})} for one in settings]
        found.tokens[way] = [done.tokens for done in engine.generate_batch(list(prompts), own)]

    with vectors_watched() as seen:
        alone = roomy(model, memory="64MB", prefix_cache=False)
        found.tokens["alone"] = [
            alone.generate_batch([prompt], [own])[0].tokens for prompt, own in zip(prompts, settings, strict=True)
        ]
        note("together", roomy(model, memory="64MB", prefix_cache=False))
        note("in pieces", roomy(model, memory="64MB", max_tokens_per_step=7, block_size=4))
        again = roomy(model, memory="64MB", max_tokens_per_step=33, block_size=8)
        note("beginnings", again)
        note("beginnings again", again)
        small = giving_way(model, prompts, settings)
        if small is not None:
            note("giving way", small)
        note("guesses", roomy(model, memory="64MB", max_tokens_per_step=64, block_size=4), LOOKUP)
    expected = found.tokens["alone"]
    for way, tokens in found.tokens.items():
        wrong = sum(one != other for one, other in zip(tokens, expected, strict=True))
        if wrong:
            found.unequal[way] = wrong
    found.bits = sum(len(vectors) > 1 for vectors in seen.values())
    reasons = {lowered_reason(stack) for stack in model.modules() if isinstance(stack, LoweredLayers)}
    found.reasons = frozenset(reasons - {""})
    return found
