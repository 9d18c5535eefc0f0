"""Every feature extractor of waves against the reference's, option by option, on odd sounds."""

from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import omniform
from omniform.core.errors import ConfigError, InputError, UnknownArgumentError
from omniform.inputs.audio import FEATURE_EXTRACTORS, FeatureExtractor, feature_extractor
from omniform.models.index import FEATURE_EXTRACTORS as OF_FAMILIES
from reference import transformers

logging.getLogger("transformers").setLevel(logging.ERROR)
torch.set_num_threads(1)
RATE = 16000
# Those two have tests of their own (Phi-4's takes arrays alone in the reference).
OTHERS = sorted(set(FEATURE_EXTRACTORS) - {"WhisperFeatureExtractor", "Phi4MultimodalFeatureExtractor"})


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(samples).astype(np.float32) * 0.1


def sine(samples: int, hertz: float = 440.0) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(samples) / RATE).astype(np.float32)


def clicks(samples: int) -> np.ndarray:
    wave = np.zeros(samples, np.float32)
    wave[::997] = 1.0
    return wave


# Small, so that the reference, which takes frame by frame, is fast.
SMALL: dict[str, dict[str, object]] = {
    "ClapFeatureExtractor": {"sampling_rate": RATE, "max_length_s": 1, "frequency_max": 7000, "hop_length": 160},
    "ASTFeatureExtractor": {"max_length": 60},
}


def build(name: str, **settings: object) -> tuple[object, FeatureExtractor]:
    config = {**SMALL.get(name, {}), **settings}
    return getattr(transformers, name)(**config), feature_extractor(
        {"feature_extractor_type": name, **config}, where="test"
    )


def arrays(value: object) -> list[np.ndarray]:
    """One array for each sound."""
    return [np.asarray(row) for row in value]


def assert_same(name: str, audio: object, settings: dict[str, object] | None = None, **options: object) -> None:
    reference, ours = build(name, **(settings or {}))
    np.random.seed(0)
    expected = reference(audio, **options)
    np.random.seed(0)
    found = ours(audio, **options)
    assert set(found) == set(expected)
    for key, value in expected.items():
        kind = list if isinstance(value, np.ndarray) and value.dtype == object else type(value)
        assert type(found[key]) is kind, key
        assert len(found[key]) == len(value), key
        for mine, theirs in zip(arrays(found[key]), arrays(value), strict=True):
            assert mine.shape == theirs.shape, key
            assert mine.dtype == theirs.dtype, key
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5, err_msg=key)


SOUNDS = {
    "silence": np.zeros(8000, np.float32),
    "clicks": clicks(8000),
    "sine": sine(8000),
    "noise": noise(8123),
    "faint noise": noise(8000) * 1e-6,
    "loud noise": noise(8000) * 20,
    "over": noise(20_011),
    "far over": noise(40_000),
    "exactly a second": noise(16_000),
    "a sample over": noise(16_001),
    "float64": noise(8000).astype(np.float64),
    "strided": noise(16000)[::2],
    "list": noise(1500).tolist(),
    "batch": [noise(8000), noise(3000, 1), noise(20_000, 2)],
    "batch of lists": [noise(800).tolist(), noise(3000, 1).tolist()],
    "batch of one": [noise(5000)],
    "shortest": noise(561),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("sound", SOUNDS)
def test_every_kind_of_sound(name: str, sound: str) -> None:
    if name == "Speech2TextFeatureExtractor" and sound == "silence":
        return  # the reference divides by no deviation; see test_short_sounds_are_right_or_refused
    rate = {"EncodecFeatureExtractor": 24000}.get(name, RATE)
    assert_same(name, SOUNDS[sound], sampling_rate=rate, return_tensors=None)
    if len(SOUNDS[sound]) != 3:
        assert_same(name, SOUNDS[sound], padding=True, return_tensors="np")
    else:
        assert_same(name, SOUNDS[sound], padding=True, return_tensors="pt")


SETTINGS: dict[str, list[dict[str, object]]] = {
    "Wav2Vec2FeatureExtractor": [
        {"do_normalize": False},
        {"return_attention_mask": True, "padding_value": 0.5},
        {"padding_side": "left", "return_attention_mask": True},
        {"do_normalize": False, "padding_side": "left", "padding_value": -1.0},
    ],
    "SpeechT5FeatureExtractor": [
        {"do_normalize": True},
        {"return_attention_mask": False, "padding_value": 0.5},
        {"padding_side": "left"},
    ],
    "ASTFeatureExtractor": [
        {"num_mel_bins": 64},
        {"do_normalize": False},
        {"max_length": 33, "mean": 1.5, "std": 0.5},
        {"sampling_rate": 8000},
        {"return_attention_mask": True, "padding_value": 3.0},
    ],
    "ClapFeatureExtractor": [
        {"truncation": "rand_trunc"},
        {"truncation": "rand_trunc", "padding": "repeat"},
        {"padding": "pad", "top_db": 80},
        {"padding": "repeat", "hop_length": 200, "fft_window_size": 512},
        {"frequency_min": 50, "frequency_max": 6000},
        {"truncation": "rand_trunc", "feature_size": 32},
    ],
    "SeamlessM4TFeatureExtractor": [
        {"stride": 3},
        {"num_mel_bins": 40},
        {"padding_value": 1.0},
        {"padding_side": "left"},
        {"return_attention_mask": False},
    ],
    "Speech2TextFeatureExtractor": [
        {"do_ceptral_normalize": False},
        {"normalize_means": False},
        {"normalize_vars": False, "padding_value": 2.0},
        {"dither": 1.0},
        {"num_mel_bins": 40, "feature_size": 40, "return_attention_mask": False},
    ],
    "EncodecFeatureExtractor": [
        {"chunk_length_s": 0.1, "overlap": 0.01},
        {"chunk_length_s": 0.1, "overlap": 0.5, "padding_value": 0.25},
        {"chunk_length_s": 0.1},
        {"padding_side": "left"},
    ],
    "DacFeatureExtractor": [{"hop_length": 320}, {"padding_value": 0.5}, {"sampling_rate": 44100}],
}
CALLS: list[dict[str, object]] = [
    {},
    {"padding": True},
    {"padding": "max_length", "max_length": 60},
    {"padding": True, "truncation": True, "max_length": 21},
    {"padding": True, "pad_to_multiple_of": 7, "return_attention_mask": True},
    {"padding": True, "return_attention_mask": False},
]


def takes(name: str, call: dict[str, object]) -> dict[str, object] | None:
    """The call as this extractor takes it; None if it does not."""
    waves = name.startswith(("Wav2", "SpeechT5", "Encodec", "Dac"))
    if name.startswith(("Encodec", "Dac")) and call.keys() - {"padding", "max_length"}:
        return None
    if name.startswith("Clap") and "max_length" in call:
        return None  # see test_clap_call_arguments
    if name == "Speech2TextFeatureExtractor" and call.get("return_attention_mask") is False:
        return None  # the reference fails
    if waves and call.get("padding") == "max_length":
        return {**call, "max_length": 9000}
    return call


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("call", CALLS, ids=str)
def test_settings_and_calls(name: str, call: dict[str, object]) -> None:
    taken = takes(name, call)
    if taken is None:
        return
    audio = [noise(8000), noise(4321, 1)]
    for settings in [{}, *SETTINGS[name]]:
        if settings.get("padding_side") == "left" and name in ("Speech2TextFeatureExtractor",):
            continue
        assert_same(name, audio, settings, **taken)


@pytest.mark.parametrize("settings", [{}, {"chunk_length_s": 0.1, "overlap": 0.1}], ids=str)
def test_codecs_cut_and_hear_two_channels(settings: dict[str, object]) -> None:
    stereo = [np.stack([noise(8000), noise(8000, 1)]), np.stack([noise(4000, 2), noise(4000, 3)])]
    for options in ({}, {"padding": False}, {"max_length": 9000, "padding": "max_length"}):
        assert_same("EncodecFeatureExtractor", stereo, {**settings, "feature_size": 2}, **options)
        assert_same("EncodecFeatureExtractor", stereo[0], {**settings, "feature_size": 2}, **options)
    if settings:
        assert_same("EncodecFeatureExtractor", [noise(8000), noise(5000)], settings, truncation=True, padding=False)
    for name in ("EncodecFeatureExtractor", "DacFeatureExtractor"):
        assert_same(name, [noise(8000), noise(5000)], truncation=True, padding=False, max_length=2048)
        with pytest.raises(InputError, match="pads or cuts"):
            build(name)[1](noise(800), padding=True, truncation=True)
    with pytest.raises(InputError, match="number of channels"):
        build("EncodecFeatureExtractor", feature_size=2)[1]([noise(800)])
    with pytest.raises(ConfigError, match="feature_size"):
        build("DacFeatureExtractor", feature_size=1)[1] and feature_extractor(
            {"feature_extractor_type": "DacFeatureExtractor", "feature_size": 2}
        )


@pytest.mark.parametrize("truncation", ["fusion", "rand_trunc"])
@pytest.mark.parametrize("padding", ["repeatpad", "repeat", "pad", True])
def test_clap_call_arguments(truncation: str, padding: object) -> None:
    audio = [noise(16_500), noise(30_000, 1), noise(3000, 2), noise(16_100, 3)]
    assert_same("ClapFeatureExtractor", audio, truncation=truncation, padding=padding)
    assert_same("ClapFeatureExtractor", audio, truncation=truncation, padding=padding, max_length=9000)


SPEECHT5 = [
    {},
    {"num_mel_bins": 40, "fmin": 0, "fmax": 8000, "mel_floor": 1e-5},
    {"hop_length": 10, "win_length": 25, "win_function": "hamming_window"},
    {"sampling_rate": 22050},
]


@pytest.mark.parametrize("settings", SPEECHT5, ids=str)
@pytest.mark.parametrize("call", [{}, {"padding": True}, {"padding": "max_length", "max_length": 40}], ids=str)
def test_what_speecht5_is_to_speak(settings: dict[str, object], call: dict[str, object]) -> None:
    reference, ours = build("SpeechT5FeatureExtractor", **settings)
    target = [noise(5000), sine(8123), np.zeros(3000, np.float32), noise(700)]
    for given in ({"audio_target": target}, {"audio": target, "audio_target": target}, {"audio_target": noise(900)}):
        expected, found = reference(**given, **call), ours(**given, **call)
        assert set(found) == set(expected)
        for key, value in expected.items():
            for mine, theirs in zip(arrays(found[key]), arrays(value), strict=True):
                assert mine.shape == theirs.shape
                assert mine.dtype == theirs.dtype
                np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5)
    with pytest.raises(InputError, match="neither"):
        ours()


@pytest.mark.parametrize("name", OTHERS)
def test_integers_tensors_and_batches_mean_the_same_sound(name: str) -> None:
    ours = build(name)[1]
    whole = (noise(4000) * 8000).astype(np.int16)
    floats = whole.astype(np.float32) / 32768

    def heard(audio: object) -> np.ndarray:
        np.random.seed(0)
        return np.asarray(ours(audio, return_tensors="np")[ours.model_input_names[0]])

    expected = heard(floats)
    for sound in (whole, torch.from_numpy(whole), torch.from_numpy(floats), list(whole), [whole], floats[None]):
        assert np.array_equal(heard(sound), expected)
    wide = whole.astype(np.int32) << 16
    np.testing.assert_allclose(heard(wide), expected, atol=1e-5)
    kept = floats.copy()
    heard(floats)
    assert np.array_equal(floats, kept)


@pytest.mark.parametrize("name", sorted(FEATURE_EXTRACTORS))
def test_bad_sounds_and_calls(name: str) -> None:
    ours = build(name)[1]
    cases = [
        (noise(900), {"sampling_rate": 11025}, "another sampling rate"),
        (np.zeros(0), {}, "empty"),
        ([], {}, "empty list"),
        (np.full(900, np.nan), {}, "not finite"),
        ([noise(900), np.append(noise(900), np.inf)], {}, r"audio\[1\].*inf at sample 900"),
        ("speech.wav", {}, "load_audio"),
        (None, {}, "no wave|neither"),
        (noise(900).astype(np.int64) + 5, {}, "full scale"),
        (noise(900), {"return_tensors": "tf"}, "return_tensors"),
        (noise(900) + 1j, {}, "complex"),
    ]
    for audio, options, words in cases:
        with pytest.raises(InputError, match=words):
            ours(audio, **options)
    with pytest.raises((UnknownArgumentError, TypeError), match="sampling_rat"):
        ours(noise(900), sampling_rat=16000)


@pytest.mark.parametrize("name", OTHERS)
def test_short_sounds_are_right_or_refused(name: str) -> None:
    ours = build(name)[1]
    kaldi = name.startswith(("AST", "Seamless", "Speech2"))
    for samples in (1, 2, 399, 400, 560):
        audio = np.full(samples, 0.25, np.float32)
        if kaldi and samples < 400:
            with pytest.raises(InputError, match="at least 400 samples"):
                ours(audio)
        else:
            batch = ours(audio, return_tensors="pt")
            assert all(torch.isfinite(value.float()).all() for value in batch.values())


@pytest.mark.parametrize("name", OTHERS)
def test_files_of_either_library(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    changes = {key: value for key, value in SETTINGS[name][0].items() if key != "do_ceptral_normalize"}
    reference = build(name, **changes)[0]
    reference.save_pretrained(tmp_path / "theirs")
    file = json.loads((tmp_path / "theirs/preprocessor_config.json").read_text())
    with caplog.at_level(logging.WARNING, "omniform"):
        loaded = omniform.AutoFeatureExtractor.from_pretrained(tmp_path / "theirs", padding_value=0.125)
        again = vars(omniform)["__getattr__"](name).from_pretrained(tmp_path / "theirs")
    assert not caplog.records
    assert type(loaded) is type(again) is FEATURE_EXTRACTORS[name]
    assert loaded.padding_value == 0.125
    assert again.to_dict() == file
    for key, value in file.items():
        if key not in ("feature_extractor_type", "return_attention_mask"):
            assert getattr(again, key) == value or key in ("top_db", "nb_max_samples"), key
    again.save_pretrained(tmp_path / "ours")
    back = getattr(transformers, name).from_pretrained(tmp_path / "ours")
    ours_features = pickle.loads(pickle.dumps(again))
    np.random.seed(0)
    expected = back(noise(3000), return_tensors="np")
    np.random.seed(0)
    found = ours_features(noise(3000), return_tensors="np")
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-5, atol=1e-5)
    assert list(again.model_input_names) == back.model_input_names
    kind = FEATURE_EXTRACTORS[name]
    for call in (omniform.AutoFeatureExtractor.from_pretrained, kind.from_pretrained):
        with pytest.raises(UnknownArgumentError, match="colour"):
            call(tmp_path / "theirs", colour=1)
    made = kind.from_dict(file, padding_value=0.5)
    assert made.padding_value == made.to_dict()["padding_value"] == 0.5
    with pytest.raises(UnknownArgumentError, match="colour"):
        kind.from_dict(file, colour=1)
    assert kind.from_dict(file, colour=1, return_unused_kwargs=True)[1] == {"colour": 1}
    # Attributes that are set afterwards are saved, as in the reference.
    made.padding_side = "left"
    assert kind(made.to_dict()).padding_side == "left"


PUBLISHED = [
    {
        "chunk_length_s": 10, "feature_extractor_type": "ClapFeatureExtractor", "feature_size": 64,
        "fft_window_size": 1024, "frequency_max": 14000, "frequency_min": 0, "hop_length": 480, "max_length_s": 10,
        "n_fft": 1024, "nb_frequency_bins": 513, "nb_max_samples": 480000, "padding": "repeatpad",
        "padding_side": "right", "padding_value": 0.0, "processor_class": "ClapProcessor",
        "return_attention_mask": False, "sampling_rate": 48000, "top_db": None, "truncation": "fusion",
    },
    {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor", "do_normalize": True, "feature_dim": 1,
        "padding_side": "right", "padding_value": 0.0, "sampling_rate": 16000,
    },
    {
        "do_normalize": False, "feature_extractor_type": "SpeechT5FeatureExtractor", "feature_size": 1, "fmax": 7600,
        "fmin": 80, "frame_signal_scale": 1.0, "hop_length": 16, "mel_floor": 1e-10, "num_mel_bins": 80,
        "padding_side": "right", "padding_value": 0.0, "processor_class": "SpeechT5Processor", "reduction_factor": 2,
        "return_attention_mask": True, "sampling_rate": 16000, "win_function": "hann_window", "win_length": 64,
    },
    {
        "feature_extractor_type": "SeamlessM4TFeatureExtractor", "feature_size": 80, "num_mel_bins": 80,
        "padding_side": "right", "padding_value": 1, "return_attention_mask": True, "sampling_rate": 16000, "stride": 2,
    },
    {
        "chunk_length_s": 1.0, "feature_extractor_type": "EncodecFeatureExtractor", "feature_size": 2,
        "overlap": 0.01, "padding_side": "right", "padding_value": 0.0, "return_attention_mask": True,
        "sampling_rate": 48000,
    },
]  # fmt: skip


@pytest.mark.parametrize("file", PUBLISHED, ids=lambda file: str(file["feature_extractor_type"]))
def test_published_files_are_read_without_a_word(file: dict[str, object], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "omniform"):
        assert feature_extractor(file).to_dict() == file
    assert not caplog.records


def test_waves_are_normalised_by_the_ecosystems_name() -> None:
    rows, masks = [noise(50), noise(50, 1)], np.array([[1] * 30 + [0] * 20, [1] * 50])
    for mask in (masks, None):
        theirs = transformers.Wav2Vec2FeatureExtractor.zero_mean_unit_var_norm(rows, mask, 0.5)
        ours = FEATURE_EXTRACTORS["Wav2Vec2FeatureExtractor"].zero_mean_unit_var_norm(rows, mask, 0.5)
        np.testing.assert_array_equal(ours, theirs)


def test_sounds_are_fetched_at_the_extractors_rate(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(800), 8000)
    ours = build("Wav2Vec2FeatureExtractor")[1]
    one, (wave, two) = ours.fetch_audio(str(tmp_path / "a.wav")), ours.fetch_audio([noise(5), str(tmp_path / "a.wav")])
    assert len(one) == len(two) == 1600
    assert np.array_equal(wave, noise(5))
    assert len(ours.fetch_audio(str(tmp_path / "a.wav"), sampling_rate=8000)) == 800


def test_old_files_without_a_type_are_what_their_family_says(tmp_path: Path) -> None:
    model_type = next(one for one, kind in OF_FAMILIES.items() if kind == "Wav2Vec2FeatureExtractor")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    settings = {"do_normalize": True, "feature_size": 1, "padding_side": "right", "padding_value": 0.0}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**settings, "return_attention_mask": True}))
    loaded = omniform.AutoFeatureExtractor.from_pretrained(tmp_path)
    assert type(loaded).__name__ == "Wav2Vec2FeatureExtractor"
    assert loaded(noise(500))["attention_mask"][0].sum() == 500


BAD_CONFIGS = [
    ("SpeechT5FeatureExtractor", {"win_length": 0}, "win_length"),
    ("SpeechT5FeatureExtractor", {"win_length": 10**9}, "win_length"),
    ("SpeechT5FeatureExtractor", {"hop_length": 1, "sampling_rate": 100}, "hop_length"),
    ("SpeechT5FeatureExtractor", {"win_function": "kaiser"}, "win_function"),
    ("SpeechT5FeatureExtractor", {"fmin": 9000}, "fmin"),
    ("SpeechT5FeatureExtractor", {"num_mel_bins": 10**9}, "num_mel_bins"),
    ("ASTFeatureExtractor", {"num_mel_bins": 10**9}, "num_mel_bins"),
    ("ASTFeatureExtractor", {"max_length": 10**12}, "max_length"),
    ("ASTFeatureExtractor", {"std": 0}, "std"),
    ("ASTFeatureExtractor", {"sampling_rate": 30}, "sampling_rate"),
    ("ClapFeatureExtractor", {"truncation": "fuse"}, "truncation"),
    ("ClapFeatureExtractor", {"padding": True}, "padding"),
    ("ClapFeatureExtractor", {"max_length_s": 10**9}, "max_length_s"),
    ("ClapFeatureExtractor", {"fft_window_size": 1}, "fft_window_size"),
    ("SeamlessM4TFeatureExtractor", {"stride": 0}, "stride"),
    ("EncodecFeatureExtractor", {"overlap": 1.0}, "overlap"),
    ("EncodecFeatureExtractor", {"chunk_length_s": -1}, "chunk_length_s"),
    ("EncodecFeatureExtractor", {"chunk_length_s": 0}, "chunk_length_s"),
    ("EncodecFeatureExtractor", {"feature_size": 3}, "feature_size"),
    ("DacFeatureExtractor", {"hop_length": 0}, "hop_length"),
    ("Wav2Vec2FeatureExtractor", {"do_normalize": "yes"}, "do_normalize"),
]


@pytest.mark.parametrize(("name", "settings", "words"), BAD_CONFIGS, ids=str)
def test_bad_configs(name: str, settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        feature_extractor({"feature_extractor_type": name, **settings}, where="x")
