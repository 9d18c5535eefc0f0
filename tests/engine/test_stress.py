"""A hundred requests and more of every kind, in engines with hardly any room: each answer is that of its row alone."""

from __future__ import annotations

import random
import threading
from functools import cache

import pytest

from checkpoints import tokenizer
from engines import IMAGE, Family, family, idle, roomy
from omniform.core.errors import InputError
from omniform.engine.calls import read_call

REQUESTS = 120
KINDS = 30
"""So many different requests; the rest are the same again, at other times and with other neighbours."""


def some_request(f: Family, chance: random.Random) -> tuple[object, dict[str, object]]:
    stems = [[7, 9, 11, 13, 15, 17, 19, 21], [7, 9, 11, 13, 30], [40, 41, 42] * 6]
    tail = [chance.randrange(3, IMAGE) for _ in range(chance.choice((0, 1, 2, 5, 11)))]
    tokens = [*chance.choice(stems), *tail] if chance.random() < 0.7 else [*tail, chance.randrange(3, IMAGE)]
    settings: dict[str, object] = {"max_new_tokens": chance.randint(1, 16)}
    match chance.randrange(6):
        case 0:
            settings |= {"do_sample": True, "seed": chance.randrange(9), "temperature": 2.0}
        case 1:
            settings |= {"do_sample": True, "seed": chance.randrange(9), "num_return_sequences": 2}
        case 2:
            settings |= {"num_beams": 2, "length_penalty": chance.choice((0.0, 1.0))}
        case 3:
            settings |= {"stop_strings": [chance.choice(("a", "Z", "0", "=", "xx"))], "no_repeat_ngram_size": 1}
        case 4:
            settings |= {"no_repeat_ngram_size": 1, "eos_token_id": [chance.randrange(3, IMAGE) for _ in range(5)]}
    return f.prompt(tokens, chance.randrange(4)), settings


@cache
def reader() -> object:
    return tokenizer()


class Sink:
    """Notes the end."""

    def __init__(self) -> None:
        self.ends: list[tuple[object, BaseException | None]] = []

    def piece(self, row, token, logprob) -> None:
        pass

    def end(self, completion, error) -> None:
        self.ends.append((completion, error))


def ask(engine, kind, sink, priority=0):
    prompt, settings = kind
    call = read_call(engine.model, None, prompt, settings)
    return engine.enqueue(call.prompt, call.settings, sink, priority=priority, tokenizer=reader())


@cache
def alone(name: str, seed: int) -> tuple[list, list]:
    """Requests, and what each of them is answered in a fresh engine with plenty of room."""
    f, chance = family(name), random.Random(seed)
    kinds = [some_request(f, chance) for _ in range(KINDS)]
    answers = []
    for kind in kinds:
        engine, sink = roomy(f.ours, memory="2MB"), Sink()
        ask(engine, kind, sink)
        while engine.step():
            pass
        assert sink.ends[0][1] is None, sink.ends
        answers.append([s.tokens for s in sink.ends[0][0].sequences])
    return kinds, answers


def smallest(f: Family, kinds: list, **options: object) -> int:
    """Bytes with which every request can be answered, hardly more."""
    memory = 4096
    while True:
        try:
            engine = roomy(f.ours, memory=memory, **options)
            for kind in kinds:
                sink = Sink()
                ask(engine, kind, sink)
                while engine.step():
                    pass
                if sink.ends[0][1] is not None:
                    raise sink.ends[0][1]
            return memory
        except InputError as error:
            assert error.where == "memory", error
            memory = int(memory * 1.1)


def compare(sinks: list, cancelled: set, chosen: list, kinds: list, answers: list) -> None:
    """Fail unless every request has ended once, with its answer or, where it was given up, with a part of it."""
    for number, (sink, kind) in enumerate(zip(sinks, chosen, strict=True)):
        ((completion, error),) = sink.ends
        assert error is None, error
        found = [s.tokens for s in completion.sequences]
        if "cancelled" not in {s.finish_reason for s in completion.sequences}:
            assert found == answers[kind], number
            continue
        assert number in cancelled
        if "num_beams" not in kinds[kind][1]:
            for part, whole in zip(found, answers[kind], strict=False):
                assert part == whole[: len(part)], number


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "seed"),
    [("llama", 0), ("llama", 10), ("llama dynamic", 2), ("mistral", 3), ("mistral mixed", 4), ("t5", 5), ("whisper", 6),
     ("llava", 7), ("llava", 8)],
)  # fmt: skip
def test_many_requests(name, seed):
    f, (kinds, answers) = family(name), alone(name, seed)
    chance = random.Random(100 + seed)
    options = {"block_size": chance.choice((1, 2, 4)), "max_tokens_per_step": chance.choice((3, 8, 40))}
    memory = smallest(f, kinds, **options)
    engine = roomy(f.ours, memory=memory, **options)
    total = engine.stats().blocks_total
    chosen = [chance.randrange(KINDS) for _ in range(REQUESTS)]
    sinks, cancelled, requests = [Sink() for _ in chosen], set(), []
    for kind, sink in zip(chosen, sinks, strict=True):
        requests.append(ask(engine, kinds[kind], sink, priority=chance.choice((0, 0, 0, 1, 2))))
        for _ in range(chance.choice((0, 0, 0, 1))):
            engine.step()
        if chance.random() < 0.15:
            victim = chance.randrange(len(requests))
            requests[victim].cancelled = True
            cancelled.add(victim)
    steps = 0
    while engine.step():
        steps += 1
        assert steps < 50_000, "the engine goes round in circles"
        if steps % 40 == 0:
            victim = chance.randrange(REQUESTS)
            requests[victim].cancelled = True
            cancelled.add(victim)
    compare(sinks, cancelled, chosen, kinds, answers)
    assert engine.stats().preemptions > 0
    idle(engine, total)


@pytest.mark.slow
def test_many_requests_from_threads():
    """The same through handles, with the thread in the background."""
    f, (kinds, answers) = family("llama"), alone("llama", 0)
    plain = [i for i, (_, settings) in enumerate(kinds) if "stop_strings" not in settings]
    engine = roomy(f.ours, memory=smallest(f, kinds, block_size=2), block_size=2)
    wrong: list[object] = []

    def work(number: int) -> None:
        chance = random.Random(number)
        for _ in range(REQUESTS // 8):
            kind = chance.choice(plain)
            prompt, settings = kinds[kind]
            handle = engine.submit(prompt, priority=chance.randrange(2), **settings)
            if chance.random() < 0.2:
                handle.cancel()
                handle.result(60)
            elif [s.tokens for s in handle.result(60).sequences] != answers[kind]:
                wrong.append((number, kind))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    assert not wrong
    engine.close()
    idle(engine)
