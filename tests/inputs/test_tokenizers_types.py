"""Values of every kind in every public argument: the right answer, or one typed error of a screen at most."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from test_tokenizers_folders import bert, ours, reference, whisper

import omniform
from omniform.core.errors import OmniformError
from omniform.inputs.text.encoding import BatchEncoding
from omniform.inputs.text.options import EncodeOptions


class Foreign:
    """An object of somebody else's that does not even show itself."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


ZOO = {
    "none": None, "true": True, "minus": -1, "large": 1 << 70, "float": 1.5, "nan": float("nan"), "bytes": b"abc",
    "text": "hello", "surrogate": "a\ud800", "empty": "", "list": [], "mixed": ["a", 1, None], "nested": [[[1]]],
    "tuple": (1, "a"), "dict": {"a": 1}, "set": {1}, "object": Foreign(), "objects": [Foreign()], "type": int,
    "tensor": torch.tensor([1.5, 2.0]), "ids": torch.tensor([[5, 6]]), "scalar": torch.tensor(5),
    "cube": torch.ones(1, 1, 1),
    "sparse": torch.ones(2, 2).to_sparse(), "meta": torch.ones(2, device="meta"), "bool tensor": torch.tensor([True]),
    "array": np.array([1, 2]), "np int": np.int64(5), "np bool": np.bool_(True), "np text": np.array(["a"]),
    "objects array": np.array([None, "a"], dtype=object),
    "generator": (x for x in "ab"), "long": ["x"] * 3 + [9] * 5000,
    "function": len, "path": Path("/nowhere/at/all"), "surrogates": ["\udfff"], "bytearray": bytearray(b"ab"),
}  # fmt: skip

GOOD = {
    "response": "hello",
    "text": "hello", "token_ids": [5, 6], "sequences": [[5, 6]], "encoded_inputs": {"input_ids": [5]},
    "new_tokens": ["zz"], "special_tokens": {"pad_token": "[PAD]"}, "token": "hello", "index": 5, "tokens": ["hello"],
    "ids": [5], "name": "pad_token", "value": "[PAD]", "token_ids_0": [5], "conversation": [], "kind": None,
    "pretrained_model_name_or_path": "/nowhere", "text_iterator": ["hello"], "vocab_size": 60, "message": {},
    "save_directory": "saved",
}  # fmt: skip
# apply_chat_template and its relatives have a table of their own; save_files is the hub's way in.
ELSEWHERE = ("apply_chat_template", "get_chat_template", "save_files", "made_of")


def try_it(call, *arguments: object, **options: object) -> None:
    try:
        call(*arguments, **options)
    except OmniformError as error:
        assert len(str(error)) < 2500
        assert error.message
    except Exception as error:
        shape = {name: type(value).__name__ for name, value in options.items()}
        places = [type(value).__name__ for value in arguments]
        name = call.__name__ if inspect.isroutine(call) else type(call).__name__
        raise AssertionError(f"{name}: {places} {shape}: {type(error).__name__}: {error!s:.200}") from error


def methods(owner: object) -> list[str]:
    names = [name for name in dir(type(owner)) if not name.startswith("_") and name not in ELSEWHERE]
    return [name for name in names if inspect.isroutine(inspect.getattr_static(type(owner), name))] + ["__call__"]


@pytest.fixture(scope="module", params=["bert", "whisper"])
def tok(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    make = {"bert": bert, "whisper": whisper}[request.param]
    return ours(make(tmp_path_factory.mktemp("types") / "folder"))


@pytest.mark.parametrize("kind", sorted(ZOO))
def test_answers_and_their_prompts(tok, kind: str) -> None:
    for given in ({"response": ZOO[kind], "prefix": ""}, {"response": "x", "prefix": ZOO[kind]}):
        try_it(tok.parse_response, **given)


@pytest.mark.parametrize("kind", sorted(ZOO))
def test_every_argument_of_every_method(tok, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in methods(tok):
        method = getattr(tok, name)
        parameters = [p for p in inspect.signature(method).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        needed = {p.name: GOOD[p.name] for p in parameters if p.default is p.empty and p.name in GOOD}
        if name == "__call__":
            needed = {"text": "hello"}
        for parameter in parameters:
            if name == "save_pretrained" and kind in ("path", "text", "surrogate", "empty"):
                continue
            try_it(method, **{**needed, parameter.name: ZOO[kind]})
    for option in EncodeOptions.__annotations__:
        try_it(tok, "hello world", **{option: ZOO[kind]})
        try_it(tok, ["hello", "a b"], ["c", "d e"], padding=True, truncation=True, max_length=9, **(
            {option: ZOO[kind]} if option not in ("padding", "truncation", "max_length") else {}
        ))  # fmt: skip
    assert tok.tokenize("hello") == tok.tokenize("hello")


@pytest.mark.parametrize("kind", sorted(ZOO))
def test_every_attribute_that_is_set(kind: str, tmp_path: Path) -> None:
    for name in ("pad_token", "pad_token_id", "padding_side", "truncation_side", "model_max_length", "cls_token",
                 "model_input_names", "clean_up_tokenization_spaces", "split_special_tokens"):  # fmt: skip
        tokenizer = ours(bert(tmp_path / name))
        try_it(setattr, tokenizer, name, ZOO[kind])
        try_it(tokenizer, ["hello world", "a"], padding=True, truncation=True, max_length=4)
        try_it(tokenizer.pad, {"input_ids": [[1], [2, 3]]}, padding="max_length")
        try_it(tokenizer.decode, [5, 6])


@pytest.mark.parametrize("kind", sorted(ZOO))
def test_every_argument_of_a_batch(tok, kind: str) -> None:
    batch = tok(["hello world", "a"])
    for name in ("tokens", "word_ids", "sequence_ids", "token_to_chars", "token_to_word", "token_to_sequence",
                 "word_to_tokens", "word_to_chars", "char_to_token", "char_to_word", "as_tensors"):  # fmt: skip
        method = getattr(batch, name)
        for place in range(len(inspect.signature(method).parameters)):
            arguments = [0] * place + [ZOO[kind]]
            try_it(method, *arguments)
    assert isinstance(batch, BatchEncoding)


@pytest.mark.parametrize("kind", sorted(ZOO))
def test_every_setting_of_a_loaded_tokenizer(kind: str, tmp_path: Path) -> None:
    folder = bert(tmp_path / "folder")
    names = ("pad_token", "padding_side", "model_max_length", "do_lower_case", "extra_special_tokens", "chat_template")
    for name in (*names, "additional_special_tokens", "added_tokens_decoder", "model_input_names", "strip_accents"):
        try_it(omniform.AutoTokenizer.from_pretrained, folder, **{name: ZOO[kind]})
        try_it(omniform.BertTokenizer, vocab={"[UNK]": 0, "[CLS]": 1, "[SEP]": 2}, **{name: ZOO[kind]})
    for name in ("vocab", "merges", "tokenizer_object", "tokenizer_file", "vocab_file"):
        try_it(omniform.BertTokenizer, **{name: ZOO[kind]})


def test_the_right_answers(tmp_path: Path) -> None:
    """What the reference takes in more than one form is taken here in all of them."""
    folder = bert(tmp_path / "folder")
    mine, theirs = ours(folder), reference(folder)
    encoded = theirs("hello world")
    ids = encoded["input_ids"]
    same = [
        ids,
        tuple(ids),
        np.array(ids),
        torch.tensor(ids),
        [np.int64(i) for i in ids],
        [torch.tensor(i) for i in ids],
    ]
    for given in same:
        assert mine.decode(given) == theirs.decode(ids)
        assert mine.batch_decode([given]) == [theirs.decode(ids)] == mine.decode([given])
        assert mine.convert_ids_to_tokens(given) == theirs.convert_ids_to_tokens(ids)
    rows = torch.tensor([ids, ids])
    assert mine.decode(rows) == mine.batch_decode(rows) == theirs.batch_decode(rows)
    assert mine.decode(dict(encoded)) == theirs.decode(dict(encoded)) == theirs.decode(ids)
    for one in (5, np.int64(5), torch.tensor(5)):
        assert mine.decode(one) == theirs.decode(5)
        assert mine.convert_ids_to_tokens(one) == theirs.convert_ids_to_tokens(5)
    for beyond in ([10**6], [5, 10**6, 6]):
        assert mine.decode(beyond) == theirs.decode(beyond)
        assert mine.convert_ids_to_tokens(beyond) == theirs.convert_ids_to_tokens(beyond)
    assert mine.convert_tokens_to_ids(("hello", "nowhere")) == theirs.convert_tokens_to_ids(["hello", "nowhere"])
    assert (
        mine("hello world fox", max_length=np.int64(4), truncation=True)["input_ids"] == ids[:1] + ids[1:3] + ids[-1:]
    )
