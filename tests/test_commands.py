"""The recogniser that comes with the package: right, small, and the same in the reference."""

from __future__ import annotations

import json
import re
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from omniform.cli.main import main
from omniform.core.errors import InputError, RepoError
from reference import close, omniform, transformers

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "commands"))

import interview
import measure_recogniser as measure
import rows
import sentences
import sounds
import speak

ROOT = Path(__file__).parents[1]
FOLDER = omniform.bundled_checkpoint("audio")
COMMAND = ROOT / "examples" / "sounds" / "command.wav"
SAID = "draw three red circles and a blue star"
SAMPLE = 48
WER = 0.1


@cache
def sample() -> list[sounds.Window]:
    return measure.unseen(SAMPLE)


@cache
def recogniser() -> measure.Recogniser:
    return measure.Recogniser(FOLDER)


@cache
def heard() -> list[measure.Heard]:
    return [recogniser()(window.wave) for window in sample()]


def test_it_is_small():
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 6_000_000


def test_its_card_tells_how_right_it_is():
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    wer, near = re.search(r"\| commands \| ([\d.]+) \| [\d.]+ s \| ([\d.]+) % \|", card).groups()
    assert "On 1,000 commands" in card and float(wer) <= WER and float(near) >= 95


def test_it_is_right_about_voices_it_has_not_heard():
    # The card's numbers are over 1,000 commands; the first of them keep it honest.
    found = measure.of_commands(sample(), heard())
    assert found.wer <= WER
    assert found.near >= 0.95 and len(found.gaps) > 150


def test_the_interview_is_heard_as_a_whole():
    made = interview.interview("test", minutes=1.0)
    found = recogniser()(made.wave)
    result = measure.of_interview(made, found)
    assert result.wer <= 0.15 and result.near >= 0.95
    ends = [word.end for word in found.words]
    assert len(ends) > 50 and ends == sorted(ends) and ends[-1] <= len(made.wave) / speak.RATE + 0.02


@pytest.mark.parametrize("kind", ["silence", "noise", "music"])
def test_nothing_is_written_where_nobody_speaks(kind):
    length = 4 * speak.RATE
    rng = np.random.default_rng(7)
    make = {"silence": lambda *_: np.zeros(length, np.float32), "noise": sounds.make_noise, "music": sounds.make_music}
    assert recogniser().plain([make[kind](rng, length)]) == [""]


@torch.no_grad()
def test_the_reference_hears_the_same():
    model = transformers.AutoModelForSpeechSeq2Seq.from_pretrained(FOLDER).eval()
    processor = transformers.AutoProcessor.from_pretrained(FOLDER)
    ours = recogniser().pipeline
    waves = [window.wave for window in sample()[:6]]
    theirs = processor(waves, sampling_rate=speak.RATE, return_tensors="pt")["input_features"]
    mine = ours.feature_extractor(waves, sampling_rate=speak.RATE, return_tensors="pt")["input_features"]
    close(mine, theirs, "features")
    for times in (False, True):
        expected = model.generate(theirs, return_timestamps=times)
        found = ours.model.generate(mine, return_timestamps=times)
        assert found.tolist() == expected.tolist()
        texts = processor.batch_decode(expected, skip_special_tokens=True)
        assert ours.tokenizer.batch_decode(found, skip_special_tokens=True) == texts


def test_the_reference_s_pipeline_tells_the_same_times():
    theirs = transformers.pipeline("automatic-speech-recognition", str(FOLDER), num_beams=1)
    for window in sample()[:3]:
        asked = {"raw": window.wave, "sampling_rate": speak.RATE}
        expected = theirs(dict(asked), return_timestamps="word")
        assert recogniser().pipeline(dict(asked), return_timestamps="word") == expected


def test_saved_again_it_is_the_same(tmp_path):
    from safetensors.torch import load_file

    model = omniform.AutoModelForSpeechSeq2Seq.from_pretrained(FOLDER, dtype=torch.float16)
    model.save_pretrained(tmp_path)
    before, after = load_file(FOLDER / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


def test_times_are_those_of_the_synthesiser():
    """Stretches begin and end where speech does, whatever silence is before it, the first word too."""
    voice = speak.Voice("en-us")
    for seed in range(4):
        window = sounds.command(f"times {seed}", voice, clean=True)
        (said,) = window.said
        (told,) = measure.hear(recogniser().pipeline.model, recogniser().processor,
                               {"raw": window.wave, "sampling_rate": speak.RATE}, words=True)  # fmt: skip
        assert told.text.strip() == said.text
        for found, expected in zip(told.words, said.words, strict=True):
            assert abs(found.start - expected.start) <= 0.3 and abs(found.end - expected.end) <= 0.3
        assert abs(told.start - said.words[0].start) <= 0.1 and abs(told.end - said.words[-1].end) <= 0.1


def test_another_language_is_refused():
    with pytest.raises(InputError, match="language"):
        recogniser().pipeline.model.generate(torch.zeros(1, 80, 2 * rows.FRAMES), language="french")


def test_the_command_line_hears_without_a_model(capsys):
    assert main(["run", "--audio", str(COMMAND)]) == 0
    found = capsys.readouterr()
    assert SAID in found.out and "commands-whisper answers, which comes with omniform" in found.err
    assert main(["run", "--audio", str(COMMAND), "--json"]) == 0
    assert SAID in json.loads(capsys.readouterr().out)["answer"]


def test_it_does_its_task_where_no_model_is_named():
    found = omniform.pipeline("automatic-speech-recognition")(str(COMMAND))
    assert found["text"].strip() == SAID


def test_words_of_a_group_share_its_mark():
    """espeak marks "on the" once; every word has a time, and those it did not mark are told apart."""
    speech = speak.say("turn on the lamp", speak.Voice("en-us"))
    assert [word.text for word in speech.words] == ["turn", "on", "the", "lamp"]
    assert speech.exact == (True, True, False, True)
    starts = [word.start for word in speech.words]
    assert starts == sorted(starts) and speech.words[-1].end <= len(speech.wave) / speak.RATE
    names = [phone.text.lstrip("'") for phone in speech.phonemes]
    assert names[-3:] == ["a", "m", "p"] and set(names) <= set(rows.PHONES)


def test_speech_begins_where_its_first_phoneme_is():
    speech = speak.say("stop", speak.Voice("en-us"))
    loud = np.flatnonzero(np.abs(speech.wave) > 0.02)[0] / speak.RATE
    assert abs(loud - speech.phonemes[0].start) < 0.05
    with pytest.raises(ValueError, match="no voice"):
        speak.say("stop", speak.Voice("xx-none"))


def test_a_window_is_cut_and_its_words_are_those_heard():
    speech = speak.say("draw a red circle", speak.Voice("en-us"))
    canvas = sounds.Canvas(5.0)
    canvas.add(speech, 5.0 - speech.words[2].end)
    (said,) = canvas.said
    assert said.text == "draw a red" and not said.whole
    canvas = sounds.Canvas(5.0)
    canvas.add(speech, -speech.words[1].end)
    (said,) = canvas.said
    assert said.text == "red circle" and said.whole and said.words[0].start < 0.1


def test_rows_are_as_whisper_writes():
    writer = rows.Writer()
    speech = speak.say("turn left", speak.Voice("en-us"))
    canvas = sounds.Canvas(5.0)
    canvas.add(speech, 1.0)
    canvas.add(speech, 4.5)
    window = canvas.window(canvas.wave)
    row = writer.row(window, times=True, before="stop")
    names = [writer.tokenizer.id_to_token(token) for token in row.tokens]
    assert names[:5] == ["<|startofprev|>", "Ġstop", "<|startoftranscript|>", "<|en|>", "<|transcribe|>"]
    assert re.fullmatch(
        r"<\|1\.0\d\|> Ġturn Ġleft <\|1\.\d\d\|> <\|4\.\d\d\|> Ġturn <\|endoftext\|>", " ".join(names[5:])
    )
    plain = [writer.tokenizer.id_to_token(token) for token in writer.row(window, times=False).tokens]
    assert plain[3:] == ["<|notimestamps|>", "Ġturn", "Ġleft", "Ġturn", "<|endoftext|>"]


def test_every_word_is_one_token():
    tokenizer = rows.Writer().tokenizer
    assert all(len(tokenizer.encode(f" {word}").ids) == 1 for word in sentences.vocabulary())
    shown = omniform.AutoTokenizer.from_pretrained(FOLDER)
    assert (
        shown(" draw a red circle", add_special_tokens=False)["input_ids"] == tokenizer.encode(" draw a red circle").ids
    )


def test_voices_that_are_measured_are_none_that_were_heard():
    assert not {*sounds.VARIANTS} & {*sounds.UNSEEN_VARIANTS} and not {*sounds.ACCENTS} & {*sounds.UNSEEN_ACCENTS}
    assert all(
        sounds.unseen_voice(sounds.random.Random(i)).name.split("+")[1] in sounds.UNSEEN_VARIANTS for i in range(9)
    )


@pytest.mark.parametrize("number", [0, 107, 21, 900, 4012, 10_000 - 1])
def test_numbers_are_said(number):
    said = {0: "zero", 107: "one hundred and seven", 21: "twenty one", 900: "nine hundred",
            4012: "four thousand and twelve", 9999: "nine thousand nine hundred and ninety nine"}  # fmt: skip
    assert sentences.number_words(number) == said[number]


def test_the_folder_of_a_kind_of_input(monkeypatch, tmp_path):
    from omniform.hub import bundled

    assert FOLDER.name == "commands-whisper" and omniform.bundled_checkpoint("image").name == "scenes-llava"
    assert omniform.bundled_checkpoint().name == "scenes-llava"
    monkeypatch.setattr(bundled, "ASSETS", tmp_path)
    with pytest.raises(RepoError, match="missing"):
        omniform.bundled_checkpoint("audio")
