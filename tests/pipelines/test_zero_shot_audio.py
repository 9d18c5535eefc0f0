"""Sounds and classes that are named at the call: CLAP, its processor and its pipeline, against the reference's."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from heard import sound
from seen import both, new_folder, same
from tokenizers.pre_tokenizers import ByteLevel

import omniform
from omniform import AutoModel, AutoProcessor, ClapProcessor, pipeline
from omniform.core.errors import InputError, UnknownArgumentError
from reference import saved_reference, transformers

RATE = 4000
LABELS = ["a dog", "rain on a roof", "a bell"]
TEXT = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
    "max_position_embeddings": 80,
}  # fmt: skip
AUDIO = {
    "spec_size": 64, "num_mel_bins": 64, "patch_size": 4, "patch_stride": 4, "patch_embeds_hidden_size": 8,
    "depths": [1, 1], "num_attention_heads": [2, 2], "window_size": 2, "hidden_size": 16,
}  # fmt: skip


@cache
def clap(fused: bool) -> Path:
    """A CLAP that hears a second, 26 frames of it; its bands are as many as the reference's extractor can fuse."""
    folder = new_folder()
    letters = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(ByteLevel.alphabet())]
    tokenizer = transformers.RobertaTokenizer(vocab={one: i for i, one in enumerate(letters)}, merges=[])
    config = transformers.ClapConfig(
        text_config={**TEXT, "vocab_size": len(letters)}, audio_config={**AUDIO, "enable_fusion": fused},
        projection_dim=8,
    )  # fmt: skip
    saved_reference(transformers.ClapModel, config, folder)
    extractor = transformers.ClapFeatureExtractor(
        sampling_rate=RATE, hop_length=160, fft_window_size=256, max_length_s=1, frequency_max=2000,
        truncation="fusion" if fused else "rand_trunc",
    )  # fmt: skip
    transformers.ClapProcessor(extractor, tokenizer).save_pretrained(folder)
    return folder


def waves() -> list[np.ndarray]:
    """Shorter and longer than the model hears, and as long."""
    return [sound(0.08, 1), sound(0.25, 2), sound(0.6, 3)]


def drawn(call: object, *args: object, **given: object) -> object:
    """What a call gives whose luck is numpy's."""
    np.random.seed(5)
    return call(*args, **given)


@pytest.mark.parametrize("fused", [False, True])
def test_classes_are_the_references(fused: bool) -> None:
    ours, theirs = both("zero-shot-audio-classification", clap(fused))
    for given in ({}, {"hypothesis_template": "{} is heard"}):
        asked = {"candidate_labels": LABELS, **given}
        same(drawn(ours, waves(), **asked), drawn(theirs, waves(), **asked), str(given))
        same(drawn(ours, waves()[2], **asked), drawn(theirs, waves()[2], **asked), "one")
    assert drawn(ours, waves()[0], "a dog, a bell") == drawn(ours, waves()[0], candidate_labels=["a dog", "a bell"])
    batch = drawn(ours, waves()[:2], candidate_labels=LABELS, batch_size=2)
    same(batch, drawn(theirs, waves()[:2], candidate_labels=LABELS), "a batch")


def test_the_task_is_found_and_mistakes_are_named(tmp_path: Path) -> None:
    made = pipeline("zero-shot-audio-classification", clap(False))
    assert type(made.model) is omniform.ClapModel
    soundfile.write(tmp_path / "a.wav", waves()[1], RATE, subtype="FLOAT")
    path, other = drawn(made, tmp_path / "a.wav", LABELS), drawn(made, waves()[1], LABELS)
    same(path, other, "a file")
    with pytest.raises(InputError):
        made(waves()[0])
    with pytest.raises(UnknownArgumentError, match="candidate_labels"):
        made(waves()[0], candidate_label=LABELS)


@pytest.mark.parametrize("fused", [False, True])
def test_the_processor_is_the_references(fused: bool, tmp_path: Path) -> None:
    ours = AutoProcessor.from_pretrained(clap(fused))
    theirs = transformers.ClapProcessor.from_pretrained(clap(fused))
    assert type(ours) is ClapProcessor
    options = {"return_tensors": "pt", "padding": True, "sampling_rate": RATE}
    for given in ({"text": LABELS, "audio": waves()}, {"audio": waves()[0]}, {"text": LABELS[0]}, {"text": LABELS}):
        found, expected = drawn(ours, **given, **options), drawn(theirs, **given, **options)
        assert {*found} == {*expected}
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-5)
    assert ours.model_input_names == theirs.model_input_names
    ours.save_pretrained(tmp_path)
    again = drawn(transformers.ClapProcessor.from_pretrained(tmp_path), audio=waves(), **options)
    torch.testing.assert_close(drawn(ours, audio=waves(), **options)["input_features"], again["input_features"])
    soundfile.write(tmp_path / "a.wav", waves()[0], RATE, subtype="FLOAT")
    read = drawn(ours, audio=str(tmp_path / "a.wav"), return_tensors="pt")["input_features"]
    torch.testing.assert_close(read, drawn(ours, audio=waves()[0], **options)["input_features"])
    with pytest.raises(InputError, match="neither sound nor text"):
        ours()
    with pytest.raises(InputError, match="8000"):
        ours(audio=waves()[0], sampling_rate=8000)


@torch.no_grad()
def test_embeddings_end_to_end() -> None:
    ours, theirs = AutoModel.from_pretrained(clap(True)), transformers.AutoModel.from_pretrained(clap(True))
    processor = AutoProcessor.from_pretrained(clap(True))
    batch = drawn(processor, text=LABELS, audio=waves(), return_tensors="pt", padding=True, sampling_rate=RATE)
    found, expected = ours(**batch), theirs.eval()(**batch)
    for name in ("logits_per_audio", "text_embeds", "audio_embeds"):
        torch.testing.assert_close(found[name], expected[name], atol=1e-4, rtol=1e-4)
