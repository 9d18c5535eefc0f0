"""Streamers: the reference's words for the same tokens, whole characters, rows told apart, no reader left waiting."""

from __future__ import annotations

import asyncio
import threading
from queue import Empty

import numpy as np
import pytest
import torch

from checkpoints import text_checkpoint
from omniform.core.errors import InputError, MissingPartError
from reference import omniform, transformers

TEXTS = [
    "plain words and more\nof them\n\nend",
    "naïve cafe\u0301 — a\u0308 o\u0308",
    "你好世界,欢迎来到这里。",
    "日本語の文 and 🤗 👨‍👩‍👧‍👦 🏳️‍🌈 done",
    "สวัสดีครับ",
    " spaces  twice ",
    "",
]


class Bytes:
    """One token per byte."""

    def decode(self, token_ids, skip_special_tokens=False):
        kept = [t for t in token_ids if t < 256 or not skip_special_tokens]
        return b"".join(bytes([t]) if t < 256 else b"<end>" for t in kept).decode("utf-8", errors="replace")


def fed(streamer, text, step=1, prompt=b"prompt "):
    streamer.put(torch.tensor([list(prompt)]))
    data = list(text.encode())
    for at in range(0, len(data), step):
        streamer.put(torch.tensor(data[at : at + step]))
    streamer.end()


def pieces(kind, text, step, **options):
    found = []

    class Noting(kind.TextStreamer):
        def on_finalized_text(self, text, stream_end=False):
            found.append((text, stream_end))

    fed(Noting(Bytes(), **options), text, step)
    return found


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("step", [1, 2, 5])
def test_only_whole_characters_and_words(text, step):
    found = pieces(omniform, text, step, skip_prompt=True)
    assert "".join(piece for piece, _ in found) == text
    assert [end for _, end in found] == [False] * (len(found) - 1) + [True]
    assert not any("\ufffd" in piece for piece, _ in found)
    for piece, end in found:  # a word ends with a space, a line or a Chinese character
        assert end or not piece or piece[-1] in " \n" or "\u4e00" <= piece[-1] <= "\u9fff"


@pytest.mark.parametrize("text", ["plain words and more\nof them\n", "你好 世界 wide", "no_space_at_all"])
def test_the_words_are_the_references(text):
    # Whole characters at a time the reference's pieces are right; ours are the same, but for a last space, which may
    # go away before what follows it.
    ours, theirs = (pieces(kind, text, 3, skip_prompt=False) for kind in (omniform, transformers))
    assert len(ours) == len(theirs)
    assert "".join(p for p, _ in ours) == "".join(p for p, _ in theirs) == "prompt " + text


def test_bytes_that_are_no_character_stay_what_they_are():
    found = []
    streamer = omniform.TextIteratorStreamer(Bytes())
    streamer.put(torch.tensor([[0xFF, 0xFE, 32, 97]]))
    streamer.end()
    found = "".join(streamer)
    assert found == "\ufffd\ufffd a"


def test_printing(capsys):
    fed(omniform.TextStreamer(Bytes()), "an answer")
    assert capsys.readouterr().out == "prompt an answer\n"
    streamer = omniform.TextStreamer(Bytes(), True, skip_special_tokens=True)
    for _ in range(2):  # it may be used again
        streamer.put(torch.tensor([[1, 2]]))
        streamer.put(np.array([104, 105, 256]))
        streamer.end()
    assert capsys.readouterr().out == "hi\nhi\n"


def test_several_rows_are_refused_by_those_of_one():
    for rows in (torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 1, dtype=torch.long)):
        with pytest.raises(ValueError, match="only supports batch size 1"):
            omniform.TextStreamer(Bytes()).put(rows)
    with pytest.raises(InputError, match="these are no tokens"):
        omniform.TextStreamer(Bytes()).put([1, 2])
    with pytest.raises(InputError, match="this reads no tokens"):
        omniform.TextStreamer(b"bytes")


def test_streamers_of_ones_own_need_put_and_end():
    with pytest.raises(MissingPartError, match="has no put"):
        omniform.BaseStreamer().put(torch.zeros(1))
    with pytest.raises(NotImplementedError, match="has no end"):
        omniform.BaseStreamer().end()


def test_iterating():
    streamer = omniform.TextIteratorStreamer(Bytes(), skip_prompt=True, timeout=0.01)
    fed(streamer, "one two")
    assert "".join(streamer) == "one two"
    with pytest.raises(Empty):
        next(streamer)
    streamer.stop_signal = "<stop>"
    fed(streamer, "again and again")
    assert "".join(streamer) == "again and again" and streamer.text_queue.empty()


def test_iterating_asynchronously():
    async def main():
        streamer = omniform.AsyncTextIteratorStreamer(Bytes(), skip_prompt=True, timeout=0.2)
        thread = threading.Thread(target=fed, args=(streamer, "one two"))
        thread.start()
        found = "".join([piece async for piece in streamer])
        thread.join()
        with pytest.raises(TimeoutError):
            await anext(streamer)
        streamer.fail(InputError("no"))
        with pytest.raises(InputError, match="no"):
            [piece async for piece in streamer]
        return found

    assert asyncio.run(main()) == "one two"
    with pytest.raises(RuntimeError):
        omniform.AsyncTextIteratorStreamer(Bytes())


def test_names():
    from omniform.generation.streamers import AsyncTextIteratorStreamer, BaseStreamer

    assert AsyncTextIteratorStreamer is omniform.AsyncTextIteratorStreamer
    assert issubclass(omniform.TextStreamer, BaseStreamer)


# -- rows ------------------------------------------------------------------------------------------------------------


def test_rows_are_told_apart(capsys):
    answers = ["first line\nsecond", "你好", ""]
    streamer = omniform.RowTextIteratorStreamer(Bytes(), skip_prompt=True)
    for row in range(3):
        streamer.begin_row(row, [1, 2])
    for at in range(20):
        for row, answer in enumerate(answers):
            if at < len(answer.encode()):
                streamer.put_row(row, answer.encode()[at])
    streamer.end()
    told = {}
    for row, piece in streamer:
        assert "\ufffd" not in piece
        told[row] = told.get(row, "") + piece
    assert told == dict(enumerate(answers))
    printing = omniform.RowTextStreamer(Bytes())
    printing.put(torch.tensor([[97, 32], [98, 32]]))
    for column in ([99, 100], [10, 32], [101, 102]):
        printing.put(torch.tensor(column))
    printing.end()
    assert capsys.readouterr().out == "[0] a c\n[0] e\n[1] b d f\n"


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = text_checkpoint(tmp_path_factory.mktemp("streamers"))
    return omniform.AutoModelForCausalLM.from_pretrained(folder), omniform.AutoTokenizer.from_pretrained(folder)


ASKED = {"max_new_tokens": 12, "eos_token_id": 258, "do_sample": True, "temperature": 3.0, "seed": 1}
ROWS = [[5, 6, 7], [8, 9], [10, 11, 12, 13]]


def rows_of(model, **more):
    """Each row's answer, up to its end."""
    answers = model.generate_batch(ROWS, **{**ASKED, **more})
    return [answer.tokens for answer in answers.values()]


def test_generate_tells_rows_apart(pair):
    model, tokenizer = pair
    asked = {**ASKED, "do_sample": False, "num_return_sequences": 1}
    whole = model.generate(ROWS, **asked)[:, 4:]
    streamer = omniform.RowTextIteratorStreamer(tokenizer, skip_prompt=True, timeout=20)
    thread = threading.Thread(target=model.generate, args=(ROWS,), kwargs={**asked, "streamer": streamer})
    thread.start()
    told = {}
    for row, piece in streamer:
        told[row] = told.get(row, "") + piece
    thread.join()
    assert told == {row: tokenizer.decode(whole[row]) for row in range(3)}


def test_several_answers_are_several_rows(pair):
    model, tokenizer = pair

    class Noting(omniform.RowStreamer):
        def __init__(self):
            super().__init__()
            self.rows = {}

        def begin_row(self, row, prompt):
            super().begin_row(row, prompt)
            self.rows[row] = [list(prompt)]

        def put_row(self, row, token):
            self.rows[row].append(token)

    noting = Noting()
    whole = model.generate([[5, 6], [7, 8]], streamer=noting, num_return_sequences=2, **ASKED).tolist()
    assert sorted(noting.rows) == [0, 1, 2, 3]
    for row, (prompt, *tokens) in noting.rows.items():
        assert [*prompt, *tokens] == whole[row][: 2 + len(tokens)]
    with pytest.raises(ValueError, match="batch size 1"):  # and are told so, before any text
        model.generate([[5, 6]], streamer=omniform.TextStreamer(tokenizer), num_return_sequences=2, **ASKED)


@pytest.mark.parametrize("kind", ["TextIteratorStreamer", "RowTextIteratorStreamer"])
@pytest.mark.parametrize(
    "mistake", [{"temprature": 1}, {"temperature": -1}, {"input_ids": [[999999]]}, {"num_beams": 2}]
)
def test_no_reader_waits_for_what_never_comes(pair, kind, mistake):
    model, tokenizer = pair
    streamer = getattr(omniform, kind)(tokenizer)
    asked = {"input_ids": [[5, 6]], "do_sample": True, **mistake, "streamer": streamer}
    errors = []

    def work():
        try:
            model.generate(**asked)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    with pytest.raises((InputError, TypeError)) as found:
        list(streamer)
    thread.join()
    assert errors == [found.value]


def test_a_failure_on_the_way_comes_after_the_text(pair, monkeypatch):
    model, tokenizer = pair
    steps = []

    project = type(model).project

    def failing(self, *args):
        steps.append(1)
        if len(steps) > 3:
            raise RuntimeError("the device is gone")
        return project(self, *args)

    monkeypatch.setattr(type(model), "project", failing)
    streamer, found = omniform.TextIteratorStreamer(tokenizer, timeout=20), []
    foreign = transformers.TextIteratorStreamer(tokenizer, timeout=20)
    for one in (streamer, foreign):
        steps.clear()
        with pytest.raises(RuntimeError, match="gone"):
            model.generate([[5, 6]], max_new_tokens=9, streamer=one)
    with pytest.raises(RuntimeError, match="gone"):
        for piece in streamer:
            found.append(piece)
    assert "".join(found) == "".join(foreign) != ""  # a foreign one knows no failures: it ends


# -- streams ---------------------------------------------------------------------------------------------------------


def gathered(pieces):
    rows = {}
    for piece in pieces:
        tokens, text = rows.get(piece.sequence, ([], ""))
        rows[piece.sequence] = ([*tokens, piece.token], text + piece.text)
    return rows


@pytest.mark.parametrize("more", [{"do_sample": False}, {}, {"stop_strings": ["q", "A"]}, {"num_return_sequences": 2}])
def test_a_stream_is_what_generate_returns(pair, more):
    model, tokenizer = pair
    asked = {**ASKED, **more, "tokenizer": tokenizer}
    if "num_return_sequences" in more:
        expected = {i: row[4:] for i, row in enumerate(model.generate(ROWS, **asked).tolist())}
    else:
        expected = dict(enumerate(rows_of(model, **asked)))
    got = gathered(model.stream(ROWS, **asked))
    assert sorted(got) == sorted(expected)

    async def later():
        return gathered([piece async for piece in model.astream(ROWS, **asked)])

    for found in (got, asyncio.run(later())):
        for row, (tokens, text) in found.items():
            assert tokens == expected[row][: len(tokens)]
            whole = tokenizer.decode(tokens, skip_special_tokens=True)
            assert whole.startswith(text) and (text == whole or "stop_strings" in more)


def test_many_streams_at_once_leave_the_loop_free(pair):
    model, tokenizer = pair
    prompts = [[5 + n, 6] for n in range(12)]
    alone = [model.generate([prompt], max_new_tokens=10, eos_token_id=258)[0, 2:].tolist() for prompt in prompts]

    async def main():
        ticks, order = 0, []

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        async def one(number):
            found = []
            async for piece in model.astream(
                [prompts[number]], tokenizer=tokenizer, max_new_tokens=10, eos_token_id=258
            ):
                found.append(piece.token)
                order.append(number)
            return found

        clock = asyncio.create_task(tick())
        found = await asyncio.gather(*(one(number) for number in range(len(prompts))))
        clock.cancel()
        return found, order, ticks

    found, order, ticks = asyncio.run(main())
    assert found == alone and ticks > 100
    assert order != sorted(order)  # side by side


@pytest.mark.parametrize("leaves", ["break", "cancel"])
def test_whoever_stops_reading_gives_the_answer_up(pair, leaves):
    from omniform.engine.streaming import _Shared

    model, _ = pair
    before = threading.active_count()

    async def main():
        engines = []

        async def read():
            async for _ in model.astream([[5, 6]], max_new_tokens=60, min_new_tokens=60):
                engines.append(_Shared._all[model].engine())
                if leaves == "break":
                    break
                await asyncio.sleep(30)

        task = asyncio.create_task(read())
        while not engines:
            await asyncio.sleep(0.01)
        if leaves == "cancel":
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for _ in range(500):
            if not (engines[0].stats().running or engines[0].stats().waiting):
                break
            await asyncio.sleep(0.01)
        return engines[0].stats()

    stats = asyncio.run(main())
    assert (stats.running, stats.waiting, stats.blocks_used) == (0, 0, 0) and stats.steps < 60
    assert model not in _Shared._all and threading.active_count() <= before + 1


@pytest.mark.parametrize("mistake", [{"temprature": 1}, {"num_beams": 2}, {"input_ids": [[99999]]}])
def test_mistakes_are_raised_where_streams_are_read(pair, mistake):
    async def later():
        return [piece async for piece in pair[0].astream(**{"input_ids": [[5]], **mistake})]

    with pytest.raises((InputError, TypeError)):
        list(pair[0].stream(**{"input_ids": [[5]], **mistake}))
    with pytest.raises((InputError, TypeError)):
        asyncio.run(later())
