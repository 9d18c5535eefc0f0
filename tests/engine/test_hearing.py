"""Sounds of any length, heard window by window: every way of it against the reference, token for token."""

from __future__ import annotations

import copy

import pytest
import torch
from whispers import BEFORE, OFF, START, features, mask, pair, same

from omniform.core.errors import InputError
from omniform.engine.hearing.segments import Clock, spoken
from reference import omniform, transformers

LONG = {"return_timestamps": True, "return_segments": True}
PROMPT = torch.tensor([BEFORE, 20, 21, 22])
SILENT = {**LONG, "temperature": 0.0, "logprob_threshold": -1.5, "no_speech_threshold": 0.003}
THREE = {**LONG, "attention_mask": mask(110, 50, 90)}

SHORT_CASES = {
    "plain": ({}, {}),
    "stamped": ({}, {"return_timestamps": True}),
    "told a prompt": ({}, {"prompt_ids": PROMPT}),
    "drawn, twice": ({}, {"do_sample": True, "temperature": 0.7, "num_return_sequences": 2}),
    "drawn without a temperature": ({}, {"do_sample": True}),
    "beams": ({}, {"num_beams": 3, "num_return_sequences": 2, "return_dict_in_generate": True, "output_scores": True}),
    "outputs": (
        {"eager": True},
        {
            "return_dict_in_generate": True, "output_scores": True, "output_attentions": True,
            "output_hidden_states": True,
        },
    ),
    "times and outputs": ({"eager": True}, {"return_token_timestamps": True, "return_dict_in_generate": True}),
    "times": ({}, {"return_token_timestamps": True, "return_timestamps": True, "attention_mask": mask(40, 30)}),
    "whole": ({}, {"force_unique_generate_call": True, "return_token_timestamps": True}),
    "begun": ({}, {"decoder_input_ids": torch.tensor([[START, 152, 157], [START, 153, 156]])}),
    "padding that is no end": ({"kind": "padded"}, {}),
    "English": ({"kind": "english"}, {}),
}  # fmt: skip
LONG_CASES = {
    "alone": (1, {}, LONG),
    "by itself long": (1, {}, {}),
    "turbo": (1, {"layers": 1}, LONG),
    "several": (3, {}, {**THREE, "language": ["en", "german", "<|fr|>"], "task": "translate"}),
    "several, padding that is no end": (3, {"kind": "padded"}, THREE),
    "default length": (3, {"max_length": None}, THREE),
    "short answers": (1, {}, {**LONG, "max_new_tokens": 5, "min_new_tokens": 3}),
    "told what was said": (3, {}, {**THREE, "condition_on_prev_tokens": True}),
    "told nothing to begin with": (1, {"prev_sot_token_id": None}, {**LONG, "condition_on_prev_tokens": True}),
    "told by the checkpoint": (1, {"condition_on_prev_tokens": True}, LONG),
    "told a prompt": (3, {}, {**THREE, "prompt_ids": PROMPT}),
    "told a prompt and what was said": (3, {}, {**THREE, "prompt_ids": PROMPT, "condition_on_prev_tokens": True}),
    "told a prompt always": (
        3,
        {},
        {
            **THREE, "prompt_ids": PROMPT, "condition_on_prev_tokens": True,
            "prompt_condition_type": "all-segments",
        },
    ),
    "told always, of no prompt": (
        3, {}, {**THREE, "condition_on_prev_tokens": True, "prompt_condition_type": "all-segments"},
    ),
    "one that is hardly there": (3, {}, {**LONG, "attention_mask": mask(110, 2, 9)}),
    "warmer and warmer": (
        3,
        {},
        {
            **THREE, "temperature": (0.0, 0.2, 0.8), "logprob_threshold": -1.72, "compression_ratio_threshold": 1.35,
            "condition_on_prev_tokens": True,
        },
    ),
    "beams, until something is drawn": (
        1, {}, {**LONG, "num_beams": 2, "temperature": (0.0, 0.4), "logprob_threshold": -1.7},
    ),
    "silence": (
        1, {}, {**LONG, "temperature": (0.0, 0.4), "logprob_threshold": -1.5, "no_speech_threshold": 0.002},
    ),
    "silence, English": (
        1, {"kind": "english"}, SILENT,
    ),
    "silence after a prompt": (
        1, {}, {**SILENT, "prompt_ids": PROMPT, "logprob_threshold": -1.0},
    ),
    "times of all": (3, {}, {**THREE, "return_token_timestamps": True, "condition_on_prev_tokens": True}),
    "outputs of each": (1, {}, {**LONG, "return_dict_in_generate": True, "output_scores": True}),
    "rules of the ecosystem": (1, {}, {**LONG, "repetition_penalty": 1.3, "no_repeat_ngram_size": 3}),
    "another clock": (1, {}, {**LONG, "time_precision": 0.04}),
}  # fmt: skip


@pytest.mark.parametrize("case", SHORT_CASES)
def test_one_window(case):
    kind, asked = SHORT_CASES[case]
    ours, theirs = pair(**kind)
    sound = features(2, 40)
    torch.manual_seed(3)
    expected = theirs.generate(sound, **asked)
    torch.manual_seed(3)
    found = ours.generate(sound, **asked)
    same(found, expected)
    assert type(found).__name__ == type(expected).__name__


@pytest.mark.parametrize("case", LONG_CASES)
def test_window_after_window(case):
    rows, kind, asked = LONG_CASES[case]
    ours, theirs = pair(**kind)
    sound = features(rows, 110)
    torch.manual_seed(3)
    expected = theirs.generate(sound, **asked)
    torch.manual_seed(3)
    same(ours.generate(sound, **asked), expected)


def test_processors_of_a_call_and_its_progress():
    class Never(transformers.LogitsProcessor):
        def __call__(self, input_ids, scores):
            return scores.index_fill(1, torch.tensor([26]), -float("inf"))

    ours, theirs = pair()
    told: list[list[list[int]]] = []
    noted: list[list[list[int]]] = []
    asked = {**LONG, "attention_mask": mask(110, 90), "logits_processor": [Never()]}
    expected = theirs.generate(features(2, 110), **asked, monitor_progress=lambda p: noted.append(p.tolist()))
    same(ours.generate(features(2, 110), **asked, monitor_progress=lambda p: told.append(p.tolist())), expected)
    assert told == noted and told[0] == [[0, 110], [0, 90]]


def test_what_the_encoder_gave_is_heard_too():
    ours, theirs = pair()
    sound = features(2, 40)
    given = ours.get_encoder()(sound)
    expected = theirs.generate(encoder_outputs=theirs.get_encoder()(sound[:1]), language="de")
    assert ours.generate(encoder_outputs=ours.get_encoder()(sound[:1]), language="de").tolist() == expected.tolist()
    assert ours.detect_language(sound).tolist() == theirs.detect_language(sound).tolist()
    assert ours.detect_language(encoder_outputs=given).tolist() == theirs.detect_language(sound).tolist()


def test_a_short_spectrogram_is_filled_before_its_language_is_heard():
    ours, theirs = pair()
    filled = torch.nn.functional.pad(features(1, 30), (0, 10))
    expected = theirs.generate(filled, return_timestamps=True)
    found = ours.generate(features(1, 30), return_timestamps=True)
    assert found[0, : len(expected[0]) // 2].tolist() == expected[0, : len(expected[0]) // 2].tolist()


def test_sounds_side_by_side_are_heard_as_each_alone():
    ours, _ = pair()
    sound, lengths = features(3, 110), (110, 50, 90)
    for asked in ({"temperature": (0.0, 0.6), "logprob_threshold": -1.72, "seed": 5}, {}):
        together = ours.generate(sound, return_timestamps=True, attention_mask=mask(*lengths), **asked)
        alone = ours.generate(sound[:1], return_timestamps=True, **asked)[0]
        assert together[0, : len(alone)].tolist() == alone.tolist()


@pytest.mark.parametrize(
    ("changed", "asked", "says"),
    [
        ({}, {"return_timestamps": False}, "return_timestamps"),
        ({"return_timestamps": False}, {}, "return_timestamps"),
        ({}, {"prompt_condition_type": "all-segments"}, "condition_on_prev_tokens"),
        ({}, {"prompt_condition_type": "some"}, "prompt_condition_type"),
        ({}, {"no_speech_threshold": 0.5}, "logprob_threshold"),
        ({"no_timestamps_token_id": None}, {}, "no_timestamps_token_id"),
        ({"alignment_heads": None}, {"return_token_timestamps": True}, "alignment_heads"),
        ({}, {"monitor_progress": 3}, "monitor_progress"),
        ({}, {"max_new_tokens": 47}, "max_new_tokens"),
        ({}, {"return_segment": True}, "return_segments"),
        ({}, {"past_key_values": omniform.DynamicCache()}, "past_key_values"),
        ({}, {"attention_mask": torch.ones(3, 130)}, "attention_mask"),
    ],
)
def test_what_cannot_be_is_said(changed, asked, says):
    ours, _ = pair(**changed)
    with pytest.raises(omniform.OmniformError, match=says):
        ours.generate(features(1, 130), **asked)


def test_several_long_sounds_need_their_mask():
    with pytest.raises(InputError, match="return_attention_mask"):
        pair()[0].generate(features(2, 130), return_timestamps=True)


def test_guesses_change_nothing_and_a_decoder_that_shares_the_encoder_guesses_right(tmp_path):
    ours, theirs = pair()
    drafter = transformers.WhisperForCausalLM(copy.deepcopy(theirs.config)).eval()
    drafter.model.decoder.load_state_dict(theirs.model.decoder.state_dict())
    drafter.proj_out.load_state_dict(theirs.proj_out.state_dict())
    drafter.save_pretrained(tmp_path)
    decoder = omniform.AutoModelForCausalLM.from_pretrained(tmp_path)
    whole, _ = pair(layers=1)
    plain, _ = pair(begin_suppress_tokens=None)  # what is guessed may be an end
    for asked in ({}, LONG):
        sound = features(1, 110 if asked else 40)
        expected = plain.generate(sound, **asked)
        pair()
        for assistant in (decoder, whole):
            same(ours.generate(sound, assistant_model=assistant, **asked), expected)
    found = ours.generate(features(1, 40), assistant_model=decoder, return_dict_in_generate=True)
    assert found.speculation.drafted > 10 and found.speculation.acceptance == 1.0


def test_streamers_get_every_window():
    class Noted:
        def __init__(self):
            self.got = []

        def put(self, value):
            self.got.append(value.tolist())

        def end(self):
            self.got.append("end")

    ours, theirs = pair()
    mine, expected = Noted(), Noted()
    theirs.generate(features(1, 90), streamer=expected, return_timestamps=True)
    ours.generate(features(1, 90), streamer=mine, return_timestamps=True)
    assert mine.got == expected.got and mine.got.count("end") > 1


def test_the_end_of_a_window_without_timestamps_is_the_ecosystem_s():
    tokens = torch.tensor([5, 6])
    (segment,), offset = spoken(tokens, tokens, Clock(OFF + 1, 0.02, 0.01, 2), seek=40, frames=30, before=3)
    assert float(segment.start) == pytest.approx(0.4) and float(segment.end) == pytest.approx(0.68) and offset == 30
    assert segment.place == (3, 5)


@pytest.mark.parametrize("asked", [{"return_segments": True}, {"prompt_ids": PROMPT}, {"logprob_threshold": -1.0}])
def test_what_is_about_a_whole_sound_is_refused_where_a_window_is_heard(asked):
    ours, _ = pair()
    sound = {"input_features": features(1, 40)}
    for ask in (
        lambda: omniform.Engine(ours).generate(sound, **asked),
        lambda: list(ours.stream(**sound, **asked)),
    ):
        with pytest.raises(InputError, match="whole sound"):
            ask()
    found = omniform.Engine(ours).generate(sound, return_timestamps=True, max_new_tokens=3)
    assert found.tokens[0] > OFF
