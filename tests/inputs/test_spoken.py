"""Tokenizers of texts that are to be spoken, beside the reference's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_tokenizers_folders import sentencepiece_file

import omniform
from omniform import AutoTokenizer
from omniform.core.errors import InputError
from omniform.inputs.text.numbers import spoken_numbers
from reference import transformers

VOCABULARY = {letter: index for index, letter in enumerate(["k", *" abcdefghijlmnopqrstuvwxyz'", "-", "_", "ţ", "A"])}
TEXTS = [
    "Hello, my dog is cute!", "ok", "KITE kite", "  two  spaces ", "", "one\ntwo", "țară Ţ", "ABBA Aa", "grüße",
    "<unk> a", "ich-du_er", "?!", "k", "<pad>",
]  # fmt: skip
VARIANTS = {
    "plain": {"pad_token": "k", "phonemize": False},
    "another pad": {"phonemize": False},
    "no blank": {"pad_token": "k", "phonemize": False, "add_blank": False},
    "as it stands": {"pad_token": "k", "phonemize": False, "normalize": False},
    "Romanian": {"pad_token": "k", "phonemize": False, "language": "ron"},
}


def folder(path: Path, **values: object) -> Path:
    path.mkdir(exist_ok=True)
    (path / "vocab.json").write_text(json.dumps(VOCABULARY))
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "VitsTokenizer", **values}))
    return path


def same(ours: omniform.PreTrainedTokenizerBase, theirs: object, texts: list[str]) -> None:
    for text in texts:
        found, expected = ours(text)["input_ids"], theirs(text)["input_ids"]
        assert found == expected, text
        assert ours.tokenize(text) == theirs.tokenize(text), text
        for skip in (False, True):
            assert ours.decode(found, skip_special_tokens=skip) == theirs.decode(expected, skip_special_tokens=skip), (
                text
            )
    assert ours.get_vocab() == theirs.get_vocab()
    batch = ours(texts, padding=True)
    assert batch["attention_mask"] == theirs(texts, padding=True)["attention_mask"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_vits(tmp_path, variant):
    made = folder(tmp_path / "a", **VARIANTS[variant])
    ours, theirs = AutoTokenizer.from_pretrained(made), transformers.VitsTokenizer.from_pretrained(made)
    assert type(ours) is omniform.VitsTokenizer
    same(ours, theirs, TEXTS)
    for normalize in (False, True):
        assert (
            ours("Hello, k!", normalize=normalize)["input_ids"] == theirs("Hello, k!", normalize=normalize)["input_ids"]
        )
    for name in ("language", "add_blank", "normalize", "phonemize", "is_uroman", "vocab_size", "pad_token_id"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.normalize_text("ABBA Țk") == theirs.normalize_text("ABBA Țk")
    ours.save_pretrained(tmp_path / "b")
    same(transformers.VitsTokenizer.from_pretrained(tmp_path / "b"), theirs, TEXTS)
    with pytest.raises(InputError, match="normalize"):
        ours("a", normalize="yes")


def test_phonemes(tmp_path):
    """By espeak, as the reference's; the library comes with a package where the system has none."""
    loader = pytest.importorskip("espeakng_loader")
    pytest.importorskip("phonemizer")
    values = {"pad_token": "k"}
    made = folder(tmp_path / "a", **values)
    letters = {c: i for i, c in enumerate(["k", *" abdefghijlmnopstuvwzŋɐɑɔəɚɛɜɡɪɹʃʊʌʒθðˈˌː,.!?"])}
    (made / "vocab.json").write_text(json.dumps(letters))
    ours = AutoTokenizer.from_pretrained(made)
    text = "Hello, my dog\nis cute! And  three cats?"
    found = ours.tokenize(text)
    from phonemizer.backend.espeak.wrapper import EspeakWrapper

    EspeakWrapper.set_library(loader.get_library_path())
    EspeakWrapper.set_data_path(loader.get_data_path())
    assert found == transformers.VitsTokenizer.from_pretrained(made).tokenize(text)
    assert "ˈ" in found


def test_other_scripts_are_said(tmp_path, caplog):
    """Without uroman a text stays as it is, and it is said what is missing."""
    made = folder(tmp_path / "a", pad_token="k", phonemize=False, is_uroman=True)
    ours = AutoTokenizer.from_pretrained(made)
    with caplog.at_level("WARNING", "omniform"):
        assert ours("plain")["input_ids"] and "uroman" not in caplog.text
        ours("привет")
    assert "uroman" in caplog.text


SPOKEN = [
    "I paid $15,000 for 3 cars", "-5 and -$12.50", "100%", "12.5% of 1,234,567", "0", "0.05", "7.00", "£1001", "1010",
    "110 111 119 120", "€3.10 ¥999", "a1b 2", "5.123", "12,345.67", "2000000000", "₫5 ﷼7", "10:30", "no numbers", "3-4",
    "999999999999999999999999999999999999", "$0", "0%", "007",
]  # fmt: skip


@pytest.mark.parametrize("text", SPOKEN)
def test_numbers(text):
    from transformers.models.speecht5.number_normalizer import EnglishNumberNormalizer

    assert spoken_numbers(text) == EnglishNumberNormalizer()(text)


def test_numbers_that_have_no_name():
    assert spoken_numbers("$€5 and " + "9" * 40) == "$€5 and " + "9" * 40


def letters() -> list[tuple[str, float, int]]:
    first = [("<s>", 0.0, 3), ("<pad>", 0.0, 3), ("</s>", 0.0, 3), ("<unk>", 0.0, 2)]
    return [*first, *[(c, -float(i + 1), 1) for i, c in enumerate("▁etaonisrhldcumfpgwybvkxjqz'.,-012")]]


@pytest.mark.parametrize(
    "values", [{}, {"normalize": True}, {"extra_special_tokens": ["<mask>", "<ctc_blank>"]}], ids=str
)
def test_speecht5(tmp_path, values):
    made = tmp_path / "a"
    made.mkdir()
    (made / "spm_char.model").write_bytes(sentencepiece_file(letters(), bpe=False, normalize=False, model_type=4))
    (made / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "SpeechT5Tokenizer", **values}))
    ours, theirs = AutoTokenizer.from_pretrained(made), transformers.SpeechT5Tokenizer.from_pretrained(made)
    assert type(ours) is omniform.SpeechT5Tokenizer and ours.normalize == theirs.normalize
    texts = [
        "hello world",
        "I have 20 cats, ok",
        "  two  spaces ",
        "",
        "ÄÖ unknown ß",
        "a</s> b",
        "it's 12.5%",
        "<pad> a",
    ]
    same(ours, theirs, texts)
    for normalize in (False, True):
        assert ours("20 $5", normalize=normalize)["input_ids"] == theirs("20 $5", normalize=normalize)["input_ids"]
    assert ours("a", "b")["input_ids"] == theirs("a", "b")["input_ids"]
    assert ours.normalizer("20") == theirs.normalizer("20")
    ours.save_pretrained(tmp_path / "b")
    same(AutoTokenizer.from_pretrained(tmp_path / "b"), theirs, texts)
    assert (tmp_path / "b" / "spm_char.model").read_bytes() == (made / "spm_char.model").read_bytes()
