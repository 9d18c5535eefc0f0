"""The engine's contract: a row's tokens are the same alone, in company, in pieces, after giving way, with a known
beginning, and as the reference's; for every family, and for draws with a seed as well."""

from __future__ import annotations

import random

import pytest
import torch

from engines import IMAGE, MAKERS, NEW, Family, family, idle, picture, roomy, sound, tight
from omniform.core.errors import InputError
from reference import ragged

BACKENDS = ("sdpa", "eager")
STEPS = (1, 2, 3, 5, 7, 16, 512)
SIZES = (1, 2, 3, 4, 16)
# No token twice, so that an answer is a whole ranking and a small mistake changes it.
RULES = ({"min_new_tokens": 6}, {"no_repeat_ngram_size": 1}, {"repetition_penalty": 1.5, "min_new_tokens": 3})
SAMPLED = ({"temperature": 2.0, "top_k": 0}, {"top_k": 12, "temperature": 1.5}, {"top_p": 0.9, "min_p": 0.01})


def rows(kind: str) -> list[list[int]]:
    """Tokens of six prompts; three of them begin alike, one of these is two whole blocks of 16."""
    long, other, short = (r.tolist() for r in ragged(IMAGE, [32, 29, 5], seed=7))
    return [other, long, long[:16] + short, short, [short[0]], long[:21]]


def cases(f: Family, *, sampled: bool = False) -> list[tuple[object, dict[str, object]]]:
    """Prompts, each with settings of its own."""
    found = []
    for i, tokens in enumerate(rows(f.kind)):
        settings = {"max_new_tokens": NEW - i % 3, **RULES[i % 3]}
        if sampled:
            settings |= {"do_sample": True, "seed": 5 + i, **SAMPLED[i // 2]}
        # The rows that begin alike have the same picture, or the fourth has another.
        found.append((f.prompt(tokens, item=i if i in (0, 3) else 1), settings))
    return found


def answers(engine, some):
    """The tokens of a batch."""
    prompts, settings = [prompt for prompt, _ in some], [own for _, own in some]
    return [c.tokens for c in engine.generate_batch(prompts, settings)]


@pytest.fixture(params=[(n, b) for n in MAKERS for b in BACKENDS], ids=lambda p: f"{p[0]}, {p[1]}")
def some_family(request):
    return family(*request.param)


def wanted(f: Family, *, sampled: bool = False) -> list[list[int]]:
    """The reference's answers; for draws ours, each row alone in an engine of its own."""
    some = cases(f, sampled=sampled)
    if not sampled:
        return [f.expected(prompt, **settings) for prompt, settings in some]
    return [answers(roomy(f.ours, prefix_cache=False), [case])[0] for case in some]


def test_encoders_read_for_several_requests_at_once(monkeypatch):
    f = family("llava")
    calls: list[int] = []
    encode = type(f.ours).encode_items
    monkeypatch.setattr(
        type(f.ours), "encode_items", lambda self, items: calls.append(len(items)) or encode(self, items)
    )
    engine = roomy(f.ours)
    prompts = [f.prompt(rows("picture")[1], item=number) for number in (1, 2, 1, 3)]
    found = engine.generate_batch(prompts, max_new_tokens=NEW, **RULES[1])
    assert [c.tokens for c in found] == [f.expected(p, **RULES[1]) for p in prompts]
    assert calls == [3]
    assert engine.stats().encoder_runs == 3 and engine.stats().encoder_hits == 1
    idle(engine)


def test_what_cannot_be_encoded_together_is_told_to_whom_it_belongs(monkeypatch):
    f = family("llava")
    encode, spoilt = type(f.ours).encode_items, picture(2)

    def fails(self, items):
        if any(torch.equal(item.inputs["pixel_values"], spoilt) for item in items):
            raise InputError("spoilt", where="pixel_values")
        return encode(self, items)

    monkeypatch.setattr(type(f.ours), "encode_items", fails)
    engine = roomy(f.ours)
    prompts = [f.prompt(rows("picture")[1], item=number) for number in (1, 2, 3)]
    handles = [engine.submit(prompt, max_new_tokens=NEW, **RULES[1]) for prompt in prompts]
    with pytest.raises(InputError, match="spoilt"):
        handles[1].result()
    for number in (0, 2):
        assert handles[number].result().tokens == f.expected(prompts[number], **RULES[1])
    idle(engine)


@pytest.mark.slow
def test_answers_are_worth_comparing(some_family):
    found = wanted(some_family)
    assert len({*map(tuple, found)}) >= len(found) - 1
    assert sum(len(set(tokens)) for tokens in found) > 4 * len(found)


def test_alone(some_family):
    f = some_family
    engine = roomy(f.ours)
    assert [answers(engine, [case])[0] for case in cases(f)] == wanted(f)
    idle(engine)


@pytest.mark.slow
def test_in_company_with_other_settings(some_family):
    f = some_family
    engine = roomy(f.ours)
    greedy, drawn = cases(f), cases(f, sampled=True)
    mixed = [case for pair in zip(greedy, drawn, strict=True) for case in pair]
    found = answers(engine, mixed)
    assert found[::2] == wanted(f)
    assert found[1::2] == wanted(f, sampled=True)
    order = random.Random(3).sample(range(len(mixed)), len(mixed))
    again = answers(roomy(f.ours, prefix_cache=False), [mixed[i] for i in order])
    assert again == [found[i] for i in order]
    idle(engine)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(STEPS)))
@pytest.mark.parametrize("name", MAKERS)
def test_in_pieces(name, number):
    f = family(name, BACKENDS[number % 2])
    engine = roomy(f.ours, max_tokens_per_step=STEPS[number], block_size=SIZES[(number * 2 + 1) % len(SIZES)])
    assert answers(engine, cases(f)) == wanted(f)
    idle(engine)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mistral mixed", "t5"])
def test_in_all_pieces(name):
    f = family(name)
    both = wanted(f) + wanted(f, sampled=True)
    for step in STEPS:
        for size in SIZES:
            engine = roomy(f.ours, max_tokens_per_step=step, block_size=size)
            assert answers(engine, cases(f) + cases(f, sampled=True)) == both, (step, size)
            idle(engine)


@pytest.mark.slow
@pytest.mark.parametrize(("step", "size", "prefix_cache"), [(512, 4, True), (5, 2, False)])
def test_after_giving_way(some_family, step, size, prefix_cache):
    f = some_family
    some = cases(f) + cases(f, sampled=True)[:3]
    settings = [own for _, own in some]
    options = {"max_tokens_per_step": step, "block_size": size, "prefix_cache": prefix_cache}
    engine, found = tight(f.ours, [prompt for prompt, _ in some], settings, **options)
    assert [c.tokens for c in found] == wanted(f) + wanted(f, sampled=True)[:3]
    assert engine.stats().preemptions > 0
    idle(engine)


@pytest.mark.parametrize(("size", "together"), [(1, True), (4, False), (16, True)])
def test_with_a_known_beginning(some_family, size, together):
    f = some_family
    engine = roomy(f.ours, block_size=size)
    prompt, settings = cases(f)[1]
    others = [(prompt, {**settings, "repetition_penalty": 1.2}), cases(f)[2], cases(f)[5]]
    batches = [[(prompt, settings), *others]] if together else [[case] for case in [(prompt, settings), *others]]
    found = [c for batch in batches for c in engine.generate_batch([p for p, _ in batch], [s for _, s in batch])]
    assert [c.tokens for c in found] == [f.expected(p, **s) for p, s in [(prompt, settings), *others]]
    assert found[0].cached_tokens == 0
    # With dynamic scaling, the keys of a prompt beyond the trained length depend on the length.
    if "dynamic" in f.name:
        assert found[1].cached_tokens > 0 and found[2].cached_tokens == 0
    else:
        assert all(c.cached_tokens >= 16 for c in found[1:])
    assert engine.stats().tokens_cached == sum(c.cached_tokens for c in found)
    idle(engine)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "length"), [(1, 15), (4, 16), (16, 16), (16, 17), (4, 32)])
def test_the_same_prompt_again(some_family, size, length):
    """Prompts of whole blocks too, of which the last token is computed all the same."""
    f = some_family
    engine = roomy(f.ours, block_size=size)
    prompt = f.prompt(rows(f.kind)[1][:length], item=2)
    expected = f.expected(prompt, **RULES[1])
    for turn in range(3):
        found = engine.generate(prompt, max_new_tokens=NEW, **RULES[1])
        assert found.tokens == expected
        opening = found.prompt_tokens
        assert found.cached_tokens == (0 if turn == 0 else (opening - 1) // size * size)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "step"), [(1, 512), (3, 3), (4, 512)])
def test_turns_of_a_conversation(some_family, size, step):
    """An answer is the beginning of the next prompt, and its keys are known as well."""
    f = some_family
    engine = roomy(f.ours, block_size=size, max_tokens_per_step=step)
    prompt, known = f.prompt(rows(f.kind)[3], item=4), 0
    for turn in range(4):
        found = engine.generate(prompt, max_new_tokens=NEW, **RULES[1])
        assert found.tokens == f.expected(prompt, **RULES[1])
        # Keys that were made before a prompt passed the trained length are of no use after it.
        if not ("dynamic" in f.name or "longrope" in f.name):
            assert found.cached_tokens == known, "of an answer, all but the last token was taken over"
        known = (found.prompt_tokens + len(found.tokens) - 1) // size * size
        prompt = f.continued(prompt, [*found.tokens, 7 + turn])
    idle(engine)


@pytest.mark.parametrize("name", ["llama", "mistral", "mistral mixed", "gpt2", "bert", "llama yarn"])
def test_a_plain_forward_says_the_same(name):
    f = family(name)
    for (prompt, settings), tokens in zip(cases(f), wanted(f), strict=True):
        inputs = {"input_ids": torch.tensor([prompt])} if isinstance(prompt, list) else dict(prompt)
        if settings.get("repetition_penalty") or settings.get("no_repeat_ngram_size"):
            continue
        before = inputs["input_ids"].shape[1]
        inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([tokens])], 1)
        with torch.no_grad():
            best = f.ours(**inputs).logits[0, before - 1 : -1].argmax(-1).tolist()
        least = settings.get("min_new_tokens", 0)
        assert best[least:] == tokens[least:]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "mistral mixed", "t5", "whisper", "llava"])
def test_several_answers_and_beams_in_every_arrangement(name):
    f = family(name)
    (first, _), (second, _), (third, _) = cases(f)[0], cases(f)[1], cases(f)[2]
    some = [
        (first, {"do_sample": True, "num_return_sequences": 3, "seed": 3, "temperature": 2.0, "max_new_tokens": 9}),
        (second, {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 9}),
        (third, {"num_beams": 2, "max_new_tokens": 7, "length_penalty": 2.0, "do_sample": True, "seed": 1}),
        (third, {"max_new_tokens": 9}),
        (first, {"num_beams": 3, "max_new_tokens": 9, "no_repeat_ngram_size": 1}),
        (second, {"do_sample": True, "num_return_sequences": 2, "seed": 4, "temperature": 2.0, "max_new_tokens": 9}),
    ]

    def all_of(found):
        return [[s.tokens for s in c.sequences] for c in found]

    prompts, settings = [p for p, _ in some], [s for _, s in some]
    alone = [all_of([roomy(f.ours).generate(p, **s)])[0] for p, s in some]
    assert [len(a) for a in alone] == [3, 2, 1, 1, 1, 2] and len({*map(tuple, alone[0])}) == 3
    preemptions = 0
    for step, size in ((512, 16), (3, 1), (3, 4), (4, 3), (7, 2)):
        engine = roomy(f.ours, max_tokens_per_step=step, block_size=size)
        assert all_of(engine.generate_batch(prompts, settings)) == alone, (step, size)
        assert all_of(engine.generate_batch(prompts, settings)) == alone, "with known beginnings"
        idle(engine)
        engine, found = tight(f.ours, prompts, settings, preempts=False, max_tokens_per_step=step, block_size=size)
        assert all_of(found) == alone, (step, size)
        preemptions += engine.stats().preemptions
        idle(engine)
    assert preemptions


# -- what encoders made -----------------------------------------------------------------------------------------------


def test_the_same_text_about_another_picture_is_not_known():
    f = family("llava")
    engine = roomy(f.ours, block_size=4)
    tokens = rows("picture")[1]
    for number in (1, 2, 1, 2):
        prompt = f.prompt(tokens, item=number)
        found = engine.generate(prompt, max_new_tokens=NEW, **RULES[1])
        assert found.tokens == f.expected(prompt, **RULES[1])
    assert f.expected(f.prompt(tokens, 1), **RULES[1]) != f.expected(f.prompt(tokens, 2), **RULES[1])
    assert engine.stats().encoder_runs == 2 and engine.stats().encoder_hits == 2


@pytest.mark.parametrize("size", [1, 2, 3, 4, 16])
def test_what_stands_before_another_picture_is_known(size):
    f = family("llava")
    engine = roomy(f.ours, block_size=size)
    before, after = rows("picture")[0], rows("picture")[3]
    ids = torch.tensor([[*before, *[IMAGE] * 4, *after, *[IMAGE] * 4, *after]])
    for pair in ((1, 2), (1, 3), (3, 1), (1, 2)):
        prompt = {"input_ids": ids, "pixel_values": torch.cat([picture(n) for n in pair])}
        found = engine.generate(prompt, max_new_tokens=NEW, **RULES[1])
        assert found.tokens == f.expected(prompt, **RULES[1])
        known = {(1, 2): 0, (1, 3): len(before) + 4 + len(after), (3, 1): len(before)}[pair]
        if engine.stats().encoder_runs == 3 and pair == (1, 2):
            known = ids.shape[1] - 1
        assert found.cached_tokens == known // size * size
    assert engine.stats().encoder_runs == 3


@pytest.mark.parametrize("name", ["llava", "whisper", "t5"])
def test_an_encoder_runs_once(name):
    """For two requests at once, and not for the turns after the first."""
    f = family(name)
    one, other = rows(f.kind)[1][:8], rows(f.kind)[0][:9]
    settings = {"max_new_tokens": 6, "no_repeat_ngram_size": 1, "suppress_tokens": [IMAGE]}
    engine = roomy(f.ours)
    prompts = [f.prompt(tokens, item=1) for tokens in (one, other, one)]
    found = engine.generate_batch(prompts, **settings)
    assert [c.tokens for c in found] == [f.expected(p, **settings) for p in prompts]
    assert engine.stats().encoder_runs == 1
    prompt = prompts[0]
    for turn in range(3):
        prompt = f.continued(prompt, [*found[0].tokens, 9])
        found = [engine.generate(prompt, **settings)]
        assert found[0].tokens == f.expected(prompt, **settings)
        assert engine.stats().encoder_runs == 1 and engine.stats().encoder_hits == 3 + turn
    idle(engine)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llava", "whisper", "t5"])
def test_what_was_thrown_out_is_made_again(name):
    f = family(name)
    prompts = [f.prompt(rows(f.kind)[3], item=n) for n in range(16)]
    settings = {"max_new_tokens": 4, **RULES[1]}
    engine, found = tight(f.ours, prompts, [settings] * 16, preempts=False, block_size=4)
    assert [c.tokens for c in found] == [f.expected(p, **settings) for p in prompts]
    total, runs = engine.stats().blocks_total, engine.stats().encoder_runs
    for prompt in prompts:
        assert engine.generate(prompt, **settings).tokens == f.expected(prompt, **settings)
    assert engine.stats().encoder_runs >= runs + 8, "the budget has no room for all of them"
    idle(engine, total)


def test_encoders_run_no_oftener_than_needed_while_there_is_no_room():
    """Whoever waits for room does not encode anew in every step."""
    for name in ("llava", "whisper", "t5"):
        f = family(name)
        prompts = [f.prompt(rows(f.kind)[3], item=n) for n in range(2, 8)]
        settings = [{"max_new_tokens": 20, "no_repeat_ngram_size": 1}] * len(prompts)
        engine, found = tight(f.ours, prompts, settings, preempts=False, block_size=4)
        assert [c.tokens for c in found] == [f.expected(p, **s) for p, s in zip(prompts, settings, strict=True)]
        assert engine.stats().encoder_runs <= 2 * len(prompts), name


def test_whisper_chooses_its_opening_once_per_sound():
    f = family("whisper")
    engine = roomy(f.ours)
    found = engine.generate_batch([{"input_features": sound(n)} for n in (1, 2, 1)], max_new_tokens=8)
    alone = [roomy(f.ours).generate({"input_features": sound(n)}, max_new_tokens=8) for n in (1, 2)]
    assert [c.tokens for c in found] == [alone[0].tokens, alone[1].tokens, alone[0].tokens]
    assert engine.stats().encoder_runs == 2


# -- who comes first --------------------------------------------------------------------------------------------------


def order_of_ends(engine, requests):
    """Submit everything, step by hand, and note who ends when."""
    from omniform.engine.calls import read_call

    ends: list[str] = []

    class Sink:
        def __init__(self, name):
            self.name, self.tokens = name, []

        def piece(self, row, token, logprob):
            self.tokens.append(token)

        def end(self, completion, error):
            assert error is None, error
            ends.append(self.name)

    sinks = {}
    for name, prompt, priority, settings, steps in requests:
        call = read_call(engine.model, None, prompt, settings)
        sinks[name] = Sink(name)
        engine.enqueue(call.prompt, call.settings, sinks[name], priority=priority)
        for _ in range(steps):
            engine.step()
    while engine.step():
        pass
    return ends, {name: sink.tokens for name, sink in sinks.items()}


@pytest.mark.parametrize("name", ["llama", "mistral mixed", "t5", "llava"])
@pytest.mark.parametrize("step", [512, 4])
def test_a_later_urgent_request_overtakes(name, step):
    f = family(name)
    tokens = rows(f.kind)
    settings = {"max_new_tokens": 12, "min_new_tokens": 12, "no_repeat_ngram_size": 1}
    short = {"max_new_tokens": 4, "min_new_tokens": 4, "no_repeat_ngram_size": 1}
    prompts = {"a": f.prompt(tokens[0], 2), "b": f.prompt(tokens[1], 3), "urgent": f.prompt(tokens[2], 4)}
    memory = 1024
    while True:  # room for one of them
        try:
            engine = roomy(f.ours, memory=memory, block_size=4, max_tokens_per_step=step)
            ends, found = order_of_ends(
                engine,
                [
                    ("a", prompts["a"], 0, settings, 3),
                    ("b", prompts["b"], 0, settings, 2),
                    ("urgent", prompts["urgent"], 1, short, 0),
                ],
            )
            break
        except Exception as error:
            assert getattr(error, "where", "memory") == "memory", error
            memory = int(memory * 1.2)
    assert ends == ["urgent", "a", "b"]
    # A row whose layers mostly keep a window has its room from the beginning.
    assert engine.stats().preemptions > 0 or name == "mistral mixed"
    for key, own in (("a", settings), ("b", settings), ("urgent", short)):
        assert found[key] == f.expected(prompts[key], **own)
    idle(engine)


def test_who_gave_way_does_not_keep_the_encoders_room():
    """The features of one picture fit: those of a request that waits make way for an urgent one's."""
    f = family("llava")
    engine = roomy(f.ours, memory=3900, block_size=1, max_tokens_per_step=2)
    requests = [
        ("waits", f.prompt([11], 1), 0, {"max_new_tokens": 1}, 2),
        ("urgent text", [5, 6], 1, {"max_new_tokens": 3, "min_new_tokens": 3}, 1),
        ("urgent picture", f.prompt([12], 2), 1, {"max_new_tokens": 1}, 0),
    ]
    ends, found = order_of_ends(engine, requests)
    assert ends == ["urgent text", "urgent picture", "waits"] and engine.stats().preemptions > 0
    for name, prompt, _, settings, _ in requests:
        assert found[name] == f.expected(prompt, **settings)
    idle(engine)


def test_the_large_are_not_starved_by_the_small():
    """A stream of small requests of the same priority does not keep a large one waiting for ever."""
    f = family("llama")
    engine = roomy(f.ours, memory=2 * 2 * 8 * 2 * 4 * 48, block_size=4)
    small = [
        ("small" + str(i), f.prompt([5 + i, 7]), 0, {"max_new_tokens": 6, "min_new_tokens": 6}, 1) for i in range(40)
    ]
    large = ("large", f.prompt(rows("text")[1]), 0, {"max_new_tokens": 12, "min_new_tokens": 12}, 1)
    ends, found = order_of_ends(engine, [*small[:5], large, *small[5:]])
    assert ends.index("large") < 25
    assert found["large"] == f.expected(large[1], max_new_tokens=12, min_new_tokens=12)


@pytest.mark.slow
def test_random_prompts_share_random_beginnings():
    """Many prompts that begin alike in all ways, in random engines, one after another and at once."""
    chance = random.Random(11)
    for name in ("llama", "llama longrope", "llama dynamic", "mistral", "mistral mixed", "t5", "llava"):
        f = family(name)
        stems = [[chance.randrange(3, IMAGE) for _ in range(chance.choice((4, 8, 9, 16)))] for _ in range(3)]
        for _ in range(3):
            size, step = chance.choice(SIZES), chance.choice(STEPS)
            engine = roomy(f.ours, block_size=size, max_tokens_per_step=step)
            for _ in range(3):
                some = []
                for _ in range(4):
                    tokens = [*chance.choice(stems), *chance.choice(stems)][: chance.randrange(5, 30)]
                    some.append(
                        (f.prompt(tokens, chance.randrange(2)), {"max_new_tokens": 5, "no_repeat_ngram_size": 1})
                    )
                assert answers(engine, some) == [f.expected(p, **s) for p, s in some], (name, size, step)
            idle(engine)
