"""Whisper's tokenizer against the reference: prefixes, timestamps, prompts."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from test_tokenizers_folders import ours, reference, whisper

from omniform.core.errors import ConfigError, InputError, UnknownArgumentError
from omniform.inputs.text.whisper import WhisperTokenizer


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory):
    folder = whisper(tmp_path_factory.mktemp("whisper") / "w")
    mine = ours(folder)
    assert isinstance(mine, WhisperTokenizer)
    return mine, reference(folder)


SETTINGS = [
    {}, {"language": "en"}, {"language": "German"}, {"language": "es", "task": "translate"}, {"task": "transcribe"},
    {"language": "mandarin", "task": "transcribe", "predict_timestamps": True}, {"predict_timestamps": False},
]  # fmt: skip


def test_prefixes(pair) -> None:
    mine, theirs = pair
    for settings in SETTINGS:
        mine.set_prefix_tokens(**settings)
        theirs.set_prefix_tokens(**settings)
        assert mine.prefix_tokens == theirs.prefix_tokens
        assert mine("hello")["input_ids"] == theirs("hello")["input_ids"]
        assert dict(mine("hello", "world")) == dict(theirs("hello", "world"))
    for settings in SETTINGS:
        options = {name: value for name, value in settings.items() if name != "predict_timestamps"}
        for no_timestamps in (True, False):
            options["no_timestamps"] = no_timestamps
            assert mine.get_decoder_prompt_ids(**options) == theirs.get_decoder_prompt_ids(**options)
    mine.language = theirs.language = mine.task = theirs.task = None


def test_settings_of_the_folder(tmp_path) -> None:
    folder = whisper(tmp_path / "w", language="de", task="translate", predict_timestamps=True)
    mine, theirs = ours(folder), reference(folder)
    assert mine("hello")["input_ids"] == theirs("hello")["input_ids"]
    mine.set_prefix_tokens(language="es")
    theirs.set_prefix_tokens(language="es")
    mine.save_files(tmp_path / "mine")
    theirs.save_pretrained(tmp_path / "theirs")
    for saved in ("mine", "theirs"):
        for again in (ours(tmp_path / saved), reference(tmp_path / saved)):
            assert again("hello")["input_ids"] == theirs("hello")["input_ids"], saved


def sequences(first_time: int, size: int) -> list[list[int]]:
    """Transcripts with timestamps: in order, doubled, missing, running backwards into the next window."""
    chance = random.Random(0)
    time = lambda seconds: first_time + round(seconds / 0.02)
    rows = [
        [], [5, 6, 7], [time(0)], [time(0), 5, 6], [time(0), 5, 6, time(1.5)], [5, 6, time(2)],
        [time(0), 5, time(2), time(2), 6, 7, time(4.5)], [time(0), 5, time(2), time(2), 6, 7],
        [time(0), 5, time(20), time(20), 6, time(29), time(0), 7, time(3)],
        [time(0), 5, time(20), time(20), 6, time(29), time(29), time(0), 7, time(3), time(3), 8, time(9)],
        [time(10), 5, time(20), time(4), 6, time(9), time(9), 7, time(29.98), time(1), 8, time(2)],
        [time(0), time(0), time(1), time(1)], [time(3), 5, time(1), 6, time(0.5), 7],
    ]  # fmt: skip
    for _ in range(60):
        row: list[int] = []
        for _ in range(chance.randrange(1, 14)):
            kind = chance.randrange(3)
            row.append(time(chance.choice((0, 0.02, 1, 2.5, 10, 29.98, 30))) if kind else chance.randrange(size))
        rows.append(row)
    return rows


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("times", [True, False])
@pytest.mark.parametrize("offsets", [True, False])
def test_timestamps(pair, skip: bool, times: bool, offsets: bool) -> None:
    mine, theirs = pair
    start = mine.convert_tokens_to_ids("<|startofprev|>")
    begin = mine.convert_tokens_to_ids("<|startoftranscript|>")
    first = mine.all_special_ids[-1] + 1
    assert mine.convert_ids_to_tokens(first) == "<|0.00|>"
    options = {"skip_special_tokens": skip, "decode_with_timestamps": times, "output_offsets": offsets}
    for row in sequences(first, mine.vocab_size):
        for ids in (row, [begin, *row], [start, 5, 6, begin, *row], [start, 5, 6]):
            expected = theirs.decode(ids, **options)
            assert mine.decode(ids, **options) == expected, ids
            assert mine.decode(torch.tensor(ids, dtype=torch.int64), **options) == expected
            assert mine.decode(np.array(ids, dtype=np.int64), **options) == expected
    if not offsets:
        block = [[begin, 5, first, first + 9], [6, first, 7, first + 3]]
        assert mine.batch_decode(block, skip_special_tokens=skip) == theirs.batch_decode(
            block, skip_special_tokens=skip
        )
        assert mine.decode(torch.tensor(block), **options) == theirs.decode(torch.tensor(block), **options)
        assert mine.batch_decode(block, **options) == theirs.batch_decode(block, **options)
    else:  # of which the reference gives one row at a time
        block = sequences(first, mine.vocab_size)[5:20]
        each = [theirs.decode(row, **{**options, "skip_special_tokens": False}) for row in block]
        assert mine.batch_decode(block, **{**options, "skip_special_tokens": False}) == each
    finer = {**options, "time_precision": 0.04}
    assert mine.decode([first, 5, first + 7], **finer) == theirs.decode([first, 5, first + 7], **finer)


def test_prompts(pair) -> None:
    mine, theirs = pair
    for text in ("hello world", "  Mr. Fox ", ""):
        for kind in ("np", "pt", None):
            found, expected = mine.get_prompt_ids(text, kind), theirs.get_prompt_ids(text, return_tensors=kind)
            assert type(found) is type(expected) and list(found) == list(expected)
        assert type(mine.get_prompt_ids(text)) is np.ndarray
    with pytest.raises(InputError, match="special"):
        mine.get_prompt_ids("hello <|startoftranscript|>")
    for precision in ((), (0.02,), (0.04,)):
        assert mine.timestamp_ids(*precision) == theirs.timestamp_ids(*precision)


def test_languages() -> None:
    from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

    from omniform.core import languages

    assert list(languages.LANGUAGES.items()) == list(LANGUAGES.items())
    assert languages.CODES == TO_LANGUAGE_CODE


def test_refusals(pair, tmp_path) -> None:
    mine, _ = pair
    before = mine("hello")["input_ids"]
    for settings in ({"language": "klingon"}, {"language": "xx"}, {"task": "sing"}):
        with pytest.raises(InputError) as caught:
            mine.set_prefix_tokens(**settings)
        assert caught.value.where in settings
    with pytest.raises(InputError, match="transcribe"):
        mine.set_prefix_tokens(task="transcripe")
    assert mine("hello")["input_ids"] == before
    with pytest.raises(UnknownArgumentError, match="output_offsets"):
        mine.decode([5], output_offset=True)
    for options in ({"time_precision": 0}, {"time_precision": "x"}, {"output_offsets": 1}):
        with pytest.raises(InputError):
            mine.decode([5], **options)
    with pytest.raises((ConfigError, InputError)):
        ours(whisper(tmp_path / "w", language="klingon"))
