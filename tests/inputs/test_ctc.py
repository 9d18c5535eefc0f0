"""Letters of speech: every way of reading steps, and what the ecosystem asks of the tokenizer, beside the reference."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Mapping
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from omniform import AutoTokenizer, Wav2Vec2CTCTokenizer, Wav2Vec2PhonemeCTCTokenizer
from omniform.core.errors import DependencyError, UnknownArgumentError
from omniform.inputs.text import phone_script
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


PHONES = {token: index for index, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", *"nst", "aː", "|", "ɪ"])}
PHONE_FLAGS = ("group_tokens", "spaces_between_special_tokens", "output_char_offsets", "filter_word_delimiter_token")


@pytest.mark.parametrize("values", [{}, {"word_delimiter_token": "|"}], ids=["phonemes", "words between bars"])
def test_phonemes(values: Mapping[str, object], tmp_path: Path) -> None:
    told = {"tokenizer_class": "Wav2Vec2PhonemeCTCTokenizer", "do_phonemize": False, **values}
    made = folder(tmp_path / "a", PHONES, told)
    theirs = transformers.Wav2Vec2PhonemeCTCTokenizer.from_pretrained(made)
    ours = AutoTokenizer.from_pretrained(made)
    assert type(ours) is Wav2Vec2PhonemeCTCTokenizer
    draw = random.Random(1)
    rows = [[draw.choice([0, 0, 8, 7, draw.randrange(12)]) for _ in range(draw.randrange(1, 20))] for _ in range(12)]
    for flags in product((False, True), repeat=4):
        options = dict(zip(PHONE_FLAGS, flags, strict=True))
        for skip in (False, True):
            for row in rows:
                if skip and all(one in (0, 1, 2, 3) for one in row):
                    continue  # the reference fails where nothing is left
                expected = plain(theirs.decode(row, skip_special_tokens=skip, **options))
                assert plain(ours.decode(row, skip_special_tokens=skip, **options)) == expected
    options = {"output_char_offsets": True}
    assert plain(ours.batch_decode(rows, **options)) == plain(theirs.batch_decode(rows, **options))
    texts = ["n s aː t", " n  s x", "n <s> aː", "ɪ | n s", "n"]
    ours.save_pretrained(tmp_path / "b")
    again = transformers.Wav2Vec2PhonemeCTCTokenizer.from_pretrained(tmp_path / "b")
    for text in texts:
        assert ours(text)["input_ids"] == theirs(text)["input_ids"] == again(text)["input_ids"]
        assert ours.tokenize(text) == theirs.tokenize(text)
    for name in ("do_phonemize", "phonemizer_lang", "phonemizer_backend", "phone_delimiter_token", "encoder",
                 "word_delimiter_token", "word_delimiter_token_id", "vocab_size", "all_special_tokens"):  # fmt: skip
        assert getattr(ours, name) == getattr(theirs, name) == getattr(again, name), name
    assert ours(texts, padding=True)["input_ids"] == theirs(texts, padding=True)["input_ids"]
    with pytest.raises(UnknownArgumentError, match="output_word_offsets"):
        ours.decode(rows[0], output_word_offsets=True)


def test_words_become_phonemes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = folder(tmp_path / "a", PHONES, {"tokenizer_class": "Wav2Vec2PhonemeCTCTokenizer"})
    ours = AutoTokenizer.from_pretrained(made)
    said = []

    def phonemes(text: str, language: str, backend: str, separators: Mapping[str, str]) -> str:
        said.append((text, language, backend, separators["phone"]))
        return "n ɪ s"

    monkeypatch.setattr(phone_script, "phonemes", phonemes)
    assert ours(" Niece ")["input_ids"] == [4, 9, 5]
    assert ours("n s", do_phonemize=False)["input_ids"] == ours("n s")["input_ids"] == [4, 5]
    assert ours("x", do_phonemize=True, phonemizer_lang="de")["input_ids"] == [4, 9, 5]
    assert said == [("niece", "en-us", "espeak", " "), ("x", "de", "espeak", " ")]
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "phonemizer.backend", None)
    with pytest.raises(DependencyError, match="phonemizer"):
        ours("niece")
