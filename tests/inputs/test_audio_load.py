"""Loading sound: every form a source may take, against soundfile, soxr and the reference's own loader."""

from __future__ import annotations

import base64
import io
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
from torch import Tensor
from transformers.audio_utils import load_audio as reference_load

from omniform.core.errors import DependencyError, InputError, OmniformError, RepoError
from omniform.inputs.audio import load_audio
from omniform.inputs.media_access import MediaAccess

torch.set_num_threads(1)
RATE = 16000


def sine(hertz: float, rate: int, seconds: float = 0.5) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)


def stereo(rate: int) -> np.ndarray:
    return np.stack([sine(440, rate), 0.3 * sine(1000, rate)], axis=1)


def write(samples: np.ndarray, rate: int, form: str = "WAV", subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form, subtype=subtype)
    return file.getvalue()


def peak_hertz(wave: Tensor, rate: int) -> float:
    spectrum = torch.fft.rfft(wave * torch.hann_window(len(wave))).abs()
    return float(spectrum.argmax()) * rate / len(wave)


FORMATS = [
    ("WAV", "PCM_U8"),
    ("WAV", "PCM_16"),
    ("WAV", "PCM_24"),
    ("WAV", "PCM_32"),
    ("WAV", "FLOAT"),
    ("WAV", "DOUBLE"),
    ("WAV", "ULAW"),
    ("WAVEX", "PCM_16"),
    ("RF64", "PCM_16"),
    ("W64", "PCM_16"),
    ("FLAC", "PCM_16"),
    ("FLAC", "PCM_24"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
    ("AIFF", "PCM_16"),
    ("AU", "PCM_16"),
    ("CAF", "PCM_16"),
]


@pytest.mark.parametrize(("form", "subtype"), FORMATS, ids="-".join)
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [8000, 16000, 48000])
def test_formats(form: str, subtype: str, channels: int, rate: int, tmp_path: Path) -> None:
    samples = stereo(rate) if channels == 2 else sine(440, rate)
    path = tmp_path / f"sound.{form.lower()}"
    path.write_bytes(write(samples, rate, form, subtype))
    wave = load_audio(path, RATE)
    assert wave.dtype == torch.float32
    assert wave.ndim == 1
    np.testing.assert_array_equal(wave.numpy(), reference_load(str(path), RATE, backend="soundfile"))
    assert abs(peak_hertz(wave, RATE) - 440) <= 2.5
    assert torch.equal(wave, load_audio(path.read_bytes(), RATE))


@pytest.mark.parametrize("rate", [7999, 8000, 11025, 22050, 32000, 44100, 48000, 192000])
@pytest.mark.parametrize("wanted", [8000, 16000, 24000])
def test_resampling_is_soxr_high_quality(rate: int, wanted: int) -> None:
    samples = sine(440, rate).astype(np.float32)
    wave = load_audio((samples, rate), wanted)
    expected = samples if rate == wanted else soxr.resample(samples, rate, wanted, quality="HQ")
    assert len(wave) == -(-len(samples) * wanted // rate)
    shared = min(len(wave), len(expected))
    np.testing.assert_array_equal(wave[:shared].numpy(), expected[:shared])
    assert abs(peak_hertz(wave, wanted) - 440) <= 2.5


@pytest.mark.parametrize("samples", [1, 2, 3, 10, 4097])
@pytest.mark.parametrize("rate", [8000, 44100])
def test_resampled_lengths_of_short_sounds(samples: int, rate: int, tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    path.write_bytes(write(np.linspace(-0.5, 0.5, samples), rate, subtype="FLOAT"))
    expected = reference_load(str(path), RATE, backend="soundfile")
    np.testing.assert_array_equal(load_audio(path, RATE).numpy(), expected)


def test_longer_than_a_block_of_decoding(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).uniform(-1, 1, (200_001, 3))
    path = tmp_path / "sound.flac"
    path.write_bytes(write(samples, RATE, "FLAC", "PCM_24"))
    np.testing.assert_array_equal(load_audio(path, RATE).numpy(), reference_load(str(path), RATE, backend="soundfile"))


def test_every_kind_of_file_source(tmp_path: Path) -> None:
    data = write(sine(440, RATE), RATE)
    path = tmp_path / "sound with spaces é.wav"
    path.write_bytes(data)
    expected = load_audio(path, RATE)
    uri = "data:audio/wav;base64," + base64.b64encode(data).decode()
    mapping = {"bytes": data, "path": "elsewhere.wav"}
    for source in (str(path), data, bytearray(data), memoryview(data), io.BytesIO(data), uri, mapping):
        assert torch.equal(load_audio(source, RATE), expected)
    assert torch.equal(load_audio({"bytes": None, "path": str(path)}, RATE), expected)
    with path.open("rb") as file:
        assert torch.equal(load_audio(file, RATE), expected)


def test_every_kind_of_samples() -> None:
    samples = sine(440, RATE).astype(np.float32)
    expected = torch.from_numpy(samples)
    for source in (samples, expected, samples.tolist(), list(samples), samples.astype(np.float64)):
        assert torch.equal(load_audio(source, RATE), expected)
    for rate in (RATE, np.int64(RATE), float(RATE), torch.tensor(RATE)):
        assert torch.equal(load_audio((samples, rate), RATE), expected)
    assert torch.equal(load_audio({"array": samples, "sampling_rate": RATE, "path": None}, RATE), expected)
    assert torch.equal(load_audio({"raw": samples, "sampling_rate": RATE}, RATE), expected)
    half = load_audio((samples, RATE), 8000)
    assert torch.equal(load_audio({"raw": samples.tolist(), "sampling_rate": RATE}, 8000), half)
    assert torch.equal(load_audio((0.25, 0.5), RATE), torch.tensor([0.25, 0.5]))


def test_channels_are_averaged_whichever_way_they_lie() -> None:
    samples = stereo(RATE).astype(np.float32)
    expected = torch.from_numpy(samples.mean(axis=1))
    assert torch.equal(load_audio(samples, RATE), expected)
    assert torch.equal(load_audio((samples.T, RATE), RATE), expected)
    assert torch.equal(load_audio(torch.from_numpy(samples.T.copy()), RATE), expected)
    assert torch.equal(load_audio(samples[:, :1], RATE), torch.from_numpy(samples[:, 0].copy()))


@pytest.mark.parametrize(("dtype", "subtype"), [("int16", "PCM_16"), ("int32", "PCM_32")])
def test_integers_are_scaled_as_libsndfile_does(dtype: str, subtype: str) -> None:
    limits = np.iinfo(dtype)
    rng = np.random.default_rng(0)
    samples = np.concatenate([[limits.min, limits.max, 0, 1, -1], rng.integers(limits.min, limits.max, 1000)])
    samples = samples.astype(dtype)
    from_file = load_audio(write(samples, RATE, subtype=subtype), RATE)
    assert torch.equal(load_audio(samples, RATE), from_file)


def test_bytes_are_scaled_as_libsndfile_does() -> None:
    samples = np.arange(256, dtype=np.uint8)
    header = bytearray(write(np.zeros(256), RATE, subtype="PCM_U8"))
    header[-256:] = samples.tobytes()
    assert torch.equal(load_audio(samples, RATE), load_audio(bytes(header), RATE))
    assert torch.equal(load_audio((samples.astype(np.int16) - 128).astype(np.int8), RATE), load_audio(samples, RATE))


def nan_wav(value: float) -> bytes:
    samples = sine(440, RATE)
    samples[100] = value
    return write(samples, RATE, subtype="FLOAT")


WAV = write(sine(440, RATE), RATE)
FLAC = write(sine(440, RATE), RATE, "FLAC")

BAD_SOUNDS: dict[str, tuple[object, str]] = {
    "no bytes": (b"", "empty"),
    "empty file object": (io.BytesIO(), "empty"),
    "no samples": (write(np.zeros(0), RATE), "empty"),
    "text": (b"hello, this is not a sound at all" * 9, "no sound that can be read"),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4, "no sound that can be read"),
    "film": (b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2avc1mp41" + bytes(500), "ffmpeg"),
    "zeros": (bytes(5000), "no sound that can be read"),
    "cut in the header": (WAV[:20], "no sound that can be read"),
    "cut FLAC header": (FLAC[:30], "no sound that can be read"),
    "nan": (nan_wav(np.nan), "nan at sample 100"),
    "inf": (nan_wav(np.inf), "inf at sample 100"),
    "nan samples": ([0.0, float("nan")], "nan at sample 1"),
    "empty list": ([], "empty"),
    "empty array": (np.zeros((0, 2)), "empty"),
    "no channels": (np.zeros((5, 0)), "empty"),
    "three dimensions": (np.zeros((2, 3, 4)), "one or two dimensions"),
    "a number": (np.float32(3), "no wave"),
    "no dimension": (np.array(3.0), "one or two dimensions"),
    "square of channels": (np.zeros((100, 100)), "channels"),
    "int64": (np.arange(5), "full scale"),
    "bool": (np.array([True]), "bool"),
    "complex": (np.array([1j]), "complex"),
    "strings": (np.array(["a"]), "no wave"),
    "None": (None, "no wave"),
    "object": (object(), "no wave"),
    "no rate": ({"array": np.zeros(5)}, "sampling_rate"),
    "rate 0": ((np.zeros(5), 0), "sampling rate"),
    "rate below 0": ((np.zeros(5), -16000), "sampling rate"),
    "rate a text": ((np.zeros(5), "16000"), "sampling rate"),
    "rate a bool": ((np.zeros(5), True), "sampling rate"),
    "rate a fraction": ((np.zeros(5), 0.5), "sampling rate"),
    "rate nan": ((np.zeros(5), float("nan")), "sampling rate"),
    "rate absurd": ({"raw": np.zeros(5), "sampling_rate": 1 << 70}, "sampling rate"),
    "empty mapping": ({}, "holds no sound"),
    "odd mapping": ({"wave": 1}, "keys .'wave'"),
    "URI without data": ("data:audio/wav;base64", "no data"),
    "URI with no base64": ("data:audio/wav;base64,@@@@", "base64"),
    "URI cut": ("data:audio/wav;base64,UklGR", "base64"),
    "URI empty": ("data:audio/wav;base64,", "empty"),
    "text file": (io.StringIO("RIFF"), "binary mode"),
    "too long": ((np.zeros(100), 1), "too long"),
}


@pytest.mark.parametrize("name", BAD_SOUNDS)
def test_bad_sounds(name: str) -> None:
    source, words = BAD_SOUNDS[name]
    with pytest.raises(InputError, match=words):
        load_audio(source, RATE, max_seconds=50)


def test_what_is_said_of_garbage_is_not_where_it_lies() -> None:
    with pytest.raises(InputError, match="Format not recognised") as caught:
        load_audio(b"garbage" * 99, RATE)
    assert "0x" not in str(caught.value) and "Error opening" not in str(caught.value)


@pytest.mark.parametrize("rate", [0, -1, 1.5, "16000", None, 10**9])
def test_bad_target_rate(rate: object) -> None:
    with pytest.raises(InputError, match="sampling_rate"):
        load_audio([0.0], rate)


def test_bad_paths(tmp_path: Path) -> None:
    empty = tmp_path / "empty.wav"
    empty.touch()
    for source, error, words in (
        (tmp_path / "nothing.wav", RepoError, "no such file"),
        (str(tmp_path), RepoError, "folder"),
        ("nul\0byte.wav", RepoError, "cannot be opened"),
        ("x" * 5000, RepoError, "cannot be opened"),
        ("", RepoError, "no"),
        (empty, InputError, "empty"),
    ):
        with pytest.raises(error, match=words):
            load_audio(source, RATE)
    fifo = tmp_path / "pipe.wav"
    os.mkfifo(fifo)
    with pytest.raises(RepoError, match="pipe"):
        load_audio(fifo, RATE)


@pytest.mark.parametrize("extension", ["raw", "txt", "mp4", "wav.gz"])
def test_a_name_does_not_make_a_sound(extension: str, tmp_path: Path) -> None:
    path = tmp_path / f"sound.{extension}"
    path.write_bytes(b"not a sound " * 50)
    with pytest.raises(InputError, match="no sound that can be read"):
        load_audio(path, RATE)


def test_limits() -> None:
    with pytest.raises(InputError, match="too large"):
        load_audio(WAV, RATE, max_bytes=100)
    with pytest.raises(InputError, match="too large"):
        load_audio(io.BytesIO(WAV), RATE, max_bytes=100)
    with pytest.raises(InputError, match="too large"):
        load_audio("data:audio/wav;base64," + base64.b64encode(WAV).decode(), RATE, max_bytes=100)
    with pytest.raises(InputError, match=r"too long.*0\.5 seconds"):
        load_audio(WAV, RATE, max_seconds=0.4)
    assert len(load_audio(WAV, RATE, max_seconds=0.5, max_bytes=len(WAV))) == 8000


def test_an_absurd_length_in_the_header_costs_nothing() -> None:
    flac = bytearray(FLAC)
    # The last 36 bits before the MD5 sum in STREAMINFO are the number of samples (RFC 9639, 8.2).
    flac[21] |= 0x0F
    flac[22:26] = b"\xff\xff\xff\xff"
    with pytest.raises(InputError, match="too long"):
        load_audio(bytes(flac), RATE)


def test_too_many_channels_in_the_header() -> None:
    with pytest.raises(InputError, match="channels"):
        load_audio(write(np.zeros((10, 200)), RATE), RATE)


def test_a_cut_sound_is_refused_or_named(caplog: pytest.LogCaptureFixture) -> None:
    samples = np.random.default_rng(0).uniform(-1, 1, 50_000)
    flac, mp3 = write(samples, RATE, "FLAC"), write(samples, RATE, "MP3")
    with pytest.raises(InputError, match="no sound that can be read"):
        load_audio(flac[:100], RATE)
    with caplog.at_level(logging.WARNING, "omniform"):
        wave = load_audio(mp3[: len(mp3) // 2], RATE)
    assert 0 < len(wave) < 50_000
    assert f"{len(wave)} of 50000 samples" in caplog.text


@pytest.mark.parametrize("name", ["wav", "flac", "ogg"])
def test_mutated_files_give_sounds_or_typed_errors(name: str) -> None:
    data = write(sine(440, RATE, 0.1), RATE, name.upper())
    rng = np.random.default_rng(0)
    for _ in range(120):
        mutated = bytearray(data)
        for at in rng.integers(0, min(len(data), 100), rng.integers(1, 6)):
            mutated[at] = rng.integers(0, 256)
        try:
            wave = load_audio(bytes(mutated[: rng.integers(1, len(data) + 1)]), RATE, max_seconds=60)
        except OmniformError:
            continue
        assert wave.ndim == 1
        assert wave.isfinite().all()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/missing":
            self.send_error(404)
            return
        if self.path.startswith("/to-"):
            self.send_response(302)
            self.send_header("Location", {"/to-file": "file:///etc/hostname", "/to-sound": "/sound"}[self.path])
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        if self.path == "/drip":
            for _ in range(50):
                self.wfile.write(b"R")
                self.wfile.flush()
                time.sleep(0.05)
        elif self.path == "/sound":
            self.wfile.write(WAV)
        elif self.path == "/page":
            self.wfile.write(b"<html></html>")

    def log_message(self, format: str, *args: object) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "0")
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        server.server_close()


LOCAL = MediaAccess(hosts=["127.0.0.1"])


def test_addresses(address: str) -> None:
    expected = load_audio(WAV, RATE)
    assert torch.equal(load_audio(f"{address}/sound", RATE, media_access=LOCAL), expected)
    assert torch.equal(load_audio(f"{address}/to-sound", RATE, media_access=LOCAL), expected)


@pytest.mark.parametrize(
    ("path", "options", "error", "words"),
    [
        ("/missing", {}, RepoError, "404"),
        ("/to-file", {}, RepoError, "only http"),
        ("/page", {}, InputError, "no sound"),
        ("/nothing", {}, InputError, "empty"),
        ("/sound", {"max_bytes": 1000}, InputError, "too large"),
        ("/drip", {"timeout": 0.3}, RepoError, "seconds"),
    ],
)
def test_bad_addresses(address: str, path: str, options: dict[str, float], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        load_audio(address + path, RATE, media_access=LOCAL, **options)


@pytest.mark.parametrize("url", ["http://", "http://127.0.0.1:1/x", "https://[bad", "http://a b/c"])
def test_addresses_that_lead_nowhere(url: str, address: str) -> None:
    with pytest.raises(OmniformError, match=r"cannot be reached|malformed address"):
        load_audio(url, RATE, timeout=2, media_access=LOCAL)


@pytest.mark.parametrize("package", ["soundfile", "soxr"])
def test_a_missing_package_is_named_with_its_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DependencyError, match=rf"{package}.*omniform\[audio\]"):
        load_audio(WAV, 8000)


def test_samples_at_the_right_rate_need_no_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("soundfile", "soxr"):
        monkeypatch.setitem(sys.modules, package, None)
    assert len(load_audio((sine(440, RATE), RATE), RATE)) == 8000


def test_importing_loads_no_optional_package() -> None:
    code = (
        "import sys, omniform.inputs.audio as a; print([m for m in ('soundfile', 'soxr', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
