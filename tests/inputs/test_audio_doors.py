"""One door for sounds: the same samples in every form, and what a collate function makes of their features."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import SequenceFeatureExtractor

from omniform.core.batch import Batch
from omniform.core.errors import InputError, OmniformError, RepoError
from omniform.inputs.audio import FeatureExtractor, WhisperFeatureExtractor, load_audio
from omniform.inputs.media_access import MediaAccess

RATE = 16000
WAVE = (np.sin(np.arange(3000) / 20) * 0.3 * (1 + np.arange(3000) / 3000)).astype(np.float32)
EXTRACT = WhisperFeatureExtractor({"chunk_length": 1})
INTEGERS = {"int16": (32768, 0), "int32": (2**31, 0), "int8": (128, 0), "uint8": (128, 128)}


def integers(kind: str) -> np.ndarray:
    scale, offset = INTEGERS[kind]
    return np.round(WAVE.astype(np.float64) * scale + offset).astype(kind)


@pytest.mark.parametrize("kind", INTEGERS)
def test_integers_mean_the_same_sound_everywhere(kind: str, tmp_path: Path) -> None:
    scale, offset = INTEGERS[kind]
    whole = integers(kind)
    floats = ((whole.astype(np.float64) - offset) / scale).astype(np.float32)
    assert np.abs(floats - WAVE).max() <= 1 / scale
    features = EXTRACT(floats, sampling_rate=RATE)["input_features"]
    doors: dict[str, Callable[[], object]] = {
        "array": lambda: whole,
        "tensor": lambda: torch.from_numpy(whole),
        "list of numbers": lambda: list(whole),
        "other byte order": lambda: whole.astype(whole.dtype.newbyteorder(">")),
        "strided": lambda: whole[::-1].copy()[::-1],
    }
    for door, sound in doors.items():
        assert np.array_equal(load_audio(sound(), RATE), floats), door
        assert np.array_equal(load_audio((sound(), np.int64(RATE)), RATE), floats), door
        for key in ("array", "raw"):
            assert np.array_equal(load_audio({key: sound(), "sampling_rate": RATE}, RATE), floats), door
        assert np.array_equal(EXTRACT(sound(), sampling_rate=RATE)["input_features"], features), door
        assert np.array_equal(EXTRACT([sound()])["input_features"], features), door
    stacked = EXTRACT(np.stack([whole, whole]))["input_features"]
    assert np.array_equal(stacked, np.concatenate([features, features]))
    stereo = load_audio((np.stack([whole, whole], axis=1), RATE), RATE)
    assert np.array_equal(stereo, floats)


def test_files_are_read_from_their_start(tmp_path: Path) -> None:
    path = tmp_path / "a sound.wav"
    soundfile.write(path, WAVE, RATE, subtype="FLOAT")
    data = path.read_bytes()
    with path.open("rb") as file:
        file.read()
        ended = io.BytesIO(data)
        ended.seek(0, io.SEEK_END)
        for source in (
            path,
            str(path),
            path.as_uri(),
            data,
            memoryview(data),
            file,
            ended,
            {"bytes": memoryview(data)},
        ):
            assert np.array_equal(load_audio(source, RATE), WAVE)
    half = load_audio(path, 8000)
    for source in ((WAVE, RATE), (WAVE.tolist(), torch.tensor(RATE)), {"array": WAVE, "sampling_rate": float(RATE)}):
        assert torch.equal(load_audio(source, 8000), half)


def test_only_files_within_the_roots_are_heard(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    for name in ("root/x.wav", "y.wav"):
        soundfile.write(tmp_path / name, WAVE, RATE)
    (tmp_path / "root" / "link.wav").symlink_to(tmp_path / "y.wav")
    access = MediaAccess(roots=[tmp_path / "root"], urls="none")
    inside = tmp_path / "root" / "x.wav"
    for good in (inside, str(inside), inside.as_uri(), {"path": str(inside)}, access.admit(inside)):
        assert len(load_audio(good, RATE, media_access=access)) == len(WAVE)
    for bad in (
        tmp_path / "y.wav",
        f"{tmp_path}/root/../y.wav",
        tmp_path / "root" / "link.wav",
        "/nowhere",
        "http://x.org/",
    ):
        for read in (access.admit, lambda source: load_audio(source, RATE, media_access=access)):
            with pytest.raises(RepoError, match=r"may not be read|not read here"):
                read(bad)


def test_private_addresses_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    for url in ("http://127.0.0.1:9/x.wav", "http://2130706433:9/", "HTTP://[::ffff:10.0.0.1]/"):
        with pytest.raises(RepoError, match="not a public one"):
            load_audio(url, RATE)
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "1")
    with pytest.raises(RepoError, match="TRANSFORMERS_OFFLINE"):
        load_audio("http://127.0.0.1:9/x.wav", RATE, media_access=MediaAccess(urls="any"))


REFUSED = {
    "int64": (np.arange(9), "full scale"),
    "uint16": (np.full(9, 40000, np.uint16), "full scale"),
    "list of whole numbers": ([0, 5000, -5000], "full scale"),
    "uint64": (np.full(9, 2**63, np.uint64), "full scale"),
    "sparse": (torch.zeros(9).to_sparse(), "no wave"),
    "float8": (torch.zeros(9, dtype=torch.float8_e4m3fn), "no wave"),
    "meta": (torch.zeros(9, device="meta"), "no wave"),
    "objects": (np.array([object()]), "no wave"),
    "huge": ([10**400], "no wave"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_one_refusal_in_the_same_words(name: str) -> None:
    sound, words = REFUSED[name]
    for read in (EXTRACT, lambda given: load_audio(given, RATE)):
        with pytest.raises(InputError, match=words):
            read(sound)


def test_few_whole_numbers_and_channels() -> None:
    silence = EXTRACT([0.0] * 500)["input_features"]
    for zeros in ([0] * 500, np.zeros(500, np.int64)):
        assert np.array_equal(EXTRACT(zeros)["input_features"], silence)
    with pytest.raises(InputError, match=r"channels.*load_audio"):
        EXTRACT(np.zeros((4000, 2)))


def test_floats_off_the_scale_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "omniform")
    loud = integers("int16").astype(np.float32)
    for read in (EXTRACT, lambda waves: load_audio(waves[0], RATE)):
        caplog.clear()
        read([loud, loud])
        assert len(caplog.records) == 1 and "-1 to 1" in caplog.text
        caplog.clear()
        read([WAVE * 3, WAVE])
        assert not caplog.records


# -- pad --------------------------------------------------------------------------------------------------------------


class Theirs(SequenceFeatureExtractor):
    model_input_names = ("input_values",)


class Ours(FeatureExtractor):
    type_name = "Ours"
    model_input_names = ("input_values",)
    feature_size_default = 1
    mask_default = True

    def _read(self, r: object) -> None:
        pass

    def __call__(self, audio: object, **options: object) -> Batch:  # type: ignore[override]
        return Batch({"input_values": audio})


LENGTHS = (5, 9, 2)


def examples(size: int, kind: type) -> list[object]:
    rng = np.random.default_rng(0)
    values = [rng.random((n, size) if size > 1 else n) for n in LENGTHS]
    if kind is list:
        return [value.tolist() for value in values]
    return [torch.from_numpy(value) if kind is torch.Tensor else value.astype(np.float32) for value in values]


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("kind", [list, np.ndarray, torch.Tensor])
@pytest.mark.parametrize("side", ["left", "right"])
def test_pad_is_the_references(size: int, kind: type, side: str) -> None:
    settings = {"feature_size": size, "sampling_rate": 16000, "padding_value": -0.5, "padding_side": side}
    theirs, ours = Theirs(**settings), Ours(settings)
    for forms in ("mapping", "list", "masked"):
        for options in (
            {}, {"padding": "longest"}, {"padding": "max_length", "max_length": 12}, {"pad_to_multiple_of": 4},
            {"padding": "max_length", "max_length": 6, "truncation": True},
            {"padding": True, "max_length": 6, "truncation": True, "pad_to_multiple_of": 4},
            {"padding": False, "max_length": 2, "truncation": True}, {"return_attention_mask": False},
            {"return_tensors": "pt"}, {"return_tensors": "np", "return_attention_mask": True},
        ):  # fmt: skip
            if forms == "masked" and "return_attention_mask" in options:
                continue  # the reference leaves the mask ragged
            expected, found = (one.pad(given(size, kind, forms), **options) for one in (theirs, ours))
            assert list(found) == list(expected)
            for name, value in expected.items():
                assert type(found[name]) is type(value) and found[name].dtype == value.dtype, name
                np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(value))


def given(size: int, kind: type, forms: str) -> object:
    values = examples(size, kind)
    if forms == "list":
        return [{"input_values": value, "label": i} for i, value in enumerate(values)]
    data = {"input_values": values}
    if forms == "masked":
        data["attention_mask"] = [np.ones(n, np.int64) for n in LENGTHS]
    return data


def test_pad_of_whispers_features() -> None:
    from transformers import WhisperFeatureExtractor as Reference

    theirs = Reference(chunk_length=1)
    features = [EXTRACT(WAVE)["input_features"][0], EXTRACT(WAVE[:500])["input_features"][0]]
    for form in ({"input_features": features}, [{"input_features": one} for one in features]):
        expected, found = theirs.pad(form, return_tensors="pt"), EXTRACT.pad(form, return_tensors="pt")
        assert list(found) == list(expected) and torch.equal(found["input_features"], expected["input_features"])
    assert EXTRACT.pad({"input_features": []}) == {"input_features": []}


BAD_PADS = [
    ({"wrong": [[0.0]]}, {}, "input_features"),
    ([], {}, "no features"),
    (None, {}, "no features"),
    ([1, 2], {}, "a mapping"),
    ([{"input_features": [0.0]}, {}], {}, "different entries"),
    ({"input_features": [0.0, 1.0]}, {}, "list"),
    ({"input_features": 3}, {}, "no examples"),
    ({"input_features": [["a"]]}, {}, "no numbers"),
    ({"input_features": [[object()]]}, {}, "no numbers"),
    ({"input_features": [[0.0]], "other": [1, 2]}, {}, "each example"),
    ({"input_features": [[0.0], [0.0, 1.0]]}, {"padding": False}, "different shapes"),
    ({"input_features": [[0.0]]}, {"padding": "max_length"}, "max_length"),
    ({"input_features": [[0.0]]}, {"truncation": True}, "max_length"),
    ({"input_features": [[0.0]]}, {"return_tensors": "tf"}, "return_tensors"),
]


@pytest.mark.parametrize(("features", "options", "words"), BAD_PADS, ids=lambda v: v if isinstance(v, str) else None)
def test_bad_pads(features: object, options: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        EXTRACT.pad(features, **options)  # type: ignore[arg-type]


# -- values of other kinds --------------------------------------------------------------------------------------------


class Foreign:
    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no")

    def __bool__(self) -> bool:
        raise RuntimeError("no")

    def __repr__(self) -> str:
        raise RuntimeError("no")

    __hash__ = None  # type: ignore[assignment]


ODD = {
    "None": None, "NaN": float("nan"), "inf": float("inf"), "negative": -3, "zero": 0, "true": True, "text": "x" * 3000,
    "bytes": b"x", "tuple": (), "pair": (1, 2), "dict": {}, "object": object(), "foreign": Foreign(), "class": Path,
    "numpy scalar": np.float32(3), "numpy int": np.int64(3), "array": np.zeros((2, 2)), "tensor": torch.zeros(3),
    "0-d": torch.tensor(3), "list": [1, None], "set": {1}, "function": len, "big": 10**30,
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_values_of_other_kinds(name: str) -> None:
    value = ODD[name]
    calls: list[Callable[[], object]] = [
        lambda: WhisperFeatureExtractor(value),
        lambda: EXTRACT(value),
        lambda: EXTRACT([value]),
        lambda: load_audio(value, RATE),
        lambda: load_audio({"array": value, "sampling_rate": RATE}, RATE),
        lambda: load_audio({"bytes": value, "path": value}, RATE),
        lambda: load_audio((WAVE, value), RATE),
        lambda: load_audio(WAVE, value),
        lambda: EXTRACT.pad(value),
        lambda: EXTRACT.pad({"input_features": value}),
    ]
    for option in ("max_bytes", "max_seconds", "timeout", "media_access"):
        calls.append(lambda option=option: load_audio((WAVE, RATE), RATE, **{option: value}))
    for option in (
        "sampling_rate", "padding", "max_length", "truncation", "pad_to_multiple_of", "return_attention_mask",
        "return_token_timestamps", "do_normalize", "return_tensors", "device",
    ):  # fmt: skip
        if not (option in ("max_length", "pad_to_multiple_of") and name == "big"):
            calls.append(lambda option=option: EXTRACT(WAVE, **{option: value}))
    for option in (
        "padding", "max_length", "truncation", "pad_to_multiple_of", "return_attention_mask", "return_tensors",
    ):  # fmt: skip
        calls.append(lambda option=option: EXTRACT.pad({"input_features": [[0.0]]}, **{option: value}))
    for key in () if name == "foreign" else ("feature_size", "sampling_rate", "padding_side", "hop_length", "dither"):
        calls.append(lambda key=key: WhisperFeatureExtractor({key: value}))
    for call in calls:
        try:
            call()
        except OmniformError as error:
            assert len(str(error)) < 2000
