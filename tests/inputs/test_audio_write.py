"""Sounds are written so that they can be read again, whole or not at all."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
import soundfile
import torch

from omniform.core.errors import InputError
from omniform.inputs.audio.write import save_audio

TONE = torch.sin(torch.arange(2000) * 0.1) * 0.8
STEP = 0.5 / 2**15


@pytest.mark.parametrize("format", ["wav", "flac"])
@pytest.mark.parametrize("channels", [1, 2, 8])
def test_read_again(tmp_path, format, channels):
    tones = torch.stack([TONE * (n + 1) / channels for n in range(channels)])
    for audio in (tones, tones.numpy(), tones.t().numpy(), tones.double(), tones.half()) if channels > 1 else (TONE,):
        path = tmp_path / f"a.{format}"
        save_audio(audio, path, 16000)
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        assert rate == 16000 and samples.shape == (2000, channels)
        near = 1e-3 if isinstance(audio, torch.Tensor) and audio.dtype == torch.half else STEP * 1.01
        assert np.abs(samples.T - tones.numpy()).max() <= near
        save_audio(samples[:, 0], path, 16000)  # nothing is lost the second time
        assert np.array_equal(soundfile.read(path, dtype="float32")[0], samples[:, 0])
    assert os.listdir(tmp_path) == [f"a.{format}"]


def test_files_and_names(tmp_path):
    for format in ("wav", "flac"):
        held = io.BytesIO()
        save_audio(TONE, held, 22050, format=format)
        held.seek(0)
        assert soundfile.info(held).format == format.upper()
    save_audio(TONE, tmp_path / "A.FLAC", 8000.0)
    assert soundfile.info(tmp_path / "A.FLAC").samplerate == 8000
    save_audio(TONE, str(tmp_path / "odd"), 8000, format="flac")
    assert soundfile.info(tmp_path / "odd").format == "FLAC"
    assert (tmp_path / "odd").stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize(
    ("dtype", "low", "high"), [("int16", -(2**15), 2**15 - 1), ("int32", -(2**31), 2**31 - 1), ("uint8", 0, 255)]
)
def test_integers_keep_their_scale(tmp_path, dtype, low, high):
    save_audio(np.array([low, high, (low + high + 1) // 2], dtype), tmp_path / "a.wav", 16000)
    found = soundfile.read(tmp_path / "a.wav", dtype="int16")[0].tolist()
    assert found[0] == -(2**15) and found[2] == 0 and found[1] >= 2**15 - 1 - 255


def test_what_is_too_loud_is_cut_off(tmp_path, caplog):
    with caplog.at_level("WARNING", "omniform"):
        save_audio([2.0, -3.0, 0.5], tmp_path / "a.wav", 16000)
    assert "up to 3" in caplog.text
    assert soundfile.read(tmp_path / "a.wav", dtype="int16")[0].tolist() == [2**15 - 1, -(2**15), 2**14]


@pytest.mark.parametrize(
    ("audio", "name", "rate", "format", "named"),
    [
        ([], "a.wav", 16000, None, "audio"), ([float("nan")], "a.wav", 16000, None, "not finite"),
        (torch.zeros(2, 3, 4), "a.wav", 16000, None, "one sound"), ("a text", "a.wav", 16000, None, "no wave"),
        (TONE, "a.mp3", 16000, None, "wav or flac"), (TONE, "a", 16000, None, "no ending"),
        (TONE, "a.wav", 0, None, "rate"), (TONE, "a.wav", 1.5, None, "rate"), (TONE, "a.flac", 700_000, None, "rate"),
        (TONE, "a.wav", True, None, "rate"), (TONE, "a.wav", 16000, "ogg", "wav or flac"),
        (torch.zeros(9, 9000), "a.wav", 16000, None, "one by one"),
    ],
)  # fmt: skip
def test_refused(tmp_path, audio, name, rate, format, named):
    (tmp_path / name).write_bytes(b"as it was")
    with pytest.raises(InputError, match=named):
        save_audio(audio, tmp_path / name, rate, format=format)
    assert (tmp_path / name).read_bytes() == b"as it was"


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        save_audio(TONE, tmp_path / "nowhere" / "a.wav", 16000)
