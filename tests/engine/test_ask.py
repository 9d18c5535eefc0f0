"""One question to one model: what the command line does, without the command line."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from omniform.core.errors import InputError
from omniform.engine.ask import Answer, ask
from omniform.engine.hearing.hear import hear
from omniform.engine.streamers import TextIteratorStreamer, TextStreamer
from omniform.engine.text import Detokenizer
from omniform.hub.checkpoint import load_as_saved
from reference import omniform

sys.path.insert(0, str(Path(__file__).parent.parent))

import test_docs as tiny


def pair(folder, build):
    build(folder)
    return load_as_saved(folder), omniform.AutoProcessor.from_pretrained(folder)


def test_text(tmp_path):
    model, tokenizer = pair(tmp_path, tiny.llama)
    answer = Answer()
    pieces = list(ask(model, tokenizer, answer, text="the quick fox", settings={"max_new_tokens": 12}))
    chat = [{"role": "user", "content": "the quick fox"}]
    inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    tokens = model.generate(**inputs, max_new_tokens=12)[0, inputs["input_ids"].shape[1] :]
    assert "".join(pieces) == answer.text == tokenizer.decode(tokens, skip_special_tokens=True)
    assert answer.tokens == len(tokens) and answer.prompt_tokens == inputs["input_ids"].shape[1]
    assert 0 < answer.seconds["prepare"] <= answer.seconds["first_token"] <= answer.seconds["total"]


def test_beams_answer_at_their_end(tmp_path):
    model, tokenizer = pair(tmp_path, tiny.llama)
    settings = {"max_new_tokens": 9, "num_beams": 3}
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": "the fox"}], add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    tokens = model.generate(**inputs, **settings)[0, inputs["input_ids"].shape[1] :]
    expected = tokenizer.decode(tokens, skip_special_tokens=True)
    for more in ({}, {"num_return_sequences": 3}):
        answer = Answer()
        text = "".join(ask(model, tokenizer, answer, text="the fox", settings={**settings, **more}))
        assert text == answer.text == expected and answer.tokens == len(tokens)


def test_sound_longer_than_the_encoder_is_heard_window_by_window(tmp_path):
    model, processor = pair(tmp_path, tiny.whisper)  # without timestamps
    samples = np.random.default_rng(0).normal(size=16000 * 45).astype(np.float32) * 0.1
    settings = {"max_new_tokens": 5}
    answer = Answer()
    whole = "".join(ask(model, processor, answer, audio=[samples], settings=settings))
    heard = list(hear(model, processor, samples, **settings))
    assert whole == "".join(map(str, heard)) == answer.text and all(u.start in (0.0, 30.0) for u in heard)


@pytest.mark.parametrize(
    ("question", "says"),
    [
        ({"text": " "}, "no question"),
        ({"text": "hi", "images": ["x.png"]}, "reads no pictures"),
        ({"audio": ["x.wav"]}, "reads no sound"),
    ],
)
def test_bad_questions(tmp_path, question, says):
    model, tokenizer = pair(tmp_path, tiny.llama)
    with pytest.raises(InputError, match=says):
        list(ask(model, tokenizer, Answer(), **question))


def test_arguments_of_other_kinds(tmp_path):
    model, tokenizer = pair(tmp_path, tiny.llama)
    for odd in (5, b"x", object(), {1: 2}, np.int64(3), torch.tensor([3]), {"nothing_like_it": 3}, {"top_k": "x"}):
        for name in ("text", "images", "audio", "settings"):
            with pytest.raises(omniform.OmniformError):
                list(ask(model, tokenizer, Answer(), **{"text": "hi", "settings": {"max_new_tokens": 2}, name: odd}))
        for arguments in ((odd, tokenizer, Answer()), (model, odd, Answer()), (model, tokenizer, odd)):
            with pytest.raises(omniform.OmniformError):
                list(ask(*arguments, text="hi"))


def test_a_model_that_does_not_write(tmp_path):
    model, tokenizer = pair(tmp_path, tiny.bert)
    with pytest.raises(InputError, match="does not write"):
        list(ask(model, tokenizer, Answer(), text="hi"))


class Bytes:
    """A tokenizer whose tokens are bytes."""

    def decode(self, token_ids, skip_special_tokens=False):
        return bytes(token_ids).decode("utf-8", errors="replace")


@pytest.mark.parametrize(
    "text", ["plain words", "two\nlines\n", "naïve café €", "日本語の文", "🦊 fox", "", " spaces  "]
)
def test_pieces_are_whole_characters_and_make_the_text(text):
    words = Detokenizer(Bytes())
    pieces = [words.push(byte) for byte in text.encode()] + [words.rest()]
    assert "".join(pieces) == text
    assert not any("�" in piece for piece in pieces)


def test_streamers(capsys):
    tokens = torch.tensor(list(b"prompt "))
    streamer = TextStreamer(Bytes(), skip_prompt=True)
    streamer.put(tokens)
    for byte in b"an answer":
        streamer.put(torch.tensor([byte]))
    streamer.end()
    assert capsys.readouterr().out == "an answer\n"
    handed = TextIteratorStreamer(Bytes())
    handed.put(tokens)
    handed.put(torch.tensor([33]))
    handed.end()
    assert "".join(handed) == "prompt !"
