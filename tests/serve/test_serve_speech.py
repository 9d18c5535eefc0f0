"""Texts spoken over HTTP, asked by OpenAI's own client, beside the pipeline's own sounds."""

from __future__ import annotations

import io
import json
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openai
import pytest
from serving import Served, serving

from checkpoints import TEXT, tokenizer
from omniform import pipeline
from omniform.inputs.audio.load import load_audio
from omniform.serve.config import ModelSource
from reference import saved_reference, transformers

STILL = {"noise_scale": 0.0, "noise_scale_duration": 0.0}
SAID = "a cat sat on a mat, and the dog ran"
RATE = 8000


def vits(folder: Path, **more: object) -> Path:
    reader = tokenizer()
    reader.save_pretrained(folder)
    config = transformers.VitsConfig(
        vocab_size=len(reader), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=24, flow_size=8,
        spectrogram_bins=9, upsample_initial_channel=16, upsample_rates=[8, 8], upsample_kernel_sizes=[16, 16],
        resblock_kernel_sizes=[3], resblock_dilation_sizes=[[1, 3]], duration_predictor_filter_channels=12,
        posterior_encoder_num_wavenet_layers=1, prior_encoder_num_flows=1, prior_encoder_num_wavenet_layers=1,
        duration_predictor_num_flows=1, depth_separable_num_layers=1, sampling_rate=RATE, **STILL, **more,
    )  # fmt: skip
    saved_reference(transformers.VitsModel, config, folder)
    return folder


def spectra(folder: Path) -> Path:
    """A SpeechT5, whose spectra nothing here makes sound of."""
    reader = tokenizer()
    reader.save_pretrained(folder)
    config = transformers.SpeechT5Config(
        vocab_size=len(reader), hidden_size=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_mel_bins=8,
        speech_decoder_prenet_units=8, speech_decoder_postnet_units=8, speech_decoder_postnet_layers=2,
        speaker_embedding_dim=6,
    )  # fmt: skip
    saved_reference(transformers.SpeechT5ForTextToSpeech, config, folder)
    transformers.SpeechT5FeatureExtractor(num_mel_bins=8).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("speech")
    writer = folder / "writer"
    saved_reference(transformers.LlamaForCausalLM, transformers.LlamaConfig(**TEXT), writer)
    tokenizer(chat=True).save_pretrained(writer)
    three = vits(folder / "three", num_speakers=3, speaker_embedding_size=4)
    return {"one": vits(folder / "one"), "three": three, "spectra": spectra(folder / "spectra"), "writer": writer}


@pytest.fixture(scope="module")
def served(places: dict[str, Path]) -> Iterator[Served]:
    sources = tuple(ModelSource(name=name, source=str(place)) for name, place in places.items())
    with serving(models=sources, preload=False) as server:
        yield server


@pytest.fixture(scope="module")
def client(served: Served) -> openai.OpenAI:
    return served.client()


def own(place: Path, **more: object) -> np.ndarray:
    return np.asarray(
        pipeline("text-to-audio", str(place))(SAID, **({"forward_params": more} if more else {}))["audio"]
    )


def spoken(client: openai.OpenAI, model: str = "one", form: str = "pcm", **more: object) -> np.ndarray:
    data = client.audio.speech.create(model=model, voice=more.pop("voice", "default"), input=SAID,
                                      response_format=form, **more).content  # fmt: skip
    return np.frombuffer(data, "<i2") / 32767


def test_every_form(client: openai.OpenAI, places: dict[str, Path]) -> None:
    expected = own(places["one"])
    assert len(expected) > RATE / 2 and np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(spoken(client), expected, atol=1e-4)
    types = {"wav": "audio/wav", "flac": "audio/flac", "mp3": "audio/mpeg", "opus": "audio/ogg", "aac": "audio/aac"}
    for form, kind in types.items():
        with client.audio.speech.with_streaming_response.create(
            model="one", voice="default", input=SAID, response_format=form
        ) as answer:
            assert answer.headers["content-type"] == kind and answer.headers["x-sampling-rate"] == str(RATE)
            data = b"".join(answer.iter_bytes())
        assert data and (form != "wav" or data[:4] == b"RIFF") and (form != "flac" or data[:4] == b"fLaC")
        found = np.asarray(load_audio(io.BytesIO(data), RATE)).squeeze()
        assert abs(len(found) - len(expected)) < RATE / 4, form
        if form in ("wav", "flac"):
            np.testing.assert_allclose(found, expected, atol=1e-4)
    with wave.open(io.BytesIO(client.audio.speech.create(
        model="one", voice="default", input=SAID, response_format="wav").content)) as file:  # fmt: skip
        assert (file.getframerate(), file.getnchannels()) == (RATE, 1)


def test_speed_and_voices(client: openai.OpenAI, places: dict[str, Path]) -> None:
    np.testing.assert_allclose(spoken(client, speed=2.0), own(places["one"], speaking_rate=2.0), atol=1e-4)
    assert len(spoken(client, speed=2.0)) < 0.8 * len(spoken(client))
    for voice in ("2", {"id": "2"}):
        np.testing.assert_allclose(
            spoken(client, "three", voice=voice), own(places["three"], speaker_id=2), atol=1e-4
        )  # fmt: skip
    assert not np.array_equal(spoken(client, "three", voice="1"), spoken(client, "three", voice="2"))


WRONG: dict[str, tuple[dict[str, object], int, str]] = {
    "a voice": ({"voice": "alloy"}, 400, "voice"),
    "a voice of another": ({"model": "three", "voice": "3"}, 400, "voice"),
    "a number of a voice": ({"model": "three", "voice": "-1"}, 400, "voice"),
    "a form": ({"response_format": "ogg"}, 400, "response_format"),
    "too fast": ({"speed": 5}, 400, "speed"),
    "instructions": ({"instructions": "softly"}, 400, "instructions"),
    "events": ({"stream_format": "sse"}, 400, "stream_format"),
    "nothing": ({"input": ""}, 400, "input"),
    "too much": ({"input": "a" * 5000}, 400, "input"),
    "no text at all": ({"input": "\u00e9\U0001f600"}, 0, ""),
    "what writes": ({"model": "writer"}, 400, "model"),
    "what has no vocoder": ({"model": "spectra"}, 400, "model"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_spoken(name: str, served: Served) -> None:
    changes, status, param = WRONG[name]
    with served.raw() as raw:
        body = {"model": "one", "input": SAID, "response_format": "wav", **changes}
        answer = raw.post("/v1/audio/speech", json=body)
    if not status and answer.status_code == 200:
        return
    error = answer.json()["error"]
    assert answer.status_code == (status or 400) and (not param or error["param"] == param), answer.text
    assert "/tmp" not in answer.text and "microsoft" not in answer.text


def test_tokens_are_counted(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    logger = "omniform.serve.access"
    with caplog.at_level("INFO", logger), served.raw() as raw:
        raw.post("/v1/audio/speech", json={"model": "one", "input": SAID, "response_format": "wav"}).raise_for_status()
    lines = [json.loads(one.message) for one in caplog.records if one.name == logger]
    assert lines[-1]["prompt_tokens"] == len(tokenizer()(SAID)["input_ids"])
