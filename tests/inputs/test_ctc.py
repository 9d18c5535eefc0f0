"""Letters of speech: every way of reading steps, and what the ecosystem asks of the tokenizer, beside the reference."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from omniform import Wav2Vec2CTCTokenizer
from reference import transformers

FIRST = ["<pad>", "<s>", "</s>", "<unk>", "|"]
FLAT = {token: index for index, token in enumerate([*FIRST, *"ABCDEFGHIJ'", "CH", "É"])}
NESTED = {
    "eng": {token: index for index, token in enumerate([*FIRST, *"abcdefg"])},
    "deu": {token: index for index, token in enumerate([*FIRST, *"abäöü", "sch"])},
}
TEXTS = ["HAD A CAB", "had a cab", "A CH <s> B", "  two  spaces ", "", "ÉCH É", "sch ab ä", " |A|", "A\nB"]
FLAGS = ("group_tokens", "spaces_between_special_tokens", "output_char_offsets", "output_word_offsets")
CASES = {
    "flat": (FLAT, {}),
    "small letters": (FLAT, {"do_lower_case": True}),
    "languages": (NESTED, {"target_lang": "eng"}),
    "another delimiter": (FLAT, {"replace_word_delimiter_char": "_", "pad_token": "<s>"}),
    "tidied": (FLAT, {"clean_up_tokenization_spaces": True}),
    "more tokens": (FLAT, {"bos_token": "<bos>"}),
}


def folder(path: Path, vocab: Mapping[str, object], values: Mapping[str, object]) -> Path:
    path.mkdir(exist_ok=True)
    (path / "vocab.json").write_text(json.dumps(vocab))
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Wav2Vec2CTCTokenizer", **values}))
    return path


def plain(value: object) -> object:
    """Numbers of numpy's as Python's, outputs as dictionaries."""
    if isinstance(value, Mapping):
        return {name: plain(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return value.item() if isinstance(value, np.generic) else value


@pytest.mark.parametrize("case", CASES)
def test_steps(case: str, tmp_path: Path) -> None:
    vocab, values = CASES[case]
    made = folder(tmp_path / "a", vocab, values)
    theirs, ours = transformers.Wav2Vec2CTCTokenizer.from_pretrained(made), Wav2Vec2CTCTokenizer.from_pretrained(made)
    draw = random.Random(0)
    rows = [[draw.choice([0, 0, 4, 5, draw.randrange(14)]) for _ in range(draw.randrange(20))] for _ in range(12)]
    for flags in product((False, True), repeat=4):
        options = dict(zip(FLAGS, flags, strict=True))
        for skip in (False, True):
            for row in rows:
                expected = plain(theirs.decode(row, skip_special_tokens=skip, **options))
                assert plain(ours.decode(row, skip_special_tokens=skip, **options)) == expected
        tokens = ours.convert_ids_to_tokens(rows[0])
        assert tokens == theirs.convert_ids_to_tokens(rows[0])
        joined = theirs.convert_tokens_to_string(tokens, **options)
        assert plain(ours.convert_tokens_to_string(tokens, **options)) == plain(joined)
    letters = ours.decode(rows[1], output_char_offsets=True)["char_offsets"]
    char = theirs.replace_word_delimiter_char
    assert ours._get_word_offsets(letters, char) == theirs._get_word_offsets(letters, char)
    many = [[5, 5, 0, 4, 6], [0, 0, 7, 7, 4]]
    for batch in (many, torch.tensor(many), np.array(many)):
        for options in ({}, {"output_word_offsets": True}):
            assert plain(ours.batch_decode(batch, **options)) == plain(theirs.batch_decode(batch, **options))


@pytest.mark.parametrize("case", CASES)
def test_texts_and_files(case: str, tmp_path: Path) -> None:
    vocab, values = CASES[case]
    made = folder(tmp_path / "a", vocab, values)
    theirs, ours = transformers.Wav2Vec2CTCTokenizer.from_pretrained(made), Wav2Vec2CTCTokenizer.from_pretrained(made)
    for name in ("vocab", "encoder", "decoder", "vocab_size", "target_lang", "word_delimiter_token_id", "pad_token_id"):
        assert getattr(ours, name) == getattr(theirs, name), name
    ours.save_pretrained(tmp_path / "b")
    assert json.loads((tmp_path / "b" / "vocab.json").read_text()) == vocab
    again = transformers.Wav2Vec2CTCTokenizer.from_pretrained(tmp_path / "b")
    for text in TEXTS:
        assert ours(text)["input_ids"] == theirs(text)["input_ids"] == again(text)["input_ids"]


def test_languages_change_and_come_back(tmp_path: Path) -> None:
    made = folder(tmp_path / "a", NESTED, {"target_lang": "eng"})
    theirs, ours = transformers.Wav2Vec2CTCTokenizer.from_pretrained(made), Wav2Vec2CTCTokenizer.from_pretrained(made)
    for language in ("deu", "eng", "deu"):
        theirs.set_target_lang(language)
        ours.set_target_lang(language)
        assert [ours(text)["input_ids"] for text in TEXTS] == [theirs(text)["input_ids"] for text in TEXTS]
        assert ours.decode([5, 5, 0, 7, 10, 10, 4, 6]) == theirs.decode([5, 5, 0, 7, 10, 10, 4, 6])
        assert (ours.encoder, ours.vocab) == (theirs.encoder, theirs.vocab)
    ours.save_pretrained(tmp_path / "b")
    assert Wav2Vec2CTCTokenizer.from_pretrained(tmp_path / "b").target_lang == "deu"
    assert Wav2Vec2CTCTokenizer.from_pretrained(tmp_path / "b", target_lang="eng").encoder == NESTED["eng"]
