"""Random requests, answered alone and in every company: greedy tokens must be equal, and the bits they come from."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

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
FEW = {"num_assistant_tokens": 3, "assistant_confidence_threshold": 0.0}


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


def requests(count: int, seed: int, vocabulary: int, longest: int = LONGEST) -> list[list[int]]:
    """Rows of text that often begin alike, and sometimes repeat themselves.

    Args:
        longest: beyond the usual length a row in four is drawn up to this one: past windows, blocks of keys and pages.
    """
    luck = random.Random(seed)

    def some(size: int) -> list[int]:
        return [luck.randrange(3, vocabulary - 1) for _ in range(size)]

    beginnings = [some(luck.choice((5, 16, 25))) for _ in range(1 + count // 12)]
    rows = []
    for _ in range(count):
        row = luck.choice(beginnings)[: luck.randrange(1, 26)] + some(luck.randrange(0, 9))
        rows.append((row * 2 if luck.random() < 0.25 else row)[:LONGEST])
        if longest > LONGEST and luck.random() < 0.25:
            rows[-1] = (rows[-1] * longest)[: luck.randrange(LONGEST, longest)] + some(1)
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
def vectors_watched(model: omniform.Model):
    """What the steps of a model's engines give for every token that is wanted, by all tokens up to it."""
    seen: dict[tuple[object, ...], set[bytes]] = {}
    run = Runner.run

    def watched(self, plan, *more, **options):
        made = run(self, plan, *more, **options)
        for output in made[0] if self._model is model else ():  # not what its first layers guess
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
    memory, most = 2048, 2**26
    while memory < most:
        try:
            engine = Engine(model, memory=memory, block_size=4)
            engine.generate_batch(list(prompts), list(settings))
        except InputError as error:
            assert error.where == "memory", error
        else:
            if engine.stats().preemptions:
                return engine
            most = min(most, 3 * memory)  # in the smallest of all, rows may have come one after the other
        memory = int(memory * 1.15)
    return None


def answered(model: omniform.Model, prompts: Sequence[object], seed: int = 0) -> Found:
    """Every request alone, and then in company, in pieces, after giving way, with known beginnings, with guesses."""
    with _asked(model, prompts, seed) as (found, settings, note):
        note("together", roomy(model, memory="64MB", prefix_cache=False))
        note("in pieces", roomy(model, memory="64MB", max_tokens_per_step=7, block_size=4))
        again = roomy(model, memory="64MB", max_tokens_per_step=33, block_size=8)
        note("beginnings", again)
        note("beginnings again", again)
        small = giving_way(model, prompts, settings)
        if small is not None:
            note("giving way", small)
        note("guesses", roomy(model, memory="64MB", max_tokens_per_step=64, block_size=4), LOOKUP)
    return found


def answered_otherwise(model: omniform.Model, prompts: Sequence[object], seed: int = 0) -> Found:
    """Every request alone, and then in the rarer ways: beside beams, drawn rows and other kinds of guesses, with an
    assistant, token by token, in other blocks, and by other threads."""
    luck = random.Random(seed)
    mixed = [luck.choice(({}, {}, LOOKUP, {**FEW, "assistant_early_exit": 1})) for _ in prompts]
    with _asked(model, prompts, seed) as (found, _, note):
        note("token by token", roomy(model, memory="64MB", max_tokens_per_step=1, block_size=1))
        note("large blocks", roomy(model, memory="64MB", max_tokens_per_step=128, block_size=64))
        note("no cache, in pieces", roomy(model, memory="64MB", max_tokens_per_step=13, prefix_cache=False))
        note("an assistant", roomy(model, memory="64MB", block_size=4), {**FEW, "assistant_model": model})
        beams = {"num_beams": 3, "max_new_tokens": 5}
        drawn = {"do_sample": True, "temperature": 1.2, "seed": 5, "max_new_tokens": 6}
        beside = [luck.choice((beams, drawn)) for _ in prompts[: len(prompts) // 2]]
        engine = roomy(model, memory="64MB", max_tokens_per_step=24, block_size=4)
        note("in mixed company", engine, mixed, beside)
        threads = torch.get_num_threads()
        torch.set_num_threads(3 - min(threads, 2))
        try:
            note("other threads", roomy(model, memory="64MB", max_tokens_per_step=40))
        finally:
            torch.set_num_threads(threads)
    return found


More = Mapping[str, object]


@contextmanager
def _asked(model, prompts, seed) -> Iterator[tuple[Found, list[dict[str, object]], Callable[..., None]]]:
    """Everybody alone first; what is noted then is compared in the end."""
    luck = random.Random(seed)
    found = Found()
    settings: list[dict[str, object]] = [{"max_new_tokens": luck.randrange(1, 8)} for _ in prompts]

    def note(way: str, engine: Engine, more: More | Sequence[More] = (), beside: Sequence[More] = ()) -> None:
        """The answers of an engine, with more settings for all or for each, beside others' requests."""
        each = [more] * len(prompts) if isinstance(more, Mapping) else more or [{}] * len(prompts)
        own = [{**one, **two} for one, two in zip(settings, each, strict=True)]
        others = list(prompts[: len(beside)])
        asked = list(zip([*others, *prompts], [*beside, *own], strict=True))
        order = list(range(len(asked)))
        if beside:
            random.Random(seed + 1).shuffle(order)
        done = engine.generate_batch([asked[at][0] for at in order], [dict(asked[at][1]) for at in order])
        by_place = dict(zip(order, done, strict=True))
        found.tokens[way] = [by_place[at].tokens for at in range(len(others), len(asked))]

    with vectors_watched(model) as seen:
        alone = roomy(model, memory="64MB", prefix_cache=False)
        found.tokens["alone"] = [
            alone.generate_batch([prompt], [own])[0].tokens for prompt, own in zip(prompts, settings, strict=True)
        ]
        yield found, settings, note
    expected = found.tokens["alone"]
    for way, tokens in found.tokens.items():
        wrong = sum(one != other for one, other in zip(tokens, expected, strict=True))
        if wrong:
            found.unequal[way] = wrong
    found.bits = sum(len(vectors) > 1 for vectors in seen.values())
    reasons = {lowered_reason(stack) for stack in model.modules() if isinstance(stack, LoweredLayers)}
    found.reasons = frozenset(reasons - {""})
