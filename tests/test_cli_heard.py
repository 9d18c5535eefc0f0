"""``omniform run --audio`` and ``/audio`` in ``omniform chat`` with a model that reads sounds among words."""

from __future__ import annotations

import io
import json
import sys

import numpy as np
import pytest
import soundfile

from heard_checkpoint import RATE, voxtral
from omniform.cli.main import main
from reference import omniform

LIMIT = ["--set", "max_new_tokens=5"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = voxtral(tmp_path_factory.mktemp("heard") / "model")
    for number, length in enumerate((0.7, 1.8)):
        samples = (np.random.default_rng(number).normal(size=int(length * RATE)) * 0.2).astype(np.float32)
        soundfile.write(path / f"{number}.wav", samples, RATE)
    return path


def written(folder, inputs):
    """What the model writes, as its tokenizer has it."""
    model = omniform.AutoModelForMultimodalLM.from_pretrained(folder)
    reader = omniform.AutoProcessor.from_pretrained(folder)
    ids = model.generate(**inputs(reader), max_new_tokens=5)
    return reader.decode(ids[0, inputs(reader)["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def asked(folder, *parts):
    content = [
        {"type": "audio", "path": str(folder / part)} if part.endswith(".wav") else {"type": "text", "text": part}
        for part in parts
    ]
    return {"role": "user", "content": content}


def test_sounds_and_a_question(folder, capsys):
    sounds = ["--audio", str(folder / "1.wav"), "--audio", str(folder / "0.wav")]
    assert main(["run", "-m", str(folder), *sounds, "--text", "hello fox", *LIMIT, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    talk = [asked(folder, "1.wav", "0.wav", "hello fox")]
    assert record["answer"] == written(folder, lambda reader: reader.apply_chat_template(talk))
    # A sound of two windows and one of one.
    assert record["tokens"]["prompt"] > 75 and record["architecture"] == "VoxtralForConditionalGeneration"


def test_a_sound_alone_is_written_down(folder, capsys):
    assert main(["run", "-m", str(folder), "--audio", str(folder / "1.wav"), *LIMIT, "--json"]) == 0
    path = str(folder / "1.wav")
    expected = written(folder, lambda reader: reader.apply_transcription_request(path))
    assert json.loads(capsys.readouterr().out)["answer"] == expected


def test_chat(folder, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    lines = f"/audio {folder / '0.wav'}\nhello\n/audio {folder / 'none.wav'}\nfox\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode()), encoding="utf-8"))
    with pytest.raises(SystemExit):  # of the sound that is not there
        main(["chat", "-m", str(folder), *LIMIT])
    out, err = capsys.readouterr()
    first = asked(folder, "0.wav", "hello")
    answer = written(folder, lambda reader: reader.apply_chat_template([first]))
    said = [first, {"role": "assistant", "content": answer}, {"role": "user", "content": "fox"}]
    second = written(folder, lambda reader: reader.apply_chat_template(said))
    assert answer.strip() in out and second.strip() in out and "none.wav" in err
