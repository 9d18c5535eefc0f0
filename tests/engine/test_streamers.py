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
