"""Tokenizers that users write in Python: the same class derived from the reference's base and from ours."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from own_tokenizer_bodies import BODIES, derived
from test_tokenizers_folders import sentencepiece_file, t5_pieces

import omniform
from omniform.core.errors import OmniformError
from reference import transformers

TEXTS = [
    "the fox",
    "",
    "A b.  c, <unk>d",
    "hé é \n the <pad> end",
    "<x>fox <y> the[SEP] <z>",
    "the quick brown fox ran",
]
PAIRS = ["over it", "the lazy dog", "", "b", "<y>", "x y z"]
CHAT = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"


def write(name: str, folder: Path) -> Path:
    """The files that a body's class reads."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = list("abcdefghijklmnopqrstuvwxyz .,ABé")
    if name in ("CharTokenizer", "TypedTokenizer", "LanguageTokenizer", "LoudTokenizer"):
        table = {token: index for index, token in enumerate(["<pad>", "<unk>", "<en>", "</s>", *letters])}
        (folder / "chars.json").write_text(json.dumps(table), encoding="utf-8")
    if name == "PyBPETokenizer":
        merges = [("t", "h"), ("th", "e"), ("Ġ", "f"), ("o", "x"), ("Ġf", "ox"), ("Ġ", "the")]
        tokens = ["<|end|>", "Ġ", *letters, *("".join(pair) for pair in merges)]
        (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(dict.fromkeys(tokens))}))
        (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    if name == "WordsTokenizer":
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "fox", "qu", "##ick", "over", "it", *"abcdxyz.,"]
        (folder / "words.txt").write_text("\n".join([*words, "##o", "##x", "f"]))
    if name == "PiecesTokenizer":
        (folder / "own.model").write_bytes(sentencepiece_file(t5_pieces(), bpe=False, normalize=True))
    return folder


def made(name: str, folder: Path, **options: object) -> tuple[object, object]:
    """The reference's and ours, of one folder, by their constructors."""
    found = []
    for library in (transformers, omniform):
        kind = derived(name, library)
        files = {argument: str(folder / file) for argument, file in kind.vocab_files_names.items()}
        found.append(kind(**files, **options))
    return found[0], found[1]


def plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, torch.Tensor):
        return ("pt", str(value.dtype), value.tolist())
    if isinstance(value, np.ndarray):
        return ("np", str(value.dtype), value.tolist())
    return [plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def outcome(work: Callable[[], object]) -> object:
    try:
        return plain(work())
    except Exception as error:  # what the reference raises may be anything
        return error


def same(theirs: Callable[[], object], ours: Callable[[], object], what: object) -> None:
    """The same result; where the reference refuses, a typed error."""
    expected, found = outcome(theirs), outcome(ours)
    if isinstance(expected, Exception):
        assert isinstance(found, (OmniformError, type(expected))), (what, expected, found)
    else:
        assert found == expected, (what, expected, found)


def agree(both: tuple[object, object], name: str, *given: object, **asked: object) -> None:
    """A method of both, called with the same."""
    theirs, ours = (partial(getattr(tokenizer, name), *given, **asked) for tokenizer in both)
    same(theirs, ours, (name, given, asked))


def options() -> list[dict[str, object]]:
    """Options of calls, each value of each at least once beside others."""
    found: list[dict[str, object]] = [{}]
    found += [{"padding": p, "max_length": 24} for p in (True, "longest", "max_length", "do_not_pad")]
    found += [{"padding": True, "pad_to_multiple_of": 8, "padding_side": side} for side in ("left", "right")]
    found += [{"add_special_tokens": False, "padding": padding} for padding in (False, True)]
    found += [{"truncation": t, "max_length": 9} for t in (True, "longest_first", "only_first", "only_second", False)]
    found += [{"max_length": 8}, {"max_length": 8, "truncation": True, "padding": "max_length"}]
    found += [{"return_tensors": kind, "padding": True} for kind in ("pt", "np")]
    found += [{"return_token_type_ids": a, "return_attention_mask": not a} for a in (True, False)]
    found += [
        {"return_special_tokens_mask": True, "return_length": True, "padding": padding} for padding in (False, True)
    ]
    found += [
        {"return_overflowing_tokens": True, "truncation": "only_first", "max_length": 9, "stride": s} for s in (0, 2)
    ]
    found += [{"split_special_tokens": True}, {"return_overflowing_tokens": True, "max_length": 9, "truncation": True}]
    return found


@pytest.fixture(params=BODIES)
def both(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[object, object]:
    theirs, ours = made(request.param, write(request.param, tmp_path / "folder"), model_max_length=512)
    for tokenizer in (theirs, ours):
        tokenizer.add_tokens(["<x>", omniform.AddedToken("<y>", lstrip=True, rstrip=True), "Fox"])
        tokenizer.add_tokens([omniform.AddedToken("<z>", single_word=True)], special_tokens=True)
    return theirs, ours


def test_vocabulary(both: tuple[object, object]) -> None:
    theirs, ours = both
    for name in (
        "vocab_size", "added_tokens_encoder", "special_tokens_map", "all_special_tokens", "all_special_ids",
        "extra_special_tokens", "extra_special_tokens_ids", "model_input_names", "padding_side", "truncation_side",
        "model_max_length", "is_fast", "init_kwargs", "name_or_path", "max_len_single_sentence",
        "max_len_sentences_pair", "bos_token_id", "eos_token", "pad_token_id", "unk_token", "mask_token", "verbose",
        "special_tokens_pattern", "total_vocab_size", "clean_up_tokenization_spaces", "pad_token_type_id",
    ):  # fmt: skip
        same(partial(getattr, theirs, name), partial(getattr, ours, name), name)
    assert ours.get_vocab() == theirs.get_vocab() and len(ours) == len(theirs)
    assert ours.get_added_vocab() == theirs.get_added_vocab()
    assert {k: repr(v) for k, v in ours.added_tokens_decoder.items()} == {
        k: repr(v) for k, v in theirs.added_tokens_decoder.items()
    }
    assert repr(ours) == repr(theirs)
    for token in ("a", "<x>", "<unk>", "Ω", "the"):
        agree(both, "convert_tokens_to_ids", token)
    ids = [5, 6, theirs.convert_tokens_to_ids("<x>"), 3]
    for skip in (False, True):
        assert ours.convert_ids_to_tokens(ids, skip_special_tokens=skip) == theirs.convert_ids_to_tokens(ids, skip)


@pytest.mark.parametrize("side", ["right", "left"])
def test_calls(both: tuple[object, object], side: str) -> None:
    theirs, ours = both
    theirs.truncation_side = ours.truncation_side = side
    inputs: list[tuple[object, ...]] = [(text,) for text in TEXTS]
    inputs += [(text, pair) for text, pair in zip(TEXTS, PAIRS, strict=True)]
    inputs += [(TEXTS,), (TEXTS, PAIRS), ([*zip(TEXTS, PAIRS, strict=True)],), ([5, 6, 7],), ([5, 6], [7, 8, 9])]
    for given, option in product(inputs, options()):
        # Rows longer than max_length are refused here, and returned there.
        expected, found = (outcome(partial(tokenizer, *given, **option)) for tokenizer in both)
        if isinstance(found, OmniformError) and not isinstance(expected, Exception) and "too short" in str(found):
            rows = expected["input_ids"]
            longest = max(map(len, rows)) if isinstance(rows[0], list) else len(rows)
            assert longest > option["max_length"]
            continue
        if isinstance(expected, AssertionError) and not isinstance(found, OmniformError):
            # There, only rows that overflow tell so, and the batch is refused; here the others tell of nothing.
            assert (
                len(found["overflowing_tokens"]) == len(found["input_ids"]) > found["overflowing_tokens"].count([]) > 0
            )
            continue
        agree(both, "__call__", *given, **option)


def test_words_and_targets(both: tuple[object, object]) -> None:
    words = [["the", "fox"], ["<x>", "a", "b."]]
    for given, option in product(
        ((words[0],), (words,), (words[0], words[1]), (words, words)), ({}, {"padding": True, "return_tensors": "pt"})
    ):
        asked = {**option, "is_split_into_words": True}
        agree(both, "__call__", *given, **asked)
    for option in ({}, {"max_target_length": 5, "truncation": True, "max_length": 9}):
        agree(both, "__call__", "the fox", text_target="a fox ran", **option)
        agree(both, "__call__", text_target="a", **option)


def test_the_steps_of_a_call(both: tuple[object, object]) -> None:
    theirs, ours = both
    for text in TEXTS:
        for split in (False, True):
            assert ours.tokenize(text, split_special_tokens=split) == theirs.tokenize(text, split_special_tokens=split)
        agree(both, "encode", text)
    a, b = [5, 6, 7], [8, 9]
    for name in ("build_inputs_with_special_tokens", "create_token_type_ids_from_sequences", "get_special_tokens_mask"):
        for given in ((a,), (a, b), ([], [])):
            agree(both, name, *given)
    framed = theirs.build_inputs_with_special_tokens(a, b)
    assert ours.get_special_tokens_mask(framed, already_has_special_tokens=True) == theirs.get_special_tokens_mask(
        framed, already_has_special_tokens=True
    )
    for pair in (False, True):
        assert ours.num_special_tokens_to_add(pair) == theirs.num_special_tokens_to_add(pair)
    for strategy, count in product(("longest_first", "only_first", "only_second", "do_not_truncate"), (0, 1, 2, 3)):
        for given in (([1, 2, 3, 4, 5],), ([1, 2, 3, 4, 5], [6, 7]), ([6, 7, 8], [1, 2, 3, 4])):
            asked = {"num_tokens_to_remove": count, "truncation_strategy": strategy, "stride": 1}
            agree(both, "truncate_sequences", *given, **asked)
    for option in ({}, {"truncation": True, "max_length": 6}, {"padding": "max_length", "max_length": 12}):
        for given in ((a,), (a, b)):
            agree(both, "prepare_for_model", *given, **option)


def test_pad(both: tuple[object, object]) -> None:
    rows = [{"input_ids": [5, 6, 7], "token_type_ids": [0, 0, 1]}, {"input_ids": [8], "token_type_ids": [0]}]
    for option in (
        {}, {"padding": "max_length", "max_length": 7}, {"pad_to_multiple_of": 4}, {"padding_side": "left"},
        {"return_attention_mask": False}, {"return_tensors": "pt"}, {"padding": False},
    ):  # fmt: skip
        agree(both, "pad", copy.deepcopy(rows), **option)
        agree(both, "pad", {"input_ids": [5]}, **option)


def test_decoding(both: tuple[object, object]) -> None:
    rows = [both[0].encode(text) for text in TEXTS]
    for skip, clean in product((False, True), (None, True, False)):
        asked = {"skip_special_tokens": skip, "clean_up_tokenization_spaces": clean}
        for row in rows:
            agree(both, "decode", row, **asked)
        agree(both, "batch_decode", rows, **asked)
    agree(both, "decode", torch.tensor(rows[0]))
    agree(both, "decode", 6)


def test_chats(both: tuple[object, object]) -> None:
    theirs, ours = both
    theirs.chat_template = ours.chat_template = CHAT
    messages = [{"role": "user", "content": "the fox <x>"}, {"role": "assistant", "content": "ran"}]
    for asked in (
        {"tokenize": False},
        {},
        {"return_tensors": "pt"},
        {"return_dict": False, "truncation": True, "max_length": 9},
    ):
        agree(both, "apply_chat_template", messages, **asked)
    with pytest.raises(OmniformError):
        ours.apply_chat_template(messages, return_assistant_tokens_mask=True)


def test_special_tokens(both: tuple[object, object]) -> None:
    theirs, ours = both
    agree(both, "add_special_tokens", {"mask_token": "<m>"})
    for value, replace in ((["<e1>", "<e2>"], True), (["<e3>"], False)):
        asked = {"extra_special_tokens": value}
        expected = theirs.add_special_tokens(asked, replace_extra_special_tokens=replace)
        assert ours.add_special_tokens(asked, replace_extra_special_tokens=replace) == expected
    theirs.sep_token = ours.sep_token = "the"
    theirs.cls_token_id = ours.cls_token_id = 5
    for name in (
        "special_tokens_map",
        "all_special_ids",
        "extra_special_tokens",
        "sep_token_id",
        "cls_token",
        "mask_token_id",
    ):
        expected = getattr(theirs, name)
        # A token that was named and not added has no id, and None is none.
        assert getattr(ours, name) == (
            [i for i in expected if i is not None] if name == "all_special_ids" else expected
        )
    assert ours.tokenize("a<e1>b <m>") == theirs.tokenize("a<e1>b <m>")
    assert len(ours) == len(theirs)


def test_pickles_and_copies(both: tuple[object, object]) -> None:
    ours = both[1]
    ours.pad_token = ours.pad_token or ours.eos_token
    expected = ours(TEXTS, PAIRS, padding=True)
    for again in (pickle.loads(pickle.dumps(ours)), copy.deepcopy(ours), copy.copy(ours)):
        assert type(again) is type(ours) and again(TEXTS, PAIRS, padding=True) == expected
        assert again.get_vocab() == ours.get_vocab() and again.special_tokens_map == ours.special_tokens_map
