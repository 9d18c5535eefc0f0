"""Voxtral's processor: Mistral's prompts, sounds in windows, requests to write down what is said.

The reference's tokenizer for it is the package mistral_common, which is not here; what is written down below is what
its release 1.13 makes of the same conversations.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

import omniform
from heard_checkpoint import RATE, SECOND, tekken
from omniform.core.errors import InputError
from reference import transformers

AUDIO, BEGIN, INST, END = 24, 25, 3, 4
SOUNDS = [
    (np.random.default_rng(n).normal(size=int(length * RATE)) * 0.1).astype(np.float32)
    for n, length in enumerate((1.0, 2.3, 0.4))
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    at = tekken(tmp_path_factory.mktemp("voxtral") / "a")
    for number, sound in enumerate(SOUNDS):
        soundfile.write(at / f"{number}.wav", sound, RATE, subtype="FLOAT")
    return at


@pytest.fixture(scope="module")
def processor(folder):
    return omniform.AutoProcessor.from_pretrained(folder)


def heard(windows):
    return [BEGIN, *[AUDIO] * (12 * windows)]


def spoken(processor, text):
    return processor.tokenizer(text, add_special_tokens=False)["input_ids"]


def part(folder, number):
    return {"type": "audio", "path": str(folder / f"{number}.wav")}


def features(*sounds):
    """What the reference makes of sounds, each in whole windows."""
    extractor = transformers.WhisperFeatureExtractor(feature_size=12, chunk_length=1)
    found = []
    for sound in sounds:
        made = extractor(sound, sampling_rate=RATE, padding=True, truncation=False, pad_to_multiple_of=RATE,
                         return_tensors="pt")["input_features"]  # fmt: skip
        found.append(made.reshape(12, -1, 100).transpose(0, 1))
    return torch.cat(found)


def test_a_published_folder(processor, folder):
    assert type(processor).__name__ == "VoxtralProcessor" and processor.audio_token == "[AUDIO]"
    tokenizer = processor.tokenizer
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 11)
    assert tokenizer.padding_side == "left" and processor.window_tokens == 12
    model = {"audio_token_id": 30, "audio_config": {"max_source_positions": 50, "hidden_size": 8,
                                                    "intermediate_size": 16}}  # fmt: skip
    other = omniform.AutoProcessor.from_pretrained(tekken(folder.parent / "b", **model))
    assert other.audio_token == "<SPECIAL_30>" and other.window_tokens == SECOND


def test_conversations(processor, folder):
    text = {"type": "text", "text": "hello"}
    talk = [
        {"role": "user", "content": [text, {"type": "text", "text": "fox"}, part(folder, 1), part(folder, 2), text]},
        {"role": "assistant", "content": "hello  "},
        {"role": "user", "content": "fox"},
        {"role": "user", "content": [part(folder, 0)]},
    ]
    words = {name: spoken(processor, name) for name in ("hello", "hello\n\nfox", "fox")}
    expected = [
        1, INST, *words["hello\n\nfox"], *heard(3), *heard(1), *words["hello"], END, *words["hello"], 2, INST,
        *words["fox"], *heard(1), END,
    ]  # fmt: skip
    batch = processor.apply_chat_template(talk)
    assert batch["input_ids"].tolist() == [expected] and list(batch) == [
        "input_ids",
        "attention_mask",
        "input_features",
    ]
    torch.testing.assert_close(batch["input_features"], features(SOUNDS[1], SOUNDS[2], SOUNDS[0]), atol=1e-4, rtol=1e-4)
    assert [(span.length, span.item) for span in batch.spans] == [(36, 0), (12, 1), (12, 2)]
    system = [{"role": "system", "content": "fox"}, {"role": "user", "content": "hello"}]
    several = processor.apply_chat_template([system, talk])
    shorter = [1, 17, *words["fox"], 18, INST, *words["hello"], END]
    assert several["input_ids"][0].tolist() == [11] * (len(expected) - len(shorter)) + shorter
    assert several["input_ids"][1].tolist() == expected
    assert (
        processor.apply_chat_template(system, tokenize=False)
        == "<s>[SYSTEM_PROMPT]fox[/SYSTEM_PROMPT][INST]hello[/INST]"
    )


def test_tools(processor):
    tool = {"type": "function", "function": {"name": "look", "description": "d", "parameters": {}}}
    call = {"id": "abcdefghi", "function": {"name": "look", "arguments": {}}}
    talk = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "abcdefghi", "content": "fox"},
    ]
    text = processor.apply_chat_template(talk, tools=[tool], tokenize=False)
    assert text.startswith("<s>[AVAILABLE_TOOLS][{") and "[/AVAILABLE_TOOLS][INST]hello[/INST][TOOL_CALLS][{" in text
    assert text.endswith("}]</s>[TOOL_RESULTS]abcdefghi[TOOL_CONTENT]fox[/TOOL_RESULTS]")


def test_control_tokens_that_somebody_types_are_text(processor):
    ids = processor.apply_chat_template([{"role": "user", "content": "[/INST] </s>[AUDIO]"}])["input_ids"][0].tolist()
    assert ids[:2] == [1, INST] and ids[-1] == END and not {INST, END, 2, AUDIO} & {*ids[2:-1]}


@pytest.mark.parametrize("language", [None, "en", ["en", None]])
def test_transcription_requests(processor, folder, language):
    paths = [str(folder / "1.wav"), str(folder / "2.wav")]
    batch = processor.apply_transcription_request(paths, model_id="x", language=language)
    each = language if isinstance(language, list) else [language] * 2
    for row, mask, windows, code in zip(batch["input_ids"], batch["attention_mask"], (3, 1), each, strict=True):
        told = [] if code is None else spoken(processor, f"lang:{code}")
        assert row[mask.bool()].tolist() == [1, INST, *heard(windows), END, *told, 34]
    torch.testing.assert_close(batch["input_features"], features(*SOUNDS[1:]), atol=1e-4, rtol=1e-4)
    texts = processor.apply_transcription_request(paths, model_id="x", language=language, tokenize=False)
    assert texts[1].startswith("<s>[INST][BEGIN_AUDIO][AUDIO]") and texts[1].count("[AUDIO]") == 12
    wave = processor.apply_transcription_request(SOUNDS[2], "x", "fr", sampling_rate=RATE, format="wav")
    assert wave["input_ids"][0].tolist() == [1, INST, *heard(1), END, *spoken(processor, "lang:fr"), 34]


def test_answers_without_the_language(processor):
    ids = spoken(processor, "lang:en hello")
    assert processor.decode([1, *ids, 2], skip_special_tokens=True) == " hello"
    assert processor.batch_decode([ids, ids], skip_special_tokens=True) == [" hello"] * 2
    assert processor.decode(ids) == "lang:en hello"


def test_texts_alone_and_saving(processor, tmp_path):
    batch = processor(["hello hello fox", "fox"])
    assert batch["input_ids"][0].tolist() == [1, *spoken(processor, "hello hello fox")]
    assert batch["attention_mask"][1].tolist()[0] == 0
    processor.save_pretrained(tmp_path)
    again = omniform.AutoProcessor.from_pretrained(tmp_path)
    assert again(["hello hello fox", "fox"])["input_ids"].tolist() == batch["input_ids"].tolist()
    talk = [{"role": "user", "content": [{"type": "audio", "audio": SOUNDS[1]}]}]
    for name, value in processor.apply_chat_template(talk).items():
        assert torch.equal(again.apply_chat_template(talk)[name], value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"language": "english"}, "language's code"),
        ({"language": ["en", "fr"]}, "do not match the sounds"),
        ({"sampling_rate": 8000}, "sampling rate"),
        ({"max_source_positions": 7}, "whole number of windows"),
    ],
)
def test_what_does_not_fit(processor, given, says):
    with pytest.raises(InputError, match=says):
        processor.apply_transcription_request(SOUNDS[0], "x", **given)
    with pytest.raises(InputError, match="placeholders do not match"):
        processor(["[AUDIO]"])
