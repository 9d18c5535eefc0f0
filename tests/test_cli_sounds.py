"""``omniform run --audio`` and ``omniform say``: what a person at a terminal gets."""

from __future__ import annotations

import io
import json
import re

import numpy as np
import pytest
import soundfile
from PIL import Image

from listening import RATE, listening
from omniform.cli.listening import Bar, grouped
from omniform.cli.main import main
from omniform.cli.speaking import joined, sentences
from omniform.inputs.audio import load_audio
from reference import omniform, saved_reference, transformers

SURE = ["--set", "logprob_threshold=None", "--set", "no_speech_threshold=None", "--set", "temperature=0.0"]
SURE += ["--set", "compression_ratio_threshold=None"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("sounds")
    listening(path / "whisper")
    samples = np.random.default_rng(0).normal(size=5 * RATE).astype(np.float32) * 0.2
    soundfile.write(path / "talk.flac", samples, RATE)
    return path


def run(folder, *options):
    return main(["run", "-m", str(folder / "whisper"), "--audio", str(folder / "talk.flac"), *SURE, *options])


def test_lines_with_times(folder, capsys):
    assert run(folder) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 1 and all(re.match(r"0:0\d\.\d - 0:0\d\.\d  \S", line) for line in lines)


@pytest.mark.parametrize("form", ["srt", "vtt", "tsv", "json", "txt"])
def test_files_of_every_form(folder, tmp_path, capsys, form):
    """By the file's ending or by --format; the same on standard output."""
    assert run(folder, "--save", str(tmp_path / f"talk.{form}")) == 0
    assert "times as fast" in capsys.readouterr().out
    assert run(folder, "--format", form) == 0
    assert (tmp_path / f"talk.{form}").read_text() == capsys.readouterr().out
    assert run(folder, "--format", form, "--save", str(tmp_path / "talk.any")) == 0
    assert (tmp_path / f"talk.{form}").read_bytes() == (tmp_path / "talk.any").read_bytes()


def test_one_object_tells_all(folder, capsys):
    assert run(folder, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["seconds"] == 5.0 and record["architecture"] == "WhisperForConditionalGeneration"
    words = [word for segment in record["segments"] for word in segment["words"]]
    assert words and all(0 <= word["start"] <= word["end"] <= 5.0 for word in words)
    assert "".join(record["answer"].split()) == "".join("".join(s["text"].split()) for s in record["segments"])


def test_a_sound_from_standard_input(folder, capsys, monkeypatch):
    """As from its file; what is no sound is refused in one line."""
    assert run(folder, "--format", "tsv") == 0
    expected = capsys.readouterr().out
    asked = ["run", "-m", str(folder / "whisper"), "--audio", "-", *SURE, "--format", "tsv"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO((folder / "talk.flac").read_bytes())))
    assert main(asked) == 0 and capsys.readouterr().out == expected
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"no sound")))
    assert main(asked) == 2 and capsys.readouterr().err.count("\n") == 1


def test_a_spectrogram(folder, tmp_path, capsys):
    assert run(folder, "--save", str(tmp_path / "talk.png")) == 0
    assert Image.open(tmp_path / "talk.png").width > 1000 and list(tmp_path.iterdir()) == [tmp_path / "talk.png"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--save", "talk.mp3"], "no kind of file for a transcript or a spectrogram"),
        (["--save", "/no/such/folder/talk.srt"], "there is no such folder"),
        (["--json", "--format", "srt"], "exclude each other"),
        (["--csv"], "--csv is for answers of a task"),
    ],
)
def test_mistakes_are_told_before_anybody_waits(folder, capsys, options, told):
    assert run(folder, *options) == 2
    out, error = capsys.readouterr()
    assert not out and told in error and error.count("\n") == 1


def test_a_form_without_a_sound(capsys):
    assert main(["run", "--text", "hello", "--format", "srt"]) == 2
    assert "--format is for what is said in a sound" in capsys.readouterr().err


def test_a_model_of_letters(folder, tmp_path, capsys):
    """Words with times, cut where nobody speaks."""
    config = transformers.Wav2Vec2Config(
        vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        conv_dim=[8, 8], conv_stride=[16, 20], conv_kernel=[16, 20], num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2, num_feat_extract_layers=2,
    )  # fmt: skip
    model = tmp_path / "ctc"
    saved_reference(transformers.Wav2Vec2ForCTC, config, model, scale=1.0)
    letters = {t: i for i, t in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", "a", "b", "c"])}
    (model / "vocab.json").write_text(json.dumps(letters))
    transformers.Wav2Vec2Processor(
        transformers.Wav2Vec2FeatureExtractor(), transformers.Wav2Vec2CTCTokenizer(str(model / "vocab.json"))
    ).save_pretrained(model)
    asked = ["run", "-m", str(model), "--audio", str(folder / "talk.flac")]
    assert main([*asked, "--format", "json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    expected = omniform.pipeline("automatic-speech-recognition", str(model))(
        str(folder / "talk.flac"), chunk_length_s=20.0, return_timestamps="word"
    )
    assert [w["word"] for s in whole["segments"] for w in s["words"]] == [c["text"] for c in expected["chunks"]]
    assert main([*asked, "--set", "language=german"]) == 2
    assert "letters" in capsys.readouterr().err


def test_words_become_stretches():
    times = [(0.0, 0.4), (0.5, 0.9), (2.5, 2.9), *((3.0 + i, 3.9 + i) for i in range(20))]
    found = list(grouped([{"text": f"w{i}", "timestamp": t} for i, t in enumerate(times)]))
    assert [len(one.words) for one in found] == [2, 15, 6] and found[0].text == " w0 w1" and found[1].start == 2.5


def test_the_bar_says_how_far_and_how_fast(capsys):
    bar = Bar(shown=True)
    bar(5.0, 8.0)  # too short for a bar
    assert not capsys.readouterr().err
    bar(30.0, 120.0)
    bar.aside("a line\n")
    out, error = capsys.readouterr()
    assert out == "a line\n" and "######.................. 0:30.0 of 2:00.0, " in error and error.endswith("\r\x1b[K")


def test_say(tmp_path, capsys):
    """A sentence as a file; the same luck gives the same sound."""
    config = transformers.VitsConfig(
        vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, ffn_dim=8, flow_size=8,
        spectrogram_bins=9, upsample_initial_channel=8, upsample_rates=[4, 4], upsample_kernel_sizes=[8, 8],
        resblock_kernel_sizes=[3], resblock_dilation_sizes=[[1]], prior_encoder_num_flows=1,
        prior_encoder_num_wavenet_layers=1, posterior_encoder_num_wavenet_layers=1, duration_predictor_num_flows=1,
        duration_predictor_filter_channels=8, depth_separable_num_layers=1, sampling_rate=8000,
    )  # fmt: skip
    model = tmp_path / "vits"
    saved_reference(transformers.VitsModel, config, model, scale=0.1)
    (model / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate("_abcdefg")}))
    transformers.VitsTokenizer(
        str(model / "vocab.json"), pad_token="_", is_uroman=False, phonemize=False
    ).save_pretrained(model)
    asked = ["say", "abc def. gab", "-m", str(model), "--save"]
    assert main([*asked, str(tmp_path / "one.wav")]) == 0
    assert "of speech" in capsys.readouterr().out
    assert main([*asked, str(tmp_path / "two.wav")]) == 0
    assert main([*asked, str(tmp_path / "three.flac"), "--seed", "1", "--json"]) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record["sampling_rate"] == 8000
    assert (tmp_path / "one.wav").read_bytes() == (tmp_path / "two.wav").read_bytes()
    one, three = (load_audio(tmp_path / name, 8000) for name in ("one.wav", "three.flac"))
    assert one.abs().max() > 0 and (one.shape != three.shape or not one.equal(three))
    for wrong, told in {"x.mp3": "no kind of file for speech", "no/x.wav": "no such folder"}.items():
        assert main([*asked, str(tmp_path / wrong)]) == 2
        assert told in capsys.readouterr().err
    assert main(["say", " ", "--save", str(tmp_path / "x.wav")]) == 2
    assert "nothing to say" in capsys.readouterr().err


def test_say_without_a_voice(tmp_path, capsys, monkeypatch):
    """Which one it would be, and what to do."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert main(["say", "hello", "--save", str(tmp_path / "hello.wav")]) == 2
    error = capsys.readouterr().err
    assert "facebook/mms-tts-eng" in error and "--model FOLDER" in error and error.count("\n") == 1


def test_long_texts_are_spoken_in_pieces():
    text = "One sentence. " * 50
    pieces = list(sentences(text))
    assert 1 < len(pieces) < 5 and " ".join(pieces) == text.strip()
    wave = joined([np.ones(10, dtype=np.float32), np.ones(5, dtype=np.float32)], 100)
    assert wave.shape == (40,) and wave[10:35].sum() == 0
