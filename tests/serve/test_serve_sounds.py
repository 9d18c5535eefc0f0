"""Sounds over HTTP, sent by OpenAI's own client and written down by the bundled Whisper."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import numpy as np
import openai
import pytest
from serving import serving

from omniform.engine.hearing.hear import hear
from omniform.hub.bundled import bundled_checkpoint
from omniform.serve.config import ModelSource
from omniform.serve.sounds import file_of

COMMAND = Path(__file__).parents[2] / "examples" / "sounds" / "command.wav"
HEARS = ModelSource(name="commands", source=str(bundled_checkpoint("audio")))
SEES = ModelSource(name="scenes", source=str(bundled_checkpoint()))


@pytest.fixture(scope="module")
def served():
    with serving(models=(HEARS, SEES), preload=False) as server:
        yield server


@pytest.fixture(scope="module")
def client(served):
    return served.client()


@pytest.fixture(scope="module")
def expected(served, client):
    client.audio.transcriptions.create(model="commands", file=COMMAND)
    (loaded,) = served.desk.shelf.loaded()
    return list(hear(loaded.model, loaded.reader, str(COMMAND), words=True))


def test_forms(client, expected):
    text = "".join(one.text for one in expected).strip()
    assert len(text.split()) > 1

    def ask(form, **more):
        return client.audio.transcriptions.create(model="commands", file=COMMAND, response_format=form, **more)

    assert ask("json").text == text and ask("text").strip() == text and ask("json", language="en").text == text
    whole = ask("verbose_json", timestamp_granularities=["word", "segment"])
    with wave.open(str(COMMAND)) as sound:
        assert whole.duration == pytest.approx(sound.getnframes() / sound.getframerate(), abs=0.01)
    assert whole.text == text and whole.language == "english"
    assert [one.text for one in whole.segments] == [one.text for one in expected]
    words = [word for one in expected for word in one.words]
    assert [one.word for one in whole.words] == [word.text.strip() for word in words]
    assert [one.start for one in whole.words] == pytest.approx([word.start for word in words], abs=0.01)
    assert ask("verbose_json").words is None
    srt, vtt = ask("srt"), ask("vtt")
    assert srt.startswith("1\n00:00:0") and vtt.startswith("WEBVTT\n\n")
    shown = " ".join(line for line in srt.splitlines() if line and "-->" not in line and not line.isdigit())
    assert shown == text


def test_a_stream(client, expected):
    events = list(client.audio.transcriptions.create(model="commands", file=COMMAND, stream=True))
    deltas = [one.delta for one in events if one.type == "transcript.text.delta"]
    text = "".join(one.text for one in expected).strip()
    assert "".join(deltas) == text and events[-1].type == "transcript.text.done" and events[-1].text == text


SOUND = COMMAND.read_bytes()
WRONG = {
    "no sound": ({"file": ("a.wav", b"nothing")}, {}, 400, None, None),
    "an empty file": ({"file": ("a.wav", b"")}, {}, 400, "file", "invalid_value"),
    "no file": ({"fail": ("a.wav", SOUND)}, {}, 400, "file", "missing_required_parameter"),
    "no such model": ({"file": ("a.wav", SOUND)}, {"model": "nope"}, 404, "model", "model_not_found"),
    "a model that sees": ({"file": ("a.wav", SOUND)}, {"model": "scenes"}, 400, "model", "model_does_not_hear"),
    "a form": ({"file": ("a.wav", SOUND)}, {"response_format": "xml"}, 400, "response_format", "invalid_value"),
    "a temperature": ({"file": ("a.wav", SOUND)}, {"temperature": "hot"}, 400, "temperature", "invalid_value"),
    "times of text": ({"file": ("a.wav", SOUND)}, {"timestamp_granularities[]": "word"}, 400,
                      "timestamp_granularities", "invalid_value"),
    "another language": ({"file": ("a.wav", SOUND)}, {"language": "xx"}, 400, "language", None),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_told(served, name):
    files, fields, status, param, code = WRONG[name]
    with served.raw() as raw:
        answer = raw.post("/v1/audio/transcriptions", files=files, data={"model": "commands", **fields})
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["message"] and param in (None, error["param"]) and code in (None, error["code"])


def test_what_is_no_form_is_told(served):
    with served.raw() as raw:
        for kind, body in (
            ("application/json", b"{}"), ("multipart/form-data", b"x"), ("multipart/form-data; boundary=a", b"--b\r\n"),
            ("multipart/form-data; boundary=a", b"--a\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nhalf"),
        ):  # fmt: skip
            answer = raw.post("/v1/audio/transcriptions", content=body, headers={"content-type": kind})
            assert answer.status_code == 400 and answer.json()["error"]["message"], (kind, body)


def test_a_model_that_does_not_translate_says_so(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.audio.translations.create(model="commands", file=COMMAND)
    assert caught.value.code == "model_does_not_translate"


@pytest.mark.parametrize("form", ["wav", "flac", "pcm", "mp3", "opus", "aac"])
def test_files_of_sounds(form):
    from omniform.inputs.audio.load import load_audio

    rate = 16_000
    tone = np.sin(np.arange(rate, dtype=np.float32) / rate * 2 * np.pi * 440) * 0.5
    data = file_of(tone, rate, form)
    if form == "pcm":
        heard = np.frombuffer(data, "<i2").astype(np.float32) / 32767
    else:
        heard = load_audio(io.BytesIO(data), rate).numpy()
    assert abs(len(heard) - rate) < rate * 0.15
    power = np.abs(np.fft.rfft(heard[: rate // 2] * np.hanning(rate // 2)))
    assert abs(int(power.argmax()) * 2 - 440) <= 4 and np.abs(heard).max() == pytest.approx(0.5, abs=0.1)
