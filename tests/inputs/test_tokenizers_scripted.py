"""Tokenizers of bytes, code points, words and letters of speech, beside the reference's own classes."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest
from test_tokenizers_folders import TEXTS, ours, reference, sentencepiece_file, t5_pieces, write

from omniform import AutoTokenizer
from omniform.core.errors import (
    ConfigError,
    DependencyError,
    InputError,
    OmniformError,
    RepoError,
    UnknownArgumentError,
)

SHORT = [text for text in TEXTS if len(text) < 200] + [
    "a <extra_id_0> b", "x</s> y", "<pad>", "  <unk>  two", "L A <mask> G\n<cls>K", "LAGV<mask>SER",
    "HELLO|WORLD <unk>",
    "\ue000 \ue003 a", "[MASK] [CLS]", "<spn> no <spn>noise", "grüße ß",
]  # fmt: skip


def byt5(folder: Path, **config: object) -> Path:
    return write(folder, tokenizer_config={"tokenizer_class": "ByT5Tokenizer", **config}, config={"model_type": "t5"})


def canine(folder: Path, **config: object) -> Path:
    values = {"tokenizer_class": "CanineTokenizer", **config}
    return write(folder, tokenizer_config=values, config={"model_type": "canine"})


def perceiver(folder: Path, **config: object) -> Path:
    values = {"tokenizer_class": "PerceiverTokenizer", **config}
    return write(folder, tokenizer_config=values, config={"model_type": "perceiver"})


def esm(folder: Path, **config: object) -> Path:
    words = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]
    values = {"tokenizer_class": "EsmTokenizer", **config}
    return write(folder, vocab_txt="\n".join(words), tokenizer_config=values, config={"model_type": "esm"})


LETTERS = {t: i for i, t in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ", "<spn>"])}


def wav2vec2(folder: Path, **config: object) -> Path:
    values = {"tokenizer_class": "Wav2Vec2CTCTokenizer", **config}
    return write(folder, vocab=LETTERS, tokenizer_config=values, config={"model_type": "wav2vec2"})


def small(folder: Path, **config: object) -> Path:
    table = {"[PAD]": 0, "[UNK]": 1, " ": 2, "-": 3, **{letter: i + 4 for i, letter in enumerate("abcdefghij")}}
    values = {
        "tokenizer_class": "Wav2Vec2CTCTokenizer", "pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": None,
        "eos_token": None, "word_delimiter_token": "-", "replace_word_delimiter_char": "_", **config,
    }  # fmt: skip
    return write(folder, vocab=table, tokenizer_config=values, config={"model_type": "wav2vec2"})


def mms(folder: Path, **config: object) -> Path:
    first = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4}
    tables = {
        "eng": {**first, **{letter: i + 5 for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz'")}},
        "fra": {**first, **{letter: i + 5 for i, letter in enumerate("éàèabcdeghilmnoprstuv")}, "qu": 40},
    }
    values = {"tokenizer_class": "Wav2Vec2CTCTokenizer", "target_lang": "eng", **config}
    return write(folder, vocab=tables, tokenizer_config=values, config={"model_type": "wav2vec2"})


def pieces(name: str, family: str, normalize: bool, **config: object) -> Callable[[Path], Path]:
    """A folder of one sentencepiece Unigram file."""

    def make(folder: Path) -> Path:
        more = [("<usr>", 0.0, 4), ("<ctl>", 0.0, 3)]
        data = sentencepiece_file(
            [*t5_pieces(), *more], bpe=False, normalize=normalize, unk_id=2, bos_id=-1, eos_id=1, pad_id=0
        )  # fmt: skip
        values = {"tokenizer_class": name, **config}
        return write(folder, spiece=data, tokenizer_config=values, config={"model_type": family})

    return make


def japanese(folder: Path, **config: object) -> Path:
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *"日本語テキスト和中文字符abcdefghijklmnopqrstuvwxyz.,!?をはの",
    ]
    words += ["##" + word for word in words[5:]] + ["日本", "##ing", "the", "quick", "fox", "café", "cafe", "一太郎"]
    values = {"tokenizer_class": "BertJapaneseTokenizer", **config}
    return write(folder, vocab_txt="\n".join(words) + "\n", tokenizer_config=values, config={"model_type": "bert"})


FLAGS = {"lstrip": True, "rstrip": False, "single_word": False, "normalized": True, "special": True}
MECAB = {
    "mecab": lambda f: japanese(f, word_tokenizer_type="mecab", mecab_kwargs={"mecab_dic": "unidic_lite"}),
    "mecab, characters": lambda f: japanese(
        f, word_tokenizer_type="mecab", subword_tokenizer_type="character", do_lower_case=True,
        mecab_kwargs={"mecab_dic": "unidic_lite", "normalize_text": False},
    ),
}  # fmt: skip
KINDS = {
    "byt5": byt5,
    "byt5, few": lambda f: byt5(f, extra_ids=3, additional_special_tokens=[f"<extra_id_{i}>" for i in range(3)]),
    "byt5, none": lambda f: byt5(f, extra_ids=0),
    "canine": canine,
    "perceiver": perceiver,
    "bert-generation": pieces("BertGenerationTokenizer", "bert-generation", True),
    "bert-generation, plain": pieces("BertGenerationTokenizer", "bert-generation", False, add_eos_token=True),
    "siglip": pieces("SiglipTokenizer", "siglip", True),
    "siglip, cased": pieces("SiglipTokenizer", "siglip", False, do_lower_case=False, model_max_length=9),
    "japanese": japanese,
    "japanese, small": lambda f: japanese(f, do_lower_case=True),
    "japanese, characters": lambda f: japanese(f, subword_tokenizer_type="character"),
    "japanese, whole": lambda f: japanese(f, do_word_tokenize=False, subword_tokenizer_type="character"),
    "japanese, words": lambda f: japanese(f, do_subword_tokenize=False),
    **(MECAB if find_spec("fugashi") and find_spec("unidic_lite") else {}),
    "esm": esm,
    "esm, as published": lambda f: esm(
        f, cls_token="<cls>", eos_token="<eos>", mask_token="<mask>", pad_token="<pad>", unk_token="<unk>"
    ),
    "wav2vec2": wav2vec2,
    "wav2vec2, lower": lambda f: wav2vec2(f, do_lower_case=True),
    "wav2vec2, added": lambda f: wav2vec2(
        f, added_tokens_decoder={"40": {"content": "<new>", **FLAGS}}, mask_token="<new>"
    ),
    "wav2vec2, own words": small,
    "mms": mms,
    "mms, french": lambda f: mms(f, target_lang="fra"),
}  # fmt: skip


def theirs_of(folder: Path):
    """The reference's; its AutoTokenizer does not hand on the token between words, its class takes it."""
    values = json.loads((folder / "tokenizer_config.json").read_text())
    if "word_delimiter_token" not in values:
        return reference(folder)
    from transformers import Wav2Vec2CTCTokenizer

    values.pop("tokenizer_class")
    return Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), **values)


def facts(tokenizer, texts=SHORT) -> dict[str, object]:
    named = {"return_special_tokens_mask": True, "return_token_type_ids": True}
    ids = [tokenizer(text)["input_ids"] for text in texts]
    return {
        "single": [dict(tokenizer(text, **named)) for text in texts],
        "bare": [dict(tokenizer(text, add_special_tokens=False)) for text in texts],
        "pairs": [dict(tokenizer(a, b, return_token_type_ids=True)) for a, b in pairwise(texts) if b],
        "tokens": [tokenizer.tokenize(text) for text in texts],
        "split": [tokenizer(text, split_special_tokens=True)["input_ids"] for text in texts],
        "words": tokenizer([text.split() for text in texts[3:9]], is_split_into_words=True)["input_ids"],
        "batch": dict(tokenizer(texts, padding=True, truncation=True, max_length=12)),
        "left": dict(tokenizer(texts, padding="max_length", max_length=9, truncation=True, padding_side="left")),
        "decoded": [tokenizer.decode(row) for row in ids],
        "skipped": [tokenizer.decode(row, skip_special_tokens=True) for row in ids],
        "back": [tokenizer.convert_ids_to_tokens(row) for row in ids],
        "named": tokenizer.special_tokens_map,
        "all": tokenizer.all_special_tokens,
        "extra": sorted(tokenizer.extra_special_tokens),
        "sizes": [len(tokenizer), tokenizer.vocab_size, tokenizer.model_max_length, tokenizer.padding_side],
        "inputs": tokenizer.model_input_names,
        "framing": [tokenizer.num_special_tokens_to_add(), tokenizer.num_special_tokens_to_add(pair=True)],
        "masks": tokenizer.get_special_tokens_mask(ids[0], already_has_special_tokens=True),
        "added": {i: (t.content, t.special) for i, t in tokenizer.added_tokens_decoder.items()},
        "vocab": tokenizer.get_vocab() if tokenizer.vocab_size < 10**6 else None,
    }


def alike(found: dict[str, object], expected: dict[str, object]) -> None:
    for name, value in expected.items():
        assert found[name] == value, name


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_as_the_reference(kind: str, tmp_path: Path) -> None:
    folder = KINDS[kind](tmp_path / "a")
    mine, theirs = ours(folder), theirs_of(folder)
    assert type(mine).__name__ == type(theirs).__name__
    texts = [text for text in SHORT if text] if "byt5" not in kind else SHORT
    alike(facts(mine, texts), facts(theirs, texts))
    alike(facts(pickle.loads(pickle.dumps(mine)), texts), facts(mine, texts))
    saved = ((mine, "mine"), (theirs, "theirs"))
    for one, name in saved[: 1 if kind == "canine" else 2]:  # the reference counts Unicode each time
        one.save_pretrained(tmp_path / name)
        (tmp_path / name / "config.json").write_text((folder / "config.json").read_text())
        if kind != "wav2vec2, own words":
            alike(facts(ours(tmp_path / name), texts), facts(reference(tmp_path / name), texts))


@pytest.mark.parametrize("kind", ["byt5", "perceiver", "esm", "wav2vec2"])
def test_tokens_that_are_added(kind: str, tmp_path: Path) -> None:
    mine, theirs = (read(KINDS[kind](tmp_path / kind)) for read in (ours, reference))
    for one in (mine, theirs):
        one.add_tokens(["<hello>", "LA", "word word"])
        one.add_special_tokens({"extra_special_tokens": ["<one>", "<two>"]})
    texts = ["<hello>LA <one> <two>word word", "LAGLA <hello >", "word  word<one>"]
    alike(facts(mine, [*SHORT[:3], *texts] if kind == "byt5" else ["a", "b", "c", *texts] * 2),
          facts(theirs, [*SHORT[:3], *texts] if kind == "byt5" else ["a", "b", "c", *texts] * 2))  # fmt: skip


STEPS = [
    [7, 7, 0, 7, 11, 11, 4, 4, 4, 5, 0, 0, 5, 32, 3, 4, 1, 2, 0],
    [0, 0, 0],
    [4, 4, 5, 4],
    [],
    [5, 6, 7, 4, 4, 0, 4, 8, 8, 0],
]


@pytest.mark.parametrize("kind", ["wav2vec2", "wav2vec2, lower", "wav2vec2, own words", "mms"])
def test_steps_of_speech(kind: str, tmp_path: Path) -> None:
    folder = KINDS[kind](tmp_path / "a")
    mine, theirs = ours(folder), theirs_of(folder)
    rows = [[i for i in row if i < mine.vocab_size] for row in STEPS]
    for options in (
        {}, {"skip_special_tokens": True}, {"group_tokens": False}, {"spaces_between_special_tokens": True},
        {"clean_up_tokenization_spaces": True, "group_tokens": False, "skip_special_tokens": True},
    ):  # fmt: skip
        for row in rows:
            assert mine.decode(row, **options) == theirs.decode(row, **options)
            for offsets in (
                ["output_char_offsets"],
                ["output_word_offsets"],
                ["output_char_offsets", "output_word_offsets"],
            ):
                asked = {**options, **dict.fromkeys(offsets, True)}
                found, expected = mine.decode(row, **asked), theirs.decode(row, **asked)
                assert dict(found) == dict(expected)
                assert found.text == expected.text and found.word_offsets == expected.word_offsets
        assert mine.batch_decode(rows, **options) == theirs.batch_decode(rows, **options)
    asked = {"output_char_offsets": True, "output_word_offsets": True}
    assert dict(mine.batch_decode(rows, **asked)) == dict(theirs.batch_decode(rows, **asked))
    assert (mine.word_delimiter_token, mine.word_delimiter_token_id) == (
        theirs.word_delimiter_token, theirs.word_delimiter_token_id)  # fmt: skip
    with pytest.raises(UnknownArgumentError, match="output_char_offsets"):
        mine.decode(rows[0], output_char_offset=True)
    with pytest.raises(InputError):
        mine.decode(rows[0], group_tokens="yes")


def test_another_language(tmp_path: Path) -> None:
    folder = mms(tmp_path / "a")
    mine, theirs = ours(folder), reference(folder)
    for language in ("fra", "eng", "fra"):
        for one in (mine, theirs):
            one.set_target_lang(language)
        alike(
            facts(mine, ["quand l'été", "hello", "x", "y z"] * 2),
            facts(theirs, ["quand l'été", "hello", "x", "y z"] * 2),
        )
    mine.save_pretrained(tmp_path / "b")
    assert json.loads((tmp_path / "b" / "vocab.json").read_text()) == json.loads((folder / "vocab.json").read_text())
    assert reference(tmp_path / "b").target_lang == "fra"
    with pytest.raises(InputError, match="fra"):
        mine.set_target_lang("frau")
    with pytest.raises(InputError):
        ours(wav2vec2(tmp_path / "c")).set_target_lang("eng")
    with pytest.raises(ConfigError, match="target_lang"):
        ours(mms(tmp_path / "d", target_lang="xxx"))
    with pytest.raises(ConfigError):
        ours(mms(tmp_path / "e", target_lang=None))


def test_an_end_is_not_written_twice(tmp_path: Path) -> None:
    # The reference's mask and types of such texts are one longer than their ids.
    folder = byt5(tmp_path / "a")
    mine, theirs = ours(folder), reference(folder)
    for text in (("x</s>",), ("x </s>  ", "</s>"), ("a", "b</s>"), ("</s></s>",)):
        assert mine(*text)["input_ids"] == theirs(*text)["input_ids"]
    assert mine("x</s>", "b</s>").sequence_ids() == [0, 0, 1, 1]
    assert mine("ab</s>cd", truncation=True, max_length=4)["input_ids"] == [100, 101, 1]


def test_places_in_the_text(tmp_path: Path) -> None:
    found = ours(byt5(tmp_path / "a"))("né <extra_id_0>", return_offsets_mapping=True)
    assert found["offset_mapping"] == [(0, 1), (1, 2), (1, 2), (2, 3), (3, 15), (0, 0)]
    assert found.char_to_token(1) == 1 and found.sequence_ids() == [0, 0, 0, 0, 0, None]
    rows = ours(esm(tmp_path / "b"))("LAGVSERTID" * 3, truncation=True, max_length=12, stride=2,
                                     return_overflowing_tokens=True)  # fmt: skip
    assert [len(row) for row in rows["input_ids"]] == [12, 12, 12, 8] and rows["overflow_to_sample_mapping"] == [0] * 4


def test_a_folder_without_a_vocabulary(tmp_path: Path) -> None:
    folder = byt5(tmp_path / "a")
    assert AutoTokenizer.from_pretrained(folder)("é")["input_ids"] == [198, 172, 1]
    from omniform.inputs.text.classes import class_named

    kind = class_named("ByT5Tokenizer")
    assert kind.from_pretrained(write(tmp_path / "b", config={}))("é")["input_ids"] == [198, 172, 1]
    assert kind()("é")["input_ids"] == [198, 172, 1] and len(kind(extra_ids=7)) == 266
    with pytest.raises(RepoError, match="no tokenizer"):
        AutoTokenizer.from_pretrained(write(tmp_path / "c", tokenizer_config={"tokenizer_class": "EsmTokenizer"}))


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="trained"):
        ours(byt5(tmp_path / "a")).train_new_from_iterator(["a"], 300)
    if not find_spec("sudachipy"):
        with pytest.raises(DependencyError, match="sudachipy"):
            ours(japanese(tmp_path / "d", word_tokenizer_type="sudachi"))
    for wrong in (
        {"word_tokenizer_type": "x"},
        {"basic_kwargs": {"a": 1}},
        {"subword_tokenizer_type": "sentencepiece"},
    ):
        with pytest.raises(ConfigError):
            ours(japanese(tmp_path / "e", **wrong))
    with pytest.raises(OmniformError, match="vocab"):
        ours(write(tmp_path / "b", tokenizer_config={"tokenizer_class": "EsmTokenizer"}))
    with pytest.raises(ConfigError):
        ours(write(tmp_path / "c", vocab={"a": "b"}, tokenizer_config={"tokenizer_class": "Wav2Vec2CTCTokenizer"}))
