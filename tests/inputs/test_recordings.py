"""Sounds read in pieces: the numbers of the whole file, places, microphones, files that break off, FFmpeg's formats."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import soundfile
import torch

from omniform.core.errors import DependencyError, InputError
from omniform.inputs.audio import Recording, load_audio, open_recording
from omniform.inputs.media_access import MediaAccess
from reference import transformers

torch.set_num_threads(1)
RATE = 16000
reference_load = transformers.audio_utils.load_audio


def noise(rate: int, seconds: float = 2.5, channels: int = 1, seed: int = 0) -> np.ndarray:
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, (int(rate * seconds), channels))
    return samples if channels > 1 else samples[:, 0]


def tone(rate: int, seconds: float) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)


def write(samples: np.ndarray, rate: int, form: str = "WAV", subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form, subtype=subtype)
    return file.getvalue()


def encode(samples: np.ndarray, rate: int, form: str, codec: str, layout: str = "mono", **options: str) -> bytes:
    """With FFmpeg; ``samples [samples, channels]``."""
    file = io.BytesIO()
    with av.open(file, "w", format=form, options=options) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        stream.bit_rate = 128_000
        for start in range(0, len(samples), 1024):
            part = samples[start : start + 1024].T.astype(np.float32).copy()
            frame = av.AudioFrame.from_ndarray(part, format="fltp", layout=layout)
            frame.sample_rate, frame.pts = rate, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def collected(recording: Recording, sizes: tuple[int, ...] = (1, 7, 160, 4801, 100_000)) -> torch.Tensor:
    blocks = []
    for turn in range(1000):
        size = sizes[turn % len(sizes)]
        block = recording.read(size)
        blocks.append(block)
        if len(block) < size:
            assert not len(recording.read(5))
            return torch.cat(blocks)
    raise AssertionError("no end")


FILES = [
    ("WAV", "PCM_16", 44100, 1),
    ("WAV", "PCM_24", 192000, 2),
    ("WAV", "PCM_U8", 8000, 1),
    ("WAV", "ALAW", 8000, 2),
    ("WAV", "ULAW", 11025, 1),
    ("WAV", "FLOAT", 16000, 8),
    ("FLAC", "PCM_24", 48000, 2),
    ("MP3", "MPEG_LAYER_III", 44100, 2),
    ("OGG", "VORBIS", 22050, 1),
    ("OGG", "OPUS", 48000, 1),
    ("AIFF", "PCM_16", 7999, 1),
]


@pytest.mark.parametrize(("form", "subtype", "rate", "channels"), FILES)
def test_pieces_places_and_the_whole(form: str, subtype: str, rate: int, channels: int, tmp_path: Path) -> None:
    path = tmp_path / "sound"
    path.write_bytes(write(noise(rate, 2.5, channels), rate, form, subtype))
    whole = load_audio(path, RATE)
    np.testing.assert_array_equal(whole.numpy(), reference_load(str(path), RATE, backend="soundfile"))
    with open_recording(path, RATE) as recording:
        assert recording.samples == len(whole)
        assert recording.seconds == pytest.approx(2.5, abs=0.01)
        assert torch.equal(collected(recording), whole)
        assert (recording.missing, recording.position) == (0.0, len(whole))
        for place in (30_000, 0, 12_345, 12_345, 12_400, len(whole) + 5, 39_990):
            recording.seek(place)
            torch.testing.assert_close(recording.read(500), whole[place : place + 500], rtol=0, atol=1e-6)
        recording.rewind()
        assert torch.equal(torch.cat(list(recording.blocks(7000))), whole)
    with path.open("rb") as file, open_recording(file, RATE, channel=channels - 1) as recording:
        assert torch.equal(collected(recording), load_audio(path, RATE, channel=channels - 1))
        assert not file.closed
    with open_recording(path, RATE, media_access=MediaAccess(roots=[tmp_path])) as recording:
        assert torch.equal(recording.read(100), whole[:100])


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("samples", [1, 2, 3, 500, 70_001])
def test_samples_and_blocks(rate: int, samples: int) -> None:
    wave = (noise(rate, 9)[:samples] * 30000).astype(np.int16)
    whole = load_audio((wave, rate), RATE)
    stereo = np.stack([wave, wave], axis=1)

    def blocks(wave: np.ndarray) -> Iterator[object]:
        yield wave[:0]
        for start in range(0, len(wave), 997):
            yield wave[start : start + 997]

    sources = [
        (wave, rate),
        {"array": torch.from_numpy(wave), "sampling_rate": rate},
        (blocks(wave), rate),
        {"raw": blocks(wave), "sampling_rate": rate},
        (blocks(stereo) if samples > 2 else blocks(wave), rate),
        (iter({"raw": block, "sampling_rate": rate} for block in blocks(wave)), RATE),
    ]
    for source in sources:
        assert torch.equal(collected(open_recording(source, RATE)), whole)


def test_a_microphone_is_heard_as_it_speaks_and_only_once() -> None:
    asked = 0

    def blocks() -> Iterator[np.ndarray]:
        nonlocal asked
        while True:
            asked += 1
            yield np.full(1600, asked / 1000, dtype=np.float32)

    recording = open_recording(blocks(), RATE)
    assert (asked, recording.seconds, recording.samples, recording.again) == (0, None, None, False)
    assert torch.equal(recording.read(1600), torch.full((1600,), 0.001))
    assert asked == 1
    recording.seek(4800)
    assert float(recording.read(1)) == pytest.approx(0.004)
    assert asked == 4
    with pytest.raises(InputError, match="only once"):
        recording.rewind()
    # What was read is the reader's own.
    held = np.zeros(10, dtype=np.float32)
    open_recording(held, RATE).read(5).fill_(1)
    assert not held.any()


@pytest.mark.parametrize(
    ("form", "codec", "layout"),
    [
        ("ipod", "aac", "mono"),
        ("mp4", "aac", "stereo"),
        ("webm", "libopus", "mono"),
        ("adts", "aac", "mono"),
        ("asf", "wmav2", "stereo"),
        ("mov", "pcm_s16le", "stereo"),
        ("matroska", "pcm_s32le", "mono"),
        ("avi", "pcm_u8", "mono"),
    ],
)
def test_what_only_ffmpeg_reads(form: str, codec: str, layout: str, tmp_path: Path) -> None:
    rate, channels = 48000, 2 if layout == "stereo" else 1
    samples = np.stack([tone(rate, 1.5)] * channels, axis=1)
    path = tmp_path / "sound.bin"
    path.write_bytes(encode(samples, rate, form, codec, layout))
    whole = load_audio(path, RATE)
    assert torch.equal(load_audio(path.read_bytes(), RATE), whole)
    with open_recording(path, RATE) as recording:
        assert recording.seconds is None or recording.seconds == pytest.approx(1.5, abs=0.2)
        assert torch.equal(collected(recording), whole)
        recording.seek(100)
        assert torch.equal(recording.read(500), whole[100:600])
    expected = load_audio((samples, rate), RATE)
    assert abs(len(whole) - len(expected)) < 1500
    # Encoders' delays are left out where the container tells of them.
    spectrum = torch.fft.rfft(whole[:16000]).abs()
    assert int(spectrum.argmax()) == 440
    assert float(whole[4000:12000].square().mean()) == pytest.approx(0.125, rel=0.03)
    if codec in ("pcm_s16le", "pcm_s32le"):
        torch.testing.assert_close(whole, expected, rtol=0, atol=1e-4)


CUT = [
    ("WAV", "PCM_16", 1),
    ("WAV", "ULAW", 2),
    ("AIFF", "PCM_16", 1),
    ("AU", "PCM_16", 2),
    ("W64", "PCM_16", 1),
    ("RF64", "PCM_24", 1),
    ("FLAC", "PCM_16", 1),
    ("MP3", "MPEG_LAYER_III", 1),
]


@pytest.mark.parametrize(("form", "subtype", "channels"), CUT)
def test_files_that_break_off_say_how_much_was_read(
    form: str, subtype: str, channels: int, caplog: pytest.LogCaptureFixture
) -> None:
    data = write(noise(RATE, 4.0, channels), RATE, form, subtype)
    with caplog.at_level(logging.WARNING, "omniform"):
        load_audio(data, RATE)
        assert not caplog.text
        wave = load_audio(data[: len(data) // 2], RATE)
        assert 20_000 < len(wave) < 33_000
        assert f"cut: {len(wave)} of 64000 samples" in caplog.text
        caplog.clear()
        recording = open_recording(data[: len(data) // 2], RATE)
        assert recording.missing == 0.0
        assert torch.equal(collected(recording), wave)
        assert recording.missing == pytest.approx(4.0 - len(wave) / RATE, abs=1e-3)
        recording.rewind()
        assert torch.equal(collected(recording), wave)
    assert caplog.text.count("is cut") == 1


def test_ends_that_nothing_tells_of(caplog: pytest.LogCaptureFixture) -> None:
    ogg = write(noise(RATE, 4.0), RATE, "OGG")
    with caplog.at_level(logging.WARNING, "omniform"):
        load_audio(ogg, RATE)
        assert not caplog.text
        wave = load_audio(ogg[: len(ogg) // 2], RATE)
        assert f"cut: {len(wave)} samples" in caplog.text
        caplog.clear()
        film = encode(noise(RATE, 4.0)[:, None], RATE, "matroska", "pcm_s16le")
        wave = load_audio(film[: len(film) // 2], RATE)
        assert f"cut: {len(wave)} of 64000 samples" in caplog.text
        caplog.clear()
        # Programs that write into a pipe do not know the length.
        for size in (0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFFFFF - 36):
            wav = bytearray(write(noise(RATE, 1.0), RATE))
            wav[40:44] = size.to_bytes(4, "little")
            assert len(load_audio(bytes(wav), RATE)) == RATE
        assert not caplog.text


def test_what_is_refused_and_where() -> None:
    bad = noise(RATE, 5.0)
    bad[70_000] = np.nan
    recording = open_recording((bad, RATE), RATE)
    assert len(recording.read(60_000)) == 60_000
    with pytest.raises(InputError, match="nan at sample 70000"):
        recording.read(20_000)
    for source, words in (
        (np.zeros(0), "empty"),
        (iter([]), "empty"),
        (iter([np.zeros(0)]), "empty"),
        (iter([np.zeros(3), b"\0\0"]), "block 1.*frombuffer"),
        (iter([np.zeros((50, 2)), np.zeros((50, 3))]), "channels change"),
        (iter([np.zeros(5, dtype=np.int64) + 3]), "full scale"),
        (iter([{"raw": np.zeros(3)}]), "sampling_rate"),
        (iter([{"raw": np.zeros(3), "sampling_rate": 8000}, {"raw": np.zeros(3), "sampling_rate": 9000}]), "changes"),
        ((np.zeros((5, 2)), RATE), "no such channel"),
        ((b"RIFF", 16000), "its own sampling rate"),
        (None, "no wave"),
        ((np.zeros(RATE * 3), RATE), "too long"),
        (iter([np.zeros(RATE)] * 3), "too long"),
        (write(np.zeros(RATE * 3), RATE), "too long"),
    ):
        with pytest.raises(InputError, match=words):
            collected(open_recording(source, RATE, channel=7 if words == "no such channel" else None, max_seconds=2.0))
    recording = open_recording(np.zeros(10), RATE)
    for call in (lambda: recording.read(0), lambda: recording.read(None), lambda: recording.seek(-1)):
        with pytest.raises(InputError):
            call()
    for options in ({"channel": -1}, {"channel": True}, {"max_seconds": 0}, {"max_bytes": 0}, {"timeout": -1}):
        with pytest.raises(InputError):
            open_recording(np.zeros(10), RATE, **options)


class Decoded:
    """As torchcodec's decoder, which ``datasets`` gives."""

    def get_all_samples(self) -> SimpleNamespace:
        return SimpleNamespace(data=torch.from_numpy(np.stack([noise(8000)] * 2)).float(), sample_rate=8000)

    def __getitem__(self, key: str) -> object:
        return {"array": noise(8000), "sampling_rate": 8000}[key]


def test_decoders_of_datasets_and_recordings_that_are_open() -> None:
    expected = load_audio((noise(8000), 8000), RATE)
    torch.testing.assert_close(load_audio(Decoded(), RATE), expected, rtol=0, atol=1e-6)
    recording = open_recording(Decoded(), RATE)
    assert open_recording(recording, RATE) is recording
    torch.testing.assert_close(recording.read(100), expected[:100], rtol=0, atol=1e-6)
    with pytest.raises(InputError, match="another rate"):
        open_recording(recording, 8000)


def test_pyav_is_named_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(tone(48000, 0.3)[:, None], 48000, "ipod", "aac")
    with pytest.raises(InputError, match="no sound that can be read"):
        load_audio(data[: len(data) // 2], RATE)  # an index at the end is gone
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match=r"PyAV.*omniform\[video\]"):
        load_audio(data, RATE)
    monkeypatch.setitem(sys.modules, "soxr", None)
    with pytest.raises(DependencyError, match="soxr"):
        open_recording((np.zeros(9), 8000), RATE).read(1)
