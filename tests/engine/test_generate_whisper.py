"""Generation of speech models against the reference: the opening of an answer, and the answer."""

from __future__ import annotations

import pytest
import torch

from omniform.core.errors import InputError
from reference import omniform, saved_reference, transformers

TINY = {
    "vocab_size": 97, "num_mel_bins": 8, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
    "max_source_positions": 20, "max_target_positions": 40, "decoder_start_token_id": 3, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "suppress_tokens": None, "begin_suppress_tokens": None,
}  # fmt: skip
LANGUAGES = {"<|en|>": 90, "<|de|>": 91, "<|fr|>": 92}
MULTILINGUAL = {
    "is_multilingual": True, "lang_to_id": LANGUAGES, "task_to_id": {"transcribe": 93, "translate": 94},
    "no_timestamps_token_id": 95, "decoder_start_token_id": 3, "pad_token_id": 0, "eos_token_id": 2, "bos_token_id": 1,
    # Without this the tiny model's random answers hold timestamps, which the reference cuts at.
    "suppress_tokens": [5, 96], "begin_suppress_tokens": [7, 2],
}  # fmt: skip

CASES = {
    "plain": ({}, {}),
    "end by padding": ({"pad_token_id": 2, "decoder_start_token_id": 3, "eos_token_id": 2}, {}),
    "suppress": ({"suppress_tokens": list(range(10, 60)), "begin_suppress_tokens": list(range(60, 90))}, {}),
    "forced": ({"forced_decoder_ids": [[1, 90], [2, 93]]}, {}),
    "detected": (MULTILINGUAL, {}),
    "detected, forced": ({**MULTILINGUAL, "forced_decoder_ids": [[1, None], [2, 93]]}, {}),
    "named": (MULTILINGUAL, {"language": "german"}),
    "code and task": (MULTILINGUAL, {"language": "fr", "task": "translate"}),
    "token": (MULTILINGUAL, {"language": "<|en|>"}),
    "per row": (MULTILINGUAL, {"language": ["en", "de", "fr"]}),
    "task alone": (MULTILINGUAL, {"task": "transcribe"}),
    "english only": ({**MULTILINGUAL, "is_multilingual": False, "lang_to_id": None}, {}),
}


def pair(folder, settings):
    theirs = saved_reference(
        transformers.WhisperForConditionalGeneration, transformers.WhisperConfig(**TINY), folder, scale=0.4
    )
    start = {"decoder_start_token_id": 3, "pad_token_id": 0, "eos_token_id": 2}
    config = transformers.GenerationConfig(**{k: v for k, v in {**start, **settings}.items() if v is not None})
    if settings:
        theirs.generation_config = config
        config.save_pretrained(folder)
    return omniform.AutoModelForSpeechSeq2Seq.from_pretrained(folder), theirs


@pytest.mark.parametrize("case", CASES)
def test_greedy_token_for_token(tmp_path, case):
    settings, asked = CASES[case]
    ours, theirs = pair(tmp_path, settings)
    features = torch.randn(3, 8, 40, generator=torch.Generator().manual_seed(1))
    expected = theirs.generate(features, max_new_tokens=12, **asked)
    found = ours.generate(features, max_new_tokens=12, **asked)
    assert found.tolist() == expected.tolist()


def test_a_row_is_the_same_alone_and_in_a_batch(tmp_path):
    ours, _ = pair(tmp_path, MULTILINGUAL)
    features = torch.randn(3, 8, 40, generator=torch.Generator().manual_seed(1))
    together = ours.generate(features, max_new_tokens=12)
    for row in range(3):
        alone = ours.generate(features[row : row + 1], max_new_tokens=12)[0]
        assert together[row, : len(alone)].tolist() == alone.tolist() and not together[row, len(alone) :].any()


def test_sampling_and_decoder_prompts(tmp_path):
    ours, theirs = pair(tmp_path, {})
    features = torch.randn(2, 8, 40, generator=torch.Generator().manual_seed(2))
    prompt = torch.tensor([[3, 9, 8], [3, 7, 6]])
    expected = theirs.generate(features, decoder_input_ids=prompt, max_new_tokens=9)
    assert ours.generate(features, decoder_input_ids=prompt, max_new_tokens=9).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("settings", "asked", "says"),
    [
        (MULTILINGUAL, {"language": "klingon"}, "language"),
        (MULTILINGUAL, {"language": ["en", "de"]}, "per row"),
        (MULTILINGUAL, {"task": "sing"}, "task"),
        ({**MULTILINGUAL, "is_multilingual": False}, {"language": "en"}, "English"),
        ({}, {"language": "en"}, "lang_to_id"),
        ({}, {"return_timestamps": True}, "timestamps"),
        ({"forced_decoder_ids": [[2, 90]]}, {}, "forced"),
    ],
)
def test_bad_requests(tmp_path, settings, asked, says):
    ours, _ = pair(tmp_path, settings)
    with pytest.raises(InputError, match=says):
        ours.generate(torch.randn(1, 8, 40), **asked)


@pytest.mark.parametrize(
    ("settings", "asked", "says"),
    [
        (MULTILINGUAL, {"language": 3}, "language"),
        (MULTILINGUAL, {"language": {"a": 1}}, "language"),
        (MULTILINGUAL, {"task": ["transcribe"]}, "task"),
        (MULTILINGUAL, {"prompt_ids": torch.tensor([[1]])}, "prompt_ids"),
        (MULTILINGUAL, {"prompt_ids": torch.tensor([500])}, "prompt_ids"),
        (MULTILINGUAL, {"langage": "de"}, "Did you mean 'language'"),
        (MULTILINGUAL, {"temperature": (0.0, "warm")}, "temperature"),
        (MULTILINGUAL, {"temperature": ()}, "temperature"),
        (MULTILINGUAL, {"temperature": -0.5}, "temperature"),
        ({**MULTILINGUAL, "lang_to_id": {"<|en|>": 500}}, {"language": "en"}, "vocabulary"),
        (MULTILINGUAL, {"decoder_start_token_id": 500}, "decoder_start_token_id"),
    ],
)
def test_a_model_s_own_settings_are_checked_like_all(tmp_path, settings, asked, says):
    ours, _ = pair(tmp_path, settings)
    with pytest.raises(omniform.OmniformError, match=says):
        ours.generate(torch.randn(1, 8, 40), **asked)


def test_a_model_s_own_settings_may_be_set_on_its_config(tmp_path):
    ours, _ = pair(tmp_path, MULTILINGUAL)
    features = torch.randn(1, 8, 40, generator=torch.Generator().manual_seed(1))
    wanted = ours.generate(features, max_new_tokens=8, language="de", task="translate").tolist()
    plain = ours.generate(features, max_new_tokens=8, alignment_heads=[[1, 2]], condition_on_prev_tokens=False).tolist()
    ours.generation_config.language, ours.generation_config.task = "de", "translate"
    assert ours.generate(features, max_new_tokens=8).tolist() == wanted
    assert ours.generate(features, max_new_tokens=8, language=None, task=None).tolist() == plain
