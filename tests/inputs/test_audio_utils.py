"""The ecosystem's tools for spectra, against the reference's, option by option."""

from __future__ import annotations

import base64
import io
import itertools

import numpy as np
import omniform.audio_utils as ours
import pytest
import soundfile
import torch

from omniform.core.errors import InputError
from reference import transformers

theirs = transformers.audio_utils
WAVE = np.random.default_rng(0).standard_normal(3000).astype(np.float32) * 0.1
FRAME = {"window": ours.window_function(400), "frame_length": 400, "hop_length": 160}


@pytest.mark.parametrize("name", ["boxcar", "hann", "hann_window", "hamming", "hamming_window", "povey"])
@pytest.mark.parametrize(
    "options", [{}, {"periodic": False}, {"frame_length": 500}, {"frame_length": 501, "center": False}]
)
def test_windows(name: str, options: dict[str, object]) -> None:
    np.testing.assert_array_equal(
        ours.window_function(400, name, **options), theirs.window_function(400, name, **options)
    )


@pytest.mark.parametrize("scale", ["htk", "kaldi", "slaney"])
def test_mel_scales_and_filters(scale: str) -> None:
    hertz = np.array([0.0, 20.0, 440.0, 999.9, 1000.0, 8000.0])
    for one in (hertz, 440.0, 4000.0):
        mels = ours.hertz_to_mel(one, scale)
        np.testing.assert_allclose(mels, theirs.hertz_to_mel(np.array(one) * 1 if one is hertz else one, scale))
        np.testing.assert_allclose(ours.mel_to_hertz(mels, scale), one, atol=1e-9)
        assert isinstance(mels, np.ndarray if one is hertz else float)
    for norm, in_mel, (bins, bands, low, high) in itertools.product(
        (None, "slaney"), (False, True), [(201, 80, 0.0, 8000.0), (257, 64, 20.0, 7000.0)]
    ):
        options = {"norm": norm, "mel_scale": scale, "triangularize_in_mel_space": in_mel}
        found = ours.mel_filter_bank(bins, bands, low, high, 16000, **options)
        expected = theirs.mel_filter_bank(bins, bands, low, high, 16000, **options)
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-12)
        assert ours.mel_filter_bank(bins, bands, low, high, 16000, dtype=np.float32).dtype == np.float32


def test_chroma_and_octaves() -> None:
    for options in ({}, {"power": None}, {"weighting_parameters": None, "tuning": 0.3}, {"start_at_c_chroma": False}):
        np.testing.assert_allclose(
            ours.chroma_filter_bank(512, 12, 22050, **options), theirs.chroma_filter_bank(512, 12, 22050, **options)
        )
    assert ours.hertz_to_octave(440.0) == theirs.hertz_to_octave(440.0) == 4.0


BANK = ours.mel_filter_bank(257, 40, 20.0, 8000.0, 16000)
SPECTRA: list[dict[str, object]] = [
    {},
    {"power": 2.0},
    {"power": None},
    {"power": None, "onesided": False},
    {"center": False},
    {"pad_mode": "constant"},
    {"pad_mode": "edge", "fft_length": 512},
    {"fft_length": 512, "mel_filters": BANK},
    {"fft_length": 512, "mel_filters": BANK, "log_mel": "log", "mel_floor": 1e-3},
    {"fft_length": 512, "mel_filters": BANK, "log_mel": "log10", "power": 2.0, "preemphasis": 0.97},
    {"log_mel": "dB", "remove_dc_offset": True},
    {"log_mel": "dB", "power": 2.0, "db_range": 20.0, "reference": 0.5, "min_value": 1e-6},
    {"log_mel": "log", "dtype": np.float64},
    {"dither": 0.1},
]


@pytest.mark.parametrize(
    "options", SPECTRA, ids=lambda value: str({k: v for k, v in value.items() if k != "mel_filters"})
)
def test_spectrograms(options: dict[str, object]) -> None:
    long = np.tile(WAVE, 120)  # more frames than are taken at a time
    for wave in (WAVE, WAVE[:401], long) if options in ({}, SPECTRA[9]) else (WAVE,):
        np.random.seed(0)
        expected = theirs.spectrogram(wave, **FRAME, **options)
        np.random.seed(0)
        found = ours.spectrogram(wave, **FRAME, **options)
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    if "dither" not in options and options.get("power", 1) is not None:
        waves = [WAVE, WAVE[:1234]]
        for found, expected in zip(
            ours.spectrogram_batch(waves, **FRAME, **options),
            theirs.spectrogram_batch(waves, **FRAME, **options),
            strict=True,
        ):
            if "db_range" not in options:
                np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
            assert found.shape == expected.shape


@pytest.mark.parametrize("name", ["power_to_db", "amplitude_to_db", "power_to_db_batch", "amplitude_to_db_batch"])
def test_decibels(name: str) -> None:
    values = np.random.default_rng(0).uniform(0, 2, (2, 5, 7))
    values[0, 0, 0] = 0
    for options in ({}, {"reference": 0.1}, {"min_value": 0.5}, {"db_range": 3.0}):
        found = getattr(ours, name)(values, **options)
        np.testing.assert_array_equal(found, getattr(theirs, name)(values, **options))
    for options in ({"reference": 0}, {"min_value": -1}, {"db_range": 0.0}):
        with pytest.raises(InputError, match="above 0"):
            getattr(ours, name)(values, **options)


def test_lists_of_sounds_and_lengths() -> None:
    tensor = torch.from_numpy(WAVE)
    for audio in (WAVE, tensor, [WAVE, WAVE], [0.5, 0.25], [[WAVE], [WAVE, tensor]], [[0.5, 1.0], [0.25]]):
        found, expected = ours.make_list_of_audio(audio), theirs.make_list_of_audio(audio)
        assert len(found) == len(expected)
        assert all(a is b for a, b in zip(found, expected, strict=True))
    for audio in (3, "x", [], None):
        with pytest.raises(InputError):
            ours.make_list_of_audio(audio)
    conv = torch.nn.Conv1d(1, 1, 10, stride=5, padding=2, dilation=3)
    assert ours.conv1d_output_length(conv, 200) == theirs.conv1d_output_length(conv, 200)
    assert [ours.optimal_fft_length(n) for n in (1, 400, 512, 513)] == [1, 512, 512, 1024]


def test_load_audio() -> None:
    assert ours.load_audio(WAVE) is WAVE
    file = io.BytesIO()
    soundfile.write(file, WAVE, 8000, format="WAV")
    text = base64.b64encode(file.getvalue()).decode()
    expected = theirs.load_audio(text, backend="soundfile")
    np.testing.assert_array_equal(ours.load_audio(text), expected)
    np.testing.assert_array_equal(ours.load_audio("data:audio/wav;base64," + text, backend="soundfile"), expected)
    with pytest.raises(InputError, match="backend"):
        ours.load_audio(text, backend="sox")


@pytest.mark.parametrize(
    "call",
    [
        lambda: ours.window_function(400, "han"),
        lambda: ours.window_function(400, frame_length=300),
        lambda: ours.hertz_to_mel(1.0, "mel"),
        lambda: ours.mel_filter_bank(1, 5, 0, 8000, 16000),
        lambda: ours.mel_filter_bank(201, 5, 9000, 8000, 16000),
        lambda: ours.mel_filter_bank(201, 5, 0, 8000, 16000, norm="l2"),
        lambda: ours.spectrogram(WAVE, **{**FRAME, "hop_length": 0}),
        lambda: ours.spectrogram(WAVE, **{**FRAME, "frame_length": 300}),
        lambda: ours.spectrogram(WAVE, **FRAME, fft_length=300),
        lambda: ours.spectrogram(WAVE[None], **FRAME),
        lambda: ours.spectrogram(WAVE + 1j, **FRAME),
        lambda: ours.spectrogram(WAVE[:100], **FRAME, center=False),
        lambda: ours.spectrogram(WAVE, **FRAME, power=None, mel_filters=BANK),
        lambda: ours.spectrogram(WAVE, **FRAME, log_mel="ln"),
        lambda: ours.spectrogram(WAVE, **FRAME, log_mel="dB", power=3.0),
    ],
)
def test_what_is_refused(call: object) -> None:
    with pytest.raises(InputError):
        call()
