"""A new vocabulary for a tokenizer: the same steps and special tokens, trained on other texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import cast

import torch
from tokenizers import AddedToken, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from omniform.core.errors import ConfigError, InputError, check_arguments
from omniform.inputs.text.backend import guarded
from omniform.inputs.text.ids import as_number, listed, shown
from omniform.inputs.text.rows import read_string
from omniform.inputs.text.special import Token, token_text

LARGEST_VOCABULARY = 1 << 22
"""Vocabularies are trained up to so many tokens; the largest published ones hold a quarter of a million."""

Trainer = trainers.BpeTrainer | trainers.UnigramTrainer | trainers.WordLevelTrainer | trainers.WordPieceTrainer

_COMMON = ("show_progress",)
_COUNTED = (*_COMMON, "min_frequency")
_PIECES = (*_COUNTED, "limit_alphabet", "initial_alphabet", "continuing_subword_prefix", "end_of_word_suffix")
_TRAINERS: dict[str, tuple[Callable[..., Trainer], tuple[str, ...]]] = {
    "BPE": (trainers.BpeTrainer, (*_PIECES, "max_token_length")),
    "Unigram": (
        trainers.UnigramTrainer,
        (*_COMMON, "initial_alphabet", "shrinking_factor", "unk_token", "max_piece_length", "n_sub_iterations"),
    ),
    "WordLevel": (trainers.WordLevelTrainer, _COUNTED),
    "WordPiece": (trainers.WordPieceTrainer, _PIECES),
}
"""The trainer of each kind of model, and the options that it takes."""


def renamed(names: Mapping[str, str], token: Token) -> Token:
    """A token under its new name, with the flags that it had."""
    content = str(token)
    if content not in names:
        return token
    if isinstance(token, str):
        return names[content]
    return AddedToken(
        names[content],
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
        special=True,
    )


def read_new_tokens(tokens: object) -> list[Token]:
    """The special tokens that come anew.

    Raises:
        InputError: they are no list, or one of them is no token.
    """
    if tokens is None:
        return []
    given = listed(cast(Iterable[Token], tokens), "new_special_tokens")
    for index, token in enumerate(given):
        token_text(token, f"new_special_tokens, token {index}")
    return given


def read_names(names: object) -> dict[str, str]:
    """New names of special tokens.

    Raises:
        InputError: they are no mapping of texts.
    """
    if names is None:
        return {}
    if not isinstance(names, Mapping):
        raise InputError(
            "special tokens are renamed by a mapping",
            where="special_tokens_map",
            expected="old tokens to new ones",
            found=shown(names),
        )
    return {
        token_text(old, "special_tokens_map"): token_text(new, f"special_tokens_map, {shown(old)}")
        for old, new in names.items()
    }


def trained(
    backend: Backend,
    texts: object,
    vocab_size: object,
    length: object,
    new: Sequence[Token],
    names: Mapping[str, str],
    options: Mapping[str, object],
) -> Backend:
    """The same steps around a vocabulary of other texts.

    Args:
        backend: the tokenizer whose model, normalizer, splitter, decoder, framing and special tokens are kept.
        texts: texts, or lists of texts.
        vocab_size: the number of tokens to end with, special ones included.
        length: how many texts there are, where that is known.
        new: special tokens besides its own.
        names: new names of its special tokens.
        options: further options of the trainer.

    Raises:
        InputError: an argument has a wrong type or value, or the texts do not make such a vocabulary.
        ConfigError: its framing needs a token that the new vocabulary lacks.
        UnknownArgumentError: the trainer has no such option.
    """
    size = _count(vocab_size, "vocab_size", LARGEST_VOCABULARY)
    known = None if length is None else _count(length, "length", 1 << 62)
    raw: dict[str, object] = json.loads(backend.to_str())
    added, framing = raw.pop("added_tokens"), raw.pop("post_processor")
    model = raw["model"]
    assert isinstance(added, list) and isinstance(model, dict)
    kind = str(model["type"])
    make, allowed = _TRAINERS[kind]
    check_arguments("Tokenizer.train_new_from_iterator", options, allowed)
    implied = _emptied(model, names)
    if kind in ("BPE", "WordPiece") and _is_byte_level(raw["pre_tokenizer"]):
        implied["initial_alphabet"] = pre_tokenizers.ByteLevel.alphabet()
    kept: list[Token] = []
    for token in added:
        if token["special"] or kind == "Unigram":
            flags = {name: value for name, value in token.items() if name not in ("id", "special", "content")}
            kept.append(AddedToken(names.get(token["content"], token["content"]), **flags))
    source = _Texts(texts)
    try:
        with guarded("the texts do not make such a vocabulary", where="train_new_from_iterator"):
            fresh = Backend.from_str(json.dumps(raw))
            trainer = make(
                vocab_size=size, special_tokens=[*kept, *new], **{**implied, "show_progress": False, **options}
            )
            fresh.train_from_iterator(source.batches(), trainer=trainer, length=known)
    except InputError:
        if source.failure is not None:
            raise source.failure from None
        raise
    return _framed(fresh, framing, names)


class _Texts:
    """Texts one after another, checked; what goes wrong in the caller's own iterator is kept as it was raised."""

    def __init__(self, texts: object) -> None:
        if isinstance(texts, (str, bytes, Mapping, torch.Tensor)) or not isinstance(texts, Iterable):
            raise InputError(
                "the texts to train on come one after another",
                where="text_iterator",
                expected="an iterator of texts, or of lists of texts",
                found=shown(texts),
            )
        self.texts = texts
        self.failure: BaseException | None = None

    def batches(self) -> Iterator[list[str]]:
        try:
            for index, item in enumerate(self.texts):
                where = f"text_iterator, item {index}"
                if isinstance(item, str):
                    yield [read_string(item, where)]
                elif isinstance(item, (list, tuple)):
                    yield [read_string(text, f"{where}, text {inner}") for inner, text in enumerate(item)]
                else:
                    raise InputError("this is not text", where=where, found=shown(item))
        except GeneratorExit:
            raise
        except BaseException as error:
            self.failure = error
            raise


def _count(value: object, where: str, most: int) -> int:
    value = as_number(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise InputError("this is a count", where=where, expected=f"a whole number up to {most}", found=shown(value))
    return value


def _emptied(model: dict[str, object], names: Mapping[str, str]) -> dict[str, object]:
    """Take the vocabulary out of a model, and give what its trainer has to know of it."""
    implied: dict[str, object] = {}
    vocabulary = model["vocab"]
    if model["type"] == "Unigram":
        if isinstance(model["unk_id"], int) and isinstance(vocabulary, list):
            unknown = vocabulary[model["unk_id"]][0]
            implied["unk_token"] = unknown = names.get(unknown, unknown)
            model.update(unk_id=0, vocab=[[unknown, 0.0]])
        return implied
    model["vocab"] = {}
    if model["type"] == "BPE":
        model["merges"] = []
        for name in ("continuing_subword_prefix", "end_of_word_suffix"):
            if model[name] is not None:
                implied[name] = model[name]
    unknown = model["unk_token"]
    if isinstance(unknown, str):
        model["unk_token"] = names.get(unknown, unknown)
    return implied


def _is_byte_level(step: object) -> bool:
    if not isinstance(step, Mapping):
        return False
    inner = step.get("pretokenizers")
    return step.get("type") == "ByteLevel" or (isinstance(inner, list) and any(map(_is_byte_level, inner)))


def _framed(fresh: Backend, framing: object, names: Mapping[str, str]) -> Backend:
    """Frame texts as before, by the ids that the tokens have now."""
    if framing is None:
        return fresh
    raw = json.loads(fresh.to_str())
    raw["post_processor"] = _renumbered(framing, fresh, names)
    with guarded("the new vocabulary cannot be framed as before", ConfigError):
        return Backend.from_str(json.dumps(raw))


def _renumbered(step: object, fresh: Backend, names: Mapping[str, str]) -> object:
    if not isinstance(step, dict):
        return step

    def found(token: str) -> tuple[str, int]:
        token = names.get(token, token)
        index = fresh.token_to_id(token)
        if index is None:
            raise ConfigError(
                "texts are framed by a token that the new vocabulary lacks",
                where="post_processor",
                found=token,
                remedy="Name it among new_special_tokens.",
            )
        return token, index

    for inner in step.get("processors", ()):
        _renumbered(inner, fresh, names)
    table = step.get("special_tokens")
    for entry in table.values() if isinstance(table, dict) else ():
        pairs = [found(token) for token in entry["tokens"]]
        entry.update(tokens=[token for token, _ in pairs], ids=[index for _, index in pairs])
    for end in ("cls", "sep"):
        if end in step:
            step[end] = list(found(step[end][0]))
    return step
