"""What a tokenizer refuses, and how it says so; and its vocabulary's small operations."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from test_tokenizers_folders import bert, gpt2, llama, llava, ours, reference, sentencepiece_file, t5, t5_pieces, write
from tokenizers import AddedToken

from omniform.core.batch import Batch
from omniform.core.errors import ConfigError, InputError, UnknownArgumentError
from omniform.inputs.text.sentencepiece import read_sentencepiece


@pytest.fixture(scope="module")
def tok(tmp_path_factory: pytest.TempPathFactory):
    return ours(bert(tmp_path_factory.mktemp("b") / "bert"))


BAD_TEXT = [
    (None, None, "text"),
    (3, None, "text"),
    (b"x", None, "text"),
    ([], None, "text"),
    ([None], None, "row 0"),
    (["a", 3], None, "row 1"),
    (["a", ["b", 3]], None, "row 1"),
    ([["a"]], None, "row 0"),
    ([["a", "b", "c"]], None, "row 0"),
    ([1, 2, 3], None, "row 0"),
    ([["a", ["b"]]], None, "row 0"),
    ("a\ud800", None, "character 1"),
    (["x", "a\udfff"], None, "row 1"),
    ("a", ["b"], "text_pair"),
    ("a", 3, "text_pair"),
    (["a", "b"], ["c"], "text_pair"),
    (["a"], "b", "text_pair"),
    (["a", "b"], ["c", None], "row 1"),
    ({"a": 1}, None, "text"),
]


@pytest.mark.parametrize(("text", "second", "where"), BAD_TEXT, ids=range(len(BAD_TEXT)))
def test_texts_that_are_none(tok, text, second, where) -> None:
    for call in (tok, tok.encode, tok.tokenize):
        with pytest.raises(InputError) as caught:
            call(text, second)
        assert where in str(caught.value)
    with pytest.raises(InputError):
        tok(text_target=text, text_pair_target=second)


@pytest.mark.parametrize(
    "text", ["a", [["a", 3]], [["a"], "b"], ["a", ["b"]], 3, [["a"], None], [["a"], ["b", None]], []]
)
def test_words_that_are_none(tok, text) -> None:
    if text == []:
        assert tok(text, is_split_into_words=True)["input_ids"] == [3, 4]
        return
    with pytest.raises(InputError):
        tok(text, is_split_into_words=True)


OPTIONS = [
    {"padding": "longst"},
    {"padding": 3},
    {"truncation": "first"},
    {"truncation": 1},
    {"max_length": -1},
    {"max_length": "8"},
    {"max_length": 2.5},
    {"max_length": True},
    {"stride": -1},
    {"stride": 9, "max_length": 8, "truncation": True},
    {"pad_to_multiple_of": 0, "padding": True},
    {"padding_side": "top", "padding": True},
    {"return_tensors": "tf"},
    {"return_tensors": "pt"},
    {"truncation": True, "max_length": 1},
    {"truncation": "only_second", "max_length": 3},
    {"padding": "max_length", "max_length": 10**12},
    {"padding": True, "pad_to_multiple_of": 10**12},
    {"max_length": 10**40, "truncation": True},
    {"add_special_tokens": "yes"},
    {"return_length": 1},
    {"is_split_into_words": 0.5},
    {"padding": True, "truncation": True, "max_length": 10, "pad_to_multiple_of": 4},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options_that_are_none(tok, options) -> None:
    with pytest.raises(InputError) as caught:
        tok(["hello world the quick brown fox", "dog"], **options)
    assert caught.value.where or caught.value.found


def test_unknown_arguments(tok) -> None:
    for call in (tok, tok.encode, tok.tokenize):
        with pytest.raises(UnknownArgumentError, match="'truncation'"):
            call("a", trunction=True)
    with pytest.raises(UnknownArgumentError, match="return_tensors"):
        tok("a", return_tensor="pt")


def test_unknown_settings(tmp_path: Path) -> None:
    folder = bert(tmp_path / "b")
    with pytest.raises(UnknownArgumentError, match="padding_side"):
        ours(folder, pading_side="left")
    assert ours(folder, use_fast=True, do_lower_case=False).tokenize("Hello") == ["Hello"]
    assert "BertTokenizer" in repr(ours(folder))


def test_padding_needs_a_token(tmp_path: Path) -> None:
    tok = ours(gpt2(tmp_path / "g"))
    assert tok.pad_token is None and tok.pad_token_id is None
    for call in (lambda: tok(["a", "b c"], padding=True), lambda: tok.pad([{"input_ids": [1]}])):
        with pytest.raises(InputError, match="eos_token"):
            call()
    tok.pad_token = tok.eos_token
    assert tok(["a", "hello world"], padding=True, return_tensors="pt").input_ids.shape[0] == 2


def test_a_call_leaves_no_trace(tok) -> None:
    before = tok("hello world")["input_ids"]
    tok(["hello", "a"], padding="max_length", truncation=True, max_length=4, split_special_tokens=True)
    with pytest.raises(InputError):
        tok("hello world", truncation=True, max_length=2, stride=5)
    assert tok("hello world")["input_ids"] == before
    assert tok.tokenize("[SEP]") == ["[SEP]"]


@pytest.mark.parametrize(
    "ids", [-1, [-100, 3], ["a"], [1.5], None, [[1], ["b"]], "abc", 1 << 40, [None], {"a": 1}, [True]]
)
def test_ids_that_are_none(tok, ids) -> None:
    with pytest.raises(InputError):
        tok.decode(ids)


@pytest.mark.parametrize("features", [
    3, [3], {}, {"ids": [1]}, [{"input_ids": [1]}, {"other": [1]}], {"input_ids": 3}, {"input_ids": ["a"]},
    {"input_ids": [[1], [2]], "attention_mask": [[1]]}, {"input_ids": [[1, 2]], "attention_mask": [[1]]},
    {"input_ids": [[1], 2]}, {"input_ids": [[1.5]]}, {"input_ids": [[1], [2]], "labels": 3}, "x", None,
])  # fmt: skip
def test_features_that_are_none(tok, features) -> None:
    with pytest.raises(InputError):
        tok.pad(features)


def test_pad_leaves_other_columns(tok) -> None:
    rows = [{"input_ids": [1, 2], "label": 3}, {"input_ids": [1], "label": 4}]
    batch = tok.pad(rows, return_tensors="pt")
    assert batch.label.tolist() == [3, 4] and batch.input_ids.tolist() == [[1, 2], [1, 0]]
    assert rows == [{"input_ids": [1, 2], "label": 3}, {"input_ids": [1], "label": 4}]
    with pytest.raises(InputError, match="labels"):
        tok.pad([{"input_ids": [1, 2], "labels": [1, 2]}, {"input_ids": [1], "labels": [1]}], return_tensors="pt")


def test_tokens_that_are_none(tok) -> None:
    for tokens in ([3], [None], 3):
        with pytest.raises((InputError, TypeError)):
            tok.add_tokens(tokens)
    for special in ({"pad_tokn": "x"}, {"pad_token": 3}, {"extra_special_tokens": "x"}, {"extra_special_tokens": [3]}):
        with pytest.raises(InputError):
            tok.add_special_tokens(special)
    with pytest.raises(InputError, match="pad_token"):
        tok.add_special_tokens({"pad_tokn": "x"})
    with pytest.raises(InputError):
        tok.pad_token = 3
    with pytest.raises(InputError):
        tok.pad_token_id = 10**6
    with pytest.raises(AttributeError, match="pad_token"):
        tok.pad_tokn  # noqa: B018


def test_named_tokens_of_a_model(tmp_path: Path) -> None:
    tok = ours(llava(tmp_path / "l"))
    assert (tok.image_token, tok.image_token_id) == ("<image>", tok.convert_tokens_to_ids("<image>"))
    assert tok.special_tokens_map["image_token"] == "<image>"
    assert tok("a <image>\nb")["input_ids"].count(tok.image_token_id) == 1
    with pytest.raises(AttributeError):
        tok.audio_token  # noqa: B018
    assert tok.add_special_tokens({"image_token": AddedToken("<picture>", special=True)}) == 1
    assert tok.image_token == "<picture>"


def test_the_batch(tok) -> None:
    batch = tok(["hello world", "dog"], padding=True, return_tensors="pt")
    assert isinstance(batch, Batch) and batch.spans == ()
    assert batch.to("cpu") is batch and len(batch.encodings) == 2
    for call in (lambda: batch.tokens(2), lambda: tok.pad({"input_ids": [[1]]}).tokens(0)):
        with pytest.raises(InputError):
            call()
    assert batch.tokens(-1) == batch.tokens(1)
    with pytest.raises(AttributeError, match="input_ids"):
        batch.inputids  # noqa: B018


def test_pickled(tok) -> None:
    again = pickle.loads(pickle.dumps(tok))
    assert dict(again("hello world")) == dict(tok("hello world")) and again.pad_token == "[PAD]"


def test_threads(tok) -> None:
    """Calls with different options at once do not disturb one another."""
    from concurrent.futures import ThreadPoolExecutor

    text = ["hello world the quick brown fox", "dog"]
    options = [{}, {"padding": True}, {"truncation": True, "max_length": 4}, {"padding": "max_length", "max_length": 9}]
    expected = [tok(text, **each)["input_ids"] for each in options]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda index: tok(text, **options[index % 4])["input_ids"], range(400)))
    assert found == [expected[index % 4] for index in range(400)]


def test_arrays_of_ids(tok) -> None:
    ids = tok("hello world")["input_ids"]
    for form in (ids, tuple(ids), np.array(ids), torch.tensor(ids), [torch.tensor(ids)], np.array([ids])):
        text = tok.decode(form, skip_special_tokens=True)
        assert text in ("hello world", ["hello world"])
    assert tok.get_special_tokens_mask(torch.tensor(ids), already_has_special_tokens=True) == [1, 0, 0, 1]


# ---- sentencepiece files


def test_sentencepiece_files_are_read_as_protobuf_reads_them(tmp_path: Path) -> None:
    from sentencepiece import sentencepiece_model_pb2

    path = tmp_path / "x.model"
    path.write_bytes(
        sentencepiece_file(t5_pieces(), bpe=False, normalize=True, unk_id=2, bos_id=-1, eos_id=1, byte_fallback=True,
                           unk_piece="<unk>", bos_piece="<bos>", eos_piece="ünï", vocab_size=70000)
    )  # fmt: skip
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(path.read_bytes())
    model = read_sentencepiece(path)
    assert [(p.text, p.score, p.kind) for p in model.pieces] == [(p.piece, p.score, p.type) for p in proto.pieces]
    spec = proto.trainer_spec
    for name in ("model_type", "byte_fallback", "unk_id", "bos_id", "eos_id", "unk_piece", "bos_piece", "eos_piece"):
        assert getattr(model, name) == getattr(spec, name), name
    assert model.charsmap == proto.normalizer_spec.precompiled_charsmap and model.charsmap
    path.write_bytes(sentencepiece_file([("a", 0.0, 1)], bpe=True, normalize=False))
    model, spec = read_sentencepiece(path), sentencepiece_model_pb2.TrainerSpec()
    for name in ("byte_fallback", "unk_id", "bos_id", "eos_id", "unk_piece", "bos_piece", "eos_piece"):
        assert getattr(model, name) == getattr(spec, name), name


@pytest.mark.parametrize("data", [
    b"", b"\x00", b"garbage", b"\xff" * 40, b"IQ== 0\nIg==\n", b"\x0a\x05ab", b"\x0a\x02\x08\x01", b"\x10\x01",
    b"\x0a\x03\x0a\x01\xff", b"\x0a\x03\x15\x00\x00",
])  # fmt: skip
def test_files_that_are_no_sentencepiece(tmp_path: Path, data: bytes) -> None:
    folder = llama(tmp_path / "l")
    (folder / "tokenizer.model").write_bytes(data)
    with pytest.raises(ConfigError):
        ours(folder)


def test_a_t5_under_the_other_name_and_generic_pieces(tmp_path: Path) -> None:
    folder = t5(tmp_path / "t")
    (folder / "spiece.model").rename(folder / "tokenizer.model")
    text = "Hello ünï world ½ <extra_id_0>"
    assert ours(folder)(text)["input_ids"] == reference(folder)(text)["input_ids"]
    data = sentencepiece_file(t5_pieces(), bpe=False, normalize=True, unk_id=2, bos_id=-1, eos_id=1)
    folder = write(tmp_path / "u", model=data, tokenizer_config={"tokenizer_class": "PreTrainedTokenizerFast"})
    mine, theirs = ours(folder), reference(folder)
    assert dict(mine(text)) == dict(theirs(text)) and mine.special_tokens_map == theirs.special_tokens_map
    folder = llama(
        tmp_path / "v", tokenizer_class="PreTrainedTokenizerFast", added_tokens_decoder={"5": {"content": "<renamed>"}}
    )
    mine, theirs = ours(folder), reference(folder)
    text += " <renamed> \x02"
    assert dict(mine(text)) == dict(theirs(text)) and mine.get_vocab() == theirs.get_vocab()
