"""What goes wrong for one request stays with it: the others get their answers, and every block comes back."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading
import time

import pytest
import torch

from checkpoints import text_checkpoint
from engines import IMAGE, family, idle, roomy, sound
from omniform.core.errors import InputError, OmniformError, UnknownArgumentError
from omniform.engine import beam_strategy, writer
from omniform.engine import engine as engine_module
from omniform.engine.calls import read_call
from reference import ragged

FAMILIES = ("llama", "mistral mixed", "t5", "llava")
SETTINGS = {"max_new_tokens": 8, "no_repeat_ngram_size": 1}
BAD = 59
"""A token that no other prompt holds, and no other answer."""


def prompts(f, count=4, seed=1):
    return [
        f.prompt(r.tolist(), item=i) for i, r in enumerate(ragged(BAD, [5 + 7 * i % 17 for i in range(count)], seed))
    ]


def asked(**settings):
    return {**SETTINGS, "suppress_tokens": [BAD], **settings}


def expected(f, some, **settings):
    return [f.expected(p, **asked(**settings)) for p in some]


def wait_idle(engine, total=None):
    """Cancellations are seen by the next step."""
    until = time.monotonic() + 20
    while time.monotonic() < until and (engine.stats().waiting or engine.stats().running or engine.stats().blocks_used):
        time.sleep(0.002)
    idle(engine, total)


class Sink:
    """Notes what comes, and every end."""

    def __init__(self, on_piece=None, on_end=None):
        self.tokens, self.ends = [], []
        self.on_piece, self.on_end = on_piece, on_end

    def piece(self, row, token, logprob):
        if self.on_piece:
            self.on_piece(row, token)
        self.tokens.append(token)

    def end(self, completion, error):
        self.ends.append((completion, error))
        if self.on_end:
            self.on_end()


def enqueue(engine, prompt, sink, **settings):
    call = read_call(engine.model, None, prompt, settings)
    return engine.enqueue(call.prompt, call.settings, sink)


def drain(engine):
    for _ in range(5000):
        if not engine.step():
            return
    raise AssertionError("the engine goes round in circles")


@pytest.fixture(params=FAMILIES)
def f(request):
    return family(request.param)


# -- requests that cannot be ------------------------------------------------------------------------------------------


def test_a_request_that_cannot_fit(f):
    engine = roomy(f.ours, memory=60_000, block_size=4)
    total = engine.stats().blocks_total
    fine = prompts(f)
    handles = [engine.submit(p, **asked()) for p in fine]
    with pytest.raises(InputError, match="memory") as caught:
        big = f.prompt(ragged(BAD, [30])[0].tolist(), item=9)
        engine.submit(big, max_new_tokens=60, num_return_sequences=12, do_sample=True).result(20)
    assert caught.value.expected and caught.value.found
    assert [h.result(20).tokens for h in handles] == expected(f, fine)
    wait_idle(engine, total)


@pytest.mark.parametrize(
    ("prompt", "settings", "error"),
    [
        ([], {}, InputError),
        ([-1, 4], {}, InputError),
        ([4, 4000], {}, InputError),
        ([4, "x"], {}, InputError),
        ([1.5, 2.5], {}, InputError),
        (None, {}, InputError),
        (7, {}, InputError),
        ("a text without a tokenizer", {}, InputError),
        ([{"role": "user", "content": "hello"}], {}, InputError),
        (torch.zeros(2, 3, dtype=torch.long), {}, InputError),
        (torch.zeros(3), {}, InputError),
        ({"input_ids": torch.zeros(2, 3, dtype=torch.long)}, {}, InputError),
        ({}, {}, InputError),
        ({"pixel_values": torch.zeros(1, 3, 16, 16)}, {}, InputError),
        ([5] * 97, {}, InputError),
        ([5], {"max_new_token": 3}, UnknownArgumentError),
        ([5], {"max_new_tokens": 0}, InputError),
        ([5], {"max_new_tokens": "many"}, InputError),
        ([5], {"do_sample": True, "temperature": -1.0}, InputError),
        ([5], {"num_beams": 3, "num_return_sequences": 4}, InputError),
        ([5], {"stop_strings": "x"}, InputError),
        ([5], {"priority": "high"}, InputError),
        ([5], {"priority": None}, InputError),
        ([5], {"seed": -1}, InputError),
        ([5], {"logprobs": -1}, InputError),
        ([5], {"num_beams": 600}, InputError),
    ],
)
def test_a_bad_request(prompt, settings, error):
    f = family("llama")
    engine = roomy(f.ours)
    fine = prompts(f, 2)
    before = engine.submit(fine[0], **asked())
    with pytest.raises(error):
        engine.submit(prompt, **settings).result(20)
    after = engine.submit(fine[1], **asked())
    assert [before.result(20).tokens, after.result(20).tokens] == expected(f, fine)
    if "priority" not in settings:
        with pytest.raises(error):
            engine.generate_batch([fine[0], prompt], [{}, settings])
    wait_idle(engine)


def test_pictures_that_do_not_match_their_placeholders():
    f = family("llava")
    engine = roomy(f.ours)
    fine = prompts(f)
    with pytest.raises(InputError):
        engine.generate({**fine[0], "input_ids": torch.tensor([[5, IMAGE, IMAGE, 6]]), "attention_mask": None})
    with pytest.raises(InputError):
        engine.generate({"input_ids": fine[0]["input_ids"]})
    assert [c.tokens for c in engine.generate_batch(fine, **asked())] == expected(f, fine)
    idle(engine)


@pytest.mark.parametrize("options", [{"memory": "lots"}, {"memory": 10}, {"memory": -1}, {"block_size": 0},
                                     {"max_tokens_per_step": 0}, {"max_tokens_per_step": "x"}])  # fmt: skip
def test_a_bad_engine(options):
    with pytest.raises(InputError):
        roomy(family("llama").ours, **options)
    with pytest.raises(InputError):
        roomy(family("llama").ours.model)


# -- giving up --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["waiting", "reading", "writing", "over", "twice", "thread"])
def test_cancelling(f, when):
    engine = roomy(f.ours, block_size=2, max_tokens_per_step=4 if when == "reading" else 512)
    total = engine.stats().blocks_total
    fine = prompts(f)
    sinks, victims = [Sink() for _ in fine], [Sink(), Sink()]
    doomed = [enqueue(engine, fine[0], victims[0], **asked(max_new_tokens=30, min_new_tokens=30))]
    doomed.append(enqueue(engine, fine[1], victims[1], **asked(num_beams=2, max_new_tokens=30, min_new_tokens=30)))
    for prompt, sink in zip(fine, sinks, strict=True):
        enqueue(engine, prompt, sink, **asked())
    if when == "over":
        drain(engine)
    elif when != "waiting":
        for _ in range(2 if when == "reading" else 5):
            engine.step()
    for _ in range(2 if when == "twice" else 1):
        thread = threading.Thread(target=engine.cancel, args=(doomed,))
        thread.start()
        thread.join()
    drain(engine)
    wait_idle(engine, total)
    assert [s.tokens for s in sinks] == expected(f, fine)
    assert all(len(s.ends) == 1 and s.ends[0][1] is None for s in [*sinks, *victims])
    for victim in victims:
        completion = victim.ends[0][0]
        assert len(completion.sequences) == 1
        assert completion.finish_reason == "cancelled" or when == "over"
    if when == "waiting":
        assert victims[0].tokens == victims[0].ends[0][0].tokens == []


def test_handles_are_cancelled():
    f = family("llama")
    engine = roomy(f.ours)
    prompt = prompts(f)[2]
    whole = f.expected(prompt, max_new_tokens=60, min_new_tokens=60)
    handle = engine.submit(prompt, max_new_tokens=60, min_new_tokens=60)
    next(iter(handle))
    handle.cancel()
    handle.cancel()
    completion = handle.result(20)
    handle.cancel()
    assert completion.finish_reason in ("cancelled", "length")
    assert completion.tokens == whole[: len(completion.tokens)] and completion.tokens
    assert [p.token for p in handle] == completion.tokens
    assert handle.done
    wait_idle(engine)


# -- steps that fail --------------------------------------------------------------------------------------------------


def poison(monkeypatch, f, error=None):
    """Make every step fail that holds the bad token."""
    real = type(f.ours).embed

    def embed(self, ids):
        if bool((ids == BAD).any()):
            raise error or RuntimeError("bad token")
        return real(self, ids)

    monkeypatch.setattr(type(f.ours), "embed", embed)


@pytest.mark.slow
@pytest.mark.parametrize(("step", "size"), [(512, 16), (4, 2), (1, 1)])
@pytest.mark.parametrize("place", [0, 3, 8])
def test_a_row_that_makes_steps_fail(f, monkeypatch, step, size, place):
    fine = prompts(f)
    answers = expected(f, fine)
    tokens = ragged(BAD, [9])[0].tolist()
    tokens[place] = BAD
    bad = f.prompt(tokens, item=1)
    poison(monkeypatch, f)
    for memory in ("8MB", 90_000):
        engine = roomy(f.ours, block_size=size, max_tokens_per_step=step, memory=memory)
        total = engine.stats().blocks_total
        for where in (0, 2, 4):
            sinks, doomed = [Sink() for _ in fine], Sink()
            for i in range(len(fine) + 1):
                if i == where:
                    enqueue(engine, bad, doomed, **asked())
                if i < len(fine):
                    enqueue(engine, fine[i], sinks[i], **asked())
            drain(engine)
            assert doomed.ends[0][0] is None and str(doomed.ends[0][1]) == "bad token" and len(doomed.ends) == 1
            assert [s.tokens for s in sinks] == answers
            assert all(len(s.ends) == 1 for s in sinks)
            idle(engine, total)


def test_a_token_written_that_makes_steps_fail(monkeypatch):
    """The fault comes with a token that the row itself has written, among rows that share its prompt."""
    f = family("llama")
    prompt = prompts(f)[1]
    mine = f.expected(prompt, **SETTINGS)
    others = [[*prompt, t] for t in (7, 9, 11) if t != mine[4]] + [prompt]
    own = {**SETTINGS, "suppress_tokens": [mine[4]]}
    answers = [f.expected(p, **own) for p in others]
    assert mine[4] not in prompt
    real = type(f.ours).embed

    def embed(self, ids):
        if mine[4] in ids.tolist()[0]:
            raise RuntimeError("bad token")
        return real(self, ids)

    monkeypatch.setattr(type(f.ours), "embed", embed)
    for step in (512, 3):
        engine = roomy(f.ours, block_size=2, max_tokens_per_step=step)
        doomed, sinks = Sink(), [Sink() for _ in others]
        enqueue(engine, prompt, doomed, **SETTINGS)
        for p, sink in zip(others, sinks, strict=True):
            enqueue(engine, p, sink, **own)
        drain(engine)
        assert doomed.tokens == mine[:5] and str(doomed.ends[0][1]) == "bad token"
        assert [s.tokens for s in sinks] == answers
        idle(engine)


@pytest.mark.parametrize("blocks", [16, 20, 24, 30, 40])
def test_suspects_find_room(monkeypatch, blocks):
    """Those that must be computed alone take their room from those that were not in the step that failed."""
    f = family("llama")
    poison(monkeypatch, f)
    fine = [f.prompt(r.tolist()) for r in ragged(BAD, [16] * 5, seed=3)]
    answers = expected(f, fine, max_new_tokens=12)
    for urgent in (0, 1):
        engine = roomy(f.ours, block_size=2, max_tokens_per_step=3, memory=blocks * 2 * 2 * 2 * 16 * 4)
        assert engine.stats().blocks_total == blocks
        sinks, doomed = [Sink() for _ in fine], Sink()
        for prompt, sink in zip(fine, sinks, strict=True):
            enqueue(engine, prompt, sink, **asked(max_new_tokens=12))
            for _ in range(8):
                engine.step()
        bad = enqueue(engine, [*fine[0][:7], BAD, 5], doomed, **asked(max_new_tokens=12))
        bad.priority = urgent
        drain(engine)
        assert [s.tokens for s in sinks] == answers
        assert str(doomed.ends[0][1]) == "bad token"
        idle(engine)


@pytest.mark.parametrize("name", ["llava", "t5", "whisper"])
def test_an_encoder_that_fails(name, monkeypatch):
    f = family(name)
    fine = prompts(f)
    answers = expected(f, fine)
    bad = f.prompt([5, 6, 7], item=77)
    method = "encode_items" if name == "llava" else "encode"
    real, key = (
        getattr(type(f.ours), method),
        {"llava": "pixel_values", "whisper": "input_features"}.get(name, "input_ids"),
    )

    def encode(self, *args, **inputs):
        read = [x for item in args[0] for x in item.inputs.values()] if args else [inputs[key]]
        if any(torch.equal(x, bad[key]) for x in read):
            raise RuntimeError("bad picture")
        return real(self, *args, **inputs)

    monkeypatch.setattr(type(f.ours), method, encode)
    engine = roomy(f.ours)
    total = engine.stats().blocks_total
    for _ in range(2):
        sinks, doomed = [Sink() for _ in fine], Sink()
        for i, (prompt, sink) in enumerate(zip(fine, sinks, strict=True)):
            enqueue(engine, prompt, sink, **asked())
            if i == 1:
                enqueue(engine, bad, doomed, **asked())
        drain(engine)
        assert [s.tokens for s in sinks] == answers and str(doomed.ends[0][1]) == "bad picture"
        idle(engine, total)


def test_scores_that_are_no_numbers(monkeypatch):
    """A draw that cannot be made ends its request; those that draw beside it draw as if it were not there."""
    f = family("llama")
    fine = prompts(f)
    own = asked(do_sample=True, temperature=2.0, seed=4)
    alone = [roomy(f.ours).generate(p, **own).tokens for p in fine]
    real = engine_module.Runner.run

    def run(self, plan, **more):
        outputs, logits, likeliest = real(self, plan, **more)
        logits = logits.clone()
        ready = [chunk for chunk in plan.chunks if chunk.is_last]
        for i, chunk in enumerate(ready):
            if BAD in chunk.row.tokens:
                logits[i] = float("nan")
        return outputs, logits, likeliest

    monkeypatch.setattr(engine_module.Runner, "run", run)
    engine = roomy(f.ours)
    for place in (0, 2, 4):
        sinks, doomed = [Sink() for _ in fine], Sink()
        for i in range(5):
            if i == place:
                enqueue(engine, [5, BAD, 6], doomed, **own)
            if i < 4:
                enqueue(engine, fine[i], sinks[i], **own)
        drain(engine)
        assert isinstance(doomed.ends[0][1], OmniformError), doomed.ends
        assert [s.tokens for s in sinks] == alone
        idle(engine)


@pytest.mark.parametrize("where", ["piece", "end", "both"])
@pytest.mark.parametrize("settings", [{}, {"do_sample": True, "num_return_sequences": 3, "seed": 1}, {"num_beams": 2}])
@pytest.mark.parametrize("new", [1, 5])
def test_a_sink_that_raises(where, settings, new):
    f = family("llama")
    engine = roomy(f.ours)

    def fail(*args):
        raise RuntimeError("nobody listens")

    fine = prompts(f)
    sinks = [Sink() for _ in fine]
    bad = Sink(fail if where != "end" else None, fail if where != "piece" else None)
    for i, (prompt, sink) in enumerate(zip(fine, sinks, strict=True)):
        enqueue(engine, prompt, sink, **asked(max_new_tokens=new))
        if i == 1:
            enqueue(engine, prompt, bad, **asked(max_new_tokens=new, **settings))
    drain(engine)
    assert [s.tokens for s in sinks] == expected(f, fine, max_new_tokens=new)
    assert len(bad.ends) == 1
    if where != "end" and "num_beams" not in settings:
        assert str(bad.ends[0][1]) == "nobody listens"
    idle(engine)


@pytest.mark.parametrize("where", ["embed", "plan", "choose", "search", "finish", "encode"])
@pytest.mark.parametrize("step", [512, 3])
def test_ctrl_c_inside_a_step(where, step, monkeypatch):
    """Whatever is interrupted, the engine goes on afterwards and gives the right answers."""
    f = family("llava")
    fine = prompts(f)
    drawing = asked(do_sample=True, num_return_sequences=2, seed=3, temperature=2.0)
    searched = roomy(f.ours).generate(fine[1], **asked(num_beams=3)).tokens
    drawn = [s.tokens for s in roomy(f.ours).generate(fine[2], **drawing).sequences]
    answers = expected(f, fine)
    target, name = {
        "embed": (type(f.ours), "embed"), "plan": (engine_module.Scheduler, "_grow"),
        "choose": (writer, "choose"), "search": (beam_strategy.Beams, "advance"),
        "finish": (writer.Writer, "finish"), "encode": (type(f.ours), "encode_items"),
    }[where]  # fmt: skip
    real, calls = getattr(target, name), [0]
    which = 1 if where == "encode" else 2  # all pictures are encoded in one go

    def interrupted(*args, **kwargs):
        calls[0] += 1
        if calls[0] % 4 == which and calls[0] < 30:
            if where == "search":
                real(*args, **kwargs)
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(target, name, interrupted)
    engine = roomy(f.ours, max_tokens_per_step=step, block_size=2)
    total = engine.stats().blocks_total
    sinks = [Sink() for _ in range(6)]
    for prompt, sink in zip(fine, sinks[:4], strict=True):
        enqueue(engine, prompt, sink, **asked())
    enqueue(engine, fine[1], sinks[4], **asked(num_beams=3))
    enqueue(engine, fine[2], sinks[5], **drawing)
    interruptions, more = 0, True
    for _ in range(3000):
        try:
            more = engine.step()
        except KeyboardInterrupt:
            interruptions += 1
        if not more:
            break
    assert interruptions and not more
    assert all(len(s.ends) == 1 and s.ends[0][1] is None for s in sinks)
    assert [s.ends[0][0].tokens for s in sinks[:4]] == answers
    assert sinks[4].ends[0][0].tokens == searched
    assert [s.tokens for s in sinks[5].ends[0][0].sequences] == drawn
    idle(engine, total)


def test_ctrl_c_in_generate(monkeypatch):
    f = family("llama")
    engine = roomy(f.ours)
    fine = prompts(f)
    with monkeypatch.context() as patch:
        poison(patch, f, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            engine.generate_batch([*fine, [5, BAD]], **asked())
    wait_idle(engine)
    assert [c.tokens for c in engine.generate_batch(fine, **asked())] == expected(f, fine)


# -- many, and from everywhere ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["8MB", 60_000])
def test_a_thousand_requests_at_once(memory):
    f = family("llama")
    engine = roomy(f.ours, memory=memory, block_size=4)
    total = engine.stats().blocks_total
    some = [f.prompt(r.tolist()) for r in ragged(BAD, [1 + i % 9 for i in range(20)], seed=5)]
    answers = expected(f, some, max_new_tokens=4)
    handles = [engine.submit(some[i % 20], **asked(max_new_tokens=4)) for i in range(1000)]
    assert [h.result(120).tokens for h in handles] == [answers[i % 20] for i in range(1000)]
    wait_idle(engine, total)


def test_many_threads(f):
    engine = roomy(f.ours, block_size=4)
    fine = prompts(f, 5)
    answers = expected(f, fine)
    wrong: list[object] = []

    def work(number):
        for turn in range(3):
            i = (number + turn) % 5
            if number % 3 == 0:
                found = [c.tokens for c in engine.generate_batch([fine[i], fine[0]], **asked())]
                ok = found == [answers[i], answers[0]]
            else:
                handle = engine.submit(fine[i], priority=number % 2, **asked())
                found = [p.token for p in handle] if number % 3 == 1 else handle.result(60).tokens
                ok = found == answers[i]
            if not ok:
                wrong.append((number, turn, found))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert not wrong
    wait_idle(engine)


def test_a_consumer_that_stops_reading(f):
    """Nobody who reads is held up by somebody who does not, and what was not read can be read later."""
    engine = roomy(f.ours)
    fine = prompts(f)
    lazy = engine.submit(fine[0], **asked())
    reader = iter(lazy)
    first = next(reader)
    others = [engine.submit(p, **asked()) for p in fine]
    assert [h.result(30).tokens for h in others] == expected(f, fine)
    assert lazy.result(30).tokens == [first.token, *(p.token for p in reader)] == [p.token for p in lazy]
    forgotten = engine.submit(fine[1], **asked())
    iter(forgotten)
    del forgotten
    wait_idle(engine)


def test_waiting_no_longer_than_so_long(monkeypatch):
    f = family("llama")
    real = type(f.ours).embed
    fine = prompts(f)
    answers = expected(f, fine)
    monkeypatch.setattr(type(f.ours), "embed", lambda self, ids: (time.sleep(0.05), real(self, ids))[1])
    handle = roomy(f.ours).submit(fine[0], **asked())
    with pytest.raises(TimeoutError):
        handle.result(0.01)
    assert handle.result(30).tokens == answers[0]


def test_asyncio(f):
    engine = roomy(f.ours)
    fine = prompts(f)
    answers = expected(f, fine)
    long = asked(max_new_tokens=30)

    async def read(handle):
        return [piece.token async for piece in handle]

    async def whole(handle):
        return await handle

    async def everything():
        handles = [engine.submit(p, **asked()) for p in fine]
        assert await asyncio.gather(*[read(h) for h in handles], *[read(h) for h in handles]) == answers * 2
        assert [(await h).tokens for h in handles] == answers
        with pytest.raises(InputError):
            await engine.submit(fine[0], num_return_sequences=5, num_beams=2)
        handle = engine.submit(fine[0], **long)
        task = asyncio.create_task(read(handle))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        other = engine.submit(fine[1], **long)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(whole(other), 0)
        assert [(await h).tokens for h in (handle, other)] == expected(f, fine[:2], max_new_tokens=30)

    asyncio.run(everything())
    # A loop that is closed while somebody still waits in it.
    handle = engine.submit(fine[0], **long)

    async def leave():
        asyncio.create_task(read(handle))  # noqa: RUF006
        await asyncio.sleep(0)

    asyncio.run(leave())
    assert handle.result(30).tokens == expected(f, fine[:1], max_new_tokens=30)[0]
    wait_idle(engine)


def test_closing_and_using_again(f):
    engine = roomy(f.ours)
    total = engine.stats().blocks_total
    fine = prompts(f)
    for _ in range(3):
        handles = [engine.submit(p, **asked(max_new_tokens=40)) for p in fine]
        engine.close()
        for handle, whole in zip(handles, expected(f, fine, max_new_tokens=40), strict=True):
            tokens = handle.result(20).tokens
            assert tokens == whole[: len(tokens)]
        idle(engine, total)
    engine.close()
    assert engine.submit(fine[0], **asked()).result(20).tokens == expected(f, fine[:1])[0]


def test_submitting_while_it_closes():
    f = family("llama")
    engine = roomy(f.ours)
    prompt = prompts(f)[0]
    handles, stop = [], threading.Event()

    def keep_asking():
        while not stop.is_set():
            handles.append(engine.submit(prompt, **asked()))
            time.sleep(0.001)

    thread = threading.Thread(target=keep_asking)
    thread.start()
    for _ in range(20):
        time.sleep(0.003)
        engine.close()
    stop.set()
    thread.join()
    answer = expected(f, [prompt])[0]
    for handle in handles:
        tokens = handle.result(20).tokens
        assert tokens == answer[: len(tokens)]
    wait_idle(engine)


@pytest.mark.slow
@pytest.mark.parametrize("end", ["", "raise SystemExit(0)", "import gc; del engine, handles; gc.collect()"])
def test_the_interpreter_ends_while_it_works(tmp_path, end):
    text_checkpoint(tmp_path)
    script = f"""
        import omniform
        from omniform.engine.engine import Engine
        model = omniform.AutoModelForCausalLM.from_pretrained({str(tmp_path)!r})
        engine = Engine(model, memory="20MB")
        handles = [engine.submit([5 + i, 6, 7], max_new_tokens=60, min_new_tokens=60) for i in range(50)]
        next(iter(handles[0]))
        {end}
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "terminate" not in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_a_time_limit_ends_an_answer():
    f = family("whisper")
    engine = roomy(f.ours)
    found = engine.generate({"input_features": sound(1)}, max_new_tokens=40, min_new_tokens=40, max_time=1e-9)
    assert found.finish_reason == "length" and len(found.tokens) == 1
    idle(engine)
