"""Stopping criteria and watermarks as objects, beside the reference's."""

from __future__ import annotations

import json
import random
import time

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import omniform
from omniform.core.errors import InputError, UnknownArgumentError
from reference import transformers

V = 61


def ids(rows=4, length=8, seed=0):
    return torch.randint(0, 9, (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("library", [omniform, transformers])
def test_length_time_and_ends(library):
    rows = ids()
    assert library.MaxLengthCriteria(8)(rows, None).tolist() == [True] * 4
    assert library.MaxLengthCriteria(9, max_position_embeddings=4)(rows, None).tolist() == [False] * 4
    assert library.MaxTimeCriteria(0.1)(rows, None).tolist() == [False] * 4
    assert library.MaxTimeCriteria(0.1, time.time() - 0.2)(rows, None).tolist() == [True] * 4
    rows[:, -3:] = torch.tensor([[1, 2, 0], [0, 1, 3], [2, 0, 0], [5, 5, 5]])
    for ends in (0, [0, 3], torch.tensor([0, 3])):
        found = library.EosTokenCriteria(ends)(rows, None)
        assert found.tolist() == [True, ends != 0 if isinstance(ends, int) else True, True, False]
    assert library.EosTokenCriteria(1)(rows, None, new_token_length=3).tolist() == [True, True, False, False]


def test_a_list_is_done_where_one_of_them_is():
    rows = ids()
    rows[:, -1] = torch.tensor([5, 0, 5, 0])
    chain = omniform.StoppingCriteriaList([omniform.EosTokenCriteria(0), omniform.MaxLengthCriteria(20)])
    assert chain(rows, None).tolist() == [False, True, False, True] and chain.max_length == 20
    assert chain(rows, None).dtype == torch.bool
    chain.append(omniform.MaxLengthCriteria(8))
    assert chain(rows, None).all()
    assert omniform.StoppingCriteriaList()(rows, None).tolist() == [False] * 4
    assert omniform.StoppingCriteriaList().max_length is None
    with pytest.raises(NotImplementedError, match="StoppingCriteria"):
        omniform.StoppingCriteria()(rows, None)


def test_lists_of_criteria_are_completed():
    with pytest.warns(UserWarning, match="10.*11"):
        omniform.validate_stopping_criteria(omniform.StoppingCriteriaList([omniform.MaxLengthCriteria(10)]), 11)
    mine = omniform.StoppingCriteriaList()
    made = omniform.validate_stopping_criteria(mine, 11)
    assert len(made) == 1 and made.max_length == 11 and not mine


def test_confidence():
    given = (torch.zeros(1, V), torch.zeros(1, V).index_fill(1, torch.tensor([3]), 9.0))
    for last in (3, 4):
        row = torch.tensor([[1, last]])
        for threshold in (0.0001, 0.5, 0.9999):
            ours = omniform.ConfidenceCriteria(threshold)(row, given)
            assert ours == transformers.generation.stopping_criteria.ConfidenceCriteria(threshold)(row, given)
    with pytest.raises(InputError, match="output_scores"):
        omniform.ConfidenceCriteria(0.5)(row, None)


PIECES = [
    "a",
    "b",
    "ab",
    "ba",
    "aab",
    "abba",
    " ",
    " a",
    "b ",
    "st",
    "stop",
    "op",
    "s",
    "t",
    "o",
    "p",
    "sto",
    "p.",
    ".",
]


@pytest.fixture(scope="module")
def tokenizer():
    made = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate([*PIECES, "abcdef"])}, unk_token="."))
    made.pre_tokenizer, made.decoder = pre_tokenizers.WhitespaceSplit(), decoders.Fuse()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made)


@pytest.mark.parametrize("strings", ["stop", ["abba", "stop."], ["a"], ["baab", "  ", "opst"]])
def test_stop_strings(tokenizer, strings):
    ours = omniform.StopStringCriteria(tokenizer=tokenizer, stop_strings=strings)
    theirs = transformers.StopStringCriteria(tokenizer=tokenizer, stop_strings=strings)
    pick = random.Random(0)
    rows = torch.tensor([[pick.randrange(len(PIECES)) for _ in range(6)] for _ in range(400)])
    for length in (1, 2, 6):
        found, expected = ours(rows[:, :length], None), theirs(rows[:, :length], None)
        assert found.dtype == torch.bool and torch.equal(found, expected) and 0 < int(found.sum() + (length < 6)) < 401


@pytest.mark.parametrize("strings", ["", [], ["a", ""]])
def test_stop_strings_that_cannot_be(tokenizer, strings):
    with pytest.raises(InputError, match="stop_strings"):
        omniform.StopStringCriteria(tokenizer, strings)


# -- watermarks ----------------------------------------------------------------------------------------------------

SCHEMES = [
    {}, {"greenlist_ratio": 0.4, "bias": 3.0, "hashing_key": 77}, {"seeding_scheme": "selfhash", "context_width": 2},
    {"context_width": 3},
]  # fmt: skip


class Config:
    vocab_size, bos_token_id, is_encoder_decoder, decoder_start_token_id = V, 1, False, 3


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("once", [False, True])
def test_watermarks_are_found(scheme, once):
    config = omniform.WatermarkingConfig(**scheme)
    processor = config.construct_processor(V, "cpu")
    generator = torch.Generator().manual_seed(3)
    rows = torch.randint(2, V, (3, 4), generator=generator)
    for _ in range(40):
        odds = processor(rows, torch.randn(3, V, generator=generator)).softmax(-1)
        rows = torch.cat([rows, torch.multinomial(odds, 1, generator=generator)], 1)
    rows[1] = torch.randint(2, V, (rows.shape[1],), generator=generator)
    both = [
        library.WatermarkDetector(Config(), "cpu", given, ignore_repeated_ngrams=once)
        for library, given in ((omniform, config), (transformers, transformers.WatermarkingConfig(**scheme)))
    ]
    for text in (rows, torch.cat([torch.ones(3, 1, dtype=torch.long), rows], 1)):
        ours, theirs = (detector(text, z_threshold=2.0, return_dict=True) for detector in both)
        for name, value in vars(theirs).items():
            assert np.array_equal(vars(ours)[name], value), name
        assert np.array_equal(both[0](text), both[1](text))
    assert ours.prediction[0] and not ours.prediction[1]
    mapping = omniform.WatermarkDetector(Config(), "cpu", config.to_dict(), once)
    assert np.array_equal(mapping(text), both[0](text))


def test_texts_that_no_detector_can_look_at():
    detector = omniform.WatermarkDetector(Config(), "cpu", {"context_width": 3})
    with pytest.raises(InputError, match="begin"):
        detector(torch.tensor([[1, 2, 3, 4, 5], [2, 2, 3, 4, 5]]))
    with pytest.raises(InputError, match="more than 3 tokens"):
        detector(torch.tensor([[2, 2, 3]]))
    with pytest.raises(InputError, match="WatermarkingConfig"):
        omniform.WatermarkDetector(Config(), "cpu", {"ngram_len": 3, "keys": [1, 2]})


def test_tournaments_can_be_looked_at():
    arguments = {"ngram_len": 3, "keys": [5, 9, 11], "sampling_table_size": 64, "context_history_size": 5}
    ours = omniform.SynthIDTextWatermarkingConfig(**arguments).construct_processor(V, "cpu")
    theirs = transformers.SynthIDTextWatermarkingConfig(**arguments).construct_processor(V, "cpu")
    rows = ids(3, 20)
    for name in ("compute_g_values", "compute_context_repetition_mask"):
        found, expected = getattr(ours, name)(rows), getattr(theirs, name)(rows)
        assert found.dtype == expected.dtype and torch.equal(found, expected), name
    assert torch.equal(ours.compute_eos_token_mask(rows, 4), theirs.compute_eos_token_mask(rows, 4).bool())
    assert ours.expected_mean_g_value(V) == theirs.expected_mean_g_value(V)
    runs = rows.unfold(1, 3, 1)
    assert torch.equal(ours.compute_ngram_keys(runs), theirs.compute_ngram_keys(runs))
    for broken in (rows, rows.unfold(1, 2, 1)):
        with pytest.raises(InputError, match="runs"):
            ours.compute_ngram_keys(broken)
    with pytest.raises(InputError, match="rows"):
        ours.compute_g_values(rows[0])


@pytest.mark.parametrize("name", ["WatermarkingConfig", "SynthIDTextWatermarkingConfig"])
def test_watermark_configs_are_written_as_the_reference_writes_them(name, tmp_path):
    arguments = {"bias": 1.5} if name == "WatermarkingConfig" else {"ngram_len": 3, "keys": [5, 9]}
    ours, theirs = (getattr(library, name)(**arguments) for library in (omniform, transformers))
    assert ours.to_dict() == theirs.to_dict() and list(ours) == list(theirs)
    assert ours.to_json_string() == theirs.to_json_string()
    assert repr(ours) == f"{name} {theirs.to_json_string()}"
    for config, file in ((ours, "ours"), (theirs, "theirs")):
        config.update(bias=2.5, ngram_len=4, other=1)
        config.to_json_file(tmp_path / file)
    assert (tmp_path / "ours").read_text() == (tmp_path / "theirs").read_text()
    again = type(ours).from_dict(json.loads((tmp_path / "ours").read_text()))
    assert again == ours and hash(again) == hash(ours) and again is not ours
    assert type(ours).from_dict(arguments, ngram_len=9, bias=9.0) != ours
    with pytest.raises(UnknownArgumentError, match="biass"):
        type(ours).from_dict({"biass": 1})


@pytest.mark.parametrize(
    "broken",
    [{"seeding_scheme": "x"}, {"greenlist_ratio": 1.5}, {"context_width": 0}, {"bias": "much"}, {"hashing_key": 1.5}],
)
def test_watermarks_that_cannot_be(broken):
    with pytest.raises(InputError, match=next(iter(broken))):
        omniform.WatermarkingConfig(**broken).validate()


@pytest.mark.parametrize(
    "broken", [{"sampling_table_size": 2**25}, {"keys": []}, {"keys": [1.5]}, {"ngram_len": 1}, {"ngram_len": "x"}]
)
def test_tournaments_that_cannot_be(broken):
    with pytest.raises(InputError, match=next(iter(broken))):
        omniform.SynthIDTextWatermarkingConfig(**{"ngram_len": 3, "keys": [1], **broken}).validate()


# -- in a GenerationConfig -----------------------------------------------------------------------------------------

MODES = [
    {}, {"do_sample": True}, {"num_beams": 2}, {"num_beams": 2, "do_sample": True}, {"top_k": 4, "penalty_alpha": 0.6},
    {"top_k": 1, "penalty_alpha": 0.6}, {"num_beams": 4, "num_beam_groups": 2}, {"force_words_ids": [[1]]},
    {"prompt_lookup_num_tokens": 3}, {"prompt_lookup_num_tokens": 3, "num_beams": 2}, {"dola_layers": "low"},
    {"assistant_early_exit": 2, "do_sample": True}, {"use_mtp": True}, {"num_beams": 1, "do_sample": False},
    {"dola_layers": "low", "num_beams": 3},
]  # fmt: skip


@pytest.mark.parametrize("said", MODES)
def test_ways_of_writing_have_names(said):
    ours, theirs = omniform.GenerationConfig(**said), transformers.GenerationConfig(**said)
    for assistant in (None, object()):
        found = ours.get_generation_mode(assistant)
        assert found == theirs.get_generation_mode(assistant) and isinstance(found, omniform.GenerationMode)
    assert [mode.value for mode in omniform.GenerationMode] == [
        mode.value for mode in transformers.generation.GenerationMode
    ]


def test_objects_of_a_call_are_no_settings():
    for name in ("logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn"):
        with pytest.raises(ValueError, match="generate"):
            transformers.GenerationConfig(**{name: "foo"})
        with pytest.raises(InputError, match=name):
            omniform.GenerationConfig(**{name: "foo"})


def test_watermarks_in_files(tmp_path):
    ours = omniform.GenerationConfig(do_sample=True, watermarking_config={"bias": 1.5})
    theirs = transformers.GenerationConfig(do_sample=True, watermarking_config={"bias": 1.5})
    assert isinstance(ours.watermarking_config, omniform.WatermarkingConfig)
    ours.to_json_file(tmp_path / "generation_config.json", keys_to_pop=["transformers_version"])
    theirs.to_json_file(tmp_path / "theirs", keys_to_pop=["transformers_version"])
    assert (tmp_path / "generation_config.json").read_text() == (tmp_path / "theirs").read_text()
    again = omniform.GenerationConfig.from_pretrained(tmp_path)
    assert again == ours and again.watermarking_config == omniform.WatermarkingConfig(bias=1.5)
    ours.watermarking_config.bias = 9.0
    assert again.watermarking_config.bias == 1.5
    again.watermarking_config = {"ngram_len": 3, "keys": [4]}
    assert isinstance(again.watermarking_config, omniform.SynthIDTextWatermarkingConfig)
    assert again.to_dict()["watermarking_config"] == again.watermarking_config
    full = omniform.GenerationConfig(watermarking_config=omniform.WatermarkingConfig())
    assert json.loads(full.to_json_string(use_diff=False))["watermarking_config"]["bias"] == 2.0
