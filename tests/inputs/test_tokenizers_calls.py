"""Calls: pairs are cut as the reference cuts them and at once, and a call leaves no trace in the tokenizer."""

from __future__ import annotations

import copy
import itertools
import json
import pickle
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from test_tokenizers_folders import KINDS, bert, gpt2, llama, ours, reference, sentencepiece_file, t5, whisper, write
from test_tokenizers_recipes import MADE
from tokenizers import Tokenizer as Backend
from tokenizers.models import WordLevel

import omniform
from omniform.core.errors import ConfigError, InputError, UnknownArgumentError
from omniform.inputs.text import backend as calls
from omniform.inputs.text.sentencepiece import read_sentencepiece

ALL = {"return_offsets_mapping": True, "return_special_tokens_mask": True, "return_token_type_ids": True}
CUT = ["bert", "llama", "t5", "roberta, prefix"]


@pytest.fixture(params=CUT, scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    make = {**KINDS, **MADE}[request.param]
    folder = make(tmp_path_factory.mktemp("cut") / "folder")
    both = ours(folder), reference(folder)
    for tokenizer in both:
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
    return both


@pytest.mark.parametrize("strategy", ["longest_first", "only_first", "only_second"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_pairs_are_cut_as_the_reference_cuts_them(pair, strategy: str, side: str) -> None:
    mine, theirs = pair
    chance = random.Random(3)
    words = ["the", "quick", "fox.", "don't", " hello", "日本", "x" * 9, "world,", "\n"]
    text = lambda most: " ".join(chance.choice(words) for _ in range(chance.randrange(most)))
    rows = [(text(12), text(12)) for _ in range(9)] + [("", text(9)), (text(9), ""), ("hello", "dog " * 40)]
    try:
        for tokenizer in pair:
            tokenizer.truncation_side = side
        for most, add, batch in itertools.product((5, 9, 24), (True, False), (rows,)):
            options = {"truncation": strategy, "max_length": most, "add_special_tokens": add, "padding": True, **ALL}
            for overflow in (False, True):
                options |= {"return_overflowing_tokens": overflow, "stride": 1 if most > 7 and overflow else 0}
                for part in [batch, *([row] for row in batch[:2])]:
                    first, second = map(list, zip(*part, strict=True))
                    try:
                        expected = theirs(first, second, **options)
                    except BaseException as error:  # the reference lets the backend's panics through
                        assert isinstance(error, ValueError) or "Panic" in type(error).__name__ or "short" in str(error)
                        with pytest.raises(InputError):
                            mine(first, second, **options)
                        continue
                    found = mine(first, second, **options)
                    assert dict(found) == dict(expected), (part, options)
                    for row in range(len(found["input_ids"])):
                        assert found.sequence_ids(row) == expected.sequence_ids(row)
                        assert found.word_ids(row) == expected.word_ids(row)
                        assert found.tokens(row) == expected.tokens(row)
    finally:
        for tokenizer in pair:
            tokenizer.truncation_side = "right"


@pytest.fixture(scope="module")
def tok(tmp_path_factory: pytest.TempPathFactory):
    return ours(bert(tmp_path_factory.mktemp("b") / "bert"))


def test_long_pairs_are_cut_at_once(tok) -> None:
    for strategy in ("longest_first", "only_first", "only_second"):
        first, second = ("a " * 20_000, "x " * 12) if strategy == "only_first" else ("a " * 12, "b " * 20_000)
        if strategy == "longest_first":
            first = "a " * 20_000
        begun = time.perf_counter()
        assert len(tok(first, second, truncation=strategy, max_length=20, stride=4)["input_ids"]) == 20
        assert time.perf_counter() - begun < 3


def test_overflow_beyond_measure_is_refused(tok, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"truncation": True, "max_length": 20, "return_overflowing_tokens": True}
    with pytest.raises(InputError, match="row 1") as caught:
        tok(["a", "a " * 9_000], ["b", "b " * 9_000], **options)
    assert caught.value.remedy
    with pytest.raises(InputError, match="overflows"):
        tok("a " * 200_000, **{**options, "max_length": 502, "stride": 499})
    monkeypatch.setattr(calls, "LARGEST_OVERFLOW", 12_000)
    assert len(tok("a " * 200, "b " * 200, **options)["input_ids"]) == 25 * 23


def state(tokenizer) -> tuple[object, ...]:
    backend = tokenizer.backend
    return backend.truncation, backend.padding, backend.encode_special_tokens, backend.to_str(), pickle.dumps(tokenizer)


@pytest.mark.parametrize("kind", ["bert", "llama3", "t5", "wordlevel", "roberta"])
@pytest.mark.parametrize("set_before", [False, True])
def test_a_call_leaves_the_backend_as_it_was(kind: str, set_before: bool, tmp_path: Path) -> None:
    tokenizer = ours({**KINDS, **MADE}[kind](tmp_path / "folder"))
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.unk_token or tokenizer.eos_token
    if set_before:
        tokenizer.backend.enable_truncation(7, stride=1, strategy="only_first", direction="left")
        tokenizer.backend.enable_padding(length=9, pad_id=3, pad_token="x")
    before = state(tokenizer)
    cut = {"padding": "max_length", "truncation": True, "max_length": 6, "split_special_tokens": True}
    tokenizer("hello world " * 9)
    tokenizer(["hello", "the quick brown fox"], **cut)
    tokenizer(["hello", "the quick"], ["brown " * 20, "dog"], **cut)
    tokenizer(["hello " * 30], **cut, return_overflowing_tokens=True)
    tokenizer.pad({"input_ids": [[1, 2], [3]]}, padding="max_length", max_length=5)
    tokenizer.encode("a", "b b b b", truncation="only_second", max_length=6)
    for bad in ({"truncation": "only_second"}, {"stride": 9}, {"padding": "some"}):
        with pytest.raises(InputError):
            tokenizer("hello world " * 9, **{**cut, **bad})
    assert state(tokenizer) == before


def test_a_call_that_breaks_off_leaves_the_backend_as_it_was(tok, monkeypatch: pytest.MonkeyPatch) -> None:
    before = state(tok)

    def broken(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(calls, "_batch", broken)
    for second in (None, ["b " * 99]):
        with pytest.raises(KeyboardInterrupt):
            tok(["a " * 99], second, truncation=True, max_length=8, split_special_tokens=True)
    assert state(tok) == before


def test_threads_cut_each_as_it_was_asked(tok) -> None:
    first, second = ["hello world the quick brown fox " * 3, "dog"], ["the lazy dog " * 4, "fox"]
    options = [{}, {"truncation": True, "max_length": 9}, {"truncation": "only_second", "max_length": 24},
               {"truncation": True, "max_length": 9, "return_overflowing_tokens": True},
               {"padding": "max_length", "max_length": 70}]  # fmt: skip
    expected, before = [dict(tok(first, second, **each)) for each in options], state(tok)
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda index: dict(tok(first, second, **options[index % 5])), range(150)))
    assert found == [expected[index % 5] for index in range(150)]
    assert state(tok) == before


@pytest.mark.parametrize("kind", sorted({**KINDS, **MADE}))
def test_pickles_are_the_same_bytes(kind: str, tmp_path: Path) -> None:
    tokenizer = ours({**KINDS, **MADE}[kind](tmp_path / "folder"))
    first = pickle.dumps(tokenizer)
    tokenizer(["hello world " * 20, "x"], padding=tokenizer.pad_token is not None, truncation=True, max_length=8)
    assert pickle.dumps(tokenizer) == first
    again = pickle.loads(first)
    assert type(again) is type(tokenizer) and pickle.dumps(again) == first
    assert pickle.dumps(copy.deepcopy(tokenizer)) == first
    assert dict(again("Hello world [SEP] x")) == dict(tokenizer("Hello world [SEP] x"))
    tokenizer.add_tokens(["newword"])
    assert pickle.dumps(tokenizer) != first


# ---- the ids around texts


@pytest.mark.parametrize("kind", [bert, gpt2, llama, t5, whisper])
def test_special_tokens_masks(kind, tmp_path: Path) -> None:
    tokenizer = ours(kind(tmp_path / "folder"))
    plain = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("hello world", "the fox")]
    for second in (None, "the fox"):
        framed = tokenizer("hello world", second, **ALL)
        ids = (plain[0], None if second is None else plain[1])
        assert tokenizer.get_special_tokens_mask(*ids) == framed["special_tokens_mask"]
        assert tokenizer.build_inputs_with_special_tokens(*ids) == framed["input_ids"]
        assert tokenizer.create_token_type_ids_from_sequences(*ids) == framed["token_type_ids"]
        for form in (list, tuple, torch.tensor):
            given = form(framed["input_ids"])
            mask = tokenizer.get_special_tokens_mask(given, already_has_special_tokens=True)
            special = set(tokenizer.all_special_ids)
            assert mask == [int(index in special) for index in framed["input_ids"]]
    with pytest.raises(InputError, match="token_ids_1"):
        tokenizer.get_special_tokens_mask([1], [2], already_has_special_tokens=True)


def test_whisper_s_mask_is_the_reference_s(tmp_path: Path) -> None:
    folder = whisper(tmp_path / "folder")
    mine, theirs = ours(folder), reference(folder)
    for ids in (([5, 6, 7], None), ([5], [6, 7])):
        assert mine.get_special_tokens_mask(*ids) == theirs.get_special_tokens_mask(*ids)
        assert mine.build_inputs_with_special_tokens(*ids) == theirs.build_inputs_with_special_tokens(*ids)


def test_masks_of_framed_ids_are_the_reference_s(tmp_path: Path) -> None:
    folder = bert(tmp_path / "folder")
    mine, theirs = ours(folder), reference(folder)
    ids = theirs("hello [MASK] world")["input_ids"] + [0, 0]
    given = {"already_has_special_tokens": True}
    assert mine.get_special_tokens_mask(ids, **given) == theirs.get_special_tokens_mask(ids, **given)


# ---- made by hand


def test_made_of_what_is_at_hand(tmp_path: Path) -> None:
    backend = Backend(WordLevel({"[UNK]": 0, "a": 1, "b": 2}, "[UNK]"))
    made = omniform.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]")
    assert made.pad_token_id == 3 and backend.get_vocab_size() == 3 and made("a")["input_ids"] == [1]
    made.save_pretrained(tmp_path / "saved")
    assert omniform.AutoTokenizer.from_pretrained(tmp_path / "saved")("b")["input_ids"] == [2]
    again = omniform.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "saved" / "tokenizer.json"))
    assert again("b")["input_ids"] == [2]
    folder = bert(tmp_path / "bert")
    loaded = ours(folder)
    by_file = omniform.BertTokenizer(str(folder / "vocab.txt"), do_lower_case=False)
    assert by_file.tokenize("Hello") == ["Hello"] and by_file("the fox")["input_ids"] == loaded("the fox")["input_ids"]
    assert omniform.BertTokenizerFast(vocab_file=folder / "vocab.txt")("the fox")["input_ids"] == by_file.encode(
        "the fox"
    )
    by_ids = omniform.BertTokenizer(vocab=loaded.get_vocab())
    assert by_ids.encode("hello [MASK]") == loaded.encode("hello [MASK]")
    folder = gpt2(tmp_path / "gpt2")
    of_files = omniform.GPT2Tokenizer(folder / "vocab.json", folder / "merges.txt")
    vocab = json.loads((folder / "vocab.json").read_text())
    merges = [line for line in (folder / "merges.txt").read_text(encoding="utf-8").splitlines() if line[0] != "#"]
    of_parts = omniform.GPT2Tokenizer(vocab=vocab, merges=[tuple(merge.split(" ")) for merge in merges])
    assert of_files.encode("the quick fox") == of_parts.encode("the quick fox") == ours(folder).encode("the quick fox")


@pytest.mark.parametrize(("given", "error"), [
    ({}, InputError), ({"vocab": 3}, InputError), ({"vocab": "/no/such/file"}, InputError),
    ({"vocab_file": b"x"}, InputError), ({"tokenizer_object": "x"}, InputError), ({"vocabs": {}}, UnknownArgumentError),
    ({"vocab": {"a": 0}, "merges": 3}, InputError),
    ({"vocab": {"[UNK]": "x"}}, InputError), ({"vocab": [1, 2]}, InputError),
])  # fmt: skip
def test_what_makes_no_tokenizer(given: dict, error) -> None:
    with pytest.raises(error):
        omniform.BertTokenizer(**given)


# ---- sentencepiece files meant ill


def test_long_pieces_are_merged_at_once(tmp_path: Path) -> None:
    letters = [("<unk>", 0.0, 2), ("a", -1.0, 1), ("aa", -2.0, 1)]
    path = tmp_path / "x.model"
    path.write_bytes(sentencepiece_file([*letters, ("a" * 200_000, -3.0, 1)], bpe=True, normalize=False))
    begun = time.perf_counter()
    model = read_sentencepiece(path)
    assert model.merges() == [("a", "a")] and time.perf_counter() - begun < 1
    many = [("a" * length, -float(length), 1) for length in range(3, 2000)]
    path.write_bytes(sentencepiece_file([*letters, *many], bpe=True, normalize=False))
    with pytest.raises(ConfigError, match="merges"):
        read_sentencepiece(path).merges()
    path.write_bytes(sentencepiece_file([*letters, *many[:60]], bpe=True, normalize=False))
    pieces = {piece.text for piece in read_sentencepiece(path).pieces}
    ordered = [piece.text for piece in read_sentencepiece(path).pieces]
    expected = [(p[:c], p[c:]) for p in ordered for c in range(1, len(p)) if p[:c] in pieces and p[c:] in pieces]
    assert read_sentencepiece(path).merges() == expected


def test_huge_model_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = llama(tmp_path / "l")
    with (folder / "tokenizer.model").open("r+b") as file:
        file.truncate(40 << 30)  # sparse
    with pytest.raises(ConfigError, match="large"):
        ours(folder)
    write(folder, model=sentencepiece_file([(f"p{i}", 0.0, 1) for i in range(50)], bpe=True, normalize=False))
    monkeypatch.setattr("omniform.inputs.text.sentencepiece.MOST_PIECES", 40)
    with pytest.raises(ConfigError, match="40 pieces"):
        ours(folder)
