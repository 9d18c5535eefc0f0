"""The tokenizer against the reference: every kind of tokenizer, odd texts, every option."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from test_tokenizers_folders import KINDS, PAIRS, TEXTS, ours, reference

ROWS = [text for text in TEXTS if len(text) < 500]
EVERYTHING = {
    "return_token_type_ids": True, "return_attention_mask": True, "return_special_tokens_mask": True,
    "return_offsets_mapping": True, "return_length": True,
}  # fmt: skip


@cache
def both(kind: str, root: Path) -> tuple[object, object]:
    folder = KINDS[kind](root / kind)
    mine, theirs = ours(folder), reference(folder)
    for tokenizer in (mine, theirs):
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
    return mine, theirs


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokenizers")


@pytest.fixture(params=sorted(KINDS), scope="module")
def pair(request: pytest.FixtureRequest, root: Path):
    return both(request.param, root)


def same(mine, theirs) -> None:
    assert sorted(mine) == sorted(theirs)
    for name in theirs:
        if isinstance(theirs[name], (torch.Tensor, np.ndarray)):
            assert type(mine[name]) is type(theirs[name]), name
            assert mine[name].dtype == theirs[name].dtype, name
            assert mine[name].tolist() == theirs[name].tolist(), name
        else:
            assert mine[name] == theirs[name], name


def test_properties(pair) -> None:
    mine, theirs = pair
    for name in theirs.SPECIAL_TOKENS_ATTRIBUTES:
        assert getattr(mine, name) == getattr(theirs, name), name
        assert getattr(mine, name + "_id") == getattr(theirs, name + "_id"), name
    names = ("model_max_length", "padding_side", "truncation_side", "model_input_names", "vocab_size")
    names += ("special_tokens_map", "all_special_tokens", "all_special_ids", "extra_special_tokens")
    for name in (*names, "split_special_tokens"):
        assert getattr(mine, name) == getattr(theirs, name), name
    assert len(mine) == len(theirs)
    assert mine.get_vocab() == theirs.get_vocab()
    assert mine.get_added_vocab() == theirs.get_added_vocab()
    assert {i: t.__getstate__() for i, t in mine.added_tokens_decoder.items()} == {
        i: t.__getstate__() for i, t in theirs.added_tokens_decoder.items()
    }
    for with_pair in (False, True):
        assert mine.num_special_tokens_to_add(with_pair) == theirs.num_special_tokens_to_add(with_pair)


@pytest.mark.parametrize("special", [True, False])
def test_one_text(pair, special: bool) -> None:
    mine, theirs = pair
    for text in TEXTS:
        same(
            mine(text, add_special_tokens=special, **EVERYTHING), theirs(text, add_special_tokens=special, **EVERYTHING)
        )
        same(mine(text), theirs(text))
        assert mine.tokenize(text) == theirs.tokenize(text)
        assert mine.encode(text, add_special_tokens=special) == theirs.encode(text, add_special_tokens=special)
        split = {"split_special_tokens": True, "add_special_tokens": special}
        same(mine(text, **split), theirs(text, **split))


def test_alignment(pair) -> None:
    mine, theirs = pair
    for text, second in PAIRS:
        a, b = mine([text], [second]), theirs([text], [second])
        same(a, b)
        assert a.n_sequences == b.n_sequences
        assert (a.tokens(0), a.word_ids(0), a.sequence_ids(0)) == (b.tokens(0), b.word_ids(0), b.sequence_ids(0))
        for index in range(len(a["input_ids"][0])):
            assert a.token_to_chars(0, index) == b.token_to_chars(0, index)
            assert a.token_to_word(0, index) == b.token_to_word(0, index)
            assert a.token_to_sequence(0, index) == b.token_to_sequence(0, index)
        for index in range(len(text)):
            assert a.char_to_token(index) == b.char_to_token(index)
            assert a.char_to_token(0, index, 1) == b.char_to_token(0, index, 1)
            assert a.char_to_word(index) == b.char_to_word(index)
        for index in {word for word in a.word_ids(0) if word is not None}:
            assert a.word_to_tokens(index) == b.word_to_tokens(index)


LIMITS = [
    {}, {"max_length": 8}, {"max_length": 16, "pad_to_multiple_of": 8}, {"pad_to_multiple_of": 5},
    {"max_length": 12, "padding_side": "left"}, {"padding_side": "right", "pad_to_multiple_of": 16},
]  # fmt: skip


@pytest.mark.parametrize("padding", [False, True, "longest", "max_length", "do_not_pad"])
def test_padding_and_truncation(pair, padding) -> None:
    mine, theirs = pair
    rows = [ROWS[0], ROWS[1], ROWS[4], ROWS[8], "x"]
    first, second = map(list, zip(*PAIRS, strict=True))
    for truncation in (None, False, True, "longest_first", "only_first", "do_not_truncate"):
        for limits in LIMITS:
            options = {**limits, "padding": padding, "truncation": truncation}
            try:
                expected = theirs(rows, **options)
            except ValueError:
                with pytest.raises(ValueError):
                    mine(rows, **options)
                continue
            same(mine(rows, **options), expected)
            if truncation != "only_first":
                same(mine(first, second, **options), theirs(first, second, **options))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("strategy", ["longest_first", "only_first", "only_second"])
def test_overflow(pair, side: str, strategy: str) -> None:
    mine, theirs = pair
    before = mine.truncation_side
    long = ["the quick brown fox jumps over the lazy dog " * 3, "hello world"]
    second = ["lazy dog hello world " * 4, "token image " * 20]
    mine.truncation_side = theirs.truncation_side = side
    for stride in (0, 3):
        options = {
            "truncation": strategy, "max_length": 40, "stride": stride, "return_overflowing_tokens": True,
            "padding": "max_length", **EVERYTHING,
        }  # fmt: skip
        outcomes = []
        for tokenizer in (mine, theirs):
            try:
                outcomes.append(tokenizer(long, second, **options))
            except Exception as error:
                outcomes.append(error)
        if isinstance(outcomes[1], Exception):
            assert isinstance(outcomes[0], ValueError), outcomes
        else:
            same(*outcomes)
        one = {**options, "truncation": True, "max_length": 12, "return_tensors": "pt"}
        same(mine(long[0], **one), theirs(long[0], **one))
    mine.truncation_side = theirs.truncation_side = before


@pytest.mark.parametrize("kind_of_tensor", ["pt", "np"])
def test_tensors(pair, kind_of_tensor: str) -> None:
    mine, theirs = pair
    for text in ("hello world", "", ["a", "hello world"], ["", ""]):
        options = {"return_tensors": kind_of_tensor, "padding": True, "return_special_tokens_mask": True}
        same(mine(text, **options), theirs(text, **options))


def test_words_and_pairs(pair) -> None:
    mine, theirs = pair
    words = ["hello", " the quick", "", "don't", "日本語", "<s>"]
    for options in ({}, {"return_offsets_mapping": True}, {"padding": True, "return_tensors": "pt"}):
        options["is_split_into_words"] = True
        same(mine(words, **options), theirs(words, **options))
        same(mine([words, ["dog"]], **options), theirs([words, ["dog"]], **options))
        same(mine([words], [["dog", "fox"]], **options), theirs([words], [["dog", "fox"]], **options))
        assert mine([words], **options).word_ids(0) == theirs([words], **options).word_ids(0)
    same(mine(PAIRS), theirs(PAIRS))
    same(mine("hello", "dog"), theirs("hello", "dog"))
    same(mine("hello", ""), theirs("hello", ""))
    assert mine.encode("hello", "dog") == theirs.encode("hello", "dog")
    assert mine.tokenize("hello", "dog", add_special_tokens=True) == theirs.tokenize(
        "hello", "dog", add_special_tokens=True
    )
    targets = {"text_target": ["the dog", "fox"], "padding": True, "return_tensors": "pt"}
    same(mine(["a", "hello"], **targets), theirs(["a", "hello"], **targets))
    same(mine(text_target=["the dog"]), theirs(text_target=["the dog"]))


@pytest.mark.parametrize(("skip", "clean"), [(True, None), (False, True), (True, False)])
def test_decode(pair, skip: bool, clean: bool | None) -> None:
    mine, theirs = pair
    options = {"skip_special_tokens": skip, "clean_up_tokenization_spaces": clean}
    rows = theirs(TEXTS)["input_ids"]
    for ids in [*rows, [], list(range(len(theirs))), [len(theirs) + 5, 3]]:
        assert mine.decode(ids, **options) == theirs.decode(ids, **options)
        tokens = [token for token in theirs.convert_ids_to_tokens(ids, skip_special_tokens=skip) if token is not None]
        assert mine.convert_ids_to_tokens(ids, skip_special_tokens=skip) == theirs.convert_ids_to_tokens(
            ids, skip_special_tokens=skip
        )
        assert mine.convert_tokens_to_string(tokens) == theirs.convert_tokens_to_string(tokens)
    assert mine.batch_decode(rows, **options) == theirs.batch_decode(rows, **options)
    block = torch.tensor([[3, 4, 5], [6, 7, 8]])
    for ids in (block, block.numpy(), block[0], [3], block.tolist()):
        assert mine.decode(ids, **options) == theirs.decode(ids, **options)
    assert mine.batch_decode(block, **options) == theirs.batch_decode(block, **options)
    vocabulary = [*list(theirs.get_vocab())[:50], "surely unknown"]
    assert mine.convert_tokens_to_ids(vocabulary) == theirs.convert_tokens_to_ids(vocabulary)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": "max_length", "max_length": 12},
        {"pad_to_multiple_of": 8},
        {"padding_side": "left"},
        {"return_attention_mask": False},
        {"return_attention_mask": True, "return_tensors": "pt"},
        {"return_tensors": "np"},
        {"padding": False},
        {"padding": "longest", "pad_to_multiple_of": 4, "padding_side": "right"},
    ],
)
def test_pad(pair, options: dict) -> None:
    mine, theirs = pair
    rows = [{"input_ids": [5, 6, 7]}, {"input_ids": [8]}, {"input_ids": []}]
    typed = [
        {"input_ids": [5, 6], "token_type_ids": [0, 1], "special_tokens_mask": [1, 0]},
        {"input_ids": [4], "token_type_ids": [1], "special_tokens_mask": [0]},
    ]

    marked = {"input_ids": [[1, 2, 3], [4]], "attention_mask": [[1, 1, 0], [1]]}
    tensors = [{"input_ids": torch.tensor([1, 2])}, {"input_ids": torch.tensor([3])}]
    arrays = [{"input_ids": np.array([1, 2])}, {"input_ids": np.array([3])}]
    for features in (rows, typed, marked, {"input_ids": [1, 2, 3]}, tensors, arrays):
        if options.get("return_attention_mask") is False and features is marked:
            continue  # the reference leaves the mask it was given short
        try:
            expected = theirs.pad(copy.deepcopy(features), **options)
        except ValueError:
            expected = None
        if expected is None or any(
            isinstance(value, np.ndarray) and value.dtype == np.object_ for value in expected.values()
        ):
            with pytest.raises(ValueError):
                mine.pad(features, **options)
        else:
            same(mine.pad(features, **options), expected)


def test_tokens_are_added(root: Path) -> None:
    for kind in KINDS:
        folder = root / f"{kind}-added"
        KINDS[kind](folder)
        mine, theirs = ours(folder), reference(folder)
        assert mine.add_tokens(["newword", "hello"]) == theirs.add_tokens(["newword", "hello"])
        changes = {"pad_token": "<pad2>", "extra_special_tokens": ["<one>", "<two>"]}
        assert mine.add_special_tokens(changes) == theirs.add_special_tokens(changes)
        assert mine.add_special_tokens({"cls_token": "hello"}) == theirs.add_special_tokens({"cls_token": "hello"})
        text = "a newword <one>hello <two> <pad2>"
        same(mine(text, **EVERYTHING), theirs(text, **EVERYTHING))
        assert mine.all_special_ids == theirs.all_special_ids
        ids = theirs(text)["input_ids"]
        assert mine.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)
        mine.eos_token_id = theirs.eos_token_id = 5
        assert mine.eos_token == theirs.eos_token
        mine.mask_token = theirs.mask_token = None
        assert mine.mask_token_id is theirs.mask_token_id is None
