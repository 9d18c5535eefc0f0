"""Qwen2-Audio's processor against the reference's."""

from __future__ import annotations

import numpy as np
import pytest
from test_processors import WAVES, compare, same
from test_tokenizers_folders import llava

import omniform
from omniform.core.errors import InputError
from reference import transformers

AUDIO = "<|AUDIO|>"
ADDED = [AUDIO, "<|audio_bos|>", "<|audio_eos|>", "<|im_start|>", "<|im_end|>"]
LONG = (np.random.default_rng(9).normal(size=31 * 16000) * 0.1).astype(np.float32)
TALK = [
    {"role": "user", "content": [{"type": "audio", "audio": WAVES[0]}, {"type": "text", "text": "hello"}]},
    {"role": "assistant", "content": "fox"},
    {"role": "user", "content": [{"type": "audio", "audio": WAVES[1]}, {"type": "text", "text": "the"}]},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    at = tmp_path_factory.mktemp("qwen2_audio")
    tokenizer = transformers.AutoTokenizer.from_pretrained(llava(at / "tokenizer"))
    tokenizer.add_tokens(ADDED, special_tokens=True)
    theirs = transformers.Qwen2AudioProcessor(transformers.WhisperFeatureExtractor(feature_size=16), tokenizer)
    theirs.save_pretrained(at / "saved")
    return at / "saved"


@pytest.fixture(scope="module")
def pair(folder):
    return omniform.AutoProcessor.from_pretrained(folder), transformers.AutoProcessor.from_pretrained(folder)


@pytest.mark.parametrize(
    "call",
    [
        {"text": f"hello {AUDIO} fox", "audio": WAVES[0]},
        {"text": [f"{AUDIO} hello {AUDIO}", f"the {AUDIO}"], "audio": WAVES, "padding_side": "left"},
        {"text": ["hello", f"the <|audio_bos|>{AUDIO}<|audio_eos|>"], "audio": [LONG]},
        {"text": ["hello", "the fox"]},
    ],
)
def test_same_inputs(pair, call):
    rate = {"sampling_rate": 16000} if "audio" in call else {}
    compare(pair, padding=True, return_tensors="pt", **rate, **call)


def test_the_older_name_and_its_default_template(pair, tmp_path):
    ours, theirs = pair
    new = ours(text=f"{AUDIO} fox", audio=WAVES[:1], return_tensors="pt")
    for name, value in ours(text=f"{AUDIO} fox", audios=WAVES[:1], return_tensors="pt").items():
        same(value, new[name], name)
    with pytest.raises(InputError, match="twice"):
        ours(text=f"{AUDIO} fox", audio=WAVES[:1], audios=WAVES[:1])
    template = theirs.default_chat_template
    plain = omniform.Qwen2AudioProcessor(ours.feature_extractor, ours.tokenizer)
    for more in (False, True):
        expected = theirs.apply_chat_template(TALK, chat_template=template, add_generation_prompt=more)
        for processor in (ours, plain):
            assert processor.apply_chat_template(TALK, add_generation_prompt=more) == expected
    batch = ours.apply_chat_template(TALK, tokenize=True, return_dict=True, return_tensors="pt")
    prompt = theirs.apply_chat_template(TALK, chat_template=template)
    expected = theirs(text=prompt, audio=list(WAVES[:2]), return_tensors="pt", sampling_rate=16000)
    for name in expected:
        same(batch[name], expected[name], name)
    ours.save_pretrained(tmp_path)
    again = transformers.AutoProcessor.from_pretrained(tmp_path)
    assert type(again).__name__ == "Qwen2AudioProcessor"
    compare(
        (omniform.AutoProcessor.from_pretrained(tmp_path), again), text=f"{AUDIO}", audio=WAVES[0], sampling_rate=16000
    )


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ({"text": f"{AUDIO}{AUDIO}", "audio": WAVES[:1]}, "placeholder"),
        ({"text": "hello", "audio": WAVES[:1]}, "placeholder"),
        ({"text": f"{AUDIO}", "audio": WAVES[:1], "sampling_rate": 8000}, "sampling rate"),
    ],
)
def test_what_does_not_fit(pair, call, says):
    with pytest.raises(InputError, match=says):
        pair[0](**call)
