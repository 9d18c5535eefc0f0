"""Tokenizers trained anew on other texts, beside the reference."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_tokenizers_files import facts
from test_tokenizers_folders import KINDS, TEXTS, bert, gpt2, llama3, ours, reference, whisper

from omniform.core.errors import ConfigError, InputError, OmniformError, UnknownArgumentError

CORPUS = [["the quick brown fox", "jumps over the lazy dog"] * 3, TEXTS]
# The trainers of the others number pieces by the order of a hash table, anew in each run.
EXACT = ("gpt2", "llama", "llava", "wordlevel")


def steps(tokenizer) -> dict[str, object]:
    """What is kept of a tokenizer when it is trained anew, without the ids."""
    raw = json.loads(tokenizer.backend_tokenizer.to_str())
    model = {name: value for name, value in raw["model"].items() if name not in ("vocab", "merges")}
    added = [{**token, "id": None} for token in raw["added_tokens"]]
    frame = json.dumps(raw["post_processor"])
    for index, token in enumerate(raw["added_tokens"]):
        frame = frame.replace(f"{token['id']}]", f"#{index}]")
    return {
        "steps": {name: raw[name] for name in ("normalizer", "pre_tokenizer", "decoder")},
        "model": model,
        "added": added,
        "frame": frame,
        "size": len(tokenizer),
        "named": tokenizer.special_tokens_map,
        "extra": tokenizer.extra_special_tokens,
        "settings": [tokenizer.model_max_length, tokenizer.padding_side, tokenizer.model_input_names],
    }


@pytest.mark.parametrize("asked", [{}, {"new_special_tokens": ["<new>", "<two>"]}, {"min_frequency": 3}])
@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"whisper", "llama3"}))
def test_as_the_reference(tmp_path: Path, kind: str, asked: dict) -> None:
    folder = KINDS[kind](tmp_path / "a")
    mine, theirs = ours(folder), reference(folder)
    if kind in ("t5", "unigram"):
        asked = {name: value for name, value in asked.items() if name != "min_frequency"}
    found = mine.train_new_from_iterator(iter(CORPUS), 340, length=2, **asked)
    expected = theirs.train_new_from_iterator(iter(CORPUS), 340, length=2, **asked)
    assert type(found) is type(mine)
    assert steps(found) == steps(expected)
    if kind in EXACT:
        assert facts(found) == facts(expected)
    found.save_pretrained(tmp_path / "b")
    assert facts(ours(tmp_path / "b")) == facts(found)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama", "t5"])
def test_renamed_tokens(tmp_path: Path, kind: str) -> None:
    folder = KINDS[kind](tmp_path / "a")
    names = {"[CLS]": "[NEW]", "[UNK]": "<odd>", "<unk>": "<odd>", "<|endoftext|>": "<end>"}
    found = ours(folder).train_new_from_iterator(CORPUS, 340, special_tokens_map=names)
    expected = reference(folder).train_new_from_iterator(CORPUS, 340, special_tokens_map=names)
    assert steps(found) == steps(expected)
    assert not set(names) & set(found.get_vocab())
    if kind == "bert":
        assert found.convert_ids_to_tokens(found("the")["input_ids"])[0] == "[NEW]"


def test_a_framing_in_steps_is_renumbered(tmp_path: Path) -> None:
    # The reference leaves the old ids in it.
    found = ours(llama3(tmp_path / "a")).train_new_from_iterator(CORPUS, 400)
    assert found("the")["input_ids"][0] == found.bos_token_id
    assert found.decode(found("the fox").input_ids, skip_special_tokens=True) == "the fox"


def test_the_first_one_is_left_as_it_is(tmp_path: Path) -> None:
    mine = ours(gpt2(tmp_path / "a"))
    mine.padding_side = "left"
    before = facts(mine)
    assert mine.train_new_from_iterator(CORPUS, 300).padding_side == "left"
    assert facts(mine) == before


def test_what_is_refused(tmp_path: Path) -> None:
    mine = ours(bert(tmp_path / "a"))
    for texts in ("text", None, 7, {"a": "b"}, [1], [["a", None]], [b"bytes"], ["\ud800"]):
        with pytest.raises(InputError):
            mine.train_new_from_iterator(texts, 100)
    for size in (-1, "x", 2.5, True, None, 10**12):
        with pytest.raises(InputError):
            mine.train_new_from_iterator(CORPUS, size)
    for new in ("text", [1], 3):
        with pytest.raises(InputError):
            mine.train_new_from_iterator(CORPUS, 100, new_special_tokens=new)
    for names in (["a"], {"a": 1}, {1: "a"}):
        with pytest.raises(InputError):
            mine.train_new_from_iterator(CORPUS, 100, special_tokens_map=names)
    with pytest.raises(UnknownArgumentError, match="min_frequency"):
        mine.train_new_from_iterator(CORPUS, 100, min_freqency=2)
    with pytest.raises(OmniformError):
        mine.train_new_from_iterator(CORPUS, 100, min_frequency="often")
    with pytest.raises(ConfigError, match="framed by a token"):
        ours(whisper(tmp_path / "b")).train_new_from_iterator(CORPUS, 400)

    def broken():
        yield "a text"
        raise KeyError("the caller's own")

    with pytest.raises(KeyError, match="own"):
        mine.train_new_from_iterator(broken(), 100)
