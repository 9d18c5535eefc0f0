"""Whisper's features against the reference library's, option by option."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor as Reference
from transformers.audio_utils import mel_filter_bank as reference_bank

from omniform.core.errors import ConfigError, InputError, UnknownArgumentError, UnknownNameError
from omniform.inputs.audio import WhisperFeatureExtractor, feature_extractor
from omniform.inputs.audio.mel import HTK, KALDI, SLANEY, MelScale, mel_filter_bank

logging.getLogger("transformers").setLevel(logging.ERROR)
torch.set_num_threads(1)
RATE = 16000


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(samples).astype(np.float32) * 0.1


def sine(samples: int, hertz: float = 440.0) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(samples) / RATE).astype(np.float32)


def clicks(samples: int) -> np.ndarray:
    wave = np.zeros(samples, np.float32)
    wave[::997] = 1.0
    return wave


def build(**settings: object) -> tuple[Reference, WhisperFeatureExtractor]:
    """Both libraries' extractor with a chunk of one second, unless told otherwise."""
    config = {"chunk_length": 1, "feature_extractor_type": "WhisperFeatureExtractor", **settings}
    ours = feature_extractor(config, where="test")
    assert isinstance(ours, WhisperFeatureExtractor)
    return Reference(**{k: v for k, v in config.items() if k != "feature_extractor_type"}), ours


def assert_same(
    reference: Reference, ours: WhisperFeatureExtractor, audio: object, *, heard: object = None, **options: object
) -> None:
    """``heard`` is what the reference is given, where that is something else."""
    torch.manual_seed(0)
    expected = reference(audio if heard is None else heard, **options)
    torch.manual_seed(0)
    found = ours(audio, **options)
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert type(found[name]) is type(value), name
        assert found[name].shape == value.shape, name
        assert found[name].dtype == value.dtype, name
        np.testing.assert_allclose(np.asarray(found[name]), np.asarray(value), rtol=0, atol=1e-5, err_msg=name)


SOUNDS = {
    "silence": np.zeros(8000, np.float32),
    "constant": np.full(8000, 0.1, np.float32),
    "clicks": clicks(8000),
    "sine": sine(8000),
    "high sine": sine(8000, 7900.0),
    "noise": noise(8000),
    "faint noise": noise(8000) * 1e-6,
    "loud noise": noise(8000) * 1e5,
    "one sample": np.array([0.5], np.float32),
    "0.1 s": noise(1600),
    "exactly a chunk": noise(16000),
    "over a chunk": noise(17001),
    "no whole number of hops": noise(8123),
    "float64": noise(8000).astype(np.float64),
    "float16": noise(8000).astype(np.float16),
    "int16": (noise(8000) * 8000).astype(np.int16),
    "int32": (noise(8000) * 8000).astype(np.int32),
    "uint8": (noise(8000) * 100 + 128).clip(0, 255).astype(np.uint8),
    "strided": noise(16000)[::2],
    "list": noise(500).tolist(),
    "tuple": tuple(noise(500).tolist()),
    "list of numpy scalars": list(noise(500)),
    "batch of arrays": [noise(8000), noise(300, 1), noise(20000, 2)],
    "batch of lists": [noise(800).tolist(), noise(300, 1).tolist()],
    "batch of int16": [(noise(800) * 8000).astype(np.int16), (noise(300) * 8000).astype(np.int16)],
    "array of rows": np.stack([noise(8000), sine(8000)]),
    "batch of one": [noise(8000)],
}


@pytest.mark.parametrize("name", SOUNDS)
@pytest.mark.parametrize(
    "options",
    [{}, {"return_attention_mask": True}, {"do_normalize": True}, {"padding": "longest", "max_length": 16000}],
    ids=str,
)
def test_every_kind_of_sound(name: str, options: dict[str, object]) -> None:
    if name == "one sample" and options.get("padding"):
        pytest.skip("too short for the reference; see test_bad_input")
    if name == "float16" and options.get("do_normalize"):
        pytest.skip("the reference normalises halves in half precision")
    reference, ours = build()
    # The reference takes integers as they are, a thousand times too loud.
    assert_same(reference, ours, SOUNDS[name], heard=as_floats(SOUNDS[name]), sampling_rate=RATE, **options)


def as_floats(sound: object) -> object:
    """Integers by their full scale."""
    if isinstance(sound, list):
        return [as_floats(one) for one in sound]
    if not isinstance(sound, np.ndarray) or sound.dtype.kind not in "iu":
        return sound
    offset, scale = {"uint8": (128, 128), "int16": (0, 2**15), "int32": (0, 2**31)}[str(sound.dtype)]
    return ((sound.astype(np.float64) - offset) / scale).astype(np.float32)


@pytest.mark.parametrize("seconds", [0.1, 30, 31])
@pytest.mark.parametrize("bands", [80, 128])
def test_the_published_settings(seconds: float, bands: int) -> None:
    reference, ours = build(chunk_length=30, feature_size=bands)
    assert_same(reference, ours, noise(int(seconds * RATE)), sampling_rate=RATE, return_attention_mask=True)
    assert (ours.n_samples, ours.nb_max_frames) == (480000, 3000)


@pytest.mark.parametrize("tensors", [None, "np", "pt"])
@pytest.mark.parametrize("padding", ["max_length", "longest", True])
@pytest.mark.parametrize("max_length", [None, 4000, 16000, 30001])
@pytest.mark.parametrize("multiple", [None, 7, 1600, 5000])
def test_lengths(tensors: str | None, padding: object, max_length: int | None, multiple: int | None) -> None:
    assert_same(
        *build(),
        [noise(8000), noise(300, 1), noise(17000, 2)],
        padding=padding,
        max_length=max_length,
        pad_to_multiple_of=multiple,
        return_tensors=tensors,
        return_attention_mask=True,
    )


@pytest.mark.parametrize("padding", [False, "do_not_pad", "longest", "max_length"])
@pytest.mark.parametrize("truncation", [True, False])
@pytest.mark.parametrize("samples", [201, 8123, 20000])
@pytest.mark.parametrize("mask", [None, False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_one_wave(padding: object, truncation: bool, samples: int, mask: bool | None, normalize: bool) -> None:
    assert_same(
        *build(),
        noise(samples),
        padding=padding,
        truncation=truncation,
        return_attention_mask=mask,
        do_normalize=normalize,
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"feature_size": 128},
        {"feature_size": 40, "n_fft": 512, "hop_length": 128},
        {"n_fft": 401, "hop_length": 100},
        {"n_fft": 256, "hop_length": 300},
        {"sampling_rate": 8000, "n_fft": 200, "hop_length": 80},
        {"sampling_rate": 22050},
        {"sampling_rate": 48000, "n_fft": 1200, "hop_length": 480},
        {"chunk_length": 3},
        {"padding_value": 0.25},
        {"padding_side": "left"},
        {"dither": 0.01},
        {"return_attention_mask": True},
        {"n_samples": 5, "nb_max_frames": 7, "mel_filters": [[0.0]], "do_normalize": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("options", [{}, {"do_normalize": True}, {"return_attention_mask": True}], ids=str)
def test_settings(settings: dict[str, object], options: dict[str, object]) -> None:
    assert_same(*build(**settings), [noise(8000), sine(5000)], **options)


@pytest.mark.parametrize("scale", [SLANEY, HTK, KALDI], ids=lambda scale: scale.name)
@pytest.mark.parametrize("equal_area", [True, False])
@pytest.mark.parametrize(("bins", "filters", "low", "high"), [(201, 80, 0.0, 8000.0), (257, 64, 50.0, 7000.0)])
def test_filter_banks(scale: MelScale, equal_area: bool, bins: int, filters: int, low: float, high: float) -> None:
    ours = mel_filter_bank(
        bins=bins, filters=filters, lowest=low, highest=high, sampling_rate=RATE, scale=scale, equal_area=equal_area
    )
    norm = "slaney" if equal_area else None
    expected = reference_bank(bins, filters, low, high, RATE, norm=norm, mel_scale=scale.name)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-9, atol=1e-12)


def test_a_silent_mel_band_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "omniform"):
        feature_extractor({"feature_extractor_type": "WhisperFeatureExtractor", "n_fft": 64}, where="x.json")
    assert "silent" in caplog.text


@pytest.mark.parametrize("audio", [torch.from_numpy(noise(800)), [torch.from_numpy(noise(800))]], ids=["one", "list"])
def test_tensors_are_waves_too(audio: object) -> None:
    _, ours = build()
    expected = ours(noise(800), return_tensors="pt").tensor("input_features")
    assert torch.equal(ours(audio, return_tensors="pt").tensor("input_features"), expected)
    batch = torch.from_numpy(np.stack([noise(800), sine(800)])).requires_grad_()
    assert ours(batch, return_tensors="pt").tensor("input_features").shape == (2, 80, 100)


@pytest.mark.parametrize("odd", [noise(800).astype(">f8"), noise(800)[::-1].copy()[::-1]], ids=["endian", "reversed"])
def test_arrays_that_torch_refuses_are_waves_too(odd: np.ndarray) -> None:
    _, ours = build()
    assert np.array_equal(ours(odd)["input_features"], ours(noise(800))["input_features"])


def test_input_is_not_changed() -> None:
    _, ours = build(dither=0.5)
    wave = noise(16000)
    ours(wave, do_normalize=True, padding=False)
    ours(wave, padding=False)
    assert np.array_equal(wave, noise(16000))


def test_num_frames_counts_the_whole_wave() -> None:
    _, ours = build()
    batch = ours([noise(1000), noise(40000)], return_token_timestamps=True, return_tensors="pt")
    assert batch.tensor("num_frames").tolist() == [6, 250]


def test_saved_by_us_loaded_by_the_reference(tmp_path: Path) -> None:
    _, ours = build(feature_size=128, dither=0.0, hop_length=200)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(ours.to_dict()))
    assert_same(Reference.from_pretrained(tmp_path), ours, noise(3000))


def test_saved_by_the_reference_loaded_by_us(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    reference, _ = build(feature_size=128, padding_value=0.1)
    reference.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "preprocessor_config.json").read_text())
    with caplog.at_level(logging.WARNING, "omniform"):
        ours = feature_extractor(config, where="x")
    assert not caplog.records
    assert ours.to_dict() == config
    assert isinstance(ours, WhisperFeatureExtractor)
    assert_same(reference, ours, noise(3000))
    for name, value in config.items():
        if name != "feature_extractor_type":
            assert vars(ours)[name] == value
    assert list(ours.model_input_names) == reference.model_input_names


def test_unknown_keys_are_kept_and_named_once(caplog: pytest.LogCaptureFixture) -> None:
    config = {"feature_extractor_type": "WhisperFeatureExtractor", "colour": [1, {"a": None}], "zeal": 2}
    with caplog.at_level(logging.WARNING, "omniform"):
        ours = feature_extractor(config, where="x.json")
    assert ours.to_dict() == config
    assert len(caplog.records) == 1
    for word in ("x.json", "colour", "zeal"):
        assert word in caplog.text


def test_a_file_without_a_type_is_what_the_caller_assumes() -> None:
    ours = feature_extractor({"feature_size": 128}, where="x", assume="WhisperFeatureExtractor")
    assert ours.feature_size == 128
    assert ours.to_dict()["feature_extractor_type"] == "WhisperFeatureExtractor"


BAD_CONFIGS = [
    ({"feature_size": 0}, "feature_size"),
    ({"feature_size": "80"}, "feature_size"),
    ({"feature_size": 10**9}, "feature_size"),
    ({"n_fft": 1}, "n_fft"),
    ({"n_fft": 2**40}, "n_fft"),
    ({"hop_length": 0}, "hop_length"),
    ({"hop_length": -160}, "hop_length"),
    ({"hop_length": 16001, "chunk_length": 1}, "chunk_length"),
    ({"sampling_rate": 6}, "chunk_length"),
    ({"hop_length": 1.5}, "hop_length"),
    ({"chunk_length": 10**9}, "chunk_length"),
    ({"chunk_length": None, "sampling_rate": 10**12}, "sampling_rate"),
    ({"sampling_rate": True}, "sampling_rate"),
    ({"sampling_rate": [16000]}, "sampling_rate"),
    ({"padding_value": "0"}, "padding_value"),
    ({"padding_value": float("nan")}, "padding_value"),
    ({"padding_side": "middle"}, "padding_side"),
    ({"return_attention_mask": "yes"}, "return_attention_mask"),
    ({"dither": {}}, "dither"),
    ({"feature_extractor_type": None}, "feature_extractor_type"),
    ({"feature_extractor_type": 3}, "feature_extractor_type"),
]


@pytest.mark.parametrize(("changes", "word"), BAD_CONFIGS, ids=str)
def test_bad_config(changes: dict[str, object], word: str) -> None:
    with pytest.raises(ConfigError, match=word) as caught:
        feature_extractor({"feature_extractor_type": "WhisperFeatureExtractor", **changes}, where="some/file.json")
    assert "some/file.json" in str(caught.value)


def test_unknown_type_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'WhisperFeatureExtractor'"):
        feature_extractor({"feature_extractor_type": "WisperFeatureExtractor"}, where="x")


BAD_CALLS = [
    (noise(800), {"sampling_rate": 8000}, "16000 Hz; found 8000 Hz"),
    (noise(1), {"padding": False}, "at least 201"),
    (noise(200), {"padding": "longest"}, "at least 201"),
    (noise(800), {"padding": "longst"}, "Did you mean 'longest'"),
    (noise(800), {"padding": None}, "padding"),
    (noise(800), {"max_length": 0}, "max_length"),
    (noise(800), {"max_length": "8"}, "max_length"),
    (noise(800), {"pad_to_multiple_of": -1}, "pad_to_multiple_of"),
    (noise(800), {"return_tensors": "tf"}, "return_tensors"),
    ([noise(800), noise(900)], {"padding": False}, "800, 900"),
    ([noise(80000), noise(900)], {"truncation": False}, "80000, 16000"),
    ([], {}, "empty list"),
    ([[]], {}, r"audio\[0\]"),
    (np.zeros(0), {}, "empty"),
    (np.zeros((0, 5)), {}, "no sound"),
    (np.zeros((2, 0)), {}, "empty"),
    (np.zeros((2, 5, 1)), {}, "one dimension"),
    ([np.zeros((5, 2))], {}, "mono"),
    (np.float32(1.0), {}, "no wave"),
    (None, {}, "NoneType"),
    ("speech.wav", {}, "load_audio"),
    (b"RIFF", {}, "load_audio"),
    ({"array": noise(8)}, {}, "load_audio"),
    (np.array(["a"]), {}, "no wave"),
    (np.array([None]), {}, "no wave"),
    (noise(8) + 1j, {}, "complex"),
    (noise(8) > 0, {}, "bool"),
    ([0.1, "b"], {}, "no wave"),
    (np.array([0.0, np.nan]), {}, "nan at sample 1"),
    ([noise(8), np.array([0.0, 0.0, -np.inf])], {}, r"audio\[1\].*-inf at sample 2"),
    (np.array([1e300]), {}, "inf at sample 0"),
]


@pytest.mark.parametrize(("audio", "options", "words"), BAD_CALLS, ids=lambda value: str(value)[:30])
def test_bad_input(audio: object, options: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        build()[1](audio, **options)


def test_a_hop_longer_than_the_sound() -> None:
    with pytest.raises(InputError, match="at least 2000"):
        build(hop_length=2000)[1](noise(1999), padding=False)
    assert build(hop_length=2000)[1](noise(2000), padding=False)["input_features"].shape == (1, 80, 1)


def test_unknown_argument_suggests_the_nearest() -> None:
    with pytest.raises(UnknownArgumentError, match="Did you mean 'truncation'"):
        build()[1](noise(800), truncatoin=True)


def test_finite_samples_whose_sum_overflows_are_fine() -> None:
    wave = np.full(8, 3e38, np.float32)
    assert build()[1](wave)["input_features"].shape == (1, 80, 100)
