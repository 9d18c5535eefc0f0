"""Special tokens: named ones (``pad_token``), extra ones, and how files spell them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from tokenizers import AddedToken

from omniform.core.errors import ConfigError, InputError
from omniform.inputs.text.ids import shown

Token = AddedToken | str
"""A token with its flags, or its bare text."""

NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""The special tokens that every tokenizer may have."""

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


class HasTokens(Protocol):
    """What the descriptors below need of their owner."""

    def named_token(self, name: str) -> str | None: ...

    def set_named_token(self, name: str, value: Token | None) -> None: ...

    def token_id(self, token: str) -> int | None: ...

    def id_token(self, index: int) -> str | None: ...


class NamedToken:
    """The attribute ``pad_token`` and its like: text, or ``None`` where the tokenizer has none."""

    def __set_name__(self, owner: type[HasTokens], name: str) -> None:
        self.name = name

    def __get__(self, tokenizer: HasTokens, owner: type[HasTokens] | None = None) -> str | None:
        return tokenizer.named_token(self.name)

    def __set__(self, tokenizer: HasTokens, value: Token | None) -> None:
        tokenizer.set_named_token(self.name, value)


class NamedTokenId:
    """The attribute ``pad_token_id`` and its like; setting it names the token with that id."""

    def __set_name__(self, owner: type[HasTokens], name: str) -> None:
        self.name = name.removesuffix("_id")

    def __get__(self, tokenizer: HasTokens, owner: type[HasTokens] | None = None) -> int | None:
        token = tokenizer.named_token(self.name)
        return None if token is None else tokenizer.token_id(token)

    def __set__(self, tokenizer: HasTokens, value: int | None) -> None:
        token = None if value is None else tokenizer.id_token(value)
        if value is not None and token is None:
            raise InputError("no token has this id", where=f"{self.name}_id", found=value)
        tokenizer.set_named_token(self.name, token)


def token_text(value: object, where: str, kind: type[InputError] | type[ConfigError] = InputError) -> str:
    """The text of a token.

    Raises:
        InputError, ConfigError: it is no text, or holds half of a surrogate pair, which is no character.
    """
    if isinstance(value, AddedToken):
        return value.content
    if not isinstance(value, str):
        raise kind("a token is text", where=where, found=shown(value))
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise kind("the token holds half of a surrogate pair, which is no character", where=where, found=shown(value))
    return value


def added_token(raw: Mapping[str, object], where: str, **override: bool) -> AddedToken:
    """An added token as tokenizer files write it: its content and its flags.

    Raises:
        ConfigError: the content is missing or not text, or a flag is not a boolean.
    """
    content = raw.get("content")
    if not isinstance(content, str):
        raise ConfigError("a token without text", where=where, expected="a string in 'content'", found=shown(content))
    token_text(content, where, ConfigError)
    flags: dict[str, bool] = {}
    for name in _FLAGS:
        value = raw.get(name)
        if value is None:
            continue
        if not isinstance(value, bool):
            raise ConfigError(
                "a token's flag is not true or false", where=f"{where}: {name}", found=f"{value!r} of {content!r}"
            )
        flags[name] = value
    return AddedToken(content, **{**flags, **override})


def read_token(value: object, where: str) -> Token | None:
    """A special token as config files write it: text, a mapping with flags, or null.

    Raises:
        ConfigError: it is anything else.
    """
    if value is None or isinstance(value, AddedToken):
        return value
    if isinstance(value, str):
        return token_text(value, where, ConfigError)
    if isinstance(value, Mapping):
        return added_token(value, where)
    raise ConfigError("a special token is text", where=where, expected="a string or a mapping", found=shown(value))


def read_tokens(value: object, where: str) -> list[Token]:
    """A list of special tokens, as config files write it; null is an empty one.

    Raises:
        ConfigError: it is no list, or one of its tokens is malformed.
    """
    if value is None:
        return []
    if not isinstance(value, (list, tuple)):
        raise ConfigError("special tokens come as a list", where=where, found=shown(value))
    tokens = [read_token(item, where) for item in value]
    return [token for token in tokens if token is not None]
